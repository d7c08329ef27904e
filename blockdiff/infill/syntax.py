"""Whether a filled hole parses.

A hole is judged by what it adds: errors that the document has without it, elsewhere, are not its
fault. What could not be parsed in time is not judged.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from blockdiff.grammars import NoGrammar, OutOfTime, parse
from blockdiff.infill.nesting import Nesting, excess
from blockdiff.types import SyntaxState

if TYPE_CHECKING:
    import tree_sitter

_MOST_ERRORS = 2_000


def check(document: str, start: int, end: int, language: str) -> SyntaxState:
    """Whether the text `document[start:end]`, freshly filled in, parses where it stands.

    OK: no ERROR or MISSING node touches it, and none elsewhere is new compared with the document
    without it. SKIPPED: no grammar for this language is installed, or the time limit was reached.
    """
    try:
        blamed = _blamed(document, start, end, language)
    except (NoGrammar, OutOfTime):
        return SyntaxState.SKIPPED
    return SyntaxState.BROKEN if blamed else SyntaxState.OK


def check_rewrite(original: str, document: str, start: int, end: int, language: str) -> SyntaxState:
    """The same where the text took the place of other text, and `original` is what stood before.

    Where that parsed as a whole there is nothing to excuse: any error is the rewrite's. (Without
    the text both may be broken at the same place, as by a bracket that only one of them closes.)
    """
    try:
        if not _errors(original, language):
            return SyntaxState.BROKEN if _errors(document, language) else SyntaxState.OK
    except (NoGrammar, OutOfTime):
        return SyntaxState.SKIPPED
    return check(document, start, end, language)


@dataclass(frozen=True, slots=True)
class Faults:
    """What does not parse of a filled hole.

    Attributes:
        size: characters under the errors that the hole causes, anywhere, at least one for each; 0:
            `check` says OK or SKIPPED.
        spans: ranges of the document inside the hole that lie under them, in order. Where something
            is missing, the character before the gap stands for it; for an error before the hole or
            behind it, the hole's first or last character. Empty if there are none, or no text.
    """

    size: int = 0
    spans: tuple[tuple[int, int], ...] = ()


def faults(document: str, start: int, end: int, language: str) -> Faults:
    """What does not parse of the text `document[start:end]`, freshly filled in."""
    try:
        blamed = _blamed(document, start, end, language)
    except (NoGrammar, OutOfTime):
        return Faults()
    merged: list[tuple[int, int]] = []
    for error in sorted(blamed, key=lambda e: (e.start, e.end)):
        first = max(error.start - (error.start == error.end), start)
        first, last = min(first, end - 1), max(min(error.end, end), start + 1)
        if start == end:
            continue
        last = max(last, first + 1)
        if merged and first <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(last, merged[-1][1]))
        else:
            merged.append((first, last))
    return Faults(sum(max(e.end - e.start, 1) for e in blamed), tuple(merged))


@dataclass(frozen=True, slots=True)
class _Error:
    """An ERROR node, or with `start == end` the place where something is missing."""

    start: int
    end: int

    def touches(self, start: int, end: int) -> bool:
        return self.start <= end and self.end >= start

    def touches_error(self, other: _Error) -> bool:
        return self.touches(other.start, other.end)

    def encloses(self, start: int, end: int) -> bool:
        return self.start < start and self.end >= end


def _blamed(document: str, start: int, end: int, language: str) -> list[_Error]:
    """Errors of `document` that the span is part of or has caused."""
    errors = _errors(document, language)
    if not errors:
        return []
    line_start = document.rfind("\n", 0, start) + 1
    line_end = document.find("\n", end)
    line_end = len(document) if line_end < 0 else line_end
    # Errors that are there without the hole and without its lines have nothing to do with it. With
    # the hole alone taken out, its line may be broken for that very reason.
    without_hole = _errors_without(document, start, end, language)
    without_lines = _errors_without(document, line_start, line_end, language)
    # An error ends before the blanks in front of the hole that it is about.
    first = start - _run(document[line_start:start][::-1])
    last = end + _run(document[end:line_end])

    def known(error: _Error) -> bool:
        if error.encloses(first, last):
            # A macro, or a bracket left open far above, can wrap the rest of a file in one ERROR.
            around = any(e.start < line_start and e.touches_error(error) for e in without_lines)
            return around and _sound(document, start, end, language)
        if error.touches(first, last):
            return False
        if not any(map(error.touches_error, without_hole)):
            return False
        before_in_line = line_start <= error.start and error.end < first
        return before_in_line or any(map(error.touches_error, without_lines))

    return [error for error in errors if not known(error)]


def _errors_without(document: str, start: int, end: int, language: str) -> list[_Error]:
    """Errors of the document without that span, at the offsets they would have with it."""

    def moved(offset: int) -> int:
        return offset if offset <= start else offset + end - start

    errors = _errors(document[:start] + document[end:], language)
    return [_Error(moved(e.start), moved(e.end)) for e in errors]


def _run(text: str) -> int:
    """How many blanks a text starts with."""
    return len(text) - len(text.lstrip(" \t"))


def _sound(document: str, start: int, end: int, language: str) -> bool:
    """Whether the hole looks right by itself: every bracket has its partner, or the top-level
    construct around the hole parses alone."""
    if excess(Nesting(), document[:end], document[end:], language) == 0:
        return True
    line_end = document.find("\n", end)
    heads = list(_HEAD.finditer(document, 0, document.rfind("\n", 0, start) + 2))
    first = heads[-1].start() if heads else 0
    after = _HEAD.search(document, line_end) if line_end >= 0 else None
    return not _errors(document[first : after.start() if after else len(document)], language)


_HEAD = re.compile(r"^[\w@#]", re.MULTILINE)  # a line that starts a top-level construct


def _errors(text: str, language: str) -> list[_Error]:
    """All ERROR and MISSING nodes, in code points, outermost only."""
    text = re.sub("\r(?!\n)", "\n", text)  # grammars take a CR by itself for a blank
    data = text.encode("utf-8", "replace")  # a lone surrogate becomes one "?"
    found = list(_error_bytes(parse(data, language).root_node))
    errors, characters, position = [], 0, 0
    at: dict[int, int] = {}
    for byte in sorted({b for pair in found for b in pair}):
        characters += len(data[position:byte].decode("utf-8", "replace"))
        at[byte] = characters
        position = byte
    for first, last in found:
        errors.append(_Error(at[first], at[last]))
    return errors


def _error_bytes(root: tree_sitter.Node) -> Iterator[tuple[int, int]]:
    todo, count = [root], 0
    while todo and count < _MOST_ERRORS:
        node = todo.pop()
        if node.is_error or node.is_missing:
            count += 1
            yield node.start_byte, node.end_byte
        elif node.has_error:
            todo.extend(reversed(node.children))
