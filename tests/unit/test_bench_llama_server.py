"""llama.cpp compiled here: what is missing is named, what runs answers, nothing stays behind."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from blockdiff.bench import llama_server, rivals
from blockdiff.bench.openvino import OpenVino
from blockdiff.errors import BlockdiffError, NotInstalled, NotPermitted
from blockdiff.system import child

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="programs are scripts here")

SERVER = """
import json, os, sys
from http.server import BaseHTTPRequestHandler, HTTPServer

class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.answer({"build_info": "b1"})

    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        timings = {"prompt_ms": 500.0, "predicted_ms": 250.0, "prompt_n": len(asked["prompt"]),
                   "predicted_n": asked["max_tokens"], "draft_n_accepted": 3}
        self.answer({"choices": [{"text": " ".join(sys.argv[1:])}], "timings": timings})

    def answer(self, body):
        allowed = self.headers["Authorization"] == "Bearer " + os.environ["LLAMA_API_KEY"]
        self.send_response(200 if allowed else 401)
        self.end_headers()
        self.wfile.write(json.dumps(body).encode())

    def log_message(self, *args):
        pass

port = int(sys.argv[sys.argv.index("--port") + 1])
HTTPServer(("127.0.0.1", port), Handler).serve_forever()
"""


def program(path: Path, text: str) -> Path:
    path.write_text(f"#!{sys.executable}\n{text}", "utf-8")
    path.chmod(0o700)
    return path


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("BLOCKDIFF_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def unbuilt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The source is there, and what stands for cmake and ninja is the program returned."""
    fake = program(tmp_path / "cmake", "")
    monkeypatch.setattr(llama_server, "_source", lambda folder: folder)
    monkeypatch.setattr(llama_server, "_tool", lambda name: str(fake))
    monkeypatch.setenv("CXX", sys.executable)
    return fake


def test_without_a_compiler_it_says_so_and_names_the_wheel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "/nowhere/c++")
    with pytest.raises(NotInstalled, match=r"no C\+\+ compiler") as caught:
        llama_server.built()
    assert "--wheel" in caught.value.hint


def test_without_cmake_it_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", sys.executable)
    monkeypatch.setattr(llama_server, "find_spec", lambda name: None)
    monkeypatch.setattr(child, "which", lambda name: name if name == sys.executable else None)
    with pytest.raises(NotInstalled, match="cmake") as caught:
        llama_server.built()
    assert "blockdiff[rivals]" in caught.value.hint and "--wheel" in caught.value.hint


def test_a_build_that_fails_is_quoted_and_leaves_nothing(unbuilt: Path, cache: Path) -> None:
    program(unbuilt, "import sys; sys.exit('fatal error: no such header')")
    with pytest.raises(BlockdiffError, match="no such header"):
        llama_server.built()
    assert list((cache / "bench").iterdir()) == []


def test_it_is_built_once(unbuilt: Path, cache: Path) -> None:
    program(unbuilt, (
        "import pathlib, sys\n"
        "at = sys.argv.index('-B' if '-B' in sys.argv else '--build')\n"
        "made = pathlib.Path(sys.argv[at + 1]) / 'bin' / 'llama-server'\n"
        "made.parent.mkdir(parents=True, exist_ok=True)\n"
        "made.write_text('built')\n"
    ))  # fmt: skip
    told: list[str] = []
    built = llama_server.built(told.append)
    assert built.read_text("utf-8") == "built" and len(told) == 2
    unbuilt.unlink()
    assert llama_server.built(told.append) == built and len(told) == 2
    assert list((cache / "bench").iterdir()) == [built]
    built.chmod(0o777)  # others can have written it
    with pytest.raises(NotPermitted):
        llama_server.built()


@pytest.mark.parametrize("ngram", [None, (3, 8)])
def test_a_server_is_asked_as_long_as_it_is_wanted(
    tmp_path: Path, ngram: tuple[int, int] | None
) -> None:
    made = program(tmp_path / "llama-server", SERVER)
    with llama_server.running(made, tmp_path / "a.gguf", 2, ngram) as server:
        assert server.build() == "b1"
        said = server.handle_completions({"prompt": [1], "max_tokens": 1})["choices"][0]["text"]
        assert f"--model {tmp_path / 'a.gguf'}" in said and "--threads 2" in said
        assert ("ngram-simple" in said) == (ngram is not None)
        run = rivals.LlamaCpp(server.handle_completions, {})([1, 2, 3], 8, cold=True)
        assert run == rivals.TimedRun(0.5, 0.25, encoded=3, tokens=8, forwards=5)
    with pytest.raises(BlockdiffError, match="does not answer"):
        server.build()


def test_a_server_that_ends_at_once_is_reported(tmp_path: Path) -> None:
    made = program(tmp_path / "llama-server", "import sys; sys.exit(3)")
    with (
        pytest.raises(BlockdiffError, match="status 3"),
        llama_server.running(made, tmp_path / "a.gguf", 2),
    ):
        pass


def test_openvino_without_its_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(NotInstalled) as caught:
        OpenVino(tmp_path / "a.gguf", 2)
    assert "blockdiff[rivals]" in caught.value.hint and "--no-openvino" in caught.value.hint
