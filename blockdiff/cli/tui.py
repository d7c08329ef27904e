"""What a person sees while the model works: the draft among its lines, and progress bars.

Every view takes refinements and forgets them; dropping one is harmless. On a terminal the draft is
redrawn in place and removed at the end. Elsewhere it becomes plain lines, a few per minute.
"""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass, fields

from rich.cells import cell_len
from rich.console import Console
from rich.live import Live
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn
from rich.text import Text

from blockdiff.cli.source_file import SourceFile
from blockdiff.types import Drafted, Filled, Finished, Hole, Refinement, Span

CONTEXT_LINES = 3
MASK = "░"
MASK_BELOW = 0.15  # a guess less likely than this is noise, not something to read

_TINTS = ((0.5, "red"), (0.8, "yellow"), (1.01, "cyan"))
_MOST_MASKS = 12  # cells that one unsettled token may take
_FRAME_SECONDS = 1 / 30
_PLAIN_SECONDS = 5.0
_GUTTER = 7


class View:
    """Shows refinements as they come; this one to nobody."""

    def __enter__(self) -> View:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def show(self, refinement: Refinement) -> None:
        pass


class LiveView(View):
    """The draft in place, redrawn as it changes and removed at the end."""

    def __init__(self, console: Console, source: SourceFile, hole: Hole, mode: str) -> None:
        self._console = console
        self._around = Surroundings.of(source, hole)
        self._mode = mode
        self._drawn = 0.0
        self._live = Live(
            console=console, auto_refresh=False, transient=True, vertical_overflow="crop"
        )

    def __enter__(self) -> View:
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def show(self, refinement: Refinement) -> None:
        now = time.monotonic()
        if now - self._drawn < _FRAME_SECONDS:
            return
        self._drawn = now
        width, height = self._console.size
        frame = draw(self._around, refinement, width, max(height - 3, 1))
        frame.append("\n").append_text(footer(refinement, self._mode, width))
        self._live.update(frame, refresh=True)


class PlainView(View):
    """A line now and then, for logs and pipes."""

    def __init__(self, mode: str) -> None:
        self._mode = mode
        self._printed = time.monotonic()

    def show(self, refinement: Refinement) -> None:
        now = time.monotonic()
        if now - self._printed < _PLAIN_SECONDS:
            return
        self._printed = now
        print(footer(refinement, self._mode, 200).plain, file=sys.stderr, flush=True)


def view_for(source: SourceFile, hole: Hole, mode: str, quiet: bool) -> View:
    """The view that fits where standard error goes."""
    if quiet:
        return View()
    if on_terminal():
        return LiveView(Console(stderr=True), source, hole, mode)
    return PlainView(mode)


def on_terminal() -> bool:
    """Whether a person watches standard error on something that can move its cursor."""
    return sys.stderr.isatty() and not Console(stderr=True).is_dumb_terminal


# Drawing


@dataclass(frozen=True, slots=True)
class Surroundings:
    """The lines around a hole, which stay as they are while the draft changes.

    Attributes:
        before: up to `CONTEXT_LINES` whole lines, then what precedes the hole on its line.
        after: what follows the hole on its line, then up to `CONTEXT_LINES` whole lines.
        first_number: number of the first line of `before`.
    """

    before: tuple[str, ...]
    after: tuple[str, ...]
    first_number: int

    @classmethod
    def of(cls, source: SourceFile, hole: Hole) -> Surroundings:
        def lines(numbers: range) -> list[str]:
            return [source.text[slice(*source.line_span(n))] for n in numbers]

        first, _ = source.position(hole.start)
        last, _ = source.position(hole.end)
        top = max(first - CONTEXT_LINES, 1)
        bottom = min(last + CONTEXT_LINES, source.n_lines)
        head = source.text[source.line_span(first)[0] : hole.start]
        rest = source.text[hole.end : source.line_span(last)[1]]
        return cls(
            (*lines(range(top, first)), head), (rest, *lines(range(last + 1, bottom + 1))), top
        )


def draw(around: Surroundings, refinement: Refinement, width: int, height: int) -> Text:
    """The draft between the lines around it, numbered as in the filled file.

    Returns at most `height` lines of at most `width` cells; the end of the draft is always among
    them.
    """
    room = max(width - _GUTTER, 1)
    *above, head = (visible(line) for line in around.before)
    body = Text()  # a style given here would be that of the draft too
    body.append("".join(line[: 2 * width] + "\n" for line in above), "dim")
    body.append(_tail(head, max(room // 2, 1)), "dim")
    for span in refinement.spans:
        body.append_text(_token(refinement.text[span.start : span.end], span))
    last = body.plain.count("\n")
    body.append("\n".join(visible(line[: 2 * width]) for line in around.after), "dim")

    lines = list(body.split("\n", allow_blank=True))
    top = max(0, min(len(lines) - height, last - height + 2))
    frame = Text(no_wrap=True)
    for index, line in enumerate(lines[top : top + height], start=top):
        line.expand_tabs(4)
        line.truncate(room, overflow="ellipsis")
        frame.append(f"{around.first_number + index:>4} │ ", "dim").append_text(line).append("\n")
    frame.right_crop(1)
    return frame


def _token(text: str, span: Span) -> Text:
    if span.settled:
        return Text(visible(text))
    if span.confidence < MASK_BELOW or not text:
        cells = cell_len(visible(text).replace("\n", ""))
        return Text(MASK * min(max(cells, 1), _MOST_MASKS), "dim")
    tint = next(style for limit, style in _TINTS if span.confidence < limit)
    return Text(visible(text), f"italic {tint}")


def _tail(line: str, cells: int) -> str:
    """The end of a line too long to show, so that what follows it stays in sight."""
    if cell_len(line[-2 * cells :]) <= cells and len(line) <= 2 * cells:
        return line
    end = line[-cells:]
    while end and cell_len(end) >= cells:
        end = end[1:]
    return "…" + end


def footer(refinement: Refinement, mode: str, width: int) -> Text:
    """One line: mode, step, tokens, tokens per forward, time."""
    settled = sum(span.settled for span in refinement.spans)
    drafted = f"{settled} of {len(refinement.spans)} tokens settled"
    parts = [mode, f"step {refinement.step}", drafted]
    if refinement.forwards:
        parts.append(f"{settled / refinement.forwards:.1f} tokens/forward")
    parts.append(f"{refinement.elapsed_ms:.0f} ms")
    line = Text(" · ".join(parts), "bold", no_wrap=True)
    line.truncate(width, overflow="ellipsis")
    return line


CUT_OFF = "cut off at --max-tokens (finish: length)"
"""Of a text that did not come to its end."""


def summary(finished: Finished | Filled) -> str:
    """One line on a generation that ended."""
    parts = [finished.mode, f"{finished.tokens} tokens in {finished.forwards} forwards"]
    if finished.forwards:
        parts.append(f"{finished.tokens / finished.forwards:.1f} tokens/forward")
    holes = finished.holes if isinstance(finished, Filled) else (finished,)
    counts = {
        source.name: sum(getattr(hole.drafted, source.name) for hole in holes)
        for source in fields(Drafted)
    }
    if any(counts.values()):
        parts.append("drafted: " + ", ".join(f"{n} {name}" for name, n in counts.items() if n))
    parts.append(f"{finished.elapsed_ms:.0f} ms, first draft after {finished.first_ms:.0f}")
    parts.append(f"syntax {finished.syntax.value}")
    if finished.finish.value == "length":
        parts.append(CUT_OFF)
    return " · ".join(parts)


_VISIBLE = (
    {code: 0x2400 + code for code in range(0x20) if chr(code) not in "\n\t"}
    | {0x7F: 0x2421}
    | {code: "·" for code in (*range(0x80, 0xA0), *range(0x202A, 0x202F), *range(0x2066, 0x206A))}
)


def visible(text: str) -> str:
    """Text with the control and direction characters shown that would confuse a terminal."""
    return text.replace("\r\n", "\n").translate(_VISIBLE)


# Progress


_PHASES = {
    "hub": "downloading from the hub",
    "wheels": "downloading wheels",
    "copy": "copying",
    "check": "checking",
    "waiting": "waiting for another download",
}


class ProgressBar:
    """Progress of a download or of loading, as a bar on a terminal and as plain lines elsewhere.

    Its methods are what callees ask for: `transfer` is an `OnTransfer`, `share` an `OnProgress`.
    Nothing is drawn before the first call.
    """

    def __init__(self, quiet: bool = False) -> None:
        self._quiet = quiet
        self._bar: Progress | None = None
        self._task = TaskID(0)
        self._phase = ""
        self._began = self._printed = 0.0
        self._began_at = 0

    def __enter__(self) -> ProgressBar:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def transfer(self, phase: str, done: int, total: int) -> None:
        """`done` of `total` bytes of a phase."""
        now = time.monotonic()
        if phase != self._phase:
            self._began, self._began_at = now, done
        amount = f"{done / 1e6:.0f} of {total / 1e6:.0f} MB"
        if (seconds := now - self._began) > 1 and done > self._began_at:
            speed = (done - self._began_at) / seconds
            amount += f", {speed / 1e6:.1f} MB/s, {(total - done) / speed:.0f} s left"
        self._update(phase, done / total if total else 0.0, amount, now)

    def share(self, phase: str, share: float) -> None:
        """`share` of a phase, 0 to 1; 0 also where it is not known."""
        amount = f"{100 * share:.0f}%" if share else ""
        self._update(phase, share, amount, time.monotonic())

    def _update(self, phase: str, share: float, amount: str, now: float) -> None:
        if self._quiet:
            return
        is_new = phase != self._phase
        self._phase = phase
        text = _PHASES.get(phase, phase)
        if on_terminal():
            bar = self._bar or self._start()
            total = 1.0 if share else None  # without an end in sight it pulses
            bar.update(self._task, description=text, completed=share, total=total, amount=amount)
        elif is_new or now - self._printed >= _PLAIN_SECONDS:
            self._printed = now
            print(f"{text} {amount}".rstrip(), file=sys.stderr, flush=True)

    def _start(self) -> Progress:
        self._bar = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[amount]}", style="dim"),
            console=Console(stderr=True),
            transient=True,
        )
        self._bar.start()
        self._task = self._bar.add_task("", total=None, amount="")
        return self._bar
