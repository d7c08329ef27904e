"""`blockdiff bench holes`: several holes in one request; registered by `cli_bench`."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Annotated, Any

import typer

from blockdiff.cli import interrupt
from blockdiff.cli.console import reported_errors
from blockdiff.config import DecodingConfig, Mode
from blockdiff.errors import InputFileError
from blockdiff.types import MOST_HOLES
from blockdiff.weights.catalog import DEFAULT_MODEL


def register(app: typer.Typer) -> None:
    """Add the command to `blockdiff bench`."""
    app.command("holes")(reported_errors()(holes_command))


def holes_command(
    data: Annotated[Path, typer.Option(help="Held-out files, .jsonl or .jsonl.gz.")],
    files: Annotated[int, typer.Option(min=1, help="Files to fill holes of.")] = 12,
    holes: Annotated[int, typer.Option(min=2, max=MOST_HOLES, help="Holes of each file.")] = 4,
    context: Annotated[int, typer.Option(min=32, help="Most tokens of context of a hole.")] = 512,
    tokens: Annotated[int, typer.Option(min=1, help="Most tokens to write into a hole.")] = 32,
    kept: Annotated[
        bool, typer.Option("--kept", help="Also one request after the other on a warm cache.")
    ] = False,
    revise: Annotated[
        bool, typer.Option("--revise", help="Also together and then revised once.")
    ] = False,
    mode: Annotated[Mode, typer.Option(help="How to write.")] = Mode.VERIFY,
    seed: Annotated[int, typer.Option(help="Seed of the files and of the holes.")] = 0,
    threads: Annotated[int, typer.Option(min=1, help="Threads on a CPU.")] = 2,
    model: Annotated[str, typer.Option(help="A catalogue model or a GGUF file.")] = DEFAULT_MODEL,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, mps")] = "auto",
    dtype: Annotated[str, typer.Option(help="auto, int8, bfloat16, float32")] = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print the JSON object only.")] = False,
) -> None:
    """Fill lines of held-out files, all holes of a file together and each by itself, in turn.

    Every hole is written while the others are blank, on an empty cache. `better` and `worse` count
    holes that only one of the two fills with the very text that stood there.
    """
    with interrupt.held():
        import torch
    from rich.console import Console
    from rich.progress import Progress

    with interrupt.held():
        from blockdiff.bench import holes as bench
        from blockdiff.engine.engine import Engine
        from blockdiff.eval import heldout

    torch.set_num_threads(threads)
    sample = heldout.load(data)
    engine = Engine.load(model, device=device, dtype=dtype)
    decoding = DecodingConfig(mode=mode, max_tokens=tokens)
    made = bench.tasks(sample, engine.tokenizer, holes, decoding, context, seed)
    wanted = list(itertools.islice(made, files))
    if not wanted:
        raise InputFileError(f"no file of {data} has {holes} lines to fill", "ask for fewer holes")
    with Progress(console=Console(stderr=True), disable=as_json) as bar:
        task = bar.add_task("measuring", total=len(wanted))
        report: dict[str, Any] = {
            "model": engine.name, "device": engine.device, "dtype": engine.dtype,
            "threads": threads, "mode": mode.value, "context": context, "tokens": tokens,
        }  # fmt: skip

        def done(line: str) -> None:
            bar.console.print(line, highlight=False, markup=False)
            bar.advance(task)

        report |= bench.compare(engine, wanted, kept=kept, revise=revise, done=done)
    if not as_json:
        for name, row in report["ways"].items():
            typer.echo(
                f"{name:<9} {row['seconds']:8.2f} s  ratio {row['ratio']['median']:.2f}"
                f" ({row['ratio']['low']:.2f} to {row['ratio']['high']:.2f})"
                f"  processor {row['processor_ratio']['median']:.2f}"
                f"  exact {row['exact']} of {report['holes']}"
                f" (+{row['better']} −{row['worse']})  parses {row['parses']}"
                f"  {row['encoded']} tokens encoded, {row['passes']} passes"
            )
    typer.echo(json.dumps(report))
