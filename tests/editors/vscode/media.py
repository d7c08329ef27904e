"""Pictures for `docs/vscode.md`, taken in a real VS Code.

    python -m tests.editors.vscode.media [--only NAME]

Every state in a dark and a light theme, written by an engine that follows a script, and `gif`: a
draft of the default model while it resolves.
"""

from __future__ import annotations

import argparse
import io
import os
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from PIL import Image, ImageChops

from blockdiff.client.endpoint import Runtime
from blockdiff.weights import folders
from tests.editors.nvim.script import Frame, Scripted
from tests.editors.vscode.test_infill import gone, in_diff, infill, ready
from tests.editors.vscode.vscode import (
    ROOT,
    CodeServer,
    Window,
    chromium,
    driver,
    interpreter,
)
from tests.unit.scripted_service import served

IMAGES = ROOT / "docs" / "images"
THEMES = {"dark": "Default Dark Modern", "light": "Default Light Modern"}
SIZE = {"width": 760, "height": 330, "scale": 2}
COLOURS = 200
LOOKS = {
    "workbench.activityBar.location": "hidden",
    "workbench.layoutControl.enabled": False,
    "window.commandCenter": False,
    "window.menuBarVisibility": "hidden",
    "breadcrumbs.enabled": False,
    "editor.fontSize": 14,
    "editor.lightbulb.enabled": "off",
    "editor.overviewRulerBorder": False,
    "editor.scrollbar.horizontal": "hidden",
    "blockdiff.inline.automatic": False,
}

PRIMES = '''\
def is_prime(n):
    """Whether n is a prime number."""
    todo


for n in range(20):
    print(n, is_prime(n))
'''
BODY = """\
if n < 2:
        return False
    for i in range(2, int(n ** 0.5) + 1):
        if n % i == 0:
            return False
    return True"""
EARLY = """\
if n < 2:
        return False
    for i in range(2, n):
        if n % n == 0:
            return n"""
HOLES = "width = ?\nheight = ?\narea = ?\nprint(area)\n"
LOOP = """\
def total(items):
    result = 0
    for i in range(len(items)):
        result = result + items[i].price
    return result
"""
SUM = "return sum(item.price for item in items)"

Scene = Callable[[Window, Scripted], None]


def drafting(window: Window, engine: Scripted) -> None:
    """Tokens that are settled, guessed, and doubtful."""
    engine.writes(Frame(EARLY, EARLY.index("for i"), "n % n"))
    engine.hold = True
    window.open("primes.py", PRIMES)
    infill(window, "todo")
    window.sees("return n")


def finished(window: Window, engine: Scripted) -> None:
    """A draft that can be accepted."""
    engine.writes(BODY)
    window.open("primes.py", PRIMES)
    infill(window, "todo")
    ready(window)


def holes(window: Window, engine: Scripted) -> None:
    """Several holes at once."""
    engine.frames = [[Frame(t, len(t))] for t in ("12", "34", "width * height")]
    window.open("holes.py", HOLES)
    window.select((0, 8, 0, 9), (1, 9, 1, 10), (2, 7, 2, 8))
    window.begin("blockdiff.fillAllHoles")
    ready(window)


def diff(window: Window, engine: Scripted) -> None:
    """A rewrite of several lines."""
    engine.writes(SUM)
    window.open("total.py", LOOP)
    window.select((1, 4, 4, 17))
    window.begin("blockdiff.rewriteSelection", {"instruction": "use sum()"})
    in_diff(window, "total.py")
    window.sees(SUM)


def instruction(window: Window, engine: Scripted) -> None:
    """What a rewrite asks for."""
    window.open("total.py", LOOP)
    window.select((1, 4, 4, 17))
    window.begin("blockdiff.rewriteSelection")
    window.page.locator(".quick-input-widget:visible input.input").wait_for()
    window.type("use sum()")


def ghost(window: Window, engine: Scripted) -> None:
    """A completion behind the cursor."""
    engine.writes("width * height")
    window.open("area.py", "def area(width, height):\n    return \n")
    window.cursor(1, 11)
    window.run("blockdiff.nextSuggestion")
    window.until(lambda: "width * height" in window.ghost())


def error(window: Window, engine: Scripted) -> None:
    """What was asked for cannot be done."""
    window.js(
        """await vscode.workspace.getConfiguration('blockdiff')
            .update('interpreter', '/usr/bin/no-such-python')"""
    )
    window.open("primes.py", PRIMES)
    window.until(lambda: "error" in window.status())
    infill(window, "todo")
    window.until(lambda: window.notices())


SCENES: dict[str, Scene] = {
    scene.__name__: scene for scene in (drafting, finished, holes, diff, instruction, ghost, error)
}


@contextmanager
def code(home: Path) -> Iterator[CodeServer]:
    started = CodeServer(home, {"BLOCKDIFF_CACHE": str(folders.cache_root())})
    try:
        started.add(driver(home))
        started.install()
        started.start()
        yield started
    finally:
        started.stop()


def tidy(window: Window) -> None:
    window.run("workbench.action.closeSidebar")
    window.run("workbench.action.closePanel")


def pictures(server: CodeServer, home: Path, only: str) -> None:
    runtime, engine = Runtime(home / "run"), Scripted()
    with ExitStack() as stack:
        stack.enter_context(served(runtime, lambda report: engine))
        # The engine can only be told to stop when the browser's event loop has ended.
        browser = stack.enter_context(chromium())
        for theme, label in THEMES.items():
            python = interpreter(home / theme / "python", runtime.folder, home / "traffic.jsonl")
            own = {"workbench.colorTheme": label, "blockdiff.interpreter": str(python)}
            folder = server.prepare(home / theme / "work", LOOKS | own)
            with server.window(browser, folder, **SIZE) as window:
                tidy(window)
                for name, scene in SCENES.items():
                    if only and only != name:
                        continue
                    engine.reset()
                    window.reset()
                    scene(window, engine)
                    window.still()
                    save(window, IMAGES / f"vscode-{name}-{theme}.png")
                    engine.hold = False


def save(window: Window, path: Path) -> None:
    picture = Image.open(io.BytesIO(window.page.screenshot())).convert("RGB")
    path.parent.mkdir(parents=True, exist_ok=True)
    reduced(picture, palette_of([picture])).save(path, optimize=True)
    print(f"{path.relative_to(ROOT)}: {path.stat().st_size / 1024:.0f} KiB", flush=True)


def palette_of(pictures: list[Image.Image]) -> Image.Image:
    """The most frequent colours: those of text and background stay what they are."""
    counts: Counter[tuple[int, ...]] = Counter()
    for picture in pictures:
        for count, colour in picture.getcolors(picture.width * picture.height):
            counts[colour] += count
    palette = Image.new("P", (1, 1))
    palette.putpalette([part for colour, _ in counts.most_common(COLOURS) for part in colour])
    return palette


def reduced(picture: Image.Image, palette: Image.Image) -> Image.Image:
    return picture.quantize(palette=palette, dither=Image.Dither.NONE)


def animation(server: CodeServer, home: Path) -> None:
    """The default model, at the speed that it has here, waiting for its start left out."""
    runtime = Runtime(home / "model")
    python = interpreter(home / "python", runtime.folder, home / "model.jsonl")
    settings = {
        **LOOKS,
        "workbench.colorTheme": THEMES["dark"],
        "blockdiff.interpreter": str(python),
        "blockdiff.decoding.mode": "diffusion",
        "blockdiff.decoding.maxTokens": 80,
    }
    folder = server.prepare(home / "gif", settings)
    frames: list[tuple[float, Image.Image]] = []
    try:
        with chromium() as browser:
            with server.window(browser, folder, **{**SIZE, "scale": 1}) as window:
                tidy(window)
                window.open("primes.py", PRIMES)
                for take in ("warm", "record"):
                    infill(window, "todo")
                    end = time.monotonic() + 600
                    while "Accept" not in window.screen():
                        assert time.monotonic() < end and not window.notices(), window.describe()
                        if take == "record":
                            frames.append(shot(window))
                        else:
                            time.sleep(0.2)
                    if take == "warm":
                        window.press("Escape")
                        gone(window)
                window.bound()
                frames.append(shot(window))
                time.sleep(1.0)
                window.press("Tab")
                gone(window)
                window.still()
                frames.append(shot(window))
    finally:
        if engine := runtime.announced():
            os.kill(engine.pid, signal.SIGTERM)
    write_gif(frames, IMAGES / "vscode.gif")


def shot(window: Window) -> tuple[float, Image.Image]:
    data = window.page.screenshot(animations="disabled")
    return time.monotonic(), Image.open(io.BytesIO(data)).convert("RGB")


def write_gif(frames: list[tuple[float, Image.Image]], path: Path) -> None:
    """Equal frames become one; every one is seen for 60 ms at least, the last for three seconds."""
    kept: list[tuple[float, Image.Image]] = []
    for at, frame in frames:
        if not kept or ImageChops.difference(kept[-1][1], frame).getbbox():
            kept.append((at, frame))
    times = [at for at, _ in kept]
    durations = [
        max(60, min(1500, round(1000 * (b - a)))) for a, b in zip(times, times[1:], strict=False)
    ]
    palette = palette_of([frame for _, frame in kept])
    pictures = [reduced(frame, palette) for _, frame in kept]
    pictures[0].save(
        path, save_all=True, append_images=pictures[1:], duration=[*durations, 3000], loop=0,
        optimize=True, disposal=1,
    )  # fmt: skip
    print(f"{path.relative_to(ROOT)}: {path.stat().st_size / 1024:.0f} KiB, {len(kept)} frames")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", choices=[*SCENES, "gif"], help="one alone")
    options: Any = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        with code(home) as server:
            if options.only != "gif":
                pictures(server, home, options.only)
            if options.only in ("", "gif"):
                animation(server, home)


if __name__ == "__main__":
    main()
