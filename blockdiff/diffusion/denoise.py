"""`diffusion`: block after block of masks is denoised over several forwards."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from blockdiff.diffusion.canvas import Canvas
from blockdiff.diffusion.choose import Proposal
from blockdiff.diffusion.forwards import Generation
from blockdiff.diffusion.revision import Revision
from blockdiff.diffusion.snapshot import Forwards, Snapshot, Steps
from blockdiff.diffusion.unmask import next_size, settle, unchanged
from blockdiff.model import masks
from blockdiff.model.forward import Forward
from blockdiff.model.transformer import Gate


class Denoising:
    """One generation in `diffusion`: a block's commit shares the next block's first forward.

    Logits are shifted: the last exact token predicts the block's first token, the block's position
    j predicts its token j + 1.
    """

    def __init__(self, sampler: Generation) -> None:
        self._sampler = sampler

    def steps(self, last: int, canvas: Canvas) -> Steps[None]:
        """Denoise block after block behind the prompt's `last` token.

        A block starts at a mask: tokens that a canvas keeps before it are exact, and cost no
        forward of their own.
        """
        sampler = self._sampler
        pending = [last]
        accepted: list[int] = []
        confidence: list[float] = []
        behind = sampler.positions_left - 1  # the last token, which is not committed yet
        most = len(canvas.tokens) or min(sampler.config.max_tokens, behind + 1)
        size = sampler.config.block_size

        def accept(block: Proposal) -> None:
            accepted.extend(block.tokens)
            confidence.extend(block.confidence)
            pending.extend(block.tokens)

        accept(_kept(canvas, 0))
        while len(accepted) < most:
            room = behind - len(accepted)
            if room < 1:  # for no mask: the last position says what follows it
                head = yield from self._exact_forward(pending)
                ids = canvas.allowed.get(len(accepted))
                limit = self._limit(accepted) if ids is None else ids.tolist()
                token, probability, _ = sampler.chooser.verify(head, None, limit)
                ended = token in sampler.stop
                if not ended:
                    accept(Proposal((token,), (probability,)))
                yield sampler.snapshot(accepted, confidence, ended=ended)
                return
            block = canvas.block(len(accepted), min(size, most - len(accepted), room))
            if canvas.tokens and len(pending) > 1:
                # an exact row does not see what the canvas keeps behind the mask, a noisy one does
                pending.pop()
                block = block.behind(accepted.pop(), confidence.pop())
            sampler.check()
            before = sampler.forwards
            head, logits = yield from self._opening_forward(pending, block)
            sampler.cache.commit(len(pending))
            pending.clear()
            limit = self._limit(accepted)
            if limit is not None:
                # the healed token is bound to its text: settle it alone, then go on in blocks
                token, probability, _ = sampler.chooser.verify(head, None, limit)
                settled = Proposal((token,), (probability,))
            else:
                show = partial(sampler.snapshot, accepted, confidence, canvas=canvas)
                settled = yield from self._block(head, logits, block, show)
                size = next_size(sampler.config, size, sampler.forwards - before)
            kept = next((i for i, t in enumerate(settled.tokens) if t in sampler.stop), None)
            accept(Proposal(settled.tokens[:kept], settled.confidence[:kept]))
            if kept is not None:
                yield sampler.snapshot(accepted, confidence, ended=True)
                return
            accept(_kept(canvas, len(accepted)))
            yield sampler.snapshot(accepted, confidence, canvas=canvas)

    def _limit(self, accepted: Sequence[int]) -> Sequence[int] | None:
        """Ids that may come next; None: all."""
        constraint = self._sampler.constraint
        return constraint.allowed(accepted) if constraint else None

    def _exact_forward(self, pending: Sequence[int]) -> Forwards[Tensor]:
        """Exact tokens alone, which are committed: the logits (vocab,) behind them."""
        sampler = self._sampler
        sampler.check()
        forward = replace(sampler.causal(pending), wanted=len(pending) - 1)
        logits = yield from sampler.forward(forward)
        sampler.cache.commit(len(pending))
        return logits[0]

    def _block(
        self, head: Tensor, logits: Tensor, block: Canvas, show: Callable[..., Snapshot]
    ) -> Steps[Proposal]:
        """Settle every position of one block; returns its tokens.

        Positions behind a settled end token whose predecessors are all settled do not matter. Under
        the rule `edit` a block is done when a forward finds nothing to settle or to replace.
        """
        sampler = self._sampler
        size = len(logits)
        tokens = torch.tensor(block.tokens)
        certainty = torch.tensor(block.confidence)
        masked = torch.tensor(block.masked)
        n_masks = sum(block.masked)
        step, ended = 0, False
        revision, drafts = Revision(sampler.config, block), list[Tensor]()
        while True:
            rows = block.limited(torch.cat([head[None], logits[: size - 1]]))
            proposal = sampler.chooser.sample(rows)
            wishes = revision.wishes(rows, tokens, masked)
            edited = wishes.wanted
            if bool(edited.any()):
                edited = revision.granted(wishes, (yield from self._exact(head, tokens)))
                tokens = torch.where(edited, wishes.tokens, tokens)
                certainty = torch.where(edited, wishes.confidence, certainty)
            tokens = torch.where(masked, proposal.tokens, tokens)
            certainty = torch.where(masked, proposal.confidence, certainty)
            rank, entropy = certainty.clone(), proposal.entropy
            if step == 0 and block.masked[0]:
                # The first token comes from the base's exact row, which never sees the block: it
                # will not fit itself to tokens settled before it, so it settles first.
                rank[0], entropy[0] = 2.0, 0.0
            open_ = torch.zeros_like(masked) if ended else masked
            drafts.append(tokens)
            if unchanged(sampler.config, drafts, certainty, masked):
                chosen = open_
            else:
                chosen = settle(sampler.config, rank, entropy, open_, step, n_masks)
            masked = masked & ~chosen
            step += 1
            ended = self._ends(tokens, masked)
            changed = revision.active and bool((chosen | edited).any())
            draft = Proposal(tuple(tokens.tolist()), tuple(certainty.tolist()))
            if not changed and (ended or not bool(masked.any())):
                sampler.edits += revision.edits
                sampler.returns += revision.returns
                return draft
            yield show(draft, settled=(~masked).tolist())
            sampler.check()
            logits = yield from self._block_forward(tokens, masked)

    def _ends(self, tokens: Tensor, masked: Tensor) -> bool:
        open_at = int(masked.long().argmax())
        return any(int(t) in self._sampler.stop for t in tokens[:open_at])

    def _opening_forward(
        self, pending: Sequence[int], block: Canvas
    ) -> Forwards[tuple[Tensor, Tensor]]:
        """Exact tokens, then a block with masks: the last exact row of logits, the block's rows."""
        sampler = self._sampler
        exact, past, size = len(pending), sampler.cache.length, len(block.tokens)
        tokens = sampler.ids([*pending, *block.tokens])
        mask = masks.opening(past, exact, size, sampler.model.device)
        positions = sampler.positions(past, exact + size)
        gate = sampler.gate(exact, size)
        assert gate is not None
        gate = replace(gate, masked=sampler.ids([False] * exact + list(block.masked)))
        forward = Forward(tokens, positions, mask, sampler.cache, gate, exact - 1)
        logits = yield from sampler.forward(forward)
        return logits[0], logits[1:]

    def _exact(self, head: Tensor, tokens: Tensor) -> Forwards[Tensor]:
        """The base's probability of each token of a block (block,), given those before it."""
        first, *rest = tokens.tolist()
        logits, _ = yield from self._sampler.verifying_forward(first, rest, (), 0)
        probabilities = torch.cat([head[None], logits[:-1]]).softmax(-1).cpu()
        return probabilities.gather(-1, tokens[:, None])[:, 0]

    def _block_forward(self, tokens: Tensor, masked: Tensor) -> Forwards[Tensor]:
        """The whole block again, settled tokens visible, behind the committed positions."""
        sampler = self._sampler
        past, size = sampler.cache.length, len(tokens)
        assert sampler.adapter is not None
        gate = Gate(sampler.adapter, masked[None].to(sampler.model.device))
        mask = masks.full(past, size, sampler.model.device)
        ids = tokens[None].to(sampler.model.device)
        positions = sampler.positions(past, size)
        return (yield from sampler.forward(Forward(ids, positions, mask, sampler.cache, gate)))


def _kept(canvas: Canvas, start: int) -> Proposal:
    """The tokens that the canvas keeps from `start` on, up to its next mask."""
    end = start + canvas.kept(start)
    return Proposal(canvas.tokens[start:end], canvas.confidence[start:end])
