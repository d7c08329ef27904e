"""What a draft writes again of the lines that stand below the hole.

A model that has filled a hole goes on with the document as it stands: with the next line, or with
those after it, a line left out or changed. So lines count as a copy where several telling ones
follow each other as they do below, or where brackets or the grammar do without them.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile

from blockdiff.infill.ending import CLAUSE
from blockdiff.infill.filled import FilledDocument
from blockdiff.infill.words import alike
from blockdiff.syntax.whitespace import indent_width

_COMPARED_LINES = 64  # of the suffix; an overlap is never longer
_MOST_LEFT_OUT = 2  # lines of the suffix with which a copy does not begin
_TELLING_RUN = 3  # telling lines of the suffix in a row: the model is copying it
_WORD = re.compile(r"[^\W\d]\w*|\d+")
# Twice in a row, each of these is an error or dead code.
_NEVER_TWICE = re.compile(
    r"\W*(?:(?:else|try|finally|pass)\b\W*$|(?:return|raise|throw|break|continue)\b)"
)


@dataclass(frozen=True, slots=True)
class _Line:
    """A line that is not blank; `start` is its offset in the draft, negative where the line began
    before the hole."""

    start: int
    text: str


class Below:
    """The lines behind a hole, the rest of its own first.

    Attributes:
        following: those that have text, without blanks at their ends; `first` of them, or "".
        gap: blank lines before the first of them, the end of the hole's line included.
        next_line: the first of them, where it is right below a hole at the end of its line.
    """

    def __init__(self, filled: FilledDocument, tail: str, ends_line: bool) -> None:
        """`tail` is what stands before the hole in its line; `ends_line`: the hole ends where a
        line starts."""
        self._filled, self._tail, self._ends_line = filled, tail, ends_line
        suffix = filled.suffix
        head = suffix.lstrip()[: 400 * _COMPARED_LINES].split("\n")
        first = suffix[: len(suffix) - len(suffix.lstrip())]
        self.gap = first[: first.rfind("\n") + 1]
        head[0] = first[len(self.gap) :] + head[0]
        self.following = [line.rstrip() for line in head if line.strip()][:_COMPARED_LINES]
        self.first = self.following[0] if self.following else ""
        self.next_line = self.first if self.gap == "\n" and not ends_line else ""
        self._soon = frozenset(self.following[1 : 1 + _MOST_LEFT_OUT])
        self._all_following = suffix.count("\n") < _COMPARED_LINES

    def without_run(self, raw: str, final: bool) -> str:
        """Without a run of lines that are those after the hole: enough of them, or all."""
        lines = _lines(raw, self._tail, final)
        for i in range(len(lines)):
            start = self._meets(lines[i], raw, several=True)
            if start is None:
                continue
            run = 1
            while (
                run < len(self.following)
                and i + run < len(lines)
                and lines[i + run].text == self.following[run]
            ):
                run += 1
            same = self.following[:run]
            telling = sum(_telling(line) or bool(CLAUSE.match(line)) for line in same)
            whole = self._all_following and run == len(self.following)
            clause = run > 1 and any(map(CLAUSE.match, same))
            if telling >= (2 if whole or clause else _TELLING_RUN) or (clause and run > 2):
                return raw[:start]
            last = lines[i + run - 1]
            if final and telling and self._closes_twice(raw, start, last.start + len(last.text)):
                return raw[:start]
        return raw

    def without_repeat(self, raw: str, cut_off: bool) -> str:
        """Without an end that repeats how the suffix starts, the longest one there is evidence for:
        a telling line, or code that is better off without."""
        lines = _lines(raw, self._tail, True)
        for count in range(min(len(lines), len(self.following)), 0, -1):
            repeated = lines[-count:]
            partial = cut_off and repeated[-1].text != self.following[count - 1]
            start = self._meets(repeated[0], raw, count > 1, partial and count == 1)
            if start is None:
                continue
            same = [line.text for line in repeated[1:]]
            if partial and same:
                last = same.pop()
                if not self.following[count - 1].startswith(last):
                    continue
            if same != self.following[1 : 1 + len(same)]:
                continue
            keep, complete = raw[:start], [self.following[0], *same]
            if partial and count == 1:
                complete = [repeated[0].text]
            before, after = self._filled.excess(raw), self._filled.excess(keep)
            if after < before or (after == before and any(map(_telling, complete))):
                return keep
            if after == before and self._filled.mended(raw, keep):
                return keep
        return raw

    def without_later(self, raw: str, final: bool, cut_off: bool) -> str:
        """Without lines that stand below the next ones: a copy that leaves out where it starts."""
        lines = _lines(raw, self._tail, final)
        for i, line in enumerate(lines):
            if line.start < 0 or line.text not in self._soon:
                continue
            for left_out in range(1, 1 + _MOST_LEFT_OUT):
                same, run = self._run(lines[i:], left_out, cut_off)
                keep = raw[: self._begin(lines, i, left_out)]
                keep = keep if self._ends_line else keep.rstrip()
                copied = {one.text for one in lines[i : i + same] if _telling(one.text)}
                sure = len(copied) >= _TELLING_RUN and self._are_siblings(lines[:i], left_out)
                whole = not copied.isdisjoint(self.following)  # a line that is not cut off
                ends = final and whole and run > 1 and i + run == len(lines)
                if sure or (ends and self._does_without(raw, keep)):
                    return keep
        return raw

    def _run(self, lines: Sequence[_Line], left_out: int, cut_off: bool) -> tuple[int, int]:
        """How many lines are those below from a later one on; then with one that is changed."""
        pairs = [(line.text, o) for line, o in zip(lines, self.following[left_out:], strict=False)]
        same = [line == other for line, other in pairs]
        if cut_off and len(pairs) == len(lines):
            same[-1] = pairs[-1][1].startswith(pairs[-1][0])
        run = _leading(same)
        more = _leading(same[run + 1 :])
        return run, run + 1 + more if run and more and alike(*pairs[run]) else run

    def _begin(self, lines: Sequence[_Line], i: int, left_out: int) -> int:
        """Where a copy begins: with what begins as the lines left out, if that is before it."""
        before = lines[i - left_out : i] if i >= left_out else []
        pairs = zip([line.text for line in before], self.following, strict=False)
        changed = before and all(
            _telling(b) and _WORD.findall(a)[:3] == _WORD.findall(b)[:3] for a, b in pairs
        )
        return before[0].start if changed and before[0].start >= 0 else lines[i].start

    def _are_siblings(self, above: Sequence[_Line], left_out: int) -> bool:
        """Whether the lines left out tell something and are as deep as the next one, and the draft
        has nothing like them before its copy: then it would be a block much like the one below."""
        left = self.following[:left_out]
        if {indent_width(line) for line in left} != {indent_width(self.following[left_out])}:
            return False
        before = [line.text for line in above[-left_out:]]
        return all(map(_telling, left)) and not any(map(alike, before, left))

    def _does_without(self, raw: str, keep: str) -> bool:
        kept, excess = self._filled.excess(keep), self._filled.excess(raw)
        return kept < excess or (kept == excess and self._filled.mended(raw, keep))

    # --- where a copy starts -----------------------------------------------------------------

    def _meets(self, line: _Line, raw: str, several: bool, partial: bool = False) -> int | None:
        """Where in `raw` a repeat of the suffix starts, if `line` is its first line.

        One of `several` lines, or a line of which only a `partial` start is there.
        """
        if not self.following:
            return None
        first = self.first
        if self.gap:  # a line of its own
            same = first.startswith(line.text) if partial else first == line.text
            if not same or (line.start < 0 and self._tail.strip()):
                return None if partial else self._meets_behind(line, raw)
            keep = raw[: max(0, line.start)]
            return len(keep.removesuffix(self.gap) if keep.endswith(self.gap) else keep.rstrip())
        start = line.start + len(line.text) - len(first)
        if partial and self._ends_line:
            return line.start if line.start >= 0 and first.startswith(line.text) else None
        if partial or start < 0 or not line.text.endswith(first):
            return None
        keep = raw[:start]
        if self._ends_line and keep and not keep.endswith("\n"):
            return None
        if first[0].isspace() and keep != keep.rstrip(" \t") and not several:
            return None  # the same words, indented deeper: another line
        return start

    def _closes_twice(self, raw: str, start: int, end: int) -> bool:
        """Whether brackets do without what a draft says from `start` to `end` and from there on."""
        kept = self._filled.excess(raw[:start])
        return kept < self._filled.excess(raw) and kept < self._filled.excess(raw[:end])

    def _meets_behind(self, line: _Line, raw: str) -> int | None:
        """Where a line ends that goes on with what the document has in the next one: a brace."""
        words = self.next_line.strip()
        start = line.start + len(line.text) - len(words)
        if not words or not line.text.endswith(words) or self._filled.before.inside:
            return None
        if line.text.strip() == words:
            return None  # a line of its own
        if start <= 0 or (words[0].isalnum() and not raw[start - 1].isspace()):
            return None
        if line.start > 0 and indent_width(line.text) == indent_width(self.next_line):
            start = line.start if words[0].isalnum() else start  # the same, put differently
        return len(raw[:start].rstrip())


def _lines(raw: str, tail: str, final: bool) -> list[_Line]:
    """Lines of a draft that are not blank; the last one only if it is `final` or complete."""
    lines, start = [], 0
    pieces = raw.split("\n")
    for number, piece in enumerate(pieces):
        if number == len(pieces) - 1 and not final:
            break
        text = piece if number else tail + piece
        if text.strip():
            lines.append(_Line(start if number else -len(tail), text.rstrip()))
        start += len(piece) + 1
    return lines


def _leading(flags: Sequence[bool]) -> int:
    return sum(1 for _ in takewhile(bool, flags))


def _telling(line: str) -> bool:
    """Whether a line says enough that the same line right after it would be a surprise."""
    words = _WORD.findall(line)
    several = len(words) > 1 and any(not word[0].isdigit() for word in words)
    return several or bool(_NEVER_TWICE.match(line))
