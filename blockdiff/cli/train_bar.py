"""How far a training run is, on standard error."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeAlias

from blockdiff.cli.console import SHARE, bar

if TYPE_CHECKING:
    from blockdiff.train.loop import RunState
    from blockdiff.train.loss import LossParts
    from blockdiff.train.measure import DraftReport

    OnStep: TypeAlias = Callable[[RunState, LossParts, float], None]
    OnHeldOut: TypeAlias = Callable[[DraftReport], None]


@contextmanager
def training_bar(minutes: float) -> Iterator[tuple[OnStep, OnHeldOut]]:
    """What `Trainer.run` tells after a step and of a measurement: a bar, and lines above it."""
    columns = (
        "training", "bar", SHARE, "{task.fields[targets]:,} targets",
        "loss {task.fields[loss]:.3f}", "{task.fields[rate]:.1f} targets/s", "elapsed",
    )  # fmt: skip
    reached = [0.0, 0]
    with bar(*columns, total=60 * minutes, targets=0, loss=float("nan"), rate=0.0) as update:

        def on_step(state: RunState, parts: LossParts, rate: float) -> None:
            reached[:] = state.seconds, state.targets
            update(state.seconds, targets=state.targets, loss=parts.loss, rate=rate)

        def on_held_out(report: DraftReport) -> None:
            print(
                f"{reached[0] / 60:.1f} min, {reached[1]:,} targets: "
                f"{report.mean_accepted:.3f} tokens a forward, served {report.served:.3f}, "
                f"{report.bits_per_byte:.3f} bits per byte held out",
                file=sys.stderr,
            )

        yield on_step, on_held_out
