"""Who may ask at the endpoints for clients of other servers, and where they listen."""

from __future__ import annotations

import json
import logging
import re
import stat
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from blockdiff.cli.app import run as command
from blockdiff.cli.compat import CLIENTS as SETTINGS
from blockdiff.client.endpoint import COMPAT_TOKEN, Runtime
from blockdiff.errors import AddressInUse, InvalidRequest
from blockdiff.service import launcher
from blockdiff.service.launcher import ServeOptions
from tests.unit.compat_world import WRITING, Compat, compat, message_of

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Compat]:
    with compat(Runtime(tmp_path_factory.mktemp("compat") / "run")) as made:
        yield made


@pytest.fixture(scope="module")
def open_world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Compat]:
    runtime = Runtime(tmp_path_factory.mktemp("open") / "run")
    with compat(runtime, compat_token=False) as made:
        assert not (runtime.folder / COMPAT_TOKEN).exists()
        yield made


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"Authorization": "Bearer"}, 200),
        ({"Authorization": "Bearer undefined"}, 200),
        ({"Content-Type": "application/json; charset=utf-8"}, 200),
        ({"Host": "localhost:9"}, 200),
        ({"Host": "[::1]:8012"}, 200),
        ({"Host": "127.8.8.8"}, 200),
        ({"Sec-Fetch-Site": "none"}, 200),
        ({"Origin": "https://evil.example"}, 403),
        ({"Origin": "http://127.0.0.1:8012"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": ""}, 403),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "same-origin"}, 403),
        ({"Host": "evil.example"}, 403),
        ({"Host": "evil.example:8012"}, 403),
        ({"Host": "127.0.0.1.evil.example"}, 403),
        ({"Host": "localhost@evil.example"}, 403),
        ({"Host": ""}, 403),
        ({"Content-Type": "text/plain"}, 400),
        ({"Content-Type": "application/x-www-form-urlencoded"}, 400),
        ({"Content-Type": "multipart/form-data; x=application/json"}, 400),
        ({"Content-Type": ""}, 400),
    ],
)
def test_without_a_token_no_page_in_a_browser_gets_through(
    open_world: Compat, headers: dict[str, str], status: int
) -> None:
    count = len(open_world.engine.requests)
    kind = {"Content-Type": "application/json"}
    with open_world.http(**(kind | headers)) as http:
        for path, body in WRITING.items():
            response = http.post(path, content=json.dumps(body))
            assert response.status_code == status, path
            assert not any(name.startswith("access-control") for name in response.headers)
            assert status == 200 or message_of(path, response.json())
        for path in ("/health", "/props", "/v1/models", "/api/tags"):
            assert http.get(path).status_code == (403 if status == 403 else 200)
        assert http.options("/infill").status_code in (403, 405)
    written = len(open_world.engine.requests) - count
    assert written == (len(WRITING) if status == 200 else 0)


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 401),
        ({"Authorization": "Bearer"}, 401),
        ({"Authorization": "Bearer wrong"}, 401),
        ({"Authorization": "TOKEN"}, 401),
        ({"Authorization": "Basic TOKEN"}, 401),
        ({"Authorization": "Bearer TOKENx"}, 401),
        ({"Authorization": "Bearer \u00e9"}, 401),
        ({"Authorization": "Bearer TOKEN"}, 200),
        ({"Authorization": "bearer  TOKEN"}, 200),
        ({"x-api-key": "TOKEN"}, 200),
        ({"api-key": "TOKEN"}, 200),
        ({"x-api-key": "", "Authorization": "Bearer TOKEN"}, 200),
        ({"Authorization": "Bearer TOKEN", "Content-Type": "text/plain"}, 200),
        ({"Authorization": "Bearer TOKEN", "Origin": "vscode-file://vscode-app"}, 200),
    ],
)
def test_the_token_opens_every_endpoint(
    world: Compat, headers: dict[str, str], status: int
) -> None:
    count = len(world.engine.requests)
    told = {n: v.replace("TOKEN", world.token).encode("latin-1") for n, v in headers.items()}
    with Compat(world.engine, world.url, "").http() as http:
        for path, body in WRITING.items():
            response = http.post(path, content=json.dumps(body), headers=told)
            assert response.status_code == status
            assert world.token not in response.text
        for path in ("/props", "/v1/models", "/api/tags"):
            assert http.get(path, headers=told).status_code == status
        assert http.get("/health").status_code == 200
        assert http.get("/health", headers={"Host": "evil.example"}).status_code == 403
    assert (len(world.engine.requests) > count) == (status == 200)


def test_the_token_stays_and_is_shown_by_its_command_alone(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    runtime = Runtime(tmp_path / "run")
    monkeypatch.setenv("BLOCKDIFF_RUNTIME", str(runtime.folder))
    caplog.set_level(logging.DEBUG)
    tokens = []
    for _ in range(2):
        with compat(runtime) as world, world.http() as http:
            http.post("/infill", json=WRITING["/infill"])
            http.post("/infill", headers={"Authorization": f"Bearer {world.token[:-1]}"})
            tokens.append(world.token)
            assert tokens[0] not in caplog.text
            assert command(["compat"]) == 0
            printed = capfd.readouterr()
            assert printed.out.count(world.token) == len(SETTINGS) and not printed.err
            assert world.url in printed.out
    assert tokens[0] == tokens[1]
    assert stat.S_IMODE((runtime.folder / COMPAT_TOKEN).stat().st_mode) == 0o600
    assert tokens[0] != runtime.token()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"compat": "nonsense"}, "is not HOST:PORT"),
        ({"compat": "127.0.0.1"}, "is not HOST:PORT"),
        ({"compat": "127.0.0.1:99999"}, "is not HOST:PORT"),
        ({"compat": "me@127.0.0.1:1"}, "is not HOST:PORT"),
        ({"compat": "127.0.0.1:1/x"}, "is not HOST:PORT"),
        ({"compat": "0.0.0.0:8012"}, "without TLS"),
        ({"compat": "0.0.0.0:8012", "allow_plain_http": True, "compat_token": False},
         "without a token anybody could use the engine"),
        ({"compat_token": False}, "--no-token is for --compat"),
    ],
)  # fmt: skip
def test_it_listens_where_that_is_safe(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidRequest, match=message):
        ServeOptions(**options)


def test_a_port_that_is_taken_leaves_nothing_behind(tmp_path: Path, world: Compat) -> None:
    runtime = Runtime(tmp_path / "run")
    taken = world.url.removeprefix("http://")
    with pytest.raises(AddressInUse) as raised:
        launcher.serve(ServeOptions(model="scripted", compat=taken), runtime)
    assert "--compat" in raised.value.hint and runtime.announced() is None
    assert not (runtime.folder / "engine.sock").exists()


def test_what_is_printed_is_what_its_client_reads() -> None:
    settings = json.loads(SETTINGS["llama.vscode"].settings)
    assert set(settings) == {"llama-vscode.endpoint", "llama-vscode.api_key"}
    tabby = tomllib.loads(SETTINGS["Tabby"].settings)
    assert set(tabby["model"]["completion"]["http"]) == {
        "kind", "model_name", "api_endpoint", "api_key"
    }  # fmt: skip
    zed = json.loads(re.sub("^//.*", "", SETTINGS["Zed"].settings, flags=re.M))["edit_predictions"]
    assert set(zed[zed["provider"]]) == {"api_url", "model", "prompt_format", "max_output_tokens"}
    for name in ("openai (Python)", "mistralai (Python)"):
        compile(SETTINGS[name].settings, name, "exec")
