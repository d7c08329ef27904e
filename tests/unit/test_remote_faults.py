"""What goes wrong with remote backends, where code may go, and with which key."""

from __future__ import annotations

import asyncio
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
from blockdiff.client.remote.options import Backend, BackendOptions
from blockdiff.client.remote.refusals import retry_after
from blockdiff.errors import (
    BackendFailed,
    BackendNotAllowed,
    BlockdiffError,
    InvalidRequest,
    ModelNotFound,
    ModelUnsupported,
    RateLimited,
    Superseded,
    Unauthorized,
)
from blockdiff.types import (
    Finished,
    Priority,
    Progress,
    StreamEvent,
    Warmed,
)
from tests.unit.backend_server import Reply, answering, plain, sse
from tests.unit.remote_world import (
    BEFORE,
    FILL,
    KEY,
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
    "an error within, of older vLLM": (
        sse({"object": "error", "message": "out of blocks", "code": 500}),
        BackendFailed, "gave up: out of blocks",
    ),
    "a text that is none": (sse(completion({"a": 1})), BackendFailed, "not its own"),  # type: ignore[arg-type]
    "numbers that are none": (
        sse(completion("w", usage={"prompt_tokens": float("inf")})), BackendFailed, "not its own"
    ),
    "an error of its own": (
        plain({"error": {"message": "CUDA error", "code": 500}}, 500, Retry_After="99"),
        BackendFailed, "fails: CUDA error",
    ),
    "a gateway": (
        Reply(("<html>504</html>",), "text/html", 504, {"Retry-After": "99"}), BackendFailed,
        r"fails \(HTTP status 504\)",
    ),
    "too often, for ever": (
        plain({"message": "slow down"}, 429, Retry_After="inf"), RateLimited, "slow down"
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


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("http://127.0.0.1:1", "no openai answers"),
        ("https://{}", "no trusted TLS connection"),
        ("http://" + "a" * 70 + ".localhost.:1", "a" * 70),
        ("http://[::1%25lo]:1", "::1"),
    ],
)
def test_where_nothing_answers_it_is_said_where(
    url: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "_PATIENCE", 0.0)
    with answering(HTML) as server:
        url = url.format(server.url.removeprefix("http://"))
        with pytest.raises((BackendFailed, InvalidRequest), match=said) as failed:
            ask(client(Backend.OPENAI, url, tmp_path, told=True, allow_plain_http=True), request())
    assert failed.value.hint


def test_a_proxy_that_refuses_the_way_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with answering(HTML) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", proxy.url)
        with pytest.raises(BackendFailed, match="the proxy does not lead to openai") as no:
            ask(client(Backend.OPENAI, "https://gpu.example", tmp_path, told=True), request())
    assert "HTTPS_PROXY" in no.value.hint


@pytest.mark.parametrize(
    ("said", "seconds"),
    [
        ("7", 7), ("0.5", 0.5), ("-3", 0), ("soon", 0), ("", 0), ("nan", 0), ("inf", 86_400),
        ("1e999", 86_400), ("Wed, 21 Oct 2015 07:28:00 GMT", 0),
        ("Fri, 31 Dec 9999 23:59:59 GMT", 86_400), ("Mon, 99 Foo 2015", 0),
    ],
)  # fmt: skip
def test_how_long_to_wait_is_believed_within_reason(said: str, seconds: float) -> None:
    assert retry_after(httpx.Response(429, headers={"Retry-After": said})) == seconds


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


def test_a_rewrite_has_time_whoever_asks_for_it(tmp_path: Path) -> None:
    """It shows nothing before it is whole, so that nobody's typing makes it late."""
    loading = plain({"error": {"message": "Loading model"}}, 503, Retry_After="0")
    with answering(loading, sse(delta("```\nreturn 1\n```", "stop"))) as server:
        made = client(Backend.OPENAI, server.url, tmp_path)
        *_, end = ask(made, instruction(), priority=Priority.AUTOMATIC)
    assert isinstance(end, Finished) and len(server.asked) == 2


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
