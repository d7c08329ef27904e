"""Holes for `seams`: places of every language and kind, with and without a neighbour file open.

The held-out set has few files of Lua and TypeScript and one of the shell. `own.jsonl.gz` beside it
adds files of this repository, and shell scripts written for it, as they were when it was made.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum

from blockdiff.eval.heldout import HeldOutFile
from blockdiff.eval.seam_faults import is_fenced, is_prose, repeats
from blockdiff.eval.seam_places import KINDS, CharRange, places
from blockdiff.syntax.check import check
from blockdiff.syntax.grammars import grammar_of, parsed
from blockdiff.types import Snippet, SyntaxState

LANGUAGES = (
    "python", "javascript", "typescript", "go", "rust", "java", "c", "cpp", "lua", "shell",
)  # fmt: skip
"""Nine with a grammar, and the shell: it has none here, is written every day, and shows what the
rules do that need no tree."""
HOLES = 400
_EXCERPT = 1_200  # most characters of a document beside which a neighbour has room
_NEIGHBOUR = (48, 900)  # most lines and characters of one: what an editor offers of another file


class Caller(str, Enum):
    """Who asks."""

    INFILL = "infill"  # `blockdiff infill --at`: as far as the hole goes
    GHOST = "ghost"  # an editor at the cursor: a line, or a block at the end of one


@dataclass(frozen=True, slots=True)
class SeamHole:
    """A document with `text` taken out between `before` and `after`.

    Attributes:
        file: id of the file that it is from; the document may be a part of it.
        neighbour: what is shown of another file; None: no other is open.
    """

    id: str
    file: str
    path: str
    language: str
    kind: str
    before: str
    text: str
    after: str
    neighbour: Snippet | None


def draw(
    files: Sequence[HeldOutFile], limit: int = HOLES, seed: int = 0, *, neighbours: bool = True
) -> list[SeamHole]:
    """`limit` holes (0: 400), languages, kinds and neighbours in turn.

    A larger draw begins with a smaller one of the same seed. Fewer where the files hold fewer; a
    kind that a language has no more of gives its turn to the next one. With the true text every
    hole parses, where there is a grammar, and none is blamed for a repeat, prose or a fence.
    Without `neighbours` all are in whole files, beside which no other is open.
    """
    wanted = limit or HOLES
    languages = [name for name in LANGUAGES if any(file.language == name for file in files)]
    stocks = {name: _Stock(files, name, seed) for name in languages}
    found: list[SeamHole] = []
    for number in range(wanted):
        turn, place = divmod(number, len(languages) or 1)
        kind = (place - turn) % len(KINDS)
        beside = neighbours and (place + kind + turn // len(KINDS)) % 2 == 1
        hole = stocks[languages[place]].take(kind, beside) if languages else None
        if hole is not None:
            found.append(hole)
    return found


class _Stock:
    """Holes of one language that are left, by kind and by whether a neighbour is open."""

    def __init__(self, files: Sequence[HeldOutFile], language: str, seed: int) -> None:
        mine = [f for f in files if f.language == language and "\r" not in f.text]
        self._files, self._seed = sorted(mine, key=lambda file: file.id), seed
        self._left: dict[tuple[str, bool], Iterator[SeamHole]] = {
            (kind, beside): self._holes(kind, beside) for kind in KINDS for beside in (False, True)
        }
        self._places: dict[str, dict[str, list[CharRange]]] = {}
        self._taken: set[tuple[str, int]] = set()

    def take(self, kind: int, beside: bool) -> SeamHole | None:
        names = list(KINDS)
        for name in names[kind:] + names[:kind]:
            hole = next(self._left[name, beside], None)
            if hole is not None:
                return hole
        return None

    def _holes(self, kind: str, beside: bool) -> Iterator[SeamHole]:
        """Files take turns, a place each, in an order of their own for each kind."""
        files = list(self._files)
        random.Random(f"seams/{self._seed}/{kind}/{beside}").shuffle(files)
        turns = [self._of_file(file, kind, beside) for file in files]
        while turns:
            still = []
            for turn in turns:
                hole = next(turn, None)
                if hole is not None:
                    yield hole
                    still.append(turn)
            turns = still

    def _of_file(self, file: HeldOutFile, kind: str, beside: bool) -> Iterator[SeamHole]:
        rng = random.Random(f"seams/{self._seed}/{kind}/{beside}/{file.id}")
        if file.id not in self._places:
            self._places[file.id] = places(file.text, file.language)
        found = list(self._places[file.id][kind])
        rng.shuffle(found)
        tops = _tops(file.text, file.language) if beside and found else []
        for start, end in found:
            if (file.id, start) in self._taken:
                continue
            first, last = 0, len(file.text)
            if beside:
                part = _excerpt(tops, start, end)
                if part is None:
                    continue
                first, last = part
            hole = SeamHole(
                id=f"{file.id}:{start}-{end}{'+' if beside else ''}",
                file=file.id,
                path=file.path,
                language=file.language,
                kind=kind,
                before=file.text[first:start],
                text=file.text[start:end],
                after=file.text[end:last],
                neighbour=self._neighbour(file, rng) if beside else None,
            )
            if (not beside or hole.neighbour) and _is_sound(hole):
                self._taken.add((file.id, start))
                yield hole

    def _neighbour(self, file: HeldOutFile, rng: random.Random) -> Snippet | None:
        """A part of another file, of the same package if there is one."""
        others = [other for other in self._files if other.id != file.id]
        near = [other for other in others if other.package == file.package] or others
        if not near:
            return None
        other, (most_lines, most) = rng.choice(near), _NEIGHBOUR
        lines = other.text.split("\n")
        first = rng.randrange(max(1, len(lines) - most_lines))
        text = "\n".join(lines[first : first + most_lines])[:most]
        return Snippet(other.path, text.rstrip() + "\n")


def _is_sound(hole: SeamHole) -> bool:
    before, text, after, language = hole.before, hole.text, hole.after, hole.language
    start = len(before)
    verdict = check(before + text + after, start, start + len(text), language)
    known = SyntaxState.SKIPPED if grammar_of(language) is None else SyntaxState.OK
    return (
        verdict is known
        and not repeats(text, before, after, language)
        and not is_fenced(text, before, after)
        and not is_prose(text, before, after, language)
    )


def _excerpt(tops: Sequence[CharRange], start: int, end: int) -> CharRange | None:
    """The constructs around a place, as many as fit a short document; None if its own does not."""
    here = [i for i, (first, last) in enumerate(tops) if first <= start and end <= last]
    if not here:
        return None
    low = high = here[0]
    while True:
        wider = [(a, b) for a, b in ((low, high + 1), (low - 1, high)) if a >= 0 and b < len(tops)]
        fit = [(a, b) for a, b in wider if tops[b][1] - tops[a][0] <= _EXCERPT]
        if not fit:
            break
        low, high = fit[0]
    first, last = tops[low][0], tops[high][1]
    return (first, last) if last - first <= _EXCERPT else None


def _tops(text: str, language: str) -> list[CharRange]:
    """Whole lines of the constructs at the top level of a file: those of the tree, or paragraphs
    that begin and end without indentation."""
    tree = parsed(text.encode(), language)
    if tree is not None and text.isascii():
        cuts = [node.start_byte for node in tree.root_node.children]
    else:
        cuts, at, blank = [], 0, True
        for line in text.split("\n"):
            if blank and line[:1].strip() and line[0] not in ")}]":
                cuts.append(at)
            blank, at = not line.strip(), at + len(line) + 1
    cuts = [cut for cut in cuts if cut == 0 or text[cut - 1] == "\n"]
    return list(zip(cuts, [*cuts[1:], len(text)], strict=True))
