"""Which endpoint speaks which protocol, and who may come."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from typing import Any, Protocol
from urllib.parse import urlsplit

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

import blockdiff
from blockdiff.client.connections import is_loopback
from blockdiff.client.wire import EngineState, affordable_context
from blockdiff.errors import (
    BlockdiffError,
    EngineUnavailable,
    InvalidRequest,
    NotPermitted,
    Unauthorized,
)
from blockdiff.service.compat import asked, llamacpp, mistral, ollama, openai
from blockdiff.service.compat.answer import Form, Reply
from blockdiff.service.compat.problem import Problem
from blockdiff.service.compat.served import Served
from blockdiff.service.compat.writing import Answer, SharedWritings
from blockdiff.service.endpoints import Identify, ServedEngine, let_in, path_of_target, user_of
from blockdiff.service.statuses import error_handlers

_SAME = 1.25  # two speeds that differ by no more are one: a budget that moves costs the cache


class RequestBody(Protocol):
    """What is read of a body."""

    @property
    def stream(self) -> bool: ...

    def asked(self, context_tokens: int) -> asked.Ask:
        """What it asks for. Raises InvalidRequest."""

    def form(self, served: Served) -> Form:
        """How the answer is said."""


_BODIES: dict[str, type[RequestBody]] = {
    "/infill": llamacpp.InfillBody,
    "/completion": llamacpp.PromptBody,
    "/completions": llamacpp.PromptBody,
    "/v1/completions": openai.CompletionBody,
    "/v1/chat/completions": openai.ChatBody,
    "/chat/completions": openai.ChatBody,  # where somebody left /v1 out of the address
    "/v1/fim/completions": mistral.FimBody,
    "/fim/completions": mistral.FimBody,
    "/api/generate": ollama.GenerateBody,
    "/api/chat": ollama.OllamaChatBody,
}
_OPEN = ("/health", "/v1/health")  # a token would be of no use to what only waits


class Compat:
    """The endpoints of others in front of our engine."""

    def __init__(self, engine: ServedEngine) -> None:
        self._engine = engine
        self._writings = SharedWritings(engine)
        self._since = int(time.time())
        self._speed = 0.0

    def app(self, identify: Identify | None, host: str) -> ASGIApp:
        """The ASGI application that listens at `host`; every request must carry a token that is
        somebody's.

        Where none is asked for, nothing is answered that a page in a browser may have asked.
        """
        told = {
            "/props": llamacpp.props,
            "/v1/models": llamacpp.models,
            "/models": llamacpp.models,
            "/api/tags": ollama.tags,
        }
        starlette = Starlette(
            routes=[
                *(Route(path, self._health) for path in _OPEN),
                *(Route(path, self._telling(what)) for path, what in told.items()),
                Route("/api/show", self._telling(ollama.show), methods=["POST"]),
                *(
                    Route(path, self._writing(kind), methods=["POST"])
                    for path, kind in _BODIES.items()
                ),
            ],
            exception_handlers=error_handlers(
                lambda http, error, status: _refusal(http.url.path, error, status),
                ", ".join(_BODIES),
            ),
        )
        return _Guard(starlette, identify, host)

    @property
    def _served(self) -> Served:
        size, together = self._engine.sizes
        model = self._engine.health().model
        return Served(model, blockdiff.__version__, size, together, self._since)

    @property
    def _context_tokens(self) -> int:
        speed = self._engine.health().context_speed
        if not self._speed / _SAME <= speed <= self._speed * _SAME:
            self._speed = speed
        return affordable_context(self._speed)

    async def _health(self, http: Request) -> Response:
        self._check_loaded()
        if self._engine.health().state is EngineState.ERROR:
            raise EngineUnavailable("the model did not load", "`blockdiff status` says why")
        return JSONResponse(llamacpp.health())

    def _telling(
        self, what: Callable[[Served], dict[str, Any]]
    ) -> Callable[[Request], Awaitable[Response]]:
        async def tell(http: Request) -> Response:
            self._check_loaded()
            return JSONResponse(what(self._served))

        return tell

    def _writing(self, kind: type[RequestBody]) -> Callable[[Request], Awaitable[Response]]:
        async def write(http: Request) -> Response:
            def read(value: dict[str, Any]) -> tuple[RequestBody, asked.Ask]:
                fields = asked.read(kind, value)
                self._check_loaded()
                return fields, fields.asked(self._context_tokens)

            body = await self._engine.bodies.read(http)
            try:
                fields, wanted = await body.read(read)
                return Reply(
                    fields.form(self._served),
                    self._pieces(wanted, user_of(http)),
                    stream=fields.stream,
                    fence=wanted.fence,
                    refuse=lambda error: _refusal(http.url.path, error),
                    over=body.release,
                )
            except BaseException:
                body.release()
                raise

        return write

    def _check_loaded(self) -> None:
        """Raises EngineUnavailable, in llama.cpp's words, while the model loads."""
        health = self._engine.health()
        if health.state is EngineState.STARTING:
            doing = f"{health.doing}, {health.share:.0%} done" if health.doing else ""
            raise EngineUnavailable("Loading model", doing)

    async def _pieces(
        self, wanted: asked.Ask, user: str
    ) -> AsyncGenerator[str | Answer, None]:
        if wanted.request is not None and not wanted.warms:
            reading = self._writings.read(wanted.request, wanted.limits, user)
            async with aclosing(reading) as pieces:
                async for piece in pieces:
                    yield piece
            return
        if wanted.request is not None:
            self._writings.warm(wanted.request, user)
        yield Answer("", cut=wanted.warms)


class _Guard:
    """Nothing is read of a request before it is known who may have sent it."""

    def __init__(self, app: ASGIApp, identify: Identify | None, host: str) -> None:
        self._app, self._identify = app, identify
        self._here = is_loopback(host)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        app = self._app
        if scope["type"] == "http":
            scope = {**scope, "path": _plain(path_of_target(scope["path"]))}
            user = self._user(scope, dict(scope["headers"]))
            if isinstance(user, BlockdiffError):
                app = _refusal(scope["path"], user)
            else:
                scope = let_in(scope, user)
        await app(scope, receive, send)

    def _user(self, scope: Scope, headers: dict[bytes, bytes]) -> str | BlockdiffError:
        if self._identify is not None and scope["path"] not in _OPEN:
            known = [user for key in _keys(headers) if (user := self._identify(key)) is not None]
            return known[0] if known else Unauthorized(
                "the token is missing or wrong", "`blockdiff compat` prints the settings with it"
            )
        if b"origin" in headers or headers.get(b"sec-fetch-site", b"none") != b"none":
            return NotPermitted("a page in a browser may not ask this engine", "use a token")
        if self._here and not _is_here(headers.get(b"host", b"")):
            return NotPermitted("this engine answers to no other host name", "use 127.0.0.1")
        kind = headers.get(b"content-type", b"").partition(b";")[0].strip().lower()
        if self._identify is None and scope["method"] == "POST" and kind != b"application/json":
            return InvalidRequest("the body must be JSON", "send Content-Type: application/json")
        return ""


def _plain(path: str) -> str:
    """Without the slashes that stand twice, or at the end, where addresses are put together."""
    return "/" + "/".join(part for part in path.split("/") if part)


def _keys(headers: dict[bytes, bytes]) -> list[bytes]:
    scheme, _, bearer = headers.get(b"authorization", b"").partition(b" ")
    keys = [headers.get(name, b"") for name in (b"x-api-key", b"api-key")]
    keys += [bearer] if scheme.lower() == b"bearer" else []
    return [key.strip() for key in keys]


def _is_here(host: bytes) -> bool:
    """Whether a Host header names this machine as such, at whatever port."""
    try:
        return is_loopback(urlsplit(f"//{host.decode('ascii')}").hostname or "")
    except ValueError:
        return False


def _refusal(path: str, error: BlockdiffError, status: int = 0) -> Response:
    """An error in the words of the protocol that a path belongs to."""
    problem = Problem.of(error, status)
    if path.startswith("/api/"):
        words = ollama.refusal
    elif path.startswith(("/v1/fim/", "/fim/")):
        words = mistral.refusal
    else:
        words = openai.refusal if path.startswith("/v1/") else llamacpp.refusal
    # What is left of a body that was refused is not waited for.
    headers = {"connection": "close"} if problem.status in (401, 403, 413, 503) else None
    return JSONResponse(words(problem), problem.status, headers)
