"""The index of one workspace, asked for definitions; `build.py` keeps it true to the files.

Everything here may be called from any thread; a look-up never waits for the disk of the workspace.
Where the index is found damaged while it is used, it is thrown away and said once; look-ups find
nothing until it is built again.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from functools import cache, lru_cache
from pathlib import Path
from typing import TypeVar

from blockdiff.syntax.grammars import language_of
from blockdiff.system.ignored import IgnoreFiles, Verdict
from blockdiff.types import OnProgress, no_op
from blockdiff.weights.folders import cache_root
from blockdiff.workspace import tables
from blockdiff.workspace.build import Build, Refreshed, is_as_known
from blockdiff.workspace.definitions import Definition
from blockdiff.workspace.files import (
    source_files,
)
from blockdiff.workspace.imports import candidates, family_of
from blockdiff.workspace.store import Stamp, Store

_T = TypeVar("_T")


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
                kept = self._store
                try:
                    return Build(kept, self.root, self._ignored).refresh(progress, stop)
                except sqlite3.DatabaseError as error:
                    if not self._mended(error) and kept is self._store:
                        return Refreshed()
        return Refreshed()

    def update(self, path: Path) -> bool:
        """Read one file again, if it has changed; whether that changed the index."""
        try:
            relative = path.relative_to(self.root).as_posix()
        except ValueError:
            return False
        return self._asked(
            lambda kept: Build(kept, self.root, self._ignored).update(relative), False
        )

    def named(
        self, names: Sequence[str], language: str, paths: Sequence[str] = ()
    ) -> list[Definition]:
        """The definitions that bear one of these names, in languages of this family; those of a
        very common name only in the files `paths`."""
        found: list[Definition] = self._asked(lambda kept: kept.named(names, paths), [])
        return _of_family(found, language)

    def members(self, container: str, language: str, path: str = "") -> list[Definition]:
        """What belongs to a class; of the one in the file `path`, if that is given."""
        found: list[Definition] = self._asked(lambda kept: kept.members(container, path), [])
        return _of_family(found, language)

    def of_file(self, path: str) -> list[Definition]:
        """All definitions of a file."""
        return self._asked(lambda kept: kept.of_file(path), [])

    def modules(self, names: Sequence[str], path: str, language: str) -> dict[str, list[str]]:
        """The files that modules lie in, by module, as the file `path` imports them."""
        lasts = sorted({_last(name, language) for name in names} - {""})
        found: list[str] = []
        if lasts:
            found = self._asked(lambda kept: kept.of_modules(lasts), [])
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
        return self._asked(lambda kept: kept.search(text, most), [])

    def counts(self) -> dict[str, tuple[int, int]]:
        """Files and definitions by language; those of installed packages under `packages`."""
        return self._asked(lambda kept: kept.counts(), {})

    def is_whole(self) -> bool:
        """Whether SQLite finds nothing wrong with it."""
        return self._asked(lambda kept: kept.is_whole(), False)

    def stale(self) -> list[str]:
        """Files that are not in it as they are now, or are in it and gone."""
        known: dict[str, Stamp] = self._asked(lambda kept: kept.stamps(), {})
        there = {file.path: file.stamp for file in source_files(self.root, self._ignored)}
        changed = {path for path, stamp in there.items() if not is_as_known(known.get(path), stamp)}
        return sorted(changed | (known.keys() - there.keys()))

    def open_files(self) -> Callable[[str], bool]:
        """Tells of a file whether its signatures may be shown to a model at this moment.

        Those of installed packages may although git does not track them.
        """
        lists = self._ignored.now()

        @cache
        def is_open(path: str) -> bool:
            if os.path.isabs(path):
                return lists.verdict(Path(path)) is not Verdict.CLOSED
            return lists.verdict(self.root / path) is Verdict.OPEN

        return is_open

    def name_of(self, path: Path) -> str:
        """A file as definitions name it: relative to the workspace; else as it is."""
        with contextlib.suppress(ValueError, OSError):
            return path.relative_to(self.root).as_posix()
        with contextlib.suppress(ValueError, OSError):
            return path.resolve().relative_to(self.root).as_posix()
        return path.as_posix()

    def _asked(self, ask: Callable[[Store], _T], nothing: _T) -> _T:
        """What the store says; `nothing` where its file is at fault, which is mended."""
        try:
            if self._store.is_gone:
                self._reopen()
            return ask(self._store)
        except sqlite3.Error as error:
            self._mended(error)
            return nothing

    def _mended(self, error: sqlite3.Error) -> bool:
        """Whether the index was thrown away, as it is damaged. One that cannot be had just now is
        left as it is."""
        if isinstance(error, sqlite3.ProgrammingError):  # it was closed meanwhile
            return False
        if self.file is None or not tables.is_damage(error):
            self._tell(f"the index cannot be brought up to date now ({error})")
            return False
        self._store.close()
        with contextlib.suppress(OSError):
            tables.remove(self._file)
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


def _last(module: str, language: str) -> str:
    name = module.rstrip("/").rpartition("/")[2]
    return name.partition(".")[0] if family_of(language) == "c" else name


def _ends(path: str) -> Iterator[str]:
    """A path without the first of its folders, without the first two, and so on."""
    yield path
    while "/" in path:
        path = path.partition("/")[2]
        yield path


def _of_family(found: list[Definition], language: str) -> list[Definition]:
    family = family_of(language)
    return [one for one in found if _family_of_file(one.path) == family]


@lru_cache(maxsize=8192)
def _family_of_file(path: str) -> str:
    return family_of(language_of(path))
