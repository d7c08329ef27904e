"""The logic that needs no editor around it, in Neovim's own Lua."""

from __future__ import annotations

import os
import subprocess

import pytest

from tests.editors.nvim.neovim import HERE, PLUGIN, ROOT, program


@pytest.mark.parametrize("name", ["logic", "fuzz"])
def test_lua(name: str) -> None:
    command = [program(), "--clean", "-n", "-i", "NONE", "-l", str(HERE / "lua" / "run.lua")]
    ran = subprocess.run(
        [*command, str(PLUGIN), str(ROOT), str(HERE / "lua" / f"{name}.lua")],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "NVIM_LOG_FILE": os.devnull},
    )
    said = ran.stdout + ran.stderr  # Neovim prints to either
    assert ran.returncode == 0, said
    assert "ok   " in said and "FAIL" not in said
