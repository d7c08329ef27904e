"""A remote backend behind the language server: every editor uses it as it does our engine."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from lsprotocol import types
from pygls.exceptions import JsonRpcException

from blockdiff.client.endpoint import Runtime
from tests.lsp.editor import URI, editing, hole, infill, rewrite, run
from tests.unit.backend_server import answering, plain, sse
from tests.unit.tiny_llamacpp import serving

TEXT = "def area(width, height):\n    return \n\nprint(area(2, 3))\n"
PLACE = hole((1, 11))
KEY = "sk-the-secret-of-the-user"


@pytest.fixture
def runtime(tmp_path: Path) -> Runtime:
    """Of no engine: none is started for a backend."""
    return Runtime(tmp_path / "run")


@pytest.fixture(scope="module")
def llamacpp(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with serving(tmp_path_factory.mktemp("llamacpp")) as url:
        yield url


def settings(url: str, backend: str = "llamacpp", **rest: Any) -> dict[str, Any]:
    return {"engine": {"backend": backend, "url": url, **rest}, "decoding": {"maxTokens": 9}}


def completion(text: str) -> dict[str, Any]:
    return {"content": text, "stop": True, "stop_type": "eos", "model": "m"}


def test_a_hole_is_filled_by_llama_cpp(llamacpp: str, runtime: Runtime) -> None:
    lines = TEXT.split("\n", 2)
    body = {
        "input_prefix": f"{lines[0]}\n", "prompt": lines[1], "input_suffix": f"\n{lines[2]}",
        "n_predict": 9, "temperature": 0,
    }  # fmt: skip
    alone = httpx.post(f"{llamacpp}/infill", json=body).json()["content"]

    async def story() -> None:
        async with editing(runtime, settings=settings(llamacpp)) as editor:
            editor.open(TEXT)
            answer = await editor.ask("blockdiff/infill", infill(PLACE))
            assert [edit["newText"] for edit in answer["edits"]] == [alone]
            assert answer["model"] == "tiny.gguf" and len(editor.refinements) > 3
            told = [status["backend"] for status in editor.statuses]
            assert set(told) == {f"llamacpp at {llamacpp.removeprefix('http://')}"}
            assert editor.statuses[0]["state"] == "stopped", "said before anything is sent"

    run(story())
    assert runtime.announced() is None


def test_ghost_text_and_a_rewrite_come_the_same_way(runtime: Runtime) -> None:
    code = {"choices": [{"delta": {"content": "```\n    return 6\n```"}, "finish_reason": "stop"}]}
    with answering(sse(completion("width * height")), sse(code)) as server:

        async def story() -> None:
            async with editing(runtime, settings=settings(server.url)) as editor:
                editor.open(TEXT)
                ghost = await editor.text_document_inline_completion_async(
                    types.InlineCompletionParams(
                        types.InlineCompletionContext(
                            types.InlineCompletionTriggerKind.Automatic
                        ),
                        types.TextDocumentIdentifier(URI),
                        types.Position(1, 11),
                    )
                )
                items = getattr(ghost, "items", ghost)
                assert [item.insert_text for item in items] == ["width * height"]
                lines = hole((1, 0), (2, 0))
                answer = await editor.ask("blockdiff/rewrite", rewrite(lines, instruction="x"))
                assert answer["edits"][0]["newText"].strip() == "6"

        run(story())
    assert {path for _, path, _, _ in server.asked} == {"/infill", "/v1/chat/completions"}


# By what the settings say: the code of the error, and a part of the status.
REFUSED = {
    "another machine": (settings("", "mistral"), "backend_not_allowed", "backend allow"),
    "another machine by its address": (
        settings("https://192.0.2.1:8080"), "backend_not_allowed", "https://192.0.2.1:8080"
    ),
    "http": (settings("http://192.0.2.1:8080"), "invalid_request", ""),
    "down": (settings("http://127.0.0.1:9"), "backend_failed", "no llamacpp answers"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_asked_is_a_typed_error_and_a_status(name: str, runtime: Runtime) -> None:
    """Settings may come from the folder that is open: they send nothing to another machine."""
    chosen, code, said = REFUSED[name]

    async def story() -> None:
        async with editing(runtime, settings=chosen) as editor:
            editor.open(TEXT)
            with pytest.raises(JsonRpcException) as failed:
                await editor.ask("blockdiff/infill", infill(PLACE))
            assert failed.value.data["code"] == code
            if said:
                assert said in editor.statuses[-1]["message"]
                assert editor.statuses[-1]["state"] == "error"

    run(story())


def test_the_next_settings_are_used_and_the_next_request_works(runtime: Runtime) -> None:
    with answering(sse(completion("width"))) as server:

        async def story() -> None:
            async with editing(runtime, settings=settings("http://127.0.0.1:9")) as editor:
                editor.open(TEXT)
                with pytest.raises(JsonRpcException):
                    await editor.ask("blockdiff/infill", infill(PLACE))
                editor.settings = settings(server.url)
                editor.workspace_did_change_configuration(
                    types.DidChangeConfigurationParams(settings=None)
                )
                while not editor.statuses[-1]["backend"].endswith(server.url[7:]):
                    await asyncio.sleep(0.01)
                answer = await editor.ask("blockdiff/infill", infill(PLACE))
                assert answer["edits"][0]["newText"] == "width"
                assert editor.statuses[-1]["state"] == "ready"

        run(story())


def test_the_key_is_in_no_message_and_no_log(runtime: Runtime, tmp_path: Path) -> None:
    log = tmp_path / "log"
    refusal = plain({"error": {"message": f"Incorrect API key provided: {KEY}"}}, 401)
    with answering(refusal) as server:

        async def story() -> str:
            async with editing(
                runtime,
                settings=settings(server.url, "openai", model="qwen"),
                arguments=("--log-level", "debug", "--log-file", str(log)),
                environment={"BLOCKDIFF_API_KEY": KEY},
            ) as editor:
                editor.open(TEXT)
                with pytest.raises(JsonRpcException) as failed:
                    await editor.ask("blockdiff/infill", infill(PLACE))
                assert failed.value.data["code"] == "unauthorized"
                assert "does not accept the key" in editor.statuses[-1]["message"]
                return f"{failed.value.data} {editor.statuses} {editor.messages}"

        shown: list[str] = []

        async def told() -> None:
            shown.append(await story())

        run(told())
    assert server.asked[0][2]["authorization"] == f"Bearer {KEY}"
    assert KEY not in shown[0] + log.read_text("utf-8")
