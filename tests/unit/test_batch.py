"""Requests that share forwards get what they would have got alone."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import FAMILIES, adapter, transformer
from torch import Tensor

from blockdiff.config import DecodingConfig, Mode
from blockdiff.diffusion.drafter import Speculation
from blockdiff.diffusion.row_costs import CHEAP, INT8, RowCosts
from blockdiff.engine.batch import Batch, Steps, Told
from blockdiff.engine.contexts import never
from blockdiff.engine.engine import Engine
from blockdiff.errors import Cancelled, OutOfMemory
from blockdiff.model import masks
from blockdiff.model.cache import BlockCache
from blockdiff.model.forward import Forward, run
from blockdiff.model.layer import Gate
from blockdiff.types import (
    Event,
    Finished,
    Hole,
    InfillRequest,
    Refinement,
    Request,
    RewriteRequest,
    Unread,
    Warmed,
)
from tests.unit.tiny_checkpoint import checkpoint

DOCUMENT = "def area(width, height):\n    \n\nprint(area(3, 4))\n"
MODELS = {name: transformer(shape, seed=11) for name, shape in FAMILIES.items()}
ADAPTERS = {name: (adapter(shape, 12), adapter(shape, 13)) for name, shape in FAMILIES.items()}


def infill(number: int, **changes: object) -> InfillRequest:
    """No two of them are the same: other texts, modes and seeds."""
    mode = list(Mode)[number % 3]
    decoding = DecodingConfig(mode=mode, max_tokens=4 + number, temperature=1.0, seed=number)
    document = DOCUMENT + f"print({number})\n" * (number % 4)
    made = InfillRequest(document, Hole(29, 29), "area.py", request_id=str(number))
    return replace(made, decoding=decoding, **changes)  # type: ignore[arg-type]


def rewrite(number: int) -> RewriteRequest:
    span = Hole(DOCUMENT.index("print"), len(DOCUMENT) - 1)
    return RewriteRequest(DOCUMENT, span, strength=0.5, path="area.py", request_id=str(number))


def some(count: int) -> list[Request]:
    return [rewrite(n) if n % 5 == 4 else infill(n) for n in range(count)]


def alone(wanted: Request) -> list[Event]:
    engine = Engine(checkpoint())
    events = engine.rewrite(wanted) if isinstance(wanted, RewriteRequest) else engine.infill(wanted)
    return list(events)


def read(event: Told) -> object:
    return event.read() if isinstance(event, Unread) else event


def content(events: Sequence[Told]) -> list[object]:
    """Without times, and without how much was found in the cache."""
    told: list[object] = []
    for event in map(read, events):
        if isinstance(event, Refinement):
            spans = [(span.start, span.end, span.settled) for span in event.spans]
            told.append((event.text, spans, event.forwards))
        elif isinstance(event, Finished):
            told.append((event.text, event.tokens, event.forwards, event.finish))
        else:
            told.append(event)
    return told


def assert_same(found: Sequence[Told], expected: Sequence[Told]) -> None:
    """The same was told; how sure the model was agrees to within rounding."""
    assert content(found) == content(expected)
    sure = [
        [s.confidence for e in map(read, events) if isinstance(e, Refinement) for s in e.spans]
        for events in (found, expected)
    ]
    assert sure[0] == pytest.approx(sure[1], abs=2e-4)


class Reader:
    """What each request was told."""

    def __init__(self, engine: Engine) -> None:
        self.told: dict[int, list[Told]] = {}
        self.batch: Batch[int] = engine.batch()

    def step(self) -> None:
        for key, what in self.batch.step():
            self.told.setdefault(key, []).append(what)

    def finish(self) -> None:
        while len(self.batch):
            self.step()


# --- forwards ------------------------------------------------------------------------------------


@given(
    family=st.sampled_from(sorted(FAMILIES)),
    shapes=st.lists(
        st.tuples(st.integers(0, 5), st.integers(1, 4), st.integers(0, 3), st.booleans()),
        min_size=2,
        max_size=4,
    ),
)
@settings(max_examples=25, deadline=None)
def test_forwards_together_are_forwards_alone(
    family: str, shapes: list[tuple[int, int, int, bool]]
) -> None:
    """For any pasts, numbers of exact and noisy positions, rows asked for, and two adapters."""
    model, adapters = MODELS[family], ADAPTERS[family]

    def forwards() -> list[Forward]:
        draw, made = torch.Generator().manual_seed(5), []
        for past, exact, noisy, wants in shapes:
            cache = BlockCache(model.config)
            tokens = torch.randint(0, 30, (1, past + exact + noisy), generator=draw)
            places = torch.arange(past + exact + noisy)[None]
            if past:
                before = masks.causal(0, past)
                model.hidden(tokens[:, :past], places[:, :past], before, cache)
                cache.commit(past)
            masked = torch.arange(exact + noisy)[None] >= exact
            made.append(
                Forward(
                    tokens[:, past:],
                    places[:, past:],
                    masks.opening(past, exact, noisy),
                    cache,
                    Gate(adapters[noisy % 2], masked, exact) if noisy else None,
                    exact - 1 if wants else None,
                )
            )
        return made

    with torch.inference_mode():
        together, apart = forwards(), forwards()
        logits = run(model, together)
        for one, other, found in zip(together, apart, logits, strict=True):
            expected = run(model, [other])[0]
            assert len(found) == len(expected) == (one.wanted is not None and one.size - one.wanted)
            if len(found):
                torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)
            one.cache.commit(one.size)  # type: ignore[attr-defined]
            other.cache.commit(one.size)  # type: ignore[attr-defined]
            for layer in range(model.config.n_layers):
                pair = zip(
                    one.cache.committed(layer),  # type: ignore[attr-defined]
                    other.cache.committed(layer),  # type: ignore[attr-defined]
                    strict=True,
                )
                for mine, its in pair:
                    torch.testing.assert_close(mine, its, rtol=0, atol=1e-4)


# --- requests ------------------------------------------------------------------------------------


@given(starts=st.lists(st.integers(0, 12), min_size=2, max_size=8))
@settings(max_examples=8, deadline=None)
def test_whenever_requests_begin_each_is_told_what_it_would_be_alone(starts: list[int]) -> None:
    wanted = some(len(starts))
    engine = Engine(checkpoint())
    reader = Reader(engine)
    for step in range(max(starts) + 1):
        for number, start in enumerate(starts):
            if start == step:
                reader.batch.add(number, engine.steps(wanted[number], never))
        reader.step()
    reader.finish()
    for number, request in enumerate(wanted):
        assert_same(reader.told[number], alone(request))


def test_they_share_forwards() -> None:
    engine, wanted = Engine(checkpoint()), some(4)
    sizes: list[int] = []
    told: list[Told] = []

    def counted(waiting: Sequence[Forward]) -> list[Tensor]:
        sizes.append(len(waiting))
        return engine.forward(waiting)

    batch: Batch[int] = Batch(counted)
    for number, request in enumerate(wanted):
        batch.add(number, engine.steps(request, never))
    while len(batch):
        told += [what for _, what in batch.step()]
    ends = [end for end in told if isinstance(end, Finished)]
    assert len(ends) == 4 and max(sizes) == 4
    assert len(sizes) < sum(end.forwards for end in ends)


@given(looks=st.lists(st.integers(0, 25), min_size=3, max_size=3))
@settings(max_examples=10, deadline=None)
def test_a_request_that_is_cancelled_changes_nothing_for_the_others(looks: list[int]) -> None:
    engine = Engine(checkpoint())
    reader, wanted = Reader(engine), some(6)
    for number, request in enumerate(wanted):
        flag = _up_after(looks[number // 2]) if number % 2 else never
        reader.batch.add(number, engine.steps(request, flag))
    reader.finish()
    for number, request in enumerate(wanted):
        *_, end = reader.told[number]
        if number % 2 == 0 or not isinstance(end, Exception):
            assert_same(reader.told[number], alone(request))
        else:
            assert isinstance(end, Cancelled)
    for request in wanted:  # and the engine is as it was
        reader.batch.add(99, engine.steps(request, never))
        reader.finish()
        assert_same(reader.told.pop(99), alone(request))


def _up_after(looks: int) -> Callable[[], bool]:
    counted = itertools.count()
    return lambda: next(counted) >= looks


def test_a_context_that_another_request_is_encoding_is_encoded_once() -> None:
    engine = Engine(checkpoint())
    reader = Reader(engine)
    long = infill(0, document=DOCUMENT + "x = 1\n" * 20)
    for number in range(4):
        seed = replace(long.decoding, seed=number)
        reader.batch.add(number, engine.steps(replace(long, decoding=seed), never))
    reader.finish()
    ends = [reader.told[number][-1] for number in range(4)]
    assert all(isinstance(end, Finished) for end in ends)
    cached = [end.cached_tokens for end in ends if isinstance(end, Finished)]
    assert cached[0] == 0 and min(cached[1:]) > 100
    assert engine.cache_entries == 1


def test_encoding_ahead_in_a_batch_ends_with_what_it_has_warmed() -> None:
    engine = Engine(checkpoint())
    reader = Reader(engine)
    reader.batch.add(0, engine.steps(infill(0), never, ahead=True))
    reader.finish()
    (warmed,) = reader.told[0]
    assert isinstance(warmed, Warmed) and warmed.context_tokens > 0
    assert engine.cache_entries == 1


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("out of memory"), RuntimeError("no")])
def test_what_fails_together_and_not_alone_ends_nobody(error: Exception) -> None:
    engine = Engine(checkpoint())
    failed: list[int] = []

    def runner(waiting: Sequence[Forward]) -> list[Tensor]:
        if len(waiting) > 1:
            failed.append(len(waiting))
            raise error
        return engine.forward(waiting)

    reader = Reader(engine)
    reader.batch.runner = runner
    for number in range(3):
        reader.batch.add(number, engine.steps(infill(number), never))
    reader.finish()
    assert failed
    for number in range(3):
        assert_same(reader.told[number], alone(infill(number)))


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
        RuntimeError("MPS backend out of memory (MPS allocated: 8.83 GB, max allowed: 9.07 GB)."),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"),
    ],
    ids=["cuda", "mps", "cublas", "cpu"],
)
def test_a_forward_that_fails_ends_its_request_and_no_other(error: Exception) -> None:
    """What memory there was is free again, whichever device says that it was too little."""
    engine, full = Engine(checkpoint()), [True]

    def runner(waiting: Sequence[Forward]) -> list[Tensor]:
        if full[0] and any(one.gate is not None for one in waiting):
            raise error
        return engine.forward(waiting)

    reader = Reader(engine)
    reader.batch.runner = runner
    for number in (0, 1):  # in the mode `ar`, and with an adapter
        reader.batch.add(number, engine.steps(infill(number), never))
    reader.finish()
    assert_same(reader.told[0], alone(infill(0)))
    assert isinstance(reader.told[1][-1], OutOfMemory)
    assert engine.cache_entries <= 1  # of the other request; that of this one is gone
    full[0] = False
    reader.batch.add(4, engine.steps(infill(4), never))
    reader.finish()
    assert_same(reader.told[4], alone(infill(4)))


def test_a_context_for_which_there_is_no_memory_takes_that_of_earlier_ones(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    engine, expected = Engine(checkpoint()), alone(infill(1))
    list(engine.infill(infill(0)))
    reserve = BlockCache.reserve

    def scarce(cache: BlockCache, positions: int) -> None:
        if engine.cache_entries:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        reserve(cache, positions)

    monkeypatch.setattr(BlockCache, "reserve", scarce)
    assert_same(list(engine.infill(infill(1))), expected)
    monkeypatch.setattr(engine.contexts.store, "clear", lambda: None)
    with pytest.raises(OutOfMemory):
        list(engine.infill(infill(2)))


def test_others_go_on_while_one_waits_for_another_thread() -> None:
    engine = Engine(checkpoint())
    reader, parsed = Reader(engine), Future[str]()

    def slow() -> Steps:
        said = yield parsed
        return replace(alone(infill(0))[-1], text=said)  # type: ignore[type-var]

    made: Future[Steps] = Future()
    reader.batch.prepare(0, made)
    reader.batch.add(1, engine.steps(infill(1), never))
    while 1 in reader.batch:
        reader.step()
    assert_same(reader.told[1], alone(infill(1)))
    made.set_result(slow())
    reader.step()
    reader.batch.add(2, engine.steps(infill(2), never))
    while 2 in reader.batch:
        reader.step()
    assert 0 in reader.batch and 0 not in reader.told
    parsed.set_result("at last")
    reader.finish()
    assert [getattr(event, "text", event) for event in reader.told[0]] == ["at last"]


def test_what_another_thread_raises_is_raised_in_the_request_that_waits_for_it() -> None:
    reader = Reader(Engine(checkpoint()))
    made, parsed = Future[Steps](), Future[str]()
    made.set_exception(ZeroDivisionError("while it was laid out"))
    parsed.set_exception(ValueError("while it was parsed"))

    def steps() -> Steps:
        yield parsed

    reader.batch.prepare(0, made)
    reader.batch.add(1, steps())
    reader.finish()
    assert [repr(reader.told[n]) for n in (0, 1)] == [
        "[ZeroDivisionError('while it was laid out')]", "[ValueError('while it was parsed')]"
    ]  # fmt: skip


def test_a_request_is_answered_by_the_results_of_its_parts() -> None:
    parsed = Future[str]()
    ended: list[str] = []

    def part(said: object, result: object) -> Steps:
        try:
            yield said
            if isinstance(result, Exception):
                raise result
            return result
        finally:
            ended.append(str(result))

    def whole(*parts: Steps) -> Steps:
        return (yield [*parts])

    reader = Reader(Engine(checkpoint()))
    reader.batch.add(0, whole())
    reader.batch.add(1, whole(part(parsed, "a"), part("on the way", "b")))
    reader.batch.add(2, whole(part(parsed, "c"), part("soon", ValueError("d"))))
    assert len(reader.batch) == 3
    reader.step()
    assert ended == ["b", "d", "c"] and len(reader.batch) == 1
    parsed.set_result("")
    reader.finish()
    assert reader.told[0] == [[]] and reader.told[1] == ["on the way", ["a", "b"]]
    assert repr(reader.told[2]) == "['soon', ValueError('d')]"


@pytest.mark.parametrize("costs", [CHEAP, INT8])
def test_drafts_for_every_length_share_forwards_too(costs: RowCosts) -> None:
    engine, other = Engine(checkpoint()), Engine(checkpoint())
    engine.contexts.speculation = other.contexts.speculation = Speculation(costs, 8)
    reader, wanted = Reader(engine), [infill(3 * n + 2) for n in range(3)]
    for number, request in enumerate(wanted):
        reader.batch.add(number, engine.steps(request, never))
    reader.finish()
    for number, request in enumerate(wanted):
        assert_same(reader.told[number], [*other.infill(request)])


def test_a_crowd_drafts_less_and_writes_the_same() -> None:
    """Greedy requests have no masks while others write; what they write stays that of `ar`."""
    engine = Engine(checkpoint())
    engine.contexts.speculation = Speculation(INT8, 8, shared=True)
    reader = Reader(engine)
    greedy = DecodingConfig(mode=Mode.VERIFY, max_tokens=24)
    wanted = [replace(infill(n), decoding=greedy) for n in range(3)]
    masked = {"alone": 0, "crowd": 0}

    def counting(kind: str) -> Callable[[Sequence[Forward]], list[Tensor]]:
        def forward(waiting: Sequence[Forward]) -> list[Tensor]:
            masked[kind] += sum(one.gate is not None for one in waiting)
            return engine.forward(waiting)

        return forward

    for kind, groups in (("alone", [[0], [1], [2]]), ("crowd", [[0, 1, 2]])):
        reader.batch.runner = counting(kind)
        for group in groups:
            for number in group:
                reader.batch.add(number, engine.steps(wanted[number], never))
            reader.finish()
        for number, request in enumerate(wanted):
            plain = replace(request, decoding=replace(greedy, mode=Mode.AR))
            end, expected = reader.told[number][-1], alone(plain)[-1]
            assert isinstance(end, Finished) and isinstance(expected, Finished)
            assert end.text == expected.text
    assert masked["crowd"] < masked["alone"]
