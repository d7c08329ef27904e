"""The gated adapter: low-rank weights that act at noisy positions only.

At a committed position the base weights compute exactly what they would compute alone, so the
keys and values of the cache, and the base's own quality, do not depend on the adapter
(gated LoRA, arXiv 2507.11851). The mask token's embedding is part of it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import cast

import torch
from torch import Tensor, nn

from blockdiff.errors import ModelCorrupt, ModelUnsupported
from blockdiff.model.config import AdapterConfig, TransformerConfig


class LowRank(nn.Module):
    """x -> scale * (x A^T) B^T, zero at initialisation."""

    def __init__(self, n_in: int, n_out: int, rank: int, scale: float) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.empty(rank, n_in))
        self.b = nn.Parameter(torch.zeros(n_out, rank))
        self.scale = scale
        nn.init.normal_(self.a, std=1.0 / math.sqrt(n_in))

    def forward(self, x: Tensor) -> Tensor:
        down = nn.functional.linear(x, self.a.to(x.dtype)) * self.scale
        return nn.functional.linear(down, self.b.to(x.dtype))


class GatedAdapter(nn.Module):
    """One `LowRank` pair for each target of each layer, and the embedding of the mask token.

    `layers[i]` maps a target name (`qkv`, `o`, `gate_up`, `down`) to its pair.
    """

    def __init__(self, model: TransformerConfig, config: AdapterConfig) -> None:
        super().__init__()
        self.config = config
        shapes = target_shapes(model)
        if absent := [name for name, rank in config.ranks.items() if rank and name not in shapes]:
            raise ModelUnsupported(f"the architecture has no {absent[0]} for an adapter to act on")
        self.mask_embedding = nn.Parameter(torch.zeros(model.hidden_size))
        self.layers = nn.ModuleList(
            nn.ModuleDict(
                {
                    name: LowRank(*shapes[name], rank, config.scale)
                    for name, rank in config.ranks.items()
                    if rank and index >= config.first_layer
                }
            )
            for index in range(model.n_layers)
        )

    def delta(self, layer: int, target: str, x: Tensor) -> Tensor | None:
        """What to add to the base's output of one linear layer; None if it carries no pair."""
        pairs = cast(nn.ModuleDict, self.layers[layer])
        return pairs[target](x) if target in pairs else None

    def load(self, tensors: Mapping[str, Tensor], source: str) -> None:
        """Copy stored tensors in. Raises ModelCorrupt naming `source` and the first bad key."""
        own = dict(self.named_parameters())
        for key in sorted(own.keys() ^ tensors.keys()):
            kind = "missing" if key in own else "unexpected"
            raise ModelCorrupt(f"{source}: tensor {key} is {kind}", "pull or train it again")
        with torch.no_grad():
            for key, parameter in own.items():
                if tensors[key].shape != parameter.shape:
                    raise ModelCorrupt(
                        f"{source}: tensor {key} has shape {tuple(tensors[key].shape)}, "
                        f"expected {tuple(parameter.shape)}"
                    )
                parameter.copy_(tensors[key])


def target_shapes(model: TransformerConfig) -> dict[str, tuple[int, int]]:
    """(inputs, outputs) of every linear layer that can carry a pair."""
    attention = model.n_heads * model.head_dim
    shapes = {
        "qkv": (model.hidden_size, attention + 2 * model.n_kv_heads * model.head_dim),
        "o": (attention, model.hidden_size),
    }
    if model.experts is not None:
        return shapes
    if model.gated_ffn:
        shapes["gate_up"] = (model.hidden_size, 2 * model.ffn_size)
    return shapes | {"down": (model.ffn_size, model.hidden_size)}
