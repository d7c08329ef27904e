"""Remote backends against small servers that answer in the published forms."""

from __future__ import annotations

import asyncio
import json
import logging
import sys
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import keyring as library
import pytest
from keyring.backend import KeyringBackend
from keyring.backends import fail, null

from blockdiff.client.endpoint import Runtime
from blockdiff.client.remote import allowed, connection, keys
from blockdiff.client.remote.client import RemoteClient
from blockdiff.client.remote.fim import FAMILIES, Fim, before_marks, fim_of
from blockdiff.client.remote.options import Backend, BackendOptions
from blockdiff.config import DecodingConfig
from blockdiff.errors import (
    AnswerIsProse,
    BackendFailed,
    BackendNotAllowed,
    BlockdiffError,
    EngineMismatch,
    InvalidRequest,
    ModelNotFound,
    ModelUnsupported,
    RateLimited,
    Superseded,
    Unauthorized,
)
from blockdiff.types import (
    Finished,
    FinishReason,
    Hole,
    InfillRequest,
    Priority,
    Progress,
    Refinement,
    RewriteRequest,
    Snippet,
    StreamEvent,
    Warmed,
)
from tests.unit.backend_server import Reply, answering, lines, plain, sse
from tests.unit.scripted_service import run, until

BEFORE, BEGUN, AFTER = "def area(width, height):\n", "    return ", "\n\nprint(area(2, 3))\n"
SNIPPET = Snippet("/home/me/src/box.py", "def box(width):\n    return width * 4\n")
KEY = "sk-the-secret-of-the-user"
SAMPLED = DecodingConfig(max_tokens=9, temperature=0.5, top_p=0.9, seed=7)


def request(**rest: Any) -> InfillRequest:
    place = len(BEFORE + BEGUN)
    return InfillRequest(
        BEFORE + BEGUN + AFTER, Hole(place, place), path="/home/me/src/area.py", request_id="r",
        **({"decoding": DecodingConfig(max_tokens=9)} | rest),
    )  # fmt: skip


def instruction(text: str = "use the height", **rest: Any) -> RewriteRequest:
    document = BEFORE + BEGUN + "width" + AFTER
    span = Hole(len(BEFORE), len(BEFORE + BEGUN) + 5)
    return RewriteRequest(document, span, text, path="area.py", request_id="r", **rest)


def client(backend: Backend, url: str, tmp_path: Path, **rest: Any) -> RemoteClient:
    model = {Backend.OPENAI: "qwen", Backend.OLLAMA: "qwen:1"}.get(backend, "")
    options = BackendOptions(backend, url, **({"model": model} | rest))
    return RemoteClient(options, Runtime(tmp_path / "run"))


def ask(
    made: RemoteClient, what: InfillRequest | RewriteRequest, **rest: Any
) -> list[StreamEvent]:
    async def story() -> list[StreamEvent]:
        async with made:
            asked: Any = made.rewrite if isinstance(what, RewriteRequest) else made.infill
            async with aclosing(asked(what, **rest)) as events:
                return [event async for event in events]

    found: list[StreamEvent] = run(story())
    return found


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No key of whoever runs the tests, and a keyring that holds none."""
    for variable in (*keys.VARIABLES.values(), keys.ANY_HOST):
        monkeypatch.delenv(variable, raising=False)
    library.set_keyring(null.Keyring())


# Wire forms


def completion(text: str, finish: str | None = None, **rest: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, "text": text, "finish_reason": finish}], "model": "m", **rest}


def delta(text: str, finish: str | None = None, **rest: Any) -> dict[str, Any]:
    first = {"index": 0, "delta": {"content": text}, "finish_reason": finish}
    return {"choices": [first], "model": "m", **rest}


USAGE = {"prompt_tokens": 40, "completion_tokens": 3, "prompt_tokens_details": {"cached_tokens": 8}}
OLLAMA_END = {"model": "m", "done": True, "done_reason": "stop", "prompt_eval_count": 40,
              "eval_count": 3, "prompt_eval_duration": 10_000_000}  # fmt: skip
# By backend: what it is asked, and how it answers `width * height`.
FILL: dict[Backend, tuple[str, dict[str, Any], Reply]] = {
    Backend.OPENAI: (
        "/v1/completions",
        {
            "model": "qwen", "max_tokens": 9, "stream": True, "temperature": 0,
            "stream_options": {"include_usage": True},
            "prompt": f"<|fim_prefix|>{BEFORE}{BEGUN}<|fim_suffix|>{AFTER}<|fim_middle|>",
            "stop": ["<|endoftext|>", "<|fim_pad|>", "<|im_end|>", "<|fim_prefix|>"],
        },
        sse(completion("width"), completion(" * "), completion("height", "stop"),
            {"choices": [], "model": "m", "usage": USAGE}),
    ),
    Backend.LLAMACPP: (
        "/infill",
        {
            "input_prefix": BEFORE, "prompt": BEGUN, "input_suffix": AFTER, "input_extra": [],
            "n_predict": 9, "cache_prompt": True, "stream": True, "temperature": 0,
        },
        sse({"content": "width", "stop": False}, {"content": " * ", "stop": False},
            {"content": "height", "stop": False},
            {"content": "", "stop": True, "stop_type": "eos", "model": "/models/m",
             "tokens_predicted": 3, "tokens_evaluated": 40, "timings": {"cache_n": 8}}, done=False),
    ),
    Backend.OLLAMA: (
        "/api/generate",
        {
            "model": "qwen:1", "prompt": BEFORE + BEGUN, "suffix": AFTER, "stream": True,
            "options": {"num_predict": 9, "num_ctx": 8192, "temperature": 0},
        },
        lines({"model": "m", "response": "width", "done": False},
              {"model": "m", "response": " * ", "done": False},
              {"model": "m", "response": "height", "done": False}, {"response": "", **OLLAMA_END}),
    ),
    Backend.MISTRAL: (
        "/v1/fim/completions",
        {
            "model": "codestral-latest", "prompt": BEFORE + BEGUN, "suffix": AFTER,
            "max_tokens": 9, "stream": True, "temperature": 0,
        },
        sse(delta("width"), delta(" * "), delta("height", "stop", usage=USAGE)),
    ),
    Backend.INCEPTION: (
        "/v1/fim/completions",
        {
            "model": "mercury-edit-2", "prompt": BEFORE + BEGUN, "suffix": AFTER, "max_tokens": 9,
            "stream": True, "stop": ["<|endoftext|>"],
        },
        sse(completion("width * height", "stop"), {"choices": [], "model": "m", "usage": USAGE}),
    ),
}  # fmt: skip
ALL = list(FILL)


@pytest.mark.parametrize("backend", ALL)
def test_a_hole_is_asked_for_in_the_published_form(backend: Backend, tmp_path: Path) -> None:
    path, body, reply = FILL[backend]
    with answering(reply) as server:
        *drafts, end = ask(client(backend, server.url, tmp_path), request())
    ((method, asked_path, headers, asked_body),) = server.asked
    assert (method, asked_path, asked_body) == ("POST", path, body)
    assert "authorization" not in headers
    assert isinstance(end, Finished)
    assert (end.text, end.finish, end.mode) == ("width * height", FinishReason.EOM, backend.value)
    assert (end.model, end.request_id, end.syntax.value) == ("m", "r", "ok")
    if backend is not Backend.INCEPTION:
        assert (end.tokens, end.context_tokens) == (3, 40)
        texts = [draft.text for draft in drafts if isinstance(draft, Refinement)]
        assert texts == ["width", "width * ", "width * height"]


# By backend: the fields that say how tokens are drawn.
DRAWN = {
    Backend.OPENAI: {"temperature": 0.5, "top_p": 0.9, "seed": 7},
    Backend.LLAMACPP: {"temperature": 0.5, "top_p": 0.9, "seed": 7},
    Backend.OLLAMA: {"temperature": 0.5, "top_p": 0.9, "seed": 7},
    Backend.MISTRAL: {"temperature": 0.5, "top_p": 0.9, "random_seed": 7},
    Backend.INCEPTION: {"temperature": 0.5, "top_p": 0.9},
}


@pytest.mark.parametrize("backend", ALL)
def test_drawing_goes_by_the_names_of_each(backend: Backend, tmp_path: Path) -> None:
    with answering(FILL[backend][2]) as server:
        ask(client(backend, server.url, tmp_path), request(decoding=SAMPLED))
    body = server.asked[0][3]
    body = body.get("options", body)
    assert {name: body.get(name) for name in DRAWN[backend]} == DRAWN[backend]


# By backend: the field that has it, and how the snippet and the prefix stand there.
_COMMENTED = "# me/src/box.py\n# def box(width):\n#     return width * 4\n#\n# me/src/area.py\n"
RELATED: dict[Backend, tuple[str, Any]] = {
    Backend.OPENAI: ("prompt", (
        f"<|repo_name|>repository\n<|file_sep|>me/src/box.py\n{SNIPPET.text}"
        f"<|file_sep|>me/src/area.py\n<|fim_prefix|>{BEFORE}{BEGUN}<|fim_suffix|>{AFTER}"
        "<|fim_middle|>"
    )),
    Backend.LLAMACPP: ("input_extra", [{"filename": "me/src/box.py", "text": SNIPPET.text}]),
    Backend.OLLAMA: ("prompt", _COMMENTED + BEFORE + BEGUN),
    Backend.MISTRAL: ("prompt", (
        f"+++++ me/src/box.py\n{SNIPPET.text}\n\n+++++ me/src/area.py\n{BEFORE}{BEGUN}"
    )),
    Backend.INCEPTION: ("prompt", _COMMENTED + BEFORE + BEGUN),
}  # fmt: skip


@pytest.mark.parametrize("backend", ALL)
def test_related_texts_go_where_the_backend_has_a_place(backend: Backend, tmp_path: Path) -> None:
    """By the last parts of their paths: not where the user keeps them."""
    name, expected = RELATED[backend]
    with answering(FILL[backend][2]) as server:
        ask(client(backend, server.url, tmp_path), request(snippets=(SNIPPET,)))
    assert server.asked[0][3][name] == expected
    assert "/home" not in json.dumps(server.asked[0][3])


CODE = "Here it is:\n\n```python\n    return width * height\n```\nThat is all."
REWRITE: dict[Backend, tuple[str, Reply]] = {
    Backend.OPENAI: ("/v1/chat/completions", sse(delta(CODE[:30]), delta(CODE[30:], "stop"))),
    Backend.LLAMACPP: ("/v1/chat/completions", sse(delta(CODE[:30]), delta(CODE[30:], "stop"))),
    Backend.OLLAMA: ("/api/chat", lines(
        {"model": "m", "message": {"role": "assistant", "content": CODE}, "done": False},
        {"message": {"role": "assistant", "content": ""}, **OLLAMA_END},
    )),
    Backend.MISTRAL: ("/v1/chat/completions", sse(delta(CODE, "stop"))),
    Backend.INCEPTION: ("/v1/edit/completions", plain({
        "model": "m",
        "choices": [{"message": {"role": "assistant", "content": CODE}, "finish_reason": "stop"}],
    })),
}  # fmt: skip


@pytest.mark.parametrize("backend", ALL)
def test_a_rewrite_takes_the_code_block_of_the_answer(backend: Backend, tmp_path: Path) -> None:
    path, reply = REWRITE[backend]
    with answering(reply) as server:
        *drafts, end = ask(client(backend, server.url, tmp_path), instruction())
    ((_, asked_path, _, body),) = server.asked
    assert asked_path == path
    said = body["messages"][-1]["content"]
    assert "use the height" in said and BEFORE in said
    assert isinstance(end, Finished) and end.text == "    return width * height"
    assert all("Here" not in d.text for d in drafts if isinstance(d, Refinement))


def test_mercury_is_shown_the_region_and_the_instruction(tmp_path: Path) -> None:
    with answering(REWRITE[Backend.INCEPTION][1]) as server:
        ask(client(Backend.INCEPTION, server.url, tmp_path), instruction())
        ask(client(Backend.INCEPTION, server.url, tmp_path), instruction(""))
    told, alone = (asked[3]["messages"][0]["content"] for asked in server.asked)
    assert told == (
        "<|recently_viewed_code_snippets|>\n\n<|/recently_viewed_code_snippets|>\n\n"
        f"<|current_file_content|>\ncurrent_file_path: area.py\n{BEFORE}"
        "<|code_to_edit|>\n    return width<|cursor|>\n<|/code_to_edit|>\n"
        "\nprint(area(2, 3))\n<|/current_file_content|>\n\n"
        "<|edit_diff_history|>\n# use the height\n<|/edit_diff_history|>"
    )
    assert alone == told.replace("# use the height", "")


def test_mercury_may_leave_it_as_it_is(tmp_path: Path) -> None:
    none = plain({"choices": [{"message": {"content": "None"}, "finish_reason": "stop"}]})
    with answering(none) as server:
        *_, end = ask(client(Backend.INCEPTION, server.url, tmp_path), instruction(""))
    assert isinstance(end, Finished) and end.text == "    return width"


# What a model writes in answer to an instruction, and what becomes of it.
ANSWERS = {
    "as asked": ("```python\n    return height\n```", "    return height"),
    "without the indentation": ("```\nif width:\n    return height\n```",
                                "    if width:\n        return height"),
    "the first line without it": ("```\nif width:\n        return height\n```",
                                  "    if width:\n        return height"),
    "no code block": ("    return height\n", "    return height"),
    "another fence": ("~~~py\n    return height\n~~~", "    return height"),
    "not closed": ("```python\n    return height", "    return height"),
    "thoughts before": ("<think>\nHm.\n</think>\n```python\n    return height\n```",
                        "    return height"),
    "with the line above": (f"```python\n{BEFORE}    return height\n```", "    return height"),
}  # fmt: skip


@pytest.mark.parametrize("name", ANSWERS)
def test_an_answer_in_words(name: str, tmp_path: Path) -> None:
    text, expected = ANSWERS[name]
    with answering(sse(delta(text, "stop"))) as server:
        *_, end = ask(client(Backend.OPENAI, server.url, tmp_path), instruction())
    assert isinstance(end, Finished) and end.text == expected


def test_talk_alone_changes_nothing(tmp_path: Path) -> None:
    with answering(sse(delta("Sure, I can help you with this (or that.", "stop"))) as server:
        with pytest.raises(AnswerIsProse):
            ask(client(Backend.OPENAI, server.url, tmp_path), instruction())


# How an answer ends


def test_what_comes_behind_the_end_is_not_waited_for(tmp_path: Path) -> None:
    """A model that goes on with what follows the hole: the stream is closed."""
    rest = [completion(line) for line in ("width", "\n", "\n", "print(area(2, 3))\n", "x\n" * 9)]
    slow = replace(sse(*rest, *rest * 20), pause=0.05)
    with answering(slow) as server:
        *_, end = ask(client(Backend.OPENAI, server.url, tmp_path), request())
        run(until(lambda: server.closed == 1))
    assert isinstance(end, Finished)
    assert (end.text, end.finish) == ("width", FinishReason.EOM)


@pytest.mark.parametrize("split", [1, 7])
def test_a_mark_that_a_server_shows_ends_the_text(split: int, tmp_path: Path) -> None:
    text = "width * height<|endoftext|>\nmore"
    parts = [text[i : i + split] for i in range(0, len(text), split)]
    with answering(sse(*map(completion, parts), completion("", "length"))) as server:
        *drafts, end = ask(client(Backend.OPENAI, server.url, tmp_path), request())
    assert isinstance(end, Finished) and end.text == "width * height"
    assert end.finish is FinishReason.EOM
    assert not any("<" in d.text for d in drafts if isinstance(d, Refinement))


def test_the_limit_is_said(tmp_path: Path) -> None:
    with answering(sse(completion("width *", "length"))) as server:
        *_, end = ask(client(Backend.OPENAI, server.url, tmp_path), request())
    assert isinstance(end, Finished) and end.finish is FinishReason.LENGTH


def test_characters_that_end_lines_elsewhere_do_not_end_an_event(tmp_path: Path) -> None:
    text = '"\u2028\x85\u2029\x0c"'
    reply = Reply((f"data: {json.dumps(completion(text, 'stop'), ensure_ascii=False)}\r\n\r\n",))
    with answering(reply) as server:
        *_, end = ask(client(Backend.OPENAI, server.url, tmp_path), request())
    assert isinstance(end, Finished) and end.text == text


def test_an_answer_in_one_piece_is_taken(tmp_path: Path) -> None:
    """From a proxy that does not stream."""
    with answering(plain(completion("width * height", "stop", usage=USAGE))) as server:
        *_, end = ask(client(Backend.OPENAI, server.url, tmp_path), request())
    assert isinstance(end, Finished) and end.text == "width * height"


# Marks


@pytest.mark.parametrize(
    ("name", "fim"),
    [
        ("Qwen/Qwen2.5-Coder-7B", Fim.QWEN), ("/models/starcoder2-3b.gguf", Fim.STARCODER),
        ("codellama:7b-code", Fim.CODELLAMA), ("deepseek-coder-v2-lite", Fim.DEEPSEEK),
        ("deepseek-chat", Fim.SUFFIX), ("Codestral-22B-v0.1", Fim.CODESTRAL),
        ("granite-4.0-h-tiny", Fim.GRANITE), ("granite-code:3b", Fim.STARCODER),
        ("codegemma-2b", Fim.CODEGEMMA), ("gpt-3.5-turbo-instruct", Fim.SUFFIX),
    ],
)  # fmt: skip
def test_the_family_is_told_by_the_name(name: str, fim: Fim) -> None:
    assert fim_of(name) is fim


PROMPTS = {
    Fim.QWEN: "<|fim_prefix|>a<|fim_suffix|>b<|fim_middle|>",
    Fim.STARCODER: "<fim_prefix>a<fim_suffix>b<fim_middle>",
    Fim.CODELLAMA: "<PRE> a <SUF>b <MID>",
    Fim.DEEPSEEK: "<｜fim▁begin｜>a<｜fim▁hole｜>b<｜fim▁end｜>",
    Fim.CODESTRAL: "[SUFFIX]b[PREFIX]a",
    Fim.GRANITE: "<|fim_prefix|>a<|fim_suffix|>b<|fim_middle|>",
    Fim.CODEGEMMA: "<|fim_prefix|>a<|fim_suffix|>b<|fim_middle|>",
}


@pytest.mark.parametrize("fim", FAMILIES)
def test_the_prompt_of_a_family_and_none_of_its_marks_from_a_text(fim: Fim) -> None:
    family = FAMILIES[fim]
    assert family.prompt("a", "b", "a.py", []) == PROMPTS[fim]
    for mark in family.marks:
        made = family.prompt(f"a{mark}", f"{mark}b", "a.py", [("b.py", mark)])
        assert made.count(mark) == family.prompt("a", "b", "a.py", [("b.py", "")]).count(mark)


def test_the_begin_of_a_mark_is_held_back() -> None:
    assert before_marks("a <|end", ["<|endoftext|>"], False) == ("a ", False)
    assert before_marks("a <|end", ["<|endoftext|>"], True) == ("a <|end", False)
    assert before_marks("a <|endoftext|>b", ["<|endoftext|>"], False) == ("a ", True)


def test_ollama_with_marks_gets_them_raw(tmp_path: Path) -> None:
    with answering(FILL[Backend.OLLAMA][2]) as server:
        ask(client(Backend.OLLAMA, server.url, tmp_path, fim=Fim.DEEPSEEK), request())
    body = server.asked[0][3]
    assert body["raw"] is True and "suffix" not in body
    assert body["prompt"] == f"<｜fim▁begin｜>{BEFORE}{BEGUN}<｜fim▁hole｜>{AFTER}<｜fim▁end｜>"


def test_a_suffix_is_only_trusted_where_it_is_asked_for(tmp_path: Path) -> None:
    """llama.cpp leaves it unread, and would go on where it should fill in."""
    with answering(FILL[Backend.OPENAI][2]) as server:
        with pytest.raises(ModelUnsupported, match="does not tell"):
            ask(client(Backend.OPENAI, server.url, tmp_path, model="mine"), request())
        assert not server.asked
        made = client(Backend.OPENAI, server.url, tmp_path, model="mine", fim=Fim.SUFFIX)
        ask(made, request())
    assert server.asked[0][3]["suffix"] == AFTER


def test_a_model_of_another_family_is_noticed(tmp_path: Path) -> None:
    changed = {"choices": [{"text": "x"}], "model": "deepseek-coder-6.7b"}
    with answering(sse(changed)) as server:
        with pytest.raises(EngineMismatch, match=r"deepseek-coder-6\.7b.*marks of qwen"):
            ask(client(Backend.OPENAI, server.url, tmp_path), request())


# What goes wrong

HTML = Reply(("<html><body>Log in</body></html>",), "text/html; charset=utf-8")
FAILS: dict[str, tuple[Reply, type[BlockdiffError], str]] = {
    "a web page": (HTML, BackendFailed, "answers with a web page"),
    "no JSON": (Reply(("data: hello\n\n",)), BackendFailed, "something else than JSON"),
    "another shape": (sse({"choices": "none"}), BackendFailed, "not its own"),
    "cut within": (replace(sse(completion("wid"), done=False), cut=True), BackendFailed, "broke"),
    "no end": (sse(completion("width"), done=False), BackendFailed, "broke its answer off"),
    "nothing": (Reply(), BackendFailed, "broke its answer off"),
    "no end of a line": (Reply(("data: " + "x" * (1 << 20),) * 9), BackendFailed, "broke"),
    "an error within": (
        sse(completion("w"), {"error": {"message": "out of slots", "code": 500}}),
        BackendFailed, "gave up: out of slots",
    ),
    "an error of older llama.cpp": (
        Reply(('error: {"message": "context full"}\n\n',)), BackendFailed, "gave up: context full"
    ),
    "a wrong key": (
        plain({"error": {"message": f"Incorrect API key provided: {KEY}"}}, 401),
        Unauthorized, r"does not accept the key: Incorrect API key provided: \(the key\)",
    ),
    "a wrong key at Mistral": (
        plain({"message": "Unauthorized", "request_id": "1"}, 401), Unauthorized, "Unauthorized"
    ),
    "no such model": (
        plain({"error": "model 'qwen' not found, try pulling it first"}, 404),
        ModelNotFound, "no such model: model 'qwen' not found",
    ),
    "no such path": (Reply(("404",), "text/plain", 404), BackendFailed, "HTTP status 404"),
    "another address": (
        Reply((), status=302, headers={"Location": "http://127.0.0.1:9/"}), BackendFailed,
        "not followed",
    ),
    "no infilling": (
        plain({"error": {"message": "this model does not support infill", "code": 501}}, 501),
        ModelUnsupported, "cannot fill a hole",
    ),
    "no suffix at vLLM": (
        plain({"object": "error", "message": "suffix is not currently supported"}, 400),
        ModelUnsupported, "suffix is not currently supported",
    ),
    "too long": (
        plain({"error": {"message": "maximum context length is 4096 tokens"}}, 400),
        InvalidRequest, "maximum context length",
    ),
    "a field it does not know": (
        plain({"detail": [{"loc": ["body", "seed"], "msg": "Extra inputs", "input": BEFORE}]}, 422),
        InvalidRequest, "Extra inputs",
    ),
    "too often": (
        plain({"error": {"message": "Rate limit reached"}}, 429, Retry_After="3600"),
        RateLimited, "limits how often it is asked: Rate limit reached",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FAILS)
def test_each_fault_is_a_typed_error_without_key_or_source(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    reply, kind, said = FAILS[name]
    monkeypatch.setenv("BLOCKDIFF_API_KEY", KEY)
    caplog.set_level(logging.DEBUG)
    with answering(reply) as server:
        made = client(Backend.OPENAI, server.url, tmp_path)
        with pytest.raises(kind, match=said) as failed:
            ask(made, request())
    assert failed.value.hint
    assert server.asked[0][2]["authorization"] == f"Bearer {KEY}"
    shown = f"{failed.value!r} {failed.value.to_json()} {made!r} {vars(made)} {caplog.text}"
    assert KEY not in shown and "area" not in shown


def test_words_of_a_server_that_repeat_the_code_are_left_out(tmp_path: Path) -> None:
    with answering(plain({"message": f"bad: {{'prompt': '{BEFORE.strip()}'}}"}, 400)) as server:
        with pytest.raises(InvalidRequest) as failed:
            ask(client(Backend.OPENAI, server.url, tmp_path), request())
    assert "area" not in str(failed.value.to_json())


def test_a_busy_server_is_asked_again_before_the_first_token(tmp_path: Path) -> None:
    loading = plain({"error": {"message": "Loading model", "code": 503}}, 503, Retry_After="0")
    often = plain({"message": "slow down"}, 429, Retry_After="0")
    with answering(loading, often, FILL[Backend.OPENAI][2]) as server:
        events = ask(client(Backend.OPENAI, server.url, tmp_path), request())
    waits = [event.what for event in events if isinstance(event, Progress)]
    assert "Loading model" in waits[0] and "slow down" in waits[1] and len(server.asked) == 3
    assert isinstance(events[-1], Finished) and events[-1].text == "width * height"


@pytest.mark.parametrize("priority", [Priority.EXPLICIT, Priority.AUTOMATIC])
def test_one_that_is_silent_is_given_up(
    priority: Priority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a time, and for good: it works at the first request still."""
    for name in ("_TIMEOUT", "_AUTOMATIC_TIMEOUT"):
        monkeypatch.setattr(connection, name, httpx.Timeout(5.0, read=0.2))
    with answering(replace(FILL[Backend.OPENAI][2], pause=2.0)) as server:
        with pytest.raises(BackendFailed, match="is silent"):
            ask(client(Backend.OPENAI, server.url, tmp_path), request(), priority=priority)
    assert len(server.asked) == 1


def test_what_had_begun_is_not_asked_again(tmp_path: Path) -> None:
    """Each token is paid for once."""
    with answering(replace(sse(completion("w"), done=False), cut=True)) as server:
        with pytest.raises(BackendFailed):
            ask(client(Backend.OPENAI, server.url, tmp_path), request())
    assert len(server.asked) == 1


def test_nobody_waits_for_an_automatic_completion(tmp_path: Path) -> None:
    """While the server has said not to be asked, none is even sent."""
    with answering(plain({"message": "slow down"}, 429, Retry_After="60")) as server:
        made = client(Backend.OPENAI, server.url, tmp_path)

        async def story() -> None:
            async with made:
                for _ in range(3):
                    with pytest.raises(RateLimited, match="limits how often") as failed:
                        async for _ in made.infill(request(), priority=Priority.AUTOMATIC):
                            pass
                    assert "ask again in" in failed.value.hint

        run(story())
    assert len(server.asked) == 1


def test_a_newer_completion_takes_the_place_of_an_older_one(tmp_path: Path) -> None:
    slow = replace(sse(*[completion("w")] * 100), pause=0.05)
    with answering(slow, FILL[Backend.OPENAI][2]) as server:
        made = client(Backend.OPENAI, server.url, tmp_path)

        async def last(**rest: Any) -> StreamEvent:
            asked = made.infill(request(), priority=Priority.AUTOMATIC, source="a.py", **rest)
            async with aclosing(asked) as events:
                return [event async for event in events][-1]

        async def story() -> None:
            async with made:
                older = asyncio.ensure_future(last())
                await until(lambda: len(server.asked) == 1)
                newer = await last()
                with pytest.raises(Superseded):
                    await older
                assert isinstance(newer, Finished) and newer.text == "width * height"
                await until(lambda: server.closed == 1)

        run(story())


def test_warming_costs_nothing_where_tokens_cost_money(tmp_path: Path) -> None:
    with answering(FILL[Backend.MISTRAL][2]) as server:
        for backend in (Backend.OPENAI, Backend.MISTRAL, Backend.INCEPTION):
            made = client(backend, server.url, tmp_path)

            async def story(made: RemoteClient = made) -> Warmed:
                async with made:
                    return await made.warm(request())

            assert run(story()).context_tokens == 0
    assert not server.asked


# Where code may go, and with which key


def test_settings_alone_send_nothing_to_another_machine(tmp_path: Path) -> None:
    runtime = Runtime(tmp_path / "run")
    far = BackendOptions(Backend.MISTRAL)
    with pytest.raises(BackendNotAllowed) as refused:
        allowed.check(far, runtime)
    assert refused.value.hint.endswith("blockdiff backend allow https://api.mistral.ai")

    async def story(call: Callable[[RemoteClient], Any]) -> None:
        async with RemoteClient(far, runtime) as made:
            with pytest.raises(BackendNotAllowed):
                await call(made)

    async def infill(made: RemoteClient) -> None:
        async for _ in made.infill(request()):
            pass

    for call in (infill, lambda made: made.warm(request()), lambda made: made.models()):
        run(story(call))
    allowed.allow(runtime, "https://api.mistral.ai")
    allowed.check(far, runtime)
    with pytest.raises(BackendNotAllowed):
        allowed.check(replace_url(far, "https://api.mistral.ai.evil.example"), runtime)
    allowed.forbid(runtime, "https://api.mistral.ai")
    with pytest.raises(BackendNotAllowed):
        allowed.check(far, runtime)


def replace_url(options: BackendOptions, url: str) -> BackendOptions:
    return BackendOptions(options.backend, url)


@pytest.mark.skipif(not hasattr(__import__("os"), "getuid"), reason="no owners of files")
def test_a_list_that_others_can_write_is_not_believed(tmp_path: Path) -> None:
    runtime = Runtime(tmp_path / "run")
    allowed.allow(runtime, "https://api.mistral.ai")
    (runtime.folder / "backends").chmod(0o666)
    with pytest.raises(BlockdiffError, match="other users can write"):
        allowed.check(BackendOptions(Backend.MISTRAL), runtime)


@pytest.mark.parametrize(
    ("backend", "url", "said"),
    [
        (Backend.OPENAI, "", "needs the URL of a server"),
        (Backend.OPENAI, "ftp://host", "must be http or https"),
        (Backend.OPENAI, "http://example.com:1", "in the clear"),
        (Backend.OPENAI, "https://user:pass@example.com", "only a host and a port"),
        (Backend.OPENAI, "https://host/?q=1", "only a host and a port"),
        (Backend.OLLAMA, "", "the name of a model"),
        (Backend.LOCAL, "", "no remote backend"),
    ],
)
def test_a_bad_address_is_refused(backend: Backend, url: str, said: str) -> None:
    with pytest.raises(InvalidRequest, match=said):
        BackendOptions(backend, url)


def test_http_to_another_machine_only_where_it_is_told() -> None:
    assert not BackendOptions(Backend.LLAMACPP, "http://gpu:80", allow_plain_http=True).is_here
    assert BackendOptions(Backend.LLAMACPP, "http://[::1]:8080").is_here


@pytest.mark.parametrize(
    ("url", "path"),
    [
        ("https://h", "https://h/v1/completions"), ("https://h/", "https://h/v1/completions"),
        ("https://h/v1", "https://h/v1/completions"),
        ("https://h/beta/", "https://h/beta/completions"),
    ],
)  # fmt: skip
def test_a_path_stands_in_the_place_of_v1(url: str, path: str) -> None:
    assert BackendOptions(Backend.OPENAI, url).under("/completions") == path


def test_the_key_of_a_vendor_goes_to_the_vendor_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("BLOCKDIFF_API_KEY", "another")
    assert keys.find("https://api.openai.com").value == KEY
    assert keys.find("https://api.openai.com.evil.example").value == "another"
    assert keys.find("http://127.0.0.1:8000").value == "another"


def test_the_keyring_of_the_system_is_asked() -> None:
    """The real library; where it keeps keys is the system's."""
    class Kept(KeyringBackend):  # type: ignore[misc]
        priority = 1

        def get_password(self, service: str, username: str) -> str | None:
            return KEY if (service, username) == ("blockdiff", "https://api.mistral.ai") else None

        def set_password(self, service: str, username: str, password: str) -> None: ...

    library.set_keyring(Kept())
    found = keys.find("https://api.mistral.ai")
    assert found.value == KEY and found.source == "the keyring" and KEY not in repr(found)
    assert not keys.find("https://example.com").value


@pytest.mark.parametrize("keyring", ["not installed", "none in the system", "empty"])
def test_without_a_key_nothing_goes_to_a_vendor(
    keyring: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    library.set_keyring(null.Keyring() if keyring == "empty" else fail.Keyring())
    if keyring == "not installed":
        monkeypatch.setitem(sys.modules, "keyring", None)
    with pytest.raises(Unauthorized, match="there is no key for https://api.mistral.ai") as failed:
        ask(client(Backend.MISTRAL, "", tmp_path, told=True), request())
    assert "MISTRAL_API_KEY" in failed.value.hint and "keyring set blockdiff" in failed.value.hint


def test_a_key_that_cannot_stand_in_a_header_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for value in ("two\nlines", "two lines", "schl\u00fcssel", "a\x7fb"):
        monkeypatch.setenv("BLOCKDIFF_API_KEY", value)
        with pytest.raises(InvalidRequest, match="not one word") as failed:
            keys.find("http://127.0.0.1:8000")
        assert value not in str(failed.value)


