"""The HTTP interface of the engine: parse, hand to the scheduler, stream what comes back."""

from __future__ import annotations

import asyncio
import hmac
import logging
import os
import time
from collections.abc import Callable
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

import blockdiff
from blockdiff import types
from blockdiff.client import strict, wire
from blockdiff.errors import (
    BlockdiffError,
    Cancelled,
    EngineBusy,
    EngineMismatch,
    InvalidRequest,
    RequestTooLarge,
    Unauthorized,
    as_error,
)
from blockdiff.service.bodies import Bodies
from blockdiff.service.metrics import Metrics
from blockdiff.service.scheduler import Job, JobResult, Message, Scheduler
from blockdiff.service.statuses import status_of
from blockdiff.service.stream import EventStream, Mailbox
from blockdiff.service.worker import Worker, log_defect
from blockdiff.types import (
    Filled,
    Finished,
    InfillRequest,
    Priority,
    Progress,
    RewriteRequest,
    Warmed,
)
from blockdiff.weights import store

_log = logging.getLogger("blockdiff.service")

_IN_USE_SECONDS = 120.0  # a client that asked so lately uses the engine

class Service:
    """The endpoints over one scheduler and its worker.

    Attributes:
        bodies: of requests that are read, wait or run.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        worker: Worker,
        model: str,
        stop: Callable[[], None],
        stops_by_itself: bool = False,
    ) -> None:
        """`model` is the name as it was asked for; `stop` begins the shutdown.

        One that `stops_by_itself` was started for editors: the only one of them may change it.
        """
        self._stops_by_itself = stops_by_itself
        self._asked: dict[str, float] = {}  # when each client asked last, by the monotonic clock
        self._scheduler, self._worker, self._model, self._stop = scheduler, worker, model, stop
        self._metrics = Metrics(scheduler, worker)
        self.bodies = Bodies()

    def app(self, token: str) -> ASGIApp:
        """The ASGI application; every request must carry `token`."""
        starlette = Starlette(
            routes=[
                Route("/health", self._health),
                Route("/metrics", self._show_metrics),
                Route("/v1/models", self._models),
                Route("/v1/infill", self._infill, methods=["POST"]),
                Route("/v1/rewrite", self._rewrite, methods=["POST"]),
                Route("/v1/warm", self._warm, methods=["POST"]),
                Route("/v1/stop", self._stop_engine, methods=["POST"]),
            ],
            exception_handlers={
                BlockdiffError: _answer_error,
                HTTPException: _answer_http_error,
                ClientDisconnect: _answer_nobody,
                Exception: _answer_error,
            },
        )
        return _Guard(starlette, token)

    def health(self) -> wire.Health:
        worker, engine = self._worker, self._worker.engine
        doing, share = worker.progress or ("", 0.0)
        return wire.Health(
            api=wire.API_VERSION,
            version=blockdiff.__version__,
            pid=os.getpid(),
            state=worker.state,
            model=self._model,
            device=engine.device if engine else "",
            dtype=engine.dtype if engine else "",
            message=worker.failure.message if worker.failure else "",
            doing=doing,
            share=share,
            waiting=self._scheduler.waiting,
            context_speed=round(worker.context_speed(), 1),
        )

    @property
    def sizes(self) -> tuple[int, int]:
        """Tokens that the model takes, requests that are written at once; 0 while it loads."""
        engine = self._worker.engine
        return (engine.context_size, engine.together) if engine else (0, 0)

    async def _health(self, http: Request) -> Response:
        return JSONResponse(self.health().to_json())

    async def _models(self, http: Request) -> Response:
        return JSONResponse({"models": await asyncio.to_thread(_known_models, self._model)})

    async def _show_metrics(self, http: Request) -> Response:
        return Response(self._metrics.render(), media_type="text/plain; version=0.0.4")

    async def _stop_engine(self, http: Request) -> Response:
        if "unless_shared" in http.query_params:
            self._check_unshared(_client(http))
        self._stop()
        return JSONResponse({}, 202)

    def _check_unshared(self, client: str) -> None:
        since = time.monotonic() - _IN_USE_SECONDS
        if any(name != client and at > since for name, at in self._asked.items()):
            raise EngineBusy("another client uses this engine", "close it, or wait two minutes")
        if not self._asked or not self._stops_by_itself:  # whoever started it may still come
            raise EngineBusy("another client started this engine", "stop it: blockdiff stop")

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
        body = await self.bodies.read(http)
        try:
            return self._stream(http, parse(strict.parse(body.data)), body.release)
        except BaseException:
            body.release()
            raise
        finally:
            body.data = b""

    def _stream(self, http: Request, call: wire.Call, over: Callable[[], None]) -> Response:
        mailbox, cancel = self.ask(call, _client(http))

        def end() -> None:
            cancel()
            over()

        return EventStream(mailbox, end)

    def ask(self, call: wire.Call, client: str) -> tuple[Mailbox, Callable[[], None]]:
        """Queue a call: its messages, and what is to be called when nobody reads them any more.

        Raises EngineBusy, EngineStopping.
        """
        mailbox = Mailbox(asyncio.get_running_loop())
        job = Job(
            call.request,
            deliver=lambda message: self._deliver(job, mailbox, message),
            priority=call.priority,
            source=call.source,
            client=client,
        )
        now = time.monotonic()
        self._asked = {n: at for n, at in self._asked.items() if now - at < _IN_USE_SECONDS}
        self._asked[job.client] = now
        self._scheduler.submit(job)
        if progress := self._worker.progress:
            job.post(Progress(call.request.request_id, *progress))
        gone = Cancelled("the client closed the connection")
        return mailbox, lambda: self._scheduler.cancel(job, gone)

    def _deliver(self, job: Job, mailbox: Mailbox, message: Message) -> None:
        if isinstance(message, (Finished, Filled, Warmed, BlockdiffError)):
            self._metrics.ended(job)  # first: whoever has the answer finds it counted
            self._metrics.dropped(mailbox.dropped)
            _log_end(job, message)
        mailbox.put(message)


def _client(http: Request) -> str:
    return http.headers.get("blockdiff-client", "")[:64]


def _log_end(job: Job, result: JobResult) -> None:
    """One line without a character of anybody's text."""
    seconds = time.monotonic() - job.submitted
    queued = (job.started or time.monotonic()) - job.submitted
    what = f"request {job.number} ({job.priority.value}), {queued:.3f} s queued, {seconds:.3f} s:"
    if isinstance(result, (Finished, Filled)):
        reused = f"{result.cached_tokens} of {result.context_tokens} context tokens cached"
        made = f"{result.tokens} tokens in {result.forwards} forwards"
        _log.info("%s %s, %s, %s", what, result.finish.value, made, reused)
    elif isinstance(result, Warmed):
        encoded = result.context_tokens - result.cached_tokens
        _log.info("%s %d of %d context tokens encoded", what, encoded, result.context_tokens)
    else:
        _log.info("%s %s", what, result.code)


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
        for entry in store.catalog().values()
    ]
    if not any(model["served"] for model in models):
        status = store.Status.PRESENT.value
        models.append(
            {"name": served, "summary": "", "licence": "", "status": status, "served": True}
        )
    return models


class _Guard:
    """Nothing is read of a request before its token and its protocol are known to fit."""

    def __init__(self, app: ASGIApp, token: str) -> None:
        self._app, self._token = app, token.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        app = self._app
        if scope["type"] == "http":
            if refusal := self._refusal(dict(scope["headers"])):
                app = _json(refusal)
            scope = {**scope, "path": path_of_target(scope["path"])}
        await app(scope, receive, send)

    def _refusal(self, headers: dict[bytes, bytes]) -> BlockdiffError | None:
        scheme, _, token = headers.get(b"authorization", b"").partition(b" ")
        known = hmac.compare_digest(token.strip(), self._token)
        if scheme.lower() != b"bearer" or not known:
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
        return None


def path_of_target(path: str) -> str:
    """The path of a target in the absolute form, `http://host/path`, which a server has to take."""
    scheme, found, rest = path.partition("://")
    if not found or scheme.lower() not in ("http", "https"):
        return path
    return "/" + rest.partition("/")[2]


def _json(error: BlockdiffError) -> JSONResponse:
    # What is left of a body that was refused is not waited for.
    headers = {"connection": "close"} if isinstance(error, (RequestTooLarge, EngineBusy)) else None
    return JSONResponse(error.to_json(), status_of(error), headers)


async def _answer_error(http: Request, error: Exception) -> Response:
    if not isinstance(error, BlockdiffError):
        log_defect(error)
    return _json(as_error(error))


async def _answer_http_error(http: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    wrong = f"{http.method} is not allowed here" if error.status_code == 405 else "no such endpoint"
    known = "GET /health, /metrics, /v1/models; POST /v1/infill, /v1/rewrite, /v1/warm, /v1/stop"
    return JSONResponse(InvalidRequest(wrong, known).to_json(), error.status_code)


async def _answer_nobody(http: Request, error: Exception) -> Response:
    return Response(status_code=400)
