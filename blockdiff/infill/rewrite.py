"""The text of a span on its way to the model and back, when it is written anew.

The blanks around the text are never touched: they are what makes a span whole lines, and what
indents it. Within, a rewrite without an instruction sees tokens of which most stay. What stays is
taken from the document itself, code point by code point, not from what the tokenizer made of it.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, replace

from blockdiff.infill.healing import PromptTokenizer
from blockdiff.infill.words import alike
from blockdiff.syntax.whitespace import BOM, to_lf
from blockdiff.types import Finished, Hole, InfillRequest


def without_surroundings(text: str, request: InfillRequest) -> str:
    """An answer to an instruction without what stands around the hole, where it repeats that."""
    prefix, hole = request.prefix, request.hole
    replaced = request.document[hole.start : hole.end]
    text = without_lead(text, prefix.rpartition("\n")[2])
    text = without_lines_above(text, prefix, replaced)
    return without_lines_below(text, request.suffix, replaced)


@dataclass(frozen=True, slots=True)
class Frame:
    """The text of a span without the blanks around it.

    Attributes:
        hole: where that text stands in the document.
        before, after: the blanks of the span in front of it and behind it.
    """

    hole: Hole
    before: str
    after: str

    @classmethod
    def of(cls, document: str, span: Hole) -> Frame:
        text = document[span.start : span.end]
        start = len(text) - len(text.lstrip())
        if span.start == 0 and text.startswith(BOM):
            start = len(text) - len(text.removeprefix(BOM).lstrip())
        end = max(start, len(text.rstrip()))
        hole = Hole(span.start + start, span.start + end)
        return cls(hole, text[:start], text[end:])

    def put(self, event: Finished) -> Finished:
        """The end of what happens to the text within as that of the whole span."""
        return replace(event, text=self.before + event.text + self.after)


def without_lead(text: str, indentation: str) -> str:
    """An answer without blanks at its ends, the lines after the first moved along with it.

    Args:
        indentation: what stands before the answer on its line. If that is blank, and the answer
            indents its first line deeper, all its lines are too deep by as much.
    """
    first = text.lstrip()
    lead = text[: len(text) - len(first)]
    extra = lead[lead.rfind("\n") + 1 :]
    lines = first.rstrip().split("\n")
    if extra and "\n" not in lead and not indentation.strip():
        deep = indentation + extra
        if all(line.startswith(deep) for line in lines[1:] if line.strip()):
            lines[1:] = [indentation + line[len(deep) :] if line.strip() else line
                         for line in lines[1:]]  # fmt: skip
    return "\n".join(lines)


def without_lines_above(text: str, prefix: str, original: str) -> str:
    """An answer without a copy of the lines right above the text, which stay where they are.

    A line that says little, such as a bracket, may well come twice.
    """
    *above, tail = prefix.split("\n")
    known = [line.strip() for line in above if line.strip()]
    lines = text.split("\n")
    if tail.strip() or original.split("\n")[0].strip() == lines[0].strip():
        return text
    for count in range(min(len(lines) - 1, len(known)), 0, -1):
        copied = [line.strip() for line in lines[:count]]
        if copied == known[-count:] and any(len(line.split()) > 1 for line in copied):
            return "\n".join(lines[count:]).lstrip()
    return text


def without_lines_below(text: str, suffix: str, original: str) -> str:
    """An answer without the lines that follow the text in the document, where it went on to those.

    They may have been changed like the text itself, such as by a new name. What is left has at
    least as many lines as the original.
    """
    rest, *below = suffix.split("\n")
    following = [line for line in below if line.strip()]
    lines = text.split("\n")
    written = [i for i, line in enumerate(lines) if line.strip()]
    surplus = len(written) - sum(bool(line.strip()) for line in original.split("\n"))
    if rest.strip():
        return text
    for count in range(min(surplus, len(following)), 0, -1):
        tail = [lines[i] for i in written[-count:]]
        if all(map(alike, tail, following)):
            return "\n".join(lines[: written[-count]]).rstrip()
    return text


@dataclass(frozen=True, slots=True)
class Unit:
    """Tokens that change together, because a character is cut between them.

    Attributes:
        tokens: half-open range of them.
        source: half-open range of the original text that they spell.
    """

    tokens: tuple[int, int]
    source: tuple[int, int]


@dataclass(frozen=True, slots=True)
class SpanTokens:
    """The text to rewrite as tokens.

    Attributes:
        text: as it stands in the document.
        context: tokens of `heal` that end before the text: the prompt goes on with them.
        tokens: those of the text; the first may begin with `rest`, the end of `heal`.
        units: the tokens in order.
    """

    text: str
    context: tuple[int, ...]
    tokens: tuple[int, ...]
    rest: str
    units: tuple[Unit, ...]

    @classmethod
    def of(cls, text: str, heal: str, tokenizer: PromptTokenizer) -> SpanTokens | None:
        """Tokenize `text` behind the healed end of a prefix.

        None where the tokens do not say what the text says: a character composed across the seam,
        half a surrogate pair.
        """
        ids = tokenizer.encode(heal + to_lf(text))
        rest, first = heal.encode("utf-8", "replace"), 0
        while first < len(ids) and rest and rest.startswith(tokenizer.token_bytes(ids[first])):
            rest = rest[len(tokenizer.token_bytes(ids[first])) :]
            first += 1
        pieces = [tokenizer.token_bytes(token) for token in ids[first:]]
        spelled = b"".join(pieces)
        try:
            normal = spelled.decode()[len(rest.decode()) :]
        except UnicodeDecodeError:
            return None
        origin = origins(text, normal)
        if not pieces or not pieces[0].startswith(rest) or origin is None:
            return None
        units = _units(pieces, rest.decode(), origin)
        return cls(text, tuple(ids[:first]), tuple(ids[first:]), rest.decode(), tuple(units))


def _units(pieces: Sequence[bytes], rest: str, origin: dict[int, int]) -> list[Unit]:
    units: list[Unit] = []
    buffer, first, at = b"", 0, -len(rest)
    for index, piece in enumerate(pieces):
        buffer += piece
        try:
            end = at + len(buffer.decode())
        except UnicodeDecodeError:
            continue
        if end not in origin:
            continue
        units.append(Unit((first, index + 1), (origin[max(at, 0)], origin[end])))
        buffer, first, at = b"", index + 1, end
    return units


def origins(text: str, normal: str) -> dict[int, int] | None:
    """Where in `text` each offset of its normal form lies: LF line endings, NFC.

    Offsets within what only as a whole is the normal form of something are left out. None if
    `normal` is not the normal form of `text`.
    """
    found, i, j = {0: 0}, 0, 0
    while i < len(text) and j < len(normal):
        if text[i : i + 2] == "\r\n" and normal[j] == "\n":
            i, j = i + 2, j + 1
        elif text[i] == "\r" and normal[j] == "\n":
            i, j = i + 1, j + 1
        elif text[i] == normal[j] and text[i + 1 : i + 2].isascii():
            i, j = i + 1, j + 1  # nothing that follows can compose with it
        elif (step := _composed(text, i, normal[j:])) is not None:
            i, j = i + step[0], j + step[1]
        else:
            return None
        found[j] = i
    return found if (i, j) == (len(text), len(normal)) else None


def _composed(text: str, start: int, normal: str) -> tuple[int, int] | None:
    """Lengths of the shortest start of `text[start:]` and of its normal form, which `normal` begins
    with."""
    end = start + 1
    while end < len(text) and not text[end].isascii():
        end += 1
    part = text[start:end]
    for length in range(1, len(part) + 1):
        head = unicodedata.normalize("NFC", part[:length])
        if head + unicodedata.normalize("NFC", part[length:]) == unicodedata.normalize("NFC", part):
            return (length, len(head)) if normal.startswith(head) else None
    return None
