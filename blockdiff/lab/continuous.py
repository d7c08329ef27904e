"""Gaussian diffusion of token embeddings: four families, and the solvers of the reverse process.

z = alpha x + sigma eps with alpha^2 + sigma^2 = 1, where x is the embedding of a token; the log
signal-to-noise ratio lambda = log(alpha^2 / sigma^2) falls linearly from t = 0 to t = 1. The bound
is that of VDM (arXiv 2107.00630, eq. 11 to 15) in continuous time.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from blockdiff.lab.family import LabFamily, SamplerSettings, levels, nll

_BINS = 50


class Plaid(LabFamily):
    """Plaid (arXiv 2305.18619): all is learnt by the bound itself, the ends of the noise too.

    The words' probabilities at a noisy vector combine what the network says with what the vector
    itself says, which is known (the output prior, section 3.4):

        p(w | z, t) ~ frequency(w) N(z; alpha e_w, sigma^2) exp(correction_w),

    and x is predicted as sum_w p(w) e_w (score interpolation, CDCD eq. 4). The others of this file
    differ in embeddings, correction and loss; an untrained network of any of them corrects nothing.
    """

    samplers = ("ddim", "ddpm", "dpm-solver++(2m)")
    self_conditioning = True  # the network also sees its last x (Analog Bits, section 3.2)
    learns_ends = True  # lambda at t = 0 and at t = 1

    def __init__(self, network: Any, frequencies: Tensor, dimensions: int = 32) -> None:
        super().__init__(network, frequencies)
        self.table = nn.Parameter(torch.randn(self.vocab_size, dimensions))
        self.ends = nn.Parameter(torch.tensor([5.0, -8.0]), requires_grad=self.learns_ends)

    def correction(self, out: Tensor, lam: Tensor) -> Tensor:
        """(batch, length, vocab) from the network's numbers."""
        return out

    def embeddings(self) -> Tensor:
        """(vocab, dimensions), on a sphere, so that no family gains by longer ones."""
        return F.normalize(self.table, dim=-1) * math.sqrt(self.table.shape[1])

    def level(self, t: Tensor) -> Tensor:
        """lambda at t, (batch, 1, 1)."""
        return torch.lerp(self.ends[0], self.ends[1], t)[:, None, None]

    def words(self, z: Tensor, t: Tensor, last: Tensor | None = None) -> Tensor:
        """Logits of p(w | z, t), (batch, length, vocab); `last`: an earlier prediction of x."""
        inputs, lam, e = z, self.level(t), self.embeddings()
        if self.self_conditioning:
            inputs = torch.cat([z, torch.zeros_like(z) if last is None else last], dim=-1)
        alpha, sigma = alpha_sigma(lam)
        evidence = (alpha / sigma**2) * (z @ e.T) - 0.5 * lam.exp() * e.square().sum(-1)
        return self.frequencies.log() + evidence + self.correction(self.read(inputs, t), lam)

    def mean(self, words: Tensor) -> Tensor:
        """The prediction of x."""
        return words.softmax(-1) @ self.embeddings()

    def noised(self, x: Tensor, t: Tensor, g: torch.Generator) -> Tensor:
        alpha, sigma = alpha_sigma(self.level(t))
        return alpha * x + sigma * torch.randn(x.shape, generator=g)

    def predicted(self, z: Tensor, t: Tensor, twice: bool) -> Tensor:
        """As `words`; with `twice` the network sees its own first prediction."""
        if not twice or not self.self_conditioning:
            return self.words(z, t)
        with torch.no_grad():
            last = self.mean(self.words(z, t))
        return self.words(z, t, last)

    def drawn(self, tokens: Tensor, g: torch.Generator, twice: bool = True) -> Tensor:
        """Prior, reconstruction, and the diffusion loss as drawn at one t each."""
        t, zero = levels(len(tokens), g), torch.zeros(len(tokens))
        x = self.embeddings()[tokens]
        words = self.predicted(self.noised(x, t, g), t, twice)
        reconstruction = nll(self.predicted(self.noised(x, zero, g), zero, twice), tokens)
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

    def loss(self, tokens: Tensor, g: torch.Generator) -> Tensor:
        return self.drawn(tokens, g, by_half(g)).mean()

    def write(self, template: Tensor, how: SamplerSettings) -> Tensor:
        """Known positions hold their noiseless signal at every step (Diffusion-LM's infilling)."""
        known = template != self.vocab_size
        right = self.embeddings()[template.where(known, torch.zeros_like(template))]
        z, x = torch.randn(right.shape, generator=how.g), None
        before: tuple[Tensor, Tensor] | None = None
        times = torch.linspace(1, 0, how.steps + 1)[:, None].expand(-1, len(z))
        for t, s in zip(times, times[1:], strict=False):
            lam, after = self.level(t), self.level(s)
            z = torch.where(known[..., None], alpha_sigma(lam)[0] * right, z)
            words = self.words(z, t, x)
            x = torch.where(known[..., None], right, self.mean(words))
            if how.sampler == "ddpm":
                mean, deviation = posterior(z, x, lam, after)
                z = mean + deviation * torch.randn(z.shape, generator=how.g)
            else:
                last = before if how.sampler != "ddim" else None
                z = ddim(z, extrapolated(x, lam, after, *last) if last else x, lam, after)
            before = (x, lam)
            how.watch(template.where(known, words.argmax(-1)))
        return template.where(known, self.words(z, times[-1], x).argmax(-1))


class DiffusionLm(Plaid):
    """Diffusion-LM (arXiv 2205.14217): regress the embedding, round to a word (section 4).

    The network's x is scored against every embedding, at a sharpness that is learnt for each noise
    level; the mean over words is the paper's clamping to a word, made soft.
    """

    self_conditioning = learns_ends = False

    def __init__(self, network: Any, frequencies: Tensor, dimensions: int = 32) -> None:
        super().__init__(network, frequencies, dimensions)
        self.sharpness = nn.Parameter(torch.tensor([-1.0, 0.0]))

    def correction(self, out: Tensor, lam: Tensor) -> Tensor:
        sharp = F.softplus(self.sharpness[0] + self.sharpness[1] * lam)
        return sharp * (out @ self.embeddings().T)

    def loss(self, tokens: Tensor, g: torch.Generator) -> Tensor:
        """L_simple = |x - f(z_t, t)|^2, and L_round = -log p(w | z_t)."""
        t, x = levels(len(tokens), g), self.embeddings()[tokens]
        words = self.words(self.noised(x, t, g), t)
        return (x - self.mean(words)).square().mean() + nll(words, tokens).mean()


class AnalogBits(Plaid):
    """Analog Bits (arXiv 2208.04202): a token is its number's bits, as -1 and 1.

    The network learns by the squared error of the bits (eq. 2) and gives log odds; rounding is to
    the best word, so that no code without one comes out.
    """

    learns_ends = False

    def __init__(self, network: Any, frequencies: Tensor, dimensions: int) -> None:
        super().__init__(network, frequencies, dimensions)
        codes = torch.arange(self.vocab_size)[:, None] >> torch.arange(dimensions) & 1
        self.table = nn.Parameter(codes * 2.0 - 1.0, requires_grad=False)

    def correction(self, out: Tensor, lam: Tensor) -> Tensor:
        return out / 2 @ self.embeddings().T

    def loss(self, tokens: Tensor, g: torch.Generator) -> Tensor:
        t, x = levels(len(tokens), g), self.embeddings()[tokens]
        words = self.predicted(self.noised(x, t, g), t, by_half(g))
        return (x - self.mean(words)).square().sum(-1).mean()


class Cdcd(Plaid):
    """CDCD (arXiv 2211.15089): cross-entropy alone, where the noise makes it change most.

    Time warping (section 3.4): noise levels are drawn in proportion to the slope of the
    cross-entropy over them, which is followed in `_BINS` bins.
    """

    learns_ends = False
    entropy: Tensor

    def __init__(self, network: Any, frequencies: Tensor, dimensions: int = 32) -> None:
        super().__init__(network, frequencies, dimensions)
        self.register_buffer("entropy", torch.linspace(0, 1, _BINS))

    def loss(self, tokens: Tensor, g: torch.Generator) -> Tensor:
        t = self.warped(levels(len(tokens), g))
        z = self.noised(self.embeddings()[tokens], t, g)
        losses = nll(self.predicted(z, t, by_half(g)), tokens).mean(1)
        bins = (t * _BINS).long().clamp_max(_BINS - 1)
        for at, value in zip(bins.tolist(), losses.tolist(), strict=True):
            self.entropy[at] += 0.05 * (value - self.entropy[at])
        return losses.mean()

    def warped(self, u: Tensor) -> Tensor:
        """Even draws in (0, 1) as noise levels; a tenth of them stays even."""
        slopes = self.entropy.cummax(0).values.diff(prepend=self.entropy[:1]).clamp_min(0)
        density = slopes / slopes.sum().clamp_min(1e-6) + 0.1 / _BINS
        edges = torch.cat([torch.zeros(1), density.cumsum(0)])
        u = u * edges[-1]
        at = (torch.searchsorted(edges, u, right=True) - 1).clamp(0, _BINS - 1)
        return ((at + (u - edges[at]) / density[at]) / _BINS).clamp(1e-4, 1 - 1e-4)


def alpha_sigma(lam: Tensor) -> tuple[Tensor, Tensor]:
    """Signal and noise at a log signal-to-noise ratio."""
    return torch.sigmoid(lam).sqrt(), torch.sigmoid(-lam).sqrt()


def posterior(z: Tensor, x: Tensor, lam: Tensor, after: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of q(z_s | z_t, x): DDPM (arXiv 2006.11239, eq. 6 and 7)."""
    (alpha, _), (alpha_s, sigma_s) = alpha_sigma(lam), alpha_sigma(after)
    c = -torch.expm1(lam - after)
    return alpha_s * ((1 - c) / alpha * z + c * x), sigma_s * c.sqrt()


def ddim(z: Tensor, x: Tensor, lam: Tensor, after: Tensor) -> Tensor:
    """DDIM (arXiv 2010.02502, eq. 12 without noise): the implied noise is kept."""
    (alpha, sigma), (alpha_s, sigma_s) = alpha_sigma(lam), alpha_sigma(after)
    return alpha_s * x + sigma_s * (z - alpha * x) / sigma


def extrapolated(x: Tensor, lam: Tensor, after: Tensor, before: Tensor, first: Tensor) -> Tensor:
    """What makes DDIM second order: DPM-Solver++(2M) (arXiv 2211.01095, algorithm 2), from the
    prediction `before`, made at the level `first`."""
    return x + (x - before) * (after - lam) / (2 * (lam - first))


def by_half(g: torch.Generator) -> bool:
    """Half of the training steps are self-conditioned."""
    return bool(torch.rand((), generator=g) < 0.5)
