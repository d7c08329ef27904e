"""An open document: its lines, positions in it, and edits to it.

Lines end as the protocol says, at LF, CR or CRLF and nowhere else; a form feed or U+2028 is text.
(`str.splitlines` and pygls' own document split there, and then every later position is wrong.)
Offsets count code points, as everywhere in blockdiff; `character` counts the units that client and
server agreed on. This is the one place where the two are converted.
"""

from __future__ import annotations

import io
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from itertools import accumulate
from os.path import commonprefix
from typing import Annotated

from msgspec import Meta

from blockdiff.errors import PositionOutside

_NOT_NEGATIVE = Meta(extra_json_schema={"minimum": 0})  # in a schema; an error has its own words


class Encoding(str, Enum):
    """What `character` of a position counts."""

    UTF8 = "utf-8"
    UTF16 = "utf-16"
    UTF32 = "utf-32"


@dataclass(frozen=True, slots=True, order=True)
class Position:
    """0-based line, and units of the negotiated encoding from its start."""

    line: Annotated[int, _NOT_NEGATIVE]
    character: Annotated[
        int, _NOT_NEGATIVE, Meta(description="Counted in the negotiated position encoding.")
    ]

    def __post_init__(self) -> None:
        if self.line < 0 or self.character < 0:
            raise PositionOutside(f"position {self.line}:{self.character} is negative")


@dataclass(frozen=True, slots=True)
class Range:
    """Half-open."""

    start: Position
    end: Position

    def __post_init__(self) -> None:
        if self.end < self.start:
            raise PositionOutside(
                f"range {self.start.line}:{self.start.character} to "
                f"{self.end.line}:{self.end.character} is inverted"
            )


@dataclass(frozen=True, slots=True)
class TextEdit:
    """`range` is replaced by `new_text`."""

    range: Range
    new_text: str


@dataclass(frozen=True, slots=True)
class Change:
    """What an edit did, in offsets of the text before it: `start..end` became `size` characters."""

    start: int
    end: int
    size: int


class Document:
    """One version after another of an open text.

    Attributes:
        version: as the client counts; None where it does not.
    """

    def __init__(
        self,
        uri: str,
        text: str,
        *,
        language: str = "",
        version: int | None = None,
        encoding: Encoding = Encoding.UTF16,
    ) -> None:
        self.uri, self.language, self.version, self.encoding = uri, language, version, encoding
        self._lines = split_lines(text)
        self._text: str | None = text
        self._starts: list[int] | None = None

    @property
    def text(self) -> str:
        if self._text is None:
            self._text = "".join(self._lines)
        return self._text

    @property
    def line_count(self) -> int:
        """Lines; text that ends with a line ending has an empty one behind it."""
        return len(self._lines) + (not self._lines or _ends_line(self._lines[-1]))

    def line(self, number: int) -> str:
        """A line without its ending."""
        return self._lines[number].rstrip("\r\n") if number < len(self._lines) else ""

    def replace_all(self, text: str) -> Change:
        """Take another text as a whole."""
        change = Change(0, len(self.text), len(text))
        self._lines, self._text, self._starts = split_lines(text), text, None
        return change

    def replace(self, span: Range, text: str) -> Change:
        """Apply an incremental change; positions beyond the text mean its end."""
        start, end = self.offset(span.start, clamp=True), self.offset(span.end, clamp=True)
        first = min(span.start.line, len(self._lines))
        last = min(span.end.line + 1, len(self._lines))
        # a CR and an LF that the edit brings together are one line ending: take the neighbours
        first, last = max(0, first - 1), min(last + 1, len(self._lines))
        offset = self._line_starts()[first] if first < len(self._lines) else len(self.text)
        region = "".join(self._lines[first:last])
        region = region[: start - offset] + text + region[end - offset :]
        self._lines[first:last] = split_lines(region)
        self._text = self._starts = None
        return Change(start, end, len(text))

    def offset(self, position: Position, *, clamp: bool = False) -> int:
        """Code points before a position; beyond the end of its line it means that end.

        Raises PositionOutside for a line that is not there, unless `clamp`.
        """
        if position.line >= len(self._lines):
            if position.line >= self.line_count and not clamp:
                raise PositionOutside(
                    f"line {position.line} is outside, the document has {self.line_count} lines"
                )
            return len(self.text)
        return self._line_starts()[position.line] + _code_points(
            self.line(position.line), position.character, self.encoding
        )

    def offsets(self, span: Range) -> tuple[int, int]:
        """The offsets of a range; an end beyond the text, by which clients say all of it, means the
        end. Raises PositionOutside."""
        return self.offset(span.start), self.offset(span.end, clamp=True)

    def position(self, offset: int) -> Position:
        """The inverse of `offset`. Within a CRLF it is the end of the line."""
        starts = self._line_starts()
        number = max(0, bisect_right(starts, offset) - 1)
        line = self._lines[number] if number < len(self._lines) else ""
        if offset - starts[number] >= len(line) and _ends_line(line):
            return Position(number + 1, 0)
        before = line[: offset - starts[number]].rstrip("\r\n")
        return Position(number, units(before, self.encoding))

    def span(self, start: int, end: int) -> Range:
        """The range of two offsets."""
        return Range(self.position(start), self.position(end))

    def _line_starts(self) -> list[int]:
        if self._starts is None:
            lengths = map(len, self._lines)
            self._starts = [0, *accumulate(lengths)][: max(1, len(self._lines))]
        return self._starts


def split_lines(text: str) -> list[str]:
    """Lines with their endings; nothing behind the last ending."""
    return list(io.StringIO(text, newline=""))


def units(text: str, encoding: Encoding) -> int:
    """Length of `text` as `character` counts it."""
    if text.isascii() or encoding is Encoding.UTF32:
        return len(text)
    if encoding is Encoding.UTF8:
        return len(text.encode("utf-8", "surrogatepass"))
    return len(text) + sum(c > "\uffff" for c in text)


def _code_points(line: str, character: int, encoding: Encoding) -> int:
    """Code points before a column; one within a character counts as its start."""
    if line.isascii() or encoding is Encoding.UTF32:
        return min(character, len(line))
    if encoding is Encoding.UTF8:
        head = line.encode("utf-8", "surrogatepass")[:character]
        return len(head.decode("utf-8", "ignore"))
    seen = 0
    for index, c in enumerate(line):
        seen += 2 if c > "\uffff" else 1
        if seen > character:
            return index
    return len(line)


def _ends_line(line: str) -> bool:
    return line.endswith(("\n", "\r"))


@dataclass(frozen=True, slots=True)
class Blank:
    """A place to write in.

    Attributes:
        start, end: offsets of the document; what stands there is replaced.
        before, after: text that is put around what the model writes, such as the quotes of a
            docstring. The model sees both.
        shown: what the model is told stands there, where that is not what does; None: what does.
    """

    start: int
    end: int
    before: str = ""
    after: str = ""
    shown: str | None = None


def smallest(old: str, new: str) -> tuple[int, int, str]:
    """Start and end within `old`, and what stands there instead, by common prefix and suffix.

    A CRLF and a pair of surrogates are never cut in two.
    """
    before = len(commonprefix((old, new)))
    before -= _cuts(old, before) or _cuts(new, before)
    rest_old, rest_new = old[before:], new[before:]
    after = len(commonprefix((rest_old[::-1], rest_new[::-1])))
    after -= _cuts(old, len(old) - after) or _cuts(new, len(new) - after)
    return before, len(old) - after, rest_new[: len(rest_new) - after]


def edits_of(document: Document, start: int, end: int, text: str) -> list[TextEdit]:
    """The edits that make `document[start:end]` read `text`: one, or none if it does already."""
    old = document.text[start:end]
    if old == text:
        return []
    first, last, middle = smallest(old, text)
    return [TextEdit(document.span(start + first, start + last), middle)]


def made_in(document: Document, edits: Sequence[TextEdit]) -> str:
    """The text of a document with edits, none of which overlaps another."""
    text = document.text
    spans = [(document.offsets(edit.range), edit.new_text) for edit in edits]
    for (start, end), new in sorted(spans, reverse=True):
        text = text[:start] + new + text[end:]
    return text


def _cuts(text: str, at: int) -> int:
    """1 if a place lies within a CRLF."""
    return int(0 < at < len(text) and text[at - 1] == "\r" and text[at] == "\n")
