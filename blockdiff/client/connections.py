"""The connections to one server: made when they are needed, kept as long as anything runs over
them."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Any

import httpx

from blockdiff.client.endpoint import Address

_MOST_IDLE = 8  # kept open for the next request


class Connections:
    """Safe to use from any number of tasks of one event loop."""

    def __init__(self, address: Address, **options: Any) -> None:
        """With `options` of httpx besides those that `address` brings."""
        self._address, self._options = address, options
        self._http: httpx.AsyncClient | None = None
        self._uses = 0
        self._is_left = False

    @contextlib.asynccontextmanager
    async def used(self) -> AsyncIterator[httpx.AsyncClient]:
        """For one request, before the end of which they are not closed. Raises InvalidRequest,
        EngineUnavailable for certificates or a proxy that cannot be used."""
        if self._http is None:
            self._http = self._made()
        self._uses += 1
        try:
            yield self._http
        finally:
            self._uses -= 1
            await self._close_if_unused()

    async def leave(self) -> None:
        """Close them as soon as nothing runs over them any more."""
        self._is_left = True
        await self._close_if_unused()

    async def _close_if_unused(self) -> None:
        if self._is_left and not self._uses:
            http, self._http = self._http, None
            if http is not None:
                await http.aclose()

    def _made(self) -> httpx.AsyncClient:
        path = self._address.socket_path
        return httpx.AsyncClient(
            transport=httpx.AsyncHTTPTransport(uds=path, verify=False) if path else None,
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=_MOST_IDLE),
            **self._address.http_options(),
            **self._options,
        )
