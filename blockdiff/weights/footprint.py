"""How much memory a checkpoint takes, computed from the shape in its `config.json`.

Three parts: weights, the keys and values of the context, and what one forward works with. Nothing
here imports torch or opens a weight.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from blockdiff.errors import ModelCorrupt

CONTEXT = 2048  # tokens
_ROWS = 64  # whose logits exist at the same time, in float32

# Bytes of a number of a layer's matrix, of one of embedding or head, and of any other (activations,
# keys, norms), as `blockdiff models convert` writes them and the engine holds them.
_SIZES = {
    "int4": (0.578125, 1.125, 4.0),  # 4 bits, and scales and least values for every 32
    "int8": (1.125, 1.125, 4.0),  # 8 bits, and scales for every 32
    "bfloat16": (2.0, 2.0, 2.0),
}
DTYPES = tuple(_SIZES)


@dataclass(frozen=True, slots=True)
class Footprint:
    """Bytes at a context length."""

    weights: int
    keys_values: int
    working: int

    @property
    def total(self) -> int:
        return self.weights + self.keys_values + self.working


@dataclass(frozen=True, slots=True)
class Shape:
    """What the size of a decoder stack depends on.

    Attributes:
        ffn_sizes: width of the feed-forward of each layer; for a layer of experts that of all its
            experts, shared ones included.
        ffn_matrices: 3 with a gate, 2 without.
        active_ffn: the widest feed-forward that one token goes through.
        vectors: numbers that are no part of a matrix: norms and biases.
    """

    vocab_size: int
    hidden_size: int
    n_heads: int
    n_kv_heads: int
    head_dim: int
    ffn_sizes: tuple[int, ...]
    ffn_matrices: int
    active_ffn: int
    router: int
    vectors: int
    tied: bool

    @property
    def matrices(self) -> int:
        """Numbers in all matrices."""
        heads = 2 * self.n_heads + 2 * self.n_kv_heads
        attention = len(self.ffn_sizes) * self.hidden_size * self.head_dim * heads
        ffn = self.ffn_matrices * self.hidden_size * sum(self.ffn_sizes)
        return attention + ffn + self.router + self.ends

    @property
    def ends(self) -> int:
        """Numbers of embedding and head."""
        return self.vocab_size * self.hidden_size * (1 if self.tied else 2)

    @property
    def parameters(self) -> int:
        return self.matrices + self.vectors

    def footprint(self, dtype: str, context: int = CONTEXT) -> Footprint:
        """Bytes with weights in `dtype`, one of `DTYPES`, and `context` tokens."""
        layer, end, other = _SIZES[dtype]
        weights = (self.matrices - self.ends) * layer + self.ends * end + self.vectors * other
        keys = 2 * len(self.ffn_sizes) * self.n_kv_heads * self.head_dim * context
        width = 2 * self.hidden_size + self.ffn_matrices * self.active_ffn
        width += (self.n_heads + 2 * self.n_kv_heads) * self.head_dim
        return Footprint(
            round(weights),
            round(keys * other),
            round(context * width * other + _ROWS * self.vocab_size * 4),
        )


def shape_of(config: Mapping[str, Any], source: str) -> Shape:
    """From a `config.json` of any supported family. Raises ModelCorrupt where a number is missing.

    LLaDA names the same numbers otherwise than the transformers library does.
    """

    def need(*names: str) -> int:
        for name in names:
            value = config.get(name)
            if isinstance(value, int) and 0 < value < 1 << 31:
                return value
        raise ModelCorrupt(f"{source}: config.json: {names[0]} is missing or no plausible number")

    hidden, layers = need("hidden_size", "d_model"), need("num_hidden_layers", "n_layers")
    if layers > 1000:
        raise ModelCorrupt(f"{source}: config.json: {layers} layers are not plausible")
    heads = need("num_attention_heads", "n_heads")
    kv_heads = config.get("num_key_value_heads") or config.get("n_kv_heads") or heads
    head_dim = config.get("head_dim") or hidden // heads
    experts = config.get("num_experts") or 0
    if experts:
        expert = need("moe_intermediate_size")
        shared = (config.get("num_shared_experts") or 0) * expert
        dense = config.get("first_k_dense_replace") or 0
        wide = need("intermediate_size") if dense else 0
        ffn_sizes = (wide,) * dense + (experts * expert + shared,) * (layers - dense)
        active = max(wide, (config.get("num_experts_per_tok") or 1) * expert + shared)
    else:
        active = need("intermediate_size", "mlp_hidden_size")
        ffn_sizes, dense = (active,) * layers, layers
    gate = config.get("model_type") != "starcoder2"
    biased = config.get("attention_bias") or config.get("use_bias") or config.get("qkv_bias")
    vectors = hidden * (2 * layers + 1)
    if biased or config.get("model_type") in _BIASED:
        vectors += layers * (heads + 2 * kv_heads) * head_dim
    return Shape(
        vocab_size=need("embedding_size", "vocab_size"),
        hidden_size=hidden,
        n_heads=heads,
        n_kv_heads=kv_heads,
        head_dim=head_dim,
        ffn_sizes=ffn_sizes,
        ffn_matrices=3 if gate else 2,
        active_ffn=active,
        router=(layers - dense) * hidden * experts,
        vectors=vectors,
        tied=bool(config.get("tie_word_embeddings", config.get("weight_tying", False))),
    )


_BIASED = {"qwen2", "Dream", "Fast_dLLM_Qwen", "a2d-qwen2"}  # on q, k and v, without saying so
