"""The index of one workspace: kept true to its files, and asked for definitions.

Everything here may be called from any thread; a look-up never waits for the disk of the workspace.
Where the index is found damaged while it is used, it is thrown away and said once; look-ups find
nothing until it is built again.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from blockdiff.syntax.grammars import language_of
from blockdiff.system.ignored import IgnoreFiles, Verdict
from blockdiff.types import OnProgress, no_op
from blockdiff.weights.store import cache_root
from blockdiff.workspace import store
from blockdiff.workspace.definitions import Definition, definitions
from blockdiff.workspace.files import (
    WorkspaceFile,
    is_entered,
    read_source,
    source_file,
    source_files,
)
from blockdiff.workspace.imports import candidates, family_of, imports_of
from blockdiff.workspace.packages import signatures, site_packages
from blockdiff.workspace.store import MOST_FILES_IN_MEMORY, Store

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


class Index:
    """Attributes:
    root: folder of the workspace.
    """

    def __init__(
        self,
        root: Path,
        *,
        file: Path | None = None,
        ignored: IgnoreFiles | None = None,
        say: Callable[[str], None] = no_op,
    ) -> None:
        """Open the index of a workspace, or make an empty one.

        Args:
            file: where it lies; by default one for each workspace in the user's cache folder.
            say: is told once what is wrong with it.
        """
        self.root = root.resolve()
        self._file = file or file_of(self.root)
        self._ignored = ignored or IgnoreFiles()
        self._say, self._said = say, ""
        self._store = Store.open(self._file)
        self._tell(self._store.trouble)

    def close(self) -> None:
        self._store.close()

    @property
    def file(self) -> Path | None:
        """Where it lies; None in memory."""
        return self._store.path

    def refresh(
        self,
        progress: OnProgress = no_op,
        stop: Callable[[], bool] = lambda: False,
    ) -> Refreshed:
        """Make it true to the files, reading only those whose time or size has changed.

        Args:
            progress: told what is done, and the share of it.
            stop: asked between two files.
        """
        with self._alone() as alone:
            if not alone or not self.root.is_dir():
                return Refreshed()
            for _ in range(2):  # once more where it turns out to be damaged
                try:
                    return self._refreshed(progress, stop)
                except sqlite3.DatabaseError as error:
                    if not self._mended(error):
                        return Refreshed()
        return Refreshed()

    def _refreshed(self, progress: OnProgress, stop: Callable[[], bool]) -> Refreshed:
        begun = time.monotonic()
        known = self._store.stamps()
        files = []
        for file in source_files(self.root, self._ignored):
            files.append(file)
            if stop():
                return Refreshed(len(files))
            if self.file is None and len(files) >= MOST_FILES_IN_MEMORY:
                break
        stale = [file for file in files if known.get(file.path, (0, -1, b""))[:2] != file.stamp]
        gone = known.keys() - {file.path for file in files}
        with self._store.writing():
            self._store.remove(gone)
        read = self._read_all(stale, known, progress, stop)
        installed = 0
        if read == len(stale):
            installed = self._add_packages(site_packages(self.root), stop)
        self._store.checkpoint()
        if self.file is not None:
            _forget_old(self.file)
        seconds = time.monotonic() - begun
        ended = read == len(stale) and not stop()
        return Refreshed(len(files), read, len(gone), installed, ended, seconds)

    def _read_all(
        self,
        stale: list[WorkspaceFile],
        known: dict[str, tuple[int, int, bytes]],
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
            with self._store.writing():
                for write in batch:
                    write()
            if stop():
                break
        return done

    def _parsed(
        self, file: WorkspaceFile, known: tuple[int, int, bytes] | None
    ) -> Callable[[], None]:
        """What there is to write of a file, without a hand on the store meanwhile."""
        data = read_source(self.root / file.path)
        if data is None:
            # Not read again until it changes.
            return lambda: self._store.put(file.path, file.language, file.stamp, b"", ())
        digest = store.digest_of(data)
        if known is not None and known[2] == digest:
            return lambda: self._store.touch(file.path, file.stamp)
        found = definitions(data, file.language)
        imports = _python_imports(data, file)
        return lambda: self._store.put(
            file.path, file.language, file.stamp, digest, found, imports
        )

    def update(self, path: Path) -> bool:
        """Read one file again, if it has changed; whether that changed the index."""
        try:
            relative = path.relative_to(self.root).as_posix()
        except ValueError:
            return False
        changed = False
        with self._guarded():
            changed = self._updated(relative)
        return changed

    def _updated(self, relative: str) -> bool:
        known = self._store.stamp(relative)
        file = source_file(self.root, relative, self._ignored)
        if file is None or not self._is_entered(relative):
            if known is None:
                return False
            self._store.remove([relative])
            return True
        if known is not None and known[:2] == file.stamp:
            return False
        write = self._parsed(file, known)
        with self._store.writing():
            write()
        return True

    def _is_entered(self, relative: str) -> bool:
        parts = relative.split("/")[:-1]
        return all(
            is_entered(self.root, "/".join(parts[: i + 1]), self._ignored)
            for i in range(len(parts))
        )

    def _add_packages(self, folders: list[Path], stop: Callable[[], bool]) -> int:
        known = self._store.stamps(package=True)
        seen: set[str] = set()
        for file, read in signatures(folders, self._store.imported()):
            if stop():
                return len(seen)
            seen.add(file.path)
            if known.get(file.path, (0, -1, b""))[:2] != file.stamp:
                found, digest = read()
                with self._store.writing():
                    self._store.put(
                        file.path, file.language, file.stamp, digest, found, package=True
                    )
        with self._store.writing():
            self._store.remove(known.keys() - seen)
        return len(seen)

    def named(
        self, names: Sequence[str], language: str, paths: Sequence[str] = ()
    ) -> list[Definition]:
        """The definitions that bear one of these names, in languages of this family; those of a
        very common name only in the files `paths`."""
        made: list[Definition] = []
        with self._guarded():
            found = self._store.named(names, paths)
            made = [d for d in found if self._is_of(d, language)]
        return made

    def members(self, container: str, language: str, path: str = "") -> list[Definition]:
        """What belongs to a class; of the one in the file `path`, if that is given."""
        made: list[Definition] = []
        with self._guarded():
            found = self._store.members(container, path)
            made = [d for d in found if self._is_of(d, language)]
        return made

    def of_file(self, path: str) -> list[Definition]:
        """All definitions of a file."""
        made: list[Definition] = []
        with self._guarded():
            made = self._store.of_file(path)
        return made

    def modules(self, names: Sequence[str], path: str, language: str) -> dict[str, list[str]]:
        """The files that modules lie in, by module, as the file `path` imports them."""
        lasts = {_last(name, language) for name in names} - {""}
        found: list[str] = []
        with self._guarded():
            if lasts:
                found = self._store.of_modules(sorted(lasts))
        by_end: dict[str, list[str]] = {}
        for file in found:
            for end in _ends(file.rpartition("/")[0] if family_of(language) == "go" else file):
                by_end.setdefault(end, []).append(file)
        made: dict[str, list[str]] = {}
        for name in names:
            ends = candidates(name, path, language)
            if family_of(language) == "go":
                folders = ("/".join(name.split("/")[-2:]), name.rpartition("/")[2])
                ends = iter([next((end for end in folders if end in by_end), "")])
            if hits := {file for end in ends for file in by_end.get(end, ())}:
                made[name] = sorted(hits, key=lambda file: (len(file), file))
        return made

    def search(self, text: str, most: int = 20) -> list[Definition]:
        """Definitions by the words of their name and documentation."""
        made: list[Definition] = []
        with self._guarded():
            made = self._store.search(text, most)
        return made

    def counts(self) -> dict[str, tuple[int, int]]:
        """Files and definitions by language; those of installed packages under `packages`."""
        made: dict[str, tuple[int, int]] = {}
        with self._guarded():
            made = self._store.counts()
        return made

    def is_whole(self) -> bool:
        """Whether SQLite finds nothing wrong with it."""
        made: bool = False
        with self._guarded():
            made = self._store.is_whole()
        return made

    def stale(self) -> list[str]:
        """Files that are not in it as they are now, or are in it and gone."""
        known: dict[str, tuple[int, int, bytes]] = {}
        with self._guarded():
            known = self._store.stamps()
        there = {file.path: file.stamp for file in source_files(self.root, self._ignored)}
        changed = {
            path for path, stamp in there.items() if known.get(path, (0, -1, b""))[:2] != stamp
        }
        return sorted(changed | (known.keys() - there.keys()))

    def is_open(self, path: str) -> bool:
        """Whether the signatures of a file may be shown to a model at this moment.

        Those of installed packages may although git does not track them.
        """
        if os.path.isabs(path):
            return self._ignored.verdict(Path(path)) is not Verdict.CLOSED
        return self._ignored.verdict(self.root / path) is Verdict.OPEN

    def name_of(self, path: Path) -> str:
        """A file as definitions name it: relative to the workspace; else as it is."""
        with contextlib.suppress(ValueError, OSError):
            return path.relative_to(self.root).as_posix()
        with contextlib.suppress(ValueError, OSError):
            return path.resolve().relative_to(self.root).as_posix()
        return path.as_posix()

    @staticmethod
    def _is_of(definition: Definition, language: str) -> bool:
        return _family_of_file(definition.path) == family_of(language)

    @contextlib.contextmanager
    def _guarded(self) -> Iterator[None]:
        """What goes wrong with the file ends the block, and is mended."""
        try:
            if self._store.is_gone:
                self._reopen()
            yield
        except sqlite3.Error as error:
            self._mended(error)

    def _mended(self, error: sqlite3.Error) -> bool:
        """Whether the index was thrown away, as it is damaged. One that cannot be had just now is
        left as it is."""
        if isinstance(error, sqlite3.ProgrammingError):  # it was closed meanwhile
            return False
        if self.file is None or not store.is_damage(error):
            self._tell(f"the index cannot be brought up to date now ({error})")
            return False
        self._store.close()
        with contextlib.suppress(OSError):
            store.remove(self._file)
        self._store = Store.open(self._file)
        self._tell(self._store.trouble or "the index was damaged: it is built again")
        return True

    def _reopen(self) -> None:
        self._store.close()
        self._store = Store.open(self._file)
        self._tell(self._store.trouble)

    def _tell(self, trouble: str) -> None:
        if trouble and trouble != self._said:
            self._said = trouble
            self._say(trouble)

    @contextlib.contextmanager
    def _alone(self) -> Iterator[bool]:
        """Whether no other process builds this index at the same time."""
        from filelock import FileLock, Timeout

        if self.file is None:
            yield True
            return
        lock = FileLock(self._file.with_suffix(".lock"))
        try:
            lock.acquire(timeout=0)
        except (Timeout, OSError) as error:
            yield not isinstance(error, Timeout)
            return
        try:
            yield True
        finally:
            lock.release()


def file_of(root: Path) -> Path:
    """Where the index of a workspace lies."""
    name = hashlib.blake2b(str(root).encode("utf-8", "surrogateescape"), digest_size=12).hexdigest()
    return cache_root() / "index" / f"{name}.sqlite"


def _forget_old(file: Path) -> None:
    """Remove the indexes beside this one that nobody has used for long."""
    with contextlib.suppress(OSError):
        os.utime(file)
        for other in file.parent.glob("*.sqlite"):
            if time.time() - other.stat().st_mtime > _KEPT_SECONDS:
                store.remove(other)


def _python_imports(data: bytes, file: WorkspaceFile) -> list[tuple[str, str]]:
    if file.language != "python":
        return []
    return [
        (found.module, found.name)
        for found in imports_of(data.decode("utf-8", "replace"), "python")
        if not found.module.startswith(".")
    ]


def _last(module: str, language: str) -> str:
    name = module.rstrip("/").rpartition("/")[2]
    return name.partition(".")[0] if family_of(language) == "c" else name


def _ends(path: str) -> Iterator[str]:
    """A path without the first of its folders, without the first two, and so on."""
    yield path
    while "/" in path:
        path = path.partition("/")[2]
        yield path


@lru_cache(maxsize=8192)
def _family_of_file(path: str) -> str:
    return family_of(language_of(path))
