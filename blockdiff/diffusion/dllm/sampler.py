"""The block loop of checkpoints that are diffusion models themselves, without an adapter.

One loop for all of them. Where logits come from is the reader's business, which masks go next that
of `denoiser`, how long the hole is that of `length`; this file puts them together.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace

import torch

from blockdiff.config import DecodingConfig, Mode, Reuse, Rule
from blockdiff.diffusion.choose import Chooser
from blockdiff.diffusion.dllm.denoiser import HoleDenoiser
from blockdiff.diffusion.dllm.length import FIRST_LENGTH, Resizing, calibrated_length, check_room
from blockdiff.diffusion.dllm.readers import (
    BlockReader,
    CanvasReader,
    HoleCanvas,
    KeptReader,
    Reader,
)
from blockdiff.diffusion.forwards import Constraint, Foregone, Generation, Snapshot
from blockdiff.errors import InvalidRequest
from blockdiff.model.cache import BlockCache
from blockdiff.model.forward import Forward, Runner
from blockdiff.model.load.kinds import AttentionPattern, DiffusionKind
from blockdiff.model.transformer import Transformer


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
        assert self.kind.mask_token_id is not None
        self._steps = HoleDenoiser(
            self.kind,
            self.kind.mask_token_id,
            self.chooser,
            self.config,
            self.constraint,
            self.by_entropy,
            self.cancelled,
        )
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
                self.model, self.cache, size, self.kind.shift, self._steps.check, self.runner
            )
        elif self.config.cache is Reuse.EXACT:
            self._reader = CanvasReader(self.model, self.kind.shift)
        else:
            both = self.config.cache is Reuse.DUAL
            self._reader = KeptReader(self.model, self.kind.shift, both)

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
        hole = HoleCanvas(list(prompt), list(self.after), self._steps.mask)
        check_room(self.model.config.max_positions, len(prompt) + len(self.after))
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
        edits = self._steps.config.rule is Rule.EDIT
        steps = self._steps.edit if edits else self._steps.denoise
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
                limit = self._steps.limit(hole)
                rows = self.chooser.without_banned(row[None])
                (one,) = self.chooser.verify(rows, limits=[limit])
                self._steps.unmask(hole, block - start, one.token, one.probability)
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
        check_room(self.model.config.max_positions, len(hole.sequence) + 1)
        most = min(most, self.model.config.max_positions - len(hole.sequence))
        resizing = None
        if (expand := self.kind.expand_token_id) is not None and self.length is None:
            resizing = Resizing(expand, self.kind.delete_token_id, most)
        hole.grow(self._first_length(hole, reader, most, resizing))
        size = self.config.block_size or len(hole.tokens)
        if resizing is not None:
            for _ in self._steps.resize(hole, reader, resizing):
                yield self._snapshot(hole, most)
        else:
            for low in range(0, len(hole.tokens), size):
                window = range(low, min(low + size, len(hole.tokens)))
                for _ in self._steps.denoise(hole, window, reader):
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
            self._steps.check()
            tokens = [*hole.before, *[self._steps.mask] * length, *hole.after]
            start = len(hole.before)
            rows = self.chooser.without_banned(reader.logits(tokens, start, start + length))
            return float(rows.softmax(-1).amax(-1).mean())

        return calibrated_length(confidence, most)

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


def as_diffusion(config: DecodingConfig) -> DecodingConfig:
    """What a request for the default mode means to a checkpoint that has no other than diffusion.

    Raises InvalidRequest for the mode `ar`.
    """
    if config.mode is Mode.AR:
        raise InvalidRequest(
            "this checkpoint writes by diffusion, it has no mode ar", "use --mode diffusion"
        )
    return replace(config, mode=Mode.DIFFUSION)
