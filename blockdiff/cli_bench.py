"""`blockdiff bench`: speed beside the rival's, in one run. Nothing heavy is imported early."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from blockdiff import cli_bench_holes, interrupt
from blockdiff.catalog import DEFAULT_MODEL
from blockdiff.config import DecodingConfig, Mode
from blockdiff.console import reported_errors

app = typer.Typer(
    no_args_is_help=True,
    help="Measure speed: against llama.cpp on the same file, and where the time goes.",
    add_completion=False,
    rich_markup_mode=None,
)


@app.command("peers")
@reported_errors()
def peers_command(
    places: Annotated[int, typer.Option(min=1, help="Places in real code to measure at.")] = 8,
    context: Annotated[int, typer.Option(min=32, help="Tokens of context.")] = 512,
    tokens: Annotated[int, typer.Option(min=1, help="Tokens to write.")] = 32,
    clients: Annotated[
        int, typer.Option(min=0, help="Clients who write at once; 0 leaves that out.")
    ] = 8,
    seed: Annotated[int, typer.Option(help="Seed of the places.")] = 0,
    threads: Annotated[int, typer.Option(min=1, help="Threads of both.")] = 2,
    model: Annotated[str, typer.Option(help="A catalogue model or a GGUF file.")] = DEFAULT_MODEL,
    dtype: Annotated[str, typer.Option(help="auto, int8, bfloat16, float32")] = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print the JSON object only.")] = False,
) -> None:
    """Time cold and warm completions on the CPU, ours and llama.cpp's in turn.

    Cold: nothing is cached. Warm: a few tokens were typed since. Both write the same number of
    tokens behind the same prompt. `ratio` is our time over llama.cpp's, place by place.

    Together: what several clients write in the time in which one alone writes once.
    """
    with interrupt.held():
        import torch
    from rich.console import Console
    from rich.progress import Progress

    with interrupt.held():
        from blockdiff.engine.engine import Engine
        from blockdiff.eval import peers

    torch.set_num_threads(threads)
    engine = Engine.load(model, device="cpu", dtype=dtype)
    rival = peers.LlamaCpp(model, tokens, threads)
    modes = [Mode.AR, Mode.VERIFY, Mode.DIFFUSION] if engine.drafts else [Mode.AR]
    found = peers.places(engine, places, context, seed)
    with Progress(console=Console(stderr=True), disable=as_json) as bar:
        task = bar.add_task("measuring", total=len(found))
        report: dict[str, Any] = {
            "model": engine.name, "dtype": engine.dtype, "threads": threads, "places": places,
            "context": context, "tokens": tokens,
        }  # fmt: skip
        report |= peers.compare(engine, rival, found, modes, tokens, lambda: bar.advance(task))
    alone, _ = rival.split(found[0].prompt, cold=False)
    if clients:
        various = peers.places(engine, clients, context, seed)
        report["together"] = {
            mode.value: peers.clients(engine, various, mode, clients, tokens) for mode in modes[:2]
        }
    report["forward_ms"] = peers.forwards(engine, context)
    report["llama_cpp_token_ms"] = round(1e3 * alone[1] / tokens, 2)
    if not as_json:
        _table(report)
    typer.echo(json.dumps(report))


@app.command("profile")
@reported_errors()
def profile_command(
    places: Annotated[int, typer.Option(min=1, help="Places in real code to fill.")] = 6,
    context: Annotated[int, typer.Option(min=32, help="Tokens of context.")] = 512,
    tokens: Annotated[int, typer.Option(min=1, help="Most tokens to write.")] = 32,
    mode: Annotated[Mode, typer.Option(help="How to write.")] = Mode.VERIFY,
    seed: Annotated[int, typer.Option(help="Seed of the places.")] = 0,
    model: Annotated[str, typer.Option(help="A catalogue model or a GGUF file.")] = DEFAULT_MODEL,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, mps")] = "auto",
    dtype: Annotated[str, typer.Option(help="auto, int8, bfloat16, float32")] = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print the JSON object only.")] = False,
) -> None:
    """Show where the time of a request goes, from the document to the last text.

    The service and the editor's protocol add what `make bench-overhead` measures.
    """
    with interrupt.held():
        from blockdiff.engine.engine import Engine
        from blockdiff.eval import profile

    engine = Engine.load(model, device=device, dtype=dtype)
    requests = profile.requests(places, context, DecodingConfig(mode=mode, max_tokens=tokens), seed)
    report = profile.profile(engine, requests)
    if not as_json:
        for name, row in report["parts"].items():
            typer.echo(f"{name:<10} {row['ms']:9.1f} ms a request  {100 * row['share']:5.1f}%")
        typer.echo(f"outside the model's forwards: {100 * report['outside']:.1f}%")
    typer.echo(json.dumps(report))


def _table(report: dict[str, Any]) -> None:
    for kind in ("cold", "warm"):
        for name, row in report[kind].items():
            rate = report["tokens_per_forward"].get(name)
            typer.echo(
                f"{kind} {name:<10} {row['seconds']['median']:7.2f} s"
                f"  ratio {row['ratio']['median']:.2f}"
                f" ({row['ratio']['low']:.2f} to {row['ratio']['high']:.2f})"
                + (f"  {rate:.2f} tokens per forward" if rate else "")
            )
    for name, row in report.get("together", {}).items():
        gain = row["throughput"]
        typer.echo(
            f"together {name:<6} {row['clients']} clients, throughput times {gain['median']:.2f}"
            f" ({gain['low']:.2f} to {gain['high']:.2f}), {row['same']} texts as alone"
        )
    for width, row in report["forward_ms"].items():
        typer.echo(f"forward of {width:>2} positions  {row['median']:6.1f} ms")
    typer.echo(f"llama.cpp, a token    {report['llama_cpp_token_ms']:6.1f} ms")


cli_bench_holes.register(app)
