"""Weights in 8 bits where there is no int8 arithmetic of ours: GPUs.

Each row of a matrix has a scale and whole numbers from -127 to 127; they become floating point
again within a product, and everything else stays that. It halves the memory of a model. It
need not make it faster: torch alone has no kernel that reads 8 bits and multiplies tiles, so a
product of more than a few rows writes the matrix out in bfloat16 first. Untried on a GPU so far.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from blockdiff.errors import ModelUnsupported
from blockdiff.model.transformer import Transformer

_MOST = 127
_CHUNK = 1 << 25  # numbers of a matrix that are in floating point at the same time
# Rows for which torch's kernel for int8 weights is taken on CUDA. By its source (2.13) a thread
# computes one number by itself and 16 rows share a block: the matrix is read once, and arithmetic
# soon binds. An estimate: `make gpu-check` measures both ways.
_FEW_ROWS = 4
_BFLOAT16_SINCE = (8, 0)  # compute capability: Ampere


class WeightOnlyLinear(nn.Module):
    """x W^T + b, W in 8 bits with a scale for each of its rows."""

    weight: Tensor
    scale: Tensor

    def __init__(self, weight: Tensor, bias: Tensor | None, device: torch.device) -> None:
        """`weight` (rows, inputs) is rounded on `device`; its dtype is that of the products."""
        super().__init__()
        self.out_features, self.in_features = weight.shape
        self.register_buffer("weight", torch.empty(weight.shape, dtype=torch.int8, device=device))
        self.register_buffer("scale", torch.empty(len(weight), dtype=weight.dtype, device=device))
        self.bias = None if bias is None else nn.Parameter(bias.to(device), requires_grad=False)
        for rows in self._chunks():
            self.weight[rows], self.scale[rows] = rounded(weight[rows].to(device))

    def forward(self, x: Tensor) -> Tensor:
        flat = x.reshape(-1, self.in_features)
        few = flat.is_cuda and len(flat) <= _FEW_ROWS
        y = self.narrow_product(flat) if few else self.wide_product(flat)
        y = y.view(*x.shape[:-1], self.out_features)
        return y if self.bias is None else y + self.bias

    def narrow_product(self, x: Tensor) -> Tensor:
        """x W^T by torch's kernel for int8 weights, (n, inputs) to (n, rows).

        On a CPU it wants `inputs` to be a multiple of 16 in bfloat16, and does not check it. On
        CUDA it computes in float32, and has returned that, too, whatever it was given.
        """
        return torch._weight_int8pack_mm(x.contiguous(), self.weight, self.scale).to(x.dtype)

    def wide_product(self, x: Tensor) -> Tensor:
        """The same by way of floating point, in which these whole numbers are exact."""
        parts = [F.linear(x, self.weight[rows].to(x.dtype)) for rows in self._chunks()]
        return (parts[0] if len(parts) == 1 else torch.cat(parts, dim=-1)) * self.scale

    def rows(self, indices: Tensor) -> Tensor:
        """Rows of W in floating point, (.., inputs) for indices (..)."""
        return self.weight[indices].to(self.scale.dtype) * self.scale[indices][..., None]

    def _chunks(self) -> list[slice]:
        step = max(_CHUNK // self.in_features, 1)
        return [slice(row, row + step) for row in range(0, self.out_features, step)]


class WeightOnlyEmbedding(nn.Module):
    """Rows of a matrix, which a head may share."""

    def __init__(self, matrix: WeightOnlyLinear) -> None:
        super().__init__()
        self.matrix = matrix

    def forward(self, tokens: Tensor) -> Tensor:
        return self.matrix.rows(tokens)


def rounded(weight: Tensor) -> tuple[Tensor, Tensor]:
    """A matrix (rows, inputs) as int8, and the scale of each row in the matrix's dtype.

    Numbers are rounded to multiples of the scale as it is stored, so its own rounding is no error.
    """
    wide = weight.float()
    scale = (wide.abs().amax(dim=1) / _MOST).to(weight.dtype)
    step = torch.where(scale > 0, scale.float(), 1.0)[:, None]
    return (wide / step).round().clamp(-_MOST, _MOST).to(torch.int8), scale


def in_eight_bits(model: Transformer, device: torch.device, source: str) -> Transformer:
    """Put matrices of 8 bits in the place of a model's own, and move all of it to `device`.

    Of no matrix more than a part is there in its old numbers. Raises ModelUnsupported for experts.
    """
    if model.config.experts is not None:
        raise ModelUnsupported(
            f"{source}: int8 does not cover mixtures of experts", "use --dtype bfloat16"
        )
    matrix = WeightOnlyLinear(model.embedding.weight, None, device)
    if model.config.tied_embeddings:
        model.head = matrix  # type: ignore[assignment]
    for name, layer in list(model.named_modules()):
        if isinstance(layer, nn.Linear):
            bias = None if layer.bias is None else layer.bias.detach()
            model.set_submodule(name, WeightOnlyLinear(layer.weight.detach(), bias, device))
    model.embedding = WeightOnlyEmbedding(matrix)  # type: ignore[assignment]
    return model.to(device)


def floats_for(device: torch.device | None) -> torch.dtype:
    """What is computed in where nobody asks for another: bfloat16, or float32 on a GPU without it.

    Not float16 there: checkpoints are trained in bfloat16, and some (Qwen2.5) have activations
    beyond the 65,504 where float16 ends, which makes every later number of the text meaningless.
    """
    if device is None or device.type != "cuda":
        return torch.bfloat16
    capable = torch.cuda.get_device_capability(device) >= _BFLOAT16_SINCE
    return torch.bfloat16 if capable or torch.version.hip else torch.float32


def is_weight_only(model: object) -> bool:
    """Whether the matrices of a model are in 8 bits, and its arithmetic is not."""
    return isinstance(model, Transformer) and isinstance(model.head, WeightOnlyLinear)
