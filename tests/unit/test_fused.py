"""Whole layers in one call: what torch computes from the same packed matrices, row by row."""

from __future__ import annotations

import weakref
from collections.abc import Iterator

import pytest
import torch
from test_int8 import closeness
from tiny import adapter, config, transformer
from torch import Tensor

from blockdiff.errors import Cancelled
from blockdiff.model import masks
from blockdiff.model.adapter import GatedAdapter
from blockdiff.model.cache import BlockCache
from blockdiff.model.config import AdapterConfig, TransformerConfig
from blockdiff.model.int8 import library
from blockdiff.model.int8.packing import pack
from blockdiff.model.int8.quantized import install_adapter
from blockdiff.model.layer import Gate, Segment
from blockdiff.model.load.from_folder import build
from blockdiff.model.transformer import Transformer

pytestmark = pytest.mark.skipif(
    library.available() != "", reason="no C compiler: " + library.available()
)
SHAPE = dict(hidden_size=64, n_heads=4, n_kv_heads=2, head_dim=32, ffn_size=96, vocab_size=64)
SHAPES = {
    "qwen2": config(**SHAPE, tied_embeddings=True),
    "one head for keys": config(**(SHAPE | dict(n_kv_heads=1, head_dim=16))),
    "no bias": config(**(SHAPE | dict(n_kv_heads=4)), qkv_bias=False),
    "normed queries": config(**SHAPE, qkv_bias=False, qk_norm=True),
    "wide": config(**(SHAPE | dict(ffn_size=2304))),
    "three layers": config(**SHAPE, n_layers=3, o_bias=True, ffn_bias=True),
}
ADAPTER = AdapterConfig({"qkv": 3, "o": 2, "gate_up": 40, "down": 1}, scale=1.5)
TOKENS = [(7 * i + i * i) % 64 for i in range(150)]


def packed(shape: TransformerConfig, seed: int = 0) -> Transformer:
    state = dict(transformer(shape, seed).named_parameters())
    matrices = {name: [pack(t.detach())] for name, t in state.items() if t.dim() == 2}
    return build(shape, {n: t for n, t in state.items() if n not in matrices}, "", matrices)


def test_packed_matrices_are_not_kept_beside_their_copies() -> None:
    """Else a model would need twice its size to be loaded."""
    state = dict(transformer(SHAPES["qwen2"], 0).named_parameters())
    matrices = {name: [pack(t.detach())] for name, t in state.items() if t.dim() == 2}
    seen = [weakref.ref(part.data) for parts in matrices.values() for part in parts]
    floats = {n: t for n, t in state.items() if n not in matrices}
    model = build(SHAPES["qwen2"], floats, "", matrices)
    assert model.fused is not None and not any(ref() is not None for ref in seen)


def packed_adapter(shape: TransformerConfig) -> GatedAdapter:
    made = adapter(shape, 5, ADAPTER)
    install_adapter(made)
    return made


@pytest.fixture(autouse=True)
def _no_gradients() -> Iterator[None]:
    with torch.inference_mode():
        yield


def run(
    model: Transformer,
    cache: BlockCache,
    tokens: list[int],
    gate: Gate | None = None,
    mask: Tensor | None = None,
) -> Tensor:
    """Hidden states (tokens, hidden) of drafts behind what is committed."""
    past, new = cache.length, len(tokens)
    positions = torch.arange(past, past + new)[None]
    mask = masks.causal(past, new) if mask is None else mask
    return model.hidden(torch.tensor([tokens]), positions, mask, cache, gate)[0]


def both(model: Transformer, sizes: list[int], gate: Gate | None = None) -> tuple[Tensor, Tensor]:
    """Hidden states, and the cache, of chunks of `sizes`; by the library first, then by torch."""
    found = []
    for fused in (model.fused, None):
        assert fused is not None or found, "not fused"
        cache, rows, at = BlockCache(model.config, capacity=8), [], 0
        model.fused, kept = fused, model.fused
        for size in sizes:
            rows.append(run(model, cache, TOKENS[at : at + size], gate if size > 1 else None))
            cache.commit(size)
            at += size
        keys = torch.stack([torch.stack(cache.committed(i)) for i in range(model.config.n_layers)])
        found.append(torch.cat([torch.cat(rows).flatten(), keys.flatten()]))
        model.fused = kept
    return found[0], found[1]


@pytest.mark.parametrize("name", SHAPES)
def test_it_computes_what_torch_computes(name: str) -> None:
    """A last bit may turn a step of int8, so within a few parts in a thousand."""
    fused, by_torch = both(packed(SHAPES[name]), [5, 1, 33, 8, 70])
    assert closeness(fused, by_torch) < 0.01


@pytest.mark.parametrize("which", ["all", "from", "listed", "flags", "apart"])
def test_noisy_rows_get_the_adapters_share_and_exact_rows_none(which: str) -> None:
    shape = SHAPES["qwen2"]
    model, drafter = packed(shape), packed_adapter(shape)
    masked = torch.arange(9)[None] >= 6
    noisy: Tensor | int | None = {
        "all": None, "from": 4, "listed": torch.tensor([4, 5, 6, 7, 8]),
        "flags": torch.arange(9)[None] >= 4, "apart": torch.tensor([0, 1, 5, 8]),
    }[which]  # fmt: skip
    gate = Gate(drafter, masked, noisy)
    fused, by_torch = both(model, [9], gate)
    assert closeness(fused, by_torch) < 0.01
    plain = run(model, BlockCache(shape), TOKENS[:9], Gate(drafter, masked, torch.tensor([8])))
    exact = run(model, BlockCache(shape), TOKENS[:9], gate)
    if which in ("from", "listed", "flags"):  # four exact rows first, whoever is behind them
        assert torch.equal(exact[:4], plain[:4])
        assert not torch.allclose(exact[4:6], plain[4:6])


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_a_row_does_not_depend_on_the_rows_beside_it(threads: int) -> None:
    """What makes `verify` write what `ar` writes."""
    model, before = packed(SHAPES["qwen2"]), torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        alone = BlockCache(model.config)
        rows = []
        for token in TOKENS[:40]:
            rows.append(run(model, alone, [token]))
            alone.commit(1)
        torch.set_num_threads(threads)
        for size in range(1, 21):
            found = run(model, BlockCache(model.config), TOKENS[:size])
            assert torch.equal(found, torch.cat(rows[:size]))
        for sizes in ([40], [3, 8, 29], [17, 23]):
            cache, at = BlockCache(model.config), 0
            for size in sizes:
                found = run(model, cache, TOKENS[at : at + size])
                cache.commit(size)
                assert torch.equal(found, torch.cat(rows[at : at + size]))
                at += size
    finally:
        torch.set_num_threads(before)


def test_sequences_that_share_a_forward_get_what_they_get_alone() -> None:
    shape = SHAPES["qwen2"]
    model, drafter = packed(shape), packed_adapter(shape)
    caches, alone = [], []
    for length, new in [(20, 3), (1, 1), (61, 5)]:
        cache = BlockCache(shape, capacity=8)
        run(model, cache, TOKENS[:length])
        cache.commit(length)
        masked = torch.zeros(1, new, dtype=torch.bool)
        masked[:, -1] = True
        tokens = TOKENS[length : length + new]
        alone.append(run(model, cache, tokens, Gate(drafter, masked, new - 1)))
        caches.append((cache, tokens))
    segments = [
        Segment(len(tokens), masks.causal(cache.length, len(tokens)), cache)
        for cache, tokens in caches
    ]
    positions = [torch.arange(cache.length, cache.length + len(t))[None] for cache, t in caches]
    masked = torch.zeros(1, 9, dtype=torch.bool)
    noisy = torch.tensor([2, 3, 8])
    masked[:, noisy] = True
    together = model.hidden_together(
        torch.tensor([[token for _, tokens in caches for token in tokens]]),
        torch.cat(positions, dim=1),
        segments,
        Gate(drafter, masked, noisy),
    )
    assert torch.equal(together[0], torch.cat(alone))


def test_a_key_that_is_masked_is_not_seen() -> None:
    model = packed(SHAPES["qwen2"])
    cache = BlockCache(model.config)
    run(model, cache, TOKENS[:30])
    cache.commit(30)
    mask = masks.causal(30, 4)
    mask[:, 7:21] = False
    before = run(model, cache, TOKENS[30:34], mask=mask)
    for layer in range(model.config.n_layers):
        for kept in cache.committed(layer):
            kept[:, :, 7:21] = 1e3
    assert torch.equal(run(model, cache, TOKENS[30:34], mask=mask), before)
    assert not torch.allclose(run(model, cache, TOKENS[30:34]), before)


@pytest.mark.parametrize("together", [False, True])
def test_keys_and_values_are_the_same_where_nothing_else_is_wanted(together: bool) -> None:
    """Context costs no more of the last layer than that."""
    model, found = packed(SHAPES["three layers"]), []
    for wanted in (True, False):
        cache = BlockCache(model.config)
        for start, size in [(0, 40), (40, 3)]:
            tokens = torch.tensor([TOKENS[:size]])
            positions = torch.arange(start, start + size)[None]
            mask = masks.causal(start, size)
            if together:
                segments = [Segment(size, mask, cache)]
                model.hidden_together(tokens, positions, segments, wanted=wanted)
            else:
                model.hidden(tokens, positions, mask, cache, wanted=wanted)
            cache.commit(size)
        layers = range(model.config.n_layers)
        kept = torch.stack([torch.stack(cache.committed(layer)) for layer in layers])
        found.append((kept, run(model, cache, TOKENS[:5])))
    assert torch.equal(found[0][0], found[1][0])
    assert torch.equal(found[0][1], found[1][1])


def test_what_is_committed_stays_as_it_is() -> None:
    model = packed(SHAPES["qwen2"])
    cache = BlockCache(model.config, capacity=64)
    run(model, cache, TOKENS[:30])
    cache.commit(30)
    layers = range(model.config.n_layers)
    before = [torch.stack(cache.committed(layer)) for layer in layers]
    buffer = cache.open(9).clone()
    run(model, cache, TOKENS[40:49])
    for layer in layers:
        assert torch.equal(torch.stack(cache.committed(layer)), before[layer])
    assert torch.equal(cache.open(9)[..., 39:, :], buffer[..., 39:, :])


def test_it_can_be_stopped_before_every_layer() -> None:
    model = packed(SHAPES["three layers"])
    cache, seen = BlockCache(model.config), []

    def on_layer() -> None:
        seen.append(None)
        if len(seen) == 5:
            raise Cancelled("stop")

    tokens, positions = torch.tensor([TOKENS[:6]]), torch.arange(6)[None]
    whole = model.hidden(tokens, positions, masks.causal(0, 6), cache)
    watched = model.hidden(tokens, positions, masks.causal(0, 6), cache, on_layer=on_layer)
    assert len(seen) == 3 and torch.equal(watched, whole)
    with pytest.raises(Cancelled):
        model.hidden(tokens, positions, masks.causal(0, 6), cache, on_layer=on_layer)
    assert cache.length == 0
    assert torch.equal(model.hidden(tokens, positions, masks.causal(0, 6), cache), whole)


def test_layers_it_does_not_know_are_left_to_torch() -> None:
    for changes in (dict(layer_norm=True), dict(sliding_window=4), dict(rotary_dim=16)):
        assert packed(config(**SHAPE, **changes)).fused is None
    model = packed(SHAPES["qwen2"])
    loose = adapter(model.config, 5, ADAPTER)  # not packed
    gate = Gate(loose, torch.zeros(1, 4, dtype=torch.bool))
    expected, kept = [], model.fused
    for model.fused in (kept, None):
        expected.append(run(model, BlockCache(model.config), TOKENS[:4], gate))
    assert torch.equal(*expected)
