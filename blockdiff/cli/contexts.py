"""`blockdiff contexts`: what engines keep on disk of the contexts that they encoded."""

from __future__ import annotations

from typing import Annotated

import typer

from blockdiff.cli.console import byte_size, reported_errors
from blockdiff.system import blobs
from blockdiff.weights import folders

app = typer.Typer(rich_markup_mode=None, add_completion=False)


@app.command()
@reported_errors()
def contexts(
    forget: Annotated[bool, typer.Option("--forget", help="remove them")] = False,
) -> None:
    """Show what encoded contexts take on disk, or remove them.

    They are of files that were edited lately, and for nobody else to read. An engine that runs
    keeps its own in memory and writes them again: end it first, with `blockdiff stop`. The most
    that they may take is set by `blockdiff serve --disk-cache-mib`, in editors by
    `engine.diskCacheMib`.
    """
    folder = folders.contexts_folder()
    if not forget:
        print(f"{byte_size(blobs.size_below(folder))} in {folder}")
        return
    with folders.writing_errors():
        print(f"removed {folder}, {byte_size(blobs.clear(folder))} freed")
