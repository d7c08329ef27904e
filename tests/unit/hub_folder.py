"""Tiny random checkpoints in the hub's layout that can read and write text: with a tokenizer."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from tests.parity.family_checkpoints import (
    CHECKPOINTS,
    FFN,
    HEAD,
    HEADS,
    KV_HEADS,
    VOCABULARY,
    WIDTH,
    _random,
)
from tests.unit.tiny_checkpoint import tokenizer

FIM = ("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>")


def special() -> dict[str, int]:
    """Ids of the special tokens that every folder has."""
    made = tokenizer()
    names = json.loads(made._backend.to_str())["added_tokens"]
    return {entry["content"]: entry["id"] for entry in names}


def write(
    folder: Path, family: str, ffn: int = FFN, wide: bool = False, **config: Any
) -> Path:
    """A checkpoint of `family`; its mask is the tokenizer's unused id, its end <|endoftext|>.

    `ffn` is the width of its feed-forward; int8 wants a multiple of 32, 4 bits one of 256. `wide`
    makes the stream 256 wide, for families whose heads follow from it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tiny, ids = CHECKPOINTS[family], special()
    size = tokenizer().vocab_size
    ours: dict[str, Any] = {**tiny.config, "vocab_size": size, "eos_token_id": ids["<|endoftext|>"]}
    if "mask_token_id" in ours:
        ours["mask_token_id"] = ids["[PAD265]"]
    if "embedding_size" in ours:
        ours["embedding_size"] = size
    extents = {VOCABULARY: size, FFN: ffn}
    if wide:
        extents |= {WIDTH: 256, KV_HEADS * HEAD: 256 // HEADS * KV_HEADS}
        ours["hidden_size"] = 256
    for key in ("intermediate_size", "mlp_hidden_size"):
        if key in ours:
            ours[key] = ffn
    for key in ("max_position_embeddings", "max_sequence_length"):
        if key in ours:
            ours[key] = 1024
    if family == "dreamon":
        ours["expand_token_id"] = ids["<|fim_pad|>"]
    if "split_token_id" in ours:
        ours |= {"delete_token_id": ids["<|fim_pad|>"], "split_token_id": ids["<|repo_name|>"]}
    shapes = {
        name: tuple(extents.get(extent, extent) for extent in shape)
        for name, shape in tiny.shapes.items()
    }
    (folder / "config.json").write_text(json.dumps(ours | config))
    weights = {name: _random(name, shape) * 4 for name, shape in shapes.items()}
    if family == "dreamon":  # so that holes grow and shrink now and then
        weights["lm_head.weight"][[ours["expand_token_id"], ours["eos_token_id"]]] *= 3
    save_file(weights, folder / "model.safetensors")
    tokenizer().save(folder / "tokenizer.json")
    return folder


def as_parts(folder: Path) -> None:
    """Replace tokenizer.json by the files of the older kind."""
    full = folder / "tokenizer.json"
    content: Mapping[str, Any] = json.loads(full.read_text("utf-8"))
    model = content["model"]
    (folder / "vocab.json").write_text(json.dumps(model["vocab"]), "utf-8")
    merges = [m if isinstance(m, str) else " ".join(m) for m in model["merges"]]
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n", "utf-8")
    added = {str(t["id"]): {"content": t["content"]} for t in content["added_tokens"]}
    (folder / "tokenizer_config.json").write_text(json.dumps({"added_tokens_decoder": added}))
    full.unlink()
