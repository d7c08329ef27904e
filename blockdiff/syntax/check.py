"""Whether a filled hole parses.

A hole is judged by what it adds: faults that the document has without it, elsewhere, are not its
own. Where it cannot be told whose they are, the hole is not judged.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from blockdiff.syntax.grammars import NoGrammar, OutOfTime
from blockdiff.syntax.nesting import scan
from blockdiff.syntax.syntax_errors import SyntaxFault, construct, parses, syntax_faults
from blockdiff.types import SyntaxState


class _Unclear(Exception):
    """The document has faults, and nobody can tell whose they are."""


_MOST_TRIED = 100_000  # characters of a text that is parsed again with neutral fillings
_NOT_JUDGED = (NoGrammar, OutOfTime, _Unclear)


def check(document: str, start: int, end: int, language: str) -> SyntaxState:
    """Whether the text `document[start:end]`, freshly filled in, parses where it stands.

    OK: all of the document parses, or the construct around the hole does by itself, or every
    fault is there without the hole, elsewhere, and no bracket is open. BROKEN: the hole is part
    of a fault or the cause of one. SKIPPED: no grammar for this language is installed, the time
    limit was reached, or what stands around the hole does not parse without it either.
    """
    try:
        blamed = _blamed(document, start, end, language)
    except _NOT_JUDGED:
        return SyntaxState.SKIPPED
    return SyntaxState.BROKEN if blamed else SyntaxState.OK


def check_rewrite(original: str, document: str, start: int, end: int, language: str) -> SyntaxState:
    """The same where the text took the place of other text, and `original` is what stood before.

    Where that parsed as a whole there is nothing to excuse: any fault is the rewrite's. (Without
    the text both may be broken at the same place, as by a bracket that only one of them closes.)
    """
    replaced_end = max(start, len(original) - (len(document) - end))
    try:
        if not syntax_faults(original, language, start, replaced_end):
            faults = syntax_faults(document, language, start, end)
            return SyntaxState.BROKEN if faults else SyntaxState.OK
    except _NOT_JUDGED:
        return SyntaxState.SKIPPED
    return check(document, start, end, language)


@dataclass(frozen=True, slots=True)
class Faults:
    """What does not parse of a filled hole.

    Attributes:
        size: characters under the faults that the hole causes, anywhere, at least one for each; 0:
            `check` says OK or SKIPPED.
        spans: ranges of the document inside the hole that lie under them, in order. Where something
            is missing, the character before the gap stands for it; for a fault before the hole or
            behind it, the hole's first or last character. Empty if there are none, or no text.
    """

    size: int = 0
    spans: tuple[tuple[int, int], ...] = ()


def faults(document: str, start: int, end: int, language: str) -> Faults:
    """What does not parse of the text `document[start:end]`, freshly filled in."""
    try:
        blamed = _blamed(document, start, end, language)
    except _NOT_JUDGED:
        return Faults()
    merged: list[tuple[int, int]] = []
    for fault in sorted(blamed, key=lambda f: (f.start, f.end)):
        first = max(fault.start - (fault.start == fault.end), start)
        first, last = min(first, end - 1), max(min(fault.end, end), start + 1)
        if start == end:
            continue
        last = max(last, first + 1)
        if merged and first <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(last, merged[-1][1]))
        else:
            merged.append((first, last))
    return Faults(sum(max(f.end - f.start, 1) for f in blamed), tuple(merged))


def _blamed(document: str, start: int, end: int, language: str) -> list[SyntaxFault]:
    """Faults of `document` that the span is part of or has caused.

    Raises:
        NoGrammar, OutOfTime: nothing is known.
        _Unclear: what stands around the span does not parse without it either.
    """
    faults = syntax_faults(document, language, start, end)
    if not faults:
        return []
    first, last = construct(document, start, end, language)
    here = faults
    if (first, last) != (0, len(document)):
        found = syntax_faults(document[first:last], language, start - first, end - first)
        if not found:
            return []
        here = [fault.moved(first) for fault in found]
        if _mendable(document[first:last], start - first, end - first, language):
            return here
    if _mendable(document, start, end, language):
        return faults
    known = _Known(document, start, end, language)
    if blamed := [fault for fault in faults if not known(fault)]:
        return blamed
    says_something = bool(document[start:end].strip())
    if language != "python" and says_something and _sound(document, start, end, language):
        return []
    raise _Unclear


def _mendable(document: str, start: int, end: int, language: str) -> bool:
    """Whether another text in place of the span would make all of the document parse."""
    if len(document) > _MOST_TRIED:
        return False
    before, after = document[:start], document[end:]
    for text in fillers(before, after, language):
        filled = before + text + after
        if text != document[start:end] and parses(filled, language, start, start + len(text)):
            return True
    return False


class _Known:
    """Whether a fault has nothing to do with the span: it is there without it and its lines."""

    def __init__(self, document: str, start: int, end: int, language: str) -> None:
        self._line_start = document.rfind("\n", 0, start) + 1
        line_end = document.find("\n", end)
        line_end = len(document) if line_end < 0 else line_end
        # With the span alone taken out, its line may be broken for that very reason.
        self._without_span = _faults_without(document, start, end, language)
        self._without_lines = _faults_without(document, self._line_start, line_end, language)
        # A fault ends before the blanks in front of the hole that it is about.
        self._first = start - _run(document[self._line_start : start][::-1])
        self._last = end + _run(document[end:line_end])

    def __call__(self, fault: SyntaxFault) -> bool:
        if fault.encloses(self._first, self._last):
            # A macro, or a bracket left open far above, can wrap the rest of a file in one ERROR.
            return any(
                other.start < self._line_start and other.touches_fault(fault)
                for other in self._without_lines
            )
        if fault.touches(self._first, self._last):
            return False
        if not any(map(fault.touches_fault, self._without_span)):
            return False
        before_in_line = self._line_start <= fault.start and fault.end < self._first
        return before_in_line or any(map(fault.touches_fault, self._without_lines))


def _faults_without(document: str, start: int, end: int, language: str) -> list[SyntaxFault]:
    """Faults of the document without that span, at the offsets they would have with it."""

    def moved(offset: int) -> int:
        return offset if offset <= start else offset + end - start

    faults = syntax_faults(document[:start] + document[end:], language, start, start)
    return [SyntaxFault(moved(fault.start), moved(fault.end)) for fault in faults]


def _run(text: str) -> int:
    """How many blanks a text starts with."""
    return len(text) - len(text.lstrip(" \t"))


def _sound(document: str, start: int, end: int, language: str) -> bool:
    """Whether all that is opened in the construct around the span is closed, nothing else is."""
    state = scan(document[slice(*construct(document, start, end, language))], language)
    return not (state.stack or state.unmatched or state.in_text)


# Texts that say nothing, one of which parses in nearly every hole of a document that is sound.
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
