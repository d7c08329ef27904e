"""The default model, in a real Neovim, through an engine that the language server starts."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from blockdiff import store
from blockdiff.client import EngineClient
from blockdiff.endpoint import Runtime
from tests.editors.nvim.neovim import neovim
from tests.unit.scripted_service import run

AREA = "def area(width, height):\n    return todo\n\n\nprint(area(2, 3))\n"
WAIT = 300.0


@pytest.fixture
def runtime(tmp_path: Path) -> Iterator[Runtime]:
    made = Runtime(tmp_path / "run")
    yield made
    if engine := made.announced():  # on a busy machine it may be too slow to be asked to stop
        os.kill(engine.pid, signal.SIGTERM)


@pytest.mark.model
@pytest.mark.slow
def test_infill_accept_undo_cancel_rewrite_and_a_killed_engine(
    runtime: Runtime, tmp_path: Path
) -> None:
    file = tmp_path / "area.py"
    file.write_text(AREA)
    # diffusion: its drafts change in place, so that there is something to watch
    server = {"decoding": {"mode": "diffusion", "maxTokens": 24}, "context": {"warmAhead": False}}
    setup = {"ghost": {"enabled": False}, "server": server}
    ready = "(require('blockdiff').session(1) or {}).state == 'ready'"
    # the Neovim under test has another home
    cache = {"BLOCKDIFF_CACHE": str(store.cache_root())}
    with neovim(tmp_path, runtime.folder, file, setup=setup, environment=cache) as nvim:
        nvim.keys("2G$bve:BlockDiff infill<CR>")
        nvim.until(ready, WAIT)
        nvim.sees("<Tab> accept")
        drafts = {screen for screen in nvim.screens if "writing" in screen}
        assert len(drafts) >= 3, "too few drafts were to be seen"
        nvim.keys("<Tab>")
        nvim.until(lambda: nvim.lines != AREA.splitlines())
        assert nvim.lines[1].startswith("    return width")
        nvim.keys("u")
        nvim.until(lambda: nvim.lines == AREA.splitlines())

        nvim.command("2BlockDiff infill")
        nvim.until("(require('blockdiff').session(1) or {}).seq > 0", WAIT)
        pressed = time.monotonic()
        nvim.keys("<Esc>")
        nvim.misses("writing")
        assert time.monotonic() - pressed < 0.2

        health = run(EngineClient(runtime=runtime).health())
        os.kill(health.pid, signal.SIGKILL)
        nvim.command("1,2BlockDiff rewrite rename the function to product")
        nvim.until(ready, WAIT)
        assert run(EngineClient(runtime=runtime).health()).pid != health.pid
        nvim.command("BlockDiff accept")
        assert "def product(" in nvim.lines[0] and nvim.lines[2:] == AREA.splitlines()[2:]
        assert nvim.notices == []
