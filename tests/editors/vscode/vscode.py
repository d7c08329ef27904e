"""A real VS Code for tests: code-server, its page in a headless Chromium.

What a user does and sees goes through the page: keys, and the text on the screen, decorations
included. What cannot be seen exactly, such as the bytes of a document, is asked of an extension in
`driver/` that runs code in the extension host.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import threading
import time
import urllib.request
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, BrowserContext, Page, sync_playwright
from playwright.sync_api import Error as PageError

from tests.editors.installed import Installed
from tests.editors.vscode import install
from tests.editors.vscode.traffic import Traffic

ROOT = Path(__file__).resolve().parents[3]
HERE = Path(__file__).parent
EXTENSION = ROOT / "editors" / "vscode"
SEE = (HERE / "see.js").read_text(encoding="utf-8")

WAIT = float(os.environ.get("BLOCKDIFF_PATIENCE", "60"))
"""Seconds that anything may take here; a machine may be slow and shared."""

QUIET = {
    "telemetry.telemetryLevel": "off",
    "update.mode": "none",
    "extensions.autoCheckUpdates": False,
    "extensions.autoUpdate": "off",
    "extensions.ignoreRecommendations": True,
    "workbench.startupEditor": "none",
    "workbench.tips.enabled": False,
    "workbench.enableExperiments": False,
    "workbench.reduceMotion": "on",
    "workbench.secondarySideBar.defaultVisibility": "hidden",
    "workbench.colorTheme": "Default Dark Modern",
    "security.workspace.trust.enabled": False,
    "window.confirmBeforeClose": "never",
    "chat.disableAIFeatures": True,
    "git.enabled": False,
    "files.hotExit": "off",
    "files.autoSave": "off",
    "editor.minimap.enabled": False,
    "editor.stickyScroll.enabled": False,
    "editor.cursorBlinking": "solid",
    "editor.fontFamily": "DejaVu Sans Mono, monospace",
    "editor.wordBasedSuggestions": "off",
    "editor.quickSuggestions": {"other": "off", "comments": "off", "strings": "off"},
    "editor.parameterHints.enabled": False,
    "editor.occurrencesHighlight": "off",
    "editor.unusualLineTerminators": "off",
    "editor.detectIndentation": False,
    "editor.autoClosingBrackets": "never",
    "editor.autoIndent": "none",
    "explorer.autoReveal": False,
}
"""Settings of every window: nothing moves, pops up or asks the network but what is tested."""


class DriverError(Exception):
    """What the code raised that a test ran in the extension host."""


class CodeServer:
    """One running code-server; every window of it is a page of its own."""

    def __init__(self, home: Path, environment: dict[str, str] | None = None) -> None:
        self.home = home
        self._driver = home / "driver"
        self._user = home / ".local" / "share" / "code-server"
        for folder in (self._driver, self._user / "User"):
            folder.mkdir(parents=True, exist_ok=True)
        self._config = home / "config.yaml"
        self._config.write_text("auth: none\n")
        # Nothing of an editor that these tests may run in.
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("VSCODE_", "XDG_"))}
        self._environment = {
            **kept,
            "HOME": str(home),
            "DRIVER_FOLDER": str(self._driver),
            "EXTENSIONS_GALLERY": "{}",
            **(environment or {}),
        }
        self._process: subprocess.Popen[str] | None = None
        self._said: list[str] = []
        self.address = ""
        self.settings({})

    def settings(self, values: dict[str, Any]) -> None:
        """Those of the user, for all windows, beside `QUIET`."""
        path = self._user / "User" / "settings.json"
        path.write_text(json.dumps({**QUIET, **values}, indent=1))

    def add(self, vsix: Path) -> None:
        """Install an extension as a user does."""
        done = subprocess.run(
            [*self._command(), "--install-extension", str(vsix)],
            env=self._environment, capture_output=True, text=True, timeout=300,
        )  # fmt: skip
        assert "successfully installed" in done.stdout, done.stdout + done.stderr

    @staticmethod
    def prepare(folder: Path, settings: dict[str, Any]) -> Path:
        """Make a folder to work in, with settings of its own."""
        path = folder / ".vscode" / "settings.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(settings, indent=1))
        return folder

    def _command(self) -> list[str]:
        return [*install.code_server(), "--config", str(self._config)]

    def install(self) -> Installed:
        """Our extension, as users do: by the command of an installed wheel, which is returned."""
        command = [*map(shlex.quote, self._command())]
        made = Installed(self.home, {"code-server": command}, extension=True)
        done = made.run("editors", "install", "vscode")
        assert done.returncode == 0, done.stdout + done.stderr
        return made

    def start(self) -> None:
        self._process = subprocess.Popen(
            [
                *self._command(),
                "--auth", "none", "--bind-addr", "127.0.0.1:0",
                "--disable-telemetry", "--disable-update-check",
                "--disable-getting-started-override", "--ignore-last-opened",
            ],
            env=self._environment, cwd=self.home, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace",
            start_new_session=True,
        )  # fmt: skip
        listening = threading.Event()
        threading.Thread(target=self._read, args=(listening,), daemon=True).start()
        assert listening.wait(WAIT), "".join(self._said)

    def _read(self, listening: threading.Event) -> None:
        assert self._process and self._process.stdout
        for line in self._process.stdout:
            self._said.append(line)
            if found := re.search(r"HTTP server listening on (http://\S+?)/?\s", line):
                self.address = found[1]
                listening.set()

    def stop(self) -> None:
        """With all that it has started."""
        if self._process is None:
            return
        for how in (signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, how)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(10)
        self._process = None

    @contextlib.contextmanager
    def window(self, browser: Browser, folder: Path, **options: Any) -> Iterator[Window]:
        """A window on `folder`, ready to be driven.

        Args:
            options: of the page: `width`, `height` (pixels), `scale`.
        """
        size = {"width": options.get("width", 1000), "height": options.get("height", 600)}
        context = browser.new_context(
            viewport=size, device_scale_factor=options.get("scale", 1), reduced_motion="reduce"
        )
        context.set_default_timeout(WAIT * 1000)
        window = Window(self, context, folder)
        try:
            window.load()
            yield window
        finally:
            context.close()

    def logs(self) -> Path:
        return self._user / "logs"

    def port_file(self, folder: Path) -> Path:
        return self._driver / hashlib.sha256(str(folder).encode()).hexdigest()


class Window:
    """One window of VS Code."""

    def __init__(self, server: CodeServer, context: BrowserContext, folder: Path) -> None:
        self._server = server
        self._context = context
        self.page: Page = context.new_page()
        self.page.add_init_script(SEE)
        self.folder = folder
        self.traffic: Traffic | None = None
        self._port = 0
        self._resets = 0

    def load(self) -> None:
        """Load, or load anew; returns when the workbench and its extensions run."""
        port_file = self._server.port_file(self.folder)
        port_file.unlink(missing_ok=True)
        self._began = time.time()
        self.page.goto(f"{self._server.address}/?folder={self.folder}", wait_until="commit")
        self.page.wait_for_selector(".monaco-workbench .statusbar")
        self.until(port_file.exists)
        self._port = int(port_file.read_text())

    # The extension host

    def js(self, code: str, *args: Any) -> Any:
        """Run the body of an async function there, with `vscode`, `state` and `args`."""
        body = json.dumps({"code": code, "args": args}).encode()
        request = urllib.request.Request(f"http://127.0.0.1:{self._port}", body)
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(request, timeout=WAIT * 2) as answer:
            said = json.load(answer)
        if "error" in said:
            raise DriverError(said["error"])
        return said["result"]

    def run(self, command: str, *args: Any) -> None:
        """Execute a command to its end."""
        self.js("await vscode.commands.executeCommand(...args)", command, *args)

    def begin(self, command: str, *args: Any) -> None:
        """Execute a command; do not wait for it."""
        self.js("void vscode.commands.executeCommand(...args)", command, *args)

    def path(self, name: str) -> Path:
        """Every test has other files: VS Code knows those that it had open for a while."""
        return self.folder / str(self._resets) / name

    def open(self, name: str, text: str | bytes | None = None) -> Path:
        """Write a file, if there is something to write, and show it."""
        path = self.path(name)
        if text is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(text.encode() if isinstance(text, str) else text)
        self.js(
            """const document = await vscode.workspace.openTextDocument(args[0]);
            await vscode.window.showTextDocument(document, {preview: false});""",
            str(path),
        )
        self.page.wait_for_selector(".editor-instance .view-line")
        self.focus()
        return path

    def focus(self) -> None:
        """Keys go to the editor from here on."""
        self.run("workbench.action.focusActiveEditorGroup")
        self.until(lambda: self.page.evaluate("see.focused()"))

    @property
    def text(self) -> str:
        """Of the active document, with the line endings that it has."""
        return self.js("return vscode.window.activeTextEditor.document.getText()")

    @property
    def version(self) -> int:
        return self.js("return vscode.window.activeTextEditor.document.version")

    @property
    def dirty(self) -> bool:
        return self.js("return vscode.window.activeTextEditor.document.isDirty")

    def select(self, *ranges: tuple[int, int, int, int]) -> None:
        """Start line, start column, end line, end column, from 0, in UTF-16 units."""
        self.js(
            """vscode.window.activeTextEditor.selections =
                args[0].map((r) => new vscode.Selection(...r));
            vscode.window.activeTextEditor.revealRange(new vscode.Range(...args[0][0]));""",
            ranges,
        )
        self.bound()

    def cursor(self, line: int, column: int) -> None:
        self.select((line, column, line, column))

    def find(self, text: str) -> None:
        """Select the only place that reads `text`."""
        self.select(self.range_of(text))

    def range_of(self, text: str) -> tuple[int, int, int, int]:
        return tuple(
            self.js(
                """const document = vscode.window.activeTextEditor.document;
                const at = document.getText().indexOf(args[0]);
                if (at < 0) throw new Error('not in the document: ' + args[0]);
                const [a, b] = [at, at + args[0].length].map((o) => document.positionAt(o));
                return [a.line, a.character, b.line, b.character]""",
                text,
            )
        )

    def text_of(self, name: str) -> str:
        """Of an open document of the folder."""
        return self.js(
            """const path = vscode.Uri.file(args[0]).fsPath;
            const found = vscode.workspace.textDocuments.find((d) => d.uri.scheme === 'file'
              && d.uri.fsPath === path);
            return found.getText()""",
            str(self.path(name)),
        )

    @property
    def scheme(self) -> str:
        """Of the URI of the active document; empty: there is none."""
        return self.js("return vscode.window.activeTextEditor?.document.uri.scheme ?? ''")

    @property
    def tab(self) -> str:
        """Label of the active tab."""
        return self.js("return vscode.window.tabGroups.activeTabGroup.activeTab?.label ?? ''")

    @property
    def place(self) -> list[int]:
        """Line and column of the cursor, from 0."""
        return self.js(
            """const { line, character } = vscode.window.activeTextEditor.selection.active;
            return [line, character]"""
        )

    # The page

    def palette(self, title: str) -> None:
        """Run a command of the command palette."""
        self.press("F1")
        box = self.page.locator(".quick-input-widget:visible input.input")
        box.wait_for()
        box.fill(f">{title}")
        row = self.page.locator(".quick-input-list .monaco-list-row", has_text=title).first
        row.wait_for()
        row.click()

    def answer(self, text: str) -> None:
        """Type into the box that asks for something."""
        self.page.locator(".quick-input-widget:visible input.input").wait_for()
        self.type(text)
        self.press("Enter")

    def click_lens(self, title: str) -> None:
        self.page.locator(".codelens-decoration a", has_text=re.compile(rf"\b{title}$")).click()

    def press(self, *keys: str) -> None:
        for key in keys:
            self.page.keyboard.press(key)

    def type(self, text: str) -> None:
        self.page.keyboard.type(text)

    def type_until(self, text: str, condition: Callable[[], Any]) -> None:
        """Type, and where nothing came of it take it back and type again.

        In a new window VS Code loads what listens to typing once it is idle, and shows it nowhere.
        """
        end = time.monotonic() + WAIT
        while True:
            self.type(text)
            try:
                return self.until(condition, 5)
            except AssertionError:
                if time.monotonic() > end:
                    raise
            for _ in text:
                self.press("Backspace")

    def lines(self) -> list[str]:
        """What stands in the editors, line by line, text of decorations and view zones included."""
        return self.page.evaluate("see.lines()")

    def screen(self) -> str:
        return "\n".join(self.lines())

    def status(self) -> str:
        """The text of our item in the status bar."""
        return self.page.evaluate("see.status()")

    def tooltip(self) -> str:
        """Of our item in the status bar."""
        self.page.locator('[id^="blockdiff."][id$="blockdiff.status"]').hover()
        shown = self.page.locator(".monaco-hover:visible").filter(has_text="BlockDiff")
        return shown.first.inner_text().replace("\xa0", " ")

    def ghost(self) -> str:
        """Ghost text at the cursor."""
        return self.page.evaluate("see.ghost()")

    def notices(self) -> list[str]:
        return self.page.evaluate("see.notices()")

    def shows_document(self) -> bool:
        """Whether the lines on the screen are those of the document, nothing else."""
        shown = [line for line in self.lines() if line]
        lines = {line.replace("\t", " " * 4).rstrip() for line in self.text.splitlines()}
        return all(line in lines for line in shown)

    def bound(self) -> None:
        """Wait until what extensions have sent has come, such as keys to bind: it is in order."""
        self.run("setContext", "driver.order", True)

    def height_of(self, text: str) -> float:
        """Pixels from the top to the first row that has a text; -1: there is none."""
        return self.page.evaluate("see.heightOf", text)

    def painted(self) -> bool:
        """Whether a draft is painted somewhere."""
        return self.page.evaluate("see.painted()")

    def style_of(self, text: str) -> str:
        """Background of the painted text, as computed."""
        return self.page.evaluate("see.styleOf", text)

    def theme_colour(self, variable: str) -> str:
        """As computed styles name it."""
        return self.page.evaluate("see.themeColour", variable)

    def watch(self, text: str) -> None:
        """Measure how long a text is still on the screen after the next key."""
        self.page.evaluate("see.watch", text)

    def watched(self) -> float:
        """Milliseconds from the key to the first frame without the text."""
        return self.until(lambda: self.page.evaluate("see.watched"))

    def progress(self) -> str:
        """Text of notifications that show a progress."""
        return self.page.evaluate("see.progress()")

    def record(self) -> None:
        """Keep every different screen from now on, see `screens`."""
        self.page.evaluate("see.record()")

    def screens(self) -> list[str]:
        return self.page.evaluate("see.screens")

    def until(self, condition: Callable[[], Any], seconds: float = WAIT) -> Any:
        end = time.monotonic() + seconds
        while True:
            value = condition()
            if value:
                return value
            assert time.monotonic() < end, f"waited in vain\n{self.describe()}"
            time.sleep(0.02)

    def sees(self, text: str, seconds: float = WAIT) -> None:
        self.until(lambda: text in self.screen(), seconds)

    def misses(self, text: str, seconds: float = WAIT) -> None:
        self.until(lambda: text not in self.screen(), seconds)

    def describe(self) -> str:
        """For a failed wait."""
        with contextlib.suppress(PageError):
            seen = f"{self.screen()}\n-- {self.status()}\n-- {self.notices()}"
            return f"{seen}\n-- {self.output()[-2000:]}"
        return "the page does not answer"

    def still(self) -> None:
        """Wait until two pictures in a row are the same, or for long if something moves."""
        last = b""
        for _ in range(20):
            shot = self.page.screenshot(animations="disabled", caret="initial")
            if shot == last:
                return
            last = shot
            time.sleep(0.25)

    def picture(self, name: str) -> None:
        """Of a failed test, into `$BLOCKDIFF_PICTURES` if that is set."""
        if folder := os.environ.get("BLOCKDIFF_PICTURES"):
            safe = re.sub(r"\W+", "-", name)
            with contextlib.suppress(PageError):
                self.page.screenshot(path=Path(folder) / f"{safe}.png")

    def output(self) -> str:
        """What the extension has logged."""
        logs = self._server.logs().rglob("*BlockDiff.log")
        own = [path for path in logs if path.stat().st_mtime >= self._began]
        return "\n".join(path.read_text(encoding="utf-8") for path in sorted(own))

    def reset(self) -> None:
        """As it was when it was loaded: nothing open, nothing shown."""
        self._resets += 1
        self.press("Escape")
        self.js(
            """const tabs = () => vscode.window.tabGroups.all.flatMap((group) => group.tabs);
            const run = vscode.commands.executeCommand;
            await run('notifications.clearAll');
            for (let tries = 0; tabs().length && tries < 50; tries++) {
              await run('workbench.action.revertAndCloseActiveEditor');
            }
            await run('workbench.action.closeAllEditors');
            await run('workbench.action.closePanel');"""
        )
        self.until(lambda: not self.lines() and not self.notices())


def interpreter(path: Path, runtime: Path, log: Path) -> Path:
    """What to name as `blockdiff.interpreter`: Python, for the engine of `runtime`, and watched."""
    settings = {"BLOCKDIFF_RUNTIME": str(runtime), "PYTHONPATH": str(ROOT)}
    lines = [f"export {name}={shlex.quote(value)}" for name, value in settings.items()]
    command = shlex.join([sys.executable, str(HERE / "traffic.py"), str(log)])
    return executable(path, "\n".join([*lines, f'exec {command} "$@"']))


def executable(path: Path, script: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


def npm(script: str, folder: Path) -> None:
    """Run a script of the extension with the packages of its lock, and programs in `folder`."""
    command, settings = install.npm(), install.environment(folder)
    locked, tools = EXTENSION / "package-lock.json", EXTENSION / "node_modules" / "vitest"
    if not tools.exists() or tools.parent.stat().st_mtime < locked.stat().st_mtime:
        _npm([*command, "ci", "--no-audit", "--no-fund", "--loglevel=error"], settings)
    _npm([*command, "run", script, "--silent"], settings)


def _npm(command: list[str], settings: dict[str, str]) -> None:
    done = subprocess.run(
        command, cwd=EXTENSION, env=settings, stdin=subprocess.DEVNULL,
        capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, f"{shlex.join(command)}:\n{done.stdout}{done.stderr}"


def driver(folder: Path) -> Path:
    """The driver as a package in `folder`."""
    path = folder / "driver.vsix"
    with zipfile.ZipFile(path, "w") as archive:
        for name in ("package.json", "extension.js"):
            archive.write(HERE / "driver" / name, f"extension/{name}")
    return path


@contextlib.contextmanager
def chromium() -> Iterator[Browser]:
    path = install.browser()
    assert path, "Chromium is missing: python -m tests.editors.vscode.install"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=path,
            args=["--force-color-profile=srgb", "--disable-gpu", "--font-render-hinting=none"],
        )
        yield browser
        browser.close()
