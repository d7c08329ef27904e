"""Forwards padded to fixed shapes are the forwards that they stand for."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import FAMILIES, adapter, config, transformer
from torch import Tensor

from blockdiff.config import DecodingConfig, Mode, Rule
from blockdiff.diffusion.row_costs import MOST_ROWS
from blockdiff.engine import devices
from blockdiff.engine.engine import Engine
from blockdiff.errors import InvalidRequest
from blockdiff.model import masks
from blockdiff.model.cache import BlockCache
from blockdiff.model.config import ExpertsConfig, TransformerConfig
from blockdiff.model.cuda.graphs import GraphedRunner, Inputs, Record, eagerly, padded_forward
from blockdiff.model.cuda.mirror import Mirror, Window
from blockdiff.model.cuda.shapes import KEYS, GraphShape, shapes_for
from blockdiff.model.forward import Forward, run
from blockdiff.model.layer import Gate
from blockdiff.types import Event, Hole, InfillRequest, Refinement, RewriteRequest
from tests.unit.test_batch import Reader, content
from tests.unit.tiny_checkpoint import checkpoint

SHAPES = [
    GraphShape(batch, rows, keys, gated)
    for batch in (1, 3)
    for rows in (1, 2, 4, 8)
    for keys in (8, 16, 32)
    for gated in (False, True)
]
CLOSE = {"rtol": 0.0, "atol": 1e-4}  # sums over more keys are added up in another order
MODELS = {name: transformer(shape, seed=21) for name, shape in FAMILIES.items()}
ADAPTERS = {name: adapter(shape, 22) for name, shape in FAMILIES.items()}


class Counting:
    """Records as `eagerly` does, and counts."""

    def __init__(self) -> None:
        self.recorded = self.replayed = 0

    def __call__(self, body: Callable[[], None]) -> Callable[[], None]:
        self.recorded += 1

        def replay() -> None:
            self.replayed += 1
            body()

        return replay


def runner(family: str, record: Record = eagerly) -> GraphedRunner:
    return GraphedRunner(MODELS[family], ADAPTERS[family], record, SHAPES)


def filled(family: str, length: int, seed: int = 0) -> BlockCache:
    """With so many committed tokens, and hardly any room."""
    model = MODELS[family]
    cache = BlockCache(model.config, capacity=max(length, 1))
    if length:
        run(model, [forward(family, cache, masks.causal(0, length), seed=seed)])
        cache.commit(length)
    return cache


def forward(
    family: str,
    cache: BlockCache,
    mask: Tensor,
    exact: int | None = None,
    wanted: int | None = 0,
    seed: int = 0,
) -> Forward:
    """Random tokens behind those of a cache; those from `exact` on are noisy."""
    new, past = len(mask), cache.length
    draw = torch.Generator().manual_seed(100 * past + new + seed)
    tokens = torch.randint(0, 30, (1, new), generator=draw)
    gate = None
    if exact is not None:
        gate = Gate(ADAPTERS[family], torch.arange(new)[None] >= exact, exact)
    return Forward(tokens, torch.arange(past, past + new)[None], mask, cache, gate, wanted)


def keys_values(cache: BlockCache, drafts: int) -> Tensor:
    cache.commit(drafts)
    return cache.committed_all()


FORWARDS = {
    "one token": (masks.causal, (1,), None),
    "several, causal": (masks.causal, (3,), None),
    "as many as there is a shape for": (masks.causal, (8,), None),
    "a block of masks": (masks.full, (5,), 0),
    "exact ones and a block": (masks.opening, (2, 4), 2),
    "a draft and groups of masks": (masks.verifying, (3, (1, 2), 2), 3),
}


@pytest.mark.parametrize("past", [0, 1, 7, 8, 21])
@pytest.mark.parametrize("what", FORWARDS)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_padded_forward_is_the_plain_one(family: str, what: str, past: int) -> None:
    """Logits, and what it leaves in the cache."""
    build, arguments, exact = FORWARDS[what]
    mask = build(past, *arguments)
    plain, padded = filled(family, past), filled(family, past)
    expected = run(MODELS[family], [forward(family, plain, mask, exact)])[0]
    record = Counting()
    found = runner(family, record)([forward(family, padded, mask, exact)])[0]
    assert record.replayed == 1
    torch.testing.assert_close(found, expected, **CLOSE)
    new = len(mask)
    torch.testing.assert_close(keys_values(padded, new), keys_values(plain, new), **CLOSE)


def test_noisy_positions_may_be_named_in_every_way() -> None:
    which = {
        "from one on": 2,
        "all": None,
        "each": torch.tensor([[False, True, True, False]]),
        "indices": torch.tensor([0, 3]),
    }
    padded = runner("qwen2")
    for name, noisy in which.items():
        caches = filled("qwen2", 5), filled("qwen2", 5)
        one, other = (forward("qwen2", cache, masks.causal(5, 4), 2) for cache in caches)
        assert one.gate is not None
        gate = replace(one.gate, noisy=noisy)
        expected = run(MODELS["qwen2"], [replace(one, gate=gate)])[0]
        found = padded([replace(other, gate=gate)])[0]
        torch.testing.assert_close(found, expected, **CLOSE, msg=name)


STEPS = st.tuples(
    st.sampled_from(["ar", "verify", "block", "encode", "together", "back", "fork"]),
    st.integers(0, 1),  # the request whose turn it is
    st.integers(1, 9),  # how many: nine are more than the largest shape
)


@given(st.sampled_from(sorted(FAMILIES)), st.lists(STEPS, min_size=3, max_size=14))
@settings(max_examples=40, deadline=None)
def test_requests_in_turn_get_what_plain_forwards_give_them(
    family: str, steps: list[tuple[str, int, int]]
) -> None:
    """Two requests, each with its twin under plain forwards, whatever happens to their caches.

    Caches grow, go past every size of the runner, are cut back and copied; forwards of both
    together and such that cannot be padded come between.
    """
    model = MODELS[family]
    padded = runner(family)
    pairs = [[filled(family, 3, seed), filled(family, 3, seed)] for seed in range(2)]

    def check(ways: Sequence[Sequence[Forward]], kept: int) -> None:
        found, expected = padded(ways[0]), run(model, ways[1])
        torch.testing.assert_close(found, expected, **CLOSE)
        for way in ways:
            for one in way:
                one.cache.commit(min(kept, one.size))  # type: ignore[attr-defined]

    for number, (what, turn, count) in enumerate(steps):
        pair = pairs[turn]
        past = pair[0].length
        if what == "back":
            for cache in pair:
                cache.truncate(max(past - count, 0))
        elif what == "fork":
            pairs[turn] = [cache.fork() for cache in pair]
        elif what == "together":
            sizes = (count, 2) if turn else (2, 1)  # not always the same place for the same one
            groups = [
                [
                    forward(family, c, masks.opening(c.length, 1, n), n or None, seed=number)
                    for c, n in zip(way, sizes, strict=True)
                ][:: 1 if turn else -1]
                for way in zip(*pairs, strict=True)
            ]
            check(groups, 1)
        else:
            exact = {"block": 0, "verify": 1}.get(what)
            if what == "block":
                mask = masks.full(past, count)
            elif what == "verify":
                mask = masks.opening(past, 1, count)
            else:
                mask = masks.causal(past, count)
            wanted = None if what == "encode" else 0
            ways = [[forward(family, c, mask, exact, wanted, number)] for c in pair]
            check(ways, 0 if what == "block" else count if exact is None else 1)
    for one, twin in pairs:
        torch.testing.assert_close(one.committed_all(), twin.committed_all(), **CLOSE)


def test_all_is_recorded_before_the_first_forward_and_the_largest_first() -> None:
    record = Counting()
    padded = runner("qwen2", record)
    assert record.recorded == len(SHAPES) == len(padded.shapes)
    sizes = [shape.positions for shape in padded.shapes]
    assert sizes == sorted(sizes) and list(padded._graphs) == padded.shapes[::-1]
    cache = filled("qwen2", 2)
    for _ in range(12):
        padded([forward("qwen2", cache, masks.causal(cache.length, 1))])
        cache.commit(1)
    assert (record.recorded, record.replayed) == (len(SHAPES), 12)


def test_requests_that_share_a_forward_are_padded_to_the_next_shape() -> None:
    """Each to its own rows and keys; more than there is a shape for run as they are."""
    record = Counting()
    padded = runner("qwen2", record)
    for count, replayed in ((2, 1), (3, 2), (4, 2)):
        ways = []
        for _ in range(2):
            caches = [filled("qwen2", 3 + 4 * n, n) for n in range(count)]
            built = [masks.opening(c.length, 1, n + 1) for n, c in enumerate(caches)]
            ways.append(
                [
                    forward("qwen2", c, mask, None if n == 1 else 1)
                    for n, (c, mask) in enumerate(zip(caches, built, strict=True))
                ]
            )
        found, expected = padded(ways[0]), run(MODELS["qwen2"], ways[1])
        assert record.replayed == replayed
        for one, other, this, that in zip(found, expected, *ways, strict=True):
            torch.testing.assert_close(one, other, **CLOSE)
            torch.testing.assert_close(
                keys_values(this.cache, this.size),  # type: ignore[arg-type]
                keys_values(that.cache, that.size),  # type: ignore[arg-type]
                **CLOSE,
            )


def test_the_largest_forwards_of_every_mode_have_a_shape() -> None:
    """What rewriting weighs together, a draft with its masks, a block; one token of eight."""
    model, pairs = MODELS["qwen2"], ADAPTERS["qwen2"]
    padded = GraphedRunner(model, pairs, eagerly, shapes_for(model, True))
    for count, rows, gated in (
        (1, 165, False), (1, MOST_ROWS, False), (1, MOST_ROWS, True), (1, 64, True),
        (8, 1, False), (8, 25, True), (1, 10, False), (8, MOST_ROWS, True),
    ):  # fmt: skip
        masked = Gate(pairs, torch.ones(1, rows, dtype=torch.bool)) if gated else None
        made = [
            Forward(
                torch.zeros(1, rows, dtype=torch.int64),
                torch.arange(rows)[None],
                masks.causal(0, rows),
                BlockCache(model.config),
                masked,
            )
            for _ in range(count)
        ]
        shape = padded.shape_of(made)
        assert shape is not None and shape.gated is gated, (count, rows)


def test_the_next_forward_leaves_the_logits_of_the_last_one_alone() -> None:
    padded, cache = runner("qwen2"), filled("qwen2", 2)
    first = padded([forward("qwen2", cache, masks.causal(2, 3))])[0]
    kept = first.clone()
    second = padded([forward("qwen2", cache, masks.causal(2, 3), seed=1)])[0]
    assert torch.equal(first, kept) and not torch.equal(first, second)


@pytest.mark.parametrize(
    ("past", "new", "wanted"), [(3, 9, 0), (30, 4, 0), (3, 4, None)], ids=["rows", "keys", "cache"]
)
def test_what_does_not_fit_runs_as_it_is(past: int, new: int, wanted: int | None) -> None:
    record = Counting()
    caches = filled("qwen2", past), filled("qwen2", past)
    one, other = (
        forward("qwen2", cache, masks.causal(past, new), wanted=wanted) for cache in caches
    )
    found = runner("qwen2", record)([one])[0]
    assert record.replayed == 0
    assert torch.equal(found, run(MODELS["qwen2"], [other])[0])


@pytest.mark.parametrize(
    "shape",
    [
        config(sliding_window=4),
        config(qkv_bias=False, experts=ExpertsConfig(count=4, active=2, size=8)),
    ],
    ids=["sliding window", "experts"],
)
def test_architectures_that_cannot_be_recorded_run_as_they_are(shape: TransformerConfig) -> None:
    record, model = Counting(), transformer(shape)
    padded = GraphedRunner(model, None, record, SHAPES)
    answers = []
    for way in (padded, lambda forwards: run(model, forwards)):
        cache = BlockCache(shape)
        made = Forward(torch.tensor([[3, 4, 5]]), torch.arange(3)[None], masks.causal(0, 3), cache)
        answers.append(way([made])[0])
    assert record.recorded == 0
    assert torch.equal(*answers)


def test_a_draft_that_is_no_number_spoils_nothing_that_comes_after() -> None:
    """A mask hides a key; but zero times what is not a number would still not be one."""
    model, spoiled = MODELS["qwen2"], adapter(FAMILIES["qwen2"], 22)
    spoiled.mask_embedding.data.fill_(torch.nan)
    padded = GraphedRunner(model, spoiled, eagerly, SHAPES)
    cache, plain = filled("qwen2", 4), filled("qwen2", 4)
    noisy = forward("qwen2", cache, masks.opening(4, 1, 5), 1)
    assert noisy.gate is not None
    logits = padded([replace(noisy, gate=replace(noisy.gate, adapter=spoiled))])[0]
    assert bool(torch.isnan(logits[1:]).any())
    cache.truncate(4)
    found = padded([forward("qwen2", cache, masks.causal(4, 1))])[0]
    expected = run(model, [forward("qwen2", plain, masks.causal(4, 1))])[0]
    torch.testing.assert_close(found, expected, **CLOSE)


def test_where_recording_fails_forwards_go_on_and_the_log_says_why(
    caplog: pytest.LogCaptureFixture,
) -> None:
    asked = []

    def refuse(body: Callable[[], None]) -> Callable[[], None]:
        body()  # a recording may fail after it has warmed up
        asked.append(body)
        raise RuntimeError("operation not permitted when stream is capturing")

    caches = filled("qwen2", 4), filled("qwen2", 4)
    with caplog.at_level(logging.WARNING, logger="blockdiff.model"):
        padded = runner("qwen2", refuse)
        for _ in range(3):
            one, other = (
                forward("qwen2", cache, masks.causal(cache.length, 2)) for cache in caches
            )
            assert torch.equal(padded([one])[0], run(MODELS["qwen2"], [other])[0])
            for cache in caches:
                cache.commit(2)
    assert len(asked) == 1
    assert [record.message for record in caplog.records] == [
        "CUDA graphs are off: GraphShape(batch=3, rows=8, keys=32, gated=True): "
        "operation not permitted when stream is capturing"
    ]


def test_a_cache_at_the_limit_of_the_model_is_refused_as_ever() -> None:
    shape = config(max_positions=6)
    model = transformer(shape)
    padded, cache = GraphedRunner(model, None, eagerly, SHAPES), BlockCache(shape, capacity=4)
    for new, fits in ((5, True), (2, False)):
        past = cache.length
        made = Forward(
            torch.ones(1, new, dtype=torch.int64),
            torch.arange(past, past + new)[None],
            masks.causal(past, new),
            cache,
        )
        if fits:
            padded([made])
            cache.commit(new)
            continue
        with pytest.raises(InvalidRequest):
            padded([made])
    assert cache.length == 5


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_recorded_waits_for_no_value_and_stays_on_its_device(
    family: str, gated: bool, batch: int
) -> None:
    """Both would end the recording of a CUDA graph, and tensors of the meta device refuse both."""
    shape, meta = FAMILIES[family], torch.device("meta")
    model, pairs = (copy.deepcopy(module).to(meta) for module in (MODELS[family], ADAPTERS[family]))
    inputs = Inputs.of(GraphShape(batch, 4, 16, gated), meta)
    mirror = Mirror(model, 3, 32, 8)
    window = Window(mirror.buffer, inputs.places, 16)
    logits = padded_forward(model, inputs, window, pairs if gated else None)
    assert logits.shape == (4 * batch, shape.vocab_size) and logits.is_meta
    for refused in (lambda: inputs.mask.any().item(), lambda: inputs.mask[inputs.mask]):
        with pytest.raises((RuntimeError, NotImplementedError)):
            refused()
    with pytest.raises(RuntimeError):
        mirror.buffer[0, 0] + torch.ones(16, shape.head_dim)


# --- in the engine -------------------------------------------------------------------------------

DOCUMENT = "def area(width, height):\n    \n\nprint(area(3, 4))\n"


def requests() -> list[InfillRequest | RewriteRequest]:
    made: list[InfillRequest | RewriteRequest] = [
        InfillRequest(
            DOCUMENT + f"print({number})\n" * number,
            Hole(29, 29),
            "area.py",
            decoding=DecodingConfig(mode=mode, rule=rule, max_tokens=16, temperature=heat, seed=3),
        )
        for number, (mode, rule, heat) in enumerate(
            [
                (Mode.AR, Rule.THRESHOLD, 0.0),
                (Mode.VERIFY, Rule.THRESHOLD, 0.0),
                (Mode.VERIFY, Rule.THRESHOLD, 1.0),
                (Mode.DIFFUSION, Rule.SCHEDULE, 0.0),
                (Mode.DIFFUSION, Rule.EDIT, 1.0),
            ]
        )
    ]
    span = Hole(DOCUMENT.index("print"), len(DOCUMENT) - 1)
    return [*made, RewriteRequest(DOCUMENT, span, strength=0.5, path="area.py")]


def ask(engine: Engine, wanted: InfillRequest | RewriteRequest) -> list[Event]:
    rewrites = isinstance(wanted, RewriteRequest)
    return list(engine.rewrite(wanted) if rewrites else engine.infill(wanted))  # type: ignore


def test_the_engine_writes_the_same_texts(monkeypatch: pytest.MonkeyPatch) -> None:
    """One after the other over one store of caches, then all in one batch.

    In float64: in float32 one processor rounds a draft of random weights to another token.
    """
    c = checkpoint()
    assert c.adapter is not None
    model, drafting = (copy.deepcopy(part).double() for part in (c.model, c.adapter))
    precise = replace(c, model=model, adapter=drafting)
    monkeypatch.setenv(devices.GRAPHS, "0")
    plain = Engine(precise)
    monkeypatch.setenv(devices.GRAPHS, "eager")
    record = Counting()
    monkeypatch.setattr(devices, "eagerly", record)
    padded = Engine(precise)
    assert record.recorded and not record.replayed
    for wanted in [*requests(), *reversed(requests())]:
        expected, found = ask(plain, wanted), ask(padded, wanted)
        assert content(found) == content(expected)
        assert any(isinstance(event, Refinement) for event in found)
    told, alone = [], record.replayed
    assert alone
    for engine in (plain, padded):
        reader = Reader(engine)
        for number, wanted in enumerate(requests()):
            reader.batch.add(number, engine.steps(wanted, lambda: False))
        reader.finish()
        told.append({number: content(events) for number, events in reader.told.items()})
    assert told[0] == told[1] and record.replayed > alone


@pytest.mark.parametrize(
    ("slots", "kinds"), [(8, {1, 4, 8}), (7, {1}), (0, set())], ids=["all", "alone", "none"]
)
def test_shapes_are_as_many_as_there_is_memory_for(slots: int, kinds: set[int]) -> None:
    c = (model := MODELS["qwen2"]).config
    each = 2 * c.n_layers * c.n_kv_heads * c.head_dim * 4 * KEYS[0]  # bytes, float32
    found = shapes_for(model, True, slots * each)
    assert {shape.batch for shape in found} == kinds


def test_graphs_are_for_cuda_and_may_be_switched_off(monkeypatch: pytest.MonkeyPatch) -> None:
    point = checkpoint()
    for value, padded in (("", False), ("0", False), ("1", False), ("eager", True)):
        monkeypatch.setenv(devices.GRAPHS, value)
        chosen = devices.choose_runner(point.model, point.adapter)
        assert isinstance(chosen, GraphedRunner) is padded
    monkeypatch.setenv(devices.GRAPHS, "yes")
    with pytest.raises(InvalidRequest, match="BLOCKDIFF_CUDA_GRAPHS"):
        devices.choose_runner(point.model, point.adapter)
