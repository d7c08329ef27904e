"""A tiny random drafter of every kind, in the layout of the hub, for the tiny `ar (qwen3)`."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from tests.parity.family_checkpoints import (
    CHECKPOINTS,
    FFN,
    HEAD,
    LAYERS,
    MASK,
    VOCABULARY,
    WIDTH,
    Shapes,
    _attention,
    _random,
    _swiglu,
)

TARGET = CHECKPOINTS["ar (qwen3)"]
OWN_LAYERS, RANK = 2, 8
ROUNDS = ((7, 3), (8, 1), (9, 1), (14, 5), (16, 2))
"""Where a block begins in the text, and how many positions the context has gained by then."""


@dataclass(frozen=True)
class TinyDrafter:
    """A drafter; `own` scales the copies of its target's embedding and head, if it has any."""

    name: str
    config: dict[str, Any]
    own: tuple[float, float] | None = (1.0, 1.0)

    @property
    def shapes(self) -> Shapes:
        read = self.config.get("dflash_config", self.config)["target_layer_ids"]
        found: Shapes = {"norm.weight": (WIDTH,), "hidden_norm.weight": (WIDTH,)}
        found["fc.weight"] = (WIDTH, len(read) * WIDTH)
        for index in range(OWN_LAYERS):
            prefix = f"layers.{index}."
            found |= _attention(prefix, norm=True) | _swiglu(f"{prefix}mlp.")
            found[f"{prefix}input_layernorm.weight"] = (WIDTH,)
            found[f"{prefix}post_attention_layernorm.weight"] = (WIDTH,)
        if self.config.get("markov_rank"):
            found["markov_head.markov_w1.weight"] = (VOCABULARY, RANK)
            found["markov_head.markov_w2.weight"] = (VOCABULARY, RANK)
        kind = self.config.get("markov_head_type")
        if kind == "gated":
            found["markov_head.gate_proj.weight"] = (RANK, WIDTH + RANK)
            found["markov_head.gate_proj.bias"] = (RANK,)
        if kind == "rnn":
            found["markov_head.joint_proj.weight"] = (3 * RANK, 2 * RANK + WIDTH)
            found["markov_head.joint_proj.bias"] = (3 * RANK,)
        if self.config.get("enable_confidence_head"):
            more = RANK if self.config["confidence_head_with_markov"] else 0
            found["confidence_head.proj.weight"] = (1, WIDTH + more)
            found["confidence_head.proj.bias"] = (1,)
        return found

    def weights(self) -> dict[str, Tensor]:
        made = {name: _random(name + "drafter", shape) for name, shape in self.shapes.items()}
        for name in made:
            if name.startswith(("markov_head.markov_w", "fc.")):
                made[name] = made[name] * 4  # else its term would change no choice
        if self.own is not None:
            theirs = TARGET.weights()
            made["embed_tokens.weight"] = theirs["model.embed_tokens.weight"] * self.own[0]
            made["lm_head.weight"] = theirs["lm_head.weight"] * self.own[1]
        return made

    def write(
        self, folder: Path, weights: dict[str, Tensor] | None = None, **changes: Any
    ) -> Path:
        """A single file, its weights replaced, its configuration changed; None takes a key away."""
        folder.mkdir(parents=True, exist_ok=True)
        config = self.config | changes
        config = {k: v for k, v in config.items() if k not in changes or v is not None}
        (folder / "config.json").write_text(json.dumps(config))
        save_file(self.weights() if weights is None else weights, folder / "model.safetensors")
        return folder


def _config(architecture: str, **more: Any) -> dict[str, Any]:
    shape = {k: v for k, v in TARGET.config.items() if k != "auto_map"}
    return shape | {
        "architectures": [architecture], "num_hidden_layers": OWN_LAYERS, "head_dim": HEAD,
        "intermediate_size": FFN, "num_target_layers": LAYERS, "attention_bias": False,
        "attention_dropout": 0.0, "layer_types": ["full_attention"] * OWN_LAYERS,
    } | more  # fmt: skip


def _dspark(kind: str, read: list[int], **more: Any) -> dict[str, Any]:
    return _config(
        "Qwen3DSparkModel", block_size=5, mask_token_id=MASK, num_anchors=4, target_layer_ids=read,
        markov_rank=RANK, markov_head_type=kind, enable_confidence_head=True,
        confidence_head_with_markov=True,
    ) | more  # fmt: skip


_BARE = {"markov_rank": 0, "enable_confidence_head": False, "confidence_head_with_markov": False}
_DFLASH = {"block_size": 6, "dflash_config": {"mask_token_id": MASK, "target_layer_ids": [0, 1]}}
DRAFTERS = {
    tiny.name: tiny
    for tiny in (
        TinyDrafter("dflash", _config("DFlashDraftModel", **_DFLASH), None),
        TinyDrafter("dspark", _dspark("vanilla", [0, 1])),
        TinyDrafter("dspark (gated)", _dspark("gated", [-1, 1])),
        TinyDrafter("dspark (rnn)", _dspark("rnn", [1], confidence_head_with_markov=False)),
        TinyDrafter("dspark (no heads)", _dspark("vanilla", [0, 1], **_BARE), (1.2, 1.5)),
    )
}
