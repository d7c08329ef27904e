#!/usr/bin/env bash
# A form feed in a file makes pygls put every later edit into the wrong line.
#
# The protocol knows three ends of a line, LF, CRLF and CR, and editors count by them. Sources of long standing
# (Python's own library, GNU programs) part their sections by a form feed, which is plain white space to
# the compiler. One expects a library for language servers to count as the protocol does. Its document is split
# by `str.splitlines`, for which a form feed, a vertical tab and the separators \x1c to \x1e end a line as well: an
# edit below one is applied a line too high, without an error, and server and editor no longer have the
# same text from then on.
#
# Seen on 2026-11-28 with pygls 2.1.1 and lsprotocol 2025.0.0.
#
# Why it matters here: a hole would be filled against text that the user does not have. The server keeps
# documents of its own.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check pygls==2.1.1 lsprotocol==2025.0.0
"$folder/venv/bin/python" - <<'PY'
import sys

from lsprotocol import types
from pygls.workspace import TextDocument


def renamed(between: str) -> str:
    """The text after an editor has replaced `old`, on its line 2, by `new`."""
    text = f"import re\n{between}\ndef old():\n    return re\n"
    document = TextDocument("file:///section.py", source=text)
    span = types.Range(types.Position(2, 4), types.Position(2, 7))
    document.apply_change(types.TextDocumentContentChangePartial(range=span, text="new"))
    return document.source


changed = False
for name, between, kept in (("blank line", "", True), ("form feed", "\f", False)):
    expected = f"import re\n{between}\ndef new():\n    return re\n"
    seen = renamed(between)
    print(f"{name}: {seen!r}")
    changed |= (seen == expected) != kept
sys.exit(changed)
PY
