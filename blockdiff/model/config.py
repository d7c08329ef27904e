"""Shapes of a decoder stack and of what stands in or on it. What contradicts itself is an error at
construction. Nothing here imports torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from blockdiff.errors import InvalidRequest


@dataclass(frozen=True, slots=True)
class ExpertsConfig:
    """Shape of a mixture of experts in place of a feed-forward.

    Attributes:
        count: experts of a layer; `active` of them act on a token.
        size: inner width of one, in place of `ffn_size`.
        shared_size: inner width of the expert that acts on every token; 0: there is none.
        first_layer: layers below this one have a plain feed-forward.
        groups: experts are chosen from the best `active_groups` of so many equal groups, a group
            being as good as its two best experts; 1: from all of them.
        sigmoid: scores are sigmoids, to which a bias is added for choosing; else a softmax.
        normalized: the weights of the chosen ones sum to 1, before `scale`.
        capacity: experts that work for one block of `block` positions; 0: blocks do not matter.
    """

    count: int
    active: int
    size: int
    shared_size: int = 0
    first_layer: int = 0
    groups: int = 1
    active_groups: int = 1
    sigmoid: bool = False
    normalized: bool = True
    scale: float = 1.0
    capacity: int = 0
    block: int = 1

    def __post_init__(self) -> None:
        def need(ok: bool, message: str) -> None:
            if not ok:
                raise InvalidRequest(message)

        need(self.count % self.groups == 0, f"{self.count} experts in {self.groups} groups")
        groups = f"{self.active_groups} of {self.groups} groups"
        need(1 <= self.active_groups <= self.groups, groups)
        reachable = self.count // self.groups * self.active_groups
        need(1 <= self.active <= reachable, f"{self.active} of {reachable} experts")
        most = f"{self.active} of {self.capacity} of {self.count} experts"
        need(not self.capacity or self.active <= self.capacity <= self.count, most)
        need(self.groups == 1 or self.count // self.groups > 1, "groups of one expert")


@dataclass(frozen=True, slots=True)
class RopeScaling:
    """Rotary angles slowed down, for contexts longer than those of the first training.

    Attributes:
        factor: angles are divided by it (position interpolation, arXiv 2306.15595).
        trained: positions of the first training; 0: all angles are divided. Else (Llama 3) those
            that turn fewer than `low` times within them are, those that turn more than `high` times
            are not, and between the two the change is gradual.
        yarn: it is gradual by the index of an angle and not by its turns (arXiv 2309.00071).
        whole: with `yarn`, from a whole index to a whole index.
        amplitude: cosines and sines are multiplied by it.
        query_growth: queries are multiplied by 1 + this * ln(1 + floor(position / trained))
            (Llama 4, Ministral 3).
    """

    factor: float
    trained: int = 0
    low: float = 1.0
    high: float = 4.0
    yarn: bool = False
    whole: bool = True
    amplitude: float = 1.0
    query_growth: float = 0.0

    def __post_init__(self) -> None:
        if (self.yarn or self.query_growth) and not self.trained:
            raise InvalidRequest("rotary scaling that does not say what was trained")
        if self.high <= self.low:
            raise InvalidRequest(f"rotary scaling between {self.low} and {self.high} turns")


@dataclass(frozen=True, slots=True)
class TransformerConfig:
    """Shape of a decoder stack: Llama, Qwen2, Qwen3, LLaDA, mixtures of experts, StarCoder2.

    Attributes:
        n_kv_heads: heads of keys and values; `n_heads / n_kv_heads` queries share one.
        qkv_bias: biases on the query, key and value projections (Qwen2).
        qk_norm: RMSNorm over each head of queries and keys before RoPE (Qwen3).
        tied_embeddings: the output head is the embedding matrix.
        rotary_dim: leading dimensions of each head that RoPE turns; 0: all of them.
        rope_scaling: None: angles are those of the base.
        o_bias, ffn_bias: biases on the output projection of attention, on the feed-forward.
        gated_ffn: SwiGLU; else one projection and the tanh form of GELU (StarCoder2).
        layer_norm: LayerNorm with biases in place of RMSNorm (StarCoder2).
        sliding_window: a position sees so many positions, itself included, and none before; 0: all.
        experts: what takes the place of the feed-forward; None: nothing.
    """

    vocab_size: int
    hidden_size: int
    n_layers: int
    n_heads: int
    n_kv_heads: int
    head_dim: int
    ffn_size: int
    rope_base: float = 10_000.0
    norm_eps: float = 1e-6
    qkv_bias: bool = False
    qk_norm: bool = False
    tied_embeddings: bool = True
    max_positions: int = 32_768
    rotary_dim: int = 0
    rope_scaling: RopeScaling | None = None
    o_bias: bool = False
    ffn_bias: bool = False
    gated_ffn: bool = True
    layer_norm: bool = False
    sliding_window: int = 0
    experts: ExpertsConfig | None = None

    def __post_init__(self) -> None:
        if self.n_heads % self.n_kv_heads:
            raise InvalidRequest(
                f"{self.n_heads} query heads cannot share {self.n_kv_heads} key heads evenly"
            )
        if not self.rotary_dim and self.head_dim % 2:
            raise InvalidRequest(f"RoPE cannot turn an odd number of dimensions, {self.head_dim}")
        if self.rope_scaling is not None and self.rope_scaling.yarn and self.rope_base <= 1:
            raise InvalidRequest(f"YaRN with angles to the base {self.rope_base}")
        if self.rotary_dim % 2 or not 0 <= self.rotary_dim <= self.head_dim:
            raise InvalidRequest(
                f"RoPE cannot turn {self.rotary_dim} of {self.head_dim} dimensions"
            )


ADAPTER_TARGETS = ("qkv", "o", "gate_up", "down")


@dataclass(frozen=True, slots=True)
class AdapterConfig:
    """Shape of the gated adapter: low-rank weights that act at noisy positions only.

    Attributes:
        ranks: inner width of the low-rank pair of each target; 0 or absent: none.
        scale: what a pair adds is multiplied by this, whatever its rank, so that one learning
            rate suits them all.
        first_layer: blocks below this one carry no pairs.
    """

    ranks: Mapping[str, int]
    scale: float = 2.0
    first_layer: int = 0

    def __post_init__(self) -> None:
        unknown = sorted(set(self.ranks) - set(ADAPTER_TARGETS))
        if unknown:
            raise InvalidRequest(
                f"unknown adapter targets {unknown}", f"known: {', '.join(ADAPTER_TARGETS)}"
            )
