"""The protocol of Ollama: `/api/generate`, `/api/chat`, and what is asked before them."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Any

from blockdiff.errors import BlockdiffError, InvalidRequest
from blockdiff.service.compat.answer import line
from blockdiff.service.compat.asked import (
    AnswerLimits,
    Ask,
    Sampling,
    Text,
    rewriting,
    stops,
)
from blockdiff.service.compat.openai import ChatMessage
from blockdiff.service.compat.problem import Problem
from blockdiff.service.compat.served import Served
from blockdiff.service.compat.writing import Answer

_DETAILS = {
    "parent_model": "", "format": "", "family": "blockdiff", "families": ["blockdiff"],
    "parameter_size": "", "quantization_level": "",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Options:
    num_predict: int | None = None
    stop: Any = None
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None

    @property
    def sampling(self) -> Sampling:
        return Sampling(self.num_predict, self.temperature, self.top_p, self.seed)


@dataclass(frozen=True, slots=True)
class GenerateBody:
    """What is read of the body of `POST /api/generate`."""

    prompt: str = ""
    suffix: str = ""
    options: Options = Options()
    stream: bool = True
    format: Any = None
    images: Any = None

    def asked(self, context_tokens: int) -> Ask:
        if self.format or self.images:
            raise InvalidRequest("format and images are not supported", "leave them out")
        if not self.prompt and not self.suffix:
            return Ask(None)  # so clients ask for a model to be loaded
        text = Text.of_prompt(self.prompt, self.suffix)
        limits = AnswerLimits(stops(self.options.stop))
        return text.asked(self.options.sampling, limits, context_tokens)

    def form(self, served: Served) -> OllamaForm:
        return OllamaForm(served.model)


@dataclass(frozen=True, slots=True)
class OllamaChatBody:
    """What is read of the body of `POST /api/chat`."""

    messages: tuple[ChatMessage, ...] = ()
    options: Options = Options()
    stream: bool = True
    format: Any = None
    tools: Any = None

    def asked(self, context_tokens: int) -> Ask:
        if self.format or self.tools:
            raise InvalidRequest("format and tools are not supported", "leave them out")
        if not self.messages:
            return Ask(None)  # so clients ask for a model to be loaded
        messages = [(message.role, message.text()) for message in self.messages]
        return rewriting(messages, self.options.sampling, context_tokens)

    def form(self, served: Served) -> OllamaForm:
        return OllamaForm(served.model, chats=True)


@dataclass(frozen=True, slots=True)
class OllamaForm:
    """How Ollama says an answer: a line of JSON for each piece. There are no comments.

    One that `chats` says it as a message of the assistant.
    """

    model: str
    chats: bool = False
    media_type: str = field(default="application/x-ndjson", init=False)
    silence: bytes = field(default=b"", init=False)

    def whole(self, answer: Answer) -> dict[str, Any]:
        return self._value(answer.text, answer)

    def piece(self, text: str) -> bytes:
        return line(self._value(text, None))

    def last(self, answer: Answer) -> bytes:
        return line(self._value("", answer))

    def failed(self, error: BlockdiffError) -> bytes:
        return line(refusal(Problem.of(error)))

    def _value(self, text: str, answer: Answer | None) -> dict[str, Any]:
        said = {"message": {"role": "assistant", "content": text}} if self.chats else {
            "response": text
        }  # fmt: skip
        value: dict[str, Any] = {
            "model": self.model, "created_at": _now(), **said, "done": answer is not None
        }  # fmt: skip
        if answer is None:
            return value
        return value | {
            "done_reason": "length" if answer.cut else "stop",
            "total_duration": int(1e6 * (answer.prompt_ms + answer.predict_ms)),
            "load_duration": 0,
            "prompt_eval_count": answer.context_tokens,
            "prompt_eval_duration": int(1e6 * answer.prompt_ms),
            "eval_count": answer.tokens,
            "eval_duration": int(1e6 * answer.predict_ms),
        }


def refusal(problem: Problem) -> dict[str, Any]:
    """An error as Ollama words it."""
    return {"error": problem.message}


def show(served: Served) -> dict[str, Any]:
    """What `POST /api/show` answers; Continue sends a suffix where the template has one."""
    return {
        "modelfile": "",
        "parameters": "",
        "template": "{{ .Prompt }}{{ .Suffix }}",
        "details": _DETAILS,
        "model_info": {
            "general.architecture": "blockdiff", "blockdiff.context_length": served.context_size
        },
        "capabilities": ["completion", "insert"],
    }  # fmt: skip


def tags(served: Served) -> dict[str, Any]:
    """What `GET /api/tags` answers."""
    made = datetime.fromtimestamp(served.since, timezone.utc).isoformat()
    model = {
        "name": served.model, "model": served.model, "modified_at": made, "size": 0, "digest": "",
        "details": _DETAILS,
    }  # fmt: skip
    return {"models": [model]}


def _now() -> str:
    return datetime.now(timezone.utc).isoformat()
