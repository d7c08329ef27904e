"""Positions and edits, held against a model that counts units one by one."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blockdiff.errors import PositionOutside
from lsp_server.document import (
    Document,
    Encoding,
    Position,
    Range,
    edits_of,
    smallest,
    split_lines,
    units,
)

# What editors and Python disagree about, and what takes more than one unit.
_PIECES = ["a", "\t", " ", "é",
           "\u0301", "𝕏", "👩‍👩‍👧", "\n", "\r\n", "\r", "\f", "\v", "\x1c", "\x85",
           "\u2028", "\u2029", "\ufeff", "()"]  # fmt: skip
TEXTS = st.lists(st.sampled_from(_PIECES), max_size=24).map("".join)
ENCODINGS = st.sampled_from(list(Encoding))


def oracle(text: str, position: Position, encoding: Encoding) -> int:
    """The offset of a position, by walking."""
    offset = 0
    for _ in range(position.line):
        ending = re.compile("\r\n|\r|\n").search(text, offset)
        if ending is None:
            return len(text)
        offset = ending.end()
    left = position.character
    while offset < len(text) and text[offset] not in "\r\n":
        width = {
            Encoding.UTF8: len(text[offset].encode()),
            Encoding.UTF16: len(text[offset].encode("utf-16-le")) // 2,
            Encoding.UTF32: 1,
        }[encoding]
        if left < width:
            break
        left -= width
        offset += 1
    return offset


@given(TEXTS, ENCODINGS, st.integers(0, 12), st.integers(0, 30))
def test_an_offset_is_what_walking_there_finds(
    text: str, encoding: Encoding, line: int, character: int
) -> None:
    document = Document("", text, encoding=encoding)
    position = Position(line, character)
    assert document.offset(position, clamp=True) == oracle(text, position, encoding)


@given(TEXTS, ENCODINGS)
def test_offsets_round_trip(text: str, encoding: Encoding) -> None:
    document = Document("", text, encoding=encoding)
    for offset in range(len(text) + 1):
        back = document.offset(document.position(offset))
        within_crlf = text[offset - 1 : offset + 1] == "\r\n" and offset > 0
        assert back == (offset - 1 if within_crlf else offset)


@given(TEXTS, ENCODINGS, st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9), st.integers(0, 9),
                                            st.integers(0, 9), TEXTS), max_size=4))  # fmt: skip
def test_incremental_changes_add_up_to_the_text_of_the_editor(
    text: str, encoding: Encoding, changes: list[tuple[int, int, int, int, str]]
) -> None:
    document = Document("", text, encoding=encoding)
    for line, character, more_lines, more, new in changes:
        start, end = Position(line, character), Position(line + more_lines, character + more)
        first, last = oracle(text, start, encoding), oracle(text, end, encoding)
        change = document.replace(Range(start, end), new)
        text = text[:first] + new + text[last:]
        assert document.text == text
        assert (change.start, change.end, change.size) == (first, last, len(new))
        assert document._lines == split_lines(text)
        assert document.line_count == len(re.split("\r\n|\r|\n", text))


@pytest.mark.parametrize(
    ("position", "message"),
    [(Position(3, 0), "line 3 is outside, the document has 3 lines"), (Position(9, 9), "line 9")],
)
def test_a_line_that_is_not_there_is_an_error(position: Position, message: str) -> None:
    with pytest.raises(PositionOutside, match=message):
        Document("", "a\nb\n").offset(position)
    assert Document("", "a\nb\n").offset(Position(2, 0)) == 4


def test_a_range_that_ends_beyond_the_text_ends_with_it() -> None:
    whole = Range(Position(0, 1), Position(2**31 - 1, 0))
    assert Document("", "a\nb\n").offsets(whole) == (1, 4)


def test_inverted_and_negative_positions_are_errors() -> None:
    with pytest.raises(PositionOutside, match="inverted"):
        Range(Position(1, 0), Position(0, 5))
    with pytest.raises(PositionOutside, match="negative"):
        Position(0, -1)


def test_a_column_beyond_the_line_is_its_end_and_one_within_a_character_its_start() -> None:
    document = Document("", "𝕏y\nz", encoding=Encoding.UTF16)
    assert [document.offset(Position(0, n)) for n in range(6)] == [0, 0, 1, 2, 2, 2]


@given(TEXTS, TEXTS)
def test_the_smallest_edit_makes_the_new_text_and_touches_no_more_than_it_must(
    old: str, new: str
) -> None:
    start, end, middle = smallest(old, new)
    assert old[:start] + middle + old[end:] == new
    for place in (start, end):
        assert not (place > 0 and old[place - 1 : place + 1] == "\r\n")
    if old != new:
        kept = start + len(old) - end
        same_ends = old[:1] != new[:1] and old[-1:] != new[-1:]
        assert kept == 0 or not same_ends


@given(TEXTS, TEXTS, TEXTS, TEXTS, ENCODINGS)
def test_an_edit_as_the_editor_applies_it_gives_the_filled_document(
    before: str, old: str, after: str, new: str, encoding: Encoding
) -> None:
    text = before + old + after
    document = Document("", text, encoding=encoding)
    edits = edits_of(document, len(before), len(before) + len(old), new)
    result = text
    for edit in edits:
        first = oracle(text, edit.range.start, encoding)
        last = oracle(text, edit.range.end, encoding)
        result = text[:first] + edit.new_text + text[last:]
    cut_crlf = (before[-1:] == "\r" and (old + after)[:1] == "\n") or (
        (before + old)[-1:] == "\r" and after[:1] == "\n"
    )
    assert result == before + new + after or cut_crlf
    assert len(edits) == (old != new)


@given(TEXTS)
def test_units_are_those_of_the_encoding(text: str) -> None:
    assert units(text, Encoding.UTF8) == len(text.encode())
    assert units(text, Encoding.UTF16) == len(text.encode("utf-16-le")) // 2
    assert units(text, Encoding.UTF32) == len(text)
