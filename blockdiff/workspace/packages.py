"""Signatures of the installed Python packages that a workspace imports: stubs first, no bodies."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from blockdiff.workspace.definitions import Definition, TagKind, definitions
from blockdiff.workspace.files import MOST_BYTES, WorkspaceFile, digest_of
from blockdiff.workspace.imports import imports_of

MOST_MODULES = 400
"""Of all packages together."""

_DEPTH = 3  # of names that a module has from another one of its package

Read = Callable[[], tuple[list[Definition], bytes]]


def site_packages(root: Path) -> list[Path]:
    """Folders of the installed packages of a workspace: of the environment that lies in it, or that
    is active."""
    homes = [root / name for name in (".venv", "venv", "env", ".env")]
    active = (os.environ.get(name) for name in ("VIRTUAL_ENV", "CONDA_PREFIX"))
    homes += [Path(home) for home in active if home]
    for home in homes:
        found = [*sorted(home.glob("lib/python3*/site-packages")), home / "Lib" / "site-packages"]
        if here := [folder for folder in found if folder.is_dir()]:
            return here[:1]
    return []


def signatures(
    folders: Sequence[Path], imported: Sequence[tuple[str, str]]
) -> Iterator[tuple[WorkspaceFile, Read]]:
    """The files that imported names are defined in, and how to read the public definitions."""
    seen: set[Path] = set()
    todo = [(module, name, _DEPTH) for module, name in imported]
    asked = set(todo)
    while todo and len(seen) < MOST_MODULES:
        module, name, depth = todo.pop(0)
        path = _file_of(folders, module)
        if path is None:
            continue
        if path not in seen:
            seen.add(path)
            if (file := _source(path)) is not None:
                yield file, _reader(path)
        if name and depth:
            for more in _passed_on(path, module, name):
                if (item := (*more, depth - 1)) not in asked:
                    asked.add(item)
                    todo.append(item)


def _file_of(folders: Sequence[Path], module: str) -> Path | None:
    """A stub package, a stub beside the module, the module itself; in this order."""
    top, _, rest = module.partition("/")
    if not top.isidentifier():
        return None
    for folder in folders:
        for base in (f"{top}-stubs", top):
            stem = "/".join(filter(None, (base, rest)))
            names = (f"{stem}.pyi", f"{stem}/__init__.pyi", f"{stem}.py", f"{stem}/__init__.py")
            for name in names:
                if os.path.isfile(path := folder / name):
                    return path
    return None


def _source(path: Path) -> WorkspaceFile | None:
    try:
        status = path.stat()
    except OSError:
        return None
    stamp = (status.st_mtime_ns, status.st_size)
    return WorkspaceFile(path.as_posix(), "python", stamp) if status.st_size <= MOST_BYTES else None


def _reader(path: Path) -> Read:
    def read() -> tuple[list[Definition], bytes]:
        try:
            data = path.read_bytes()
        except OSError:
            return [], b""
        return [d for d in definitions(data, "python") if _is_public(d)], digest_of(data)

    return read


def _is_public(definition: Definition) -> bool:
    if definition.kind is TagKind.FIELD and definition.signature.startswith("self."):
        return False
    return not definition.container.startswith("_") and (
        not definition.name.startswith("_") or definition.name == "__init__"
    )


def _passed_on(path: Path, module: str, name: str) -> Iterator[tuple[str, str]]:
    """Where a module has a name from, if that is another one of its package."""
    try:
        text = path.read_bytes()[:MOST_BYTES].decode("utf-8", "replace")
    except OSError:
        return
    package = module if path.name.startswith("__init__.") else module.rpartition("/")[0]
    for found in imports_of(text, "python"):
        if found.alias != name or not found.name:
            continue
        if found.module.startswith("."):
            joined = os.path.normpath(os.path.join(package, found.module)).replace(os.sep, "/")
            yield joined, found.name
        elif found.module.partition("/")[0] == module.partition("/")[0]:
            yield found.module, found.name
