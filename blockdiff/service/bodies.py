"""The bodies of requests: none larger than a source file may be, and not too many at once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from starlette.requests import Request

from blockdiff.client import strict, wire
from blockdiff.errors import EngineBusy, InvalidRequest, RequestTooLarge

_T = TypeVar("_T")

_LARGE = 64 << 10  # bytes: as long as reading fewer takes, nobody else need wait
MOST_HELD = 128 << 20
"""Bytes of bodies that are being read, wait, or run."""


@dataclass(eq=False)
class Held:
    """A body; what it takes counts until `release`."""

    bodies: Bodies
    data: bytes = b""
    size: int = 0

    async def read(self, read: Callable[[dict[str, Any]], _T]) -> _T:
        """What `read` makes of the JSON object in it, which is then forgotten. That of a large one
        is made beside the loop that serves everybody.

        Raises InvalidRequest, and what `read` does.
        """
        data, self.data = self.data, b""
        if len(data) > _LARGE:
            return await asyncio.to_thread(lambda: read(strict.parse(data)))
        return read(strict.parse(data))

    def release(self) -> None:
        """Its request is over. May be called again."""
        self.bodies.held -= self.size
        self.size = 0


class Bodies:
    """Attributes: held: bytes of all bodies that were not released yet."""

    def __init__(self) -> None:
        self.held = 0

    async def read(self, http: Request) -> Held:
        """Raises RequestTooLarge, before anything is read where the client names the size,
        InvalidRequest for a compressed one, and EngineBusy while others hold too much."""
        if (coding := http.headers.get("content-encoding", "")) not in ("", "identity"):
            raise InvalidRequest(f"the body is encoded as {coding[:20]}", "send it as it is")
        declared = http.headers.get("content-length", "")
        if declared.isdecimal():
            _check(int(declared))
        body, parts = Held(self), []
        try:
            async for part in http.stream():
                _check(body.size + len(part))
                if self.held + len(part) > MOST_HELD:
                    raise EngineBusy("the requests that wait hold too much text", "try again later")
                body.size += len(part)
                self.held += len(part)
                parts.append(part)
        except BaseException:
            body.release()
            raise
        body.data = b"".join(parts)
        return body


def _check(size: int) -> None:
    if size > wire.MOST_BYTES:
        raise RequestTooLarge(
            f"the body has more than {wire.MOST_BYTES >> 20} MiB", wire.TOO_LARGE_HINT
        )
