"""`blockdiff models`: what is known by name, what it needs, what is here."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from blockdiff.cli import interrupt, options
from blockdiff.cli.console import byte_size, reported_errors
from blockdiff.errors import Cancelled, InvalidRequest
from blockdiff.weights import folders, store
from blockdiff.weights.catalog import (
    DEFAULT_MODEL,
    CatalogEntry,
    Published,
    Skill,
    catalog,
    drafters,
    find,
    published,
)
from blockdiff.weights.footprint import StackShape, drafter_shape, shape_of
from blockdiff.weights.store import Status

app = options.group("Download, inspect and remove models.")

Name = Annotated[str, typer.Argument(help="A name that `blockdiff models list` shows.")]
NameOrFolder = Annotated[
    str, typer.Argument(help="A name that `blockdiff models list` shows, or a checkpoint's folder.")
]


@app.command("pull")
@reported_errors()
def pull_command(
    name: Name = DEFAULT_MODEL,
    source: Annotated[
        Path | None,
        typer.Option("--from", help="A file at hand, or a folder holding it; nothing is fetched."),
    ] = None,
    target: Annotated[
        bool,
        typer.Option("--target/--no-target", help="Of a drafter: the model it drafts for, too."),
    ] = True,
) -> None:
    """Download a model and check its digests. Interrupted, the next pull resumes.

    Of a checkpoint that others published configuration, tokenizer and safetensors are fetched;
    pickled weights and code never are. With a drafter comes the model that it drafts for.
    """
    from blockdiff.cli.tui import ProgressBar
    from blockdiff.weights.download import pull

    known = published() | drafters()
    names = [name]
    if name in known and known[name].target and target:
        names.append(known[name].target)
    for each in names:
        if (other := known.get(each)) and other.terms:
            typer.echo(f"warning: {other.licence}: {other.terms}", err=True)
        with ProgressBar() as bar:
            files = pull(each, source, bar.transfer)
        typer.echo(f"{files.name} is ready in {files.base.parent}")


@app.command("list")
@reported_errors()
def list_command() -> None:
    """Show the models known by name, each with its drafters, and which of them are downloaded."""
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for title in ("NAME", "STATE", "SIZE", "LICENCE", "CAN"):
        table.add_column(title, justify="right" if title == "SIZE" else "left", no_wrap=True)
    for entry in catalog().values():
        table.add_row(
            entry.name,
            _state_text(entry.name),
            byte_size(entry.base.size),
            entry.licence,
            ", ".join(skill.value for skill in Skill),
        )
    known = [one for target in published().values() for one in (target, *_drafters_of(target.name))]
    for other in known:
        licence = f"{other.licence} (!)" if other.terms else other.licence
        size = byte_size(store.state(other.name).total)
        can = ", ".join(skill.value for skill in other.can)
        if other.target:
            can = f"draft for {other.target}"
        table.add_row(other.name, _state_text(other.name), size, licence, can)
    # as wide as its longest row, on a narrow terminal too: a cut name cannot be copied
    Console(highlight=False, markup=False, soft_wrap=True, width=160).print(table)


@app.command("info")
@reported_errors()
def info_command(name: NameOrFolder = DEFAULT_MODEL) -> None:
    """Show where a model lies, its sizes, digest, licence and needs.

    The memory of a checkpoint that others published, or of a folder of one, is computed from its
    shape: weights, keys and values, and one forward at 2,048 tokens of context. Of a drafter it is
    what comes on top of its model's.
    """
    if store.is_path(name):
        _print_rows(_folder_rows(Path(name).expanduser().absolute()))
        return
    if other := published().get(name) or drafters().get(name):
        _print_rows(_published_rows(other))
        return
    entry = find(name)
    files, found = store.files_of(entry), store.state(name)
    rows = [
        ("name", entry.name),
        ("summary", entry.summary),
        ("state", _state_text(entry.name)),
        ("licence", entry.licence),
        ("family", entry.family),
        ("context", f"{entry.context_length} tokens"),
        ("base", str(files.base)),
        ("size", f"{byte_size(entry.base.size)} ({entry.base.size} bytes)"),
        ("sha256", entry.base.sha256),
        ("prepared", f"{files.prepared} ({byte_size(found.prepared_bytes)})"),
        ("adapter", str(files.adapter or "none: copies from the text draft")),
        ("memory", ", ".join(f"{byte_size(n)} in {dtype}" for dtype, n in entry.memory.items())),
        ("sources", "; ".join(_sources(entry))),
        *_drafter_rows(entry.name),
    ]
    _print_rows(rows)


def _print_rows(rows: list[tuple[str, str]]) -> None:
    for label, text in rows:
        typer.echo(f"{label:<9} {text}")


def _published_rows(entry: Published) -> list[tuple[str, str]]:
    skills = ", ".join(skill.value for skill in entry.can)
    if entry.target:
        target = published()[entry.target]
        shape, base = drafter_shape(entry.config, entry.name), shape_of(target.config, target.name)
        ends = base.vocab_size * base.hidden_size
        share = (shape.matrices + ends) / (base.matrices - base.ends + ends)
        reads = f"a draft reads {share:.0%} of the weights that a forward of its model does"
        whole = shape_of(target.config, target.name)
        both = [
            f"{byte_size(shape.footprint(dtype).total + whole.footprint(dtype).total)} in {dtype}"
            for dtype in shape.dtypes
            if dtype in whole.dtypes
        ]
        costs = [("pair", f"{', '.join(both)}, with {target.name}"), ("cost", reads)]
        skills = f"draft for {entry.target}"
    else:
        shape, costs = shape_of(entry.config, entry.name), []
    return [
        ("name", entry.name),
        ("summary", entry.summary),
        ("state", _state_text(entry.name)),
        ("licence", entry.licence),
        ("terms", entry.terms or "-"),
        ("family", entry.family),
        ("can", skills),
        ("context", f"{entry.context_length} tokens"),
        ("folder", str(folders.folder_of(entry.name))),
        ("sources", f"hub {entry.repo}@{entry.revision or 'main (not pinned)'}"),
        *_memory_rows(shape),
        *costs,
        *_drafter_rows(entry.name),
    ]


def _drafter_rows(name: str) -> list[tuple[str, str]]:
    """The drafters of a model."""
    return [
        ("drafter", f"{one.name} ({one.family}): {one.summary}") for one in _drafters_of(name)
    ]


def _drafters_of(name: str) -> list[Published]:
    return [one for one in drafters().values() if one.target == name]


def _folder_rows(folder: Path) -> list[tuple[str, str]]:
    """Of a folder in the hub's layout, whose weights are not opened."""
    with interrupt.held():
        from blockdiff.model.load.drafter_config import drafter_config, family_of, is_drafter
        from blockdiff.model.load.hub_config import kind_of, read_json
        from blockdiff.model.load.kinds import AttentionPattern

    if (folder / "config.json").is_file():
        config = read_json(folder / "config.json")
        if is_drafter(config):
            made = drafter_config(config, str(folder))
            return [
                ("folder", str(folder)),
                ("family", family_of(config, str(folder)).name),
                ("can", f"draft {made.block_size - made.first} tokens for a model of"
                 f" {config['num_target_layers']} layers, width {made.stack.hidden_size}"),
                *_memory_rows(drafter_shape(config, str(folder))),
            ]  # fmt: skip
    kind = kind_of(folder)
    block = "one canvas" if kind.block_size is None else f"blocks of {kind.block_size}"
    mask = "none" if kind.mask_token_id is None else str(kind.mask_token_id)
    if kind.attention is AttentionPattern.CANVAS:
        block, mask = f"{kind.block_size} tokens", "none: its noise is wrong tokens"
    can = f"infill ({kind.layout.value})" if kind.layout else "rewrite by instruction only"
    return [
        ("folder", str(folder)),
        ("family", kind.family.value),
        ("attention", f"{kind.attention.value}, {block}"),
        ("mask", mask),
        ("can", can),
        *_memory_rows(shape_of(config, str(folder))),
    ]


def _memory_rows(shape: StackShape) -> list[tuple[str, str]]:
    rows = [("size", f"{shape.parameters / 1e9:.2f} billion parameters")]
    for dtype in shape.dtypes:
        need = shape.footprint(dtype)
        parts = f"weights {byte_size(need.weights)}, keys and values {byte_size(need.keys_values)}"
        rows.append(("memory", f"{byte_size(need.total)} in {dtype} ({parts}), computed"))
    return rows


@app.command("convert")
@reported_errors()
def convert_command(
    source: Annotated[
        str, typer.Argument(help="A published checkpoint: its name, or its folder.")
    ],
    target: Annotated[Path, typer.Argument(help="The folder to write; it must not exist.")],
    bits: Annotated[int, typer.Option(help="8, or 4: a third of the room, and less exact.")] = 8,
) -> None:
    """Write a published checkpoint anew, its matrices packed for int8 arithmetic on CPUs.

    The new folder starts at once, and goes where --model takes a folder, with --dtype int8. In 4
    bits embedding and head keep 8.
    """
    if bits not in (4, 8):
        raise InvalidRequest(f"bits must be 4 or 8, got {bits}")
    with interrupt.held():
        from blockdiff.model.load.convert import convert
    from blockdiff.cli.tui import ProgressBar

    folder = store.resolve(source).base
    if not folder.is_dir():
        raise InvalidRequest(
            f"{source} is a GGUF file", "it is prepared for int8 on first use by itself"
        )
    with ProgressBar() as bar:
        size = convert(folder, target, bar.share, bits=bits)
    typer.echo(f"wrote {target}, {byte_size(size)}")


@app.command("check")
@reported_errors()
def check_command(
    name: NameOrFolder = DEFAULT_MODEL,
    device: options.DeviceOption = "auto",
    dtype: options.DtypeOption = "auto",
) -> None:
    """Load a model, run one forward and one small infill with it, or a rewrite."""
    from blockdiff.cli.infill import load_engine

    choice = options.ModelChoice(name, device=device, dtype=dtype, download=False)
    engine = load_engine(choice, silent=False)
    with interrupt.held():
        from blockdiff.eval.smoke import checked

    typer.echo(f"load      {engine.name} on {engine.device} in {engine.dtype}")
    for what, result in checked(engine):
        typer.echo(f"{what:<9} {result}")


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
        if not _confirmed(f"Delete {name} from {folders.cache_root()}?"):
            typer.echo("kept")
            return
    typer.echo(f"removed {name}, {byte_size(store.remove(name))} freed")


def _confirmed(question: str) -> bool:
    try:
        return typer.confirm(question)
    except typer.Abort as abort:
        raise Cancelled("interrupted, nothing was deleted") from abort


def _state_text(name: str) -> str:
    found = store.state(name)
    if found.status is Status.PARTIAL:
        return f"partial ({100 * found.bytes // max(found.total, 1)}%)"
    return str(found.status.value)


def _sources(entry: CatalogEntry) -> Iterator[str]:
    if hub := entry.base.hub:
        yield f"hub {hub.repo}@{hub.revision}"
    if wheels := entry.base.wheels:
        yield f"{wheels.parts} wheels {wheels.project.format(part='*')} {wheels.version}"
