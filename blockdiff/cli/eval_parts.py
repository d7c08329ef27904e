"""What the commands of `blockdiff eval` share."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from blockdiff.cli.console import bar
from blockdiff.errors import InputFileError

DataOption = Annotated[Path, typer.Option(help="Held-out files, .jsonl or .jsonl.gz.")]
SeedOption = Annotated[int, typer.Option(help="Seed of the draw and of the places in a file.")]
OutOption = Annotated[Path | None, typer.Option(help="Results file; a run goes on from it.")]
ReportJsonOption = Annotated[bool, typer.Option("--json", help="Print the JSON object only.")]


def adapter_digest(model: str) -> str:
    """Adapters are retrained under the same name: results of two must not meet in one file."""
    from blockdiff.weights import store

    adapter = store.resolve(model).adapter
    if adapter is None:
        return ""
    return hashlib.sha256((adapter / "adapter.safetensors").read_bytes()).hexdigest()


def settings_of(
    what: str, model: str, seed: int, device: str, dtype: str, **more: Any
) -> dict[str, Any]:
    """Everything that changes a row. The limit is not among them: a larger one goes on."""
    return {
        "eval": what,
        "model": model,
        "seed": seed,
        "device": device,
        "dtype": dtype,
        "adapter_sha256": adapter_digest(model),
        **more,
    }


def data_of(data: Path) -> dict[str, str]:
    """The settings that say which file was measured on. Raises InputFileError."""
    return {"data": data.name, "data_sha256": digest_of(data)}


def digest_of(data: Path) -> str:
    """SHA-256 of a file. Raises InputFileError."""
    try:
        return hashlib.sha256(data.read_bytes()).hexdigest()
    except OSError as error:
        raise InputFileError(f"cannot read {data}: {error}") from None


def cells(row: Mapping[str, Any], columns: Sequence[tuple[str, str]], width: int) -> str:
    """A line of a table: figures of a row by their name, in their format; - where there is none."""
    values = ((row[key], form) for key, form in columns)
    return "".join(f"{'-' if v is None else format(v, form):>{width}}" for v, form in values)


@contextmanager
def count_bar(total: int) -> Iterator[Callable[..., None]]:
    """Progress of an evaluation; called with what is done, of how much, and how much passed."""
    columns = ("evaluating", "bar", "count", "{task.fields[passed]}", "left")
    with bar(*columns, total=total, passed="") as update:

        def counted(done: int, total: int, passed: int = -1) -> None:
            note = f"passed {passed}" if passed >= 0 else ""
            update(done, total, passed=note)

        yield counted
