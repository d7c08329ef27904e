"""From sequences to what a training step takes, in this process or ahead of it in others."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from blockdiff.diffusion.ngrams import NgramTable
from blockdiff.train.config import TrainConfig
from blockdiff.train.corrupt import NoisyBlocks, choose_starts, noisy_blocks
from blockdiff.train.sequences import Sequence as TokenSequence
from blockdiff.train.term import with_term

_AHEAD = 4  # sequences that wait for each worker


@dataclass(frozen=True, slots=True)
class Prepared:
    """One sequence, clean and noisy.

    Attributes:
        number: of its document; all randomness comes from it and the seed.
        tokens: (length,) clean ids.
    """

    number: int
    tokens: Tensor
    noisy: NoisyBlocks


@dataclass(frozen=True)
class Preparer:
    """How sequences are prepared; the same in every process."""

    config: TrainConfig
    vocab_size: int
    world: int
    tables: tuple[NgramTable, ...] = ()

    def prepare(self, number: int, sequence: TokenSequence) -> Prepared | None:
        """Blocks of one size, at places drawn; None where the sequence is too short for one."""
        config = self.config
        g = torch.Generator().manual_seed(hash((config.seed, number)) & 0x7FFFFFFF)
        tokens = torch.tensor(sequence.tokens)
        size = config.block_sizes[number // self.world % len(config.block_sizes)]
        blocks = config.noisy_positions // size
        starts = choose_starts(sequence.first_target, len(tokens), size, blocks, g)
        if not starts:
            return None
        noisy = noisy_blocks(
            tokens, sequence.real, starts, size, config.corruption, self.vocab_size, g
        )
        return Prepared(number, tokens, with_term(noisy, sequence.tokens, self.tables))

    def ahead(self, sequences: Iterator[tuple[int, TokenSequence]]) -> Iterator[Prepared]:
        """What `sequences` (with the numbers of their documents) become, in their order."""
        workers = self.config.workers
        loader = DataLoader(
            _Stream(self, sequences),
            batch_size=None,
            num_workers=workers,
            prefetch_factor=_AHEAD if workers else None,
            multiprocessing_context="fork" if workers else None,  # each goes on in its own copy
        )
        return (one for one in loader if one is not None)


class _Stream(IterableDataset[Prepared | None]):
    """Each of several workers goes through all sequences and prepares its share in turn, so that
    the loader, which asks them in turn, has the order of one."""

    def __init__(
        self, preparer: Preparer, sequences: Iterator[tuple[int, TokenSequence]]
    ) -> None:
        self._preparer, self._sequences = preparer, sequences

    def __iter__(self) -> Iterator[Prepared | None]:
        worker = get_worker_info()
        share, own = (worker.num_workers, worker.id) if worker is not None else (1, 0)
        for index, item in enumerate(self._sequences):
            if index % share == own:
                yield self._preparer.prepare(*item)
