"""An engine that writes line by line when it is told to, behind the compatible endpoints."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import httpx

from blockdiff.client.endpoint import COMPAT_TOKEN, Runtime
from blockdiff.errors import Cancelled
from blockdiff.types import (
    Finished,
    FinishReason,
    InfillRequest,
    Refinement,
    Request,
    RewriteRequest,
    Span,
    SyntaxState,
    Warmed,
)
from tests.unit.scripted_service import OneByOne, served

BEFORE, CURSOR, AFTER = "def area(width, height):\n", "    return ", "\n\n\nprint(area(3, 4))\n"
LINES = ("max(\n", "        width * height,\n", "        0,\n", "    )")
TEXT = "".join(LINES)


WRITING = {
    "/infill": {"input_prefix": BEFORE, "prompt": CURSOR, "input_suffix": AFTER},
    "/completion": {"prompt": BEFORE + CURSOR},
    "/completions": {"prompt": BEFORE + CURSOR},
    "/v1/completions": {"prompt": BEFORE + CURSOR, "suffix": AFTER},
    "/v1/chat/completions": {"messages": [{"role": "user", "content": "sort\n```\nb\na\n```"}]},
    "/v1/fim/completions": {"prompt": BEFORE + CURSOR, "suffix": AFTER},
    "/api/generate": {"prompt": BEFORE + CURSOR, "suffix": AFTER},
    "/api/chat": {"messages": [{"role": "user", "content": "sort\n```\nb\na\n```"}]},
}  # fmt: skip
"""The least body of each endpoint that writes."""

REWRITING = {"/v1/chat/completions", "/api/chat"}
"""Those of them whose answer comes whole, and is not cut off."""


class WritingEngine(OneByOne):
    """Writes `text`, a line in each step, and waits before a line while `hold` is not set.

    Attributes:
        requests, warmed: what came, in order.
        cancelled: how many were cut short.
        fails: raised in place of the second line.
    """

    name, device, dtype = "writing", "cpu", "float32"
    context_speed, cache_entries, cache_bytes, context_size = 100.0, 1, 4096, 512

    def __init__(self, text: str = TEXT) -> None:
        self.text = text
        self.requests: list[Request] = []
        self.warmed: list[InfillRequest] = []
        self.cancelled = 0
        self.fails: Exception | None = None
        self.go = threading.Event()
        self.go.set()

    def infill(self, request: Request, cancelled: Callable[[], bool]) -> Iterator[Any]:
        self.requests.append(request)
        written, spans = "", []
        lines = self.text.splitlines(keepends=True)
        for number, line in enumerate(lines):
            while number and not self.go.wait(0.01):
                self._check(cancelled)
            self._check(cancelled)
            if number and self.fails is not None:
                raise self.fails
            spans.append(Span(len(written), len(written) + len(line), True, 0.9))
            written += line
            draft = Span(len(written), len(written) + 3, False, 0.2)
            yield Refinement(
                request.request_id, number, 0, written + "???", (*spans, draft), number, number, 1.0
            )
        yield Finished(
            request_id=request.request_id, hole=0, text=self.text, tokens=len(lines),
            forwards=len(lines), finish=FinishReason.EOM, syntax=SyntaxState.OK, mode="verify",
            model=self.name, elapsed_ms=5.0, first_ms=1.0, context_tokens=100, cached_tokens=80,
        )  # fmt: skip

    def rewrite(self, request: RewriteRequest, cancelled: Callable[[], bool]) -> Iterator[Any]:
        return self.infill(request, cancelled)

    def warm(self, request: InfillRequest, cancelled: Callable[[], bool]) -> Warmed:
        self.warmed.append(request)
        return Warmed(request.request_id, 100, 0, 1.0)

    def _check(self, cancelled: Callable[[], bool]) -> None:
        if cancelled():
            self.cancelled += 1
            raise Cancelled("as asked")


def message_of(path: str, value: Any) -> str:
    """An error as a client of this protocol finds it."""
    if path.startswith("/api/"):
        return str(value["error"])
    return str(value["message"] if path.startswith("/v1/fim") else value["error"]["message"])


class Compat:
    """The endpoints, and how to reach them as a client does."""

    def __init__(self, engine: WritingEngine, url: str, token: str) -> None:
        self.engine, self.url, self.token = engine, url, token

    @property
    def bearer(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.token}"} if self.token else {}

    def http(self, **headers: str) -> httpx.Client:
        told = self.bearer | headers
        return httpx.Client(base_url=self.url, headers=told, verify=False, trust_env=False)

    def until(self, condition: Callable[[], bool]) -> None:
        end = time.monotonic() + 10
        while not condition():
            assert time.monotonic() < end, "waited in vain"
            time.sleep(0.005)


@contextmanager
def compat(runtime: Runtime, **options: Any) -> Iterator[Compat]:
    """A service with such an engine; its model is loaded."""
    engine = WritingEngine()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with served(runtime, lambda report: engine, compat=f"127.0.0.1:{port}", **options):
        announced = runtime.announced()
        assert announced is not None
        token = ""
        if options.get("compat_token", True):
            token = (runtime.folder / COMPAT_TOKEN).read_text().strip()
        world = Compat(engine, announced.compat, token)
        with world.http() as http:
            world.until(lambda: http.get("/health").status_code == 200)
        yield world
        engine.go.set()
