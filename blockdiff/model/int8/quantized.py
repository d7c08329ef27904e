"""Layers whose weights are packed: int8 arithmetic on a CPU, everything around them in float32."""

from __future__ import annotations

import ctypes
from collections.abc import Iterable, Sequence
from typing import cast

import torch
from torch import Tensor, nn

from blockdiff.model.adapter import GatedAdapter, LowRank
from blockdiff.model.int8.arena import Arena
from blockdiff.model.int8.library import Matrix, MatrixPart, loaded
from blockdiff.model.int8.packing import GROUP, Packed, pack
from blockdiff.model.transformer import Transformer


class QuantizedLinear(nn.Module):
    """x W^T + b; parts of W one above the other, each in its own format.

    A row of the result does not depend on how many others are computed with it.
    """

    def __init__(
        self, parts: Sequence[Packed], bias: Tensor | None = None, arena: Arena | None = None
    ) -> None:
        """`parts` have the same number of inputs; `bias` is float32. Raises DeviceUnavailable."""
        super().__init__()
        arena = arena or arena_for(parts)
        self._library = loaded()
        self.in_features = parts[0].inputs
        self.out_features = sum(part.rows for part in parts)
        self._data = [arena.copy(part.data) for part in parts]
        self._bias = bias
        self._parts = (MatrixPart * len(parts))()
        row = 0
        for slot, part, data in zip(self._parts, parts, self._data, strict=True):
            slot.kind, slot.n, slot.packed = part.format.code, part.rows, data.data_ptr()
            slot.bias = None if bias is None else bias[row:].data_ptr()
            row += part.rows

    def forward(self, x: Tensor) -> Tensor:
        flat = x.reshape(-1, self.in_features).contiguous()
        return self._library.linear(self._parts, flat, self.out_features).view(
            *x.shape[:-1], self.out_features
        )

    @property
    def matrix(self) -> Matrix:
        """W and b for the library, while this layer lives."""
        return Matrix(ctypes.addressof(self._parts), len(self._parts))

    def rows(self, indices: Tensor) -> Tensor:
        """Rows of W as float32; those of the first part only are reached."""
        found = self._library.rows(self._parts[0], self.in_features, indices.flatten().tolist())
        return found.view(*indices.shape, self.in_features)

    @property
    def nbytes(self) -> int:
        """Size of the weights."""
        return sum(data.numel() for data in self._data)


class QuantizedEmbedding(nn.Module):
    """Rows of a packed matrix, which a head may share."""

    def __init__(self, matrix: QuantizedLinear) -> None:
        super().__init__()
        self.matrix = matrix

    def forward(self, tokens: Tensor) -> Tensor:
        return self.matrix.rows(tokens)


class QuantizedLowRank(nn.Module):
    """A pair of an adapter, its rank filled up with zeros to a whole group."""

    def __init__(self, pair: LowRank) -> None:
        super().__init__()
        rank, inputs = pair.a.shape
        whole = -(-rank // GROUP) * GROUP
        a, b = torch.zeros(whole, inputs), torch.zeros(len(pair.b), whole)
        a[:rank], b[:, :rank] = pair.a.detach() * pair.scale, pair.b.detach()
        self.a, self.b = QuantizedLinear([pack(a)]), QuantizedLinear([pack(b)])

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.b(self.a(x))
        return out


def install_adapter(adapter: GatedAdapter) -> None:
    """Pack the pairs of an adapter in place: small products are cheaper in the library.

    Raises DeviceUnavailable, and ModelUnsupported for widths it does not know.
    """
    for layer in adapter.layers:
        pairs = cast(nn.ModuleDict, layer)
        for name, pair in pairs.items():
            pairs[name] = QuantizedLowRank(cast(LowRank, pair))


def install(model: Transformer, weights: dict[str, list[Packed]]) -> None:
    """Put packed matrices in the places of `weights`, by the names of the tensors they replace.

    Each is taken out of `weights` and copied, so that they are never there twice. A head that is
    not named is the embedding. Raises DeviceUnavailable.
    """
    arena = arena_for(part for parts in weights.values() for part in parts)
    tied = "head.weight" not in weights
    for name in list(weights):
        parts = weights.pop(name)
        owner_name, _, leaf = name.removesuffix(".weight").rpartition(".")
        owner = model.get_submodule(owner_name)
        bias = getattr(getattr(owner, leaf), "bias", None)
        layer: nn.Module = QuantizedLinear(parts, None if bias is None else bias.detach(), arena)
        if name == "embedding.weight":
            assert isinstance(layer, QuantizedLinear)
            layer = QuantizedEmbedding(layer)
        setattr(owner, leaf, layer)
    if tied:
        assert isinstance(model.embedding, QuantizedEmbedding)
        model.head = cast(nn.Linear, model.embedding.matrix)


def is_quantized(model: object) -> bool:
    """Whether the matrices of a model are packed."""
    return isinstance(model, Transformer) and isinstance(model.head, QuantizedLinear)


def arena_for(parts: Iterable[Packed]) -> Arena:
    """Memory for all of these."""
    sizes = [part.data.numel() for part in parts]
    return Arena(len(sizes), sum(sizes))
