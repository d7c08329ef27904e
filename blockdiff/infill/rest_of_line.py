"""Where the text of a hole within a line meets the rest of that line.

A model that fills `f(¦, 'x')` writes on: `a, 'x')`, and then further lines. The text ends at the
first point where as much is open as at the hole and from where on the draft says what stands behind
the hole, or where it closes what was opened before the hole and the rest closes too.

The words of the rest, three tokens of it, or the end of the draft's line right behind it are the
evidence; brackets and quotes of the document have to agree.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from blockdiff.infill.filled import FilledDocument
from blockdiff.infill.hole_line import CLOSING, ONCE, HoleLine, same, within
from blockdiff.infill.prose import MARKUP
from blockdiff.infill.words import TELLING_TOKENS, TOKEN, agreeing, same_ends, telling
from blockdiff.syntax.grammars import LANGUAGES
from blockdiff.syntax.nesting import LINE_COMMENT, Nesting, comment_marks, scan
from blockdiff.syntax.whitespace import indent_width

_LOOKED_AT = 4_000  # characters of a draft: a rest of the line that comes later is none
_LATER_LINES = 3  # behind the end of the line: what they say of brackets counts
_RULES = frozenset("*-=#/_~+")  # drawn over the page
_STARTS_STATEMENT = re.compile(r"[\w\"'`@(\[{#/*~$\\-]")
_HEADER_END = re.compile(r"[)\]\s;]*(?::|\{|\b(?:then|do))$")  # a block follows
_BLOCK = re.compile(r"(?::|\{|\b(?:then|do))$")


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
        line: that of the hole.
        filled: the document with a text in the hole; `missing_elsewhere` is its excess of brackets
            and strings without this line.
        following: the next line of text; empty if there is none.
        unit: columns of one level of indentation.
    """

    line: HoleLine
    filled: FilledDocument
    missing_elsewhere: int
    following: str
    unit: int

    def met_at(self, raw: str, final: bool, ended: bool) -> int | None:
        """Offset in `raw` from which on it is no longer in the hole, or None.

        While not `final`, `raw` may grow: what it says so far has to be enough. `ended` says that
        the model ended it.
        """
        alone = bool(_STARTS_STATEMENT.match(self.line.rest.lstrip()))  # a line could begin with it
        behind = self.line.begins_comment and self.line.rest[0].isspace()
        if not self.line.tail.strip() and alone and not behind:
            return None  # whole statements come before that one
        begins_line = alone and not self.line.rest[0].isspace() and not self.line.at.in_string
        torn = raw.endswith("\n") and not begins_line
        found = self._meeting(_Draft(raw[:_LOOKED_AT], final, ended and not torn))
        if found is None:
            return None
        keep = raw[:found]
        first = self.line.rest[0]
        if first.isspace() or (first in CLOSING and not self.line.at.in_string):
            keep = keep.rstrip(" \t")
        return len(keep)

    def end_at_limit(self, raw: str) -> int | None:
        """Where a draft ends that was cut off: where it closes the string of the hole, or with its
        first line."""
        hole = self.line.at
        if hole.in_string and self.line.rest_closes and not self.line.interpolates:
            for match in re.finditer(re.escape(hole.inside), raw):
                if self.line.state(raw[: match.end()]).inside != hole.inside:
                    return match.start()
        return self._end_of_first(raw)

    def _end_of_first(self, raw: str) -> int | None:
        """Where the first line of a draft ends whose further lines nothing says belong here."""
        end = raw.find("\n")
        if end < 0 or not raw[:end].strip() or not same(self.line.state(raw[:end]), self.line.at):
            return None
        return end if self.filled.excess(raw[:end]) <= self.filled.excess(raw) else None

    def without_swallowing(self, text: str) -> str:
        """Without a line comment at the end, in which the rest of the line would be lost."""
        if self.line.rest.lstrip()[0] not in CLOSING:
            return text
        if self.line.before.inside == LINE_COMMENT or self.line.state(text).inside != LINE_COMMENT:
            return text
        start = text.rfind("\n") + 1
        for mark in self.line.comments(text):
            if mark >= start and self.line.state(text[: mark + 1]).inside == LINE_COMMENT:
                return text[:mark].rstrip()
            if mark >= start and not self.line.state(text[:mark]).inside:
                return text[:mark].rstrip()
        return text

    # --- where it may end ------------------------------------------------------------------------

    def _meeting(self, draft: _Draft) -> int | None:
        raw, hole = draft.text, self.line.at
        one_line = hole.in_string and hole.inside in ("'", '"')
        ends = self._end_of_statement(draft), self._skipping(draft)
        statement = min((end for end in ends if end is not None), default=None)
        for at in self._candidates(raw):
            if statement is not None and at > statement:
                break
            state = self.line.state(raw[:at])
            if not same(state, hole):
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
        left = self._left(draft, len(raw), self.line.state(raw))
        known = self.line.language in LANGUAGES | MARKUP
        if left is None and (self.line.begins_comment or not known):
            return self._end_of_first(raw)
        return left

    def _candidates(self, raw: str) -> Iterator[int]:
        """Offsets where the rest could begin, a line ends or something is closed."""
        first = re.escape(self.line.words[0])
        if self.line.words[0][0].isalnum() and self.line.rest[0].isspace():
            first = rf"(?<!\w){first}"
        marks = comment_marks(self.line.language) if self.line.begins_comment else ()
        found = [first, *map(re.escape, marks), r"\n|[)\]}\"'`]|\bend\b"]
        for match in re.finditer("|".join(found), raw):
            at = match.start()
            if not (at and raw[at] == raw[at - 1] and raw[at] in _RULES):
                yield at

    def _says_rest(self, draft: _Draft, at: int) -> bool:
        """Whether the draft goes on at `at` as the line does."""
        raw, words = draft.text, self.line.words
        count, end = agreeing(raw, at, words)
        marks = comment_marks(self.line.language)
        blank = not raw[:at].strip()
        if self.line.begins_comment and not self.line.at.in_text and raw.startswith(marks, at):
            return not blank
        quote = self.line.at.inside if self.line.at.in_string else ""
        if quote and self.line.rest.startswith(quote) and not raw.startswith(quote, at):
            return False
        said, whole = words[:count], count == len(words)
        if self.line.within_word and not (whole and telling(said)):
            return False
        if words[0] in _RULES and words[:2] == [words[0]] * 2 and count < len(words):
            return False
        if not count or (blank and not (whole and telling(said))):
            return False
        sure = telling(said) and (whole or "\n" not in raw[:at])
        if self.line.at.in_text and not self.line.at.in_string and not whole:
            sure = sure and len(said) >= 2 * TELLING_TOKENS
        if sure and (whole or draft.final or raw[end:].strip()):
            return self._agrees(draft, at, sure=True)
        line = raw[end:].split("\n", 1)[0].strip()
        ends_line = draft.ends_line(end) and (not line or (bool(marks) and line.startswith(marks)))
        if whole:
            return ends_line and self._agrees(draft, at, sure=False)
        if not draft.ends_line(end):
            return False
        if self.line.comes_once:
            twice = words[0] == "=" and raw[at + 1 : at + 2] in ("=", ">", "~")
            return not twice and self._agrees(draft, at, sure=False)
        doubled = not any(word[0].isalnum() for word in said) or said[0][0].isalpha()
        return ends_line and doubled and self._agrees(draft, at, sure=False)

    def _left(self, draft: _Draft, at: int, state: Nesting) -> int | None:
        """Where the draft closes what was open at the hole, once its line shows that it does."""
        hole, raw = self.line.at, draft.text
        known = draft.final and ("\n" not in raw or not draft.ended)
        if within(state, hole) or not (self.line.rest_closes or known and self.line.closed_below):
            return None
        if not self.line.interpolates:
            if not draft.ends_line(at):
                return None
            if within(self.line.state(raw[: draft.line_end(at)]), hole):
                return None  # it opens the same again
        quote = re.escape(hole.inside) + "|" if hole.in_string else ""
        for match in re.finditer(rf"{quote}[)\]}}\"'`\n]|\bend\b", raw):
            if not within(self.line.state(raw[: match.end()]), hole):
                place = match.start()
                return place if self._agrees(draft, place, sure=False) else None
        return None

    def _end_of_statement(self, draft: _Draft) -> int | None:
        """Where the first line of the draft ends a statement that the rest of the line goes on
        with."""
        raw = draft.text
        end = draft.line_end(0) if draft.ends_line(0) else -1
        rest = self.line.rest
        goes_on = rest.endswith(";") and not _STARTS_STATEMENT.match(rest.lstrip())
        if end < 0 or self.line.at.inside or not goes_on:
            return None
        line = raw[:end].rstrip()
        if not line.endswith(";") or not same(self.line.state(line), self.line.at):
            return None
        colons = [at for at in self._candidates(line) if line[at] == ":"]
        fitting = (at for at in colons if same(self.line.state(line[:at]), self.line.at))
        place = next(fitting, len(line) - 1)
        return place if self._agrees(draft, place, sure=False) else None

    def _skipping(self, draft: _Draft) -> int | None:
        """Where the first line of the draft goes on as this one ends, without what the rest of it
        begins with."""
        if self.line.at.in_text or not draft.ends_line(0):
            return None
        line = draft.text[: draft.line_end(0)]
        for at, place in same_ends(line, self.line.rest):
            if self._fits(line, at, place):
                return at if self._goes_past(draft, line, at) else None
        return None

    def _with_other_names(self, draft: _Draft) -> int | None:
        """Where the first line of a draft that never says the whole rest ends like it."""
        if self.line.at.in_text or not draft.final:
            return None
        line = draft.text[: draft.line_end(0)]
        like = (
            (at, place)
            for at, place in same_ends(line, self.line.rest, names=False)
            if not self.line.rest[:place].strip() or TOKEN.findall(self.line.rest, place)[0] in ONCE
        )
        for at, place in (*same_ends(line, self.line.rest), *like):
            if self._fits(line, at, place):
                return at if self._better(draft, line[:at]) else None
        return self._header(draft, line)

    def _fits(self, line: str, at: int, place: int) -> bool:
        """Whether as much is open at an offset of a line, and of the rest, as at the hole."""
        if not line[:at].strip():
            return True
        skipped = scan(self.line.rest[:place], self.line.language, self.line.at)
        return same(skipped, self.line.at) and same(self.line.state(line[:at]), self.line.at)

    def _goes_past(self, draft: _Draft, line: str, at: int) -> bool:
        """Whether what the first line of a draft says from `at` on cannot be in the hole: the next
        line comes next, brackets do without, the statement ends, or it is a lot."""
        more, following = draft.text[len(line) + 1 :], self.following.strip()
        if more.split("\n", 1)[0].strip() == following and re.search(r"\w", following):
            return True
        if not draft.final or self.filled.excess(line[:at]) < self.filled.excess(draft.text):
            return draft.final
        if more.strip():
            return not draft.ended and len(TOKEN.findall(line[at:])) >= 2 * TELLING_TOKENS
        return line.rstrip().endswith(";") or bool(_HEADER_END.search(line.rstrip()))

    def _header(self, draft: _Draft, line: str) -> int | None:
        """Where a first line ends that opens the block that the rest of the line does."""
        mark = _BLOCK.search(self.line.rest)
        if mark is None or not line.rstrip().endswith(mark.group()):
            return None
        keep = line.rstrip().removesuffix(mark.group()).rstrip(" \t;")
        more = draft.text[len(line) + 1 :].lstrip("\n")
        block = mark.group() != "{" and not draft.ended
        block = block and indent_width(more) > indent_width(self.line.tail)
        if not same(self.line.state(keep), self.line.at):
            return None
        return len(keep) if not more.strip() or block or self._better(draft, keep) else None

    def _better(self, draft: _Draft, keep: str) -> bool:
        """Whether brackets or the grammar do with a part of the draft, but not with all of it."""
        filled, raw = self.filled, draft.text
        return filled.excess(keep) < filled.excess(raw) or filled.mended(raw, keep)

    def _agrees(self, draft: _Draft, at: int, *, sure: bool) -> bool:
        """Whether the document has room for an end there.

        Unless that is `sure`, a draft of several lines that its model ended is right where it fits
        as a whole.
        """
        raw, excess = draft.text, self.filled.excess
        missing = excess(raw[:at])
        fits = sure or missing <= self.missing_elsewhere or self.line.opens_more
        if missing and draft.final and draft.ended and excess(raw) < missing:
            return False
        deeper = indent_width(self.following) - indent_width(self.line.tail)
        if _HEADER_END.match(self.line.rest) and deeper > 0:
            return fits and deeper <= max(self.unit, 1)
        several = "\n" in raw[at:].rstrip()
        if not sure and draft.final and draft.ended and several and excess(raw) <= missing:
            return False
        later = raw[at:].count("\n") >= _LATER_LINES
        return fits and (sure or draft.final or later)
