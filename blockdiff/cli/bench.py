"""`blockdiff bench`: speed beside the rival's, in one run. Nothing heavy is imported early."""

from __future__ import annotations

import itertools
import json
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from blockdiff.cli import interrupt, options
from blockdiff.cli.console import reported_errors
from blockdiff.config import DecodingConfig, Mode
from blockdiff.errors import InputFileError
from blockdiff.types import MOST_HOLES
from blockdiff.weights import store
from blockdiff.weights.catalog import DEFAULT_MODEL

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

app = options.group("Measure speed: against llama.cpp on the same file, and where the time goes.")


@app.command("peers")
@reported_errors()
def peers_command(
    places: Annotated[int, typer.Option(min=1, help="Places in real code, for each context.")] = 8,
    context: Annotated[
        list[int], typer.Option(min=32, help="Tokens of context; may be given several times.")
    ] = [512, 2048],  # noqa: B006
    tokens: Annotated[int, typer.Option(min=2, help="Tokens to write.")] = 32,
    window: Annotated[
        int, typer.Option(min=64, help="Tokens of context in which typing is counted.")
    ] = 2048,
    rewrites: Annotated[int, typer.Option(min=1, help="Functions to rename a variable in.")] = 4,
    clients: Annotated[
        int, typer.Option(min=0, help="Clients who write at once; 0 leaves that out.")
    ] = 8,
    ngram: Annotated[
        bool, typer.Option(help="Compare with llama.cpp's own n-gram speculation, too.")
    ] = True,
    wheel: Annotated[
        bool,
        typer.Option("--wheel", help="llama.cpp's wheel instead of one compiled here, once."),
    ] = False,
    openvino: Annotated[bool, typer.Option(help="Compare with OpenVINO GenAI, too: 3 GB.")] = True,
    transformers: Annotated[
        bool, typer.Option(help="Compare with transformers in bfloat16, too: slow, 3 GB.")
    ] = True,
    seed: Annotated[int, typer.Option(help="Seed of the places.")] = 0,
    threads: Annotated[int, typer.Option(min=1, help="Threads of each.")] = 2,
    model: Annotated[str, typer.Option(help="A catalogue model or a GGUF file.")] = DEFAULT_MODEL,
    dtype: Annotated[str, typer.Option(help="auto, int8, bfloat16, float32")] = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print the JSON object only.")] = False,
) -> None:
    """Time our engine on the CPU beside llama.cpp, OpenVINO and transformers, in turn in one run.

    All have the same weights and prompts and write the same number of tokens. The last line on
    standard output is one JSON object; figures in it are a median with quartiles (`median`, `low`,
    `high`) over places in the standard library.

    completions: by tokens of context, `cold` (nothing is cached) and `warm` (a line's indentation
    and five characters were typed since), for each that writes: `seconds`, `ratio` to llama.cpp,
    `ours_over` (verify's time over its own), `writing_over` (the same of a token behind those that
    come with the prompt), `encoded` (context tokens), `tokens_per_forward`.

    typing: context tokens that a real request encodes again after five characters typed `at_once`
    or `one_by_one`, in a `window` of context tokens.

    rewrite: a function of 60 to 68 tokens of which three change. Ours is made to write the right
    answer, its drafts being its own; others write as many tokens. `free`: what ours writes by
    itself, to its end.

    together: what clients write at once over what one alone writes in that time, and how many of
    the texts are the `same`.

    forward_ms: of a forward by its positions, behind the least context; context_token_ms: for each
    token of a context; llama_cpp_token_ms: of llama.cpp's forward of one. ceilings: what the
    machine reads and multiplies at most. shares: which part of that our forwards reach.

    ratios: the medians of all this, flat; without another name, verify's over llama.cpp's.
    targets: our aims. load_before, load_after: of the machine; above `threads`, times say little.
    """
    with interrupt.held():
        import torch
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    with interrupt.held():
        from blockdiff.bench import peer_report, peers, rivals
        from blockdiff.engine.engine import Engine

    torch.set_num_threads(threads)
    scope = peers.Scope(
        places=places,
        contexts=tuple(dict.fromkeys(context)),
        tokens=tokens,
        window=window,
        rewrites=rewrites,
        clients=clients,
        seed=seed,
    )
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn()
    quiet = Console(stderr=True)
    with (
        Progress(*columns, TimeElapsedColumn(), console=quiet, disable=as_json) as bar,
        ExitStack() as running,
    ):
        task = bar.add_task("loading", total=None)

        def rival(lookup: tuple[int, int] | None = None) -> rivals.LlamaCpp:
            if wheel:
                return rivals.llama_cpp_wheel(model, threads, lookup)
            said = partial(_describe, bar, task)
            return running.enter_context(rivals.llama_cpp(model, threads, lookup, said))

        base = rival()
        others: dict[str, rivals.Writer] = {peer_report.BASE: base}
        if ngram:
            others[f"{peer_report.BASE}-ngram"] = rival(rivals.NGRAM)
        engine = Engine.load(model, device="cpu", dtype=dtype)
        if openvino:
            from blockdiff.bench.openvino import OpenVino

            others["openvino"] = OpenVino(store.resolve(model).base, threads)
        if transformers:
            others["transformers"] = rivals.Transformers.load(model)
        report: dict[str, Any] = {"threads": threads, "llama_cpp": base.origin}
        report |= peers.measure(
            engine,
            others,
            scope,
            lambda done, total: bar.update(
                task, completed=done, total=total, description="measuring"
            ),
        )
    if not as_json:
        from blockdiff.cli.bench_tables import show

        show(report)
    typer.echo(json.dumps(report))


def _describe(bar: Progress, task: TaskID, doing: str) -> None:
    bar.update(task, description=doing)


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
        from blockdiff.bench import profile
        from blockdiff.engine.engine import Engine

    engine = Engine.load(model, device=device, dtype=dtype)
    requests = profile.requests(places, context, DecodingConfig(mode=mode, max_tokens=tokens), seed)
    report = profile.profile(engine, requests)
    if not as_json:
        for name, row in report["parts"].items():
            typer.echo(f"{name:<10} {row['ms']:9.1f} ms a request  {100 * row['share']:5.1f}%")
        typer.echo(f"outside the model's forwards: {100 * report['outside']:.1f}%")
    typer.echo(json.dumps(report))


@app.command("holes")
@reported_errors()
def holes_command(
    data: Annotated[Path, typer.Option(help="Held-out files, .jsonl or .jsonl.gz.")],
    files: Annotated[int, typer.Option(min=1, help="Files to fill holes of.")] = 12,
    holes: Annotated[int, typer.Option(min=2, max=MOST_HOLES, help="Holes of each file.")] = 4,
    context: Annotated[int, typer.Option(min=32, help="Most tokens of context of a hole.")] = 512,
    tokens: Annotated[int, typer.Option(min=1, help="Most tokens to write into a hole.")] = 32,
    kept: Annotated[
        bool, typer.Option("--kept", help="Also one request after the other on a warm cache.")
    ] = False,
    lend: Annotated[
        bool, typer.Option("--lend", help="Also together by --cache approximate-suffix.")
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

        report |= bench.compare(
            engine, wanted, kept=kept, lend=lend, revise=revise, done=done
        )
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
