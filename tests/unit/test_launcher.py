"""The engine process: where it listens, who may come, and what it leaves behind."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import socket
import ssl
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from blockdiff.cli import serve as serve_command
from blockdiff.client import endpoint, missed
from blockdiff.client.client import EngineClient, EngineOptions
from blockdiff.client.connections import Address, unreachable
from blockdiff.client.endpoint import Announcement, Runtime
from blockdiff.client.missed import Missed, NoCompletion
from blockdiff.errors import (
    AddressInUse,
    EngineStopping,
    EngineUnavailable,
    InvalidRequest,
    ModelNotFound,
    NotPermitted,
)
from blockdiff.service import launcher
from blockdiff.service.launcher import ServeOptions
from blockdiff.service.listen import listen_tcp
from blockdiff.types import Finished, Refinement
from tests.unit.model_world import NAME, Hub, World, wait_for
from tests.unit.scripted_service import COMMAND, ScriptedEngine, collect, request, run, served

posix = pytest.mark.skipif(sys.platform == "win32", reason="file modes and Unix sockets")


@pytest.fixture
def runtime(tmp_path: Path) -> Runtime:
    return Runtime(tmp_path / "run")


@pytest.fixture
def port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def serve(runtime: Runtime, **options: Any) -> None:
    launcher.serve(ServeOptions(model="scripted", **options), runtime)


def answers(runtime: Runtime) -> bool:
    announced = runtime.announced()
    assert announced is not None
    return endpoint.health(announced.address, runtime.token()).pid == os.getpid()


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_small_answers_over_tcp_do_not_wait_for_one_another() -> None:
    """asyncio looks at the protocol's number before it switches Nagle's algorithm off."""
    listener, _ = listen_tcp("127.0.0.1", 0)
    with listener:
        assert listener.proto == socket.IPPROTO_TCP


@posix
def test_it_listens_on_a_socket_that_only_this_user_can_open(runtime: Runtime) -> None:
    with served(runtime):
        announced = runtime.announced()
        assert announced is not None and announced.address.url == f"unix:{runtime.socket}"
        assert answers(runtime)
        assert runtime.socket is not None and mode(runtime.socket) == 0o600
        assert mode(runtime.folder) == 0o700
        assert mode(runtime.token_file) == mode(runtime.folder / "engine.json") == 0o600
    assert sorted(p.name for p in runtime.folder.iterdir() if p.suffix != ".lock") == ["token"]


def test_it_listens_on_a_loopback_port_where_a_socket_will_not_do(tmp_path: Path) -> None:
    runtime = Runtime(tmp_path / ("long" * 30))
    with served(runtime):
        announced = runtime.announced()
        assert announced is not None and announced.address.url.startswith("http://127.0.0.1:")
        assert answers(runtime)


@pytest.mark.parametrize("host", ["", "localhost", "::1"])
def test_it_listens_on_the_port_it_is_given(runtime: Runtime, port: int, host: str) -> None:
    try:
        listen_tcp(host or "127.0.0.1", 0)[0].close()
    except InvalidRequest:
        pytest.skip(f"this machine has no {host}")
    with served(runtime, host=host, port=port):
        announced = runtime.announced()
        assert announced is not None and announced.address.url.endswith(f":{port}")
        assert answers(runtime)


def test_the_token_outlives_the_engine_unless_others_could_read_it(runtime: Runtime) -> None:
    runtime.prepare()
    token = runtime.make_token()
    assert runtime.make_token() == token == runtime.token() and len(token) == 64
    runtime.token_file.write_text("short")
    replaced = runtime.make_token()
    assert replaced != token
    if sys.platform != "win32":
        runtime.token_file.chmod(0o644)
        assert runtime.make_token() != replaced
        assert mode(runtime.token_file) == 0o600


def test_a_second_engine_is_refused(runtime: Runtime) -> None:
    with served(runtime), pytest.raises(AddressInUse, match=f"process {os.getpid()}"):
        serve(runtime)


def test_a_port_in_use_is_a_typed_error_and_nothing_is_left(runtime: Runtime, port: int) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", port))
        other.listen()
        with pytest.raises(AddressInUse, match=f"port {port} is in use"):
            serve(runtime, port=port)
    assert runtime.announced() is None
    with served(runtime, port=port):
        assert answers(runtime)


@posix
def test_what_a_killed_engine_left_behind_is_cleared_away(runtime: Runtime) -> None:
    runtime.prepare()
    assert runtime.socket is not None and sys.platform != "win32"
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(runtime.socket))
    runtime.announce(Announcement(1, Address(f"unix:{runtime.socket}")))
    (runtime.folder / "engine.lock").touch()
    (runtime.folder / "start.lock").touch()
    with served(runtime):
        assert answers(runtime)


@posix
def test_a_folder_that_others_can_enter_is_refused(runtime: Runtime) -> None:
    runtime.folder.mkdir()
    runtime.folder.chmod(0o755)
    with pytest.raises(NotPermitted, match="other users can enter"):
        serve(runtime)


def test_a_folder_that_cannot_be_made_is_a_typed_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(EngineUnavailable, match="cannot use the folder"):
        serve(Runtime(tmp_path / "file" / "run"))


@posix
def test_a_port_that_takes_privileges_is_a_typed_error(
    runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: socket.socket, address: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(socket.socket, "bind", refuse)
    with pytest.raises(NotPermitted, match="may not listen"):
        serve(runtime, port=80)
    with pytest.raises(NotPermitted, match="may not listen"):
        serve(runtime)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"host": "0.0.0.0"}, "without TLS"),
        ({"host": "::"}, "without TLS"),
        ({"port": 70_000}, "70000 is no port"),
        ({"idle_seconds": -1}, "cannot be negative"),
        ({"port": 1, "tls_cert": "a"}, "belong together"),
        ({"tls_cert": "a", "tls_key": "b"}, "TLS is for TCP"),
        ({"port": 1, "tls_cert": "/no/such", "tls_key": "/no/such"}, "cannot read /no/such"),
    ],
)
def test_contradictions_are_refused_at_once(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidRequest, match=message):
        ServeOptions(**options)


@pytest.mark.parametrize("host", ["no.such.host.invalid", "192.0.2.1"])
def test_an_address_that_is_not_ours_is_refused(host: str) -> None:
    with pytest.raises(InvalidRequest, match=host):
        listen_tcp(host, 0)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("there is no openssl to make a certificate with")
    folder = tmp_path_factory.mktemp("tls")
    command = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2"
    names = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    files = ["-keyout", "key.pem", "-out", "cert.pem"]
    subprocess.run(
        [openssl, *command.split(), *names, *files], cwd=folder, check=True, capture_output=True
    )
    return str(folder / "cert.pem"), str(folder / "key.pem")


def test_tls_for_this_machine_and_others(runtime: Runtime, certificate: tuple[str, str]) -> None:
    cert, key = certificate

    async def use(client: EngineClient) -> None:
        async with client:
            assert isinstance((await collect(client, request()))[-1], Finished)

    async def distrust(url: str) -> None:
        async with EngineClient(EngineOptions(url=url, token=runtime.token())) as client:
            with pytest.raises(EngineUnavailable, match="no trusted TLS connection"):
                await client.health()

    with served(runtime, host="0.0.0.0", tls_cert=cert, tls_key=key):
        announced = runtime.announced()
        assert announced is not None
        port = announced.address.url.rpartition(":")[2]
        url = f"https://localhost:{port}"
        run(use(EngineClient(runtime=runtime)))  # it trusts the certificate that was announced
        run(use(EngineClient(EngineOptions(url=url, token=runtime.token(), ca_file=cert))))
        run(distrust(url))


@posix
def test_other_clients_are_served_with_tls_beyond_this_machine(
    runtime: Runtime, certificate: tuple[str, str]
) -> None:
    cert, key = certificate
    with served(runtime, compat="0.0.0.0:0", tls_cert=cert, tls_key=key):
        announced = runtime.announced()
        assert announced is not None and announced.address.socket_path  # ours stays as it was
        port = announced.compat.rpartition(":")[2]
        trust = ssl.create_default_context(cafile=cert)
        health = httpx.get(f"https://localhost:{port}/health", verify=trust, trust_env=False)
        assert health.json() == {"status": "ok"}


def test_a_certificate_that_is_none_is_a_typed_error(runtime: Runtime, tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.pem"
    wrong.write_text("not a certificate")
    with pytest.raises(InvalidRequest, match="cannot use"):
        serve(runtime, port=1024, tls_cert=str(wrong), tls_key=str(wrong))


def test_a_missing_model_is_downloaded_first_and_the_progress_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub, told = Hub(), []
    world = World(tmp_path, hub)
    for key, value in world.env.items():
        monkeypatch.setenv(key, value)
    monkeypatch.setattr("blockdiff.engine.engine.Engine.load", lambda *_, **__: ScriptedEngine())
    with pytest.raises(ModelNotFound):
        launcher.loader(ServeOptions(NAME, download=False))(lambda what, share: None)
    with hub.running():
        world.use_hub()
        load = launcher.loader(ServeOptions(NAME))
        assert isinstance(load(lambda what, share: told.append((what, share))), ScriptedEngine)
    assert ("downloading the model", 1.0) in told and told[-1][0] == "starting the engine"
    assert all(0.0 <= share <= 1.0 for _, share in told)
    assert world.base.is_file()


def test_a_connection_that_the_system_refuses_is_told_apart() -> None:
    refused = httpx.ConnectError("[Errno 13] Permission denied")
    refused.__cause__ = PermissionError(13, "Permission denied")
    error = unreachable(Address("unix:/run/engine.sock"), refused)
    assert isinstance(error, NotPermitted) and "/run/engine.sock" in error.message


@pytest.fixture
def process(runtime: Runtime) -> Iterator[subprocess.Popen[str]]:
    """The service as a process of its own, ready for requests."""
    started = subprocess.Popen(
        [*COMMAND, "serve", "--json"],
        env={**os.environ, "BLOCKDIFF_RUNTIME": str(runtime.folder)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert started.stdout is not None
    line = json.loads(started.stdout.readline())
    assert line["event"] == "serving" and line["pid"] == started.pid
    assert Path(line["token_file"]) == runtime.token_file
    yield started
    if started.poll() is None:
        started.kill()
    started.communicate()


@posix
@pytest.mark.parametrize("kind", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])
def test_a_signal_ends_the_running_request_with_a_typed_error_and_leaves_nothing(
    runtime: Runtime, process: subprocess.Popen[str], kind: signal.Signals
) -> None:
    async def story() -> None:
        async with EngineClient(runtime=runtime) as client:
            with pytest.raises(EngineStopping):
                async for event in client.infill(request(1000, 20)):
                    if isinstance(event, Refinement) and event.seq == 0:
                        process.send_signal(kind)

    run(story())
    _, errors = process.communicate(timeout=20)
    assert process.returncode == 0
    assert "the_secret_source" not in errors and f"got {kind.name}" in errors
    assert sorted(p.name for p in runtime.folder.iterdir() if p.suffix != ".lock") == ["token"]


@posix
def test_a_second_signal_does_not_wait(runtime: Runtime, process: subprocess.Popen[str]) -> None:
    async def story() -> None:
        async with EngineClient(runtime=runtime) as client:
            with pytest.raises(EngineUnavailable):
                async for event in client.infill(request(2, 60_000)):  # one long forward
                    raise AssertionError(event)

    async def signals() -> None:
        task = asyncio.create_task(story())
        await asyncio.sleep(0.5)
        process.send_signal(signal.SIGTERM)
        await task
        process.send_signal(signal.SIGTERM)

    run(signals())
    process.communicate(timeout=5)
    assert process.returncode == 128 + signal.SIGTERM


@posix
def test_status_and_stop(runtime: Runtime, process: subprocess.Popen[str]) -> None:
    env = {**os.environ, "BLOCKDIFF_RUNTIME": str(runtime.folder)}

    def blockdiff(*arguments: str) -> tuple[int, str]:
        done = subprocess.run(
            [sys.executable, "-m", "blockdiff", *arguments], env=env, capture_output=True, text=True
        )
        return done.returncode, done.stdout + done.stderr

    code, out = blockdiff("status", "--json")
    assert code == 0 and json.loads(out)["pid"] == process.pid and "missed" not in json.loads(out)
    missed.save(Missed.now(NoCompletion.IN_WORD, "file:///work%20a/a.py", 6), runtime)
    code, out = blockdiff("status", "--json")
    assert code == 0 and json.loads(out)["missed"]["kind"] == "inWord"
    code, out = blockdiff("status")
    assert code == 0 and "scripted" not in out and "ready" in out
    assert NoCompletion.IN_WORD.words in out and "(/work a/a.py:7, " in out
    assert blockdiff("stop") == (0, "stopped\n")
    wait_for(lambda: process.poll() is not None)
    assert process.returncode == 0
    assert blockdiff("stop") == (0, "no engine is running\n")
    code, out = blockdiff("status")
    assert code == 4 and "no engine is running" in out and "in a word" in out


@posix
def test_stop_ends_an_engine_that_hangs(
    runtime: Runtime,
    process: subprocess.Popen[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(serve_command, "_STOP_SECONDS", 0.5)
    monkeypatch.setenv("BLOCKDIFF_RUNTIME", str(runtime.folder))
    process.send_signal(signal.SIGSTOP)
    serve_command.stop()
    assert "was killed" in capsys.readouterr().out
    assert process.wait(5) == -signal.SIGKILL and runtime.announced() is None
