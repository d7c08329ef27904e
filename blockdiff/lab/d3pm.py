"""D3PM (arXiv 2107.03006): a Markov chain of T steps over tokens, each with its matrix Q_t.

The network predicts x_0; a step back follows by Bayes' rule (eq. 4),

    p(x_s | x_t) ~ q(x_t | x_s) * sum_{x_0} q(x_s | x_0) p(x_0 | x_t),

and training minimises the variational bound plus a little cross-entropy (eq. 5, the hybrid loss).
All matrices here have a closed form, so that a row of them costs a pass over the vocabulary.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor, nn

from blockdiff.lab.family import (
    LabFamily,
    SamplerSettings,
    Template,
    categorical,
    nll,
    one_hot,
    uneven_levels,
)


class Chain(Protocol):
    """The forward process. Times are (batch, 1, 1) integers from 0 to `steps`."""

    steps: int

    def forward(self, p: Tensor, t: Tensor) -> Tensor:
        """q(x_t) where x_0 has the distribution p: p Q_1 .. Q_t; (.., vocab) to (.., states)."""
        ...

    def likelihood(self, x: Tensor, s: Tensor, t: Tensor) -> Tensor:
        """q(x_t = x | x_s) for every x_s: a column of Q_{s+1} .. Q_t; (batch, length, states)."""
        ...

    def start(self, shape: torch.Size, g: torch.Generator) -> Tensor:
        """x_T of the reverse process."""
        ...

    def prior(self, states: int) -> Tensor:
        """(states,) its distribution."""
        ...


class Absorbing:
    """The mask is the last state; beta_t = 1 / (T - t + 1), so that t/T are masked at t."""

    def __init__(self, vocab_size: int, steps: int) -> None:
        self.vocab_size, self.steps = vocab_size, steps

    def _kept(self, t: Tensor) -> Tensor:
        return 1 - t / self.steps

    def forward(self, p: Tensor, t: Tensor) -> Tensor:
        kept = self._kept(t)
        return torch.cat([p * kept, (1 - kept) * p.sum(-1, keepdim=True)], dim=-1)

    def likelihood(self, x: Tensor, s: Tensor, t: Tensor) -> Tensor:
        kept = self._kept(t) / self._kept(s)
        same = one_hot(x, self.vocab_size + 1)
        from_words = torch.where((x == self.vocab_size)[..., None], 1 - kept, kept * same)
        return torch.cat([from_words[..., :-1], same[..., -1:]], dim=-1)

    def start(self, shape: torch.Size, g: torch.Generator) -> Tensor:
        return torch.full(shape, self.vocab_size)

    def prior(self, states: int) -> Tensor:
        return one_hot(torch.tensor(states - 1), states)


class Mixing:
    """Tokens become tokens: any, or first those of their own group of near ones (A.2.4).

    With the projections G, the mean over a group, and U, the mean over all,

        Q_1 .. Q_t = fine (I - G) + coarse (G - U) + U,

    and products of such matrices multiply `fine` and `coarse`. Where `fine` equals `coarse` G drops
    out: uniform noise. The paper's graph of nearest neighbours is cut into cliques here, which is
    what makes exp(tR) a closed form at any size of the vocabulary.

    Attributes:
        order: (groups, size) token ids, each once; None: uniform.
    """

    def __init__(self, vocab_size: int, steps: int, order: Tensor | None = None) -> None:
        self.vocab_size, self.steps, self.order = vocab_size, steps, order

    def _eigenvalues(self, t: Tensor) -> tuple[Tensor, Tensor]:
        coarse = 1 - t / self.steps
        return (coarse if self.order is None else coarse**3), coarse

    def _apply(self, p: Tensor, fine: Tensor, coarse: Tensor) -> Tensor:
        """p times that matrix, which is symmetric."""
        everywhere = p.mean(-1, keepdim=True)
        mixed = fine * p + (1 - coarse) * everywhere
        if self.order is None:
            return mixed
        near = p[..., self.order.flatten()].view(*p.shape[:-1], *self.order.shape)
        means = near.mean(-1, keepdim=True).expand_as(near).flatten(-2)
        return mixed + (coarse - fine) * means[..., self.order.flatten().argsort()]

    def forward(self, p: Tensor, t: Tensor) -> Tensor:
        return self._apply(p, *self._eigenvalues(t))

    def likelihood(self, x: Tensor, s: Tensor, t: Tensor) -> Tensor:
        after, before = self._eigenvalues(t), self._eigenvalues(s)
        ratios = (a / b for a, b in zip(after, before, strict=True))
        return self._apply(one_hot(x, self.vocab_size), *ratios)

    def start(self, shape: torch.Size, g: torch.Generator) -> Tensor:
        return torch.randint(0, self.vocab_size, shape, generator=g)

    def prior(self, states: int) -> Tensor:
        return torch.full((states,), 1 / states)


class D3pm(LabFamily):
    """`hybrid` is the weight lambda of the cross-entropy (0.01, the paper's for text)."""

    hybrid = 0.01

    def __init__(self, network: nn.Module, vocab_size: int, chain: Chain) -> None:
        super().__init__(network, vocab_size)
        self.chain = chain

    def loss(self, tokens: Tensor, g: torch.Generator) -> Tensor:
        terms, cross_entropy = self._drawn(tokens, g)
        return terms.mean() + self.hybrid * cross_entropy.mean()

    def drawn(self, tokens: Tensor, g: torch.Generator) -> Tensor:
        """One term of the sum over t over the chance of that t, and the prior's (eq. 1)."""
        return self._drawn(tokens, g)[0] + self.prior_divergence(tokens)

    def _drawn(self, tokens: Tensor, g: torch.Generator) -> tuple[Tensor, Tensor]:
        """That term and the cross-entropy, both (batch, length)."""
        steps = self.chain.steps
        t = (uneven_levels(len(tokens), g)[0] * steps).ceil().clamp(1, steps)[:, None, None]
        chance = (t / steps).sqrt() - ((t - 1) / steps).sqrt()
        noisy = self.corrupt(tokens, t, g)
        logits = self.read(noisy, t.flatten() / steps)
        return self.divergence(logits, noisy, tokens, t) / chance[..., 0], nll(logits, tokens)

    def corrupt(self, tokens: Tensor, t: Tensor, g: torch.Generator) -> Tensor:
        return categorical(self.chain.forward(one_hot(tokens, self.vocab_size), t), g)

    def divergence(self, logits: Tensor, noisy: Tensor, tokens: Tensor, t: Tensor) -> Tensor:
        """KL(q(x_{t-1} | x_t, x_0) || p(x_{t-1} | x_t)), (batch, length).

        At t = 1 the first is certain and this is -log p(x_0 | x_1), the last term of the bound.
        """
        clean = one_hot(tokens, self.vocab_size)
        return _kl(*(self.back(p, noisy, t, t - 1) for p in (clean, logits.softmax(-1))))

    def back(self, p: Tensor, noisy: Tensor, t: Tensor, s: Tensor) -> Tensor:
        """Eq. 4: the distribution of x_s, given x_t and that of x_0; (batch, length, states)."""
        joint = self.chain.likelihood(noisy, s, t) * self.chain.forward(p, s)
        return joint / joint.sum(-1, keepdim=True)

    def prior_divergence(self, tokens: Tensor) -> Tensor:
        """KL(q(x_T | x_0) || p(x_T)), (batch, length)."""
        end = torch.full((1, 1, 1), self.chain.steps)
        last = self.chain.forward(one_hot(tokens, self.vocab_size), end)
        return _kl(last, self.chain.prior(last.shape[-1]).expand_as(last))

    def write(self, template: Template, how: SamplerSettings) -> Tensor:
        x = template.keep(self.chain.start(template.tokens.shape, how.g))
        steps = self.chain.steps
        ends = torch.linspace(steps, 0, min(how.steps, steps) + 1).round().long()
        for t, s in zip(ends, ends[1:], strict=False):
            p = self.read(x, (t / steps).expand(len(x))).softmax(-1)
            x = template.keep(categorical(self.back(p, x, t, s), how.g))
            how.watch(x)
        return x


def _kl(p: Tensor, q: Tensor) -> Tensor:
    """KL(p || q) over the last dimension, nats; 0 log 0 is 0."""
    return (torch.xlogy(p, p) - torch.xlogy(p, q.clamp_min(1e-30))).sum(-1)
