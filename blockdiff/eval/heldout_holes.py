"""Holes in held-out files: one line or a few, whose text is known."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from blockdiff.eval.heldout import HeldOutFile, choose
from blockdiff.syntax.check import check
from blockdiff.syntax.grammars import language_of
from blockdiff.types import Hole, SyntaxState

KINDS = {"line": (1, 1), "lines": (2, 4)}
"""Least and most lines of a hole."""
_COMMENTS = ("#", "//", "/*", "*", "--", '"""', "'''")
_CHARACTERS = (8, 160)  # of a hole, blanks at its ends excluded
_TRIES = 40  # places of a file that are looked at


@dataclass(frozen=True, slots=True)
class HeldOutHole:
    """Whole lines of a file, without the first one's indentation and the last one's ending.

    The file as it is parses there.
    """

    file: HeldOutFile
    hole: Hole
    kind: str

    @property
    def id(self) -> str:
        return f"{self.file.id}:{self.hole.start}-{self.hole.end}"

    @property
    def text(self) -> str:
        """What stands there."""
        return self.file.text[self.hole.start : self.hole.end]


def draw(
    files: Sequence[HeldOutFile], limit: int, seed: int, kinds: Sequence[str] = tuple(KINDS)
) -> list[HeldOutHole]:
    """`limit` holes (0: one of each kind in every file), languages and kinds in turn.

    A larger draw begins with a smaller one of the same seed. Files without such a place, or in a
    language that cannot be parsed here, have none.
    """
    found: list[HeldOutHole] = []
    for hole in _turns(choose(files, 0, seed), seed, kinds):
        found.append(hole)
        if len(found) == limit:
            break
    return found


def _turns(files: Sequence[HeldOutFile], seed: int, kinds: Sequence[str]) -> Iterator[HeldOutHole]:
    for turn in range(len(kinds)):
        for number, file in enumerate(files):
            kind = kinds[(number + turn) % len(kinds)]
            hole = _place(file, kind, random.Random(f"hole/{seed}/{kind}/{file.id}"))
            if hole is not None:
                yield HeldOutHole(file, hole, kind)


def _place(file: HeldOutFile, kind: str, rng: random.Random) -> Hole | None:
    """Lines of code, not only of comments; None where none were found."""
    lines = file.text.splitlines(keepends=True)
    language = language_of(file.path, file.language)
    for _ in range(_TRIES):
        first, count = rng.randrange(len(lines)), rng.randint(*KINDS[kind])
        chosen = lines[first : first + count]
        if len(chosen) < count or not (chosen[0].strip() and chosen[-1].strip()):
            continue
        if any(line.lstrip().startswith(_COMMENTS) for line in chosen):
            continue
        before = "".join(lines[:first])
        start = len(before) + len(chosen[0]) - len(chosen[0].lstrip(" \t"))
        end = len((before + "".join(chosen)).rstrip("\r\n"))
        if not _CHARACTERS[0] <= end - start <= _CHARACTERS[1]:
            continue
        if check(file.text, start, end, language) is SyntaxState.OK:
            return Hole(start, end)
    return None
