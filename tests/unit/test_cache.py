"""The cache is exact: whatever was appended, committed, cut and forked, nothing can be told."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import FAMILIES, TOY_SHAPE, adapter, cache_for, config, forward, transformer
from torch import Tensor

from blockdiff.errors import InvalidRequest
from blockdiff.model import masks
from blockdiff.model.cache import BlockCache
from blockdiff.model.config import AdapterConfig, RopeScaling, TransformerConfig
from blockdiff.model.layer import Gate
from blockdiff.model.rotary import shifted
from blockdiff.model.transformer import Transformer

TOLERANCE = 1e-4
SLOWED = RopeScaling(factor=4.0, trained=64)
VOCAB = 32
MODELS = {name: transformer(shape, seed=3) for name, shape in FAMILIES.items()}
TOKENS = st.integers(0, VOCAB - 1)


def blocks_of(sizes: list[int]) -> Tensor:
    """Which block each token is in, blocks of the given sizes one after the other."""
    return torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))


def block_causal(sizes: list[int]) -> Tensor:
    """Every token sees its own block and all before it."""
    block = blocks_of(sizes)
    return block[:, None] >= block[None, :]


@torch.no_grad()
def step(model: Transformer, cache: BlockCache | Twin, tokens: list[int], mask: Tensor) -> Tensor:
    """Logits (tokens, vocab) of a forward behind the committed positions; commits nothing."""
    positions = torch.arange(cache.length, cache.length + len(tokens))[None]
    return model(torch.tensor([tokens]), positions, mask, cache)[0]


class Twin:
    """The slow twin: a list of tensors per layer, joined by plain concatenation."""

    def __init__(self, layers: int) -> None:
        self.committed: list[list[tuple[Tensor, Tensor]]] = [[] for _ in range(layers)]
        self.draft: list[tuple[Tensor, Tensor] | None] = [None] * layers
        self.length = 0

    def append(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        self.draft[layer] = keys, values
        parts = [*self.committed[layer], (keys, values)]
        return torch.cat([k for k, _ in parts], dim=2), torch.cat([v for _, v in parts], dim=2)

    def commit(self, count: int) -> None:
        for layer, draft in enumerate(self.draft):
            assert draft is not None
            self.committed[layer].append((draft[0][:, :, :count], draft[1][:, :, :count]))
        self.draft = [None] * len(self.draft)
        self.length += count

    def truncate(self, length: int) -> None:
        for layer, parts in enumerate(self.committed):
            if parts:
                keys = torch.cat([k for k, _ in parts], dim=2)[:, :, :length]
                values = torch.cat([v for _, v in parts], dim=2)[:, :, :length]
                self.committed[layer] = [(keys, values)]
        self.length = length

    def fork(self) -> Twin:
        copy = Twin(len(self.draft))
        copy.committed = [list(parts) for parts in self.committed]
        copy.length = self.length
        return copy


@dataclass
class Line:
    """One line of descent: a cache, its slow twin, and what both should hold."""

    cache: BlockCache
    twin: Twin
    tokens: list[int] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)

    def fork(self) -> Line:
        return Line(self.cache.fork(), self.twin.fork(), list(self.tokens), list(self.sizes))


class World:
    """Lines of one model. Every operation checks the logits against a forward without cache."""

    def __init__(self, family: str) -> None:
        self.model = MODELS[family]
        layers = self.model.config.n_layers
        self.lines = [Line(cache_for(self.model, capacity=2), Twin(layers))]

    def append(self, line: Line, tokens: list[int], commit: int) -> None:
        """A bidirectional block of `tokens`, of which the first `commit` are adopted.

        Only a whole block or nothing is adopted: part of a bidirectional block has seen the rest.
        """
        mask = masks.full(line.cache.length, len(tokens))
        logits = step(self.model, line.cache, tokens, mask)
        assert torch.equal(logits, step(self.model, line.twin, tokens, mask))
        everything, sizes = line.tokens + tokens, [*line.sizes, len(tokens)]
        expected = forward(self.model, everything, block_causal(sizes))[len(line.tokens) :]
        assert (logits - expected).abs().max() <= TOLERANCE
        line.cache.commit(commit)
        line.twin.commit(commit)
        if commit:
            line.tokens, line.sizes = everything, sizes

    def append_causal(self, line: Line, tokens: list[int], commit: int) -> None:
        """Tokens that see only what is before them; any number may be adopted."""
        mask = masks.causal(line.cache.length, len(tokens))
        logits = step(self.model, line.cache, tokens, mask)
        assert torch.equal(logits, step(self.model, line.twin, tokens, mask))
        everything = line.tokens + tokens
        expected = forward(
            self.model, everything, block_causal(line.sizes + [1] * len(tokens))
        )[len(line.tokens) :]
        assert (logits - expected).abs().max() <= TOLERANCE
        line.cache.commit(commit)
        line.twin.commit(commit)
        line.tokens += tokens[:commit]
        line.sizes += [1] * commit

    def truncate(self, line: Line, blocks: int) -> None:
        """To the end of a block: what is behind it was not seen by what stays."""
        line.sizes = line.sizes[:blocks]
        length = sum(line.sizes)
        line.tokens = line.tokens[:length]
        line.cache.truncate(length)
        line.twin.truncate(length)

    def check_committed(self) -> None:
        for line in self.lines:
            assert line.cache.length == line.twin.length == len(line.tokens)
            for layer, parts in enumerate(line.twin.committed):
                keys, values = line.cache.committed(layer)
                if parts:
                    assert torch.equal(keys, torch.cat([k for k, _ in parts], dim=2))
                    assert torch.equal(values, torch.cat([v for _, v in parts], dim=2))


@given(family=st.sampled_from(sorted(FAMILIES)), data=st.data())
@settings(max_examples=60, deadline=None)
def test_logits_with_the_cache_are_those_without_it(family: str, data: st.DataObject) -> None:
    """Invariant 1, for any order of operations on any number of forks."""
    world = World(family)
    operations = st.sampled_from(["block", "block", "causal", "causal", "truncate", "fork"])
    for operation in data.draw(st.lists(operations, min_size=3, max_size=9)):
        line = data.draw(st.sampled_from(world.lines))
        if operation == "fork":
            world.lines.append(line.fork())
        elif operation == "truncate":
            world.truncate(line, data.draw(st.integers(0, len(line.sizes))))
        else:
            tokens = data.draw(st.lists(TOKENS, min_size=1, max_size=7))
            if operation == "block":
                world.append(line, tokens, data.draw(st.sampled_from([0, len(tokens)])))
            else:
                world.append_causal(line, tokens, data.draw(st.integers(0, len(tokens))))
        world.check_committed()


@given(
    family=st.sampled_from(sorted(FAMILIES)),
    past=st.lists(TOKENS, max_size=9),
    exact=st.lists(TOKENS, min_size=1, max_size=4),
    noisy=st.integers(1, 5),
    seed=st.integers(0, 9),
)
@settings(max_examples=30, deadline=None)
@torch.no_grad()
def test_an_opening_forward_with_the_cache_is_one_without_it(
    family: str, past: list[int], exact: list[int], noisy: int, seed: int
) -> None:
    model = MODELS[family]
    drafter, cache = adapter(model.config, seed), cache_for(model)
    if past:
        step(model, cache, past, masks.causal(0, len(past)))
        cache.commit(len(past))
    tokens = exact + [0] * noisy
    new, total = len(tokens), len(past) + len(tokens)
    is_noisy = torch.arange(total)[None] >= total - noisy
    positions = torch.arange(total)[None]
    gate = Gate(drafter, is_noisy[:, len(past) :], is_noisy[:, len(past) :])
    mask = masks.opening(len(past), len(exact), noisy)
    cached = model(torch.tensor([tokens]), positions[:, -new:], mask, cache, gate)
    everything, whole = torch.tensor([past + tokens]), Gate(drafter, is_noisy, is_noisy)
    uncached = model(everything, positions, masks.opening(0, total - noisy, noisy), None, whole)
    assert (cached - uncached[:, -new:]).abs().max() <= TOLERANCE


@given(
    family=st.sampled_from(sorted(FAMILIES)),
    past=st.lists(TOKENS, max_size=9),
    exact=st.lists(TOKENS, min_size=1, max_size=4),
    width=st.integers(1, 3),
    seed=st.integers(0, 9),
)
@settings(max_examples=30, deadline=None)
@torch.no_grad()
def test_a_verifying_forward_is_one_plain_forward_for_every_question_it_answers(
    family: str, past: list[int], exact: list[int], width: int, seed: int
) -> None:
    """Its exact rows are the base's; its group g is an opening behind 1 + g exact tokens."""
    model = MODELS[family]
    drafter, cache = adapter(model.config, seed), cache_for(model)
    if past:
        step(model, cache, past, masks.causal(0, len(past)))
        cache.commit(len(past))
    groups, start = len(exact), len(past)
    offsets = [*range(len(exact))] + [g + 1 + i for g in range(groups) for i in range(width)]
    tokens = exact + [0] * (groups * width)
    is_noisy = torch.arange(len(tokens))[None] >= len(exact)
    mask = masks.verifying(start, len(exact), range(groups), width)
    positions = start + torch.tensor([offsets])
    gate = Gate(drafter, is_noisy, len(exact))
    logits = model(torch.tensor([tokens]), positions, mask, cache, gate)[0]

    base = forward(model, past + exact)[start:]
    assert (logits[: len(exact)] - base).abs().max() <= TOLERANCE
    for group in range(groups):
        seen = past + exact[: 1 + group]
        total = len(seen) + width
        alone = torch.arange(total)[None] >= len(seen)
        expected = model(
            torch.tensor([seen + [0] * width]),
            torch.arange(total)[None],
            masks.opening(0, len(seen), width),
            None,
            Gate(drafter, alone, alone),
        )[0, -width:]
        rows = logits[len(exact) + group * width :][:width]
        assert (rows - expected).abs().max() <= TOLERANCE


@torch.no_grad()
def verifying_forward(model: Transformer, cache: BlockCache, gate: Gate | None) -> Tensor:
    """Three exact tokens and two groups of two masks behind whatever is committed."""
    tokens = torch.tensor([[5, 6, 7, 0, 0, 0, 0]])
    positions = cache.length + torch.tensor([[0, 1, 2, 1, 2, 2, 3]])
    return model(tokens, positions, masks.verifying(cache.length, 3, range(2), 2), cache, gate)[0]


@pytest.mark.parametrize("family", sorted(FAMILIES))
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_is_committed_does_not_depend_on_the_adapter(family: str, dtype: torch.dtype) -> None:
    """Invariant 2, second half: to the bit, with no adapter, with one, with another one."""
    model = transformer(FAMILIES[family], seed=4).to(dtype)
    noisy = torch.arange(7)[None] >= 3
    committed, exact, drafts = [], [], []
    for drafter in (None, adapter(model.config, 1), adapter(model.config, 2)):
        cache = cache_for(model)
        step(model, cache, [1, 2, 3, 4], masks.causal(0, 4))
        cache.commit(4)
        gate = Gate(drafter.to(dtype), noisy, 3) if drafter is not None else None
        logits = verifying_forward(model, cache, gate)
        cache.commit(3)
        exact.append(logits[:3])
        drafts.append(logits[3:])
        committed.append([torch.stack(cache.committed(layer)) for layer in range(2)])
    for other in (1, 2):
        assert torch.equal(exact[0], exact[other])
        assert all(map(torch.equal, committed[0], committed[other]))
    assert not torch.equal(drafts[1], drafts[2]), "the adapters do nothing"


@pytest.mark.parametrize("family", sorted(FAMILIES))
@torch.no_grad()
def test_exact_positions_keep_their_bits_whatever_the_adapter_holds(family: str) -> None:
    """Even where it overflows: an infinity times zero would be no number."""
    model = MODELS[family]
    wild = adapter(model.config, 1, AdapterConfig({"down": 2}, first_layer=1))
    for parameter in wild.layers.parameters():
        parameter.fill_(1e38)
    noisy, logits = torch.arange(7)[None] >= 3, []
    for gate in (None, Gate(wild, noisy, 3)):
        cache = cache_for(model)
        step(model, cache, [1, 2, 3, 4], masks.causal(0, 4))
        cache.commit(4)
        logits.append(verifying_forward(model, cache, gate))
    assert torch.equal(logits[0][:3], logits[1][:3])
    assert not bool(logits[1][3:].isfinite().all())


def test_drafts_never_survive() -> None:
    """What is not committed leaves no trace in any later forward."""
    model = MODELS["qwen2"]
    clean, used = cache_for(model), cache_for(model)
    for cache in (clean, used):
        step(model, cache, [1, 2, 3], masks.causal(0, 3))
        cache.commit(3)
    step(model, used, [9] * 30, masks.full(3, 30))
    used.commit(0)
    step(model, used, [8] * 5, masks.full(3, 5))  # and this one is not even dismissed
    mask = masks.causal(3, 4)
    tokens = [4, 5, 6, 7]
    assert torch.equal(step(model, clean, tokens, mask), step(model, used, tokens, mask))
    assert clean.length == used.length == 3


def test_growing_past_the_capacity_keeps_what_is_there() -> None:
    model = MODELS["llama"]
    cache = cache_for(model, capacity=4)
    step(model, cache, [1, 2, 3], masks.causal(0, 3))
    cache.commit(3)
    before = [torch.stack(cache.committed(layer)).clone() for layer in range(2)]
    nbytes = cache.nbytes
    step(model, cache, [4] * 9, masks.causal(3, 9))
    assert cache.capacity >= 12
    assert cache.nbytes == nbytes // 4 * cache.capacity
    assert all(torch.equal(before[i], torch.stack(cache.committed(i))) for i in range(2))


def test_reserving_room_keeps_a_draft_that_is_yet_to_be_committed() -> None:
    model = MODELS["llama"]
    cache, other = cache_for(model, capacity=4), cache_for(model, capacity=64)
    for each in (cache, other):
        step(model, each, [1, 2, 3], masks.causal(0, 3))
        each.reserve(20)
        each.commit(3)
    assert torch.equal(torch.stack(cache.committed(1)), torch.stack(other.committed(1)))


def test_the_context_of_the_model_is_the_limit() -> None:
    model = transformer(config(max_positions=16))
    cache = cache_for(model)
    step(model, cache, [1] * 16, masks.causal(0, 16))
    cache.commit(16)
    with pytest.raises(InvalidRequest, match="17 tokens exceed the model's context of 16"):
        step(model, cache, [1], masks.causal(16, 1))
    assert cache.length == 16


def test_a_fork_and_its_origin_do_not_see_each_other() -> None:
    model = MODELS["qwen3"]
    origin = cache_for(model, capacity=64)
    step(model, origin, [1, 2, 3], masks.causal(0, 3))
    origin.commit(3)
    fork = origin.fork()
    for cache, token in ((origin, 7), (fork, 8)):
        step(model, cache, [token] * 4, masks.causal(3, 4))
        cache.commit(4)
    for cache, token in ((origin, 7), (fork, 8)):
        logits = step(model, cache, [9], masks.causal(7, 1))
        expected = forward(model, [1, 2, 3, *[token] * 4, 9])[-1:]
        assert (logits - expected).abs().max() <= TOLERANCE


@pytest.mark.parametrize(
    ("length", "capacity", "made"),
    [(None, 0, 24), (16, 0, 16), (0, 0, 0), (16, 40, 40), (16, 8, 16)],
)
def test_a_fork_takes_the_room_of_what_is_copied(
    length: int | None, capacity: int, made: int
) -> None:
    model = MODELS["qwen3"]
    origin, tokens = cache_for(model, capacity=256), list(range(1, 25))
    step(model, origin, tokens, masks.causal(0, 24))
    origin.commit(24)
    fork = origin.fork(length=length, capacity=capacity)
    assert fork.capacity == made and fork.nbytes == origin.nbytes // 256 * made
    rest = [*tokens[fork.length :], 7]
    logits = step(model, fork, rest, masks.causal(fork.length, len(rest)))
    assert (logits[-1] - forward(model, [*tokens, 7])[-1]).abs().max() <= TOLERANCE


def test_a_fork_of_one_row_serves_a_batch() -> None:
    model = MODELS["qwen2"]
    origin = cache_for(model)
    step(model, origin, [1, 2, 3], masks.causal(0, 3))
    origin.commit(3)
    rows = origin.fork(batch=3)
    assert rows.batch == 3
    tokens = torch.tensor([[4, 5], [6, 7], [8, 9]])
    with torch.no_grad():
        logits = model(tokens, torch.tensor([[3, 4]]), masks.causal(3, 2), rows)
    for row, pair in zip(logits, tokens.tolist(), strict=True):
        assert (row - forward(model, [1, 2, 3, *pair])[3:]).abs().max() <= TOLERANCE
    with pytest.raises(ValueError, match="cannot fork 3 rows into 2"):
        rows.fork(batch=2)


@pytest.mark.parametrize(
    ("operation", "argument"), [("commit", -1), ("commit", 3), ("truncate", -1), ("truncate", 5)]
)
def test_what_cannot_be_is_an_error_and_changes_nothing(operation: str, argument: int) -> None:
    cache = BlockCache(TOY_SHAPE, capacity=8)
    keys = torch.ones(1, TOY_SHAPE.n_kv_heads, 4, TOY_SHAPE.head_dim)
    for layer in range(2):
        cache.append(layer, keys, keys)
    cache.commit(4)
    for layer in range(2):
        cache.append(layer, keys[:, :, :2], keys[:, :, :2])
    with pytest.raises(ValueError, match="cannot"):
        getattr(cache, operation)(argument)
    assert cache.length == 4
    cache.commit(2)
    with pytest.raises(ValueError, match="cannot commit 1 of 0"):
        cache.commit(1)
    for layer in range(2):
        cache.append(layer, keys[:, :, :2], keys[:, :, :2])
    cache.truncate(5)
    with pytest.raises(ValueError, match="cannot commit 1 of 0"):
        cache.commit(1)


@pytest.mark.parametrize("by", [-7, 0, 1, 90])
@pytest.mark.parametrize(
    "shape", [*FAMILIES.values(), config(rotary_dim=4), config(rope_scaling=SLOWED)]
)
def test_moved_keys_and_values_are_those_of_a_text_that_stands_there(
    shape: TransformerConfig, by: int
) -> None:
    """Attention sees distances alone, so that a whole text may stand anywhere."""
    model, tokens = transformer(shape, seed=3), torch.arange(9)[None]

    def encoded(start: int) -> Tensor:
        cache = BlockCache(shape)
        with torch.no_grad():
            model(tokens, torch.arange(start, start + 9)[None], masks.causal(0, 9), cache)
        cache.commit(9)
        return cache.committed_all()

    here, there = encoded(10), encoded(10 + by)
    torch.testing.assert_close(shifted(shape, here, by), there, atol=TOLERANCE, rtol=TOLERANCE)
    assert by == 0 or not torch.allclose(here, there, atol=1e-2)
