"""The HTTP server as it is used here: quiet, and without a hand on the process."""

from __future__ import annotations

import logging
import ssl
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn
from starlette.types import ASGIApp

from blockdiff.errors import InvalidRequest

_GRACE_SECONDS = 3  # for streams to end


class QuietServer(uvicorn.Server):
    """Leaves the signals alone: they are ours."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def server(app: ASGIApp, certificate: str = "", key: str = "") -> QuietServer:
    """A server for `app`, with TLS if there is a certificate. Raises InvalidRequest."""
    logging.getLogger("uvicorn").setLevel(logging.CRITICAL)  # its errors may quote source text
    config = uvicorn.Config(
        app,
        loop="asyncio",
        http="h11",
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_keep_alive=75,
        timeout_graceful_shutdown=_GRACE_SECONDS,
        ssl_certfile=certificate or None,
        ssl_keyfile=key or None,
    )
    try:
        config.load()
    except (OSError, ssl.SSLError) as error:
        raise InvalidRequest(
            f"cannot use {certificate} with {key}: {error}", "give PEM files"
        ) from error
    return QuietServer(config)
