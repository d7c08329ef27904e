"""An error in the terms that these protocols share; each has words of its own for it."""

from __future__ import annotations

from dataclasses import dataclass

from blockdiff.errors import BlockdiffError, EngineUnavailable
from blockdiff.service.statuses import status_of

_KINDS = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    405: "invalid_request_error",
    413: "invalid_request_error",
    429: "rate_limit_error",
    503: "unavailable_error",
}


@dataclass(frozen=True, slots=True)
class Problem:
    """Attributes:
    status: of HTTP.
    kind: what llama.cpp and OpenAI call the `type` of an error.
    code: ours.
    message: what happened and what to do, without a character of anybody's text.
    """

    status: int
    kind: str
    code: str
    message: str

    @classmethod
    def of(cls, error: BlockdiffError, status: int = 0) -> Problem:
        if not status:
            status = 503 if isinstance(error, EngineUnavailable) else status_of(error)
        message = f"{error.message}: {error.hint}" if error.hint else error.message
        return cls(status, _KINDS.get(status, "server_error"), error.code, message)
