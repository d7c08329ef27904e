"""The protocol of llama.cpp's server: `/infill`, `/completion`, and what is asked beside them.

llama.vim takes an answer only if it has `"content":"` in it, without a blank behind the colon;
llama.vscode wants `generation_settings`. Tokens are not listed, nor probabilities.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from blockdiff.errors import BlockdiffError
from blockdiff.service.compat.answer import STILL_HERE, chosen, event
from blockdiff.service.compat.asked import (
    AnswerLimits,
    Ask,
    Sampling,
    Text,
    language_of_all,
    one_text,
    stops,
)
from blockdiff.service.compat.problem import Problem
from blockdiff.service.compat.served import Served
from blockdiff.service.compat.writing import Answer
from blockdiff.types import Snippet


@dataclass(frozen=True, slots=True)
class Extra:
    """Text of another file. llama.vim also sends `time`, as two integers."""

    text: str = ""
    filename: str = ""


@dataclass(frozen=True, slots=True)
class _Body:
    """What both endpoints that write read of a body."""

    prompt: Any = ""
    n_predict: int | None = None
    n_indent: int = 0
    t_max_predict_ms: float = 0.0
    stop: Any = None
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None
    stream: bool = False
    response_fields: tuple[str, ...] = ()

    @property
    def sampling(self) -> Sampling:
        return Sampling(self.n_predict, self.temperature, self.top_p, self.seed)

    @property
    def limits(self) -> AnswerLimits:
        """Raises InvalidRequest."""
        seconds = max(0.0, self.t_max_predict_ms) / 1e3
        return AnswerLimits(stops(self.stop), max(0, self.n_indent), seconds)

    def form(self, served: Served) -> LlamaCppForm:
        return LlamaCppForm(served, self.response_fields)


@dataclass(frozen=True, slots=True)
class InfillBody(_Body):
    """What is read of the body of `POST /infill`."""

    input_prefix: str = ""
    input_suffix: str = ""
    input_extra: tuple[Extra, ...] = ()

    def asked(self, context_tokens: int) -> Ask:
        extra = [Snippet(e.filename, e.text) for e in reversed(self.input_extra) if e.text.strip()]
        text = Text(
            self.input_prefix + one_text(self.prompt, "prompt"),
            self.input_suffix,
            language=language_of_all(e.filename for e in self.input_extra),
            snippets=tuple(extra),
        )
        return text.asked_at_cursor(self.sampling, self.limits, context_tokens)


@dataclass(frozen=True, slots=True)
class PromptBody(_Body):
    """What is read of the body of `POST /completion`."""

    def asked(self, context_tokens: int) -> Ask:
        text = Text.of_prompt(one_text(self.prompt, "prompt"), None)
        return text.asked(self.sampling, self.limits, context_tokens)


@dataclass(frozen=True, slots=True)
class LlamaCppForm:
    """How llama.cpp says an answer; with `fields` only these, `a/b` standing for `b` in `a`."""

    served: Served
    fields: tuple[str, ...] = ()
    media_type: str = field(default="text/event-stream", init=False)
    silence: bytes = field(default=STILL_HERE, init=False)

    def whole(self, answer: Answer) -> dict[str, Any]:
        value = self._value(answer, answer.text)
        return chosen(value, self.fields)

    def piece(self, text: str) -> bytes:
        return event({"index": 0, "content": text, "stop": False})

    def last(self, answer: Answer) -> bytes:
        return event(self._value(answer, ""))

    def failed(self, error: BlockdiffError) -> bytes:
        return event(refusal(Problem.of(error)))

    def _value(self, answer: Answer, content: str) -> dict[str, Any]:
        kind = "limit" if answer.cut else "word" if answer.stopped_by else "eos"
        return {
            "index": 0,
            "content": content,
            "id_slot": 0,
            "stop": True,
            "model": self.served.model,
            "tokens_predicted": answer.tokens,
            "tokens_evaluated": answer.context_tokens,
            "generation_settings": {"n_ctx": self.served.context_size},
            "has_new_line": "\n" in answer.text,
            "truncated": False,
            "stop_type": kind,
            "stopping_word": answer.stopped_by,
            "tokens_cached": answer.context_tokens + answer.tokens,
            "timings": _timings(answer),
        }


def _timings(answer: Answer) -> dict[str, Any]:
    read = answer.context_tokens - answer.cached_tokens
    return {
        "cache_n": answer.cached_tokens,
        **_rate("prompt", read, answer.prompt_ms),
        **_rate("predicted", answer.tokens, answer.predict_ms),
    }


def _rate(name: str, count: int, ms: float) -> dict[str, Any]:
    return {
        f"{name}_n": count,
        f"{name}_ms": round(ms, 3),
        f"{name}_per_token_ms": round(ms / max(count, 1), 3),
        f"{name}_per_second": round(1e3 * count / ms, 3) if ms else 0.0,
    }


def refusal(problem: Problem) -> dict[str, Any]:
    """An error as llama.cpp words it."""
    about = {"code": problem.status, "message": problem.message, "type": problem.kind}
    return {"error": about}


def health() -> dict[str, Any]:
    """What `GET /health` answers once the model is there."""
    return {"status": "ok"}


def props(served: Served) -> dict[str, Any]:
    """What `GET /props` answers."""
    return {
        "default_generation_settings": {"n_ctx": served.context_size},
        "total_slots": served.together,
        "model_path": served.model,
        "chat_template": "",
        "build_info": f"blockdiff {served.version}",
    }


def models(served: Served) -> dict[str, Any]:
    """What `GET /v1/models` answers; llama.vscode reads `models`, everybody else `data`, of which
    mistralai wants to know the type."""
    name, size = served.model, served.context_size
    meta = {"n_ctx": size, "n_ctx_train": size}
    return {
        "object": "list",
        "data": [
            {"id": name, "object": "model", "created": served.since, "owned_by": "llamacpp",
             "max_model_len": size, "meta": meta, "type": "base",
             "capabilities": {"completion_fim": True, "completion_chat": False}}
        ],
        "models": [{"id": name, "name": name, "model": name, "capabilities": ["completion"]}],
    }  # fmt: skip
