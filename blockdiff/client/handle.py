"""What can be asked of whoever writes: our own engine, or a backend of others."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator
from typing import TypeVar

from blockdiff.client.wire import Call, Health
from blockdiff.types import InfillRequest, Priority, RewriteRequest, StreamEvent, Warmed

_Self = TypeVar("_Self", bound="EngineHandle")


class EngineHandle(ABC):
    """Safe to use from any number of tasks of one event loop; closed as a context manager."""

    async def __aenter__(self: _Self) -> _Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    @abstractmethod
    async def aclose(self) -> None:
        """Cut all connections; what is at their other end goes on for others."""

    @abstractmethod
    async def health(self, *, start: bool = True) -> Health:
        """How whoever writes is. One that is gone is started, unless told not to."""

    def infill(
        self,
        request: InfillRequest,
        *,
        priority: Priority = Priority.EXPLICIT,
        source: str = "",
        start: bool = True,
    ) -> AsyncGenerator[StreamEvent, None]:
        """Yield progress while the model loads, refinements, then exactly one `Finished`; of a
        request with several holes, one `Filled`. Closing the iterator cancels.

        A newer automatic request replaces an older one with the same, non-empty `source`. Unless
        told not to `start` one, an engine that is gone is started anew.

        Raises BlockdiffError: a Superseded, if a newer request took the place of this one.
        """
        return self._events(Call(request, priority, source), start)

    def rewrite(
        self,
        request: RewriteRequest,
        *,
        priority: Priority = Priority.EXPLICIT,
        source: str = "",
        start: bool = True,
    ) -> AsyncGenerator[StreamEvent, None]:
        """The same for rewriting a span. ModelUnsupported if it cannot be done this way."""
        return self._events(Call(request, priority, source), start)

    @abstractmethod
    async def warm(self, request: InfillRequest, *, source: str = "") -> Warmed:
        """Let the context of a request that is expected be encoded. Raises as `infill`."""

    @abstractmethod
    def _events(self, call: Call, start: bool) -> AsyncGenerator[StreamEvent, None]:
        """What a call brings."""
