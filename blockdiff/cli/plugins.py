"""The plugins for editors: put where an editor looks, and taken away again.

What we put there has a marker, with a digest of every file and the Python that did it, so that the
plugin finds its server. Only what bears one and is as we left it gets replaced or removed.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import sys
import tempfile
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

import blockdiff
from blockdiff.errors import EditorFailed, NotInstalled, OutputFileError
from blockdiff.system import child

MARKER = "blockdiff-installed.json"
EXTENSION = "blockdiff.blockdiff"
NVIM = "nvim"
_SECONDS = 300
_EDITED_BY_VSCODE = frozenset({"package.json", ".vsixmanifest"})
_NOTHING: Mapping[str, str] = {}
_PACKAGE = Path(__file__).resolve().parents[1]


class PluginState(Enum):
    ABSENT = "not installed"
    OURS = "installed"
    CHANGED = "changed since blockdiff put it there"
    FOREIGN = "not put there by blockdiff"


@dataclass(frozen=True, slots=True)
class Plugin:
    """An editor and what it has of ours.

    Attributes:
        program: its path.
        folder: where the plugin lies or would lie; None where that is the editor's to choose.
        version: of the plugin; empty if unknown.
    """

    name: str
    program: str
    state: PluginState
    folder: Path | None = None
    version: str = ""

    def refuse_if_not_ours(self) -> None:
        """Raises OutputFileError."""
        if self.state in (PluginState.CHANGED, PluginState.FOREIGN):
            what = self.folder or f"the extension {EXTENSION} of {self.name}"
            raise OutputFileError(f"{what}: {self.state.value}", "remove it yourself first")


def programs() -> dict[str, str]:
    """The path of every editor that is here, by name."""
    places = {name: _MAC.format(application, name) for name, (application, _) in VSCODES.items()}
    found = {name: _program(name, places.get(name, "")) for name in (*VSCODES, NVIM)}
    return {name: path for name, path in found.items() if path}


def look(name: str, program: str) -> Plugin:
    """Raises EditorFailed: it does not run, or is too old."""
    return _neovim(program) if name == NVIM else _vscode(name, program)


# Visual Studio Code and what is made from it

_MAC = "/Applications/{}.app/Contents/Resources/app/bin/{}"
VSCODES = {
    "code": ("Visual Studio Code", ("~/.vscode/extensions", "~/.vscode-server/extensions")),
    "codium": ("VSCodium", ("~/.vscode-oss/extensions", "~/.vscodium-server/extensions")),
    "code-server": ("code-server", ("{data}/code-server/extensions",)),
}
"""Programs: the application on macOS, which puts none on PATH, and where extensions may lie."""


def _vscode(name: str, program: str) -> Plugin:
    listed = _run([program, "--list-extensions", "--show-versions"]).split()
    versions = [line.partition("@")[2] for line in listed if line.startswith(f"{EXTENSION}@")]
    if not versions:
        return Plugin(name, program, PluginState.ABSENT)
    folder = _extension_folder(name, versions[0])
    state = PluginState.FOREIGN if folder is None else _state(folder, _EDITED_BY_VSCODE)
    return Plugin(name, program, state, folder, versions[0])


def _extension_folder(name: str, version: str) -> Path | None:
    data = os.environ.get("XDG_DATA_HOME") or "~/.local/share"
    roots = [root.format(data=data) for root in VSCODES[name][1]]
    chosen = os.environ.get("VSCODE_EXTENSIONS", "")
    folders = [Path(root).expanduser() for root in (chosen, *roots) if root]
    versions = (folder / f"{EXTENSION}-{version}" for folder in folders)
    return next((folder for folder in versions if folder.is_dir()), None)


def install_vscode(found: Plugin, vsix: Path) -> Plugin:
    """Returns it as it is then.

    Raises:
        OutputFileError: the extension there is not ours.
        EditorFailed: the editor did not take it.
    """
    found.refuse_if_not_ours()
    with tempfile.TemporaryDirectory() as scratch:
        marked = Path(scratch, vsix.name)
        _mark_vsix(vsix, marked)
        _run([found.program, "--install-extension", str(marked), "--force"])
    return _vscode(found.name, found.program)


def remove_vscode(found: Plugin) -> None:
    """Raises as `install_vscode`."""
    found.refuse_if_not_ours()
    _run([found.program, "--uninstall-extension", EXTENSION])


def _mark_vsix(vsix: Path, target: Path) -> None:
    digests = {}
    with zipfile.ZipFile(vsix) as source, zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as out:
        for item in source.infolist():
            data = source.read(item)
            out.writestr(item, data)
            area, _, name = item.filename.partition("/")
            if area == "extension" and name not in _EDITED_BY_VSCODE:
                digests[name] = _digest(data)
        out.writestr(f"extension/{MARKER}", _marker(digests))


def vsix(scratch: Path) -> Path:
    """The extension that this package carries; from a checkout it is built into `scratch`.

    Raises:
        NotInstalled: this package was built without it.
        EditorFailed: it cannot be built.
    """
    carried = _PACKAGE / "_editors" / "blockdiff.vsix"
    root = _PACKAGE.parent
    if carried.exists():
        return carried
    if not (root / "hatch_build.py").exists():
        raise NotInstalled(
            "this blockdiff was built without the extension for VS Code",
            "install it without BLOCKDIFF_WITHOUT_VSIX in the environment",
        )
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", str(scratch)]
    _run([*command, str(root)], {"BLOCKDIFF_WITHOUT_VSIX": ""})
    with zipfile.ZipFile(next(scratch.glob("*.whl"))) as wheel:
        return Path(wheel.extract("blockdiff/_editors/blockdiff.vsix", scratch))


# Neovim

_ASK_NEOVIM = (
    "lua io.stdout:write(vim.json.encode({ data = vim.fn.stdpath('data'), "
    "recent = vim.fn.has('nvim-0.11') == 1 }))"
)


def _neovim(program: str) -> Plugin:
    said = _run([*_headless(program), "-c", _ASK_NEOVIM, "-c", "qall!"])
    try:
        answer: dict[str, Any] = json.loads(said)
        data, recent = Path(answer["data"]), answer["recent"]
    except (ValueError, KeyError, TypeError) as error:
        raise EditorFailed(f"{program} says {said[-200:]!r} when asked for its folder") from error
    if not recent:
        raise EditorFailed(f"{program} is older than 0.11", "install Neovim 0.11 or newer")
    folder = data / "site" / "pack" / "blockdiff" / "start" / "blockdiff"
    state = _state(folder)
    return Plugin(NVIM, program, state, folder, _read_marker(folder).get("version", ""))


def uses_lazy(found: Plugin) -> bool:
    """Whether lazy.nvim is there, which loads no plugin that it is not told of."""
    assert found.folder is not None
    return (found.folder.parents[4] / "lazy" / "lazy.nvim").is_dir()


def install_neovim(found: Plugin) -> None:
    """Put the plugin there in one step; the old one stays if anything fails.

    Raises:
        OutputFileError: what lies there is not ours, or the folder cannot be written.
        EditorFailed: Neovim did not make its help tags.
    """
    found.refuse_if_not_ours()
    folder = found.folder
    assert folder is not None
    above = folder.parents[1]  # Neovim looks for no plugin directly there
    with _written(folder):
        above.mkdir(parents=True, exist_ok=True)
        _put(found, folder, above)


@contextlib.contextmanager
def _written(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise OutputFileError(f"cannot write {folder}: {error.strerror or error}") from error


def _put(found: Plugin, folder: Path, above: Path) -> None:
    carried = _PACKAGE / "_editors" / "nvim"
    source = carried if carried.is_dir() else _PACKAGE.parent / "editors" / "nvim"
    with tempfile.TemporaryDirectory(dir=above, prefix=".blockdiff-") as scratch:
        new, old = Path(scratch, "new"), Path(scratch, "old")
        shutil.copytree(source, new)
        tags = "execute 'helptags' fnameescape($BLOCKDIFF_DOC)"
        doc = {"BLOCKDIFF_DOC": str((new / "doc").resolve())}
        _run([*_headless(found.program), "-c", tags, "-c", "qall!"], doc)
        digests = {name: _digest((new / name).read_bytes()) for name in _files(new)}
        (new / MARKER).write_text(_marker(digests), "utf-8")
        folder.parent.mkdir(exist_ok=True)
        if found.state is PluginState.OURS:
            folder.rename(old)
        try:
            new.rename(folder)
        except OSError:
            if old.exists():
                old.rename(folder)
            raise


def remove_neovim(found: Plugin) -> None:
    """Raises as `install_neovim`."""
    found.refuse_if_not_ours()
    folder = found.folder
    assert folder is not None
    with _written(folder):
        with tempfile.TemporaryDirectory(dir=folder.parents[1], prefix=".blockdiff-") as scratch:
            folder.rename(Path(scratch, "old"))
        for empty in list(folder.parents)[:2]:
            if not any(empty.iterdir()):
                empty.rmdir()


def _headless(program: str) -> list[str]:
    return [program, "--headless", "-u", "NONE", "-i", "NONE", "-n"]


# Markers


def _marker(digests: dict[str, str]) -> str:
    made = {"version": blockdiff.__version__, "python": sys.executable, "files": digests}
    return json.dumps(made, indent=1, sort_keys=True) + "\n"


def _read_marker(folder: Path) -> dict[str, Any]:
    """Empty if there is none."""
    try:
        marker = json.loads((folder / MARKER).read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return marker if isinstance(marker, dict) else {}


def _state(folder: Path, edited: Iterable[str] = ()) -> PluginState:
    """What lies at `folder`; files in `edited` may have changed."""
    if not os.path.lexists(folder):
        return PluginState.ABSENT
    digests = _read_marker(folder).get("files")
    if folder.is_symlink() or not isinstance(digests, dict):
        return PluginState.FOREIGN
    names = _files(folder) - {MARKER, *edited}
    same = names == digests.keys() and all(
        not (folder / name).is_symlink() and _digest((folder / name).read_bytes()) == digests[name]
        for name in names
    )
    return PluginState.OURS if same else PluginState.CHANGED


def _files(folder: Path) -> set[str]:
    found = (path for path in folder.rglob("*") if path.is_symlink() or not path.is_dir())
    return {path.relative_to(folder).as_posix() for path in found}


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


# Programs


def _program(name: str, elsewhere: str) -> str | None:
    return child.which(name) or (elsewhere if os.access(elsewhere, os.X_OK) else None)


def _run(command: list[str], also: Mapping[str, str] = _NOTHING) -> str:
    """What it prints. Raises EditorFailed with the end of that, and of what it complains of."""
    name = Path(command[0]).name
    try:
        done = child.run(command, seconds=_SECONDS, also=also)
    except child.Failed as error:
        raise EditorFailed(f"{name} does not end within {_SECONDS} seconds") from error
    except OSError as error:
        raise EditorFailed(f"{name} cannot be run: {error}") from error
    if done.returncode:
        said = " ".join((done.stderr.strip() or done.stdout.strip()).splitlines()[-8:])
        raise EditorFailed(f"{name} failed ({done.returncode}): {said}", f"try {' '.join(command)}")
    return done.stdout
