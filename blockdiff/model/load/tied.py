"""Whether a head that a file stores is its embedding once more."""

from __future__ import annotations

import re

import torch
from torch import Tensor

from blockdiff.model.load.gguf_file import GgufTensor

_GROUP = 32  # neighbours that share a scale in most types
_EXACT = 24  # bits of float32
_BITS = {"F16": 11, "BF16": 8, "MXFP4": 3, "NVFP4": 3}
_QUANTIZED = re.compile(r"(?:I|T)?Q(\d)_")
_MOST = 1.5  # measured: at most 0.72 between Q4_K and Q6_K of one matrix, 0.60 on average


def same_matrix(first: GgufTensor, second: GgufTensor) -> bool:
    """Whether two tensors are roundings of one matrix: every row of one lies as close to that of
    the other as the steps of both types explain.

    A step of b bits is taken for 1/(2^b - 1) of the range of 32 neighbours, what rounding to it
    costs for step^2 / 12. Raises as `GgufTensor.floats`.
    """
    if first.shape != second.shape:
        return False
    for a, b in zip(first.floats(), second.floats(), strict=True):
        rounding = _rounding(a, first) + _rounding(b, second)
        if bool(((a - b).square().sum(-1) > _MOST * rounding).any()):
            return False
    return True


def _rounding(rows: Tensor, tensor: GgufTensor) -> Tensor:
    """Squared error of each row, (rows,)."""
    name: str = tensor.kind.name
    quantized = _QUANTIZED.match(name)
    bits = int(quantized[1]) if quantized else _BITS.get(name, _EXACT)
    width = rows.shape[-1]
    whole = torch.nn.functional.pad(rows, (0, -width % _GROUP)).reshape(len(rows), -1, _GROUP)
    step: Tensor = whole.abs().amax(-1) * (2 / (2**bits - 1))
    return step.square().sum(-1) * (_GROUP / 12)
