"""The logic that needs no editor around it, in Neovim's own Lua, and the pictures of the guide."""

from __future__ import annotations

import os
import re
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


def test_the_pictures_of_the_guide_are_those_that_there_are() -> None:
    guide = (ROOT / "docs" / "neovim.md").read_text(encoding="utf-8")
    pictures = {path.name: path.stat().st_size for path in (ROOT / "docs/images").glob("nvim*")}
    named = set(re.findall(r"\(images/([^)]+)\)", guide))
    assert named <= set(pictures)
    assert set(pictures) - named <= {"nvim-health-light.png", "nvim-statusline-light.png"}
    assert pictures.pop("nvim.gif") < 700_000 and sum(pictures.values()) < 1_000_000
