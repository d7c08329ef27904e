"""Continuous batching: requests at different steps share each pass over the weights.

A request is a generator that yields what its reader sees and, in between, the forwards it waits
for. `step` takes every request to its next forward and runs these together. What a request gets
does not depend on who shares the pass. A request may itself be several that are written together:
it yields the forwards of all of them as a tuple, and is sent as many answers (`together`). What
takes long without a forward, such as parsing a large file, is work for another thread: a request
yields its future, and the others go on.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, InvalidStateError, wait
from dataclasses import dataclass, field
from typing import Any, Generic, TypeAlias, TypeVar

import torch
from torch import Tensor

from blockdiff.model.forward import WAITING, Forward, Runner, Waiting, waiting_of
from blockdiff.types import Event, Unread, Warmed

Steps: TypeAlias = Generator[Event | Unread | Waiting, Any, None]
"""One request: events for its reader, and what it waits for."""

WarmingSteps: TypeAlias = Generator[Warmed | Waiting, Any, None]
"""The same of one that only encodes ahead."""

K = TypeVar("K")
Told: TypeAlias = Event | Unread | Warmed | Exception | None

_LOOK_SECONDS = 0.005  # at whoever may begin, while all requests wait for other threads


@dataclass(eq=False)
class _Member(Generic[K]):
    """One request in the batch.

    Attributes:
        steps: None while they are made; then `waiting` is for them.
        waiting: for what, unless the answer, or what was raised instead of it, is there.
        begun: whether its steps have been taken up.
    """

    key: K
    steps: Steps | WarmingSteps | None
    waiting: Waiting | None = None
    answer: Any = None
    error: Exception | None = None
    begun: bool = False


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

    def prepare(self, key: K, making: Future[Steps | WarmingSteps]) -> None:
        """Take a request in whose steps another thread makes; it begins once they are there."""
        self._members.append(_Member(key, None, making))

    @torch.inference_mode()
    def step(self) -> None:
        """One pass: take every request to its next forward, then run these together.

        Where a pass fails, each request runs alone: what its own forward raises, such as for lack
        of memory, is raised in it, and the others go on. Without any forward, it waits a moment
        for other threads.
        """
        if waiting := self.advance():
            try:
                self.answer(self.runner(waiting))
            except Exception as error:
                if len(waiting) == 1:
                    self.fail(error)
                else:
                    self._run_each()
        elif pending := self.pending:
            wait(pending, _LOOK_SECONDS, FIRST_COMPLETED)

    @property
    def pending(self) -> list[Future[Any]]:
        """The work in other threads that requests wait for."""
        return [m.waiting for m in self._members if isinstance(m.waiting, Future)]

    def advance(self) -> tuple[Forward, ...]:
        """Take every request to its next forward; all that are to be run now, in order."""
        for member in list(self._members):
            if self._is_ready(member):
                self._advance(member)
        return tuple(one for member in self._members for one in waiting_of(member.waiting))

    def answer(self, answers: Sequence[Tensor]) -> None:
        """What the forwards of `advance` came to; `fail`, what they raised."""
        rest = iter(answers)
        for member in self._members:
            if isinstance(member.waiting, tuple):
                member.answer = [next(rest) for _ in member.waiting]
            elif isinstance(member.waiting, Forward):
                member.answer = next(rest)

    def fail(self, error: Exception) -> None:
        for member in self._members:
            if waiting_of(member.waiting):
                member.error = error

    def close(self) -> None:
        """End all requests where they are."""
        for member in self._members:
            if member.steps is not None:
                member.steps.close()
        self._members.clear()

    def _run_each(self) -> None:
        for member in self._members:
            if not (waiting := waiting_of(member.waiting)):
                continue
            try:
                answers = self.runner(waiting)
            except Exception as error:
                member.error = error
            else:
                member.answer = answers if isinstance(member.waiting, tuple) else answers[0]

    def _is_ready(self, member: _Member[K]) -> bool:
        """Whether it can go on, and need not wait with its context for another one's."""
        if isinstance(member.waiting, Future):
            if not member.waiting.done():
                return False
            self._take_result(member, member.waiting)
        if member.steps is None:
            return False
        if member.begun:
            return True
        running = [other for other in self._members if other.begun]
        return not running or not (any(map(_encodes, running)) or not self.room())

    def _take_result(self, member: _Member[K], done: Future[Any]) -> None:
        member.waiting, error = None, done.exception()
        if error is None and member.steps is None:
            member.steps = done.result()
        elif error is None:
            member.answer = done.result()
        elif isinstance(error, Exception) and member.steps is not None:
            member.error = error
        elif isinstance(error, Exception):
            self._members.remove(member)
            self.tell(member.key, error)
        else:
            raise error

    def _advance(self, member: _Member[K]) -> None:
        """Take one request to what it waits for next, or to its end."""
        answer, error = member.answer, member.error
        member.answer = member.error = member.waiting = None
        member.begun = True
        assert member.steps is not None
        try:
            step = member.steps.throw(error) if error else member.steps.send(answer)
            while not isinstance(step, WAITING):
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
    seen: Callable[[int, Event | Unread], Event | Unread | None],
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
            elif pending := batch.pending:
                yield _first_of(pending)
    finally:
        batch.close()


def _first_of(pending: Sequence[Future[Any]]) -> Future[None]:
    """Done as soon as any of them is."""
    first: Future[None] = Future()

    def done(_: Future[Any]) -> None:
        with contextlib.suppress(InvalidStateError):  # another one was the first
            first.set_result(None)

    for one in pending:
        one.add_done_callback(done)
    return first


def _nothing_runs_here(waiting: Sequence[Forward]) -> list[Tensor]:
    raise AssertionError("whoever drives the steps runs their forwards")
