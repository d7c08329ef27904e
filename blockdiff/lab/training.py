"""Training families: resumable at any step, everything of one in one file.

`NAME/checkpoint.safetensors` has weights, optimizer, position, and the bound on held-out text along
the way. Batches and noise follow from seed and step, so that a run that was stopped goes on as if
it had not been. Several families train in turn, a step each: at any time all have seen the same
tokens, and they end together.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from blockdiff.errors import ModelCorrupt, ModelNotFound
from blockdiff.eval.results import resampled_ratio
from blockdiff.lab.data import LabData
from blockdiff.lab.families import Setting, create
from blockdiff.lab.family import LabFamily
from blockdiff.train.checkpoint import read_position, read_run, write_run
from blockdiff.types import no_op

Figures = dict[str, Any]
"""A row of a table: columns by name."""
_FIRST_MEASURE = 1 << 14  # tokens; again each time they have doubled
_SAVE_SECONDS = 300.0
_CHECKPOINT = "checkpoint.safetensors"


@dataclass(frozen=True, slots=True)
class Preset:
    """One size for all families: windows of `length` tokens, `batch` of them in a step, and as many
    held-out `windows` that a bound is measured on at the end, an eighth on the way."""

    vocab_size: int = 4096
    hidden_size: int = 256
    n_layers: int = 6
    length: int = 128
    batch: int = 16
    learning_rate: float = 1e-3
    windows: int = 256


PRESETS = {
    "night": Preset(),
    "small": Preset(hidden_size=128, n_layers=3, length=64, batch=8, learning_rate=2e-3),
    "tiny": Preset(vocab_size=320, hidden_size=32, n_layers=1, length=16, batch=4),
}


@dataclass(frozen=True)
class Lab:
    """A folder with its text, one size for all families, and the seed of weights and noise."""

    folder: Path
    data: LabData
    preset: Preset
    seed: int = 0

    def trained(self, name: str) -> LabFamily:
        """A family that has been trained here. Raises ModelNotFound."""
        if not (self.folder / name / _CHECKPOINT).is_file():
            hint = f"train it: blockdiff lab train {name}"
            raise ModelNotFound(f"no trained {name} in {self.folder}", hint)
        return Lesson(self, name).family

    def windows(self, count: int) -> Tensor:
        """(n, length), held out; in one order for every family, any first part is spread evenly."""
        texts = self.data.heldout(self.preset.length, count)
        return texts[torch.randperm(len(texts), generator=torch.Generator().manual_seed(0))]


@dataclass
class Trained:
    """How far training has come, over all its pieces; the seconds are with saving and measuring.
    The curve has a row of bounds for each time that the tokens had doubled."""

    step: int = 0
    tokens: int = 0
    seconds: float = 0.0
    curve: list[Figures] = field(default_factory=list)


class Lesson:
    """One family and its optimizer."""

    def __init__(self, lab: Lab, name: str) -> None:
        """Goes on from what is in the folder of that name. Raises InvalidRequest, ModelCorrupt."""
        self.lab, self.name, preset = lab, name, lab.preset
        data = lab.data
        setting = Setting(preset.hidden_size, preset.n_layers, data.frequencies, data.groups)
        self.family = create(name, setting, lab.seed).eval()
        self.optimizer = torch.optim.AdamW(
            self.family.parameters(), lr=preset.learning_rate, betas=(0.9, 0.98), weight_decay=0.01
        )
        self._made = asdict(preset) | {"family": name}
        self._path = lab.folder / name / _CHECKPOINT
        self.state = Trained()
        found = read_run(self._path, self.family, self.optimizer, Trained, self._made)
        if found:
            tensors, self.state = found
            try:
                self.family.load_state_dict(tensors)
            except RuntimeError as error:
                problem = f"{self._path}: {str(error).splitlines()[-1].strip()}"
                raise ModelCorrupt(problem, "delete it to start over") from None

    def step(self, spent: float) -> float:
        """One batch, where the share `spent` of training is over; returns its loss."""
        began, state, preset = time.monotonic(), self.state, self.lab.preset
        g = torch.Generator().manual_seed(self.lab.seed << 32 | state.step)
        warm = min(1.0, (state.step + 1) / 20)  # and to 5% over the last third
        rate = preset.learning_rate * warm * min(1.0, max(0.05, 3 * (1 - spent)))
        tokens = self.lab.data.batch(preset.batch, preset.length, g)
        loss = update(self.family, self.optimizer, tokens, g, rate)
        before = state.tokens
        state.step += 1
        state.tokens += tokens.numel()
        if before.bit_length() < state.tokens.bit_length() and state.tokens >= _FIRST_MEASURE:
            state.curve.append(self.measured(preset.windows // 4, draws=2))
        state.seconds += time.monotonic() - began
        return loss

    @torch.no_grad()
    def measured(
        self,
        windows: int,
        draws: int = 8,
        until: float = math.inf,
        should_stop: Callable[[], object] = no_op,
    ) -> Figures:
        """The bound on held-out windows, so many or those that are done when the clock (monotonic)
        says `until`. That of each is the mean of so many draws, where it is drawn."""
        g, draws = torch.Generator().manual_seed(0), min(draws, self.family.draws)
        nats: list[Tensor] = []
        texts = self.lab.windows(self.lab.preset.windows)[:windows]
        for part in torch.split(texts, max(1, 4 * self.lab.preset.batch // draws)):
            if nats and (time.monotonic() > until or should_stop()):
                break
            nats.append(self.family.bound(part.repeat(draws, 1), g).view(draws, -1).mean(0))
        return {
            "family": self.name, **bounds(torch.cat(nats), self.lab.data.nbytes(texts)),
            "step": self.state.step, "tokens": self.state.tokens, "seconds": self.state.seconds,
            "parameters": sum(p.numel() for p in self.family.parameters()),
        }  # fmt: skip

    def save(self) -> None:
        """Until the new checkpoint is whole the previous one stays."""
        began, tensors = time.monotonic(), self.family.state_dict()
        state = asdict(self.state)
        write_run(self._path, tensors, self.family, self.optimizer, state, self._made)
        self.state.seconds += time.monotonic() - began


def update(
    family: LabFamily, optimizer: torch.optim.AdamW, tokens: Tensor, g: torch.Generator, rate: float
) -> float:
    """One step of the optimizer on tokens (batch, length); returns the loss."""
    loss = family.loss(tokens, g)
    optimizer.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    torch.nn.utils.clip_grad_norm_(family.parameters(), 1.0)
    optimizer.param_groups[0]["lr"] = rate
    optimizer.step()
    return float(loss.detach())


def train(
    lessons: Sequence[Lesson],
    spent: Callable[[], float],
    on_step: Callable[[Lesson, float], None],
    should_stop: Callable[[], bool],
) -> None:
    """Train until `spent` reaches 1 and the round is complete, or `should_stop`; a checkpoint of
    each is written then, and every five minutes. `on_step` gets the lesson and its loss."""
    due, over = 0.0, False
    while not over:
        lesson = min(lessons, key=lambda one: one.state.tokens)
        share, ahead = spent(), max(one.state.tokens for one in lessons) - lesson.state.tokens
        # far ahead: what was trained alone before
        over = should_stop() or (share >= 1 and (not ahead or share > 1.1))
        if over or (not ahead and time.monotonic() > due):
            for one in lessons:
                one.save()
            due = time.monotonic() + _SAVE_SECONDS
        if not over:
            on_step(lesson, lesson.step(share))


def bounds(nats: Tensor, nbytes: Tensor) -> Figures:
    """Bits per byte of texts (n,), the first of which have `nats`, with the 95% interval by
    resampling them; and the bits of each, to compare."""
    bits, sizes = (nats / math.log(2)).tolist(), nbytes[: len(nats)].clamp_min(1).tolist()
    low, high = resampled_ratio(map(str, range(len(bits))), bits, sizes)
    figures = {"bits": sum(bits) / sum(sizes), "low": low, "high": high, "windows": len(bits)}
    return figures | {"window_bits": [round(b, 2) for b in bits]}


def saved(folder: Path) -> Trained:
    """How far the family that is trained in `folder` is saved. Raises ModelCorrupt."""
    path = folder / _CHECKPOINT
    return read_position(path, Trained)[0] if path.is_file() else Trained()
