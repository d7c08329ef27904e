"""Floating-point matrices in GGUF's Q4_K: 4 bits a number, and scales for every 32 of them.

Of 256 inputs of a row, eight groups of 32 have a scale and a least value of 6 bits each, and these
a scale of 16 bits each: 144 bytes. llama.cpp reads what is written here.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from blockdiff.model.int8.packing import Bytes

INPUTS = 256
"""Of a block; the inputs of a matrix are a multiple of it."""

_GROUP, _MOST, _SIX_BITS = 32, 15, 63
_SHRUNK = (1.0, 0.95, 0.9, 0.85)  # shares of a group's range that are tried: its ends are rare
_ROWS = 1024  # at a time
_LEAST_HALF = 2.0**-24  # a step that became 0 while what is subtracted does not would be worse


def quantize_q4_k(weight: Tensor) -> Bytes:
    """Round a matrix (rows, inputs) to Q4_K: (rows, inputs / 256 * 144) bytes.

    Each group takes the range, of a few tried, whose squared error is least.
    """
    return np.concatenate(
        [_rounded(weight[row : row + _ROWS].float()) for row in range(0, len(weight), _ROWS)]
    )


def _rounded(weight: Tensor) -> Bytes:
    rows, inputs = weight.shape
    x = weight.reshape(rows, inputs // INPUTS, INPUTS // _GROUP, _GROUP)
    least, scale = _ranges(x)
    d = (scale.amax(-1, keepdim=True) / _SIX_BITS).half().clamp(min=_LEAST_HALF)
    dmin = (least.amax(-1, keepdim=True) / _SIX_BITS).half().clamp(min=_LEAST_HALF)
    six_scale = _six_bits(scale, d)
    six_least = _six_bits(least, dmin)
    step = (d.float() * six_scale)[..., None]
    shift = (dmin.float() * six_least)[..., None]
    q = ((x + shift) / step.clamp(min=1e-30)).round().clamp(0, _MOST).to(torch.uint8)
    return _laid_out(d, dmin, six_scale.to(torch.uint8), six_least.to(torch.uint8), q)


def _ranges(x: Tensor) -> tuple[Tensor, Tensor]:
    """What is subtracted from each group (.., groups), and its step, both at least 0."""
    low, high = x.amin(-1).clamp(max=0), x.amax(-1).clamp(min=0)
    best = torch.full_like(low, torch.inf)
    least, scale = -low, (high - low) / _MOST
    for share in _SHRUNK:
        tried, step = -low * share, (high - low) * share / _MOST
        wide = step[..., None].clamp(min=1e-30)
        q = ((x + tried[..., None]) / wide).round().clamp(0, _MOST)
        error = (q * wide - tried[..., None] - x).square().sum(-1)
        better = error < best
        best = torch.where(better, error, best)
        least, scale = torch.where(better, tried, least), torch.where(better, step, scale)
    return least, scale


def _six_bits(values: Tensor, unit: Tensor) -> Tensor:
    return (values / unit.float().clamp(min=1e-30)).round().clamp(0, _SIX_BITS)


def _laid_out(d: Tensor, dmin: Tensor, scale: Tensor, least: Tensor, q: Tensor) -> Bytes:
    """The bytes of the blocks: d, dmin, twelve of scales, 128 of nibbles."""
    rows, blocks = q.shape[:2]
    s, m = scale.numpy(), least.numpy()
    packed = np.concatenate(
        [
            s[..., :4] | (s[..., 4:] >> 4) << 6,
            m[..., :4] | (m[..., 4:] >> 4) << 6,
            (s[..., 4:] & 0x0F) | (m[..., 4:] & 0x0F) << 4,
        ],
        axis=-1,
    )
    halves = q.numpy().reshape(rows, blocks, 4, 2, _GROUP)
    nibbles = (halves[..., 0, :] | halves[..., 1, :] << 4).reshape(rows, blocks, -1)
    parts = [d.numpy().view(np.uint8), dmin.numpy().view(np.uint8), packed, nibbles]
    return np.concatenate([part.reshape(rows, blocks, -1) for part in parts], axis=-1).reshape(
        rows, -1
    )
