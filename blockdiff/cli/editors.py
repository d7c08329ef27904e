"""`blockdiff editors`: the plugins for Visual Studio Code and Neovim."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from blockdiff.cli import console, options, plugins
from blockdiff.cli.plugins import Plugin, PluginState
from blockdiff.errors import BlockdiffError, EditorFailed

app = options.group("Put the plugins that this package carries into editors.", short_help=True)


class Editor(Enum):
    VSCODE = "vscode"
    NVIM = "nvim"


_NAMES = {Editor.VSCODE: tuple(plugins.VSCODES), Editor.NVIM: (plugins.NVIM,)}
_HINTS = {
    Editor.VSCODE: "in VS Code, run: Shell Command: Install 'code' command in PATH",
    Editor.NVIM: "install Neovim 0.11 or newer",
}
EditorArgument = Annotated[
    Editor | None, typer.Argument(help="which one; without it, every one that is here")
]


@app.command("install")
def install(editor: EditorArgument = None) -> None:
    """Install the plugin, or bring it up to date.

    vscode is code, codium and code-server, those on PATH; for Neovim the plugin is a package in its
    data folder. What blockdiff did not put there, or what was changed since, is never overwritten.
    """
    with tempfile.TemporaryDirectory() as scratch:
        _each(editor, lambda found: _install(found, Path(scratch)))


def _install(found: Plugin, scratch: Path) -> None:
    if found.name != plugins.NVIM:
        found = plugins.install_vscode(found, plugins.vsix(scratch))
        print(f"{found.name}: installed {found.version}; reload its windows")
        return
    plugins.install_neovim(found)
    print(f"nvim: installed in {found.folder}")
    if plugins.uses_lazy(found):
        print("lazy.nvim loads only what it is told of. Add to its specs:")
        print(f'  {{ dir = "{found.folder}", name = "blockdiff", opts = {{}} }}')


@app.command("status")
def status() -> None:
    """Say which editors are here and what they have of blockdiff."""
    here = plugins.programs()
    for name in (name for names in _NAMES.values() for name in names):
        print(f"{name:<12} {_status(name, here[name]) if name in here else 'not on PATH'}")


def _status(name: str, program: str) -> str:
    try:
        found = plugins.look(name, program)
    except BlockdiffError as error:
        return error.message
    return f"{found.state.value} {found.version}".strip() + f", {found.folder or program}"


@app.command("remove")
def remove(editor: EditorArgument = None) -> None:
    """Remove the plugin, if blockdiff put it there and nobody changed it since."""
    _each(editor, _remove)


def _remove(found: Plugin) -> None:
    if found.state is PluginState.ABSENT:
        print(f"{found.name}: not installed")
        return
    if found.name == plugins.NVIM:
        plugins.remove_neovim(found)
    else:
        plugins.remove_vscode(found)
    print(f"{found.name}: removed")


def _each(editor: Editor | None, work: Callable[[Plugin], None]) -> None:
    """With every editor asked for; one that fails does not keep the others from theirs."""
    names = [name for one in Editor if editor in (None, one) for name in _NAMES[one]]
    here = {name: path for name, path in plugins.programs().items() if name in names}
    if not here:
        hint = _HINTS[editor or Editor.VSCODE]
        raise EditorFailed(f"not on PATH: {', '.join(names)}", hint)
    failed: list[BlockdiffError] = []
    for name, program in here.items():
        try:
            work(plugins.look(name, program))
        except BlockdiffError as error:
            failed.append(error)
    for one in failed[:-1]:
        console.show(one)
    if failed:
        raise failed[-1]
