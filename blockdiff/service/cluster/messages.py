"""What the gateway hands to a replica."""

from __future__ import annotations

from dataclasses import dataclass

from blockdiff.client import wire
from blockdiff.types import InfillRequest


@dataclass(frozen=True, slots=True)
class ReplicaCall:
    """A call, and which user it is of."""

    call: wire.Call
    user: str

    @property
    def path(self) -> str:
        return self.call.request.path

    @property
    def beginning(self) -> str:
        """The text before what is written: a replica that has read it need not do so again."""
        request = self.call.request
        start = request.hole.start if isinstance(request, InfillRequest) else request.span.start
        return request.document[:start]


@dataclass(frozen=True, slots=True)
class ReplicaState:
    """How a replica is.

    Attributes:
        context_size: tokens that its model takes.
        together: requests that it writes at once.
    """

    health: wire.Health
    context_size: int
    together: int
