"""The engine that runs already, asked as if it were in this process.

Editors keep one loaded. A command that wants the same model joins it, and neither waits for the
weights nor holds a second copy of them.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, aclosing
from typing import TYPE_CHECKING, Protocol

from blockdiff.cli import interrupt
from blockdiff.client import wire
from blockdiff.client.client import EngineClient, EngineOptions, StartOptions
from blockdiff.client.endpoint import Runtime
from blockdiff.client.starter import Starter, model_name
from blockdiff.errors import (
    BackendFailed,
    Cancelled,
    EngineDied,
    EngineMismatch,
    EngineStopping,
    EngineUnavailable,
    NotPermitted,
    Unauthorized,
)
from blockdiff.types import (
    Event,
    InfillRequest,
    Progress,
    Request,
    RewriteRequest,
    StreamEvent,
    Warmed,
)

if TYPE_CHECKING:
    from blockdiff.client.remote.client import RemoteClient
    from blockdiff.client.remote.options import BackendOptions

_POLL_SECONDS = 0.05  # between two looks at the cancel flag
_NOT_FOR_US = (EngineUnavailable, EngineMismatch, Unauthorized, NotPermitted)
_GONE = (EngineDied, EngineStopping, EngineUnavailable)


class WaitBar(Protocol):
    """Where to show what a request waits for; `tui.ProgressBar` is one."""

    def share(self, what: str, share: float) -> None: ...


Bars = Callable[[], AbstractContextManager[WaitBar]]


class EngineGone(Exception):
    """The engine went away before it answered anything; `__cause__` says how."""


class RunningEngine:
    """`Engine.infill` and `Engine.rewrite` of an engine or backend that runs."""

    def __init__(self, client: EngineClient | RemoteClient, bars: Bars) -> None:
        self._client, self._bars = client, bars

    def infill(self, request: InfillRequest, cancelled: Callable[[], bool]) -> Iterator[Event]:
        """Raises Cancelled, EngineGone, EngineDied and what the engine says."""
        return self._events(request, cancelled)

    def rewrite(self, request: RewriteRequest, cancelled: Callable[[], bool]) -> Iterator[Event]:
        """Raises as `infill`."""
        return self._events(request, cancelled)

    def _events(self, request: Request, cancelled: Callable[[], bool]) -> Iterator[Event]:
        loop = asyncio.new_event_loop()
        stream = self._ask(request)
        begun = False
        shown, bar = ExitStack(), None
        try:
            while True:
                # raised anywhere in the loop, it would be lost or leave tasks behind
                with interrupt.noticed():
                    event = loop.run_until_complete(_next(stream, cancelled))
                if event is None:
                    return
                if isinstance(event, Progress):
                    bar = bar or shown.enter_context(self._bars())
                    bar.share(event.what, event.share)
                elif not isinstance(event, Warmed):
                    shown.close()
                    begun = True
                    yield event
        except _GONE as error:
            if begun or isinstance(error, BackendFailed):
                raise
            raise EngineGone from error
        finally:
            shown.close()
            loop.run_until_complete(stream.aclose())
            loop.run_until_complete(self._client.aclose())
            loop.close()

    async def _ask(self, request: Request) -> AsyncGenerator[StreamEvent, None]:
        if isinstance(request, InfillRequest):
            asked = self._client.infill(request, start=False)
        else:
            asked = self._client.rewrite(request, start=False)
        async with aclosing(asked) as events:
            async for event in events:
                yield event


async def _next(
    stream: AsyncGenerator[StreamEvent, None], cancelled: Callable[[], bool]
) -> StreamEvent | None:
    """What comes next, None at the end. Raises Cancelled within a moment of the flag."""
    waiting = asyncio.ensure_future(anext(stream, None))
    try:
        while not waiting.done():
            await asyncio.wait({waiting}, timeout=_POLL_SECONDS)
            if cancelled():
                raise Cancelled("the request was cancelled")
        return waiting.result()
    finally:
        if not waiting.done():
            waiting.cancel()
            await asyncio.wait({waiting})


def running_engine(
    model: str, drafter: str, device: str, dtype: str, bars: Bars
) -> RunningEngine | None:
    """The engine that runs, if it serves this model on this device in this precision.

    `auto` stands for whatever it has, and so does an empty `drafter`. One that cannot be used, for
    whatever reason, is as good as none: the command then loads the model itself.
    """
    runtime = Runtime.default()
    try:
        joined = Starter(runtime, StartOptions()).join()
    except _NOT_FOR_US:
        return None
    if joined is None or joined.health.state is wire.EngineState.ERROR:
        return None
    health = joined.health
    if health.model != model_name(model) or drafter and health.drafter != model_name(drafter):
        return None
    for wanted, found in ((device, health.device), (dtype, health.dtype)):
        if wanted not in ("auto", found):
            return None
    client = EngineClient(EngineOptions(start=StartOptions(model=model, drafter=drafter)), runtime)
    return RunningEngine(client, bars)


def remote(options: BackendOptions, bars: Bars) -> RunningEngine:
    """A remote backend in the place of an engine."""
    from blockdiff.client.remote.client import RemoteClient

    return RunningEngine(RemoteClient(options), bars)

