"""The block loop of checkpoints that are diffusion models themselves, without an adapter.

One loop for all of them. Where logits come from is the reader's business, which masks
go next that of the unmasking rule, how long the hole is that of `length`; this file puts them
together.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from blockdiff.config import DecodingConfig, Mode, Reuse, Rule
from blockdiff.diffusion.choose import BlockProposal, Chooser
from blockdiff.diffusion.dllm.editing import MOST_AFTER, EditedBlock, ResizedBlock, Thresholds
from blockdiff.diffusion.dllm.length import FIRST_LENGTH, Resizing, calibrated_length
from blockdiff.diffusion.dllm.readers import (
    BlockReader,
    CanvasReader,
    HoleCanvas,
    KeptReader,
    Reader,
)
from blockdiff.diffusion.forwards import Constraint, Foregone, Generation, Snapshot
from blockdiff.diffusion.unmask import (
    most_confident,
    rate_counts,
    schedule_counts,
    timestep_counts,
    to_unmask,
)
from blockdiff.errors import Cancelled, InvalidRequest
from blockdiff.model.cache import BlockCache
from blockdiff.model.forward import Forward, Runner
from blockdiff.model.load.kinds import AttentionPattern, DiffusionKind, Family
from blockdiff.model.transformer import Transformer

# Their published loop ranks positions by entropy and has a schedule of its own.
_DREAMS = frozenset({Family.DREAM, Family.DREAMON, Family.OPEN_DCODER, Family.CODA})
_BY_ENTROPY = _DREAMS | {Family.RND1}


@dataclass
class AbsorbingSampler:
    """Writes the hole between two parts of a sequence.

    What is written ends before the first of `stop` that has no mask before it.
    Block-causal checkpoints write on from `prompt`, `config.max_tokens` at most; `cache` holds a
    prefix of the prompt and afterwards as many whole blocks of it as there are. Bidirectional ones
    fill a hole between `prompt` and `after`, whose length the checkpoint finds itself where it was
    trained to, and otherwise a search, up to `config.max_tokens`; they have no cache.

    Attributes:
        by_entropy: the rule `schedule` ranks positions by entropy; None: as the family's own loop.
        length: tokens of a bidirectional hole; None: found as above.
        runner: of small forwards behind the cache; None: the model itself.
    """

    model: Transformer
    kind: DiffusionKind
    cache: BlockCache
    chooser: Chooser
    stop: frozenset[int]
    config: DecodingConfig
    cancelled: Callable[[], bool]
    after: Sequence[int] = ()
    constraint: Constraint | None = None
    by_entropy: bool | None = None
    length: int | None = None
    runner: Runner | None = None

    def __post_init__(self) -> None:
        self.config = replace(self.config, rule=_rule(self.config, self.kind))
        assert self.kind.mask_token_id is not None
        self._mask = self.kind.mask_token_id
        size, asked = self.kind.block_size, self.config.block_size
        self._reader: BlockReader | CanvasReader | KeptReader
        if self.kind.attention is AttentionPattern.BLOCK:
            assert size is not None
            if asked not in (0, size):
                raise InvalidRequest(
                    f"block_size is {asked}, the checkpoint was trained with blocks of {size}",
                    "leave the block size out",
                )
            self._reader = BlockReader(
                self.model, self.cache, size, self.kind.shift, self._check, self.runner
            )
        elif self.config.cache is Reuse.EXACT:
            self._reader = CanvasReader(self.model, self.kind.shift)
        else:
            both = self.config.cache is Reuse.DUAL
            self._reader = KeptReader(self.model, self.kind.shift, both)
        if self.by_entropy is None:
            self.by_entropy = self.kind.family in _BY_ENTROPY
        marks = (self.kind.delete_token_id, self.kind.split_token_id)
        inserts = self.kind.split_token_id is not None and self.config.rule is not Rule.EDIT
        self._never = [token for token in marks if inserts and token is not None]

    @property
    def forwards(self) -> int:
        """So far, without the prefill."""
        return self._reader.forwards

    @torch.inference_mode()
    def prefill(self, prompt: Sequence[int]) -> None:
        """Commit the whole blocks of a prompt. Raises Cancelled; what is committed then is exact.

        A bidirectional checkpoint has nothing that could be kept.
        """
        if isinstance(self._reader, BlockReader):
            self._reader.prefill(prompt)

    @torch.inference_mode()
    def run(self, prompt: Sequence[int]) -> Iterator[Snapshot]:
        """Yield a snapshot after every denoising step; the last one has everything settled.

        Raises Cancelled between two forwards, InvalidRequest where the model's context ends.
        """
        hole = HoleCanvas(list(prompt), list(self.after), self._mask)
        self._fits(len(prompt) + len(self.after))
        if not isinstance(self._reader, BlockReader):
            yield from self._fill(hole, self._reader)
            return
        home = len(prompt) // self._reader.size * self._reader.size
        try:
            self._reader.prefill(prompt)
            yield from self._append(hole, self._reader)
        finally:
            self.cache.truncate(min(home, self.cache.length))

    def prefilling(self, prompt: Sequence[int]) -> Iterator[Forward]:
        """`prefill`; it runs its forwards itself, so that no other request shares them."""
        self.prefill(prompt)
        yield from ()

    @contextmanager
    def writing(self, prompt: Sequence[int]) -> Iterator[Generation]:
        """`run`; it runs its forwards itself, too."""
        with closing(self.run(prompt)) as snapshots:  # type: ignore[type-var]
            yield Foregone(snapshots)

    # --- block-causal ---------------------------------------------------------------------------

    def _append(self, hole: HoleCanvas, reader: BlockReader) -> Iterator[Snapshot]:
        """Block after block behind the prompt (SDAR, LLaDA2, Fast-dLLM v2, Tiny-A2D)."""
        edits = self.config.rule is Rule.EDIT
        steps = self._edit if edits else self._denoise
        start, size = len(hole.before), reader.size
        sub = self.kind.sub_block_size or size
        last = self.model.config.max_positions
        most = min(self.config.max_tokens, last - start)
        while len(hole.tokens) < most and not self._ended(hole):
            block = (start + len(hole.tokens)) // size * size
            hole.grow(min(block + size, last) - start - len(hole.tokens))
            row = reader.first_row(hole.sequence, block) if block >= start else None
            if row is not None:
                # exact, as an autoregressive model's next token
                limit = self._limit(hole)
                rows = self.chooser.without_banned(row[None])
                (one,) = self.chooser.verify(rows, limits=[limit])
                self._unmask(hole, block - start, one.token, one.probability)
            for low in range(block, block + size, sub):
                end = min(low + sub - start, len(hole.tokens))
                window = range(max(low - start, 0), max(end, 0))
                for _ in steps(hole, window, reader):
                    if self._ended(hole) and not edits:  # what ends it may be edited
                        break
                    yield self._snapshot(hole, most)
                if self._ended(hole):
                    break
        yield self._snapshot(hole, most, final=True)

    def _ended(self, hole: HoleCanvas) -> bool:
        """Whether an end token stands behind no mask."""
        return any(token in self.stop for token in hole.tokens[: hole.open_at])

    # --- bidirectional --------------------------------------------------------------------------

    def _fill(self, hole: HoleCanvas, reader: Reader) -> Iterator[Snapshot]:
        """A hole between two texts: Dream, DreamOn, LLaDA and their like."""
        most = self.config.max_tokens
        self._fits(len(hole.sequence) + 1)
        most = min(most, self.model.config.max_positions - len(hole.sequence))
        resizing = None
        if (expand := self.kind.expand_token_id) is not None and self.length is None:
            resizing = Resizing(expand, self.kind.delete_token_id, most)
        hole.grow(self._first_length(hole, reader, most, resizing))
        size = self.config.block_size or len(hole.tokens)
        if resizing is not None:
            yield from self._resize(hole, reader, resizing)
        else:
            for low in range(0, len(hole.tokens), size):
                window = range(low, min(low + size, len(hole.tokens)))
                for _ in self._denoise(hole, window, reader):
                    if self._ended(hole):
                        break
                    yield self._snapshot(hole, most)
                if self._ended(hole):
                    break
        yield self._snapshot(hole, most, final=True)

    def _first_length(
        self, hole: HoleCanvas, reader: Reader, most: int, resizing: Resizing | None
    ) -> int:
        if self.length is not None:
            return min(self.length, most)
        if resizing is not None:
            return min(FIRST_LENGTH, most)

        def confidence(length: int) -> float:
            self._check()
            tokens = [*hole.before, *[self._mask] * length, *hole.after]
            start = len(hole.before)
            rows = self.chooser.without_banned(reader.logits(tokens, start, start + length))
            return float(rows.softmax(-1).amax(-1).mean())

        return calibrated_length(confidence, most)

    def _resize(self, hole: HoleCanvas, reader: Reader, resizing: Resizing) -> Iterator[Snapshot]:
        """Denoise while masks become two, or none (DreamOn)."""
        grown = step = 0
        while hole.open_at < len(hole.tokens):
            never = [resizing.expand] if resizing.full(len(hole.tokens), grown) else []
            whole = range(len(hole.tokens))
            proposal, masked = self._propose(hole, whole, reader, never)
            if self._unmasked_bound(hole, whole, proposal):
                yield self._snapshot(hole, resizing.most)
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
                    self._unmask(hole, at, token, float(proposal.confidence[at]))
            yield self._snapshot(hole, resizing.most)

    # --- one step -------------------------------------------------------------------------------

    def _denoise(self, hole: HoleCanvas, window: range, reader: Reader) -> Iterator[None]:
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
                    self._unmask(hole, window.start + index, int(token), float(sure))
            yield

    def _edit(self, hole: HoleCanvas, window: range, reader: Reader) -> Iterator[None]:
        """Fill the masks of a window and replace what stands there (LLaDA2.1, LLaDA2.2)."""
        bound: set[int] = set()  # healed tokens, which stay
        while self._limit(hole) is not None and (at := hole.open_at) in window:
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
                hole.tokens[at] = self._mask if masked else token
                hole.shown[at] = int(tokens[index]) if masked else token
                hole.masked[at], hole.confidence[at] = masked, float(sure[index])
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
        self._check()
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
        limit = self._limit(hole)
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
        if at not in window or self._limit(hole) is None:
            return False
        index = at - window.start
        token, sure = proposal.tokens[index], proposal.confidence[index]
        self._unmask(hole, at, int(token), float(sure))
        return True

    def _unmask(self, hole: HoleCanvas, at: int, token: int, confidence: float) -> None:
        hole.tokens[at] = hole.shown[at] = token
        hole.masked[at] = False
        hole.confidence[at] = confidence

    def _limit(self, hole: HoleCanvas) -> Sequence[int] | None:
        """Ids that the first mask is bound to; None: it is free."""
        if self.constraint is None:
            return None
        return self.constraint.allowed(hole.tokens[: hole.open_at])

    def _fits(self, positions: int) -> None:
        if positions > (most := self.model.config.max_positions):
            raise InvalidRequest(
                f"{positions} tokens exceed the model's context of {most}",
                "lower --context-tokens or --max-tokens",
            )

    def _check(self) -> None:
        if self.cancelled():
            raise Cancelled("the request was cancelled")

    def _snapshot(self, hole: HoleCanvas, most: int, final: bool = False) -> Snapshot:
        """The hole up to `most` tokens, or up to its end token once no mask stands before that."""
        end = min(len(hole.tokens), most)
        fits = not isinstance(self._reader, BlockReader) and self.length is None
        stops = [i for i in range(min(end, hole.open_at)) if hole.tokens[i] in self.stop]
        if stops:
            end = stops[0]
        return Snapshot(
            tokens=tuple(hole.shown[:end]),
            settled=tuple(not masked for masked in hole.masked[:end]),
            confidence=tuple(hole.confidence[:end]),
            forwards=self.forwards,
            ended=final and (fits or bool(stops)),
        )


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


def as_diffusion(config: DecodingConfig) -> DecodingConfig:
    """What a request for the default mode means to a checkpoint that has no other than diffusion.

    Raises InvalidRequest for the mode `ar`.
    """
    if config.mode is Mode.AR:
        raise InvalidRequest(
            "this checkpoint writes by diffusion, it has no mode ar", "use --mode diffusion"
        )
    return replace(config, mode=Mode.DIFFUSION)
