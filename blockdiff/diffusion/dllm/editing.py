"""Blocks whose tokens are edited while masks are filled (LLaDA2.1, LLaDA2.2).

Pure steps from what the model says of a block to the block's next tokens. A mask gets its token
above one threshold, a token that stands gives way to another above a second one; once no mask is
left, so many further steps are taken at most.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from blockdiff.diffusion.unmask import most_confident

MOST_AFTER = 16
"""Steps on a block without masks, as published."""


@dataclass(frozen=True, slots=True)
class Thresholds:
    """Probabilities above which a mask is filled, and a token replaced."""

    fill: float
    edit: float


@dataclass
class EditedBlock:
    """The positions of one block that are written: token-to-token editing (arXiv 2602.08676).

    Attributes:
        tokens: (block,) ids; what stands under a mask does not matter.
        masked: boolean (block,).
        kept: boolean (block,): positions that are not replaced.
        after: steps so far on a block without masks.
    """

    tokens: Tensor
    masked: Tensor
    kept: Tensor
    after: int = 0

    @property
    def is_done(self) -> bool:
        """Whether no step is left, before one is taken."""
        return not bool(self.masked.any()) and self.after >= MOST_AFTER

    def step(self, tokens: Tensor, sure: Tensor, logits: Tensor, at: Thresholds) -> bool:
        """Fill and replace. Whether another step may follow.

        Args:
            tokens: (block,) what the model proposes at each position.
            sure: (block,) probability of each.
            logits: (block, vocab); not looked at where nothing is inserted or deleted.
        """
        had_masks = bool(self.masked.any())
        self.after += not had_masks
        filled = self.masked & (sure > at.fill)
        if had_masks and not bool(filled.any()):
            filled = most_confident(sure, self.masked, 1)
        edited = self._edits(tokens, sure, at)
        self.tokens = torch.where(filled | edited, tokens, self.tokens)
        self.masked = self.masked & ~filled
        return had_masks or bool(edited.any())

    def _edits(self, tokens: Tensor, sure: Tensor, at: Thresholds) -> Tensor:
        return ~self.masked & ~self.kept & (sure > at.edit) & (tokens != self.tokens)


@dataclass
class ResizedBlock(EditedBlock):
    """As `EditedBlock`; a position may be deleted, and a mask inserted before one (LLaDA2.2).

    What is behind moves, and the block keeps its size: masks come in at its end, or what is moved
    past it is gone. A state that was there before is left by the next best token at the position
    that the model is least sure of. As in SGLang 0.5.23, `JointThresholdInDel`, which is greedy
    where the released decoder draws.

    Attributes:
        delete, split: ids that mean these two.
        most: steps after which it is finished, whatever the model says.
        first: which masks the block began with; they move with their positions.
    """

    delete: int = -1
    split: int = -1
    most: int = 0
    first: Tensor = field(init=False)
    _steps: int = 0
    _is_over: bool = False
    _seen: set[tuple[int, ...]] = field(default_factory=set)
    _said: dict[int, set[int]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.first = self.masked.clone()

    @property
    def is_done(self) -> bool:
        return self._is_over

    def step(self, tokens: Tensor, sure: Tensor, logits: Tensor, at: Thresholds) -> bool:
        tokens = tokens.clone()
        unfilled = int((self.first & self.masked).sum())
        self._steps += 1
        self.after += not unfilled
        last = self.after >= MOST_AFTER or self._steps > self.most
        filled = self._filled(sure, at, unfilled, last)
        written = filled | self._edits(tokens, sure, at)
        self._is_over = last or not bool(written.any())
        if not bool(written.any()):
            return False
        if last:
            self._without_marks(tokens, written, logits)
        else:
            self._leave_loop(tokens, sure, written, logits)
        self._write(tokens, written)
        return not last

    def _filled(self, sure: Tensor, at: Thresholds, unfilled: int, last: bool) -> Tensor:
        """Masks that get a token: one at least that the block began with, while there are any."""
        if last or not unfilled:
            return self.masked.clone()
        least = 1 + int(self.masked.sum()) - unfilled
        filled = self.masked & (sure > at.fill)
        return filled if int(filled.sum()) >= least else most_confident(sure, self.masked, least)

    def _without_marks(self, tokens: Tensor, written: Tensor, logits: Tensor) -> None:
        marks = written & ((tokens == self.delete) | (tokens == self.split))
        if bool(marks.any()):
            rows = logits[marks].clone()
            rows[:, [self.delete, self.split]] = -torch.inf
            tokens[marks] = rows.argmax(-1).cpu()

    def _leave_loop(self, tokens: Tensor, sure: Tensor, written: Tensor, logits: Tensor) -> None:
        state = tuple(torch.where(self.masked, -1, self.tokens).tolist())
        changed = written & (self.masked | (tokens != self.tokens))
        if state in self._seen and bool(changed.any()):
            at = int(torch.where(changed, sure, torch.inf).argmin())
            row = logits[at].clone()
            row[list(self._said.get(at, ()))] = -torch.inf
            tokens[at] = int(row.argmax())
        self._seen.add(state)

    def _write(self, tokens: Tensor, written: Tensor) -> None:
        """Put the chosen tokens in, then delete and insert."""
        size = len(self.tokens)
        found: list[tuple[int, bool, bool, bool]] = []  # token, masked, from the first on, kept
        for at in range(size):
            old = (
                int(self.tokens[at]), bool(self.masked[at]), bool(self.first[at]),
                bool(self.kept[at]),
            )  # fmt: skip
            if not written[at]:
                found.append(old)
                continue
            token = int(tokens[at])
            self._said.setdefault(at, set()).add(token)
            if token == self.split:
                found += [(0, True, False, False), old]
            elif token != self.delete:
                found.append((token, False, *old[2:]))
        found = [*found, *[(0, True, False, False)] * size][:size]
        ids, masked, first, kept = zip(*found, strict=True)
        self.tokens, self.masked = torch.tensor(ids), torch.tensor(masked)
        self.first, self.kept = torch.tensor(first), torch.tensor(kept)
