"""Where a completion at the cursor has said enough: at the end of the block that it is in.

Nobody asks ghost text for the next three functions. It goes on while lines stay as deep as the
first one, over `else` and its like, and over the bracket that closes the block.
"""

from __future__ import annotations

import re

_GOES_ON = re.compile(
    r"[)\]}]*\s*(?:else|elif|elseif|except|finally|catch|case|default|until)\b|[)\]}].*[{(\[:]\s*$"
)
_CLOSES = re.compile(r"[)\]}]|(?:end|fi|done|esac)\b")
_QUOTES = ('"""', "'''", "`")


def within_block(text: str, line: str, *, complete: bool) -> tuple[str, bool]:
    """The part of a completion that is in its block, and whether there is more.

    `line` is what stands before the cursor in its line. `complete` says that the last line of
    `text` will not grow.
    """
    lines = text.split("\n")
    depth = _indent(line) if line.strip() or lines[0].strip() else _first_indent(lines)
    if not lines[0].strip() and line.strip():
        depth = max(depth, _first_indent(lines))
    last = len(lines) if complete else len(lines) - 1
    for number in range(1, last):
        here = lines[number]
        if not here.strip() or _indent(here) >= depth or _in_text("\n".join(lines[:number])):
            continue
        words = here.strip()
        if _GOES_ON.match(words):
            continue
        end = number + 1 if _CLOSES.match(words) else number
        kept = "\n".join(lines[:end]).rstrip()
        return kept, bool("".join(lines[end:]).strip()) or end == number
    return text, False


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip())


def _first_indent(lines: list[str]) -> int:
    return next((_indent(line) for line in lines if line.strip()), 0)


def _in_text(before: str) -> bool:
    """Whether a string of several lines is open."""
    return any(before.count(quotes) % 2 for quotes in _QUOTES)
