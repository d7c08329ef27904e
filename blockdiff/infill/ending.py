"""Where a draft has said what it was asked for: its extent, and the end of a construct.

Nobody who asks for a function wants three more, and calls of it with their output beside them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from blockdiff.infill.block import within_block
from blockdiff.infill.prose import MARKUP, invents_output
from blockdiff.syntax.grammars import LANGUAGES
from blockdiff.syntax.nesting import LINE_COMMENT, Nesting, comment_marks, scan
from blockdiff.syntax.whitespace import indent_width
from blockdiff.types import Extent

_GOES_ON = re.compile(
    r"\s*(?:[)\]}]|\.\w|(?:else|elif|elseif|except|finally|catch|case|default|until|end|fi|done|esac"
    r"|then|do|while)\b)"
)
_NOT_LESS_DEEP = re.compile(r"#\s*(?:if|else|elif|endif|define|undef|pragma|error)|\w+:\s*$|case\b")
OPENS_BLOCK = re.compile(r".*(?:[:{(\[]|\b(?:then|do|begin))\s*$")
_CLOSES = re.compile(r"\s*(?:[)\]}]+[;,)]*|(?:end|fi|done|esac)\b.*|</\w.*)\s*$")
_LAST_CLAUSE = re.compile(r"\s*\}?\s*(?:else\b(?!\s*if\b)|finally\b)")
CLAUSE = re.compile(
    r"\s*\}?\s*(?:else|elif|elseif|elsif|except|catch|rescue|finally|case|default|when)\b"
)
_OPENERS = frozenset({"{", "then", "do", "where"})  # often in a line of their own
_IMPORT = re.compile(r"(?:import|from|use|using|package|require|#include|#!)\b|#include|#!")


@dataclass(frozen=True)
class Ending:
    """How far the text of a hole may go.

    Attributes:
        tail: what stands before the hole in its line.
        before: what is open at the hole.
        last: whether nothing but blanks follows the line of the hole in a document that has text.
        following: the first line behind the hole that has text, from the hole on.
        next_line: the line behind that of the hole, if the hole is at the end of its own.
    """

    extent: Extent
    language: str
    tail: str
    before: Nesting
    last: bool
    following: str
    next_line: str

    def left_at(self, raw: str, final: bool) -> int | None:
        """Offset in `raw` from which on it is past the extent, or None.

        `final` says that its last line will not grow.
        """
        found = [
            self._by_extent(raw, final),
            self._at_delimiter(raw),
            self._at_construct(raw, final),
            self._at_closer(raw, final),
            self._at_clause(raw, final),
            self._at_opener(raw, final),
        ]
        return min((place for place in found if place is not None), default=None)

    # --- extents ---------------------------------------------------------------------------------

    def _by_extent(self, raw: str, final: bool) -> int | None:
        if self.extent is Extent.LINE:
            end = raw.find("\n")
            return end if end >= 0 else None
        if self.extent is Extent.BLOCK:
            kept, more = within_block(raw, self.tail, complete=final)
            return len(kept) if more else None
        return self._body(raw, final) if self.extent is Extent.BODY else None

    def _body(self, raw: str, final: bool) -> int | None:
        """Where the body ends that the draft is: at a line less deep than its first, or at the
        bracket that closes what the body is in."""
        lines = raw.split("\n")
        depth, state, at, above = -1, self.before, 0, -1
        for number, line in enumerate(lines):
            whole = line if number else self.tail + line
            complete = final or number < len(lines) - 1
            plain = not state.in_text and state.closers == self.before.closers
            if depth >= 0 and plain and line.strip() and complete:
                shallow = indent_width(line) < depth and not _NOT_LESS_DEEP.match(line.strip())
                comment = line.strip().startswith(comment_marks(self.language) or "\0")
                above = (at if above < 0 else above) if shallow else -1
                if shallow and not comment:
                    return above  # with the comments on what comes next
            if depth < 0 and whole.strip():
                depth = indent_width(whole)
                if number == 0 and OPENS_BLOCK.match(self.tail):  # it begins behind a header
                    depth = indent_width(self.tail) + 1
            after = scan(line + "\n", self.language, state)
            if not _within(after, self.before):
                return at + self._closing(line, state)
            state, at = after, at + len(line) + 1
        return above if final and above >= 0 else None

    def _closing(self, line: str, state: Nesting) -> int:
        """Where in a line a bracket is closed that was open at the hole; 0 if at its start."""
        for match in re.finditer(r"[)\]}]|\b(?:end|until)\b", line):
            if not _within(scan(line[: match.end()], self.language, state), self.before):
                return match.start() if line[: match.start()].strip() else 0
        return len(line)

    # --- the string or comment at the hole -------------------------------------------------------

    def _at_delimiter(self, raw: str) -> int | None:
        """Where the draft closes the string or comment that is open at the hole, if the document
        closes it right behind the hole or nothing else was asked for."""
        inside = self.before.inside
        if inside == LINE_COMMENT:
            about_next = self.extent is Extent.BLOCK and bool(self.next_line)
            about_next = about_next and indent_width(self.next_line) >= indent_width(self.tail)
            ends = about_next or self.extent is Extent.DELIMITER
            return self.end_of_comment(raw) if ends else None
        if not inside:
            return None
        asked = self.extent is Extent.DELIMITER
        if not asked and not (self.following.lstrip().startswith(inside) and len(inside) > 1):
            return None
        place = raw.find(inside)
        while place >= 0:
            if not scan(raw[: place + len(inside)], self.language, self.before).inside:
                return place
            place = raw.find(inside, place + 1)
        end = raw.find("\n")
        return end if end >= 0 and inside in ("'", '"') else None

    def end_of_comment(self, raw: str) -> int | None:
        """Where lines end that begin with the mark of a line comment."""
        marks = comment_marks(self.language)
        at = raw.find("\n")
        while at >= 0:
            end = raw.find("\n", at + 1)
            line = raw[at + 1 : end if end >= 0 else len(raw)]
            begun = line.strip() and any(mark.startswith(line.strip()) for mark in marks)
            if not line.strip().startswith(marks) and not (begun and end < 0):
                return at if line.strip() or end >= 0 else None
            at = end
        return None

    # --- the end of a construct ------------------------------------------------------------------

    def _at_construct(self, raw: str, final: bool) -> int | None:
        """Where the construct ends that the draft goes on with or begins, if nothing follows."""
        ends = self.last or (self.extent is Extent.BLOCK and not self.tail[:1].isspace())
        if not ends or self.before.in_text or self.language in MARKUP:
            return None
        found = self._in_brackets(raw, final) if self.before.stack else self._paragraph(raw, final)
        if found is None and self.last and not self.tail.startswith((" ", "\t")):
            return invents_output(raw, self.language, self.before)
        return found

    def _in_brackets(self, raw: str, final: bool) -> int | None:
        """Behind the line that closes the last bracket that was open, and what is indented below
        it."""
        state, at, closed = self.before, 0, None
        lines = raw.split("\n")
        for number, line in enumerate(lines):
            complete = final or number < len(lines) - 1
            if closed is not None and line.strip() and not state.in_text and not state.stack:
                deeper = indent_width(line) > indent_width(self.tail)
                if not deeper and not _GOES_ON.match(line):
                    return closed if complete else None
            state = scan(line + "\n", self.language, state)
            if not state.stack and not state.in_text and complete and line.strip():
                closed = at + len(line)
            at += len(line) + 1
        return None

    def _at_closer(self, raw: str, final: bool) -> int | None:
        """Before the line that closes the block of the hole behind it, in a language of which no
        more than that is known."""
        closer = self.following.rstrip()
        if self.language in LANGUAGES or not _CLOSES.match(closer) or self.before.in_text:
            return None
        depth, at = -1, 0
        lines = raw.split("\n")
        for number, line in enumerate(lines):
            whole = line if number else self.tail + line
            if depth < 0 and whole.strip():
                depth = indent_width(whole)
            elif depth > indent_width(closer) and line.rstrip() == closer:
                return at if final or number < len(lines) - 1 else None
            at += len(line) + 1
        return None

    def _at_clause(self, raw: str, final: bool) -> int | None:
        """Before a clause that stands behind the hole, or one that none may follow."""
        depth = indent_width(self.following)
        if "\n" not in raw or self.before.in_text or not CLAUSE.match(self.following):
            return None
        if indent_width(self.tail) <= depth:
            return None
        closes = self.following.strip(" \t}").startswith("finally")
        state, at = self.before, 0
        lines = raw.split("\n")
        for number, line in enumerate(lines):
            if number and not state.in_text and indent_width(line) == depth:
                last = _LAST_CLAUSE.match(line)
                ends = bool(last) and (not closes or line.strip(" \t}").startswith("finally"))
                if ends or line.rstrip() == self.following:
                    return at if final or number < len(lines) - 1 else None
            state = scan(line + "\n", self.language, state)
            at += len(line) + 1
        return None

    def _at_opener(self, raw: str, final: bool) -> int | None:
        """Before what opens a block, where the next line of the document does that for the
        statement at the hole."""
        opener, outside = self.next_line.strip(), self.before.stack
        if opener not in _OPENERS or self.before.in_text:
            return None
        while outside and outside[-1][0] in (")", "]"):
            outside = outside[:-1]
        if not self.tail.strip() and outside == self.before.stack:
            return None
        at, lines = 0, raw.split("\n")
        for number, line in enumerate(lines):
            kept = line.rstrip().removesuffix(opener)
            whole = kept != line.rstrip() and not (opener.isalpha() and kept[-1:].isalnum())
            if whole and (final or number < len(lines) - 1):
                state = scan(raw[: at + len(kept)], self.language, self.before)
                if len(state.stack) == len(outside) and not state.inside:
                    return at + len(kept.rstrip(" \t;"))
            at += len(line) + 1
        return None

    def _paragraph(self, raw: str, final: bool) -> int | None:
        """Before the first line without indentation that is behind a block or a blank line, and
        behind more than comments and imports."""
        state, at, end = self.before, 0, 0
        code = leaves = False
        lines = raw.split("\n")
        for number, line in enumerate(lines):
            whole = line if number else self.tail + line
            plain = not state.stack and not state.in_text
            comment = whole.startswith(comment_marks(self.language) or "\0")
            if not whole.strip():
                leaves = leaves or code
            elif plain and not whole[0].isspace() and not _GOES_ON.match(whole):
                if code and leaves:
                    return end if final or number < len(lines) - 1 else None
                code = code or not (comment or _IMPORT.match(whole))
            elif whole[0].isspace() and plain:
                code = leaves = True
            state = scan(line + "\n", self.language, state)
            at += len(line) + 1
            if whole.strip() and not (comment and plain and leaves):
                end = at - 1
                leaves = leaves and whole[0].isspace()
        return None


def _within(state: Nesting, hole: Nesting) -> bool:
    return state.closers.startswith(hole.closers) and state.unmatched == hole.unmatched
