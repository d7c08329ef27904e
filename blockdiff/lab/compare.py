"""All families side by side: the same parameters, tokens and windows; resumable at any moment.

All train first, in turn, for most of the time; then the bound of each is measured within its share
of the rest. What is measured stands in `results/NAME.json`, and at each doubling of the tokens in
the checkpoints: `results` has a fair table at any time.
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
from blockdiff.lab.training import Figures, Lab, Lesson, bounds, saved, train

_TRAINING, _MEASURING = 0.7, 0.28  # shares of the time; the rest is for the start and the end


def compare(
    lab: Lab,
    names: Sequence[str],
    on_work: Callable[[str, float], None],
    should_stop: Callable[[], bool],
    began: float,
    *,
    seconds: float = 0.0,
    tokens: int = 0,
) -> list[Figures]:
    """Train and measure what is not done yet, and return the results so far.

    Args:
        on_work: gets what is done now, and the share of all the work that is over.
        began: when (monotonic) the seconds began to count.
        seconds: of all families together, over all pieces of a run; or `tokens` of each family.
            More than a finished run had trains it further.
    """
    path, now = lab.folder / "plan.json", {"seconds": seconds, "tokens": tokens}
    plan: Figures = {"preset": asdict(lab.preset), "families": list(names), "seed": lab.seed}
    kept = read_json(path, {})
    if not kept:
        windows = lab.windows(lab.preset.windows)
        floor = bounds(-lab.data.frequencies.log()[windows].sum(-1), lab.data.nbytes(windows))
        write_json(_result(lab.folder, "unigram"), {"family": "unigram"} | floor)
    changed = [key for key in plan if kept.get(key, plan[key]) != plan[key]]
    if changed := changed + [f"more {key}" for key in now if kept.get(key, 0) > now[key]]:
        problem = f"{lab.folder} holds a comparison with other settings: {', '.join(changed)}"
        hint = "use the same ones, with as much time or more, to go on with it, or another folder"
        raise InvalidRequest(problem, hint)
    write_json(path, plan | now)
    lessons = [Lesson(lab, name) for name in names]

    def spent() -> float:
        if tokens:
            return min(one.state.tokens for one in lessons) / tokens
        return sum(one.state.seconds for one in lessons) / (_TRAINING * seconds)

    def on_step(lesson: Lesson, loss: float) -> None:
        on_work(f"training, {lesson.state.tokens:,} tokens each", _TRAINING * min(1.0, spent()))

    train(lessons, spent, on_step, should_stop)
    before = {one: read_json(_result(lab.folder, one.name), {}).get("tokens") for one in lessons}
    due = [one for one in lessons if before[one] != one.state.tokens]
    end = time.monotonic() + _MEASURING * seconds * len(due) / len(lessons)
    end = min(end, began + 0.98 * seconds) if seconds else math.inf
    for i, lesson in enumerate(due):
        if should_stop():
            break
        on_work(f"measuring {lesson.name}", 1 - (1 - _TRAINING) * (len(due) - i) / len(lessons))
        until = time.monotonic() + (end - time.monotonic()) / (len(due) - i)
        row = lesson.measured(lab.preset.windows, until=until, should_stop=should_stop)
        if not should_stop():
            write_json(_result(lab.folder, lesson.name), row)
    return results(lab.folder)


def _result(folder: Path, name: str) -> Path:
    return folder / "results" / f"{name}.json"


def results(folder: Path) -> list[Figures]:
    """All families at the most tokens at which all were measured, in the order of their bounds;
    before there is such a number, that of independent tokens alone. Each family's row has its
    `curve`. Raises InputFileError."""
    rows: dict[str, dict[int, Figures]] = {}
    for name in read_json(folder / "plan.json", {}).get("families", ()):
        measured = [*saved(folder / name).curve, read_json(_result(folder, name), {})]
        rows[name] = {row["tokens"]: row for row in measured if row}
    if not rows:
        return []
    common = set.intersection(*map(set, rows.values()))
    found = [read_json(_result(folder, "unigram"))]
    for of in rows.values() if common else ():
        points = [{k: v for k, v in of[n].items() if k != "window_bits"} for n in sorted(of)]
        found.append(of[max(common)] | {"curve": points})
    return sorted(found, key=lambda row: float(row["bits"]))


def read_json(path: Path, otherwise: Any = None) -> Any:
    """What a file holds, or `otherwise` where there is none. Raises InputFileError."""
    if otherwise is not None and not path.is_file():
        return otherwise
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
