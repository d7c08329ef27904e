"""Configurations that ask for the impossible: refused by file and key, and given no memory."""

from __future__ import annotations

import json
import random
import resource
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from blockdiff.errors import BlockdiffError, ModelCorrupt, ModelNotFound, ModelUnsupported
from blockdiff.model.load.from_folder import FORMAT, load_transformer
from blockdiff.model.load.hub_config import kind_of
from blockdiff.model.transformer import Transformer
from tests.parity.family_checkpoints import CHECKPOINTS
from tests.unit import tiny


def load(folder: Path, dtype: torch.dtype = torch.float32) -> Transformer:
    return load_transformer(folder, dtype=dtype)


ABSURD = [
    ("dream", "vocab_size", 10**9), ("dream", "hidden_size", 10**9), ("dream", "vocab_size", -1),
    ("dream", "num_hidden_layers", 10**9), ("dream", "num_hidden_layers", 1000),
    ("dream", "num_attention_heads", 0), ("dream", "num_key_value_heads", 3),
    ("dream", "intermediate_size", "52"), ("dream", "hidden_size", 32.0),
    ("dream", "rms_norm_eps", -1.0), ("dream", "rms_norm_eps", float("nan")),
    ("dream", "rope_theta", 0), ("dream", "rope_theta", float("inf")),
    ("dream", "tie_word_embeddings", "yes"), ("dream", "max_position_embeddings", 10**12),
    ("dream", "vocab_size", True), ("dream", "vocab_size", [96]),
    ("coda", "head_dim", 10**9), ("coda", "head_dim", 7),
    ("sdar-moe", "num_experts", 10**9), ("sdar-moe", "num_experts", 100_000),
    ("sdar-moe", "num_experts_per_tok", 9), ("sdar-moe", "moe_intermediate_size", 0),
    ("llada2", "n_group", 3), ("llada2", "n_group", 8), ("llada2", "topk_group", 5),
    ("llada2", "num_shared_experts", 10**9), ("llada2", "first_k_dense_replace", 10**9),
    ("llada2 (2.2)", "expert_capacity", 9), ("llada2 (2.2)", "expert_capacity", 1),
    ("llada2 (2.2)", "expert_capacity", 10**9), ("llada2 (2.2)", "block_size", 10**9),
    ("rnd1", "num_experts_per_tok", 9), ("nemotron", "head_dim", 10**9),
    ("llada2", "partial_rotary_factor", 1.5), ("llada2", "partial_rotary_factor", 0.2),
    ("llada", "embedding_size", 10**9), ("llada", "d_model", 10**9), ("llada", "n_layers", 10**9),
    ("llada", "mlp_hidden_size", 10**9), ("llada", "n_heads", 5),
    ("ar (starcoder2)", "sliding_window", -7), ("ar (starcoder2)", "norm_epsilon", None),
]  # fmt: skip


@pytest.mark.parametrize(("family", "key", "value"), ABSURD)
def test_an_impossible_size_is_refused_before_memory_is_asked_for(
    family: str, key: str, value: Any, tmp_path: Path
) -> None:
    folder = CHECKPOINTS[family].write_one(tmp_path, **{key: value})
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ModelCorrupt) as caught:
        load(folder)
    assert str(folder) in caught.value.message
    # kilobytes; the smallest of these sizes, believed, would be hundreds of megabytes
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64_000


@pytest.mark.parametrize(
    ("family", "key"), sorted({(family, key) for family, key, value in ABSURD if value != 7})
)
def test_the_error_names_the_key(family: str, key: str, tmp_path: Path) -> None:
    folder = CHECKPOINTS[family].write_one(tmp_path, **{key: "nonsense"})
    with pytest.raises(ModelCorrupt, match=rf"config.json: {key} is 'nonsense'"):
        load(folder)


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"vocab_size": 10**9}, "vocab_size is 1000000000"),
        ({"n_layers": 10**9}, "n_layers is 1000000000"),
        ({"n_layers": 1000}, "num_hidden_layers is 1000"),
        ({"hidden_size": "16"}, "hidden_size is '16'"), ({"head_dim": None}, "head_dim"),
        ({"rope_base": -1.0}, "rope_base is -1.0"), ({"qkv_bias": 1}, "qkv_bias is 1"),
        ({"n_kv_heads": 3}, "cannot share"), ({"experts": {"count": 10**9}}, "no experts"),
        ({"surprise": 1}, "unknown keys"), ({"hidden_size": 1 << 17}, "do not make"),
    ],
)  # fmt: skip
def test_a_folder_that_claims_to_be_ours_is_believed_no_more(
    changes: dict[str, Any], complaint: str, tmp_path: Path
) -> None:
    shape = tiny.config()
    record = {"blockdiff_format": FORMAT, "transformer": asdict(shape), "packed": {}}
    save_file(dict(tiny.transformer(shape).named_parameters()), tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(record))
    assert load(tmp_path).config == shape
    (tmp_path / "config.json").write_text(
        json.dumps(record | {"transformer": asdict(shape) | changes})
    )
    with pytest.raises((ModelCorrupt, ModelUnsupported), match=complaint) as caught:
        load(tmp_path)
    assert str(tmp_path) in caught.value.message


@pytest.mark.parametrize(
    "packed", [[], {"head.weight": 3}, {"head.weight": [{"format": "q9"}]}, {"head.weight": [{}]}]
)
def test_formats_that_are_none_are_refused(packed: Any, tmp_path: Path) -> None:
    shape = tiny.config(hidden_size=32, ffn_size=64)
    weights = dict(tiny.transformer(shape).named_parameters())
    weights["head.weight.0"] = weights.pop("head.weight")
    save_file(weights, tmp_path / "model.safetensors")
    record = {"blockdiff_format": FORMAT, "transformer": asdict(shape), "packed": packed}
    (tmp_path / "config.json").write_text(json.dumps(record))
    with pytest.raises((ModelCorrupt, ModelUnsupported), match=str(tmp_path)):
        load(tmp_path, torch.int8)


def test_large_sizes_that_are_possible_are_held_against_the_tensors(tmp_path: Path) -> None:
    """Within the limits of each key, 2 TB by themselves."""
    folder = CHECKPOINTS["dream"].write_one(tmp_path, vocab_size=1 << 22, hidden_size=1 << 17)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ModelCorrupt, match="do not make a tensor of shape"):
        load(folder)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64_000


@pytest.mark.parametrize(
    ("family", "changes"),
    [
        ("dream", {"hidden_act": "gelu"}), ("dream", {"use_sliding_window": True}),
        ("dream", {"rope_scaling": {"type": "longrope", "factor": 4.0}}),
        ("nemotron", {"dlm_paradigm": "autoregressive"}),
        ("dream", {"quantization_config": {"quant_method": "gptq", "bits": 4}}),
        ("dream", {"layer_types": ["full_attention", "sliding_attention"]}),
        ("sdar-moe", {"decoder_sparse_step": 2}), ("sdar-moe", {"mlp_only_layers": [1]}),
        ("llada2", {"score_function": "softmax"}), ("llada2", {"norm_topk_prob": False}),
        ("llada2", {"hidden_act": "relu"}),
        ("llada", {"block_type": "sequential"}), ("llada", {"alibi": True}),
        ("llada", {"attention_layer_norm": True}), ("llada", {"scale_logits": True}),
        ("llada", {"include_bias": True}), ("llada", {"activation_type": "gelu"}),
        ("ar (starcoder2)", {"hidden_act": "silu"}),
        ("dream", {"architectures": ["MambaForCausalLM"], "model_type": "mamba"}),
    ],
)  # fmt: skip
def test_what_the_stack_does_not_have_is_refused_by_its_key(
    family: str, changes: dict[str, Any], tmp_path: Path
) -> None:
    folder = CHECKPOINTS[family].write_one(tmp_path, **changes)
    with pytest.raises(ModelUnsupported) as caught:
        load(folder)
    assert str(folder) in caught.value.message
    words = {"rope_scaling": "longrope", "architectures": "mamba"}
    assert words.get(key := next(iter(changes)), key) in caught.value.message


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", "\xff", "[" * 100_000, '{"model_type": "dream"}', "{}"]
)
def test_a_config_that_is_none_is_named(text: str, tmp_path: Path) -> None:
    folder = CHECKPOINTS["dream"].write_one(tmp_path)
    (folder / "config.json").write_bytes(text.encode("latin-1"))
    with pytest.raises((ModelCorrupt, ModelUnsupported)) as caught:
        load(folder)
    assert str(folder) in caught.value.message


def test_a_config_of_gigabytes_is_not_read(tmp_path: Path) -> None:
    folder = CHECKPOINTS["dream"].write_one(tmp_path)
    with open(folder / "config.json", "ab") as file:
        file.truncate(1 << 33)  # sparse: it takes no room
    with pytest.raises(ModelCorrupt, match=r"config.json: 8589934592 bytes are too many"):
        load(folder)


@pytest.mark.parametrize("absent", ["folder", "config.json", "model.safetensors"])
def test_what_is_not_there_is_said_so(absent: str, tmp_path: Path) -> None:
    folder = CHECKPOINTS["dream"].write_one(tmp_path / "model")
    if absent == "folder":
        folder = tmp_path / "elsewhere"
    else:
        (folder / absent).unlink()
    with pytest.raises(ModelNotFound, match=str(folder)):
        load(folder)


def test_int8_says_what_it_does_not_cover(tmp_path: Path) -> None:
    with pytest.raises(BlockdiffError, match="mixtures of experts"):
        load(CHECKPOINTS["llada2"].write_one(tmp_path), torch.int8)


_VALUES: list[Any] = [
    None, 0, -1, 1, 3, 7, 10**9, 10**30, 1.5, -0.0, float("nan"), float("inf"), True, False, "",
    "x", "96", [], [1], [None], {}, {"type": "linear"}, {"rope_type": "llama3"},
    {"rope_type": "yarn", "factor": 0.25, "beta_fast": 3, "rope_theta": 0.5, "mscale": 10**9},
    {"rope_type": "yarn", "factor": 4.0, "rope_theta": 1e4, "llama_4_scaling_beta": 0.1},
    {"rope_type": "linear", "factor": 0}, {"rope_type": []}, ["full_attention"], {"a": [{}]},
]  # fmt: skip
_KEYS = [
    "rope_scaling", "rope_parameters", "layer_types", "quantization_config", "mlp_only_layers",
    "partial_rotary_factor", "head_dim", "block_size", "bos_token_id", "attention_bias",
    "expert_capacity", "delete_token_id", "split_token_id", "dlm_paradigm",
]  # fmt: skip


@pytest.mark.parametrize("family", CHECKPOINTS)
def test_whatever_a_config_says_it_is_read_or_refused(family: str, tmp_path: Path) -> None:
    """Seeded: one to three keys with values of every kind; any other exception is a defect."""
    published, stream = CHECKPOINTS[family], random.Random(family)
    folder = published.write(tmp_path)
    outcomes = set()
    for _ in range(60):
        chosen = stream.sample([*published.config, *_KEYS], stream.choice([1, 1, 2, 3]))
        changes = {key: stream.choice(_VALUES) for key in chosen}
        (folder / "config.json").write_text(json.dumps(published.config | changes))
        for attempt in (load, kind_of):
            try:
                attempt(folder)
                outcomes.add("read")
            except BlockdiffError as error:
                assert str(folder) in error.message, changes
                outcomes.add("refused")
    assert outcomes == {"read", "refused"}


@pytest.mark.parametrize(
    "file", ["tokenizer.json", "added_tokens.json", "tokenizer_config.json",
             "special_tokens_map.json", "generation_config.json"],
)  # fmt: skip
def test_whatever_a_tokenizer_says_it_is_read_or_refused(file: str, tmp_path: Path) -> None:
    stream = random.Random(file)
    folder = CHECKPOINTS["dream"].write(tmp_path)
    keys = [
        "added_tokens", "model", "added_tokens_decoder", "mask_token", "eos_token_id",
        "expand_token_id", "<|mask|>",
    ]  # fmt: skip
    inner = [{"content": "<|mask|>", "id": 90}, {"vocab": {"<|mask|>": 90}}, {"90": {}}]
    for _ in range(200):
        values = [*_VALUES, *inner, [stream.choice([*inner, *_VALUES])]]
        content = {key: stream.choice(values) for key in stream.sample(keys, 2)}
        (folder / file).write_text(json.dumps(content))
        try:
            kind_of(folder)
        except BlockdiffError as error:
            assert str(folder) in error.message, content
