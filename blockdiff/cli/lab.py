"""`blockdiff lab`: small models of every family of text diffusion, side by side."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from blockdiff.cli import interrupt
from blockdiff.cli.console import SHARE, bar, reported_errors
from blockdiff.cli.options import ModelOption
from blockdiff.errors import InvalidRequest, OutOfMemory, is_out_of_memory
from blockdiff.weights.catalog import DEFAULT_MODEL

if TYPE_CHECKING:
    from blockdiff.lab.training import Lab

app = typer.Typer(
    no_args_is_help=True,
    help="Train and compare small models of every family of text diffusion.",
    add_completion=False,
    rich_markup_mode=None,
)

FolderOption = Annotated[
    Path, typer.Option("--folder", help="Folder of the laboratory; what is unfinished goes on.")
]
TextOption = Annotated[
    Path | None,
    typer.Option(
        "--corpus",
        help="What `train corpus` wrote, text files; default: Python's library.",
    ),
]
PresetOption = Annotated[str, typer.Option("--preset", help="Size: tiny, small or night.")]
LabSeedOption = Annotated[int, typer.Option(min=0, max=2**31 - 1, help="Of weights and noise.")]
FamiliesOption = Annotated[
    list[str] | None, typer.Option("--family", help="One family; all unless given. Repeatable.")
]
_FOLDER = Path("lab")


@app.command("train")
@reported_errors()
def train_command(
    family: Annotated[str, typer.Argument(help="Such as ar, mdlm, sedd-uniform, bd3lm-8, plaid.")],
    folder: FolderOption = _FOLDER,
    minutes: Annotated[
        float, typer.Option(min=0.001, help="Time to train, over all pieces.")
    ] = 5.0,
    tokens: Annotated[
        int, typer.Option(min=0, help="Tokens to train on, in place of minutes where above 0.")
    ] = 0,
    corpus: TextOption = None,
    preset: PresetOption = "small",
    seed: LabSeedOption = 0,
) -> None:
    """Train one family. Ctrl-C writes a checkpoint; the same command goes on from it.

    The last line is JSON: the bound on held-out text in bits per byte, with its interval.
    """
    with interrupt.held():
        from blockdiff.lab.training import Lesson, train

    with _enough_memory():
        lesson = Lesson(_lab(folder, corpus, preset, seed), family)
        state = lesson.state

        def spent() -> float:
            return state.tokens / tokens if tokens else state.seconds / (60 * minutes)

        with _bar() as update, interrupt.noticed() as pressed:

            def on_step(_: Lesson, loss: float) -> None:
                update(spent(), f"{state.tokens:,} tokens, loss {loss:.3f}")

            train([lesson], spent, on_step, pressed)
        _obey()
        bound = lesson.measured(lesson.lab.preset.windows)
    typer.echo(json.dumps({key: value for key, value in bound.items() if key != "window_bits"}))


@app.command("sample")
@reported_errors()
def sample_command(
    family: Annotated[str, typer.Argument(help="One that was trained in the folder.")],
    folder: FolderOption = _FOLDER,
    steps: Annotated[int, typer.Option(min=1, max=4096, help="Forwards of the network.")] = 32,
    sampler: Annotated[str, typer.Option(help="The family's first one unless given.")] = "",
    prefix: Annotated[str, typer.Option(help="Text that stands before.")] = "",
    suffix: Annotated[str, typer.Option(help="Text that stands behind.")] = "",
    watch: Annotated[bool, typer.Option("--watch", help="Print the text after each step.")] = False,
    preset: PresetOption = "small",
    seed: LabSeedOption = 0,
) -> None:
    """Write a text of the length of a training window, between prefix and suffix."""
    with interrupt.held():
        import torch

        from blockdiff.lab.family import SamplerSettings

    lab = _lab(folder, None, preset, seed)
    before, behind = (lab.data.tokenizer.encode(text).ids for text in (prefix, suffix))
    gap = lab.preset.length - len(before) - len(behind)
    if gap < 1:
        raise InvalidRequest(
            f"prefix and suffix have {len(before) + len(behind)} tokens, a window"
            f" {lab.preset.length}",
            "shorten them",
        )
    template = torch.tensor([before + [lab.preset.vocab_size] * gap + behind])

    def show(text: torch.Tensor) -> None:
        if watch:
            typer.echo(lab.data.text(text[0]) + "\n" + "-" * 40)

    how = SamplerSettings(steps, torch.Generator().manual_seed(seed), sampler, show)
    typer.echo(lab.data.text(lab.trained(family).sample(template, how)[0]))


@app.command("compare")
@reported_errors()
def compare_command(
    folder: FolderOption = _FOLDER,
    minutes: Annotated[
        float, typer.Option(min=0.01, help="Time for all families, over all pieces.")
    ] = 10.0,
    hours: Annotated[
        float, typer.Option(min=0.0, help="In place of minutes, with the preset of a night.")
    ] = 0.0,
    tokens: Annotated[
        int, typer.Option(min=0, help="Tokens of each family, in place of time where above 0.")
    ] = 0,
    family: FamiliesOption = None,
    corpus: TextOption = None,
    preset: Annotated[
        str, typer.Option(help="tiny, small or night; small, with --hours night.")
    ] = "",
    seed: LabSeedOption = 0,
) -> None:
    """Train every family on the same tokens and measure it; prints the table of bounds.

    Ctrl-C at any moment: the same command goes on, and with more time a finished run does. `report`
    has a table at any moment. `ar` always is among them, as the judge.
    """
    began = time.monotonic() - time.process_time()  # the interpreter's start counts, too
    with interrupt.held():
        from blockdiff.lab.compare import compare
        from blockdiff.lab.families import FAMILIES
        from blockdiff.lab.report import bounds_table, markdown_table

    if unknown := sorted(set(family or ()) - set(FAMILIES)):
        raise InvalidRequest(f"no family {unknown[0]!r}", f"known: {', '.join(FAMILIES)}")
    names = [name for name in FAMILIES if name == "ar" or not family or name in family]
    with _enough_memory():
        lab = _lab(folder, corpus, preset or ("night" if hours else "small"), seed)
        seconds = 0.0 if tokens else (60 * hours or minutes) * 60
        with _bar() as update, interrupt.noticed() as pressed:

            def on_work(doing: str, share: float) -> None:
                update(share, doing)

            rows = compare(lab, names, on_work, pressed, began, seconds=seconds, tokens=tokens)
        _obey()
    typer.echo("\n".join(markdown_table(bounds_table(rows))))


@app.command("report")
@reported_errors()
def report_command(folder: FolderOption = _FOLDER) -> None:
    """Write report.html, report.md and their figures into the folder, from what is there."""
    from blockdiff.lab.report import write_report

    for path in write_report(folder):
        typer.echo(f"wrote {path}")


@app.command("ask")
@reported_errors()
def ask_command(
    question: Annotated[
        str,
        typer.Argument(
            help="steps, base, revision, infill, anchors, blocks, epochs or reversal.",
            show_default=False,
        ),
    ],
    folder: FolderOption = _FOLDER,
    family: FamiliesOption = None,
    count: Annotated[int, typer.Option(min=1, help="Windows or samples of each row.")] = 32,
    model: ModelOption = DEFAULT_MODEL,
    preset: PresetOption = "small",
    seed: LabSeedOption = 0,
) -> None:
    """Answer a question by a small experiment; prints a table, every share with its interval.

    Asks the families that were trained in the folder; `epochs` and `reversal` train `ar` and `mdlm`
    unless others are given. `base`: what --model says of samples. After Ctrl-C the same command
    goes on with the next family.
    """
    with interrupt.held():
        from blockdiff.lab.ask import OWN_MODELS, QUESTIONS, Asked, answer
        from blockdiff.lab.families import FAMILIES
        from blockdiff.lab.report import markdown_table
        from blockdiff.lab.training import saved

    if question not in QUESTIONS:
        raise InvalidRequest(f"no question {question!r}", f"known: {', '.join(QUESTIONS)}")
    names = [name for name in FAMILIES if saved(folder / name).tokens]
    names = family or (["ar", "mdlm"] if question in OWN_MODELS else names or ["ar"])
    with _enough_memory(), _bar() as update:
        asked = Asked(_lab(folder, None, preset, seed), count, model)
        rows = answer(asked, question, names, lambda row: update(None, row["family"]))
    typer.echo("\n".join(markdown_table(rows)))


def _lab(folder: Path, corpus: Path | None, preset: str, seed: int) -> Lab:
    with interrupt.held():
        from blockdiff.lab.data import open_data
        from blockdiff.lab.training import PRESETS, Lab

    if preset not in PRESETS:
        raise InvalidRequest(f"no preset {preset!r}", f"known: {', '.join(PRESETS)}")
    size = PRESETS[preset]
    return Lab(folder, open_data(folder, size.vocab_size, size.length, corpus), size, seed)


def _obey() -> None:
    if interrupt.pressed():
        raise KeyboardInterrupt


@contextmanager
def _enough_memory() -> Iterator[None]:
    try:
        yield
    except Exception as error:
        if is_out_of_memory(error):
            hint = "use a smaller --preset or close other programs; what was saved goes on"
            raise OutOfMemory("not enough memory", hint) from error
        raise


@contextmanager
def _bar() -> Iterator[Callable[[float | None, str], None]]:
    """Progress with the time left; called with a share (or None), a note."""
    columns = ("bar", SHARE, "left", "{task.description}")
    with bar(*columns, description="preparing") as update:
        yield lambda share, note: update(share or 0.0, share and 1.0, description=note)
