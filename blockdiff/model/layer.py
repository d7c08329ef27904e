"""One layer of the stack: grouped-query attention and a feed-forward, each behind its norm.

Query, key and value projections are one matrix, gate and up projections another: fewer, larger
products. At noisy positions the adapter adds to them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from blockdiff.model.adapter import GatedAdapter
from blockdiff.model.cache import KeyValues
from blockdiff.model.config import TransformerConfig
from blockdiff.model.experts import Experts
from blockdiff.model.rotary import rotate, rotate_partly


@dataclass(frozen=True, slots=True)
class Gate:
    """Which positions of a forward are noisy.

    Attributes:
        adapter: its weights act where `noisy` is true and nowhere else.
        masked: boolean, (batch or 1, new): positions whose embedding is the mask embedding.
        noisy: all positions from this one on, a boolean for each, or the indices (int64) of all
            that are; None: all.
    """

    adapter: GatedAdapter
    masked: Tensor
    noisy: Tensor | int | None = None


@dataclass(frozen=True, slots=True)
class Segment:
    """The positions of one sequence among those that share a forward.

    Attributes:
        size: how many.
        mask: boolean, (size, past + size).
        cache: of this sequence.
    """

    size: int
    mask: Tensor
    cache: KeyValues


class Placed(NamedTuple):
    """What follows from the positions of a forward, for every layer the same.

    Attributes:
        cos, sin: see `rotary_tables`.
        query: see `query_scale`.
        routed: for each position the block it is routed with, int64, (batch, new).
    """

    cos: Tensor
    sin: Tensor
    query: Tensor | None = None
    routed: Tensor | None = None


class RMSNorm(nn.Module):
    """x / rms(x) * weight, computed in float32."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(size))

    def forward(self, x: Tensor) -> Tensor:
        if x.dtype is torch.float32:
            return F.rms_norm(x, self.weight.shape, self.weight, self.eps)
        wide = x.float()
        normed = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + self.eps)
        return normed.to(x.dtype) * self.weight


def stream_norm(config: TransformerConfig) -> RMSNorm | nn.LayerNorm:
    """The norm over the stream: (.., hidden_size) to the same."""
    if config.layer_norm:
        return nn.LayerNorm(config.hidden_size, config.norm_eps)
    return RMSNorm(config.hidden_size, config.norm_eps)


class Attention(nn.Module):
    """Grouped-query attention over the cache and the forward's own positions."""

    def __init__(self, config: TransformerConfig, layer: int) -> None:
        super().__init__()
        self.config, self.layer = config, layer
        self.q_size = config.n_heads * config.head_dim
        self.kv_size = config.n_kv_heads * config.head_dim
        self.qkv = nn.Linear(
            config.hidden_size, self.q_size + 2 * self.kv_size, bias=config.qkv_bias
        )
        self.o = nn.Linear(self.q_size, config.hidden_size, bias=config.o_bias)
        self.rotate = rotate_partly if config.rotary_dim else rotate
        if config.qk_norm:
            self.q_norm = RMSNorm(config.head_dim, config.norm_eps)
            self.k_norm = RMSNorm(config.head_dim, config.norm_eps)

    def forward(
        self,
        x: Tensor,
        placed: Placed,
        mask: Tensor | Sequence[Segment],
        cache: KeyValues | None,
        gate: Gate | None,
    ) -> Tensor:
        batch, new, _ = x.shape
        c = self.config
        projected = _gated(self.qkv, "qkv", self.layer, x, gate)
        heads = projected.view(batch, new, -1, c.head_dim)
        if c.qk_norm:
            q, k = heads[:, :, : c.n_heads], heads[:, :, c.n_heads : -c.n_kv_heads]
            turned = torch.cat([self.q_norm(q), self.k_norm(k)], dim=2)
        else:
            turned = heads[:, :, : -c.n_kv_heads]
        turned = self.rotate(turned.transpose(1, 2), placed.cos, placed.sin)
        q, k = turned[:, : c.n_heads], turned[:, c.n_heads :]
        if placed.query is not None:
            q = q * placed.query.to(q.dtype)
        v = heads[:, :, -c.n_kv_heads :].transpose(1, 2)
        if isinstance(mask, Tensor):
            if cache is not None:
                k, v = cache.append(self.layer, k, v)
            out = _attend(q, k, v, mask)
        else:
            out = self._attend_apart(q, k, v, mask)
        out = out.transpose(1, 2).reshape(batch, new, self.q_size)
        return _gated(self.o, "o", self.layer, out, gate)

    def keys_values(self, x: Tensor, rotary: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """Of positions that only others attend to, (batch, kv_heads, new, head_dim) each."""
        c = self.config
        heads = self.qkv(x).view(*x.shape[:2], -1, c.head_dim)[:, :, c.n_heads :]
        k, v = heads.chunk(2, dim=2)
        if c.qk_norm:
            k = self.k_norm(k)
        return self.rotate(k.transpose(1, 2), *rotary), v.transpose(1, 2)

    def _attend_apart(self, q: Tensor, k: Tensor, v: Tensor, segments: Sequence[Segment]) -> Tensor:
        """Each segment over its own keys and values; (1, heads, all positions, head_dim)."""
        sizes = [segment.size for segment in segments]
        own = zip(*(torch.split(some, sizes, 2) for some in (q, k, v)), strict=True)
        outs = []
        for segment, (queries, new_keys, new_values) in zip(segments, own, strict=True):
            keys, values = segment.cache.append(self.layer, new_keys, new_values)
            outs.append(_attend(queries, keys, values, segment.mask))
        return torch.cat(outs, dim=2)


class FeedForward(nn.Module):
    """SwiGLU: down(silu(gate x) * up x)."""

    def __init__(self, config: TransformerConfig, layer: int) -> None:
        super().__init__()
        self.layer = layer
        bias = config.ffn_bias
        self.gate_up = nn.Linear(config.hidden_size, 2 * config.ffn_size, bias=bias)
        self.down = nn.Linear(config.ffn_size, config.hidden_size, bias=bias)

    def forward(self, x: Tensor, gate: Gate | None) -> Tensor:
        gated, up = _gated(self.gate_up, "gate_up", self.layer, x, gate).chunk(2, dim=-1)
        return _gated(self.down, "down", self.layer, F.silu(gated) * up, gate)


class UngatedFeedForward(nn.Module):
    """down(gelu(up x)), GELU in its tanh form."""

    def __init__(self, config: TransformerConfig, layer: int) -> None:
        super().__init__()
        self.layer = layer
        self.up = nn.Linear(config.hidden_size, config.ffn_size, bias=config.ffn_bias)
        self.down = nn.Linear(config.ffn_size, config.hidden_size, bias=config.ffn_bias)

    def forward(self, x: Tensor, gate: Gate | None) -> Tensor:
        inner = F.gelu(self.up(x), approximate="tanh")
        return _gated(self.down, "down", self.layer, inner, gate)


def feed_forward(config: TransformerConfig, layer: int) -> nn.Module:
    """What follows the attention of a layer."""
    if config.experts is not None and layer >= config.experts.first_layer:
        return Experts(config.hidden_size, config.experts)
    return (FeedForward if config.gated_ffn else UngatedFeedForward)(config, layer)


class Block(nn.Module):
    """Attention and feed-forward, each behind its norm and added to the stream."""

    def __init__(self, config: TransformerConfig, layer: int) -> None:
        super().__init__()
        self.attention_norm = stream_norm(config)
        self.attention = Attention(config, layer)
        self.ffn_norm = stream_norm(config)
        self.ffn = feed_forward(config, layer)

    def forward(
        self,
        x: Tensor,
        placed: Placed,
        mask: Tensor | Sequence[Segment],
        cache: KeyValues | None,
        gate: Gate | None,
    ) -> Tensor:
        x = x + self.attention(self.attention_norm(x), placed, mask, cache, gate)
        inner = self.ffn_norm(x)
        if isinstance(self.ffn, Experts):
            return x + cast(Tensor, self.ffn(inner, placed.routed))
        out: Tensor = x + self.ffn(inner, gate)
        return out


def _gated(linear: nn.Module, target: str, layer: int, x: Tensor, gate: Gate | None) -> Tensor:
    y: Tensor = linear(x)
    if gate is None:
        return y
    if isinstance(gate.noisy, Tensor) and gate.noisy.dtype is torch.int64:
        delta = gate.adapter.delta(layer, target, x[:, gate.noisy])
        return y if delta is None else y.index_add_(1, gate.noisy, delta)
    first = gate.noisy if isinstance(gate.noisy, int) else 0
    delta = gate.adapter.delta(layer, target, x[:, first:])
    if delta is None:
        return y
    if first:
        y[:, first:] += delta
        return y
    if not isinstance(gate.noisy, Tensor):
        return y + delta
    # where, not a product: exact positions keep the base's very bits, whatever the delta holds
    return torch.where(gate.noisy[..., None], y + delta, y)


def shared_mask(mask: Tensor, shared: int) -> Tensor:
    """A mask (.., new, keys) as (.., shared * new, keys), for `shared` queries of a key head."""
    return mask.repeat(*(1,) * (mask.dim() - 2), shared, 1)


def _attend(q: Tensor, k: Tensor, v: Tensor, rows: Tensor) -> Tensor:
    """Attention (batch, heads, new, head_dim) over (batch, kv_heads, past + new, head_dim).

    The queries that share a key head are laid out as further rows of one product, so that keys
    and values are read once and never repeated; `rows` is the mask in that layout.
    """
    batch, heads, new, size = q.shape
    shared = heads // k.shape[1]
    grouped = q.reshape(batch, k.shape[1], shared * new, size)
    out: Tensor = F.scaled_dot_product_attention(grouped, k, v, attn_mask=rows)
    return out.reshape(batch, heads, new, size)
