"""`blockdiff index`: build, show and check the index of a workspace."""

from __future__ import annotations

import time
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from blockdiff.cli import source_file
from blockdiff.cli.infill import print_json
from blockdiff.errors import IndexUnusable, InputFileError, InvalidRequest
from blockdiff.workspace import tables
from blockdiff.workspace.definitions import Definition
from blockdiff.workspace.files import MOST_FILES
from blockdiff.workspace.index import Index, file_of
from blockdiff.workspace.pieces import ContextPieces, context_pieces

_NAMED = 10  # of the files that have changed

app = typer.Typer(
    add_completion=False,
    rich_markup_mode=None,
    help="Build, show and check the index of a workspace: what the language server shows of files "
    "that are not open.",
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.command()
def index(
    folder: Annotated[
        Path, typer.Argument(metavar="PATH", help="folder of the workspace")
    ] = Path("."),
    find: Annotated[
        str, typer.Option(metavar="WORDS", help="print the definitions with these words")
    ] = "",
    at: Annotated[
        str,
        typer.Option(metavar="FILE:L:C", help="print what a completion there is shown"),
    ] = "",
    tokens: Annotated[
        int, typer.Option(min=0, max=32_000, help="with --at: most tokens of it")
    ] = 256,
    check: Annotated[
        bool, typer.Option("--check", help="compare it with the files, and change nothing")
    ] = False,
    rebuild: Annotated[bool, typer.Option("--rebuild", help="throw it away first")] = False,
    remove: Annotated[bool, typer.Option("--remove", help="throw it away")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="print it as JSON")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="no progress, no warnings")] = False,
) -> None:
    """Bring the index of a workspace up to date, and say what is in it.

    It holds names, signatures and the first lines of documentation, never bodies, and lies in the
    cache folder. Files that .gitignore or .blockdiffignore list are left out. Whether its n-grams
    were counted for drafts, and when, is said, too; see `blockdiff train personal`.
    """
    if not folder.is_dir():
        raise InputFileError(f"there is no folder {folder}", "name the folder of a workspace")
    root = folder.resolve()
    if remove or rebuild:
        tables.remove(file_of(root))
        if remove:
            return
    found = Index(root, say=lambda text: _warn(text, quiet))
    try:
        if check:
            _check(found, as_json)
            return
        report = _refreshed(found, quiet or as_json)
        if find:
            _show_found(found.search(find), as_json)
        elif at:
            _show_pieces(_pieces(found, at, tokens), as_json)
        else:
            _show_counts(found, report, as_json)
    finally:
        found.close()


def _refreshed(found: Index, quiet: bool) -> dict[str, Any]:
    from rich.console import Console

    console = Console(stderr=True)
    if quiet or not console.is_terminal:
        return asdict(found.refresh())
    with console.status("reading the workspace") as status:
        return asdict(found.refresh(lambda what, share: status.update(what)))


def _check(found: Index, as_json: bool) -> None:
    whole, stale = found.is_whole(), found.stale()
    if as_json:
        print_json({"whole": whole, "stale": stale})
    elif stale:
        print("\n".join(stale[:_NAMED]) + (f"\nand {len(stale) - _NAMED} more" * (len(stale) > 10)))
    hint = f"bring it up to date: blockdiff index {found.root}"
    if not whole:
        raise IndexUnusable(f"the index of {found.root} is damaged", hint)
    if stale:
        raise IndexUnusable(f"{len(stale)} files of {found.root} are not in it as they are", hint)
    if not as_json:
        print("the index is as the files are")


def _show_counts(found: Index, report: dict[str, Any], as_json: bool) -> None:
    counts, file = found.counts(), found.file
    size = file.stat().st_size if file else 0
    if as_json:
        languages = {name: {"files": n, "definitions": m} for name, (n, m) in counts.items()}
        values = {"path": str(file or ""), "bytes": size, "languages": languages}
        print_json({**values, "refreshed": report, **_drafts(found.root)})
        return
    print(f"{file or 'in memory'}  {size / 1e6:.1f} MB")
    for name, (files, definitions) in sorted(counts.items()):
        print(f"{name:<12}{files:>8} files {definitions:>9} definitions")
    if report["files"] >= MOST_FILES:
        print(f"the {MOST_FILES} files nearest to the root; those of other files are not in it")
    if report["ended"]:
        print(f"{report['read']} read, {report['removed']} gone, {report['seconds']:.1f} s")
    else:
        print("another process is building it")
    drafts = _drafts(found.root)
    for table in drafts["tables"]:
        when = time.strftime("%Y-%m-%d %H:%M", time.localtime(table["at"]))
        print(f"drafts know {table['files']} files, counted {when} for {table['model']}")
    if not drafts["tables"]:
        forgotten = ": it was forgotten, and comes on command alone" * drafts["forgotten"]
        print(f"drafts know none of its names and habits{forgotten}")


def _drafts(root: Path) -> dict[str, Any]:
    """Of its tables of n-grams, and whether none is counted but on command."""
    try:
        from blockdiff.diffusion.personal import notes_of
        from blockdiff.train.personal import is_forgotten
    except ImportError:  # an installation without an engine, whose drafts they would be
        return {"tables": [], "forgotten": False}
    return {"tables": [asdict(one) for one in notes_of(root)], "forgotten": is_forgotten(root)}


def _show_found(definitions: list[Definition], as_json: bool) -> None:
    if as_json:
        print_json({"definitions": [asdict(d) for d in definitions]})
        return
    for d in definitions:
        owner = f"{d.container}: " if d.container else ""
        print(f"{d.path}:{d.line + 1}: {owner}{d.signature.splitlines()[-1]}")


def _pieces(found: Index, at: str, tokens: int) -> ContextPieces:
    name, *place = at.rsplit(":", 2)
    if len(place) != 2:
        raise InvalidRequest(f"{at!r} is no place in a file", "write it as --at FILE:LINE:COLUMN")
    file = source_file.read(name)
    hole = source_file.hole_at(file, ":".join(place))
    path = str(Path(name).resolve())
    return context_pieces(found, file.text, hole, path, "", tokens)


def _show_pieces(pieces: ContextPieces, as_json: bool) -> None:
    if as_json:
        print_json({"tokens": pieces.tokens, "snippets": [asdict(s) for s in pieces.snippets]})
        return
    for snippet in pieces.snippets:
        print(f"{snippet.path}\n{snippet.text}")
    print(f"about {pieces.tokens} tokens")


def _warn(text: str, quiet: bool) -> None:
    if not quiet:
        typer.echo(f"warning: {text}", err=True)
