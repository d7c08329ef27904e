"""SEDD (arXiv 2310.16834): ratios of probabilities, s(x)_y = p_t(y) / p_t(x), by score entropy.

Noise is log-linear: sigma(t) = -log(1 - t), so that a share alpha = e^-sigma = 1 - t of the tokens
is clean at t. With the rates Q the bound (eq. 9, theorem 3.6) is the integral over t of

    sigma'(t) sum_{y != x} Q(y, x) [ s_y - r_y log s_y + K(r_y) ],   K(a) = a (log a - 1),

where r_y = q_t(y | x_0) / q_t(x | x_0) is the true ratio.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from blockdiff.lab.family import (
    LabFamily,
    SamplerSettings,
    Template,
    categorical,
    one_hot,
    times,
    uneven_levels,
)  # fmt: skip


class SeddAbsorbing(LabFamily):
    """Only masks move, and only to tokens; log s_y = f_y - log(e^sigma - 1) (the paper's scaling).

    Nothing forces sum_y e^{f_y} = 1: what the network misses there MDLM never pays.
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

    def transition(self, x: Tensor, t: float, s: float, sampler: str) -> Tensor:
        """Of the masks from t to s, (batch, length, vocab_size + 1), the mask last.

        Tweedie (theorem 4.2): (e^{-d Q} s)_y e^{d Q}(x, y) with d = sigma(t) - sigma(s), at a mask
        s_y (e^d - 1) and the rest. Tau-leaping (eq. 19): s_y d and the rest.
        """
        level = torch.full((len(x),), t)
        score = self.read(x, level).exp() * (1 - t) / t
        ratio = (1 - s) / (1 - t)  # e^d
        leap = ratio - 1 if sampler == "tweedie" else torch.tensor(ratio).log()
        return _with_rest(score * leap)

    def write(self, template: Template, how: SamplerSettings) -> Tensor:
        x = template.keep(torch.full_like(template.tokens, self.vocab_size))
        for t, s in _clipped(how.steps):
            weights = self.transition(x, t, s, how.sampler)
            x = torch.where(x == self.vocab_size, categorical(weights, how.g), x)
            how.watch(x)
        left = self.read(x, torch.full((len(x),), 1e-4))  # few, if any
        return torch.where(x == self.vocab_size, categorical(left.softmax(-1), how.g), x)


class SeddUniform(LabFamily):
    """Every token moves to any: Q(y, x) = 1 / vocab_size for y != x.

    Attributes:
        frequencies: (vocab_size,) of single tokens. The network corrects the score of independent
            tokens, log s = log s_independent + alpha h(x), which leaves the ratios that are
            nearly 1 where nearly all is noise nearly 1.
    """

    samplers = ("tweedie", "tau-leaping")
    frequencies: Tensor

    def __init__(self, network: nn.Module, vocab_size: int, frequencies: Tensor) -> None:
        super().__init__(network, vocab_size)
        self.register_buffer("frequencies", frequencies)

    def drawn(self, tokens: Tensor, g: torch.Generator) -> Tensor:
        t, weight = uneven_levels(len(tokens), g)
        noisy = uniform_noise(tokens, t[:, None], self.vocab_size, g)
        log_s = self.log_score(self.read(noisy, t), noisy, t[:, None])
        return weight[:, None] * score_entropy(log_s, noisy, tokens, t[:, None])

    def log_score(self, h: Tensor, x: Tensor, t: Tensor) -> Tensor:
        """(batch, length, vocab), 0 at y = x."""
        alpha = (1 - t)[..., None]
        independent = (alpha * self.frequencies + (1 - alpha) / self.vocab_size).log()
        logs = independent + alpha * h
        return logs - logs.gather(-1, x[..., None])

    def transition(self, x: Tensor, t: float, s: float, sampler: str) -> Tensor:
        """Weights of x_s, (batch, length, vocab).

        Tweedie: e^{-dQ} = e^d I + (1 - e^d) U and e^{dQ} = e^-d I + (1 - e^-d) U, U all 1/vocab.
        Tau-leaping: s_y d / vocab for y != x, and the rest stays.
        """
        level = torch.full((len(x), 1), t)
        score = self.log_score(self.read(x, level[:, 0]), x, level).exp()
        ratio = (1 - s) / (1 - t)
        here = one_hot(x, self.vocab_size)
        if sampler == "tweedie":
            undone = ratio * score + (1 - ratio) * score.mean(-1, keepdim=True)
            moved = here / ratio + (1 - 1 / ratio) / self.vocab_size
            return undone.clamp_min(0) * moved
        leap = score * torch.tensor(ratio).log() / self.vocab_size * (1 - here)
        return leap + here * (1 - leap.sum(-1, keepdim=True)).clamp_min(0)

    def write(self, template: Template, how: SamplerSettings) -> Tensor:
        x = template.keep(torch.randint(0, self.vocab_size, template.tokens.shape, generator=how.g))
        for t, s in _clipped(how.steps):
            weights = self.transition(x, t, s, how.sampler)
            x = template.keep(categorical(weights, how.g))
            how.watch(x)
        return x


def uniform_noise(tokens: Tensor, t: Tensor, vocab_size: int, g: torch.Generator) -> Tensor:
    """Each token drawn anew, from all, with probability t; it may come back."""
    other = torch.randint(0, vocab_size, tokens.shape, generator=g)
    return torch.where(torch.rand(tokens.shape, generator=g) < t, other, tokens)


def score_entropy(log_s: Tensor, noisy: Tensor, tokens: Tensor, t: Tensor) -> Tensor:
    """The bound's integrand under uniform noise, (batch, length); log_s is 0 at y = x.

    The true ratio has three values: with b = (1 - alpha) / vocab and a = alpha + b it is a/b at
    y = x_0 != x, b/a everywhere where x = x_0, and 1 elsewhere.
    """
    vocab = log_s.shape[-1]
    b = t / vocab
    a = 1 - t + b
    clean = noisy == tokens
    r = torch.where(clean, b / a, 1.0)
    others = log_s.exp().sum(-1) - 1 - r * log_s.sum(-1) + (vocab - 1) * _k(r)
    log_right = log_s.gather(-1, tokens[..., None])[..., 0]
    at_right = (1 - a / b) * log_right + _k(a / b) - _k(torch.ones_like(r))
    return (others + torch.where(clean, 0.0, at_right)) / (vocab * (1 - t))


def _k(a: Tensor) -> Tensor:
    return a * (a.log() - 1)


def _with_rest(weights: Tensor) -> Tensor:
    """What is left of 1 as a last state; where the weights exceed 1, nothing."""
    rest = (1 - weights.sum(-1, keepdim=True)).clamp_min(0)
    return torch.cat([weights, rest], dim=-1)


def _clipped(steps: int) -> list[tuple[float, float]]:
    """sigma is infinite at t = 1: sampling begins just below."""
    return [(min(t, 1 - 1e-3), min(s, 1 - 1e-3)) for t, s in times(steps)]
