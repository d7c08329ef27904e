"""What needs no editor: types, and the tests of the modules that know nothing of VS Code."""

from __future__ import annotations

import shlex
import subprocess
from pathlib import Path

import pytest

from tests.editors.vscode import install
from tests.editors.vscode.vscode import EXTENSION, package


@pytest.mark.parametrize("script", ["check", "test"])
def test_the_script_passes(script: str, tmp_path: Path) -> None:
    """The fuzzer of edits against drafts is one of them."""
    package(tmp_path)
    command = [*install.npm(), "run", script, "--silent"]
    done = subprocess.run(
        command, cwd=EXTENSION, env=install.environment(tmp_path / "bin"),
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, f"{shlex.join(command)}:\n{done.stdout}{done.stderr}"
