"""A team's engine: two replicas on Ray Serve, real processes, real requests."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import re
import signal
import time
from collections.abc import Iterator
from contextlib import aclosing
from typing import Any

import pytest

pytest.importorskip("ray", reason="ray is not installed; `make cluster-check` installs it")

from blockdiff.client import wire
from blockdiff.errors import EngineDied, RateLimited, Superseded
from blockdiff.types import Finished, InfillRequest, Priority, Refinement
from tests.unit.cluster_world import Team, checkpoint, request, team
from tests.unit.scripted_service import collect, run, until

_PATIENCE_SECONDS = 180.0  # until Ray has made a replica of two, or two of one
DOCUMENT = "def area(w, h):\n    return w * h\n"


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Team]:
    folder = tmp_path_factory.mktemp("team")
    model = checkpoint(folder / "tiny", width=128, layers=6)
    with team(folder, model, min_replicas=2) as made:
        yield made


def metric(world: Team, name: str, **labels: str) -> float:
    with world.http() as http:
        text = http.get("/metrics").text
    samples = re.findall(rf"^{name}{{(.*)}} (.*)$", text, re.MULTILINE)
    wanted = [f'{label}="{value}"' for label, value in labels.items()]
    return sum(float(value) for said, value in samples if all(one in said for one in wanted))


def test_our_client_is_answered_as_by_an_engine_of_its_own(world: Team) -> None:
    async def story() -> list[Any]:
        async with world.client() as client:
            health = await client.health()
            assert (health.state.value, health.device) == ("ready", "cpu")
            return await collect(client, request(DOCUMENT, 20, tokens=24))

    *drafts, end = run(story())
    assert isinstance(end, Finished) and end.tokens
    assert [draft.seq for draft in drafts] == sorted({draft.seq for draft in drafts})
    assert drafts and all(isinstance(draft, Refinement) for draft in drafts)


def test_the_same_seed_writes_the_same_on_every_replica(world: Team) -> None:
    async def story() -> list[Any]:
        async with world.client() as client:
            asks = [collect(client, request(DOCUMENT, 20, 24)) for _ in range(24)]
            return await asyncio.gather(*asks)

    assert len(set(world.pids())) == 2
    assert len({events[-1].text for events in run(story())}) == 1


def test_requests_land_where_their_beginning_has_been_read(world: Team) -> None:
    """Twelve people type, each in a file of his own, several at a time."""
    lines = [[f"    x{who} = {who * 7919 + line}\n" for line in range(24)] for who in range(12)]

    async def typing(client: Any, who: int) -> list[int]:
        read = []
        for line in range(4, 24, 2):
            text = "".join(lines[who][:line])
            asked = request(text, len(text), 4, path=f"file{who}.py")
            end = (await collect(client, asked))[-1]
            read.append(end.cached_tokens)
        return read

    async def story() -> list[list[int]]:
        async with world.client() as client:
            return await asyncio.gather(*(typing(client, who) for who in range(12)))

    later = [cached > 16 for read in run(story()) for cached in read[1:]]
    assert sum(later) / len(later) >= 0.9
    with world.http() as http:
        text = http.get("/metrics").text
    counts = re.findall(r'^blockdiff_requests_total{.*finished.*replica="(\w+)"} (\S+)', text, re.M)
    assert min(float(count) for _, count in counts) >= 20 and len(counts) >= 2


BODY = {"document": DOCUMENT, "hole": {"start": 20, "end": 20}, "decoding": {"max_tokens": 4}}
WRONG = {
    "a body that is cut": ({"content": json.dumps(BODY)[:40]}, 400, "invalid_request"),
    "a body that is huge": ({"content": b" " * (wire.MOST_BYTES + 1)}, 413, "too_large"),
    "a body of another type": ({"content": b"\xff\xfe"}, 400, "invalid_request"),
    "an unknown key": ({"json": {**BODY, "n": 1}}, 400, "invalid_request"),
    "a wrong key": ({"json": BODY, "headers": {"Authorization": "Bearer no"}}, 401, "unauthorized"),
    "no key": ({"json": BODY, "headers": {"Authorization": ""}}, 401, "unauthorized"),
    "another protocol": ({"json": BODY, "headers": {"Blockdiff-Api": "1"}}, 409, "engine_mismatch"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_refused_has_a_status_and_a_code(world: Team, name: str) -> None:
    sent, status, code = WRONG[name]
    with world.http() as http:
        answer = http.post("/v1/infill", **sent)
        assert (answer.status_code, answer.json()["code"]) == (status, code)
        assert http.post("/v1/infill", json=BODY).status_code == 200  # it goes on


@pytest.mark.parametrize(("path", "status"), [("/nothing", 404), ("/v1/stop", 403)])
def test_what_nobody_may(world: Team, path: str, status: int) -> None:
    with world.http() as http:
        assert http.post(path).status_code == status


def test_a_quota_and_what_runs_at_once_are_kept_per_user(world: Team) -> None:
    async def story() -> list[str]:
        async with world.client(world.bob) as bob, world.client() as ada:
            long = request("x = 1\n" * 20, 30, 1024)
            async with aclosing(bob.infill(long)) as events:
                await anext(events)
                with pytest.raises(RateLimited, match="running already"):
                    await collect(bob, request(DOCUMENT, 20))
            await asyncio.sleep(0.5)  # until the gateway has seen that he left
            for _ in range(2):
                await collect(bob, request(DOCUMENT, 20))
            with pytest.raises(RateLimited, match="quota of bob") as refused:
                await collect(bob, request(DOCUMENT, 20))
            assert isinstance((await collect(ada, request(DOCUMENT, 20)))[-1], Finished)
            return [refused.value.hint]

    assert re.fullmatch(r"ask in \d+ s", run(story())[0])


def test_a_user_who_is_removed_is_not_let_in_any_more(world: Team) -> None:
    token = world.users.add("eve", "", 1)
    with world.http(token) as http:
        assert http.get("/health").status_code == 200
        world.users.remove("eve")
        assert http.get("/health").status_code == 401


def test_who_leaves_ends_his_request(world: Team) -> None:
    before = metric(world, "blockdiff_requests_total", outcome="cancelled")

    async def leave(client: Any, seed: int) -> None:
        async with aclosing(client.infill(request("x = 1\n" * 20, 30, 1024, seed))) as events:
            await anext(events)

    async def story() -> None:
        async with world.client() as client:
            await asyncio.gather(*(leave(client, seed) for seed in range(4)))

    run(story())

    def ended() -> bool:
        return metric(world, "blockdiff_requests_total", outcome="cancelled") > before

    asyncio.run(until(ended))


def test_a_newer_completion_replaces_an_older_one(world: Team) -> None:
    async def story() -> None:
        async with world.client() as client:
            older = client.infill(
                request(DOCUMENT, 20, 1024), priority=Priority.AUTOMATIC, source="a"
            )
            async with aclosing(older):
                await anext(older)
                newer = await collect(client, request("x = 1\n", 2), Priority.AUTOMATIC, "a")
                assert isinstance(newer[-1], Finished)
                with pytest.raises(Superseded):
                    async for _ in older:
                        pass

    run(story())


def test_clients_of_other_servers_come_in_by_their_own_door(world: Team) -> None:
    asked = {"input_prefix": "def f(x):\n", "prompt": "    re", "input_suffix": "\n"}
    with world.http() as http:
        assert "content" in http.post("/compat/infill", json=asked).json()
        prompt = {"model": "any", "prompt": "def f(x):\n", "suffix": "\n", "max_tokens": 4}
        said = http.post("/compat/v1/completions", json=prompt).json()
        assert said["choices"][0]["finish_reason"] in ("stop", "length")
    with world.http("wrong") as http:
        assert http.post("/compat/infill", json=asked).status_code == 401


def test_a_replica_that_is_killed_takes_along_only_what_it_was_writing(world: Team) -> None:
    """Forty requests at once; those that break off do so with a typed error and can be repeated."""
    drafts = asyncio.Event()

    async def ask(client: Any, what: InfillRequest) -> Finished | EngineDied:
        try:
            async with aclosing(client.infill(what)) as events:
                async for event in events:
                    drafts.set()
                    if isinstance(event, Finished):
                        return event
        except EngineDied as died:
            return died
        raise AssertionError("it ended without an end")

    async def story() -> list[Finished | EngineDied]:
        killed = (await asyncio.to_thread(world.pids))[0]
        async with world.client() as client:
            whats = [request(f"x{i} = 1\n" * 20, 30, 256, i, f"{i}.py") for i in range(40)]
            asks = [asyncio.ensure_future(ask(client, what)) for what in whats]
            await drafts.wait()
            await asyncio.sleep(0.3)
            os.kill(killed, signal.SIGKILL)
            ends = await asyncio.gather(*asks)
            lost = [what for what, end in zip(whats, ends, strict=True) if not _is_finished(end)]
            again = await asyncio.gather(*(ask(client, what) for what in lost))
            assert all(map(_is_finished, again))
            return ends

    lost = [end for end in run(story()) if not _is_finished(end)]
    assert 1 <= len(lost) <= 8  # as many as are written at once
    patience = time.monotonic() + _PATIENCE_SECONDS
    while len(world.pids()) < 2:  # Ray starts another
        assert time.monotonic() < patience
        time.sleep(0.2)


@pytest.mark.timeout(5 * _PATIENCE_SECONDS)
def test_replicas_come_with_load_and_go_without_and_no_request_is_lost(world: Team) -> None:
    """Eight people write until there are two replicas, two of them until one is left."""
    world.deploy(
        min_replicas=1, max_replicas=2, target_ongoing_requests=3,
        upscale_delay_s=1, downscale_delay_s=2,
    )  # fmt: skip
    _await_replicas(world, 1)  # there were two

    async def write(client: Any, who: int, over: asyncio.Event) -> list[Any]:
        ends, seeds = [], itertools.count()
        while not over.is_set():
            asked = request(f"x{who} = 1\n" * 20, 30, 128, next(seeds), f"{who}.py")
            ends.append((await collect(client, asked))[-1])
        return ends

    async def story() -> list[Any]:
        load, all_over = asyncio.Event(), asyncio.Event()
        async with world.client() as client:
            asks = [
                asyncio.ensure_future(write(client, who, load if who >= 2 else all_over))
                for who in range(8)
            ]
            await asyncio.to_thread(_await_replicas, world, 2)
            load.set()
            await asyncio.to_thread(_await_replicas, world, 1)
            all_over.set()
            return list(itertools.chain(*await asyncio.gather(*asks)))

    ends = run(story(), 2 * _PATIENCE_SECONDS)
    assert all(map(_is_finished, ends)) and len(ends) >= 8


def _await_replicas(world: Team, count: int) -> None:
    end = time.monotonic() + _PATIENCE_SECONDS
    while world.replicas() != {"RUNNING": count}:
        assert time.monotonic() < end, world.replicas()
        time.sleep(0.2)


def _is_finished(end: object) -> bool:
    return isinstance(end, Finished)
