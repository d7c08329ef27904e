"""One decoder stack for every family.

Pre-norm blocks of grouped-query attention with rotary positions, and SwiGLU or a mixture of
experts. The differences between families are values of `TransformerConfig`, looked at once, when a
block is built. Query, key and value projections are one matrix, gate and up projections another:
fewer, larger products.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, Protocol, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from blockdiff.config import RopeScaling, TransformerConfig
from blockdiff.model.adapter import GatedAdapter
from blockdiff.model.cache import KeyValues
from blockdiff.model.experts import Experts
from blockdiff.model.masks import windowed


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


class Taps:
    """What chosen layers of one forward put out, for a drafter that reads it.

    Attributes:
        layers: ascending, none the last one; -1 is the embedding.
    """

    def __init__(self, layers: Sequence[int]) -> None:
        self.layers = tuple(layers)
        self._found: list[Tensor] = []

    def see(self, layer: int, x: Tensor) -> None:
        """Keep a copy of the stream behind a layer, if it is one of these."""
        if layer in self.layers:
            self._found.append(x.clone())

    def features(self) -> Tensor:
        """(batch, new, layers * hidden_size), once the forward is done."""
        return torch.cat(self._found, dim=-1)


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


def rotary_tables(config: TransformerConfig, positions: Tensor) -> tuple[Tensor, Tensor]:
    """Cosines and sines, float32, (batch or 1, 1, new, rotary dimensions), of `positions`.

    RoPE (arXiv 2104.09864) in the half-rotation form of the Llama and Qwen checkpoints.
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


class Layers(Protocol):
    """All blocks and the final norm of a model, run in another way than by torch."""

    def takes(self, caches: Sequence[KeyValues | None], gate: Gate | None) -> bool:
        """Whether it can run a forward with these."""
        ...

    def run(
        self,
        x: Tensor,
        rotary: tuple[Tensor, Tensor],
        segments: Sequence[Segment],
        gate: Gate | None,
        on_layer: Callable[[], None] | None = None,
        taps: Taps | None = None,
    ) -> Tensor:
        """(1, new, hidden_size) of embedded positions, which it may overwrite."""
        ...


class Transformer(nn.Module):
    """Embedding, blocks, final norm and head.

    Attributes:
        fused: runs the blocks of one or several sequences with caches, where it can.
    """

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(config.vocab_size, config.hidden_size)
        self.blocks = nn.ModuleList(Block(config, i) for i in range(config.n_layers))
        self.norm = stream_norm(config)
        self.head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        if config.tied_embeddings:
            self.head.weight = self.embedding.weight
        self.fused: Layers | None = None

    @property
    def dtype(self) -> torch.dtype:
        """Of activations, keys and values."""
        return self.norm.weight.dtype

    @property
    def device(self) -> torch.device:
        return self.norm.weight.device

    def hidden(
        self,
        tokens: Tensor,
        positions: Tensor,
        mask: Tensor,
        cache: KeyValues | None = None,
        gate: Gate | None = None,
        on_layer: Callable[[], None] | None = None,
        taps: Taps | None = None,
    ) -> Tensor:
        """Final hidden states, after the last norm.

        Drafts of keys and values are appended to `cache`; its committed part never changes here.

        Args:
            tokens: (batch, new) ids.
            positions: (batch or 1, new) absolute positions.
            mask: boolean, (new, past + new) or (batch, 1, new, past + new); see `masks`.
            gate: noisy positions and the adapter that acts on them; None: base weights everywhere.
            on_layer: called before each layer; what it raises ends the forward, with drafts at most
                in the cache.
            taps: sees what the layers put out.

        Returns:
            (batch, new, hidden_size)
        """
        x = self._embedded(tokens, gate)
        placed = self._placed(positions, batch=len(tokens))
        fused = self.fused if mask.dim() == 2 and placed.query is None else None
        if fused is not None and fused.takes([cache], gate):
            segment = Segment(tokens.shape[1], mask, cast(KeyValues, cache))
            return fused.run(x, placed[:2], [segment], gate, on_layer, taps)
        rows = self._rows(mask, positions)
        if taps is not None:
            taps.see(-1, x)
        for index, block in enumerate(self.blocks):
            if on_layer is not None:
                on_layer()
            x = block(x, placed, rows, cache, gate)
            if taps is not None:
                taps.see(index, x)
        normed: Tensor = self.norm(x)
        return normed

    def hidden_together(
        self,
        tokens: Tensor,
        positions: Tensor,
        segments: Sequence[Segment],
        gate: Gate | None = None,
        taps: Taps | None = None,
    ) -> Tensor:
        """As `hidden`, for several sequences laid end to end, each over its own cache.

        Args:
            tokens: (1, new) ids, those of the first segment before those of the second.
            positions: (1, new) absolute positions.
            segments: their sizes add up to `new`.
            gate: of all positions together.

        Returns:
            (1, new, hidden_size)
        """
        x = self._embedded(tokens, gate)
        sizes = [segment.size for segment in segments]
        placed = self._placed(positions, sizes)
        fused = self.fused if placed.query is None else None
        if fused is not None and fused.takes([segment.cache for segment in segments], gate):
            return fused.run(x, placed[:2], segments, gate, None, taps)
        places = torch.split(positions, sizes, dim=1)
        apart = [
            replace(segment, mask=self._rows(segment.mask, place))
            for segment, place in zip(segments, places, strict=True)
        ]
        if taps is not None:
            taps.see(-1, x)
        for index, block in enumerate(self.blocks):
            x = block(x, placed, apart, None, gate)
            if taps is not None:
                taps.see(index, x)
        normed: Tensor = self.norm(x)
        return normed

    def _placed(self, positions: Tensor, sizes: Sequence[int] = (), batch: int = 1) -> Placed:
        """Of a batch of sequences, or of one row that holds sequences of these `sizes`."""
        routed, experts = None, self.config.experts
        if experts is not None and experts.capacity:
            owner = torch.arange(len(sizes) or batch, device=positions.device)
            if sizes:
                owner = owner.repeat_interleave(torch.tensor(sizes, device=positions.device))
            owner = owner[None] if sizes else owner[:, None]
            routed = positions // experts.block + owner * self.config.max_positions
        query = query_scale(self.config, positions)
        return Placed(*rotary_tables(self.config, positions), query, routed)

    def _embedded(self, tokens: Tensor, gate: Gate | None) -> Tensor:
        x: Tensor = self.embedding(tokens)
        if gate is None:
            return x
        return torch.where(gate.masked[..., None], gate.adapter.mask_embedding.to(x.dtype), x)

    def _rows(self, mask: Tensor, positions: Tensor) -> Tensor:
        """The mask as `_attend` wants it."""
        if self.config.sliding_window:
            mask = windowed(mask, positions, self.config.sliding_window)
        return shared_mask(mask, self.config.n_heads // self.config.n_kv_heads)

    def forward(
        self,
        tokens: Tensor,
        positions: Tensor,
        mask: Tensor,
        cache: KeyValues | None = None,
        gate: Gate | None = None,
    ) -> Tensor:
        """Logits (batch, new, vocab_size) in the model's dtype; arguments as for `hidden`."""
        logits: Tensor = self.head(self.hidden(tokens, positions, mask, cache, gate))
        return logits


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
