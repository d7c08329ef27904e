"""Worlds small enough to enumerate: a known joint of a few tokens, and networks that know it."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import torch
from torch import Tensor, nn

VOCAB, LENGTH = 3, 3
EVEN = torch.full((VOCAB,), 1 / VOCAB)
"""Frequencies, for families that do not look at them."""


def joint(vocab: int = VOCAB, length: int = LENGTH, seed: int = 0) -> Tensor:
    """Probabilities (vocab ** length,) of all texts, far from independent."""
    g = torch.Generator().manual_seed(seed)
    weights = torch.rand(vocab**length, generator=g) ** 3 + 0.01
    return weights / weights.sum()


def texts(states: int = VOCAB, length: int = LENGTH) -> Tensor:
    """(states ** length, length): every one, in the order of `index`."""
    return torch.tensor(list(itertools.product(range(states), repeat=length)))


def index(tokens: Tensor, states: int) -> Tensor:
    powers = states ** torch.arange(tokens.shape[-1] - 1, -1, -1)
    return (tokens * powers).sum(-1)


class Table(nn.Module):
    """Random logits for every noisy text, which change with the noise level."""

    def __init__(self, states: int, vocab: int = VOCAB, length: int = LENGTH) -> None:
        super().__init__()
        g = torch.Generator().manual_seed(1)
        self.states = states
        self.logits = torch.randn(2, states**length, length, vocab, generator=g)

    def forward(self, noisy: Tensor, mask: Tensor, t: Tensor | None = None) -> Tensor:
        at = index(noisy, self.states)
        level = 0.5 if t is None else t[:, None, None]
        return self.logits[0, at] + level * self.logits[1, at]


Channel = Callable[[Tensor], Tensor]
"""q(x_t | x_0) of one token at levels t (batch,): (batch, vocab, states)."""


def absorbing(t: Tensor) -> Tensor:
    kept = (1 - t)[:, None, None] * torch.eye(VOCAB)
    return torch.cat([kept, t[:, None, None].expand(-1, VOCAB, 1)], dim=-1)


def uniform(t: Tensor) -> Tensor:
    t = t[:, None, None]
    return (1 - t) * torch.eye(VOCAB) + t / VOCAB


class Exact(nn.Module):
    """log p(x_i | what the noisy text says at all other places): nothing better can be known.

    Where position i itself is a mask that is its posterior; else the family adds what x_i says.
    """

    def __init__(self, p: Tensor, channel: Channel, length: int = LENGTH) -> None:
        super().__init__()
        self.p, self.channel, self.texts = p, channel, texts(length=length)

    def forward(self, noisy: Tensor, mask: Tensor, t: Tensor | None = None) -> Tensor:
        level = torch.full((len(noisy),), 0.5) if t is None else t
        return self.others(self.likelihoods(noisy, level)).log()

    def likelihoods(self, noisy: Tensor, t: Tensor) -> Tensor:
        """q(noisy_i | x_i) for every text x, (batch, texts, length)."""
        q = self.channel(t)
        rows = torch.arange(len(noisy))[:, None, None]
        return q[rows, self.texts[None], noisy[:, None]]

    def others(self, likelihoods: Tensor) -> Tensor:
        """(batch, length, vocab), by leaving one position's likelihood out."""
        found = []
        for i in range(likelihoods.shape[-1]):
            rest = [j for j in range(likelihoods.shape[-1]) if j != i]
            weight = self.p * likelihoods[..., rest].prod(-1)
            found.append(weight @ torch.eye(VOCAB)[self.texts[:, i]])
        p = torch.stack(found, dim=1).clamp_min(1e-30)
        return p / p.sum(-1, keepdim=True)


def quadrature(n: int = 60) -> tuple[Tensor, Tensor]:
    """Places and weights of an integral over (0, 1), Gauss-Legendre."""
    import numpy as np

    x, w = np.polynomial.legendre.leggauss(n)
    return torch.tensor((x + 1) / 2).float(), torch.tensor(w / 2).float()
