"""The block loop: from a prompt's tokens to a stream of ever better drafts.

One structure serves every mode. Known tokens that are not in the cache yet (`pending`) run under
the base weights and are committed; noisy positions behind them run under the adapter and are
thrown away. `ar` has no noisy positions, `verify` checks a draft and writes the next in the same
forward, `diffusion` denoises a block over several forwards.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Protocol, TypeAlias, TypeVar

import torch
from torch import Tensor

from blockdiff.config import DecodingConfig, Mode
from blockdiff.diffusion.canvas import BLANK, Canvas
from blockdiff.diffusion.choose import Chooser, Proposal
from blockdiff.diffusion.lookup import Lookup, Original, Source
from blockdiff.diffusion.revision import Revision
from blockdiff.diffusion.unmask import settle
from blockdiff.errors import Cancelled, ModelUnsupported
from blockdiff.model import masks
from blockdiff.model.adapter import GatedAdapter
from blockdiff.model.cache import BlockCache
from blockdiff.model.forward import Forward, drive, finish, run
from blockdiff.model.transformer import Gate, Transformer

# Context tokens committed at a time, by device: what a cancel may lose. The flag itself is looked
# at before every layer. On a CPU 64 cost 17% more than 256, 128 cost 5%.
_CHUNK = {"cpu": 128}
_CHUNK_ELSEWHERE = 512
_DRAFT_FLOOR = 0.2  # a draft ends before its joint probability falls below this
_SURE_MATCH = 3  # tokens; a shorter match in the text is used only where the adapter has no draft


R = TypeVar("R")
# What is sent in is the logits of a forward that was yielded, and nothing else.
Forwards: TypeAlias = Generator[Forward, Any, R]


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
        forwards: forwards so far, the encoding of the prompt excluded.
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


Steps: TypeAlias = Generator[Snapshot | Forward, Any, R]


@dataclass(frozen=True, slots=True)
class Speculation:
    """How `verify` drafts, as far as it depends on what a row of a forward costs.

    Attributes:
        every_length: a forward drafts for every number of draft tokens that may be accepted, not
            only for all of them: more drafts, for more rows.
        lookup: most tokens of a draft from the text itself; 0: none.
        crowded: the same where others write in the same forwards, which then have no masks: the
            weights are read anyway, and a row must bring more to be worth its arithmetic. None:
            nothing changes. Greedy requests only: what a sampled one writes depends on its drafts.
    """

    every_length: bool = True
    lookup: int = 0
    crowded: int | None = None


@dataclass
class Sampler:
    """Writes the middle of one prompt.

    The cache must hold a committed prefix of the prompt, possibly empty and never all of it.
    Whatever way a generation ends, `run` leaves the cache with the prompt's tokens but the last,
    so that the next request can build on it. `config.block_size` must be above 0 unless the mode
    is `ar`: masks of a draft in `verify`, positions of a block in `diffusion`; `config.max_tokens`
    must be above 0.
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
    forwards: int = 0
    edits: int = 0  # settled tokens replaced, rule `edit`
    returns: int = 0  # positions of a block that wanted an earlier token back

    def __post_init__(self) -> None:
        if self.adapter is None and self.config.mode is not Mode.AR:
            raise ModelUnsupported(
                f"mode {self.config.mode.value} needs a drafting adapter, this model has none",
                "use --mode ar",
            )

    def run(
        self, prompt: Sequence[int], canvas: Canvas = BLANK
    ) -> Generator[Snapshot, None, None]:
        """Yield a snapshot after every forward; the last one has everything settled.

        With a `canvas` (mode `diffusion` only) its masked tokens are denoised in their places and
        every snapshot holds all of it; `config.max_tokens` does not count then.

        Raises Cancelled between two forwards.
        """
        return drive(self.steps(prompt, canvas), self._alone)

    def steps(self, prompt: Sequence[int], canvas: Canvas = BLANK) -> Steps[None]:
        """What `run` does, with its forwards left to whoever drives it."""
        home = min(self.cache.length, len(prompt) - 1)
        try:
            yield from self.encoding(prompt)
            home = self.cache.length
            diffusion = self.config.mode is Mode.DIFFUSION
            yield from self._denoise(prompt[-1], canvas) if diffusion else self._verify(prompt)
        finally:
            self.cache.truncate(home)

    def surprise(self, prompt: Sequence[int], text: Sequence[int]) -> list[float]:
        """Nats by which each token of `text` right behind the prompt surprises the base.

        Leaves the cache as `run` does. Raises Cancelled.
        """
        return finish(self.surprising(prompt, text), self._alone)

    def surprising(self, prompt: Sequence[int], text: Sequence[int]) -> Forwards[list[float]]:
        """What `surprise` does, with its forwards left to whoever drives it."""
        nats: list[float] = []
        home = min(self.cache.length, len(prompt) - 1)
        try:
            yield from self.encoding(prompt)
            home = self.cache.length
            before = [prompt[-1], *text[:-1]]
            for start in range(0, len(text), self._chunk):
                self._check()
                chunk = before[start : start + self._chunk]
                logits = yield self._causal(chunk)
                self.forwards += 1
                self.cache.commit(len(chunk))
                wanted = self._tensor(list(text[start : start + self._chunk]))[0]
                nats += torch.nn.functional.cross_entropy(
                    logits, wanted, reduction="none"
                ).tolist()
        finally:
            self.cache.truncate(home)
        return nats

    def encode(self, prompt: Sequence[int]) -> None:
        """Commit all of the prompt but its last token, which the first forward takes along.

        Raises Cancelled between two layers; what is committed by then stays, and is exact.
        """
        finish(self.encoding(prompt), self._alone)

    def encoding(self, prompt: Sequence[int]) -> Forwards[None]:
        """What `encode` does, with its forwards left to whoever drives it."""
        self.cache.truncate(min(self.cache.length, len(prompt) - 1))
        while self.cache.length < len(prompt) - 1:
            self._check()
            start = self.cache.length
            chunk = prompt[start : min(start + self._chunk, len(prompt) - 1)]
            yield replace(self._causal(chunk), wanted=None, look=self._check)
            self.cache.commit(len(chunk))

    # --- ar and verify -------------------------------------------------------------------------

    def _verify(self, prompt: Sequence[int]) -> Steps[None]:
        """Draft and verify in one forward (TiDAR, arXiv 2511.08923); without adapter plain `ar`.

        A forward carries the last accepted token, its draft (causal, base weights) and groups of
        masks, each for a number of draft tokens that may turn out accepted (adapter on). The
        longest agreeing part of the draft and one further token are accepted; the group behind
        them, an earlier place in the text, or the original of a rewrite holds the next draft.
        """
        drafting = self.config.mode is Mode.VERIFY
        width = self.config.block_size if drafting else 0
        source = self._source(prompt) if drafting else Lookup((), 0)
        last = prompt[-1]
        accepted: list[int] = []
        confidence: list[float] = []
        draft = Proposal((), ())
        if self.original and drafting:
            draft = self._next_draft(None, source, self.config.max_tokens)
        while True:
            self._check()
            whole = len(draft.tokens)
            lengths = range(0 if self.speculation.every_length else whole, whole + 1)
            masked = width and not self._crowded()
            logits, drafts = yield from self._verifying_forward(
                last, draft.tokens, lengths if masked else (), width
            )
            before, ended = len(accepted), False
            for index in range(len(draft.tokens) + 1):
                guess = draft.tokens[index] if index < len(draft.tokens) else None
                limit = self.constraint.allowed(accepted) if self.constraint else None
                token, probability, agreed = self.chooser.verify(logits[index], guess, limit)
                ended = token in self.stop
                if ended:
                    break
                accepted.append(token)
                confidence.append(probability)
                if len(accepted) == self.config.max_tokens or not agreed:
                    break
            full = ended or len(accepted) == self.config.max_tokens
            self.cache.commit(index + 1)
            room = self.config.max_tokens - len(accepted)
            source.extend(accepted[before:])
            draft = Proposal((), ()) if full else self._next_draft(drafts.get(index), source, room)
            yield self._snapshot(accepted, confidence, draft, ended)
            if full:
                return
            last = accepted[-1]

    def _verifying_forward(
        self, last: int, draft: Sequence[int], lengths: Sequence[int], width: int
    ) -> Forwards[tuple[Tensor, dict[int, Tensor]]]:
        """Base logits (1 + draft, vocab); for each accepted length, draft logits (width, vocab)."""
        exact, noisy = 1 + len(draft), len(lengths) * width
        past, device = self.cache.length, self.model.device
        offsets = [*range(exact)] + [n + 1 + i for n in lengths for i in range(width)]
        tokens = self._tensor([last, *draft] + [0] * noisy)
        positions = past + torch.tensor(offsets, device=device)[None]
        mask = masks.verifying(past, exact, lengths, width, device)
        gate = self._gate(exact, noisy)
        logits = yield from self._forward(Forward(tokens, positions, mask, self.cache, gate))
        groups = logits[exact:].view(len(lengths), width, logits.shape[-1]) if noisy else ()
        return logits[:exact], dict(zip(lengths, groups, strict=True))

    def _next_draft(self, logits: Tensor | None, source: Source, room: int) -> Proposal:
        """The next draft, ends excluded, at most `room` - 1 tokens.

        What stood behind the same tokens before, where the match is long; otherwise the adapter's
        most likely tokens, cut where they become unlikely all together.
        """
        found, match = source.draft()
        most = self.speculation.crowded if self._crowded() else None
        found = found[: max(room - 1, 0)][:most]
        end = next((i for i, token in enumerate(found) if self._never_drafted(token)), len(found))
        copied = Proposal(found[:end], (0.0,) * end)
        if logits is None or (copied.tokens and match >= _SURE_MATCH):
            return copied
        proposal = self.chooser.most_likely(logits)
        joint, count = 1.0, 0
        for token, probability in zip(proposal.tokens, proposal.confidence, strict=True):
            joint *= probability
            if joint < _DRAFT_FLOOR or token in self.stop or count >= room - 1:
                break
            count += 1
        return Proposal(proposal.tokens[:count], proposal.confidence[:count]) if count else copied

    def _source(self, prompt: Sequence[int]) -> Source:
        most = self.speculation.lookup
        return Original(prompt, self.original, most) if self.original else Lookup(prompt, most)

    def _crowded(self) -> bool:
        greedy = self.config.temperature == 0.0
        return self.speculation.crowded is not None and greedy and self.company() > 0

    def _never_drafted(self, token: int) -> bool:
        return token in self.stop or self.chooser.never(token)

    # --- diffusion -----------------------------------------------------------------------------

    def _denoise(self, last: int, canvas: Canvas) -> Steps[None]:
        """Denoise block after block; a block's commit shares the next block's first forward.

        Logits are shifted: the last exact token predicts the block's first token, the block's
        position j predicts its token j + 1. A block starts at a mask: tokens that a canvas keeps
        before it are exact, and cost no forward of their own.
        """
        pending = [last]
        accepted: list[int] = []
        confidence: list[float] = []
        most = len(canvas.tokens) or self.config.max_tokens

        def accept(block: Proposal) -> None:
            accepted.extend(block.tokens)
            confidence.extend(block.confidence)
            pending.extend(block.tokens)

        accept(_kept(canvas, 0))
        while len(accepted) < most:
            block = canvas.block(len(accepted), min(self.config.block_size, most - len(accepted)))
            if canvas.tokens and len(pending) > 1:
                # an exact row does not see what the canvas keeps behind the mask, a noisy one does
                pending.pop()
                block = block.behind(accepted.pop(), confidence.pop())
            self._check()
            head, logits = yield from self._opening_forward(pending, block)
            self.cache.commit(len(pending))
            pending.clear()
            limit = self.constraint.allowed(accepted) if self.constraint else None
            if limit is not None:
                # the healed token is bound to its text: settle it alone, then go on in blocks
                token, probability, _ = self.chooser.verify(head, None, limit)
                settled = Proposal((token,), (probability,))
            else:
                show = partial(self._snapshot, accepted, confidence, canvas=canvas)
                settled = yield from self._denoise_block(head, logits, block, show)
            kept = next((i for i, t in enumerate(settled.tokens) if t in self.stop), None)
            accept(Proposal(settled.tokens[:kept], settled.confidence[:kept]))
            if kept is not None:
                yield self._snapshot(accepted, confidence, ended=True)
                return
            accept(_kept(canvas, len(accepted)))
            yield self._snapshot(accepted, confidence, canvas=canvas)

    def _denoise_block(
        self, head: Tensor, logits: Tensor, block: Canvas, show: Callable[..., Snapshot]
    ) -> Steps[Proposal]:
        """Settle every position of one block; returns its tokens.

        Positions behind a settled end token whose predecessors are all settled do not matter. Under
        the rule `edit` a block is done when a forward finds nothing to settle or to replace.
        """
        size = len(logits)
        tokens = torch.tensor(block.tokens)
        certainty = torch.tensor(block.confidence)
        masked = torch.tensor(block.masked)
        n_masks = sum(block.masked)
        step, ended = 0, False
        revision = Revision(self.config, block)
        while True:
            rows = block.limited(torch.cat([head[None], logits[: size - 1]]))
            proposal = self.chooser.sample(rows)
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
            chosen = settle(self.config, rank, entropy, open_, step, n_masks)
            masked = masked & ~chosen
            step += 1
            ended = self._ends(tokens, masked)
            changed = revision.active and bool((chosen | edited).any())
            draft = Proposal(tuple(tokens.tolist()), tuple(certainty.tolist()))
            if not changed and (ended or not bool(masked.any())):
                self.edits += revision.edits
                self.returns += revision.returns
                return draft
            yield show(draft, settled=(~masked).tolist())
            self._check()
            logits = yield from self._block_forward(tokens, masked)

    def _ends(self, tokens: Tensor, masked: Tensor) -> bool:
        open_at = int(masked.long().argmax())
        return any(int(t) in self.stop for t in tokens[:open_at])

    def _opening_forward(
        self, pending: Sequence[int], block: Canvas
    ) -> Forwards[tuple[Tensor, Tensor]]:
        """Exact tokens, then a block with masks: the last exact row of logits, the block's rows."""
        exact, past, size = len(pending), self.cache.length, len(block.tokens)
        tokens = self._tensor([*pending, *block.tokens])
        mask = masks.opening(past, exact, size, self.model.device)
        positions = self._positions(past, exact + size)
        gate = self._gate(exact, size)
        assert gate is not None
        gate = replace(gate, masked=self._tensor([False] * exact + list(block.masked)))
        forward = Forward(tokens, positions, mask, self.cache, gate, exact - 1)
        logits = yield from self._forward(forward)
        return logits[0], logits[1:]

    def _exact(self, head: Tensor, tokens: Tensor) -> Forwards[Tensor]:
        """The base's probability of each token of a block (block,), given those before it."""
        first, *rest = tokens.tolist()
        logits, _ = yield from self._verifying_forward(first, rest, (), 0)
        probabilities = torch.cat([head[None], logits[:-1]]).softmax(-1).cpu()
        return probabilities.gather(-1, tokens[:, None])[:, 0]

    def _block_forward(self, tokens: Tensor, masked: Tensor) -> Forwards[Tensor]:
        """The whole block again, settled tokens visible, behind the committed positions."""
        past, size = self.cache.length, len(tokens)
        assert self.adapter is not None
        gate = Gate(self.adapter, masked[None].to(self.model.device))
        mask = masks.full(past, size, self.model.device)
        ids = tokens[None].to(self.model.device)
        positions = self._positions(past, size)
        return (yield from self._forward(Forward(ids, positions, mask, self.cache, gate)))

    # --- pieces of a forward -------------------------------------------------------------------

    def _gate(self, exact: int, noisy: int) -> Gate | None:
        """The adapter acts on the `noisy` masks behind `exact` positions."""
        if not noisy:
            return None
        assert self.adapter is not None
        masked = torch.arange(exact + noisy, device=self.model.device)[None] >= exact
        return Gate(self.adapter, masked, exact)

    def _causal(self, tokens: Sequence[int]) -> Forward:
        """The next tokens under the base weights, behind the committed ones."""
        past, count = self.cache.length, len(tokens)
        mask = masks.causal(past, count, self.model.device)
        return Forward(self._tensor(tokens), self._positions(past, count), mask, self.cache)

    def _forward(self, forward: Forward) -> Forwards[Tensor]:
        """Its logits (rows, vocab) float32, tokens that may never appear at -inf."""
        logits = yield forward
        self.forwards += 1
        return self.chooser.without_banned(logits)

    def _alone(self, forwards: Sequence[Forward]) -> list[Tensor]:
        return run(self.model, forwards)

    @property
    def _chunk(self) -> int:
        return _CHUNK.get(self.model.device.type, _CHUNK_ELSEWHERE)

    def _tensor(self, tokens: Sequence[int]) -> Tensor:
        return torch.tensor([list(tokens)], device=self.model.device)

    def _positions(self, start: int, count: int) -> Tensor:
        return torch.arange(start, start + count, device=self.model.device)[None]

    def _check(self) -> None:
        if self.cancelled():
            raise Cancelled("the request was cancelled")

    def _snapshot(
        self,
        accepted: list[int],
        confidence: list[float],
        draft: Proposal | None = None,
        ended: bool = False,
        settled: list[bool] | None = None,
        canvas: Canvas = BLANK,
    ) -> Snapshot:
        draft = draft or Proposal((), ())
        decided = settled if settled is not None else [False] * len(draft.tokens)
        rest = len(accepted) + len(draft.tokens)  # of the canvas, not reached yet
        return Snapshot(
            tokens=(*accepted, *draft.tokens, *canvas.tokens[rest:]),
            settled=(*(True for _ in accepted), *decided, *(not m for m in canvas.masked[rest:])),
            confidence=(*confidence, *draft.confidence, *canvas.confidence[rest:]),
            forwards=self.forwards,
            ended=ended,
        )


def next_snapshot(steps: Steps[None]) -> Forwards[Snapshot | None]:
    """Run the forwards up to the next snapshot; None at the end."""
    try:
        step = next(steps)
        while isinstance(step, Forward):
            step = steps.send((yield step))
    except StopIteration:
        return None
    return step


def _kept(canvas: Canvas, start: int) -> Proposal:
    """The tokens that the canvas keeps from `start` on, up to its next mask."""
    end = start + canvas.kept(start)
    return Proposal(canvas.tokens[start:end], canvas.confidence[start:end])
