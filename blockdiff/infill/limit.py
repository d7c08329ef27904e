"""What stays of a draft that its limit cut off, or that does not fit where it stands: whole lines.

Asked for the end of a line, a model writes the statement and then on, until the limit or until
what it wrote no longer fits what follows. Where the statement ends earlier, the text does. Any
other text that was cut off ends with the last line up to which the document parses.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from itertools import takewhile

from blockdiff.infill.ending import OPENS_BLOCK
from blockdiff.infill.prose import MARKUP
from blockdiff.syntax.grammars import LANGUAGES
from blockdiff.syntax.nesting import LINE_COMMENT, Nesting, comment_marks
from blockdiff.syntax.whitespace import indent_width
from blockdiff.types import SyntaxState

OK, SKIPPED, BROKEN = SyntaxState.OK, SyntaxState.SKIPPED, SyntaxState.BROKEN

_MOST_TRIED = 16  # lines at whose end the document is parsed
TERMINATORS = (";", ",", "{")


@dataclass(frozen=True)
class Limit:
    """A hole of whole lines, or one with nothing behind it in its line.

    Attributes:
        tail: what stands before the hole in its line.
        before: what is open at the hole.
        following: the next line of text; empty if there is none.
        parses: whether the document does with a text in the hole that ends its line.
        excess: how many brackets and strings of it have no partner then.
        end_of_comment: where in a draft the comment ends that is open at the hole, if it does.
    """

    language: str
    tail: str
    before: Nesting
    following: str
    parses: Callable[[str], SyntaxState]
    excess: Callable[[str], int]
    end_of_comment: Callable[[str], int | None]

    def end(self, draft: str, cut_off: bool) -> int:
        """Where a draft ends that was `cut_off`, or that its model ended."""
        begun = bool(self.tail.strip()) and bool(draft.split("\n", 1)[0].strip())
        begun = begun and self.language not in MARKUP
        if not cut_off:
            broken = begun and not self.before.in_text and self._parses(draft, BROKEN)
            return self._end_of_broken(draft) if broken else len(draft)
        ends = self._ends(draft)
        fewest = self._with_fewest_open(draft, ends)
        if self._in_comment and (comment := self.end_of_comment(draft)):
            return comment
        if begun and not self.before.inside:
            found = self._end_of_statement(draft, fewest, OK, SKIPPED)
        else:
            found = self._first(draft, self._last_first(draft, fewest), OK, SKIPPED)
        return found or (fewest[-1] if fewest else len(draft))

    def _end_of_broken(self, draft: str) -> int:
        """Where the line of the hole ends in a draft that does not parse, if it does up to there.

        In code brackets have to say so, too, and not be all that goes; Python has indentation.
        """
        found = None
        if self._in_comment:
            comment = self.end_of_comment(draft)
            found = self._first(draft, [comment] if comment else [], OK)
        else:
            ends, left = self._ends(draft), self.excess(draft)
            if self.language != "python":
                ends = [end for end in ends if re.search(r"\w", draft[end:])]
                ends = [end for end in ends if self.excess(draft[:end]) < left]
            found = self._end_of_statement(draft, ends, OK)
        text = draft.rstrip()
        if not found and text.endswith(TERMINATORS):  # the next line goes on with what it ends
            found = self._first(draft, [len(text) - 1], OK)
        return found or len(draft)

    def _end_of_statement(self, draft: str, ends: list[int], *fine: SyntaxState) -> int | None:
        """The first of the ends up to which the document parses, and what is indented below it,
        unless that stands behind the hole."""
        first, column = self._first(draft, ends, *fine), indent_width(self.tail)
        if first is None or indent_width(self.following) > column:
            return first
        below = ends[ends.index(first) + 1 :]
        deeper = list(takewhile(lambda end: indent_width(_line(draft, end)) > column, below))
        return self._first(draft, deeper[::-1], *fine) or first

    def _ends(self, draft: str) -> list[int]:
        """Where lines end that are not blank and not the last one, which may be incomplete; and
        where in a line the next one of the document begins."""
        found, at, next_one = [], 0, f" {self.following.strip()}"
        for line in draft.split("\n")[:-1]:
            at += len(line) + 1
            if line.rstrip().endswith(next_one) and line.rstrip() != next_one:
                found.append(at - len(line) - 1 + len(line.rstrip().removesuffix(next_one)))
            if line.strip():
                found.append(at - 1)
        return found

    def _last_first(self, draft: str, ends: list[int]) -> list[int]:
        """In this order, but behind all others those that lead on to what was cut off."""
        return sorted(ends, key=lambda end: (self._leads_on(_line(draft, end)), -end))

    def _leads_on(self, line: str) -> bool:
        """Whether a line is a comment or, where no grammar tells, opens a block."""
        if self.before.inside:
            return False
        opens = self.language not in LANGUAGES | MARKUP and bool(OPENS_BLOCK.match(line))
        return opens or line.lstrip().startswith(comment_marks(self.language) or "\0")

    def _with_fewest_open(self, draft: str, ends: list[int]) -> list[int]:
        left = {end: self.excess(draft[:end]) for end in ends}
        return [end for end in ends if left[end] == min(left.values())]

    def _first(self, draft: str, ends: list[int], *fine: SyntaxState) -> int | None:
        tried = (end for end in ends[:_MOST_TRIED] if self._parses(draft[:end], *fine))
        return next(tried, None)

    def _parses(self, text: str, *states: SyntaxState) -> bool:
        return self.parses(text) in states

    @property
    def _in_comment(self) -> bool:
        return self.before.inside == LINE_COMMENT


def _line(draft: str, end: int) -> str:
    """The line that ends there."""
    return draft[draft.rfind("\n", 0, end) + 1 : end]
