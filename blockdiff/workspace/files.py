"""The source files of a workspace: those that people wrote there and that no list keeps out.

Symbolic links are not followed: none leads round in a circle or out of the workspace.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from blockdiff.syntax.grammars import language_of
from blockdiff.syntax.written import SKIPPED_FOLDERS, not_by_hand, path_allowed
from blockdiff.system.ignored import IgnoreFiles, IgnoreMoment, Verdict
from blockdiff.workspace.queries import TAGS

MOST_FILES = 20_000
"""Of one workspace, those nearest to its root first."""

MOST_BYTES = 512 * 1024
"""Of one file: longer ones are data, or written by a program."""

_MOST_ENTRIES = 1_000_000  # looked at: of a workspace with more, what was found until then
_MADE = frozenset({"__pycache__", "site-packages", "target"})


@dataclass(frozen=True, slots=True)
class WorkspaceFile:
    """Attributes:
    path: relative to the workspace, with slashes.
    stamp: time of the last change in nanoseconds, and size in bytes, before it is read.
    """

    path: str
    language: str
    stamp: tuple[int, int]


def source_files(root: Path, ignored: IgnoreFiles) -> Iterator[WorkspaceFile]:
    """Those below `root`. Folders that cannot be read are left out."""
    lists = ignored.now()
    todo = deque([""])
    found = looked_at = 0
    while todo and found < MOST_FILES and looked_at < _MOST_ENTRIES:
        folder = todo.popleft()
        try:
            with os.scandir(root / folder) as entries:
                inside = sorted(entries, key=lambda entry: entry.name)
        except OSError:
            continue
        looked_at += len(inside)
        for entry in inside:
            path = f"{folder}/{entry.name}" if folder else entry.name
            if _is_folder(entry):
                if is_entered(root, path, lists):
                    todo.append(path)
            elif (file := source_file(root, path, lists)) is not None:
                found += 1
                yield file
                if found >= MOST_FILES:
                    break


def is_entered(root: Path, folder: str, lists: IgnoreMoment) -> bool:
    """Whether there may be source files in a folder, given as a path relative to `root`."""
    name = folder.rpartition("/")[2]
    if name.startswith(".") or name in _MADE or name in SKIPPED_FOLDERS:
        return False
    full = root / folder
    made = (full / "pyvenv.cfg", full / "CACHEDIR.TAG")
    return not any(map(os.path.exists, made)) and not lists.skips(full)


def source_file(root: Path, path: str, lists: IgnoreMoment) -> WorkspaceFile | None:
    """A file as it is at this moment; None for one that does not belong into an index."""
    language = language_of(path)
    if language not in TAGS or not path_allowed(path):
        return None
    full = root / path
    try:
        status = full.lstat()
    except (OSError, ValueError):
        return None
    if not stat.S_ISREG(status.st_mode) or status.st_size > MOST_BYTES:
        return None
    if lists.verdict(full) is not Verdict.OPEN:
        return None
    return WorkspaceFile(path, language, (status.st_mtime_ns, status.st_size))


def read_source(path: Path) -> bytes | None:
    """What a file says, as UTF-8 with LF; None for one that is gone, binary, too long or not
    written by people."""
    try:
        with path.open("rb") as file:
            data = file.read(MOST_BYTES + 1)
    except OSError:
        return None
    if len(data) > MOST_BYTES or b"\0" in data:
        return None
    text = data.decode("utf-8-sig", "replace")
    if not_by_hand(text):
        return None
    return text.replace("\r\n", "\n").replace("\r", "\n").encode()


def digest_of(data: bytes) -> bytes:
    """What an index compares a file by, where its time has changed."""
    return hashlib.blake2b(data, digest_size=16).digest()


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir(follow_symlinks=False)
    except OSError:
        return False
