"""`blockdiff eval tune`: which decoding is best on held-out files; registered by `cli.eval`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from blockdiff.cli import eval_parts as parts
from blockdiff.cli import interrupt
from blockdiff.cli.console import reported_errors
from blockdiff.cli.options import DeviceOption, DtypeOption, ModelOption
from blockdiff.errors import InvalidRequest
from blockdiff.weights.catalog import DEFAULT_MODEL

_DEFAULT_HOLES = 40


def register(app: typer.Typer) -> None:
    """Add the command to `blockdiff eval`."""
    app.command("tune")(reported_errors()(tune_command))


def tune_command(
    data: parts.DataOption,
    limit: Annotated[
        int, typer.Option(min=0, help="Holes to draw; 0: one of each kind in every file.")
    ] = _DEFAULT_HOLES,
    seed: parts.SeedOption = 0,
    kind: Annotated[
        list[str] | None, typer.Option(help="line or lines; both unless given. Repeatable.")
    ] = None,
    only: Annotated[
        list[str] | None,
        typer.Option(help="Configurations such as ar, 'verify/*', 'diffusion/*/4'. Repeatable."),
    ] = None,
    out: parts.OutOption = None,
    plot: Annotated[Path | None, typer.Option(help="SVG to write the plot to.")] = None,
    as_json: parts.ReportJsonOption = False,
    max_tokens: Annotated[int, typer.Option(min=1, help="Most tokens of a hole.")] = 48,
    context_tokens: Annotated[int, typer.Option(min=16, help="Of prefix and suffix.")] = 256,
    model: ModelOption = DEFAULT_MODEL,
    device: DeviceOption = "auto",
    dtype: DtypeOption = "auto",
) -> None:
    """Fill holes of held-out files by a grid of configurations: what is best, and what it costs.

    The configurations of all modes, rules, thresholds and block sizes take turns at each hole. The
    table marks those on the Pareto front of exact match against forwards (F) and against processor
    time (T), or on that of their mode (f, t), and names the pick of each mode: its default, unless
    another is clearly better on the same holes. With --out a run that was interrupted goes on;
    --only adds to the same file. The last line on standard output is one JSON object.
    """
    with interrupt.held():
        from blockdiff.engine.engine import Engine
        from blockdiff.eval import heldout, heldout_holes, tune, tune_plot
        from blockdiff.eval.results import ResultsFile

    kinds = kind or list(heldout_holes.KINDS)
    if unknown := sorted(set(kinds) - set(heldout_holes.KINDS)):
        raise InvalidRequest(f"unknown kind of hole: {unknown[0]}", "known: line, lines")
    drawn = heldout_holes.draw(heldout.load(data), limit, seed, kinds)
    engine = Engine.load(model, device=device, dtype=dtype)
    configurations = tune.grid(engine.drafting, only or ())
    settings = parts.settings_of(
        "tune", model, seed, device, dtype, kind=kinds, max_tokens=max_tokens,
        context_tokens=context_tokens, **parts.data_of(data),
    )  # fmt: skip
    results = ResultsFile(out, settings, tune.Tuned) if out else None
    with parts.count_bar(len(drawn) * len(configurations)) as counted:
        rows = tune.tune(
            engine,
            drawn,
            configurations,
            max_tokens=max_tokens,
            context_tokens=context_tokens,
            results=results,
            progress=counted,
        )
    figures = tune.summarise(rows, engine.drafting)
    if plot:
        tune_plot.draw(figures, plot)
    if not as_json:
        typer.echo(_table(figures))
    typer.echo(json.dumps({**settings, "limit": limit, "only": only or [], **figures}))


def _sign(letter: str, front: str) -> str:
    return "-" if not front else letter.upper() if front == "all" else letter


def _table(figures: dict[str, Any]) -> str:
    """One line for each configuration, best first, and the picks."""
    lines = [f"{'configuration':34} front  exact   parses  tokens/fwd  forwards  cpu ms"]
    for line in sorted(figures["configurations"], key=lambda c: (-c["exact"], c["forwards"])):
        front = _sign("f", line["front_forwards"]) + _sign("t", line["front_cpu_ms"])
        lines.append(
            f"{line['configuration']:34} {front:5} {line['exact']:6.1%}  {line['parse_rate']:6.1%}"
            f"  {line['tokens_per_forward']:10.2f}  {line['forwards']:8.1f}  {line['cpu_ms']:6.0f}"
        )
    for mode, pick in figures["picks"].items():
        lines.append(f"{mode}: {pick['pick']} ({pick['why']}; default {pick['default']})")
    return "\n".join(lines)
