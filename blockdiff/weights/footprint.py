"""How much memory a checkpoint takes, computed from the shape in its `config.json`.

Three parts: weights, the keys and values of the context, and what one forward works with. Nothing
here imports torch or opens a weight.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from blockdiff.errors import ModelCorrupt

CONTEXT = 2048  # tokens
_ROWS = 64  # tokens whose logits exist at the same time, in float32
_COPIES = 6  # of those of a canvas: scores, shares, entropies, and what the next step is told

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
class StackShape:
    """What the size of a decoder stack depends on.

    Attributes:
        attention: numbers in the matrices of attention, of all layers.
        keys: numbers that are kept of a token, in all layers.
        windowed: of these, those of layers that keep the last `window` tokens only.
        rows: tokens whose logits exist at the same time.
        active_attention: width of queries, keys and values of one token in one layer.
        ffn_sizes: width of the feed-forward of each layer; for a layer of experts that of all its
            experts, shared ones included.
        ffn_matrices: 3 with a gate, 2 without.
        active_ffn: the widest feed-forward that one token goes through.
        vectors: numbers that are no part of a matrix: norms and biases.
        shares_ends: embedding and head are those of another model that is there.
    """

    vocab_size: int
    hidden_size: int
    attention: int
    keys: int
    active_attention: int
    ffn_sizes: tuple[int, ...]
    ffn_matrices: int
    active_ffn: int
    router: int
    vectors: int
    tied: bool
    windowed: int = 0
    window: int = 0
    rows: int = _ROWS
    shares_ends: bool = False

    @property
    def dtypes(self) -> tuple[str, ...]:
        """Those that it runs in: 8 and 4 bits do not cover mixtures of experts, 4 no drafters."""
        if self.shares_ends:
            return ("int8", "bfloat16")
        return ("bfloat16",) if self.router else DTYPES

    @property
    def matrices(self) -> int:
        """Numbers in all matrices."""
        ffn = self.ffn_matrices * self.hidden_size * sum(self.ffn_sizes)
        return self.attention + ffn + self.router + self.ends

    @property
    def ends(self) -> int:
        """Numbers of embedding and head."""
        if self.shares_ends:
            return 0
        return self.vocab_size * self.hidden_size * (1 if self.tied else 2)

    @property
    def parameters(self) -> int:
        return self.matrices + self.vectors

    def footprint(self, dtype: str, context: int = CONTEXT) -> Footprint:
        """Bytes with weights in `dtype`, one of `dtypes`, and `context` tokens."""
        layer, end, other = _SIZES[dtype]
        weights = (self.matrices - self.ends) * layer + self.ends * end + self.vectors * other
        keys = (self.keys - self.windowed) * context + self.windowed * min(context, self.window)
        width = 2 * self.hidden_size + self.ffn_matrices * self.active_ffn + self.active_attention
        return Footprint(
            round(weights),
            round(keys * other),
            round(context * width * other + self.rows * self.vocab_size * 4),
        )


def shape_of(config: Mapping[str, Any], source: str) -> StackShape:
    """From a `config.json` of any supported family. Raises ModelCorrupt where a number is missing.

    LLaDA names the same numbers otherwise than the transformers library does.
    """
    if config.get("model_type") == "diffusion_gemma":
        canvas = config.get("canvas_length")
        return _diffusion_gemma(
            config.get("text_config"), canvas if isinstance(canvas, int) else 256, source
        )
    need = _Numbers(config, source)
    hidden, layers = need("hidden_size", "d_model"), need("num_hidden_layers", "n_layers")
    if layers > 1000:
        raise ModelCorrupt(f"{source}: config.json: {layers} layers are not plausible")
    heads = need("num_attention_heads", "n_heads")
    kv_heads = need.optional(heads, "num_key_value_heads", "n_kv_heads")
    head_dim = need.optional(hidden // heads, "head_dim")
    experts = need.optional(0, "num_experts")
    if experts:
        expert = need("moe_intermediate_size")
        shared = need.optional(0, "num_shared_experts") * expert
        dense = need.optional(0, "first_k_dense_replace")
        wide = need("intermediate_size") if dense else 0
        ffn_sizes = (wide,) * dense + (experts * expert + shared,) * (layers - dense)
        active = max(wide, need.optional(1, "num_experts_per_tok") * expert + shared)
    else:
        active = need("intermediate_size", "mlp_hidden_size")
        ffn_sizes, dense = (active,) * layers, layers
    gate = config.get("model_type") != "starcoder2"
    biased = config.get("attention_bias") or config.get("use_bias") or config.get("qkv_bias")
    vectors = hidden * (2 * layers + 1)
    if biased or config.get("model_type") in _BIASED:
        vectors += layers * (heads + 2 * kv_heads) * head_dim
    return StackShape(
        vocab_size=need("embedding_size", "vocab_size"),
        hidden_size=hidden,
        attention=layers * hidden * head_dim * (2 * heads + 2 * kv_heads),
        keys=2 * layers * kv_heads * head_dim,
        active_attention=(heads + 2 * kv_heads) * head_dim,
        ffn_sizes=ffn_sizes,
        ffn_matrices=3 if gate else 2,
        active_ffn=active,
        router=(layers - dense) * hidden * experts,
        vectors=vectors,
        tied=bool(config.get("tie_word_embeddings", config.get("weight_tying", False))),
    )


def drafter_shape(config: Mapping[str, Any], source: str) -> StackShape:
    """Of a drafter, beside its target. Raises ModelCorrupt as `shape_of`."""
    shape, need = shape_of(config, source), _Numbers(config, source)
    inner = config.get("dflash_config")
    inner = {**config, **inner} if isinstance(inner, Mapping) else config
    named = inner.get("target_layer_ids")  # else as many as it has of its own
    read = len(named) if isinstance(named, list) else need("num_hidden_layers")
    fusion = read * shape.hidden_size**2
    markov = 2 * need("vocab_size") * need.optional(0, "markov_rank")
    return replace(shape, attention=shape.attention + fusion + markov, shares_ends=True)


class _Numbers:
    """The numbers of a configuration, by any of their names."""

    def __init__(self, config: Mapping[str, Any], source: str) -> None:
        self._config, self._source = config, source

    def __call__(self, *names: str) -> int:
        for name in names:
            value = self._config.get(name)
            if type(value) is int and 0 < value < 1 << 31:
                return value
        raise ModelCorrupt(
            f"{self._source}: config.json: {names[0]} is missing or no plausible number"
        )

    def optional(self, default: int, *names: str) -> int:
        """`default` where none of them is given, or is null or 0."""
        given = [name for name in names if self._config.get(name)]
        return self(*given) if given else default


def _diffusion_gemma(config: object, canvas: int, source: str) -> StackShape:
    """Of the text alone: what reads images is not kept. Every layer has a dense part and experts.

    Every sixth layer sees everything, with heads of its own and keys that are the values, too.
    """
    if not isinstance(config, Mapping):
        raise ModelCorrupt(f"{source}: config.json: text_config is missing")
    need = _Numbers(config, source)
    hidden, layers = need("hidden_size"), need("num_hidden_layers")
    heads = need("num_attention_heads")
    kinds = config.get("layer_types") or [i % 6 == 5 for i in range(layers)]
    if layers > 1000 or not isinstance(kinds, list) or len(kinds) != layers:
        raise ModelCorrupt(f"{source}: config.json: {layers} layers are not plausible")
    seeing = sum(kind in ("full_attention", True) for kind in kinds)
    narrow, own = need("num_key_value_heads") * need("head_dim"), _Numbers(_of_full(config), source)
    wide_head, wide = own("head_dim"), own("num_key_value_heads") * own("head_dim")
    experts, expert = need("num_experts"), need("moe_intermediate_size")
    dense = need("intermediate_size")
    windowed, queries = layers - seeing, heads * need("head_dim")
    norms = 7 * hidden * layers + 2 * (windowed * need("head_dim") + seeing * wide_head)
    return StackShape(
        vocab_size=need("vocab_size"),
        hidden_size=hidden,
        attention=hidden
        * (windowed * 2 * (queries + narrow) + seeing * (2 * heads * wide_head + wide)),
        keys=2 * (windowed * narrow + seeing * wide),
        active_attention=max(queries + 2 * narrow, heads * wide_head + 2 * wide),
        # the last: what the step before says of the canvas goes through a part of its own
        ffn_sizes=(*(dense + experts * expert,) * layers, dense),
        ffn_matrices=3,
        active_ffn=dense + need("top_k_experts") * expert,
        router=layers * hidden * experts,
        vectors=norms + layers * (hidden + experts) + 2 * hidden,
        tied=True,
        windowed=2 * windowed * narrow,
        window=need("sliding_window"),
        rows=_COPIES * canvas,
    )


def _of_full(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """Head size and key heads of the layers that see everything: one place or another has them."""
    for each in (config.get("per_layer_config") or {}).values():
        return {**config, **each}
    heads = config.get("num_global_key_value_heads") or config.get("num_key_value_heads")
    size = config.get("global_head_dim") or 512
    return {"head_dim": size, "num_key_value_heads": heads}


_BIASED = {"qwen2", "Dream", "Fast_dLLM_Qwen", "a2d-qwen2"}  # on q, k and v, without saying so
