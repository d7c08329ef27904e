"""Remote backends are asked in the published forms, by small servers that answer in them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from blockdiff.client.remote.fim import FAMILIES, Fim, before_marks, fim_of
from blockdiff.client.remote.options import Backend
from blockdiff.errors import (
    AnswerIsProse,
    EngineMismatch,
    ModelUnsupported,
)
from blockdiff.types import (
    Finished,
    FinishReason,
    Refinement,
)
from tests.unit.backend_server import JSON, Reply, answering, lines, plain, sse
from tests.unit.remote_world import (
    AFTER,
    ALL,
    BEFORE,
    BEGUN,
    FILL,
    OLLAMA_END,
    SAMPLED,
    SNIPPET,
    USAGE,
    ask,
    client,
    completion,
    delta,
    instruction,
    request,
    without_keys,
)
from tests.unit.scripted_service import run, until


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    without_keys(monkeypatch)


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


def test_a_long_answer_is_not_drafted_anew_for_each_of_its_tokens(tmp_path: Path) -> None:
    """Each draft reads all of the text: all of them together must not take its square."""
    pieces = [f"\n        y{number}" for number in range(800)]
    with answering(sse(*map(completion, pieces), completion("", "stop"))) as server:
        *drafts, end = ask(client(Backend.OPENAI, server.url, tmp_path), request())
    assert isinstance(end, Finished) and end.tokens == 800 and "y799" in end.text
    assert 100 < len(drafts) < 400


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


FILLED = [completion("width"), completion(" * height", "stop")]
ONE = completion("width * height", "stop")
SENT: dict[str, Reply] = {
    "comments, names and empty events": Reply((
        ": OPENROUTER PROCESSING\n\n", "event: message\nid: 1\nretry: 3\ndata:\n\n",
        f"data:{json.dumps(FILLED[0])}\n\n", "data: \n\n", f"data: {json.dumps(FILLED[1])}\n\n",
    )),
    "CRLF": Reply(tuple(f"data: {json.dumps(value)}\r\n\r\n" for value in FILLED)),
    "no mark of its end": sse(*FILLED, done=False),
    "in pieces of a byte": Reply(tuple("".join(sse(*FILLED).parts))),
    "events that are called JSON": replace(sse(*FILLED), kind="application/json; charset=utf-8"),
    "lines that are called JSON": Reply(tuple(f"{json.dumps(v)}\n" for v in FILLED), JSON),
    "events that are called text": replace(sse(*FILLED), kind="text/plain"),
    "an object in lines": Reply((json.dumps(ONE, indent=2),), JSON),
    "a text that is null first": sse(completion(None), *FILLED),  # type: ignore[arg-type]
}  # fmt: skip


@pytest.mark.parametrize("name", SENT)
def test_a_server_may_say_it_in_its_own_way(name: str, tmp_path: Path) -> None:
    with answering(SENT[name]) as server:
        *_, end = ask(client(Backend.OPENAI, server.url, tmp_path), request())
    assert isinstance(end, Finished) and end.text == "width * height"


@pytest.mark.parametrize("cut", range(4))
def test_a_character_that_comes_in_halves_is_put_together(cut: int, tmp_path: Path) -> None:
    """By servers that count in UTF-16; what is half at the end is none."""
    halves = '"\ud83d\ude00\ud83d"'
    parts = [completion(halves[:cut]), completion(halves[cut:], "stop")]
    reply = Reply(tuple(f"data: {json.dumps(part)}\n\n" for part in parts))
    with answering(reply) as server:
        *drafts, end = ask(client(Backend.OPENAI, server.url, tmp_path), request())
    assert isinstance(end, Finished) and end.text == '"\U0001f600\ufffd"'
    shown = {draft.text for draft in drafts if isinstance(draft, Refinement)}
    assert shown <= {"", '"', '"\U0001f600', end.text}


def test_a_llama_server_that_measures_nothing_is_heard(tmp_path: Path) -> None:
    """Its text counts, whatever it says of time."""
    ends = {"content": None, "stop": True, "timings": {"prompt_n": 900, "prompt_per_second": None}}
    with answering(sse({"content": "width"}, ends, done=False)) as server:
        *_, end = ask(client(Backend.LLAMACPP, server.url, tmp_path), request())
    assert isinstance(end, Finished) and end.text == "width"


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
