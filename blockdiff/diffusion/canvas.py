"""Where denoising starts from: nothing but masks, or a text of which some tokens are masked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor


@dataclass(frozen=True, slots=True)
class Canvas:
    """The tokens that a generation finds in its place. Past their end everything is masked.

    Attributes:
        tokens: ids; under a mask the original, which is only shown until something better is known.
        masked: which of them are denoised. The others stay, but for those that are `editable`.
        confidence: probability of each token, shown with it.
        allowed: by index, the ids among which a masked token is chosen; absent: all.
        editable: which tokens that are not masked the rule `edit` may replace; empty: none.
    """

    tokens: tuple[int, ...] = ()
    masked: tuple[bool, ...] = ()
    confidence: tuple[float, ...] = ()
    allowed: Mapping[int, Tensor] = field(default_factory=dict)
    editable: tuple[bool, ...] = ()

    def __post_init__(self) -> None:
        if not self.editable:
            object.__setattr__(self, "editable", (False,) * len(self.tokens))

    def kept(self, start: int) -> int:
        """How many tokens from `start` on stay as they are, up to the first that may change."""
        end = start
        while end < len(self.tokens) and not (self.masked[end] or self.editable[end]):
            end += 1
        return end - start

    def block(self, start: int, size: int) -> Canvas:
        """The `size` positions from `start` on."""
        blank = max(0, size - len(self.tokens[start : start + size]))
        end = start + size
        return Canvas(
            (*self.tokens[start:end], *[0] * blank),
            (*self.masked[start:end], *[True] * blank),
            (*self.confidence[start:end], *[0.0] * blank),
            {i - start: ids for i, ids in self.allowed.items() if start <= i < end},
            (*self.editable[start:end], *[False] * blank),
        )

    def behind(self, token: int, confidence: float) -> Canvas:
        """This with a token in front of it that is kept."""
        return Canvas(
            (token, *self.tokens),
            (False, *self.masked),
            (confidence, *self.confidence),
            {i + 1: ids for i, ids in self.allowed.items()},
            (False, *self.editable),
        )

    def limited(self, logits: Tensor) -> Tensor:
        """Logits (positions, vocab) with -inf where a position does not allow a token."""
        for index, ids in self.allowed.items():
            row = logits[index].clone()
            logits[index] = float("-inf")
            logits[index, ids] = row[ids]
        return logits


BLANK = Canvas()
"""Nothing but masks, as long as the generation may become."""
