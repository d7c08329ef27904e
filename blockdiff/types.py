"""The nouns that cross a boundary: requests go down, events come back up.

All are immutable values. Offsets are counted in Unicode code points into the document text
(Python string indices); editors' line/character positions are converted exactly once, before a
request is built. Nothing here imports torch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from itertools import pairwise
from typing import Annotated

from msgspec import Meta

from blockdiff.config import DecodingConfig, check_limits
from blockdiff.errors import InvalidRequest


def no_op(*_: object) -> None:
    """Takes the place of a callback that nobody gave."""


OnProgress = Callable[[str, float], None]
"""Called with what is being done and the done share, 0 to 1."""


@dataclass(frozen=True, slots=True)
class Hole:
    """A span of the document to fill: `document[start:end]` is replaced. `start == end` inserts."""

    start: int
    end: int

    def __post_init__(self) -> None:
        if not 0 <= self.start <= self.end:
            raise InvalidRequest(f"hole {self.start}..{self.end} is inverted or negative")


@dataclass(frozen=True, slots=True)
class Snippet:
    """Related text from another document, offered to the model as context."""

    path: str
    text: str


class Extent(str, Enum):
    """How far the text of a hole may go: what lies behind is neither written nor kept.

    Whatever the extent, the text ends where it comes to what stands behind the hole, closes what
    was open before it, leaves the function around it, repeats itself or turns to prose.
    """

    HOLE = "hole"  # no further limit
    LINE = "line"  # the line of the hole
    BLOCK = "block"  # the block of the first line that is written, and the bracket that closes it
    BODY = "body"  # the body of a function: up to a line less deep than the first of the body
    DELIMITER = "delimiter"  # the string or comment that is open at the hole


MOST_HOLES = 8
"""Of one request."""

MOST_CONTEXT = 1 << 20
"""Tokens of context that a request may ask for; the model's own limit is lower."""

_ContextTokens = Annotated[int, Meta(ge=16, le=MOST_CONTEXT)]
_RequestId = Annotated[str, Meta(max_length=1024)]  # it comes back in every event


@dataclass(frozen=True, slots=True)
class InfillRequest:
    """Fill one hole of one document, or several together.

    Text between two holes is kept as it is, and each is written with what stands on both its sides.

    Attributes:
        document: full text as it stands, line endings untouched.
        hole: the span to fill.
        also: further spans to fill, in any order, none of which overlaps another.
        revise: with several holes, write those near another once more, each with the texts of the
            others in place.
        path: name of the file, shown to the model and used to find the language; may be empty.
        language: language id such as `python`; empty means: by the extension of `path`.
        indentation: one level of it, where the document itself shows none; empty: not known.
        snippets: related text from other documents, most relevant first.
        decoding: mode, limits and sampling.
        context_tokens: most tokens of prefix and suffix together that are sent to the model.
        snippet_tokens: so many of them, half at most, go to the snippets first, as far as those
            need them; beyond that, snippets get what prefix and suffix leave.
        request_id: echoed in every event.
        extent: how far the text of each hole may go.
    """

    document: str
    hole: Hole
    path: str = ""
    language: str = ""
    indentation: str = ""
    snippets: tuple[Snippet, ...] = ()
    decoding: DecodingConfig = field(default_factory=DecodingConfig)
    context_tokens: _ContextTokens = 1024
    request_id: _RequestId = ""
    also: tuple[Hole, ...] = ()
    revise: bool = False
    extent: Extent = Extent.HOLE
    snippet_tokens: Annotated[int, Meta(ge=0, le=MOST_CONTEXT)] = 0

    def __post_init__(self) -> None:
        for hole in self.holes:
            if hole.end > len(self.document):
                raise InvalidRequest(
                    f"hole ends at offset {hole.end}, the document has {len(self.document)}"
                )
        if len(self.holes) > MOST_HOLES:
            raise InvalidRequest(f"{len(self.holes)} holes, a request has {MOST_HOLES} at most")
        check_apart(self.holes)
        if self.indentation.strip(" ") not in ("", "\t") or len(self.indentation) > 16:
            raise InvalidRequest("indentation must be one tab or up to 16 spaces")
        check_limits(self)

    @property
    def holes(self) -> tuple[Hole, ...]:
        """All of them; events name one by its index here."""
        return (self.hole, *self.also)

    def holding(self, texts: Sequence[str]) -> InfillRequest:
        """The same with `texts` standing in the holes."""
        document, spans = "", list(self.holes)
        at = 0
        for i in sorted(range(len(spans)), key=lambda i: spans[i].start):
            document += self.document[at : self.holes[i].start]
            spans[i] = Hole(len(document), len(document) + len(texts[i]))
            document += texts[i]
            at = self.holes[i].end
        document += self.document[at:]
        return replace(self, document=document, hole=spans[0], also=tuple(spans[1:]))

    def only(self, index: int, texts: Sequence[str] = ()) -> InfillRequest:
        """The request for one hole by itself; the others hold `texts`, or nothing."""
        others = list(texts or [""] * len(self.holes))
        hole = self.holes[index]
        others[index] = self.document[hole.start : hole.end]
        made = self.holding(others)
        return replace(made, hole=made.holes[index], also=(), revise=False)

    @property
    def prefix(self) -> str:
        return self.document[: self.hole.start]

    @property
    def suffix(self) -> str:
        return self.document[self.hole.end :]


def check_apart(holes: Sequence[Hole]) -> None:
    """Raises InvalidRequest for holes that overlap or begin at the same place."""
    ordered = sorted(holes, key=lambda hole: (hole.start, hole.end))
    for one, other in pairwise(ordered):
        if other.start < one.end or other.start == one.start:
            raise InvalidRequest("two holes overlap", "send holes that lie apart")


@dataclass(frozen=True, slots=True)
class RewriteRequest:
    """Write a span of a document anew: as an instruction says, or by itself.

    Attributes:
        document: full text as it stands, line endings untouched.
        span: the text to rewrite. Blanks at its start and its end stay what they are.
        instruction: what to change, in a person's words; for checkpoints that can chat. Empty: the
            what is much less likely than something else is mended.
        strength: without an instruction, the share of the span's tokens that may change, 0 to 1.
        path: name of the file, shown to the model and used to find the language; may be empty.
        language: language id such as `python`; empty means: by the extension of `path`.
        indentation: one level of it, where the document itself shows none; empty: not known.
        snippets: related text from other documents, most relevant first.
        decoding: mode, limits and sampling of the answer to an instruction. `max_tokens` 0 suffices
            for the span. Without an instruction the base decides alone, as in `ar`, greedily.
        context_tokens: most tokens around the span that are sent to the model, besides its own.
        request_id: echoed in every event.
    """

    document: str
    span: Hole
    instruction: str = ""
    strength: Annotated[float, Meta(ge=0, le=1)] = 0.5
    path: str = ""
    language: str = ""
    indentation: str = ""
    snippets: tuple[Snippet, ...] = ()
    decoding: DecodingConfig = field(default_factory=DecodingConfig)
    context_tokens: _ContextTokens = 1024
    request_id: _RequestId = ""

    def __post_init__(self) -> None:
        if self.span.end > len(self.document):
            raise InvalidRequest(
                f"span ends at offset {self.span.end}, the document has {len(self.document)}"
            )
        if not self.document[self.span.start : self.span.end].strip():
            raise InvalidRequest(
                "there is no text to rewrite, the span is blank", "use infill to write new text"
            )
        check_limits(self)
        self.infill(self.span)  # refuses what an infill of it refuses

    def infill(self, hole: Hole) -> InfillRequest:
        """The same request as the infill of a hole: what is laid out around it for the model."""
        return InfillRequest(
            document=self.document,
            hole=hole,
            path=self.path,
            language=self.language,
            indentation=self.indentation,
            snippets=self.snippets,
            decoding=self.decoding,
            context_tokens=self.context_tokens,
            request_id=self.request_id,
        )


Request = InfillRequest | RewriteRequest
"""What an engine can be asked for."""


class Priority(str, Enum):
    """Who is waiting for a request."""

    EXPLICIT = "explicit"  # a person gave a command: goes before every automatic completion
    AUTOMATIC = "automatic"  # typing caused it: a newer one of the same document replaces it
    AHEAD = "ahead"  # nobody yet: context is encoded until anything else is asked for


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
