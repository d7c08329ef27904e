"""`blockdiff eval seams`: whether filled texts end where they should; registered by `cli.eval`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from blockdiff.cli import eval_parts as parts
from blockdiff.cli import interrupt, options
from blockdiff.cli.console import reported_errors
from blockdiff.cli.options import DeviceOption, DtypeOption, ModelOption
from blockdiff.config import DecodingConfig
from blockdiff.errors import InputFileError
from blockdiff.eval.seam_holes import Caller, SeamHole
from blockdiff.weights.catalog import DEFAULT_MODEL

if TYPE_CHECKING:
    from blockdiff.eval.seams import Seamed

_COLUMNS = (
    ("holes", "holes", "d"), ("exact", "exact", ".1%"), ("repeats", "repeats", "d"),
    ("prose", "prose", "d"), ("fences", "fences", "d"), ("torn", "torn", "d"),
    ("parses", "parse_rate", ".1%"), ("at limit", "at_limit", "d"), ("empty", "empty", "d"),
    ("tokens", "tokens", ".1f"),
)  # fmt: skip
_MOST_SHOWN = 20


def register(app: typer.Typer) -> None:
    """Add the command to `blockdiff eval`."""
    app.command("seams")(reported_errors()(seams_command))


@options.grouped("mode")
def seams_command(
    data: Annotated[
        list[Path],
        typer.Option(help="Files that no adapter was trained on, .jsonl or .jsonl.gz. Repeatable."),
    ],
    limit: Annotated[int, typer.Option(min=0, help="Holes to draw; 0: all 400.")] = 0,
    seed: parts.SeedOption = 0,
    way: Annotated[
        list[Caller] | None, typer.Option(help="Who asks; both unless given. Repeatable.")
    ] = None,
    neighbours: Annotated[
        bool, typer.Option(help="A neighbour file open beside half of the holes, in short parts.")
    ] = True,
    out: parts.OutOption = None,
    as_json: parts.ReportJsonOption = False,
    decoding: DecodingConfig = options.DEFAULTS,
    max_tokens: Annotated[int, typer.Option(min=1, help="Most tokens of a hole.")] = 64,
    context_tokens: Annotated[
        int, typer.Option(min=64, help="Most tokens of the text around it and of the neighbour.")
    ] = 512,
    model: ModelOption = DEFAULT_MODEL,
    device: DeviceOption = "auto",
    dtype: DtypeOption = "auto",
) -> None:
    """Fill holes of ten languages and judge where the texts end.

    Holes are in the middle of a line, at its end, bodies, docstrings, arguments and strings; beside
    half of them a neighbour file is open. Each is filled as the command line asks (infill) and as
    an editor's ghost text does (ghost).

    \b
    exact     the rest of the hole's line is what it was
    repeats   the text writes again what stands behind the hole, or itself
    prose     a sentence outside of comments and strings; fences: a line of ```
    torn      several lines in the middle of one
    parses    the document does, where there is a grammar
    at limit  generation ended at --max-tokens

    --no-neighbours leaves files whole: to compare sizes of --context-tokens in long ones.

    Texts that repeat, talk or fence are listed below the table. With --out a run that was
    interrupted goes on, and the file holds every text. The last line on standard output is one
    JSON object.

    \b
    blockdiff eval seams --data models/qwen2.5-coder-1.5b-blockdiff/eval/held_out.jsonl.gz \\
      --data models/qwen2.5-coder-1.5b-blockdiff/eval/own.jsonl.gz --limit 40 --out seams.jsonl
    """
    with interrupt.held():
        from blockdiff.engine.engine import Engine
        from blockdiff.eval import heldout, seam_holes, seams
        from blockdiff.eval.results import ResultsFile

    files = [file for path in data for file in heldout.load(path)]
    holes = seam_holes.draw(files, limit, seed, neighbours=neighbours)
    if not holes:
        raise InputFileError("the files hold no place to ask for text", "name other --data")
    decoding = replace(decoding, max_tokens=max_tokens)
    settings = parts.settings_of(
        "seams", model, seed, device, dtype,
        data=[path.name for path in data], data_sha256=[parts.digest_of(path) for path in data],
        decoding=asdict(decoding), context_tokens=context_tokens,
    )  # fmt: skip
    if not neighbours:
        settings["neighbours"] = False
    engine = Engine.load(model, device=device, dtype=dtype)
    results = ResultsFile(out, settings, seams.Seamed) if out else None
    ways = way or list(Caller)
    with parts.count_bar(len(holes) * len(ways)) as counted:
        rows = seams.measure(engine, holes, ways, decoding, context_tokens, results, counted)
    figures = seams.summarise(rows)
    if not as_json:
        for name, part in figures["ways"].items():
            typer.echo(_table(name, part))
        typer.echo(_listed(rows, {hole.id: hole for hole in holes}))
    typer.echo(
        json.dumps({**settings, "limit": limit, "way": [one.value for one in ways], **figures})
    )


def _table(way: str, figures: dict[str, Any]) -> str:
    """One line for all holes, each kind, each language, with and without a neighbour."""
    lines = [f"{way:18}" + "".join(f"{title:>9}" for title, _, _ in _COLUMNS)]
    lines.append(_line("all", figures))
    for part in ("by_kind", "by_language", "by_neighbour"):
        lines += ["", *(_line(_label(part, name), row) for name, row in figures[part].items())]
    return "\n".join([*lines, ""])


def _label(part: str, name: str) -> str:
    return f"{name} neighbour" if part == "by_neighbour" else name


def _line(name: str, figures: dict[str, Any]) -> str:
    return f"{name:18}" + parts.cells(figures, [column[1:] for column in _COLUMNS], 9)


def _listed(rows: Sequence[Seamed], holes: Mapping[str, SeamHole]) -> str:
    """The texts that are not clean, each in its place."""
    with interrupt.held():
        from blockdiff.eval.seams import shown

    wrong = [row for row in rows if not row.is_clean]
    lines = [shown(row, holes[row.task_id.partition(" ")[2]]) for row in wrong[:_MOST_SHOWN]]
    if len(wrong) > len(lines):
        lines.append(f"{len(wrong) - len(lines)} more; --out keeps them all")
    return "\n".join(lines or ["nothing is repeated, no prose, no fence"])
