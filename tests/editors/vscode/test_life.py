"""What surrounds a draft: ghost text, the state, and everything that can be missing."""

from __future__ import annotations

import json
import os
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from blockdiff.client.endpoint import Runtime
from blockdiff.errors import ModelNotFound
from blockdiff.types import Extent
from lsp_server.settings import Settings
from tests.editors.nvim.script import Frame, Scripted
from tests.editors.vscode.conftest import Open
from tests.editors.vscode.test_infill import AREA, gone, infill, ready
from tests.editors.vscode.vscode import EXTENSION, ROOT, Window, executable
from tests.unit.scripted_service import served

# Ghost text


def test_ghost_text_comes_while_typing_and_tab_takes_it(
    open_window: Open, engine: Scripted
) -> None:
    engine.writes(" * height\n    # done")
    text = "def f():\n    return width\n"
    with open_window({"blockdiff.inline.automatic": True}) as window:
        window.open("area.py", text)
        window.until(lambda: "blockdiff" in window.status())
        window.cursor(1, 16)
        window.type_until(" ", lambda: "# done" in window.ghost())
        assert window.text == text.replace("width", "width ")
        window.press("Tab")
        window.until(lambda: window.text == "def f():\n    return width  * height\n    # done\n")
        window.press("Control+z")
        window.until(lambda: "# done" not in window.text)
        assert window.notices() == []


def test_a_resting_cursor_parts_of_a_completion_and_why_none_came(
    open_window: Open, engine: Scripted
) -> None:
    engine.writes("one two\n    three")
    settings = {"inline.automatic": True, "inline.multiline": True, "inline.inComments": False}
    values = {f"blockdiff.{name}": value for name, value in settings.items()}
    with open_window(values | {"blockdiff.idleTrigger": 200}) as window:
        window.open("area.py", "# the\nx = \n")
        window.until(lambda: "blockdiff" in window.status())
        window.cursor(1, 4)
        window.until(lambda: "three" in window.ghost())
        window.press("Alt+w")
        window.until(lambda: window.text == "# the\nx = one\n")
        window.until(lambda: "two" in window.ghost() and "three" in window.ghost())
        engine.writes("single()")
        several = len(engine.requests)
        window.press("Alt+m")
        window.until(lambda: "single()" in window.ghost())
        extents = [getattr(request, "extent", None) for request in engine.requests]
        assert {*extents[:several]} == {Extent.BLOCK} and {*extents[several:]} == {Extent.LINE}
        window.press("Escape")
        window.cursor(0, 5)
        window.until(lambda: "switched off in comments" in window.tooltip())
        assert "(area.py:1, " in window.tooltip()
        assert window.text == "# the\nx = one\n" and len(engine.requests) == len(extents)


def test_tab_is_never_taken_where_nothing_is_shown(window: Window, engine: Scripted) -> None:
    window.open("area.py", "x\n")
    window.cursor(0, 1)
    window.press("Tab")
    window.until(lambda: window.text == "x   \n")
    infill(window, "x")
    ready(window)
    window.press("Escape")
    gone(window)
    window.bound()
    window.cursor(0, 4)
    window.press("Tab", "Escape")
    window.until(lambda: window.text == "x       \n")


def test_every_key_asks_for_a_draft_or_an_editor() -> None:
    """No key of ours works where nothing is shown, but those that ask for a draft."""
    manifest = json.loads((EXTENSION / "package.json").read_text("utf-8"))
    bindings = manifest["contributes"]["keybindings"]
    assert {one["key"] for one in bindings} >= {"tab", "escape"}
    for one in bindings:
        asks = one["command"].endswith(("infillSelection", "rewriteSelection", "fillAllHoles"))
        shown = ["isDraftReady", "hasDraft", "inlineSuggestionVisible"]
        words = ["editorTextFocus"] if asks else shown
        assert any(word in one["when"] for word in words), one


def test_the_guide_has_every_command_key_setting_and_colour() -> None:
    guide = (ROOT / "docs" / "vscode.md").read_text("utf-8")
    manifest = json.loads((EXTENSION / "package.json").read_text("utf-8"))["contributes"]
    keys = {one["command"]: one for one in manifest["keybindings"]}
    for command in manifest["commands"]:
        key = keys.get(command["command"])
        other, mac = ("", "") if key is None else (key["key"], key.get("mac", key["key"]))
        row = f"| *{command['title']}* | {_shown(other)} | {_shown(mac)} |".replace("  ", " ")
        assert row.lower() in guide.lower(), row
    server = {field.name for field in fields(Settings)}
    for part in manifest["configuration"]:
        for name in part["properties"]:
            own = name.split(".")[1] not in server
            assert not own or f"| `{name}` |" in guide, name
    for colour in manifest["colors"]:
        assert f"| `{colour['id']}` |" in guide, colour["id"]


def _shown(key: str) -> str:
    return f"`{key}`" if key else ""


def test_candidates_are_asked_for_on_command(window: Window, engine: Scripted) -> None:
    engine.frames = [[Frame("first", 5)], [Frame("second", 6)]]
    window.open("area.py", "x = \n")
    window.cursor(0, 4)
    window.begin("blockdiff.nextSuggestion")
    window.until(lambda: "first" in window.ghost() or "second" in window.ghost())
    for _ in range(3):
        shown = window.ghost()
        window.run("blockdiff.nextSuggestion")
        window.until(lambda shown=shown: window.ghost() not in ("", shown))
    assert window.text == "x = \n"
    window.press("Escape")
    window.until(lambda: window.ghost() == "")


# Commands, state, settings


def test_all_commands_of_the_manifest_are_there(window: Window) -> None:
    wanted = json.loads((EXTENSION / "package.json").read_text("utf-8"))["contributes"]["commands"]
    window.open("area.py", AREA)
    window.until(lambda: server_is_up(window))
    there = window.js("return await vscode.commands.getCommands(true)")
    assert {one["command"] for one in wanted} <= set(there)


def test_the_status_bar_says_how_the_engine_is(window: Window, engine: Scripted) -> None:
    engine.writes("width", "width * height")  # a speed needs two tokens
    window.open("area.py", AREA)
    engine.hold = True
    infill(window, "todo")
    window.until(lambda: "writing" in window.status())
    engine.hold = False
    ready(window)
    window.until(lambda: "writing" not in window.status() and "/s" in window.status())


def test_settings_reach_the_engine(window: Window, engine: Scripted) -> None:
    update = """await vscode.workspace.getConfiguration('blockdiff')
        .update(args[0], args[1] ?? undefined)"""
    window.open("area.py", AREA)
    for value in (17, None):
        window.js(update, "decoding.maxTokens", value)
        count = len(engine.requests)

        def asked(wanted: int = value or 256, count: int = count) -> bool:
            infill(window, "todo")
            ready(window)
            window.press("Escape")
            gone(window)
            return engine.requests[-1].decoding.max_tokens == wanted

        window.until(asked)


def test_a_real_engine_on_random_weights(open_window: Open, tiny: Runtime) -> None:
    with open_window({"blockdiff.decoding.maxTokens": 12}, tiny) as window:
        window.open("area.py", AREA)
        for command in ("infillSelection", "rewriteSelection"):
            window.find("return todo")
            window.js(
                "await vscode.commands.executeCommand(...args)",
                f"blockdiff.{command}",
                {"instruction": "shorter"},
            )
            assert window.text == AREA
            window.run("blockdiff.reject")
            window.until(lambda: window.tab == "area.py")
            gone(window)
        results = [one["message"].get("result") for one in window.traffic.messages()]
        forwards = [one["forwards"] for one in results if one and "forwards" in one]
        assert len(forwards) == 2 and min(forwards) > 0


# What goes wrong


def server_is_up(window: Window) -> bool:
    return "error" not in window.status() and "starting" not in window.status()


def told(window: Window, words: str) -> None:
    """Wait for the one notification, and the line of the output, that say what is wrong."""
    window.until(lambda: len(window.notices()) == 1 and words in window.notices()[0])
    window.until(lambda: words in window.output())


def test_no_interpreter_a_state_at_first_and_a_notice_on_command(open_window: Open) -> None:
    with open_window({"blockdiff.interpreter": "/no/such/python"}) as window:
        window.open("area.py", AREA)
        window.until(lambda: "error" in window.status())
        assert window.notices() == []
        infill(window, "todo")
        told(window, "/no/such/python, which cannot be run")
        gone(window)
        assert window.text == AREA


SILENT = "exec sleep 600"
CRASHES = "exit 3"


@pytest.mark.parametrize(
    ("found", "serve", "words"),
    [
        ('[true, ""]', CRASHES, "has no blockdiff"),
        ('[true, "0.0.1"]', CRASHES, "older than this extension"),
        ('[true, "9.9.9"]', CRASHES, "exit code 3"),
        ('[true, "9.9.9"]', SILENT, "no answer for 2 seconds"),
    ],
    ids=["no package", "old", "crashes", "silent"],
)
def test_servers_that_do_not_serve(
    open_window: Open, tmp_path: Path, found: str, serve: str, words: str
) -> None:
    python = executable(
        tmp_path / "python", f"if [ \"$1\" = -c ]; then echo '{found}'; exit 0; fi\n{serve}"
    )
    settings = {"blockdiff.interpreter": str(python), "blockdiff.startTimeout": 2}
    with open_window(settings) as window:
        window.open("area.py", AREA)
        window.until(lambda: "error" in window.status())
        assert window.notices() == []
        infill(window, "todo")
        told(window, words)
        gone(window)
        assert window.text == AREA


def test_a_server_that_dies_is_started_again(open_window: Open, engine: Scripted) -> None:
    engine.writes("never seen whole")
    engine.hold = True
    with open_window() as window:
        window.open("area.py", AREA)
        infill(window, "todo")
        window.sees("never seen")
        pid = window.traffic.messages()[-1]["pid"]
        os.kill(pid, signal.SIGKILL)
        gone(window)
        window.until(lambda: window.notices())
        assert len(window.notices()) == 1 and "Stop" not in window.screen()
        engine.hold = False
        window.run("notifications.clearAll")
        infill(window, "todo")
        ready(window)
        assert window.traffic.messages()[-1]["pid"] != pid and window.text == AREA


def test_a_model_that_is_not_downloaded(
    open_window: Open, tmp_path: Path, thread: ThreadPoolExecutor
) -> None:
    def load(report: Any) -> Any:
        raise ModelNotFound("the model is not downloaded", "run blockdiff models pull")

    runtime, stack = Runtime(tmp_path / "run"), ExitStack()
    thread.submit(stack.enter_context, served(runtime, load)).result()
    try:
        with open_window({}, runtime) as window:
            window.open("area.py", AREA)
            infill(window, "todo")
            told(window, "run blockdiff models pull")
            window.until(lambda: "error" in window.status())
            gone(window)
    finally:
        thread.submit(stack.close).result()


def test_a_model_that_loads_shows_how_far_it_is(
    open_window: Open, engine: Scripted, tmp_path: Path, thread: ThreadPoolExecutor
) -> None:
    loaded = threading.Event()

    def load(report: Any) -> Any:
        report("loading weights", 0.4)
        assert loaded.wait(120)
        return engine

    runtime, stack = Runtime(tmp_path / "run"), ExitStack()
    thread.submit(stack.enter_context, served(runtime, load)).result()
    try:
        with open_window({}, runtime) as window:
            window.open("area.py", AREA)
            infill(window, "todo")
            window.until(lambda: "40%" in window.status())
            window.until(lambda: "40%" in window.progress())
            loaded.set()
            ready(window)
            window.until(lambda: not window.progress())
            assert "40%" not in window.status() and window.notices() == []
    finally:
        loaded.set()
        thread.submit(stack.close).result()


def test_an_untrusted_folder_chooses_no_program(
    open_window: Open, server: Any, tmp_path: Path, engine: Scripted
) -> None:
    """Its settings name one that would leave a trace."""
    python = executable(tmp_path / "python", f"touch {tmp_path / 'ran'}; exit 1")
    server.settings(
        {
            "security.workspace.trust.enabled": True,
            "security.workspace.trust.startupPrompt": "never",
            "security.workspace.trust.banner": "never",
        }
    )
    try:
        with open_window({"blockdiff.interpreter": str(python)}) as window:
            assert window.js("return vscode.workspace.isTrusted") is False
            window.open("area.py", AREA)
            window.until(lambda: "found by" in window.output() or "no Python" in window.output())
            assert not (tmp_path / "ran").exists()
    finally:
        server.settings({})
