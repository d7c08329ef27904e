"""From the engine thread to one reader: a mailbox that never fills up, and server-sent events."""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import IntEnum

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from blockdiff.client import wire
from blockdiff.errors import BlockdiffError
from blockdiff.service.scheduler import Message
from blockdiff.types import Progress, Refinement, Span, Unread

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
        self._over = asyncio.Event()
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
            if is_end(message):
                self._loop.call_soon_threadsafe(self._over.set)

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

    async def ended(self, timeout: float) -> bool:
        """Wait for the end to arrive, which need not be read yet; whether it has."""
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._over.wait(), timeout)
        return self._over.is_set()


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


def is_end(message: Message) -> bool:
    """Whether it is the last message of its request."""
    return _kind(message)[0] is _Order.END


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
        while message is None or not is_end(message):
            message = await self._mailbox.take(_HEARTBEAT_SECONDS)
            body = encoder.event(message) if message is not None else b": still here\n\n"
            await send({"type": "http.response.body", "body": body, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


@dataclass
class _Start:
    """The settled start of a draft, and what it looks like in JSON.

    Attributes:
        text_json, spans_json: without the quotes, the brackets and the comma at the end.
        settled: ranges of the text, as of `Refinement`.
        confidence: sum over its spans.
    """

    text: str = ""
    spans: tuple[Span, ...] = ()
    text_json: str = ""
    spans_json: str = ""
    settled: list[list[int]] = field(default_factory=list)
    confidence: float = 0.0

    def begins(self, draft: Refinement) -> bool:
        return draft.spans[: len(self.spans)] == self.spans and draft.text.startswith(self.text)

    def with_next(self, draft: Refinement, count: int) -> _Start:
        """What the first `count` spans of a draft look like that begins with this."""
        spans = draft.spans[len(self.spans) : count]
        if not spans:
            return self
        start, end = len(self.text), spans[-1].end
        settled, confidence = [list(some) for some in self.settled], self.confidence
        for span in spans:
            confidence += span.confidence
            if span.settled and settled and settled[-1][1] == span.start:
                settled[-1][1] = span.end
            elif span.settled:
                settled.append([span.start, span.end])
        more = ", ".join(map(_span, spans))
        return _Start(
            draft.text[:end],
            draft.spans[:count],
            self.text_json + json.dumps(draft.text[start:end])[1:-1],
            f"{self.spans_json}, {more}" if self.spans_json else more,
            settled,
            confidence,
        )


class EventEncoder:
    """The messages of one stream as server-sent events.

    Successive refinements begin with the same settled text: what was written of it stays written,
    so that a long draft costs no more with every one of them than what is new in it.
    """

    def __init__(self) -> None:
        self._starts: dict[int, _Start] = {}  # by hole

    def event(self, message: Message) -> bytes:
        """A message as a server-sent event; a refinement is built here."""
        if isinstance(message, Unread):
            message = message.read()
        if isinstance(message, Refinement):
            return f"event: refinement\ndata: {self.refinement(message)}\n\n".encode()
        if isinstance(message, BlockdiffError):
            value = wire.error_to_json(message)
        else:
            value = wire.event_to_json(message)
        return f"event: {value['event']}\ndata: {json.dumps(value)}\n\n".encode()

    def refinement(self, draft: Refinement) -> str:
        """The JSON of `wire.event_to_json`."""
        start = self._starts.get(draft.hole, _Start())
        if not start.begins(draft):
            start = _Start()
        spans, count = draft.spans, len(start.spans)
        while count < len(spans) and spans[count].settled:
            count += 1
        start = self._starts[draft.hole] = start.with_next(draft, count)
        whole = start.with_next(draft, len(spans))
        rest = json.dumps(draft.text[len(start.text) :])[1:-1]
        confidence = whole.confidence / len(spans) if spans else 1.0
        frame = wire.event_to_json(
            Refinement(
                draft.request_id, draft.seq, draft.hole, "", (),
                draft.step, draft.forwards, draft.elapsed_ms,
            )
        )  # fmt: skip
        values = {name: json.dumps(value) for name, value in frame.items()} | {
            "text": f'"{start.text_json}{rest}"',
            "settled": json.dumps(whole.settled),
            "confidence": json.dumps(round(confidence, 4)),
            "spans": f"[{whole.spans_json}]",
        }
        return "{" + ", ".join(f'"{name}": {value}' for name, value in values.items()) + "}"


def _span(span: Span) -> str:
    settled = "true" if span.settled else "false"
    return f"[{span.start}, {span.end}, {settled}, {round(span.confidence, 4)!r}]"
