"""The adapter is a low-rank change of the base's weights, at noisy positions and nowhere else."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import ALL_TARGETS, FAMILIES, adapter, config, forward, transformer
from torch import Tensor

from blockdiff.errors import InvalidRequest, ModelCorrupt
from blockdiff.model import masks
from blockdiff.model.adapter import GatedAdapter, target_shapes
from blockdiff.model.config import ADAPTER_TARGETS, AdapterConfig
from blockdiff.model.layer import Gate
from blockdiff.model.transformer import Transformer

MODELS = {name: transformer(shape, seed=31) for name, shape in FAMILIES.items()}
TOKENS = [3, 1, 4, 1, 5, 9, 2, 6]
NOTHING = torch.zeros(1, len(TOKENS), dtype=torch.bool)
FAMILY = pytest.mark.parametrize("family", sorted(FAMILIES))


@torch.no_grad()
def gated(model: Transformer, gate: Gate, tokens: list[int] = TOKENS, mask: Any = None) -> Tensor:
    """Logits (tokens, vocab) of a causal forward unless a mask is given."""
    allowed = masks.causal(0, len(tokens)) if mask is None else mask
    return model(torch.tensor([tokens]), torch.arange(len(tokens))[None], allowed, None, gate)[0]


def merged(model: Transformer, drafter: GatedAdapter) -> Transformer:
    """The base with every pair added to its matrix."""
    changed = copy.deepcopy(model)
    for block, pairs in zip(changed.blocks, drafter.layers, strict=True):
        places = {
            "qkv": block.attention.qkv, "o": block.attention.o,
            "gate_up": block.ffn.gate_up, "down": block.ffn.down,
        }  # fmt: skip
        for target, pair in pairs.items():
            places[target].weight.data += drafter.config.scale * pair.b @ pair.a
    return changed


@FAMILY
@pytest.mark.parametrize("target", [*ADAPTER_TARGETS, "all"])
def test_it_adds_the_product_of_its_pair_to_each_matrix(family: str, target: str) -> None:
    model = MODELS[family]
    ranks = ALL_TARGETS if target == "all" else AdapterConfig({target: 3}, scale=0.5)
    drafter = adapter(model.config, 1, ranks)
    logits = gated(model, Gate(drafter, NOTHING))
    assert (logits - forward(merged(model, drafter), TOKENS)).abs().max() <= 1e-3
    assert (logits - forward(model, TOKENS)).abs().max() > 0.1, "it does nothing"


@FAMILY
@given(noisy=st.lists(st.booleans(), min_size=len(TOKENS), max_size=len(TOKENS)))
@settings(max_examples=20, deadline=None)
def test_it_acts_where_a_position_is_noisy_and_nowhere_else(
    family: str, noisy: list[bool]
) -> None:
    """Where nobody sees anybody else, each position is either the base's or the merged model's."""
    model = MODELS[family]
    drafter, alone = adapter(model.config, 2), torch.eye(len(TOKENS), dtype=torch.bool)
    logits = gated(model, Gate(drafter, NOTHING, torch.tensor([noisy])), mask=alone)
    base, changed = forward(model, TOKENS, alone), forward(merged(model, drafter), TOKENS, alone)
    for row, is_noisy in enumerate(noisy):
        if is_noisy:
            assert (logits[row] - changed[row]).abs().max() <= 1e-3
        else:
            assert torch.equal(logits[row], base[row])


@FAMILY
def test_a_fresh_one_changes_nothing_but_the_masks(family: str) -> None:
    """The second matrix of every pair begins at zero."""
    model = MODELS[family]
    fresh = GatedAdapter(model.config, ALL_TARGETS)
    assert torch.equal(gated(model, Gate(fresh, NOTHING)), forward(model, TOKENS))


@FAMILY
def test_a_mask_hides_its_token_behind_the_mask_embedding(family: str) -> None:
    model = MODELS[family]
    drafter = adapter(model.config, 3)
    masked = NOTHING.clone()
    masked[0, 4:6] = True
    logits = gated(model, Gate(drafter, masked))
    for other in ([0, 0], [31, 7]):
        tokens = [*TOKENS[:4], *other, *TOKENS[6:]]
        assert torch.equal(gated(model, Gate(drafter, masked), tokens), logits)
        visible = gated(model, Gate(drafter, NOTHING), tokens)
        assert not torch.allclose(visible[4:], logits[4:], atol=1e-2)
    with torch.no_grad():
        drafter.mask_embedding.copy_(model.embedding.weight[7])
    as_seven = [*TOKENS[:4], 7, 7, *TOKENS[6:]]
    expected = gated(model, Gate(drafter, NOTHING), as_seven)
    assert torch.equal(gated(model, Gate(drafter, masked)), expected)


def test_each_row_of_a_batch_has_its_own_noisy_positions() -> None:
    model = MODELS["qwen2"]
    drafter = adapter(model.config, 4)
    noisy = torch.zeros(2, len(TOKENS), dtype=torch.bool)
    noisy[1, 5:] = True
    batch = torch.tensor([TOKENS, TOKENS])
    positions, mask = torch.arange(len(TOKENS))[None], masks.causal(0, len(TOKENS))
    with torch.no_grad():
        logits = model(batch, positions, mask, None, Gate(drafter, noisy, noisy))
    assert (logits[0] - forward(model, TOKENS)).abs().max() <= 1e-4
    alone = gated(model, Gate(drafter, noisy[1:], noisy[1:]))
    assert (logits[1] - alone).abs().max() <= 1e-4


@FAMILY
def test_its_shapes_are_those_of_the_matrices_it_changes(family: str) -> None:
    block = MODELS[family].blocks[0]
    shapes = target_shapes(FAMILIES[family])
    assert set(shapes) == set(ADAPTER_TARGETS)
    for target, linear in (
        ("qkv", block.attention.qkv), ("o", block.attention.o),
        ("gate_up", block.ffn.gate_up), ("down", block.ffn.down),
    ):  # fmt: skip
        assert shapes[target] == (linear.in_features, linear.out_features)


@pytest.mark.parametrize(
    ("ranks", "first_layer", "expected"),
    [
        ({"qkv": 2, "down": 1}, 0, [{"qkv", "down"}, {"qkv", "down"}]),
        ({"qkv": 2, "down": 0}, 0, [{"qkv"}, {"qkv"}]),
        ({"o": 2}, 1, [set(), {"o"}]),
        ({}, 0, [set(), set()]),
    ],
)
def test_pairs_are_where_the_config_puts_them(
    ranks: dict[str, int], first_layer: int, expected: list[set[str]]
) -> None:
    made = GatedAdapter(config(), AdapterConfig(ranks, first_layer=first_layer))
    assert [set(pairs.keys()) for pairs in made.layers] == expected
    x = torch.ones(1, 1, config().hidden_size)
    for layer, targets in enumerate(expected):
        assert (made.delta(layer, "qkv", x) is not None) == ("qkv" in targets)


def test_an_adapter_in_float32_serves_a_base_in_bfloat16() -> None:
    model = transformer(FAMILIES["qwen2"], seed=31).bfloat16()
    logits = gated(model, Gate(adapter(model.config, 1), NOTHING))
    assert logits.dtype == torch.bfloat16
    assert bool(logits.isfinite().all())


def test_unknown_targets_are_refused() -> None:
    with pytest.raises(InvalidRequest, match=r"\['kqv'\]"):
        AdapterConfig({"kqv": 4, "o": 2})


def test_stored_tensors_come_back() -> None:
    origin, copied = adapter(config(), 5), GatedAdapter(config(), ALL_TARGETS)
    copied.load(dict(origin.named_parameters()), "here")
    for (name, ours), theirs in zip(
        copied.named_parameters(), origin.parameters(), strict=True
    ):
        assert torch.equal(ours, theirs), name


@pytest.mark.parametrize("damage", ["is missing", "is unexpected", "has shape"])
def test_a_tensor_that_does_not_fit_is_named_with_its_file(damage: str) -> None:
    tensors = {name: p.data for name, p in adapter(config(), 5).named_parameters()}
    name = "layers.1.gate_up.a"
    if damage == "is missing":
        del tensors[name]
    elif damage == "is unexpected":
        name = "layers.1.gate_up.c"
        tensors[name] = torch.zeros(1)
    else:
        tensors[name] = tensors[name][:-1]
    with pytest.raises(ModelCorrupt, match=f"adapter.safetensors: tensor {name} {damage}"):
        GatedAdapter(config(), ALL_TARGETS).load(tensors, "adapter.safetensors")
