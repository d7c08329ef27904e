"""The last automatic completion that did not come: shown at once, kept for the command line."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from blockdiff.client import missed
from blockdiff.client.endpoint import Runtime
from blockdiff.client.missed import Missed, NoCompletion

_SAVE_SECONDS = 1.0  # one comes with nearly every key


class LastMissed:
    """Attributes: value: None until one did not come."""

    def __init__(self, runtime: Runtime, show: Callable[[], None]) -> None:
        self.value: Missed | None = None
        self._runtime, self._show = runtime, show
        self._saving: asyncio.TimerHandle | None = None

    def note(self, kind: NoCompletion, uri: str, line: int) -> None:
        """One did not come; within a second it is on the disk."""
        self.value = Missed.now(kind, uri, line)
        self._show()
        if self._saving is None:
            self._saving = asyncio.get_running_loop().call_later(_SAVE_SECONDS, self.save)

    def save(self) -> None:
        """Write what is not written yet."""
        if self._saving is not None and self.value is not None:
            self._saving.cancel()
            self._saving = None
            missed.save(self.value, self._runtime)
