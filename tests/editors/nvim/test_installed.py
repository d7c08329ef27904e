"""`blockdiff editors` with a real Neovim, from a wheel in an environment of its own."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from blockdiff.client.endpoint import Runtime
from blockdiff.errors import ExitCode
from tests.editors.installed import Installed
from tests.editors.nvim.neovim import Neovim, neovim, program
from tests.editors.nvim.script import Scripted
from tests.editors.nvim.test_infill import AREA, ready

PACKAGE = Path(".local/share/nvim/site/pack/blockdiff")


class UsersNeovim(Neovim):
    clean = ()


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Installed:
    return Installed(tmp_path_factory.mktemp("user"), {"nvim": [program()]}, extension=False)


@pytest.fixture
def user(installed: Installed) -> Installed:
    """With no plugin yet."""
    shutil.rmtree(installed.home / ".local", ignore_errors=True)
    return installed


def test_the_plugin_runs_once_it_is_installed_and_leaves_nothing(
    user: Installed, script: tuple[Runtime, Scripted], engine: Scripted, tmp_path: Path
) -> None:
    """No line in init.lua, nothing of ours on PATH."""
    assert "not installed" in user.run("editors", "status").stdout
    done = user.run("editors", "install", "nvim")
    assert done.returncode == 0, done.stderr
    assert user.run("editors", "install", "nvim").returncode == 0  # brings it up to date
    file = tmp_path / "area.py"
    file.write_text(AREA)
    own = {"XDG_DATA_HOME": str(user.home / ".local/share"), "PATH": user.environment["PATH"]}
    own["PYTHONPATH"] = ""
    options = {"lua": "return 0", "plugin": False, "kind": UsersNeovim, "environment": own}
    with neovim(tmp_path, script[0].folder, file, **options) as nvim:
        nvim.until("vim.lsp.get_clients({ name = 'blockdiff' })[1] ~= nil")
        command = nvim.lua("return require('blockdiff.client').command()")
        assert command == [str(user.python), "-m", "lsp_server"]
        nvim.command("2BlockDiff infill")
        ready(nvim)
        nvim.command("help blockdiff")
    assert f"installed {_version(user)}" in user.run("editors", "status").stdout
    assert user.run("editors", "remove", "nvim").returncode == 0
    assert not (user.home / PACKAGE).exists()


def _version(user: Installed) -> str:
    return user.run("version").stdout.strip()


def linked(folder: Path) -> None:
    """As `docs/neovim.md` says for a checkout."""
    folder.parent.mkdir(parents=True)
    (folder.parent / "own").mkdir()
    folder.symlink_to(folder.parent / "own")


def copied(folder: Path) -> None:
    folder.mkdir(parents=True)
    (folder / "mine.lua").write_text("-- mine\n")


def edited(folder: Path) -> None:
    with (folder / "plugin" / "blockdiff.lua").open("a") as file:
        file.write("-- mine\n")


def added(folder: Path) -> None:
    (folder / "mine.lua").write_text("-- mine\n")


@pytest.mark.parametrize("change, is_ours", [(linked, 0), (copied, 0), (edited, 1), (added, 1)])
def test_what_is_not_ours_is_neither_overwritten_nor_removed(
    user: Installed, change: Callable[[Path], None], is_ours: bool
) -> None:
    folder = user.home / PACKAGE / "start" / "blockdiff"
    if is_ours:
        user.run("editors", "install", "nvim")
    change(folder)
    before = contents(user.home / PACKAGE)
    for verb in ("install", "remove"):
        done = user.run("editors", verb, "nvim")
        assert done.returncode == ExitCode.INPUT_FILE and str(folder) in done.stderr
        assert "Traceback" not in done.stderr
    assert contents(user.home / PACKAGE) == before


def contents(folder: Path) -> dict[str, bytes | None]:
    return {str(path): path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


def test_lazy_is_told_of_it(user: Installed) -> None:
    (user.home / ".local/share/nvim/lazy/lazy.nvim").mkdir(parents=True)
    done = user.run("editors", "install", "nvim")
    assert f'dir = "{user.home / PACKAGE / "start" / "blockdiff"}"' in done.stdout


def test_an_editor_that_is_not_here_or_does_not_take_it(user: Installed) -> None:
    done = user.run("editors", "install", "vscode")
    assert done.returncode == ExitCode.USAGE and "not on PATH: code, codium" in done.stderr
    site = user.home / ".local/share/nvim/site"
    site.parent.mkdir(parents=True)
    site.write_text("a file where a folder should be")
    done = user.run("editors", "install", "nvim")
    assert done.returncode == ExitCode.INPUT_FILE and "Traceback" not in done.stderr
    assert site.read_text() == "a file where a folder should be"
