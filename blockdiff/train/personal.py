"""Count the n-grams of a user's own workspace, for drafts in its files."""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from blockdiff.diffusion import personal
from blockdiff.diffusion.ngrams import NgramTable
from blockdiff.diffusion.personal import TableNote
from blockdiff.errors import InputFileError
from blockdiff.syntax.written import path_allowed
from blockdiff.system import private
from blockdiff.train.filters import normalise, unlike_code
from blockdiff.train.ngrams import Ids, TextEncoder, count, stream
from blockdiff.train.package import MAX_FILE_BYTES, is_source
from blockdiff.weights import folders

MOST_BYTES = 20 << 20
"""Of source text, that which changed last."""
ENTRIES = 600_000
_LEAST = 1  # what stands once in a workspace comes again, see docs/LOG.md
_PARTS = 5  # one of which is left out where it is to be seen what the others bring
_LOOKED_AT = 200_000  # names of files and folders
_MOST = {personal.TABLE: 64, personal.ADAPTER: 8}  # kept; with one more, the oldest goes


@dataclass(frozen=True, slots=True)
class Found:
    """The source files of a workspace.

    Attributes:
        files: the latest changed first.
        whole: whether all of it was looked through.
        at: when that began, in seconds since the epoch.
    """

    files: tuple[Path, ...]
    whole: bool
    at: float = 0.0


@dataclass(frozen=True, slots=True)
class Counted:
    """What became of a workspace; `left_out` files were beyond `MOST_BYTES`."""

    table: NgramTable
    files: int
    tokens: int
    nbytes: int
    left_out: int


def find(root: Path, is_open: Callable[[Path], bool]) -> Found:
    """Source files below a folder that people wrote for it, and that `is_open` lets be read.

    Hidden folders, virtual environments, and those for code of others or for generated files are
    passed by, links are not followed, and what cannot be read is left out.

    Raises InputFileError where `root` is no folder.
    """
    if not root.is_dir():
        raise InputFileError(f"{root} is no folder", "name the folder of a workspace")
    found: list[tuple[int, Path]] = []
    looked_at, at = 0, time.time()
    for folder, inside, names in os.walk(root):
        here = Path(folder)
        relative = here.relative_to(root)
        inside[:] = sorted(name for name in inside if _is_entered(here, relative, name))
        for name in names:
            path = here / name
            if not is_source(name) or not path_allowed((relative / name).as_posix()):
                continue
            try:
                status = path.lstat()
            except OSError:
                continue
            fits = stat.S_ISREG(status.st_mode) and 0 < status.st_size <= MAX_FILE_BYTES
            if fits and is_open(path):
                found.append((status.st_mtime_ns, path))
        looked_at += len(inside) + len(names)
        if looked_at > _LOOKED_AT:
            break
    found.sort(key=lambda entry: (-entry[0], entry[1]))
    return Found(tuple(path for _, path in found), looked_at <= _LOOKED_AT, at)


def _is_entered(here: Path, relative: Path, name: str) -> bool:
    if name.startswith(".") or name in ("__pycache__", "site-packages", "target"):
        return False
    inside = (relative / name / "_").as_posix()
    return path_allowed(inside) and not (here / name / "pyvenv.cfg").exists()


def texts(files: Sequence[Path]) -> Iterator[tuple[Path, str]]:
    """The code in files, each as it is at this moment; without copies, and what nobody wrote."""
    seen: set[int] = set()
    for path in files:
        text = _text(path)
        if text is not None and hash(text) not in seen:
            seen.add(hash(text))
            yield path, text


def _text(path: Path) -> str | None:
    """None for what is gone, has grown, or is no code."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
    except OSError:
        return None
    text = normalise(data) if len(data) <= MAX_FILE_BYTES else None
    return None if text is None or unlike_code(text) else text


def count_files(
    files: Sequence[Path], tokenizer: TextEncoder, progress: Callable[[int, int], None]
) -> Counted:
    """The table of files, the first of them up to `MOST_BYTES`.

    Args:
        progress: told how many bytes are done, of how many at most.

    Raises InputFileError where none of them holds code.
    """
    documents: list[Ids] = []
    nbytes = tokens = 0
    left_out = 0
    for path, text in texts(files):
        size = len(text.encode("utf-8", "replace"))
        if nbytes + size > MOST_BYTES:
            left_out = len(files) - files.index(path)
            break
        documents.append(np.asarray(tokenizer.encode(text), np.int32))
        tokens += len(documents[-1])
        nbytes += size
        progress(nbytes, MOST_BYTES)
    if not tokens:
        raise InputFileError(
            "there is no source code to count in", "name a folder with files you wrote"
        )
    table = count(
        stream(documents), vocab_size=tokenizer.vocab_size, entries=ENTRIES, least=_LEAST
    )
    return Counted(table, len(documents), tokens, nbytes, left_out)


def left_out(root: Path, files: Sequence[Path]) -> list[Path]:
    """A fifth of a folder's files with code, decided and ordered by a hash of their paths.

    Raises InputFileError for too few files.
    """

    def digest(path: Path) -> bytes:
        return hashlib.sha256(os.fsencode(path.relative_to(root))).digest()

    ordered = sorted((path for path, _ in texts(files)), key=digest)
    if len(ordered) < _PARTS:
        raise InputFileError(
            f"{len(ordered)} source files are too few: a fifth of them is left out",
            "name a folder with more files",
        )
    return ordered[: len(ordered) // _PARTS]


def save(table: NgramTable, workspace: Path, model: str, note: TableNote | None = None) -> Path:
    """Write a workspace's table where the engine looks for it, and drop the oldest of too many.

    Raises NotPermitted where others could read it, DiskFull, OutputFileError.
    """
    about = note.header() if note else {}
    return keep(lambda file: table.save(file, 0o600, about), workspace, model, personal.TABLE)


def keep(write: Callable[[Path], None], workspace: Path, model: str, ending: str) -> Path:
    """Have `write` make what belongs to a workspace, under each of its names; see `save`."""
    folder = prepared_folder()
    with folders.writing_errors():
        for name in names_of(workspace):
            write(personal.file_of(name, model, ending))
        of_adapters = ending == personal.ADAPTER
        written = [
            path
            for path in folder.glob(f"*{ending}")
            if path.name.endswith(personal.ADAPTER) is of_adapters
        ]
        for path in sorted(written, key=lambda path: -path.stat().st_mtime_ns)[_MOST[ending] :]:
            path.unlink(missing_ok=True)
    return personal.file_of(workspace, model, ending)


def prepared_folder() -> Path:
    """The folder for what belongs to workspaces. Raises NotPermitted, DiskFull, OutputFileError."""
    folder = personal.folder()
    with folders.writing_errors():
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        private.check_folder(folder)
    return folder


def forget(workspace: Path) -> bool:
    """Remove what was made of a workspace, for all models; whether there was anything.

    A mark stays: it is not counted again, nor are the folders in it, but on command.

    Raises NotPermitted, DiskFull, OutputFileError.
    """
    prepared_folder()
    with folders.writing_errors():
        for name in names_of(workspace):
            private.write(personal.mark_of(name), b"")
    files = [file for name in names_of(workspace) for file in personal.files_of(name)]
    with folders.writing_errors():
        for file in files:
            if file.is_dir() and not file.is_symlink():
                shutil.rmtree(file)
            else:
                file.unlink(missing_ok=True)
    return bool(files)


def drop(workspace: Path, model: str) -> None:
    """Remove a workspace's table for one model. Raises OutputFileError."""
    with folders.writing_errors():
        for name in names_of(workspace):
            personal.file_of(name, model).unlink(missing_ok=True)


def is_forgotten(workspace: Path) -> bool:
    """Whether it, or a folder that it lies in, is not to be counted but on command."""
    marks = personal.marks()
    around = (place for name in names_of(workspace) for place in (name, *name.parents))
    return bool(marks) and any(personal.mark_of(place) in marks for place in around)


def remember(workspace: Path) -> None:
    """Take back that it was forgotten. Raises OutputFileError."""
    with folders.writing_errors():
        for name in names_of(workspace):
            personal.mark_of(name).unlink(missing_ok=True)


def names_of(workspace: Path) -> set[Path]:
    """The absolute names a workspace goes by: as it was given, and with its links followed."""
    return {Path(os.path.abspath(workspace)), Path(os.path.realpath(workspace))}
