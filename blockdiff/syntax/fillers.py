"""Texts that say nothing, one of which parses in nearly every hole of a document that is sound."""

from __future__ import annotations

import re
from collections.abc import Iterator

from blockdiff.syntax.nesting import scan

_TEXTS = {
    "python": ("", "None", "x", ": pass", "None: pass"),
    "lua": ("", "x", "x()", "= x"),
    "go": ("", "x", "x()", "= x", "x int"),
    "rust": ("", "x", "x;", "= x;"),
    "java": ("", "x", "x();", "= x;", "x,", "finally { }"),
    "javascript": ("", "x", "x;", "= x;", "x,", "finally { }"),
    "typescript": ("", "x", "x;", "= x;", "x,", "finally { }"),
    "tsx": ("", "x", "x;", "= x;", "x,", "finally { }"),
}
_OTHER_TEXTS = ("", "x", "x;", "= x;", "x,")
_TRY = re.compile(r"^([ \t]*)try\s*:", re.MULTILINE)


def fillers(before: str, after: str, language: str) -> Iterator[str]:
    """Texts for the hole between `before` and `after`, each with the brackets that are owed there.

    What one of them mends would be sound with a better text in the hole; what none mends may be.
    """
    owed, opened = _brackets(before, after, language)
    if _is_line(before, after):
        owed += "\n"
    for text in _TEXTS.get(language, _OTHER_TEXTS):
        yield opened + text + owed
    if owed.strip() and language not in ("python", "lua", "go"):
        yield owed + ";"
    if language == "python" and not owed.strip():
        yield from _statements(before, after)


def _brackets(before: str, after: str, language: str) -> tuple[str, str]:
    """Closers that the hole owes to what is open before it, openers to what is closed behind."""
    open_before = scan(before, language)
    if open_before.inside:
        return "", ""
    stack = [closer for closer, _ in open_before.stack]
    waiting = list(scan(after, language).unmatched)
    space = " " if language == "lua" else ""
    if len(stack) >= len(waiting):
        mine = stack[len(waiting) :]
        return "".join(space + closer + space for closer in reversed(mine)), ""
    opener = {")": "(", "]": "[", "}": "{", "end": " do "}
    return "", "".join(opener[closer] for closer in reversed(waiting[: len(waiting) - len(stack)]))


def _is_line(before: str, after: str) -> bool:
    """Whether the hole takes whole lines, the last line's end with it."""
    return not before[before.rfind("\n") + 1 :].strip() and not after.startswith(("\n", "\r"))


def _statements(before: str, after: str) -> Iterator[str]:
    """`pass` at the levels that a line may have here, and the end of a `try` that has none."""
    head = before[before.rfind("\n") + 1 :]
    if head.strip():
        return
    above = [line for line in before.splitlines() if line.strip()][-1:]
    level = re.match(r"[ \t]*", above[0]).group() if above else ""  # type: ignore[union-attr]
    inner = level + ("\t" if level.startswith("\t") else "    ")
    end = "\n" if _is_line(before, after) else ""
    for indentation in dict.fromkeys((inner, level)):
        text = indentation.removeprefix(head)
        yield text + "pass" + end
        if tries := _TRY.findall(before):
            yield f"{text}pass\n{tries[-1]}finally:\n{tries[-1]} pass{end}"
