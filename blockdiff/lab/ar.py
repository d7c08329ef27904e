"""Autoregression, the baseline: -log p(x) = -sum_i log p(x_i | x_1 .. x_{i-1})."""

from __future__ import annotations

import torch
from torch import Tensor

from blockdiff.lab.family import LabFamily, SamplerSettings, Template, categorical, nll
from blockdiff.model import masks
from blockdiff.model.cache import BlockCache


class Autoregressive(LabFamily):
    """The mask's embedding stands before the first token. It never sees what stands behind."""

    samplers = ("left-to-right",)

    def drawn(self, tokens: Tensor, g: torch.Generator) -> Tensor:
        """Of each token after those before it: exact, nothing is drawn."""
        first = torch.full_like(tokens[:, :1], self.vocab_size)
        before = torch.cat([first, tokens[:, :-1]], dim=1)
        return nll(self.network(before, masks.causal(0, tokens.shape[1])), tokens)

    def write(self, template: Template, how: SamplerSettings) -> Tensor:
        """One token per forward, whatever `steps` says; a known token is taken when it comes."""
        batch, length = template.tokens.shape
        cache = BlockCache(self.network.config, batch=batch, capacity=length)
        written = torch.full((batch, length), self.vocab_size)
        token = written[:, :1]
        for i in range(length):
            logits = self.network(token, masks.causal(i, 1), None, torch.tensor([[i]]), cache)
            cache.commit(1)
            token = categorical(logits.softmax(-1), how.g)
            token = torch.where(template.known[:, i : i + 1], template.tokens[:, i : i + 1], token)
            written[:, i : i + 1] = token
            how.watch(written.clone())
        return written
