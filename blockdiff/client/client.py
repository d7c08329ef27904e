"""The handle on the engine that everything outside the engine process uses.

    async with EngineClient() as engine:
        async with aclosing(engine.infill(request)) as events:
            async for event in events:
                ...

The engine is started or joined when it is first needed, and again whenever it is gone. Closing the
iterator cancels the request. Nothing here imports torch.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import secrets
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass, field

import httpx

from blockdiff.client import endpoint, wire
from blockdiff.client.connections import Address, Connections, address_of, unreachable
from blockdiff.client.endpoint import Runtime
from blockdiff.client.handle import EngineHandle
from blockdiff.client.starter import Joined, Starter, StartOptions, model_name, silent
from blockdiff.errors import (
    BlockdiffError,
    EngineBusy,
    EngineDied,
    EngineMismatch,
    EngineStopping,
    EngineUnavailable,
    InvalidRequest,
    Unauthorized,
)
from blockdiff.types import (
    Filled,
    Finished,
    InfillRequest,
    Priority,
    RewriteRequest,
    StreamEvent,
    Warmed,
)

_TIMEOUT = httpx.Timeout(10.0, read=13.0, pool=None)  # the engine sends something every 4 s
_ATTEMPTS = 2
_PATIENCE_SECONDS = 10.0  # with an engine that lives and does not answer
_AUTOMATIC_SECONDS = 3.0  # the same, where nobody asked for anything
_AUTOMATIC_TIMEOUT = httpx.Timeout(_AUTOMATIC_SECONDS, read=5.0, pool=None)


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """Which engine to use.

    Attributes:
        url: an engine that others look after, such as `https://host:8443`; empty: the one of this
            user on this machine.
        token: of the engine at `url`.
        ca_file: certificates to trust at `url`, as a PEM file; empty: those of the system.
        allow_plain_http: let code and token travel unencrypted to another machine.
        start: the engine to start where `url` is empty.
    """

    url: str = ""
    token: str = ""
    ca_file: str = ""
    allow_plain_http: bool = False
    start: StartOptions = field(default_factory=StartOptions)

    def __post_init__(self) -> None:
        if self.url and not (self.token.isascii() and self.token.split() == [self.token]):
            raise InvalidRequest(
                "engine.url needs the token of that engine", "it is in its token file"
            )


class EngineClient(EngineHandle):
    """Talks to one engine."""

    def __init__(
        self,
        options: EngineOptions | None = None,
        runtime: Runtime | None = None,
        name: str = "",
    ) -> None:
        """`name` tells the engine that clients with different options are one and the same.

        Raises InvalidRequest for options that contradict each other.
        """
        self._options = options or EngineOptions()
        self._starter = Starter(runtime or Runtime.default(), self._options.start)
        self._remote: Address | None = None
        if self._options.url:
            self._remote = address_of(
                self._options.url,
                ca_file=self._options.ca_file,
                allow_plain_http=self._options.allow_plain_http,
            )
        self._name = name or secrets.token_hex(8)
        self._connecting = asyncio.Lock()
        self._session: _Session | None = None

    async def aclose(self) -> None:
        if self._session is not None:
            await self._leave(self._session)

    async def health(self, *, start: bool = True) -> wire.Health:
        """How the engine is now, its model may still be loading. One that is gone is started,
        unless told not to.

        Raises EngineUnavailable, EngineMismatch, Unauthorized, NotPermitted, and what keeps an
        engine from starting, such as NotInstalled.
        """
        for attempt in range(1, _ATTEMPTS + 1):
            session = await self._join(start)
            try:
                async with session.connections.used() as http:
                    response = await http.get("/health")
                endpoint.check(response)
                return wire.Health.from_json(dict(response.json()))
            except (httpx.HTTPError, Unauthorized) as error:
                await self._leave(session)
                if attempt == _ATTEMPTS:
                    raise _typed(session.address, error) from error
        raise AssertionError("unreachable")

    async def _events(self, call: wire.Call, start: bool) -> AsyncGenerator[StreamEvent, None]:
        """A request that the engine had not begun to answer when it went away is sent once more.

        Raises:
            Cancelled: a Superseded, if a newer automatic request took the place of this one.
            EngineDied: in the middle of the request; the next one starts the engine again.
            EngineStopping: it was told to stop in the middle of the request.
            BlockdiffError: as `health`, and what the engine says: InvalidRequest, OutOfMemory ...
        """
        rewrites = isinstance(call.request, RewriteRequest)
        path = "/v1/rewrite" if rewrites else "/v1/infill"
        body = wire.body_of(wire.call_to_json(call))
        hurry = call.priority is Priority.AUTOMATIC and not rewrites
        async with contextlib.aclosing(self._stream(path, body, start, hurry)) as events:
            async for event in events:
                yield event

    async def warm(self, request: InfillRequest, *, source: str = "") -> Warmed:
        """Let the engine encode the context of a request that is expected, while it is idle.

        An engine that is gone is not started for that: it stopped because nobody used it.
        Cancelling the task cancels that, too; what is encoded by then is kept.

        Raises:
            Superseded: anything else was asked for meanwhile; nothing is lost by that.
            BlockdiffError: as `infill`.
        """
        call = wire.Call(request, Priority.AHEAD, source)
        body = wire.body_of(wire.warm_call_to_json(call))
        async with contextlib.aclosing(self._stream("/v1/warm", body, start=False)) as events:
            async for event in events:
                if isinstance(event, Warmed):
                    return event
        raise InvalidRequest("the stream ended without a result")

    async def _stream(
        self, path: str, body: bytes, start: bool = True, hurry: bool = False
    ) -> AsyncGenerator[StreamEvent, None]:
        """The events of one request, which is sent once more if the engine was gone already."""
        timeout = _AUTOMATIC_TIMEOUT if hurry else _TIMEOUT
        patience = _AUTOMATIC_SECONDS if hurry else _PATIENCE_SECONDS
        for attempt in range(1, _ATTEMPTS + 1):
            session = await self._join(start, patience)
            stream = _Stream(session, path, body, attempt < _ATTEMPTS, timeout)
            async with contextlib.aclosing(stream.events()) as events:
                async for event in events:
                    yield event
            if not stream.lost:
                return
            await self._leave(session)

    async def stop(self) -> None:
        """Tell the engine to stop, if one runs. Raises as `health`, without starting one."""
        session = self._session
        if session is None and self._remote is None:
            joined = await asyncio.to_thread(self._starter.find)
            if joined is None:
                return
            session = self._session = self._open(joined)
        session = session or await self._join()
        try:
            await session.stop()
        finally:
            await self._leave(session)

    async def _join(self, start: bool = True, patience: float = _PATIENCE_SECONDS) -> _Session:
        async with self._connecting:
            if self._session is None:
                if self._remote is not None:
                    token = self._options.token
                    health = await asyncio.to_thread(endpoint.health, self._remote, token, 10.0)
                    joined = Joined(self._remote, token, health)
                elif start:
                    joined = await asyncio.to_thread(self._starter.join_or_start, patience)
                    if self._lacks(joined.health):
                        joined = await self._replaced(joined)
                else:
                    found = await asyncio.to_thread(self._starter.join)
                    if found is None:
                        raise EngineUnavailable("no engine runs")
                    joined = found
                self._check_model(joined.health)
                self._session = self._open(joined)
            return self._session

    def _lacks(self, health: wire.Health) -> str:
        """What it does in place of what is wanted; empty: it has the model and the drafter."""
        start = self._options.start
        if start.model and health.model != (model := model_name(start.model)):
            return f"serves {health.model}, not {model}"
        if start.drafter and health.drafter != (drafter := model_name(start.drafter)):
            other = f"with {health.drafter}, not {drafter}"
            return "drafts " + (other if health.drafter else f"without {drafter}")
        return ""

    def _check_model(self, health: wire.Health, why: str = "") -> None:
        if lacks := self._lacks(health):
            raise EngineMismatch(
                f"the engine that runs {lacks}" + why,
                "stop it, so that the next request starts the right one: blockdiff stop",
            )

    async def _replaced(self, joined: Joined) -> Joined:
        """An engine of the model and drafter that are wanted in place of one that only this client
        uses.

        Raises EngineMismatch if others use it.
        """
        session = self._open(joined)
        try:
            await session.stop(unless_shared="1")
        except EngineBusy as error:
            self._check_model(joined.health, f"; {error.message}")
        finally:
            await session.connections.leave()
        return await asyncio.to_thread(self._starter.join_or_start)

    def _open(self, joined: Joined) -> _Session:
        headers = {"Blockdiff-Client": self._name}
        options = joined.address.engine_options(joined.token, **headers)
        connections = Connections(joined.address, timeout=_TIMEOUT, **options)
        return _Session(connections, joined.address, joined.health)

    async def _leave(self, session: _Session) -> None:
        """Join anew next time, unless another task has done that already."""
        if self._session is session:
            self._session = None
        await session.connections.leave()


@dataclass(frozen=True, eq=False)
class _Session:
    """One engine process, and the way to it."""

    connections: Connections
    address: Address
    health: wire.Health

    async def stop(self, **parameters: str) -> None:
        try:
            async with self.connections.used() as http:
                endpoint.check(await http.post("/v1/stop", params=parameters))
        except httpx.HTTPError as error:
            raise unreachable(self.address, error) from error


class _Stream:
    """One attempt at a request.

    Attributes:
        lost: the engine was gone before it said anything, and the caller may try `again`.
    """

    def __init__(
        self, session: _Session, path: str, body: bytes, again: bool, timeout: httpx.Timeout
    ) -> None:
        self._session, self._path, self._body, self._again = session, path, body, again
        self._timeout = timeout
        self._begun = False
        self.lost = False

    async def events(self) -> AsyncGenerator[StreamEvent, None]:
        finished = False
        try:
            async with self._answer() as got:
                if got.status_code >= 400:
                    await got.aread()
                endpoint.check(got)
                self._begun = True
                async with contextlib.aclosing(_events(got)) as events:
                    async for event in events:
                        finished = isinstance(event, (Finished, Filled, Warmed))
                        yield event
            if not finished:
                raise httpx.RemoteProtocolError("the stream ended early")
        except (httpx.HTTPError, EngineStopping, Unauthorized) as error:
            if finished:
                return
            slow = isinstance(error, httpx.TimeoutException)  # it lives: nothing starts another
            self.lost = self._again and not self._begun and not slow
            if not self.lost:
                raise _typed(self._session.address, error) from error

    @contextlib.asynccontextmanager
    async def _answer(self) -> AsyncIterator[httpx.Response]:
        async with self._session.connections.used() as http:
            sent = http.stream("POST", self._path, content=self._body, timeout=self._timeout)
            async with sent as response:
                yield response


async def _events(response: httpx.Response) -> AsyncGenerator[StreamEvent, None]:
    """What a stream carries; a `failed` is raised."""
    async for line in response.aiter_lines():
        if line.startswith("data: "):
            yield wire.event_from_json(json.loads(line.removeprefix("data: ")))


def _typed(address: Address, error: Exception) -> BlockdiffError:
    if isinstance(error, BlockdiffError):
        return error
    if isinstance(error, (httpx.ConnectError, httpx.ConnectTimeout)):
        return unreachable(address, error)
    if isinstance(error, httpx.TimeoutException):
        return silent()
    return EngineDied(
        "the engine went away in the middle of the request",
        "ask again: it is started anew; its log says why",
    )


__all__ = ["EngineClient", "EngineOptions", "StartOptions"]
