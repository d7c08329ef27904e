"""The default model, in a real Neovim, through an engine that the language server starts."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from blockdiff.client.client import EngineClient
from blockdiff.client.endpoint import Runtime
from blockdiff.weights import folders
from tests.editors.nvim.neovim import Neovim, neovim
from tests.editors.nvim.test_infill import AREA, is_open, no_marks
from tests.unit.scripted_service import run

pytestmark = [pytest.mark.model, pytest.mark.slow]

WAIT = 300.0
# The Neovim under test has another home.
CACHE = {"BLOCKDIFF_CACHE": str(folders.cache_root())}


@pytest.fixture(scope="module")
def runtime(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runtime]:
    """Of one engine, which the first request starts."""
    made = Runtime(tmp_path_factory.mktemp("model") / "run")
    yield made
    if engine := made.announced():  # on a busy machine it may be too slow to be asked to stop
        os.kill(engine.pid, signal.SIGTERM)


def opened(runtime: Runtime, file: Path, text: str, **decoding: Any) -> Any:
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(text.encode())
    server = {"decoding": decoding, "context": {"warmAhead": False, "latencySeconds": 0.5}}
    setup = {"ghost": {"enabled": False}, "server": server}
    return neovim(file.parent, runtime.folder, file, setup=setup, environment=CACHE)


def ready(nvim: Neovim) -> None:
    session = "(require('blockdiff').session(vim.api.nvim_get_current_buf()) or {})"
    nvim.until(f"({session}.state == 'ready') or #notices > 0", WAIT)
    assert nvim.notices == []
    nvim.sees("<Tab> accept")


def drafts_seen(nvim: Neovim, line: int) -> list[str]:
    """Different drafts of one line that could be seen while it was written, in order."""
    seen: list[str] = []
    for screen in nvim.screens:
        shown, hint, _ = screen.splitlines()[line - 1].partition("  writing")
        if hint and shown not in seen:
            seen.append(shown)
    return seen


def test_a_selection_sharpens_is_accepted_and_undone(runtime: Runtime, tmp_path: Path) -> None:
    # diffusion: its drafts change in place, so that there is something to watch
    file = tmp_path / "area.py"
    with opened(runtime, file, AREA, mode="diffusion", maxTokens=24, blockSize=8) as nvim:
        before = nvim.lua("return { vim.b.changedtick, vim.fn.undotree().seq_cur }")
        nvim.keys("2G$bve:BlockDiff infill<CR>")
        ready(nvim)
        drafts = [draft for draft in drafts_seen(nvim, 2) if draft != "    return todo"]
        assert len(drafts) >= 3, drafts
        assert nvim.lua("return { vim.b.changedtick, vim.fn.undotree().seq_cur }") == before
        nvim.keys("<Tab>")
        nvim.until(lambda: nvim.lines != AREA.splitlines())
        assert nvim.lines[1].startswith("    return width")
        nvim.keys("u")
        nvim.until(lambda: nvim.lines == AREA.splitlines())

        nvim.command("2BlockDiff infill")
        ready(nvim)
        before = nvim.lua("return { vim.b.changedtick, vim.fn.undotree().seq_cur }")
        nvim.keys("<Esc>")
        nvim.until(lambda: not is_open(nvim) and no_marks(nvim))
        assert nvim.lua("return { vim.b.changedtick, vim.fn.undotree().seq_cur }") == before
        assert nvim.lines == AREA.splitlines() and file.read_text() == AREA


def test_several_holes_among_awkward_characters_and_an_edit_meanwhile(
    runtime: Runtime, tmp_path: Path
) -> None:
    """CRLF, tabs, an emoji before the hole, typing above while the draft is written."""
    text = (
        "class Fox:\r\n\tdef area(self, width, height):\r\n"
        "\t\tname, area = '🦊', width * ?\r\n\t\treturn area\r\n\r\n"
        "\tdef volume(self, width, height, depth):\r\n"
        "\t\tname, volume = '🦊🦊', width * height * ?\r\n\t\treturn volume\r\n"
    )
    with opened(runtime, tmp_path / "fox.py", text, maxTokens=6) as nvim:
        nvim.command("BlockDiff infill /?/")
        nvim.sees("writing")
        nvim.call("nvim_buf_set_lines", 0, 0, 0, True, ["# 🦊 above", ""])
        ready(nvim)
        holes = nvim.lua("return require('blockdiff').session(1).holes")
        drafts = [hole["text"] for hole in holes]
        nvim.command("BlockDiff accept")
        whole = text.replace("\r\n", "\n").split("?")
        wanted = whole[0] + drafts[0] + whole[1] + drafts[1] + whole[2]
        assert all(drafts) and nvim.lines == ["# 🦊 above", "", *wanted.splitlines()]
        nvim.command("write")
        written = (tmp_path / "fox.py").read_bytes()
        assert written.count(b"\n") == written.count(b"\r\n")
        nvim.command("undo")
        assert nvim.lines == ["# 🦊 above", "", *text.splitlines()]


def test_20_000_lines_in_two_windows_with_one_engine(runtime: Runtime, tmp_path: Path) -> None:
    lines = [f"value_{n} = {n}" for n in range(20_000)]
    lines[15_000] = "value_15000 = ?"
    text = "\n".join(lines) + "\n"
    with (
        opened(runtime, tmp_path / "one" / "values.py", text, maxTokens=6) as one,
        opened(runtime, tmp_path / "two" / "values.py", text, maxTokens=6) as other,
    ):
        for nvim in (one, other):
            nvim.command("15001BlockDiff infill /?/")
        for nvim in (one, other):
            nvim.command("15001")
            ready(nvim)
            nvim.command("BlockDiff accept")
            assert nvim.lines[15_000] == "value_15000 = 15000"
        children = [p for p in psutil.Process().children(recursive=True)]
        engine = run(EngineClient(runtime=runtime).health())
        assert engine.pid not in {child.pid for child in children}  # it belongs to no editor


def test_cancelled_while_it_writes(runtime: Runtime, tmp_path: Path) -> None:
    """How long it takes is measured by `python -m tests.bench.cancel`."""
    with opened(runtime, tmp_path / "area.py", AREA, maxTokens=200) as nvim:
        nvim.command("2BlockDiff infill")
        nvim.until("#drafts > 0", WAIT)
        nvim.keys("<Esc>")
        nvim.misses("writing")
        assert not is_open(nvim) and no_marks(nvim) and nvim.lines == AREA.splitlines()
        assert nvim.notices == []


def test_a_rewrite_is_a_diff_and_survives_a_killed_engine(runtime: Runtime, tmp_path: Path) -> None:
    with opened(runtime, tmp_path / "area.py", AREA) as nvim:
        nvim.command("2BlockDiff infill")
        ready(nvim)
        nvim.command("BlockDiff reject")
        engine = psutil.Process(run(EngineClient(runtime=runtime).health()).pid)
        engine.kill()
        psutil.wait_procs([engine], timeout=60)
        nvim.command("1,2BlockDiff rewrite rename the function to product")
        ready(nvim)
        assert run(EngineClient(runtime=runtime).health()).pid != engine.pid
        screen = nvim.screen()
        assert screen.index("def area(width, height):") < screen.index("\ndef product(")
        assert "DiffDelete" in nvim.groups_of("def area(width")
        assert nvim.groups_of("def product(") == {"DiffAdd"}
        nvim.command("BlockDiff accept")
        assert "def product(" in nvim.lines[0] and nvim.lines[2:] == AREA.splitlines()[2:]
        nvim.command("undo")
        assert nvim.lines == AREA.splitlines()
