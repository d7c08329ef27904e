"""How many tokens a hole needs, where the checkpoint has no end token for it.

Either it was trained to say so at a mask (`Resizing`, DreamOn), or the confidence of the first
denoising step says so (`calibrated_length`, CAL, arXiv 2602.00476).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from blockdiff.errors import InvalidRequest

FIRST_LENGTH = 8
"""Masks that a search begins with, and a hole that resizes itself."""

_PATIENCE = 4  # lengths in a row that are no better, then a direction is given up
# Of the fit of the first-step confidence over holes of all kinds, appendix A of the paper.
_BIAS = (1.00, 1.77, 0.56, 0.06, 0.24)


def check_room(most: int, positions: int) -> None:
    """Raises InvalidRequest where a sequence is longer than the `most` positions of a model."""
    if positions > most:
        raise InvalidRequest(
            f"{positions} tokens exceed the model's context of {most}",
            "lower --context-tokens or --max-tokens",
        )


def length_bias(length: int) -> float:
    """Mean first-step confidence of a hole of this many tokens, whatever is in it."""
    a, b, c, d, e = _BIAS
    return a * math.exp(-b * length) + c * math.exp(-d * length) + e


def calibrated_length(confidence: Callable[[int], float], most: int) -> int:
    """The length whose first-step confidence exceeds its bias most (CAL, algorithm 1).

    Climbs from `FIRST_LENGTH` upwards, then downwards, until four lengths in a row are no better.

    Args:
        confidence: mean probability of the most likely tokens of so many masks.
        most: the longest length, at least 1.
    """
    best = first = max(1, min(FIRST_LENGTH, most))
    highest = confidence(first) / length_bias(first)
    for step in (1, -1):
        length, worse = first + step, 0
        while 1 <= length <= most and worse < _PATIENCE:
            value = confidence(length) / length_bias(length)
            if value > highest:
                best, highest, worse = length, value, 0
            else:
                worse += 1
            length += step
    return best


@dataclass(frozen=True, slots=True)
class Resizing:
    """Tokens by which a hole grows and shrinks (DreamOn).

    Attributes:
        expand: chosen at a mask, it becomes two masks.
        delete: chosen at a mask, it goes away, and with it every mask of the hole behind it.
        most: tokens that the hole may grow to.
    """

    expand: int
    delete: int | None
    most: int

    def full(self, length: int, grown: int) -> bool:
        """Whether a hole of this length that grew so often may not grow any more."""
        return length >= self.most or grown >= self.most
