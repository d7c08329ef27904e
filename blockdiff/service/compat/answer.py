"""An answer as HTTP: whole or in pieces, in the form of one protocol, for as long as it is read."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import aclosing
from dataclasses import replace
from typing import Any, Protocol

from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from blockdiff.errors import BlockdiffError, as_error
from blockdiff.service.compat.writing import Answer
from blockdiff.service.worker import log_defect

STILL_HERE = b": still here\n\n"
"""A comment of a stream of events; one that begins with `ping` ends the stream for Continue."""


class Form(Protocol):
    """How a protocol says an answer."""

    @property
    def media_type(self) -> str:
        """Of a stream."""

    @property
    def silence(self) -> bytes:
        """What is sent while there is no text; may be empty."""

    def whole(self, answer: Answer) -> dict[str, Any]:
        """All of it as one object."""

    def piece(self, text: str) -> bytes:
        """Some of it in a stream."""

    def last(self, answer: Answer) -> bytes:
        """The end of a stream."""

    def failed(self, error: BlockdiffError) -> bytes:
        """The end of a stream that began well."""


def event(value: dict[str, Any]) -> bytes:
    """A server-sent event."""
    return b"data: " + line(value) + b"\n"


def line(value: dict[str, Any]) -> bytes:
    """JSON in one line without a blank that is not text: what clients look for in it byte by byte
    is written that way."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"


def chosen(value: dict[str, Any], fields: tuple[str, ...]) -> dict[str, Any]:
    """As llama.cpp's `response_fields` have it: `a/b` is `b` in `a`, what is not there is left out;
    all of it if there are none."""
    if not fields:
        return value
    found = {}
    for name in fields:
        here: Any = value
        for part in name.split("/"):
            here = here.get(part) if isinstance(here, dict) else None
        if here is not None:
            found[name] = here
    return found


class Reply(Response):
    """Writes itself while it is made; whoever closes the connection ends the making.

    `refuse` makes the answer to an error that comes before any text; `over` is called at the end.
    """

    def __init__(
        self,
        form: Form,
        pieces: AsyncGenerator[str | Answer, None],
        *,
        stream: bool,
        fence: tuple[str, str],
        refuse: Callable[[BlockdiffError], Response],
        over: Callable[[], None],
    ) -> None:
        super().__init__()
        self._form, self._pieces, self._stream = form, pieces, stream
        self._fence, self._refuse, self._over = fence, refuse, over

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await _while_read(receive, self._answer(scope, receive, send))
        finally:
            self._over()

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        sender = _Sender(self._form, send)
        try:
            async with aclosing(self._pieces) as pieces:
                async for piece in pieces:
                    if self._stream:
                        await self._write(sender, piece)
                    elif isinstance(piece, Answer):
                        await JSONResponse(self._form.whole(self._fenced(piece)))(
                            scope, receive, send
                        )
        except Exception as problem:
            error = as_error(problem)
            if not isinstance(problem, BlockdiffError):
                log_defect(problem)
            if sender.begun:
                await sender.end(self._form.failed(error))
            else:
                await self._refuse(error)(scope, receive, send)

    async def _write(self, sender: _Sender, piece: str | Answer) -> None:
        opening, closing = self._fence
        if isinstance(piece, Answer):
            if closing:
                await sender.write(self._form.piece(closing))
            await sender.end(self._form.last(self._fenced(piece)))
        elif piece:
            text = piece if sender.has_text else opening + piece
            sender.has_text = True
            await sender.write(self._form.piece(text))
        else:
            await sender.write(self._form.silence)

    def _fenced(self, answer: Answer) -> Answer:
        opening, closing = self._fence
        return replace(answer, text=f"{opening}{answer.text}{closing}")


class _Sender:
    """Attributes: begun: the head is sent; has_text: some text, too."""

    def __init__(self, form: Form, send: Send) -> None:
        self._form, self._send = form, send
        self.begun = self.has_text = False

    async def write(self, body: bytes, *, more: bool = True) -> None:
        if not self.begun:
            self.begun = True
            headers = [
                (b"content-type", self._form.media_type.encode()), (b"cache-control", b"no-store")
            ]  # fmt: skip
            await self._send({"type": "http.response.start", "status": 200, "headers": headers})
        await self._send({"type": "http.response.body", "body": body, "more_body": more})

    async def end(self, body: bytes) -> None:
        await self.write(body, more=False)


async def _while_read(receive: Receive, work: Coroutine[Any, Any, None]) -> None:
    """Do it, until it is done or the reader closes the connection."""
    task = asyncio.ensure_future(work)

    async def watch() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        task.cancel()

    watcher = asyncio.create_task(watch())
    try:
        await asyncio.wait({task})
    finally:
        watcher.cancel()
        task.cancel()
    if not task.cancelled():
        task.result()
