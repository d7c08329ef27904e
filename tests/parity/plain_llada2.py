"""LLaDA2 as plain loops over tokens: what its routing by blocks is compared with.

Without a capacity it is the published code of LLaDA2.0, whose stored output a test holds it to.
With one (LLaDA2.2) the experts of a block are those of the highest score that any of its tokens
gives, as SGLang 0.5.23 (`models/llada2.py`) and the technical report have it; there are no groups
then.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F


class PlainLLaDA2:
    """A tiny checkpoint; every forward is of the whole sequence."""

    def __init__(self, config: dict[str, Any], weights: dict[str, Tensor]) -> None:
        self._config, self._weights = config, weights

    @torch.no_grad()
    def logits(self, ids: Tensor, seen: Tensor) -> Tensor:
        """(length, vocab) of ids (length,) under a boolean mask (length, length)."""
        c, w = self._config, self._weights
        x = w["model.word_embeddings.weight"][ids]
        for layer in range(c["num_hidden_layers"]):
            name = f"model.layers.{layer}."
            x = x + self._attention(name, self._norm(x, f"{name}input_layernorm.weight"), seen)
            inner = self._norm(x, f"{name}post_attention_layernorm.weight")
            dense = layer < c["first_k_dense_replace"]
            x = x + (self._swiglu(f"{name}mlp.", inner) if dense else self._experts(name, inner))
        return self._norm(x, "model.norm.weight") @ w["lm_head.weight"].T

    def _norm(self, x: Tensor, name: str) -> Tensor:
        scale = torch.rsqrt(x.square().mean(-1, keepdim=True) + self._config["rms_norm_eps"])
        return x * scale * self._weights[name]

    def _swiglu(self, name: str, x: Tensor) -> Tensor:
        parts = (f"{name}{part}_proj.weight" for part in ("gate", "up", "down"))
        gate, up, down = (self._weights[part] for part in parts)
        return (F.silu(x @ gate.T) * (x @ up.T)) @ down.T

    def _attention(self, name: str, x: Tensor, seen: Tensor) -> Tensor:
        c, length = self._config, len(x)
        heads, kv, size = c["num_attention_heads"], c["num_key_value_heads"], c["head_dim"]
        rows = x @ self._weights[f"{name}attention.query_key_value.weight"].T
        q, k, v = rows.view(length, -1, size).split([heads, kv, kv], dim=1)
        q = self._turned(self._norm(q, f"{name}attention.query_layernorm.weight"))
        k = self._turned(self._norm(k, f"{name}attention.key_layernorm.weight"))
        out = []
        for head in range(heads):
            shared = head // (heads // kv)
            scores = q[:, head] @ k[:, shared].T / math.sqrt(size)
            out.append(scores.masked_fill(~seen, -torch.inf).softmax(-1) @ v[:, shared])
        return torch.cat(out, dim=-1) @ self._weights[f"{name}attention.dense.weight"].T

    def _turned(self, x: Tensor) -> Tensor:
        """(length, heads, head_dim): the leading part of each head by its angles."""
        size = int(x.shape[-1] * self._config["partial_rotary_factor"])
        half = torch.arange(0, size, 2) / size
        angles = torch.arange(len(x))[:, None] / self._config["rope_theta"] ** half
        cos, sin = angles.cos()[:, None], angles.sin()[:, None]
        low, high = x[..., : size // 2], x[..., size // 2 : size]
        return torch.cat([low * cos - high * sin, high * cos + low * sin, x[..., size:]], dim=-1)

    def _experts(self, name: str, x: Tensor) -> Tensor:
        c = self._config
        scores = (x @ self._weights[f"{name}mlp.gate.weight"].T).sigmoid()
        biased = scores + self._weights[f"{name}mlp.gate.expert_bias"]
        out = []
        for at, row in enumerate(x):
            admitted = self._admitted(biased, at)
            ranked = sorted(admitted, key=lambda expert: -float(biased[at, expert]))
            chosen = ranked[: c["num_experts_per_tok"]]
            total = sum(float(scores[at, expert]) for expert in chosen)
            out.append(
                sum(
                    self._swiglu(f"{name}mlp.experts.{expert}.", row)
                    * (float(scores[at, expert]) / total * c["routed_scaling_factor"])
                    for expert in chosen
                )
            )
        return torch.stack(out) + self._swiglu(f"{name}mlp.shared_experts.", x)

    def _admitted(self, biased: Tensor, at: int) -> list[int]:
        """The experts that the token at a position may choose among."""
        c, count = self._config, biased.shape[1]
        if (capacity := c.get("expert_capacity")) is not None:
            start = at // c["block_size"] * c["block_size"]
            best = biased[start : start + c["block_size"]].amax(0)
            return sorted(range(count), key=lambda expert: -float(best[expert]))[:capacity]
        size = count // c["n_group"]
        groups = biased[at].view(c["n_group"], size)
        best = groups.topk(2).values.sum(-1)
        kept = best.topk(c["topk_group"]).indices.tolist()
        return [group * size + i for group in kept for i in range(size)]
