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

from blockdiff.infill.prose import MARKUP
from blockdiff.infill.words import TELLING_TOKENS, TOKEN, agreeing, same_ends, telling
from blockdiff.syntax.grammars import LANGUAGES
from blockdiff.syntax.nesting import LINE_COMMENT, Nesting, comment_marks, scan
from blockdiff.syntax.whitespace import indent_width

_LOOKED_AT = 4_000  # characters of a draft: a rest of the line that comes later is none
_LATER_LINES = 3  # behind the end of the line: what they say of brackets counts
_CLOSING = frozenset(")]}>,;:.")
_RULES = frozenset("*-=#/_~+")  # drawn over the page
_ONCE = frozenset({"=", ":=", "=>", "->", "then", "as", "from", "of"})  # in a line
_STARTS_STATEMENT = re.compile(r"[\w\"'`@(\[{#/*~$\\-]")
_HEADER_END = re.compile(r"[)\]\s;]*(?::|\{|\b(?:then|do))$")  # a block follows
_BLOCK = re.compile(r"(?::|\{|\b(?:then|do))$")
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
        following: the next line of text; empty if there is none.
        unit: columns of one level of indentation.
        excess: how many brackets and strings of the document have no partner with a text in the
            hole; `missing_elsewhere` is what it says of the document without this line.
        mended: whether the document does not parse with the one text in the hole but the other.
        closed_below: the brackets that the lines below close beyond their own.
    """

    tail: str
    rest: str
    language: str
    before: Nesting
    line_start: int
    following: str
    unit: int
    excess: Callable[[str], int]
    missing_elsewhere: int
    mended: Callable[[str, str], bool]
    closed_below: tuple[str, ...]

    def met_at(self, raw: str, final: bool, ended: bool) -> int | None:
        """Offset in `raw` from which on it is no longer in the hole, or None.

        While not `final`, `raw` may grow: what it says so far has to be enough. `ended` says that
        the model ended it.
        """
        alone = bool(_STARTS_STATEMENT.match(self.rest.lstrip()))  # a line could begin with it
        behind = self._begins_comment and self.rest[0].isspace()
        if not self.tail.strip() and alone and not behind:
            return None  # whole statements come before that one
        begins_line = alone and not self.rest[0].isspace() and not self._at.in_string
        torn = raw.endswith("\n") and not begins_line
        found = self._meeting(_Draft(raw[:_LOOKED_AT], final, ended and not torn))
        if found is None:
            return None
        keep = raw[:found]
        if self.rest[0].isspace() or (self.rest[0] in _CLOSING and not self._at.in_string):
            keep = keep.rstrip(" \t")
        return len(keep)

    def end_at_limit(self, raw: str) -> int | None:
        """Where a draft ends that was cut off: where it closes the string of the hole, or with its
        first line."""
        hole = self._at
        if hole.in_string and self._rest_closes and not self._interpolates:
            for match in re.finditer(re.escape(hole.inside), raw):
                if self._state(raw[: match.end()]).inside != hole.inside:
                    return match.start()
        return self._end_of_first(raw)

    def _end_of_first(self, raw: str) -> int | None:
        """Where the first line of a draft ends whose further lines nothing says belong here."""
        end = raw.find("\n")
        if end < 0 or not raw[:end].strip() or not _same(self._state(raw[:end]), self._at):
            return None
        return end if self.excess(raw[:end]) <= self.excess(raw) else None

    def without_swallowing(self, text: str) -> str:
        """Without a line comment at the end, in which the rest of the line would be lost."""
        if self.rest.lstrip()[0] not in _CLOSING:
            return text
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
        ends = self._end_of_statement(draft), self._skipping(draft)
        statement = min((end for end in ends if end is not None), default=None)
        for at in self._candidates(raw):
            if statement is not None and at > statement:
                break
            state = self._state(raw[:at])
            if not _same(state, hole):
                left = self._left(draft, at, state)
                if left is not None:
                    return left
            elif raw[at] == "\n":
                if one_line and raw[:at].strip() and raw[at - 1] != "\\":
                    return at
            elif self._says_rest(draft, at):
                return at
        if statement is not None:
            return statement
        other = self._with_other_names(draft)
        if other is not None:
            return other
        left = self._left(draft, len(raw), self._state(raw))
        if left is None and (self._begins_comment or self.language not in LANGUAGES | MARKUP):
            return self._end_of_first(raw)
        return left

    def _candidates(self, raw: str) -> Iterator[int]:
        """Offsets where the rest could begin, a line ends or something is closed."""
        first = re.escape(self._words[0])
        if self._words[0][0].isalnum() and self.rest[0].isspace():
            first = rf"(?<!\w){first}"
        marks = map(re.escape, comment_marks(self.language) if self._begins_comment else ())
        for match in re.finditer("|".join([first, *marks, r"\n|[)\]}\"'`]|\bend\b"]), raw):
            at = match.start()
            if not (at and raw[at] == raw[at - 1] and raw[at] in _RULES):
                yield at

    def _says_rest(self, draft: _Draft, at: int) -> bool:
        """Whether the draft goes on at `at` as the line does."""
        raw, words = draft.text, self._words
        count, end = agreeing(raw, at, words)
        marks = comment_marks(self.language)
        blank = not raw[:at].strip()
        if self._begins_comment and not self._at.in_text and raw.startswith(marks, at):
            return not blank
        quote = self._at.inside if self._at.in_string else ""
        if quote and self.rest.startswith(quote) and not raw.startswith(quote, at):
            return False
        said, whole = words[:count], count == len(words)
        if self._within_word and not (whole and telling(said)):
            return False
        if words[0] in _RULES and words[:2] == [words[0]] * 2 and count < len(words):
            return False
        if not count or (blank and not (whole and telling(said))):
            return False
        sure = telling(said) and (whole or "\n" not in raw[:at])
        if self._at.in_text and not self._at.in_string and not whole:
            sure = sure and len(said) >= 2 * TELLING_TOKENS
        if sure and (whole or draft.final or raw[end:].strip()):
            return self._agrees(draft, at, sure=True)
        line = raw[end:].split("\n", 1)[0].strip()
        ends_line = draft.ends_line(end) and (not line or (bool(marks) and line.startswith(marks)))
        if whole:
            return ends_line and self._agrees(draft, at, sure=False)
        if not draft.ends_line(end):
            return False
        if self._comes_once:
            twice = words[0] == "=" and raw[at + 1 : at + 2] in ("=", ">", "~")
            return not twice and self._agrees(draft, at, sure=False)
        doubled = not any(word[0].isalnum() for word in said) or said[0][0].isalpha()
        return ends_line and doubled and self._agrees(draft, at, sure=False)

    def _left(self, draft: _Draft, at: int, state: Nesting) -> int | None:
        """Where the draft closes what was open at the hole, once its line shows that it does."""
        hole, raw = self._at, draft.text
        known = draft.final and ("\n" not in raw or not draft.ended)
        if _within(state, hole) or not (self._rest_closes or known and self._closed_below):
            return None
        if not self._interpolates:
            if not draft.ends_line(at):
                return None
            if _within(self._state(raw[: draft.line_end(at)]), hole):
                return None  # it opens the same again
        quote = re.escape(hole.inside) + "|" if hole.in_string else ""
        for match in re.finditer(rf"{quote}[)\]}}\"'`\n]|\bend\b", raw):
            if not _within(self._state(raw[: match.end()]), hole):
                place = match.start()
                return place if self._agrees(draft, place, sure=False) else None
        return None

    def _end_of_statement(self, draft: _Draft) -> int | None:
        """Where the first line of the draft ends a statement that the rest of the line goes on
        with."""
        raw = draft.text
        end = draft.line_end(0) if draft.ends_line(0) else -1
        goes_on = self.rest.endswith(";") and not _STARTS_STATEMENT.match(self.rest.lstrip())
        if end < 0 or self._at.inside or not goes_on:
            return None
        line = raw[:end].rstrip()
        if not line.endswith(";") or not _same(self._state(line), self._at):
            return None
        colons = [at for at in self._candidates(line) if line[at] == ":"]
        fitting = (at for at in colons if _same(self._state(line[:at]), self._at))
        place = next(fitting, len(line) - 1)
        return place if self._agrees(draft, place, sure=False) else None

    def _skipping(self, draft: _Draft) -> int | None:
        """Where the first line of the draft goes on as this one ends, without what the rest of it
        begins with."""
        if self._at.in_text or not draft.ends_line(0):
            return None
        line = draft.text[: draft.line_end(0)]
        for at, place in same_ends(line, self.rest):
            if self._fits(line, at, place):
                return at if self._goes_past(draft, line, at) else None
        return None

    def _with_other_names(self, draft: _Draft) -> int | None:
        """Where the first line of a draft that never says the whole rest ends like it."""
        if self._at.in_text or not draft.final:
            return None
        line = draft.text[: draft.line_end(0)]
        like = (
            (at, place)
            for at, place in same_ends(line, self.rest, names=False)
            if not self.rest[:place].strip() or TOKEN.findall(self.rest, place)[0] in _ONCE
        )
        for at, place in (*same_ends(line, self.rest), *like):
            if self._fits(line, at, place):
                return at if self._better(draft, line[:at]) else None
        return self._header(draft, line)

    def _fits(self, line: str, at: int, place: int) -> bool:
        """Whether as much is open at an offset of a line, and of the rest, as at the hole."""
        if not line[:at].strip():
            return True
        skipped = scan(self.rest[:place], self.language, self._at)
        return _same(skipped, self._at) and _same(self._state(line[:at]), self._at)

    def _goes_past(self, draft: _Draft, line: str, at: int) -> bool:
        """Whether what the first line of a draft says from `at` on cannot be in the hole: the next
        line comes next, brackets do without, the statement ends, or it is a lot."""
        more, following = draft.text[len(line) + 1 :], self.following.strip()
        if more.split("\n", 1)[0].strip() == following and re.search(r"\w", following):
            return True
        if not draft.final or self.excess(line[:at]) < self.excess(draft.text):
            return draft.final
        if more.strip():
            return not draft.ended and len(TOKEN.findall(line[at:])) >= 2 * TELLING_TOKENS
        return line.rstrip().endswith(";") or bool(_HEADER_END.search(line.rstrip()))

    def _header(self, draft: _Draft, line: str) -> int | None:
        """Where a first line ends that opens the block that the rest of the line does."""
        mark = _BLOCK.search(self.rest)
        if mark is None or not line.rstrip().endswith(mark.group()):
            return None
        keep = line.rstrip().removesuffix(mark.group()).rstrip(" \t;")
        more = draft.text[len(line) + 1 :].lstrip("\n")
        block = mark.group() != "{" and not draft.ended
        block = block and indent_width(more) > indent_width(self.tail)
        if not _same(self._state(keep), self._at):
            return None
        return len(keep) if not more.strip() or block or self._better(draft, keep) else None

    def _better(self, draft: _Draft, keep: str) -> bool:
        """Whether brackets or the grammar do with a part of the draft, but not with all of it."""
        return self.excess(keep) < self.excess(draft.text) or self.mended(draft.text, keep)

    def _agrees(self, draft: _Draft, at: int, *, sure: bool) -> bool:
        """Whether the document has room for an end there.

        Unless that is `sure`, a draft of several lines that its model ended is right where it fits
        as a whole.
        """
        raw, missing = draft.text, self.excess(draft.text[:at])
        fits = sure or missing <= self.missing_elsewhere or self._opens_more
        if missing and draft.final and draft.ended and self.excess(raw) < missing:
            return False
        deeper = indent_width(self.following) - indent_width(self.tail)
        if _HEADER_END.match(self.rest) and deeper > 0:
            return fits and deeper <= max(self.unit, 1)
        several = "\n" in raw[at:].rstrip()
        if not sure and draft.final and draft.ended and several and self.excess(raw) <= missing:
            return False
        later = raw[at:].count("\n") >= _LATER_LINES
        return fits and (sure or draft.final or later)

    # --- what is open ----------------------------------------------------------------------------

    @cached_property
    def _words(self) -> list[str]:
        return TOKEN.findall(self.rest)

    @cached_property
    def _within_word(self) -> bool:
        return self.rest[0].isalnum() or self.rest[0] == "_"

    @cached_property
    def _comes_once(self) -> bool:
        """Whether the rest begins with what a line, or a loop, has once."""
        first = self._words[0]
        if first == ";":
            return len(self._words) > 1
        return first in _ONCE or (first == "in" and bool(_LOOP.match(self.tail)))

    @cached_property
    def _begins_comment(self) -> bool:
        marks = comment_marks(self.language)
        return bool(marks) and not self.before.inside and self.rest.lstrip().startswith(marks)

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
            return hole.inside in self.rest and not scan(self.rest, self.language, hole).in_string
        opened, closed = self._opened, scan(self.rest, self.language).unmatched
        return bool(opened and closed) and opened[-1] == closed[0]

    @cached_property
    def _closed_below(self) -> bool:
        """Whether lines below close what was opened before the hole in its line."""
        begins = self.rest.lstrip()[0] in _CLOSING and not self._at.in_string
        return begins and bool(self._opened) and self.closed_below[:1] == (self._opened[-1],)

    @cached_property
    def _opened(self) -> list[str]:
        """What was opened in the line before the hole."""
        return [closer for closer, place in self._at.stack if place >= self.line_start]

    @cached_property
    def _opens_more(self) -> bool:
        """Whether the rest of the line closes what its start has opened and opens something."""
        state = scan(self.rest, self.language)
        return bool(state.stack) and len(state.unmatched) >= len(self._opened)

    def _comments(self, text: str) -> Iterator[int]:
        marks = comment_marks(self.language)
        for match in re.finditer("|".join(map(re.escape, marks)), text) if marks else ():
            yield match.start()


def _same(state: Nesting, hole: Nesting) -> bool:
    return (state.closers, state.unmatched, state.inside) == (
        hole.closers, hole.unmatched, hole.inside,
    )  # fmt: skip


def _within(state: Nesting, hole: Nesting) -> bool:
    """Whether all that was open at the hole is open, or the like is open again."""
    if hole.in_text and state.inside != hole.inside:
        return False
    return state.closers.startswith(hole.closers) and state.unmatched == hole.unmatched
