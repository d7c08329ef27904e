"""Sockets to listen on, and typed errors for those one cannot have."""

from __future__ import annotations

import errno
import os
import socket
import sys
from pathlib import Path
from urllib.parse import urlsplit

from blockdiff.client.endpoint import COMPAT_ADDRESS
from blockdiff.errors import (
    AddressInUse,
    BlockdiffError,
    EngineUnavailable,
    InvalidRequest,
    NotPermitted,
)

_BACKLOG = 256


def host_and_port(address: str) -> tuple[str, int]:
    """The parts of `HOST:PORT`; an IPv6 host stands in brackets. Raises InvalidRequest."""
    try:
        parts = urlsplit(f"//{address}")
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port = None, None
    if not host or port is None or parts.netloc != address or parts.username is not None:
        raise InvalidRequest(f"{address[:80]!r} is not HOST:PORT", f"such as {COMPAT_ADDRESS}")
    return host, port


def listen_unix(path: Path) -> socket.socket:
    """A Unix socket that only this user can connect to. Raises AddressInUse, NotPermitted."""
    assert sys.platform != "win32"
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    mask = os.umask(0o177)
    try:
        listener.bind(str(path))
        listener.listen(_BACKLOG)
    except OSError as error:
        listener.close()
        raise _cannot_listen(str(path), error) from error
    finally:
        os.umask(mask)
    return listener


def listen_tcp(host: str, port: int) -> tuple[socket.socket, str]:
    """A TCP socket, and the `HOST:PORT` by which this machine reaches it.

    Raises AddressInUse, NotPermitted, InvalidRequest for a host that is not this machine.
    """
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        # Named, as asyncio else leaves small writes to wait for one another: 40 ms a response.
        listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    except OSError as error:
        reason = error.strerror or "no such host"
        raise InvalidRequest(f"cannot listen on {host}: {reason}", "check --host") from error
    try:
        if sys.platform != "win32":  # there it would let two programs share the port
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(_BACKLOG)
    except OSError as error:
        listener.close()
        raise _cannot_listen(f"{host}, port {port}", error) from error
    reached = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    shown = f"[{reached}]" if ":" in reached else reached
    return listener, f"{shown}:{listener.getsockname()[1]}"


def _cannot_listen(where: str, error: OSError) -> BlockdiffError:
    if error.errno == errno.EADDRINUSE:
        return AddressInUse(f"{where} is in use by another program", "choose another --port")
    if error.errno in (errno.EACCES, errno.EPERM):
        return NotPermitted(f"may not listen on {where}", "choose another --port")
    if error.errno == errno.EADDRNOTAVAIL:
        return InvalidRequest(f"this machine has no address {where}", "check --host")
    return EngineUnavailable(f"cannot listen on {where}: {error.strerror}")
