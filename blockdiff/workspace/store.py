"""The files and definitions of one workspace, as SQLite has them: written and looked up."""

from __future__ import annotations

import contextlib
import json
import re
import sqlite3
import threading
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from blockdiff.workspace import tables
from blockdiff.workspace.definitions import Definition, TagKind

Stamp = tuple[int, int, bytes]
"""Time of change, size and digest of a file."""

_COMMON = 24  # definitions of a name that say nothing of which is meant
_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")

_COLUMNS = "d.name, d.kind, d.signature, d.doc, d.container, d.line, f.path"
_KINDS = {kind.value: kind for kind in TagKind}
# All names of a place at once; of each no more are counted than tell that it is common.
_COUNTED = f"""
SELECT value, (SELECT COUNT(*) FROM (
  SELECT 1 FROM definitions WHERE name = value LIMIT {_COMMON + 1}
)) AS count FROM json_each(?) WHERE count > 0 ORDER BY key
"""
_NAMED = f"""
SELECT {_COLUMNS} FROM json_each(?) asked JOIN definitions d ON d.name = asked.value
JOIN files f ON f.id = d.file ORDER BY asked.key, d.file, d.id
"""


class Store:
    """Tables of files and definitions. All methods may be called from any thread.

    On disk there is a connection to read by, which waits for nobody who writes.

    Attributes:
        path: of the file; None in memory.
        trouble: why it was built anew or is in memory; empty: it is as it was left.

    Raises sqlite3.Error where another process holds the file for too long, or damages it.
    """

    def __init__(self, connection: sqlite3.Connection, path: Path | None, trouble: str) -> None:
        self._connection, self.path, self.trouble = connection, path, trouble
        self._lock = self._read_lock = threading.RLock()
        self._reader, self._file = connection, 0
        if path is not None:
            self._file = path.stat().st_ino
            self._reader, self._read_lock = tables.connect(str(path)), threading.RLock()

    @classmethod
    def open(cls, path: Path | None) -> Store:
        """The index in a file, or an empty one: in it, or in memory where that cannot be."""
        trouble = ""
        if path is not None:
            try:
                path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                connection, trouble = tables.opened(path)
                return cls(connection, path, trouble)
            except (OSError, sqlite3.Error) as error:
                trouble = f"the index cannot be kept on disk ({error}): it is kept in memory"
        return cls(tables.in_memory(), None, trouble)

    def close(self) -> None:
        with self._lock, self._read_lock:
            self._connection.close()
            self._reader.close()

    @property
    def is_gone(self) -> bool:
        """Whether another process has put a new file in the place of this one."""
        try:
            return self.path is not None and self.path.stat().st_ino != self._file
        except OSError:
            return True

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """What is written inside is there as a whole afterwards, or not at all."""
        with self._lock, self._connection:
            self._connection.execute("BEGIN IMMEDIATE")
            yield

    def stamps(self, package: bool = False) -> dict[str, Stamp]:
        """Those of all files, by their path."""
        rows = self._all("SELECT path, mtime, size, digest FROM files WHERE package = ?", package)
        return {path: (mtime, size, digest) for path, mtime, size, digest in rows}

    def stamp(self, path: str) -> Stamp | None:
        """That of one file."""
        rows = self._all("SELECT mtime, size, digest FROM files WHERE path = ?", path)
        return rows[0] if rows else None

    def put(
        self,
        path: str,
        language: str,
        stamp: tuple[int, int],
        digest: bytes,
        found: Sequence[Definition],
        imports: Iterable[tuple[str, str]] = (),
        *,
        package: bool = False,
    ) -> None:
        """A file and all its definitions in the place of those it had."""
        with self._lock:
            run = self._connection.execute
            run("DELETE FROM files WHERE path = ?", (path,))
            cursor = run(
                "INSERT INTO files (path, language, module, mtime, size, digest, package)"
                " VALUES (?, ?, ?, ?, ?, ?, ?)",
                (path, language, module_of(path, language), *stamp, digest, package),
            )
            file = cursor.lastrowid
            self._connection.executemany(
                "INSERT INTO definitions (file, name, kind, signature, doc, container, line, words)"
                " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                [
                    (file, d.name, d.kind.value, d.signature, d.doc, d.container, d.line, words)
                    for d, words in zip(found, map(words_of, found), strict=True)
                ],
            )
            self._connection.executemany(
                "INSERT INTO imports VALUES (?, ?, ?)", [(file, *pair) for pair in imports]
            )

    def touch(self, path: str, stamp: tuple[int, int]) -> None:
        """A file was written again as it was."""
        with self._lock:
            self._connection.execute(
                "UPDATE files SET mtime = ?, size = ? WHERE path = ?", (*stamp, path)
            )

    def remove(self, paths: Iterable[str]) -> None:
        with self._lock:
            self._connection.executemany(
                "DELETE FROM files WHERE path = ?", [(path,) for path in paths]
            )

    def named(self, names: Sequence[str], paths: Sequence[str] = ()) -> list[Definition]:
        """All that bear one of these names; those of a very common name only in these files."""
        counts = dict(self._all(_COUNTED, json.dumps(list(names))))
        rare = [name for name, count in counts.items() if count <= _COMMON]
        found = self._made(self._all(_NAMED, json.dumps(rare))) if rare else []
        common = [name for name, count in counts.items() if count > _COMMON]
        if common and paths:
            names_, files = (",".join("?" * len(given)) for given in (common, paths))
            where = f"d.name IN ({names_}) AND f.path IN ({files}) LIMIT 500"
            found += self._definitions(where, *common, *paths)
        return found

    def members(self, container: str, path: str = "") -> list[Definition]:
        """What belongs to a class: of the one in a file, or of all of that name."""
        where, given = ("AND f.path = ?", (path,)) if path else ("", ())
        return self._definitions(
            f"d.container = ? {where} ORDER BY f.path, d.line LIMIT 500", container, *given
        )

    def of_file(self, path: str) -> list[Definition]:
        """All of a file, in their order."""
        return self._definitions("f.path = ? ORDER BY d.line", path)

    def of_modules(self, modules: Sequence[str]) -> list[str]:
        """Paths of the files that are a module of one of these names, whatever it lies in."""
        marks = ",".join("?" * len(modules))
        rows = self._all(f"SELECT path FROM files WHERE module IN ({marks}) LIMIT 2000", *modules)
        return [path for (path,) in rows]

    def search(self, text: str, most: int = 20) -> list[Definition]:
        """Those whose name or documentation has the words of a text, the best first."""
        words = _WORD.findall(text)
        if not words:
            return []
        asked = " ".join(f'"{word.lower()}"*' for word in words[:16])
        return self._definitions(
            f"d.id IN (SELECT rowid FROM by_words WHERE words MATCH ? ORDER BY rank LIMIT {most})",
            asked,
        )

    def imported(self) -> list[tuple[str, str]]:
        """Module and name of every import in the Python files of the workspace."""
        return self._all(
            "SELECT DISTINCT i.module, i.name FROM imports i JOIN files f ON f.id = i.file"
            " WHERE f.package = 0 ORDER BY 1, 2"
        )

    def counts(self) -> dict[str, tuple[int, int]]:
        """Files and definitions by language; those of installed packages under `packages`."""
        rows = self._all(
            "SELECT CASE package WHEN 1 THEN 'packages' ELSE language END, COUNT(DISTINCT f.id),"
            " COUNT(d.id) FROM files f LEFT JOIN definitions d ON d.file = f.id GROUP BY 1"
        )
        return {language: (files, found) for language, files, found in rows}

    def is_whole(self) -> bool:
        """Whether the file is as SQLite wrote it."""
        return bool(self._all("PRAGMA quick_check")[0][0] == "ok")

    def checkpoint(self) -> None:
        """Bring what was written into the file itself."""
        with self._lock, contextlib.suppress(sqlite3.Error):
            self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def _definitions(self, where: str, *given: object) -> list[Definition]:
        rows = self._all(
            f"SELECT {_COLUMNS} FROM definitions d JOIN files f ON f.id = d.file WHERE {where}",
            *given,
        )
        return self._made(rows)

    @staticmethod
    def _made(rows: list[Any]) -> list[Definition]:
        return [
            Definition(name, _KINDS[kind], signature, doc, container, line, path)
            for name, kind, signature, doc, container, line, path in rows
        ]

    def _all(self, query: str, *given: object) -> list[Any]:
        with self._read_lock:
            return self._reader.execute(query, given).fetchall()


def words_of(definition: Definition) -> str:
    """What a definition is found by: the words of its name, its class and its documentation."""
    names = (definition.name, definition.container)
    split = " ".join(word for name in names for word in _WORD.findall(name))
    return f"{split} {definition.doc}".lower().strip()


def module_of(path: str, language: str) -> str:
    """The last part of the name that other files import a file by."""
    parts = path.split("/")
    stem = parts[-1].partition(".")[0] or parts[-1]
    if len(parts) > 1 and (language == "go" or stem in ("__init__", "index", "mod", "init", "lib")):
        return parts[-2]
    return stem
