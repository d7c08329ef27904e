"""The way to an engine on another machine, as the environment has it."""

from __future__ import annotations

import os
from pathlib import Path

import httpx
import pytest

from blockdiff.client.client import EngineClient, EngineOptions
from blockdiff.client.connections import Address
from blockdiff.client.endpoint import Runtime
from blockdiff.errors import EngineUnavailable
from tests.unit.scripted_service import run
from tests.unit.test_client import connected

REMOTE = "https://engine.example.com:8443"
PROXY = "http://127.0.0.1:3128"


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name in list(os.environ):
        if name.lower().endswith("_proxy") or name.startswith("SSL"):
            monkeypatch.delenv(name)
    return monkeypatch


def proxy_of(url: str) -> str:
    options = Address(url).http_options()
    httpx.Client(**options).close()  # takes all of them
    proxy = options.get("proxy")
    return str(proxy.url) if proxy else ""


@pytest.mark.parametrize(
    ("exceptions", "bypassed"),
    [
        ("localhost,fe11::/16", False), ("[::1]:x,é,a b", False), (",, ,", False),
        ("*:99999999", False), ("xample.com", False), ("example.org,example.com", True),
        (".example.com", True), ("*.example.com", True), ("engine.example.com:8443", True),
        ("engine.example.com:1", False), ("https://engine.example.com", True), ("*", True),
        ("EXAMPLE.com", True), ("*:8443", True), ("*:8444", False),
    ],
)  # fmt: skip
def test_no_proxy_is_read_word_by_word(
    environment: pytest.MonkeyPatch, exceptions: str, bypassed: bool
) -> None:
    environment.setenv("HTTPS_PROXY", PROXY)
    environment.setenv("NO_PROXY", exceptions)
    assert proxy_of(REMOTE) == ("" if bypassed else PROXY)


def test_blanks_around_a_proxy_are_none_of_it(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("HTTPS_PROXY", f" {PROXY} ")
    assert proxy_of(REMOTE) == PROXY


def test_folders_of_certificates_are_a_list(
    environment: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    environment.setenv("SSL_CERT_DIR", f"/no/such/folder{os.pathsep}{tmp_path}")
    assert proxy_of(REMOTE) == ""


def test_no_proxy_names_addresses_and_networks(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("ALL_PROXY", PROXY)
    environment.setenv("NO_PROXY", "fe11::/16,10.0.0.0/8,192.168.1.5,[fe13::1]:1")
    for host in ("[fe11::1]", "[fe13::1]", "10.2.3.4", "192.168.1.5"):
        assert proxy_of(f"https://{host}:1") == ""
    for host in ("[fe12::1]", "11.0.0.1", "192.168.1.6"):
        assert proxy_of(f"https://{host}:1") == PROXY


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("HTTPS_PROXY", "foo://x"),
        ("https_proxy", "http://[x"),
        ("HTTPS_PROXY", "x:y"),
        ("ALL_PROXY", "http://"),
        ("ALL_PROXY", "socks9://x:1"),
        ("HTTPS_PROXY", "http://x:99999"),
        ("SSL_CERT_FILE", "/no/such/file.pem"),
        ("SSL_CERT_FILE", __file__),
        ("SSL_CERT_DIR", "/no/such/folder"),
        ("SSL_CERT_DIR", f"/no/such/folder{os.pathsep}/nor/such"),
        ("SSLKEYLOGFILE", "/no/such/folder/keys"),
        ("SSLKEYLOGFILE", os.path.dirname(__file__)),
        ("HTTPS_PROXY", "direct://"),
        ("ALL_PROXY", '"http://x:1"'),
    ],
)
def test_what_cannot_be_used_is_an_error_that_names_its_variable(
    environment: pytest.MonkeyPatch, tmp_path: Path, name: str, value: str
) -> None:
    environment.setenv(name, value)
    with pytest.raises(EngineUnavailable, match=name) as failure:
        connected(EngineOptions(REMOTE, "t"), Runtime(tmp_path))
    assert failure.value.hint


@pytest.mark.parametrize("scheme", ["socks5", "socks5h", "socks", "SOCKS"])  # as desktops say it
def test_a_socks_proxy_is_used_or_what_is_missing_is_named(
    environment: pytest.MonkeyPatch, tmp_path: Path, scheme: str
) -> None:
    environment.setenv("ALL_PROXY", f"{scheme}://127.0.0.1:9")
    with pytest.raises(EngineUnavailable, match=r"library is missing|no engine answers"):
        connected(EngineOptions(REMOTE, "t"), Runtime(tmp_path))


@pytest.mark.parametrize("url", ["unix:/x", "http://127.0.0.1:1", "https://localhost:1"])
def test_no_variable_gets_between_us_and_our_own_machine(
    environment: pytest.MonkeyPatch, url: str
) -> None:
    for name in ("ALL_PROXY", "HTTP_PROXY", "HTTPS_PROXY"):
        environment.setenv(name, "foo://x")
    environment.setenv("SSL_CERT_FILE", "/no/such/file.pem")
    environment.setenv("NO_PROXY", "fe11::/16")
    assert proxy_of(url) == ""


def test_a_proxy_that_does_not_answer_is_a_typed_error(
    environment: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    environment.setenv("HTTPS_PROXY", "http://127.0.0.1:9")

    async def story() -> None:
        async with EngineClient(EngineOptions(REMOTE, "t"), Runtime(tmp_path)) as client:
            with pytest.raises(EngineUnavailable, match="no engine answers"):
                await client.health()

    run(story())
