"""Names of a GGUF file that was published in several parts, as llama.cpp names and reads them."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

_NAME = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf", re.DOTALL)


def numbered(path: Path) -> tuple[int, int] | None:
    """Which part a file is by its name, and of how many; None for a file that is no part."""
    match = _NAME.fullmatch(path.name)
    if match is None:
        return None
    number, count = int(match["number"]), int(match["count"])
    return (number, count) if 1 <= number <= count else None


def parts_of(path: Path) -> list[Path]:
    """All parts that belong together with `path`, the first one first, there or not."""
    match = _NAME.fullmatch(path.name)
    if match is None or numbered(path) is None:
        return [path]
    count = int(match["count"])
    names = (f"{match['stem']}-{i:05}-of-{count:05}.gguf" for i in range(1, count + 1))
    return [path.with_name(name) for name in names]


def whole(files: Iterable[Path]) -> list[Path]:
    """One file of each model: parts count once, by their first."""
    return sorted({parts_of(path)[0] for path in files})
