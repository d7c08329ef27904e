"""`diffusion`: block after block of masks is denoised over several forwards."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from blockdiff.diffusion.canvas import Canvas
from blockdiff.diffusion.choose import BlockProposal, Proposal
from blockdiff.diffusion.forwards import SamplerState, Snapshot
from blockdiff.diffusion.revision import Revision, Wishes
from blockdiff.diffusion.unmask import next_size, to_unmask, unchanged
from blockdiff.model import masks
from blockdiff.model.forward import Forward
from blockdiff.model.layer import Gate


class Denoising:
    """One generation in `diffusion`: a block's commit shares the next block's first forward.

    Logits are shifted: the last exact token predicts the block's first token, the block's position
    j predicts its token j + 1. A block starts at a mask: tokens that a canvas keeps before it are
    exact, and cost no forward of their own.
    """

    def __init__(self, sampler: SamplerState, last: int, canvas: Canvas) -> None:
        """Behind the prompt's `last` token, which alone is not committed."""
        self._sampler, self._canvas = sampler, canvas
        self._pending = [last]
        self._accepted: list[int] = []
        self._confidence: list[float] = []
        self._behind = sampler.positions_left - 1  # the last token, which is not committed yet
        self._most = len(canvas.tokens) or min(sampler.config.max_tokens, self._behind + 1)
        self._size = sampler.config.block_size
        self._block: NoisyBlock | None = None
        self._before = 0  # forwards, when the block was opened
        self._ended = False
        self._accept(self._kept())

    def next_forward(self) -> Forward | None:
        """Of the block that is denoised, or of the one that is opened."""
        sampler, count = self._sampler, len(self._accepted)
        if self._block is None and (self._ended or count >= self._most):
            return None
        sampler.check()
        if self._block is not None:
            return self._block.next_forward()
        self._before = sampler.forwards
        room = self._behind - count
        if room < 1:  # for no mask: the last position says what follows it
            return replace(sampler.causal(self._pending), wanted=len(self._pending) - 1)
        start = self._canvas.block(count, min(self._size, self._most - count, room))
        if self._canvas.tokens and len(self._pending) > 1:
            # an exact row does not see what the canvas keeps behind the mask, a noisy one does
            self._pending.pop()
            start = start.behind(self._accepted.pop(), self._confidence.pop())
        self._block = NoisyBlock(sampler, start)
        return self._block.opening_forward(self._pending)

    def take(self, answer: Tensor) -> Snapshot | None:
        """Unmask what the rule says, and accept the block once it is done."""
        sampler, block = self._sampler, self._block
        logits = sampler.counted(answer)
        if self._pending:
            sampler.cache.commit(len(self._pending))
            self._pending.clear()
            limit = self._limit()
            if block is None or limit is not None:
                # the healed token is bound to its text: accept it alone, then go on in blocks
                (one,) = sampler.chooser.verify(logits, limits=[limit])
                return self._accept_block(Proposal((one.token,), (one.probability,)))
        assert block is not None
        if (draft := block.take(logits)) is None:
            return None
        if block.is_done:
            self._size = next_size(sampler.config, self._size, sampler.forwards - self._before)
            return self._accept_block(draft)
        accepted, confidence, settled = self._accepted, self._confidence, block.unmasked
        return sampler.snapshot(accepted, confidence, draft, settled=settled, canvas=self._canvas)

    def _accept_block(self, block: Proposal) -> Snapshot:
        """Accept a block up to its end token, and what the canvas keeps behind it."""
        self._block = None
        end = next((i for i, t in enumerate(block.tokens) if t in self._sampler.stop), None)
        self._accept(Proposal(block.tokens[:end], block.confidence[:end]))
        if end is not None:
            self._ended = True
            return self._sampler.snapshot(self._accepted, self._confidence, ended=True)
        self._accept(self._kept())
        return self._sampler.snapshot(self._accepted, self._confidence, canvas=self._canvas)

    def _accept(self, block: Proposal) -> None:
        self._accepted.extend(block.tokens)
        self._confidence.extend(block.confidence)
        self._pending.extend(block.tokens)

    def _kept(self) -> Proposal:
        """The tokens that the canvas keeps from here on, up to its next mask."""
        canvas, start = self._canvas, len(self._accepted)
        end = start + canvas.kept(start)
        return Proposal(canvas.tokens[start:end], canvas.confidence[start:end])

    def _limit(self) -> Sequence[int] | None:
        """Ids that may come next; None: all."""
        ids = self._canvas.allowed.get(len(self._accepted))
        if self._block is None and ids is not None:  # a block limits itself
            return list(map(int, ids))
        constraint = self._sampler.constraint
        return constraint.allowed(self._accepted) if constraint else None


class NoisyBlock:
    """The positions that are denoised together, from masks to tokens.

    Positions behind an end token without a mask before it do not matter. Under
    the rule `edit` a block is done when a forward finds nothing to unmask or to replace.

    Attributes:
        is_done: nothing of it is masked, or to be replaced, any more.
    """

    def __init__(self, sampler: SamplerState, start: Canvas) -> None:
        self._sampler, self._start = sampler, start
        self._tokens = torch.tensor(start.tokens)
        self._confidence = torch.tensor(start.confidence)
        self._masked = torch.tensor(start.masked)
        self._step, self._ended, self.is_done = 0, False, False
        self._revision, self._drafts = Revision(sampler.config, start), list[Tensor]()
        self._head: Tensor | None = None  # logits (vocab,) of the first position, which are exact
        self._asked: tuple[BlockProposal, Wishes] | None = None  # the base, that has a veto

    @property
    def unmasked(self) -> list[bool]:
        """Which positions are."""
        return (~self._masked).tolist()

    def opening_forward(self, pending: Sequence[int]) -> Forward:
        """Exact tokens, then the block: logits of the last exact row, then of the block's rows."""
        sampler, start = self._sampler, self._start
        exact, past, size = len(pending), sampler.cache.length, len(start.tokens)
        gate = sampler.gate(exact, size)
        assert gate is not None
        return Forward(
            sampler.ids([*pending, *start.tokens]),
            sampler.positions(past, exact + size),
            masks.opening(past, exact, size),
            sampler.cache,
            replace(gate, masked=sampler.ids([False] * exact + list(start.masked))),
            exact - 1,
        )

    def next_forward(self) -> Forward:
        """The whole block again, its tokens visible; or under the base, if that is asked."""
        sampler = self._sampler
        if self._asked is not None:
            return sampler.causal(self._tokens.tolist())
        past, size = sampler.cache.length, len(self._tokens)
        assert sampler.adapter is not None
        return Forward(
            self._tokens[None],
            sampler.positions(past, size),
            masks.full(past, size),
            sampler.cache,
            Gate(sampler.adapter, self._masked[None]),
        )

    def take(self, logits: Tensor) -> Proposal | None:
        """Unmask and replace tokens; None where the base is asked before any is replaced."""
        if self._head is None:
            self._head, logits = logits[0], logits[1:]
        logits = torch.cat([self._head[None], logits[:-1]])
        if self._asked is None:
            rows = self._start.limited(logits)
            proposal = self._sampler.chooser.sample(rows)
            wishes = self._revision.wishes(rows, self._tokens, self._masked)
            if bool(wishes.wanted.any()):
                self._asked = proposal, wishes
                return None
            return self._taken(proposal, wishes, wishes.wanted)
        (proposal, wishes), self._asked = self._asked, None
        exact = logits.softmax(-1).cpu().gather(-1, self._tokens[:, None])[:, 0]
        return self._taken(proposal, wishes, self._revision.granted(wishes, exact))

    def _taken(self, proposal: BlockProposal, wishes: Wishes, edited: Tensor) -> Proposal:
        """The draft after one more step, with these tokens replaced."""
        config, masked = self._sampler.config, self._masked
        tokens = torch.where(edited, wishes.tokens, self._tokens)
        confidence = torch.where(edited, wishes.confidence, self._confidence)
        self._tokens = tokens = torch.where(masked, proposal.tokens, tokens)
        self._confidence = confidence = torch.where(masked, proposal.confidence, confidence)
        rank, entropy = confidence.clone(), proposal.entropy
        if self._step == 0 and self._start.masked[0]:
            # The first token comes from the base's exact row, which never sees the block: it
            # will not fit itself to tokens chosen before it, so it is chosen first.
            rank[0], entropy[0] = 2.0, 0.0
        open_ = torch.zeros_like(masked) if self._ended else masked
        self._drafts.append(tokens)
        chosen = open_
        if not unchanged(config, self._drafts, confidence, masked):
            chosen = to_unmask(config, rank, entropy, open_, self._step, sum(self._start.masked))
        self._masked = masked = masked & ~chosen
        self._step += 1
        first = int(masked.long().argmax())  # that is open
        self._ended = any(int(token) in self._sampler.stop for token in tokens[:first])
        changed = self._revision.active and bool((chosen | edited).any())
        self.is_done = not changed and (self._ended or not bool(masked.any()))
        if self.is_done:
            self._sampler.edits += self._revision.edits
            self._sampler.returns += self._revision.returns
        return Proposal(tuple(tokens.tolist()), tuple(confidence.tolist()))
