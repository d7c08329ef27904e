"""The way to the engine: one client, replaced when its settings change, and what state it is in."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing
from dataclasses import replace
from typing import TYPE_CHECKING

from blockdiff.client.client import EngineClient
from blockdiff.client.endpoint import Runtime
from blockdiff.client.remote.options import Backend
from blockdiff.client.wire import EngineState
from blockdiff.errors import BlockdiffError, Cancelled, EngineUnavailable, InvalidRequest
from blockdiff.types import (
    Filled,
    Finished,
    InfillRequest,
    Priority,
    Progress,
    Refinement,
    RewriteRequest,
    StreamEvent,
    no_op,
)
from blockdiff.weights import store
from blockdiff.weights.catalog import DEFAULT_MODEL
from blockdiff.weights.store import Status
from lsp_server.messages import State, StatusParams
from lsp_server.settings import EngineSettings

if TYPE_CHECKING:
    from blockdiff.client.remote.client import RemoteClient


class EngineLink:
    """Asks the engine, and tells `show` how it is.

    `hear` is told the model of the user's own engine on this machine, as that was asked for, each
    time it has answered; an empty name once another engine may be asked.

    Attributes:
        status: as last shown.
        speed: context tokens it encodes in a second, as it says; 0: not known yet.
    """

    def __init__(
        self,
        settings: EngineSettings,
        runtime: Runtime,
        show: Callable[[StatusParams], None],
        hear: Callable[[str], None] = no_op,
    ) -> None:
        self._runtime, self._show, self._hear = runtime, show, hear
        self._settings = settings
        self._name = secrets.token_hex(8)  # the same for every client of this editor
        self._client: EngineClient | RemoteClient | None = None
        self._backend = ""
        self._running = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self.status = StatusParams(State.STOPPED)
        self.speed = 0.0

    async def configure(self, settings: EngineSettings) -> None:
        """Use other settings from now on; requests that run are not disturbed."""
        if settings == self._settings:
            return
        self._settings, client = settings, self._client
        self._client, self.speed = None, 0.0
        self._hear("")
        with contextlib.suppress(InvalidRequest):  # it was said, and the next request says it too
            remote = settings.remote()
            self._backend = remote.name if remote else ""
        if self.status.backend != self._backend:
            self._tell(StatusParams(State.STOPPED))  # before anything goes there
        if client is not None:
            await client.aclose()

    async def aclose(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._client is not None:
            await self._client.aclose()

    async def ask(
        self,
        request: InfillRequest | RewriteRequest,
        *,
        priority: Priority = Priority.EXPLICIT,
        source: str = "",
    ) -> AsyncGenerator[StreamEvent, None]:
        """The events of one request; closing the iterator cancels it. Raises as the client does."""
        client = self._connected()
        if isinstance(request, RewriteRequest):
            stream = client.rewrite(request, priority=priority, source=source)
        else:
            stream = client.infill(request, priority=priority, source=source)
        async with self._watched(), aclosing(stream) as events:
            async for event in events:
                self._note(event)
                yield event

    @property
    def can_warm(self) -> bool:
        """Whether an engine is ready and has nothing to do for this editor."""
        return self._client is not None and self.status.state is State.READY

    @property
    def _is_own(self) -> bool:
        return self._settings.backend is Backend.LOCAL and not self._settings.url

    @property
    def would_download(self) -> bool:
        """Whether a request would begin with a download, which nobody asks for by typing."""
        wanted = self._settings
        if not (self._is_own and wanted.download):
            return False
        model = wanted.model or DEFAULT_MODEL
        try:
            if self._runtime.announced() is not None:
                return False
            return not store.is_path(model) and store.state(model).status is not Status.PRESENT
        except BlockdiffError:
            return False

    async def warm(self, request: InfillRequest, source: str) -> None:
        """Encode the context of a request that may come, if an engine is ready; else do nothing."""
        if self._client is not None and self.can_warm:
            try:
                await self._client.warm(request, source=source)
            except EngineUnavailable:  # it stopped for lack of use
                self._tell(StatusParams(State.STOPPED, self.status.model))
            except BlockdiffError:
                pass  # it had something else to do

    @contextlib.asynccontextmanager
    async def _watched(self) -> AsyncIterator[None]:
        """The state while a request runs, and what became of it."""
        self._running += 1
        try:
            yield
        except (Cancelled, InvalidRequest):
            self._settle()
            raise
        except BlockdiffError as error:
            hint = f": {error.hint}" if error.hint else ""
            self._tell(StatusParams(State.ERROR, self.status.model, message=error.message + hint))
            raise
        except (asyncio.CancelledError, GeneratorExit):
            self._settle()
            raise
        finally:
            self._running -= 1
        self._settle()

    def _connected(self) -> EngineClient | RemoteClient:
        if self._client is None:
            if (remote := self._settings.remote()) is None:
                self._client = EngineClient(self._settings.options(), self._runtime, self._name)
            else:
                from blockdiff.client.remote.client import RemoteClient

                self._client = RemoteClient(remote, self._runtime)
        return self._client

    def _note(self, event: StreamEvent) -> None:
        status = self.status
        if isinstance(event, Progress):
            self._tell(
                StatusParams(State.STARTING, status.model, message=event.what, progress=event.share)
            )
        elif isinstance(event, Refinement):
            self._tell(
                StatusParams(
                    State.BUSY,
                    status.model,
                    status.device,
                    tokens_per_second=status.tokens_per_second,
                )
            )
        elif isinstance(event, (Finished, Filled)):
            self._finished(event)

    def _finished(self, event: Finished | Filled) -> None:
        seconds = (event.elapsed_ms - event.first_ms) / 1e3
        rate = round(event.tokens / seconds, 1) if seconds > 0 and event.tokens > 1 else None
        self._tell(
            StatusParams(State.READY, event.model, self.status.device, tokens_per_second=rate)
        )
        task = asyncio.create_task(self._refresh())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _refresh(self) -> None:
        """Which device it runs on, and how fast."""
        client = self._client
        if client is None:
            return
        with contextlib.suppress(BlockdiffError):
            health = await client.health(start=False)
            self.speed = health.context_speed
            if client is self._client and self._is_own:
                self._hear(health.model)
            status = self.status
            if health.state in (EngineState.READY, EngineState.BUSY):
                self._tell(
                    StatusParams(
                        status.state,
                        status.model or health.model,
                        health.device,
                        tokens_per_second=status.tokens_per_second,
                    )
                )

    def _settle(self) -> None:
        """Nothing more is known than that a request is over."""
        if self._running <= 1 and self.status.state in (State.BUSY, State.STARTING):
            known = self.status
            self._tell(
                StatusParams(
                    State.READY if known.state is State.BUSY else State.STOPPED,
                    known.model,
                    known.device,
                    tokens_per_second=known.tokens_per_second,
                )
            )

    def _tell(self, status: StatusParams) -> None:
        status = replace(status, backend=self._backend)
        if status != self.status:
            self.status = status
            self._show(status)
