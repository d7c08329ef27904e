"""A whole GGUF file of some 60 kB: weights, tokenizer and all, with anything in it changed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from gguf import GGMLQuantizationType as Kind
from gguf import GGUFValueType, GGUFWriter
from gguf.quants import quantize

from blockdiff.model.config import TransformerConfig
from blockdiff.model.load.tokenizer import _byte_alphabet
from tests.unit import tiny

SPECIAL = ["<|endoftext|>", "<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>", "[PAD261]"]
TOKENS = [*_byte_alphabet(), "ab", *SPECIAL]
SHAPE: TransformerConfig = tiny.config(
    vocab_size=len(TOKENS), hidden_size=32, n_layers=2, n_heads=2, n_kv_heads=1, head_dim=16,
    ffn_size=32, qkv_bias=True,
)  # fmt: skip
KEYS: dict[str, Any] = {
    "qwen2.block_count": 2, "qwen2.context_length": 256, "qwen2.embedding_length": 32,
    "qwen2.feed_forward_length": 32, "qwen2.attention.head_count": 2,
    "qwen2.attention.head_count_kv": 1, "qwen2.attention.layer_norm_rms_epsilon": 1e-6,
    "qwen2.rope.freq_base": 10_000.0, "tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": "qwen2",
    "tokenizer.ggml.tokens": TOKENS, "tokenizer.ggml.merges": ["a b"],
    "tokenizer.ggml.token_type": [1] * 257 + [3] * 4 + [5],
    "tokenizer.ggml.eos_token_id": 257,
}  # fmt: skip
Changes = Mapping[str, Any]
_NONE: Changes = MappingProxyType({})


def weights(seed: int = 0) -> dict[str, np.ndarray[Any, Any]]:
    from tests.unit.test_checkpoint import published

    return published(tiny.transformer(SHAPE, seed), "qwen2")


def write(
    path: Path,
    keys: Changes = _NONE,
    tensors: Changes = _NONE,
    *,
    kinds: Mapping[str, Kind] = _NONE,
    per_part: int = 0,
    unsigned: bool = False,
) -> Path:
    """`keys` and `tensors` take the place of those of the model; None: left out. llama.cpp takes
    only numbers that are `unsigned`.

    With `per_part` tensors in a file there are several, of which the first is returned.
    """
    writer = GGUFWriter(path, "qwen2", split_max_tensors=per_part)
    for key, value in (KEYS | dict(keys)).items():
        if value is not None:
            kind = GGUFValueType.get_type(value)
            if kind is GGUFValueType.INT32 and not -(1 << 31) <= value < 1 << 31:
                kind = GGUFValueType.INT64
            if kind is GGUFValueType.INT32 and unsigned:
                kind = GGUFValueType.UINT32
            writer.kv_data[0].pop(key, None)
            writer.add_key_value(key, value, kind)
    for name, tensor in (weights() | dict(tensors)).items():
        if tensor is not None:
            kind = kinds.get(name, Kind.F32)
            raw = tensor if tensor.dtype == np.uint8 else quantize(tensor, kind)
            writer.add_tensor(name, raw, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path if not per_part else sorted(path.parent.glob(f"{path.stem}-*-of-*.gguf"))[0]
