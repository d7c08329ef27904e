"""What a training run is made of."""

from __future__ import annotations

from dataclasses import dataclass, field

from blockdiff.errors import InvalidRequest
from blockdiff.train.corrupt import CorruptionConfig
from blockdiff.train.sequences import SequenceConfig


@dataclass(frozen=True, slots=True)
class TrainConfig:
    """One run.

    Attributes:
        block_sizes: a sequence's blocks have one of these sizes, in turn: the drafter
            then serves any draft length up to the largest.
        noisy_positions: positions of all noisy blocks of a sequence together.
        accumulate: sequences of one optimizer step.
        learning_rate: peak, after `warmup` steps; falls linearly to 5% over the last third.
        minutes: wall-clock budget over all pieces of the run (training itself).
        max_targets: budget in targets; where above 0 it takes the place of `minutes`, and the
            run no longer depends on the clock: stopped and resumed, it ends in the same bits.
        distill: weight of the base's own distribution against the true token, 0 to 1.
        save_minutes, measure_minutes: how often to write a checkpoint, to measure drafts.
        held_out: held-out sequences measured.
        workers: processes that prepare sequences ahead of the model; 0: this one does. Where a
            GPU trains, counting n-grams would hold it up.
    """

    block_sizes: tuple[int, ...] = (4, 4, 8)
    noisy_positions: int = 160
    accumulate: int = 1
    learning_rate: float = 6e-4
    warmup: int = 10
    minutes: float = 120.0
    max_targets: int = 0
    distill: float = 0.5
    clip: float = 1.0
    seed: int = 0
    save_minutes: float = 5.0
    measure_minutes: float = 15.0
    held_out: int = 16
    workers: int = 0
    corruption: CorruptionConfig = field(default_factory=CorruptionConfig)
    sequence: SequenceConfig = field(default_factory=SequenceConfig)

    def __post_init__(self) -> None:
        if self.minutes <= 0 or self.accumulate < 1 or self.max_targets < 0:
            raise InvalidRequest("minutes, accumulate and max_targets must be positive")
        if not self.block_sizes or not 2 <= max(self.block_sizes) <= self.noisy_positions:
            raise InvalidRequest("block_sizes must lie between 2 and noisy_positions")
        if self.workers < 0:
            raise InvalidRequest(f"workers must be 0 or more, got {self.workers}")
        if not 0.0 <= self.distill <= 1.0:
            raise InvalidRequest(f"distill must be in [0, 1], got {self.distill}")

    @property
    def block_size(self) -> int:
        """The largest block, at which drafts are measured."""
        return max(self.block_sizes)
