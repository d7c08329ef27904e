"""BD3-LM (arXiv 2503.09573): autoregressive over blocks, masked diffusion within each.

-log p(x) <= sum_b E_t [ sum of -log p(x_i | x_t^b, x^{<b}) over the masks of block b / t ] (eq. 5);
all blocks are learnt in one forward over a noisy copy and the clean text (section 3.2).
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import torch
from torch import Tensor, nn

from blockdiff.lab.family import LabFamily, SamplerSettings, Template, nll
from blockdiff.lab.masked import exact_masks, unmask
from blockdiff.model import masks
from blockdiff.model.cache import BlockCache
from blockdiff.types import no_op


class BlockDiffusion(LabFamily):
    """`block_size` divides the length of the training windows; 0: the whole window is one block.

    Block size 1 is autoregression: one mask of one token, always, and no variance from it.
    """

    samplers = ("low-confidence", "random")

    def __init__(self, network: nn.Module, vocab_size: int, block_size: int) -> None:
        super().__init__(network, vocab_size)
        self.block_size = block_size

    def drawn(self, tokens: Tensor, g: torch.Generator) -> Tensor:
        """Exact numbers of masks in each block take the place of the paper's clipped schedules."""
        masked, weight = exact_masks(tokens.shape, self.block_size or tokens.shape[1], g)
        logits = self.training_logits(torch.where(masked, self.vocab_size, tokens), tokens)
        return nll(logits, tokens) * masked * weight

    def training_logits(self, noisy: Tensor, tokens: Tensor) -> Tensor:
        """(batch, length, vocab) at the noisy copy, each block after the clean ones before it."""
        length = tokens.shape[1]
        if not self.block_size or self.block_size == length:
            return self.read(noisy)  # nothing clean to see
        both = torch.cat([noisy, tokens], dim=1)
        positions = torch.arange(length).repeat(2)[None]
        mask = masks.training(length, self.block_size)
        out: Tensor = self.network(both, mask, None, positions)
        return out[:, :length]

    def write(self, template: Template, how: SamplerSettings) -> Tensor:
        """Block after block; `steps` are those of the whole text. What is finished is cached."""
        batch, length = template.tokens.shape
        size = self.block_size or length
        cache = BlockCache(self.network.config, batch=batch, capacity=length)
        x = template.keep(torch.full_like(template.tokens, self.vocab_size))
        quiet = replace(how, watch=no_op)  # of blocks; the whole text is told below
        each = max(1, how.steps * size // length)
        for start in range(0, length, size):
            block = x[:, start : start + size]
            read = partial(self.cached, cache=cache)
            inside = torch.ones(block.shape[1], dtype=torch.bool)
            block = unmask(read, block, inside, self.vocab_size, each, quiet)
            x = torch.cat([x[:, :start], block, x[:, start + size :]], dim=1)
            if start + size < length:
                self.finish(block, cache)
            how.watch(x)
        return x

    def cached(self, block: Tensor, cache: BlockCache) -> Tensor:
        """Logits of a block behind the cached ones, which stay what they are."""
        past, new = cache.length, block.shape[1]
        positions = torch.arange(past, past + new)[None]
        out: Tensor = self.network(block, masks.full(past, new), None, positions, cache)
        return out

    def finish(self, block: Tensor, cache: BlockCache) -> None:
        """Encode a clean block once and keep it: it sees itself and those before it."""
        self.cached(block, cache)
        cache.commit(block.shape[1])
