"""What the published checkpoints of each family call things, and what shape they have."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from blockdiff.config import TransformerConfig
from blockdiff.errors import ModelCorrupt, ModelUnsupported

# model_type of config.json -> (biases on q, k, v; norm on each head of q and k)
HF_FAMILIES: dict[str, tuple[bool, bool]] = {
    "llama": (False, False),
    "qwen2": (True, False),
    "qwen3": (False, True),
}


def config_from_hf(config: Mapping[str, Any], source: str) -> TransformerConfig:
    """Shape from the `config.json` of a transformers checkpoint.

    Raises ModelUnsupported for a family, rotary scaling, activation or attention window that this
    stack does not have, ModelCorrupt for a missing key.
    """
    family = config.get("model_type", "")
    if family not in HF_FAMILIES:
        raise ModelUnsupported(
            f"{source}: model_type {family!r} is not supported",
            f"supported: {', '.join(sorted(HF_FAMILIES))}",
        )
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind != "default":
        raise ModelUnsupported(f"{source}: rotary scaling {kind!r} is not supported")
    if (activation := config.get("hidden_act", "silu")) != "silu":
        raise ModelUnsupported(f"{source}: hidden_act {activation!r} is not supported")
    if config.get("use_sliding_window"):
        raise ModelUnsupported(f"{source}: use_sliding_window is not supported")
    qkv_bias, qk_norm = HF_FAMILIES[family]
    try:
        heads = config["num_attention_heads"]
        return TransformerConfig(
            vocab_size=config["vocab_size"],
            hidden_size=config["hidden_size"],
            n_layers=config["num_hidden_layers"],
            n_heads=heads,
            n_kv_heads=config.get("num_key_value_heads") or heads,
            head_dim=config.get("head_dim") or config["hidden_size"] // heads,
            ffn_size=config["intermediate_size"],
            rope_base=rope.get("rope_theta") or config.get("rope_theta") or 10_000.0,
            norm_eps=config["rms_norm_eps"],
            qkv_bias=config.get("attention_bias", qkv_bias) or qkv_bias,
            qk_norm=qk_norm,
            tied_embeddings=config.get("tie_word_embeddings", False),
            max_positions=config.get("max_position_embeddings", 32_768),
        )
    except KeyError as error:
        raise ModelCorrupt(f"{source}: config.json lacks the key {error}") from error


def config_from_gguf(fields: Mapping[str, Any], source: str) -> TransformerConfig:
    """Shape from the metadata of a GGUF file; `vocab_size` is the number of its tokens.

    Raises ModelUnsupported and ModelCorrupt as `config_from_hf` does.
    """
    family = fields.get("general.architecture", "")
    if family not in HF_FAMILIES:
        raise ModelUnsupported(
            f"{source}: architecture {family!r} is not supported",
            f"supported: {', '.join(sorted(HF_FAMILIES))}",
        )
    qkv_bias, qk_norm = HF_FAMILIES[family]

    def get(key: str, default: Any = None) -> Any:
        value = fields.get(f"{family}.{key}", default)
        if value is None:
            raise ModelCorrupt(f"{source}: metadata lacks {family}.{key}")
        return value

    kind = get("rope.scaling.type", "none")
    if kind != "none":
        raise ModelUnsupported(f"{source}: rotary scaling {kind!r} is not supported")
    heads, width = get("attention.head_count"), get("embedding_length")
    return TransformerConfig(
        vocab_size=fields["vocab_size"],
        hidden_size=width,
        n_layers=get("block_count"),
        n_heads=heads,
        n_kv_heads=get("attention.head_count_kv", heads),
        head_dim=get("attention.key_length", width // heads),
        ffn_size=get("feed_forward_length"),
        rope_base=get("rope.freq_base", 10_000.0),
        norm_eps=get("attention.layer_norm_rms_epsilon"),
        qkv_bias=qkv_bias,
        qk_norm=qk_norm,
        tied_embeddings=fields["tied_embeddings"],
        max_positions=get("context_length"),
    )


_HF_BLOCK = {
    "attention_norm.weight": "input_layernorm.weight",
    "attention.o.weight": "self_attn.o_proj.weight",
    "ffn_norm.weight": "post_attention_layernorm.weight",
    "ffn.down.weight": "mlp.down_proj.weight",
    "attention.q_norm.weight": "self_attn.q_norm.weight",
    "attention.k_norm.weight": "self_attn.k_norm.weight",
}
_GGUF_BLOCK = {
    "attention_norm.weight": "attn_norm.weight",
    "attention.o.weight": "attn_output.weight",
    "ffn_norm.weight": "ffn_norm.weight",
    "ffn.down.weight": "ffn_down.weight",
    "attention.q_norm.weight": "attn_q_norm.weight",
    "attention.k_norm.weight": "attn_k_norm.weight",
}


def sources(config: TransformerConfig, *, gguf: bool) -> dict[str, tuple[str, ...]]:
    """For each of our tensors the published ones it is made of, concatenated along dimension 0."""
    block = _GGUF_BLOCK if gguf else _HF_BLOCK
    prefix = "blk.{}." if gguf else "model.layers.{}."
    qkv = "attn_{}.{}" if gguf else "self_attn.{}_proj.{}"
    mlp = "ffn_{}.weight" if gguf else "mlp.{}_proj.weight"
    names: dict[str, tuple[str, ...]] = {
        "embedding.weight": ("token_embd.weight" if gguf else "model.embed_tokens.weight",),
        "norm.weight": ("output_norm.weight" if gguf else "model.norm.weight",),
    }
    if not config.tied_embeddings:
        names["head.weight"] = ("output.weight" if gguf else "lm_head.weight",)
    for index in range(config.n_layers):
        ours, theirs = f"blocks.{index}.", prefix.format(index)
        for name, source in block.items():
            if config.qk_norm or "_norm.weight" not in name or "attention." not in name:
                names[ours + name] = (theirs + source,)
        kinds = ("weight", "bias") if config.qkv_bias else ("weight",)
        for kind in kinds:
            names[f"{ours}attention.qkv.{kind}"] = tuple(
                theirs + qkv.format(part, kind) for part in "qkv"
            )
        names[f"{ours}ffn.gate_up.weight"] = tuple(
            theirs + mlp.format(part) for part in ("gate", "up")
        )
    return names


def unpermute(weight: Tensor, heads: int) -> Tensor:
    """Undo the interleaved rotary order in which GGUF stores Llama's queries and keys."""
    shape = weight.shape
    paired = weight.reshape(heads, shape[0] // heads // 2, 2, *shape[1:])
    return torch.swapaxes(paired, 1, 2).reshape(shape)
