"""What the machine can do at most, and which share of that our forwards reach.

Ceilings are taken by the same torch, on the same threads, and are the best of several tries: what
else the machine does can only lower them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from blockdiff.config import DecodingConfig, Mode
from blockdiff.engine.engine import Engine
from blockdiff.model import masks
from blockdiff.model.forward import Forward
from blockdiff.model.int8.quantized import QuantizedLinear
from blockdiff.model.transformer import Transformer

WIDTHS = (1, 2, 4, 8, 16)
"""Positions of a forward whose time is taken."""

_BUFFER_BYTES = 512 << 20  # more than any cache holds
_TRIES = 7
_SHAPES = ((512, 1536, 8960), (1024, 4096, 4096))

Ceilings = dict[str, float]
"""`read_gb_per_s`, `int8_gop_per_s`, `bfloat16_gop_per_s`."""


def measure(
    buffer_bytes: int = _BUFFER_BYTES, shapes: Sequence[tuple[int, int, int]] = _SHAPES
) -> Ceilings:
    """Gigabytes read in a second, and 10^9 operations a second in matrix products of two kinds.

    Args:
        shapes: rows, inputs and outputs of products, of which the fastest counts.
    """
    return {
        "read_gb_per_s": round(read_rate(buffer_bytes) / 1e9, 2),
        "int8_gop_per_s": round(max(int8_rate(*shape) for shape in shapes) / 1e9, 1),
        "bfloat16_gop_per_s": round(max(bfloat16_rate(*shape) for shape in shapes) / 1e9, 1),
    }


def read_rate(size: int) -> float:
    """Bytes a second of a sum over a buffer of `size` bytes."""
    buffer = torch.ones(size // 4)
    return buffer.nbytes / _best(buffer.sum)


def int8_rate(rows: int, inputs: int, outputs: int) -> float:
    """Operations a second of `torch._int_mm`."""
    a = torch.ones(rows, inputs, dtype=torch.int8)
    b = torch.ones(inputs, outputs, dtype=torch.int8)
    return 2 * rows * inputs * outputs / _best(lambda: torch._int_mm(a, b))


def bfloat16_rate(rows: int, inputs: int, outputs: int) -> float:
    """Operations a second of `torch.matmul`."""
    a = torch.ones(rows, inputs, dtype=torch.bfloat16)
    b = torch.ones(outputs, inputs, dtype=torch.bfloat16)
    return 2 * rows * inputs * outputs / _best(lambda: a @ b.T)


def weight_bytes(model: Transformer) -> int:
    """What a forward reads of the matrices, head included."""
    return sum(
        m.nbytes if isinstance(m, QuantizedLinear) else m.weight.nbytes for m in _matrices(model)
    )


def operations(model: Transformer) -> int:
    """Of a context token: two for each number in the matrices of the blocks."""
    return sum(2 * m.in_features * m.out_features for m in _matrices(model.blocks))


def forward_ms(engine: Engine, prompt: Sequence[int], repeats: int) -> dict[int, list[float]]:
    """Milliseconds of forwards of so many positions behind a prompt, logits included.

    By the number of positions; the first of each is left out. Nothing of them is kept.
    """
    times: dict[int, list[float]] = {}
    with (
        engine.behind(prompt, DecodingConfig(mode=Mode.AR, max_tokens=1)) as sampler,
        torch.inference_mode(),
    ):
        sampler.prefill(prompt)
        cache = sampler.cache
        for width in WIDTHS:
            tokens = torch.full((1, width), prompt[-1], dtype=torch.long)
            positions = torch.arange(cache.length, cache.length + width)[None]
            mask = masks.causal(cache.length, width)
            forward = Forward(tokens, positions, mask, cache)
            run = partial(engine.forward, [forward])
            spent = [_seconds(run) for _ in range(repeats + 1)]
            times[width] = [1e3 * seconds for seconds in spent[1:]]
    return times


def shares(
    engine: Engine, limits: Mapping[str, float], ms: Mapping[int, float], context_s: float
) -> dict[str, Any]:
    """Which part of the ceilings our forwards reach.

    Args:
        limits: what `measure` returned.
        ms: milliseconds of a forward by its positions.
        context_s: seconds for each token of a context.
    """
    model = engine.checkpoint.transformer
    size, each = weight_bytes(model), operations(model)
    kind = "int8" if engine.dtype == "int8" else "bfloat16"
    return {
        "weight_bytes": size,
        "operations_per_token": each,
        "of_read_rate": {
            str(width): round(size / (spent / 1e3) / (limits["read_gb_per_s"] * 1e9), 4)
            for width, spent in ms.items()
        },
        f"context_of_{kind}_rate": round(each / context_s / (limits[f"{kind}_gop_per_s"] * 1e9), 4),
    }


def _matrices(model: nn.Module) -> Iterator[Any]:
    """Each matrix once, though embedding and head may share one."""
    kinds = (QuantizedLinear, nn.Linear)
    return (module for module in model.modules() if isinstance(module, kinds))


def _best(work: Callable[[], Tensor | list[Tensor]]) -> float:
    return min(_seconds(work) for _ in range(_TRIES))


def _seconds(work: Callable[[], Tensor | list[Tensor]]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began
