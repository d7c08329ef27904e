"""How a failure is answered over HTTP: by which status, and what answers an exception."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from blockdiff.errors import (
    BlockdiffError,
    EngineBusy,
    EngineMismatch,
    EngineStopping,
    InvalidRequest,
    NotPermitted,
    RateLimited,
    RequestTooLarge,
    Unauthorized,
    as_error,
)
from blockdiff.service.worker import log_defect

_STATUS: dict[type[BlockdiffError], int] = {
    RequestTooLarge: 413,
    InvalidRequest: 400,
    Unauthorized: 401,
    NotPermitted: 403,
    EngineMismatch: 409,
    RateLimited: 429,
    EngineBusy: 503,
    EngineStopping: 503,
}


def status_of(error: BlockdiffError) -> int:
    """500 where none fits better."""
    return next((_STATUS[kind] for kind in type(error).__mro__ if kind in _STATUS), 500)


def error_handlers(
    answer: Callable[[Request, BlockdiffError, int], Response], known: str
) -> dict[Any, Any]:
    """What answers the exceptions of an application: with `answer`, given a request, an error and a
    status, 0 where the error tells it. `known` are the endpoints that there are."""

    async def failed(http: Request, error: Exception) -> Response:
        if not isinstance(error, BlockdiffError):
            log_defect(error)
        return answer(http, as_error(error), 0)

    async def refused(http: Request, error: HTTPException) -> Response:
        wrong = "no such endpoint"
        if error.status_code == 405:
            wrong = f"{http.method} is not allowed here"
        made = answer(http, InvalidRequest(wrong, known), error.status_code)
        made.headers.update(error.headers or {})
        return made

    async def left(http: Request, error: Exception) -> Response:
        return Response(status_code=400)

    return {
        BlockdiffError: failed, HTTPException: refused, ClientDisconnect: left, Exception: failed
    }  # fmt: skip
