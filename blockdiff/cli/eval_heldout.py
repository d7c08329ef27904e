"""`blockdiff eval draft|revise|rewrite|bits`: measure on held-out files; `cli.eval` has them."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from blockdiff.cli import eval_parts as parts
from blockdiff.cli import interrupt, options
from blockdiff.cli.console import reported_errors, show
from blockdiff.cli.options import DeviceOption, DtypeOption, ModelOption
from blockdiff.config import DecodingConfig, Mode, Rule
from blockdiff.errors import InvalidRequest
from blockdiff.types import no_op
from blockdiff.weights.catalog import DEFAULT_MODEL

if TYPE_CHECKING:
    from blockdiff.eval.heldout import HeldOutFile

LimitOption = Annotated[int, typer.Option(min=0, help="Files to draw; 0 takes all.")]
T = TypeVar("T")


class Reviser(str, Enum):
    """What revises spoilt code."""

    REWRITE = "rewrite"  # a rewrite without an instruction
    EDIT = "edit"  # diffusion by the rule `edit`


def register(app: typer.Typer) -> None:
    """Add the commands to `blockdiff eval`."""
    app.command("held-out")(reported_errors()(held_out_command))
    app.command("draft")(reported_errors()(draft_command))
    app.command("revise")(reported_errors()(revise_command))
    app.command("rewrite")(reported_errors()(rewrite_command))
    app.command("bits")(reported_errors()(bits_command))


def held_out_command(
    corpus: Annotated[Path, typer.Option(help="Folder that `train corpus` wrote.")],
    out: Annotated[Path, typer.Option(help="File to write, .jsonl.gz.")],
    each: Annotated[int, typer.Option(min=1, help="Most files of a language.")] = 12,
    python: Annotated[int, typer.Option(min=1, help="Most files of Python.")] = 60,
    most_bytes: Annotated[int, typer.Option(min=600, help="Of a file.")] = 16_000,
) -> None:
    """Take a small set of a corpus's held-out files, under licences that let it be passed on.

    The last line on standard output is one JSON object.
    """
    with interrupt.held():
        from blockdiff.eval import heldout

    files = list(heldout.of_corpus(corpus))
    chosen = heldout.sample(files, each, python, most_bytes)
    heldout.write(chosen, out)
    counts: dict[str, int] = {}
    for file in chosen:
        counts[file.language] = counts.get(file.language, 0) + 1
    typer.echo(json.dumps({"files": len(chosen), "languages": counts, "of": len(files)}))


@options.grouped("block_size")
def draft_command(
    data: Annotated[
        Path, typer.Option(help="Held-out files, .jsonl or .jsonl.gz; or a folder of source code.")
    ],
    limit: LimitOption = 0,
    seed: parts.SeedOption = 0,
    out: parts.OutOption = None,
    as_json: parts.ReportJsonOption = False,
    decoding: DecodingConfig = options.DEFAULTS,
    model: ModelOption = DEFAULT_MODEL,
    device: DeviceOption = "auto",
    dtype: DtypeOption = "auto",
    adapter: Annotated[
        bool, typer.Option("--adapter", help="Of a folder: load the model and draft with it.")
    ] = False,
) -> None:
    """Draft in held-out files: accuracy by offset, mean accepted run, both by language.

    Of a folder: what `blockdiff train personal` brings there. Four fifths of its files are counted,
    nothing is kept, and in the others the next token is guessed from n-grams alone, with and
    without what was counted. With --adapter the model is loaded and drafts as it does when it
    writes, which gains less, for the adapter knows much of that; and with an adapter that was
    trained on the folder, if there is one. The last line on standard output is one JSON object.
    """
    if data.is_dir() and not adapter:
        _tables(data, limit, model, as_json)
        return
    with interrupt.held():
        from blockdiff.engine.checkpoint import Checkpoint
        from blockdiff.engine.devices import choose_device, choose_dtype
        from blockdiff.eval import draft, heldout

    where = choose_device(device)
    point = Checkpoint.load(model, where, choose_dtype(dtype, where), no_op)
    if point.adapter is None:
        raise InvalidRequest(f"{model} has no adapter to draft with", "name a model that has one")
    size = decoding.block_size or point.drafting.block_size
    if data.is_dir():
        root = data.absolute()
        with parts.count_bar(limit) as counted:
            figures = draft.personal(point, root, _sources(root), limit, size, seed, counted)
        one, other = (figures[name]["mean_accepted"] for name in ("without", "with_personal"))
        text = f"mean accepted run {one:.2f} without, {other:.2f} with the personal table"
        if trained := figures.get("with_trained"):
            text += f", {trained['mean_accepted']:.2f} with the adapter trained on it, too"
        settings = {"eval": "draft", "model": model, "data": str(root), "seed": seed}
        _report({**settings, "block_size": size}, limit, figures, text, as_json)
        return
    files = heldout.choose(heldout.load(data), limit, seed)
    more = {"block_size": size, **parts.data_of(data)}
    settings = parts.settings_of("draft", model, seed, device, dtype, **more)
    rows = _through(
        files,
        lambda index: draft.draft(point, files[index], size, seed),
        settings,
        out,
        draft.DraftedFile,
    )
    figures = draft.summarise(rows)
    text = f"mean accepted run {figures['mean_accepted']:.2f} over {figures['starts']} starts"
    _report(settings, limit, figures, text, as_json)


def _tables(folder: Path, limit: int, model: str, as_json: bool) -> None:
    """What a personal table of a folder brings, see `draft_command`."""
    with interrupt.held():
        from blockdiff.engine.checkpoint import shipped_tables
        from blockdiff.eval import tables
        from blockdiff.model.load.gguf_tokenizer import tokenizer_of
        from blockdiff.weights import store

    root = folder.absolute()
    found = _sources(root)
    files = store.resolve(model)
    tokenizer = tokenizer_of(files)
    general = shipped_tables(files, tokenizer)
    with parts.count_bar(limit) as counted:
        figures = tables.measure(root, found, tokenizer, general, limit, counted)
    one, other = figures["without"], figures["with_personal"]
    text = (
        f"next token guessed by n-grams: {one['guessed']:.1%} without, {other['guessed']:.1%} with"
        f" the personal table; mean run {one['mean_run']:.2f} and {other['mean_run']:.2f}"
    )
    _report({"eval": "draft", "model": model, "data": str(root)}, limit, figures, text, as_json)


def _sources(root: Path) -> Sequence[Path]:
    """The code of a folder that may be read."""
    with interrupt.held():
        from blockdiff.train import recount

    return recount.sources(root, show).files


@options.grouped("edit_threshold", "block_size")
def revise_command(
    data: parts.DataOption,
    limit: LimitOption = 0,
    seed: parts.SeedOption = 0,
    out: parts.OutOption = None,
    as_json: parts.ReportJsonOption = False,
    decoding: DecodingConfig = options.DEFAULTS,
    by: Annotated[
        Reviser, typer.Option(help="rewrite: without an instruction; edit: diffusion, rule edit.")
    ] = Reviser.REWRITE,
    context_tokens: Annotated[int, typer.Option(help="rewrite: most tokens around.")] = 320,
    model: ModelOption = DEFAULT_MODEL,
    device: DeviceOption = "auto",
    dtype: DtypeOption = "auto",
) -> None:
    """Spoil one to three tokens of some lines of held-out code and let them be revised.

    Counts tokens fixed and broken, and round trips: what is changed back and forth. By `rewrite`
    also lines that were not spoilt and were changed all the same, and texts that parse before and
    after. The last line on standard output is one JSON object.

    \b
    seed 3, int8          texts  fixed         round trips  changed without errors
    rewrite               30     66% (53-78%)  1.6%         0 of 30
    edit                  46     42%           0%
    """
    with interrupt.held():
        from blockdiff.engine.contexts import resolved
        from blockdiff.engine.engine import Engine
        from blockdiff.eval import heldout, revise

    files = heldout.choose(heldout.load(data), limit, seed)
    engine = Engine.load(model, device=device, dtype=dtype)
    if by is Reviser.REWRITE:
        more: dict[str, Any] = {"by": by.value, "context_tokens": context_tokens}

        def work(file: HeldOutFile) -> revise.Revised:
            return revise.rewrite(engine, file, context_tokens, seed)
    else:
        edit = replace(decoding, mode=Mode.DIFFUSION, rule=Rule.EDIT)
        edit = resolved(edit, engine.drafting)
        more = {"by": by.value, "decoding": asdict(edit)}

        def work(file: HeldOutFile) -> revise.Revised:
            return revise.revise(engine, file, edit, seed)
    more |= parts.data_of(data)
    settings = parts.settings_of("revise", model, seed, device, dtype, **more)
    rows = _through(files, lambda index: work(files[index]), settings, out, revise.Revised)
    figures = revise.summarise(rows)
    text = f"fixed {figures['fixed']} of {figures['wrong']}, broken {figures['broken']}"
    if by is Reviser.REWRITE:
        text += f"; {figures['clean_changed']} of {figures['texts']} texts without errors changed"
    _report(settings, limit, figures, text, as_json)


@options.grouped("mode")
def rewrite_command(
    data: parts.DataOption,
    limit: Annotated[int, typer.Option(min=1, help="Most tasks of a kind.")] = 8,
    seed: parts.SeedOption = 0,
    out: parts.OutOption = None,
    as_json: parts.ReportJsonOption = False,
    decoding: DecodingConfig = options.DEFAULTS,
    context_tokens: Annotated[int, typer.Option(help="Most tokens of the file.")] = 1024,
    model: ModelOption = DEFAULT_MODEL,
    device: DeviceOption = "auto",
    dtype: DtypeOption = "auto",
) -> None:
    """Rewrite functions of held-out Python files by instruction: a rate for each kind of edit.

    The tasks reverse mechanical edits; small functions with tests are added for bugs and bodies.
    The last line on standard output is one JSON object.
    """
    with interrupt.held():
        from blockdiff.engine.engine import Engine
        from blockdiff.eval import heldout, rewrite

    tasks = rewrite.tasks(heldout.load(data), limit, seed)
    engine = Engine.load(model, device=device, dtype=dtype)
    settings = parts.settings_of(
        "rewrite", model, seed, device, dtype,
        decoding=asdict(decoding), context_tokens=context_tokens, **parts.data_of(data),
    )  # fmt: skip
    rows = _through(
        tasks,
        lambda index: rewrite.rewrite(engine, tasks[index], decoding, context_tokens),
        settings,
        out,
        rewrite.Rewritten,
    )
    figures = rewrite.summarise(rows)
    text = f"{figures['mean_over_kinds']:.1%} of {figures['tasks']} rewrites, mean over kinds"
    _report(settings, limit, figures, text, as_json)


def bits_command(
    data: parts.DataOption,
    limit: LimitOption = 0,
    seed: parts.SeedOption = 0,
    out: parts.OutOption = None,
    as_json: parts.ReportJsonOption = False,
    length: Annotated[int, typer.Option(min=32, help="Most tokens of a file.")] = 256,
    model: ModelOption = DEFAULT_MODEL,
    device: DeviceOption = "auto",
    dtype: Annotated[str, typer.Option(help="The number format that is judged.")] = "int8",
    against: Annotated[str, typer.Option(help="The one that it is compared with.")] = "bfloat16",
) -> None:
    """Compare two number formats of the base: bits per token of the same held-out code.

    Exact log-likelihood from left to right, without the adapter. The difference has an interval
    over packages. The last line on standard output is one JSON object.
    """
    with interrupt.held():
        from blockdiff.engine.checkpoint import Checkpoint
        from blockdiff.engine.devices import choose_device, choose_dtype
        from blockdiff.eval import bits, heldout

    files = heldout.choose(heldout.load(data), limit, seed)
    where = choose_device(device)
    one, other = (
        Checkpoint.load_base(model, where, choose_dtype(name, where), no_op)
        for name in (dtype, against)
    )
    settings = parts.settings_of(
        "bits", model, seed, device, dtype, against=against, length=length, **parts.data_of(data)
    )
    stacks = one.transformer, other.transformer
    rows = _through(
        files,
        lambda i: bits.compare(*stacks, one.tokenizer, files[i], length, seed),
        settings,
        out,
        bits.Surprised,
    )
    figures = bits.summarise(rows)
    low, high = figures["difference_ci95"]
    text = f"{figures['bits_per_token']:.4f} bits per token in {dtype}, "
    text += f"{figures['against_bits_per_token']:.4f} in {against}: "
    text += f"{figures['difference']:+.4f} ({low:+.4f} to {high:+.4f})"
    _report(settings, limit, figures, text, as_json)


def _through(
    files: Sequence[Any],
    work: Callable[[int], Any],
    settings: dict[str, Any],
    out: Path | None,
    row: Callable[..., Any],
) -> list[Any]:
    with interrupt.held():
        from blockdiff.eval.results import ResultsFile, gone_through

    results: ResultsFile[Any] | None = ResultsFile(out, settings, row) if out else None
    with parts.count_bar(len(files)) as counted:
        return gone_through([file.id for file in files], work, results, counted)


def _report(
    settings: dict[str, Any], limit: int, figures: dict[str, Any], text: str, as_json: bool
) -> None:
    if not as_json:
        typer.echo(text)
    typer.echo(json.dumps({**settings, "limit": limit, **figures}))
