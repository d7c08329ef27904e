"""Continuous batching: requests at different steps share each pass over the weights.

A request is a generator. It yields what its reader sees and, in between, what it waits for: a
forward, answered by its logits; work in another thread, such as parsing a large file, by its
result; or requests that are parts of it, by a list of their results. What it returns is its own
result. `Batch.step` takes every request to its next forward and runs these together. What a request
gets does not depend on who shares the pass.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any, Generic, TypeAlias, TypeVar

import torch

from blockdiff.model.forward import Forward, Runner
from blockdiff.types import Event, Unread, Warmed

Steps: TypeAlias = Generator[Any, Any, Any]
"""One request: refinements and what it waits for, a `Forward`, a `Future`, or a list of `Steps`;
at last its result."""

K = TypeVar("K")
Told: TypeAlias = Event | Unread | Warmed | Exception | None
"""What a request brings: refinements, and then its result, or what it raised."""

_LEAST_CONTEXT = 16  # positions without logits; others need not wait for fewer
_LOOK_SECONDS = 0.005  # at whoever may begin, while all requests wait for other threads


@dataclass(eq=False)
class _Member(Generic[K]):
    """One request in the batch.

    Attributes:
        whole: the request that it is a part of.
        waiting: for what, unless the answer, or what was raised instead of it, is there.
        begun: whether its steps have been taken up.
        result: of a part that has ended.
    """

    key: K
    steps: Steps
    whole: _Member[K] | None = None
    waiting: Forward | Future[Any] | list[_Member[K]] | None = None
    answer: Any = None
    error: BaseException | None = None
    begun: bool = False
    result: Any = None


@dataclass
class Batch(Generic[K]):
    """Requests that are being written.

    Only one at a time prefills its context, which is bound by arithmetic and gains nothing by
    company; the others wait with theirs, and then build on what it has prefilled, or go on writing
    in the same passes.

    Attributes:
        room: whether one more part of a request may begin beside others of it.
    """

    runner: Runner
    room: Callable[[], bool] = lambda: True
    _members: list[_Member[K]] = field(default_factory=list)

    def __len__(self) -> int:
        return sum(member.whole is None for member in self._members)

    def __contains__(self, key: K) -> bool:
        return any(member.key == key for member in self._members)

    def add(self, key: K, steps: Steps) -> None:
        """Take a request in; it begins with the next `step`."""
        self._members.append(_Member(key, steps))

    def prepare(self, key: K, making: Future[Steps]) -> None:
        """Take a request in whose steps another thread makes; it begins once they are there."""
        self._members.append(_Member(key, _made(making), waiting=making))

    @torch.inference_mode()
    def step(self) -> Iterator[tuple[K, Told]]:
        """One pass: every request goes to its next forward, and on with what that says.

        Yields what requests bring as soon as they do. Without any forward, it waits a moment for
        other threads.
        """
        for member in list(self._members):  # schedule
            if self._is_ready(member):
                yield from self._advance(member)
        if running := [m for m in self._members if isinstance(m.waiting, Forward)]:
            self._forward(running)
            for member in running:  # accept
                if member in self._members:
                    yield from self._advance(member)
        elif pending := [m.waiting for m in self._members if isinstance(m.waiting, Future)]:
            wait(pending, _LOOK_SECONDS, FIRST_COMPLETED)

    @torch.inference_mode()
    def close(self) -> None:
        """End all requests where they are."""
        self._drop(list(self._members))

    def _is_ready(self, member: _Member[K]) -> bool:
        """Whether it can go on, and need not wait with its context for another one's."""
        waiting = member.waiting
        if member not in self._members or (isinstance(waiting, Future) and not waiting.done()):
            return False
        if member.begun:
            return not isinstance(waiting, (Forward, list))
        if isinstance(waiting, Future) and waiting.exception() is not None:
            return True
        if any(map(_prefills, self._members)):
            return False
        beside = any(m.begun and m.whole is member.whole for m in self._members)
        return member.whole is None or not beside or self.room()

    def _forward(self, running: list[_Member[K]]) -> None:
        """Run the forwards that these wait for together.

        Where that fails, each runs alone: what its own forward raises, such as for lack of memory,
        is raised in it, and the others go on.
        """
        try:
            answers = self.runner([m.waiting for m in running if isinstance(m.waiting, Forward)])
        except Exception as error:
            if len(running) == 1:
                running[0].error = error
            else:
                for member in running:
                    self._forward([member])
        else:
            for member, answer in zip(running, answers, strict=True):
                member.answer = answer

    def _advance(self, member: _Member[K]) -> Iterator[tuple[K, Told]]:
        """Take one request to what it waits for next, or to its end."""
        answer, error = member.answer, member.error
        if member.begun and isinstance(member.waiting, Future):
            error = member.waiting.exception()
            answer = None if error else member.waiting.result()
        member.answer = member.error = member.waiting = None
        member.begun = True
        try:
            step = member.steps.throw(error) if error else member.steps.send(answer)
            while not isinstance(step, (Forward, Future, list)):
                yield member.key, step
                step = next(member.steps)
        except StopIteration as end:
            yield from self._end(member, end.value)
        except Exception as problem:
            yield from self._end(member, problem)
        else:
            member.waiting = step
            if isinstance(step, list):
                yield from self._split(member, step)

    def _split(self, whole: _Member[K], steps: list[Steps]) -> Iterator[tuple[K, Told]]:
        """Take in the parts of a request, next to it; they begin at once where they may."""
        parts = [_Member(whole.key, part, whole) for part in steps]
        whole.waiting = parts
        at = self._members.index(whole) + 1
        self._members[at:at] = parts
        for part in parts:
            if self._is_ready(part):
                yield from self._advance(part)
        if not parts:
            yield from self._go_on(whole)

    def _end(self, member: _Member[K], result: Any) -> Iterator[tuple[K, Told]]:
        """A request is over: it is told, or the whole that it is a part of goes on."""
        self._members.remove(member)
        member.result = result
        if (whole := member.whole) is None:
            yield member.key, result
        else:
            yield from self._go_on(whole)

    def _go_on(self, whole: _Member[K]) -> Iterator[tuple[K, Told]]:
        """Answer a request whose parts are over, or one of them has failed, which ends all."""
        parts = whole.waiting
        assert isinstance(parts, list)
        whole.error = next((p.result for p in parts if isinstance(p.result, Exception)), None)
        if whole.error is not None:
            self._drop(parts)
        elif any(part in self._members for part in parts):
            return
        whole.answer = [part.result for part in parts]
        yield from self._advance(whole)

    def _drop(self, members: list[_Member[K]]) -> None:
        for member in members:
            if member in self._members:
                self._members.remove(member)
                member.steps.close()


def events_of(
    steps: Steps, runner: Runner, room: Callable[[], bool] = lambda: True
) -> Iterator[Any]:
    """What a request brings that runs alone, at last its result. Raises what it raises."""
    batch: Batch[None] = Batch(runner, room)
    batch.add(None, steps)
    with closing(batch):
        while len(batch):
            for _, what in batch.step():
                if isinstance(what, Exception):
                    raise what
                yield what


def _made(making: Future[Steps]) -> Steps:
    return (yield from making.result())


def _prefills(member: _Member[Any]) -> bool:
    """Whether its next forward encodes context, perhaps the last of it before the first draft."""
    waiting = member.waiting
    return isinstance(waiting, Forward) and (
        waiting.wanted is None or waiting.encoded >= _LEAST_CONTEXT
    )
