"""Where the text of a hole within a line meets the rest of that line.

A model that fills `f(¦, 'x')` writes on: `a, 'x')`, and then further lines. The text ends at the
first point where as much is open as at the hole and from where on the draft says what stands behind
the hole, or where it closes what was opened before the hole and the rest closes too.

The words of the rest, three tokens of it, or the end of the draft's line right behind it are the
evidence; brackets and quotes of the document have to agree.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property

from blockdiff.grammars import LANGUAGES
from blockdiff.infill.nesting import LINE_COMMENT, Nesting, comment_marks, scan
from blockdiff.infill.prose import MARKUP
from blockdiff.infill.whitespace import indent_width

_TOKEN = re.compile(r"\w+|[^\w\s]")
_TELLING_TOKENS = 3
_LOOKED_AT = 4_000  # characters of a draft: a rest of the line that comes later is none
_LATER_LINES = 3  # behind the end of the line: what they say of brackets counts
_CLOSING = frozenset(")]}>,;:.")
_ONCE = frozenset({"=", ":=", "=>", "->", "then", "as", "from", "of"})  # in a line
_STARTS_STATEMENT = re.compile(r"[\w\"'`@(\[{#/*~$\\-]")
_LOOP = re.compile(r"\s*(?:async\s+)?for\b|.*\bfor\b[^:]*$")
_F_STRING = re.compile(r"(?<![A-Za-z0-9_])(?:[fF][rR]?|[rR][fF])(?:\"\"\"|'''|[\"'])")
_INTERPOLATED = {"javascript": "${", "typescript": "${", "tsx": "${", "ruby": "#{", "kotlin": "${"}


@dataclass(frozen=True, slots=True)
class _Draft:
    """What was written so far; `final`: it will not grow, `ended`: the model ended it."""

    text: str
    final: bool
    ended: bool

    def line_end(self, at: int) -> int:
        end = self.text.find("\n", at)
        return end if end >= 0 else len(self.text)

    def ends_line(self, at: int) -> bool:
        """Whether the line at `at` is complete."""
        return self.final or "\n" in self.text[at:]


@dataclass(frozen=True)
class RestOfLine:
    """The end of a line behind a hole in it.

    Attributes:
        tail: what stands before the hole in its line.
        rest: what stands behind it, not blank, without blanks at its end.
        before: what is open at the hole.
        line_start: offset of the line, as the offsets of the openers in `before` count.
        next_indent: columns before the next line of text; -1 if there is none.
        unit: columns of one level of indentation.
        excess: how many brackets and strings of the document have no partner with a text in the
            hole.
    """

    tail: str
    rest: str
    language: str
    before: Nesting
    line_start: int
    next_indent: int
    unit: int
    excess: Callable[[str], int]

    def met_at(self, raw: str, final: bool, ended: bool) -> int | None:
        """Offset in `raw` from which on it is no longer in the hole, or None.

        While not `final`, `raw` may grow: what it says so far has to be enough. `ended` says that
        the model ended it.
        """
        if not self.tail.strip() and _STARTS_STATEMENT.match(self.rest.lstrip()):
            return None  # whole statements come before that one
        found = self._meeting(_Draft(raw[:_LOOKED_AT], final, ended))
        if found is None:
            return None
        keep = raw[:found]
        if self.rest[0].isspace() or (self.rest[0] in _CLOSING and not self._at.in_string):
            keep = keep.rstrip(" \t")
        return len(keep)

    def without_swallowing(self, text: str) -> str:
        """Without a line comment at the end, in which the rest of the line would be lost."""
        if self.before.inside == LINE_COMMENT or self._state(text).inside != LINE_COMMENT:
            return text
        start = text.rfind("\n") + 1
        for mark in self._comments(text):
            if mark >= start and self._state(text[: mark + 1]).inside == LINE_COMMENT:
                return text[:mark].rstrip()
            if mark >= start and not self._state(text[:mark]).inside:
                return text[:mark].rstrip()
        return text

    # --- where it may end ------------------------------------------------------------------------

    def _meeting(self, draft: _Draft) -> int | None:
        raw, hole = draft.text, self._at
        one_line = hole.in_string and hole.inside in ("'", '"')
        statement = self._end_of_statement(draft)
        for at in self._candidates(raw):
            if statement is not None and at > statement:
                break
            state = self._state(raw[:at])
            if not _same(state, hole):
                left = self._left(draft, at, state)
                if left is not None:
                    return left
            elif raw[at] == "\n":
                if one_line and raw[at - 1 : at] != "\\":
                    return at
            elif self._says_rest(draft, at):
                return at
        if statement is not None:
            return statement
        left = self._left(draft, len(raw), self._state(raw))
        return self._end_of_first_line(draft) if left is None else left

    def _candidates(self, raw: str) -> Iterator[int]:
        """Offsets where the rest could begin, a line ends or something is closed."""
        first = re.escape(self._words[0])
        if self._words[0][0].isalnum() and self.rest[0].isspace():
            first = rf"(?<!\w){first}"
        marks = map(re.escape, comment_marks(self.language) if self._begins_comment else ())
        for match in re.finditer("|".join([first, *marks, r"\n|[)\]}\"'`]|\bend\b"]), raw):
            yield match.start()

    def _says_rest(self, draft: _Draft, at: int) -> bool:
        """Whether the draft goes on at `at` as the line does."""
        raw, words = draft.text, self._words
        count, end = _agreeing(raw, at, words)
        marks = comment_marks(self.language)
        blank = not raw[:at].strip()
        if self._begins_comment and not self._at.in_text and raw.startswith(marks, at):
            return not blank
        said, whole = words[:count], count == len(words)
        if not count or (blank and not (whole and _telling(said))):
            return False
        if _telling(said) and (whole or draft.final or raw[end:].strip()):
            return self._agrees(draft, at, sure=True)
        line = raw[end:].split("\n", 1)[0].strip()
        ends_line = draft.ends_line(end) and (not line or (bool(marks) and line.startswith(marks)))
        if whole:
            return ends_line and self._agrees(draft, at, sure=False)
        if not draft.ends_line(end):
            return False
        if words[0] in _ONCE or words[:1] == [";"] != words or (words[0] == "in" and _LOOP.match(self.tail)):
            twice = words[0] == "=" and raw[at + 1 : at + 2] in ("=", ">", "~")
            return not twice and self._agrees(draft, at, sure=True)
        doubled = not any(word[0].isalnum() for word in said) or said[0][0].isalpha()
        return ends_line and doubled and self._agrees(draft, at, sure=False)

    def _left(self, draft: _Draft, at: int, state: Nesting) -> int | None:
        """Where the draft closes what was open at the hole, once its line shows that it does."""
        hole, raw = self._at, draft.text
        if _within(state, hole) or not self._rest_closes:
            return None
        if not self._interpolates:
            if not draft.ends_line(at):
                return None
            if _within(self._state(raw[: draft.line_end(at)]), hole):
                return None  # it opens the same again
        for match in re.finditer(r"[)\]}\"'`\n]|\bend\b", raw):
            if not _within(self._state(raw[: match.end()]), hole):
                place = match.start()
                return place if self._agrees(draft, place, sure=False) else None
        return None

    def _end_of_statement(self, draft: _Draft) -> int | None:
        """Where the first line of the draft ends a statement that the rest of the line goes on
        with."""
        raw = draft.text
        end = raw.find("\n")
        if end < 0 or self._at.inside or not self.rest.rstrip().endswith(";"):
            return None
        line = raw[:end].rstrip()
        if not line.endswith(";") or not _same(self._state(line), self._at):
            return None
        colon = next((at for at in self._candidates(line)
                      if line[at] == ":" and _same(self._state(line[:at]), self._at)), None)  # fmt: skip
        place = len(line) - 1 if colon is None else colon
        return place if self._agrees(draft, place, sure=False) else None

    def _end_of_first_line(self, draft: _Draft) -> int | None:
        """Where the draft's first line ends, if what it says after that was cut off or is nothing
        that could stand before the rest of the line."""
        raw, hole = draft.text, self._at
        end = raw.find("\n")
        if end < 0 or not raw[:end].strip() or not _same(self._state(raw[:end]), hole):
            return None
        cut_off = draft.final and not draft.ended
        one_line = self._begins_comment or self.language not in LANGUAGES | MARKUP
        return end if (cut_off or one_line) and self._agrees(draft, end, sure=True) else None

    def _agrees(self, draft: _Draft, at: int, *, sure: bool) -> bool:
        """Whether the document has room for an end there.

        Unless that is `sure`, a draft of several lines that its model ended is right where it fits
        as a whole.
        """
        raw, keep = draft.text, draft.text[:at]
        if self.language == "python" and self.rest.strip() == ":" and not self._at.stack:
            deeper = self.next_indent - indent_width(self.tail)
            return 0 < deeper <= max(self.unit, 1) and not self.excess(keep)
        several = "\n" in raw[at:].rstrip()
        if not sure and draft.final and draft.ended and several and not self.excess(raw):
            return False
        later = raw[at:].count("\n") >= _LATER_LINES
        if not (sure or draft.final or later):
            return False
        missing = self.excess(keep)
        return not missing or ((draft.final or later) and missing <= self.excess(raw))

    # --- what is open ----------------------------------------------------------------------------

    @cached_property
    def _words(self) -> list[str]:
        return _TOKEN.findall(self.rest)

    @cached_property
    def _begins_comment(self) -> bool:
        marks = comment_marks(self.language)
        return bool(marks) and self.rest.lstrip().startswith(marks)

    @cached_property
    def _interpolates(self) -> bool:
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
    def _at(self) -> Nesting:
        """What is open at the hole; in an expression within a string, what is open of that."""
        start = self._expression
        if start is None:
            return self.before
        return scan(self.tail[start:], self.language, Nesting((("}", 0),)))

    def _state(self, text: str) -> Nesting:
        return scan(text, self.language, self._at)

    @cached_property
    def _rest_closes(self) -> bool:
        """Whether the rest closes what was opened before the hole in its line."""
        hole = self._at
        if self._interpolates:
            return True
        if hole.in_string:
            return hole.inside in self.rest
        opened = [closer for closer, place in hole.stack if place >= self.line_start]
        closed = scan(self.rest, self.language).unmatched
        return bool(opened and closed) and opened[-1] == closed[0]

    def _comments(self, text: str) -> Iterator[int]:
        marks = comment_marks(self.language)
        for match in re.finditer("|".join(map(re.escape, marks)), text) if marks else ():
            yield match.start()


def _same(state: Nesting, hole: Nesting) -> bool:
    return (state.stack, state.unmatched, state.inside) == (
        hole.stack, hole.unmatched, hole.inside,
    )  # fmt: skip


def _within(state: Nesting, hole: Nesting) -> bool:
    """Whether nothing is closed that was open at the hole."""
    if hole.in_text and state.inside != hole.inside:
        return False
    depth = len(hole.stack)
    return state.stack[:depth] == hole.stack and state.unmatched == hole.unmatched


def _agreeing(raw: str, at: int, words: list[str]) -> tuple[int, int]:
    """How many of the words the draft says from an offset on, and where it has said them."""
    end = at
    for number, word in enumerate(words):
        match = _TOKEN.search(raw, end)
        between = raw[end : match.start()] if match else ""
        if match is None or "\n" in between:
            return number, end
        said = match.group()
        if number == 0 and said != word:  # the rest may begin within a word
            said = raw[at : at + len(word)]
        if said != word:
            return number, end
        end = max(match.end(), at + len(word)) if number == 0 else match.end()
    return len(words), end


def _telling(words: list[str]) -> bool:
    return len(words) >= _TELLING_TOKENS and any(word[0].isalpha() for word in words)
