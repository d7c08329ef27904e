"""Training one family: resumable at any step, everything in one folder.

`checkpoint.safetensors` has weights, optimizer and position; `log.jsonl` the loss and the bound on
held-out text. Batches and noise follow from seed and step, so that a run that was stopped goes on
as if it had not been.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from blockdiff.errors import InvalidRequest, ModelCorrupt, ModelNotFound
from blockdiff.eval.results import resampled_ratio
from blockdiff.lab.data import LabData
from blockdiff.lab.families import Setting, bits_per_byte, create
from blockdiff.lab.family import LabFamily


@dataclass(frozen=True, slots=True)
class Preset:
    """One size for all families.

    Attributes:
        length: tokens of a window.
        batch: windows of a step.
        windows: held-out windows that a bound is measured on at the end, an eighth on the way.
    """

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


@dataclass(frozen=True, slots=True)
class Budget:
    """When training ends: after so many seconds of it, or tokens where that is above 0."""

    seconds: float
    tokens: int = 0

    def spent(self, state: Trained) -> float:
        """The share that is used up."""
        return state.tokens / self.tokens if self.tokens else state.seconds / self.seconds


@dataclass
class Trained:
    """How far training has come, over all its pieces."""

    step: int = 0
    tokens: int = 0
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Bound:
    """Bits per byte of held-out text: an upper bound, exact for `ar`, with its 95% interval."""

    bits: float
    low: float
    high: float
    windows: int


class Lesson:
    """One family, its optimizer and its folder."""

    def __init__(
        self,
        name: str,
        data: LabData,
        preset: Preset,
        folder: Path,
        seed: int,
    ) -> None:
        self.name, self.data, self.preset = name, data, preset
        self.folder, self.seed = folder, seed
        setting = Setting.of(data, preset.hidden_size, preset.n_layers)
        self.family: LabFamily = create(name, setting, seed)
        self.optimizer = torch.optim.AdamW(
            self.family.parameters(), lr=preset.learning_rate, betas=(0.9, 0.98), weight_decay=0.01
        )
        self.state = Trained()
        self._resume()

    @property
    def parameters(self) -> int:
        return sum(p.numel() for p in self.family.parameters())

    def run(
        self,
        budget: Budget,
        on_step: Callable[[Trained, float], None],
        should_stop: Callable[[], bool],
    ) -> None:
        """Train until the budget is spent or `should_stop`; a checkpoint is written either way.

        The bound is measured at 2^13 tokens and each time they have doubled.
        """
        state = self.state
        self.folder.mkdir(parents=True, exist_ok=True)
        self.family.train()
        while budget.spent(state) < 1 and not should_stop():
            began = time.monotonic()
            loss = self._step(budget.spent(state))
            state.step += 1
            tokens = self.preset.batch * self.preset.length
            state.seconds += time.monotonic() - began
            state.tokens += tokens
            on_step(state, loss)
            milestone = 1 << (state.tokens.bit_length() - 1)
            if milestone >= 1 << 13 and state.tokens - tokens < milestone:
                self.log(loss=loss, **asdict(self.measure(self.preset.windows // 8)))
                self.save()
        self.family.eval()
        self.save()

    def _step(self, spent: float) -> float:
        preset = self.preset
        g = self.generator(self.state.step)
        tokens = self.data.batch(preset.batch, preset.length, g)
        loss = self.family.loss(tokens, g)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.family.parameters(), 1.0)
        warm = min(1.0, (self.state.step + 1) / 20)
        for group in self.optimizer.param_groups:  # falls to 5% over the last third
            group["lr"] = preset.learning_rate * warm * min(1.0, max(0.05, 3 * (1 - spent)))
        self.optimizer.step()
        return float(loss.detach())

    def generator(self, step: int) -> torch.Generator:
        return torch.Generator().manual_seed(self.seed << 32 | step)

    @torch.no_grad()
    def measure(self, windows: int, until: float = math.inf) -> Bound:
        """The bound on held-out windows, in one order for every family, while the clock allows."""
        self.family.eval()
        texts = self.data.heldout(self.preset.length, windows)
        texts = texts[torch.randperm(len(texts), generator=self.generator(0))]
        g = torch.Generator().manual_seed(0)
        parts = texts.split(self.preset.batch)  # type: ignore[no-untyped-call]
        nats: list[Tensor] = []
        for part in parts:
            if nats and time.monotonic() > until:
                break
            nats.append(self.family.bound(part, g))
        self.family.train()
        measured = torch.cat(nats)
        return bound_of(measured, self.data.nbytes(texts[: len(measured)]))

    def save(self) -> None:
        """Until the new checkpoint is whole the previous one stays."""
        self.folder.mkdir(parents=True, exist_ok=True)
        tensors = {f"family.{k}": v for k, v in self.family.state_dict().items()}
        for name, parameter in self.family.named_parameters():
            for key, value in self.optimizer.state.get(parameter, {}).items():
                tensors[f"optimizer.{key}.{name}"] = value
        meta = {"state": json.dumps(asdict(self.state)), "made": json.dumps(self._made())}
        partial = self.folder / "checkpoint.partial"
        save_file({k: v.contiguous() for k, v in tensors.items()}, partial, metadata=meta)
        os.replace(partial, self.folder / "checkpoint.safetensors")

    def log(self, **record: Any) -> None:
        with (self.folder / "log.jsonl").open("a", encoding="utf-8") as log:
            log.write(json.dumps(asdict(self.state) | record) + "\n")

    def _made(self) -> dict[str, Any]:
        return asdict(self.preset) | {"family": self.name}

    def _resume(self) -> None:
        path = self.folder / "checkpoint.safetensors"
        if not path.is_file():
            return
        try:
            with safe_open(path, framework="pt") as stored:
                meta = stored.metadata()
            tensors = load_file(path)
            state, made = Trained(**json.loads(meta["state"])), json.loads(meta["made"])
        except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
            raise ModelCorrupt(f"{path}: {error}", "delete it to start over") from None
        ours = self._made()
        changed = sorted(k for k in ours if made.get(k) != ours[k] and k != "windows")
        if changed:
            raise InvalidRequest(
                f"{self.folder} holds a run with other values of {', '.join(changed)}",
                "use the same settings to go on with it, or another folder",
            )
        self._adopt(tensors, path)
        self.state = state

    def _adopt(self, tensors: dict[str, Tensor], path: Path) -> None:
        weights = {k.removeprefix("family."): v for k, v in tensors.items() if k[:7] == "family."}
        try:
            self.family.load_state_dict(weights)
        except RuntimeError as error:
            raise ModelCorrupt(
                f"{path}: {str(error).splitlines()[-1].strip()}", "delete it to start over"
            ) from None
        for name, parameter in self.family.named_parameters():
            kept = {
                key.split(".")[1]: value
                for key, value in tensors.items()
                if key.startswith("optimizer.") and key.split(".", 2)[2] == name
            }
            if kept:
                self.optimizer.state[parameter] = kept


def bound_of(nats: Tensor, nbytes: Tensor) -> Bound:
    """Of windows (n,), which are resampled for the interval."""
    bits, sizes = [bits_per_byte(n, 1) for n in nats.tolist()], nbytes.tolist()
    low, high = resampled_ratio(map(str, range(len(bits))), bits, sizes)
    return Bound(sum(bits) / sum(sizes), low, high, len(bits))


def opened(name: str, data: LabData, preset: Preset, folder: Path, seed: int) -> Lesson:
    """A family that has been trained in `folder`. Raises ModelNotFound."""
    if not (folder / name / "checkpoint.safetensors").is_file():
        raise ModelNotFound(
            f"no trained {name} in {folder}", f"train it: blockdiff lab train {name}"
        )
    lesson = Lesson(name, data, preset, folder / name, seed)
    lesson.family.eval()
    return lesson
