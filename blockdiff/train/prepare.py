"""From sequences to what a training step takes, in this process or ahead of it in others."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context

import torch
from torch import Tensor

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
        if not self.config.workers:
            yield from (one for item in sequences if (one := self.prepare(*item)) is not None)
            return
        with ProcessPoolExecutor(
            self.config.workers, get_context("spawn"), initializer=_begin, initargs=(self,)
        ) as pool:
            waiting: deque[Future[Prepared | None]] = deque()
            for item in sequences:
                waiting.append(pool.submit(_prepare, *item))
                if len(waiting) < _AHEAD * self.config.workers:
                    continue
                if (one := waiting.popleft().result()) is not None:
                    yield one
            yield from (one for future in waiting if (one := future.result()) is not None)


_preparer: Preparer | None = None  # of a worker


def _begin(preparer: Preparer) -> None:
    global _preparer
    _preparer = preparer
    torch.set_num_threads(1)


def _prepare(number: int, sequence: TokenSequence) -> Prepared | None:
    assert _preparer is not None
    return _preparer.prepare(number, sequence)
