"""D3PM (arXiv 2107.03006): a Markov chain of T steps over tokens, each with its matrix Q_t.

The network predicts x_0; a step back follows by Bayes' rule (eq. 4),

    p(x_s | x_t) ~ q(x_t | x_s) * sum_{x_0} q(x_s | x_0) p(x_0 | x_t),

and training minimises the variational bound plus a little cross-entropy (eq. 5, the hybrid loss).
All matrices here have a closed form, so that a row of them costs a pass over the vocabulary, and
q(x_T | x_0) is the same for every x_0: of the prior's term in the bound (eq. 1) nothing is left.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import torch
from torch import Tensor

from blockdiff.lab.family import LabFamily, categorical, nll, one_hot, uneven_levels


class D3pm(LabFamily):
    """A share 1 - t/T of the tokens is untouched at t; times are integers from 0 to T = `steps`."""

    hybrid = 0.01  # lambda, the weight of the cross-entropy: the paper's for text

    def __init__(self, network: Any, frequencies: Tensor, steps: int = 128) -> None:
        super().__init__(network, frequencies)
        self.steps = steps

    @abstractmethod
    def forward_process(self, p: Tensor, t: Tensor) -> Tensor:
        """q(x_t) where x_0 has the distribution p: p Q_1 .. Q_t; (.., vocab) to (.., states)."""

    @abstractmethod
    def likelihood(self, x: Tensor, s: Tensor, t: Tensor) -> Tensor:
        """q(x_t = x | x_s) for every x_s: a column of Q_{s+1} .. Q_t; (batch, length, states)."""

    def loss(self, tokens: Tensor, g: torch.Generator) -> Tensor:
        terms, cross_entropy = self._drawn(tokens, g)
        return terms.mean() + self.hybrid * cross_entropy.mean()

    def drawn(self, tokens: Tensor, g: torch.Generator) -> Tensor:
        return self._drawn(tokens, g)[0]

    def _drawn(self, tokens: Tensor, g: torch.Generator) -> tuple[Tensor, Tensor]:
        """A term of the bound over the chance of its t, and the cross-entropy; (batch, length)."""
        t = (uneven_levels(len(tokens), g)[0] * self.steps).ceil().clamp(1, self.steps)
        chance = (t / self.steps).sqrt() - ((t - 1) / self.steps).sqrt()
        t = t[:, None, None]
        noisy = categorical(self.forward_process(one_hot(tokens, self.vocab_size), t), g)
        logits = self.read(noisy, t.flatten() / self.steps)
        return self.divergence(logits, noisy, tokens, t) / chance[:, None], nll(logits, tokens)

    def divergence(self, logits: Tensor, noisy: Tensor, tokens: Tensor, t: Tensor) -> Tensor:
        """KL(q(x_{t-1} | x_t, x_0) || p(x_{t-1} | x_t)), (batch, length).

        At t = 1 the first is certain and this is -log p(x_0 | x_1), the last term of the bound.
        """
        right = self.back(one_hot(tokens, self.vocab_size), noisy, t, t - 1)
        ours = self.back(logits.softmax(-1), noisy, t, t - 1)
        return (torch.xlogy(right, right) - torch.xlogy(right, ours.clamp_min(1e-30))).sum(-1)

    def back(self, p: Tensor, noisy: Tensor, t: Tensor, s: Tensor) -> Tensor:
        """Eq. 4: the distribution of x_s, given x_t and that of x_0; (batch, length, states)."""
        joint = self.likelihood(noisy, s, t) * self.forward_process(p, s)
        return joint / joint.sum(-1, keepdim=True)

    def transition(self, x: Tensor, t: float, s: float, sampler: str = "") -> Tensor:
        """Between the chain's steps next to t and s; where they are one, all stays."""
        start, end = (torch.tensor(round(level * self.steps)) for level in (t, s))
        p = self.read(x, (start / self.steps).expand(len(x))).softmax(-1)
        if start == end:
            return one_hot(x, self.forward_process(p, start).shape[-1])
        return self.back(p, x, start, end)


class D3pmAbsorbing(D3pm):
    """The mask is the last state; beta_t = 1 / (T - t + 1), so that t/T are masked at t."""

    def forward_process(self, p: Tensor, t: Tensor) -> Tensor:
        kept = 1 - t / self.steps
        return torch.cat([p * kept, (1 - kept) * p.sum(-1, keepdim=True)], dim=-1)

    def likelihood(self, x: Tensor, s: Tensor, t: Tensor) -> Tensor:
        kept = (self.steps - t) / (self.steps - s)
        same = one_hot(x, self.vocab_size + 1)
        from_words = torch.where((x == self.vocab_size)[..., None], 1 - kept, kept * same)
        return torch.cat([from_words[..., :-1], same[..., -1:]], dim=-1)


class D3pmMixing(D3pm):
    """Tokens become tokens: any, or first those of their own group of near ones (A.2.4).

    With the projections G, the mean over a group, and U, the mean over all,

        Q_1 .. Q_t = fine (I - G) + coarse (G - U) + U,

    and products of such matrices multiply `fine` and `coarse`. Where `fine` equals `coarse` G drops
    out: uniform noise. The paper's graph of nearest neighbours is cut into cliques here, which is
    what makes exp(tR) a closed form: `groups` (groups, size) has each token once; None: uniform.
    """

    mixes = True

    def __init__(
        self, network: Any, frequencies: Tensor, steps: int = 128, groups: Tensor | None = None
    ) -> None:
        super().__init__(network, frequencies, steps)
        self.groups = groups

    def _mixed(self, p: Tensor, coarse: Tensor) -> Tensor:
        """p times that matrix, which is symmetric."""
        fine = coarse if self.groups is None else coarse**3
        mixed = fine * p + (1 - coarse) * p.mean(-1, keepdim=True)
        if self.groups is None:
            return mixed
        near = p[..., self.groups.flatten()].view(*p.shape[:-1], *self.groups.shape)
        means = near.mean(-1, keepdim=True).expand_as(near).flatten(-2)
        return mixed + (coarse - fine) * means[..., self.groups.flatten().argsort()]

    def forward_process(self, p: Tensor, t: Tensor) -> Tensor:
        return self._mixed(p, 1 - t / self.steps)

    def likelihood(self, x: Tensor, s: Tensor, t: Tensor) -> Tensor:
        return self._mixed(one_hot(x, self.vocab_size), (self.steps - t) / (self.steps - s))
