"""From a clean token sequence to noisy blocks and their targets.

Block k starts at position s: its noisy positions are s .. s+B-1, it sees the clean tokens before
s, and, logits being shifted, position j predicts token j+1. Token s itself is not a target: the
base predicts it exactly from the clean token before it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from blockdiff.errors import InvalidRequest
from blockdiff.train.loss import Targets
from blockdiff.train.noise import Corrupted, Noise, absorbing, hybrid, loss_weight


@dataclass(frozen=True, slots=True)
class CorruptionConfig:
    """Shares of the three kinds of noisy blocks; they sum to 1.

    Attributes:
        full: fully masked blocks: what `verify` drafts from, and the densest signal (TiDAR).
        partial: absorbing noise at a level drawn per block: intermediate steps of `diffusion`.
        replaced: hybrid noise, for noticing wrong tokens.
        t_min, t_max: clipped range of the noise level (BD3-LM, section 5).
        replaced_t_min, replaced_t_max: the same range for `replaced` blocks; 0 takes `t_min`,
            `t_max`. A block that is to be revised is mostly right, one that is drafted is not.
        mask_share: of the corrupted positions of a `replaced` block, the share that is masked.
        nearby_share: of the replacements, the share drawn from the sequence itself instead of
            the vocabulary: a wrong name is seldom a rare one.
        keep_weight: weight of the uncorrupted visible positions of a `replaced` block, which
            teaches that most visible tokens are right.
    """

    full: float = 0.75
    partial: float = 0.20
    replaced: float = 0.05
    t_min: float = 0.3
    t_max: float = 0.9
    mask_share: float = 0.5
    keep_weight: float = 0.2
    replaced_t_min: float = 0.0
    replaced_t_max: float = 0.0
    nearby_share: float = 0.0

    def __post_init__(self) -> None:
        if abs(self.full + self.partial + self.replaced - 1.0) > 1e-6:
            raise InvalidRequest("shares of full, partial and replaced blocks must sum to 1")
        if not 0.0 < self.t_min <= self.t_max <= 1.0:
            raise InvalidRequest("need 0 < t_min <= t_max <= 1")
        low, high = self.replaced_range
        if not 0.0 < low <= high <= 1.0:
            raise InvalidRequest("need 0 < replaced_t_min <= replaced_t_max <= 1")
        if not 0.0 <= self.nearby_share <= 1.0:
            raise InvalidRequest(f"nearby_share must be in [0, 1], got {self.nearby_share}")

    @property
    def replaced_range(self) -> tuple[float, float]:
        """Clipped range of the noise level of `replaced` blocks."""
        return self.replaced_t_min or self.t_min, self.replaced_t_max or self.t_max


@dataclass(frozen=True, slots=True)
class NoisyBlocks:
    """The noisy half of a training sequence.

    Attributes:
        starts: (blocks,) first position of each block.
        positions: (blocks * block_size,) absolute positions.
        tokens, masked: same shape: ids and which of them are the mask.
        targets: what the positions predict.
        offsets: (targets,) distance of each target from its block's start, 1 .. block_size.
    """

    starts: list[int]
    positions: Tensor
    tokens: Tensor
    masked: Tensor
    targets: Targets
    offsets: Tensor


def choose_starts(
    first: int, length: int, block_size: int, count: int, generator: torch.Generator
) -> list[int]:
    """`count` distinct block starts in [first, length - block_size), sorted; fewer if short.

    A block needs a clean token before it and one target behind its last position.
    """
    last = length - block_size
    first = max(first, 1)
    if last <= first:
        return []
    order = torch.randperm(last - first, generator=generator)[:count] + first
    return sorted(int(s) for s in order)


def noisy_blocks(
    clean: Tensor,
    real: int,
    starts: list[int],
    block_size: int,
    config: CorruptionConfig,
    vocab_size: int,
    generator: torch.Generator,
) -> NoisyBlocks:
    """Corrupt the blocks of `clean` (length,) that begin at `starts`.

    Tokens from `real` on are padding: they may be seen, but are nobody's target.
    """
    blocks = len(starts)
    original = clean[_positions(starts, block_size)]
    kind = torch.rand(blocks, 1, generator=generator)
    span = config.t_max - config.t_min
    t = config.t_min + span * torch.rand(blocks, 1, generator=generator)
    t = torch.where(kind < config.full, torch.ones_like(t), t)
    replaced = kind >= config.full + config.partial

    low, high = config.replaced_range
    t = torch.where(replaced, low + (high - low) * (t - config.t_min) / max(span, 1e-9), t)

    plain = absorbing(vocab_size).corrupt(original, t, generator)
    mixed = hybrid(vocab_size, config.mask_share).corrupt(original, t, generator)
    if config.nearby_share:
        mixed = _nearby(mixed, clean[:real], config.nearby_share, generator)
    drawn = Corrupted(
        tokens=torch.where(replaced, mixed.tokens, plain.tokens),
        masked=torch.where(replaced, mixed.masked, plain.masked),
        corrupted=torch.where(replaced, mixed.corrupted, plain.corrupted),
    )
    keep = replaced * config.keep_weight
    weights = torch.where(drawn.corrupted, loss_weight(t), keep)
    return _noisy(clean, real, starts, drawn, weights)


def _nearby(
    drawn: Corrupted, text: Tensor, share: float, generator: torch.Generator
) -> Corrupted:
    """The same corruption with a `share` of its replacements taken from `text` (length,)."""
    near = torch.rand(drawn.tokens.shape, generator=generator) < share
    picked = text[torch.randint(0, len(text), drawn.tokens.shape, generator=generator)]
    replaced = drawn.corrupted & ~drawn.masked & near
    return Corrupted(torch.where(replaced, picked, drawn.tokens), drawn.masked, drawn.corrupted)


def fully_masked(clean: Tensor, real: int, starts: list[int], block_size: int) -> NoisyBlocks:
    """Every block all masks, as `verify` drafts: block_size targets each, offsets 1 .. block_size.

    Targets that are padding keep their place with weight 0.
    """
    original = clean[_positions(starts, block_size)]
    masked = torch.ones_like(original, dtype=torch.bool)
    drawn = Corrupted(original, masked, masked)
    return _noisy(clean, real, starts, drawn, torch.ones(masked.shape), keep_all=True)


def at_level(
    clean: Tensor, starts: list[int], block_size: int, t: Tensor, noise: Noise, g: torch.Generator
) -> NoisyBlocks:
    """Blocks at given noise levels `t` (blocks, 1): one draw of the NELBO on held-out text."""
    drawn = noise.corrupt(clean[_positions(starts, block_size)], t, g)
    return _noisy(clean, len(clean), starts, drawn, drawn.corrupted * loss_weight(t))


def _positions(starts: list[int], block_size: int) -> Tensor:
    return torch.tensor(starts)[:, None] + torch.arange(block_size)[None, :]


def _noisy(
    clean: Tensor,
    real: int,
    starts: list[int],
    drawn: Corrupted,
    weights: Tensor,
    keep_all: bool = False,
) -> NoisyBlocks:
    """Shift: the weight of a token goes to the position before it, in the same block.

    The last position predicts the first token behind the block, which is always hidden: weight 1.
    """
    block_size = weights.shape[1]
    positions = _positions(starts, block_size).flatten()
    shifted = torch.cat([weights[:, 1:], torch.ones(len(starts), 1)], dim=1).flatten()
    shifted = shifted * (positions + 1 < real)
    rows = torch.arange(len(shifted)) if keep_all else shifted.nonzero().flatten()
    offsets = (torch.arange(block_size) + 1).repeat(len(starts))
    targets = Targets.plain(
        ids=clean[positions[rows] + 1],
        rows=rows,
        weights=shifted[rows],
        teacher_rows=positions[rows],
    )
    return NoisyBlocks(
        starts, positions, drawn.tokens.flatten(), drawn.masked.flatten(), targets, offsets[rows]
    )
