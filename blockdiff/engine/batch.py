"""Continuous batching: requests at different steps share each pass over the weights.

A request is a generator that yields what its reader sees and, in between, the forwards it waits
for. `step` takes every request to its next forward and runs these together. What a request gets
does not depend on who shares the pass. A request may itself be several that are written together:
it yields the forwards of all of them as a tuple, and is sent as many answers (`together`).
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeAlias, TypeVar

import torch
from torch import Tensor

from blockdiff.model.forward import Forward, Runner, Waiting, waiting_of
from blockdiff.types import Event, Warmed

Steps: TypeAlias = Generator[Event | Waiting, Any, None]
"""One request: events for its reader, and forwards to be run."""

WarmingSteps: TypeAlias = Generator[Warmed | Waiting, Any, None]
"""The same of one that only encodes ahead."""

K = TypeVar("K")
Told: TypeAlias = Event | Warmed | Exception | None


@dataclass(eq=False)
class _Member(Generic[K]):
    """One request in the batch; `waiting` for its forwards, unless it has just begun."""

    key: K
    steps: Steps | WarmingSteps
    waiting: Waiting | None = None
    answer: Tensor | list[Tensor] | None = None
    error: Exception | None = None

    @property
    def begun(self) -> bool:
        return not (self.waiting is None and self.answer is None and self.error is None)


@dataclass
class Batch(Generic[K]):
    """Requests that are being written.

    Only one at a time encodes its context, which is bound by arithmetic and gains nothing by
    company; the others wait with theirs, and then build on what it has encoded, or go on writing
    in the same passes.

    Attributes:
        tell: takes what a request brings as soon as it does, at last None, or what it raised.
        room: whether another one may begin beside those that run; the first always may.
    """

    runner: Runner
    tell: Callable[[K, Told], None]
    room: Callable[[], bool] = lambda: True
    _members: list[_Member[K]] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self._members)

    def __contains__(self, key: K) -> bool:
        return any(member.key == key for member in self._members)

    def add(self, key: K, steps: Steps | WarmingSteps) -> None:
        """Take a request in; it begins with the next `step`."""
        self._members.append(_Member(key, steps))

    @torch.inference_mode()
    def step(self) -> None:
        """One pass: take every request to its next forward, then run these together.

        What a forward raises, such as for lack of memory, is raised in all that shared it.
        """
        if waiting := self.advance():
            try:
                answers = self.runner(waiting)
            except Exception as error:
                self.fail(error)
            else:
                self.answer(answers)

    def advance(self) -> tuple[Forward, ...]:
        """Take every request to its next forward; all that are to be run now, in order."""
        for member in list(self._members):
            if not self._is_kept_waiting(member):
                self._advance(member)
        return tuple(one for member in self._members for one in waiting_of(member.waiting))

    def answer(self, answers: Sequence[Tensor]) -> None:
        """What the forwards of `advance` came to; `fail`, what they raised."""
        rest = iter(answers)
        for member in self._members:
            if isinstance(member.waiting, tuple):
                member.answer = [next(rest) for _ in member.waiting]
            elif member.waiting is not None:
                member.answer = next(rest)

    def fail(self, error: Exception) -> None:
        for member in self._members:
            if member.waiting is not None:
                member.error = error

    def close(self) -> None:
        """End all requests where they are."""
        for member in self._members:
            member.steps.close()
        self._members.clear()

    def _is_kept_waiting(self, member: _Member[K]) -> bool:
        """Whether it would begin to encode while another one does, or without room."""
        if member.begun:
            return False
        running = [other for other in self._members if other.begun]
        return any(map(_encodes, running)) or (bool(running) and not self.room())

    def _advance(self, member: _Member[K]) -> None:
        """Take one request to its next forward, or to its end."""
        answer, error = member.answer, member.error
        member.answer = member.error = member.waiting = None
        try:
            step = member.steps.throw(error) if error else member.steps.send(answer)
            while not isinstance(step, (Forward, tuple)):
                self.tell(member.key, step)
                step = next(member.steps)
            member.waiting = step
        except StopIteration:
            self._members.remove(member)
            self.tell(member.key, None)
        except Exception as problem:
            self._members.remove(member)
            self.tell(member.key, problem)


def _encodes(member: _Member[Any]) -> bool:
    return any(one.wanted is None for one in waiting_of(member.waiting))


def together(
    members: Sequence[Steps],
    seen: Callable[[int, Event], Event | None],
    room: Callable[[], bool] = lambda: True,
) -> Steps:
    """Requests that are one: the forwards that all of them wait for come as a tuple.

    `seen` makes of an event, and the index of the request that brings it, one of the whole; None:
    there is nothing to say. `room` is that of a `Batch`. Raises what the first of them raises that
    fails, and ends the others.
    """
    told: list[tuple[int, Told]] = []
    batch: Batch[int] = Batch(_nothing_runs_here, lambda key, what: told.append((key, what)), room)
    for number, steps in enumerate(members):
        batch.add(number, steps)
    try:
        while len(batch):
            waiting = batch.advance()
            for number, what in told:
                if isinstance(what, Exception):
                    raise what
                if what is not None and not isinstance(what, Warmed):
                    if (event := seen(number, what)) is not None:
                        yield event
            told.clear()
            if waiting:
                try:
                    batch.answer((yield waiting))
                except Exception as error:
                    batch.fail(error)
    finally:
        batch.close()


def _nothing_runs_here(waiting: Sequence[Forward]) -> list[Tensor]:
    raise AssertionError("whoever drives the steps runs their forwards")
