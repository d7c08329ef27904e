"""A sequence with a hole that is being filled."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class HoleCanvas:
    """The hole of a sequence: tokens in place of masks, one after another.

    Attributes:
        before, after: the tokens around it, which never change.
        tokens: of the hole; at a mask the mask's id.
        shown: of the hole; at a mask the best guess so far.
    """

    before: list[int]
    after: list[int]
    mask: int
    tokens: list[int] = field(default_factory=list)
    shown: list[int] = field(default_factory=list)
    masked: list[bool] = field(default_factory=list)
    confidence: list[float] = field(default_factory=list)

    def grow(self, count: int, at: int | None = None) -> None:
        """Put masks into the hole: at its end, or before position `at`."""
        at = len(self.tokens) if at is None else at
        self.tokens[at:at] = self.shown[at:at] = [self.mask] * count
        self.masked[at:at] = [True] * count
        self.confidence[at:at] = [0.0] * count

    def remove(self, at: int) -> None:
        for row in (self.tokens, self.shown, self.masked, self.confidence):
            del row[at]

    @property
    def sequence(self) -> list[int]:
        return [*self.before, *self.tokens, *self.after]

    @property
    def open_at(self) -> int:
        """The first mask, or the end of the hole."""
        return self.masked.index(True) if True in self.masked else len(self.masked)
