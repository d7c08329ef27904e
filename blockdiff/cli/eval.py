"""`blockdiff eval`: measure. Nothing heavy is imported before it is needed."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from blockdiff.cli import eval_heldout, eval_seams, eval_tune, eval_workspace, interrupt, options
from blockdiff.cli import eval_parts as parts
from blockdiff.cli.console import reported_errors
from blockdiff.config import DecodingConfig, Mode
from blockdiff.errors import InvalidRequest
from blockdiff.eval.infilling import EvalMode, InfillTask, choose, evaluate, load_tasks, summarise
from blockdiff.weights.catalog import DEFAULT_MODEL

if TYPE_CHECKING:
    from blockdiff.eval.fillers import Filler

app = options.group("Measure infilling quality and speed.")
_DECODING = (
    "threshold", "rule", "entropy_bound", "edit_threshold", "denoising_steps", "block_size"
)  # fmt: skip
_SINGLE_LINE_TOKENS, _LONGER_TOKENS = 64, 256
_OURS = {mode.value for mode in Mode}


@app.command("infilling")
@reported_errors()
@options.grouped(*_DECODING)
def infilling_command(
    data: Annotated[Path, typer.Option(help="HumanEval-Infilling, .jsonl or .jsonl.gz.")],
    mode: Annotated[EvalMode, typer.Option(help="Who fills the holes.")] = EvalMode.VERIFY,
    limit: Annotated[int, typer.Option(min=0, help="Tasks to draw; 0 takes all.")] = 0,
    seed: Annotated[int, typer.Option(help="Seed of the draw; the same in every mode.")] = 0,
    out: Annotated[Path | None, typer.Option(help="Results file; a run goes on from it.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the JSON object only.")] = False,
    max_tokens: Annotated[
        int, typer.Option(min=0, help="Most tokens of a hole; 0: 64 for single lines, else 256.")
    ] = 0,
    context_tokens: Annotated[int, typer.Option(help="Most tokens of prefix and suffix.")] = 2048,
    decoding: DecodingConfig = options.DEFAULTS,
    model: Annotated[str, typer.Option(help="Model, by name or path.")] = DEFAULT_MODEL,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 or mps.")] = "auto",
    dtype: Annotated[str, typer.Option(help="Number format of the weights.")] = "auto",
    threads: Annotated[int, typer.Option(min=0, help="llamacpp: threads; 0: all cores.")] = 0,
) -> None:
    """Fill the holes of a benchmark, run its tests, report pass@1 with its interval.

    The last line on standard output is one JSON object.
    """
    tasks = choose(load_tasks(data), limit, seed)
    most = max_tokens or _default_tokens(tasks)
    decoding = replace(_checked(mode, decoding), max_tokens=most)
    settings = _settings(data, mode, seed, decoding, context_tokens, model, device, dtype)

    def filler() -> Filler:
        return _filler(mode, decoding, context_tokens, model, device, dtype, threads)

    with parts.count_bar(len(tasks)) as counted:
        results = evaluate(tasks, filler, settings, out, progress=counted)
    figures = summarise(tasks, results)
    report = {"mode": mode.value, "model": settings["model"], "data": data.name, "limit": limit}
    report |= {"seed": seed, "max_tokens": decoding.max_tokens}
    report |= {key: settings[key] for key in ("dtype", "adapter_sha256") if key in settings}
    if mode is EvalMode.DIFFUSION:
        report["rule"] = decoding.rule.value
    report |= figures
    if not as_json:
        low, high = figures["pass@1_ci95"]
        typer.echo(f"{mode.value} on {len(tasks)} tasks of {data.name}")
        typer.echo(f"pass@1 {figures['pass@1']:.1%} (95% interval {low:.1%} to {high:.1%})")
    typer.echo(json.dumps(report))


def _checked(mode: EvalMode, decoding: DecodingConfig) -> DecodingConfig:
    """Decoding of one of our modes. An option that the mode would ignore is an error."""
    drafting = (EvalMode.DIFFUSION, EvalMode.VERIFY)
    for name in _DECODING:
        heeded = drafting if name == "block_size" else (EvalMode.DIFFUSION,)
        if getattr(decoding, name) != getattr(options.DEFAULTS, name) and mode not in heeded:
            hint = "leave it out" + ("" if name == "block_size" else ", or use --mode diffusion")
            option = name.replace("_", "-")
            raise InvalidRequest(f"--{option} means nothing in mode {mode.value}", hint)
    return replace(decoding, mode=Mode(mode.value) if mode.value in _OURS else Mode.AR)


def _default_tokens(tasks: list[InfillTask]) -> int:
    single = all(task.canonical.strip("\n").count("\n") == 0 for task in tasks)
    return _SINGLE_LINE_TOKENS if single else _LONGER_TOKENS


def _settings(
    data: Path,
    mode: EvalMode,
    seed: int,
    decoding: DecodingConfig,
    context_tokens: int,
    model: str,
    device: str,
    dtype: str,
) -> dict[str, Any]:
    """Everything that changes a row. The limit is not among them: a larger one goes on."""
    settings: dict[str, Any] = {"mode": mode.value, "seed": seed, **parts.data_of(data)}
    settings |= {"max_tokens": decoding.max_tokens, "model": mode.value}
    if mode in (EvalMode.EMPTY, EvalMode.CANONICAL):
        return settings
    settings["model"] = model
    if mode.value in _OURS:
        settings |= {"decoding": asdict(decoding), "context_tokens": context_tokens}
        settings |= {"device": device, "dtype": dtype}
        settings["adapter_sha256"] = parts.adapter_digest(model)
    return settings


def _filler(
    mode: EvalMode,
    decoding: DecodingConfig,
    context_tokens: int,
    model: str,
    device: str,
    dtype: str,
    threads: int,
) -> Filler:
    with interrupt.held():
        from blockdiff.eval import fillers

    if mode is EvalMode.EMPTY:
        return fillers.floor
    if mode is EvalMode.CANONICAL:
        return fillers.ceiling
    if mode is EvalMode.LLAMACPP:
        return fillers.llama_cpp(model, decoding.max_tokens, threads or os.cpu_count() or 1)
    with interrupt.held():
        from blockdiff.engine.engine import Engine

    engine = Engine.load(model, device=device, dtype=dtype)
    return fillers.ours(engine, decoding, context_tokens)


eval_heldout.register(app)
eval_tune.register(app)
eval_seams.register(app)
eval_workspace.register(app)
