"""How fast the engine encodes context, estimated from what it really encodes."""

from __future__ import annotations

_LEAST_TOKENS = 32  # fewer say more about one forward than about the speed of many
_HALF_LIFE = 1024  # tokens after which a measurement counts half


class MovingRate:
    """Tokens per second, the latest measurements counting most."""

    def __init__(self) -> None:
        self._tokens = self._seconds = 0.0

    @property
    def per_second(self) -> float:
        """0.0 while nothing was measured."""
        return self._tokens / self._seconds if self._seconds else 0.0

    def add(self, tokens: int, seconds: float) -> None:
        """Count `tokens` that took so long; too few to tell are not counted."""
        if tokens < _LEAST_TOKENS or seconds <= 0.0:
            return
        keep = 0.5 ** (tokens / _HALF_LIFE)
        self._tokens = keep * self._tokens + tokens
        self._seconds = keep * self._seconds + seconds
