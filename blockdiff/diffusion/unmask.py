"""Unmasking rules: which masked positions of a block get their token in one denoising step,
and which tokens give way to another.

Pure functions of what the model said; no rule knows of caches, tokens or text. Confidence is
always read from un-noised probabilities, whatever the temperature of sampling.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from blockdiff.config import DecodingConfig, Rule

UNCHANGED = 2
"""Forwards in a row that write the same draft of a block, under the rule `stable`."""
LEAST_SURE = 0.5
"""Share of the threshold below which no token of such a draft may be."""
SIZES = (2, 16)
"""Least and most positions of a block that the rule `adaptive` chooses."""


def schedule_counts(masks: int, steps: int) -> list[int]:
    """How many of n positions to unmask in each of s steps: n // s, one more in the first n mod s.

    Sums to `masks` (LLaDA, algorithm 2). With more steps than masks the last ones unmask none.
    """
    each, extra = divmod(masks, steps)
    return [each + (step < extra) for step in range(steps)]


def timestep_counts(masks: int, steps: int, least: float = 1e-3) -> list[int]:
    """How many of n positions to unmask in each of s steps from time 1 to `least` (Dream).

    A step from time t to s takes the share 1 - s / t of what is left, rounded down, and the last
    one the rest: the first steps may unmask none. In float32, as published: a product just below a
    whole number is rounded down.
    """
    times = torch.linspace(1, least, steps + 1)
    counts: list[int] = []
    for step in range(steps):
        left = torch.tensor(masks - sum(counts))
        last = step == steps - 1
        counts.append(int(left if last else left * (1 - times[step + 1] / times[step])))
    return counts


def rate_counts(masks: int, steps: int) -> list[int]:
    """How many of n positions to unmask in each of s steps, when behind step k the share 1 - k / s
    of them, rounded down, is masked still (RND1). In float32, as published.
    """
    left = [int(torch.tensor(masks) * ((steps - step) / steps)) for step in range(1, steps)]
    return [before - after for before, after in zip([masks, *left], [*left, 0], strict=True)]


def to_unmask(
    config: DecodingConfig, confidence: Tensor, entropy: Tensor, masked: Tensor, step: int, n: int
) -> Tensor:
    """Apply the rule of `config`.

    Args:
        confidence: (block,) probability of the token proposed at each position.
        entropy: (block,) entropy of each position's distribution, nats.
        masked: boolean (block,), positions without a token yet.
        step: denoising steps already taken in this block.
        n: masks the block began with.

    Returns:
        Boolean (block,): positions to unmask now, a subset of `masked`. At least one where any is
        masked, so that every rule ends.
    """
    if not bool(masked.any()):
        return torch.zeros_like(masked)
    if config.rule is Rule.SCHEDULE:
        counts = schedule_counts(n, min(config.denoising_steps or n, n))
        count = counts[step] if step < len(counts) else int(masked.sum())
        return most_confident(confidence, masked, count)
    if config.rule is Rule.ENTROPY_BOUND:
        chosen = _within_entropy(entropy, masked, config.entropy_bound)
    else:
        chosen = masked & (confidence > config.threshold)
    return chosen if bool(chosen.any()) else most_confident(confidence, masked, 1)


def unchanged(
    config: DecodingConfig, drafts: Sequence[Tensor], confidence: Tensor, masked: Tensor
) -> bool:
    """Whether all that is masked may be unmasked, as nothing of the draft changes any more.

    Args:
        drafts: (block,) tokens after each forward on this block, the latest last.
        confidence: (block,) probability of each token of the latest.
    """
    if config.rule is not Rule.STABLE or len(drafts) < UNCHANGED:
        return False
    same = all(torch.equal(drafts[-1], draft) for draft in drafts[-UNCHANGED:-1])
    return same and bool((confidence[masked] > LEAST_SURE * config.threshold).all())


def next_size(config: DecodingConfig, size: int, forwards: int) -> int:
    """Positions of the block behind one of `size` that took so many forwards.

    Twice as many where two positions or more were unmasked in a forward, half as many where no
    forward unmasked more than one, within `SIZES`; the same under any rule but `adaptive`.
    """
    if config.rule is not Rule.ADAPTIVE:
        return size
    if 2 * forwards <= size or size < SIZES[0]:
        return min(2 * size, SIZES[1])
    return max(size // 2, SIZES[0]) if forwards >= size else size


def edits(config: DecodingConfig, other: Tensor, own: Tensor, open_: Tensor) -> Tensor:
    """Which tokens to replace (token-to-token editing, LLaDA2.1).

    Args:
        other: (block,) probability of the best token that the position has not held yet.
        own: (block,) probability of the token that stands there, given the same block.
        open_: boolean (block,), unmasked positions that may change.

    Returns:
        Boolean (block,), a subset of `open_`; nothing under any rule but `edit`.
    """
    if config.rule is not Rule.EDIT:
        return torch.zeros_like(open_)
    return open_ & (other > config.edit_threshold) & (other > own)


def doubted(config: DecodingConfig, exact: Tensor) -> Tensor:
    """Which tokens the base doubts enough to let them go, from its probabilities (block,)."""
    return exact < 1.0 - config.edit_threshold


def most_confident(confidence: Tensor, masked: Tensor, count: int) -> Tensor:
    """The `count` masked positions of the highest rank (block,), or all if there are fewer."""
    count = min(count, int(masked.sum()))
    ranked = torch.where(masked, confidence, torch.full_like(confidence, -torch.inf))
    chosen = torch.zeros_like(masked)
    chosen[ranked.topk(count).indices] = True
    return chosen


def _within_entropy(entropy: Tensor, masked: Tensor, bound: float) -> Tensor:
    """The lowest entropies while their sum stays at or under `bound` (arXiv 2505.24857)."""
    ranked = torch.where(masked, entropy, torch.full_like(entropy, torch.inf))
    values, order = ranked.sort(stable=True)
    chosen = torch.zeros_like(masked)
    chosen[order] = values.cumsum(0) <= bound
    return chosen & masked
