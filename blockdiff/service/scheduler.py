"""Which requests the engine serves next. Threads put jobs in, one engine thread takes them out.

Several may run together if they are of one kind. Explicit commands go before automatic completions
and take the engine from those that are running; among equals the client served longest ago comes
first. Encoding ahead runs when nothing else is there and ends for good as soon as anything else
arrives. Nothing here imports torch.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from blockdiff.errors import BlockdiffError, EngineBusy, Superseded
from blockdiff.types import (
    Filled,
    Finished,
    Priority,
    Progress,
    Refinement,
    Request,
    Unread,
    Warmed,
)

_MOST_CLIENTS = 1024  # whose last turn is remembered

JobResult = Finished | Filled | Warmed | BlockdiffError
"""How a job ends; a `Warmed` if its priority is `ahead`, a `Filled` if it has several holes."""

Message = Progress | Refinement | Unread | JobResult
"""What a job delivers; the last message is its result."""

_ORDER = (Priority.EXPLICIT, Priority.AUTOMATIC, Priority.AHEAD)
_NEWER_COMPLETION = "a newer completion of the same document was asked for"
_OTHER_WORK = "something else was asked for"

_numbers = itertools.count(1)


@dataclass(eq=False)
class Job:
    """One request on its way through the engine.

    Attributes:
        deliver: takes what the reader should see, from any thread; must not block or come back
            to the scheduler.
        source: names the document among those of all clients; may be empty.
        client: whose turn it is, for fairness.
        number: of the job in this process, for the log.
        submitted, started, first_refinement: monotonic times.
        refinements: how many were posted; `seq` of the next one.
    """

    request: Request
    deliver: Callable[[Message], None]
    priority: Priority = Priority.EXPLICIT
    source: str = ""
    client: str = ""
    number: int = field(default_factory=lambda: next(_numbers))
    submitted: float = field(default_factory=time.monotonic)
    started: float | None = None
    refinements: int = 0
    first_refinement: float | None = None
    result: JobResult | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def ended(self) -> bool:
        return self.result is not None

    def post(self, message: Progress | Refinement | Unread) -> None:
        """Deliver something on the way; ignored once the job has ended."""
        with self._lock:
            if self.result is not None:
                return
            if isinstance(message, (Refinement, Unread)):
                message = replace(message, seq=self.refinements)  # goes on after a restart
                self.refinements += 1
                self.first_refinement = self.first_refinement or time.monotonic()
            self.deliver(message)

    def end(self, result: JobResult) -> bool:
        """Deliver the end. The first end counts; returns whether this was it."""
        with self._lock:
            if self.result is not None:
                return False
            self.result = result
            self.deliver(result)
            return True

    def replaces(self, other: Job) -> bool:
        """Whether this is a newer automatic completion of the document of `other`, or `other` only
        encodes ahead."""
        if other.priority is Priority.AHEAD:
            return True
        automatic = self.priority is other.priority is Priority.AUTOMATIC
        return automatic and self.source == other.source != ""


class Scheduler:
    """The queue of the one engine thread.

    Attributes:
        idle_since: monotonic time since which nothing has run or waited; None while something does.
    """

    def __init__(self, most_waiting: int = 256) -> None:
        self._most_waiting = most_waiting
        self._changed = threading.Condition()
        self._waiting: list[Job] = []
        self._running: list[Job] = []
        self._explicit = 0  # jobs of that priority, waiting or running
        self._last_turn: dict[str, int] = {}
        self._turns = itertools.count(1)
        self._closed: BlockdiffError | None = None
        self.idle_since: float | None = time.monotonic()

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    @property
    def active(self) -> tuple[Job, ...]:
        """The jobs that wait and those that run."""
        with self._changed:
            return tuple(self._active())

    @property
    def closed(self) -> BlockdiffError | None:
        return self._closed

    def submit(self, job: Job) -> None:
        """Queue `job`; an older automatic completion of the same document ends as superseded, and
        so does all encoding ahead.

        Raises:
            EngineBusy: too many requests are waiting.
            EngineStopping: or whatever `close` was given.
        """
        with self._changed:
            if self._closed is not None:
                raise type(self._closed)(self._closed.message, self._closed.hint)
            staying = [other for other in self._waiting if not job.replaces(other)]
            if len(staying) >= self._most_waiting:
                raise EngineBusy(f"{len(staying)} requests are waiting already", "try again later")
            replaced = [other for other in self._active() if job.replaces(other)]
            self._waiting = [*staying, job]
            for other in replaced:
                ahead = other.priority is Priority.AHEAD
                other.end(Superseded(_OTHER_WORK if ahead else _NEWER_COMPLETION))
            self._update()
            self._changed.notify_all()

    def next(self, timeout: float | None = None) -> Job | None:
        """Wait for a job and take it; None once closed, or after `timeout` seconds."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._closed, timeout)
            return self._take(self._waiting)

    def next_beside(self) -> Job | None:
        """Take a job that may run together with those that do; None if there is none.

        It is not less urgent than they are, and no encoding ahead. Those that are less urgent than
        it yield.
        """
        with self._changed:
            running = min((_ORDER.index(job.priority) for job in self._running), default=0)
            urgent = {*_ORDER[: running + 1]} - {Priority.AHEAD}
            return self._take([job for job in self._waiting if job.priority in urgent])

    def _take(self, jobs: list[Job]) -> Job | None:
        if not jobs:
            return None
        job = min(jobs, key=self._rank)
        self._waiting.remove(job)
        self._running.append(job)
        self._update()
        return job

    def must_yield(self, job: Job) -> bool:
        """Whether a running `job` should stop at once: it ended, or a command wants its place."""
        return job.ended or (job.priority is Priority.AUTOMATIC and self._explicit > 0)

    def put_back(self, job: Job) -> None:
        """Queue a running job again, from its start, unless it has ended."""
        with self._changed:
            self._running.remove(job)
            if not job.ended and self._closed is None:
                self._waiting.append(job)
            self._update()

    def done(self, job: Job) -> None:
        """A running job is over; its client goes behind the others."""
        with self._changed:
            self._running.remove(job)
            self._last_turn.pop(job.client, None)
            self._last_turn[job.client] = next(self._turns)
            if len(self._last_turn) > _MOST_CLIENTS:
                del self._last_turn[next(iter(self._last_turn))]
            self._update()

    def cancel(self, job: Job, reason: BlockdiffError) -> None:
        """End `job` wherever it is; a running one stops at the next forward."""
        with self._changed:
            job.end(reason)
            self._waiting = [other for other in self._waiting if other is not job]
            self._update()

    def close(self, reason: BlockdiffError) -> None:
        """End every job with `reason`, refuse new ones with it, let `next` return None."""
        with self._changed:
            self._closed = self._closed or reason
            for job in self._active():
                job.end(reason)
            self._waiting.clear()
            self._update()
            self._changed.notify_all()

    def close_if_idle(self, seconds: float, reason: BlockdiffError) -> bool:
        """Close if nothing has run or waited for so long; no job can slip in between."""
        with self._changed:
            if self.idle_since is None or time.monotonic() - self.idle_since < seconds:
                return False
            self.close(reason)
            return True

    def touch(self) -> None:
        """Idling is counted from now."""
        with self._changed:
            if self.idle_since is not None:
                self.idle_since = time.monotonic()

    def _rank(self, job: Job) -> tuple[int, int, int]:
        """By priority, then the client served longest ago, then in the order of arrival."""
        return _ORDER.index(job.priority), self._last_turn.get(job.client, 0), job.number

    def _active(self) -> list[Job]:
        return [*self._waiting, *self._running]

    def _update(self) -> None:
        explicit = Priority.EXPLICIT
        self._explicit = sum(job.priority is explicit for job in self._active())
        busy = bool(self._waiting or self._running)
        self.idle_since = None if busy else self.idle_since or time.monotonic()
