"""Automatic requests take turns: a newer one of the same source takes the place of an older one."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

from blockdiff.errors import Superseded
from blockdiff.types import Priority


class Turns:
    """Of one client."""

    def __init__(self) -> None:
        self._running: dict[str, asyncio.Event] = {}

    @contextlib.asynccontextmanager
    async def take(self, priority: Priority, source: str) -> AsyncIterator[asyncio.Event | None]:
        """What is set once a newer automatic request of the same source has come; None: nothing."""
        if priority is not Priority.AUTOMATIC or not source:
            yield None
            return
        if older := self._running.get(source):
            older.set()
        turn = self._running[source] = asyncio.Event()
        try:
            yield turn
        finally:
            if self._running.get(source) is turn:
                del self._running[source]


async def unless_over(turn: asyncio.Event | None, coming: Any) -> Any:
    """What comes. Raises Superseded as soon as the turn is over."""
    if turn is None:
        return await coming
    waiting = asyncio.ensure_future(coming)
    over = asyncio.ensure_future(turn.wait())
    try:
        await asyncio.wait({waiting, over}, return_when=asyncio.FIRST_COMPLETED)
        if over.done():
            raise Superseded("a newer automatic completion took its place")
        return waiting.result()
    finally:
        for task in (waiting, over):
            if not task.done():
                task.cancel()
                await asyncio.wait({task})
