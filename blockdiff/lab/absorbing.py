"""Masks as noise: MDLM (arXiv 2406.07524), LLaDA (arXiv 2502.09992).

Each token is masked with probability t, independently. The bound is a cross-entropy at the masks,
weighted by 1/t (MDLM eq. 10, LLaDA eq. 3).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from blockdiff.diffusion.unmask import schedule_counts
from blockdiff.lab.family import LabFamily, SamplerSettings, categorical, nll, one_hot


class Masked(LabFamily):
    """Exactly so many masks in each `block_size` tokens, 0: in the whole text; `semi_ar` are the
    tokens of a block of that sampler."""

    samplers: tuple[str, ...] = ("low-confidence", "random", "ancestral", "semi-ar")
    block_size = 0
    semi_ar = 16

    def drawn(self, tokens: Tensor, g: torch.Generator) -> Tensor:
        """The integral with less variance: exactly l masks, weight L/l (LLaDA eq. 6)."""
        size = self.block_size or tokens.shape[1]
        return self.integrand(tokens, *exact_masks(tokens.shape, size, g))

    def integrand(self, tokens: Tensor, masked: Tensor, t: Tensor) -> Tensor:
        """MDLM eq. 10 at one t, (batch, length): -log p(x_i | x_t) / t where i is masked."""
        logits = self.logits(torch.where(masked, self.vocab_size, tokens), tokens)
        return self.steadied(nll(logits, tokens), tokens, masked / t)

    def logits(self, noisy: Tensor, tokens: Tensor) -> Tensor:
        """(batch, length, vocab) at the noisy copy of the tokens."""
        return self.read(noisy)

    def write(self, template: Tensor, how: SamplerSettings) -> Tensor:
        if how.sampler == "ancestral":
            return super().write(template, how)
        x, length = template, template.shape[1]
        blocks = torch.arange(length) // (self.semi_ar if how.sampler == "semi-ar" else length)
        count = int(blocks[-1]) + 1
        each = replace(how, steps=max(1, how.steps // count))
        for block in range(count):
            x = unmask(self.read, x, blocks == block, self.vocab_size, each)
        return x

    def transition(self, x: Tensor, t: float, s: float, sampler: str = "") -> Tensor:
        """p(x_s | x_t), MDLM eq. 7: a mask becomes a token as the network says, or stays (s/t)."""
        return of_masks(x, self.read(x).softmax(-1) * (1 - s / t), self.vocab_size)


def of_masks(x: Tensor, weights: Tensor, mask_id: int) -> Tensor:
    """(batch, length, vocab + 1): a mask goes where `weights` (.., vocab) say, what is left of 1
    stays one; where they exceed 1, nothing. A token stays."""
    rest = (1 - weights.sum(-1, keepdim=True)).clamp_min(0)
    clean = (x != mask_id)[..., None]
    return torch.where(clean, one_hot(x, mask_id + 1), torch.cat([weights, rest], dim=-1))


def exact_masks(shape: torch.Size, block_size: int, g: torch.Generator) -> tuple[Tensor, Tensor]:
    """In each block of n tokens exactly l are masked, l uniform in 1..n; the share l/n of each.

    Both (batch, length). t uniform and l masks by chance come to the same expectation.
    """
    batch, length = shape
    ranks = torch.rand(batch, length // block_size, block_size, generator=g).argsort(-1)
    count = torch.randint(1, block_size + 1, (batch, length // block_size, 1), generator=g)
    return (ranks < count).view(shape), (count / block_size).expand_as(ranks).reshape(shape)


def unmask(
    read: Callable[[Tensor], Tensor], x: Tensor, inside: Tensor, mask_id: int, how: SamplerSettings
) -> Tensor:
    """LLaDA, algorithms 4 (random) and 5 (low-confidence remasking), over the positions `inside`.

    Every mask gets a token drawn from the network; in each step those it is surest of stay, or
    random ones, as many as the schedule says, and the others are masked again.
    """
    counts = [schedule_counts(int(n), how.steps) for n in ((x == mask_id) & inside).sum(1)]
    for due in torch.tensor(counts).T:
        still = (x == mask_id) & inside
        if not bool(still.any()):
            break
        p = read(x).softmax(-1)
        drawn = categorical(p, how.g)
        score = p.gather(-1, drawn[..., None])[..., 0]
        if how.sampler == "random":
            score = torch.rand(x.shape, generator=how.g)
        order = score.masked_fill(~still, -1.0).argsort(-1, descending=True).argsort(-1)
        x = torch.where(still & (order < due[:, None]), drawn, x)
        how.watch(x)
    return x
