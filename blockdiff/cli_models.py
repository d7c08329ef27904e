"""`blockdiff models`: pull, list, info, remove."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from blockdiff import store
from blockdiff.catalog import DEFAULT_MODEL, CatalogEntry, catalog, find
from blockdiff.console import reported_errors
from blockdiff.errors import Cancelled, InvalidRequest
from blockdiff.store import Status

app = typer.Typer(
    no_args_is_help=True,
    help="Download, inspect and remove models.",
    add_completion=False,
    rich_markup_mode=None,
)

Name = Annotated[str, typer.Argument(help="A name that `blockdiff models list` shows.")]


@app.command("pull")
@reported_errors()
def pull_command(
    name: Name = DEFAULT_MODEL,
    source: Annotated[
        Path | None,
        typer.Option("--from", help="A file at hand, or a folder holding it; nothing is fetched."),
    ] = None,
) -> None:
    """Download a model's base and check its SHA-256. Interrupted, the next pull resumes."""
    from blockdiff.download import pull
    from blockdiff.tui import ProgressBar

    with ProgressBar() as bar:
        files = pull(name, source, bar.transfer)
    typer.echo(f"{files.name} is ready in {files.base.parent}")


@app.command("list")
@reported_errors()
def list_command() -> None:
    """Show the models known by name and which of them are downloaded."""
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for title in ("NAME", "STATE", "SIZE", "LICENCE"):
        table.add_column(title, justify="right" if title == "SIZE" else "left", no_wrap=True)
    for entry in catalog().values():
        table.add_row(entry.name, _state_text(entry), _size(entry.base.size), entry.licence)
    Console(highlight=False, markup=False, soft_wrap=True).print(table)


@app.command("info")
@reported_errors()
def info_command(name: Name = DEFAULT_MODEL) -> None:
    """Show where a model lies, its sizes, digest, licence and needs."""
    entry = find(name)
    files, found = store.files_of(entry), store.state(name)
    rows = [
        ("name", entry.name),
        ("summary", entry.summary),
        ("state", _state_text(entry)),
        ("licence", entry.licence),
        ("family", entry.family),
        ("context", f"{entry.context_length} tokens"),
        ("base", str(files.base)),
        ("size", f"{_size(entry.base.size)} ({entry.base.size} bytes)"),
        ("sha256", entry.base.sha256),
        ("prepared", f"{files.prepared} ({_size(found.prepared_bytes)})"),
        ("adapter", str(files.adapter or "none: decoding mode ar only")),
        ("memory", ", ".join(f"{_size(n)} in {dtype}" for dtype, n in entry.memory.items())),
        ("sources", "; ".join(_sources(entry))),
    ]
    for label, text in rows:
        typer.echo(f"{label:<9} {text}")


@app.command("remove")
@reported_errors()
def remove_command(
    name: Annotated[str, typer.Argument(help="A model's name, or the path of a GGUF file.")],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Delete what the cache holds of a model. A file of your own stays where it is."""
    if not yes:
        if not sys.stdin.isatty():
            raise InvalidRequest("remove asks before it deletes", "add --yes to go ahead")
        if not _confirmed(f"Delete {name} from {store.cache_root()}?"):
            typer.echo("kept")
            return
    typer.echo(f"removed {name}, {_size(store.remove(name))} freed")


def _confirmed(question: str) -> bool:
    try:
        return typer.confirm(question)
    except typer.Abort as abort:
        raise Cancelled("interrupted, nothing was deleted") from abort


def _state_text(entry: CatalogEntry) -> str:
    found = store.state(entry.name)
    if found.status is Status.PARTIAL:
        return f"partial ({100 * found.bytes // max(found.total, 1)}%)"
    return str(found.status.value)


def _sources(entry: CatalogEntry) -> Iterator[str]:
    if hub := entry.base.hub:
        yield f"hub {hub.repo}@{hub.revision}"
    if wheels := entry.base.wheels:
        yield f"{wheels.parts} wheels {wheels.project.format(part='*')} {wheels.version}"


def _size(count: int) -> str:
    """Bytes for people, in powers of 1000 as disks and downloads are sold."""
    value = float(count)
    for unit in ("B", "kB", "MB"):
        if value < 1000:
            return f"{value:.0f} {unit}"
        value /= 1000
    return f"{value:.2f} GB"
