"""The pictures of docs/neovim.md, taken in a real Neovim that the default model writes in.

`python -m tests.editors.nvim.media` draws what Neovim tells a user interface to draw: cells and
their exact colours. Writes docs/images/nvim-*.png, each state in a dark and a light theme, and
docs/images/nvim.gif.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import matplotlib
from PIL import Image, ImageDraw, ImageFont

from blockdiff.client.endpoint import Runtime
from blockdiff.weights import folders
from tests.editors.nvim.neovim import ROOT, Neovim, neovim

IMAGES = ROOT / "docs" / "images"
FONTS = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
CELL_WIDTH, CELL_HEIGHT, FONT_SIZE, MARGIN = 9, 19, 15, 10
WAIT = 300.0
NOT_IN_THE_FONT = {"✅": "✔", "❌": "✘"}

MEAN = '''\
def mean(values):
    """The arithmetic mean of a list of numbers."""
    todo


print(mean([1, 2, 3, 4]))
'''
LOOP = """\
def total(orders):
    result = 0
    for order in orders:
        result += order.price
    return result


print(total([]))
"""
HOLES = """\
class Point:
    def __init__(self, x, y):
        self.x, self.y = x, y

    def __add__(self, other):
        ...

    def __repr__(self):
        ...


print(Point(1, 2) + Point(3, 4))
"""
GHOST = '''\
def is_leap(year):
    """Whether a year of the Gregorian calendar has 366 days."""
    return year % 4 == 0 and'''


@dataclass(frozen=True)
class Frame:
    """What was on the screen from one flush to the next."""

    cells: list[list[str]]
    highlights: list[list[int]]
    cursor: tuple[int, int]
    seconds: float  # since the start

    def text(self) -> str:
        return "\n".join("".join(row).rstrip() for row in self.cells)


class Camera(Neovim):
    """Keeps every screen with its colours."""

    def __init__(self, *arguments: Any) -> None:
        self.frames: list[Frame] = []
        self.attributes: dict[int, dict[str, Any]] = {0: {}}
        self.defaults = (0, 0xFFFFFF)
        self._cursor = (0, 0)
        super().__init__(*arguments)

    def _draw(self, event: str, arguments: list[Any]) -> None:
        super()._draw(event, arguments)
        if event == "hl_attr_define":
            self.attributes[arguments[0]] = arguments[1]
        elif event == "default_colors_set":
            self.defaults = (arguments[0], arguments[1])
        elif event == "grid_cursor_goto":
            self._cursor = (arguments[1], arguments[2])
        elif event == "flush":
            cells, highlights = self._shown
            self.frames.append(Frame(cells, highlights, self._cursor, time.monotonic()))

    def settled(self) -> Frame:
        """The screen once nothing changes any more."""
        count = -1
        while count != len(self.frames):
            count = len(self.frames)
            time.sleep(0.4)
        return self.frames[-1]

    def share(self, frame: Frame, group: str) -> int:
        """Cells of a highlight group on a screen, hints of what the keys do left out."""
        count = 0
        for row, highlights in zip(frame.cells, frame.highlights, strict=True):
            end = "".join(row).find("  writing")
            for cell, number in zip(row[: end if end >= 0 else None], highlights, strict=False):
                count += cell != " " and group in self._highlights.get(number, [])
        return count


# Drawing


@cache
def font(bold: bool, italic: bool) -> ImageFont.FreeTypeFont:
    style = {(1, 0): "-Bold", (0, 1): "-Oblique", (1, 1): "-BoldOblique"}.get((bold, italic), "")
    return ImageFont.truetype(str(FONTS / f"DejaVuSansMono{style}.ttf"), FONT_SIZE)


def colour(number: int) -> tuple[int, int, int]:
    return number >> 16 & 255, number >> 8 & 255, number & 255


def drawn(camera: Camera, frame: Frame, rows: int | None = None) -> Image.Image:
    """A picture of a screen: of a number of rows, or down to the last that is not empty."""
    used = [number for number, row in enumerate(frame.cells) if "".join(row).strip()]
    rows = rows or used[-1] + 1
    plain, ground = camera.defaults
    size = (camera.width * CELL_WIDTH + 2 * MARGIN, rows * CELL_HEIGHT + 2 * MARGIN)
    image = Image.new("RGB", size, colour(ground))
    draw = ImageDraw.Draw(image)
    for row in range(rows):
        for column, cell in enumerate(frame.cells[row]):
            attributes = camera.attributes.get(frame.highlights[row][column], {})
            fore = attributes.get("foreground", plain)
            back = attributes.get("background", ground)
            if attributes.get("reverse", False) != (frame.cursor == (row, column)):
                fore, back = back, fore
            x, y = MARGIN + column * CELL_WIDTH, MARGIN + row * CELL_HEIGHT
            box = (x, y, x + CELL_WIDTH - 1, y + CELL_HEIGHT - 1)
            if back != ground:
                draw.rectangle(box, fill=colour(back))
            cell = NOT_IN_THE_FONT.get(cell, cell)
            if cell.strip():
                style = font(attributes.get("bold", False), attributes.get("italic", False))
                draw.text((x, y + 1), cell, font=style, fill=colour(fore))
            if attributes.get("underline") or attributes.get("undercurl"):
                line = colour(attributes.get("special", fore))
                draw.line((x, box[3] - 1, box[2], box[3] - 1), fill=line, width=2)
    return image


def save(image: Image.Image, name: str) -> None:
    IMAGES.mkdir(exist_ok=True)
    image.quantize(64, dither=Image.Dither.NONE).save(IMAGES / f"{name}.png", optimize=True)


def animated(camera: Camera, frames: list[Frame], rows: int) -> None:
    """Each draft as long as it took, within what an eye can follow; the end a while longer."""
    pictures = [drawn(camera, frame, rows) for frame in frames]
    moments = [frame.seconds for frame in frames]
    spans = [after - before for before, after in zip(moments, moments[1:], strict=False)]
    times = [1500, *(round(1000 * min(max(span, 0.3), 0.9)) for span in spans[1:]), 2500]
    palette = pictures[len(pictures) // 2].quantize(64, dither=Image.Dither.NONE)
    first, *rest = (one.quantize(palette=palette, dither=Image.Dither.NONE) for one in pictures)
    first.save(IMAGES / "nvim.gif", save_all=True, append_images=rest, duration=times, loop=0)


# Scenes


class Studio:
    """One engine for all scenes; a Neovim for each."""

    def __init__(self, home: Path, theme: str, dtype: str) -> None:
        self.home, self.theme, self.dtype = home, theme, dtype
        self.runtime = Runtime(home / "run")

    def opened(
        self, text: str, height: int, width: int = 80, ghost: bool = False, **decoding: Any
    ) -> Any:
        file = self.home / "example.py"
        file.write_text(text)
        setup = {
            "cmd": ["blockdiff-lsp"],
            "ghost": {"enabled": ghost, "native": False},
            "server": {"decoding": decoding, "engine": {"dtype": self.dtype}},
        }
        start = (
            f"vim.cmd('set background={self.theme} termguicolors laststatus=0 noruler nowrap "
            "showtabline=0 shortmess+=IF fillchars=eob:\\\\ ')"
        )
        kind = type("Sized", (Camera,), {"height": height, "width": width})
        environment = {
            "BLOCKDIFF_CACHE": str(folders.cache_root()),
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        }
        return neovim(
            self.home, self.runtime.folder, file, setup=setup, environment=environment, kind=kind,
            lua=f"{start}; require('blockdiff').setup(...)",
        )  # fmt: skip

    def save(self, camera: Camera, name: str, frame: Frame, rows: int | None = None) -> None:
        save(drawn(camera, frame, rows), f"nvim-{name}-{self.theme}")


def ready(camera: Camera) -> Frame:
    camera.until("(require('blockdiff').session(1) or {}).state == 'ready'", WAIT)
    camera.sees("<Tab> accept")
    return camera.settled()


def distinct(frames: list[Frame]) -> Iterator[Frame]:
    last = None
    for frame in frames:
        if (shown := (frame.cells, frame.highlights)) != last:
            yield frame
        last = shown


def infill(studio: Studio) -> None:
    """Draft, half settled, in doubt, finished; and all of it as an animation."""
    with studio.opened(MEAN, 9, mode="diffusion", maxTokens=48, blockSize=8) as camera:
        camera.command("6BlockDiff infill")  # the engine starts
        ready(camera)
        camera.command("BlockDiff reject")
        camera.keys("3G^ve")
        camera.in_mode("v")
        start = len(camera.frames)
        camera.keys(":BlockDiff infill<CR>")
        finished = ready(camera)
        camera.keys("<Tab>")
        camera.misses("<Tab> accept")
        camera.settled()
        frames = list(distinct(camera.frames[start - 1 :]))
        drafts = [frame for frame in frames if "writing" in frame.text()]

        def most(score: Callable[[Frame], float]) -> Frame:
            return max(drafts, key=score)

        masked, sure = "Comment", "DiffAdd"
        studio.save(camera, "masked", most(lambda f: camera.share(f, masked)))
        half = most(lambda f: min(camera.share(f, masked), camera.share(f, sure)))
        studio.save(camera, "half", half)

        def mixed(frame: Frame) -> float:
            doubtful = camera.share(frame, "DiagnosticUnderlineWarn")
            return min(doubtful, camera.share(frame, masked) - doubtful)

        studio.save(camera, "doubt", most(mixed))
        studio.save(camera, "finished", finished)
        if studio.theme == "dark":
            animated(camera, frames, camera.height)


def rewrite(studio: Studio) -> None:
    with studio.opened(LOOP, 14) as camera:
        camera.command("1,5BlockDiff rewrite add type hints")
        studio.save(camera, "rewrite", ready(camera))


def holes(studio: Studio) -> None:
    with studio.opened(HOLES, 16, width=92, maxTokens=48) as camera:
        camera.command(r"BlockDiff infill /\.\.\./")
        studio.save(camera, "holes", ready(camera))


def ghost(studio: Studio) -> None:
    with studio.opened(GHOST, 6, ghost=True) as camera:
        camera.until("(vim.lsp.get_clients({ name = 'blockdiff' })[1] or {}).initialized")
        camera.keys("GA ")
        camera.until("require('blockdiff.ghost').is_shown(1)", WAIT)
        studio.save(camera, "ghost", camera.settled())


def statusline(studio: Studio) -> None:
    with studio.opened(MEAN, 8, maxTokens=200) as camera:
        camera.command("set laststatus=2")
        camera.lua("vim.o.statusline = \"%f %m%=%{%v:lua.require'blockdiff'.statusline()%}\"")
        camera.command("3BlockDiff infill")
        camera.sees("blockdiff writing", WAIT)
        camera.until("#drafts > 3", WAIT)
        studio.save(camera, "statusline", camera.frames[-1])
        camera.command("BlockDiff stop")


def health(studio: Studio) -> None:
    with studio.opened(MEAN, 26) as camera:
        camera.until("(vim.lsp.get_clients({ name = 'blockdiff' })[1] or {}).initialized")
        camera.command("3BlockDiff infill")
        ready(camera)
        camera.until("require('blockdiff').status():find('cpu') or #drafts > 99")
        camera.command("checkhealth blockdiff")
        studio.save(camera, "health", camera.settled())


SCENES = {scene.__name__: scene for scene in (infill, rewrite, holes, ghost, statusline, health)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scene", action="append", choices=list(SCENES), help="default: all")
    parser.add_argument("--dtype", default="auto", help="numbers the engine computes in")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        runtime = Runtime(Path(folder) / "run")
        try:
            for theme in ("dark", "light"):
                for name in arguments.scene or SCENES:
                    print(f"{name}, {theme}", flush=True)
                    SCENES[name](Studio(Path(folder), theme, arguments.dtype))
        finally:
            if engine := runtime.announced():
                os.kill(engine.pid, signal.SIGTERM)


if __name__ == "__main__":
    main()
