"""`blockdiff train ngrams|personal`: count the tables that drafts come from."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from blockdiff.cli import interrupt
from blockdiff.cli.console import SHARE, as_error, bar, reported_errors, show
from blockdiff.cli.options import DeviceOption
from blockdiff.cli.train_bar import training_bar
from blockdiff.errors import DiskFull, OutputFileError
from blockdiff.types import no_op
from blockdiff.weights.catalog import DEFAULT_MODEL

if TYPE_CHECKING:
    from blockdiff.weights.store import ModelFiles

_ENTRIES = 1_400_000

TrainDtypeOption = Annotated[
    str, typer.Option("--dtype", help="auto, bfloat16, float16 or float32.")
]

CountedModelOption = Annotated[str, typer.Option("--model", help="Model whose tokens are counted.")]


def register(app: typer.Typer) -> None:
    """Add the commands to `blockdiff train`."""
    app.command("ngrams")(reported_errors()(ngrams_command))
    app.command("personal")(reported_errors()(personal_command))


def ngrams_command(
    data: Annotated[Path, typer.Option("--data", help="Folder that `train corpus` wrote.")],
    out: Annotated[Path, typer.Option("--out", help="Table to write, .safetensors.")],
    entries: Annotated[
        int, typer.Option(min=1, max=1 << 24, help="N-grams to keep; each takes four bytes.")
    ] = _ENTRIES,
    leave_out: Annotated[
        list[Path] | None,
        typer.Option(help="Held-out files, .jsonl or .jsonl.gz, whose texts are not counted."),
    ] = None,
    model: CountedModelOption = DEFAULT_MODEL,
) -> None:
    """Count the table of n-grams that ships with an adapter, from a corpus.

    `verify` drafts from it where the text itself knows nothing. It lies beside the adapter as
    ngrams.safetensors. Of the corpus the part for training is counted, each n-gram once a file.
    The last line on standard output is one JSON object.

    \b
    blockdiff train corpus --out corpus
    blockdiff train ngrams --data corpus --out ngrams.safetensors \\
      --leave-out models/qwen2.5-coder-1.5b-blockdiff/eval/held_out.jsonl.gz
    """
    with interrupt.held():
        from blockdiff.model.load.gguf_tokenizer import tokenizer_of
        from blockdiff.train import ngrams
        from blockdiff.train.corpus import Corpus
        from blockdiff.weights import store

    documents = Corpus.open(data).documents("train")
    without = ngrams.texts_of(leave_out or ())
    files = store.resolve(model)
    tokenizer = tokenizer_of(files)
    counted = [document.text for document in documents if document.text not in without]
    with bar("counting", "bar", SHARE) as update:
        table, tokens = ngrams.count_texts(counted, tokenizer, entries, update)
    try:
        table.save(out)
    except OSError as error:
        if isinstance(full := as_error(error), DiskFull):
            raise full from error
        raise OutputFileError(f"cannot write {out}: {error}", "name another --out") from error
    figures = {"model": files.name, "documents": len(counted), "tokens": tokens}
    figures |= {"left_out": len(documents) - len(counted), "entries": len(table.entries)}
    typer.echo(json.dumps({**figures, "bytes": out.stat().st_size}))


def personal_command(
    path: Annotated[Path, typer.Argument(help="Folder of a workspace.")],
    model: CountedModelOption = DEFAULT_MODEL,
    forget: Annotated[
        bool,
        typer.Option(
            "--forget", help="Remove what was made of it, and have it counted on command alone."
        ),
    ] = False,
    hours: Annotated[
        float, typer.Option(min=0.0, help="Train the adapter on it, too, for so long.")
    ] = 0.0,
    device: DeviceOption = "auto",
    dtype: TrainDtypeOption = "auto",
) -> None:
    """Count a workspace of yours, so that drafts in its files know your names and habits.

    Seconds of counting. What is written stays the same, token for token: only more of a draft comes
    true, so `verify` needs fewer forwards. An engine that runs takes a new table up with the next
    request for a file below PATH. The language server has it done for the folders that are open,
    and again when much has changed, unless its setting drafts.personalTables is false.

    Source files of the ten languages are read, 20 MB at most, the latest changed first; not those
    in .gitignore or .blockdiffignore, hidden folders, generated files and code of others (vendor,
    node_modules, virtual environments). The table is kept in the cache folder, for you alone to
    read; it holds no text, but whoever has it can test what is likely in your code. Nothing leaves
    this machine. After --forget neither PATH nor a folder in it is counted by the language server;
    the command without it takes that back.

    With --hours the adapter is trained on these files, too, from where it was: for a night, or on a
    GPU; hours of two cores bring little. Ctrl-C writes a checkpoint, and the same command goes on
    from it. At the end drafts are measured in a fifth of the files, which it never saw; it is kept
    where they hold at least as long as before.

    `blockdiff eval draft --data PATH` says what it brings. The last line on standard output is one
    JSON object.
    """
    with interrupt.held():
        from blockdiff.train import personal, recount
        from blockdiff.weights import store

    if forget:
        removed = personal.forget(path)
        typer.echo(json.dumps({"workspace": str(path.absolute()), "removed": removed}))
        return
    found = recount.sources(path.absolute(), show)
    files = store.resolve(model)
    with bar("counting", "bar", SHARE) as update:
        counted, file = recount.count_workspace(path, found, files, update)
    personal.remember(path)
    if counted.left_out:
        typer.echo(f"{counted.left_out} files that changed earlier are left out: it is 20 MB")
    if not found.whole:
        typer.echo("the workspace is too large to look through; name a folder of it for the rest")
    figures: dict[str, Any] = {
        "workspace": str(path.absolute()),
        "model": files.name,
        "files": counted.files,
        "left_out": counted.left_out,
        "text_bytes": counted.nbytes,
        "tokens": counted.tokens,
        "entries": len(counted.table.entries),
        "table": str(file),
        "bytes": file.stat().st_size,
    }
    if hours:
        figures["training"] = _train(path.absolute(), found.files, files, hours, device, dtype)
    typer.echo(json.dumps(figures))


def _train(
    root: Path, found: Sequence[Path], files: ModelFiles, hours: float, device: str, dtype: str
) -> dict[str, Any]:
    """What training on a workspace brought. Raises KeyboardInterrupt where it was stopped."""
    with interrupt.held():
        from blockdiff.engine.checkpoint import Checkpoint, shipped_tables
        from blockdiff.engine.devices import choose_device, choose_dtype
        from blockdiff.train.personal_adapter import PersonalTraining

    assert files.adapter is not None
    where = choose_device(device)
    precision = choose_dtype(dtype, None if dtype == "auto" else where)
    point = Checkpoint.load_base(files.name, where, precision, no_op)
    tables = shipped_tables(files, point.tokenizer)
    training = PersonalTraining(
        point.transformer, point.name, point.tokenizer, files.adapter, tables, root, found, hours
    )
    with training_bar(60 * hours) as (on_step, on_held_out), interrupt.noticed() as pressed:
        ended = training.train(on_step, pressed, on_held_out)
    if not ended:
        raise KeyboardInterrupt
    with bar("measuring drafts with and without it", "bar", SHARE) as update:
        outcome = training.finish(update)
    before, after = outcome.before, outcome.after
    if outcome.file is None:
        typer.echo("its drafts hold no longer than before: the adapter is not kept")
    return {
        "seconds": round(outcome.state.seconds, 1),
        "targets": outcome.state.targets,
        "mean_accepted": [round(before.served, 4), round(after.served, 4)],
        "adapter_alone": [round(before.mean_accepted, 4), round(after.mean_accepted, 4)],
        "starts": after.starts,
        "adapter": None if outcome.file is None else str(outcome.file),
    }
