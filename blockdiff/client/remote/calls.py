"""What is posted to a backend, and what of its answers is read: one shape for all of them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any

from blockdiff.client.remote.around import Around, Instructed
from blockdiff.client.remote.fim import Fim
from blockdiff.client.remote.options import BackendOptions
from blockdiff.config import DecodingConfig
from blockdiff.types import FinishReason

_MOST_SEED = 2**31 - 1
_CUT_OFF = ("length", "limit", "max_tokens")


@dataclass(frozen=True, slots=True)
class HttpCall:
    """One HTTP request.

    Attributes:
        url: in full.
        body: its JSON; None for a GET.
        marks: texts that end the answer where a server shows them.
        fim: whose marks the prompt has.
        unchanged: the answer that leaves everything as it is; empty: there is none.
    """

    url: str
    body: dict[str, Any] | None = None
    marks: tuple[str, ...] = ()
    fim: Fim = Fim.SUFFIX
    unchanged: str = ""


@dataclass(frozen=True, slots=True)
class Chunk:
    """A part of an answer.

    Attributes:
        text: what it adds.
        finish: why the answer ends with it; None: it goes on.
        model: the backend's name of the model that writes; empty: it does not say.
        tokens: written up to here; 0: it does not say. The same holds of what follows.
        context_tokens, cached_tokens: of the prompt.
        speed: tokens of the prompt encoded in a second.
    """

    text: str = ""
    finish: FinishReason | None = None
    model: str = ""
    tokens: int = 0
    context_tokens: int = 0
    cached_tokens: int = 0
    speed: float = 0.0


@dataclass(frozen=True, slots=True)
class Wire(ABC):
    """How one backend is spoken to; what is not abstract is as most of them have it."""

    options: BackendOptions

    @abstractmethod
    def fill(self, around: Around, model: str) -> HttpCall:
        """Raises ModelUnsupported where nobody knows how the model is shown a hole."""

    @abstractmethod
    def rewrite(self, asked: Instructed, model: str) -> HttpCall:
        """Raises ModelUnsupported for what the backend cannot do."""

    def warm(self, around: Around, model: str) -> HttpCall | None:
        """What lets it encode a prompt and write nothing; None: it cannot, or wants money."""
        return None

    def models(self) -> HttpCall:
        """What lists its models."""
        return HttpCall(self.options.under("/models"))

    def read(self, value: dict[str, Any]) -> Chunk:
        """One object of an answer. Raises TypeError, ValueError, LookupError for another shape."""
        return choice(value)


def sampling(decoding: DecodingConfig, seed: str = "seed") -> dict[str, Any]:
    """How tokens are chosen, by the names most servers have."""
    if decoding.greedy:
        return {"temperature": 0}
    return {
        "temperature": decoding.temperature,
        "top_p": decoding.top_p,
        seed: decoding.seed % _MOST_SEED,
    }


def messages(asked: Instructed) -> list[dict[str, str]]:
    """A request in words as a conversation."""
    return [
        {"role": "system", "content": asked.said.system},
        {"role": "user", "content": asked.said.user},
    ]


def choice(value: dict[str, Any]) -> Chunk:
    """An object of the OpenAI kind: of a completion or a chat, a part or all of it."""
    usage = value.get("usage") or {}
    details = usage.get("prompt_tokens_details") or {}
    first = (value.get("choices") or [{}])[0]
    said = first.get("delta") or first.get("message") or {}
    text = first["text"] if "text" in first else said.get("content")
    if isinstance(text, list):  # parts, of which some are thoughts
        text = "".join(part["text"] for part in text if part.get("type") == "text")
    return Chunk(
        text=plain(text),
        finish=finish_of(first.get("finish_reason")),
        model=str(value.get("model") or ""),
        tokens=int(usage.get("completion_tokens") or 0),
        context_tokens=int(usage.get("prompt_tokens") or 0),
        cached_tokens=int(details.get("cached_tokens") or usage.get("cached_input_tokens") or 0),
    )


def plain(text: Any) -> str:
    """A text that an answer holds; null is none. Raises TypeError for anything else."""
    if text is None or isinstance(text, str):
        return text or ""
    raise TypeError("not a text")


def finish_of(reason: Any) -> FinishReason | None:
    """Why an answer ends, by the word for it; None for none."""
    if not reason:
        return None
    return FinishReason.LENGTH if reason in _CUT_OFF else FinishReason.EOM


@dataclass(frozen=True, slots=True)
class Sent:
    """A call as a person is shown it: the key is not in it.

    Attributes:
        headers: those that a server sees besides what every HTTP client sends.
    """

    method: str
    url: str
    headers: dict[str, str] = field(default_factory=dict)
    body: dict[str, Any] | None = None
