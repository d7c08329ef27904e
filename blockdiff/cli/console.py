"""How failures reach a person: one clear line, one hint, the documented exit status."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

from blockdiff import errors
from blockdiff.cli import interrupt
from blockdiff.errors import BlockdiffError, Cancelled, ExitCode

SHARE = "{task.percentage:>3.0f}%"
_COLUMNS = {"bar": "BarColumn", "count": "MofNCompleteColumn", "elapsed": "TimeElapsedColumn",
            "left": "TimeRemainingColumn"}  # fmt: skip


def show(error: BlockdiffError) -> None:
    """Print `error` and its hint on standard error."""
    from rich.console import Console
    from rich.text import Text

    console = Console(stderr=True, soft_wrap=True, highlight=False)
    console.print(Text("error: ", "bold red").append(error.message, "not bold default"))
    if error.hint:
        console.print(Text("hint: ", "bold cyan").append(error.hint, "not bold default"))


def fail(error: BlockdiffError) -> NoReturn:
    """Print `error` and its hint on standard error and exit with its status."""
    show(error)
    sys.exit(int(error.exit_code))


def as_error(exception: BaseException) -> BlockdiffError:
    """As `errors.as_error`; after Ctrl-C whatever went wrong is that."""
    return Cancelled("interrupted") if interrupt.pressed() else errors.as_error(exception)


def pipe_closed() -> ExitCode:
    """The reader of our output is gone: keep the interpreter from flushing into it at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return ExitCode.PIPE_CLOSED


@contextmanager
def reported_errors() -> Iterator[None]:
    """Turns every failure into `fail`; also a decorator for commands: `@reported_errors()`.

    A defect of ours prints its type and message; BLOCKDIFF_DEBUG=1 adds the traceback.
    """
    try:
        yield
    except BrokenPipeError:
        sys.exit(int(pipe_closed()))
    except (Exception, KeyboardInterrupt) as exception:
        fail(as_error(exception))


def byte_size(count: int) -> str:
    """Bytes for people, in powers of 1000 as disks and downloads are sold."""
    value = float(count)
    for unit in ("B", "kB", "MB"):
        if value < 1000:
            return f"{value:.0f} {unit}"
        value /= 1000
    return f"{value:.2f} GB"


@contextmanager
def bar(*columns: str, total: float | None = None, **fields: Any) -> Iterator[Callable[..., None]]:
    """Progress on standard error, where that is a terminal: standard output is for the report.

    Called with what is done, of how much, and whatever else changes: `description` or one of
    `fields`. The columns are those of `_COLUMNS`, or texts in which `task` has all of that.
    """
    from rich import progress
    from rich.console import Console

    made = [
        getattr(progress, _COLUMNS[name])() if name in _COLUMNS else progress.TextColumn(name)
        for name in columns
    ]
    quiet = not sys.stderr.isatty()
    with progress.Progress(*made, console=Console(stderr=True), disable=quiet) as shown:
        task = shown.add_task(fields.pop("description", ""), total=total, **fields)

        def update(
            completed: float | None = None, total: float | None = None, **changed: Any
        ) -> None:
            shown.update(task, completed=completed, total=total, **changed)

        yield update
