"""What is wrong with a filled text at its seams: it repeats, it talks, it fences.

A judge of its own: what decides where a text ends (`infill/`) is not asked whether it ended well.
Each rule lets through what people write; `seam_holes` leaves out holes whose true text it blames.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Sequence

from blockdiff.syntax.check import check
from blockdiff.syntax.grammars import parsed
from blockdiff.types import SyntaxState

_TELLING = 4  # characters but blanks of a repeated piece of a line, a letter or digit among them
_TELLING_LINE = 6  # of a line
_TELLING_RUN = 16  # of several lines
_NEAR = 3  # lines behind the hole among which one that tells something follows directly
_COMPARED_LINES = 40  # behind the hole
_LOOP = re.compile(r"(?P<piece>.{1,120}?)(?P=piece){4,}", re.DOTALL)
_LOOPS = 32  # characters but blanks and rulers of what repeats
_RULER = re.compile(r"[\s\-=*#/_.~+]")
_PAIRS = {")": "(", "]": "[", "}": "{"}
_FENCE = re.compile(r"^\s*(?:```|~~~)", re.MULTILINE)
# Four words or more in which nothing but the punctuation of a sentence stands.
_SENTENCE = re.compile(r"[A-Z][\w'’]*(?:[,:;]? [\w'’`\"()/.-]+){3,}[.:!?]?")
_REMARK = ("#", "//", "/*", "*", "--", '"', "'", "`")


def repeats(written: str, before: str, after: str, language: str) -> str:
    """What of the text around a hole stands twice with `written` in it; empty: nothing.

    Of these, the first that holds:

    - `rest`: a line of it ends with the start of the rest of the hole's line, by at least four
      characters that are not blank, with a letter or digit among them, or by all of a rest that has
      one; or holds that rest, of six characters.
    - `closer`: it ends with the bracket, comma, colon or semicolon that follows, which has no
      partner in it; or it ends the string that goes on behind it; or it ends with a line like the
      one that follows, and parses only without.
    - `below`: one of its lines is that which follows, indented alike, by six characters; or two and
      more in a row stand behind the hole in the same order, by sixteen.
    - `loop`: a piece of it stands four more times in a row, by 32 characters; or a line of six
      characters three times in a row.
    """
    if _repeats_rest(written, after):
        return "rest"
    if _repeats_closer(written, before, after, language):
        return "closer"
    if _repeats_below(written, before, after):
        return "below"
    return "loop" if _loops(written) else ""


def is_fenced(written: str, before: str, after: str) -> bool:
    """Whether a line is a Markdown fence, in a document that has none."""
    return bool(_FENCE.search(written)) and not _FENCE.search(f"{before}\n{after}")


def is_sentence(line: str) -> bool:
    """Whether a line, or the rest of one, reads as a sentence, whatever it stands in."""
    return _SENTENCE.fullmatch(line.strip()) is not None


def is_prose(written: str, before: str, after: str, language: str) -> bool:
    """Whether a line of it is a sentence that stands in no comment and in no string."""
    fenced = is_fenced(written, before, after)  # to a grammar it may open a string
    document = (before + written + after).encode("utf-8", "replace")
    tree = None if fenced else parsed(document, language)
    at = len(before)
    for number, line in enumerate(written.split("\n")):
        start, at = at + len(line) - len(line.lstrip()), at + len(line) + 1
        whole = (number > 0 or not before.rpartition("\n")[2].strip()) and bool(line.strip())
        if not whole or not is_sentence(line) or line.strip().startswith(_REMARK):
            continue
        if tree is None:
            return True
        byte = len((before + written)[:start].encode("utf-8", "replace"))
        node = tree.root_node.descendant_for_byte_range(byte, byte + 1)
        while node is not None and not any(w in node.type for w in ("comment", "string", "doc")):
            node = node.parent
        if node is None:
            return True
    return False


# --- rules ----------------------------------------------------------------------------------------


def _rest(after: str) -> str:
    return after.split("\n", 1)[0].strip()


def _size(text: str) -> int:
    """Characters that are not blank."""
    return sum(not character.isspace() for character in text)


def _tells(text: str, size: int) -> bool:
    return _size(text) >= size and any(map(str.isalnum, text))


def _repeats_rest(written: str, after: str) -> bool:
    rest = _rest(after)
    if not any(map(str.isalnum, rest)):
        return False
    for line in written.split("\n"):
        line = line.rstrip()
        if _tells(rest, _TELLING_LINE) and rest in line:
            return True
        for size in range(min(len(rest), len(line)), 0, -1):
            if line.endswith(rest[:size]):
                if size == len(rest) or _tells(rest[:size], _TELLING):
                    return True
                break
    return False


def _repeats_closer(written: str, before: str, after: str, language: str) -> bool:
    text, rest = written.rstrip(), _rest(after)
    if not text:
        return False
    if rest and rest[0] in "\"'`" and _is_odd(rest, rest[0]):  # the hole is in a string
        triple = 3 * rest[0]
        return triple in text if rest.startswith(triple) else _is_odd(text, rest[0])
    if rest and text[-1] == rest[0]:
        mark = rest[0]
        if mark in ",;:":
            return True
        if mark in _PAIRS:
            return text.count(mark) > text.count(_PAIRS[mark])
    last = text.rpartition("\n")[2].strip()
    if rest or last != _next_line(after).strip() or "\n" not in text:
        return False
    start, kept = len(before), text.rpartition("\n")[0]
    broken = check(before + written + after, start, start + len(written), language)
    mended = check(before + kept + after, start, start + len(kept), language)
    return broken is SyntaxState.BROKEN and mended is SyntaxState.OK


def _is_odd(text: str, mark: str) -> bool:
    """Whether so many quotes leave a string open; escaped ones do not count."""
    return len(re.findall(rf"(?<!\\){mark}", text)) % 2 == 1


def _next_line(after: str) -> str:
    """The first line behind the hole's that is not blank."""
    return next((line for line in after.split("\n")[1:] if line.strip()), "")


def _repeats_below(written: str, before: str, after: str) -> bool:
    begun = before.rpartition("\n")[2]
    lines = (begun + written).split("\n")[bool(begun.strip()) :]  # those that are new as a whole
    ours = [line.rstrip() for line in lines if line.strip()]
    theirs = [line.rstrip() for line in after.split("\n")[1:] if line.strip()][:_COMPARED_LINES]
    following = next((line for line in theirs[:_NEAR] if _tells(line, _TELLING_LINE)), None)
    return following in ours or any(
        _tells("".join(ours[i : i + run]), _TELLING_RUN)
        for i, run in _common_runs([x.strip() for x in ours], [x.strip() for x in theirs])
        if run > 1
    )


def _common_runs(ours: Sequence[str], theirs: Sequence[str]) -> Iterator[tuple[int, int]]:
    """Where in `ours` lines begin that stand in `theirs` in the same order, and how many."""
    for i, k in itertools.product(range(len(ours)), range(len(theirs))):
        pairs = zip(ours[i:], theirs[k:], strict=False)
        yield i, sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs))


def _loops(written: str) -> bool:
    for match in _LOOP.finditer(written):
        if len(_RULER.sub("", match.group())) >= _LOOPS:
            return True
    lines = [line.strip() for line in written.split("\n") if line.strip()]
    triples = zip(lines, lines[1:], lines[2:], strict=False)
    return any(a == b == c and _tells(a, _TELLING_LINE) for a, b, c in triples)
