"""From the engine thread to one reader: a mailbox that never fills up, and server-sent events."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from enum import IntEnum

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from blockdiff.service.encoder import EventEncoder
from blockdiff.service.scheduler import Message
from blockdiff.types import Progress, Refinement, Unread

_HEARTBEAT_SECONDS = 4.0  # of silence; clients give a silent engine up after three of them


class Mailbox:
    """Holds the newest unread message of each kind, for one reader on an event loop.

    A refinement that is not read before the next one of its hole comes is dropped, the end never.
    What is dropped was never built.

    Attributes:
        dropped: refinements that nobody read.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._lock = threading.Lock()
        self._filled = asyncio.Event()
        self._unread: dict[Kind, Message] = {}
        self.dropped = 0

    def put(self, message: Message) -> None:
        """From any thread; never blocks."""
        kind = _kind(message)
        with self._lock:
            self.dropped += kind in self._unread and kind[0] is _Order.REFINEMENT
            self._unread[kind] = message
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody reads any more
            self._loop.call_soon_threadsafe(self._filled.set)

    async def take(self, timeout: float) -> Message | None:
        """The next message in order; None after `timeout` seconds of silence."""
        deadline = self._loop.time() + timeout
        while True:
            with self._lock:
                if self._unread:
                    oldest = min(self._unread, key=lambda kind: kind[0])
                    return self._unread.pop(oldest)
                self._filled.clear()
            try:
                await asyncio.wait_for(self._filled.wait(), deadline - self._loop.time())
            except asyncio.TimeoutError:
                return None


class _Order(IntEnum):
    """In which messages are read."""

    PROGRESS = 0
    REFINEMENT = 1
    END = 2


Kind = tuple[_Order, int]
"""The second is the hole of a refinement."""


def _kind(message: Message) -> Kind:
    if isinstance(message, Progress):
        return _Order.PROGRESS, 0
    if isinstance(message, (Refinement, Unread)):
        return _Order.REFINEMENT, message.hole
    return _Order.END, 0


class EventStream(Response):
    """The response to a request: its messages as server-sent events, up to the end.

    `gone` is called when it is over, and at once when the reader closes the connection.
    """

    media_type = "text/event-stream"

    def __init__(self, mailbox: Mailbox, gone: Callable[[], None]) -> None:
        super().__init__(headers={"cache-control": "no-store"})
        del self.headers["content-length"]
        self._mailbox, self._gone = mailbox, gone

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        watcher = asyncio.create_task(self._watch(receive))
        try:
            await send(
                {"type": "http.response.start", "status": 200, "headers": self.raw_headers}
            )
            await self._send_messages(send)
        finally:
            watcher.cancel()
            self._gone()

    async def _watch(self, receive: Receive) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        self._gone()

    async def _send_messages(self, send: Send) -> None:
        encoder = EventEncoder()
        message: Message | None = None
        while message is None or _kind(message)[0] is not _Order.END:
            message = await self._mailbox.take(_HEARTBEAT_SECONDS)
            body = encoder.event(message) if message is not None else b": still here\n\n"
            await send({"type": "http.response.body", "body": body, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})

