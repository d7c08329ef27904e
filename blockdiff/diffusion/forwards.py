"""A generation: its state, how a forward of it is built, and the drafts that it brings.

A forward holds exact positions first, which run under the base weights and may be committed, and
noisy ones behind them, where the adapter acts and whose keys and values are thrown away. What is
done with the logits is the business of `verify.py` and `denoise.py`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import torch
from torch import Tensor

from blockdiff.config import DecodingConfig, Mode, Rule
from blockdiff.diffusion.canvas import BLANK, Canvas
from blockdiff.diffusion.choose import Chooser, Proposal
from blockdiff.diffusion.draft_tokens import DraftTokens
from blockdiff.diffusion.drafter import Speculation
from blockdiff.errors import Cancelled, ModelUnsupported
from blockdiff.model import masks
from blockdiff.model.adapter import GatedAdapter
from blockdiff.model.block_drafter import BlockDrafter
from blockdiff.model.cache import BlockCache
from blockdiff.model.forward import Forward, run
from blockdiff.model.layer import Gate
from blockdiff.model.transformer import Transformer

# Context tokens committed at a time, by device: what a cancel may lose. The flag itself is looked
# at before every layer. On a CPU 64 cost 17% more than 256, 128 cost 5%.
_CHUNK = {"cpu": 128}
_CHUNK_ELSEWHERE = 512


class Generation(Protocol):
    """One text on its way: what it is at, the forward that it needs next, and what follows of it.

    Who runs the forward, and with which others, is not its business.
    """

    def next_forward(self) -> Forward | Future[Any] | None:
        """What it waits for; None at the end. A future where it has run forwards of its own.

        Raises Cancelled.
        """
        ...

    def take(self, answer: Any) -> Snapshot | None:
        """Go on with what that said, a forward's logits (rows, vocab): the draft now.

        None where another forward has to say something before there is one.
        """
        ...


class Constraint(Protocol):
    """Limits the first tokens, such as token healing does."""

    def allowed(self, so_far: Sequence[int]) -> Sequence[int] | None:
        """Ids that may follow the tokens generated so far; None: no limit any more."""
        ...


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The draft after one forward.

    Attributes:
        tokens: ids in order; positions not settled hold the best guess.
        settled: which of them are decided.
        confidence: un-noised probability of each token when it was proposed.
        forwards: forwards so far, without the prefill.
        ended: the last token is followed by the end token; nothing more comes.
    """

    tokens: tuple[int, ...]
    settled: tuple[bool, ...]
    confidence: tuple[float, ...]
    forwards: int
    ended: bool

    @property
    def settled_prefix(self) -> tuple[int, ...]:
        """Tokens before the first one that is not settled."""
        count = self.settled.index(False) if False in self.settled else len(self.settled)
        return self.tokens[:count]

    def first(self, count: int) -> Snapshot:
        """Its first tokens alone, as if nothing had come behind them yet."""
        tokens, confidence = self.tokens[:count], self.confidence[:count]
        return Snapshot(tokens, self.settled[:count], confidence, self.forwards, False)

    def behind(self, start: Snapshot) -> Snapshot:
        """This with the tokens of `start` before its own."""
        if not start.tokens:
            return self
        return replace(
            self,
            tokens=start.tokens + self.tokens,
            settled=start.settled + self.settled,
            confidence=start.confidence + self.confidence,
        )


NOTHING = Snapshot((), (), (), 0, False)
"""Before anything is written."""


class Foregone:
    """A generation of denoising steps that need no forward any more when they are asked for."""

    def __init__(self, snapshots: Iterator[Snapshot]) -> None:
        self._snapshots = snapshots

    def next_forward(self) -> Future[Snapshot] | None:
        if (snapshot := next(self._snapshots, None)) is None:
            return None
        done = Future[Snapshot]()
        done.set_result(snapshot)
        return done

    def take(self, answer: Snapshot) -> Snapshot:
        return answer


def context_chunk(device: torch.device) -> int:
    """Tokens of a context that are committed at a time."""
    return _CHUNK.get(device.type, _CHUNK_ELSEWHERE)


@dataclass
class SamplerState:
    """What one generation is made of: weights, cache, settings, and what it has cost so far.

    The cache holds a committed prefix of the prompt. Nothing here commits; `verify` and `denoise`
    do, once they know what was accepted.
    """

    model: Transformer
    adapter: GatedAdapter | None
    cache: BlockCache
    chooser: Chooser
    stop: frozenset[int]
    config: DecodingConfig
    cancelled: Callable[[], bool]
    constraint: Constraint | None = None
    speculation: Speculation = Speculation()
    original: Sequence[int] = ()  # what a rewrite starts from: `verify` drafts from it
    company: Callable[[], int] = lambda: 0  # how many others write in the same forwards
    block_drafter: BlockDrafter | None = None  # drafts in place of the adapter's masks
    own_mask: int | None = None  # what the model drafts with, where it does without an adapter
    forwards: int = 0
    drafted: Counter[str] = field(default_factory=Counter)  # accepted tokens by their `Source`
    departed: int | None = 0  # tokens before the first that is not the base's choice; None: all are
    edits: int = 0  # settled tokens replaced, rule `edit`
    returns: int = 0  # positions of a block that wanted an earlier token back

    def __post_init__(self) -> None:
        drafts = self.adapter is not None or self.own_mask is not None
        if drafts or self.config.mode is not Mode.DIFFUSION:
            return  # `verify` has the n-grams of the text, whatever else drafts
        mode, rule = self.config.mode.value, self.config.rule
        if self.block_drafter is None:
            raise ModelUnsupported(
                f"mode {mode} needs a drafting adapter, this model has none",
                "use --mode verify, or --drafter",
            )
        if rule is not Rule.TRUST:
            raise ModelUnsupported(
                f"rule {rule.value} of mode {mode} needs an adapter, a drafter is not enough",
                f"use --mode verify, or --rule {Rule.TRUST.value}",
            )

    def verifying_forward(
        self, known: Sequence[int], draft: DraftTokens, ends: Sequence[int], width: int
    ) -> Forward:
        """Known tokens, at least one, and their draft, then `width` masks for each of its `ends`.

        Logits are those of the last known token and of all behind it.
        """
        before = len(known) - 1  # the last known one, which the draft follows
        exact, noisy = len(known) + len(draft.tokens), len(ends) * width
        past, depths = self.cache.length, draft.depths
        offsets = [*range(before), *(before + depth for depth in depths)]
        offsets += [before + depths[end] + 1 + i for end in ends for i in range(width)]
        return Forward(
            self.ids([*known, *draft.tokens] + [0] * noisy),
            past + torch.tensor(offsets)[None],
            masks.verifying(past, exact, [before + end for end in ends], width, draft.behind),
            self.cache,
            self.gate(exact, noisy),
            wanted=before,
            on_layer=self.check if before else None,
        )

    def drafting_forward(self, last: int, on_hidden: Callable[[Tensor], None]) -> Forward | None:
        """The last token and masks, for the drafter, over all that is committed; None where the
        context has no position left to draft for."""
        drafter, kept = self.block_drafter, self.cache.companion
        assert drafter is not None and kept is not None
        start, config = kept.length, drafter.config
        width = min(config.block_size, self.positions_left)
        if width <= config.first:
            return None
        return Forward(
            self.ids([last] + [config.mask_token_id] * (width - 1)),
            self.positions(start, width),
            masks.full(start, width),
            kept,
            wanted=config.first,
            drafts=True,
            on_hidden=on_hidden,
        )

    @property
    def positions_left(self) -> int:
        """Of the model's context, behind what is committed."""
        return self.cache.most_positions - self.cache.length

    def gate(self, exact: int, noisy: int) -> Gate | None:
        """The adapter acts on the `noisy` masks behind `exact` positions."""
        if not noisy:
            return None
        assert self.adapter is not None
        masked = torch.arange(exact + noisy)[None] >= exact
        return Gate(self.adapter, masked, exact)

    def causal(self, tokens: Sequence[int]) -> Forward:
        """The next tokens under the base weights, behind the committed ones."""
        past, count = self.cache.length, len(tokens)
        mask = masks.causal(past, count)
        return Forward(self.ids(tokens), self.positions(past, count), mask, self.cache)

    def counted(self, logits: Tensor) -> Tensor:
        """The logits of a forward of this generation, tokens that may never appear at -inf."""
        self.forwards += 1
        return self.chooser.without_banned(logits)

    def alone(self, forwards: Sequence[Forward]) -> list[Tensor]:
        return run(self.model, forwards, self.block_drafter)

    @property
    def chunk(self) -> int:
        return context_chunk(self.model.device)

    def ids(self, tokens: Sequence[int]) -> Tensor:
        return torch.tensor([list(tokens)])

    def positions(self, start: int, count: int) -> Tensor:
        return torch.arange(start, start + count)[None]

    def check(self) -> None:
        if self.cancelled():
            raise Cancelled("the request was cancelled")

    def snapshot(
        self,
        accepted: list[int],
        confidence: list[float],
        draft: Proposal | DraftTokens | None = None,
        ended: bool = False,
        settled: list[bool] | None = None,
        canvas: Canvas = BLANK,
    ) -> Snapshot:
        draft = draft or Proposal((), ())
        decided = settled if settled is not None else [False] * len(draft.tokens)
        every = (True,) * len(accepted)
        rest = len(accepted) + len(draft.tokens)  # of the canvas, not reached yet
        return Snapshot(
            tokens=(*accepted, *draft.tokens, *canvas.tokens[rest:]),
            settled=(*every, *decided, *(not m for m in canvas.masked[rest:])),
            confidence=(*confidence, *draft.confidence, *canvas.confidence[rest:]),
            forwards=self.forwards,
            ended=ended,
        )
