"""`--backend` of the commands, and `blockdiff backend`."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from blockdiff.cli import app
from blockdiff.errors import ExitCode
from tests.unit.backend_server import Reply, answering, plain, sse
from tests.unit.scripted_service import ROOT

PROGRAM = "def f(x):\n    y = x\n    return y\n"
KEY = "sk-the-secret-of-the-user"
FILLED = sse({"content": "y = 2 * x", "stop": True, "stop_type": "eos", "model": "m"})
WRITTEN = sse({"choices": [{"delta": {"content": "```\n    y = 3\n```"}, "finish_reason": "stop"}]})


@pytest.fixture
def blockdiff(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    monkeypatch.setenv("BLOCKDIFF_RUNTIME", str(tmp_path / "runtime"))
    monkeypatch.setenv("PYTHON_KEYRING_BACKEND", "keyring.backends.null.Keyring")
    monkeypatch.setenv("BLOCKDIFF_API_KEY", KEY)
    monkeypatch.delenv("MISTRAL_API_KEY", raising=False)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "program.py").write_text(PROGRAM)

    def run(*argv: str) -> tuple[int, str, str]:
        capfd.readouterr()
        status = app.run(list(argv))
        captured = capfd.readouterr()
        assert KEY not in captured.out + captured.err and "Traceback" not in captured.err
        return status, captured.out, captured.err

    return run


INFILL = ("infill", "program.py", "--lines", "2", "--backend", "llamacpp")


def test_a_hole_is_filled_by_a_backend(blockdiff: Any) -> None:
    with answering(FILLED) as server:
        status, out, err = blockdiff(*INFILL, "--backend-url", server.url)
    assert status == 0, err
    assert "-    y = x\n+    y = 2 * x\n" in out and "llamacpp" in err
    assert server.asked[0][3]["input_suffix"] == "\n    return y\n"


def test_its_events_are_those_of_an_engine(blockdiff: Any) -> None:
    with answering(FILLED) as server:
        status, out, err = blockdiff(*INFILL, "--backend-url", server.url, "--json")
    first, last = map(json.loads, out.splitlines())
    assert status == 0 and not err
    assert (first["event"], last["event"], last["mode"]) == ("refinement", "finished", "llamacpp")
    assert last["text"] == "y = 2 * x" and last["model"] == "m"


def test_a_rewrite_changes_the_file_where_it_is_told_to(blockdiff: Any, tmp_path: Path) -> None:
    with answering(WRITTEN) as server:
        status, _, err = blockdiff(
            "rewrite", "program.py", "--lines", "2", "-i", "make it 3", "--write",
            "--backend", "llamacpp", "--backend-url", server.url,
        )  # fmt: skip
    assert status == 0, err
    assert (tmp_path / "program.py").read_text() == PROGRAM.replace("y = x", "y = 3")


# What the command line ends with.
ENDS: dict[str, tuple[Reply, ExitCode, str]] = {
    "a wrong key": (plain({"error": f"no such key: {KEY}"}, 401), ExitCode.USAGE, "the key"),
    "too often": (plain({}, 429, Retry_After="99"), ExitCode.NETWORK, "ask again in 99 s"),
    "a web page": (Reply(("<html>",), "text/html"), ExitCode.NETWORK, "web page"),
    "no model": (plain({"error": "model 'x' not found"}, 404), ExitCode.MODEL, "no such model"),
}


@pytest.mark.parametrize("name", ENDS)
def test_what_goes_wrong_is_one_line_and_the_file_stays(
    name: str, blockdiff: Any, tmp_path: Path
) -> None:
    reply, code, said = ENDS[name]
    with answering(reply) as server:
        status, out, err = blockdiff(*INFILL, "--backend-url", server.url, "--write")
    assert (status, out) == (code, "") and said in err
    assert (tmp_path / "program.py").read_text() == PROGRAM


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--backend-url", "http://127.0.0.1:9"), "--backend-url needs --backend"),
        (("--backend", "openai"), "needs the URL of a server"),
        (("--backend", "llamacpp", "--backend-url", "http://example.com"), "in the clear"),
    ],
)
def test_options_that_make_no_sense(blockdiff: Any, options: tuple[str, ...], said: str) -> None:
    status, _, err = blockdiff("infill", "program.py", "--lines", "2", *options)
    assert status == ExitCode.USAGE and said in err


def test_doctor_shows_what_is_sent_but_for_the_key(blockdiff: Any) -> None:
    with answering(plain({"data": [{"id": "qwen-a"}, {"id": "qwen-b"}]})) as server:
        status, out, _ = blockdiff(
            "doctor", "--backend", "openai", "--backend-url", server.url, "--json"
        )
    report = {check["name"]: check["value"] for check in json.loads(out)["checks"]}
    assert status == 0
    assert report["sends"] == f"POST {server.url}/v1/completions"
    assert report["header"] == "Authorization: Bearer (from BLOCKDIFF_API_KEY)"
    assert json.loads(report["body"])["model"] == "qwen-a"
    assert report["answers"] == "models: qwen-a, qwen-b"
    assert {path for _, path, _, _ in server.asked} == {"/v1/models"}, "and sends nothing of it"


def test_doctor_says_what_is_missing(blockdiff: Any) -> None:
    status, out, _ = blockdiff("doctor", "--backend", "mistral")
    assert status == ExitCode.USAGE
    assert "POST https://api.mistral.ai/v1/fim/completions" in out
    assert "blockdiff backend allow https://api.mistral.ai" in out
    assert "fix: set MISTRAL_API_KEY" in out


def test_hosts_are_allowed_and_forbidden(blockdiff: Any) -> None:
    assert blockdiff("backend", "list")[1] == ""
    status, out, _ = blockdiff("backend", "allow", "https://API.mistral.ai/v1")
    assert status == 0 and "MISTRAL_API_KEY" in out
    assert blockdiff("backend", "allow", "http://gpu:8000")[0] == 0
    assert blockdiff("backend", "list")[1] == "http://gpu:8000\nhttps://api.mistral.ai\n"
    assert blockdiff("backend", "forbid", "https://api.mistral.ai")[0] == 0
    assert blockdiff("backend", "list")[1] == "http://gpu:8000\n"
    assert blockdiff("backend", "allow", "http://127.0.0.1:1")[0] == ExitCode.USAGE
    assert blockdiff("backend", "allow", "mistral")[0] == ExitCode.USAGE


@pytest.mark.skipif(os.name == "nt", reason="no such signals")
@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_a_command_that_waits(sent: signal.Signals, tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(PROGRAM)
    with answering(Reply(("data: {}\n\n",), pause=30.0)) as server:
        command = [sys.executable, "-m", "blockdiff", *INFILL, "--backend-url", server.url]
        environment = {**os.environ, "PYTHONPATH": ROOT, "BLOCKDIFF_RUNTIME": str(tmp_path / "r")}
        waiting = subprocess.Popen(command, cwd=tmp_path, env=environment, stderr=subprocess.PIPE)
        while not server.asked:
            assert waiting.poll() is None
            time.sleep(0.05)
        waiting.send_signal(sent)
        _, err = waiting.communicate(timeout=20)
    assert waiting.returncode == (130 if sent is signal.SIGINT else 143)
    assert b"defect" not in err and b"Traceback" not in err
