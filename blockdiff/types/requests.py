"""What can be asked of an engine. Offsets are counted in Unicode code points into the document text
(Python string indices); editors' line/character positions are converted exactly once, before a
request is built."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from itertools import pairwise
from typing import Annotated

from msgspec import Meta

from blockdiff.config import DecodingConfig, check_limits
from blockdiff.errors import InvalidRequest


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
