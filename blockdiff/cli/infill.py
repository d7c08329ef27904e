"""What `blockdiff infill` and `rewrite` do once their options are parsed: read, load, watch, show
or write."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Protocol

from blockdiff.cli import interrupt, source_file
from blockdiff.cli.options import EngineChoice, ModelChoice, Output
from blockdiff.cli.source_file import SourceFile
from blockdiff.cli.textdiff import Stretch, unified_diff
from blockdiff.client import wire
from blockdiff.config import DecodingConfig, Mode
from blockdiff.errors import BlockdiffError, InvalidRequest, ModelNotFound
from blockdiff.types import (
    Event,
    Filled,
    Finished,
    FinishReason,
    Hole,
    InfillRequest,
    Refinement,
    RewriteRequest,
)

if TYPE_CHECKING:
    from blockdiff.cli.tui import View
    from blockdiff.client.remote.options import BackendOptions
    from blockdiff.engine.engine import Engine


class Answering(Protocol):
    """What a command asks: an engine of its own, or the one that runs."""

    def infill(
        self, request: InfillRequest, cancelled: Callable[[], bool]
    ) -> Iterator[Event]: ...

    def rewrite(
        self, request: RewriteRequest, cancelled: Callable[[], bool]
    ) -> Iterator[Event]: ...


def hole_finder(
    at: Sequence[str], lines: Sequence[str], hole: Sequence[str]
) -> Callable[[SourceFile], list[Hole]]:
    """How to find the holes once the file is read, from the values of three options; they come in
    the order of the file.

    Raises:
        InvalidRequest: none is given.
    """
    ways: list[tuple[Sequence[str], source_file.HoleFinder]] = [
        (at, source_file.hole_at),
        (lines, source_file.hole_of_lines),
        (hole, source_file.hole_between),
    ]
    given = [(value, find) for values, find in ways for value in values]
    if not given:
        hint = "give --at L:C, --lines A-B or --hole L:C-L:C, once for each hole"
        raise InvalidRequest("say where the hole is", hint)
    return lambda source: sorted(
        (find(source, value) for value, find in given), key=lambda found: found.start
    )


def infill(
    file: str,
    find_holes: Callable[[SourceFile], list[Hole]],
    decoding: DecodingConfig,
    *,
    language: str,
    context_tokens: int,
    revise: bool,
    choice: EngineChoice,
    backend: BackendOptions | None,
    output: Output,
) -> None:
    """Fill the holes of one file. Everything that can be refused is refused before the model loads.

    Raises:
        BlockdiffError: of any kind; the file is untouched then.
        KeyboardInterrupt: Ctrl-C, at any point before the file is replaced.
    """
    source = source_file.read(file)
    if output.write:
        source_file.check_writable(source)
    first, *rest = find_holes(source)
    request = InfillRequest(
        document=source.text,
        hole=first,
        also=tuple(rest),
        path="" if source.path is None else source.path.absolute().as_posix(),
        language=language,
        decoding=decoding,
        context_tokens=context_tokens,
        revise=revise,
    )
    if not request.holding([""] * len(request.holes)).document.strip():
        raise InvalidRequest(
            f"the hole covers all of {source.name}, so nothing says what to write",
            "leave a line outside the hole, such as an import, a signature or a comment",
        )
    unchanged = "the model left the hole as it is"
    edit = Edit(source, request.hole, request.decoding.mode.value, unchanged)
    if rest:
        stretch = Stretch(request)
        unchanged = "the model left the holes as they are"
        edit = Edit(source, stretch.hole, request.decoding.mode.value, unchanged, stretch)
    apply(edit, lambda engine, stop: engine.infill(request, stop), choice, backend, output)


@dataclass(frozen=True, slots=True)
class Edit:
    """Where the text that an engine writes goes.

    Attributes:
        hole: what it replaces.
        mode: how it is written.
        unchanged: what to say if it is the text that was there.
        stretch: where there are several holes: `hole` is then from the first to the last.
    """

    source: SourceFile
    hole: Hole
    mode: str
    unchanged: str
    stretch: Stretch | None = None

    def shown(self, draft: Refinement) -> Refinement:
        """A draft of all that is replaced."""
        return self.stretch.shown(draft) if self.stretch else draft

    def text(self, end: Finished | Filled) -> str:
        """What replaces it."""
        if isinstance(end, Finished):
            return end.text
        assert self.stretch is not None  # whoever asks for several holes gets a `Filled`
        return self.stretch.text(end)


def apply(
    edit: Edit,
    ask: Callable[[Answering, Callable[[], bool]], Iterator[Event]],
    choice: EngineChoice,
    backend: BackendOptions | None,
    output: Output,
) -> None:
    """Join the engine that runs or load the model, `ask` it with a cancel flag, and bring its
    events to where they belong.

    Raises as `infill`.
    """
    silent = output.quiet or output.as_json
    if backend is not None and choice.drafter:
        raise InvalidRequest("--drafter is for our own engine", "leave --backend or --drafter out")
    if choice.drafter and edit.mode == Mode.AR.value:
        raise InvalidRequest("--mode ar takes no drafts", "leave --mode ar or --drafter out")
    if choice.engine or backend is not None:
        from blockdiff.cli import join
        from blockdiff.cli.tui import ProgressBar

        bars = partial(ProgressBar, silent)
        if backend is not None:
            edit = replace(edit, mode=backend.backend.value)
            return _deliver(ask(join.remote(backend, bars), interrupt.pressed), edit, output)
        running = join.running_engine(
            choice.model, choice.drafter, choice.device, choice.dtype, bars
        )
        if running is not None:
            try:
                return _deliver(ask(running, interrupt.pressed), edit, output)
            except join.EngineGone:
                pass  # it had said nothing yet
    _deliver(ask(load_engine(choice, silent=silent), interrupt.pressed), edit, output)


def _deliver(answer: Iterator[Event], edit: Edit, output: Output) -> None:
    events = _stream(answer)
    if output.as_json:
        _print_events(events, edit, output)
    else:
        _show(events, edit, output)


def load_engine(choice: ModelChoice, *, silent: bool) -> Engine:
    """The engine with its model; a known model that is missing is downloaded first."""
    from blockdiff.cli.tui import ProgressBar

    _ensure_downloaded(choice, silent)
    with ProgressBar(silent) as bar:
        bar.share("starting the engine", 0.0)
        with interrupt.held():
            from blockdiff.engine.engine import Engine

        return Engine.load(
            choice.model,
            device=choice.device,
            dtype=choice.dtype,
            progress=bar.share,
            drafter=choice.drafter,
        )


def _ensure_downloaded(choice: ModelChoice, silent: bool) -> None:
    from blockdiff.cli.tui import ProgressBar
    from blockdiff.weights import catalog, download

    def missing(error: ModelNotFound) -> None:
        if find_spec("torch") is None:  # before the download, not after it
            raise ModuleNotFoundError(name="torch") from None
        size = catalog.find(choice.model).base.size / 1e6
        print(f"{error.message}; downloading {size:.0f} MB, once", file=sys.stderr, flush=True)

    with ProgressBar(silent) as bar:
        download.ensure(choice.model, choice.download, bar.transfer, missing)


def _stream(events: Iterator[Event]) -> Iterator[Event]:
    """The engine's events; ends with KeyboardInterrupt if a Ctrl-C was swallowed on the way."""
    for event in events:
        if interrupt.pressed():
            raise KeyboardInterrupt
        yield event


def _print_events(events: Iterator[Event], edit: Edit, output: Output) -> None:
    for event in events:
        value = wire.event_to_json(event)
        if not isinstance(event, Refinement):
            if output.write:
                _write(edit, edit.text(event))
            value["written"] = output.write
        print_json(value)


def print_json(value: dict[str, Any]) -> None:
    """One line on standard output, at once."""
    print(json.dumps(value), flush=True)


def _show(events: Iterator[Event], edit: Edit, output: Output) -> None:
    from blockdiff.cli import tui

    source = edit.source
    view = tui.view_for(source, edit.hole, edit.mode, output.quiet)
    finished = _watch(events, view, edit)
    text = edit.text(finished)
    if output.write:
        _write(edit, text)
    else:
        _print_diff(edit, text)
    if output.quiet:
        if finished.finish is FinishReason.LENGTH:
            print(tui.CUT_OFF, file=sys.stderr)
        return
    if source.replaced(edit.hole, text) == source.text:
        print(edit.unchanged, file=sys.stderr)
    elif output.write:
        print(f"wrote {source.name}", file=sys.stderr)
    print(tui.summary(finished), file=sys.stderr)


def _watch(events: Iterator[Event], view: View, edit: Edit) -> Finished | Filled:
    with view:
        for event in events:
            if isinstance(event, Refinement):
                view.show(edit.shown(event))
            else:
                return event
    raise BlockdiffError("the engine ended without a result")


def _write(edit: Edit, text: str) -> None:
    with interrupt.deferred():
        source_file.write(edit.source, edit.source.replaced(edit.hole, text))


def _print_diff(edit: Edit, text: str) -> None:
    diff = unified_diff(edit.source, edit.hole, text)
    if not sys.stdout.isatty():
        # As bytes: a diff carries the file's own line endings and encoding.
        sys.stdout.flush()
        sys.stdout.buffer.writelines(line.encode() for line in diff)
        sys.stdout.buffer.flush()
        return
    from rich.console import Console
    from rich.text import Text

    from blockdiff.cli.tui import visible

    styles = {"+": "green", "-": "red", "@": "cyan", "\\": "dim"}
    console = Console(soft_wrap=True, highlight=False)
    for line in diff:
        style = "bold" if line.startswith(("--- ", "+++ ")) else styles.get(line[0], "")
        console.print(Text(visible(line.rstrip("\r\n")), style))
