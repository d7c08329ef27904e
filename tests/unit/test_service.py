"""The engine service over a real socket, with a scripted engine behind it."""

from __future__ import annotations

import asyncio
import json
import logging
import re
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from blockdiff.client import endpoint, wire
from blockdiff.client.client import EngineClient
from blockdiff.client.endpoint import Runtime
from blockdiff.client.wire import EngineState
from blockdiff.config import MAX_BYTES
from blockdiff.errors import (
    BlockdiffError,
    EngineBusy,
    EngineStopping,
    ExitCode,
    ModelNotFound,
    OutOfMemory,
    RequestTooLarge,
    Superseded,
)
from blockdiff.service import bodies
from blockdiff.types import Finished, OnProgress, Priority, Progress, Refinement, RewriteRequest
from tests.unit.scripted_service import (
    SECRET,
    ScriptedEngine,
    collect,
    request,
    run,
    served,
    until,
)


@pytest.fixture
def runtime(tmp_path: Path) -> Runtime:
    return Runtime(tmp_path / "run")


@pytest.fixture
def engine(runtime: Runtime) -> Iterator[ScriptedEngine]:
    scripted = ScriptedEngine()
    with served(runtime, lambda report: scripted):
        yield scripted


@pytest.fixture
def http(runtime: Runtime, engine: ScriptedEngine) -> Iterator[httpx.Client]:
    with connection(runtime) as client:
        yield client


def connection(runtime: Runtime) -> httpx.Client:
    announced = runtime.announced()
    assert announced is not None
    return endpoint.sync_client(announced.address, runtime.token(), 20.0)


def body(**changes: Any) -> dict[str, Any]:
    return {"document": SECRET, "hole": {"start": 4, "end": 4}, **changes}


def metric(http: httpx.Client, name: str) -> float:
    """The sum of all samples of one name."""
    lines = re.findall(rf"^{name}(?:{{.*}})? (.*)$", http.get("/metrics").text, re.MULTILINE)
    assert lines, name
    return sum(map(float, lines))


def test_a_request_is_a_stream_of_server_sent_events(http: httpx.Client) -> None:
    with http.stream("POST", "/v1/infill", json=body(decoding={"max_tokens": 3})) as response:
        lines = list(response.iter_lines())
    assert response.headers["content-type"].startswith("text/event-stream")
    events = [json.loads(line[6:]) for line in lines if line.startswith("data: ")]
    names = [line[7:] for line in lines if line.startswith("event: ")]
    assert names == [event["event"] for event in events]
    assert set(names[:-1]) <= {"progress", "refinement"} and names[-1] == "finished"
    assert events[-1]["tokens"] == 6


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "not JSON"),
        ("{", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ('{"document": NaN}', "NaN is not a number that JSON knows"),
        ('{"path": "a", "path": "b"}', "a key appears twice"),
        ("[]", "the body must be an object, not an array"),
        (body(document=None), "document must be a string, not null"),
        (body(document="\ud800"), "document holds half of a surrogate pair at offset 0"),
        ({"hole": {"start": 0, "end": 0}}, "document is missing"),
        (body(hole=[1, 2]), "hole must be an object, not an array"),
        (body(hole={"start": 1}), "hole.end is missing"),
        (body(hole={"start": 1, "end": 2.5}), "hole.end must be an integer, not a number"),
        (body(hole={"start": True, "end": 1}), "hole.start must be an integer, not true or false"),
        (body(hole={"start": 5, "end": 4}), "hole 5..4 is inverted or negative"),
        (body(hole={"start": 0, "end": 999}), "hole ends at offset 999, the document has 29"),
        (body(prefix="x"), "unknown key 'prefix'"),
        (body(decoding={"max_token": 1}), "unknown key 'decoding.max_token'"),
        (body(decoding={"max_tokens": -1}), "max_tokens must be 0..8192, got -1"),
        (body(decoding={"mode": "fast"}), "decoding.mode must be one of ar, verify, diffusion"),
        (body(decoding={"temperature": "0"}), "decoding.temperature must be a number"),
        (body(decoding={"seed": 2**64}), "seed must be -2^63..2^64-1, got 18446744073709551616"),
        (body(decoding={"seed": -(2**63) - 1}), "seed must be -2^63..2^64-1"),
        (body(decoding={"seed": 10**30}), "seed must be -2^63..2^64-1"),
        (body(decoding={"seed": 1.0}), "decoding.seed must be an integer, not a number"),
        (body(decoding={"seed": "\ud800"}), "decoding.seed holds half of a surrogate pair"),
        (body(decoding={"threshold": 65}), "threshold must be in (0, 1], got 65.0"),
        (body(decoding={"max_tokens": 10**30}), "max_tokens must be 0..8192"),
        (body(decoding={"denoising_steps": 10**30}), "denoising_steps must be 0..8192"),
        (body(decoding={"block_size": 10**30}), "block_size must be 0..64"),
        (body(context_tokens=10**30), "context_tokens must be 16..1048576"),
        (body(request_id="x" * 1025), "request_id must have 1024 characters at most"),
        ('{"document": "", "hole": {"start": 0, "end": 0}, "decoding": {"top_p": 1e999}}',
         "decoding.top_p is too large a number"),
        (body(snippets=[{"path": "a"}]), "snippets[0].text is missing"),
        (body(priority="high"), "priority must be one of explicit, automatic"),
        (body(source=7), "source must be a string, not an integer"),
    ],
)  # fmt: skip
def test_bad_requests_are_refused_with_their_place(
    http: httpx.Client, engine: ScriptedEngine, content: Any, message: str
) -> None:
    raw = content if isinstance(content, str) else json.dumps(content)
    response = http.post("/v1/infill", content=raw)
    assert response.status_code == 400
    assert set(response.json()) == {"code", "message", "hint"}
    assert response.json()["code"] == "invalid_request"
    assert message in response.json()["message"]
    assert SECRET not in response.text and not engine.order


@pytest.mark.parametrize("header", ["", "Bearer", "Bearer wrong", "Basic x", "Bearer a b"])
def test_nothing_is_answered_without_the_token(http: httpx.Client, header: str) -> None:
    http.headers["Authorization"] = header
    for path in ("/health", "/metrics", "/v1/models", "/nowhere"):
        response = http.get(path)
        assert (response.status_code, response.json()["code"]) == (401, "unauthorized")
    assert http.post("/v1/stop").status_code == 401


@pytest.mark.parametrize("scheme", ["bearer", "BEARER", "Bearer ", "bEaReR  "])
def test_the_scheme_of_the_token_has_no_case(
    http: httpx.Client, runtime: Runtime, scheme: str
) -> None:
    http.headers["Authorization"] = f"{scheme} {runtime.token()}"
    assert http.get("/health").status_code == 200
    http.headers["Authorization"] = f"{scheme} {runtime.token().upper()}x"
    assert http.get("/health").status_code == 401


@pytest.mark.parametrize("target", ["http://engine/health", "HTTP://[::1]:80/health?x=http://y",
                                    "https://engine/health", "/health"])  # fmt: skip
def test_a_target_may_name_the_host(http: httpx.Client, target: str) -> None:
    """The absolute form, as clients send it that think they talk to a proxy (RFC 9112, 3.2.2)."""

    def answer(target: str) -> httpx.Response:
        return http.get("/", extensions={"target": target.encode()})

    assert answer(target).json()["model"] == "scripted"
    assert answer(target.replace("health", "nowhere")).status_code == 404


def test_unknown_endpoints_methods_and_protocols_are_typed_errors(http: httpx.Client) -> None:
    assert http.get("/v1/rewind").status_code == 404
    assert http.get("/v1/infill").status_code == 405
    assert "POST /v1/infill" in http.get("/v1/infill").json()["hint"]
    response = http.get("/health", headers={"Blockdiff-Api": "999"})
    assert (response.status_code, response.json()["code"]) == (409, "engine_mismatch")


@pytest.mark.parametrize("path", ["/v1/infill", "/v1/rewrite", "/v1/warm"])
@pytest.mark.parametrize(
    "document",
    ["x" * (MAX_BYTES + 1), "é" * (MAX_BYTES // 2 + 1), "\x01" * (MAX_BYTES // 2)],
    ids=["a byte more", "of two bytes each", "six times as JSON"],
)
def test_a_document_that_is_larger_than_a_source_file_is_refused(
    http: httpx.Client, runtime: Runtime, path: str, document: str
) -> None:
    response = http.post(path, json=body(document=document))
    assert (response.status_code, response.json()["code"]) == (413, "too_large")
    assert response.json()["hint"]

    async def story() -> None:
        async with EngineClient(runtime=runtime) as client:
            with pytest.raises(RequestTooLarge):
                await collect(client, replace(request(), document=document))

    run(story())


def test_a_body_without_a_length_is_refused_where_it_becomes_too_large(http: httpx.Client) -> None:
    sent = 0

    def pieces() -> Iterator[bytes]:
        nonlocal sent
        while sent < 4 * wire.MOST_BYTES:
            sent += 1 << 20
            yield b" " * (1 << 20)

    try:
        response = http.post("/v1/infill", content=pieces())
        assert (response.status_code, response.json()["code"]) == (413, "too_large")
    except (httpx.WriteError, httpx.ReadError, httpx.RemoteProtocolError):
        pass  # it hung up while more was being sent
    assert sent < 2 * wire.MOST_BYTES


@pytest.mark.parametrize("text", ["a\tb\n", '"\\', "é", "\U0001f600"])
def test_a_document_as_large_as_a_source_file_may_be_is_taken(
    http: httpx.Client, runtime: Runtime, text: str
) -> None:
    document = text * (MAX_BYTES // len(text.encode()))

    async def story() -> None:
        async with EngineClient(runtime=runtime) as client:
            events = await collect(client, replace(request(), document=document))
            assert isinstance(events[-1], Finished)

    run(story())


def test_waiting_requests_hold_a_bounded_amount_of_text(
    http: httpx.Client, runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And all of it is given back when they are over, however that was."""
    monkeypatch.setattr(bodies, "MOST_HELD", 200_000)
    document = "x" * 60_000

    async def story() -> None:
        async with EngineClient(runtime=runtime) as client:
            large = [replace(request(50, 10, name=f"r{n}"), document=document) for n in range(6)]
            ends = await asyncio.gather(
                *(collect(client, one) for one in large), return_exceptions=True
            )
            refused = [end for end in ends if isinstance(end, EngineBusy)]
            assert len(refused) == 3 and "too much text" in refused[0].message
            gone = asyncio.create_task(collect(client, replace(large[0], request_id="gone")))
            await asyncio.sleep(0.2)
            gone.cancel()
            await asyncio.gather(gone, return_exceptions=True)

    run(story())
    for _ in range(8):
        assert http.post("/v1/infill", json=body(document=document)).status_code == 200
        assert http.post("/v1/infill", json={"document": document}).status_code == 400


def test_health_and_models(http: httpx.Client) -> None:
    health = wire.Health.from_json(http.get("/health").json())
    assert health.model == "scripted" and health.device == "cpu"
    assert health.state is EngineState.READY
    models = {model["name"]: model for model in http.get("/v1/models").json()["models"]}
    assert models["scripted"]["served"]
    assert models["qwen2.5-coder-1.5b-blockdiff"]["licence"]


def test_metrics_count_what_happened(http: httpx.Client) -> None:
    for _ in range(2):
        http.post("/v1/infill", json=body(decoding={"max_tokens": 3}))
    http.post("/v1/infill", json=body(language="defect"))
    assert metric(http, "blockdiff_requests_total") == 3
    assert 'outcome="internal",priority="explicit"} 1' in http.get("/metrics").text
    assert metric(http, "blockdiff_tokens_total") == 12
    assert metric(http, "blockdiff_forwards_total") == 6
    assert metric(http, "blockdiff_tokens_per_forward_sum") == 4
    assert metric(http, "blockdiff_cached_token_ratio") == 0.8
    assert metric(http, "blockdiff_queue_seconds_count") == 3
    assert metric(http, "blockdiff_first_refinement_seconds_count") == 2
    assert SECRET not in http.get("/metrics").text


def test_a_command_overtakes_a_completion_that_runs_and_then_both_finish(
    runtime: Runtime, engine: ScriptedEngine
) -> None:
    async def story() -> None:
        async with EngineClient(runtime=runtime) as client:
            slow = request(60, 20, name="auto")
            completion = asyncio.create_task(collect(client, slow, Priority.AUTOMATIC))
            await until(lambda: engine.written > 2)
            command = await collect(client, request(name="command"))
            assert not completion.done()
            events = await completion
            assert isinstance(command[-1], Finished) and isinstance(events[-1], Finished)
            assert engine.order == ["auto", "command", "auto"]
            numbers = [event.seq for event in events if isinstance(event, Refinement)]
            assert numbers == sorted(set(numbers))

    run(story())


def test_a_newer_completion_of_the_same_document_replaces_the_one_that_runs(
    runtime: Runtime, engine: ScriptedEngine
) -> None:
    async def story() -> None:
        async with EngineClient(runtime=runtime) as client:
            old = asyncio.create_task(
                collect(client, request(500, 20, name="old"), Priority.AUTOMATIC, "file:///a")
            )
            await until(lambda: engine.written > 1)
            new = await collect(client, request(name="new"), Priority.AUTOMATIC, "file:///a")
            assert isinstance(new[-1], Finished)
            with pytest.raises(Superseded):
                await old
            assert engine.cancelled == ["old"]

    run(story())


def test_closing_the_iterator_cancels_between_two_forwards(
    runtime: Runtime, engine: ScriptedEngine
) -> None:
    async def story() -> None:
        async with EngineClient(runtime=runtime) as client:
            async with aclosing(client.infill(request(1000, 20, name="gone"))) as events:
                async for event in events:
                    if isinstance(event, Refinement):
                        break
            await until(lambda: engine.cancelled == ["gone"])
            assert isinstance((await collect(client, request()))[-1], Finished)

    run(story())


def test_a_closed_connection_cancels_a_request_that_still_waits(
    runtime: Runtime, engine: ScriptedEngine
) -> None:
    async def story() -> None:
        async with EngineClient(runtime=runtime) as client:
            first = asyncio.create_task(collect(client, request(1000, 20, name="first")))
            await until(lambda: engine.written > 0)
            waiting = asyncio.create_task(collect(client, request(name="waiting")))
            while (await client.health()).waiting == 0:
                await asyncio.sleep(0.01)
            waiting.cancel()
            while (await client.health()).waiting > 0:
                await asyncio.sleep(0.01)
            first.cancel()
            while (await client.health()).state is not EngineState.READY:
                await asyncio.sleep(0.01)
            assert engine.order == ["first"]

    run(story())


def test_a_slow_reader_misses_refinements_but_never_the_end(
    runtime: Runtime, engine: ScriptedEngine, http: httpx.Client
) -> None:
    post = json.dumps(body(language="long", decoding={"max_tokens": 400, "seed": 1})).encode()
    head = (
        f"POST /v1/infill HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {runtime.token()}\r\n"
        f"Content-Length: {len(post)}\r\n\r\n"
    )
    with socket.socket(socket.AF_UNIX) as reader:
        reader.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        reader.connect(str(runtime.socket))
        reader.sendall(head.encode() + post)
        run(until(lambda: engine.written == 400))
        received = b""
        while b"event: finished" not in received[-4000:]:
            received += reader.recv(1 << 20)
    assert received.count(b"event: refinement") < 200
    assert metric(http, "blockdiff_dropped_refinements_total") > 200


def test_a_defect_ends_one_request_and_the_next_one_works(
    runtime: Runtime, engine: ScriptedEngine, caplog: pytest.LogCaptureFixture
) -> None:
    async def story() -> None:
        async with EngineClient(runtime=runtime) as client:
            with pytest.raises(BlockdiffError) as failure:
                await collect(client, request(scene="defect"))
            assert failure.value.code == "internal"
            assert isinstance((await collect(client, request()))[-1], Finished)

    with caplog.at_level(logging.INFO):
        run(story())
    assert "ZeroDivisionError at" in caplog.text and "scripted_service.py" in caplog.text
    assert SECRET not in caplog.text


def test_no_number_of_defects_in_requests_ends_the_process(http: httpx.Client) -> None:
    for _ in range(5):
        events = http.post("/v1/infill", json=body(language="defect")).text
        assert '"code": "internal"' in events
    assert "event: finished" in http.post("/v1/infill", json=body()).text


def test_fault_after_fault_of_the_engine_ends_the_process(runtime: Runtime) -> None:
    async def story() -> None:
        async with EngineClient(runtime=runtime) as client:
            for _ in range(3):
                with pytest.raises(BlockdiffError):
                    await collect(client, request(scene="fault"))

    with served(runtime) as status:
        run(story())
        run(until(lambda: bool(status)))
    assert status == [ExitCode.INTERNAL]
    assert (runtime.folder / "deaths.json").exists()  # the next start may have to wait


def loading(times: list[float], fail: Callable[[int], BlockdiffError | None]) -> Any:
    """A way to load that fails as `fail` says of each attempt, counted from 1."""

    def load(report: OnProgress) -> Any:
        times.append(time.monotonic())
        if error := fail(len(times)):
            raise error
        return ScriptedEngine()

    return load


def test_a_model_that_does_not_load_is_a_typed_error_and_is_tried_again_with_pauses(
    runtime: Runtime,
) -> None:
    times: list[float] = []
    load = loading(times, lambda attempt: OutOfMemory("no room") if attempt < 3 else None)

    async def story() -> None:
        async with EngineClient(runtime=runtime) as client:
            failures = 0
            while True:
                try:
                    assert isinstance((await collect(client, request()))[-1], Finished)
                    break
                except OutOfMemory:
                    failures += 1
                    health = await client.health()
                    assert (health.state, health.message) == (EngineState.ERROR, "no room")
                    await asyncio.sleep(0.05)
            assert failures > 3  # most requests fail at once instead of loading again
            assert (await client.health()).state is EngineState.READY

    with served(runtime, load):
        run(story())
    assert len(times) == 3
    assert times[1] - times[0] >= 1.0 and times[2] - times[1] >= 2.0


def test_loading_is_reported_to_those_who_wait_and_in_health(runtime: Runtime) -> None:
    async def story() -> None:
        async with EngineClient(runtime=runtime) as client:
            health = await client.health()
            assert health.state is EngineState.STARTING
            events = await collect(client, request(name="early"))
        told = [event for event in events if isinstance(event, Progress)]
        assert told and all(event.request_id == "early" for event in told)
        assert told[-1].what == "loading weights"
        shares = [event.share for event in told if event.what == "loading weights"]
        assert shares == sorted(shares)
        assert isinstance(events[len(told)], Refinement) and isinstance(events[-1], Finished)

    def load(report: OnProgress) -> Any:
        for done in range(20):
            report("loading weights", done / 20)
            time.sleep(0.05)
        return ScriptedEngine()

    with served(runtime, load):
        run(story())


def test_stopping_ends_the_running_and_the_waiting_request_with_a_typed_error(
    runtime: Runtime,
) -> None:
    engine = ScriptedEngine()

    async def story() -> None:
        async with EngineClient(runtime=runtime) as client:
            tasks = [
                asyncio.create_task(collect(client, request(1000, 20, name=name)))
                for name in ("one", "other")
            ]
            await until(lambda: engine.written > 0)
            while (await client.health()).waiting == 0:
                await asyncio.sleep(0.01)
            await EngineClient(runtime=runtime).stop()
            for result in await asyncio.gather(*tasks, return_exceptions=True):
                assert isinstance(result, EngineStopping)

    with served(runtime, lambda report: engine) as status:
        run(story())
        run(until(lambda: bool(status)))
    assert status == [ExitCode.OK]
    assert len(engine.order) == 1  # whichever of the two connections came first


def test_loading_is_given_up_when_the_engine_is_stopped(runtime: Runtime) -> None:
    def load(report: OnProgress) -> Any:
        while True:
            report("downloading the model", 0.5)
            time.sleep(0.01)

    with served(runtime, load) as status:
        run(EngineClient(runtime=runtime).stop())
        run(until(lambda: bool(status)))
    assert status == [ExitCode.OK]


def test_an_idle_engine_stops_but_not_while_it_loads(runtime: Runtime) -> None:
    loaded: list[float] = []

    def load(report: OnProgress) -> Any:
        time.sleep(1.0)
        loaded.append(time.monotonic())
        return ScriptedEngine()

    with served(runtime, load, idle_seconds=0.4) as status:
        run(until(lambda: bool(status)))
    assert time.monotonic() - loaded[0] >= 0.4 and status == [ExitCode.OK]


def test_a_missing_model_is_reported_to_the_request(runtime: Runtime) -> None:
    load = loading([], lambda _: ModelNotFound("it is not downloaded", "download it"))

    async def story() -> None:
        async with EngineClient(runtime=runtime) as client:
            with pytest.raises(ModelNotFound, match="not downloaded") as failure:
                await collect(client, request())
            assert failure.value.hint == "download it"

    with served(runtime, load):
        run(story())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"span": None}, "span must be an object, not null"),
        ({"span": {"start": 3, "end": 4}}, "there is no text to rewrite"),
        ({"span": {"start": 0, "end": 99}}, "span ends at offset 99, the document has 29"),
        ({"strength": 1.5}, "strength must be 0..1, got 1.5"),
        ({"hole": {"start": 0, "end": 1}}, "unknown key 'hole'"),
    ],
)
def test_bad_rewrites_are_refused_with_their_place(
    http: httpx.Client, changes: dict[str, Any], message: str
) -> None:
    rewrite = {"document": SECRET, "span": {"start": 0, "end": 5}}
    response = http.post("/v1/rewrite", json=rewrite | changes)
    assert response.status_code == 400
    assert response.json()["message"].startswith(message)
    done = http.post("/v1/rewrite", json=rewrite).text
    assert '"event": "finished"' in done


def test_no_log_line_holds_source_text(
    runtime: Runtime, engine: ScriptedEngine, caplog: pytest.LogCaptureFixture
) -> None:
    async def story() -> None:
        async with EngineClient(runtime=runtime) as client:
            await collect(client, request(name=SECRET))
            with pytest.raises(BlockdiffError):
                await collect(client, request(scene="defect"))

    with caplog.at_level(logging.INFO):
        run(story())
        with connection(runtime) as http:
            http.post("/v1/infill", json={SECRET: SECRET})
            http.post("/v1/infill", content=SECRET)
    assert "request" in caplog.text and "4 tokens in 2 forwards" in caplog.text
    assert "secret" not in caplog.text


# docs/service.md


DOCUMENT = (Path(__file__).resolve().parents[2] / "docs" / "service.md").read_text("utf-8")
EXAMPLES = [json.loads(block) for block in re.findall(r"```json\n(.*?)```", DOCUMENT, re.DOTALL)]


def test_the_examples_of_the_documentation_are_whole_and_valid(http: httpx.Client) -> None:
    health, models, call, *events, rewrite, warmed = EXAMPLES
    assert list(wire.Health.from_json(health).to_json()) == list(health)
    assert models["models"][0].keys() == http.get("/v1/models").json()["models"][0].keys()
    assert list(wire.call_to_json(wire.call_from_json(call))) == list(call)
    assert call["decoding"] == wire.call_to_json(wire.call_from_json(call))["decoding"]
    rewritten = wire.call_to_json(wire.call_from_json(rewrite, RewriteRequest))
    assert list(rewritten) == list(rewrite) and rewritten["decoding"] == rewrite["decoding"]
    for event in events[:-1]:
        assert wire.event_to_json(wire.event_from_json(event)) == event
    with pytest.raises(Superseded):
        wire.event_from_json(events[-1])
    kinds = [event["event"] for event in (*events, warmed)]
    assert kinds == ["progress", "refinement", "finished", "filled", "failed", "warmed"]
    assert wire.event_to_json(wire.event_from_json(warmed)) == warmed


def test_the_documentation_names_every_endpoint_and_metric(http: httpx.Client) -> None:
    for endpoint_name in http.get("/nowhere").json()["hint"].split("; "):
        method, paths = endpoint_name.split(" ", 1)
        for path in paths.split(", "):
            assert f"### {method} {path}\n" in DOCUMENT
    collected = re.findall(r"^# TYPE (\w+)", http.get("/metrics").text, re.MULTILINE)
    for name in collected:
        assert name.endswith("_created") or f"`{name}`" in DOCUMENT, name
