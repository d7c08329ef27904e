"""A span as text: its blanks, its tokens, and the way back into the document."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blockdiff.diffusion.canvas import BLANK, Canvas
from blockdiff.errors import InvalidRequest
from blockdiff.infill.rewrite import (
    Frame,
    SpanTokens,
    origins,
    without_lead,
    without_lines_above,
    without_lines_below,
)
from blockdiff.syntax.whitespace import to_lf
from blockdiff.types import (
    Finished,
    FinishReason,
    Hole,
    RewriteRequest,
    SyntaxState,
)
from tests.unit.tiny_checkpoint import tokenizer

LETTERS = st.sampled_from(
    [*"ab =():{}", "\n", "\r\n", "\t", "    ", "return ", "é", "e\u0301", "\u0301", "가", "ᄀ", "ᅡ",
     "한국", "\u212b", "😀", "e\u0327\u0301", "e\u0301\u0327", "\f", "\u2028"]
)  # fmt: skip
TEXTS = st.lists(LETTERS, max_size=12).map("".join)


def request(document: str, start: int, end: int, **changes: object) -> RewriteRequest:
    return RewriteRequest(document, Hole(start, end), **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize("text", ["", " ", "\n\n", "\t \r\n"])
def test_a_blank_span_is_refused(text: str) -> None:
    with pytest.raises(InvalidRequest, match="no text to rewrite"):
        request(f"a{text}b", 1, 1 + len(text))


@pytest.mark.parametrize("strength", [-0.1, 1.1, float("nan")])
def test_a_strength_is_a_share(strength: float) -> None:
    with pytest.raises(InvalidRequest, match="strength must be 0..1"):
        request("ab", 0, 1, strength=strength)


def test_a_span_lies_within_its_document() -> None:
    with pytest.raises(InvalidRequest, match="span ends at offset 3, the document has 2"):
        request("ab", 0, 3)


@given(TEXTS, st.integers(0, 3), st.integers(0, 3))
def test_a_frame_takes_the_text_apart_and_puts_it_together_again(
    text: str, before: int, after: int
) -> None:
    document = "x" * before + text + "y" * after
    frame = Frame.of(document, Hole(before, before + len(text)))
    inside = document[frame.hole.start : frame.hole.end]
    assert frame.before + inside + frame.after == text
    assert inside == inside.strip() and not (frame.before + frame.after).strip()


def test_a_byte_order_mark_is_no_text() -> None:
    frame = Frame.of("\ufeff  x\n", Hole(0, 5))
    assert (frame.before, frame.after) == ("\ufeff  ", "\n")


def test_what_happens_within_happens_to_the_whole_span() -> None:
    frame = Frame.of("a:\n    b = 1\n", Hole(3, 13))
    assert frame.hole == Hole(7, 12)
    end = Finished("r", 0, "c=2", 1, 1, FinishReason.EOM, SyntaxState.OK, "ar", "m", 1.0, 1.0, 9)
    placed = frame.put(end)
    assert placed.text == "    c=2\n" and placed == frame.put(end)


@pytest.mark.parametrize(
    ("answer", "indentation", "text"),
    [
        ("x = 1\n    y", "    ", "x = 1\n    y"),
        ("    x = 1\n        y = 2\n\n        z", "    ", "x = 1\n    y = 2\n\n    z"),
        ("    if x:\n    y", "    ", "if x:\n    y"),  # not all lines are deeper
        ("\n    x", "    ", "x"),
        ("  x  \n", "    a = ", "x"),
        ("", "", ""),
    ],
)
def test_an_answer_starts_where_the_text_starts(answer: str, indentation: str, text: str) -> None:
    assert without_lead(answer, indentation) == text


@pytest.mark.parametrize(
    ("prefix", "answer", "text"),
    [
        ("a = 1\n# say it\n", "# say it\ndef f(): ...", "def f(): ..."),
        ("a = 1\r\n\r\n    # say it\r\n    ", "# say it\r\n    b = 2", "b = 2"),
        ("a = 1\nb = 2\n", "a = 1\nb = 2\nc", "c"),
        ("}\n", "}\nc", "}\nc"),  # too little to be sure
        ("a = 1\n", "a = 1", "a = 1"),  # nothing else would be left
        ("a = 1\nx = ", "a = 1\nc", "a = 1\nc"),
        ("x = 0\n", "x = 0\ny", "x = 0\ny"),  # the text began with it
        ("", "a b\nc", "a b\nc"),
    ],
)
def test_lines_from_above_that_an_answer_copied_go(prefix: str, answer: str, text: str) -> None:
    assert without_lines_above(answer, prefix, "x = 0\n...") == text


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        ("def g():\n    return 1\n\n\nprint(g(2, 3))", "def g():\n    return 1"),
        ("def f():\n    return 1\n\n\nprint(f(2, 3))\nprint('done')", "def f():\n    return 1"),
        ("def f():\n    return 1\n\n\nf.cache = {}", None),
        ("def f():\n    print(f(2, 3))\n    return 1", None),
        ("print(f(2, 3))\nprint('done')", None),
        ("def f():\n    return 1", None),
    ],
    ids=["changed alike", "two lines", "something new", "deeper", "as long as it was", "nothing"],
)
def test_the_lines_below_are_not_written_again(answer: str, text: str | None) -> None:
    suffix = "\n\n\nprint(f(2, 3))\nprint('done')\n"
    kept = without_lines_below(answer, suffix, "def f():\n    return 0")
    assert kept == (answer if text is None else text)


def test_an_answer_within_a_line_keeps_all_its_lines() -> None:
    answer = "a = 1\nprint(f(2, 3))"
    assert without_lines_below(answer, " # end\nprint(f(2, 3))\n", "x") == answer


@given(TEXTS)
def test_the_origin_of_every_part_spells_it(text: str) -> None:
    normal = unicodedata.normalize("NFC", to_lf(text))
    origin = origins(text, normal)
    assert origin is not None and origin[len(normal)] == len(text)
    edges = sorted(origin)
    for start, end in zip(edges, edges[1:], strict=False):
        part = text[origin[start] : origin[end]]
        assert unicodedata.normalize("NFC", to_lf(part)) == normal[start:end]


@pytest.mark.parametrize(
    ("text", "other"), [("a", "b"), ("ab", "a"), ("a", "ab"), ("é", "e"), ("", "a"), ("a\r\n", "a")]
)
def test_another_text_has_no_origin(text: str, other: str) -> None:
    assert origins(text, other) is None


@given(TEXTS, st.sampled_from(["", "    ", "re", " ", "é"]))
def test_units_are_the_text_of_the_document_in_order(text: str, heal: str) -> None:
    """Whatever takes the place of some, the others stay: invariant 3."""
    span = SpanTokens.of(text, heal, tokenizer())
    if span is None or not text:
        return
    assert "".join(text[slice(*unit.source)] for unit in span.units) == text
    tokens = [i for unit in span.units for i in range(*unit.tokens)]
    assert tokens == list(range(len(span.tokens)))


def test_a_token_that_starts_before_the_text_is_one_of_its_units() -> None:
    span = SpanTokens.of("turn x", "re", tokenizer())
    assert span is not None
    assert (span.rest, span.context, span.units[0].source) == ("re", (), (0, 4))


# The canvas

def test_a_canvas_is_masks_past_its_end() -> None:
    canvas = Canvas((7, 8, 9), (False, False, True), (0.1, 0.2, 0.3))
    assert [canvas.kept(i) for i in range(4)] == [2, 1, 0, 0]
    block = canvas.block(1, 4)
    assert (block.tokens, block.masked) == ((8, 9, 0, 0), (False, True, True, True))
    assert BLANK.kept(0) == 0 and BLANK.block(5, 2).masked == (True, True)
