"""A tiny random DiffusionGemma in the hub's layout, written by transformers' own classes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from transformers import (
    DiffusionGemmaConfig,
    DiffusionGemmaForBlockDiffusion,
    DiffusionGemmaTextConfig,
    Gemma4VisionConfig,
    GemmaTokenizer,
)

TURN, TURN_END = "<|turn>", "<turn|>"
_MERGES = [
    ("▁", "▁"), ("▁▁", "▁▁"), ("\n", "\n"), ("\n\n", "\n"), ("r", "e"), ("re", "t"), ("d", "e"),
    ("de", "f"), ("▁", "re"), ("p", "r"), ("i", "n"), ("pr", "in"), ("prin", "t"),
]  # fmt: skip


def tokenizer() -> GemmaTokenizer:
    """Gemma's pipeline over ASCII, a few merged words, and bytes for all else."""
    tokens = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>"]
    tokens += [f"<0x{byte:02X}>" for byte in range(256)]
    tokens += ["▁", "\n", "\t", *map(chr, range(0x21, 0x7F))]
    tokens += [left + right for left, right in _MERGES]
    made = GemmaTokenizer(vocab={t: i for i, t in enumerate(tokens)}, merges=_MERGES)
    made.add_special_tokens({"additional_special_tokens": [TURN, TURN_END]})
    return made


def write(folder: Path, *, canvas: int = 24, **changes: Any) -> Path:
    """Random weights of every kind of layer that the published checkpoint has; `changes` are keys
    of its text configuration."""
    words = tokenizer()
    ends = [words.convert_tokens_to_ids(name) for name in ("<eos>", TURN_END)]
    values: dict[str, Any] = {
        "vocab_size": len(words), "hidden_size": 32, "intermediate_size": 48,
        "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8,
        "global_head_dim": 16, "num_global_key_value_heads": 1, "sliding_window": 8,
        "num_experts": 4, "top_k_experts": 2, "moe_intermediate_size": 16,
        "layer_types": ["sliding_attention", "sliding_attention", "full_attention"],
        "max_position_embeddings": 1024, "initializer_range": 0.2,
    }  # fmt: skip
    vision = Gemma4VisionConfig(
        hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=2, head_dim=8, global_head_dim=8,
    )  # fmt: skip
    config = DiffusionGemmaConfig(
        text_config=DiffusionGemmaTextConfig(**(values | changes)), vision_config=vision,
        canvas_length=canvas,
    )  # fmt: skip
    torch.manual_seed(0)
    model = DiffusionGemmaForBlockDiffusion(config)
    with torch.no_grad():
        model.model.decoder.norm.weight.mul_(20.0)  # so that it is sure of some tokens
    model.save_pretrained(folder)
    words.save_pretrained(folder)
    settings = {
        "eos_token_id": ends, "max_denoising_steps": 6, "t_min": 0.4, "t_max": 0.8,
        "sampler_config": {"_cls_name": "EntropyBoundSamplerConfig", "entropy_bound": 2.0},
    }  # fmt: skip
    (folder / "generation_config.json").write_text(json.dumps(settings))
    return folder
