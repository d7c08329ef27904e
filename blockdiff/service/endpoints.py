"""The HTTP interface of an engine: parse, hand on what is asked, stream what comes back."""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import Callable
from typing import Any, Protocol

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from blockdiff import types
from blockdiff.client import wire
from blockdiff.errors import (
    BlockdiffError,
    EngineBusy,
    EngineMismatch,
    InvalidRequest,
    RequestTooLarge,
    Unauthorized,
)
from blockdiff.service.bodies import Bodies
from blockdiff.service.statuses import error_handlers, status_of
from blockdiff.service.stream import EventStream, Mailbox
from blockdiff.types import InfillRequest, Priority, RewriteRequest
from blockdiff.weights import store
from blockdiff.weights.catalog import catalog

Identify = Callable[[bytes], str | None]
"""The user whose token it is, empty where there is but one; None: nobody's."""

_KNOWN = "GET /health, /metrics, /v1/models; POST /v1/infill, /v1/rewrite, /v1/warm, /v1/stop"
_USER = "blockdiff.user"  # in the scope of a request that was let in


def only(token: str) -> Identify:
    """One token for everybody."""
    ours = token.encode()
    return lambda theirs: "" if hmac.compare_digest(theirs, ours) else None


class ServedEngine(Protocol):
    """What the endpoints stand in front of.

    Attributes:
        bodies: of requests that are read, wait or run.
    """

    bodies: Bodies

    @property
    def sizes(self) -> tuple[int, int]:
        """Tokens that the model takes, requests that are written at once; 0 while it loads."""

    def health(self) -> wire.Health: ...

    def ask(self, call: wire.Call, client: str) -> tuple[Mailbox, Callable[[], None]]:
        """Queue a call: its messages, and what is to be called when nobody reads them any more.

        Raises EngineBusy, EngineStopping, RateLimited.
        """

    async def metrics(self) -> bytes:
        """As Prometheus text, version 0.0.4."""

    def stop(self, client: str, *, unless_shared: bool) -> None:
        """Begin the shutdown. Raises EngineBusy, NotPermitted."""


class Endpoints:
    """Our protocol in front of an engine."""

    def __init__(self, engine: ServedEngine) -> None:
        self._engine = engine

    def app(self, identify: Identify) -> ASGIApp:
        """The ASGI application; every request must carry a token that is somebody's."""
        starlette = Starlette(
            routes=[
                Route("/health", self._health),
                Route("/metrics", self._metrics),
                Route("/v1/models", self._models),
                Route("/v1/infill", self._infill, methods=["POST"]),
                Route("/v1/rewrite", self._rewrite, methods=["POST"]),
                Route("/v1/warm", self._warm, methods=["POST"]),
                Route("/v1/stop", self._stop, methods=["POST"]),
            ],
            exception_handlers=error_handlers(lambda _, *error: _json(*error), _KNOWN),
        )
        return _Guard(starlette, identify)

    async def _health(self, http: Request) -> Response:
        return JSONResponse(self._engine.health().to_json())

    async def _models(self, http: Request) -> Response:
        served = self._engine.health().model
        return JSONResponse({"models": await asyncio.to_thread(_known_models, served)})

    async def _metrics(self, http: Request) -> Response:
        return Response(await self._engine.metrics(), media_type="text/plain; version=0.0.4")

    async def _stop(self, http: Request) -> Response:
        self._engine.stop(_client(http), unless_shared="unless_shared" in http.query_params)
        return JSONResponse({}, 202)

    async def _infill(self, http: Request) -> Response:
        return await self._write(http, InfillRequest)

    async def _rewrite(self, http: Request) -> Response:
        return await self._write(http, RewriteRequest)

    async def _write(self, http: Request, kind: type[types.Request]) -> Response:
        def parse(value: Any) -> wire.Call:
            call = wire.call_from_json(value, kind)
            if call.priority is Priority.AHEAD:
                raise InvalidRequest("only context is encoded ahead", "that is POST /v1/warm")
            return call

        return await self._answer(http, parse)

    async def _warm(self, http: Request) -> Response:
        return await self._answer(http, wire.warm_call_from_json)

    async def _answer(self, http: Request, parse: Callable[[Any], wire.Call]) -> Response:
        body = await self._engine.bodies.read(http)
        try:
            return self._stream(http, await body.read(parse), body.release)
        except BaseException:
            body.release()
            raise

    def _stream(self, http: Request, call: wire.Call, over: Callable[[], None]) -> Response:
        mailbox, cancel = self._engine.ask(call, _client(http))

        def end() -> None:
            cancel()
            over()

        return EventStream(mailbox, end)


def user_of(http: Request) -> str:
    """Whose token a request carries; empty where there is but one."""
    return str(http.scope[_USER])


def let_in(scope: Scope, user: str) -> Scope:
    """The scope of a request of `user`."""
    return {**scope, _USER: user}


def _client(http: Request) -> str:
    """Whose turn it is: of a team the user, else what the client calls itself."""
    return user_of(http) or http.headers.get("blockdiff-client", "")[:64]


def _known_models(served: str) -> list[dict[str, Any]]:
    """The one that is served and those of the catalogue."""
    models = [
        {
            "name": entry.name,
            "summary": entry.summary,
            "licence": entry.licence,
            "status": store.state(entry.name).status.value,
            "served": entry.name == served,
        }
        for entry in catalog().values()
    ]
    if not any(model["served"] for model in models):
        status = store.Status.PRESENT.value
        models.append(
            {"name": served, "summary": "", "licence": "", "status": status, "served": True}
        )
    return models


class _Guard:
    """Nothing is read of a request before its token and its protocol are known to fit."""

    def __init__(self, app: ASGIApp, identify: Identify) -> None:
        self._app, self._identify = app, identify

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        app = self._app
        if scope["type"] == "http":
            user = self._user(dict(scope["headers"]))
            if isinstance(user, BlockdiffError):
                app = _json(user)
            else:
                scope = let_in(scope, user)
            scope = {**scope, "path": path_of_target(scope["path"])}
        await app(scope, receive, send)

    def _user(self, headers: dict[bytes, bytes]) -> str | BlockdiffError:
        scheme, _, token = headers.get(b"authorization", b"").partition(b" ")
        user = self._identify(token.strip())
        if scheme.lower() != b"bearer" or user is None:
            return Unauthorized(
                "the engine does not accept this token",
                "send `Authorization: Bearer TOKEN` with what is in the engine's token file",
            )
        ours = str(wire.API_VERSION).encode()
        if headers.get(b"blockdiff-api", ours) != ours:
            return EngineMismatch(
                f"this engine speaks protocol {wire.API_VERSION}, not the one that was asked for",
                "stop it, so that the next request starts the right one: blockdiff stop",
            )
        return user


def path_of_target(path: str) -> str:
    """The path of a target in the absolute form, `http://host/path`, which a server has to take."""
    scheme, found, rest = path.partition("://")
    if not found or scheme.lower() not in ("http", "https"):
        return path
    return "/" + rest.partition("/")[2]


def _json(error: BlockdiffError, status: int = 0) -> JSONResponse:
    # What is left of a body that was refused is not waited for.
    headers = {"connection": "close"} if isinstance(error, (RequestTooLarge, EngineBusy)) else None
    return JSONResponse(error.to_json(), status or status_of(error), headers)
