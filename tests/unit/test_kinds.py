"""What kind of checkpoint a folder holds, from the files its publishers put there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from blockdiff.config import Layout
from blockdiff.errors import ModelCorrupt, ModelUnsupported
from blockdiff.model.load.hub_config import kind_of, read_kind
from blockdiff.model.load.kinds import AttentionPattern, Body, Family, FimTokens

FULL, BLOCK, CAUSAL = AttentionPattern.FULL, AttentionPattern.BLOCK, AttentionPattern.CAUSAL
QWEN_FIM = {"<|fim_prefix|>": 151659, "<|fim_middle|>": 151660, "<|fim_suffix|>": 151661}
SEED_FIM = {"<[fim-suffix]>": 128, "<[fim-prefix]>": 129, "<[fim-middle]>": 130}
STAR_FIM = {"<fim_prefix>": 1, "<fim_middle>": 2, "<fim_suffix>": 3}

# What each published config.json says of itself, its tokenizer's special tokens, and the kind:
# family, body, attention, shift, mask, block, sub-block, layout.
PUBLISHED: list[tuple[str, dict[str, Any], dict[str, int], tuple[Any, ...]]] = [
    ("Dream-v0-Instruct-7B",
     {"architectures": ["DreamModel"], "model_type": "Dream", "mask_token_id": 151666},
     {"<|mask|>": 151666},
     (Family.DREAM, Body.QWEN2, FULL, True, 151666, None, None, Layout.IN_PLACE)),
    ("DreamOn-v0-7B",
     {"architectures": ["DreamModel"], "model_type": "Dream", "mask_token_id": 151666},
     {"<|mask|>": 151666, "<|expand|>": 151667},
     (Family.DREAMON, Body.QWEN2, FULL, True, 151666, None, None, Layout.IN_PLACE)),
    ("open-dcoder-0.5B", {"architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2"},
     {"[MASK]": 151665, **QWEN_FIM},
     (Family.OPEN_DCODER, Body.QWEN2, FULL, True, 151665, None, None, Layout.IN_PLACE)),
    ("LLaDA-8B-Instruct",
     {"architectures": ["LLaDAModelLM"], "model_type": "llada", "mask_token_id": 126336},
     {"<|mdm_mask|>": 126336},
     (Family.LLADA, Body.LLADA, FULL, False, 126336, None, None, Layout.IN_PLACE)),
    ("SDAR-4B-Chat",
     {"architectures": ["SDARForCausalLM"], "model_type": "sdar", "mask_token_id": 151669,
      "block_size": 4},
     {"<MASK>": 151669, **QWEN_FIM},
     (Family.SDAR, Body.QWEN3, BLOCK, False, 151669, 4, None, None)),
    ("SDAR-30B-A3B", {"architectures": ["SDARMoeForCausalLM"], "model_type": "sdar_moe"},
     {"<|MASK|>": 151669},
     (Family.SDAR_MOE, Body.QWEN3_MOE, BLOCK, False, 151669, 4, None, None)),
    ("LLaDA2.0-mini", {"architectures": ["LLaDA2MoeModelLM"], "model_type": "llada2_moe"},
     {"<|mask|>": 156895},
     (Family.LLADA2, Body.LLADA2, BLOCK, False, 156895, 32, None, None)),
    ("LLaDA2.2-mini",
     {"architectures": ["LLaDA2MoeModelLM"], "model_type": "llada2_moe", "expert_capacity": 48,
      "block_size": 32},
     {"<|mask|>": 156895},
     (Family.LLADA2, Body.LLADA2, BLOCK, False, 156895, 32, None, None)),
    ("RND1-Base-0910",
     {"architectures": ["RND1LM"], "model_type": "rnd1", "mask_token_id": 151669}, {},
     (Family.RND1, Body.QWEN3_MOE, FULL, True, 151669, None, None, Layout.IN_PLACE)),
    ("Nemotron-Labs-Diffusion-8B",
     {"architectures": ["NemotronLabsDiffusionModel"], "model_type": "nemotron_labs_diffusion",
      "mask_token_id": 100, "block_size": 32, "eos_token_id": 11},
     {"<SPECIAL_100>": 100, "<|im_end|>": 11},
     (Family.NEMOTRON, Body.NEMOTRON, AttentionPattern.CAUSAL_BLOCK, False, 100, 32, None, None)),
    ("Stable-DiffCoder-8B-Base",
     {"architectures": ["StableDiffcoderForCausalLM"], "model_type": "llama"},
     {"<[MASK_TOKEN]>": 5, **SEED_FIM},
     (Family.STABLE_DIFFCODER, Body.LLAMA, BLOCK, False, 5, 4, None, Layout.SUFFIX_FIRST)),
    ("Fast_dLLM_v2_7B",
     {"architectures": ["Fast_dLLM_QwenForCausalLM"], "model_type": "Fast_dLLM_Qwen",
      "bd_size": 32},
     {"|<MASK>|": 151665, **QWEN_FIM},
     (Family.FAST_DLLM, Body.QWEN2, BLOCK, True, 151665, 32, 8, None)),
    ("Qwen2.5-Coder-0.5B-Instruct-diffusion-bd3lm",
     {"architectures": ["A2DQwen2LMHeadModel"], "model_type": "a2d-qwen2"},
     {"<|mask|>": 151665, **QWEN_FIM},
     (Family.A2D, Body.QWEN2, BLOCK, False, 151665, 32, None, Layout.PSM)),
    ("Qwen3-0.6B-diffusion-bd3lm",
     {"architectures": ["A2DQwen3LMHeadModel"], "model_type": "a2d-qwen3"},
     {"<|mask|>": 151669, **QWEN_FIM},
     (Family.A2D, Body.QWEN3, BLOCK, False, 151669, 32, None, None)),
    ("CoDA-v0-Instruct",
     {"architectures": ["CoDALanguageModel"], "model_type": "CoDA", "mask_token_id": 151669},
     {"<|mask|>": 151669},
     (Family.CODA, Body.QWEN3, FULL, True, 151669, None, None, Layout.IN_PLACE)),
    ("diffusiongemma-26B-A4B-it",
     {"architectures": ["DiffusionGemmaForBlockDiffusion"], "model_type": "diffusion_gemma",
      "canvas_length": 256, "text_config": {"vocab_size": 262144}},
     {"<bos>": 2, "<|turn>": 105, "<turn|>": 106, "<mask>": 4},
     (Family.DIFFUSION_GEMMA, Body.DIFFUSION_GEMMA, AttentionPattern.CANVAS, False, None, 256, None,
      Layout.IN_PLACE)),
    ("Qwen2.5-Coder-7B", {"architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2"}, QWEN_FIM,
     (Family.AR, Body.QWEN2, CAUSAL, True, None, 1, None, Layout.PSM)),
    ("starcoder2-3b", {"architectures": ["Starcoder2ForCausalLM"], "model_type": "starcoder2"},
     STAR_FIM,
     (Family.AR, Body.STARCODER2, CAUSAL, True, None, 1, None, Layout.PSM)),
    ("Seed-Coder-8B-Base", {"architectures": ["LlamaForCausalLM"], "model_type": "llama"}, SEED_FIM,
     (Family.AR, Body.LLAMA, CAUSAL, True, None, 1, None, Layout.SUFFIX_FIRST)),
    ("Llama-3.2-1B", {"architectures": ["LlamaForCausalLM"], "model_type": "llama"}, {},
     (Family.AR, Body.LLAMA, CAUSAL, True, None, 1, None, None)),
]  # fmt: skip
VOCABULARY = {"vocab_size": 160_000}


def tokenizer_json(tokens: dict[str, int]) -> str:
    added = [{"id": i, "content": name, "special": True} for name, i in tokens.items()]
    return json.dumps({"added_tokens": added, "model": {"type": "BPE", "vocab": {"a": 0}}})


def folder_of(folder: Path, config: dict[str, Any], tokens: dict[str, int] | None) -> Path:
    (folder / "config.json").write_text(json.dumps(VOCABULARY | config))
    if tokens is not None:
        (folder / "tokenizer.json").write_text(tokenizer_json(tokens))
    return folder


@pytest.mark.parametrize(("config", "tokens", "expected"), [row[1:] for row in PUBLISHED],
                         ids=[row[0] for row in PUBLISHED])  # fmt: skip
def test_each_published_checkpoint_is_known_for_what_it_is(
    config: dict[str, Any], tokens: dict[str, int], expected: tuple[Any, ...], tmp_path: Path
) -> None:
    kind = kind_of(folder_of(tmp_path, config, tokens or None))
    found = (
        kind.family, kind.body, kind.attention, kind.shift, kind.mask_token_id, kind.block_size,
        kind.sub_block_size, kind.layout,
    )  # fmt: skip
    assert found == expected


def test_dreamon_lengthens_by_a_token_and_shortens_by_the_end_of_text() -> None:
    config = {"model_type": "Dream", "eos_token_id": 151643, "bos_token_id": 151665, **VOCABULARY}
    tokens = {"<|mask|>": 151666, "<|expand|>": 151667}
    kind = read_kind(config, tokens=tokens)
    assert (kind.expand_token_id, kind.delete_token_id) == (151667, 151643)
    assert kind.bos_token_id == 151665
    generation = {"expand_token_id": 7, "delete_token_id": 8, "eos_token_id": [151643, 151645]}
    kind = read_kind(config, generation=generation, tokens=tokens)
    assert (kind.expand_token_id, kind.delete_token_id) == (7, 8)
    assert kind.stop == (151643, 151645)


def test_only_llada2_with_routed_blocks_inserts_and_deletes() -> None:
    config = {"model_type": "llada2_moe", "expert_capacity": 48, **VOCABULARY}
    kind = read_kind(config)
    assert (kind.delete_token_id, kind.split_token_id) == (156930, 156931)
    kind = read_kind(config | {"delete_token_id": 5, "split_token_id": 6})
    assert (kind.delete_token_id, kind.split_token_id) == (5, 6)
    kind = read_kind({"model_type": "llada2_moe", **VOCABULARY})
    assert (kind.delete_token_id, kind.split_token_id) == (None, None)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"delete_token_id": 5, "split_token_id": 5}, "must differ"),
        ({"split_token_id": 156895}, "must differ"),
        ({"split_token_id": 160_000}, "split_token_id"),
        ({"vocab_size": 156_931, "delete_token_id": 7}, "split_token_id 156931 is outside"),
    ],
)
def test_edit_tokens_that_cannot_be_are_refused(changes: dict[str, int], says: str) -> None:
    config = {"model_type": "llada2_moe", "expert_capacity": 48, **VOCABULARY, **changes}
    with pytest.raises(ModelCorrupt, match=f"here: config.json: .*{says}"):
        read_kind(config, source="here")


def test_fim_marks_come_in_the_order_the_base_saw() -> None:
    config = {"architectures": ["StableDiffcoderForCausalLM"], "model_type": "llama", **VOCABULARY}
    kind = read_kind(config, tokens={"<[MASK_TOKEN]>": 5, **SEED_FIM})
    assert kind.fim == FimTokens(prefix=129, suffix=128, middle=130)
    assert kind.layout is Layout.SUFFIX_FIRST


def test_marks_in_a_tokenizer_do_not_make_an_infiller() -> None:
    """Qwen's tokenizers all have FIM tokens; SDAR was not trained on them."""
    kind = read_kind({"model_type": "sdar", **VOCABULARY}, tokens={"<MASK>": 151669, **QWEN_FIM})
    assert kind.layout is None
    assert kind.fim is None


@pytest.mark.parametrize("key", ["block_size", "bd_size"])
def test_the_block_size_is_that_of_the_file(key: str) -> None:
    assert read_kind({"model_type": "sdar", key: 16, **VOCABULARY}).block_size == 16


@pytest.mark.parametrize("size", [0, -4, 1 << 20, "4", 4.0])
def test_a_block_size_that_is_none_is_named(size: Any) -> None:
    with pytest.raises(ModelCorrupt, match="block_size"):
        read_kind({"model_type": "sdar", "block_size": size, **VOCABULARY})


@pytest.mark.parametrize("key", ["mask_token_id", "eos_token_id", "bos_token_id"])
@pytest.mark.parametrize("token", [-1, 160_000, 10**9, "5", [5, 160_000]])
def test_an_id_outside_the_vocabulary_is_named(key: str, token: Any) -> None:
    with pytest.raises(ModelCorrupt, match=rf"here: config.json: {key}"):
        read_kind({"model_type": "llada", key: token, **VOCABULARY}, source="here")


@pytest.mark.parametrize("file", ["tokenizer.json", "added_tokens.json", "tokenizer_config.json"])
def test_a_tokenizer_without_its_mask_token_is_refused(file: str, tmp_path: Path) -> None:
    folder = folder_of(tmp_path, {"model_type": "Dream", "mask_token_id": 151666}, None)
    assert kind_of(folder).mask_token_id == 151666  # no tokenizer at all: nothing to compare with
    content: dict[str, dict[str, Any]] = {
        "tokenizer.json": {"added_tokens": [{"id": 151643, "content": "<|endoftext|>"}]},
        "added_tokens.json": {"<|endoftext|>": 151643},
        "tokenizer_config.json": {"added_tokens_decoder": {"151643": {"content": "<|endoftext|>"}}},
    }
    (folder / file).write_text(json.dumps(content[file]))
    with pytest.raises(ModelCorrupt, match="mask_token_id 151666") as caught:
        kind_of(folder)
    assert str(folder) in caught.value.message


@pytest.mark.parametrize("role", ["<M>", {"content": "<M>"}])
@pytest.mark.parametrize("file", ["tokenizer_config.json", "special_tokens_map.json"])
def test_the_tokenizer_says_which_token_is_its_mask(file: str, role: Any, tmp_path: Path) -> None:
    folder = folder_of(tmp_path, {"model_type": "a2d-qwen3"}, {"<M>": 77, "<N>": 78})
    with pytest.raises(ModelCorrupt, match="mask_token"):
        kind_of(folder)
    (folder / file).write_text(json.dumps({"mask_token": role}))
    assert kind_of(folder).mask_token_id == 77


@pytest.mark.parametrize("content", ["", "{", "[]", '{"added_tokens": [{"id": "x"}]}', "[" * 5000])
def test_a_tokenizer_that_does_not_parse_is_named(content: str, tmp_path: Path) -> None:
    folder = folder_of(tmp_path, {"model_type": "Dream"}, None)
    (folder / "tokenizer.json").write_text(content)
    with pytest.raises(ModelCorrupt) as caught:
        kind_of(folder)
    assert str(folder) in caught.value.message


def test_an_unknown_family_is_refused_by_its_name() -> None:
    with pytest.raises(ModelUnsupported, match="mamba"):
        read_kind({"architectures": ["MambaForCausalLM"], "model_type": "mamba"}, source="here")


@pytest.mark.parametrize("token", [10**9, -1])
@pytest.mark.parametrize("file", ["tokenizer.json", "added_tokens.json", "tokenizer_config.json"])
def test_an_absurd_id_of_a_tokenizer_is_named(file: str, token: int, tmp_path: Path) -> None:
    """Whoever fills the gap up to it with unused tokens would fill the memory."""
    folder = folder_of(tmp_path, {"model_type": "llada"}, None)
    content: dict[str, dict[str, Any]] = {
        "tokenizer.json": {"added_tokens": [{"id": token, "content": "<x>"}]},
        "added_tokens.json": {"<x>": token},
        "tokenizer_config.json": {"added_tokens_decoder": {str(token): {"content": "<x>"}}},
    }
    (folder / file).write_text(json.dumps(content[file]))
    with pytest.raises(ModelCorrupt, match=f"'<x>' has the id {token}") as caught:
        kind_of(folder)
    assert str(folder) in caught.value.message


@pytest.mark.parametrize("size", [10**9, 0, "96", True])
def test_an_absurd_vocabulary_is_named(size: Any) -> None:
    with pytest.raises(ModelCorrupt, match=rf"here: config.json: vocab_size is {size!r}"):
        read_kind({"model_type": "llada", "vocab_size": size}, source="here")
