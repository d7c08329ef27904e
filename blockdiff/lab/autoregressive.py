"""Left to right: token after token, and block after block with masked diffusion within (BD3-LM).

Autoregression is -log p(x) = -sum_i log p(x_i | x_1 .. x_{i-1}). BD3-LM (arXiv 2503.09573, eq. 5):
-log p(x) <= sum_b E_t [ sum of -log p(x_i | x_t^b, x^{<b}) over the masks of block b / t ]; all
blocks are learnt in one forward over a noisy copy and the clean text (section 3.2).
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from blockdiff.lab.absorbing import Masked, unmask
from blockdiff.lab.family import LabFamily, SamplerSettings, categorical, nll
from blockdiff.model import masks
from blockdiff.model.cache import BlockCache
from blockdiff.types import no_op


class Autoregressive(LabFamily):
    """The mask's embedding stands before the first token. It never sees what stands behind."""

    samplers = ("left-to-right",)
    draws = 1

    def drawn(self, tokens: Tensor, g: torch.Generator) -> Tensor:
        """Of each token after those before it: exact, nothing is drawn."""
        first = torch.full_like(tokens[:, :1], self.vocab_size)
        before = torch.cat([first, tokens[:, :-1]], dim=1)
        return nll(self.network(before, masks.causal(0, tokens.shape[1])), tokens)

    def write(self, template: Tensor, how: SamplerSettings) -> Tensor:
        """One token per forward, whatever `steps` says; a known token is taken when it comes."""
        batch, length = template.shape
        cache = BlockCache(self.network.config, batch=batch, capacity=length)
        written = self.start(template.shape, how.g)
        token = written[:, :1]
        for i, known in enumerate(torch.split(template, 1, dim=1)):
            logits = behind(self.network, token, cache)
            cache.commit(1)
            drawn = categorical(logits.softmax(-1), how.g)
            written[:, i : i + 1] = token = torch.where(known == self.vocab_size, drawn, known)
            how.watch(written.clone())
        return written


class BlockDiffusion(Masked):
    """`block_size` divides the length of the training windows. Exact numbers of masks in each block
    take the place of the paper's clipped schedules.

    Block size 1 is autoregression: one mask of one token, always, and no variance from it.
    """

    samplers = ("low-confidence", "random")

    def __init__(self, network: Any, frequencies: Tensor, block_size: int) -> None:
        super().__init__(network, frequencies)
        self.block_size = block_size
        self.draws = 1 if block_size == 1 else LabFamily.draws

    def logits(self, noisy: Tensor, tokens: Tensor) -> Tensor:
        """At the noisy copy, each block after the clean ones before it."""
        length = tokens.shape[1]
        if not self.block_size or self.block_size == length:
            return self.read(noisy)  # nothing clean to see
        both = torch.cat([noisy, tokens], dim=1)
        positions = torch.arange(length).repeat(2)[None]
        out: Tensor = self.network(both, masks.training(length, self.block_size), None, positions)
        return out[:, :length]

    def write(self, template: Tensor, how: SamplerSettings) -> Tensor:
        """Block after block; `steps` are those of the whole text. What is finished is cached."""
        batch, length = template.shape
        size, x = self.block_size or length, template.clone()
        cache = BlockCache(self.network.config, batch=batch, capacity=length)
        each = replace(how, steps=max(1, how.steps * size // length), watch=no_op)
        read = partial(behind, self.network, cache=cache)
        for block in torch.split(x, size, dim=1):
            everywhere = torch.ones(block.shape[1], dtype=torch.bool)
            block[:] = unmask(read, block, everywhere, self.vocab_size, each)
            self.finish(block, cache)
            how.watch(x.clone())
        return x

    def finish(self, block: Tensor, cache: BlockCache) -> None:
        """Encode a clean block once and keep it: it sees itself and those before it."""
        behind(self.network, block, cache)
        cache.commit(block.shape[1])


def behind(network: Any, block: Tensor, cache: BlockCache) -> Tensor:
    """Logits of a block behind the cached ones, which stay what they are."""
    out: Tensor = network(block, masks.full(cache.length, block.shape[1]), cache=cache)
    return out
