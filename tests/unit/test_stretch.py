"""Several holes shown as one."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from blockdiff.cli.stretch import Stretch
from blockdiff.types import (
    Filled,
    Finished,
    FinishReason,
    Hole,
    InfillRequest,
    Refinement,
    Span,
    SyntaxState,
)

DOCUMENT = "def f(a, b):\n    return a\n"


def draft(hole: int, text: str) -> Refinement:
    spans = tuple(Span(i, i + 1, i % 2 == 0, 0.5) for i in range(len(text)))
    return Refinement("r", 7, hole, text, spans, 3, 4, 9.0)


def finished(hole: int, text: str) -> Finished:
    return Finished("r", hole, text, 1, 1, FinishReason.EOM, SyntaxState.OK, "ar", "m", 1.0, 1.0, 1)


@given(
    cuts=st.lists(st.integers(0, len(DOCUMENT)), min_size=4, max_size=4, unique=True),
    texts=st.lists(st.text("ab\n", max_size=4), min_size=2, max_size=2),
    turned=st.booleans(),
)
def test_what_is_shown_at_last_is_what_is_written(
    cuts: list[int], texts: list[str], turned: bool
) -> None:
    a, b, c, d = sorted(cuts)
    holes = [Hole(c, d), Hole(a, b)] if turned else [Hole(a, b), Hole(c, d)]
    stretch = Stretch(InfillRequest(DOCUMENT, holes[0], also=(holes[1],)))
    assert stretch.hole == Hole(a, d)
    first = stretch.shown(draft(0, texts[0]))
    assert (first.step, first.forwards) == (3, 4)
    shown = stretch.shown(draft(1, texts[1]))
    end = Filled("r", (finished(0, texts[0]), finished(1, texts[1])), 1.0)
    early, late = reversed(texts) if turned else texts
    assert shown.text == stretch.text(end) == early + DOCUMENT[b:c] + late
    assert (shown.hole, shown.step, shown.forwards) == (0, 6, 8)
    ends = [0, *(span.end for span in shown.spans)]
    assert [span.start for span in shown.spans] == ends[:-1] and ends[-1] == len(shown.text)
    kept = Span(len(early), len(early) + c - b, True, 1.0)
    assert kept in shown.spans
