"""A remote backend that is real: llama.cpp's server, on a tiny model."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from blockdiff.client.endpoint import Runtime
from blockdiff.client.remote.client import RemoteClient
from blockdiff.client.remote.options import Backend, BackendOptions
from blockdiff.config import DecodingConfig
from blockdiff.errors import BackendFailed, ModelUnsupported, Unauthorized
from blockdiff.eval.fillers import llama_cpp_server
from blockdiff.types import (
    Filled,
    Finished,
    FinishReason,
    Hole,
    InfillRequest,
    Refinement,
    Request,
    RewriteRequest,
    Snippet,
    StreamEvent,
)
from blockdiff.weights.catalog import DEFAULT_MODEL
from tests.unit.remote_world import without_keys
from tests.unit.scripted_service import run
from tests.unit.tiny_llamacpp import serving

xllamacpp = pytest.importorskip("xllamacpp")

BEFORE, BEGUN, AFTER = "def area(width, height):\n", "    return ", "\n\nprint(area(2, 3))\n"
SNIPPET = Snippet("src/shapes/box.py", "def box(width):\n    return width * 4\n")


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    without_keys(monkeypatch)


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with serving(tmp_path_factory.mktemp("llamacpp")) as address:
        yield address


def request(tokens: int = 12, **rest: Any) -> InfillRequest:
    place = len(BEFORE + BEGUN)
    return InfillRequest(
        BEFORE + BEGUN + AFTER, Hole(place, place), path="area.py", request_id="r",
        decoding=DecodingConfig(max_tokens=tokens), **rest,
    )  # fmt: skip


def client(url: str, tmp_path: Path, backend: Backend = Backend.LLAMACPP, **rest: Any) -> Any:
    return RemoteClient(BackendOptions(backend, url, **rest), Runtime(tmp_path / "run"))


def ask(made: Any, what: Request) -> list[StreamEvent]:
    async def story() -> list[StreamEvent]:
        async with made:
            stream = made.rewrite if isinstance(what, RewriteRequest) else made.infill
            async with aclosing(stream(what)) as events:
                return [event async for event in events]

    found: list[StreamEvent] = run(story())
    return found


@pytest.mark.parametrize("snippets", [(), (SNIPPET,)])
def test_the_text_is_what_llama_cpp_answers_by_itself(
    url: str, tmp_path: Path, snippets: tuple[Snippet, ...]
) -> None:
    """For the same prompt, as its own clients send it."""
    body = {
        "input_prefix": BEFORE, "prompt": BEGUN, "input_suffix": AFTER, "n_predict": 12,
        "temperature": 0,
        "input_extra": [{"filename": s.path, "text": s.text} for s in snippets],
    }  # fmt: skip
    alone = httpx.post(f"{url}/infill", json=body).json()["content"]
    *drafts, end = ask(client(url, tmp_path), request(snippets=snippets))
    assert len(alone) == 12 and isinstance(end, Finished)
    assert end.text == alone
    assert (end.tokens, end.finish, end.mode) == (12, FinishReason.LENGTH, "llamacpp")
    assert end.model == "tiny.gguf" and end.context_tokens > 0
    texts = [draft.text for draft in drafts if isinstance(draft, Refinement)]
    assert texts == [alone[: i + 1] for i in range(12)], "every token as it comes"


@pytest.mark.model
@pytest.mark.slow
def test_the_same_of_the_real_model(tmp_path: Path) -> None:
    """It goes on with what follows the hole: that is cut off, as it is for our own engine."""
    server = llama_cpp_server(DEFAULT_MODEL, threads=1)
    body = {
        "input_prefix": BEFORE, "prompt": BEGUN, "input_suffix": AFTER, "n_predict": 12,
        "temperature": 0,
    }  # fmt: skip
    url = server.listening_address
    alone = httpx.post(f"{url}/infill", json=body, timeout=300).json()["content"]
    for backend in (Backend.LLAMACPP, Backend.OPENAI):
        *_, end = ask(client(url, tmp_path, backend), request())
        assert isinstance(end, Finished)
        assert end.text == "width * height" and alone.startswith(end.text + AFTER.rstrip())


def test_openai_with_the_marks_of_the_family_gets_the_text_of_infill(
    url: str, tmp_path: Path
) -> None:
    """`/v1/completions` of the same server, which reads the marks in the prompt."""
    *_, there = ask(client(url, tmp_path), request())
    *_, here = ask(client(url, tmp_path, Backend.OPENAI, model="qwen-tiny"), request())
    assert isinstance(here, Finished) and isinstance(there, Finished)
    assert here.text == there.text and here.mode == "openai"


def test_without_a_name_the_model_is_asked_for(url: str, tmp_path: Path) -> None:
    made = client(url, tmp_path, Backend.OPENAI)

    async def story() -> list[str]:
        async with made:
            return list(await made.models())

    (name,) = run(story())
    assert name.endswith("tiny.gguf")
    with pytest.raises(ModelUnsupported, match="tiny.gguf does not tell"):
        ask(client(url, tmp_path, Backend.OPENAI), request())


def test_several_holes_each_see_those_before(url: str, tmp_path: Path) -> None:
    asked = request(6)
    end = len(asked.document)
    asked = replace(asked, also=(Hole(end, end),))
    *drafts, filled = ask(client(url, tmp_path), asked)
    assert isinstance(filled, Filled)
    first, second = filled.holes
    alone = replace(asked.holding([first.text, ""]), also=())
    alone = replace(alone, hole=Hole(len(alone.document), len(alone.document)))
    *_, expected = ask(client(url, tmp_path), alone)
    assert isinstance(expected, Finished) and second.text == expected.text
    assert [d.seq for d in drafts if isinstance(d, Refinement)] == list(range(len(drafts)))


def test_a_rewrite_is_asked_for_in_words(url: str, tmp_path: Path) -> None:
    what = RewriteRequest(
        BEFORE + BEGUN + "width" + AFTER, Hole(0, len(BEFORE + BEGUN) + 5), "use the height",
        decoding=DecodingConfig(max_tokens=8), path="area.py",
    )  # fmt: skip
    *_, end = ask(client(url, tmp_path), what)
    assert isinstance(end, Finished) and end.tokens == 8 and end.context_tokens > 50
    with pytest.raises(ModelUnsupported, match="by an instruction only"):
        ask(client(url, tmp_path), replace(what, instruction=""))


def test_closing_the_stream_stops_the_server(url: str, tmp_path: Path) -> None:
    """Its slot is free again, long before all tokens could have been written."""

    async def story() -> None:
        async with client(url, tmp_path) as made, httpx.AsyncClient() as http:
            async with aclosing(made.infill(request(4000))) as events:
                async for _ in events:
                    break
            for _ in range(200):
                slots = (await http.get(f"{url}/slots")).json()
                if not any(slot["is_processing"] for slot in slots):
                    return
                await asyncio.sleep(0.05)
        raise AssertionError("it writes on")

    run(story())


def test_warming_encodes_the_context_and_writes_nothing(url: str, tmp_path: Path) -> None:
    head, asked = "# nobody has asked for this before\n", request()
    place = asked.hole.start + len(head)
    asked = replace(asked, document=head + asked.document, hole=Hole(place, place))

    async def story() -> tuple[Any, Any, Any]:
        async with client(url, tmp_path) as made:
            warmed = await made.warm(asked)
            async with aclosing(made.infill(asked)) as events:
                end = [event async for event in events][-1]
            return warmed, end, await made.health()

    warmed, end, health = run(story())
    assert warmed.context_tokens == end.context_tokens > len(head + BEFORE)
    assert end.cached_tokens >= warmed.context_tokens - 1
    assert health.device.startswith("llamacpp at 127.0.0.1:")


def test_a_key_is_wanted_and_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = "sk-this-is-the-secret"
    with serving(tmp_path, api_key=secret) as url:
        with pytest.raises(Unauthorized) as wrong:
            ask(client(url, tmp_path), request())
        assert "BLOCKDIFF_API_KEY" in wrong.value.hint
        monkeypatch.setenv("BLOCKDIFF_API_KEY", "sk-another")
        with pytest.raises(Unauthorized, match="does not accept the key") as wrong:
            ask(client(url, tmp_path), request())
        assert "sk-another" not in f"{wrong.value!r} {wrong.value.to_json()}"
        monkeypatch.setenv("BLOCKDIFF_API_KEY", secret)
        *_, end = ask(client(url, tmp_path), request())
    assert isinstance(end, Finished) and end.text


def test_one_that_is_down_is_tried_again_and_then_said(tmp_path: Path) -> None:
    began = time.monotonic()
    with pytest.raises(BackendFailed, match="no llamacpp answers at http://127.0.0.1:9"):
        ask(client("http://127.0.0.1:9", tmp_path), request())
    assert time.monotonic() - began > 0.5, "a server that is restarted is not given up at once"
