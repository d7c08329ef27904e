"""Gaussian diffusion of token embeddings, and the solvers of its reverse process.

z = alpha x + sigma eps with alpha^2 + sigma^2 = 1, where x is the embedding of a token; the log
signal-to-noise ratio lambda = log(alpha^2 / sigma^2) falls linearly from t = 0 to t = 1. The bound
is that of VDM (arXiv 2107.00630, eq. 11 to 15) in continuous time.
"""

from __future__ import annotations

import math
from abc import abstractmethod

import torch
from torch import Tensor, nn

from blockdiff.lab.family import LabFamily, SamplerSettings, Template, levels, nll, times


def alpha_sigma(lam: Tensor) -> tuple[Tensor, Tensor]:
    """Signal and noise at a log signal-to-noise ratio."""
    return torch.sigmoid(lam).sqrt(), torch.sigmoid(-lam).sqrt()


class Gaussian(LabFamily):
    """Families differ in embeddings, loss and `correction`; all denoise to a mean of embeddings.

    The words' probabilities at a noisy vector combine what the network says with what the vector
    itself says, which is known (the output prior of Plaid, arXiv 2305.18619, section 3.4):

        p(w | z, t) ~ frequency(w) N(z; alpha e_w, sigma^2) exp(correction_w),

    and x is predicted as sum_w p(w) e_w (score interpolation, CDCD, arXiv 2211.15089, eq. 4), which
    also is Diffusion-LM's clamping to words, made soft. An untrained network corrects nothing.

    Attributes:
        ends: lambda at t = 0 and at t = 1.
        self_conditioning: the network also sees its last x (Analog Bits, section 3.2).
    """

    samplers = ("ddim", "ddpm", "dpm-solver++(2m)")
    self_conditioning = True
    ends: Tensor

    def __init__(self, network: nn.Module, vocab_size: int) -> None:
        super().__init__(network, vocab_size)
        self.register_buffer("ends", torch.tensor([5.0, -8.0]))

    @abstractmethod
    def embeddings(self) -> Tensor:
        """(vocab, dimensions), of mean square 1 in each row."""

    @abstractmethod
    def correction(self, out: Tensor, lam: Tensor) -> Tensor:
        """(batch, length, vocab) from the network's numbers; with the log frequencies."""

    def level(self, t: Tensor) -> Tensor:
        """lambda at t, (batch, 1, 1)."""
        level: Tensor = self.ends[0] + (self.ends[1] - self.ends[0]) * t
        return level[:, None, None]

    def words(self, z: Tensor, t: Tensor, last: Tensor | None = None) -> Tensor:
        """Logits of p(w | z, t), (batch, length, vocab); `last`: an earlier prediction of x."""
        inputs = z
        if self.self_conditioning:
            inputs = torch.cat([z, torch.zeros_like(z) if last is None else last], dim=-1)
        return self.combined(z, self.read(inputs, t), self.level(t))

    def combined(self, z: Tensor, out: Tensor, lam: Tensor) -> Tensor:
        """What the network says of the words, and what z does: log N(z; alpha e_w, sigma^2)."""
        alpha, sigma = alpha_sigma(lam)
        e = self.embeddings()
        evidence = (alpha / sigma**2) * (z @ e.T) - 0.5 * lam.exp() * e.square().sum(-1)
        return self.correction(out, lam) + evidence

    def mean(self, words: Tensor) -> Tensor:
        """The prediction of x."""
        return words.softmax(-1) @ self.embeddings()

    def noised(self, x: Tensor, t: Tensor, g: torch.Generator) -> Tensor:
        alpha, sigma = alpha_sigma(self.level(t))
        return alpha * x + sigma * torch.randn(x.shape, generator=g)

    def predicted(self, z: Tensor, t: Tensor, twice: bool) -> Tensor:
        """As `words`; with `twice` the network sees its own first prediction."""
        last = None
        if twice and self.self_conditioning:
            with torch.no_grad():
                last = self.mean(self.words(z, t))
        return self.words(z, t, last)

    def chance(self, g: torch.Generator) -> bool:
        """Half of the training steps are self-conditioned."""
        return bool(torch.rand((), generator=g) < 0.5)

    def drawn(self, tokens: Tensor, g: torch.Generator) -> Tensor:
        return self.terms(tokens, levels(len(tokens), g), g, twice=True)

    def terms(self, tokens: Tensor, t: Tensor, g: torch.Generator, twice: bool) -> Tensor:
        """(batch, length) nats: prior, reconstruction, and the diffusion loss as drawn at t."""
        x = self.embeddings()[tokens]
        words = self.predicted(self.noised(x, t, g), t, twice)
        zero = torch.zeros(len(tokens))
        first = self.predicted(self.noised(x, zero, g), zero, twice)
        reconstruction = nll(first, tokens)
        diffusion = self.integrand(x, self.mean(words), t)
        return diffusion + reconstruction + self.prior_divergence(x)

    def integrand(self, x: Tensor, predicted: Tensor, t: Tensor) -> Tensor:
        """VDM eq. 15, (batch, length): -1/2 SNR'(t) |x - predicted|^2."""
        rate = 0.5 * (self.ends[0] - self.ends[1]) * self.level(t).exp()
        return (rate * (x - predicted).square()).sum(-1)

    def prior_divergence(self, x: Tensor) -> Tensor:
        """KL(q(z_1 | x) || N(0, 1)), (batch, length)."""
        alpha, sigma = alpha_sigma(self.ends[1])
        return 0.5 * ((alpha * x).square() + sigma**2 - 1 - 2 * sigma.log()).sum(-1)

    def write(self, template: Template, how: SamplerSettings) -> Tensor:
        """Known positions hold their noiseless signal at every step (Diffusion-LM's infilling)."""
        e = self.embeddings()
        solver = Solver(how.sampler, how.g)
        z = torch.randn(*template.tokens.shape, e.shape[1], generator=how.g)
        predicted = None
        for start, end in times(how.steps):
            t, s = torch.full((len(z),), start), torch.full((len(z),), end)
            lam, lam_next = self.level(t), self.level(s)
            z = torch.where(template.known[..., None], alpha_sigma(lam)[0] * e[template.tokens], z)
            words = self.words(z, t, predicted)
            predicted = torch.where(template.known[..., None], e[template.tokens], self.mean(words))
            z = solver.step(z, predicted, lam, lam_next)
            how.watch(template.keep(words.argmax(-1)))
        return template.keep(self.words(z, torch.zeros(len(z)), predicted).argmax(-1))


class Solver:
    """One way from z at lambda to z at a larger one, given a prediction of x."""

    def __init__(self, name: str, g: torch.Generator) -> None:
        self.name, self.g = name, g
        self._before: tuple[Tensor, Tensor] | None = None  # the last prediction and its h

    def step(self, z: Tensor, x: Tensor, lam: Tensor, after: Tensor) -> Tensor:
        if self.name == "ddpm":
            return ddpm(z, x, lam, after, self.g)
        if self.name == "ddim":
            return ddim(z, x, lam, after)
        h = (after - lam) / 2  # the paper's lambda is log(alpha / sigma), half of ours
        used = x
        if self._before is not None:
            before, h_before = self._before
            r = h_before / h
            used = x + (x - before) / (2 * r)
        self._before = (x, h)
        return dpm_solver(z, used, lam, after)


def ddpm(z: Tensor, x: Tensor, lam: Tensor, after: Tensor, g: torch.Generator) -> Tensor:
    """A draw of q(z_s | z_t, x): DDPM (arXiv 2006.11239, eq. 6 and 7) in the terms of VDM."""
    mean, deviation = posterior(z, x, lam, after)
    return mean + deviation * torch.randn(z.shape, generator=g)


def posterior(z: Tensor, x: Tensor, lam: Tensor, after: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of q(z_s | z_t, x)."""
    (alpha, _), (alpha_s, sigma_s) = alpha_sigma(lam), alpha_sigma(after)
    c = -torch.expm1(lam - after)
    return alpha_s * ((1 - c) / alpha * z + c * x), sigma_s * c.sqrt()


def ddim(z: Tensor, x: Tensor, lam: Tensor, after: Tensor) -> Tensor:
    """DDIM (arXiv 2010.02502, eq. 12 without noise): the implied noise is kept."""
    (alpha, sigma), (alpha_s, sigma_s) = alpha_sigma(lam), alpha_sigma(after)
    return alpha_s * x + sigma_s * (z - alpha * x) / sigma


def dpm_solver(z: Tensor, x: Tensor, lam: Tensor, after: Tensor) -> Tensor:
    """DPM-Solver++ (arXiv 2211.01095, algorithm 2): x extrapolated makes it of second order."""
    (_, sigma), (alpha_s, sigma_s) = alpha_sigma(lam), alpha_sigma(after)
    return sigma_s / sigma * z - alpha_s * torch.expm1((lam - after) / 2) * x


def on_sphere(vectors: Tensor) -> Tensor:
    """Rows of mean square 1, so that no family gains by longer embeddings."""
    return nn.functional.normalize(vectors, dim=-1) * math.sqrt(vectors.shape[-1])
