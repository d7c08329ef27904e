"""Masked diffusion: MDLM (arXiv 2406.07524) and LLaDA (arXiv 2502.09992).

Each token is masked with probability t, independently. The bound is a cross-entropy at the masks,
weighted by 1/t (MDLM eq. 10, LLaDA eq. 3).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from blockdiff.diffusion.unmask import schedule_counts
from blockdiff.lab.family import (
    LabFamily,
    SamplerSettings,
    Template,
    categorical,
    levels,
    nll,
    one_hot,
    times,
)  # fmt: skip


class Masked(LabFamily):
    """`block_size` is that of the sampler `semi-ar` alone: training knows no blocks."""

    samplers = ("low-confidence", "random", "ancestral", "semi-ar")
    block_size = 16

    def loss(self, tokens: Tensor, g: torch.Generator) -> Tensor:
        t = levels(len(tokens), g)[:, None]
        masked = torch.rand(tokens.shape, generator=g) < t
        return self.integrand(tokens, masked, t).mean()

    def integrand(self, tokens: Tensor, masked: Tensor, t: Tensor) -> Tensor:
        """MDLM eq. 10 at one t, (batch, length): -log p(x_i | x_t) / t where i is masked."""
        logits = self.read(torch.where(masked, self.vocab_size, tokens))
        return nll(logits, tokens) * masked / t

    def drawn(self, tokens: Tensor, g: torch.Generator) -> Tensor:
        """The same integral with less variance: exactly l masks, weight L/l (LLaDA eq. 6)."""
        masked, weight = exact_masks(tokens.shape, tokens.shape[1], g)
        return self.integrand(tokens, masked, 1 / weight)

    def write(self, template: Template, how: SamplerSettings) -> Tensor:
        sampler = how.sampler
        x = template.keep(torch.full_like(template.tokens, self.vocab_size))
        if sampler == "ancestral":
            for t, s in times(how.steps):
                x = torch.where(
                    x == self.vocab_size, categorical(self.transition(x, t, s), how.g), x
                )
                how.watch(x)
            return x
        length = x.shape[1]
        size = self.block_size if sampler == "semi-ar" else length
        blocks = range(0, length, size)
        for start in blocks:
            inside = torch.zeros(length, dtype=torch.bool)
            inside[start : start + size] = True
            each = max(1, how.steps // len(blocks))
            x = unmask(self.read, x, inside, self.vocab_size, each, how)
        return x

    def transition(self, x: Tensor, t: float, s: float) -> Tensor:
        """p(x_s | x_t), MDLM eq. 7, (batch, length, vocab_size + 1): the last state is the mask.

        A mask stays one with probability s/t, else becomes a token as the network says; a token
        stays.
        """
        p = self.read(x).softmax(-1) * (1 - s / t)
        stays = torch.full_like(p[..., :1], s / t)
        clean = (x != self.vocab_size)[..., None]
        return torch.where(clean, one_hot(x, self.vocab_size + 1), torch.cat([p, stays], -1))


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
    read: Callable[[Tensor], Tensor],
    x: Tensor,
    inside: Tensor,
    mask_id: int,
    steps: int,
    how: SamplerSettings,
) -> Tensor:
    """LLaDA, algorithms 4 (random) and 5 (low-confidence remasking), over the positions `inside`.

    Every mask gets a token drawn from the network; in each step the ones it is surest of stay, or
    random ones, as many as the schedule says, and the others are masked again.
    """
    open_ = (x == mask_id) & inside
    counts = [schedule_counts(int(n), steps) for n in open_.sum(1)]
    for step in range(steps):
        open_ = (x == mask_id) & inside
        if not bool(open_.any()):
            break
        p = read(x).softmax(-1)
        drawn = categorical(p, how.g)
        if how.sampler == "random":
            score = torch.rand(x.shape, generator=how.g)
        else:
            score = p.gather(-1, drawn[..., None])[..., 0]
        order = score.masked_fill(~open_, -1.0).argsort(-1, descending=True).argsort(-1)
        due = torch.tensor([row[step] for row in counts])[:, None]
        x = torch.where(open_ & (order < due), drawn, x)
        how.watch(x)
    return x
