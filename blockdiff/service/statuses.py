"""Which status of HTTP says which error."""

from __future__ import annotations

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
)

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
