"""What compatible endpoints say about the engine behind them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Served:
    """Attributes:
    model: its name.
    version: of blockdiff.
    context_size: tokens that the model takes; 0 while it is not loaded.
    together: requests that are written at once.
    since: seconds of the epoch when the service began.
    """

    model: str
    version: str
    context_size: int
    together: int
    since: int
