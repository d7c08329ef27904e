#!/usr/bin/env bash
# lsprotocol reads a code action that carries a command as a bare command, its inside as text.
#
# An answer to textDocument/codeAction may mix commands and code actions, and a code action may have a
# `command` of its own, an object. One expects the two to be told apart by that. The converter looks only
# whether there is a key `command`: the action becomes a Command whose `command` is the printed
# dictionary. Title aside, kind and arguments are gone, and nothing is raised.
#
# Seen on 2026-11-28 with lsprotocol 2025.0.0 and cattrs 26.2.1.
#
# Why it matters here: a test client built on it cannot run what a server offers; ours has a hook of its own.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check lsprotocol==2025.0.0 cattrs==26.2.1
"$folder/venv/bin/python" - <<'PY'
import sys
from importlib.metadata import version

from lsprotocol import converters, types

answer = {"jsonrpc": "2.0", "id": 1, "result": [
    {"title": "Fill", "kind": "refactor.rewrite",
     "command": {"title": "Fill", "command": "tool.fill", "arguments": [7]}}]}
(found,) = converters.get_converter().structure(answer, types.CodeActionResponse).result
print("cattrs", version("cattrs"), type(found).__name__, repr(found.command), found.arguments)
text = isinstance(found.command, str) and "tool.fill" in found.command
sys.exit(not (type(found) is types.Command and text and found.arguments is None))
PY
