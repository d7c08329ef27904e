"""Small forwards in fixed shapes, so that a GPU can be handed a recording of all their kernels.

A forward of a few positions is about a thousand kernels of a few microseconds each, with the
adapter 1,700: launching them one by one takes longer than running them. A CUDA graph launches all
at once, but it repeats the very shapes and addresses it was recorded with. So forwards are padded
to a number of requests, of rows and of keys that is one of a few, their inputs are copied to fixed
places, all by one transfer, and their keys and values lie in a fixed buffer, the `Mirror`. All
recordings are made when a model is loaded, nothing is recorded while somebody types.

Why a mirror: graphs over the buffers of each `BlockCache` would be recorded anew for every request
and whenever one grows, a good part of a second each time. Caches that are slices of one arena, with
the slot as an input, would need a gather of the whole slot in every forward and take growing and
forking from `BlockCache`. The mirror is a copy of committed regions; each cache itself stays the
truth, and all its rules hold. While the same requests write, the mirror is up to date and only the
drafts of a forward are copied out of it; when another request, or an eager forward, has come
between, the committed region is copied once. For 1,024 tokens of the default model that is 29 MB,
where one forward reads 3 GB of weights.

Whatever does not fit runs as `forward.run` does it: many requests with many rows, the encoding of
context, mixtures of experts (they look at the data to choose their shapes) and sliding windows.
CUDA itself is untried so far: the tests run the same code with `eagerly` on a CPU.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from blockdiff.model.adapter import GatedAdapter
from blockdiff.model.block_drafter import BlockDrafter
from blockdiff.model.cache import BlockCache, KeyValues
from blockdiff.model.cuda.mirror import Mirror, Window
from blockdiff.model.cuda.shapes import GraphShape, shapes_for, size_of, supports
from blockdiff.model.forward import Forward, apart, run
from blockdiff.model.layer import Gate
from blockdiff.model.transformer import Taps, Transformer

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


class Inputs:
    """Of one shape, at fixed addresses of one buffer.

    Attributes:
        tokens, positions: int64, (batch, rows).
        places: int64, (batch, rows): where in the mirror each row's key and value go.
        mask: boolean, (batch, 1, rows, keys).
        masked, noisy: boolean, (batch, rows), of the gate.
    """

    def __init__(self, shape: GraphShape, buffer: Tensor) -> None:
        """In `buffer`, uint8 of `nbytes`."""
        self.shape, self.buffer = shape, buffer
        n, size = shape.positions, (shape.batch, shape.rows)
        numbers = buffer[: 24 * n].view(torch.int64).view(3, *size)
        self.tokens, self.positions, self.places = numbers.unbind()
        flags = buffer[24 * n :].view(torch.bool)
        self.masked, self.noisy = flags[: 2 * n].view(2, *size).unbind()
        self.mask = flags[2 * n :].view(shape.batch, 1, shape.rows, shape.keys)

    @staticmethod
    def nbytes(shape: GraphShape) -> int:
        return shape.positions * (3 * 8 + 2 + shape.keys)

    @classmethod
    def of(cls, shape: GraphShape, device: torch.device) -> Inputs:
        return cls(shape, torch.zeros(cls.nbytes(shape), dtype=torch.uint8, device=device))

    def load(self, forwards: Sequence[Forward], slots: Sequence[int], scratch: int) -> None:
        """Copy forwards in, each to its slot, by one transfer. Keys and values of padding go to the
        places from `scratch` on."""
        pinned = self.buffer.is_cuda  # and its memory is not used again while it is being read
        there = torch.zeros(len(self.buffer), dtype=torch.uint8, pin_memory=pinned)
        staged = Inputs(self.shape, there)
        staged.places[:] = scratch + torch.arange(self.shape.rows)
        staged.mask[..., 0] = True  # of nothing at all there is no mean
        for slot, one in zip(slots, forwards, strict=True):
            new, past = one.size, one.cache.length
            staged.tokens[slot, :new] = one.tokens[0]
            staged.positions[slot, :new] = one.positions[0]
            staged.places[slot, :new] = torch.arange(past, past + new)
            staged.mask[slot, 0, :new] = False
            staged.mask[slot, 0, :new, : past + new] = one.mask
            if one.gate is None:
                continue
            staged.masked[slot, :new] = one.gate.masked[0]
            which = one.gate.noisy
            noisy = staged.noisy[slot, :new]
            if isinstance(which, Tensor) and which.dtype is torch.int64:
                noisy[which] = True
            elif isinstance(which, Tensor):
                noisy[:] = which.reshape(-1)
            else:
                noisy[which or 0 :] = True
        self.buffer.copy_(there, non_blocking=pinned)


def padded_forward(
    model: Transformer,
    inputs: Inputs,
    cache: KeyValues,
    adapter: GatedAdapter | None,
    taps: Taps | None = None,
) -> Tensor:
    """What is recorded: logits (batch * rows, vocab) in the model's dtype; keys and values go to
    `cache`, what a drafter reads to `taps`.

    It looks at no value and makes no tensor from one of Python's: both would end a recording.
    """
    gate = None if adapter is None else Gate(adapter, inputs.masked, inputs.noisy)
    hidden = model.hidden(
        inputs.tokens, inputs.positions, inputs.mask, cache, gate, None, taps
    )
    logits: Tensor = model.head(hidden.flatten(0, 1))
    return logits


@dataclass(frozen=True, slots=True)
class _Graph:
    """A recording, and what it reads and writes."""

    inputs: Inputs
    mirror: Mirror
    replay: Callable[[], None]


class GraphedRunner:
    """A `Runner` that replays recordings for forwards of fitting shapes.

    Everything is recorded at once, the largest shape first, so that the smaller ones find their
    memory in the pool. If that fails once, everything runs eagerly, and the log says why.

    Attributes:
        shapes: those that are recorded, the smallest first.
    """

    @torch.inference_mode()
    def __init__(
        self,
        model: Transformer,
        adapter: GatedAdapter | None,
        record: Record,
        shapes: Sequence[GraphShape] | None = None,
        drafter: BlockDrafter | None = None,
    ) -> None:
        """`shapes` are those of `shapes_for` unless others are given."""
        self._model, self._adapter, self._drafter = model, adapter, drafter
        shapes = shapes_for(model, adapter is not None) if shapes is None else shapes
        if not supports(model.config):
            shapes = ()
        self._graphs: dict[GraphShape, _Graph] = {}
        self._logits = torch.empty(0)  # of all shapes, (most positions, vocab) float32
        self._features = torch.empty(0)  # likewise, (most positions, what the drafter reads)
        began = time.monotonic()
        try:
            self._record_all(sorted(shapes, key=size_of, reverse=True), record)
        except RuntimeError as error:
            log.warning("CUDA graphs are off: %s", error)
            self._graphs.clear()
            self._logits = self._features = torch.empty(0)
        self.shapes = sorted(self._graphs, key=size_of)
        if self.shapes:
            seconds = time.monotonic() - began
            log.info("%d shapes of forwards are ready after %.1f s", len(self.shapes), seconds)

    @torch.inference_mode()
    def __call__(self, forwards: Sequence[Forward]) -> list[Tensor]:
        """See `Runner`. Raises what `on_layer` of a lone forward raises."""
        return apart(forwards, [one.drafts for one in forwards], self._run, self._draft)

    def _draft(self, forwards: Sequence[Forward]) -> list[Tensor]:
        return run(self._model, forwards, self._drafter)

    def _run(self, forwards: Sequence[Forward]) -> list[Tensor]:
        shape = self.shape_of(forwards)
        if shape is None:
            return run(self._model, forwards, self._drafter)
        if len(forwards) == 1 and forwards[0].on_layer is not None:
            forwards[0].on_layer()
        caches = [one.cache for one in forwards if isinstance(one.cache, BlockCache)]
        for one, cache in zip(forwards, caches, strict=True):
            cache.reserve(cache.length + one.size)
        graph = self._graphs[shape]
        slots = graph.mirror.load(forwards, shape.batch)
        graph.inputs.load(forwards, slots, graph.mirror.scratch)
        graph.replay()
        answers = []
        for one, cache, slot in zip(forwards, caches, slots, strict=True):
            graph.mirror.store(cache, slot, one.size)
            first = slot * shape.rows
            if self._drafter is not None and cache.companion is not None:
                features = self._features[None, first : first + one.size]
                positions = graph.inputs.positions[slot : slot + 1, : one.size]
                self._drafter.encode(features, positions, [one.size], [cache.companion])
            answers.append(self._logits[first + (one.wanted or 0) : first + one.size].clone())
        return answers

    def shape_of(self, forwards: Sequence[Forward]) -> GraphShape | None:
        """What forwards are padded to; None: they do not fit."""
        for one in forwards:
            if one.wanted is None or not isinstance(one.cache, BlockCache) or one.cache.batch != 1:
                return None
            if one.gate is not None and one.gate.adapter is not self._adapter:
                return None
        fitting = (shape for shape in self.shapes if shape.takes(forwards))
        # kernels of an adapter that acts nowhere cost more than rows that nobody reads
        return min(fitting, key=lambda shape: shape.gated, default=None)

    def _record_all(self, shapes: Sequence[GraphShape], record: Record) -> None:
        """Raises RuntimeError where one cannot be recorded, torch.OutOfMemoryError included."""
        if not shapes:
            return
        size = max(shape.positions for shape in shapes), self._model.config.vocab_size
        self._logits = torch.empty(size, device=self._model.device)
        if self._drafter is not None:
            read = self._drafter.fusion.in_features
            self._features = torch.empty(
                size[0], read, device=self._model.device, dtype=self._model.dtype
            )
        mirrors = {}
        for alone in (True, False):
            own = [shape for shape in shapes if (shape.batch == 1) is alone]
            if own:
                slots, keys, rows = (
                    max(getattr(shape, name) for shape in own) for name in ("batch", "keys", "rows")
                )
                mirrors[alone] = Mirror(self._model, slots, keys, rows)
        for shape in shapes:
            mirror = mirrors[shape.batch == 1]
            inputs = Inputs.of(shape, self._model.device)
            inputs.load([], [], mirror.scratch)
            try:
                replay = record(self._body(inputs, mirror))
            except RuntimeError as error:
                raise RuntimeError(f"{shape}: {error}") from error
            self._graphs[shape] = _Graph(inputs, mirror, replay)

    def _body(self, inputs: Inputs, mirror: Mirror) -> Callable[[], None]:
        shape, logits = inputs.shape, self._logits[: inputs.shape.positions]
        window = Window(mirror.buffer, inputs.places, shape.keys)
        adapter = self._adapter if shape.gated else None

        drafter, features = self._drafter, self._features[: inputs.shape.positions]

        def body() -> None:
            taps = None if drafter is None else Taps(drafter.config.layers)
            logits.copy_(padded_forward(self._model, inputs, window, adapter, taps))
            if taps is not None:
                features.copy_(taps.features().flatten(0, 1))

        return body
