"""What tests ask of remote backends, and how each answers in the published form."""

from __future__ import annotations

from contextlib import aclosing
from pathlib import Path
from typing import Any

import keyring as library
import pytest
from keyring.backends import null

from blockdiff.client.endpoint import Runtime
from blockdiff.client.remote import keys
from blockdiff.client.remote.client import RemoteClient
from blockdiff.client.remote.options import Backend, BackendOptions
from blockdiff.config import DecodingConfig
from blockdiff.types import (
    Hole,
    InfillRequest,
    RewriteRequest,
    Snippet,
    StreamEvent,
)
from tests.unit.backend_server import Reply, lines, sse
from tests.unit.scripted_service import run

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


def without_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    """No key of whoever runs the tests, and a keyring that holds none."""
    for variable in (*keys.VARIABLES.values(), keys.ANY_HOST):
        monkeypatch.delenv(variable, raising=False)
    library.set_keyring(null.Keyring())
