"""Files that no adapter was trained on: what drafts, revisions and rewrites are measured with."""

from __future__ import annotations

import gzip
import json
import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from blockdiff.errors import InputFileError
from blockdiff.train.jsonl import read_jsonl

LICENCES = frozenset(
    {"MIT", "Expat", "MIT License", "ISC", "Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "PSF-2.0",
     "Zlib", "(MIT or Apache-2.0)", "MIT or Apache-2.0", "(Apache-2.0 or MIT)",
     "(Unlicense or MIT)"}
)  # fmt: skip
"""Of files that a sample may hold; an expression has to be one of these as a whole."""


@dataclass(frozen=True, slots=True)
class HeldOutFile:
    """One source file, whole; `licence` is what its package states."""

    package: str
    version: str
    licence: str
    language: str
    path: str
    text: str

    @property
    def id(self) -> str:
        return f"{self.package}/{self.path}"


def load(path: Path) -> list[HeldOutFile]:
    """Read a `.jsonl` or `.jsonl.gz` file that `blockdiff train heldout` wrote.

    Raises:
        InputFileError: it is missing, damaged, empty or of another form.
    """
    try:
        files = [HeldOutFile(**row) for row in read_jsonl(path)]
    except TypeError as error:
        raise InputFileError(
            f"{path} holds no held-out files: {error}", "write some: blockdiff train heldout"
        ) from None
    if not files or len({file.id for file in files}) < len(files):
        raise InputFileError(f"{path} is empty or names a file twice")
    return files


def write(files: Iterable[HeldOutFile], path: Path) -> None:
    """The same bytes for the same files."""
    rows = "".join(json.dumps(asdict(file)) + "\n" for file in files)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(rows.encode(), mtime=0))


def choose(
    files: Sequence[HeldOutFile], limit: int, seed: int, languages: Sequence[str] = ()
) -> list[HeldOutFile]:
    """`limit` files (0: all) of a shuffle that depends on ids and seed, languages in turn.

    Languages take turns so that few files tell something of each.
    """
    wanted = [f for f in files if not languages or f.language in languages]
    shuffled = sorted(wanted, key=lambda file: file.id)
    random.Random(seed).shuffle(shuffled)
    seen: dict[str, int] = {}
    turns: list[tuple[int, int]] = []
    for file in shuffled:
        seen[file.language] = seen.get(file.language, 0) + 1
        turns.append((seen[file.language], len(turns)))
    order = sorted(range(len(shuffled)), key=turns.__getitem__)
    return [shuffled[index] for index in order][: limit or None]


def of_corpus(folder: Path) -> Iterator[HeldOutFile]:
    """The held-out files of a corpus. Raises InputFileError."""
    try:
        shards = json.loads((folder / "manifest.json").read_text("utf-8"))["shards"]["heldout"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputFileError(
            f"no usable corpus in {folder}: {error}", "build one: blockdiff train corpus --out"
        ) from None
    names = [field.name for field in fields(HeldOutFile)]
    for shard in shards:
        for row in read_jsonl(folder / shard):
            yield HeldOutFile(**{name: row[name] for name in names})


def sample(
    files: Iterable[HeldOutFile], each: int, python: int, most_bytes: int
) -> list[HeldOutFile]:
    """Small files for a set that goes with the model, at most `each` of a language.

    Args:
        python: most files of Python, with which rewrites are measured.
        most_bytes: of a file's text.
    """
    fitting = [
        file
        for file in files
        if file.licence in LICENCES and 600 <= len(file.text.encode()) <= most_bytes
    ]
    chosen: dict[str, list[HeldOutFile]] = {}
    for file in choose(fitting, 0, 0):
        of_language = chosen.setdefault(file.language, [])
        same = sum(other.package == file.package for other in of_language)
        if len(of_language) < (python if file.language == "python" else each) and same < 4:
            of_language.append(file)
    return sorted((f for found in chosen.values() for f in found), key=lambda file: file.id)
