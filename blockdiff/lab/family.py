"""What every family offers: a training loss, a bound on the likelihood, and a sampler."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from blockdiff.errors import InvalidRequest
from blockdiff.model import masks
from blockdiff.types import no_op


@dataclass(frozen=True, slots=True)
class SamplerSettings:
    """How to sample: forwards of the network where the family leaves a choice, one of its samplers
    (empty: the first), and what gets the tokens (batch, length) after each step."""

    steps: int
    g: torch.Generator
    sampler: str = ""
    watch: Callable[[Tensor], None] = no_op


class LabFamily(nn.Module, ABC):
    """A noise, a loss and a sampler around a `Network`. A mask is the id `vocab_size`.

    Attributes:
        samplers: names of its ways to sample, the usual one first.
        draws: of the bound of a text that are worth their mean; 1 where nothing is drawn.
        mixes: noise is any token in place of masks, so that all stay revisable.
        frequencies: (vocab_size,) of single tokens.
    """

    samplers: tuple[str, ...] = ("ancestral",)
    draws = 8
    mixes = False
    frequencies: Tensor

    def __init__(self, network: Any, frequencies: Tensor) -> None:
        super().__init__()
        self.network: Any = network
        self.vocab_size = len(frequencies)
        self.register_buffer("frequencies", frequencies)

    @abstractmethod
    def drawn(self, tokens: Tensor, g: torch.Generator) -> Tensor:
        """(batch, length) nats: an unbiased draw of each token's part of `bound`."""

    def loss(self, tokens: Tensor, g: torch.Generator) -> Tensor:
        """What is minimised, per token of `tokens` (batch, length): the bound, or what is near."""
        return self.drawn(tokens, g).mean()

    def bound(self, tokens: Tensor, g: torch.Generator) -> Tensor:
        """(batch,) nats: one unbiased draw each of an upper bound on -log p(tokens)."""
        return self.drawn(tokens, g).sum(1)

    @torch.no_grad()
    def sample(self, template: Tensor, how: SamplerSettings) -> Tensor:
        """(batch, length): `template` with a token for every mask. Raises InvalidRequest."""
        name = how.sampler or self.samplers[0]
        if name not in self.samplers:
            raise InvalidRequest(f"no sampler {name!r}", f"known: {', '.join(self.samplers)}")
        return self.write(template, replace(how, sampler=name))

    def write(self, template: Tensor, how: SamplerSettings) -> Tensor:
        """As `sample`, which has looked the sampler up."""
        return self.denoise(self.start(template.shape, how.g), template, how)

    @torch.no_grad()
    def denoise(
        self, x: Tensor, template: Tensor, how: SamplerSettings, noise: float = 0.999
    ) -> Tensor:
        """From a text x of which a share `noise` is noise (all: some divide by zero) to none."""
        known = template != self.vocab_size
        x = torch.where(known, template, x)
        ends = torch.linspace(noise, 0, how.steps + 1).tolist()
        for t, s in zip(ends, ends[1:], strict=False):
            x = categorical(self.transition(x, t, s, how.sampler), how.g)
            x = torch.where(known, template, x)
            how.watch(x)
        return x

    def start(self, shape: torch.Size, g: torch.Generator) -> Tensor:
        """Nothing but noise."""
        if self.mixes:
            return torch.randint(0, self.vocab_size, shape, generator=g)
        return torch.full(shape, self.vocab_size)

    def corrupted(self, tokens: Tensor, t: Tensor, g: torch.Generator) -> Tensor:
        """Noise in place of each token with probability t, by itself; any token may come back."""
        noise = self.start(tokens.shape, g)
        return torch.where(torch.rand(tokens.shape, generator=g) < t, noise, tokens)

    def steadied(self, draw: Tensor, tokens: Tensor, weight: Tensor) -> Tensor:
        """Draws of nats times a weight of mean 1, less what frequencies alone cost by the same
        weights, plus that itself: the same mean, less variance (a control variate)."""
        known = -self.frequencies.log()[tokens]
        return known + (draw - known) * weight

    def transition(self, x: Tensor, t: float, s: float, sampler: str = "") -> Tensor:
        """Weights of x_s given x_t, (batch, length, states), of families that `denoise` so."""
        raise AssertionError(f"{type(self).__name__} writes in its own way")

    def read(self, noisy: Tensor, t: Tensor | None = None) -> Tensor:
        """The network's numbers at every position, each of which sees all others."""
        out: Tensor = self.network(noisy, masks.full(0, noisy.shape[1]), t)
        return out


def nll(logits: Tensor, tokens: Tensor) -> Tensor:
    """Cross-entropy, nats, in the shape of `tokens`."""
    return -logits.log_softmax(-1).gather(-1, tokens[..., None])[..., 0]


def one_hot(tokens: Tensor, size: int) -> Tensor:
    return F.one_hot(tokens, size).float()


def categorical(weights: Tensor, g: torch.Generator) -> Tensor:
    """One index for each row of weights (.., states), which need not sum to 1."""
    return (weights / torch.empty_like(weights).exponential_(generator=g)).argmax(-1)


def levels(batch: int, g: torch.Generator) -> Tensor:
    """(batch,) noise levels within (0, 1), spread evenly behind one common draw, in order.

    Each is uniform, together they leave no gap (VDM, arXiv 2107.00630, I.1): less variance. Copies
    of a text that stand n rows apart get levels spread as evenly.
    """
    t = (torch.arange(batch) / batch + torch.rand((), generator=g)) % 1
    return t.clamp(1e-4, 1 - 1e-4)


def uneven_levels(batch: int, g: torch.Generator) -> tuple[Tensor, Tensor]:
    """Levels t = u^2 of even u, and the weight dt/du = 2u of each, both (batch,).

    For integrands that grow as 1/t on few tokens: evenly drawn, their variance has no limit.
    """
    u = levels(batch, g)
    return u.square().clamp_min(1e-4), 2 * u
