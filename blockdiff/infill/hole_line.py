"""The line of a hole in it: its start, its rest, and what of strings and brackets is open there."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

from blockdiff.infill.words import TOKEN
from blockdiff.syntax.nesting import Nesting, comment_marks, scan

CLOSING = frozenset(")]}>,;:.")
ONCE = frozenset({"=", ":=", "=>", "->", "then", "as", "from", "of"})  # in a line
_LOOP = re.compile(r"\s*(?:async\s+)?for\b|.*\bfor\b[^:]*$")
_F_STRING = re.compile(r"(?<![A-Za-z0-9_])(?:[fF][rR]?|[rR][fF])(?:\"\"\"|'''|[\"'])")
_INTERPOLATED = {"javascript": "${", "typescript": "${", "tsx": "${", "ruby": "#{", "kotlin": "${"}


@dataclass(frozen=True)
class HoleLine:
    """What stands before a hole within a line and what stands behind it.

    Attributes:
        tail: what stands before the hole in its line.
        rest: what stands behind it, not blank, without blanks at its end.
        before: what is open at the hole.
        line_start: offset of the line, as the offsets of the openers in `before` count.
        closers_below: the brackets that the lines below close beyond their own.
    """

    tail: str
    rest: str
    language: str
    before: Nesting
    line_start: int
    closers_below: tuple[str, ...]

    @cached_property
    def words(self) -> list[str]:
        """Those of the rest, marks too."""
        return TOKEN.findall(self.rest)

    @cached_property
    def within_word(self) -> bool:
        """Whether the hole may be in the middle of one."""
        return self.rest[0].isalnum() or self.rest[0] == "_"

    @cached_property
    def comes_once(self) -> bool:
        """Whether the rest begins with what a line, or a loop, has once."""
        first = self.words[0]
        if first == ";":
            return len(self.words) > 1
        return first in ONCE or (first == "in" and bool(_LOOP.match(self.tail)))

    @cached_property
    def begins_comment(self) -> bool:
        """Whether the rest is one."""
        marks = comment_marks(self.language)
        return bool(marks) and not self.before.inside and self.rest.lstrip().startswith(marks)

    @cached_property
    def interpolates(self) -> bool:
        """Whether the hole is in an expression within a string."""
        return self._expression is not None

    @cached_property
    def _expression(self) -> int | None:
        """Where in `tail` an expression within a string begins that the hole is in."""
        if not self.before.in_string:
            return None
        opener = _INTERPOLATED.get(self.language, "")
        if self.language == "python":
            opener = "{" if _F_STRING.search(self.tail) else ""
        found = self.tail.rfind(opener) if opener else -1
        if found < 0:
            return None
        inner = self.tail[found + len(opener) :]
        doubled = self.language == "python" and self.tail[:found].endswith("{")
        if doubled or scan(inner, self.language).unmatched:
            return None
        return found + len(opener) if "}" in self.rest else None

    @cached_property
    def at(self) -> Nesting:
        """What is open at the hole; in an expression within a string, what is open of that."""
        start = self._expression
        if start is None:
            return self.before
        return scan(self.tail[start:], self.language, Nesting((("}", 0),)))

    def state(self, text: str) -> Nesting:
        """What is open behind a text in the hole."""
        return scan(text, self.language, self.at)

    @cached_property
    def rest_closes(self) -> bool:
        """Whether the rest closes what was opened before the hole in its line."""
        hole = self.at
        if self.interpolates:
            return True
        if hole.in_string:
            return hole.inside in self.rest and not scan(self.rest, self.language, hole).in_string
        opened, closed = self.opened, scan(self.rest, self.language).unmatched
        return bool(opened and closed) and opened[-1] == closed[0]

    @cached_property
    def closed_below(self) -> bool:
        """Whether lines below close what was opened before the hole in its line."""
        begins = self.rest.lstrip()[0] in CLOSING and not self.at.in_string
        return begins and bool(self.opened) and self.closers_below[:1] == (self.opened[-1],)

    @cached_property
    def opened(self) -> list[str]:
        """What was opened in the line before the hole."""
        return [closer for closer, place in self.at.stack if place >= self.line_start]

    @cached_property
    def opens_more(self) -> bool:
        """Whether the rest of the line closes what its start has opened and opens something."""
        state = scan(self.rest, self.language)
        return bool(state.stack) and len(state.unmatched) >= len(self.opened)

    def comments(self, text: str) -> Iterator[int]:
        """Where in a text a mark of a comment stands."""
        marks = comment_marks(self.language)
        for match in re.finditer("|".join(map(re.escape, marks)), text) if marks else ():
            yield match.start()


def same(state: Nesting, hole: Nesting) -> bool:
    """Whether just what was open at the hole is open."""
    return (state.closers, state.unmatched, state.inside) == (
        hole.closers, hole.unmatched, hole.inside,
    )  # fmt: skip


def within(state: Nesting, hole: Nesting) -> bool:
    """Whether all that was open at the hole is open, or the like is open again."""
    if hole.in_text and state.inside != hole.inside:
        return False
    return state.closers.startswith(hole.closers) and state.unmatched == hole.unmatched
