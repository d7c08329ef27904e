"""Small forwards in fixed shapes, so that a GPU can be handed a recording of all their kernels.

A forward of a few positions is about a thousand kernels of a few microseconds each, with the
adapter 1,700: launching them one by one takes longer than running them. A CUDA graph launches all
at once, but it repeats the very shapes and addresses it was recorded with. So a forward is padded
to a number of rows and of keys that is one of a few, its inputs are copied to fixed places, and its
keys and values lie in one fixed buffer, the `Mirror`.

Why a mirror: graphs over the buffers of each `BlockCache` would be recorded anew for every request
and whenever one grows, a good part of a second each time. Caches that are slices of one arena, with
the slot as an input, would need a gather of the whole slot in every forward and take growing and
forking from `BlockCache`. The mirror is a copy of one cache's committed region; the cache itself
stays the truth, and all its rules hold. While one request writes alone, the mirror is up to date
and only the drafts of a forward are copied out of it; when another request, or an eager forward,
has come between, the committed region is copied once. For 1,024 tokens of the default model that is
29 MB, where one forward reads 3 GB of weights.

Whatever does not fit runs as `forward.run` does it: several requests together, the encoding of
context, mixtures of experts (they look at the data to choose their shapes) and sliding windows.
CUDA itself is untried so far: the tests run the same code with `eagerly` on a CPU.
"""

from __future__ import annotations

import logging
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from blockdiff.config import TransformerConfig
from blockdiff.model.adapter import GatedAdapter
from blockdiff.model.cache import BlockCache, KeyValues
from blockdiff.model.forward import Forward, run
from blockdiff.model.transformer import Gate, Transformer

ROWS = (1, 2, 4, 8, 16, 32, 64, 128)
"""Positions that a forward is padded to."""

KEYS = (512, 1024, 2048, 4096)
"""Positions that a forward attends over, what is not there being masked."""

_MIRROR_BYTES = 1 << 30  # a wide cache gets a shorter mirror
_WARM_UPS = 2  # runs before a recording: libraries choose their kernels and take their memory

log = logging.getLogger("blockdiff.model")

Record = Callable[[Callable[[], None]], Callable[[], None]]
"""Takes a body that reads and writes fixed tensors only; returns what repeats it."""


def eagerly(body: Callable[[], None]) -> Callable[[], None]:
    """Record nothing, run the body again each time: for tests, on any device."""
    return body


class CudaGraphs:
    """Records bodies as CUDA graphs. All share one pool of memory, so one runs at a time."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._pool = torch.cuda.graph_pool_handle()

    def __call__(self, body: Callable[[], None]) -> Callable[[], None]:
        """Raises RuntimeError where a body cannot be recorded; it may have run by then.

        Warming up on the stream that records is what makes libraries take their workspaces before
        the recording, not within it.
        """
        with torch.cuda.device(self._device):
            before = torch.cuda.current_stream()
            try:
                self._stream.wait_stream(before)
                try:
                    with torch.cuda.stream(self._stream):
                        for _ in range(_WARM_UPS):
                            body()
                finally:
                    before.wait_stream(self._stream)
                graph = torch.cuda.CUDAGraph()
                # thread_local: what other threads of the process ask of CUDA is no error of ours
                with torch.cuda.graph(
                    graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local"
                ):
                    body()
            finally:
                torch.cuda.set_stream(before)  # a recording that fails leaves its own stream set
        return graph.replay


@dataclass(frozen=True, slots=True)
class GraphShape:
    """What a recording is for: so many rows and keys, with the adapter or without."""

    rows: int
    keys: int
    gated: bool


@dataclass(frozen=True, slots=True)
class Inputs:
    """Of one shape, at fixed addresses. Padding rows hold whatever was there before.

    Attributes:
        tokens, positions: int64, (1, rows).
        places: int64, (rows,): where in the mirror each row's key and value go.
        mask: boolean, (rows, keys).
        masked, noisy: boolean, (1, rows), of the gate.
    """

    tokens: Tensor
    positions: Tensor
    places: Tensor
    mask: Tensor
    masked: Tensor
    noisy: Tensor

    @classmethod
    def of(cls, shape: GraphShape, device: torch.device) -> Inputs:
        def zeros(*size: int, dtype: torch.dtype = torch.int64) -> Tensor:
            return torch.zeros(size, dtype=dtype, device=device)

        rows = shape.rows
        gates = [zeros(1, rows, dtype=torch.bool) for _ in range(2)]
        mask = zeros(rows, shape.keys, dtype=torch.bool)
        return cls(zeros(1, rows), zeros(1, rows), zeros(rows), mask, *gates)

    def load(self, one: Forward, scratch: Tensor) -> None:
        """Copy a forward in. Keys and values of padding go to `scratch`, int64 (rows,)."""
        new, past = one.size, one.cache.length
        self.tokens[:, :new] = one.tokens
        self.positions[:, :new] = one.positions
        self.places.copy_(scratch)
        self.places[:new] = torch.arange(past, past + new, device=scratch.device)
        self.mask[:new, : past + new] = one.mask
        self.mask[:new, past + new :] = False
        if one.gate is None:
            return
        self.masked[:, :new] = one.gate.masked
        noisy = self.noisy[:, :new]
        which = one.gate.noisy
        if isinstance(which, Tensor) and which.dtype is torch.int64:
            noisy.fill_(False).index_fill_(1, which, True)
        elif isinstance(which, Tensor):
            noisy.copy_(which)
        else:
            noisy.fill_(True)[:, : which or 0] = False


class Mirror:
    """A copy of one cache's committed keys and values at an address that never changes.

    Behind `keys` positions of the sequence lie `rows` more, where padding is written and nobody
    looks.
    """

    def __init__(self, model: Transformer, keys: int, rows: int) -> None:
        c = model.config
        shape = (c.n_layers, 2, 1, c.n_kv_heads, keys + rows, c.head_dim)
        self.buffer = torch.zeros(shape, dtype=model.dtype, device=model.device)
        self.scratch = torch.arange(keys, keys + rows, device=model.device)
        self._cache: weakref.ref[BlockCache] | None = None
        self._version = 0
        self._written = 0  # positions behind it are zero

    def load(self, cache: BlockCache, new: int) -> None:
        """Hold what `cache` has committed, and zeros behind the `new` positions that follow.

        A mask hides a stale key, but not what is not a number: nothing times that is still that.
        """
        past, end = cache.length, cache.length + new
        if self._cache is None or self._cache() is not cache or self._version != cache.version:
            self.buffer[..., :past, :] = cache.committed_all()
        if self._written > end:
            self.buffer[..., end : self._written, :] = 0
        self._written = end
        self._cache = None

    def store(self, cache: BlockCache, new: int) -> None:
        """Give the drafts of a forward to the cache that was loaded for it."""
        cache.append_all(self.buffer[..., cache.length : cache.length + new, :])
        self._cache, self._version = weakref.ref(cache), cache.version


@dataclass(frozen=True, slots=True)
class Window:
    """The first `keys` positions of a mirror, as attention asks for them."""

    buffer: Tensor
    places: Tensor
    keys: int

    @property
    def length(self) -> int:
        return self.keys

    def append(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        both = self.buffer[layer]
        both[0].index_copy_(2, self.places, keys)
        both[1].index_copy_(2, self.places, values)
        return both[0, :, :, : self.keys], both[1, :, :, : self.keys]


def padded_forward(
    model: Transformer, inputs: Inputs, cache: KeyValues, adapter: GatedAdapter | None
) -> Tensor:
    """What is recorded: logits (rows, vocab) in the model's dtype; keys and values go to `cache`.

    It looks at no value and makes no tensor from one of Python's: both would end a recording.
    """
    gate = None if adapter is None else Gate(adapter, inputs.masked, inputs.noisy)
    hidden = model.hidden(inputs.tokens, inputs.positions, inputs.mask, cache, gate)
    logits: Tensor = model.head(hidden[0])
    return logits


class GraphedRunner:
    """A `Runner` that replays recordings for lone forwards of fitting shapes.

    A shape is recorded when it is first wanted. If that fails once, everything runs eagerly from
    then on, and the log says why.
    """

    def __init__(
        self,
        model: Transformer,
        adapter: GatedAdapter | None,
        record: Record,
        rows: Sequence[int] = ROWS,
        keys: Sequence[int] = KEYS,
    ) -> None:
        """`rows` and `keys`, ascending, are the sizes that are padded to."""
        self._model, self._adapter, self._record = model, adapter, record
        self._rows, self._keys = rows, _affordable(model, keys) if supports(model.config) else ()
        self._graphs: dict[GraphShape, tuple[Inputs, Callable[[], None]]] = {}
        self._mirror: Mirror | None = None
        self._logits: Tensor | None = None  # of all shapes, (most rows, vocab) float32

    @torch.inference_mode()
    def __call__(self, forwards: Sequence[Forward]) -> list[Tensor]:
        """See `Runner`. Raises what `on_layer` of a lone forward raises."""
        shape = self._shape(forwards[0]) if len(forwards) == 1 else None
        if shape is None:
            return run(self._model, forwards)
        one = forwards[0]
        assert isinstance(one.cache, BlockCache) and one.wanted is not None
        if one.on_layer is not None:
            one.on_layer()
        one.cache.reserve(one.cache.length + one.size)
        try:
            mirror, logits = self._buffers()
            mirror.load(one.cache, one.size)
            self._replay(shape, one, mirror, logits)
        except _NotRecorded as failure:
            log.warning("CUDA graphs are off from now on: %s", failure)
            self._keys, self._mirror, self._logits = (), None, None
            self._graphs.clear()
            return run(self._model, forwards)
        mirror.store(one.cache, one.size)
        return [logits[one.wanted : one.size].clone()]

    def _shape(self, one: Forward) -> GraphShape | None:
        """What a forward is padded to; None: it does not fit."""
        rows = next((size for size in self._rows if size >= one.size), None)
        keys = next((n for n in self._keys if n >= one.cache.length + one.size), None)
        if rows is None or keys is None or one.wanted is None:
            return None
        if not isinstance(one.cache, BlockCache) or one.cache.batch != 1:
            return None
        if one.gate is not None and one.gate.adapter is not self._adapter:
            return None
        return GraphShape(rows, keys, one.gate is not None)

    def _replay(self, shape: GraphShape, one: Forward, mirror: Mirror, logits: Tensor) -> None:
        if (known := self._graphs.get(shape)) is not None:
            inputs, replay = known
            inputs.load(one, mirror.scratch[: shape.rows])
            return replay()
        inputs = Inputs.of(shape, self._model.device)
        inputs.load(one, mirror.scratch[: shape.rows])
        window = Window(mirror.buffer, inputs.places, shape.keys)
        adapter = self._adapter if shape.gated else None

        def body() -> None:
            logits[: shape.rows] = padded_forward(self._model, inputs, window, adapter)

        try:
            replay = self._record(body)
        except RuntimeError as error:
            raise _NotRecorded(f"{shape}: {error}") from error
        self._graphs[shape] = inputs, replay
        replay()

    def _buffers(self) -> tuple[Mirror, Tensor]:
        if self._mirror is None or self._logits is None:
            try:
                self._mirror = Mirror(self._model, self._keys[-1], self._rows[-1])
                size = (self._rows[-1], self._model.config.vocab_size)
                self._logits = torch.empty(size, device=self._model.device)
            except torch.OutOfMemoryError as error:
                raise _NotRecorded(str(error)) from error
        return self._mirror, self._logits


class _NotRecorded(Exception):
    """A shape cannot be recorded, and why."""


def supports(config: TransformerConfig) -> bool:
    """Whether forwards of an architecture have the same kernels whatever they compute."""
    return config.experts is None and not config.sliding_window


def _affordable(model: Transformer, keys: Sequence[int]) -> tuple[int, ...]:
    """Sizes up to what the model's context needs, as far as a mirror of them is not too large."""
    c = model.config
    each = 2 * c.n_layers * c.n_kv_heads * c.head_dim * model.dtype.itemsize
    needed = next((n for n in keys if n >= c.max_positions), keys[-1])
    return tuple(n for n in keys if n <= needed and n * each <= _MIRROR_BYTES)
