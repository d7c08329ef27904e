"""The client: one engine for all, typed errors for whatever happens to it."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest

from blockdiff.client import client as client_module
from blockdiff.client import wire
from blockdiff.client.client import EngineClient, EngineOptions, StartOptions
from blockdiff.client.connections import Address
from blockdiff.client.endpoint import Announcement, Runtime
from blockdiff.client.starter import Deaths, Starter
from blockdiff.client.wire import EngineState
from blockdiff.errors import (
    EngineDied,
    EngineMismatch,
    EngineStopping,
    EngineUnavailable,
    InvalidRequest,
    ModelNotFound,
    NotPermitted,
    RequestTooLarge,
    Unauthorized,
)
from blockdiff.types import Finished, Priority, Progress, Refinement
from tests.unit.scripted_service import (
    COMMAND,
    ROOT,
    client_of,
    collect,
    load,
    request,
    run,
    served,
    until,
)

posix = pytest.mark.skipif(sys.platform == "win32", reason="signals and fork")


@pytest.fixture
def runtime(tmp_path: Path) -> Iterator[Runtime]:
    """Where an engine may be started; it is stopped at the end."""
    made = Runtime(tmp_path / "run")
    yield made
    Deaths(made).forget()
    if Starter(made, StartOptions()).is_alive():
        run(EngineClient(runtime=made).stop())


async def killed(runtime: Runtime) -> None:
    announced = runtime.announced()
    assert announced is not None
    os.kill(announced.pid, signal.SIGKILL)
    await gone(runtime)


async def gone(runtime: Runtime) -> None:
    starter = Starter(runtime, StartOptions())
    await until(lambda: not starter.is_alive())


def log_lines(runtime: Runtime, words: str) -> int:
    return sum(words in line for line in runtime.log.read_text().splitlines())


def test_it_imports_neither_torch_nor_the_server() -> None:
    code = (
        "import sys; import blockdiff.client.client; "
        "print([name for name in ('torch', 'starlette', 'uvicorn', 'prometheus_client', 'numpy', "
        "'blockdiff.service', 'blockdiff.engine') if name in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


_TWENTY = """
import asyncio, os, sys
sys.path.insert(0, {root!r})
from pathlib import Path
from tests.unit.scripted_service import client_of, collect, request
from blockdiff.client.endpoint import Runtime

async def story():
    async with client_of(Runtime(Path({folder!r}))) as client:
        events = await collect(client, request(name=str(os.getpid())))
        assert events[-1].text == str(os.getpid()) + " done"
        os.write(1, b"%d\\n" % (await client.health()).pid)  # whole lines of all twenty

children = []
for _ in range(20):
    if not (child := os.fork()):
        asyncio.run(story())
        os._exit(0)
    children.append(child)
for child in children:
    assert os.waitpid(child, 0)[1] == 0
"""


@posix
def test_twenty_clients_that_open_at_once_start_one_engine(runtime: Runtime) -> None:
    code = _TWENTY.format(root=ROOT, folder=str(runtime.folder))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    pids = done.stdout.split()
    assert len(pids) == 20 and len(set(pids)) == 1
    assert log_lines(runtime, "scripted is ready") == 1


@posix
def test_a_killed_engine_is_a_typed_error_at_once_and_the_next_request_works(
    runtime: Runtime,
) -> None:
    async def story() -> None:
        async with client_of(runtime) as client:
            with pytest.raises(EngineDied):
                async for event in client.infill(request(1000, 20)):
                    if isinstance(event, Refinement) and event.seq == 3:
                        other = asyncio.create_task(collect(client, request(name="waiting")))
                        while (health := await client.health()).waiting == 0:
                            await asyncio.sleep(0.01)
                        before = health.pid
                        await killed(runtime)
                        at = time.monotonic()
            assert time.monotonic() - at < 2.0
            with pytest.raises(EngineDied):
                await other
            assert isinstance((await collect(client, request()))[-1], Finished)
            assert (await client.health()).pid != before
            await client.stop()

    run(story())


@posix
def test_an_engine_that_keeps_dying_is_not_started_over_and_over(runtime: Runtime) -> None:
    outcomes: list[str] = []

    async def story() -> None:
        async with client_of(runtime) as client:
            while len(outcomes) < 12:
                try:
                    await collect(client, request(scene="die"))
                except EngineUnavailable as error:
                    outcomes.append(error.code)
                    if isinstance(error, EngineDied):
                        await gone(runtime)
                    else:
                        assert "times in a row" in error.message

    run(story())
    assert outcomes[0] == "engine_died" and outcomes[-1] == "engine_unavailable"
    assert log_lines(runtime, "scripted is ready") <= 4
    Deaths(runtime).forget()  # as `blockdiff stop` does
    events = run(collected(runtime))
    assert isinstance(events[-1], Finished)


async def collected(runtime: Runtime) -> Any:
    async with client_of(runtime) as client:
        return await collect(client, request())


@posix
def test_a_client_comes_back_after_the_engine_stopped(runtime: Runtime) -> None:
    async def story() -> None:
        async with client_of(runtime, idle_seconds=0.3) as client:
            first = (await client.health()).pid
            await gone(runtime)
            assert isinstance((await collect(client, request()))[-1], Finished)
            assert (await client.health()).pid != first

    run(story())
    assert not (runtime.folder / "deaths.json").exists()


@posix
def test_nothing_starts_an_engine_that_nobody_asks_for(runtime: Runtime) -> None:
    async def story() -> None:
        async with client_of(runtime) as client:
            await collect(client, request())
            await EngineClient(runtime=runtime).stop()
            await gone(runtime)
            with pytest.raises(EngineUnavailable, match="no engine runs"):
                await client.warm(request())
            with pytest.raises(EngineUnavailable, match="no engine runs"):
                await client.health(start=False)
            assert not Starter(runtime, StartOptions()).is_alive()

    run(story())


@posix
def test_a_request_that_meets_a_stopping_engine_waits_for_the_next_one(runtime: Runtime) -> None:
    async def story() -> None:
        async with client_of(runtime) as client:
            before = (await client.health()).pid
            slow = asyncio.create_task(collect(client, request(2, 800)))  # a forward of 0.8 s
            while (await client.health()).state is not EngineState.BUSY:
                await asyncio.sleep(0.01)
            await client.stop()
            with pytest.raises(EngineStopping):
                await slow
            assert isinstance((await collect(client, request()))[-1], Finished)
            assert (await client.health()).pid != before

    run(story())


def test_what_keeps_an_engine_from_starting_is_a_typed_error(runtime: Runtime) -> None:
    code = 'print(\'{"event": "failed", "code": "not_installed", "message": "no torch"}\')'
    start = StartOptions(command=(sys.executable, "-c", code))

    async def story() -> None:
        async with EngineClient(EngineOptions(start=start), runtime) as client:
            with pytest.raises(Exception, match="no torch") as failure:
                await client.health()
            assert failure.value.code == "not_installed"  # type: ignore[attr-defined]

    run(story())


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ((sys.executable, "-c", "raise SystemExit(7)"), "ended with status 7 as it started"),
        (("/no/such/program",), "cannot use|No such file"),
        ((sys.executable, "-c", "import time; time.sleep(60)"), "did not answer within 1 s"),
    ],
)
def test_an_engine_that_does_not_start(
    runtime: Runtime, command: tuple[str, ...], message: str
) -> None:
    options = EngineOptions(start=StartOptions(command=command, timeout=1.0))

    async def story() -> None:
        async with EngineClient(options, runtime) as client:
            with pytest.raises(EngineUnavailable, match=message):
                await client.health()

    run(story())


@posix
def test_progress_of_loading_comes_before_the_first_refinement(
    runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SCRIPT_LOAD", "slow")
    events = run(collected(runtime))
    told = [event.what for event in events if isinstance(event, Progress)]
    assert told[-1] == "loading weights" and isinstance(events[-1], Finished)


@posix
def test_a_missing_model_is_the_error_of_the_request(
    runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SCRIPT_LOAD", "missing")
    with pytest.raises(ModelNotFound, match="not downloaded"):
        run(collected(runtime))


def connected(options: EngineOptions, runtime: Runtime) -> Any:
    async def story() -> Any:
        async with EngineClient(options, runtime) as client:
            return await client.health()

    return run(story())


@pytest.mark.parametrize(
    ("runs", "wanted", "said"),
    [
        ("", "its-dspark", "drafts without its-dspark"),
        ("its-dspark", "its-dflash", "drafts with its-dspark, not its-dflash"),
        ("its-dspark", "its-dspark", ""),
        ("its-dspark", "", ""),  # the text is the same
    ],
)
def test_an_engine_with_another_drafter_is_not_used(
    runs: str, wanted: str, said: str, runtime: Runtime
) -> None:
    options = EngineOptions(start=StartOptions(model="scripted", drafter=wanted))
    with served(runtime, drafter=runs):
        if said:
            with pytest.raises(EngineMismatch, match=said):
                connected(options, runtime)
        else:
            assert connected(options, runtime).drafter == runs


def test_an_engine_of_another_model_or_protocol_is_not_used(
    runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    with served(runtime):
        assert connected(EngineOptions(start=StartOptions(model="scripted")), runtime)
        with pytest.raises(EngineMismatch, match="serves scripted, not other"):
            connected(EngineOptions(start=StartOptions(model="other")), runtime)
        speaks = wire.API_VERSION
        monkeypatch.setattr("blockdiff.service.app.wire.API_VERSION", speaks)
        announced = runtime.announced()
        assert announced is not None
        monkeypatch.setattr(
            Address, "engine_options", _with_protocol(Address.engine_options, str(speaks + 1))
        )
        with pytest.raises(EngineMismatch, match="speaks protocol"):
            connected(EngineOptions(), runtime)
        monkeypatch.undo()


def _with_protocol(options_of: Any, protocol: str) -> Any:
    def engine_options(self: Address, token: str, **headers: str) -> Any:
        options = options_of(self, token, **headers)
        options["headers"]["Blockdiff-Api"] = protocol
        return options

    return engine_options


def test_a_wrong_token_is_a_typed_error(runtime: Runtime) -> None:
    with served(runtime, port=free_port()):
        announced, token = runtime.announced(), runtime.token()
        assert announced is not None
        url = announced.address.url
        assert connected(EngineOptions(url=url, token=token), runtime).model == "scripted"
        with pytest.raises(Unauthorized):
            connected(EngineOptions(url=url, token="wrong"), runtime)
        runtime.write_private("token", "x" * 64)
        with pytest.raises(Unauthorized):
            connected(EngineOptions(), runtime)
        runtime.write_private("token", token)


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}"])
def test_another_program_at_the_address_is_no_engine(runtime: Runtime, answer: bytes) -> None:
    async def story() -> None:
        async def reply(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(answer)
            await writer.drain()
            writer.close()

        server = await asyncio.start_server(reply, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        async with EngineClient(EngineOptions(f"http://127.0.0.1:{port}", "t"), runtime) as client:
            with pytest.raises(EngineUnavailable, match="no engine"):
                await client.health()
        server.close()
        await server.wait_closed()

    run(story())


@posix
def test_what_is_left_of_a_dead_engine_does_not_keep_clients_out(runtime: Runtime) -> None:
    runtime.prepare()
    runtime.announce(Announcement(1, Address(f"http://127.0.0.1:{free_port()}")))
    (runtime.folder / "engine.lock").touch()
    (runtime.folder / "start.lock").touch()
    assert isinstance(run(collected(runtime))[-1], Finished)


@posix
def test_a_folder_of_others_is_refused(runtime: Runtime) -> None:
    runtime.folder.mkdir()
    runtime.folder.chmod(0o777)
    with pytest.raises(NotPermitted):
        run(collected(runtime))
    runtime.folder.chmod(0o700)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"url": "http://example.com:1", "token": "t"}, "in the clear"),
        ({"url": "http://192.168.0.1:1", "token": "t"}, "in the clear"),
        ({"url": "https://example.com:1"}, "needs the token"),
        ({"url": "https://example.com:1", "token": "a\nb"}, "needs the token"),
        ({"url": "example.com", "token": "t"}, "http or https, a host and a port"),
        ({"url": "ftp://example.com", "token": "t"}, "http or https, a host and a port"),
        ({"url": "https://a:b@example.com", "token": "t"}, "only a host and a port"),
        ({"url": "https://example.com/path", "token": "t"}, "http or https, a host and a port"),
        ({"url": "https://example.com:port", "token": "t"}, "no URL"),
        ({"url": "https://e.com", "token": "t", "ca_file": "/no/such"}, "cannot use the cert"),
    ],
)
def test_an_engine_elsewhere_needs_an_address_that_keeps_code_private(
    runtime: Runtime, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(InvalidRequest, match=message):
        connected(EngineOptions(**options), runtime)


def test_plain_http_is_used_beyond_loopback_only_when_told() -> None:
    EngineClient(EngineOptions("http://example.com:1", "t", allow_plain_http=True))
    for host in ("localhost", "127.0.0.1", "127.8.8.8", "[::1]"):
        EngineClient(EngineOptions(f"http://{host}:1", "t"))


@posix
def test_a_cancelled_request_leaves_nothing_in_the_log(
    runtime: Runtime, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Bytes that arrive in the turn in which their reader is cancelled; real errors still show."""

    async def story() -> None:
        async with client_of(runtime) as client:
            await client.health()
            accepted: asyncio.Queue[asyncio.StreamWriter] = asyncio.Queue()
            path = str(tmp_path / "s")
            server = await asyncio.start_unix_server(lambda _, w: accepted.put_nowait(w), path)
            stream = await anyio.connect_unix(path)
            writer = await accepted.get()
            reader = asyncio.create_task(stream.receive())
            await asyncio.sleep(0.05)
            writer.write(b"late")
            await asyncio.sleep(0)
            reader.cancel()
            await asyncio.wait([reader])
            await asyncio.sleep(0.05)
            assert caplog.records == []
            asyncio.get_running_loop().call_soon([].pop)
            await asyncio.sleep(0)
            assert [record.name for record in caplog.records] == ["asyncio"]
            writer.close()
            server.close()
            await stream.aclose()

    caplog.set_level("ERROR")
    run(story())


def test_one_client_serves_many_tasks_and_gives_each_its_own_answer(runtime: Runtime) -> None:
    async def one(client: EngineClient, name: str) -> None:
        if int(name) % 3 == 0:  # a third goes away at some moment
            async with aclosing(client.infill(request(50, 2, name=name))) as events:
                async for _ in events:
                    return
        events = await collect(client, request(2, 1, name=name))
        assert {event.request_id for event in events} == {name}
        assert isinstance(events[-1], Finished) and events[-1].text == f"{name} done"

    async def story() -> None:
        async with EngineClient(runtime=runtime) as client:
            await asyncio.gather(*(one(client, str(number)) for number in range(60)))
            assert (await client.health()).waiting == 0

    with served(runtime, load):
        run(story())


def test_the_command_that_starts_an_engine_names_everything(tmp_path: Path) -> None:
    start = StartOptions(model="./my.gguf", device="cpu", idle_seconds=60, download=False)
    arguments = start.arguments()
    assert arguments[:3] == [sys.executable, "-m", "blockdiff"]
    assert arguments[arguments.index("--model") + 1] == str(Path("my.gguf").absolute())
    assert "--no-download" in arguments and "--drafter" not in arguments
    for drafter, expected in (("its-dspark", "its-dspark"), ("./d", str(Path("d").absolute()))):
        arguments = replace(start, drafter=drafter).arguments()
        assert arguments[arguments.index("--drafter") + 1] == expected


def test_a_start_leaves_a_private_log(runtime: Runtime) -> None:
    run(collected(runtime))
    assert json.loads((runtime.folder / "engine.out").read_text())["event"] == "serving"
    if sys.platform != "win32":
        assert runtime.log.stat().st_mode & 0o077 == 0
    assert "the_secret_source" not in runtime.log.read_text()


@posix
def test_the_only_client_may_change_the_model_and_others_are_not_disturbed(
    runtime: Runtime,
) -> None:
    def client(model: str, name: str) -> EngineClient:
        start = StartOptions(command=COMMAND, model=model)
        return EngineClient(EngineOptions(start=start), runtime, name)

    async def story() -> None:
        async with client("one", "editor") as first:
            await collect(first, request())
            before = await first.health()
        async with client("two", "editor") as second:
            assert isinstance((await collect(second, request()))[-1], Finished)
            after = await second.health()
            assert (before.model, after.model) == ("one", "two") and before.pid != after.pid
        async with client("two", "other") as other, client("three", "editor") as third:
            await collect(other, request())
            with pytest.raises(EngineMismatch, match="serves two, not three; another client uses"):
                await collect(third, request())
            assert (await other.health()).pid == after.pid

    run(story())
    assert not (runtime.folder / "deaths.json").exists()


@posix
@pytest.mark.parametrize("connected_before", [True, False])
def test_an_engine_that_lives_and_does_not_answer_is_called_that(
    runtime: Runtime, connected_before: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_module, "_PATIENCE_SECONDS", 2.0)
    monkeypatch.setattr(client_module, "_AUTOMATIC_SECONDS", 1.0)
    monkeypatch.setattr(client_module, "_TIMEOUT", httpx.Timeout(2.0, pool=None))
    monkeypatch.setattr(client_module, "_AUTOMATIC_TIMEOUT", httpx.Timeout(1.0, pool=None))

    async def story() -> None:
        async with client_of(runtime) as client:
            pid = (await client.health()).pid
            if connected_before:
                await collect(client, request())
            else:
                await client.aclose()
            os.kill(pid, signal.SIGSTOP)
            try:
                for priority, seconds in ((Priority.AUTOMATIC, 12.0), (Priority.EXPLICIT, 30.0)):
                    with pytest.raises(EngineUnavailable, match="does not answer") as failure:
                        await asyncio.wait_for(collect(client, request(), priority), seconds)
                    assert not isinstance(failure.value, EngineDied)
            finally:
                os.kill(pid, signal.SIGCONT)
            assert isinstance((await collect(client, request()))[-1], Finished)
            assert (await client.health()).pid == pid

    run(story())


def test_a_document_that_no_engine_takes_is_refused_before_it_is_sent(
    runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wire, "MOST_BYTES", 100)
    for document in ("x" * 101, "\U0001d54f" * 10):
        with pytest.raises(RequestTooLarge):
            run(collect(EngineClient(runtime=runtime), replace(request(), document=document)))
    assert not runtime.folder.exists()
