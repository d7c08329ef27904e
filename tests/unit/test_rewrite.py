"""A span as text: its blanks, its tokens, and the way back into the document."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blockdiff.config import DecodingConfig, Mode
from blockdiff.diffusion.canvas import BLANK, Canvas, most_surprising
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


def test_only_an_instruction_can_be_followed_from_left_to_right() -> None:
    decoding = DecodingConfig(mode=Mode.AR)
    assert request("ab", 0, 1, instruction="shorter", decoding=decoding)
    with pytest.raises(InvalidRequest, match="mode ar"):
        request("ab", 0, 1, instruction=" ", decoding=decoding)


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


@given(TEXTS, st.sampled_from(["", "    ", "re", " ", "é"]), st.data())
def test_tokens_that_stay_are_the_text_of_the_document(
    text: str, heal: str, data: st.DataObject
) -> None:
    """Whatever takes the place of the others: invariant 3."""
    span = SpanTokens.of(text, heal, heal, tokenizer())
    if span is None or not text:
        return
    flags = data.draw(st.lists(st.booleans(), min_size=len(span.units), max_size=len(span.units)))
    tokens = list(span.tokens)
    first_changed = flags[:1] == [True]
    for unit, masked in zip(span.units, flags, strict=True):
        if masked and not (first_changed and unit.tokens[0] == 0 and span.rest):
            for i in range(*unit.tokens):
                tokens[i] = data.draw(st.integers(0, 255), label="token")
    expected, run = [], b""
    for unit in span.units:
        new = tuple(tokens[slice(*unit.tokens)])
        if new == span.tokens[slice(*unit.tokens)]:
            expected += [run.decode("utf-8", "ignore"), text[slice(*unit.source)]]
            run = b""
        else:
            run += b"".join(map(tokenizer().token_bytes, new))
    expected.append(run.decode("utf-8", "ignore"))
    assert span.rewritten(tokens, tokenizer()) == "".join(expected)
    assert span.rewritten(span.tokens, tokenizer()) == text


def test_a_token_that_starts_before_the_text_has_to_start_with_the_same() -> None:
    span = SpanTokens.of("turn x", "re", "re", tokenizer())
    assert span is not None
    assert (span.rest, span.context) == ("re", ())
    assert (span.units[0].lead, span.units[0].source) == ("re", (0, 4))
    assert span.rewritten([ord("r"), *span.tokens[1:]], tokenizer()).endswith(" x")


def test_line_breaks_and_indentation_are_structure_words_at_a_line_s_start_keep_theirs() -> None:
    span = SpanTokens.of("if a:\n    b = 1", "", "    ", tokenizer())
    assert span is not None
    said = b"".join(map(tokenizer().token_bytes, span.tokens)).decode()
    structure = [said[slice(*unit.source)] for unit in span.units if unit.structure]
    assert "\n" in "".join(structure) and not "".join(structure).strip()
    opening = [said[slice(*unit.source)] for unit in span.units if unit.opens_line]
    assert opening == ["i", "b"]


# The canvas

UNITS = st.lists(st.integers(1, 3), min_size=1, max_size=12)


@given(UNITS, st.floats(0, 1), st.randoms(use_true_random=False))
def test_the_most_surprising_units_are_masked_and_no_more_than_the_share(
    sizes: list[int], share: float, rng: object
) -> None:
    ends = [sum(sizes[: i + 1]) for i in range(len(sizes))]
    units = [(end - size, end) for end, size in zip(ends, sizes, strict=True)]
    surprise = [rng.random() for _ in range(ends[-1])]  # type: ignore[attr-defined]
    chosen = most_surprising(surprise, units, share)
    assert chosen == sorted(set(chosen)) and set(chosen) <= set(units)
    assert bool(chosen) == (share > 0)
    if share == 1.0:
        assert chosen == units
    if len(chosen) > 1:
        count = sum(end - start for start, end in chosen)
        assert abs(count - share * ends[-1]) <= 3
    worst = [max(surprise[a:b]) for a, b in units if (a, b) not in chosen]
    assert not chosen or max(worst, default=0) <= min(max(surprise[a:b]) for a, b in chosen)


def test_a_canvas_is_masks_past_its_end() -> None:
    canvas = Canvas((7, 8, 9), (False, False, True), (0.1, 0.2, 0.3))
    assert [canvas.kept(i) for i in range(4)] == [2, 1, 0, 0]
    block = canvas.block(1, 4)
    assert (block.tokens, block.masked) == ((8, 9, 0, 0), (False, True, True, True))
    assert BLANK.kept(0) == 0 and BLANK.block(5, 2).masked == (True, True)
