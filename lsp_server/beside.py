"""Work in a process beside the server, at the lowest priority: its memory is given back."""

from __future__ import annotations

import contextlib
import json
import sys
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import IO, Any

from blockdiff.system import child
from blockdiff.types import OnProgress


def work(
    module: str, arguments: Iterable[str], folder: Path, show: OnProgress, stopped: threading.Event
) -> dict[str, Any]:
    """Run a module of ours in `folder`, which must be one that others cannot write to. Blocks.

    It says what is done in lines of JSON, of which those with a `share` are shown. It is ended when
    `stopped` is set, which it is at the end.

    Returns its last line, with its exit `status`. Raises OSError where it cannot be started.
    """
    process = child.start(
        [sys.executable, "-m", module, *arguments], folder, child.inherited(),
        stdout=child.PIPE, stderr=child.NO_OUTPUT,
    )  # fmt: skip
    threading.Thread(target=_stop_with, args=(process, stopped), daemon=True).start()
    assert process.stdout is not None
    last: dict[str, Any] = {}
    with contextlib.closing(process.stdout):
        for last in _lines(process.stdout):
            if "share" in last:
                show(str(last["what"]), float(last["share"]))
    status = process.wait()
    stopped.set()
    return {**last, "status": status}


def _stop_with(process: child.Popen[bytes], stopped: threading.Event) -> None:
    stopped.wait()
    with contextlib.suppress(OSError):
        process.terminate()


def _lines(stream: IO[bytes]) -> Iterable[dict[str, Any]]:
    for line in stream:
        with contextlib.suppress(ValueError):
            value = json.loads(line)
            if isinstance(value, dict):
                yield value
