"""Where a draft only repeats itself.

A model that has lost the thread writes the same digit, the same columns or the same lines to the
limit. A run counts where it reaches the end of the draft: what goes on differently was meant.
"""

from __future__ import annotations

import re

_LONGEST_UNIT = 160  # characters of a repeated piece of a line
_MOST_LINES = 40  # of a repeated block
_CHARACTERS = 24  # the same letter or digit in a row
_WORD = re.compile(r"[^\W\d_]\w*|\d+")
_BETWEEN = ",;|&+ \t\n"  # one copy and the next
_ENTITY = re.compile(r"&#?\w+;$")
_LOOKED_AT = 4_000  # characters at the end


def repeats_from(raw: str, tail: str = "") -> int | None:
    """Offset in `raw` behind the first copy of what it repeats up to its end, or None.

    `tail` is what stands before the draft in its first line.
    """
    start = max(0, len(raw) - _LOOKED_AT)
    found = _character(raw, start)
    if found is None:
        found = _piece(raw, start)
    return _lines(raw, tail, start) if found is None else found


def _character(raw: str, start: int) -> int | None:
    """Letters and digits; of the others many a rule is drawn."""
    text = raw[start:]
    if not text or not text[-1].isalnum():
        return None
    run = len(text) - len(text.rstrip(text[-1]))
    return len(raw) - run + 1 if run >= _CHARACTERS else None


def _piece(raw: str, start: int) -> int | None:
    """A piece of the last line, with a word in it, over and over."""
    begin = max(start, raw.rfind("\n") + 1)
    line = raw[begin:]
    for size in range(2, min(_LONGEST_UNIT, len(line) // 3) + 1):
        if line[-size:] != line[-2 * size : -size]:
            continue
        end = len(line)
        while end - size > 0 and line[end - size - 1] == line[end - 1]:
            end -= 1
        run, words = len(line) - end + size, _WORD.findall(line[-size:])
        if not words or not any(word[0].isalpha() for word in words):
            needed = 12 if words else 80  # of rulers none is wider
        else:
            needed = 4 if len(set(words)) > 1 else 8
        if run >= needed * size:
            kept = line[: end]
            return begin + len(kept if _ENTITY.search(kept) else kept.rstrip(_BETWEEN))
    return None


def _lines(raw: str, tail: str, start: int) -> int | None:
    """The same line, or the same block of lines; blank lines do not count."""
    first = raw.rfind("\n", 0, start) + 1 if start else 0
    places, lines, at = [], [], first
    for piece in raw[first:].split("\n"):
        text = (tail if at == 0 else "") + piece
        if text.strip():
            places.append((at, at + len(piece)))
            lines.append(text.rstrip())
        at += len(piece) + 1
    if not raw.endswith("\n") and lines:  # it may still grow
        lines, places = lines[:-1], places[:-1]
    for size in range(1, min(_MOST_LINES, len(lines) // 2) + 1):
        if lines[-size:] != lines[-2 * size : -size]:
            continue
        end = len(lines)
        while end - size > 0 and lines[end - size - 1] == lines[end - 1]:
            end -= 1
        unit = lines[-size:]
        words = sum(len(set(_WORD.findall(line))) for line in unit)
        telling = sum(len(_WORD.findall(line)) > 1 for line in unit)
        copies = (len(lines) - end + size) / size
        if (telling >= 3 and copies >= 2) or (telling and words >= 3 and copies >= 3) or (
            telling and copies >= 4
        ):  # fmt: skip
            return places[end - 1][1]
    return None
