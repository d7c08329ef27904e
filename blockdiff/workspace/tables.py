"""Where an index lies: one SQLite file for a workspace, in the user's cache folder.

An index is made from files that are still there: one that is damaged, or of another version, is
thrown away and built again. Where nothing can be written it is kept in memory. Several processes
may have the same file open (write-ahead log): one of them builds, all read.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path

VERSION = 1
"""Of the tables and of what the tag queries find; another one is built anew."""

_BUSY_SECONDS = 5.0  # to wait for another process that writes
_OPEN_SECONDS = 0.2  # the same before there is anything to write
_CACHE_KIB = 4_096

_SCHEMA = """
CREATE TABLE files (
  id INTEGER PRIMARY KEY, path TEXT UNIQUE NOT NULL, language TEXT NOT NULL, module TEXT NOT NULL,
  mtime INTEGER NOT NULL, size INTEGER NOT NULL, digest BLOB NOT NULL, package INTEGER NOT NULL
);
CREATE INDEX by_module ON files(module);
CREATE TABLE definitions (
  id INTEGER PRIMARY KEY, file INTEGER NOT NULL REFERENCES files(id) ON DELETE CASCADE,
  name TEXT NOT NULL, kind TEXT NOT NULL, signature TEXT NOT NULL, doc TEXT NOT NULL,
  container TEXT NOT NULL, line INTEGER NOT NULL, words TEXT NOT NULL
);
CREATE INDEX by_name ON definitions(name, file);
CREATE INDEX by_container ON definitions(container, file);
CREATE INDEX by_file ON definitions(file);
CREATE TABLE imports (
  file INTEGER NOT NULL REFERENCES files(id) ON DELETE CASCADE,
  module TEXT NOT NULL, name TEXT NOT NULL
);
CREATE INDEX imports_of ON imports(file);
CREATE VIRTUAL TABLE by_words USING fts5(words, content='definitions', content_rowid='id');
CREATE TRIGGER added AFTER INSERT ON definitions BEGIN
  INSERT INTO by_words(rowid, words) VALUES (new.id, new.words);
END;
CREATE TRIGGER removed AFTER DELETE ON definitions BEGIN
  INSERT INTO by_words(by_words, rowid, words) VALUES ('delete', old.id, old.words);
END;
"""


def is_damage(error: sqlite3.Error) -> bool:
    """Whether an error says that the file is no index, and not that it cannot be had just now."""
    plain = type(error) is sqlite3.DatabaseError  # "malformed", "file is not a database"
    return plain or "no such" in str(error) or "malformed" in str(error)


def connect(name: str) -> sqlite3.Connection:
    """One that may be used from any thread, by one at a time."""
    connection = sqlite3.connect(
        name, timeout=_OPEN_SECONDS, isolation_level=None, check_same_thread=False
    )
    connection.execute("PRAGMA foreign_keys = ON")
    connection.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")
    return connection


def opened(path: Path) -> tuple[sqlite3.Connection, str]:
    """A file to be read and written, made anew where it has to be, and what was wrong with it.

    Raises sqlite3.Error for one that is locked or cannot be written, OSError likewise.
    """
    connection, trouble = _known_or_new(path)
    connection.execute(f"PRAGMA busy_timeout = {int(1e3 * _BUSY_SECONDS)}")
    return connection, trouble


def in_memory() -> sqlite3.Connection:
    """Tables that are gone with the process."""
    connection = connect(":memory:")
    connection.executescript(_SCHEMA)
    return connection


def _known_or_new(path: Path) -> tuple[sqlite3.Connection, str]:
    trouble = ""
    try:
        connection = _read(path)
        if connection is not None:
            return connection, trouble
        if path.exists():
            trouble = "the index was of another version: it is built again"
    except sqlite3.DatabaseError as error:
        if not is_damage(error):
            raise
        trouble = "the index was damaged: it is built again"
    remove(path)
    os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
    connection = connect(str(path))
    try:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.execute("BEGIN IMMEDIATE")
        if not connection.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchone():
            for statement in _statements():
                connection.execute(statement)
            connection.execute(f"PRAGMA user_version = {VERSION}")
        connection.execute("COMMIT")
    except sqlite3.Error:
        connection.close()
        raise
    return connection, trouble


def _read(path: Path) -> sqlite3.Connection | None:
    """An index of this version; None if there is none, or one of another version."""
    if not path.exists() or path.stat().st_size == 0:
        return None
    connection = connect(str(path))
    try:
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        if version == VERSION:
            connection.execute("SELECT COUNT(*) FROM sqlite_master").fetchone()
            connection.execute("SELECT path FROM files LIMIT 1").fetchone()
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = NORMAL")
            return connection
    except sqlite3.Error:
        connection.close()
        raise
    connection.close()
    return None


def remove(path: Path) -> None:
    """The file of an index, and what SQLite keeps beside it."""
    for name in (path, *(path.with_name(path.name + end) for end in ("-wal", "-shm"))):
        name.unlink(missing_ok=True)


def _statements() -> Iterator[str]:
    """The statements of the schema: `executescript` would end the transaction."""
    statement = ""
    for line in _SCHEMA.strip().splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""
