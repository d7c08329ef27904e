"""Where a draft leaves the function that its hole is in and begins something new.

Leaving a block is ordinary (`else:`, a statement after the loop); leaving the enclosing function is
what a model does that has run past the hole. It counts only where the text after the hole shows
that the function goes on, where the function is at the top level, or where nothing follows.
"""

from __future__ import annotations

import re
from functools import cached_property

from blockdiff.syntax.nesting import Nesting, scan
from blockdiff.syntax.whitespace import indent_width

_PYTHON_DEF = re.compile(r"[ \t]*(?:async[ \t]+)?def[ \t]")
_PYTHON_NEW = re.compile(r"[ \t]*(?:(?:async[ \t]+)?def[ \t]|class[ \t]|@\w)")
_COMMENT = re.compile(r"\s*(?:#|//|/\*|\*|--)")
_FUNCTION_WORD = re.compile(r"\b(?:function|func|fn)\b")
_ARROW = re.compile(r"=>\s*$")
_NO_FUNCTION = re.compile(
    r"^\s*#|\b(?:if|for|foreach|while|switch|match|catch|else|do|try|with|loop|select|unsafe|using"
    r"|synchronized|class|struct|interface|enum|namespace|impl|trait)\b"
)
_GOES_ON = re.compile(r"\s*(?:[)\]},;.]|(?:end|else|elseif|catch|finally|while|until)\b)")
_HEADER_LINES = 20
_SEARCHED_LINES = 5_000


class Construct:
    """The function around a hole.

    `prefix` and `suffix` have LF line endings; `before` is what is open at the hole. `suffix_owes`
    is how many closing brackets the suffix has beyond its own. `rest_of_line` says that the hole
    ends in the middle of a line.
    """

    def __init__(
        self,
        prefix: str,
        suffix: str,
        language: str,
        before: Nesting,
        suffix_owes: int,
        rest_of_line: bool,
    ) -> None:
        self._prefix, self._suffix, self._language = prefix, suffix, language
        self._tail = prefix[prefix.rfind("\n") + 1 :]
        self._before, self._suffix_owes, self._rest_of_line = before, suffix_owes, rest_of_line

    def left_at(self, raw: str, complete: bool) -> int | None:
        """Offset in `raw` from which on it is past the function, or None.

        `complete` says that the last line of `raw` will not grow.
        """
        if self._before.in_text:
            return None
        if self._language == "python":
            return self._left_by_indentation(raw, complete)
        return self._left_by_bracket(raw, complete)

    def _left_by_indentation(self, raw: str, complete: bool) -> int | None:
        if "\n" not in raw:
            return None
        state, offset = self._before, 0
        functions: list[int] | None = None
        above = 0  # where the comment lines right above the current line start
        lines = raw.split("\n")
        for number, line in enumerate(lines):
            whole = line if number else self._tail + line
            outside = False
            if functions is None:
                if whole.strip():
                    functions = self._functions_around(
                        indent_width(whole), bool(_PYTHON_DEF.match(self._tail))
                    )
            elif not state.stack and not state.inside:
                left = [indent for indent in functions if indent >= indent_width(line)]
                outside = bool(left)
                if outside and line.strip() and not _COMMENT.match(line):
                    grows = number == len(lines) - 1 and not complete
                    if grows and not _PYTHON_NEW.match(line):
                        return None
                    if self._goes_on_after(min(left)):
                        return above
            state = scan(line + "\n", self._language, state)
            offset += len(line) + 1
            if not (outside and _COMMENT.match(line)):
                above = offset
        return None

    def _functions_around(self, inner: int, is_function: bool) -> list[int]:
        """Columns before each `def` that a line at the hole, indented `inner`, is in or is."""
        found = [inner] if is_function else []
        end = len(self._prefix) - len(self._tail)
        for _ in range(_SEARCHED_LINES):
            if end <= 0 or inner == 0:
                break
            start = self._prefix.rfind("\n", 0, end - 1) + 1
            line, end = self._prefix[start : end - 1], start
            if not line.strip() or _COMMENT.match(line) or indent_width(line) >= inner:
                continue
            inner = indent_width(line)
            if _PYTHON_DEF.match(line):
                found.append(inner)
        return found

    def _goes_on_after(self, function: int) -> bool:
        """Whether the text after the hole is in that function still, or anyway not meant to follow
        another definition."""
        if self._rest_of_line or self._next_indent > function:
            return True
        return function == 0 or not self._suffix.strip()

    @cached_property
    def _next_indent(self) -> int:
        """Columns before the first line of the suffix; -1 at the end of the document."""
        start = len(self._suffix) - len(self._suffix.lstrip())
        first = self._suffix.rfind("\n", 0, start) + 1
        return indent_width(self._suffix[first : start + 1]) if self._suffix[start:] else -1

    def _left_by_bracket(self, raw: str, complete: bool) -> int | None:
        level = self._function_level
        if level is None or self._suffix_owes < len(self._before.stack):
            return None  # no function, or some bracket is for the draft to close
        state, offset, closed = self._before, 0, None
        lines = raw.split("\n")
        for number, line in enumerate(lines):
            if closed is not None and line.strip() and not state.in_text:
                if len(state.stack) > level:
                    closed = None
                elif number == len(lines) - 1 and not complete:
                    return None
                elif not _COMMENT.match(line) and not _GOES_ON.match(line):
                    return closed
            after = scan(line + "\n", self._language, state)
            if closed is None and len(after.stack) <= level:
                closed = offset + self._closing(line, state, level)
            state = after
            offset += len(line) + 1
        return None

    def _closing(self, line: str, state: Nesting, level: int) -> int:
        """Where in `line` the bracket of the function is closed."""
        for match in re.finditer(r"[)\]}]|\bend\b", line):
            if len(scan(line[: match.end()], self._language, state).stack) <= level:
                return match.start() if line[: match.start()].strip() else 0
        return len(line)

    @cached_property
    def _function_level(self) -> int | None:
        """Index in the stack of open brackets of the innermost one that opens a function."""
        for level in range(len(self._before.stack) - 1, -1, -1):
            closer, offset = self._before.stack[level]
            if closer == "end" and self._prefix.startswith("function", offset):
                return level
            if closer == "}" and self._opens_function(offset):
                return level
        return None

    def _opens_function(self, brace: int) -> bool:
        text = self._prefix[:brace].rstrip()
        start = len(text)
        for _ in range(_HEADER_LINES):
            start = text.rfind("\n", 0, max(0, start - 1)) + 1
            header = text[start:]
            if start == 0 or header.count("(") >= header.count(")"):
                break
        if _FUNCTION_WORD.search(header):
            return True
        if _ARROW.search(header):  # elsewhere an arm of a match
            return self._language in ("javascript", "typescript", "tsx")
        return ")" in header and not _NO_FUNCTION.search(header)
