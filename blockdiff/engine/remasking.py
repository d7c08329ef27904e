"""The rule `syntax`: what does not parse of a draft is written again, from left to right.

First from the first line on that lies under one of tree-sitter's errors, then all of it, as
`verify` would. The result with the least that does not parse counts, the earlier of equals, so that
none is worse than the first draft. Denoising the faulty tokens in their place, between the others,
mended nothing that this does not: as many tokens as before have no room for what was missing.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar

from blockdiff.diffusion.forwards import Snapshot
from blockdiff.engine.draft_text import draft_text
from blockdiff.infill.healing import PromptTokenizer
from blockdiff.syntax.check import Faults
from blockdiff.types import FinishReason


@dataclass(frozen=True, slots=True)
class Draft:
    """A text as far as it was written, and why it ended there."""

    snapshot: Snapshot
    reason: FinishReason


R = TypeVar("R")
Writing: TypeAlias = Generator[Any, Any, R]
"""Refinements and forwards on the way."""
Remask: TypeAlias = Callable[[Draft, Faults], Writing[Draft | None]]
"""Writes a draft again; None where there is nothing to do in this way."""


def mended(
    draft: Draft, faults_of: Callable[[Draft], Writing[Faults]], attempts: Iterable[Remask]
) -> Writing[Draft]:
    """The best of a draft and of what attempts make of it; once one parses there are no more.

    Each starts from the best one so far. Raises Cancelled.
    """
    best, faults = draft, (yield from faults_of(draft))
    for attempt in attempts:
        if not faults.size:
            break
        found = yield from attempt(best, faults)
        if found is None:
            continue
        after = yield from faults_of(found)
        if after.size < faults.size:
            best, faults = found, after
    return best


def first_line(text: str, spans: Sequence[tuple[int, int]]) -> int:
    """Where the first line starts that one of these ranges of a text lies in; 0 without any."""
    return text.rfind("\n", 0, spans[0][0]) + 1 if spans else 0


def before(snapshot: Snapshot, tokenizer: PromptTokenizer, offset: int) -> int:
    """How many tokens lie wholly before an offset of the draft's text."""
    pieces = [tokenizer.token_bytes(token) for token in snapshot.settled_prefix]
    return sum(end <= offset for end in draft_text(pieces)[1])
