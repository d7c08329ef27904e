"""The training loop of a gated adapter: resumable, on a CPU, one GPU, or several.

targets/s, loss and held-out draft accuracy go to `log.jsonl` in the run's folder; a checkpoint
(adapter, optimizer, position in the data) is written there every few minutes and when the
run ends or is interrupted. Everything is safetensors and JSON, nothing is pickled.
"""

from __future__ import annotations

import json
import math
import os
import random
import time
from collections.abc import Callable, Iterator
from collections.abc import Sequence as Many
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from blockdiff.diffusion.ngrams import NgramTable
from blockdiff.errors import InvalidRequest
from blockdiff.model.adapter import GatedAdapter
from blockdiff.model.transformer import Transformer
from blockdiff.train.checkpoint import read_run, write_run
from blockdiff.train.config import TrainConfig
from blockdiff.train.loss import LossParts
from blockdiff.train.measure import DraftReport, measure_drafts
from blockdiff.train.prepare import Prepared, Preparer
from blockdiff.train.sequences import Sequence, TextCodec, sequences
from blockdiff.train.step import train_step
from blockdiff.types import no_op


class SequenceStream:
    """An endless, seeded stream of sequences that can be entered anywhere."""

    def __init__(
        self, epoch: Callable[[int], Iterator[Any]], tokenizer: TextCodec, config: TrainConfig
    ) -> None:
        self._epoch, self._tokenizer, self._config = epoch, tokenizer, config

    def stream(self, skip: int) -> Iterator[tuple[int, Sequence]]:
        """All documents after the first `skip`, one sequence at most from each, epochs in turn;
        with the number of the document, from 1."""
        number = seen = 0
        while True:
            empty = True
            for document in self._epoch(number):
                empty = False
                seen += 1
                if seen <= skip:
                    continue
                rng = random.Random(f"{self._config.seed}/{seen}")
                made = list(sequences([document], self._tokenizer, self._config.sequence, rng))
                yield from ((seen, sequence) for sequence in made)
            if empty:
                raise InvalidRequest("the corpus holds no documents")
            number += 1


@dataclass
class RunState:
    """What a checkpoint remembers besides tensors."""

    step: int = 0
    targets: int = 0
    documents: int = 0
    seconds: float = 0.0


class Trainer:
    """Owns the adapter, its optimizer and the folder of one run."""

    def __init__(
        self,
        model: Transformer,
        adapter: GatedAdapter,
        documents: SequenceStream,
        held_out: list[Sequence],
        config: TrainConfig,
        folder: Path,
        tables: Many[NgramTable] = (),
    ) -> None:
        """With `tables`, drafts come from these n-grams as well: their term is in the loss."""
        self.tables = tuple(tables)
        self.model, self.adapter = model, adapter
        self.documents, self.held_out = documents, held_out
        self.config, self.folder = config, folder
        self.state = RunState()
        self._spent = 0.0
        self.rank, self.world = _join_processes()
        adapter.to(model.device).requires_grad_(True)
        self.parameters = list(adapter.parameters())
        self.optimizer = torch.optim.AdamW(
            self.parameters, lr=config.learning_rate, betas=(0.9, 0.98)
        )
        folder.mkdir(parents=True, exist_ok=True)
        self._resume()

    def run(
        self,
        on_step: Callable[[RunState, LossParts, float], None],
        should_stop: Callable[[], bool],
        on_held_out: Callable[[DraftReport], None] = no_op,
    ) -> RunState:
        """Train until the budget is spent or `should_stop`; a checkpoint is written either way.

        `on_step` gets the state, the loss and targets per second after every optimizer step,
        `on_held_out` what is measured on the way.
        """
        state = self.state
        mine = (
            item
            for item in self.documents.stream(state.documents)
            if item[0] % self.world == self.rank
        )
        preparer = Preparer(self.config, self.model.config.vocab_size, self.world, self.tables)
        prepared = preparer.ahead(mine)
        last_save = last_measure = state.seconds
        while self._goes_on(should_stop()):
            began = time.monotonic()
            parts, count = self._optimizer_step(prepared)
            spent = time.monotonic() - began
            state.step += 1
            state.targets += count
            state.seconds += spent
            self._log(kind="step", **asdict(parts), rate=round(count / spent, 1))
            on_step(state, parts, count / spent)
            if state.seconds - last_measure > self.config.measure_minutes * 60.0:
                on_held_out(self.measure())
                last_measure = state.seconds
            if state.seconds - last_save > self.config.save_minutes * 60.0:
                self.save()
                last_save = state.seconds
        self.save()
        return state

    def measure(self) -> DraftReport:
        """Draft quality on the held-out sequences, into the log."""
        self.adapter.eval()
        report = measure_drafts(
            self.model, self.adapter, self.held_out, self.config.block_size, tables=self.tables
        )
        self.adapter.train()
        self._log(kind="held_out", **asdict(report))
        return report

    def save(self) -> None:
        """Write adapter, optimizer and position; until it is whole the previous one stays."""
        if self.rank:
            return
        adapter = dict(self.adapter.named_parameters())
        write_run(self._path, adapter, self.adapter, self.optimizer,
                  asdict(self.state), asdict(self.config))  # fmt: skip

    def _optimizer_step(self, prepared: Iterator[Prepared]) -> tuple[LossParts, int]:
        config, count = self.config, 0
        total = LossParts(0.0, 0.0, 0.0)
        self.optimizer.zero_grad(set_to_none=True)
        for _ in range(config.accumulate):
            one = next(prepared)
            parts = train_step(self.model, self.adapter, one.tokens, one.noisy, config.distill)
            total = LossParts(
                total.loss + parts.loss / config.accumulate,
                total.cross_entropy + parts.cross_entropy / config.accumulate,
                total.distillation + parts.distillation / config.accumulate,
            )
            count += int((one.noisy.targets.weights > 0).sum())
            self.state.documents = one.number
        self._average_gradients()
        torch.nn.utils.clip_grad_norm_(self.parameters, config.clip)
        for group in self.optimizer.param_groups:
            group["lr"] = config.learning_rate * self._schedule()
        self.optimizer.step()
        return total, count * self.world

    def _schedule(self) -> float:
        """Linear warm-up, plateau, linear fall to 5% over the last third of the budget."""
        warm = min(1.0, (self.state.step + 1) / self.config.warmup)
        return warm * min(1.0, max(0.05, 3.0 * (1.0 - self._spent)))

    def _goes_on(self, stop: bool) -> bool:
        """Whether there is another step.

        All processes agree on it, or one would wait for ever, and on the share of the budget that
        is spent, or their learning rates and weights would drift apart.
        """
        if self.config.max_targets:
            spent = self.state.targets / self.config.max_targets
        else:
            spent = self.state.seconds / (self.config.minutes * 60.0)
        if self.world > 1:
            agreed = torch.tensor([spent, float(stop)], device=self.model.device)
            torch.distributed.all_reduce(agreed, torch.distributed.ReduceOp.MAX)
            spent, stop = float(agreed[0]), bool(agreed[1])
        self._spent = spent
        return spent < 1.0 and not stop

    def _average_gradients(self) -> None:
        for parameter in self.parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            parameter.grad /= self.config.accumulate
            if self.world > 1:
                torch.distributed.all_reduce(parameter.grad)
                parameter.grad /= self.world

    def _resume(self) -> None:
        run = read_run(
            self._path, self.adapter, self.optimizer,
            RunState, asdict(self.config), _MAY_CHANGE,
        )  # fmt: skip
        if run:
            tensors, state = run
            self.adapter.load(tensors, str(self._path))
            self.state = state

    @property
    def _path(self) -> Path:
        return self.folder / "checkpoint.safetensors"

    def _log(self, **record: Any) -> None:
        if self.rank:
            return
        state = {k: round(v, 1) for k, v in asdict(self.state).items()}
        rounded = {
            k: round(v, 5) if isinstance(v, float) and math.isfinite(v) else v
            for k, v in record.items()
        }
        with (self.folder / "log.jsonl").open("a", encoding="utf-8") as log:
            log.write(json.dumps(state | rounded) + "\n")


_MAY_CHANGE = (  # nothing here changes what the data mean
    "minutes",
    "max_targets",
    "save_minutes",
    "measure_minutes",
    "held_out",
    "accumulate",
    "workers",
)


def _join_processes() -> tuple[int, int]:
    """(rank, world): joins the group that `accelerate launch` or `torchrun` announces, if any."""
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world == 1:
        return 0, 1
    if not torch.distributed.is_initialized():
        torch.distributed.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    return torch.distributed.get_rank(), world
