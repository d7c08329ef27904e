"""The one thread that owns the model: load it, then take a job, run it, deliver what comes."""

from __future__ import annotations

import logging
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from typing import Protocol

from blockdiff import console
from blockdiff.engine.scheduler import Job, Scheduler
from blockdiff.errors import BlockdiffError, Cancelled
from blockdiff.types import (
    Event,
    InfillRequest,
    Priority,
    Progress,
    Refinement,
    Request,
    RewriteRequest,
    Warmed,
)
from blockdiff.wire import EngineState

_PROGRESS_SECONDS = 0.1
_MOST_DEFECTS = 3  # in a row: then only a new process helps, as after a fault of the GPU
_RETRY_SECONDS = (1.0, 60.0)  # between attempts to load: doubled from the first to the second

log = logging.getLogger("blockdiff.service")

Report = Callable[[str, float], None]
"""Called with what is being done and the done share, 0 to 1."""


class Engine(Protocol):
    """What the worker needs of `blockdiff.engine.engine.Engine`."""

    name: str
    device: str
    dtype: str

    @property
    def context_speed(self) -> float: ...
    @property
    def cache_entries(self) -> int: ...
    @property
    def cache_bytes(self) -> int: ...

    def infill(
        self, request: InfillRequest, cancelled: Callable[[], bool]
    ) -> Iterator[Event]: ...

    def rewrite(
        self, request: RewriteRequest, cancelled: Callable[[], bool]
    ) -> Iterator[Event]: ...

    def warm(self, request: InfillRequest, cancelled: Callable[[], bool]) -> Warmed: ...


class Worker:
    """Runs the jobs of a scheduler, one at a time, until it is closed.

    Attributes:
        engine: None until the model is loaded.
        failure: why it could not be loaded the last time.
        progress: what is being done and the done share, while loading.
        broken: the thread ended by itself; the process should end, too.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        load: Callable[[Report], Engine],
        ended: Callable[[], None] = lambda: None,
    ) -> None:
        """`ended` is called, in the worker's thread, when it is over."""
        self._scheduler, self._load_engine, self._ended = scheduler, load, ended
        self._thread = threading.Thread(target=self._run, name="blockdiff-engine", daemon=True)
        self.engine: Engine | None = None
        self.failure: BlockdiffError | None = None
        self.progress: tuple[str, float] | None = None
        self.broken = False
        self._reported = 0.0
        self._retry_after, self._retry_at = _RETRY_SECONDS[0], 0.0
        self._defects = 0

    def start(self) -> None:
        self._thread.start()

    def join(self, seconds: float) -> bool:
        """Wait for the end of the thread; whether it came."""
        self._thread.join(seconds)
        return not self._thread.is_alive()

    @property
    def state(self) -> EngineState:
        if self._scheduler.closed is not None:
            return EngineState.STOPPING
        if self.progress is not None:
            return EngineState.STARTING
        if self.failure is not None:
            return EngineState.ERROR
        if self.engine is None:
            return EngineState.STARTING
        return EngineState.READY if self._scheduler.idle_since else EngineState.BUSY

    def context_speed(self) -> float:
        """Context tokens per second; 0.0 while unknown."""
        return self.engine.context_speed if self.engine else 0.0

    def cache_entries(self) -> int:
        """Encoded contexts that the engine keeps, and `cache_bytes` what they take."""
        return self.engine.cache_entries if self.engine else 0

    def cache_bytes(self) -> int:
        return self.engine.cache_bytes if self.engine else 0

    def _run(self) -> None:
        try:
            self._load()
            while (job := self._scheduler.next()) is not None:
                job.started = job.started or time.monotonic()
                self._serve(job)
        except BaseException as error:  # nobody is above this thread
            self.broken = True
            log_defect(error)
            self._scheduler.close(console.as_error(error))
        finally:
            self._ended()

    def _serve(self, job: Job) -> None:
        if self.engine is None and time.monotonic() >= self._retry_at:
            self._load()
        if self.engine is None:
            assert self.failure is not None
            job.end(self.failure)
            self._scheduler.done(job)
        elif self._finishes(job, self.engine):
            self._scheduler.done(job)
        else:
            self._scheduler.put_back(job)

    def _finishes(self, job: Job, engine: Engine) -> bool:
        """Run `job` to its end; False if it had to make way for another before."""
        yielded = False

        def must_stop() -> bool:
            nonlocal yielded
            yielded = yielded or self._scheduler.must_yield(job)
            return yielded

        try:
            if job.priority is Priority.AHEAD and isinstance(job.request, InfillRequest):
                job.end(engine.warm(job.request, must_stop))
            else:
                for event in _events(engine, job.request, must_stop):
                    if isinstance(event, Refinement):
                        job.post(event)
                    else:
                        job.end(event)
            job.end(BlockdiffError("the engine came to no result"))
            self._defects = 0
        except Cancelled as error:
            if yielded:
                return job.ended
            job.end(error)
        except Exception as error:
            self._fail(job, error)
        return True

    def _fail(self, job: Job, error: Exception) -> None:
        failure = console.as_error(error)
        job.end(failure)
        if failure.code != BlockdiffError.code:
            return
        self._defects += 1
        if self._defects >= _MOST_DEFECTS:
            raise error
        log_defect(error)

    def _load(self) -> None:
        self._report("starting the engine", 0.0)
        try:
            self.engine, self.failure = self._load_engine(self._report), None
            engine = self.engine
            log.info("%s is ready on %s in %s", engine.name, engine.device, engine.dtype)
        except Exception as error:
            self.failure = console.as_error(error)
            if self.failure is self._scheduler.closed:
                return
            if self.failure.code == BlockdiffError.code:
                log_defect(error)
            log.error("the model did not load: %s", self.failure.message)
            self._retry_at = time.monotonic() + self._retry_after
            self._retry_after = min(2 * self._retry_after, _RETRY_SECONDS[1])
        finally:
            self.progress = None
            self._scheduler.touch()

    def _report(self, what: str, share: float) -> None:
        """Tell those who wait how far loading is. Raises what the scheduler was closed with."""
        if self._scheduler.closed is not None:
            raise self._scheduler.closed
        now, before = time.monotonic(), self.progress
        self.progress = (what, share)
        same = before is not None and before[0] == what
        if same and share < 1.0 and now - self._reported < _PROGRESS_SECONDS:
            return
        self._reported = now
        for job in self._scheduler.active:
            job.post(Progress(job.request.request_id, what, share))


def _events(engine: Engine, request: Request, cancelled: Callable[[], bool]) -> Iterator[Event]:
    if isinstance(request, RewriteRequest):
        return engine.rewrite(request, cancelled)
    return engine.infill(request, cancelled)


def log_defect(error: BaseException) -> None:
    """Where it happened; what an exception says may be source text and is left to debugging."""
    places = [
        f"{frame.filename}:{frame.lineno} {frame.name}"
        for frame in traceback.extract_tb(error.__traceback__)
    ]
    log.error("%s at %s", type(error).__name__, " < ".join(reversed(places)))
    log.debug("in full", exc_info=error)
