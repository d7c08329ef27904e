"""Forward processes of discrete diffusion, and the loss weight that belongs to each.

A process corrupts clean tokens at a noise level t in (0, 1]. Absorbing noise masks (LLaDA,
arXiv 2502.09992, eq. 2; MDLM, arXiv 2406.07524); uniform noise replaces by any token (D3PM);
hybrid noise does either, so that a model learns both to fill and to notice a wrong token
(GIDD, arXiv 2503.04482).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from blockdiff.errors import InvalidRequest


@dataclass(frozen=True, slots=True)
class Corrupted:
    """A noisy copy of some tokens; all tensors have the shape of the clean ones.

    Attributes:
        tokens: ids after corruption; the original id where `masked` is true.
        masked: positions that became the mask token.
        corrupted: positions that were masked or replaced. A replacement may draw the clean token.
    """

    tokens: Tensor
    masked: Tensor
    corrupted: Tensor


@dataclass(frozen=True, slots=True)
class Noise:
    """A forward process: each token is corrupted with probability t, independently.

    Attributes:
        mask_share: share of the corrupted positions that is masked; the rest is replaced by a
            token drawn uniformly from `[0, vocab_size)`. 1 is absorbing, 0 is uniform noise.
        vocab_size: how many ids a replacement is drawn from.
    """

    mask_share: float
    vocab_size: int

    def __post_init__(self) -> None:
        if not 0.0 <= self.mask_share <= 1.0:
            raise InvalidRequest(f"mask_share must be in [0, 1], got {self.mask_share}")

    def corrupt(self, tokens: Tensor, t: Tensor, generator: torch.Generator) -> Corrupted:
        """Corrupt `tokens` (any shape) at noise level `t` (broadcastable to it)."""
        draw = torch.rand(tokens.shape, generator=generator)
        corrupted = draw < t
        kind = torch.rand(tokens.shape, generator=generator)
        masked = corrupted & (kind < self.mask_share)
        other = torch.randint(0, self.vocab_size, tokens.shape, generator=generator)
        return Corrupted(torch.where(corrupted & ~masked, other, tokens), masked, corrupted)


def absorbing(vocab_size: int) -> Noise:
    """Every corrupted token becomes the mask."""
    return Noise(1.0, vocab_size)


def hybrid(vocab_size: int, mask_share: float) -> Noise:
    """A share is masked, the rest replaced."""
    return Noise(mask_share, vocab_size)


def loss_weight(t: Tensor) -> Tensor:
    """1/t: the weight of a corrupted position's cross-entropy in the NELBO (MDLM, eq. 10)."""
    return 1.0 / t
