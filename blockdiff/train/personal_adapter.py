"""Train the adapter on a user's own workspace, so that its drafts are nearer to what he writes."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import safetensors.torch
import torch

from blockdiff.diffusion import personal
from blockdiff.diffusion.ngrams import NgramTable
from blockdiff.errors import InputFileError, ModelUnsupported
from blockdiff.model.adapter import GatedAdapter
from blockdiff.model.load.from_folder import DraftingConfig, read_adapter
from blockdiff.model.load.tokenizer import Tokenizer
from blockdiff.model.transformer import Transformer
from blockdiff.syntax.grammars import language_of
from blockdiff.system import private
from blockdiff.train.adapt import held_out_sequences, trainer
from blockdiff.train.config import TrainConfig
from blockdiff.train.corpus import Corpus, CorpusFile
from blockdiff.train.loop import RunState, Trainer
from blockdiff.train.loss import LossParts
from blockdiff.train.measure import DraftReport, measure_drafts
from blockdiff.train.personal import count_files, keep, left_out, prepared_folder, texts
from blockdiff.types import no_op
from blockdiff.weights import folders

_LEARNING_RATE = 3e-4  # half of what an adapter is trained with from nothing
_HELD_OUT = 8  # sequences


@dataclass(frozen=True, slots=True)
class TrainedOnFiles:
    """What training brought on the fifth of the files that it left out.

    Attributes:
        before, after: with the adapter that it began with, and with the trained one; `served`
            drafts from the shipped table and from one of the other files, too.
        state: of the run: seconds, targets.
        file: the adapter, where the engine takes it up; None: drafts hold no longer, it was not
            kept.
    """

    before: DraftReport
    after: DraftReport
    state: RunState
    file: Path | None


class PersonalTraining:
    """One run for a workspace; it goes on where an earlier one was stopped.

    It begins with the adapter that was trained on the workspace before, else with the shipped one.
    """

    def __init__(
        self,
        model: Transformer,
        name: str,
        tokenizer: Tokenizer,
        shipped: Path,
        tables: Sequence[NgramTable],
        root: Path,
        files: Sequence[Path],
        hours: float,
    ) -> None:
        """
        Args:
            model: the base, in floats.
            shipped: folder of its adapter.
            tables: shipped with it; what they know the adapter need not learn.
            files: of the workspace `root`, absolute.
            hours: over all pieces of the run.

        Raises InputFileError for too few files, NotPermitted, DiskFull, OutputFileError,
        ModelCorrupt for what is left of an earlier run.
        """
        drafting = DraftingConfig.read(shipped / "config.json")
        if drafting.adapter is None:
            raise ModelUnsupported(f"{name} does not draft", "name a model that has an adapter")
        self._model, self._name, self._root = model, name, root
        left = left_out(root, files)
        without = set(left)
        kept = [path for path in files if path not in without]
        corpus = Corpus({"train": _read(root, kept), "heldout": _read(root, left)}, {})
        if not corpus.documents("train"):
            raise InputFileError("there is no source code to learn from", "name another folder")
        self._tables = (*tables, count_files(kept, tokenizer, no_op).table)
        self._config = TrainConfig(
            minutes=60.0 * hours, learning_rate=_LEARNING_RATE, held_out=_HELD_OUT
        )
        if not held_out_sequences(corpus, tokenizer, self._config):
            raise InputFileError(
                "the files that are left out are too short to measure drafts in",
                "name a folder with longer files",
            )
        weights: dict[str, float] = {}
        for document in corpus.documents("train"):
            weights[document.language] = weights.get(document.language, 0.0) + len(document.text)
        prepared_folder()
        self._folder = personal.file_of(root, name, personal.RUN)
        before = personal.file_of(root, name, personal.ADAPTER)
        with folders.writing_errors(), ExitStack() as stack:
            self._folder.mkdir(mode=0o700, exist_ok=True)
            initial = shipped / "adapter.safetensors"
            if before.is_file():
                initial = stack.enter_context(private.pinned(before))
            self._first = read_adapter(initial, model.config, drafting.adapter)
            self.run: Trainer = trainer(
                model,
                tokenizer,
                corpus,
                drafting.adapter,
                self._config,
                self._folder,
                initial,
                tables,
                weights,
            )

    def train(
        self,
        on_step: Callable[[RunState, LossParts, float], None],
        should_stop: Callable[[], bool],
        on_held_out: Callable[[DraftReport], None] = no_op,
    ) -> bool:
        """Train to the end of the time, and whether that is reached; see `Trainer.run`.

        Raises DiskFull, OutputFileError; what was saved before stays in the run's folder.
        """
        with folders.writing_errors():
            state = self.run.run(on_step, should_stop, on_held_out)
        return state.seconds >= 60.0 * self._config.minutes

    def finish(self, progress: Callable[[int, int], None] = no_op) -> TrainedOnFiles:
        """Measure, keep the adapter if it is no worse, and end the run.

        Args:
            progress: told how many sequences are measured, of how many.

        Raises DiskFull, OutputFileError, NotPermitted; stopped in here, it can be called again.
        """
        done, both = itertools.count(), 2 * len(self.run.held_out)
        before, after = (
            self._judged(adapter, lambda: progress(next(done), both))
            for adapter in (self._first, self.run.adapter)
        )
        file = None
        if after.served >= before.served:
            tensors = {
                name: parameter.detach().cpu().to(torch.bfloat16).contiguous()
                for name, parameter in self.run.adapter.named_parameters()
            }
            data = safetensors.torch.save(tensors)
            file = keep(
                lambda path: private.write(path, data), self._root, self._name, personal.ADAPTER
            )
        shutil.rmtree(self._folder)
        return TrainedOnFiles(before, after, self.run.state, file)

    def _judged(self, adapter: GatedAdapter, on_sequence: Callable[[], None]) -> DraftReport:
        return measure_drafts(
            self._model,
            adapter.to(self._model.device).eval(),
            self.run.held_out,
            self._config.block_size,
            tables=self._tables,
            on_sequence=on_sequence,
        )


def _read(root: Path, files: Sequence[Path]) -> tuple[CorpusFile, ...]:
    return tuple(
        CorpusFile(text, language_of(path.name), path.relative_to(root).as_posix(), root.name)
        for path, text in texts(files)
    )
