"""Rotary positions (RoPE, arXiv 2104.09864) in the half-rotation form of Llama and Qwen."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from blockdiff.model.config import RopeScaling, TransformerConfig


def rotary_tables(config: TransformerConfig, positions: Tensor) -> tuple[Tensor, Tensor]:
    """Cosines and sines, float32, (batch or 1, 1, new, rotary dimensions), of `positions`.

    `positions` is (batch or 1, new).
    """
    size = config.rotary_dim or config.head_dim
    half = torch.arange(0, size, 2, dtype=torch.float32, device=positions.device)
    inverse = config.rope_base ** -(half / size)
    if config.rope_scaling is not None:
        inverse = _slowed(inverse, config.rope_scaling, config.rope_base)
    angles = positions.float()[..., None] * inverse
    angles = torch.cat([angles, angles], dim=-1)[:, None]
    if config.rope_scaling is not None and (scale := config.rope_scaling.amplitude) != 1.0:
        return angles.cos() * scale, angles.sin() * scale
    return angles.cos(), angles.sin()


def query_scale(config: TransformerConfig, positions: Tensor) -> Tensor | None:
    """What queries at `positions` are multiplied by, (batch or 1, 1, new, 1); None: by nothing."""
    scaling = config.rope_scaling
    if scaling is None or not scaling.query_growth:
        return None
    if positions.is_cpu and int(positions.max()) < scaling.trained:
        return None  # elsewhere it would be waited for
    windows = torch.floor(positions.float() / scaling.trained)
    return (1.0 + scaling.query_growth * torch.log1p(windows))[:, None, :, None]


def _slowed(inverse: Tensor, scaling: RopeScaling, base: float) -> Tensor:
    if not scaling.trained:
        return inverse / scaling.factor
    if scaling.yarn:
        slow = _yarn_ramp(2 * len(inverse), scaling, base).to(inverse.device)
        return inverse / scaling.factor * slow + inverse * (1.0 - slow)
    turns = scaling.trained * inverse / (2 * math.pi)
    kept = ((turns - scaling.low) / (scaling.high - scaling.low)).clamp(0.0, 1.0)
    return inverse * (kept + (1.0 - kept) / scaling.factor)


def _yarn_ramp(size: int, scaling: RopeScaling, base: float) -> Tensor:
    """Which share of its slowing each angle gets, (size / 2,): none at first, all at the end."""

    def index_of(turns: float) -> float:
        """Where angles turn so many times within the positions of the first training."""
        return size * math.log(scaling.trained / (turns * 2 * math.pi)) / (2 * math.log(base))

    first, last = index_of(scaling.high), index_of(scaling.low)
    if scaling.whole:
        first, last = float(math.floor(first)), float(math.ceil(last))
    first, last = max(first, 0.0), min(last, size - 1.0)
    span = last - first or 0.001
    return ((torch.arange(size // 2, dtype=torch.float32) - first) / span).clamp(0.0, 1.0)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn each pair (i, i + head_dim/2) of x (batch, heads, new, head_dim) by its angle."""
    low, high = x.chunk(2, dim=-1)
    turned = torch.cat([-high, low], dim=-1)
    return x * cos.to(x.dtype) + turned * sin.to(x.dtype)


def rotate_partly(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """As `rotate`, of the leading dimensions of each head that the tables cover."""
    size = cos.shape[-1]
    return torch.cat([rotate(x[..., :size], cos, sin), x[..., size:]], dim=-1)


def shifted(config: TransformerConfig, keys_values: Tensor, by: int) -> Tensor:
    """Keys and values (layers, 2, batch, kv_heads, length, head_dim) as they are `by` positions
    further on, or back.

    RoPE turns a key by an angle that grows with its position, and angles add up (arXiv 2104.09864,
    equation 14), so that this is as exact as the dtype. What the tokens have seen stays what it was
    where they were encoded.
    """
    turn = rotate_partly if config.rotary_dim else rotate
    cos, sin = rotary_tables(config, torch.tensor([[by]], device=keys_values.device))
    keys, values = keys_values.unbind(1)
    return torch.stack([turn(keys, cos, sin), values], dim=1)
