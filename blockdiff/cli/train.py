"""`blockdiff train`: build a corpus, train a drafting adapter on it and look at it."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from blockdiff.cli import interrupt, options, train_tables
from blockdiff.cli.console import bar, reported_errors
from blockdiff.cli.options import DeviceOption
from blockdiff.cli.train_bar import training_bar
from blockdiff.cli.train_tables import TrainDtypeOption
from blockdiff.errors import InvalidRequest
from blockdiff.model.config import AdapterConfig
from blockdiff.train.build_corpus import BuildOptions, build
from blockdiff.train.sources import Sources
from blockdiff.types import no_op
from blockdiff.weights.catalog import DEFAULT_MODEL

if TYPE_CHECKING:
    from blockdiff.train.loop import Trainer

app = options.group("Build a corpus, train a gated adapter, count what drafts come from.")
_OPTIONS = BuildOptions()
_RANKS = "qkv=24,o=24,gate_up=8,down=8"

CorpusOption = Annotated[Path, typer.Option("--corpus", help="Folder that `train corpus` wrote.")]
RunArgument = Annotated[Path, typer.Argument(help="Folder of the run; an unfinished one goes on.")]
BaseOption = Annotated[str, typer.Option("--model", help="Base to adapt.")]
RanksOption = Annotated[str, typer.Option("--ranks", help="Rank of the low-rank pair by target.")]


@app.command("corpus")
@reported_errors()
def corpus_command(
    out: Annotated[Path, typer.Option("--out", help="Folder to write the corpus to.")],
    exclude: Annotated[
        list[Path] | None,
        typer.Option(help="Benchmark, .jsonl or .jsonl.gz; files that share a 10-gram go."),
    ] = None,
    site_packages: Annotated[
        list[Path] | None, typer.Option(help="Folder of installed Python packages.")
    ] = None,
    stdlib: Annotated[list[Path] | None, typer.Option(help="Python standard library.")] = None,
    node_modules: Annotated[list[Path] | None, typer.Option(help="Folder of npm packages.")] = None,
    crates: Annotated[list[Path] | None, typer.Option(help="Folder of unpacked crates.")] = None,
    debian_trees: Annotated[
        list[Path] | None, typer.Option(help="Folder of unpacked Debian source packages.")
    ] = None,
    archives: Annotated[
        list[Path] | None,
        typer.Option(help="Folder of .whl, .tar.gz, .tgz, .crate and .deb files."),
    ] = None,
    discover: Annotated[
        bool, typer.Option("--discover/--no-discover", help="Also use what this machine has.")
    ] = True,
    package_bytes: Annotated[
        int, typer.Option(min=1, help="Most bytes from one package.")
    ] = _OPTIONS.package_bytes,
    heldout_share: Annotated[
        float, typer.Option(min=0.0, max=0.5, help="Share of files held out of training.")
    ] = _OPTIONS.heldout_share,
) -> None:
    """Build a corpus from permissively licensed packages; the last line is JSON."""
    found = Sources.discover() if discover else Sources()
    sources = Sources(
        site_packages=(*found.site_packages, *(site_packages or ())),
        stdlib=(*found.stdlib, *(stdlib or ())),
        node_modules=(*found.node_modules, *(node_modules or ())),
        crates=(*found.crates, *(crates or ())),
        debian_trees=tuple(debian_trees or ()),
        archives=tuple(archives or ()),
        system_headers=found.system_headers,
    )
    options = BuildOptions(package_bytes=package_bytes, heldout_share=heldout_share)
    columns = ("bar", "count", "{task.description}")
    with bar(*columns, description="looking for packages") as update:

        def on_package(name: str, done: int, total: int) -> None:
            update(done, total, description=name)

        manifest = build(out, sources, tuple(exclude or ()), options, on_package)
    typer.echo(json.dumps({k: manifest[k] for k in ("documents", "bytes", "dropped", "packages")}))


@app.command("run")
@reported_errors()
def run_command(
    folder: RunArgument,
    corpus: CorpusOption,
    minutes: Annotated[
        float, typer.Option(help="Time to train, over all pieces of the run.")
    ] = 120,
    learning_rate: Annotated[float, typer.Option(help="Peak learning rate.")] = 6e-4,
    distill: Annotated[float, typer.Option(help="Weight of the base's logits, 0 to 1.")] = 0.5,
    length: Annotated[int, typer.Option(help="Tokens of a training sequence.")] = 192,
    noisy_positions: Annotated[int, typer.Option(help="Noisy positions of a sequence.")] = 160,
    accumulate: Annotated[int, typer.Option(help="Sequences of an optimizer step.")] = 1,
    measure_minutes: Annotated[float, typer.Option(help="Measure drafts this often.")] = 15,
    seed: Annotated[int, typer.Option(help="Seed of data, noise and weights.")] = 0,
    partial_share: Annotated[
        float, typer.Option(help="Share of partly masked blocks.")
    ] = 0.2,
    replaced_share: Annotated[
        float, typer.Option(help="Share of blocks with wrong tokens; the rest is all masks.")
    ] = 0.05,
    replaced_noise: Annotated[
        tuple[float, float], typer.Option(help="Least and most noise of blocks with wrong tokens.")
    ] = (0.3, 0.9),
    nearby_share: Annotated[
        float, typer.Option(help="Share of wrong tokens taken from the text itself.")
    ] = 0.0,
    keep_weight: Annotated[
        float, typer.Option(help="Weight of right tokens in blocks with wrong ones.")
    ] = 0.2,
    initial: Annotated[
        Path | None, typer.Option(help="Adapter file to start from, cut to --ranks.")
    ] = None,
    ngrams: Annotated[
        Path | None,
        typer.Option(help="Table that drafts come from, too: the adapter learns the rest."),
    ] = None,
    workers: Annotated[
        int, typer.Option(min=0, help="Processes that prepare sequences ahead, for a GPU.")
    ] = 0,
    ranks: RanksOption = _RANKS,
    export: Annotated[Path | None, typer.Option(help="Write the finished adapter here.")] = None,
    model: BaseOption = DEFAULT_MODEL,
    device: DeviceOption = "auto",
    dtype: TrainDtypeOption = "auto",
) -> None:
    """Train a gated adapter. Ctrl-C writes a checkpoint; the same command goes on from it.

    Drafts on held-out files are measured on the way and printed to standard error: tokens that one
    forward accepts, by the adapter alone and beside n-grams (`served`). On one GPU long sequences
    keep it busy: --length 1024 --noisy-positions 1024 --workers 12 --measure-minutes 1.
    `make gpu-train` does that.

    On several GPUs: accelerate launch -m blockdiff train run ...
    """
    with interrupt.held():
        from blockdiff.train.adapt import drafting_config, export_adapter
        from blockdiff.train.config import TrainConfig
        from blockdiff.train.corrupt import CorruptionConfig
        from blockdiff.train.sequences import SequenceConfig

    config = TrainConfig(
        noisy_positions=noisy_positions,
        accumulate=accumulate,
        learning_rate=learning_rate,
        minutes=minutes,
        distill=distill,
        seed=seed,
        measure_minutes=measure_minutes,
        workers=workers,
        corruption=CorruptionConfig(
            full=1.0 - partial_share - replaced_share,
            partial=partial_share,
            replaced=replaced_share,
            keep_weight=keep_weight,
            replaced_t_min=replaced_noise[0],
            replaced_t_max=replaced_noise[1],
            nearby_share=nearby_share,
        ),
        sequence=SequenceConfig(length=length),
    )
    adapter = AdapterConfig(ranks=_parse_ranks(ranks))
    trainer = _trainer(folder, corpus, config, adapter, model, device, dtype, initial, ngrams)
    with training_bar(config.minutes) as (on_step, on_held_out), interrupt.noticed() as pressed:
        trainer.run(on_step, pressed, on_held_out)
    if interrupt.pressed():
        raise KeyboardInterrupt
    typer.echo(json.dumps(dataclasses.asdict(trainer.measure())))
    if export is not None:
        export_adapter(trainer, drafting_config(adapter, config), export)
        typer.echo(f"wrote {export / 'adapter.safetensors'}")


@app.command("measure")
@reported_errors()
def measure_command(
    corpus: CorpusOption,
    model: BaseOption = DEFAULT_MODEL,
    sequences: Annotated[int, typer.Option(help="Held-out sequences.")] = 32,
    device: DeviceOption = "auto",
    dtype: TrainDtypeOption = "auto",
) -> None:
    """Measure a model's drafts on held-out files: accuracy by offset, accepted run, NELBO."""
    with interrupt.held():
        from blockdiff.engine.checkpoint import Checkpoint
        from blockdiff.engine.devices import choose_device, choose_dtype
        from blockdiff.train.adapt import held_out_sequences
        from blockdiff.train.config import TrainConfig
        from blockdiff.train.corpus import Corpus
        from blockdiff.train.measure import measure_drafts

    # trained and shipped in bfloat16; int8 only where it is asked for
    where = choose_device(device)
    precision = choose_dtype(dtype, None if dtype == "auto" else where)
    point = Checkpoint.load(model, where, precision, no_op)
    if point.adapter is None:
        raise InvalidRequest(f"{model} has no adapter to measure", "train one: blockdiff train run")
    config = TrainConfig(held_out=sequences)
    held_out = held_out_sequences(Corpus.open(corpus), point.tokenizer, config)
    report = measure_drafts(point.transformer, point.adapter, held_out, point.drafting.block_size)
    typer.echo(json.dumps(dataclasses.asdict(report)))


@app.command("plot")
@reported_errors()
def plot_command(
    folder: Annotated[Path, typer.Argument(help="Folder of a run.")],
    target: Annotated[Path, typer.Option("--out", help="PNG to write.")] = Path("curves.png"),
) -> None:
    """Draw a run's learning curves."""
    with interrupt.held():
        from blockdiff.train.plot import plot_run

    plot_run(folder / "log.jsonl", target)
    typer.echo(f"wrote {target}")


def _trainer(
    folder: Path,
    corpus: Path,
    config: Any,
    adapter: AdapterConfig,
    model: str,
    device: str,
    dtype: str,
    initial: Path | None,
    ngrams: Path | None,
) -> Trainer:
    with interrupt.held():
        from blockdiff.diffusion.ngrams import NgramTable
        from blockdiff.engine.checkpoint import Checkpoint
        from blockdiff.engine.devices import choose_device, choose_dtype
        from blockdiff.train.adapt import trainer
        from blockdiff.train.corpus import Corpus

    documents = Corpus.open(corpus)
    point = Checkpoint.load_base(model, choose_device(device), choose_dtype(dtype), no_op)
    base = point.transformer
    known = point.tokenizer.vocab_size
    tables = [NgramTable.load(ngrams, known)] if ngrams is not None else []
    return trainer(base, point.tokenizer, documents, adapter, config, folder, initial, tables)


def _parse_ranks(text: str) -> dict[str, int]:
    try:
        pairs = [item.split("=") for item in text.split(",")]
        return {name.strip(): int(value) for name, value in pairs}
    except ValueError as error:
        raise InvalidRequest(f"cannot read --ranks {text!r}", f"write it like {_RANKS}") from error


train_tables.register(app)
