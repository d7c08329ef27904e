"""What shape a GGUF file says that its model has, and the order of its queries and keys."""

from __future__ import annotations

from collections.abc import Mapping
from reprlib import repr  # a value may be a list of millions
from typing import Any

import torch
from torch import Tensor

from blockdiff.errors import InvalidRequest, ModelCorrupt, ModelUnsupported
from blockdiff.model.config import TransformerConfig
from blockdiff.model.load.kinds import MOST_TOKENS
from blockdiff.model.load.stack_config import (
    MOST_BASE,
    MOST_EPS,
    MOST_LAYERS,
    MOST_POSITIONS,
    MOST_SIZE,
    CheckedKeys,
)

# general.architecture of a GGUF file -> (biases on q, k, v; norm on each head of q and k)
GGUF_ARCHITECTURES: dict[str, tuple[bool, bool]] = {
    "llama": (False, False),
    "qwen2": (True, False),
    "qwen3": (False, True),
}


def config_from_gguf(fields: Mapping[str, Any], source: str) -> TransformerConfig:
    """Shape from the metadata of a GGUF file; `vocab_size` is the rows of its embedding.

    Raises ModelUnsupported and ModelCorrupt as `config_from_hf` does.
    """
    keys = CheckedKeys(fields, f"{source}: metadata")
    arch = fields.get("general.architecture")
    if not isinstance(arch, str):
        raise ModelCorrupt(f"{keys.where}: general.architecture is {repr(arch)}, not a name")
    if arch not in GGUF_ARCHITECTURES:
        raise ModelUnsupported(
            f"{source}: architecture {repr(arch)} is not supported",
            f"supported: {', '.join(sorted(GGUF_ARCHITECTURES))}",
        )
    qkv_bias, qk_norm = GGUF_ARCHITECTURES[arch]
    layers = keys.size(f"{arch}.block_count", most=MOST_LAYERS)

    def size(name: str, default: int | None = None, most: int = MOST_SIZE) -> int:
        """A count, which may be given for each layer where it is the same for all."""
        key = f"{arch}.{name}"
        each = fields.get(key)
        if not isinstance(each, list):
            return keys.size(key, default, most)
        if len(each) != layers or any(value != each[0] for value in each):
            raise ModelUnsupported(f"{keys.where}: {key} is not the same for all layers")
        return CheckedKeys({key: each[0]}, keys.where).size(key, most=most)

    keys.expect(f"{arch}.rope.scaling.type", "none")
    keys.expect(f"{arch}.rope.scale_linear", 1.0)
    if f"{arch}.rope.scaling.type" not in fields:  # llama.cpp takes a factor alone for linear
        keys.expect(f"{arch}.rope.scaling.factor", 0.0, 1.0)
    keys.expect(f"{arch}.attention.causal", True)
    heads, width = size("attention.head_count"), size("embedding_length")
    head_dim = size("attention.key_length", max(width // heads, 1))
    if f"{arch}.attention.key_length" not in fields and width % heads:
        raise ModelCorrupt(
            f"{keys.where}: {arch}.embedding_length is {width}, which"
            f" {arch}.attention.head_count {heads} does not divide"
        )
    for name in ("attention.value_length", "rope.dimension_count"):
        if size(name, head_dim) != head_dim:
            raise ModelUnsupported(f"{keys.where}: {arch}.{name} is not {head_dim}, as of heads")
    try:
        return TransformerConfig(
            vocab_size=keys.size("vocab_size", most=MOST_TOKENS),
            hidden_size=width,
            n_layers=layers,
            n_heads=heads,
            n_kv_heads=size("attention.head_count_kv", heads),
            head_dim=head_dim,
            ffn_size=size("feed_forward_length"),
            rope_base=keys.number(f"{arch}.rope.freq_base", 10_000.0, MOST_BASE),
            norm_eps=keys.number(f"{arch}.attention.layer_norm_rms_epsilon", None, MOST_EPS),
            qkv_bias=qkv_bias,
            qk_norm=qk_norm,
            tied_embeddings=fields["tied_embeddings"],
            max_positions=size("context_length", most=MOST_POSITIONS),
        )
    except InvalidRequest as error:
        raise ModelCorrupt(
            f"{keys.where}: {arch}.attention.head_count: {error.message}"
        ) from error


def unpermute(weight: Tensor, heads: int) -> Tensor:
    """Undo the interleaved rotary order in which GGUF stores Llama's queries and keys."""
    shape = weight.shape
    paired = weight.reshape(heads, shape[0] // heads // 2, 2, *shape[1:])
    return torch.swapaxes(paired, 1, 2).reshape(shape)
