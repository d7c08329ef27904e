"""The one thread that owns the model: load it, then take jobs, run them, deliver what comes."""

from __future__ import annotations

import logging
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, TypeAlias

from blockdiff.client.wire import EngineState
from blockdiff.errors import BlockdiffError, Cancelled, as_error
from blockdiff.service.scheduler import Job, Scheduler
from blockdiff.types import OnProgress, Priority, Progress, Refinement, Unread, no_op

if TYPE_CHECKING:
    from blockdiff.engine.batch import Batch, Told
    from blockdiff.engine.engine import Engine

_PROGRESS_SECONDS = 0.1
_MOST_FAULTS = 3  # of the engine in a row: only a new process helps, as after one of the GPU
_REST_SECONDS = 30.0  # without work, after which contexts are stored on disk
_STEP_SECONDS = 0.005  # of that, for a block of them
_END_SECONDS = 1.5  # to store them at the end: the next engine waits no longer
_RETRY_SECONDS = (1.0, 60.0)  # between attempts to load: doubled from the first to the second

log = logging.getLogger("blockdiff.service")

Load: TypeAlias = "Callable[[OnProgress], Engine]"


@dataclass(eq=False)
class BatchedJob:
    """A job in the batch; whether it makes way for another, to begin anew later."""

    job: Job
    yields: bool = False


class Worker:
    """Runs the jobs of a scheduler, as many together as the engine likes, until it is closed.

    Attributes:
        engine: None until the model is loaded.
        failure: why it could not be loaded the last time.
        progress: what is being done and the done share, while loading.
        broken: the thread ended by itself; the process should end, too.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        load: Load,
        ended: Callable[[], None] = no_op,
    ) -> None:
        """`ended` is called, in the worker's thread, when it is over."""
        self._scheduler, self._load_engine, self._ended = scheduler, load, ended
        self._thread = threading.Thread(target=self._run, name="blockdiff-engine", daemon=True)
        self.engine: Engine | None = None
        self._batch: Batch[BatchedJob] | None = None
        self.failure: BlockdiffError | None = None
        self.progress: tuple[str, float] | None = None
        self.broken = False
        self._reported = 0.0
        self._retry_after, self._retry_at = _RETRY_SECONDS[0], 0.0
        self._faults = 0

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
            while (job := self._next()) is not None:
                self._serve(job)
            self._store_at_the_end()
        except BaseException as error:  # nobody is above this thread
            self.broken = True
            log_defect(error)
            self._scheduler.close(as_error(error))
        finally:
            self._ended()

    def _next(self) -> Job | None:
        """The next job; None at the end. When none has come for a while, contexts are stored."""
        job = self._scheduler.next(_REST_SECONDS)
        if job is None and self.engine is not None:
            for _ in self.engine.storing():
                job = self._scheduler.next(_STEP_SECONDS)
                if job is not None or self._scheduler.closed is not None:
                    break
        return job or self._scheduler.next()

    def _store_at_the_end(self) -> None:
        until = time.monotonic() + _END_SECONDS
        for _ in self.engine.storing() if self.engine is not None else ():
            if time.monotonic() > until:
                break
            time.sleep(_STEP_SECONDS / 10)

    def _serve(self, job: Job) -> None:
        """Run `job`, and what comes while it runs, until nothing runs any more."""
        if self.engine is None and time.monotonic() >= self._retry_at:
            self._load()
        engine, batch = self.engine, self._batch
        if engine is None or batch is None:
            assert self.failure is not None
            job.end(self.failure)
            self._scheduler.done(job)
            return
        self._begin(job, engine, batch)
        while len(batch):
            while len(batch) < engine.together:
                if (beside := self._scheduler.next_beside()) is None:
                    break
                self._begin(beside, engine, batch)
            for run, what in batch.step():
                self._tell(run, what)

    def _begin(self, job: Job, engine: Engine, batch: Batch[BatchedJob]) -> None:
        job.started = job.started or time.monotonic()
        run = BatchedJob(job)

        def must_stop() -> bool:
            run.yields = run.yields or self._scheduler.must_yield(job)
            return run.yields

        ahead = job.priority is Priority.AHEAD
        making = partial(engine.steps, job.request, must_stop, ahead=ahead)
        batch.prepare(run, engine.aside(making))

    def _tell(self, run: BatchedJob, what: Told) -> None:
        """Deliver what a job has brought: a refinement, or the end of it."""
        job = run.job
        if isinstance(what, (Refinement, Unread)):
            job.post(what)
            return
        if isinstance(what, Cancelled) and run.yields and not job.ended:
            self._scheduler.put_back(job)
            return
        if isinstance(what, Exception):
            self._fail(job, what)
        else:
            job.end(what or BlockdiffError("the engine came to no result"))
        self._scheduler.done(job)

    def _fail(self, job: Job, error: Exception) -> None:
        """End a job that failed. What no request can cause, no request is blamed for, and no
        request's own defect is the engine's: that is asked for a forward of its own."""
        failure = as_error(error)
        job.end(failure)
        if failure.code != BlockdiffError.code:
            return
        log_defect(error)
        assert self.engine is not None
        try:
            self.engine.check()
            self._faults = 0
        except Exception as fault:
            self._faults += 1
            if self._faults >= _MOST_FAULTS:
                raise
            log_defect(fault)

    def _load(self) -> None:
        self._report("starting the engine", 0.0)
        try:
            engine = self._load_engine(self._report)
            self.engine, self._batch, self.failure = engine, engine.batch(), None
            log.info("%s is ready on %s in %s", engine.name, engine.device, engine.dtype)
        except Exception as error:
            self.failure = as_error(error)
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


def log_defect(error: BaseException) -> None:
    """Where it happened; what an exception says may be source text and is left to debugging."""
    places = [
        f"{frame.filename}:{frame.lineno} {frame.name}"
        for frame in traceback.extract_tb(error.__traceback__)
    ]
    log.error("%s at %s", type(error).__name__, " < ".join(reversed(places)))
    log.debug("in full", exc_info=error)
