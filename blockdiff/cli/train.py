"""`blockdiff train corpus`: build a training corpus; the training commands register here too."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from blockdiff.cli import train_run, train_tables
from blockdiff.cli.console import reported_errors
from blockdiff.train.corpus import BuildOptions, build
from blockdiff.train.sources import Sources

app = typer.Typer(
    no_args_is_help=True,
    help="Build a corpus, train a gated adapter, count what drafts come from.",
    add_completion=False,
    rich_markup_mode=None,
)
_OPTIONS = BuildOptions()


@app.command("corpus")
@reported_errors()
def corpus_command(
    out: Annotated[Path, typer.Option("--out", help="Folder to write the corpus to.")],
    exclude: Annotated[
        list[Path] | None,
        typer.Option(help="Benchmark, .jsonl or .jsonl.gz; files that share a 10-gram go."),
    ] = None,
    site_packages: Annotated[
        list[Path] | None, typer.Option(help="Folder of installed Python packages.")
    ] = None,
    stdlib: Annotated[list[Path] | None, typer.Option(help="Python standard library.")] = None,
    node_modules: Annotated[list[Path] | None, typer.Option(help="Folder of npm packages.")] = None,
    crates: Annotated[list[Path] | None, typer.Option(help="Folder of unpacked crates.")] = None,
    debian_trees: Annotated[
        list[Path] | None, typer.Option(help="Folder of unpacked Debian source packages.")
    ] = None,
    archives: Annotated[
        list[Path] | None,
        typer.Option(help="Folder of .whl, .tar.gz, .tgz, .crate and .deb files."),
    ] = None,
    discover: Annotated[
        bool, typer.Option("--discover/--no-discover", help="Also use what this machine has.")
    ] = True,
    package_bytes: Annotated[
        int, typer.Option(min=1, help="Most bytes from one package.")
    ] = _OPTIONS.package_bytes,
    heldout_share: Annotated[
        float, typer.Option(min=0.0, max=0.5, help="Share of files held out of training.")
    ] = _OPTIONS.heldout_share,
) -> None:
    """Build a corpus from permissively licensed packages; the last line is JSON."""
    found = Sources.discover() if discover else Sources()
    sources = Sources(
        site_packages=(*found.site_packages, *(site_packages or ())),
        stdlib=(*found.stdlib, *(stdlib or ())),
        node_modules=(*found.node_modules, *(node_modules or ())),
        crates=(*found.crates, *(crates or ())),
        debian_trees=tuple(debian_trees or ()),
        archives=tuple(archives or ()),
        system_headers=found.system_headers,
    )
    options = BuildOptions(package_bytes=package_bytes, heldout_share=heldout_share)
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"))
    with Progress(*columns, console=Console(stderr=True), disable=not sys.stderr.isatty()) as bar:
        task = bar.add_task("looking for packages", total=None)

        def on_package(name: str, done: int, total: int) -> None:
            bar.update(task, description=name, completed=done, total=total)

        manifest = build(out, sources, tuple(exclude or ()), options, on_package)
    typer.echo(json.dumps({k: manifest[k] for k in ("documents", "bytes", "dropped", "packages")}))


train_run.register(app)
train_tables.register(app)
