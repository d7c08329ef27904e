"""What clients of other servers send and how they read the answer, as recorded from their sources.

    python -m tests.unit.compat_clients    # tries each, writes compat_results.json for the guide

llama.vim a1c8e6e, llama.vscode 3938fb3, minuet 479487c, Continue d0a3c0b, Tabby 21b2904,
Zed 09512d2; openai 3.57, mistralai 3.7.
"""

from __future__ import annotations

import http.client
import json
import re
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from blockdiff.client.endpoint import Runtime
from tests.unit.compat_world import AFTER, BEFORE, CURSOR, TEXT, Compat, compat

RESULTS = Path(__file__).with_name("compat_results.json")

Reader = Callable[[str], str]
MARKED = f"<|fim_prefix|>{BEFORE}{CURSOR}<|fim_suffix|>{AFTER}<|fim_middle|>"


@dataclass(frozen=True)
class Client:
    """A client at one endpoint.

    Attributes:
        body: of a request at the cursor of `compat_world`.
        read: the text it takes from what came, which may be cut off anywhere.
        shown: what it shows of an error, from status and body.
        warming: the body by which it warms, if it does.
        headers: besides the bearer.
        shows: where its user finds an error.
    """

    name: str
    endpoint: str
    body: dict[str, Any]
    read: Reader
    shown: Callable[[int, str], str]
    warming: dict[str, Any] | None = None
    headers: dict[str, str] = field(default_factory=dict)
    shows: str = "shown"

    @property
    def streams(self) -> bool:
        return bool(self.body.get("stream", self.endpoint == "/api/generate"))


# --- how they read -------------------------------------------------------------------------------


def llama_vim(raw: str) -> str:
    """Vim calls back for each line; what does not look right is dropped."""
    text = ""
    for line in raw.splitlines():
        if re.match(r"\s*{", line) and re.search(r'"content"\s*:"', line):
            text = json.loads(line)["content"]
    return text


def llama_vscode(raw: str) -> str:
    """Its status bar reads `generation_settings` and `timings`, or what follows never happens."""
    answer = json.loads(raw)
    float(answer["generation_settings"]["n_ctx"])
    for name in ("prompt_n", "prompt_ms", "prompt_per_second", "predicted_n", "predicted_ms"):
        float(answer["timings"][name])
    return str(answer["content"])


def events(get: Callable[[dict[str, Any]], Any]) -> Reader:
    """Lines with `data:`; what is no JSON, such as `[DONE]` or a line cut in two, is skipped."""

    def read(raw: str) -> str:
        texts = []
        for line in raw.split("\n"):
            assert not line.startswith(": ping"), "the end of a stream for Continue"
            try:
                value = json.loads(line.removeprefix("data:"))
                texts.append(get(value) or "")
            except (ValueError, KeyError, IndexError):
                continue
        return "".join(texts)

    return read


def tabby(get: Callable[[dict[str, Any]], str], over: Callable[[dict[str, Any]], Any]) -> Reader:
    """It panics at an event of another form, and reads none behind the one that says it is over."""

    def read(raw: str) -> str:
        text, end = "", False
        for line in raw.splitlines():
            if line.startswith("data: ") and not end:
                chunk = json.loads(line.removeprefix("data: "))
                text, end = text + get(chunk), bool(over(chunk))
        return text

    return read


def zed(raw: str) -> str:
    """Nothing may be missing, nor of another type."""
    answer = json.loads(raw)
    for name in ("id", "object", "model"):
        assert isinstance(answer[name], str)
    usage = answer["usage"]
    names = ("prompt_tokens", "completion_tokens", "total_tokens")
    assert all(isinstance(n, int) for n in (answer["created"], *(usage[name] for name in names)))
    return str(answer["choices"][0]["text"])


def whole(get: Callable[[dict[str, Any]], str]) -> Reader:
    return lambda raw: get(json.loads(raw))


def text_of(chunk: dict[str, Any]) -> str:
    return str(chunk["choices"][0]["text"])


def finished(chunk: dict[str, Any]) -> bool:
    return chunk["choices"][0]["finish_reason"] is not None


def delta_of(chunk: dict[str, Any]) -> str:
    return str(chunk["choices"][0]["delta"]["content"])


# --- what they show of an error ------------------------------------------------------------------


def nothing(status: int, body: str) -> str:
    return ""


def axios(status: int, body: str) -> str:
    return str(json.loads(body)["error"]["message"]) if status >= 300 else ""


def minuet(status: int, body: str) -> str:
    return body if "error" in body else ""


def thrown(status: int, body: str) -> str:
    return body if status != 200 else ""


def ollama(status: int, body: str) -> str:
    error = json.loads(body)["error"]
    return error if isinstance(error, str) and status != 200 else ""


# --- what they send ------------------------------------------------------------------------------

_INFILL = {
    "id_slot": 0, "input_prefix": BEFORE, "input_suffix": AFTER, "prompt": CURSOR,
    "n_predict": 128, "n_indent": 4, "top_k": 40, "stream": False, "cache_prompt": True,
    "samplers": ["top_k", "top_p", "infill"], "t_max_prompt_ms": 500,
}  # fmt: skip
_TIMINGS = [
    f"timings/{what}_{unit}"
    for what in ("prompt", "predicted")
    for unit in ("n", "ms", "per_token_ms", "per_second")
]
_EXTRA = "def volume(width, height, depth):\n    return width * height * depth\n"
_WARMING = {
    "id_slot": 0, "input_prefix": "", "input_suffix": "", "prompt": "", "n_predict": 0,
    "samplers": [], "cache_prompt": True, "t_max_predict_ms": 1,
}  # fmt: skip
LLAMA_VIM = {
    **_INFILL, "stop": [], "top_p": 0.9, "t_max_predict_ms": 250_000, "model": "",
    "input_extra": [{"text": _EXTRA, "time": [12, 345], "filename": "/home/me/volume.py"}],
    "response_fields": ["content", *_TIMINGS, "truncated", "tokens_cached"],
}  # fmt: skip
LLAMA_VSCODE = {
    **_INFILL, "n_cmpl": 3, "top_p": 0.99, "t_max_predict_ms": 500_000,
    "model": "google/gemini-2.5-flash",
    "input_extra": [{"text": _EXTRA, "time": 1_764_000_000_000, "filename": "volume.py"}],
}  # fmt: skip
_SECTIONS = {"CONTEXT": "", "PREFIX": BEFORE, "SELECTION": "    return 0\n", "SUFFIX": AFTER}
_SYSTEM = "You are a text-editing assistant. Respond ONLY with the result ...\n\n" + "".join(
    f"--- {name:<12}{'-' * 40}\n{text}" for name, text in _SECTIONS.items()
)
INSTRUCTION = {
    "id_slot": 7, "min_p": 0.1, "temperature": 0.1, "samplers": ["min_p", "temperature"],
    "stream": True, "cache_prompt": True, "model": "",
    "messages": [
        {"role": "system", "content": _SYSTEM},
        {"role": "user", "content": "INSTRUCTION: return the area"},
    ],
}  # fmt: skip
_MINUET = f"# language: python\n# indentation: use 4 spaces for a tab\n{BEFORE}{CURSOR}"
_CONTINUE = {
    "model": "qwen2.5-coder-1.5b-blockdiff", "temperature": 0.01, "max_tokens": 4096,
    "stop": ["<|endoftext|>", "<|fim_prefix|>", "/src/", "#- coding: utf-8", "```"], "stream": True,
}  # fmt: skip
_TABBY = {"temperature": 0.1, "stream": True, "presence_penalty": 0.0}
_SEED = 1_764_000_000_000  # the time in milliseconds
_MARKS = ["<|endoftext|>", "<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>"]
_FILES = (
    "<|repo_name|>me\n<|file_sep|>volume.py\n" + _EXTRA + "<|file_sep|>area.py\n" + MARKED
)

CLIENTS = (
    Client(
        "llama.vim", "/infill", LLAMA_VIM, llama_vim, nothing,
        _WARMING | {"input_extra": LLAMA_VIM["input_extra"], "response_fields": [""]},
    ),
    Client(
        "llama.vim", "/v1/chat/completions", INSTRUCTION, events(delta_of), nothing,
        {"id_slot": 7, "messages": [INSTRUCTION["messages"][0], {"role": "user", "content": ""}],
         "samplers": [], "n_predict": 0, "stream": False, "response_fields": [""]},
    ),
    Client(
        "llama.vscode", "/infill", LLAMA_VSCODE, llama_vscode, axios,
        _WARMING | {"input_extra": LLAMA_VSCODE["input_extra"]},
    ),
    Client(
        "llama.vscode, as OpenAI", "/v1/completions",
        {"model": "m", "max_tokens": 128, "temperature": 0.1, "top_p": 0.99, "stream": False,
         "prompt": f"Context:\n\n{_EXTRA}{MARKED}"},
        whole(text_of), axios,
    ),
    Client(
        "minuet", "/v1/completions",
        {"model": "m", "stream": True, "max_tokens": 56, "top_p": 0.9, "prompt": _MINUET,
         "suffix": AFTER},
        events(text_of), minuet,
    ),
    Client(
        "minuet, as Codestral", "/v1/fim/completions",
        {"model": "codestral-latest", "stream": True, "prompt": _MINUET, "suffix": AFTER},
        events(delta_of), minuet,
    ),
    Client(
        "Continue, as Mistral", "/v1/fim/completions",
        {**_CONTINUE, "prompt": BEFORE + CURSOR, "suffix": AFTER, "frequency_penalty": 0},
        events(delta_of), thrown, headers={"x-api-key": ""},
    ),
    Client(
        "Continue, as OpenAI", "/v1/completions", {**_CONTINUE, "prompt": _FILES},
        events(text_of), thrown, headers={"api-key": ""},
    ),
    Client(
        "Continue, as llama.cpp", "/completion",
        {**_CONTINUE, "prompt": _FILES, "n_predict": 4096, "mirostat": 0, "min_p": 0.05},
        events(lambda chunk: chunk["content"]), thrown,
    ),
    Client(
        "Continue, as Ollama", "/api/generate",
        {"model": "qwen2.5-coder:1.5b-blockdiff", "prompt": BEFORE + CURSOR, "suffix": AFTER,
         "raw": False, "keep_alive": 1800,
         "options": {"temperature": 0.01, "num_predict": 4096, "stop": ["/src/"], "num_ctx": 8192}},
        events(lambda line: line["response"]), ollama,
    ),
    Client(
        "Tabby, as llama.cpp", "/completion",
        {**_TABBY, "prompt": MARKED.removeprefix("<|fim"), "n_predict": 64, "seed": _SEED,
         "penalty_last_n": 0},
        tabby(lambda chunk: str(chunk["content"]), lambda chunk: chunk["stop"]), nothing,
    ),
    Client(
        "Tabby, as OpenAI", "/v1/completions",
        {**_TABBY, "model": "m", "prompt": BEFORE + CURSOR, "suffix": AFTER, "max_tokens": 64},
        tabby(text_of, finished), thrown, shows="in its log",
    ),
    Client(
        "Tabby, as vLLM", "/v1/completions",
        {**_TABBY, "model": "m", "prompt": MARKED, "suffix": None, "max_tokens": 64},
        tabby(text_of, finished), thrown, shows="in its log",
    ),
    Client(
        "Tabby, as Mistral", "/v1/fim/completions",
        {"model": "codestral-latest", "prompt": BEFORE + CURSOR, "suffix": AFTER,
         "temperature": 0.1, "max_tokens": 64, "stream": True, "random_seed": _SEED},
        tabby(delta_of, finished), nothing,
    ),
    Client(
        "Zed", "/v1/completions",
        {"model": "qwen2.5-coder", "prompt": MARKED, "max_tokens": 64, "stop": _MARKS},
        zed, thrown, shows="in its log",
    ),
    Client(
        "openai (Python)", "/v1/completions",
        {"model": "m", "prompt": BEFORE + CURSOR, "suffix": AFTER, "max_tokens": 32,
         "stream": True},
        events(text_of), thrown,
    ),
    Client(
        "mistralai (Python)", "/v1/fim/completions",
        {"model": "m", "prompt": BEFORE + CURSOR, "suffix": AFTER, "stream": True, "top_p": 1},
        events(delta_of), thrown,
    ),
)  # fmt: skip


# --- trying it -----------------------------------------------------------------------------------


def tried(world: Compat, client: Client) -> dict[str, str]:
    """What this client gets, in words."""
    return {
        "client": client.name,
        "endpoint": client.endpoint,
        "streams": _streams(world, client),
        "cancels": _cancels(world, client),
        "warms": _warms(world, client),
        "errors": _errors(world, client),
    }


def _post(world: Compat, client: Client, body: Any, token: str = "") -> http.client.HTTPConnection:
    bearer = {"Authorization": f"Bearer {token or world.token}"}
    headers = client.headers | bearer | {"Content-Type": "application/json"}
    connection = http.client.HTTPConnection(world.url.removeprefix("http://"), timeout=20)
    connection.request("POST", client.endpoint, json.dumps(body), headers)
    return connection


def _streams(world: Compat, client: Client) -> str:
    """Where it should, the first line is read while the engine waits before the second."""
    by_line = client.streams and not client.endpoint.endswith("chat/completions")
    if by_line:
        world.engine.go.clear()
    connection = _post(world, client, client.body)
    response, raw = connection.getresponse(), b""
    assert response.status == 200
    while by_line and not client.read(raw.decode()):
        raw += response.read1()
    assert not by_line or client.read(raw.decode()) == TEXT.split("\n")[0]
    world.engine.go.set()
    raw += response.read()
    assert client.read(raw.decode()) == TEXT
    connection.close()
    return "by line" if by_line else "whole"


def _cancels(world: Compat, client: Client) -> str:
    world.engine.go.clear()
    count, cancelled = len(world.engine.requests), world.engine.cancelled
    connection = _post(world, client, client.body)
    world.until(lambda: len(world.engine.requests) > count)
    connection.close()
    world.until(lambda: world.engine.cancelled > cancelled)
    world.engine.go.set()
    return "yes"


def _warms(world: Compat, client: Client) -> str:
    if client.warming is None:
        return "not asked"
    count = len(world.engine.warmed)
    response = _post(world, client, client.warming).getresponse()
    assert response.status == 200 and isinstance(json.loads(response.read()), dict)
    if client.endpoint.endswith("chat/completions"):
        return "answered only"
    world.until(lambda: len(world.engine.warmed) > count)
    return "yes"


def _errors(world: Compat, client: Client) -> str:
    """A wrong token, and a body that is none."""
    shown = []
    for body, token, message in (
        (client.body, "wrong", "the token is missing or wrong"),
        (client.body | {"prompt": 3, "messages": 3}, "", "must be"),
    ):
        response = _post(world, client, body, token).getresponse()
        assert response.status in (400, 401)
        shown.append(message in client.shown(response.status, response.read().decode()))
    return client.shows if all(shown) else "not by the client"


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder, compat(Runtime(Path(folder) / "run")) as tiny:
        found = [tried(tiny, client) for client in CLIENTS]
    RESULTS.write_text(json.dumps(found, indent=1) + "\n", "utf-8")
