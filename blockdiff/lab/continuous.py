"""The continuous families: what each learns, and by which loss; the rest is in `gaussian`."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from blockdiff.lab.family import levels, nll
from blockdiff.lab.gaussian import Gaussian, on_sphere


class DiffusionLm(Gaussian):
    """Diffusion-LM (arXiv 2205.14217): regress the embedding, round to a word (section 4).

    Embeddings are learnt (eq. 2); the network's x is scored against every word's embedding, at a
    sharpness that is learnt for each noise level.
    """

    self_conditioning = False

    def __init__(
        self, network: nn.Module, vocab_size: int, frequencies: Tensor, dimensions: int
    ) -> None:
        super().__init__(network, vocab_size)
        self.table = nn.Parameter(torch.randn(vocab_size, dimensions))
        self.sharpness = nn.Parameter(torch.tensor([-1.0, 0.0]))
        self.register_buffer("log_frequencies", frequencies.log())

    log_frequencies: Tensor

    def embeddings(self) -> Tensor:
        return on_sphere(self.table)

    def correction(self, out: Tensor, lam: Tensor) -> Tensor:
        sharp = F.softplus(self.sharpness[0] + self.sharpness[1] * lam)
        scored: Tensor = sharp * (out @ self.embeddings().T)
        return self.log_frequencies + scored

    def loss(self, tokens: Tensor, g: torch.Generator) -> Tensor:
        """L_simple = |x - f(z_t, t)|^2, and L_round = -log p(w | z_t)."""
        t = levels(len(tokens), g)
        x = self.embeddings()[tokens]
        z, lam = self.noised(x, t, g), self.level(t)
        out = self.read(z, t)
        rounding = nll(self.combined(z, out, lam), tokens)
        return (x - out).square().mean() + rounding.mean()


class AnalogBits(Gaussian):
    """Analog Bits (arXiv 2208.04202): a token is its number's bits, as -1 and 1.

    Nothing is learnt but the network, by the squared error of the bits (eq. 2). It gives log odds;
    rounding by the nearest code is that of the best word here, so that no code without a word comes
    out.
    """

    def __init__(self, network: nn.Module, vocab_size: int, frequencies: Tensor) -> None:
        super().__init__(network, vocab_size)
        places = torch.arange(bits_of(vocab_size))
        self.register_buffer("codes", (torch.arange(vocab_size)[:, None] >> places & 1) * 2.0 - 1.0)
        self.register_buffer("log_frequencies", frequencies.log())

    codes: Tensor
    log_frequencies: Tensor

    def embeddings(self) -> Tensor:
        return self.codes

    def correction(self, out: Tensor, lam: Tensor) -> Tensor:
        odds: Tensor = out / 2 @ self.codes.T
        return self.log_frequencies + odds

    def loss(self, tokens: Tensor, g: torch.Generator) -> Tensor:
        t = levels(len(tokens), g)
        x = self.codes[tokens]
        words = self.predicted(self.noised(x, t, g), t, self.chance(g))
        return (x - self.mean(words)).square().sum(-1).mean()


class Plaid(Gaussian):
    """Plaid (arXiv 2305.18619): all is learnt by the bound itself, the ends of the noise too."""

    def __init__(self, network: nn.Module, vocab_size: int, dimensions: int) -> None:
        super().__init__(network, vocab_size)
        self.table = nn.Parameter(torch.randn(vocab_size, dimensions))
        ends = self.ends
        del self.ends
        self.ends = nn.Parameter(ends)

    def embeddings(self) -> Tensor:
        return on_sphere(self.table)

    def correction(self, out: Tensor, lam: Tensor) -> Tensor:
        return out

    def loss(self, tokens: Tensor, g: torch.Generator) -> Tensor:
        t = levels(len(tokens), g)
        return self.terms(tokens, t, g, self.chance(g)).mean()


class Cdcd(Gaussian):
    """CDCD (arXiv 2211.15089): cross-entropy alone, where the noise makes it change most.

    Time warping (section 3.4): noise levels are drawn in proportion to the slope of the
    cross-entropy over them, which is followed in `_BINS` bins.
    """

    entropy: Tensor

    def __init__(self, network: nn.Module, vocab_size: int, dimensions: int) -> None:
        super().__init__(network, vocab_size)
        self.table = nn.Parameter(torch.randn(vocab_size, dimensions))
        self.register_buffer("entropy", torch.linspace(0, 1, _BINS))

    def embeddings(self) -> Tensor:
        return on_sphere(self.table)

    def correction(self, out: Tensor, lam: Tensor) -> Tensor:
        return out

    def loss(self, tokens: Tensor, g: torch.Generator) -> Tensor:
        t = self.warped(levels(len(tokens), g))
        z = self.noised(self.embeddings()[tokens], t, g)
        losses = nll(self.predicted(z, t, self.chance(g)), tokens).mean(1)
        with torch.no_grad():
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


_BINS = 50


def bits_of(vocab_size: int) -> int:
    return max(1, (vocab_size - 1).bit_length())
