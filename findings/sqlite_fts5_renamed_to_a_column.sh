#!/usr/bin/env bash
# A full-text table of SQLite may be renamed to what one of its columns is called, and is then out of reach.
#
# FTS5 gives each of its tables a hidden column of the table's own name, which takes commands. So a table that has a
# column of that name cannot be made: "vtable constructor failed" says as little as that, but nothing is lost. One
# would guess that a rename to such a name is refused in the same way. It is not: ALTER TABLE ... RENAME TO
# succeeds, and from then on the table's constructor fails whenever it is opened. It cannot be read, nor renamed back,
# nor dropped, and PRAGMA integrity_check ends with the same error. The texts are still there, in the table's
# shadow table for contents.
#
# Seen on 2026-11-28 with SQLite 3.54.1, as apsw 3.54.1.0 carries it, on CPython 3.11. The refusal at creation was
# seen with 3.40.1, too. FTS4 refuses such a name at creation in the same words; its rename was not tried.
#
# Why it matters here: the index of a workspace is such a table. A new version of its layout is made as
# a new file, never by renaming within one.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check apsw==3.54.1.0
"$folder/venv/bin/python" - "$folder/notes.db" <<'PY'
import sys

import apsw


def said(path: str, sql: str) -> str:
    """What a connection of its own answers."""
    connection = apsw.Connection(path)
    try:
        return f"{list(connection.execute(sql))}"
    except apsw.SQLError as error:
        return f"SQLError: {error}"
    finally:
        connection.close()


path = sys.argv[1]
print("SQLite", apsw.sqlite_lib_version())
steps = [
    ("CREATE VIRTUAL TABLE body USING fts5(title, body)", False),
    ("CREATE VIRTUAL TABLE notes USING fts5(title, body)", True),
    ("INSERT INTO notes VALUES ('greeting', 'hello world')", True),
    ("ALTER TABLE notes RENAME TO body", True),
    ("SELECT title FROM body WHERE body MATCH 'hello'", False),
    ("ALTER TABLE body RENAME TO notes", False),
    ("DROP TABLE body", False),
    ("PRAGMA integrity_check", False),
    ("SELECT c0, c1 FROM body_content", True),
]
as_seen = True
for sql, works in steps:
    answer = said(path, sql)
    print(f"{sql}\n    {answer}")
    as_seen &= works != answer.startswith("SQLError: vtable constructor failed")
print("as seen" if as_seen else "no longer as seen")
sys.exit(not as_seen)
PY
