"""Prompts of several holes of one document that begin alike, so that they are encoded together.

A hole by itself is shown the lines nearest to it, and the windows of two holes have nothing at the
same place. Here all windows before the holes begin at one line, and each goes on where the one
before it ends:

    <fim_prefix> P1        <fim_suffix> S1 <fim_middle> A1
    <fim_prefix> P1 P2     <fim_suffix> S2 <fim_middle> A2
    <fim_prefix> P1 P2 P3  <fim_suffix> S3 <fim_middle> A3

so that what stands before the last hole is encoded once, and for each hole its suffix, which is
shorter than by itself. The text is cut into tokens at the starts of the holes' lines.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from blockdiff.config import Layout
from blockdiff.infill.healing import PromptTokenizer, healable_tail
from blockdiff.infill.layout import (
    Prompt,
    build_prompt,
    fim_marks,
    kept_for_snippets,
    snippets_before,
)
from blockdiff.infill.windows import (
    begun_behind,
    first_lines,
    nearest_behind_outline,
    text_after,
    text_before,
)
from blockdiff.syntax.whitespace import BOM, to_lf, with_line_feeds
from blockdiff.types import Hole, InfillRequest

# Shares of `context_tokens`, as a numerator of 16.
_SUFFIX = 4  # behind each hole, encoded for each; a hole by itself has a third or more
_BETWEEN = 9  # at most, between the first hole of a window and the last
_BEGUN = 2  # at most, between the start of a hole's line and the hole

_MOST_CHARACTERS_PER_TOKEN = 32


@dataclass(frozen=True, slots=True)
class _Place:
    """One hole.

    Attributes:
        at: offset where the line of the hole starts, or in a line that is too long the hole.
        begun: tokens from there to the hole.
        between: tokens from the `at` of the hole before; None if that is too far away.
    """

    index: int
    hole: Hole
    at: int
    begun: list[int]
    between: list[int] | None


def build_prompts(
    request: InfillRequest, tokenizer: PromptTokenizer, layout: Layout, texts: Sequence[str] = ()
) -> list[Prompt]:
    """A prompt for each of `request.holes`, in their order; the other holes hold `texts`, or
    nothing.

    A hole far from the others, and every one in a layout other than `psm`, gets the prompt that it
    would get by itself. Raises as `build_prompt`.
    """
    count = len(request.holes)
    prompts: dict[int, Prompt] = {}
    if layout is Layout.PSM:
        shown = replace(request, document=with_line_feeds(request.document))
        common = shown.holding(texts or [""] * count)
        for group in _groups(common, tokenizer):
            if len(group) > 1:
                prompts |= _joint(common, group, tokenizer)
    for index in range(count):
        if index not in prompts:
            prompts[index] = build_prompt(request.only(index, texts), tokenizer, layout)
    return [prompts[index] for index in range(count)]


def _groups(common: InfillRequest, tokenizer: PromptTokenizer) -> Iterator[list[_Place]]:
    """The holes in the order of the text, as far as one window holds them."""
    most = common.context_tokens * _BETWEEN // 16
    group: list[_Place] = []
    length = 0
    for place in _places(common, tokenizer, most):
        if place.between is None or length + len(place.between) > most:
            yield group
            group, length = [], 0
        length += len(place.between or ()) if group else 0
        group.append(place)
    yield group


def _places(common: InfillRequest, tokenizer: PromptTokenizer, most: int) -> Iterator[_Place]:
    document, before = common.document, 0
    holes = sorted(enumerate(common.holes), key=lambda one: one[1].start)
    for number, (index, hole) in enumerate(holes):
        limit = common.context_tokens * _BEGUN // 16
        at, begun = begun_behind(document, hole.start, tokenizer, limit)
        between: list[int] | None = []
        if number:
            near = at - before <= most * _MOST_CHARACTERS_PER_TOKEN
            between = _tokens(document, before, at, tokenizer) if near else None
        yield _Place(index, hole, at, begun, between)
        before = at


def _tokens(document: str, start: int, end: int, tokenizer: PromptTokenizer) -> list[int]:
    text = document[start:end]
    return tokenizer.encode(to_lf(text.removeprefix(BOM) if start == 0 else text))


def _joint(
    common: InfillRequest, group: Sequence[_Place], tokenizer: PromptTokenizer
) -> dict[int, Prompt]:
    """The prompts of a group by the index of the hole."""
    document, budget = common.document, common.context_tokens
    marks = fim_marks(tokenizer)
    first = group[0].at
    between = sum(len(place.between or ()) for place in group[1:])
    room = budget * _SUFFIX // 16
    limit = budget - room - between - max(len(place.begun) for place in group)
    kept = min(kept_for_snippets(common, tokenizer), limit // 2)
    limit -= kept
    prefix = text_before(document, first, tokenizer, limit)
    if len(prefix) > limit:
        prefix = nearest_behind_outline(common, first, prefix, limit, tokenizer)
    snippets = snippets_before(common, tokenizer, limit + kept - len(prefix))
    prompts = {}
    for number, place in enumerate(group):
        prefix = [*prefix, *(place.between or ())] if number else prefix
        suffix = text_after(document, place.hole.end, tokenizer, room)
        suffix = first_lines(suffix, room, tokenizer)
        before, begun = list(prefix), list(place.begun)
        last = begun or before
        healed, text = healable_tail(last, tokenizer)
        del last[len(last) - healed :]
        tokens = (*snippets, marks[0], *before, marks[1], *suffix, marks[2], *begun)
        prompts[place.index] = Prompt(tokens, text, len(tokens) - len(marks))
    return prompts
