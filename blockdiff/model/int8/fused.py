"""Whole layers of a packed model in one call of the library, for CPUs.

Run by torch, a third of a small forward is what lies between the products: thirty small operations
a layer. `stack.c` does the same arithmetic on rows that stay in the processor's caches, with
threads that are woken once a forward.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from typing import cast
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from blockdiff.model.adapter import GatedAdapter
from blockdiff.model.cache import BlockCache, KeyValues
from blockdiff.model.int8.library import Matrix, loaded
from blockdiff.model.int8.quantized import QuantizedLinear, QuantizedLowRank
from blockdiff.model.layer import Block, FeedForward, Gate, Segment
from blockdiff.model.transformer import Taps, Transformer

TARGETS = ("qkv", "o", "gate_up", "down")  # in the library's order
_LANES = 16  # what widths are multiples of

_Matrices = Matrix * len(TARGETS)


class _Layer(ctypes.Structure):
    _fields_ = [
        ("attention_norm", ctypes.c_void_p),
        ("ffn_norm", ctypes.c_void_p),
        ("q_norm", ctypes.c_void_p),
        ("k_norm", ctypes.c_void_p),
        ("w", _Matrices),
    ]


class _Pairs(ctypes.Structure):
    _fields_ = [("a", _Matrices), ("b", _Matrices)]


class _Model(ctypes.Structure):
    _fields_ = [
        ("hidden", ctypes.c_int64),
        ("heads", ctypes.c_int64),
        ("kv_heads", ctypes.c_int64),
        ("head_dim", ctypes.c_int64),
        ("ffn", ctypes.c_int64),
        ("eps", ctypes.c_double),
        ("layers", ctypes.c_void_p),
        ("norm", ctypes.c_void_p),
        ("n_layers", ctypes.c_int64),
    ]


class _Sequence(ctypes.Structure):
    _fields_ = [
        ("rows", ctypes.c_int64),
        ("past", ctypes.c_int64),
        ("capacity", ctypes.c_int64),
        ("cache", ctypes.c_void_p),
        ("mask", ctypes.c_void_p),
    ]


class _Stretch(ctypes.Structure):
    _fields_ = [("first", ctypes.c_int64), ("rows", ctypes.c_int64)]


class _Forward(ctypes.Structure):
    _fields_ = [
        ("model", ctypes.c_void_p),
        ("pairs", ctypes.c_void_p),
        ("first", ctypes.c_int64),
        ("last", ctypes.c_int64),
        ("wanted", ctypes.c_int64),
        ("m", ctypes.c_int64),
        ("x", ctypes.c_void_p),
        ("cos", ctypes.c_void_p),
        ("sin", ctypes.c_void_p),
        ("sequences", ctypes.c_void_p),
        ("n_sequences", ctypes.c_int64),
        ("noisy", ctypes.c_void_p),
        ("n_noisy", ctypes.c_int64),
    ]


class FusedLayers:
    """The layers of a model whose matrices are packed, and its final norm."""

    def __init__(self, model: Transformer) -> None:
        """Raises ValueError for a model that `can_fuse` does not accept."""
        if not can_fuse(model):
            raise ValueError("these layers cannot be fused")
        config = model.config
        self._library = loaded()
        self._kept: list[object] = [model.blocks, model.norm]  # what the library points at
        self._layers = (_Layer * config.n_layers)()
        for layer, module in zip(self._layers, model.blocks, strict=True):
            block = cast(Block, module)
            layer.attention_norm = _address(block.attention_norm)
            layer.ffn_norm = _address(block.ffn_norm)
            if config.qk_norm:
                layer.q_norm = _address(block.attention.q_norm)
                layer.k_norm = _address(block.attention.k_norm)
            layer.w = _Matrices(*(linear.matrix for linear in _linears(block)))
        self._model = _Model(
            config.hidden_size,
            config.n_heads,
            config.n_kv_heads,
            config.head_dim,
            config.ffn_size,
            config.norm_eps,
            ctypes.addressof(self._layers),
            _address(model.norm),
            config.n_layers,
        )
        self._pairs: WeakKeyDictionary[GatedAdapter, ctypes.Array[_Pairs]] = WeakKeyDictionary()

    def takes(self, caches: Sequence[KeyValues | None], gate: Gate | None) -> bool:
        """Whether it can run a forward with these; otherwise torch does."""
        return all(isinstance(cache, BlockCache) and cache.batch == 1 for cache in caches) and (
            gate is None or _is_packed(gate.adapter)
        )

    def run(
        self,
        x: Tensor,
        rotary: tuple[Tensor, Tensor],
        segments: Sequence[Segment],
        gate: Gate | None,
        on_layer: Callable[[], None] | None = None,
        taps: Taps | None = None,
        wanted: bool = True,
    ) -> Tensor:
        """Final hidden states of embedded positions; see `Transformer.hidden_together`.

        Args:
            x: (1, new, hidden_size), float32; is overwritten and returned.
            rotary: cosines and sines, (1, 1, new, head_dim).
            segments: masks are (size, past + size).
            on_layer: called before each layer.
            taps: sees what the layers put out.
            wanted: whether hidden states are; else the last layer stops at its keys and values.
        """
        x = x.contiguous()
        cos, sin = (table.contiguous() for table in rotary)
        all_masks = [segment.mask.contiguous() for segment in segments]
        sequences = (_Sequence * len(segments))()
        for slot, segment, mask in zip(sequences, segments, all_masks, strict=True):
            cache = cast(BlockCache, segment.cache)
            buffer = cache.open(segment.size)
            slot.rows, slot.past, slot.capacity = segment.size, cache.length, cache.capacity
            slot.cache, slot.mask = buffer.data_ptr(), mask.data_ptr()
        noisy = _stretches(gate, x.shape[1])
        pairs = None if gate is None else ctypes.addressof(self._pairs_of(gate.adapter))
        forward = _Forward(
            ctypes.addressof(self._model),
            pairs,
            0,
            self._model.n_layers,
            wanted or taps is not None,
            x.shape[1],
            x.data_ptr(),
            cos.data_ptr(),
            sin.data_ptr(),
            ctypes.addressof(sequences),
            len(sequences),
            ctypes.addressof(noisy),
            len(noisy),
        )
        ends = {self._model.n_layers}  # of the stretches of layers that are run in one call
        if on_layer is not None:
            ends.update(range(1, self._model.n_layers))
        if taps is not None:
            taps.see(-1, x)
            ends.update(layer + 1 for layer in taps.layers if layer >= 0)
        for forward.last in sorted(ends):
            if on_layer is not None:
                on_layer()
            self._library.stack(forward)
            if taps is not None:
                taps.see(forward.last - 1, x)
            forward.first = forward.last
        return x

    def _pairs_of(self, adapter: GatedAdapter) -> ctypes.Array[_Pairs]:
        if adapter not in self._pairs:
            found = (_Pairs * len(adapter.layers))()
            for slot, module in zip(found, adapter.layers, strict=True):
                for at, target in enumerate(TARGETS):
                    if target in (layer := cast(nn.ModuleDict, module)):
                        pair = cast(QuantizedLowRank, layer[target])
                        slot.a[at], slot.b[at] = pair.a.matrix, pair.b.matrix
            self._pairs[adapter] = found
        return self._pairs[adapter]


def can_fuse(model: Transformer) -> bool:
    """Whether all layers are packed, and of the kind that the library knows."""
    config = model.config
    return (
        (model.device.type, model.dtype) == ("cpu", torch.float32)
        and not (config.layer_norm or config.sliding_window)
        and config.rotary_dim in (0, config.head_dim)
        and config.hidden_size % _LANES == config.head_dim % _LANES == 0
        and all(
            isinstance(block.ffn, FeedForward)
            and all(isinstance(linear, QuantizedLinear) for linear in _linears(block))
            for block in cast(Sequence[Block], model.blocks)
        )
    )


def fuse(model: Transformer) -> None:
    """Have a model's layers run by the library where they can be."""
    model.fused = FusedLayers(model) if can_fuse(model) else None


def _linears(block: Block) -> tuple[QuantizedLinear, ...]:
    """In the order of `TARGETS`."""
    attention = block.attention
    ffn = cast(FeedForward, block.ffn)
    found = attention.qkv, attention.o, ffn.gate_up, ffn.down
    return cast(tuple[QuantizedLinear, ...], found)


def _is_packed(adapter: GatedAdapter) -> bool:
    return all(
        isinstance(pair, QuantizedLowRank)
        for layer in adapter.layers
        for pair in cast(nn.ModuleDict, layer).values()
    )


def _stretches(gate: Gate | None, size: int) -> ctypes.Array[_Stretch]:
    """The noisy positions of a forward."""
    if gate is None:
        return (_Stretch * 0)()
    which = gate.noisy
    if not isinstance(which, Tensor):
        return (_Stretch * 1)(_Stretch(which or 0, size - (which or 0)))
    indices = which if which.dtype is torch.int64 else which.reshape(-1).nonzero()[:, 0]
    runs: list[list[int]] = []
    for index in indices.tolist():
        if runs and index == sum(runs[-1]):
            runs[-1][1] += 1
        else:
            runs.append([index, 1])
    return (_Stretch * len(runs))(*(_Stretch(*run) for run in runs))


def _address(norm: nn.Module) -> int:
    weight = cast(Tensor, norm.weight)
    assert weight.dtype is torch.float32 and weight.is_contiguous()
    return weight.data_ptr()
