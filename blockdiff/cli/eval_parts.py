"""What the commands of `blockdiff eval` share."""

from __future__ import annotations

import hashlib
import sys


def adapter_digest(model: str) -> str:
    """Adapters are retrained under the same name: results of two must not meet in one file."""
    from blockdiff.weights import store

    adapter = store.resolve(model).adapter
    if adapter is None:
        return ""
    return hashlib.sha256((adapter / "adapter.safetensors").read_bytes()).hexdigest()


class CountBar:
    """Progress on standard error, so that standard output stays for the report."""

    def __init__(self, total: int) -> None:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeRemainingColumn,
        )

        self._bar = Progress(
            TextColumn("evaluating"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[passed]}"),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            disable=not sys.stderr.isatty(),
        )
        self._task = self._bar.add_task("tasks", total=total, passed="")

    def __enter__(self) -> CountBar:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def update(self, done: int, total: int, passed: int = -1) -> None:
        note = f"passed {passed}" if passed >= 0 else ""
        self._bar.update(self._task, completed=done, total=total, passed=note)
