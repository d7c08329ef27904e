"""The files that a URI of an editor may mean: one document has many names."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote_to_bytes

_PARTS = re.compile(
    r"(?:(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*):)?(?://(?P<host>[^/?#]*))?"
    r"(?P<path>[^?#]*)(?:\?(?P<query>[^#]*))?(?:#.*)?",
    re.DOTALL,
)  # as in RFC 3986, appendix B
_DRIVE = re.compile(r"/[A-Za-z]:(?=/|$)")
_HERE = ("", "localhost", "127.0.0.1", "[::1]")
_MOST_CHARACTERS = 8192  # no system has longer paths


def file_of(uri: str) -> Path | None:
    """The file of a `file:` URI; None for a document that is not on this machine's disk."""
    found = _PARTS.fullmatch(uri)
    if found is None or (found["scheme"] or "").lower() != "file":
        return None
    host = found["host"] or ""
    path = _decoded(found["path"])
    if path and host.lower() not in _HERE:
        return Path(f"//{host}{path}")
    return _path(path)


def whole_characters(text: str) -> str:
    """The same with halves of surrogate pairs replaced, which JSON lets through and UTF-8 cannot
    say; as many code points as before."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return re.sub("[\ud800-\udfff]", "\ufffd", text)
    return text


def name_of(uri: str) -> str:
    """The path of a document as a model reads it; empty where there is none."""
    return whole_characters(str(file_of(uri) or ""))


def files_of(uri: str) -> list[Path]:
    """All files whose text a document may be, by whatever name an editor has for it.

    A cell of a notebook (`vscode-notebook-cell:/…/nb.ipynb#W0s`), a version that git keeps
    (`git:/…/a.py?{"path": …}`, `fugitive:///…/.git//0/a.py`), one that is not saved yet
    (`untitled:/…/a.py`), and what a symbolic link leads to. Empty for one without a path.
    """
    found = _PARTS.fullmatch(uri[:_MOST_CHARACTERS])
    if found is None:
        return []
    texts = [_decoded(found["path"])]
    if (found["scheme"] or "file").lower() == "file":  # a client that encodes neither `?` nor `#`
        texts.append(_decoded(uri[found.start("path") : _MOST_CHARACTERS]))
    texts += _paths_in(_decoded(found["query"] or ""))
    if (inner := _PARTS.fullmatch(texts[0])) and inner["scheme"]:  # jar:file:///…
        texts.append(inner["path"])
    paths: dict[Path, None] = {}
    for text in texts:
        if (path := _path(text)) is None:
            continue
        for name in (path, *_in_repository(path)):
            plain = Path(os.path.normpath(name))
            paths |= dict.fromkeys((plain, _resolved(name), _resolved(plain)))
    return list(paths)


def _decoded(text: str) -> str:
    if "%" not in text:
        return text
    return os.fsdecode(unquote_to_bytes(text.encode("utf-8", "surrogatepass")))


def _path(text: str) -> Path | None:
    """An absolute path, that of a drive too; None for anything else."""
    if _DRIVE.match(text):
        text = text[1].lower() + text[2:]
    elif not text.startswith("/"):
        return None
    return None if "\0" in text else Path(text)


def _resolved(path: Path) -> Path:
    try:
        return path.resolve()
    except (OSError, RuntimeError, ValueError):  # a link that leads to itself
        return path


def _paths_in(query: str) -> list[str]:
    """Values of a query, which is JSON in VS Code, that look like paths."""
    try:
        value: Any = json.loads(query)
    except (ValueError, RecursionError):
        value = dict(pair.partition("=")[::2] for pair in query.split("&")[:64])
    values = value.values() if isinstance(value, dict) else [value]
    paths = [item.replace("\\", "/") if sys.platform == "win32" else item
             for item in values if isinstance(item, str)]  # fmt: skip
    return [f"/{path}" if re.match("[A-Za-z]:/", path) else path for path in paths]


def _in_repository(path: Path) -> Iterator[Path]:
    """The file of the work tree for a name inside `.git`: `.git//0/a.py`, `.git//:0:a.py`."""
    parts = path.parts
    if ".git" not in parts:
        return
    at = parts.index(".git")
    inside = list(parts[at + 1 :])
    for start in range(min(len(inside), 4)):
        rest = [inside[start].rpartition(":")[2], *inside[start + 1 :]]
        yield Path(*parts[:at], *rest)
