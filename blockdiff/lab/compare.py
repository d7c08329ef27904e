"""All families side by side: the same parameters, seconds and windows; resumable at any moment.

Each has its share of the time: less than half of it trains, the rest measures. What a family has
finished stands in `results/NAME.json`, what it is in the middle of in its checkpoint.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch

from blockdiff.errors import InputFileError, InvalidRequest
from blockdiff.lab.data import LabData
from blockdiff.lab.families import unigram
from blockdiff.lab.family import SamplerSettings, Template
from blockdiff.lab.samples import Judge, described, judged, lab_judge
from blockdiff.lab.training import Bound, Budget, Lesson, Preset, Trained, bound_of, opened
from blockdiff.train.plot import read_log

_TRAINING = 0.4  # share of the time
JUDGE = "ar"

Figures = dict[str, Any]
"""A row of a table: columns by name."""

OnFamily = Callable[[str, str, float], None]
"""Gets the family, what is done with it, and the share of all the work that is done."""


def compare(
    folder: Path,
    data: LabData,
    preset: Preset,
    names: Sequence[str],
    seconds: float,
    seed: int,
    on_family: OnFamily,
    should_stop: Callable[[], bool],
) -> list[Figures]:
    """Train and measure what is not done yet, and return the results so far.

    Args:
        names: of families; the first one, `ar`, judges the samples of the others.
        seconds: for all of them; how much of it a family trains is kept with the results.
    """
    if names[0] != JUDGE:
        raise InvalidRequest(f"{JUDGE} comes first: it judges the samples", f"add {JUDGE}")
    plan: Figures = {"preset": asdict(preset), "training_seconds": _TRAINING * seconds / len(names)}
    plan = _kept(folder / "plan.json", plan)
    _kept(folder / "results" / "unigram.json", _unigram(data, preset))
    share, deadline = 1 / len(names), time.monotonic() + 0.98 * seconds
    for i, name in enumerate(names):
        if should_stop():
            break
        path = folder / "results" / f"{name}.json"
        if path.is_file():
            continue
        left = sum(not (folder / "results" / f"{n}.json").is_file() for n in names)
        until = time.monotonic() + (deadline - time.monotonic()) / left
        lesson = Lesson(name, data, preset, folder / name, seed)
        budget = Budget(plan["training_seconds"])
        lesson.run(budget, partial(_tell, on_family, name, i, share, budget), should_stop)
        if should_stop():
            break
        on_family(name, "measuring", share * (i + _TRAINING))
        judge = _judge(folder, data, preset, seed, lesson)
        write_json(path, measured(lesson, judge, until))
        on_family(name, "done", share * (i + 1))
    return results(folder)


def _tell(
    on_family: OnFamily,
    name: str,
    i: int,
    share: float,
    budget: Budget,
    state: Trained,
    loss: float,
) -> None:
    on_family(name, f"loss {loss:.2f}", share * (i + _TRAINING * min(1.0, budget.spent(state))))


def measured(lesson: Lesson, judge: Judge, until: float) -> Figures:
    """The bound first, then samples by ever more steps, while the clock (monotonic) allows."""
    now = time.monotonic()
    bound = lesson.measure(lesson.preset.windows, now + 0.7 * (until - now))
    lesson.log(**asdict(bound))
    state, length = lesson.state, lesson.preset.length
    family, data = lesson.family, lesson.data
    family.eval()
    sampled = []
    plan = [(family.samplers[0], steps, 4, length) for steps in (4, 16, length)]
    plan += [(family.samplers[0], 16, 1, length), (family.samplers[0], 16, 4, length // 2)]
    plan += [(name, 16, 4, length) for name in family.samplers[1:]]
    took = 0.0  # of the sample before; the next may take four times as long
    for sampler, steps, batch, size in plan:
        began = time.monotonic()
        if began + 4 * took > until:
            break
        how = SamplerSettings(steps, torch.Generator().manual_seed(lesson.seed), sampler)
        sampled.append(asdict(judged(family, data, judge, how, Template.empty(batch, size))))
        took = time.monotonic() - began
    return {
        "family": lesson.name,
        "parameters": lesson.parameters,
        **asdict(state),
        **asdict(bound),
        "curve": [r for r in read_log(lesson.folder / "log.jsonl") if "bits" in r],
        "samples": sampled,
    }


def results(folder: Path) -> list[Figures]:
    """What is finished, the families in the order of their bounds. Raises InputFileError."""
    found = []
    for path in sorted((folder / "results").glob("*.json")):
        try:
            found.append(json.loads(path.read_text("utf-8")))
        except (OSError, ValueError) as error:
            problem = f"cannot read {path}: {error}"
            raise InputFileError(problem, "delete it to measure that family anew") from None
    return sorted(found, key=lambda row: float(row["bits"]))


def _judge(folder: Path, data: LabData, preset: Preset, seed: int, lesson: Lesson) -> Judge:
    if lesson.name == JUDGE:
        return lab_judge(lesson.family)
    return lab_judge(opened(JUDGE, data, preset, folder, seed).family)


def _unigram(data: LabData, preset: Preset) -> Figures:
    """The bound that none may miss, and what real text looks like to the same eyes."""
    windows = data.heldout(preset.length, preset.windows)
    nats = unigram(data.frequencies, windows)
    bound: Bound = bound_of(nats, data.nbytes(windows))

    def judge(tokens: torch.Tensor) -> list[float]:
        found: list[float] = unigram(data.frequencies, tokens).tolist()
        return found

    real = asdict(described(windows, data, judge, "real text", 0, 0.0))
    return {"family": "unigram", **asdict(bound), "samples": [real]}


def _kept(path: Path, value: Figures) -> Figures:
    """What the file says, where it is there already; else it is written."""
    if not path.is_file():
        write_json(path, value)
    try:
        kept: Figures = json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise InputFileError(f"cannot read {path}: {error}", "delete it, or the folder") from None
    return kept


def write_json(path: Path, value: Any) -> None:
    """Whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(value, indent=1) + "\n", "utf-8")
    os.replace(partial, path)
