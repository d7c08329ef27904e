"""Memory from a config.json, against published sizes and against a plain count."""

from __future__ import annotations

import pytest

from blockdiff.errors import ModelCorrupt
from blockdiff.model.load.hub_config import read_kind
from blockdiff.model.load.kinds import Family
from blockdiff.weights.catalog import Skill, drafters, published
from blockdiff.weights.footprint import DTYPES, drafter_shape, shape_of

# Parameters as the publishers count them, in billions.
PUBLISHED = {
    "dreamon-7b": 7.62, "llada-8b": 8.02, "open-dcoder-0.5b": 0.49, "qwen2.5-coder-1.5b": 1.54,
    "qwen2.5-coder-3b": 3.09, "qwen2.5-coder-14b": 14.77, "qwen2.5-coder-32b": 32.76,
    "stable-diffcoder-8b": 8.25, "sdar-8b": 8.19, "sdar-30b-a3b": 30.53, "llada2.0-mini": 16.26,
    "nemotron-labs-diffusion-3b": 3.83, "nemotron-labs-diffusion-8b": 8.49,
    "nemotron-labs-diffusion-14b": 13.51, "rnd1-30b": 30.53, "llada2.2-mini": 16.26,
    "tiny-a2d-0.6b": 0.60, "starcoder2-3b": 3.03, "starcoder2-7b": 7.17,
    "diffusiongemma-26b": 25.25,  # published with one digit: 25.2
}  # fmt: skip


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_count_of_parameters_is_the_published_one(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("BLOCKDIFF_MODELS", raising=False)
    shape = shape_of(published()[name].config, name)
    assert shape.parameters / 1e9 == pytest.approx(PUBLISHED[name], abs=0.006)


def test_a_plain_count_of_a_small_one() -> None:
    config = {
        "model_type": "qwen2", "vocab_size": 10, "hidden_size": 8, "num_hidden_layers": 3,
        "num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 12,
        "tie_word_embeddings": True,
    }  # fmt: skip
    shape = shape_of(config, "x")
    layer = 8 * 8 + 2 * 8 * 4 + 8 * 8 + 3 * 8 * 12
    assert shape.matrices == 3 * layer + 10 * 8
    assert shape.vectors == 3 * (8 + 8) + 8 + 3 * (8 + 4 + 4)
    need = shape.footprint("bfloat16", context=100)
    assert need.weights == 2 * shape.parameters
    assert need.keys_values == 2 * 3 * 4 * 100 * 2


def test_seven_billion_fit_the_cards_they_are_meant_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("BLOCKDIFF_MODELS", raising=False)
    shape = shape_of(published()["dreamon-7b"].config, "dreamon-7b")
    for dtype, most in zip(DTYPES, (8e9, 12e9, 20e9), strict=True):
        assert shape.footprint(dtype).total < most


@pytest.mark.parametrize(
    "change",
    [{"vocab_size": 10**10}, {"hidden_size": -1}, {"num_hidden_layers": 10**6}, {"d": 1},
     {"hidden_size": "8"}, {"num_hidden_layers": None}, {"head_dim": "8"},
     {"num_key_value_heads": [1]}, {"num_experts": "4"}],
)  # fmt: skip
def test_an_implausible_shape_is_refused(change: dict[str, object]) -> None:
    config = {"vocab_size": 10, "hidden_size": 8, "num_hidden_layers": 1,
              "num_attention_heads": 2, "intermediate_size": 4}  # fmt: skip
    if "d" in change:
        del config["intermediate_size"]
    with pytest.raises(ModelCorrupt, match=r"config\.json"):
        shape_of({**config, **change}, "x")


@pytest.mark.parametrize("change", [{"markov_rank": "8"}, {"num_attention_heads": None}])
def test_an_implausible_drafter_is_refused(change: dict[str, object]) -> None:
    config = {**drafters()["qwen3-4b-dspark"].config, **change}
    with pytest.raises(ModelCorrupt, match=next(iter(change))):
        drafter_shape(config, "x")
    assert drafter_shape({**config, **dict.fromkeys(change, 8), "dflash_config": []}, "x")


def test_the_shipped_catalogue_knows_the_families_as_the_loader_does(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What it says can infill is what has a layout, given the tokens that such a file has."""
    monkeypatch.delenv("BLOCKDIFF_MODELS", raising=False)
    for name, entry in published().items():
        family = Family(entry.family)
        tokens = {"mask_token": 5, "<|mask|>": 5, "<|expand|>": 6}
        tokens |= {"<|fim_prefix|>": 1, "<|fim_suffix|>": 2, "<|fim_middle|>": 3}
        if family is not Family.DREAMON:
            del tokens["<|expand|>"]
        if family is Family.AR:
            tokens = {key: token for key, token in tokens.items() if "mask" not in key}
        config = dict(entry.config) | {"mask_token_id": 5}
        if family is Family.AR:
            del config["mask_token_id"]
        if family is Family.STABLE_DIFFCODER:  # its model_type says llama
            config["architectures"] = ["StableDiffcoderForCausalLM"]
        kind = read_kind(config, tokens=tokens)
        assert kind.family is family, name
        assert (kind.layout is not None) == (Skill.INFILL in entry.can), name


def test_the_shipped_catalogue_says_what_can_infill(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("BLOCKDIFF_MODELS", raising=False)
    known = published()
    cannot = {name for name, entry in known.items() if Skill.INFILL not in entry.can}
    assert {known[name].family for name in cannot} <= {"sdar", "sdar-moe", "llada2", "fast-dllm",
                                                       "a2d", "nemotron"}  # fmt: skip
    assert known["coda-1.7b"].terms and known["qwen2.5-coder-3b"].terms
    assert not known["qwen2.5-coder-7b"].terms
