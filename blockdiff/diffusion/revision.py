"""Revising a block: tokens give way to ones that the model is surer of.

Token-to-token editing (LLaDA2.1), with limits: a model that was trained on little noise is apt to
go round in circles, and to tell another story once it has changed a word. So a position never takes
back a token that it has held, one token changes in a forward, the surest, and at most half of a
block in all: every block comes to an end. And the base has a veto: reading from left to right, it
must doubt the token that is to go.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from blockdiff.config import DecodingConfig, Rule
from blockdiff.diffusion.canvas import Canvas
from blockdiff.diffusion.unmask import doubted, edits

MOST_EDITS = 2
"""Of one position."""


@dataclass(frozen=True, slots=True)
class Wishes:
    """What the adapter would replace: three tensors (block,).

    Attributes:
        wanted: which tokens.
        tokens: by what.
        confidence: and how probable that is.
    """

    wanted: Tensor
    tokens: Tensor
    confidence: Tensor


class Revision:
    """What the positions of one block have held.

    Attributes:
        active: whether the rule revises at all.
        edits: replacements so far.
        returns: positions that wanted an earlier token back, which they do not get.
    """

    def __init__(self, config: DecodingConfig, block: Canvas) -> None:
        self.active = config.rule is Rule.EDIT
        self._config = config
        self._open = torch.tensor(block.masked) | torch.tensor(block.editable)
        # The first token comes from an exact row, which does not see the block.
        self._open[0] = False
        self._held: list[list[int]] = [[] for _ in block.tokens]
        self._returned = torch.zeros_like(self._open)
        self._most = max(1, len(block.tokens) // 2)
        self.edits = 0

    @property
    def returns(self) -> int:
        return int(self._returned.sum())

    def wishes(self, logits: Tensor, tokens: Tensor, masked: Tensor) -> Wishes:
        """Look over the tokens once.

        Args:
            logits: (block, vocab), un-noised, of the block as it stands.
            tokens, masked: (block,) what stands there, and which of it is masked.
        """
        unmasked = self._open & ~masked
        if not (self.active and bool(unmasked.any())):
            return Wishes(torch.zeros_like(self._open), tokens, torch.zeros(len(tokens)))
        probabilities = logits.softmax(-1).cpu()
        own = probabilities.gather(-1, tokens[:, None])[:, 0]
        before = torch.zeros(len(tokens))
        for index in unmasked.nonzero().flatten().tolist():
            held, token = self._held[index], int(tokens[index])
            if token not in held:
                held.append(token)
            earlier = [old for old in held if old != token]
            if earlier:
                before[index] = probabilities[index, earlier].max()
            probabilities[index, held] = 0.0
        self._returned |= edits(self._config, before, own, unmasked)
        fresh = torch.tensor([len(held) <= MOST_EDITS for held in self._held])
        other, ids = probabilities.max(-1)
        wanted = edits(self._config, other, own, unmasked & fresh & (self.edits < self._most))
        return Wishes(wanted, ids, other)

    def granted(self, wishes: Wishes, exact: Tensor) -> Tensor:
        """The one wish that comes true, or none: boolean (block,).

        Args:
            exact: (block,) probability of each token as it stands, by the base.
        """
        open_ = wishes.wanted & doubted(self._config, exact)
        chosen = torch.zeros_like(open_)
        if bool(open_.any()):
            chosen[int(torch.where(open_, wishes.confidence, -1.0).argmax())] = True
            self.edits += 1
        return chosen
