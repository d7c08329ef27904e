"""What does not parse of a document, and the smallest changes that may mend it.

A missing bracket, quote, colon or semicolon and a keyword with a typo need no model: each change
that could mend the error nearest to the cursor is tried, the likeliest first, and one is a repair
only if the whole document parses better with it.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from itertools import accumulate, islice

from blockdiff.syntax.grammars import grammar_of
from blockdiff.syntax.nesting import Nesting, scan
from blockdiff.syntax.whitespace import indent_width, line_ending
from lsp_server.faults import DocumentFaults, Fault, faults, faults_with

_MOST_PARSED = 8_000_000  # bytes in search of one repair
_MOST_TRIED = 160
_MOST_BLOCK_LINES = 400  # behind the bracket that nothing closes
_MOST_WORDS = 24  # of a line
_OPENERS = {")": "(", "]": "[", "}": "{"}
_MAY_BE_MISSING = frozenset(")]};:,=\"'>") - {"}"}
_SINGLE = re.compile(r"(?<=\w):(?=\w)")
_BETWEEN = re.compile(r"\w [A-Za-z_&*\"\d]")
_WORD = re.compile(r"[^\W\d]\w+")
_PYTHON_HEAD = re.compile(
    r"\s*(?:(?:async\s+)?(?:def|for|with)|class|if|elif|else|while|try|except|finally|match|case)\b"
)
_PRINT = re.compile(r"[ \t]*(?:print|exec)( +)(?=[\w'\"])")
_CLOSES = re.compile(r"[)\]}]|end\b|else\b|elseif\b|until\b")
_COMMENT = re.compile(r"\s*(?:#|//|--|/\*).*$")
# Where nothing is open, what a line may still lack at its end.
_ENDS = {"python": (":",), "lua": (" then", " do")}
_BRACES_END = (";", " {", "}", ",")
_TWICE = re.compile(r"([()\[\]{}:;,.=+*/<>!&|])[ \t]*\1")


@dataclass(frozen=True, slots=True)
class Replacement:
    """`text[start:end]` becomes `new`."""

    start: int
    end: int
    new: str

    def made_in(self, text: str) -> str:
        return text[: self.start] + self.new + text[self.end :]


def repaired(text: str, language: str, at: int) -> Replacement | None:
    """The first change that mends the error nearest to an offset; None if none does.

    A change that makes all parse is preferred. One that leaves other errors must have none itself,
    and where they are no fewer, a second such change has to mend them.
    """
    before = faults(text, language)
    if not before:
        return None
    partial = None
    for change, after in _tried(text, language, before, at):
        if not after:
            return change
        if partial is None and _is_better(text, change, before, after):
            partial = change, after
    if partial is None:
        return None
    change, after = partial
    if after.hidden or len(after.all) < len(before.all):
        return change
    made = change.made_in(text)
    second = _tried(made, language, after, after.all[0].start)
    return change if any(not rest for _, rest in second) else None


def _tried(
    text: str, language: str, before: DocumentFaults, at: int
) -> Iterator[tuple[Replacement, DocumentFaults]]:
    """Changes with what does not parse with them, as many as there is time for."""
    tried = set[Replacement]()
    most = min(_MOST_TRIED, max(8, _MOST_PARSED // (len(text) + 1)))
    for change in islice(_changes(text, language, before.nearest(at), at), most):
        if change in tried:
            continue
        tried.add(change)
        after = faults_with(change.made_in(text), language)
        if after is None:
            return  # out of time: it would be with every change
        yield change, after


def _is_better(
    text: str, change: Replacement, before: DocumentFaults, after: DocumentFaults
) -> bool:
    if after.hidden:
        return _is_another(text, change, before, after.all[0])
    return after.fewer_than(before) and _is_clean(change, after, text)


def mends(text: str, change: Replacement, before: DocumentFaults, language: str) -> bool:
    """Whether all parses with a change, or at least what it changes, and no less of the rest."""
    after = faults_with(change.made_in(text), language)
    if after is None:
        return False
    return not after or _is_better(text, change, before, after)


def _is_clean(change: Replacement, after: DocumentFaults, text: str) -> bool:
    """Whether no error is in the lines that were changed."""
    start = text.rfind("\n", 0, change.start) + 1
    end = change.start + len(change.new)
    stop = change.made_in(text).find("\n", end)
    return not any(f.start <= max(stop, end) and f.end >= start for f in after.all)


def _is_another(text: str, change: Replacement, before: DocumentFaults, first: Fault) -> bool:
    """Whether the first error that the grammar does not see comes after what was wrong before, and
    not in the lines that were changed or right below them."""
    end = change.start + len(change.new)
    moved = end - change.end
    last = max(end, *(fault.end + moved for fault in before.all))
    return change.made_in(text).count("\n", last, first.start) > 1


def _changes(text: str, language: str, fault: Fault, at: int) -> Iterator[Replacement]:
    """Changes that may mend an error, the likeliest first."""
    lines = list(dict.fromkeys(_suspects(text, language, fault, at)))
    for start, end in lines:
        yield from _respelled(text, language, start, end)
    for start, end in lines:
        yield from _closed(text, language, start, end)
    lacks = Replacement(fault.start, fault.start, fault.missing)
    ends_block = fault.missing in ("}", "end")
    if fault.missing in _MAY_BE_MISSING and not _splits_line(text, fault):
        yield lacks
    yield from _blocks_closed(text, language, fault)
    if ends_block:
        yield lacks
    for each in (_indented, _called, _ended, _once, _opened, _spelled, _doubled, _less):
        for start, end in lines:
            yield from each(text, language, start, end)


def _suspects(text: str, language: str, fault: Fault, at: int) -> Iterator[tuple[int, int]]:
    """Lines that may be to blame: the cursor's if the error is in it, then those of the error."""

    def line(offset: int) -> tuple[int, int]:
        start = text.rfind("\n", 0, offset) + 1
        end = text.find("\n", offset)
        return start, len(text) if end < 0 else end

    inside = text[fault.start : fault.end]
    begin = fault.start + len(inside) - len(inside.lstrip())
    if fault.start <= line(at)[1] and fault.end >= line(at)[0] and text[slice(*line(at))].strip():
        yield line(at)
    yield line(begin)
    if text[slice(*line(at))].strip():
        yield line(at)
    above = text[: line(begin)[0]].rstrip()
    if above:
        yield line(len(above))
    opened = scan(text[: fault.end], language).stack
    for _, offset in reversed(opened[-3:]):
        yield line(offset)
    yield line(fault.end)


def _closed(text: str, language: str, start: int, end: int) -> Iterator[Replacement]:
    """The brackets and quotes that a line opens are closed at its end, or before what ends it."""
    line = text[start:end]
    state = scan(line, language, Nesting())
    if state.inside == "\n":  # a comment
        line = _COMMENT.sub("", line)
        state = scan(line, language, Nesting())
    quote = state.inside if state.in_string and len(state.inside) == 1 else ""
    whole = line.rstrip()
    ends = [whole, whole.rstrip(":;,{").rstrip()]
    if whole.endswith(";"):  # within a macro of Rust it may stand before the bracket
        ends.reverse()
    for kept in ends if whole else ():
        owed = scan(kept + quote, language, Nesting()).stack
        if kept.endswith("{"):  # a block: its end stands on another line
            owed = owed[:-1]
        closers = "".join(closer for closer, _ in reversed(owed) if closer != "end")
        place = start + len(kept)
        if quote and not kept.endswith(quote):
            # a quote that lacks its partner may have been meant before the brackets
            bare = kept.rstrip(")]};,:")
            yield Replacement(start + len(bare), start + len(bare), quote)
        for count in range(len(closers), 0, -1):
            yield Replacement(place, place, quote + closers[:count])
        if quote:
            yield Replacement(place, place, quote)


def _blocks_closed(text: str, language: str, fault: Fault) -> Iterator[Replacement]:
    """A block that nothing closes is closed where its lines stop being deeper than its head."""
    if language == "python":
        return
    owed = scan(text, language).stack
    begin = text.rfind("\n", 0, owed[0][1] if owed else fault.start) + 1
    lines = text[begin:].split("\n")[:_MOST_BLOCK_LINES]
    ends = [begin + end for end in accumulate(len(line) + 1 for line in lines)]
    ending, found = line_ending(text, ""), []
    for number, line in enumerate(lines):
        opened = scan(line, language).stack
        if opened and (opened[-1][0] == "end" or line.rstrip().endswith("{")):
            last, closed = _block_end(lines, number)
            place = ends[last] - 1 - lines[last].endswith("\r")
            blanks = line[: len(line) - len(line.lstrip())]
            if last > number and not closed:
                found.append(Replacement(place, place, f"{ending}{blanks}{opened[-1][0]}"))
    yield from reversed(found[-4:])


def _block_end(lines: list[str], head: int) -> tuple[int, bool]:
    """Index of the last line that is deeper than a head, and whether it is closed behind that."""
    depth, last = indent_width(lines[head]), head
    for number in range(head + 1, len(lines)):
        line = lines[number]
        if not line.strip():
            continue
        if indent_width(line) <= depth:
            return last, indent_width(line) == depth and bool(_CLOSES.match(line.lstrip()))
        last = number
    return last, False


def _ended(text: str, language: str, start: int, end: int) -> Iterator[Replacement]:
    """What ends a statement or begins its block is put at the end of a line."""
    line = text[start:end]
    bare = _COMMENT.sub("", line) if not scan(line, language).in_string else line
    place = start + len(bare.rstrip())
    if not bare.strip():
        return
    endings: tuple[str, ...] = _ENDS.get(language, _BRACES_END)
    if language == "python" and not _PYTHON_HEAD.match(line):
        endings = ()
    for ending in endings:
        yield Replacement(place, place, ending)


def _indented(text: str, language: str, start: int, end: int) -> Iterator[Replacement]:
    """A line of Python takes a level that is open above it; a head gets a body."""
    line = text[start:end]
    if language != "python" or not line.strip():
        return
    blanks = len(line) - len(line.lstrip())
    above = [other for other in text[:start].splitlines() if other.strip()][-_MOST_BLOCK_LINES:]
    if not above:
        return
    levels = [other[: len(other) - len(other.lstrip())] for other in reversed(above)]
    inner = levels[0] + ("\t" if levels[0].startswith("\t") else " " * 4)
    head = _PYTHON_HEAD.match(above[-1]) and _COMMENT.sub("", above[-1]).rstrip().endswith(":")
    for level in dict.fromkeys((inner, *levels) if head else levels):
        if level != line[:blanks] and (head or level in levels[:1] or len(level) < blanks):
            yield Replacement(start, start + blanks, level)
    if head:
        place = len(text[:start].rstrip())
        yield Replacement(place, place, f"{line_ending(text[:place], text[place:])}{inner}pass")


def _called(text: str, language: str, start: int, end: int) -> Iterator[Replacement]:
    """A statement `print x` becomes a call."""
    match = _PRINT.match(text, start, end) if language == "python" else None
    if match is not None:
        yield Replacement(match.start(1), end, f"({text[match.end() : end].rstrip()})")


def _respelled(text: str, language: str, start: int, end: int) -> Iterator[Replacement]:
    """A word with the letters of a keyword, that is nowhere else, becomes one."""
    words = _keywords(language)
    for match in islice(_WORD.finditer(text, start, end), _MOST_WORDS):
        if match.group() in words or len(re.findall(rf"\b{match.group()}\b", text)) > 1:
            continue
        for word in words:
            if sorted(word) == sorted(match.group()):
                yield Replacement(match.start(), match.end(), word)


def _opened(text: str, language: str, start: int, end: int) -> Iterator[Replacement]:
    """A bracket that closes what was never opened gets its partner."""
    line = text[start:end]
    for closer in scan(line, language, Nesting()).unmatched[:1]:
        opener = _OPENERS.get(closer)
        if opener is None:
            continue
        place = line.find(closer)
        while place >= 0 and closer not in scan(line[: place + 1], language, Nesting()).unmatched:
            place = line.find(closer, place + 1)
        ends = [m.end() for m in islice(_WORD.finditer(line, 0, max(place, 0)), _MOST_WORDS)]
        spaced = [e for e in ends if line[e : e + 1] == " " and line[e + 1 : e + 2] not in "=:"]
        for at in dict.fromkeys((*spaced, place)):
            gap = at in spaced and line[:at].split()[-1] in _keywords(language)
            yield Replacement(start + at + gap, start + at + gap, opener)


def _doubled(text: str, language: str, start: int, end: int) -> Iterator[Replacement]:
    """A mark that lacks its twin gets it; between two words a colon may be missing."""
    for match in islice(_SINGLE.finditer(text, start, end), _MOST_WORDS):
        yield Replacement(match.end(), match.end(), match.group())
    for match in islice(_BETWEEN.finditer(text, start, end), _MOST_WORDS):
        yield Replacement(match.start() + 1, match.start() + 1, ":")


def _spelled(text: str, language: str, start: int, end: int) -> Iterator[Replacement]:
    """A word that is nearly a keyword becomes one."""
    words = _keywords(language)
    for match in islice(_WORD.finditer(text, start, end), _MOST_WORDS):
        if match.group() in words:
            continue
        for word in difflib.get_close_matches(match.group(), words, n=2, cutoff=0.7):
            yield Replacement(match.start(), match.end(), word)


def _once(text: str, language: str, start: int, end: int) -> Iterator[Replacement]:
    """A mark that stands there twice goes once."""
    for match in reversed(list(_TWICE.finditer(text, start, end))):
        yield Replacement(match.start() + 1, match.end(), "")


def _less(text: str, language: str, start: int, end: int) -> Iterator[Replacement]:
    """A mark that is one too many goes."""
    for i in reversed([i for i in range(start, end) if text[i] in ")]};,:"][-24:]):
        yield Replacement(i - 1 if text[i - 1 : i] == " " else i, i + 1, "")


def _splits_line(text: str, fault: Fault) -> bool:
    """Whether what is missing would stand between two words of a line."""
    rest = text[fault.start : text.find("\n", fault.start) % (len(text) + 1)]
    return fault.missing == ";" and bool(re.match(r"[ \t]*\w", rest))


@cache
def _keywords(language: str) -> tuple[str, ...]:
    """Words of a grammar."""
    known = grammar_of(language)
    if known is None:
        return ()
    names = {
        known.node_kind_for_id(i) or ""
        for i in range(known.node_kind_count)
        if not known.node_kind_is_named(i)
    }
    return tuple(sorted(name for name in names if re.fullmatch(r"[A-Za-z]{2,}", name)))
