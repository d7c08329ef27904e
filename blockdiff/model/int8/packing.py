"""Weights in the order in which the compiled product reads them.

Sixteen output rows make a tile, so that one instruction works on sixteen rows at once. The numbers
of GGUF's Q4_K and Q6_K are only put in another order: nothing is rounded again. Anything else is
rounded to 128 steps for every 32 inputs. `tiles.c` describes the bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from blockdiff.errors import ModelUnsupported

ROWS = 16  # of a tile
GROUP = 32  # inputs that share a scale
_SUPER = 256  # inputs of a block of a K-quant
_STEPS = 127

Bytes = NDArray[np.uint8]


class Format(str, Enum):
    """How the rows of a tile are stored."""

    Q4_K = "q4_k"
    Q6_K = "q6_k"
    Q7 = "q7"

    @property
    def code(self) -> int:
        """What `tiles.c` calls it."""
        return {Format.Q4_K: 4, Format.Q6_K: 6, Format.Q7: 7}[self]

    def tile_bytes(self, inputs: int) -> int:
        """Size of a tile of rows of so many inputs."""
        if self is Format.Q7:
            return inputs // GROUP * 576
        return inputs // _SUPER * (2368 if self is Format.Q4_K else 3392)


@dataclass(frozen=True, slots=True)
class Packed:
    """Rows of a matrix.

    Attributes:
        rows, inputs: shape of the matrix.
        data: uint8, (tiles, bytes of a tile).
    """

    format: Format
    rows: int
    inputs: int
    data: Tensor


def packed_format(gguf_type: str) -> Format:
    """The format that a tensor of a GGUF file is packed in, by the name of its type."""
    return {"Q4_K": Format.Q4_K, "Q6_K": Format.Q6_K}.get(gguf_type, Format.Q7)


def has_finite_scales(form: Format, raw: Bytes) -> bool:
    """Whether no number of a GGUF tensor, (rows, bytes), is NaN or infinite: all else of a block of
    a K-quant is integers."""
    size, first, last = {Format.Q4_K: (144, 0, 4), Format.Q6_K: (210, 208, 210)}[form]
    scales = np.ascontiguousarray(raw.reshape(-1, size)[:, first:last]).view(np.float16)
    return bool(np.isfinite(scales).all())


def pack_q4_k(raw: Bytes, inputs: int) -> Packed:
    """From the rows of a GGUF tensor, (rows, bytes): blocks of 144 bytes for 256 inputs."""
    rows = len(raw)
    blocks = _whole_tiles(raw).reshape(-1, inputs // _SUPER, 144)
    six_bits = blocks[:, :, 4:16].reshape(*blocks.shape[:2], 3, 4)
    low, least, high = six_bits[:, :, 0], six_bits[:, :, 1], six_bits[:, :, 2]
    scale = np.concatenate([low & 0x3F, (high & 0x0F) | ((low >> 2) & 0x30)], axis=-1)
    least = np.concatenate([least & 0x3F, (high >> 4) | ((least >> 2) & 0x30)], axis=-1)
    nibbles = blocks[:, :, 16:].reshape(*blocks.shape[:2], 4, 1, 32)
    q = np.concatenate([nibbles & 0x0F, nibbles >> 4], axis=3)
    data = [
        _by_row(blocks[:, :, 0:2], 2),
        _by_row(blocks[:, :, 2:4], 2),
        _by_row(scale),
        _by_row(least),
        _nibbles(q.reshape(len(blocks), inputs)),
    ]
    return _packed(Format.Q4_K, rows, inputs, data)


def pack_q6_k(raw: Bytes, inputs: int) -> Packed:
    """From the rows of a GGUF tensor, (rows, bytes): blocks of 210 bytes for 256 inputs."""
    rows = len(raw)
    blocks = _whole_tiles(raw).reshape(-1, inputs // _SUPER, 210)
    low = blocks[:, :, :128].reshape(*blocks.shape[:2], 2, 1, 64)
    low = np.concatenate([low & 0x0F, low >> 4], axis=3)
    high = blocks[:, :, 128:192].reshape(*blocks.shape[:2], 2, 1, 32)
    high = np.concatenate([(high >> shift) & 3 for shift in (0, 2, 4, 6)], axis=3)
    steps = _interleaved(high.reshape(len(blocks), inputs))
    steps = steps.reshape(*steps.shape[:2], 16, 4, 4 * ROWS)
    steps = steps << np.array([0, 2, 4, 6], np.uint8)[:, None]
    pairs: Bytes = np.bitwise_or.reduce(steps, axis=3)
    nibbles = _nibbles(low.reshape(len(blocks), inputs)).reshape(*pairs.shape[:3], 8 * ROWS)
    scale = _by_row(blocks[:, :, 208:210], 2)
    data = [
        scale,
        np.zeros_like(scale),
        _by_row(blocks[:, :, 192:208]),
        _flat(np.concatenate([nibbles, pairs], axis=-1)),
    ]
    return _packed(Format.Q6_K, rows, inputs, data)


def pack(weight: Tensor) -> Packed:
    """Round a float matrix (rows, inputs) to 128 steps for every 32 inputs of a row."""
    rows, inputs = weight.shape
    check_width(inputs)
    whole = _whole_tiles(weight.float().numpy())
    groups = whole.reshape(len(whole), -1, GROUP)
    least = -groups.min(axis=-1)
    with np.errstate(over="ignore"):
        scale16 = ((groups.max(axis=-1) + least) / _STEPS).astype(np.float16)
        least16 = least.astype(np.float16)
    if not (np.isfinite(scale16).all() and np.isfinite(least16).all()):
        raise ModelUnsupported("a weight is too large for int8", "use --dtype bfloat16")
    scale = np.where(scale16 > 0, scale16, 1).astype(np.float32)[..., None]
    q = np.rint((groups + least16.astype(np.float32)[..., None]) / scale)
    q = np.clip(q, 0, _STEPS).astype(np.uint8).reshape(len(whole), inputs)
    tiles = q.reshape(-1, ROWS, inputs // GROUP, GROUP // 4, 4).transpose(0, 2, 3, 1, 4)
    # A stretch of one group: its scales, its minima, its numbers.
    data = [_by_row(x.view(np.uint8).reshape(*x.shape, 2), 2) for x in (scale16, least16)]
    return _packed(Format.Q7, rows, inputs, [*data, _flat(tiles)])


def check_width(inputs: int) -> None:
    """Raises ModelUnsupported for a width that has no whole groups."""
    if inputs % GROUP:
        raise ModelUnsupported(
            f"int8 needs layers whose width is a multiple of {GROUP}, not {inputs}",
            "use --dtype bfloat16",
        )


def _whole_tiles(rows: NDArray[Any]) -> NDArray[Any]:
    """With rows of zeros behind the last, so that they fill a tile."""
    missing = -len(rows) % ROWS
    return np.pad(rows, ((0, missing), (0, 0))) if missing else rows


def _interleaved(q: Bytes) -> Bytes:
    """(rows, inputs) -> (tiles, blocks, 64 steps of four inputs, 64 bytes: four of each row)."""
    tiles = q.reshape(-1, ROWS, q.shape[1] // _SUPER, _SUPER // 4, 4)
    return tiles.transpose(0, 2, 3, 1, 4).reshape(len(tiles), -1, _SUPER // 4, 4 * ROWS)


def _nibbles(q: Bytes) -> Bytes:
    """Two steps of four inputs in one chunk, the first in the low halves of its bytes."""
    steps = _interleaved(q)
    pairs = steps.reshape(*steps.shape[:2], -1, 2, 4 * ROWS)
    return _flat(pairs[:, :, :, 0] | pairs[:, :, :, 1] << 4)


def _by_row(values: Bytes, width: int = 1) -> Bytes:
    """(rows, blocks, n * width) -> (tiles, blocks, n * 16 * width): the rows of a tile in turn."""
    rows, blocks = values.shape[:2]
    tiles = values.reshape(rows // ROWS, ROWS, blocks, -1, width)
    return _flat(tiles.transpose(0, 2, 3, 1, 4))


def _flat(values: NDArray[Any]) -> Bytes:
    return values.reshape(*values.shape[:2], -1)


def _packed(form: Format, rows: int, inputs: int, parts: Sequence[Bytes]) -> Packed:
    data = np.concatenate(parts, axis=-1)
    data = np.ascontiguousarray(data.reshape(len(data), -1))
    assert data.shape[1] == form.tile_bytes(inputs)
    return Packed(form, rows, inputs, torch.from_numpy(data))
