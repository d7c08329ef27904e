"""Endpoints for clients of other servers, over real HTTP, with a scripted engine behind them."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import http.client
import json
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from blockdiff.client.endpoint import COMPAT_TOKEN, Runtime
from blockdiff.client.wire import MOST_BYTES
from blockdiff.config import MAX_BYTES
from blockdiff.errors import EngineBusy, InvalidRequest, OutOfMemory
from blockdiff.service.bodies import Bodies, Held
from blockdiff.service.compat.asked import Sampling, Text, rewriting
from blockdiff.service.compat.writing import SettledText
from blockdiff.types import Extent, Hole, InfillRequest, RewriteRequest, Snippet
from tests.unit import compat_clients
from tests.unit.compat_clients import CLIENTS, INSTRUCTION, LLAMA_VIM, LLAMA_VSCODE, tried
from tests.unit.compat_world import (
    AFTER,
    BEFORE,
    CURSOR,
    REWRITING,
    TEXT,
    WRITING,
    Compat,
    WritingEngine,
    compat,
    message_of,
)
from tests.unit.scripted_service import served


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Compat]:
    with compat(Runtime(tmp_path_factory.mktemp("compat") / "run")) as made:
        yield made


@pytest.fixture(autouse=True)
def as_it_was(request: pytest.FixtureRequest) -> None:
    if "world" in request.fixturenames:
        engine = request.getfixturevalue("world").engine
        engine.text, engine.fails = TEXT, None
        engine.go.set()


def last(world: Compat) -> Any:
    return world.engine.requests[-1]


# --- clients -------------------------------------------------------------------------------------


@pytest.mark.parametrize("client", CLIENTS, ids=lambda c: f"{c.name} {c.endpoint}")
def test_a_client_gets_what_the_guide_says(world: Compat, client: compat_clients.Client) -> None:
    recorded = json.loads(compat_clients.RESULTS.read_text("utf-8"))
    assert tried(world, client) in recorded, "run: python -m tests.unit.compat_clients"


def test_llama_vim_gets_the_fields_it_names_in_one_line(world: Compat) -> None:
    with world.http() as http:
        raw = http.post("/infill", json=LLAMA_VIM).text
    assert set(json.loads(raw)) == set(LLAMA_VIM["response_fields"])
    assert raw.startswith("{") and '"content":"' in raw and "\n" not in raw.strip()
    request = last(world)
    assert request.document == BEFORE + CURSOR + AFTER
    assert request.hole.start == len(BEFORE + CURSOR) and request.extent is Extent.BLOCK
    assert request.language == "python"
    assert [snippet.path for snippet in request.snippets] == ["/home/me/volume.py"]


def test_the_newest_extra_comes_first(world: Compat) -> None:
    """Their rings begin with the oldest; files of two languages say nothing of this one's."""
    extra = [{"text": "a", "filename": "x.py"}, {"text": "b", "filename": "y.c"}, {"text": " "}]
    with world.http() as http:
        http.post("/infill", json=LLAMA_VSCODE | {"input_extra": extra})
    assert last(world).snippets == (Snippet("y.c", "b"), Snippet("x.py", "a"))
    assert last(world).language == ""


@pytest.mark.parametrize(
    ("suffix", "extent"), [("\n", Extent.BLOCK), (")\n", Extent.LINE), ("  \nx", Extent.BLOCK)]
)
def test_an_infill_is_what_ghost_text_shows(world: Compat, suffix: str, extent: Extent) -> None:
    with world.http() as http:
        http.post("/infill", json=WRITING["/infill"] | {"input_suffix": suffix})
    assert last(world).extent is extent


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/fim/completions"])
def test_three_equal_requests_are_one(world: Compat, path: str) -> None:
    world.engine.go.clear()
    count, got = len(world.engine.requests), []

    def ask() -> None:
        with world.http() as http:
            got.append(http.post(path, json=WRITING[path] | {"stream": True}).text)

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    world.until(lambda: len(world.engine.requests) > count)
    with world.http() as http:  # one that leaves takes nothing from the others
        with http.stream("POST", path, json=WRITING[path] | {"stream": True}) as response:
            next(response.iter_text())
    world.engine.go.set()
    for thread in threads:
        thread.join()
    texts = {"".join(compat_clients.events(_text)(raw)) for raw in got}
    assert texts == {TEXT} and len(got) == 3
    assert len(world.engine.requests) == count + 1


def _text(chunk: dict[str, Any]) -> str:
    choice = chunk["choices"][0]
    return str(choice["text"] if "text" in choice else choice["delta"]["content"])


def test_as_much_context_is_sent_as_the_machine_encodes_in_time(world: Compat) -> None:
    """A speed that moves a little moves no window: that would cost the cache."""
    budgets = []
    with pytest.MonkeyPatch.context() as patch, world.http() as http:
        for speed in (100.0, 105.0, 90.0, 1000.0, 1.0, 1e6, 100.0):
            patch.setattr(WritingEngine, "context_speed", speed)
            http.post("/infill", json=WRITING["/infill"])
            budgets.append(last(world).context_tokens)
    assert budgets == [128, 128, 128, 1290, 128, 4096, 128]


# --- limits --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "most"), [(None, 0), (-1, 8192), (-2, 8192), (64, 64), (10**6, 8192)]
)
@pytest.mark.parametrize(
    ("path", "name"),
    [("/infill", "n_predict"), ("/v1/completions", "max_tokens"), ("/api/generate", "num_predict"),
     ("/v1/fim/completions", "max_tokens"), ("/completion", "n_predict")],
)  # fmt: skip
def test_more_tokens_than_we_write_are_our_limit(
    world: Compat, path: str, name: str, asked: int | None, most: int
) -> None:
    value = {name: asked}
    body = WRITING[path] | ({"options": value} if path.startswith("/api/") else value)
    with world.http() as http:
        assert http.post(path, json=body).status_code == 200
    assert last(world).decoding.max_tokens == most


def test_a_time_limit_ends_the_answer_at_a_line(world: Compat) -> None:
    world.engine.go.clear()
    cancelled = world.engine.cancelled
    with world.http() as http:
        answer = http.post("/infill", json=WRITING["/infill"] | {"t_max_predict_ms": 1}).json()
    assert answer["content"] == TEXT.split("\n")[0] and answer["stop_type"] == "limit"
    world.until(lambda: world.engine.cancelled > cancelled)


@pytest.mark.parametrize(
    ("body", "text", "kind"),
    [
        ({"stop": ["height"]}, "max(\n        width * ", "word"),
        ({"stop": [",\n        0"]}, "max(\n        width * height", "word"),  # over two pieces
        ({"stop": ["nowhere", "0"]}, "max(\n        width * height,\n        ", "word"),
        ({"stop": [""]}, TEXT, "eos"),
        ({"stop": "max"}, "", "word"),
        ({"n_indent": 8}, "max(\n        width * height,\n        0,", "limit"),
        ({"n_indent": 4}, TEXT, "eos"),
        ({"n_indent": 4, "stop": [")"]}, TEXT[:-1], "word"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_an_answer_ends_where_it_is_told_to(
    world: Compat, body: dict[str, Any], text: str, kind: str, stream: bool
) -> None:
    with world.http() as http:
        raw = http.post("/infill", json=WRITING["/infill"] | body | {"stream": stream}).text
    read = compat_clients.events(lambda chunk: chunk["content"])
    assert read(raw) == text
    end = json.loads(raw.strip().rsplit("\n", 1)[-1].removeprefix("data: "))
    assert end["stop"] is True and end["stop_type"] == kind


def test_nothing_is_sent_that_the_final_text_takes_back(world: Compat) -> None:
    """A comment at the end may belong to what was cut off, a line of which only a part is there may
    become another one."""
    world.engine.text = "width * height\n    # what follows\n    "
    final = "width * height"
    original = WritingEngine.infill

    def infill(self: WritingEngine, *arguments: Any) -> Iterator[Any]:
        for event in original(self, *arguments):
            yield replace(event, text=final) if hasattr(event, "finish") else event

    with pytest.MonkeyPatch.context() as patch, world.http() as http:
        patch.setattr(WritingEngine, "infill", infill)
        raw = http.post("/completion", json=WRITING["/completion"] | {"stream": True}).text
    assert compat_clients.events(lambda chunk: chunk["content"])(raw) == final


@pytest.mark.parametrize(
    ("settled", "late", "shown"),
    [
        ("max(\n        wid", False, "max("),
        ("max(\n        wid", True, "max("),
        ("max(wid", False, ""),
        ("max(wid", True, "max(wid"),
        ("max(\n        # of both\n", False, "max("),
        ("max(\n\n", False, "max("),
        ("", True, ""),
    ],
)
def test_what_is_sent_of_a_draft(settled: str, late: bool, shown: str) -> None:
    at = len(BEFORE + CURSOR)
    request = InfillRequest(BEFORE + CURSOR + AFTER, Hole(at, at), language="python")
    assert SettledText(request).shown(settled, late) == shown


@pytest.mark.parametrize(
    ("path", "same"),
    [
        ("/infill/", "/infill"), ("//infill", "/infill"), ("/v1//completions", "/v1/completions"),
        ("/api/generate/", "/api/generate"), ("/fim/completions", "/v1/fim/completions"),
        ("/chat/completions", "/v1/chat/completions"),
    ],
)  # fmt: skip
def test_an_address_that_was_put_together_wrongly_is_understood(
    world: Compat, path: str, same: str
) -> None:
    with world.http() as http:
        assert http.post(world.url + path, json=WRITING[same]).status_code == 200
        wrong = http.post(world.url + path, json={"prompt": 3, "messages": 3})
        assert "must be" in message_of(same, wrong.json())
        assert http.get("/models").json() == http.get("/v1/models").json()


@pytest.mark.parametrize("path", sorted(WRITING.keys() - REWRITING))
def test_a_whole_number_may_be_written_with_a_point(world: Compat, path: str) -> None:
    """As languages with one kind of number write all of them."""
    limits = {"n_predict": 64.0, "max_tokens": 64.0, "num_predict": 64.0}
    body = WRITING[path] | ({"options": limits} if path.startswith("/api/") else limits)
    with world.http() as http:
        assert http.post(path, json=body).status_code == 200
    assert last(world).decoding.max_tokens == 64


# --- prompts -------------------------------------------------------------------------------------

P, S, M = "<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"
R, F = "<|repo_name|>", "<|file_sep|>"


@pytest.mark.parametrize(
    ("prompt", "suffix", "text"),
    [
        ("a", None, Text("a")),
        ("a", "", Text("a")),
        ("a", "b", Text("a", "b")),
        (f"{P}a{S}b{M}", None, Text("a", "b")),
        (f"{P}a{S}b{M}", "", Text("a", "b")),
        (f"{P}a{S}b{M}c", None, Text("ac", "b")),
        (f"{P}{S}b{M}a", None, Text("a", "b")),
        (f"{P}a{S}b", None, Text(f"{P}a{S}b")),
        (f"a{S}b", None, Text(f"a{S}b")),
        (f"a{S}b{M}", None, Text("a", "b")),
        (f"_prefix|>a{S}b{M}", None, Text("a", "b")),
        (f"x|>a{S}b{M}", None, Text("a", "b")),
        (f"|> f{S}b{M}", None, Text("|> f", "b")),
        (f"{P}a{S}b{M}", "c", Text(f"{P}a{S}b{M}", "c")),
        (f"{R}me\n{F}x.py\nX\n{F}y.py\nY\n{F}z.py\n{P}a{S}b{M}", None,
         Text("a", "b", "z.py", snippets=(Snippet("y.py", "Y\n"), Snippet("x.py", "X\n")))),
        (f"Context:\n\nX\n{P}a{S}b{M}", None,
         Text("a", "b", snippets=(Snippet("", "Context:\n\nX\n"),))),
        ("# language: python\n# indentation: use 4 spaces for a tab\na", "b",
         Text("a", "b", language="python", indentation="    ")),
        ("// language: go\n// indentation: use \t for a tab\na", "b",
         Text("a", "b", language="go", indentation="\t")),
        ("<!-- language: html -->\n\na", "b", Text("a", "b", language="html")),
        ("# language: python\n# indentation: use 99 spaces for a tab\na", "b",
         Text("a", "b", language="python")),
    ],
)  # fmt: skip
def test_a_prompt_is_taken_apart(prompt: str, suffix: str | None, text: Text) -> None:
    assert Text.of_prompt(prompt, suffix) == text


def test_ollama_chats_about_a_block_of_code(world: Compat) -> None:
    with world.http() as http:
        lines = http.post("/api/chat", json=WRITING["/api/chat"]).text.splitlines()
    *pieces, end = map(json.loads, lines)
    said = "".join(piece["message"]["content"] for piece in [*pieces, end])
    assert end["done"] and end["done_reason"] == "stop" and not any(p["done"] for p in pieces)
    assert said.startswith("```") and TEXT in said
    assert isinstance(world.engine.requests[-1], RewriteRequest)


def test_an_instruction_of_llama_vim_rewrites_its_selection(world: Compat) -> None:
    with world.http() as http:
        raw = http.post("/v1/chat/completions", json=INSTRUCTION).text
        assert compat_clients.events(_text)(raw) == TEXT
        request = last(world)
        assert isinstance(request, RewriteRequest) and request.instruction == "return the area"
        assert request.document == f"{BEFORE}    return 0\n{AFTER}"
        assert request.document[request.span.start : request.span.end] == "    return 0"
        more = [
            *INSTRUCTION["messages"],
            {"role": "assistant", "content": "    return width * height"},
            {"role": "user", "content": "INSTRUCTION: now in metres"},
        ]
        http.post("/v1/chat/completions", json=INSTRUCTION | {"messages": more})
    request = last(world)
    assert request.document[request.span.start : request.span.end] == "    return width * height"
    assert request.instruction == "now in metres"


@pytest.mark.parametrize(
    ("said", "code", "instruction", "language"),
    [
        (["use a loop:\n```python\nx = 1\n```\n"], "x = 1", "use a loop:", "python"),
        (["```\nx = 1\n```\nsort"], "x = 1", "sort", ""),
        (["```\nx = 1\n```\nsort", "and now?"], "x = 1", "and now?", ""),
        (["````md\n```\nx\n```\n````\nshorter"], "```\nx\n```", "shorter", "md"),
        (["one\n```\na\n```\ntwo\n```c\nb\n```"], "b", "one\n```\na\n```\ntwo", "c"),
        (["sort\r\n```c\r\nb\r\na\r\n```\r\n"], "b\r\na", "sort", "c"),
        (["sort\n```c\nb\na\n"], "b\na\n", "sort", "c"),
        (["sort\n```\na\n```\n```\n"], "a", "sort\n\n```", ""),
        (["sort\n```\na `b`\n``\n``` `\n```` \n"], "a `b`\n``\n``` `", "sort", ""),
        (["what is ```x\n```\na\n```"], "a", "what is ```x", ""),
    ],
)
def test_a_block_of_code_is_rewritten(
    said: list[str], code: str, instruction: str, language: str
) -> None:
    messages = [("system", "be nice"), *(("user", text) for text in said)]
    asked = rewriting(messages, Sampling(), 512)
    assert isinstance(asked.request, RewriteRequest)
    assert asked.request.span == Hole(0, len(code)) and asked.request.document == code
    assert (asked.request.instruction, asked.request.language) == (instruction, language)
    assert asked.fence[0].endswith(f"{language}\n")


HUGE = ["```a\n" * 100_000, "`" * 100_000 + "\nx", "```" + "a" * 100_000 + "`", "``` \n`" * 50_000]


@pytest.mark.parametrize("text", HUGE, ids=range(len(HUGE)))
def test_a_text_of_any_shape_is_read_at_once(text: str) -> None:
    """It is read on the loop that serves everybody: nothing in it may be looked for again and
    again."""
    with contextlib.suppress(InvalidRequest):
        rewriting([("user", f"sort\n{text}")], Sampling(), 512)
    assert Text.of_prompt("# language: " + text, "b") == Text("# language: " + text, "b")


@pytest.mark.parametrize("said", [["hello"], ["```\nx\n```"], ["```\n \n```\nsort"], []])
def test_a_chat_without_code_is_told_what_is_missing(said: list[str]) -> None:
    with pytest.raises(InvalidRequest):
        rewriting([("user", text) for text in said], Sampling(), 512)


# --- bad input -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ("", "not JSON"),
        ("{", "not JSON"),
        ("[]", "the body must be an object"),
        ("null", "the body must be an object"),
        ("[" * 100_000, "not JSON"),
        ({"stream": "yes"}, "stream must be true or false, not a string"),
        ({"temperature": -1}, "temperature must be 0..10, got -1.0"),
        ({"temperature": 1e300}, "temperature must be 0..10"),
        ({"stop": 7}, "stop must be a string or a list of strings"),
        ({"stop": [7]}, "stop must be a string or a list of strings"),
        ({"max_tokens": "many", "n_predict": "many", "num_predict": "many"}, "must be an integer"),
        ({"max_tokens": 1.5, "n_predict": 1.5, "num_predict": 1.5}, "must be an integer"),
        ({"prompt": 7, "messages": 7}, "must be"),
        ({"prompt": ["a", "b"], "messages": [{}]}, ""),
        ({"prompt": "\ud800", "messages": [{"role": "user", "content": "\ud800"}]}, "surrogate"),
    ],
)  # fmt: skip
def test_bad_bodies_are_refused_in_the_words_of_the_protocol(
    world: Compat, raw: Any, message: str
) -> None:
    count = len(world.engine.requests)
    with world.http() as http:
        for path, least in WRITING.items():
            if path in REWRITING and "stop" in raw:
                continue  # of a rewrite nothing is left out
            wrong = raw
            if isinstance(raw, dict):
                wrong = json.dumps(least | raw | ({"options": raw} if "/api/" in path else {}))
            response = http.post(path, content=wrong)
            assert response.status_code == 400, path
            assert message in message_of(path, response.json())
            assert "Traceback" not in response.text and world.token not in response.text
    assert len(world.engine.requests) == count


@pytest.mark.parametrize(
    ("path", "body", "message"),
    [
        ("/infill", {"input_extra": [{"text": 7}]}, "input_extra[0].text must be a string"),
        ("/infill", {"input_extra": {}}, "input_extra must be an array"),
        ("/infill", {"response_fields": 7}, "response_fields must be an array"),
        ("/infill", {"stop": ["a"] * 200}, "stop has 200 strings: send 128 at most"),
        ("/v1/completions", {"n": 3}, "n must be 1, got 3"),
        ("/v1/completions", {"echo": True}, "echo and logprobs are not supported"),
        ("/v1/completions", {"prompt": [1, 2]}, "prompt must be a string"),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": [{"type": "image"}]}]},
         "a message must be text"),
        ("/api/generate", {"format": "json"}, "format and images are not supported"),
        ("/api/generate", {"options": 7}, "options must be an object"),
    ],
)  # fmt: skip
def test_what_is_not_supported_is_said(
    world: Compat, path: str, body: dict[str, Any], message: str
) -> None:
    with world.http() as http:
        response = http.post(path, json=WRITING[path] | body)
    assert response.status_code == 400 and message in message_of(path, response.json())


@pytest.mark.parametrize("path", WRITING)
def test_unknown_fields_and_nulls_are_passed_over(world: Compat, path: str) -> None:
    body = WRITING[path] | {"lora": [], "user": "me", "seed": None, "stop": None, "model": None}
    with world.http() as http:
        assert http.post(path, json=body | {"x": {"y": [1]}}).status_code == 200


@pytest.mark.parametrize(("size", "beside"), [(100, False), (1 << 20, True)])
def test_a_large_body_is_taken_apart_beside_the_loop(size: int, beside: bool) -> None:
    """Many small values take seconds, in which others are to be served."""
    body = Held(Bodies(), json.dumps({"prompt": "x" * size}).encode())
    thread = asyncio.run(body.read(lambda value: threading.get_ident()))
    assert (thread != threading.get_ident()) == beside and not body.data


def test_a_body_that_is_too_large_is_not_read(world: Compat) -> None:
    def ask(length: int, body: bytes) -> int:
        connection = http.client.HTTPConnection(world.url.removeprefix("http://"), timeout=20)
        connection.putrequest("POST", "/infill")
        for name, value in (world.bearer | {"Content-Length": str(length)}).items():
            connection.putheader(name, value)
        connection.endheaders(body)
        return connection.getresponse().status

    assert ask(MOST_BYTES + 1, b"{") == 413
    document = json.dumps({"prompt": "x" * (MAX_BYTES + 1)}).encode()
    assert ask(len(document), document) == 413


def test_a_compressed_body_is_refused_in_words(world: Compat) -> None:
    body = gzip.compress(json.dumps(WRITING["/infill"]).encode())
    with world.http() as http:
        refused = http.post("/infill", content=body, headers={"Content-Encoding": "gzip"})
    assert refused.status_code == 400 and "encoded as gzip" in refused.json()["error"]["message"]


def test_a_body_that_is_cut_leaves_the_server_as_it_was(world: Compat) -> None:
    connection = http.client.HTTPConnection(world.url.removeprefix("http://"), timeout=20)
    connection.putrequest("POST", "/infill")
    connection.putheader("Authorization", f"Bearer {world.token}")
    connection.putheader("Content-Length", "100")
    connection.endheaders(b'{"prompt": ')
    connection.close()
    with world.http() as again:
        assert again.post("/infill", json=WRITING["/infill"]).json()["content"] == TEXT


@pytest.mark.parametrize("path", sorted(WRITING.keys() - REWRITING))
def test_an_engine_that_fails_ends_a_stream_with_an_error(world: Compat, path: str) -> None:
    world.engine.fails = OutOfMemory("not enough memory", "close other programs")
    world.engine.go.clear()
    with world.http() as http:
        with http.stream("POST", path, json=WRITING[path] | {"stream": True}) as response:
            pieces = response.iter_text()
            text = next(pieces)
            world.engine.go.set()
            text += "".join(pieces)
    end = text.strip().rsplit("\n", 1)[-1].removeprefix("data: ")
    error = json.loads(end)["error"]
    text = error if path == "/api/generate" else error["message"]
    assert text == "not enough memory: close other programs"


@pytest.mark.parametrize("path", WRITING)
@pytest.mark.parametrize(
    ("error", "status"),
    [(OutOfMemory("none"), 500), (EngineBusy("busy"), 503), (ZeroDivisionError("SECRET"), 500)],
)
def test_an_engine_that_fails_at_once_has_a_status(
    world: Compat, path: str, error: Exception, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    def infill(self: WritingEngine, *arguments: Any) -> Iterator[Any]:
        raise error
        yield

    with pytest.MonkeyPatch.context() as patch, world.http() as http:
        patch.setattr(WritingEngine, "infill", infill)
        response = http.post(path, json=WRITING[path] | {"stream": True})
    assert response.status_code == status and message_of(path, response.json())
    assert "Traceback" not in response.text and "SECRET" not in caplog.text


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/nowhere", 404), ("GET", "/v1/nowhere", 404), ("GET", "/api/nowhere", 404),
     ("GET", "/infill", 405), ("POST", "/v1/embeddings", 404), ("POST", "/v1/stop", 404),
     ("POST", "/v1/infill", 404)],
)  # fmt: skip
def test_what_is_not_there_is_said_in_json(
    world: Compat, method: str, path: str, status: int
) -> None:
    with world.http() as http:
        response = http.request(method, path)
    assert response.status_code == status and message_of(path, response.json())


# --- what is asked beside it ---------------------------------------------------------------------


def test_probes_find_what_they_look_for(world: Compat) -> None:
    with world.http() as http:
        assert http.get("/health").json() == {"status": "ok"}
        assert http.get("/props").json()["default_generation_settings"]["n_ctx"] == 512
        models = http.get("/v1/models").json()
        assert models["data"][0]["id"] == models["models"][0]["name"] == "scripted"
        assert models["models"][0]["id"] == "scripted" and models["object"] == "list"
        assert models["data"][0]["type"] == "base"  # mistralai takes no list without
        assert http.get("/api/tags").json()["models"][0]["name"] == "scripted"
        shown = http.post("/api/show", json={"name": "anything"}).json()
        assert ".Suffix" in shown["template"] and isinstance(shown["parameters"], str)
        loaded = http.post("/api/generate", json={"model": "m", "stream": False}).json()
        assert loaded["done"] is True and loaded["response"] == ""


def test_while_the_model_loads_clients_are_told_to_wait(tmp_path: Path) -> None:
    let = threading.Event()

    def load(report: Any) -> Any:
        report("reading", 0.5)
        assert let.wait(20)
        return WritingEngine()

    runtime = Runtime(tmp_path / "run")
    with served(runtime, load, compat="127.0.0.1:0"):
        announced = runtime.announced()
        assert announced is not None
        token = (runtime.folder / COMPAT_TOKEN).read_text().strip()
        world = Compat(WritingEngine(), announced.compat, token)
        with world.http() as http:
            for path, body in WRITING.items():
                response = http.post(path, json=body)
                assert response.status_code == 503
                assert message_of(path, response.json()).startswith("Loading model")
            error = http.get("/health")
            assert error.status_code == 503 and error.json()["error"]["code"] == 503
            let.set()
            world.until(lambda: http.get("/health").status_code == 200)
