"""What the published checkpoints of each family call the tensors that ours are made of."""

from __future__ import annotations

from dataclasses import dataclass, replace

from blockdiff.model.config import TransformerConfig
from blockdiff.model.load.kinds import Body

TensorSources = dict[str, tuple[str, ...]]
"""For each of our tensors the published ones it is made of, one above the other."""


@dataclass(frozen=True, slots=True)
class Naming:
    """Names of one format; those inside a layer come after `layer`, and without `.weight`.

    Attributes:
        qkv: the three projections, or the one matrix of all three.
        gate_up: the two projections of SwiGLU, or the one where the feed-forward is not gated.
        router, choice_bias, expert, shared: of a mixture of experts; the first two are whole names,
            the others come before the three projections of SwiGLU.
    """

    embedding: str
    norm: str
    head: str
    layer: str
    attention_norm: str
    ffn_norm: str
    qkv: tuple[str, ...]
    o: str
    q_norm: str
    k_norm: str
    gate_up: tuple[str, ...]
    down: str
    router: str = ""
    choice_bias: str = ""
    expert: str = ""
    shared: str = ""


_LLAMA = Naming(
    embedding="model.embed_tokens",
    norm="model.norm",
    head="lm_head",
    layer="model.layers.{}.",
    attention_norm="input_layernorm",
    ffn_norm="post_attention_layernorm",
    qkv=("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    o="self_attn.o_proj",
    q_norm="self_attn.q_norm",
    k_norm="self_attn.k_norm",
    gate_up=("mlp.gate_proj", "mlp.up_proj"),
    down="mlp.down_proj",
    router="mlp.gate.weight",
    expert="mlp.experts.{}.",
)
HUB: dict[Body, Naming] = {
    Body.LLAMA: _LLAMA,
    Body.QWEN2: _LLAMA,
    Body.QWEN3: _LLAMA,
    Body.QWEN3_MOE: _LLAMA,
    Body.NEMOTRON: replace(
        _LLAMA,
        embedding="encoder.embed_tokens",
        norm="encoder.norm",
        head="diffusion_head",
        layer="encoder.layers.{}.",
    ),
    Body.STARCODER2: replace(_LLAMA, gate_up=("mlp.c_fc",), down="mlp.c_proj"),
    Body.LLADA2: replace(
        _LLAMA,
        embedding="model.word_embeddings",
        qkv=("attention.query_key_value",),
        o="attention.dense",
        q_norm="attention.query_layernorm",
        k_norm="attention.key_layernorm",
        choice_bias="mlp.gate.expert_bias",
        shared="mlp.shared_experts.",
    ),
    Body.LLADA: Naming(
        embedding="model.transformer.wte",
        norm="model.transformer.ln_f",
        head="model.transformer.ff_out",
        layer="model.transformer.blocks.{}.",
        attention_norm="attn_norm",
        ffn_norm="ff_norm",
        qkv=("q_proj", "k_proj", "v_proj"),
        o="attn_out",
        q_norm="q_norm",
        k_norm="k_norm",
        gate_up=("ff_proj", "up_proj"),
        down="ff_out",
    ),
}
GGUF = Naming(
    embedding="token_embd",
    norm="output_norm",
    head="output",
    layer="blk.{}.",
    attention_norm="attn_norm",
    ffn_norm="ffn_norm",
    qkv=("attn_q", "attn_k", "attn_v"),
    o="attn_output",
    q_norm="attn_q_norm",
    k_norm="attn_k_norm",
    gate_up=("ffn_gate", "ffn_up"),
    down="ffn_down",
)


def sources(config: TransformerConfig, naming: Naming) -> TensorSources:
    """What each tensor of a `Transformer` of this shape is made of."""
    names: TensorSources = {}

    def put(ours: str, theirs: str | tuple[str, ...], bias: bool = False) -> None:
        parts = (theirs,) if isinstance(theirs, str) else theirs
        for kind in ("weight", "bias") if bias else ("weight",):
            names[f"{ours}.{kind}"] = tuple(f"{part}.{kind}" for part in parts)

    put("embedding", naming.embedding)
    put("norm", naming.norm, config.layer_norm)
    if not config.tied_embeddings:
        put("head", naming.head)
    for index in range(config.n_layers):
        ours, theirs = f"blocks.{index}.", naming.layer.format(index)
        put(f"{ours}attention_norm", theirs + naming.attention_norm, config.layer_norm)
        put(f"{ours}ffn_norm", theirs + naming.ffn_norm, config.layer_norm)
        put(f"{ours}attention.qkv", tuple(theirs + n for n in naming.qkv), config.qkv_bias)
        put(f"{ours}attention.o", theirs + naming.o, config.o_bias)
        if config.qk_norm:
            put(f"{ours}attention.q_norm", theirs + naming.q_norm)
            put(f"{ours}attention.k_norm", theirs + naming.k_norm)
        if config.experts is not None and index >= config.experts.first_layer:
            names.update(_experts(config, naming, f"{ours}ffn.", theirs))
            continue
        inner = "ffn.gate_up" if config.gated_ffn else "ffn.up"
        put(ours + inner, tuple(theirs + n for n in naming.gate_up), config.ffn_bias)
        put(f"{ours}ffn.down", theirs + naming.down, config.ffn_bias)
    return names


def _experts(config: TransformerConfig, naming: Naming, ours: str, theirs: str) -> TensorSources:
    assert config.experts is not None
    gate, up, down = "gate_proj.weight", "up_proj.weight", "down_proj.weight"
    each = [theirs + naming.expert.format(i) for i in range(config.experts.count)]
    names: TensorSources = {
        f"{ours}router": (theirs + naming.router,),
        f"{ours}gate_up": tuple(name + part for name in each for part in (gate, up)),
        f"{ours}down": tuple(name + down for name in each),
    }
    if config.experts.sigmoid:
        names[f"{ours}choice_bias"] = (theirs + naming.choice_bias,)
    if config.experts.shared_size:
        shared = theirs + naming.shared
        names[f"{ours}shared_gate_up.weight"] = (shared + gate, shared + up)
        names[f"{ours}shared_down.weight"] = (shared + down,)
    return names

