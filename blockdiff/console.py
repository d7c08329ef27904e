"""How failures reach a person: one clear line, one hint, the documented exit status."""

from __future__ import annotations

import errno
import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

from blockdiff import interrupt
from blockdiff.errors import (
    BlockdiffError,
    Cancelled,
    DiskFull,
    ExitCode,
    NotInstalled,
    OutOfMemory,
)

DISK_FULL = (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC))
_DEFECT_HINT = "this is a defect; run again with BLOCKDIFF_DEBUG=1 for the traceback and report it"
_EXTRAS = {
    "engine": (
        *("torch", "transformers", "tokenizers", "safetensors", "gguf", "numpy"),
        *("starlette", "uvicorn", "prometheus_client"),
    ),
    "train": ("matplotlib", "accelerate"),
    "bench": ("xllamacpp",),
}


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
    """The typed error for whatever went wrong; BLOCKDIFF_DEBUG=1 prints the traceback first."""
    if isinstance(exception, KeyboardInterrupt) or interrupt.pressed():
        return Cancelled("interrupted")
    if os.environ.get("BLOCKDIFF_DEBUG"):
        traceback.print_exception(exception)
    if isinstance(exception, BlockdiffError):
        return exception
    if isinstance(exception, ModuleNotFoundError):
        package = (exception.name or "").partition(".")[0]
        for extra, packages in _EXTRAS.items():
            if package in packages:
                return NotInstalled(
                    f"{package} is not installed", f"pip install 'blockdiff[{extra}]'"
                )
    if _is_out_of_memory(exception):
        hint = "close other programs, or lower --context-tokens; `blockdiff doctor` shows what fits"
        return OutOfMemory("not enough memory", hint)
    if isinstance(exception, OSError) and exception.errno in DISK_FULL:
        return DiskFull(f"the disk is full: {exception}", "free some space and try again")
    reason = " ".join(str(exception).split())
    return BlockdiffError(f"{type(exception).__name__}: {reason}", _DEFECT_HINT)


def _is_out_of_memory(exception: BaseException) -> bool:
    if isinstance(exception, MemoryError) or type(exception).__name__ == "OutOfMemoryError":
        return True
    if isinstance(exception, OSError):
        return exception.errno == errno.ENOMEM
    # What torch's allocator says on the CPU.
    return isinstance(exception, RuntimeError) and "can't allocate memory" in str(exception)


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
