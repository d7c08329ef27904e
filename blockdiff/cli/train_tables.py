"""`blockdiff train ngrams|personal`: count the tables that drafts come from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from blockdiff.cli import interrupt
from blockdiff.cli.console import SHARE, as_error, bar, reported_errors, show
from blockdiff.errors import DiskFull, ModelUnsupported, OutputFileError
from blockdiff.system.ignored import IgnoreFiles, Verdict
from blockdiff.weights.catalog import DEFAULT_MODEL

_ENTRIES = 1_400_000

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
        from blockdiff.engine.checkpoint import tokenizer_of
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
        bool, typer.Option("--forget", help="Remove what was counted of it, for all models.")
    ] = False,
) -> None:
    """Count a workspace of yours, so that drafts in its files know your names and habits.

    Seconds of counting, once; do it again when much has changed. What is written stays the same,
    token for token: only more of a draft comes true, so `verify` needs fewer forwards. An engine
    that runs takes a new table up with the next request for a file below PATH.

    Source files of the ten languages are read, 20 MB at most, the latest changed first; not those
    in .gitignore or .blockdiffignore, hidden folders, generated files and code of others (vendor,
    node_modules, virtual environments). The table is kept in the cache folder, for you alone to
    read; it holds no text, but whoever has it can test what is likely in your code. Nothing leaves
    this machine.

    `blockdiff eval draft --data PATH` says what it brings. The last line on standard output is one
    JSON object.
    """
    with interrupt.held():
        from blockdiff.engine.checkpoint import tokenizer_of
        from blockdiff.train import personal
        from blockdiff.weights import store

    if forget:
        removed = personal.forget(path)
        typer.echo(json.dumps({"workspace": str(path.absolute()), "removed": removed}))
        return
    rules = IgnoreFiles(show)
    found = personal.find(path.absolute(), lambda p: rules.verdict(p) is Verdict.OPEN)
    files = store.resolve(model)
    if files.adapter is None:
        raise ModelUnsupported(f"{model} does not draft", "name a model that has an adapter")
    with bar("counting", "bar", SHARE) as update:
        counted = personal.count_files(found.files, tokenizer_of(files), update)
    file = personal.save(counted.table, path, files.name)
    if counted.left_out:
        typer.echo(f"{counted.left_out} files that changed earlier are left out: it is 20 MB")
    if not found.whole:
        typer.echo("the workspace is too large to look through; name a folder of it for the rest")
    typer.echo(
        json.dumps(
            {
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
        )
    )
