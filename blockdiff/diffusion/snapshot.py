"""A generation, as whoever runs its forwards sees it, and the drafts that it brings."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from typing import Any, Protocol

from blockdiff.model.forward import Forward


class Generation(Protocol):
    """One text on its way: what it is at, the forward that it needs next, and what follows of it.

    Who runs the forward, and with which others, is not its business.
    """

    def next_forward(self) -> Forward | Future[Any] | None:
        """What it waits for; None at the end. A future where it has run forwards of its own.

        Raises Cancelled.
        """
        ...

    def take(self, answer: Any) -> Snapshot | None:
        """Go on with what that said, a forward's logits (rows, vocab): the draft now.

        None where another forward has to say something before there is one.
        """
        ...


class Constraint(Protocol):
    """Limits the first tokens, such as token healing does."""

    def allowed(self, so_far: Sequence[int]) -> Sequence[int] | None:
        """Ids that may follow the tokens generated so far; None: no limit any more."""
        ...


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The draft after one forward.

    Attributes:
        tokens: ids in order; positions not settled hold the best guess.
        settled: which of them are decided.
        confidence: un-noised probability of each token when it was proposed.
        forwards: forwards so far, without the prefill.
        ended: the last token is followed by the end token; nothing more comes.
    """

    tokens: tuple[int, ...]
    settled: tuple[bool, ...]
    confidence: tuple[float, ...]
    forwards: int
    ended: bool

    @property
    def settled_prefix(self) -> tuple[int, ...]:
        """Tokens before the first one that is not settled."""
        count = self.settled.index(False) if False in self.settled else len(self.settled)
        return self.tokens[:count]

    def first(self, count: int) -> Snapshot:
        """Its first tokens alone, as if nothing had come behind them yet."""
        tokens, confidence = self.tokens[:count], self.confidence[:count]
        return Snapshot(tokens, self.settled[:count], confidence, self.forwards, False)

    def behind(self, start: Snapshot) -> Snapshot:
        """This with the tokens of `start` before its own."""
        if not start.tokens:
            return self
        return replace(
            self,
            tokens=start.tokens + self.tokens,
            settled=start.settled + self.settled,
            confidence=start.confidence + self.confidence,
        )


NOTHING = Snapshot((), (), (), 0, False)
"""Before anything is written."""


class Foregone:
    """A generation of denoising steps that need no forward any more when they are asked for."""

    def __init__(self, snapshots: Iterator[Snapshot]) -> None:
        self._snapshots = snapshots

    def next_forward(self) -> Future[Snapshot] | None:
        if (snapshot := next(self._snapshots, None)) is None:
            return None
        done = Future[Snapshot]()
        done.set_result(snapshot)
        return done

    def take(self, answer: Snapshot) -> Snapshot:
        return answer
