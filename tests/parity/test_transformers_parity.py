"""The transformer is the one of `transformers`, for every family and shape it claims to cover."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from blockdiff.errors import ModelCorrupt, ModelNotFound, ModelUnsupported
from blockdiff.model import masks
from blockdiff.model.cache import BlockCache
from blockdiff.model.load.from_folder import load_transformer
from blockdiff.model.transformer import Transformer

TOLERANCE = 1e-5
LENGTH = 24
FAMILIES = {
    "llama": (LlamaConfig, LlamaForCausalLM),
    "qwen2": (Qwen2Config, Qwen2ForCausalLM),
    "qwen3": (Qwen3Config, Qwen3ForCausalLM),
}
CASES = [
    # family, query heads, key heads, head width, tied
    ("llama", 4, 4, None, False),
    ("llama", 4, 2, None, True),
    ("llama", 4, 1, 12, False),
    ("qwen2", 4, 4, None, False),
    ("qwen2", 6, 2, None, True),
    ("qwen2", 4, 1, None, True),
    ("qwen3", 4, 4, 8, False),
    ("qwen3", 4, 2, 20, True),
    ("qwen3", 6, 1, 6, False),
]


def reference(
    family: str, heads: int, kv_heads: int, head_dim: int | None, tied: bool, **more: Any
) -> PreTrainedModel:
    """A tiny model of `transformers`, every weight random: norms and biases too."""
    config_type, model_type = FAMILIES[family]
    shape: dict[str, Any] = dict(
        vocab_size=96, hidden_size=8 * heads, intermediate_size=52, num_hidden_layers=3,
        num_attention_heads=heads, num_key_value_heads=kv_heads, max_position_embeddings=128,
        tie_word_embeddings=tied, rms_norm_eps=1e-5, attn_implementation="eager",
        rope_parameters={"rope_type": "default", "rope_theta": 5e4},
    )  # fmt: skip
    if head_dim is not None:
        shape["head_dim"] = head_dim
    torch.manual_seed(heads * 100 + kv_heads)
    model = model_type(config_type(**(shape | more)))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name:
                parameter.uniform_(0.5, 1.5)
            else:
                parameter.normal_(std=0.15)
    return model.eval()


def saved(model: PreTrainedModel, folder: Path) -> Path:
    model.save_pretrained(folder)
    return folder


@torch.no_grad()
def block_by_block(model: Transformer, tokens: torch.Tensor, sizes: list[int]) -> torch.Tensor:
    """Logits of a causal pass that commits `sizes` tokens at a time."""
    cache, parts = BlockCache(model.config, capacity=4), []
    for size in sizes:
        start = cache.length
        positions = torch.arange(start, start + size)[None]
        mask = masks.causal(start, size)
        parts.append(model(tokens[:, start : start + size], positions, mask, cache))
        cache.commit(size)
    return torch.cat(parts, dim=1)


@pytest.mark.parametrize(("family", "heads", "kv_heads", "head_dim", "tied"), CASES)
def test_logits_are_those_of_transformers(
    family: str, heads: int, kv_heads: int, head_dim: int | None, tied: bool, tmp_path: Path
) -> None:
    theirs = reference(family, heads, kv_heads, head_dim, tied)
    ours = load_transformer(saved(theirs, tmp_path), dtype=torch.float32)
    assert ours.config.tied_embeddings == tied
    assert ours.config.qkv_bias == (family == "qwen2")
    assert ours.config.qk_norm == (family == "qwen3")
    tokens = torch.randint(0, 96, (1, LENGTH), generator=torch.Generator().manual_seed(heads))
    with torch.no_grad():
        expected = theirs(tokens).logits
        positions, mask = torch.arange(LENGTH)[None], masks.causal(0, LENGTH)
        whole = ours(tokens, positions, mask)
    assert expected.std() > 0.1, "logits too alike to compare"
    assert (whole - expected).abs().max() <= TOLERANCE
    for sizes in ([1] * LENGTH, [5, 1, 8, 3, 7], [LENGTH - 1, 1]):
        assert (block_by_block(ours, tokens, sizes) - expected).abs().max() <= TOLERANCE


@pytest.mark.parametrize(
    ("family", "biases"),
    [
        ("llama", {"attention_bias": True}),
        ("llama", {"mlp_bias": True}),
        ("llama", {"attention_bias": True, "mlp_bias": True}),
        ("qwen3", {"attention_bias": True}),
    ],
)
def test_biases_are_those_of_transformers(
    family: str, biases: dict[str, bool], tmp_path: Path
) -> None:
    theirs = reference(family, 4, 2, None, False, **biases)
    ours = load_transformer(saved(theirs, tmp_path), dtype=torch.float32)
    tokens = torch.arange(LENGTH)[None]
    with torch.no_grad():
        logits = ours(tokens, torch.arange(LENGTH)[None], masks.causal(0, LENGTH))
        assert (logits - theirs(tokens).logits).abs().max() <= TOLERANCE


@pytest.mark.parametrize("head_dim", [None, 32])
@pytest.mark.parametrize(
    "scaling",
    [
        {"rope_type": "linear", "factor": 4.0},
        {
            "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
            "original_max_position_embeddings": 64,
        },
        {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16},
        {
            "rope_type": "yarn", "factor": 8.0, "original_max_position_embeddings": 64,
            "beta_fast": 8.0, "beta_slow": 0.5, "truncate": False, "attention_factor": 1.1,
        },
    ],
)  # fmt: skip
def test_scaled_rotary_angles_are_those_of_transformers(
    scaling: dict[str, Any], head_dim: int | None, tmp_path: Path
) -> None:
    rope = {"rope_theta": 5e4, **scaling}
    theirs = reference("llama", 4, 2, head_dim, False, rope_parameters=rope)
    folder = saved(theirs, tmp_path)
    ours = load_transformer(folder, dtype=torch.float32)
    tokens = torch.arange(LENGTH)[None]
    with torch.no_grad():
        logits = ours(tokens, torch.arange(LENGTH)[None], masks.causal(0, LENGTH))
        assert (logits - theirs(tokens).logits).abs().max() <= TOLERANCE
    # and as checkpoints wrote it before transformers 5: beside rope_theta, under `type`
    config = json.loads((folder / "config.json").read_text())
    del config["rope_parameters"]
    old = {"type" if key == "rope_type" else key: value for key, value in scaling.items()}
    config |= {"rope_scaling": old, "rope_theta": 5e4}
    (folder / "config.json").write_text(json.dumps(config))
    assert load_transformer(folder, dtype=torch.float32).config == ours.config


def test_rope_scaling_beside_rope_parameters_wins_as_in_transformers(tmp_path: Path) -> None:
    theirs = reference("llama", 4, 2, None, False)
    folder = saved(theirs, tmp_path)
    config = json.loads((folder / "config.json").read_text())
    config["rope_scaling"] = {"rope_type": "linear", "factor": 4.0}
    (folder / "config.json").write_text(json.dumps(config))
    theirs = LlamaForCausalLM.from_pretrained(folder).eval()
    tokens = torch.arange(LENGTH)[None]
    ours = load_transformer(folder, dtype=torch.float32)
    assert ours.config.rope_base == 1e4  # that of the other object is not taken over
    with torch.no_grad():
        logits = ours(tokens, torch.arange(LENGTH)[None], masks.causal(0, LENGTH))
        assert (logits - theirs(tokens).logits).abs().max() <= TOLERANCE


@pytest.mark.parametrize("held", ["both", "another head", "the embedding", "the head"])
def test_a_tied_folder_is_read_as_transformers_reads_it(held: str, tmp_path: Path) -> None:
    folder = saved(reference("llama", 4, 2, None, False), tmp_path)
    config = json.loads((folder / "config.json").read_text()) | {"tie_word_embeddings": True}
    (folder / "config.json").write_text(json.dumps(config))
    weights = load_file(folder / "model.safetensors")
    if held == "both":
        weights["lm_head.weight"] = weights["model.embed_tokens.weight"].clone()
    elif held == "the embedding":
        del weights["lm_head.weight"]
    elif held == "the head":
        del weights["model.embed_tokens.weight"]
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    theirs = LlamaForCausalLM.from_pretrained(folder).eval()
    ours, tokens = load_transformer(folder, dtype=torch.float32), torch.arange(LENGTH)[None]
    with torch.no_grad():
        logits = ours(tokens, torch.arange(LENGTH)[None], masks.causal(0, LENGTH))
        assert (logits - theirs(tokens).logits).abs().max() <= TOLERANCE


def test_a_batch_is_its_rows(tmp_path: Path) -> None:
    theirs = reference("qwen2", 4, 2, None, True)
    ours = load_transformer(saved(theirs, tmp_path), dtype=torch.float32)
    tokens = torch.randint(0, 96, (3, LENGTH), generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        logits = ours(tokens, torch.arange(LENGTH)[None], masks.causal(0, LENGTH))
        assert (logits - theirs(tokens).logits).abs().max() <= TOLERANCE


def test_a_checkpoint_in_shards_is_one_checkpoint(tmp_path: Path) -> None:
    theirs = reference("llama", 4, 2, None, False)
    theirs.save_pretrained(tmp_path, max_shard_size="20KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 2
    ours = load_transformer(tmp_path, dtype=torch.float32)
    tokens = torch.arange(LENGTH)[None]
    with torch.no_grad():
        logits = ours(tokens, torch.arange(LENGTH)[None], masks.causal(0, LENGTH))
        assert (logits - theirs(tokens).logits).abs().max() <= TOLERANCE


@pytest.mark.parametrize(
    ("family", "changes", "complaint"),
    [
        ("llama", {"hidden_act": "gelu"}, "gelu"),
        ("qwen2", {"use_sliding_window": True, "max_window_layers": 0}, "use_sliding_window"),
        (
            "llama",
            {"rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}},
            "dynamic",
        ),
    ],
)
def test_a_shape_we_do_not_have_is_refused_and_not_half_read(
    family: str, changes: dict[str, Any], complaint: str, tmp_path: Path
) -> None:
    folder = saved(reference(family, 4, 2, None, False, **changes), tmp_path)
    with pytest.raises(ModelUnsupported, match=complaint):
        load_transformer(folder, dtype=torch.float32)


def test_an_unknown_family_is_refused_by_its_name(tmp_path: Path) -> None:
    folder = saved(reference("llama", 4, 2, None, False), tmp_path)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "mamba"}))
    with pytest.raises(ModelUnsupported, match="mamba"):
        load_transformer(folder, dtype=torch.float32)


@pytest.mark.parametrize("key", ["hidden_size", "num_attention_heads", "rms_norm_eps"])
def test_a_missing_key_of_the_config_is_named(key: str, tmp_path: Path) -> None:
    folder = saved(reference("llama", 4, 2, None, False), tmp_path)
    config = json.loads((folder / "config.json").read_text())
    del config[key]
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelCorrupt, match=key) as caught:
        load_transformer(folder, dtype=torch.float32)
    assert str(folder) in caught.value.message


def test_pickled_weights_are_never_opened(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "pytorch_model.bin").write_bytes(b"cos\nsystem\n(S'exit 1'\ntR.")
    with pytest.raises(ModelUnsupported, match="pickled"):
        load_transformer(tmp_path, dtype=torch.float32)


@pytest.mark.parametrize("content", ["nothing", "config only"])
def test_a_folder_without_weights_is_no_model(content: str, tmp_path: Path) -> None:
    if content == "config only":
        (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ModelNotFound):
        load_transformer(tmp_path, dtype=torch.float32)
