"""Masks as noise: MDLM (arXiv 2406.07524), LLaDA (arXiv 2502.09992), SEDD (arXiv 2310.16834).

Each token is masked with probability t, independently. The bound is a cross-entropy at the masks,
weighted by 1/t (MDLM eq. 10, LLaDA eq. 3); SEDD learns ratios of probabilities in its place.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from blockdiff.diffusion.unmask import schedule_counts
from blockdiff.lab.family import LabFamily, SamplerSettings, categorical, nll, uneven_levels


class Masked(LabFamily):
    """`block_size` is that of the sampler `semi-ar` alone: training knows no blocks."""

    samplers = ("low-confidence", "random", "ancestral", "semi-ar")
    block_size = 16

    def integrand(self, tokens: Tensor, masked: Tensor, t: Tensor) -> Tensor:
        """MDLM eq. 10 at one t, (batch, length): -log p(x_i | x_t) / t where i is masked."""
        logits = self.read(torch.where(masked, self.vocab_size, tokens))
        return nll(logits, tokens) * masked / t

    def drawn(self, tokens: Tensor, g: torch.Generator) -> Tensor:
        """The same integral with less variance: exactly l masks, weight L/l (LLaDA eq. 6)."""
        masked, weight = exact_masks(tokens.shape, tokens.shape[1], g)
        return self.integrand(tokens, masked, 1 / weight)

    def write(self, template: Tensor, how: SamplerSettings) -> Tensor:
        if how.sampler == "ancestral":
            return super().write(template, how)
        x, length = template, template.shape[1]
        blocks = torch.arange(length) // (self.block_size if how.sampler == "semi-ar" else length)
        count = int(blocks[-1]) + 1
        each = replace(how, steps=max(1, how.steps // count))
        for block in range(count):
            x = unmask(self.read, x, blocks == block, self.vocab_size, each)
        return x

    def transition(self, x: Tensor, t: float, s: float, sampler: str = "") -> Tensor:
        """p(x_s | x_t), MDLM eq. 7: a mask becomes a token as the network says, or stays (s/t)."""
        return _of_masks(x, self.read(x).softmax(-1) * (1 - s / t), self.vocab_size)


class SeddAbsorbing(LabFamily):
    """Score entropy: s(x)_y = p_t(y) / p_t(x); log s_y = f_y - log(e^sigma - 1) (its scaling).

    sigma(t) = -log(1 - t). Only masks move, and only to tokens. Nothing forces sum_y e^{f_y} = 1:
    what the network misses there MDLM never pays.
    """

    samplers = ("tweedie", "tau-leaping")

    def drawn(self, tokens: Tensor, g: torch.Generator) -> Tensor:
        t, weight = uneven_levels(len(tokens), g)
        masked = torch.rand(tokens.shape, generator=g) < t[:, None]
        noisy = torch.where(masked, self.vocab_size, tokens)
        return weight[:, None] * self.integrand(self.read(noisy, t), noisy, tokens, t[:, None])

    def integrand(self, f: Tensor, noisy: Tensor, tokens: Tensor, t: Tensor) -> Tensor:
        """(batch, length). With a = 1 / (e^sigma - 1) = (1 - t) / t, s = a e^f and r = a at x_0:

        sigma' [ sum_y a e^{f_y} - a log(a e^{f_x0}) + a (log a - 1) ] = [sum e^f - f_x0 - 1] / t.
        """
        right = f.gather(-1, tokens[..., None])[..., 0]
        return (noisy == self.vocab_size) * (f.logsumexp(-1).exp() - right - 1) / t

    def transition(self, x: Tensor, t: float, s: float, sampler: str = "tweedie") -> Tensor:
        """Tweedie (theorem 4.2): (e^{-d Q} s)_y e^{d Q}(x, y) with d = sigma(t) - sigma(s), at a
        mask s_y (e^d - 1) and the rest. Tau-leaping (eq. 19): s_y d and the rest."""
        score = self.read(x, torch.full((len(x),), t)).exp() * (1 - t) / t
        ratio = (1 - s) / (1 - t)  # e^d
        leap = ratio - 1 if sampler == "tweedie" else math.log(ratio)
        return _of_masks(x, score * leap, self.vocab_size)

    def write(self, template: Tensor, how: SamplerSettings) -> Tensor:
        x = super().write(template, how)
        left = self.read(x, torch.full((len(x),), 1e-4)).softmax(-1)  # few, if any
        return torch.where(x == self.vocab_size, categorical(left, how.g), x)


def _of_masks(x: Tensor, weights: Tensor, mask_id: int) -> Tensor:
    """(batch, length, vocab + 1): a mask goes where `weights` (.., vocab) say, what is left of 1
    stays one; where they exceed 1, nothing. A token stays."""
    rest = (1 - weights.sum(-1, keepdim=True)).clamp_min(0)
    clean = (x != mask_id)[..., None]
    return torch.where(clean, one_hot(x, mask_id + 1), torch.cat([weights, rest], dim=-1))


def exact_masks(shape: torch.Size, block_size: int, g: torch.Generator) -> tuple[Tensor, Tensor]:
    """In each block of n tokens exactly l are masked, l uniform in 1..n; the weight n/l of each.

    Both (batch, length). t uniform and l masks by chance come to the same expectation.
    """
    batch, length = shape
    ranks = torch.rand(batch, length // block_size, block_size, generator=g).argsort(-1)
    count = torch.randint(1, block_size + 1, (batch, length // block_size, 1), generator=g)
    weight = (block_size / count).expand(-1, -1, block_size)
    return (ranks < count).view(shape), weight.reshape(shape)


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
