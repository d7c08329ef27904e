"""`blockdiff editors` with a real code-server, from a wheel in an environment of its own."""

from __future__ import annotations

import subprocess
import zipfile
from pathlib import Path

from blockdiff.errors import ExitCode
from tests.editors.installed import Installed
from tests.editors.nvim.script import Scripted
from tests.editors.vscode.conftest import Open
from tests.editors.vscode.test_infill import AREA, infill, ready
from tests.editors.vscode.vscode import CodeServer


def test_it_finds_the_server_that_installed_it(
    code: tuple[CodeServer, Installed], open_window: Open, engine: Scripted
) -> None:
    """No interpreter is set, none with blockdiff is on PATH."""
    engine.writes("width * height")
    with open_window({"blockdiff.interpreter": ""}) as window:
        window.open("area.py", AREA)
        infill(window, "todo")
        ready(window)
        window.press("Tab")
        window.until(lambda: "width * height" in window.text)
        found = f"{code[1].python} -m lsp_server --stdio (found by: blockdiff editors install"
        assert found in window.output()
    status = code[1].run("editors", "status").stdout
    assert "code-server  installed 0.1.0" in status and "code         not on PATH" in status


def test_it_is_brought_up_to_date_and_removed_but_never_what_is_not_ours(
    code: tuple[CodeServer, Installed], tmp_path: Path
) -> None:
    """For another user."""

    def editors(*arguments: str) -> subprocess.CompletedProcess[str]:
        return code[1].run("editors", *arguments, home=tmp_path)

    assert "removed" not in editors("remove", "vscode").stdout
    for _ in range(2):
        assert "installed 0.1.0" in editors("install", "vscode").stdout
    extensions = tmp_path / ".local/share/code-server/extensions"
    changed = extensions / "blockdiff.blockdiff-0.1.0" / "dist" / "extension.js"
    ours = changed.read_bytes()
    changed.write_bytes(ours + b"// mine\n")
    for verb in ("install", "remove"):
        done = editors(verb, "vscode")
        assert done.returncode == ExitCode.INPUT_FILE and str(changed.parents[1]) in done.stderr
    assert changed.read_bytes() == ours + b"// mine\n"
    changed.write_bytes(ours)
    assert "removed" in editors("remove", "vscode").stdout
    assert "not installed" in editors("status").stdout

    carried = next(code[1].python.parents[1].rglob("blockdiff.vsix"))
    code_server = str(code[1].home / "bin" / "code-server")
    by_hand = [code_server, "--install-extension", str(carried)]
    subprocess.run(by_hand, env={"HOME": str(tmp_path)}, check=True, capture_output=True)
    assert "not put there by blockdiff" in editors("install", "vscode").stderr
    assert editors("remove", "vscode").returncode == ExitCode.INPUT_FILE
    assert "not put there by blockdiff" in editors("status").stdout


def test_the_extension_of_the_wheel_is_complete(code: tuple[CodeServer, Installed]) -> None:
    carried = next(code[1].python.parents[1].rglob("blockdiff.vsix"))
    with zipfile.ZipFile(carried) as archive:
        names = set(archive.namelist())
        manifest = archive.read("extension.vsixmanifest").decode()
    for name in ("package.json", "README.md", "LICENSE.txt", "dist/extension.js", "media/icon.png"):
        assert f"extension/{name}" in names
    assert not any("node_modules" in name or name.endswith(".map") for name in names)
    assert 'Id="blockdiff" Version="0.1.0" Publisher="blockdiff"' in manifest
