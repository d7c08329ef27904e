"""Where a server listens, and the connections to it: made when they are needed, kept as long as
anything runs over them. Nothing here imports torch."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import ssl
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from blockdiff.client import wire
from blockdiff.errors import BlockdiffError, EngineUnavailable, InvalidRequest, NotPermitted

if TYPE_CHECKING:
    import httpx

_MOST_IDLE = 8  # kept open for the next request


@dataclass(frozen=True, slots=True)
class Address:
    """Where an engine listens.

    Attributes:
        url: `http://HOST:PORT`, `https://HOST:PORT`, or `unix:PATH`.
        ca_file: certificates to trust with https; empty: those of the system.
        pinned: `ca_file` is the engine's own certificate, whatever host name it carries.
    """

    url: str
    ca_file: str = ""
    pinned: bool = False

    @property
    def socket_path(self) -> str | None:
        return self.url.removeprefix("unix:") if self.url.startswith("unix:") else None

    @property
    def origin(self) -> str:
        """Scheme, host and port."""
        parts = urlsplit(self.url)
        return f"{parts.scheme}://{parts.netloc}".lower()

    @property
    def is_here(self) -> bool:
        """Whether it is on this machine."""
        return self.socket_path is not None or is_loopback(urlsplit(self.url).hostname or "")

    def http_options(self) -> dict[str, Any]:
        """Keyword arguments for an httpx client; no proxy gets between us and our own machine.

        Raises InvalidRequest, EngineUnavailable for certificates or a proxy that cannot be used.
        """
        options: dict[str, Any] = {"trust_env": False}
        if not self.is_here:
            from blockdiff.client import proxies

            options["proxy"] = proxies.proxy_for(self.url)
        if not self.url.startswith("https:"):
            options["verify"] = False  # no TLS: do not spend time on reading certificates
        elif self.ca_file:
            options["verify"] = self._trust()
        elif not self.is_here:
            options["verify"] = proxies.trust()
        return options

    def engine_options(self, token: str, **headers: str) -> dict[str, Any]:
        """Further ones, where an engine of ours listens."""
        ours = {"Authorization": f"Bearer {token}", "Blockdiff-Api": str(wire.API_VERSION)}
        local = self.socket_path is not None
        return {"base_url": "http://engine" if local else self.url, "headers": ours | headers}

    def _trust(self) -> ssl.SSLContext:
        from blockdiff.client import proxies

        proxies.check_key_log()
        try:
            context = ssl.create_default_context(cafile=self.ca_file)
        except (OSError, ssl.SSLError) as error:
            raise InvalidRequest(
                f"cannot use the certificates in {self.ca_file}: {error}", "give a PEM file"
            ) from error
        context.check_hostname = not self.pinned
        return context


def address_of(
    url: str, *, ca_file: str = "", allow_plain_http: bool = False, with_path: bool = False
) -> Address:
    """The address of an engine on another machine, or with a path of a backend.

    Raises InvalidRequest.
    """
    example = "such as https://host:8443"
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname or "", parts.port
    except ValueError as error:
        raise InvalidRequest(f"engine.url is no URL: {error}", example) from error
    path = parts.path.rstrip("/")
    if parts.scheme not in ("http", "https") or not host or (path and not with_path):
        raise InvalidRequest(
            "engine.url must be http or https, a host and a port", example
        )
    if parts.username or parts.password or parts.query or parts.fragment:
        raise InvalidRequest("engine.url must be only a host and a port", "the token goes apart")
    if parts.scheme == "http" and not (allow_plain_http or is_loopback(host)):
        raise InvalidRequest(
            f"http to {host} would send your code and the token or key in the clear",
            "use https, an SSH tunnel to a loopback port, or allow plain http",
        )
    return Address(f"{parts.scheme}://{parts.netloc}{path}", ca_file)


def is_loopback(host: str) -> bool:
    """Whether a host name or address means this machine."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.rstrip(".").lower() == "localhost"



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
        import httpx

        path = self._address.socket_path
        if path is not None:
            _hush_late_readiness(asyncio.get_running_loop())
        return httpx.AsyncClient(
            transport=httpx.AsyncHTTPTransport(uds=path, verify=False) if path else None,
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=_MOST_IDLE),
            **self._address.http_options(),
            **self._options,
        )


def _hush_late_readiness(loop: asyncio.AbstractEventLoop) -> None:
    """Keep what means nothing out of the log.

    A Unix socket of anyio 4.16 that gets bytes in the turn of the loop in which its reader is
    cancelled resolves the cancelled future, and asyncio would log that as an error.
    """
    before = loop.get_exception_handler()
    if getattr(before, "hushes", False):
        return

    def handle(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        late = isinstance(context.get("exception"), asyncio.InvalidStateError)
        if late and "Future.set_result(None)" in context["message"]:
            return
        if before is not None:
            before(loop, context)
        else:
            loop.default_exception_handler(context)

    handle.hushes = True  # type: ignore[attr-defined]
    loop.set_exception_handler(handle)


def unreachable(address: Address, error: Exception, what: str = "engine") -> BlockdiffError:
    """The typed error for a connection that failed."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, PermissionError):
            return NotPermitted(f"may not connect to {address.url}", "check who owns it")
        if isinstance(cause, ssl.SSLError):
            return EngineUnavailable(
                f"no trusted TLS connection to {address.url}: {cause.reason or cause}",
                "check the certificate, or name it as the file of certificates to trust",
            )
        cause = cause.__cause__ or cause.__context__
    reason = " ".join(str(error).split()) or type(error).__name__
    return EngineUnavailable(f"no {what} answers at {address.url}: {reason}")
