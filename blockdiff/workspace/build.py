"""Making the index of a workspace true to its files: what is new or changed is read, no more."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from blockdiff.system.ignored import IgnoreFiles, IgnoreMoment
from blockdiff.types import OnProgress
from blockdiff.workspace import tables
from blockdiff.workspace.definitions import definitions
from blockdiff.workspace.files import (
    WorkspaceFile,
    digest_of,
    is_entered,
    read_source,
    source_file,
    source_files,
)
from blockdiff.workspace.imports import imports_of
from blockdiff.workspace.packages import signatures, site_packages
from blockdiff.workspace.store import Stamp, Store

MOST_FILES_IN_MEMORY = 2_000

_BATCH_SECONDS = 0.5  # of work that is written together
_PROGRESS_EVERY = 50  # files
_KEPT_SECONDS = 90 * 86_400.0  # an index that nobody uses


@dataclass(frozen=True, slots=True)
class Refreshed:
    """What a refresh did.

    Attributes:
        read: files that were new or had changed; `removed`: those that were gone.
        ended: whether it came to its end; not if it was stopped, or another process does it.
        seconds: how long it took.
    """

    files: int = 0
    read: int = 0
    removed: int = 0
    packages: int = 0
    ended: bool = False
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Build:
    """What there is to do for one store. Raises sqlite3.Error as that does.

    Attributes: root: folder of the workspace, resolved.
    """

    store: Store
    root: Path
    ignored: IgnoreFiles

    def refresh(self, progress: OnProgress, stop: Callable[[], bool]) -> Refreshed:
        begun = time.monotonic()
        known = self.store.stamps()
        files = []
        for file in source_files(self.root, self.ignored):
            files.append(file)
            if stop():
                return Refreshed(len(files))
            if self.store.path is None and len(files) >= MOST_FILES_IN_MEMORY:
                break
        stale = [file for file in files if not is_as_known(known.get(file.path), file.stamp)]
        gone = known.keys() - {file.path for file in files}
        with self.store.writing():
            self.store.remove(gone)
        read = self._read_all(stale, known, progress, stop)
        installed = 0
        if read == len(stale):
            installed = self._add_packages(site_packages(self.root), stop)
        self.store.checkpoint()
        if self.store.path is not None:
            _forget_old(self.store.path)
        seconds = time.monotonic() - begun
        ended = read == len(stale) and not stop()
        return Refreshed(len(files), read, len(gone), installed, ended, seconds)

    def _read_all(
        self,
        stale: list[WorkspaceFile],
        known: dict[str, Stamp],
        progress: OnProgress,
        stop: Callable[[], bool],
    ) -> int:
        """Read files into the index; how many, when it is stopped."""
        done = 0
        while done < len(stale):
            batch, until = list[Callable[[], None]](), time.monotonic() + _BATCH_SECONDS
            while done < len(stale) and time.monotonic() < until:
                if stop():
                    break
                file = stale[done]
                batch.append(self._parsed(file, known.get(file.path)))
                done += 1
                if done % _PROGRESS_EVERY == 0:
                    progress(f"indexing {done} of {len(stale)} files", done / len(stale))
            with self.store.writing():
                for write in batch:
                    write()
            if stop():
                break
        return done

    def _parsed(self, file: WorkspaceFile, known: Stamp | None) -> Callable[[], None]:
        """What there is to write of a file, without a hand on the store meanwhile."""
        data = read_source(self.root / file.path)
        if data is None:
            # Not read again until it changes.
            return lambda: self.store.put(file.path, file.language, file.stamp, b"", ())
        digest = digest_of(data)
        if known is not None and known[2] == digest:
            return lambda: self.store.touch(file.path, file.stamp)
        found = definitions(data, file.language)
        imports = _python_imports(data, file)
        return lambda: self.store.put(file.path, file.language, file.stamp, digest, found, imports)

    def update(self, relative: str) -> bool:
        """Read one file again, if it has changed; whether that changed the index."""
        known = self.store.stamp(relative)
        lists = self.ignored.now()
        file = source_file(self.root, relative, lists)
        if file is None or not self._is_entered(relative, lists):
            if known is None:
                return False
            self.store.remove([relative])
            return True
        if is_as_known(known, file.stamp):
            return False
        write = self._parsed(file, known)
        with self.store.writing():
            write()
        return True

    def _is_entered(self, relative: str, lists: IgnoreMoment) -> bool:
        parts = relative.split("/")[:-1]
        return all(
            is_entered(self.root, "/".join(parts[: i + 1]), lists)
            for i in range(len(parts))
        )

    def _add_packages(self, folders: list[Path], stop: Callable[[], bool]) -> int:
        known = self.store.stamps(package=True)
        seen: set[str] = set()
        for file, read in signatures(folders, self.store.imported()):
            if stop():
                return len(seen)
            seen.add(file.path)
            if not is_as_known(known.get(file.path), file.stamp):
                found, digest = read()
                with self.store.writing():
                    self.store.put(
                        file.path, file.language, file.stamp, digest, found, package=True
                    )
        with self.store.writing():
            self.store.remove(known.keys() - seen)
        return len(seen)


def is_as_known(known: Stamp | None, stamp: tuple[int, int]) -> bool:
    """Whether a file has the time and size that an index knows of it."""
    return known is not None and known[:2] == stamp


def _forget_old(file: Path) -> None:
    """Remove the indexes beside this one that nobody has used for long."""
    with contextlib.suppress(OSError):
        os.utime(file)
        for other in file.parent.glob("*.sqlite"):
            if time.time() - other.stat().st_mtime > _KEPT_SECONDS:
                tables.remove(other)


def _python_imports(data: bytes, file: WorkspaceFile) -> list[tuple[str, str]]:
    if file.language != "python":
        return []
    return [
        (found.module, found.name)
        for found in imports_of(data.decode("utf-8", "replace"), "python")
        if not found.module.startswith(".")
    ]
