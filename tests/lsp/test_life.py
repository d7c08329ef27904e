"""From process start to exit: the greeting, settings, bad messages, a lost engine."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from lsprotocol import types
from pygls.exceptions import JsonRpcException

from blockdiff.client.client import EngineClient
from blockdiff.client.endpoint import Runtime
from blockdiff.client.starter import Deaths, Starter, StartOptions
from docs import lsp_parts
from lsp_server.greeting import Replay, greet, initialize_result
from lsp_server.handlers import advertised
from lsp_server.settings import Settings, parse
from lsp_server.settings import schema as settings_schema
from tests.lsp.editor import COMMAND, ROOT, capabilities, editing, hole, infill, run, schema
from tests.lsp.raw import URI as RAW_URI
from tests.lsp.raw import Raw
from tests.unit import scripted_service
from tests.unit.cloned_project import Project
from tests.unit.scripted_service import SECRET, ScriptedEngine

Scripted = tuple[Runtime, ScriptedEngine]


def frame(value: Any) -> bytes:
    body = value if isinstance(value, bytes) else json.dumps(value).encode()
    return b"Content-Length: %d\r\n\r\n%s" % (len(body), body)


INITIALIZE = {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": {"capabilities": {}}}


# The greeting


@pytest.mark.parametrize("encodings", [None, ["utf-8"], ["utf-32", "utf-16"], ["utf-7", "utf-16"]])
def test_the_first_answer_is_what_the_server_itself_would_answer(encodings: Any) -> None:
    for can in (types.ClientCapabilities(), capabilities()):
        can.general = (
            types.GeneralClientCapabilities(position_encodings=encodings) if encodings else None
        )
        assert initialize_result(encodings) == advertised(can)


def test_generated_files_are_as_the_code_has_them() -> None:
    for path, content in lsp_parts.files().items():
        assert path.read_text(encoding="utf-8") == content, f"run `make docs`: {path.name}"


@pytest.mark.parametrize(
    "first",
    [
        b"",
        b"\r\n",
        b"nonsense\r\n\r\n",
        frame(b"{"),
        frame({"jsonrpc": "2.0", "id": 1, "method": "shutdown"}),
        frame({"jsonrpc": "2.0", "id": True, "method": "initialize", "params": {}}),
        frame({"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": {"capabilities": 3}}),
    ],
)
def test_any_other_beginning_is_left_to_the_server(first: bytes) -> None:
    rest, out = b"Content-Length: 2\r\n\r\n{}", io.BytesIO()
    replay = greet(io.BytesIO(first + rest), out)
    assert out.getvalue() == b"" and replay.answered is None
    assert replay.read(1 << 20) == first + rest


def test_the_stream_goes_on_after_the_greeting() -> None:
    out = io.BytesIO()
    replay = greet(io.BytesIO(frame(INITIALIZE) + b"more\nlines"), out)
    assert replay.answered == 1 and b'"capabilities"' in out.getvalue()
    assert replay.readline().startswith(b"Content-Length")
    assert replay.readline() == b"\r\n"
    body = replay.read(len(json.dumps(INITIALIZE)))
    assert json.loads(body) == INITIALIZE
    assert (replay.readline(), replay.read(9)) == (b"more\n", b"lines")


@pytest.mark.parametrize(
    "header",
    [
        b"content-length: %d\r\n\r\n",
        b"CONTENT-LENGTH:%d\r\n\r\n",
        b"Content-Length:  %d \r\n\r\n",
        b"Content-Length: %d\n\n",
        b"Content-Type: application/vscode-jsonrpc; charset=utf-8\r\nContent-length: %d\r\n\r\n",
    ],
)
def test_a_header_may_be_written_in_any_way(header: bytes) -> None:
    body = json.dumps(INITIALIZE).encode()
    message, out = header % len(body) + body, io.BytesIO()
    replay = greet(io.BytesIO(message + message), out)
    assert replay.answered == 1
    for _ in range(2):  # as the server itself reads it
        lines = list(iter(replay.readline, b"\r\n"))
        assert b"Content-Length: %d\r\n" % len(body) in lines
        assert replay.read(len(body)) == body


@pytest.mark.parametrize("size", [b"99999999999999", b"9" * 5_000])
def test_a_header_may_promise_more_than_ever_comes(size: bytes) -> None:
    replay = greet(io.BytesIO(b"Content-Length: " + size + b"\r\n\r\n{}"), io.BytesIO())
    assert replay.answered is None
    assert replay.read(10**14).endswith(b"\r\n\r\n{}")


def test_a_replayed_stream_reads_across_its_seam() -> None:
    replay = Replay(io.BytesIO(b"cd\nef"), b"ab", None)
    assert (replay.readline(), replay.read(9)) == (b"abcd\n", b"ef")


# The process


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_it_loads_neither_torch_nor_the_engine_and_stays_small(scripted: Scripted) -> None:
    code = (
        "import atexit, sys; "
        "atexit.register(lambda: print(sorted({m.split('.')[0] for m in sys.modules} & "
        "{'torch', 'numpy', 'starlette', 'uvicorn', 'tokenizers'}), "
        "[line.split()[1] for line in open('/proc/self/status') if 'VmHWM' in line][0], "
        "file=sys.stderr)); "
        "from lsp_server.__main__ import main; main([])"
    )
    texts = {"uri": "file:///a.py", "languageId": "python", "version": 1, "text": "x = \n"}
    place = {"start": {"line": 0, "character": 4}, "end": {"line": 0, "character": 4}}
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=ROOT,
        env={**os.environ, "BLOCKDIFF_RUNTIME": str(scripted[0].folder)},
    )
    assert process.stdin and process.stdout and process.stderr
    for message in (
        INITIALIZE,
        {"jsonrpc": "2.0", "method": "initialized", "params": {}},
        {"jsonrpc": "2.0", "method": "textDocument/didOpen", "params": {"textDocument": texts}},
        {"jsonrpc": "2.0", "id": 2, "method": "blockdiff/infill",
         "params": {"textDocument": {"uri": "file:///a.py"}, "holes": [place], "maxTokens": 2}},
    ):  # fmt: skip
        process.stdin.write(frame(message))
    process.stdin.flush()
    seen = b""
    while b'"edits"' not in seen:
        part = os.read(process.stdout.fileno(), 1 << 16)  # no message ends with a line break
        assert part, "it ended"
        seen += part
    for message in ({"jsonrpc": "2.0", "id": 3, "method": "shutdown"},
                    {"jsonrpc": "2.0", "method": "exit"}):  # fmt: skip
        process.stdin.write(frame(message))
    process.stdin.flush()
    _, errors = process.communicate(timeout=30)
    loaded, kilobytes = errors.decode().strip().splitlines()[-1].rsplit(" ", 1)
    assert loaded == "[]"
    assert int(kilobytes) < 100 * 1024
    assert process.returncode == 0


def test_nothing_of_the_open_project_runs(tmp_path: Path) -> None:
    """The editor, the server and the engine that it starts are in a repository of anybody."""
    project, runtime = Project(tmp_path / "project", tmp_path / "marks"), Runtime(tmp_path / "run")
    environment = {
        "PYTHONPATH": f"{ROOT}:.:src:", "PATH": f".:{os.environ['PATH']}",
        "BLOCKDIFF_CACHE": str(tmp_path / "cache"),
    }  # fmt: skip
    settings = {"engine": {"download": False}}

    async def story() -> None:
        async with editing(
            runtime, settings=settings, environment=environment, folder=project.folder
        ) as editor:
            editor.open("x = \n")
            with pytest.raises(JsonRpcException, match="not downloaded"):
                await editor.ask("blockdiff/infill", infill(hole((0, 4))))
        await EngineClient(runtime=runtime).stop()

    run(story())
    assert project.ran() == []


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (("--version",), 0, "blockdiff "),
        (("--help",), 0, "docs/lsp.md"),
        (("--schema",), 0, '"latencySeconds"'),
        (("--tcp", "nowhere"), 2, "--tcp needs HOST:PORT"),
        (("--bogus",), 2, "unrecognized arguments"),
    ],
)
def test_the_command_line(arguments: tuple[str, ...], status: int, said: str) -> None:
    done = subprocess.run([*COMMAND, *arguments], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == status and said in done.stdout + done.stderr
    assert "Traceback" not in done.stderr


def test_a_port_in_use_is_a_clear_error() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        done = subprocess.run(
            [*COMMAND, "--tcp", address], capture_output=True, text=True, cwd=ROOT, timeout=60
        )
    assert done.returncode == 2 and f"cannot listen on {address}" in done.stderr
    assert "Traceback" not in done.stderr


def test_it_serves_an_editor_over_tcp() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = subprocess.Popen([*COMMAND, "--tcp", str(port)], cwd=ROOT)
    try:
        while True:
            try:
                connection = socket.create_connection(("127.0.0.1", port))
                break
            except ConnectionRefusedError:
                assert process.poll() is None
                time.sleep(0.05)
        with connection, connection.makefile("rwb") as stream:
            for message, result in (
                (INITIALIZE, initialize_result(None)),
                ({"jsonrpc": "2.0", "id": 3, "method": "shutdown"}, None),
            ):
                stream.write(frame(message))
                stream.flush()
                size = int(stream.readline().split(b":")[1])
                stream.readline()
                assert json.loads(stream.read(size))["result"] == result
            stream.write(frame({"jsonrpc": "2.0", "method": "exit"}))
            stream.flush()
            assert process.wait(20) == 0
    finally:
        process.kill()


# Settings


def test_what_is_wrong_with_settings_is_said_once_and_the_rest_is_used(scripted: Scripted) -> None:
    settings = {
        "decoding": {"maxTokens": "many", "seed": 3},
        "inline": {"candidats": 2},
        "unknown": {"x": 1},
    }

    async def story() -> None:
        async with editing(scripted[0], settings=settings) as editor:
            editor.open("x = \n")
            await editor.ask("blockdiff/infill", infill(hole((0, 4)), maxTokens=1))
            (message,) = editor.messages
            assert message.type is types.MessageType.Warning
            for words in (
                "decoding.maxTokens must be an integer, not a string; using 256",
                "unknown setting inline.candidats, did you mean inline.candidates?",
                "unknown setting unknown.x",
            ):
                assert words in message.message
            editor.settings = {}
            editor.workspace_did_change_configuration(types.DidChangeConfigurationParams(None))
            editor.workspace_did_change_configuration(
                types.DidChangeConfigurationParams({"blockdiff": {"engine": {"url": "http://x"}}})
            )
            while len(editor.messages) < 2:
                await asyncio.sleep(0.01)
            assert "engine.url needs the token" in editor.messages[1].message
            both = {"backend": "ollama", "drafter": "its-dspark"}
            editor.workspace_did_change_configuration(
                types.DidChangeConfigurationParams({"blockdiff": {"engine": both}})
            )
            while len(editor.messages) < 3:
                await asyncio.sleep(0.01)
            assert "engine.drafter is for our own engine" in editor.messages[2].message

    run(story())


@pytest.mark.parametrize(
    ("value", "complaint"),
    [
        ({"inline.automatic": False}, ""),
        ({"inline": {"automatic": None}}, ""),
        ({"inline": {"max_tokens": 3}}, ""),
        ({"context": {"latencySeconds": 0}}, "context.latencySeconds must be 0.1 to 60; using 1.5"),
        ({"decoding": {"mode": "quick"}}, "decoding.mode must be one of ar, verify, diffusion"),
        ({"engine": {"drafter": "qwen3-8b-dspark"}}, ""),
        ({"engine": {"drafter": 5}}, "engine.drafter must be a string, not an integer; using ''"),
        ([], ""),
        ([1], "must be an object"),
        ({"engine": 5}, "unknown setting engine"),
    ],
)
def test_settings_are_read_leniently_and_never_silently(value: Any, complaint: str) -> None:
    _, complaints = parse(value)
    assert (complaint in "; ".join(complaints)) if complaint else complaints == []


def test_the_engine_is_started_as_the_settings_say() -> None:
    chosen = {"model": "./m", "drafter": "./d", "device": "cpu", "dtype": "int8", "download": False}
    settings, complaints = parse({"engine": chosen})
    start = settings.engine.options().start
    assert complaints == [] and {key: getattr(start, key) for key in chosen} == chosen


def test_the_schema_holds_for_the_defaults_and_names_every_setting() -> None:
    contract = schema("settings")
    properties = json.loads(json.dumps(settings_schema()))["properties"]
    defaults = {
        section: {key: rule["default"] for key, rule in value["properties"].items()}
        for section, value in properties.items()
    }
    contract.validate(defaults)
    assert parse(defaults) == (Settings(), [])
    assert all(r["description"] for s in properties.values() for r in s["properties"].values())


# How it ends


def test_exit_without_shutdown_is_an_error_and_so_is_a_lost_pipe(scripted: Scripted) -> None:
    for says_exit in (True, False):
        raw = Raw(scripted[0])
        raw.start("x = \n")
        if says_exit:
            raw.send({"method": "exit"})
        else:
            assert raw.process.stdin
            raw.process.stdin.close()
        assert raw.process.wait(20) == 1
    raw = Raw(scripted[0])
    raw.start()
    raw.request("shutdown", None)
    raw.send({"method": "exit"})  # at once, without waiting for the answer
    assert raw.process.wait(20) == 0


@pytest.mark.skipif(sys.platform == "win32", reason="pipes of another kind")
@pytest.mark.parametrize("reaped", [True, False])
def test_it_ends_with_its_client_though_its_input_stays_open(
    scripted: Scripted, reaped: bool
) -> None:
    client = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    raw = Raw(scripted[0])
    try:
        raw.start("x = \n", processId=client.pid)
        assert raw.fill((0, 4), max_tokens=1)["result"]
        running = raw.infill((0, 4), max_tokens=1000, seed=20)
        client.kill()
        if reaped:
            client.wait()
        assert raw.process.wait(20) == 1 and running
    finally:
        client.wait()
        raw.process.kill()


@pytest.mark.skipif(sys.platform == "win32", reason="pipes of another kind")
@pytest.mark.parametrize("late", [True, False])
def test_shutdown_ends_an_action_quietly(scripted: Scripted, tmp_path: Path, late: bool) -> None:
    log = tmp_path / "lsp.log"
    raw = Raw(scripted[0], "--log-file", str(log), "--log-level", "debug")
    settings = {"blockdiff": {"decoding": {"maxTokens": 1000, "seed": 20}}}
    action = {"action": "fill", "textDocument": {"uri": RAW_URI}, "range": hole((0, 4), (0, 5))}
    try:
        raw.start("x = 1\n")
        assert raw.fill((0, 4), max_tokens=1)["result"]
        raw.send({"method": "workspace/didChangeConfiguration", "params": {"settings": settings}})
        run_it = {"command": "blockdiff.run", "arguments": [action]}
        action_id = raw.request("workspace/executeCommand", run_it)
        other = raw.infill((0, 5), max_tokens=1000, seed=20)
        if late:
            time.sleep(2.5)  # the server has given up on showing progress when it may
        shutdown = raw.request("shutdown", None)
        answers = raw.answers({action_id, other, shutdown})
        assert answers[action_id]["result"] is None  # it is answered before it is done
        assert answers[other]["error"]["code"] == -32800
        assert answers[shutdown]["result"] is None
        raw.send({"method": "exit"})
        assert raw.process.wait(20) == 0
    finally:
        raw.process.kill()
    words = (" ERROR ", "InvalidState", "Traceback")
    loud = [line for line in log.read_text().splitlines() if any(word in line for word in words)]
    assert loud == []


# Messages that no editor should send


@pytest.mark.parametrize(
    ("bad", "code"),
    [
        ({"method": "textDocument/inlineCompletion", "params": {"position": 3}}, -32602),
        ({"method": "textDocument/codeAction", "params": []}, -32602),
        ({"method": "codeAction/resolve", "params": {"title": "x", "data": {"a": 1}}}, -32602),
        ({"method": "workspace/executeCommand", "params": {"command": 3.5}}, None),
        ({"method": "blockdiff/infill"}, -32602),
        ({"method": "blockdiff/nothing", "params": {}}, -32601),
        ({"method": "initialize", "params": {"capabilities": {}}}, -32600),
    ],
)
def test_a_request_of_the_wrong_shape_is_answered_with_an_error(
    scripted: Scripted, bad: dict[str, Any], code: int | None
) -> None:
    async def story() -> None:
        async with editing(scripted[0]) as editor:
            assert editor.protocol.writer
            answers: list[Any] = []
            handle = editor.protocol.handle_message

            def look(message: Any) -> None:
                answers.append(message)
                handle(message)

            editor.protocol.handle_message = look  # type: ignore[method-assign]
            editor.protocol.writer.write(frame({"jsonrpc": "2.0", "id": 77, **bad}))
            while not any(getattr(answer, "id", None) == 77 for answer in answers):
                await asyncio.sleep(0.01)
            answer = next(a for a in answers if getattr(a, "id", None) == 77)
            assert code is None or answer.error.code == code
            editor.open("x = \n")
            assert await editor.ask("blockdiff/infill", infill(hole((0, 4)), maxTokens=1))

    run(story())


GARBAGE = [
    frame(b"{"), frame(b"[]"), frame(b"null"), frame(b"[" * 5000), frame(b"\xff\xfe"),
    frame({"jsonrpc": "1.0", "id": 5, "method": "x"}), frame({"id": 5}),
    frame({"jsonrpc": "2.0", "method": "textDocument/didChange", "params": {}}),
    frame({"jsonrpc": "2.0", "method": "textDocument/didChange", "params": {
        "textDocument": {"uri": "file:///none.py", "version": 2},
        "contentChanges": [{"text": "x"}]}}),
    frame({"jsonrpc": "2.0", "method": "textDocument/didOpen", "params": 7}),
    frame({"jsonrpc": "2.0", "method": "$/cancelRequest", "params": {"id": "unknown"}}),
    frame({"jsonrpc": "2.0", "method": "window/workDoneProgress/cancel", "params": {"token": 9}}),
    frame({"jsonrpc": "2.0", "id": "nobody", "result": None}),
    b"Content-Length: x\r\n\r\n", b"\r\n\r\n", b"Nonsense: 3\r\n",
]  # fmt: skip


def test_garbage_between_messages_does_no_harm(scripted: Scripted) -> None:
    async def story() -> None:
        async with editing(scripted[0]) as editor:
            editor.open("x = \n")
            for number, garbage in enumerate(GARBAGE):
                assert editor.protocol.writer
                editor.protocol.writer.write(garbage)
                ask = infill(hole((0, 4)), maxTokens=1, requestId=f"g{number}")
                answer = await editor.ask("blockdiff/infill", ask)
                assert answer["edits"][0]["newText"] == f"g{number} done"

    run(story())


def test_source_text_is_not_in_the_log(scripted: Scripted, tmp_path: Path) -> None:
    log = tmp_path / "lsp.log"

    async def story() -> None:
        arguments = ("--log-file", str(log), "--log-level", "info")
        async with editing(scripted[0], arguments=arguments) as editor:
            editor.open(SECRET + "\n")
            await editor.ask("blockdiff/infill", infill(hole((0, 4)), maxTokens=2))
            for scene in ("defect", "nothing"):
                with contextlib.suppress(JsonRpcException):
                    editor.open(SECRET + "\n", f"file:///{scene}", scene)
                    await editor.ask(
                        "blockdiff/infill",
                        infill(hole((0, 4)), uri=f"file:///{scene}", maxTokens=2),
                    )
            with pytest.raises(JsonRpcException):
                await editor.ask("blockdiff/infill", {SECRET: SECRET})
            assert editor.protocol.writer
            editor.protocol.writer.write(frame({"jsonrpc": "2.0", "id": 9,
                "method": "textDocument/codeAction", "params": {"x": SECRET}}))  # fmt: skip
            editor.change((0, 0), (0, 0), SECRET, 2)
            await editor.ask("blockdiff/infill", infill(hole((0, 4)), version=2, maxTokens=2))

    run(story())
    assert "the_secret_source" not in log.read_text()


# The engine goes away


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_a_killed_engine_is_a_typed_error_and_the_next_request_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runtime = Runtime(tmp_path / "run")
    # the server starts engines by this very command; here it finds the scripted one
    program = tmp_path / "bin" / "sitecustomize.py"
    program.parent.mkdir()
    program.write_text(
        "import sys\n"
        "import blockdiff.client.starter as starter\n"
        f"command = {scripted_service.COMMAND!r}\n"
        "plain = starter.StartOptions.arguments\n"
        "def arguments(self):\n"
        "    made = plain(self)\n"
        "    return [*command, *made[made.index('serve'):]]\n"
        "starter.StartOptions.arguments = arguments\n"
    )
    path = os.pathsep.join([str(program.parent), str(ROOT), os.environ.get("PYTHONPATH", "")])

    async def story() -> None:
        async with editing(runtime, environment={"PYTHONPATH": path}) as editor:
            editor.open("x = \n")
            ask = infill(hole((0, 4)), maxTokens=1000, seed=20)
            answer = asyncio.create_task(editor.ask("blockdiff/infill", ask))
            while len(editor.refinements) < 3:
                await asyncio.sleep(0.01)
            announced = runtime.announced()
            assert announced is not None
            os.kill(announced.pid, signal.SIGKILL)
            with pytest.raises(JsonRpcException) as failure:
                await asyncio.wait_for(answer, 20.0)  # 2 s is what users are promised
            assert failure.value.code == -32803
            assert failure.value.data["code"] == "engine_died"
            assert editor.statuses[-1]["state"] == "error"
            again = await editor.ask("blockdiff/infill", infill(hole((0, 4)), maxTokens=2))
            assert again["edits"] and editor.statuses[-1]["state"] == "ready"

    try:
        run(story())
    finally:
        Deaths(runtime).forget()
        if Starter(runtime, StartOptions()).is_alive():
            from blockdiff.client.client import EngineClient

            asyncio.run(EngineClient(runtime=runtime).stop())


def test_no_engine_to_be_had_is_a_typed_error_that_says_what_to_do(tmp_path: Path) -> None:
    settings = {"engine": {"url": "http://127.0.0.1:9", "token": "t"}}

    async def story() -> None:
        async with editing(Runtime(tmp_path / "run"), settings=settings) as editor:
            editor.open("x = \n")
            with pytest.raises(JsonRpcException) as failure:
                await editor.ask("blockdiff/infill", infill(hole((0, 4))))
            assert failure.value.data["code"] == "engine_unavailable"
            assert editor.statuses[-1]["state"] == "error" and editor.statuses[-1]["message"]

    run(story())


def test_a_wrong_token_is_a_typed_error(scripted: Scripted) -> None:
    runtime, _ = scripted
    before = runtime.token_file.read_text()

    async def story() -> None:
        async with editing(runtime) as editor:
            editor.open("x = \n")
            with pytest.raises(JsonRpcException) as failure:
                await editor.ask("blockdiff/infill", infill(hole((0, 4))))
            assert failure.value.data["code"] == "unauthorized"

    try:
        runtime.token_file.write_text("x" * len(before))
        run(story())
    finally:
        runtime.token_file.write_text(before)
