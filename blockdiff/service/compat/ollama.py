"""The protocol of Ollama: `/api/generate`, and what is asked before it."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Any

from blockdiff.errors import BlockdiffError, InvalidRequest
from blockdiff.service.compat.answer import line
from blockdiff.service.compat.asked import AnswerLimits, Ask, Sampling, Text, all_texts
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
        options = self.options
        sampling = Sampling(options.num_predict, options.temperature, options.top_p, options.seed)
        text = Text.of_prompt(self.prompt, self.suffix)
        return text.asked(sampling, AnswerLimits(all_texts(options.stop, "stop")), context_tokens)

    def form(self, served: Served) -> OllamaForm:
        return OllamaForm(served.model)


@dataclass(frozen=True, slots=True)
class OllamaForm:
    """How Ollama says an answer: a line of JSON for each piece. There are no comments."""

    model: str
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
        value: dict[str, Any] = {
            "model": self.model, "created_at": _now(), "response": text, "done": answer is not None
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
