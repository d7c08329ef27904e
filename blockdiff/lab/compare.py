"""All families side by side: the same parameters, tokens and windows; resumable at any moment.

All train first, in turn, for most of the time; then the bound of each is measured within its share
of the rest. What is measured stands in `results/NAME.json`.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from blockdiff.errors import InputFileError, InvalidRequest
from blockdiff.lab.families import unigram
from blockdiff.lab.training import Figures, Lab, Lesson, bits_per_byte, train
from blockdiff.train.plot import read_log

_TRAINING = 0.7  # share of the time


def compare(
    lab: Lab,
    names: Sequence[str],
    seconds: float,
    on_work: Callable[[str, float], None],
    should_stop: Callable[[], bool],
) -> list[Figures]:
    """Train and measure what is not done yet, and return the results so far. A run that goes on
    keeps the training time that it began with. `on_work` gets what is done now, and the share of
    all the work that is over."""
    deadline, folder = time.monotonic() + 0.98 * seconds, lab.folder
    plan: Figures = {"preset": asdict(lab.preset), "families": list(names), "seed": lab.seed}
    if not (folder / "plan.json").is_file():
        write_json(folder / "results" / "unigram.json", _unigram(lab))
        write_json(folder / "plan.json", plan | {"training_seconds": _TRAINING * seconds})
    kept = read_json(folder / "plan.json")
    if changed := [key for key in plan if kept.get(key) != plan[key]]:
        raise InvalidRequest(
            f"{folder} holds a comparison with other {', '.join(changed)}",
            "use the same settings to go on with it, or another folder",
        )
    lessons = [Lesson(lab, name) for name in names]

    def spent() -> float:
        return sum(one.state.seconds for one in lessons) / float(kept["training_seconds"])

    def on_step(lesson: Lesson, loss: float) -> None:
        on_work(f"training, {lesson.state.tokens:,} tokens each", _TRAINING * min(1.0, spent()))

    train(lessons, spent, on_step, should_stop)
    for i, lesson in enumerate(lessons):
        path = folder / "results" / f"{lesson.name}.json"
        if should_stop() or path.is_file():
            continue
        on_work(f"measuring {lesson.name}", _TRAINING + (1 - _TRAINING) * i / len(lessons))
        share = (deadline - time.monotonic()) / (len(lessons) - i)
        write_json(path, measured(lesson, time.monotonic() + share))
    return results(folder)


def measured(lesson: Lesson, until: float) -> Figures:
    """The bound, in all and of each window, on as many as the clock (monotonic) allows."""
    nats, nbytes = lesson.measure(lesson.lab.preset.windows, until)
    return {
        "family": lesson.name, **bits_per_byte(nats, nbytes), **asdict(lesson.state),
        "parameters": sum(p.numel() for p in lesson.family.parameters()),
        "window_bits": [round(bits, 2) for bits in (nats / math.log(2)).tolist()],
        "curve": read_log(lesson.log) if lesson.log.is_file() else [],
    }  # fmt: skip


def results(folder: Path) -> list[Figures]:
    """What is finished, the families in the order of their bounds. Raises InputFileError."""
    found = [read_json(path) for path in sorted((folder / "results").glob("*.json"))]
    return sorted(found, key=lambda row: float(row["bits"]))


def _unigram(lab: Lab) -> Figures:
    """The bound that none may miss."""
    windows = lab.windows(lab.preset.windows)
    nats, nbytes = unigram(lab.data.frequencies, windows), lab.data.nbytes(windows)
    each = {"window_bits": (nats / math.log(2)).tolist(), "window_bytes": nbytes.tolist()}
    return {"family": "unigram", **bits_per_byte(nats, nbytes), **each}


def read_json(path: Path) -> Any:
    """Raises InputFileError."""
    try:
        return json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise InputFileError(f"cannot read {path}: {error}", "delete it to make it anew") from None


def write_json(path: Path, value: Any) -> None:
    """Whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(value) + "\n", "utf-8")
    os.replace(partial, path)
