"""A sequence with a hole, and where its logits come from: all of it again, or behind a cache.

A reader answers one question, which token belongs at each of some positions. Whether logits are
shifted is decided here and nowhere else.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

import torch
from torch import Tensor

from blockdiff.diffusion.forwards import context_chunk
from blockdiff.model import masks
from blockdiff.model.cache import BlockCache
from blockdiff.model.forward import Forward, Runner, run
from blockdiff.model.transformer import Transformer


@dataclass
class HoleCanvas:
    """The hole of a sequence: tokens in place of masks, one after another.

    Attributes:
        before, after: the tokens around it, which never change.
        tokens: of the hole; at a mask the mask's id.
        shown: of the hole; at a mask the best guess so far.
    """

    before: list[int]
    after: list[int]
    mask: int
    tokens: list[int] = field(default_factory=list)
    shown: list[int] = field(default_factory=list)
    masked: list[bool] = field(default_factory=list)
    confidence: list[float] = field(default_factory=list)

    def grow(self, count: int, at: int | None = None) -> None:
        """Put masks into the hole: at its end, or before position `at`."""
        at = len(self.tokens) if at is None else at
        self.tokens[at:at] = self.shown[at:at] = [self.mask] * count
        self.masked[at:at] = [True] * count
        self.confidence[at:at] = [0.0] * count

    def remove(self, at: int) -> None:
        for row in (self.tokens, self.shown, self.masked, self.confidence):
            del row[at]

    @property
    def sequence(self) -> list[int]:
        return [*self.before, *self.tokens, *self.after]

    @property
    def open_at(self) -> int:
        """The first mask, or the end of the hole."""
        return self.masked.index(True) if True in self.masked else len(self.masked)


class Reader(Protocol):
    """Logits for positions of a sequence that is being denoised.

    Attributes:
        forwards: forward passes so far, without the prefill.
    """

    forwards: int

    def logits(self, tokens: Sequence[int], start: int, end: int) -> Tensor:
        """What belongs at the positions from `start` to `end`: (end - start, vocab), float32."""
        ...


class CanvasReader:
    """Full attention: every position sees every other, so every forward is of the whole sequence.

    With `shift` the row of position p is that of p - 1; the first position has its own (Dream).
    """

    def __init__(self, model: Transformer, shift: bool) -> None:
        self.model, self.shift, self.forwards = model, shift, 0

    def logits(self, tokens: Sequence[int], start: int, end: int) -> Tensor:
        device = self.model.device
        ids = torch.tensor([list(tokens)], device=device)
        positions = torch.arange(len(tokens), device=device)[None]
        hidden = self.model.hidden(ids, positions, masks.full(0, len(tokens), device))
        self.forwards += 1
        return _head(self.model, _aligned(hidden[0], 0, start, end, self.shift))


class KeptReader:
    """Full attention; positions outside a window keep keys and values of the window's first step.

    Approximate (prefix and dual cache of Fast-dLLM, arXiv 2505.22618): those positions would see
    the tokens unmasked meanwhile. The first step of a window is exact and refreshes everything.

    Attributes:
        both: also positions behind the window keep theirs; else they are computed again.
    """

    def __init__(self, model: Transformer, shift: bool, both: bool) -> None:
        self.model, self.shift, self.both, self.forwards = model, shift, both, 0
        self._kept = _Kept()
        self._window: tuple[int, int, int] | None = None

    def logits(self, tokens: Sequence[int], start: int, end: int) -> Tensor:
        window = (start, end, len(tokens))
        low, high = 0, len(tokens)
        if window == self._window:
            low = max(start - self.shift, 0)  # whose row says what comes first
            high = end if self.both else high
        else:
            self._kept = _Kept()
        self._window = window
        device = self.model.device
        self._kept.span = (low, high)
        ids = torch.tensor([list(tokens[low:high])], device=device)
        positions = torch.arange(low, high, device=device)[None]
        mask = masks.full(len(tokens) - (high - low), high - low, device)
        hidden = self.model.hidden(ids, positions, mask, self._kept)
        self.forwards += 1
        return _head(self.model, _aligned(hidden[0], low, start, end, self.shift))


class _Kept:
    """Keys and values of every position of a sequence, some of which a forward writes anew."""

    length = 0  # nothing of it is committed

    def __init__(self) -> None:
        self.span = (0, 0)
        self._layers: dict[int, tuple[Tensor, Tensor]] = {}

    def append(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        if layer not in self._layers:
            self._layers[layer] = keys.clone(), values.clone()
        kept = self._layers[layer]
        for old, new in zip(kept, (keys, values), strict=True):
            old[:, :, slice(*self.span)] = new
        return kept


class BlockReader:
    """Block-causal attention: finished blocks are in the cache, exactly, and never computed again.

    A block that is finished waits to be committed until the next forward, which takes it along.
    With `shift` the first position of a block takes its row from the last one of the block before.

    Attributes:
        size: of a block; blocks count from the sequence's first token.
        on_layer: called before each layer and forward; what it raises ends the forward.
    """

    def __init__(
        self,
        model: Transformer,
        cache: BlockCache,
        size: int,
        shift: bool,
        on_layer: Callable[[], None],
        runner: Runner | None = None,
    ) -> None:
        """`runner` is that of the model unless there is one that runs small forwards faster."""
        self.cache, self.size, self.shift = cache, size, shift
        self.on_layer, self.forwards = on_layer, 0
        self._runner = runner or partial(run, model)
        self._chunk = max(1, context_chunk(model.device) // size) * size
        self._last: Tensor | None = None  # logits (vocab,) of the last committed position

    def prefill(self, prompt: Sequence[int]) -> None:
        """Commit the whole blocks of a prompt, of which the cache may hold a prefix already.

        What `on_layer` raises leaves whole blocks committed.
        """
        whole = len(prompt) // self.size * self.size
        # the row of a block's first position comes from the block before, which is read once more
        known = whole - self.size if self.shift and self._last is None else whole
        known = max(0, min(self.cache.length // self.size * self.size, known))
        self.cache.truncate(known)
        while self.cache.length < whole:
            self._forward(prompt, min(self.cache.length + self._chunk, whole), whole)

    def first_row(self, tokens: Sequence[int], start: int) -> Tensor | None:
        """The logits (vocab,) of the first position of the block at `start`, which are exact.

        None where they come with the block itself: without `shift`, or nothing stands before it.
        """
        if not self.shift or start == 0:
            return None
        if self.cache.length < start:
            self._forward(tokens, start, start)
            self.forwards += 1
        return self._last

    def logits(self, tokens: Sequence[int], start: int, end: int) -> Tensor:
        """As `Reader.logits`; the positions lie in one block, those before it are finished."""
        block = start // self.size * self.size
        stop = min(block + self.size, len(tokens))
        begin, last = self.cache.length, self._last
        first = max(start - self.shift, begin)
        logits = self._forward(tokens, stop, block, first)
        self.forwards += 1
        if self.shift and start == block and begin == block and last is not None:
            logits, first = torch.cat([last[None], logits]), first - 1
        return _aligned(logits, first, start, end, self.shift)

    def _forward(
        self, tokens: Sequence[int], stop: int, finished: int, first: int | None = None
    ) -> Tensor:
        """Logits (rows, vocab) of the positions from `first` to `stop`, by a forward of all behind
        the end of the cache; commits what is before `finished`."""
        self.on_layer()
        start = self.cache.length
        count = min(finished, stop) - start
        keeps = self.shift and count > 0 and stop >= finished
        asked = stop if first is None else first
        wanted = min(asked, start + count - 1 if keeps else asked) - start
        forward = Forward(
            torch.tensor([list(tokens[start:stop])]),
            torch.arange(start, stop)[None],
            masks.block(start, stop - start, self.size),
            self.cache,
            wanted=wanted if wanted < stop - start else None,
            on_layer=self.on_layer,
        )
        logits = self._runner([forward])[0]
        if count > 0:
            self.cache.commit(count)
        if keeps:
            self._last = logits[count - 1 - wanted]
        return logits[asked - start - wanted :]


def _aligned(hidden: Tensor, first: int, start: int, end: int, shift: bool) -> Tensor:
    """Rows for the positions from `start` to `end` of states that begin at position `first`."""
    if not shift:
        return hidden[start - first : end - first]
    rows = torch.arange(start - 1, end - 1, device=hidden.device) - first
    return hidden[rows.clamp(min=0)]


def _head(model: Transformer, hidden: Tensor) -> Tensor:
    logits: Tensor = model.head(hidden.contiguous())
    return logits.float()
