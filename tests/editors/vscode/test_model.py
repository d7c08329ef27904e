"""The default model, in a real VS Code, through an engine that the language server starts."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest

from blockdiff.client.endpoint import Runtime
from tests.editors.vscode.conftest import Open
from tests.editors.vscode.test_infill import gone, in_diff, infill
from tests.editors.vscode.vscode import Window

PRIMES = '''\
def is_prime(n):
    """Whether n is a prime number."""
    todo


for n in range(20):
    print(n, is_prime(n))
'''
HOLES = "# 🦊 größer\r\ndef area(width, height):\r\n\treturn todo\r\n\r\n\r\nprint(area(?, 3))\r\n"

WAIT = 400.0
"""Seconds for an engine to start and to answer on a slow machine."""

# diffusion: its drafts change in place, so that there is something to watch
SETTINGS = {
    "blockdiff.decoding.mode": "diffusion",
    "blockdiff.decoding.maxTokens": 32,
    "blockdiff.decoding.blockSize": 8,
    "blockdiff.context.warmAhead": False,
    "blockdiff.context.latencySeconds": 0.5,
}

pytestmark = [pytest.mark.model, pytest.mark.slow, pytest.mark.timeout(1800)]


@pytest.fixture
def runtime(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runtime]:
    made = Runtime(tmp_path_factory.mktemp("model") / "run")
    yield made
    if engine := made.announced():  # on a busy machine it may be too slow to be asked to stop
        os.kill(engine.pid, signal.SIGTERM)


def ready(window: Window) -> None:
    window.until(lambda: "Accept" in window.screen() or window.notices(), WAIT)
    assert "Accept" in window.screen(), window.notices()
    window.bound()


def drafts_seen(window: Window) -> list[str]:
    """Different texts that stood below the lens while it was written, in order."""
    seen: list[str] = []
    for screen in window.screens():
        _, lens, below = screen.partition("Writing…")
        draft = below.partition("\n")[2].partition("\nfor n in")[0]
        if lens and draft not in seen:
            seen.append(draft)
    return seen


def test_a_draft_sharpens_and_an_engine_is_killed(open_window: Open, runtime: Runtime) -> None:
    with open_window(SETTINGS, runtime) as window:
        file = window.open("primes.py", PRIMES)
        before = window.version
        window.record()
        infill(window, "todo")
        ready(window)
        drafts = [draft for draft in drafts_seen(window) if draft.strip() != "todo"]
        assert len(drafts) >= 3, drafts
        assert window.text == PRIMES and window.version == before
        window.press("Tab")
        window.until(lambda: window.text != PRIMES)
        head, tail = PRIMES.split("todo")
        assert window.text.startswith(head) and window.text.endswith(tail)
        gone(window)
        window.press("Control+z")
        window.until(lambda: window.text == PRIMES)

        infill(window, "todo")
        window.until(lambda: window.painted(), WAIT)
        window.press("Escape")
        gone(window)
        assert window.text == PRIMES and file.read_text() == PRIMES and not window.dirty

        engine = runtime.announced()
        assert engine
        os.kill(engine.pid, signal.SIGKILL)
        infill(window, "todo")
        ready(window)
        again = runtime.announced()
        assert again and again.pid != engine.pid
        window.run("blockdiff.reject")
        gone(window)
        assert window.text == PRIMES and window.notices() == []


def test_holes_a_rewrite_and_an_edit_meanwhile(open_window: Open, runtime: Runtime) -> None:
    """Two holes in a file with CRLF, tabs and an emoji; a line is typed above meanwhile."""
    with open_window(SETTINGS, runtime) as window:
        window.open("area.py", HOLES)
        window.select((2, 8, 2, 12), (5, 11, 5, 12))
        window.begin("blockdiff.fillAllHoles")
        window.sees("Stop", WAIT)
        window.cursor(0, 0)
        window.focus()
        window.type("# above")
        window.press("Enter")
        window.until(lambda: window.text == "# above\r\n" + HOLES)
        ready(window)
        assert window.text == "# above\r\n" + HOLES
        window.run("blockdiff.accept")
        window.until(lambda: "todo" not in window.text and "?" not in window.text)
        lines = window.text.split("\r\n")
        assert lines[:3] == ["# above", *HOLES.split("\r\n")[:2]]
        assert lines[3].startswith("\treturn width") and "\n" not in "".join(lines)
        filled = window.text
        window.press("Control+z")
        window.until(lambda: window.text == "# above\r\n" + HOLES)
        window.press("Control+y")
        window.until(lambda: window.text == filled)

        window.select((2, 0, 4, 0))
        window.begin("blockdiff.rewriteSelection", {"instruction": "rename it to product"})
        window.until(lambda: "Draft of" in window.tab or window.notices(), WAIT)
        in_diff(window, "area.py")
        window.sees("def product(")
        assert window.text_of("area.py") == filled
        window.run("blockdiff.accept")
        window.until(lambda: "def product(" in window.text_of("area.py"))
        assert window.notices() == []
