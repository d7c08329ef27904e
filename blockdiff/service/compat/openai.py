"""The protocol of OpenAI: `/v1/completions` to write, `/v1/chat/completions` to rewrite."""

from __future__ import annotations

import secrets
import time
from dataclasses import dataclass, field
from typing import Any

from blockdiff.client import strict
from blockdiff.errors import BlockdiffError, InvalidRequest
from blockdiff.service.compat.answer import STILL_HERE, chosen, event
from blockdiff.service.compat.asked import (
    AnswerLimits,
    Ask,
    Sampling,
    Text,
    one_text,
    rewriting,
    stops,
)
from blockdiff.service.compat.problem import Problem
from blockdiff.service.compat.served import Served
from blockdiff.service.compat.writing import Answer

DONE = b"data: [DONE]\n\n"


@dataclass(frozen=True, slots=True)
class CompletionBody:
    """What is read of the body of `POST /v1/completions`."""

    prompt: Any = ""
    suffix: str = ""
    max_tokens: int | None = None
    stop: Any = None
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None
    stream: bool = False
    n: int = 1
    echo: bool = False
    logprobs: Any = None

    def asked(self, context_tokens: int) -> Ask:
        only_one(self.n)
        if self.echo or self.logprobs:
            raise InvalidRequest("echo and logprobs are not supported", "leave them out")
        text = Text.of_prompt(one_text(self.prompt, "prompt"), self.suffix)
        sampling = Sampling(self.max_tokens, self.temperature, self.top_p, self.seed)
        return text.asked(sampling, AnswerLimits(stops(self.stop)), context_tokens)

    def form(self, served: Served) -> OpenAIForm:
        return OpenAIForm(served.model, "cmpl")


@dataclass(frozen=True, slots=True)
class ChatMessage:
    role: str
    content: Any = ""

    def text(self) -> str:
        """What is said, whether it comes as a string or in parts. Raises InvalidRequest."""
        parts = self.content if isinstance(self.content, list) else [self.content]
        texts = [part.get("text") if isinstance(part, dict) else part for part in parts]
        said = [text for text in texts if isinstance(text, str)]
        if len(said) < len(texts):
            raise InvalidRequest("a message must be text", "send no images and no tools")
        return strict.read(str, "".join(said), "content")


@dataclass(frozen=True, slots=True)
class ChatBody:
    """What is read of the body of `POST /v1/chat/completions`; llama.vim sends `n_predict`."""

    messages: tuple[ChatMessage, ...]
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    n_predict: int | None = None
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None
    stream: bool = False
    n: int = 1
    response_fields: tuple[str, ...] = ()

    def asked(self, context_tokens: int) -> Ask:
        only_one(self.n)
        mosts = (self.max_completion_tokens, self.max_tokens, self.n_predict)
        most = next((value for value in mosts if value is not None), None)
        sampling = Sampling(most, self.temperature, self.top_p, self.seed)
        messages = [(message.role, message.text()) for message in self.messages]
        return rewriting(messages, sampling, context_tokens)

    def form(self, served: Served) -> OpenAIForm:
        return OpenAIForm(served.model, "chatcmpl", True, self.response_fields)


def only_one(count: int) -> None:
    """Raises InvalidRequest."""
    if count != 1:
        raise InvalidRequest(f"n must be 1, got {count}", "ask again for another answer")


@dataclass(frozen=True, slots=True)
class OpenAIForm:
    """How OpenAI says a completion or, if it `chats`, what an assistant answers, and Mistral what
    stands in the middle.

    `fields` are as for llama.cpp: llama.vim warms by an answer that has none.
    """

    model: str
    prefix: str
    chats: bool = False
    fields: tuple[str, ...] = ()
    name: str = field(default_factory=lambda: secrets.token_hex(12))
    created: int = field(default_factory=lambda: int(time.time()))
    media_type: str = field(default="text/event-stream", init=False)
    silence: bytes = field(default=STILL_HERE, init=False)

    def whole(self, answer: Answer) -> dict[str, Any]:
        return chosen(self._value("message", "", answer.text, answer), self.fields)

    def piece(self, text: str) -> bytes:
        return event(self._value("delta", ".chunk", text, None))

    def last(self, answer: Answer) -> bytes:
        return event(self._value("delta", ".chunk", "", answer)) + DONE

    def failed(self, error: BlockdiffError) -> bytes:
        return event(refusal(Problem.of(error)))

    def _value(self, part: str, kind: str, text: str, answer: Answer | None) -> dict[str, Any]:
        choice: dict[str, Any] = {"index": 0}
        if self.chats:
            choice[part] = {"role": "assistant", "content": text}
        else:
            choice |= {"text": text, "logprobs": None}
        choice["finish_reason"] = answer and ("length" if answer.cut else "stop")
        value = {
            "id": f"{self.prefix}-{self.name}",
            "object": f"chat.completion{kind}" if self.chats else "text_completion",
            "created": self.created,
            "model": self.model,
            "choices": [choice],
        }
        return value | {"usage": usage(answer)} if answer else value


def usage(answer: Answer) -> dict[str, Any]:
    read, written = answer.context_tokens, answer.tokens
    return {
        "prompt_tokens": read,
        "completion_tokens": written,
        "total_tokens": read + written,
        "prompt_tokens_details": {"cached_tokens": answer.cached_tokens},
    }


def refusal(problem: Problem) -> dict[str, Any]:
    """An error as OpenAI words it."""
    about = {
        "message": problem.message, "type": problem.kind, "param": None, "code": problem.code
    }  # fmt: skip
    return {"error": about}
