"""The protocol of Mistral for code: `/v1/fim/completions`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from blockdiff.service.compat.asked import AnswerLimits, Ask, Sampling, Text, stops
from blockdiff.service.compat.openai import OpenAIForm
from blockdiff.service.compat.problem import Problem
from blockdiff.service.compat.served import Served


@dataclass(frozen=True, slots=True)
class FimBody:
    """What is read of the body of `POST /v1/fim/completions`."""

    prompt: str
    suffix: str = ""
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    stop: Any = None
    temperature: float = 0.0
    top_p: float = 1.0
    random_seed: int | None = None
    stream: bool = False

    def asked(self, context_tokens: int) -> Ask:
        most = self.max_tokens if self.max_tokens is not None else self.max_completion_tokens
        text = Text.of_prompt(self.prompt, self.suffix)
        sampling = Sampling(most, self.temperature, self.top_p, self.random_seed)
        return text.asked(sampling, AnswerLimits(stops(self.stop)), context_tokens)

    def form(self, served: Served) -> OpenAIForm:
        return OpenAIForm(served.model, "fim", chats=True)


def refusal(problem: Problem) -> dict[str, Any]:
    """An error as Mistral words it."""
    return {
        "object": "error",
        "message": problem.message,
        "type": problem.kind,
        "param": None,
        "code": problem.code,
    }
