"""Score entropy: SEDD (arXiv 2310.16834), and uniform noise, UDLM (arXiv 2412.10193).

Ratios of probabilities, s(x)_y = p_t(y) / p_t(x), are learnt. A token is noise with probability
t = 1 - alpha = 1 - e^-sigma; the bound (SEDD eq. 9, theorem 3.6; UDLM eq. 18) is the integral of

    sigma'(t) sum_{y != x} Q(y, x) [ s_y - r_y log s_y + K(r_y) ],   K(a) = a (log a - 1),

over t, where r_y = q_t(y | x_0) / q_t(x | x_0) is the true ratio. Families differ in the noise, and
in how the network's numbers become ratios.
"""

from __future__ import annotations

import math
from abc import abstractmethod

import torch
from torch import Tensor

from blockdiff.lab.absorbing import of_masks
from blockdiff.lab.family import LabFamily, SamplerSettings, categorical, one_hot, uneven_levels


class ScoreEntropy(LabFamily):
    samplers = ("tweedie", "tau-leaping")

    @abstractmethod
    def integrand(self, out: Tensor, noisy: Tensor, tokens: Tensor, t: Tensor) -> Tensor:
        """(batch, length), of what the network says of the noisy text; t is (batch, 1)."""

    def drawn(self, tokens: Tensor, g: torch.Generator) -> Tensor:
        t, weight = uneven_levels(len(tokens), g)
        noisy = self.corrupted(tokens, t[:, None], g)
        return weight[:, None] * self.integrand(self.read(noisy, t), noisy, tokens, t[:, None])


class SeddAbsorbing(ScoreEntropy):
    """log s_y = f_y - log(e^sigma - 1) (the paper's scaling); only masks move, and only to tokens.

    Nothing forces sum_y e^{f_y} = 1: what the network misses there MDLM never pays.
    """

    def integrand(self, out: Tensor, noisy: Tensor, tokens: Tensor, t: Tensor) -> Tensor:
        """With a = 1 / (e^sigma - 1) = (1 - t) / t, s = a e^f and r = a at x_0:

        sigma' [ sum_y a e^{f_y} - a log(a e^{f_x0}) + a (log a - 1) ] = [sum e^f - f_x0 - 1] / t.
        """
        right = out.gather(-1, tokens[..., None])[..., 0]
        nats = out.logsumexp(-1).exp() - right - 1
        return self.steadied(nats, tokens, (noisy == self.vocab_size) / t)

    def transition(self, x: Tensor, t: float, s: float, sampler: str = "tweedie") -> Tensor:
        """Tweedie (theorem 4.2): (e^{-d Q} s)_y e^{d Q}(x, y) with d = sigma(t) - sigma(s), at a
        mask s_y (e^d - 1) and the rest. Tau-leaping (eq. 19): s_y d and the rest."""
        score = self.read(x, torch.full((len(x),), t)).exp() * (1 - t) / t
        ratio = (1 - s) / (1 - t)  # e^d
        leap = ratio - 1 if sampler == "tweedie" else math.log(ratio)
        return of_masks(x, score * leap, self.vocab_size)

    def write(self, template: Tensor, how: SamplerSettings) -> Tensor:
        x = super().write(template, how)
        left = self.read(x, torch.full((len(x),), 1e-4)).softmax(-1)  # few, if any
        return torch.where(x == self.vocab_size, categorical(left, how.g), x)


class UniformNoise(ScoreEntropy):
    """A token is drawn anew, from all: Q(y, x) = 1 / vocab_size. Sampling may begin from any text
    at any noise: that is revision (`denoise`)."""

    mixes = True

    @abstractmethod
    def log_score(self, out: Tensor, x: Tensor, t: Tensor) -> Tensor:
        """log s, (batch, length, vocab), up to a constant in each row; t is (batch, 1)."""

    def integrand(self, out: Tensor, noisy: Tensor, tokens: Tensor, t: Tensor) -> Tensor:
        return score_entropy(self.log_score(out, noisy, t), noisy, tokens, t)

    def transition(self, x: Tensor, t: float, s: float, sampler: str = "tweedie") -> Tensor:
        """Tweedie: e^{-dQ} = e^d I + (1 - e^d) U and e^{dQ} = e^-d I + (1 - e^-d) U, U all 1/vocab.
        For UDLM that is Bayes' rule. Tau-leaping: s_y d / vocab for y != x, and the rest stays."""
        level = torch.full((len(x), 1), t)
        log_s = self.log_score(self.read(x, level[:, 0]), x, level)
        score = (log_s - log_s.gather(-1, x[..., None])).exp()
        ratio = (1 - s) / (1 - t)
        here = one_hot(x, self.vocab_size)
        if sampler == "tweedie":
            undone = ratio * score + (1 - ratio) * score.mean(-1, keepdim=True)
            return undone.clamp_min(0) * (here / ratio + (1 - 1 / ratio) / self.vocab_size)
        leap = score * math.log(ratio) / self.vocab_size * (1 - here)
        return leap + here * (1 - leap.sum(-1, keepdim=True)).clamp_min(0)


class Uniform(UniformNoise):
    """UDLM: the network's p in place of x_0 gives s_y ~ alpha p_y + t/V (section 4)."""

    def log_score(self, out: Tensor, x: Tensor, t: Tensor) -> Tensor:
        return ((1 - t)[..., None] * out.softmax(-1) + t[..., None] / self.vocab_size).log()


class SeddUniform(UniformNoise):
    """SEDD: the network corrects the score of independent tokens, log s = log s_independent +
    alpha h, which leaves the ratios that are nearly 1 where nearly all is noise nearly 1."""

    def log_score(self, out: Tensor, x: Tensor, t: Tensor) -> Tensor:
        alpha = (1 - t)[..., None]
        independent = (alpha * self.frequencies + (1 - alpha) / self.vocab_size).log()
        return independent + alpha * (out - self.frequencies.log())


def score_entropy(log_s: Tensor, noisy: Tensor, tokens: Tensor, t: Tensor) -> Tensor:
    """The integrand of uniform noise, (batch, length); log_s up to a constant in each row.

    The true ratio has three values: with b = (1 - alpha) / vocab and a = alpha + b it is a/b at
    y = x_0 != x, b/a everywhere where x = x_0, and 1 elsewhere.
    """
    vocab, here = log_s.shape[-1], log_s.gather(-1, noisy[..., None])
    b = t / vocab
    a = 1 - t + b
    clean = noisy == tokens
    r = torch.where(clean, b / a, 1.0)
    ratios = (log_s.logsumexp(-1) - here[..., 0]).exp() - 1  # their sum but for y = x
    logs = log_s.sum(-1) - vocab * here[..., 0]
    log_right = (log_s.gather(-1, tokens[..., None]) - here)[..., 0]
    at_right = (1 - a / b) * log_right + _k(a / b) - _k(torch.ones(()))
    total = ratios - r * logs + (vocab - 1) * _k(r) + torch.where(clean, 0.0, at_right)
    return total / (vocab * (1 - t))


def _k(a: Tensor) -> Tensor:
    return a * (a.log() - 1)
