"""Learning curves of a run as a PNG."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from blockdiff.errors import InputFileError

_WINDOW = 25  # steps that a loss is the mean of


def read_log(path: Path) -> list[dict[str, Any]]:
    """Records of `log.jsonl`; a line cut short by an interruption is left out."""
    records = []
    try:
        lines = path.read_text("utf-8").splitlines()
    except OSError as error:
        problem = f"cannot read {path}: {error.strerror}"
        raise InputFileError(problem, "name a run's folder") from error
    for line in lines:
        try:
            records.append(json.loads(line))
        except ValueError:
            continue
    return records


def plot_run(log: Path, target: Path) -> None:
    """Loss against masked targets, and held-out drafts."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    records = read_log(log)
    steps = [r for r in records if r["kind"] == "step"]
    measured = [r for r in records if r["kind"] == "held_out"]
    if not steps:
        raise InputFileError(f"{log} holds no steps", "train first")
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(11, 4.2), layout="constrained")
    targets = [r["targets"] / 1e3 for r in steps]
    for key, label in (("cross_entropy", "true token"), ("distillation", "KL to the base")):
        left.plot(targets, _running_mean([r[key] for r in steps]), label=label)
    left.set(xlabel="masked targets (thousands)", ylabel="nats per target", title="training loss")
    left.legend()
    for record in _evenly(measured, 5):
        ahead = range(2, 2 + len(record["accuracy"]))
        label = f"{record['targets'] / 1e3:.0f} thousand targets"
        right.plot(ahead, [100 * share for share in record["accuracy"]], "o-", label=label)
    right.set(xlabel="tokens ahead", ylabel="exact drafts, %", title="held-out files")
    right.set_ylim(bottom=0)
    if measured:
        right.legend()
    for axes in (left, right):
        axes.grid(alpha=0.3)
    figure.savefig(target, dpi=110)
    pyplot.close(figure)


def _evenly(records: list[dict[str, Any]], most: int) -> list[dict[str, Any]]:
    """At most `most` of them, the last one included."""
    stride = -(-len(records) // most) or 1
    return records[::-1][::stride][::-1]


def _running_mean(values: list[float]) -> list[float]:
    means = []
    for end in range(1, len(values) + 1):
        part = values[max(0, end - _WINDOW) : end]
        means.append(sum(part) / len(part))
    return means
