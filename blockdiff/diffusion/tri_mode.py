"""Checkpoints that draft with masks of their own and verify from left to right, without an adapter:
Nemotron-Labs-Diffusion.

One set of weights. What is committed is always encoded causally; a block of masks behind it sees
all of itself. Logits of a mask are those of its own position, logits of a token those of the next.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from blockdiff.config import DecodingConfig, Mode, Rule
from blockdiff.diffusion.choose import Proposal, argmax
from blockdiff.diffusion.draft_tokens import Source
from blockdiff.diffusion.forwards import SamplerState, Snapshot
from blockdiff.diffusion.unmask import to_unmask
from blockdiff.errors import InvalidRequest
from blockdiff.model import masks
from blockdiff.model.forward import Forward
from blockdiff.model.layer import Gate


def tri_mode(config: DecodingConfig) -> DecodingConfig:
    """The settings as these checkpoints read them. Raises InvalidRequest for another's rule."""
    if config.mode is not Mode.DIFFUSION:
        return config
    if config.rule is Rule.TRUST:  # the default; theirs is a threshold
        return replace(config, rule=Rule.THRESHOLD)
    if config.rule not in (Rule.SCHEDULE, Rule.THRESHOLD, Rule.ENTROPY_BOUND):
        raise InvalidRequest(
            f"the rule {config.rule.value} works with an adapter of ours only",
            "use --rule threshold",
        )
    return config


class _FromLeft:
    """What both ways of writing share: tokens that exact rows say, one after another."""

    def __init__(self, sampler: SamplerState, prompt: Sequence[int], mask: int) -> None:
        """Behind a prompt of which all but the last token is committed."""
        self._sampler, self._mask = sampler, mask
        self._pending = [prompt[-1]]  # accepted, not committed
        # the prompt's last token is not committed yet, and says what comes first
        self._most = min(sampler.config.max_tokens, max(sampler.positions_left, 1))
        self._accepted: list[int] = []
        self._confidence: list[float] = []
        self._ended = False

    @property
    def _is_over(self) -> bool:
        return self._ended or len(self._accepted) >= self._most

    def _limit(self) -> Sequence[int] | None:
        """Ids that may come next; None: all."""
        constraint = self._sampler.constraint
        return constraint.allowed(self._accepted) if constraint else None

    def _accept(self, token: int, confidence: float) -> None:
        """Take a token, unless it is the end."""
        self._ended = token in self._sampler.stop
        if not self._ended:
            self._accepted.append(token)
            self._confidence.append(confidence)

    def _block(self, tokens: Sequence[int]) -> Forward:
        """Tokens behind the committed ones that see all of each other."""
        sampler, size, past = self._sampler, len(tokens), self._sampler.cache.length
        positions, mask = sampler.positions(past, size), masks.full(past, size)
        return Forward(sampler.ids(tokens), positions, mask, sampler.cache)

    def _snapshot(
        self, draft: Proposal | None = None, settled: list[bool] | None = None
    ) -> Snapshot:
        made = self._sampler.snapshot(
            self._accepted, self._confidence, draft, self._ended, settled
        )
        return made.first(self._most) if len(made.tokens) > self._most else made


class SelfSpeculation(_FromLeft):
    """`verify`: one forward drafts a block, another checks it; the text is that of `ar`.

    The published linear self-speculation without a threshold: a block is the last accepted token
    and masks behind it, drafted at once; an adapter that was trained for it acts on all of it.
    What agrees with the exact rows is accepted, and one token behind that.
    """

    def __init__(self, sampler: SamplerState, prompt: Sequence[int], mask: int) -> None:
        super().__init__(sampler, prompt, mask)
        self._draft = Proposal((), ())
        self._drafts = False  # whether the forward under way does

    def next_forward(self) -> Forward | None:
        if self._is_over:
            return None
        sampler = self._sampler
        sampler.check()
        # as large as in training, even where less of it is wanted
        size = min(sampler.config.block_size, sampler.positions_left)
        self._drafts = self._wanted > 0 and size > 1 and not self._draft.tokens
        if not self._drafts:
            return sampler.causal([*self._pending, *self._draft.tokens])
        block = self._block([*self._pending, *[self._mask] * (size - 1)])
        gate = None
        if sampler.adapter is not None:  # its mask embedding is the model's own
            gate = Gate(sampler.adapter, torch.zeros(1, size, dtype=torch.bool))
        return replace(block, gate=gate, wanted=1)

    @property
    def _wanted(self) -> int:
        """Tokens of a draft; 0 before the first token, and while the next one is bound."""
        bound = not self._accepted or self._limit() is not None
        return 0 if bound else self._most - len(self._accepted) - 1

    def take(self, answer: Tensor) -> Snapshot:
        """A draft, or what is accepted of it."""
        sampler, logits = self._sampler, self._sampler.counted(answer)
        if self._drafts:
            logits = logits[: self._wanted]
            tokens = argmax(logits)
            shares = logits.softmax(-1).gather(-1, tokens[:, None])[:, 0]
            self._draft = Proposal(tuple(tokens.tolist()), tuple(shares.tolist()))
            return self._snapshot(self._draft)
        draft, self._draft = self._draft.tokens, Proposal((), ())
        limits = [self._limit(), *[None] * len(draft)]
        before = len(self._accepted)
        for one in sampler.chooser.verify(logits, draft, limits):
            self._accept(one.token, one.probability)
            sampler.drafted[Source.ADAPTER.value] += one.drafted and not self._ended
            if self._is_over:
                break
        sampler.cache.commit(len(self._pending) + max(len(self._accepted) - before - 1, 0))
        self._pending = self._accepted[-1:]
        return self._snapshot()


class CausalBlocks(_FromLeft):
    """`diffusion`: block after block of masks is denoised, then encoded causally.

    The first token of a block comes from the exact row before it.
    """

    def __init__(self, sampler: SamplerState, prompt: Sequence[int], mask: int) -> None:
        super().__init__(sampler, prompt, mask)
        self._tokens = torch.empty(0, dtype=torch.int64)  # of the block; best guesses at masks
        self._shares = torch.empty(0)
        self._masked = torch.empty(0, dtype=torch.bool)
        self._step = self._began = 0

    def next_forward(self) -> Forward | None:
        if self._is_over:
            return None
        self._sampler.check()
        if not len(self._tokens):
            causal = self._sampler.causal(self._pending)
            return replace(causal, wanted=len(self._pending) - 1)
        shown = torch.where(self._masked, self._mask, self._tokens)
        return self._block(shown.tolist())

    def take(self, answer: Tensor) -> Snapshot:
        """The token behind a block and masks for the next one, or a step of its denoising."""
        sampler, logits = self._sampler, self._sampler.counted(answer)
        if not len(self._tokens):
            sampler.cache.commit(len(self._pending))
            (one,) = sampler.chooser.verify(logits, limits=[self._limit()])
            self._accept(one.token, one.probability)
            self._pending = [one.token]
            if not self._is_over and self._limit() is None:
                self._open(one.token, one.probability)
            return self._snapshot()
        proposal, masked = sampler.chooser.sample(logits), self._masked
        self._tokens = torch.where(masked, proposal.tokens, self._tokens)
        self._shares = torch.where(masked, proposal.confidence, self._shares)
        chosen = to_unmask(
            sampler.config, self._shares, proposal.entropy, masked, self._step, self._began
        )
        self._masked, self._step = masked & ~chosen, self._step + 1
        open_at = int(self._masked.long().argmax()) if bool(self._masked.any()) else len(masked)
        behind = self._tokens[:open_at].tolist()
        if open_at < len(masked) and not any(token in sampler.stop for token in behind):
            rest, shares = self._tokens[1:].tolist(), self._shares[1:].tolist()
            settled = (~self._masked[1:]).tolist()
            return self._snapshot(Proposal(tuple(rest), tuple(shares)), settled)
        for at, token in enumerate(behind[1:], start=1):
            if not self._is_over:
                self._accept(token, float(self._shares[at]))
        self._pending, self._tokens = behind, self._tokens[:0]
        return self._snapshot()

    def _open(self, token: int, probability: float) -> None:
        """A block behind the accepted tokens, the last of which is its first."""
        size = min(self._sampler.config.block_size, self._sampler.positions_left)
        if size < 2:
            return
        self._tokens = torch.tensor([token] + [self._mask] * (size - 1))
        self._shares = torch.tensor([probability] + [0.0] * (size - 1))
        self._masked = torch.arange(size) > 0
        self._step, self._began = 0, size - 1
