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
class Template:
    """A text to write around what is known of it.

    Attributes:
        tokens: (batch, length) ids; what stands where `known` is false means nothing.
        known: boolean, (batch, length).
    """

    tokens: Tensor
    known: Tensor

    @classmethod
    def empty(cls, batch: int, length: int) -> Template:
        nothing = torch.zeros(batch, length, dtype=torch.int64)
        return cls(nothing, nothing.bool())

    def keep(self, tokens: Tensor) -> Tensor:
        """`tokens` with what is known in its place."""
        return torch.where(self.known, self.tokens, tokens)


Watch = Callable[[Tensor], None]
"""Gets the tokens (batch, length) after each step of a sampler; a mask is the id `vocab_size`."""


@dataclass(frozen=True, slots=True)
class SamplerSettings:
    """How to sample.

    Attributes:
        steps: forwards of the network, where the family leaves a choice.
        sampler: one of the family's `samplers`; empty: the first.
    """

    steps: int
    g: torch.Generator
    sampler: str = ""
    watch: Watch = no_op


class LabFamily(nn.Module, ABC):
    """A noise, a loss and a sampler around one network.

    Attributes:
        samplers: names of its ways to sample, the usual one first.
        network: a `Network`, or what answers as one does.
    """

    network: Any

    samplers: tuple[str, ...] = ("ancestral",)

    def __init__(self, network: nn.Module, vocab_size: int) -> None:
        super().__init__()
        self.network, self.vocab_size = network, vocab_size

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
    def sample(self, template: Template, how: SamplerSettings) -> Tensor:
        """(batch, length) ids, the known ones kept. Raises InvalidRequest: no such sampler."""
        name = how.sampler or self.samplers[0]
        if name not in self.samplers:
            raise InvalidRequest(f"no sampler {name!r}", f"known: {', '.join(self.samplers)}")
        return self.write(template, replace(how, sampler=name))

    @abstractmethod
    def write(self, template: Template, how: SamplerSettings) -> Tensor:
        """As `sample`, which has looked the sampler up."""

    def read(self, noisy: Tensor, t: Tensor | None = None) -> Tensor:
        """The network's numbers at every position, each of which sees all others."""
        length = noisy.shape[1]
        out: Tensor = self.network(noisy, masks.full(0, length), t)
        return out


def nll(logits: Tensor, tokens: Tensor) -> Tensor:
    """Cross-entropy, nats, in the shape of `tokens`."""
    return -logits.log_softmax(-1).gather(-1, tokens[..., None])[..., 0]


def one_hot(tokens: Tensor, size: int) -> Tensor:
    return F.one_hot(tokens, size).float()


def categorical(weights: Tensor, g: torch.Generator) -> Tensor:
    """One index for each row of weights (.., states), which need not sum to 1."""
    races = torch.empty_like(weights).exponential_(generator=g)
    return (weights / races).argmax(-1)


def levels(batch: int, g: torch.Generator) -> Tensor:
    """(batch,) noise levels within (0, 1), spread evenly behind one common draw.

    Each is uniform, together they leave no gap (VDM, arXiv 2107.00630, I.1): less variance.
    """
    offset = torch.rand((), generator=g)
    t = (torch.arange(batch) / batch + offset) % 1
    return t[torch.randperm(batch, generator=g)].clamp(1e-4, 1 - 1e-4)


def uneven_levels(batch: int, g: torch.Generator) -> tuple[Tensor, Tensor]:
    """Levels t = u^2 of even u, and the weight dt/du = 2u of each, both (batch,).

    For integrands that grow as 1/t on few tokens: evenly drawn, their variance has no limit.
    """
    u = levels(batch, g)
    return u.square().clamp_min(1e-4), 2 * u


def times(steps: int) -> list[tuple[float, float]]:
    """Pairs (t, s) from 1 down to 0."""
    ends = torch.linspace(1, 0, steps + 1).tolist()
    return list(zip(ends, ends[1:], strict=False))
