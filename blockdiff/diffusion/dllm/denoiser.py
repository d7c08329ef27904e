"""One step of a checkpoint that is a diffusion model itself: what is proposed, and what is settled.

Where logits come from is the reader's business; which blocks and holes there are, the sampler's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from blockdiff.config import DecodingConfig, Rule
from blockdiff.diffusion.choose import BlockProposal, Chooser
from blockdiff.diffusion.dllm.editing import MOST_AFTER, EditedBlock, ResizedBlock, Thresholds
from blockdiff.diffusion.dllm.length import Resizing
from blockdiff.diffusion.dllm.readers import BlockReader, HoleCanvas, Reader
from blockdiff.diffusion.forwards import Constraint
from blockdiff.diffusion.unmask import (
    most_confident,
    rate_counts,
    schedule_counts,
    timestep_counts,
    to_unmask,
)
from blockdiff.errors import Cancelled, InvalidRequest
from blockdiff.model.load.kinds import DiffusionKind, Family

# Their published loop ranks positions by entropy and has a schedule of its own.
_DREAMS = frozenset({Family.DREAM, Family.DREAMON, Family.OPEN_DCODER, Family.CODA})
_BY_ENTROPY = _DREAMS | {Family.RND1}


@dataclass
class HoleDenoiser:
    """Settles the masks of a window of a hole, step after step.

    Attributes:
        mask: the noise.
        by_entropy: the rule `schedule` ranks positions by entropy; None: as the family's own loop.
    """

    kind: DiffusionKind
    mask: int
    chooser: Chooser
    config: DecodingConfig
    constraint: Constraint | None
    by_entropy: bool | None
    cancelled: Callable[[], bool]

    def __post_init__(self) -> None:
        self.config = replace(self.config, rule=_rule(self.config, self.kind))
        if self.by_entropy is None:
            self.by_entropy = self.kind.family in _BY_ENTROPY
        marks = (self.kind.delete_token_id, self.kind.split_token_id)
        inserts = self.kind.split_token_id is not None and self.config.rule is not Rule.EDIT
        self._never = [token for token in marks if inserts and token is not None]

    def denoise(self, hole: HoleCanvas, window: range, reader: Reader) -> Iterator[None]:
        """Settle every mask of a window, as many steps as the rule takes; yields after each."""
        n, step = sum(hole.masked[i] for i in window), 0
        if isinstance(reader, BlockReader):  # schedules count a whole block, where it begins filled
            n = self.kind.sub_block_size or reader.size
        while any(hole.masked[i] for i in window):
            proposal, masked = self._propose(hole, window, reader)
            if not self._unmasked_bound(hole, window, proposal):
                chosen = self._chosen(proposal, masked, step, n)
                step += 1
                for index in chosen.nonzero()[:, 0].tolist():
                    token, sure = proposal.tokens[index], proposal.confidence[index]
                    self.unmask(hole, window.start + index, int(token), float(sure))
            yield

    def edit(self, hole: HoleCanvas, window: range, reader: Reader) -> Iterator[None]:
        """Fill the masks of a window and replace what stands there (LLaDA2.1, LLaDA2.2)."""
        bound: set[int] = set()  # healed tokens, which stay
        while self.limit(hole) is not None and (at := hole.open_at) in window:
            self._unmasked_bound(hole, window, self._propose(hole, window, reader)[0])
            bound.add(at)
            yield
        block, more = self._edited(hole, window, bound), True
        thresholds = Thresholds(self.config.threshold, self.config.edit_threshold)
        while more and not block.is_done:
            rows = self._rows(hole, window, reader)
            drawn, best = self.chooser.sample(rows), rows.argmax(-1)
            shares = rows.softmax(-1).gather(-1, best[:, None])[:, 0].cpu()
            tokens = torch.where(block.masked, drawn.tokens, best.cpu())
            sure = torch.where(block.masked, drawn.confidence, shares)
            more = block.step(tokens, sure, rows, thresholds)
            found = zip(block.tokens.tolist(), block.masked.tolist(), strict=True)
            for index, (token, masked) in enumerate(found):
                at = window.start + index
                hole.tokens[at] = self.mask if masked else token
                hole.shown[at] = int(tokens[index]) if masked else token
                hole.masked[at], hole.confidence[at] = masked, float(sure[index])
            yield

    def resize(self, hole: HoleCanvas, reader: Reader, resizing: Resizing) -> Iterator[None]:
        """Settle every mask of a hole while masks become two, or none (DreamOn)."""
        grown = step = 0
        while hole.open_at < len(hole.tokens):
            never = [resizing.expand] if resizing.full(len(hole.tokens), grown) else []
            whole = range(len(hole.tokens))
            proposal, masked = self._propose(hole, whole, reader, never)
            if self._unmasked_bound(hole, whole, proposal):
                yield
                continue
            chosen = self._chosen(proposal, masked, step, int(masked.sum()), resizing=True)
            step += 1
            for at in reversed(chosen.nonzero()[:, 0].tolist()):
                token = int(proposal.tokens[at])
                if token == resizing.expand and not resizing.full(len(hole.tokens), grown):
                    hole.grow(1, at)
                    grown += 1
                elif token == resizing.expand:
                    continue  # others of this step took the room; it is asked again
                elif token == resizing.delete:
                    hole.remove(at)
                    for behind in reversed(range(at, len(hole.tokens))):
                        if hole.masked[behind]:
                            hole.remove(behind)
                else:
                    self.unmask(hole, at, token, float(proposal.confidence[at]))
            yield

    def _edited(self, hole: HoleCanvas, window: range, bound: set[int]) -> EditedBlock:
        tokens = torch.tensor(hole.tokens[window.start : window.stop])
        masked = torch.tensor(hole.masked[window.start : window.stop])
        kept = torch.tensor([at in bound for at in window])
        delete, split = self.kind.delete_token_id, self.kind.split_token_id
        if delete is None or split is None:
            return EditedBlock(tokens, masked, kept)
        most = (self.kind.block_size or len(window)) + MOST_AFTER
        return ResizedBlock(tokens, masked, kept, delete=delete, split=split, most=most)

    def _rows(
        self, hole: HoleCanvas, window: range, reader: Reader, never: Sequence[int] = ()
    ) -> Tensor:
        """Logits (window, vocab) of what may stand there."""
        self.check()
        start = len(hole.before)
        rows = reader.logits(hole.sequence, start + window.start, start + window.stop)
        rows = self.chooser.without_banned(rows)
        rows[:, [*self._never, *never]] = -torch.inf
        return rows

    def _propose(
        self,
        hole: HoleCanvas,
        window: range,
        reader: Reader,
        never: Sequence[int] = (),
    ) -> tuple[BlockProposal, Tensor]:
        """A token for every position of a window, which is shown at its masks; and its masks."""
        rows = self._rows(hole, window, reader, never)
        limit = self.limit(hole)
        if limit is not None and hole.open_at in window:
            row = rows[hole.open_at - window.start]
            kept = row[list(limit)].clone()
            row.fill_(-torch.inf)
            row[list(limit)] = kept
        proposal = self.chooser.sample(rows)
        masked = torch.tensor(hole.masked[window.start : window.stop])
        for index in masked.nonzero()[:, 0].tolist():
            hole.shown[window.start + index] = int(proposal.tokens[index])
            hole.confidence[window.start + index] = float(proposal.confidence[index])
        return proposal, masked

    def _chosen(
        self, proposal: BlockProposal, masked: Tensor, step: int, n: int, resizing: bool = False
    ) -> Tensor:
        """The masks to unmask now, by the rule; `n` there were to begin with."""
        config = self.config
        if config.rule is not Rule.SCHEDULE:
            return to_unmask(config, proposal.confidence, proposal.entropy, masked, step, n)
        rank = proposal.confidence
        if self.by_entropy:
            rank = -proposal.entropy
        if resizing:  # how many there will be is not known: as many as would suffice from here
            left = max(config.denoising_steps - step, 1) if config.denoising_steps else n
            return most_confident(rank, masked, -(-n // left))
        steps = min(config.denoising_steps or n, n)
        counted = schedule_counts
        if self.kind.family in _BY_ENTROPY:
            counted = timestep_counts if self.kind.family in _DREAMS else rate_counts
        counts = counted(n, steps)
        counts = [count for count in counts if count]
        return most_confident(rank, masked, counts[step] if step < len(counts) else len(masked))

    def _unmasked_bound(self, hole: HoleCanvas, window: range, proposal: BlockProposal) -> bool:
        """A healed token is bound to its text: it is unmasked alone, before the others."""
        at = hole.open_at
        if at not in window or self.limit(hole) is None:
            return False
        index = at - window.start
        token, sure = proposal.tokens[index], proposal.confidence[index]
        self.unmask(hole, at, int(token), float(sure))
        return True

    def unmask(self, hole: HoleCanvas, at: int, token: int, confidence: float) -> None:
        hole.tokens[at] = hole.shown[at] = token
        hole.masked[at] = False
        hole.confidence[at] = confidence

    def limit(self, hole: HoleCanvas) -> Sequence[int] | None:
        """Ids that the first mask is bound to; None: it is free."""
        if self.constraint is None:
            return None
        return self.constraint.allowed(hole.tokens[: hole.open_at])

    def check(self) -> None:
        if self.cancelled():
            raise Cancelled("the request was cancelled")


def _rule(config: DecodingConfig, kind: DiffusionKind) -> Rule:
    """The rule of a request; the default means the checkpoint's own. Raises InvalidRequest."""
    if config.rule is Rule.TRUST:  # here is no base to trust a token by
        return Rule.THRESHOLD if kind.split_token_id is None else Rule.EDIT
    known = {Rule.SCHEDULE, Rule.THRESHOLD, Rule.ENTROPY_BOUND}
    if kind.family is Family.LLADA2:
        known.add(Rule.EDIT)
    if config.rule not in known:
        raise InvalidRequest(
            f"the rule {config.rule.value} works with an adapter of ours only",
            "use --rule threshold",
        )
    return config.rule
