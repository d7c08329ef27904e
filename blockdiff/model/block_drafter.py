"""A small model that drafts for an autoregressive one, a block at a time.

DFlash (arXiv 2602.06036) and DSpark (arXiv 2607.05147). What chosen layers of the target put out at
a position is fused into one vector; the drafter's keys and values of that position are projections
of it, by the very matrices that serve the block. The block is the last accepted token and masks
behind it, which see the context and one another. DSpark corrects the logits by a term for the token
before, and tells how likely each draft is to be accepted.

The drafter's cache is the `companion` of its target's: positions enter it with the forward of the
target that computes them, and are committed, cut and forked with it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import cast

import torch
from torch import Tensor, nn

from blockdiff.model.cache import BlockCache
from blockdiff.model.config import TransformerConfig
from blockdiff.model.layer import Block, RMSNorm
from blockdiff.model.rotary import rotary_tables
from blockdiff.model.transformer import Transformer


class Markov(str, Enum):
    """What the term for the token before depends on besides it."""

    VANILLA = "vanilla"  # nothing
    GATED = "gated"  # a gate made from the hidden state
    RNN = "rnn"  # a state carried through the block


@dataclass(frozen=True, slots=True)
class BlockDrafterConfig:
    """Shape of a drafter.

    Attributes:
        stack: its own layers, with the vocabulary of its target.
        layers: of the target, whose output it reads, ascending; -1 is the embedding.
        block_size: positions of a block, that of the last accepted token among them.
        shift: the logits of a position are those of the next one (DSpark), and not its own.
        markov: None: there is no such term.
        markov_rank: inner width of the term.
        confidence: whether it tells how likely a draft is to be accepted.
        confidence_reads_token: from the token before, too.
    """

    stack: TransformerConfig
    layers: tuple[int, ...]
    mask_token_id: int
    block_size: int
    shift: bool = False
    markov: Markov | None = None
    markov_rank: int = 0
    confidence: bool = False
    confidence_reads_token: bool = False

    @property
    def first(self) -> int:
        """Index in a block of the first position whose logits draft a token."""
        return 0 if self.shift else 1


class MarkovHead(nn.Module):
    """A term on the logits of a position, of low rank, from the token before (DSpark, 3.2)."""

    def __init__(self, config: BlockDrafterConfig) -> None:
        super().__init__()
        self.kind, rank, width = config.markov, config.markov_rank, config.stack.hidden_size
        self.before = nn.Embedding(config.stack.vocab_size, rank)
        self.after = nn.Linear(rank, config.stack.vocab_size, bias=False)
        if self.kind is Markov.GATED:
            self.gate = nn.Linear(width + rank, rank)
        elif self.kind is Markov.RNN:
            self.joint = nn.Linear(2 * rank + width, 3 * rank)

    def forward(self, token: Tensor, hidden: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """The term (1, vocab) and the next state; `state` is (1, rank), zeros to begin with."""
        before = self.before(token)
        if self.kind is Markov.GATED:
            before = before * self.gate(torch.cat([hidden, before], dim=-1)).sigmoid()
        elif self.kind is Markov.RNN:
            joint = self.joint(torch.cat([state, before, hidden], dim=-1))
            keep, new, out = joint.chunk(3, dim=-1)
            keep = keep.sigmoid()
            state, before = keep * state + (1.0 - keep) * new.tanh(), out.tanh()
        return self.after(before), state


class BlockDrafter(nn.Module):
    """Reads its target's features into a cache, and drafts behind it.

    Attributes:
        stack: its layers; embedding and head may be those of the target.
    """

    def __init__(self, config: BlockDrafterConfig) -> None:
        super().__init__()
        self.config, width = config, config.stack.hidden_size
        self.stack = Transformer(config.stack)
        self.fusion = nn.Linear(len(config.layers) * width, width, bias=False)
        self.feature_norm = RMSNorm(width, config.stack.norm_eps)
        self.markov = MarkovHead(config) if config.markov is not None else None
        read = width + (config.markov_rank if config.confidence_reads_token else 0)
        self.confidence = nn.Linear(read, 1) if config.confidence else None

    def cache(self) -> BlockCache:
        """An empty one, to be the companion of one of the target's."""
        return BlockCache(self.config.stack, dtype=self.stack.dtype, device=self.stack.device)

    def encode(
        self,
        features: Tensor,
        positions: Tensor,
        sizes: Sequence[int],
        caches: Sequence[BlockCache | None],
    ) -> None:
        """Put keys and values of positions as drafts into their caches.

        Args:
            features: (1, new, layers * hidden_size) of the target, `sizes` of each sequence.
            positions: (1, new).
            caches: one for each sequence; None: its features are not wanted.
        """
        x = self.feature_norm(self.fusion(features))
        rotary = rotary_tables(self.config.stack, positions)
        for index, block in enumerate(self.stack.blocks):
            k, v = cast(Block, block).attention.keys_values(x, rotary)
            parts = (torch.split(some, list(sizes), 2) for some in (k, v))
            for cache, keys, values in zip(caches, *parts, strict=True):
                if cache is not None:
                    cache.append(index, keys, values)

    def propose(self, last: int, logits: Tensor, hidden: Tensor) -> list[tuple[int, float]]:
        """The likeliest tokens behind `last`, and the chance of each, given that those before it
        are accepted.

        Args:
            logits: (drafted, vocab) of the positions of a block that draft, float32.
            hidden: (drafted, hidden_size), their hidden states behind the last norm.
        """
        token = torch.tensor([last], device=logits.device)
        state = hidden.new_zeros(1, self.config.markov_rank)
        tokens, chances = [], []
        for row, seen in zip(torch.split(logits, 1), torch.split(hidden, 1), strict=True):
            before = token
            if self.markov is not None:
                term, state = self.markov(token, seen, state)
                row = row + term.float()
            best, token = row.max(-1)
            tokens.append(token)
            if self.confidence is None:
                chances.append((best - row.logsumexp(-1)).exp())
            else:
                chances.append(self._confidence(before, seen))
        told = torch.stack([torch.cat(tokens).float(), torch.cat(chances)]).tolist()
        return [(int(token), chance) for token, chance in zip(*told, strict=True)]

    def _confidence(self, before: Tensor, hidden: Tensor) -> Tensor:
        assert self.confidence is not None
        if self.config.confidence_reads_token:
            assert self.markov is not None
            hidden = torch.cat([hidden, self.markov.before(before).to(hidden.dtype)], dim=-1)
        chance: Tensor = self.confidence(hidden)[:, 0].float().sigmoid()
        return chance
