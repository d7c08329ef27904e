"""What an engine says: how far it is, what it drafts, how it ends."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import Enum


def no_op(*_: object) -> None:
    """Takes the place of a callback that nobody gave."""


OnProgress = Callable[[str, float], None]
"""Called with what is being done and the done share, 0 to 1."""


@dataclass(frozen=True, slots=True)
class Progress:
    """What a request waits for before its first refinement: a download, or loading the model.

    Attributes:
        what: what is being done, in a few words.
        share: how much of it is done, 0 to 1.
    """

    request_id: str
    what: str
    share: float


@dataclass(frozen=True, slots=True)
class Span:
    """One token of a draft, as a half-open range of the draft's text.

    Attributes:
        start, end: code points into `Refinement.text`.
        settled: whether the token is decided (only `edit` or `syntax` may still change it).
        confidence: probability the model gave to this token, 0 to 1.
    """

    start: int
    end: int
    settled: bool
    confidence: float


@dataclass(frozen=True, slots=True)
class Refinement:
    """One snapshot of the draft of one hole: always the whole text, so dropping one is harmless.

    Attributes:
        seq: counts up from 0 within a request.
        text: the draft; a position still masked shows the model's best guess so far.
        spans: the draft's tokens in order, covering `text` without gaps.
        step: denoising steps taken, over all blocks.
        forwards: forward passes of the model so far, the encoding of the context not counted.
        elapsed_ms: milliseconds since the engine took the request up.
    """

    request_id: str
    seq: int
    hole: int
    text: str
    spans: tuple[Span, ...]
    step: int
    forwards: int
    elapsed_ms: float

    @property
    def confidence(self) -> float:
        """Mean probability of the draft's tokens, 1.0 for an empty draft."""
        return sum(s.confidence for s in self.spans) / len(self.spans) if self.spans else 1.0

    @property
    def settled(self) -> tuple[tuple[int, int], ...]:
        """Maximal settled ranges of `text`, in order."""
        ranges: list[tuple[int, int]] = []
        for span in self.spans:
            if not span.settled:
                continue
            if ranges and ranges[-1][1] == span.start:
                ranges[-1] = (ranges[-1][0], span.end)
            else:
                ranges.append((span.start, span.end))
        return tuple(ranges)


@dataclass(frozen=True, slots=True)
class Unread:
    """A refinement before anybody has read it. It is built when it is, as most never are.

    Attributes:
        build: its text and spans, in any thread, at any time; the rest is as here.
        seq, hole, forwards: as of `Refinement`.
    """

    build: Callable[[], Refinement]
    seq: int
    forwards: int
    hole: int = 0

    def read(self) -> Refinement:
        built = self.build()
        return replace(built, seq=self.seq, hole=self.hole, forwards=self.forwards)


class FinishReason(str, Enum):
    """Why a generation ended."""

    EOM = "eom"  # the model wrote its end-of-middle token, or reached the text after the hole
    LENGTH = "length"  # max_tokens, or all masks of a span rewritten in full are used up


class SyntaxState(str, Enum):
    """What tree-sitter, and for Python the compiler, say of prefix + text + suffix."""

    OK = "ok"  # the filled document parses, or what the hole is in does and the rest did not before
    BROKEN = "broken"  # the filled document has errors that the hole is part of
    SKIPPED = "skipped"  # no grammar, out of time, or nobody can tell whose the errors are


@dataclass(frozen=True, slots=True)
class Drafted:
    """Accepted tokens that were drafted, by what drafted them; the others the base chose itself.

    Attributes:
        adapter: masks and the adapter, n-grams as a term on it.
        copy: the text so far.
        table: counted n-grams.
        original: the text that is rewritten.
        drafter: a model of its own.
    """

    adapter: int = 0
    copy: int = 0
    table: int = 0
    original: int = 0
    drafter: int = 0


@dataclass(frozen=True, slots=True)
class Finished:
    """The end of a stream that succeeded.

    Attributes:
        text: final text for the hole, healed and trimmed; replace `document[hole]` by it.
        tokens: tokens generated, the end token not counted.
        forwards: forward passes, the encoding of the context not counted.
        context_tokens: tokens of context encoded; `cached_tokens` of them came from the cache.
        first_ms: milliseconds until the first refinement.
    """

    request_id: str
    hole: int
    text: str
    tokens: int
    forwards: int
    finish: FinishReason
    syntax: SyntaxState
    mode: str
    model: str
    elapsed_ms: float
    first_ms: float
    context_tokens: int
    cached_tokens: int = 0
    drafted: Drafted = Drafted()


@dataclass(frozen=True, slots=True)
class Warmed:
    """The end of encoding ahead: a request with this context will find it in the cache.

    Attributes:
        context_tokens: tokens of the context; `cached_tokens` of them were in the cache before.
        elapsed_ms: milliseconds since the engine took the request up.
    """

    request_id: str
    context_tokens: int
    cached_tokens: int
    elapsed_ms: float


@dataclass(frozen=True, slots=True)
class Filled:
    """The end of a stream that filled several holes; until then any of their texts may change.

    Attributes:
        holes: how each ended, in the order of the request.
        elapsed_ms: milliseconds since the engine took the request up.
    """

    request_id: str
    holes: tuple[Finished, ...]
    elapsed_ms: float

    @property
    def tokens(self) -> int:
        """Of all holes, as are `forwards`, `context_tokens` and `cached_tokens`: a pass that the
        holes shared counts for each, context that one built on for those that found it."""
        return sum(hole.tokens for hole in self.holes)

    @property
    def forwards(self) -> int:
        return sum(hole.forwards for hole in self.holes)

    @property
    def context_tokens(self) -> int:
        return sum(hole.context_tokens for hole in self.holes)

    @property
    def cached_tokens(self) -> int:
        return sum(hole.cached_tokens for hole in self.holes)

    @property
    def finish(self) -> FinishReason:
        """`length` if any hole was cut off."""
        cut = any(hole.finish is FinishReason.LENGTH for hole in self.holes)
        return FinishReason.LENGTH if cut else FinishReason.EOM

    @property
    def syntax(self) -> SyntaxState:
        """The worst of them."""
        found = {hole.syntax for hole in self.holes}
        worst = (SyntaxState.BROKEN, SyntaxState.SKIPPED, SyntaxState.OK)
        return next(state for state in worst if state in found)

    @property
    def mode(self) -> str:
        return self.holes[0].mode

    @property
    def model(self) -> str:
        return self.holes[0].model

    @property
    def first_ms(self) -> float:
        """Milliseconds until the first refinement of any."""
        return min(hole.first_ms for hole in self.holes)


Event = Refinement | Finished | Filled
"""What the engine itself yields; on the way to its reader a refinement is `Unread`."""

StreamEvent = Progress | Refinement | Finished | Filled | Warmed
"""What a stream of the engine service carries."""
