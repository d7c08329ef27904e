"""Line endings and indentation: the model writes LF and what it likes, the document has its own."""

from __future__ import annotations

import re

from blockdiff.syntax.nesting import Nesting, scan

BOM = "\ufeff"
_NEAR = 50_000  # characters on each side of the hole that show how the document is indented
_OPENS = re.compile(
    r"(?:[:{(\[]|=>|->|\b(?:then|do|else|begin|repeat)|\bfunction\b.*\)|^\s*(?:def|class|module)\b.*"
    r"|<[a-z][^/>]*>)\s*(?:(?:#|//|--).*)?$"
)
_LEADING = re.compile(r"^([ \t]+)(?=[^\s*])", re.MULTILINE)  # " * text" continues a comment


def to_lf(text: str) -> str:
    """CRLF and CR to LF."""
    return text.replace("\r\n", "\n").replace("\r", "\n")


def with_line_feeds(text: str) -> str:
    """A document whose lines end with CR alone with LF in its place: as long as it was."""
    return text.replace("\r", "\n") if "\n" not in text else text


def line_ending(prefix: str, suffix: str) -> str:
    """The line ending nearest to the hole; LF in a document of one line, CR in one that has no
    other."""
    before, after = prefix.rfind("\n"), suffix.find("\n")
    if before < 0 and after < 0:
        return "\r" if "\r" in prefix or "\r" in suffix else "\n"
    use_before = after < 0 or (before >= 0 and len(prefix) - before <= after + 1)
    crlf = prefix[before - 1 : before] == "\r" if use_before else suffix[after - 1 : after] == "\r"
    return "\r\n" if crlf else "\n"


def indentation_unit(prefix: str, suffix: str) -> str:
    """One level of indentation; empty where the document mixes tabs and spaces, or has none."""
    near = prefix[-_NEAR:].split("\n", 1)[-1] if len(prefix) > _NEAR else prefix
    leading = _LEADING.findall(near) + _LEADING.findall(suffix[suffix.find("\n") + 1 :][:_NEAR])
    if not leading or len({space[0] for space in leading}) > 1:
        return ""
    if leading[0][0] == "\t":
        return "\t"
    return " " * _unit(list(map(len, leading)))


def unit_at_cursor(tail: str, above: str) -> str:
    """One level of indentation as the blanks before the cursor show it; empty if they do not.

    `tail` is what stands before the cursor in its line, `above` the lines before it.
    """
    if not tail or tail.strip() or " \t" in tail:
        return ""
    if tail[0] == "\t":
        return "\t"
    known = next((line for line in reversed(above.split("\n")) if line.strip()), "")
    return tail if not indent_width(known) and _OPENS.search(known) else ""


def reindent(
    text: str,
    unit: str,
    language: str,
    before: Nesting,
    at_line_start: bool,
    *,
    rescale: bool = False,
) -> str:
    """Leading tabs of `text` as spaces or the reverse, as `unit` has it.

    With `rescale` also spaces as another number of them. Lines that begin inside a string are left
    alone, and so is the first line unless it `at_line_start`s with its own indentation. Text that
    already agrees, or whose spaces are no multiple of a plausible unit, comes back as it is.
    """
    wrong = " " if unit == "\t" or (rescale and "\t" not in text) else "\t"
    lines, state, starts = text.split("\n"), before, []
    for number, line in enumerate(lines):
        if (number or at_line_start) and line.startswith(wrong) and line.strip():
            starts.append((number, state.in_text))
        state = scan(line + "\n", language, state)
    code = [number for number, in_text in starts if not in_text]
    if not unit or not code:
        return text
    width = len(unit) if wrong == "\t" else _unit([_run(lines[n], " ") for n in code])
    for number in code:
        run = _run(lines[number], wrong)
        new = unit * run if wrong == "\t" else unit * (run // width if width else 0)
        if width:
            lines[number] = new + lines[number][run - (run % width if wrong == " " else 0) :]
    return "\n".join(lines)


def without_blanks_twice(text: str, tail: str, above: str, unit: str) -> str:
    """Without the blanks that a draft begins with where the cursor already stands behind as many
    as the line needs; lines that are deeper for that reason move along.

    `tail` is what stands before the cursor in its line, `above` the lines before it,
    `unit` one level of indentation, if that is known.
    """
    first = text.lstrip(" \t")
    extra = text[: len(text) - len(first)]
    if not extra or not tail or tail.strip() or first.startswith("\n") or not first:
        return text
    known = next((line for line in reversed(above.split("\n")) if line.strip()), "")
    level = len(unit.expandtabs(8)) if unit else min(2, len(tail))
    needed = indent_width(known) + (level if _OPENS.search(known) else 0)
    if indent_width(tail) < needed or not known or len(tail.expandtabs(8)) % len(unit or "  "):
        return text
    lines = first.split("\n")
    deep = tail + extra
    if all(line.startswith(deep) for line in lines[1:] if line.strip()):
        lines[1:] = [tail + line[len(deep) :] if line.strip() else line for line in lines[1:]]
    return "\n".join(lines)


def indent_width(line: str) -> int:
    """Columns before the first character, tabs to multiples of eight as Python counts them."""
    return len(line[: len(line) - len(line.lstrip(" \t"))].expandtabs(8))


def _run(line: str, character: str) -> int:
    return len(line) - len(line.lstrip(character))


def _unit(widths: list[int]) -> int:
    """Spaces per level, 0 where the widths count no levels.

    A fifth of the lines may be off: aligned with something, not indented. Eight are two levels.
    """
    units = (u for u in (4, 2, 3) if min(widths) % u == 0)
    return next((u for u in units if 5 * sum(w % u == 0 for w in widths) >= 4 * len(widths)), 0)
