"""Keys and values of a text at other positions than those it was encoded at."""

from __future__ import annotations

import torch
from torch import Tensor

from blockdiff.config import TransformerConfig
from blockdiff.model.transformer import rotary_tables, rotate, rotate_partly


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
