"""`blockdiff eval workspace`: what other files in the prompt bring; registered by `cli.eval`."""

from __future__ import annotations

import json
import tempfile
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any

import typer

from blockdiff.cli import eval_parts as parts
from blockdiff.cli import interrupt, options
from blockdiff.cli.console import reported_errors
from blockdiff.cli.options import DeviceOption, DtypeOption, ModelOption
from blockdiff.config import DecodingConfig
from blockdiff.errors import InputFileError
from blockdiff.eval.workspace_holes import CONTROLS, HOLES, OtherFiles
from blockdiff.weights.catalog import DEFAULT_MODEL, bundled_models

_COLUMNS = (
    ("holes", "d"), ("packages", "d"), ("exact", ".1%"), ("identifiers", ".1%"),
    ("named", ".1%"), ("parse_rate", ".1%"), ("prose", "d"), ("tokens", ".1f"), ("shown", ".0f"),
)  # fmt: skip
_SORTS = {"needing": "holes that need another file", "controls": "holes that need none"}


def register(app: typer.Typer) -> None:
    """Add the command to `blockdiff eval`."""
    app.command("workspace")(reported_errors()(workspace_command))


@options.grouped("mode")
def workspace_command(
    data: Annotated[
        list[Path],
        typer.Option(help="Folder whose folders are packages, each a workspace. Repeatable."),
    ],
    limit: Annotated[int, typer.Option(min=0, help="Holes that need another file.")] = HOLES,
    controls: Annotated[int, typer.Option(min=0, help="Holes that need no other.")] = CONTROLS,
    seed: parts.SeedOption = 0,
    way: Annotated[
        list[OtherFiles] | None,
        typer.Option(help="What is shown of other files; all four unless given. Repeatable."),
    ] = None,
    share: Annotated[
        float, typer.Option(min=0.0, max=0.5, help="Of the context, for other files.")
    ] = 0.25,
    out: parts.OutOption = None,
    as_json: parts.ReportJsonOption = False,
    decoding: DecodingConfig = options.DEFAULTS,
    max_tokens: Annotated[int, typer.Option(min=1, help="Most tokens of a hole.")] = 48,
    context_tokens: Annotated[
        int, typer.Option(min=64, help="Most tokens of context, other files included.")
    ] = 1024,
    model: ModelOption = DEFAULT_MODEL,
    device: DeviceOption = "auto",
    dtype: DtypeOption = "auto",
) -> None:
    """Fill holes whose text uses a name that another file of the package defines.

    A hole begins at that name and ends with its line; the name stands nowhere else in the file but
    in imports. Beside them are holes in which every name stands elsewhere in the file. Each is
    filled with nothing of other files in the context (none), with parts of three open ones (ring),
    with definitions that the index finds (index), and with both (all); the context is as long in
    every case. Packages that the adapter was trained on are left out.

    \b
    exact        the line is what it was
    identifiers  its names are, in their order
    named        the name of the other file is among them
    shown        tokens of the context that are kept for other files

    With --out a run that was interrupted goes on, and the file holds every text. The last line on
    standard output is one JSON object.

    \b
    blockdiff eval workspace --data packages --limit 40 --controls 20 --out workspace.jsonl
    """
    with interrupt.held():
        from blockdiff.engine.engine import Engine
        from blockdiff.eval import workspace, workspace_holes
        from blockdiff.eval.results import ResultsFile

    ways = way or list(OtherFiles)
    with tempfile.TemporaryDirectory() as scratch:
        indexes = out.with_suffix(".indexes") if out else Path(scratch)
        spaces = workspace_holes.HeldOutPackages(data, indexes, _trained(model))
        try:
            holes = workspace_holes.draw(spaces, limit, controls, seed)
            if not holes:
                hint = "name folders whose folders are packages of several source files"
                raise InputFileError("no place was found that needs another file", hint)
            decoding = replace(decoding, max_tokens=max_tokens)
            settings = parts.settings_of(
                "workspace", model, seed, device, dtype,
                packages=sorted(spaces.roots), share=share,
                decoding=asdict(decoding), context_tokens=context_tokens,
            )  # fmt: skip
            engine = Engine.load(model, device=device, dtype=dtype)
            results = ResultsFile(out, settings, workspace.FilledLine) if out else None
            with parts.count_bar(len(holes) * len(ways)) as counted:
                rows = workspace.measure(
                    engine, spaces, holes, ways, decoding, context_tokens, share, results,
                    counted,
                )  # fmt: skip
        finally:
            spaces.close()
    figures = workspace.summarise(rows)
    if not as_json:
        typer.echo("\n".join(_table(_SORTS[name], part) for name, part in figures.items()))
    typer.echo(json.dumps({**settings, "limit": limit, "controls_limit": controls, **figures}))


def _trained(model: str) -> frozenset[str]:
    """Packages that the adapter of a model, and its n-grams, were made from."""
    names: set[str] = set()
    for file in ("LICENSES.tsv", "NGRAMS_LICENSES.tsv"):
        path = bundled_models() / model / file
        if path.exists():
            rows = path.read_text("utf-8").splitlines()[1:]
            names |= {row.partition("\t")[0].lower() for row in rows}
    return frozenset(names)


def _table(title: str, figures: dict[str, Any]) -> str:
    lines = ["", f"{title:28}" + "".join(f"{name:>12}" for name, _ in _COLUMNS)]
    for way, row in figures.items():
        lines.append(f"{way:28}" + parts.cells(row, _COLUMNS, 12))
        if gain := row.get("gain"):
            said = (
                f"{key} {g['points']:+.1f} ({g['ci95'][0]:+.1f} to {g['ci95'][1]:+.1f})"
                for key, g in gain.items()
            )
            lines.append(f"  points above none: {', '.join(said)}")
    return "\n".join(lines)
