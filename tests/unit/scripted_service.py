"""An engine service whose engine follows a script, in this process or in one of its own.

A request says what happens: it is `max_tokens` refinements long with `seed` milliseconds before
each, and `language` may name a scene. The environment variable `SCRIPT_LOAD` names how loading
goes.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import Future
from contextlib import aclosing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from blockdiff.client.client import EngineClient, EngineOptions
from blockdiff.client.connections import Address
from blockdiff.client.endpoint import Runtime
from blockdiff.client.starter import StartOptions
from blockdiff.config import DecodingConfig
from blockdiff.errors import Cancelled, ExitCode, ModelNotFound
from blockdiff.service import launcher
from blockdiff.service.launcher import ServeOptions
from blockdiff.service.worker import Load
from blockdiff.types import (
    Event,
    Filled,
    Finished,
    FinishReason,
    Hole,
    InfillRequest,
    OnProgress,
    Priority,
    Refinement,
    Request,
    RewriteRequest,
    Span,
    StreamEvent,
    SyntaxState,
    Warmed,
)

ROOT = str(Path(__file__).resolve().parents[2])
_PROGRAM = "import sys; sys.path.insert(0, {!r}); import tests.unit.scripted_service as s; s.main()"
COMMAND = (sys.executable, "-c", _PROGRAM.format(ROOT))
"""Runs the `blockdiff` command with the scripted engine."""

SECRET = "def the_secret_source(): pass"
"""The document of most requests; it may not turn up in any log."""


def request(steps: int = 2, pause_ms: int = 0, scene: str = "", name: str = "r") -> InfillRequest:
    return InfillRequest(
        SECRET,
        Hole(4, 4),
        language=scene,
        request_id=name,
        decoding=DecodingConfig(max_tokens=steps, seed=pause_ms),
    )


class OneByOne:
    """An engine that takes requests one by one and runs nothing: `infill`, `rewrite` and `warm`."""

    together = 1

    def steps(
        self, request: Request, cancelled: Callable[[], bool], *, ahead: bool = False
    ) -> Iterator[Any]:
        if ahead:
            yield self.warm(request, cancelled)  # type: ignore[attr-defined]
        elif isinstance(request, RewriteRequest):
            yield from self.rewrite(request, cancelled)  # type: ignore[attr-defined]
        elif request.also:
            yield from self._several(request, cancelled)
        else:
            yield from self.infill(request, cancelled)  # type: ignore[attr-defined]

    def _several(self, request: InfillRequest, cancelled: Callable[[], bool]) -> Iterator[Any]:
        """The holes in turn, in the order of the text."""
        ends: dict[int, Finished] = {}
        for hole in sorted(range(len(request.holes)), key=lambda i: request.holes[i].start):
            for event in self.infill(request.only(hole), cancelled):  # type: ignore[attr-defined]
                if isinstance(event, Finished):
                    ends[hole] = replace(event, hole=hole)
                else:
                    yield replace(event, hole=hole)
        yield Filled(request.request_id, tuple(ends[hole] for hole in range(len(ends))), 2.0)

    def batch(self) -> Alone:
        return Alone()

    def aside(self, call: Callable[[], Any]) -> Future[Any]:
        made: Future[Any] = Future()
        made.set_result(call())
        return made

    def check(self) -> None:
        """Nothing of it can break."""

    def store_in(self, root: Path, budget: int) -> None:
        """It has nothing to store."""

    def storing(self) -> Iterator[None]:
        return iter(())


class Alone:
    """A batch of one request, which has no forwards."""

    def __init__(self) -> None:
        self._all: list[tuple[Any, Iterator[Any]]] = []

    def __len__(self) -> int:
        return len(self._all)

    def prepare(self, key: Any, making: Future[Iterator[Any]]) -> None:
        self._all.append((key, making.result()))

    def step(self) -> Iterator[tuple[Any, Any]]:
        key, steps = self._all[0]
        end: Any = None
        try:
            for end in steps:
                if isinstance(end, Refinement):
                    yield key, end
        except Exception as error:
            end = error
        self._all.pop()
        yield key, end


class ScriptedEngine(OneByOne):
    """Attributes: order: ids of requests as they were taken up; cancelled: those cut short."""

    name, device, dtype = "scripted", "cpu", "float32"

    context_speed, cache_entries, cache_bytes, context_size = 100.0, 1, 4096, 512

    def __init__(self) -> None:
        self.order: list[str] = []
        self.cancelled: list[str] = []
        self.written = 0
        self.broken = False

    def check(self) -> None:
        if self.broken:
            raise RuntimeError("the device is gone")

    def infill(self, request: Request, cancelled: Callable[[], bool]) -> Iterator[Event]:
        self.order.append(request.request_id)
        self.broken = request.language == "fault"
        if request.language in ("defect", "fault"):
            raise ZeroDivisionError(f"a message with {request.document}")
        if request.language == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        steps, pause = request.decoding.max_tokens or 2, request.decoding.seed / 1000
        for step in range(steps):
            if cancelled():
                self.cancelled.append(request.request_id)
                raise Cancelled("as asked")
            time.sleep(pause)
            self.written += 1
            text = f"{request.request_id}{step}" * (10_000 if request.language == "long" else 1)
            spans = (Span(0, len(text), False, 0.5),)
            yield Refinement(request.request_id, step, 0, text, spans, step, step, 1.0)
        yield Finished(
            request_id=request.request_id, hole=0, text=f"{request.request_id} done",
            tokens=2 * steps, forwards=steps, finish=FinishReason.EOM, syntax=SyntaxState.OK,
            mode=request.decoding.mode.value, model=self.name, elapsed_ms=2.0, first_ms=1.0,
            context_tokens=100, cached_tokens=80,
        )  # fmt: skip


    rewrite = infill

    def warm(self, request: InfillRequest, cancelled: Callable[[], bool]) -> Warmed:
        *_, end = self.infill(request, cancelled)
        assert isinstance(end, Finished)
        return Warmed(end.request_id, end.context_tokens, end.cached_tokens, end.elapsed_ms)


def load(report: OnProgress) -> Any:
    """As `SCRIPT_LOAD` says."""
    scene = os.environ.get("SCRIPT_LOAD", "")
    if scene == "missing":
        raise ModelNotFound("it is not downloaded", "download it")
    if scene == "slow":
        for done in range(20):
            report("loading weights", done / 20)
            time.sleep(0.1)
    return ScriptedEngine()


@contextmanager
def served(
    runtime: Runtime, load: Load = load, **options: Any
) -> Iterator[list[ExitCode]]:
    """The service in a thread of this process; yields where its status will be."""
    ready, status = threading.Event(), []

    def started(address: Address) -> None:
        ready.set()

    def run() -> None:
        serve_options = ServeOptions(**({"model": "scripted"} | options))
        status.append(launcher.serve(serve_options, runtime, load, started))

    thread = threading.Thread(target=run)
    thread.start()
    try:
        assert ready.wait(20)
        yield status
    finally:
        if thread.is_alive():
            asyncio.run(EngineClient(runtime=runtime).stop())
        thread.join(20)
        assert not thread.is_alive()


def client_of(runtime: Runtime, **start: Any) -> EngineClient:
    """A client that starts this program where it finds no engine."""
    return EngineClient(EngineOptions(start=StartOptions(command=COMMAND, **start)), runtime)


async def collect(
    client: EngineClient,
    what: Request,
    priority: Priority = Priority.EXPLICIT,
    source: str = "",
) -> list[StreamEvent]:
    ask = client.rewrite if isinstance(what, RewriteRequest) else client.infill
    async with aclosing(ask(what, priority=priority, source=source)) as events:  # type: ignore
        return [event async for event in events]


async def until(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        await asyncio.sleep(0.01)


def run(story: Coroutine[Any, Any, Any], seconds: float = 120.0) -> Any:
    """One test on an event loop; no task may be left."""

    async def main() -> Any:
        result = await asyncio.wait_for(story, seconds)
        await until(lambda: len(asyncio.all_tasks()) == 1, 2.0)  # generators are still closed
        return result

    return asyncio.run(main())


def main() -> None:
    """The `blockdiff` command with the scripted engine."""
    launcher.loader = lambda options: load
    from blockdiff.__main__ import main as blockdiff

    blockdiff()
