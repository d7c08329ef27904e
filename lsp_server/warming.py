"""While the cursor rests, its context is encoded ahead, so that a command starts at once."""

from __future__ import annotations

import asyncio

from lsprotocol import types

from blockdiff.config import DecodingConfig
from blockdiff.types import Hole
from lsp_server.context import Context
from lsp_server.document import Document, Position
from lsp_server.engine_link import EngineLink

REST_SECONDS = 0.5


class Warmer:
    """Waits for the cursor to rest, then asks the engine at the lowest priority."""

    def __init__(self, context: Context, engine: EngineLink, name: str) -> None:
        self._context, self._engine, self._name = context, engine, name
        self._task: asyncio.Task[None] | None = None
        self._uri = ""

    def rest_behind(
        self, document: Document, change: types.TextDocumentContentChangePartial
    ) -> None:
        """Something was typed; the cursor is taken to stand behind it."""
        start = document.offset(
            Position(change.range.start.line, change.range.start.character), clamp=True
        )
        self._rest(document, min(start + len(change.text), len(document.text)))

    def rest_at(self, document: Document, position: Position) -> None:
        """The cursor was moved."""
        self._rest(document, document.offset(position, clamp=True))

    def forget(self, uri: str) -> None:
        """A document was closed."""
        if self._uri == uri:
            self.stop()

    def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            self._task = None

    def _rest(self, document: Document, at: int) -> None:
        self.stop()
        if self._context.settings.warm_ahead and self._engine.can_warm:
            self._uri = document.uri
            self._task = asyncio.create_task(self._warm(document, document.text, at))

    async def _warm(self, document: Document, text: str, at: int) -> None:
        await asyncio.sleep(REST_SECONDS)
        if self._context.is_closed(document):
            return
        request = self._context.infill(document, text, [Hole(at, at)], DecodingConfig(), "warm")
        await self._engine.warm(request, self._name)
