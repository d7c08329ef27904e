"""The service over the real engine, with a tiny random checkpoint: the same text, for everybody."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator
from contextlib import aclosing
from dataclasses import replace

import pytest

from blockdiff.client import endpoint
from blockdiff.client.client import EngineClient
from blockdiff.client.endpoint import Runtime
from blockdiff.config import DecodingConfig, Mode
from blockdiff.engine.engine import Engine
from blockdiff.errors import InvalidRequest, Superseded
from blockdiff.types import Finished, Hole, InfillRequest, Priority, Refinement
from tests.unit.scripted_service import collect, run, served
from tests.unit.tiny_checkpoint import checkpoint

DOCUMENT = "def area(width, height):\n    \n\nprint(area(3, 4))\n"


@pytest.fixture(scope="module")
def runtime(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runtime]:
    """Of a service that runs."""
    made = Runtime(tmp_path_factory.mktemp("service") / "run")
    with served(made, lambda report: Engine(checkpoint())):
        yield made


def request(seed: int = 3, mode: Mode = Mode.VERIFY, **changes: object) -> InfillRequest:
    decoding = DecodingConfig(mode=mode, max_tokens=8, temperature=1.0, seed=seed)
    made = InfillRequest(DOCUMENT, Hole(29, 29), "area.py", request_id=str(seed), decoding=decoding)
    return replace(made, **changes)  # type: ignore[arg-type]


def what_was_written(end: object) -> tuple[str, int, int]:
    assert isinstance(end, Finished)
    return end.text, end.tokens, end.forwards


@pytest.mark.parametrize("mode", list(Mode))
def test_it_streams_what_the_engine_yields(runtime: Runtime, mode: Mode) -> None:
    async def story() -> None:
        async with EngineClient(runtime=runtime) as client:
            *refinements, end = await collect(client, request(mode=mode))
        *expected, expected_end = Engine(checkpoint()).infill(request(mode=mode))
        assert what_was_written(end) == what_was_written(expected_end)
        drafts = {event.text for event in expected if isinstance(event, Refinement)}
        assert refinements and {r.text for r in refinements if isinstance(r, Refinement)} <= drafts

    run(story())


def test_a_bad_request_is_the_engine_s_own_typed_error(runtime: Runtime) -> None:
    async def story() -> None:
        async with EngineClient(runtime=runtime) as client:
            big = request(document="x = 1\n" * 2000, context_tokens=100_000)
            with pytest.raises(InvalidRequest, match="exceed the model's context"):
                await collect(client, big)
            assert isinstance((await collect(client, request()))[-1], Finished)

    run(story())


def test_the_same_request_again_is_answered_from_the_cache(runtime: Runtime) -> None:
    async def story() -> None:
        async with EngineClient(runtime=runtime) as client:
            await collect(client, request())
            end = (await collect(client, request()))[-1]
        assert isinstance(end, Finished)
        assert end.context_tokens - end.cached_tokens < 16

    run(story())
    announced = runtime.announced()
    assert announced is not None
    with endpoint.sync_client(announced.address, runtime.token(), 10.0) as http:
        lines = http.get("/metrics").text.splitlines()
    ratio = next(line for line in lines if line.startswith("blockdiff_cached_token_ratio"))
    assert 0.0 < float(ratio.split()[-1]) < 1.0


def test_eight_clients_that_cancel_at_random_get_their_own_answers(runtime: Runtime) -> None:
    reference = Engine(checkpoint())
    expected = {
        seed: what_was_written(list(reference.infill(request(seed)))[-1]) for seed in range(6)
    }

    async def one(client: EngineClient, rng: random.Random) -> None:
        wanted, fate = request(rng.randrange(6)), rng.randrange(3)
        priority, source = Priority.EXPLICIT, ""
        if fate == 1:
            priority, source = Priority.AUTOMATIC, f"file:///{rng.randrange(3)}"
        events = client.infill(wanted, priority=priority, source=source)
        patience = rng.randrange(4) if fate == 0 else None
        async with aclosing(events):
            try:
                async for event in events:
                    assert event.request_id == wanted.request_id
                    if isinstance(event, Finished):
                        assert what_was_written(event) == expected[wanted.decoding.seed]
                    if patience is not None and (patience := patience - 1) < 0:
                        return
            except Superseded:
                assert priority is Priority.AUTOMATIC

    async def window(number: int) -> None:
        rng = random.Random(number)
        async with EngineClient(runtime=runtime) as client:
            for _ in range(3):
                await asyncio.gather(*(one(client, rng) for _ in range(2)))

    async def story() -> None:
        await asyncio.gather(*(window(number) for number in range(8)))
        async with EngineClient(runtime=runtime) as client:
            assert (await client.health()).waiting == 0

    run(story())


def metric(runtime: Runtime, name: str) -> float:
    announced = runtime.announced()
    assert announced is not None
    with endpoint.sync_client(announced.address, runtime.token(), 10.0) as http:
        lines = http.get("/metrics").text.splitlines()
    return float(next(line.split()[-1] for line in lines if line.startswith(f"{name} ")))


def typed(text: str) -> InfillRequest:
    """A request after `text` was typed in the second line."""
    before, after = "def area(width, height):\n    ", "\n\nprint(area(3, 4))\n" * 3
    at = len(before) + len(text)
    return request(document=before + text + after, hole=Hole(at, at))


def test_after_five_typed_characters_hardly_any_context_is_encoded(runtime: Runtime) -> None:
    async def story() -> None:
        async with EngineClient(runtime=runtime) as client:
            await collect(client, typed("retur"))
            names = ("blockdiff_context_tokens_total", "blockdiff_cached_tokens_total")
            context, cached = (metric(runtime, name) for name in names)
            end = (await collect(client, typed("return wid")))[-1]
            assert isinstance(end, Finished) and end.context_tokens > 60
            assert 0 < end.context_tokens - end.cached_tokens < 16
            assert metric(runtime, names[0]) - context == end.context_tokens
            assert metric(runtime, names[1]) - cached == end.cached_tokens

    run(story())


def test_what_is_encoded_ahead_is_in_the_cache(runtime: Runtime) -> None:
    async def story() -> None:
        wanted = request(document="# ahead\n" + DOCUMENT, hole=Hole(37, 37))
        async with EngineClient(runtime=runtime) as client:
            before = metric(runtime, "blockdiff_ahead_tokens_total")
            warmed = await client.warm(wanted, source="file:///a")
            assert warmed.request_id == wanted.request_id
            assert warmed.context_tokens - warmed.cached_tokens > 16
            encoded = metric(runtime, "blockdiff_ahead_tokens_total") - before
            assert encoded == warmed.context_tokens - warmed.cached_tokens
            end = (await collect(client, wanted))[-1]
        assert isinstance(end, Finished)
        assert end.context_tokens == warmed.context_tokens == end.cached_tokens + 1
        assert what_was_written(end) == what_was_written([*Engine(checkpoint()).infill(wanted)][-1])

    run(story())


def test_what_the_cache_holds_is_told(runtime: Runtime) -> None:
    async def story() -> None:
        async with EngineClient(runtime=runtime) as client:
            await collect(client, request(document="x = 1\n" * 40, hole=Hole(120, 120)))
            health = await client.health()
        assert health.context_speed > 0

    run(story())
    assert metric(runtime, "blockdiff_cache_entries") >= 1
    assert 0 < metric(runtime, "blockdiff_cache_bytes") <= 512 << 20
    assert metric(runtime, "blockdiff_context_speed") > 0
