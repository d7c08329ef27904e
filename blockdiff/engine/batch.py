"""Continuous batching: requests at different steps share each pass over the weights.

A request is a generator that yields what its reader sees and, in between, the forwards it waits
for. `step` takes every request to its next forward and runs these together. What a request gets
does not depend on who shares the pass.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeAlias, TypeVar

import torch
from torch import Tensor

from blockdiff.model.forward import Forward, Runner
from blockdiff.types import Event, Warmed

Steps: TypeAlias = Generator[Event | Forward, Any, None]
"""One request: events for its reader, and forwards to be run."""

WarmingSteps: TypeAlias = Generator[Warmed | Forward, Any, None]
"""The same of one that only encodes ahead."""

K = TypeVar("K")


@dataclass(eq=False)
class _Member(Generic[K]):
    """One request in the batch; `waiting` for its forward, unless it has just begun."""

    key: K
    steps: Steps | WarmingSteps
    waiting: Forward | None = None
    answer: Tensor | None = None
    error: Exception | None = None


@dataclass
class Batch(Generic[K]):
    """Requests that are being written.

    Only one at a time encodes its context, which is bound by arithmetic and gains nothing by
    company; the others wait with theirs, and then build on what it has encoded, or go on writing
    in the same passes.

    Attributes:
        tell: takes what a request brings as soon as it does, at last None, or what it raised.
    """

    runner: Runner
    tell: Callable[[K, Event | Warmed | Exception | None], None]
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
        for member in list(self._members):
            if not self._is_kept_waiting(member):
                self._advance(member)
        if ready := [member for member in self._members if member.waiting is not None]:
            self._run(ready)

    def close(self) -> None:
        """End all requests where they are."""
        for member in self._members:
            member.steps.close()
        self._members.clear()

    def _is_kept_waiting(self, member: _Member[K]) -> bool:
        """Whether it would begin to encode while another one does."""
        begun = member.answer is not None or member.error is not None
        return not begun and any(_encodes(other) for other in self._members if other is not member)

    def _advance(self, member: _Member[K]) -> None:
        """Take one request to its next forward, or to its end."""
        answer, error = member.answer, member.error
        member.answer = member.error = member.waiting = None
        try:
            step = member.steps.throw(error) if error else member.steps.send(answer)
            while not isinstance(step, Forward):
                self.tell(member.key, step)
                step = next(member.steps)
            member.waiting = step
        except StopIteration:
            self._members.remove(member)
            self.tell(member.key, None)
        except Exception as problem:
            self._members.remove(member)
            self.tell(member.key, problem)

    def _run(self, ready: Sequence[_Member[K]]) -> None:
        try:
            answers = self.runner([member.waiting for member in ready if member.waiting])
        except Exception as error:
            for member in ready:
                member.error = error
            return
        for member, answer in zip(ready, answers, strict=True):
            member.answer = answer


def _encodes(member: _Member[Any]) -> bool:
    return member.waiting is not None and member.waiting.wanted is None
