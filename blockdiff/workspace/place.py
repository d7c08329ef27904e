"""A hole in a text, and what stands near it."""

from __future__ import annotations

import re
from dataclasses import dataclass

from blockdiff.types import Hole
from blockdiff.workspace.imports import Import, imports_of

CHARACTERS_PER_TOKEN = 3.5
"""Of signatures, on the low side (3.7 in those of Python): nobody here has a tokenizer."""

_LINES_BEFORE, _LINES_AFTER = 30, 10  # that names are looked for in
_NEAREST = 2  # lines before the hole whose names have to be there
_NAME = re.compile(r"[^\W\d]\w{2,}")


@dataclass(frozen=True, slots=True)
class HolePlace:
    """A hole, and what is seen around it.

    Attributes:
        before: the text up to the hole.
        seen: the window, which the prompt shows anyway.
        weights: names near the hole by how near they are.
        nearest: those of the last lines before it.
    """

    path: str
    language: str
    before: str
    seen: str
    weights: dict[str, float]
    nearest: frozenset[str]
    imports: tuple[Import, ...]

    @classmethod
    def of(cls, text: str, hole: Hole, path: str, language: str, window: int) -> HolePlace:
        before, after = text[: hole.start], text[hole.end :]
        characters = int(window * CHARACTERS_PER_TOKEN)
        seen = before[-characters * 2 // 3 :] + after[: characters // 3]
        weights: dict[str, float] = {}
        lines = before[-20_000:].split("\n")[-_LINES_BEFORE:]
        near = [(distance, line) for distance, line in enumerate(reversed(lines))]
        near += list(enumerate(after[:10_000].split("\n")[:_LINES_AFTER], 3))
        for distance, line in near:
            for name in _NAME.findall(line):
                weights[name] = weights.get(name, 0.0) + 1 / (1 + distance)
        nearest = frozenset(_NAME.findall("\n".join(lines[-_NEAREST:])))
        imports = tuple(imports_of(text, language))
        return cls(path, language, before, seen, weights, nearest, imports)
