"""The engine of one process as its endpoints see it: one scheduler and one worker."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable

import blockdiff
from blockdiff.client import wire
from blockdiff.errors import BlockdiffError, Cancelled, EngineBusy
from blockdiff.service.bodies import Bodies
from blockdiff.service.metrics import Metrics
from blockdiff.service.scheduler import Job, JobResult, Message, Scheduler
from blockdiff.service.stream import Mailbox
from blockdiff.service.worker import Worker
from blockdiff.types import Filled, Finished, Progress, Warmed

_log = logging.getLogger("blockdiff.service")

_IN_USE_SECONDS = 120.0  # a client that asked so lately uses the engine


class Service:
    """A `ServedEngine`: what is asked goes to one scheduler and its worker.

    Attributes:
        bodies: of requests that are read, wait or run.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        worker: Worker,
        model: str,
        stop: Callable[[], None],
        stops_by_itself: bool = False,
        drafter: str = "",
    ) -> None:
        """`model` and `drafter` are names as they were asked for; `stop` begins the shutdown.

        One that `stops_by_itself` was started for editors: the only one of them may change it.
        """
        self._stops_by_itself = stops_by_itself
        self._asked: dict[str, float] = {}  # when each client asked last, by the monotonic clock
        self._scheduler, self._worker, self._model, self._stop = scheduler, worker, model, stop
        self._drafter, self._metrics = drafter, Metrics(scheduler, worker)
        self.bodies = Bodies()

    def health(self) -> wire.Health:
        worker, engine = self._worker, self._worker.engine
        doing, share = worker.progress or ("", 0.0)
        return wire.Health(
            api=wire.API_VERSION,
            version=blockdiff.__version__,
            pid=os.getpid(),
            state=worker.state,
            model=self._model,
            drafter=self._drafter,
            device=engine.device if engine else "",
            dtype=engine.dtype if engine else "",
            message=worker.failure.message if worker.failure else "",
            doing=doing,
            share=share,
            waiting=self._scheduler.waiting,
            context_speed=round(worker.context_speed(), 1),
        )

    @property
    def sizes(self) -> tuple[int, int]:
        """Tokens that the model takes, requests that are written at once; 0 while it loads."""
        engine = self._worker.engine
        return (engine.context_size, engine.together) if engine else (0, 0)

    async def metrics(self) -> bytes:
        return self._metrics.render()

    def stop(self, client: str, *, unless_shared: bool) -> None:
        if unless_shared:
            self._check_unshared(client)
        self._stop()

    def _check_unshared(self, client: str) -> None:
        since = time.monotonic() - _IN_USE_SECONDS
        if any(name != client and at > since for name, at in self._asked.items()):
            raise EngineBusy("another client uses this engine", "close it, or wait two minutes")
        if not self._asked or not self._stops_by_itself:  # whoever started it may still come
            raise EngineBusy("another client started this engine", "stop it: blockdiff stop")

    def ask(self, call: wire.Call, client: str) -> tuple[Mailbox, Callable[[], None]]:
        mailbox = Mailbox(asyncio.get_running_loop())
        job = Job(
            call.request,
            deliver=lambda message: self._deliver(job, mailbox, message),
            priority=call.priority,
            source=call.source,
            client=client,
        )
        now = time.monotonic()
        self._asked = {n: at for n, at in self._asked.items() if now - at < _IN_USE_SECONDS}
        self._asked[job.client] = now
        self._scheduler.submit(job)
        if progress := self._worker.progress:
            job.post(Progress(call.request.request_id, *progress))
        gone = Cancelled("the client closed the connection")
        return mailbox, lambda: self._scheduler.cancel(job, gone)

    def _deliver(self, job: Job, mailbox: Mailbox, message: Message) -> None:
        if isinstance(message, (Finished, Filled, Warmed, BlockdiffError)):
            self._metrics.ended(job)  # first: whoever has the answer finds it counted
            self._metrics.dropped(mailbox.dropped)
            _log_end(job, message)
        mailbox.put(message)


def _log_end(job: Job, result: JobResult) -> None:
    """One line without a character of anybody's text."""
    seconds = time.monotonic() - job.submitted
    queued = (job.started or time.monotonic()) - job.submitted
    what = f"request {job.number} ({job.priority.value}), {queued:.3f} s queued, {seconds:.3f} s:"
    if isinstance(result, (Finished, Filled)):
        reused = f"{result.cached_tokens} of {result.context_tokens} context tokens cached"
        made = f"{result.tokens} tokens in {result.forwards} forwards"
        _log.info("%s %s, %s, %s", what, result.finish.value, made, reused)
    elif isinstance(result, Warmed):
        encoded = result.context_tokens - result.cached_tokens
        _log.info("%s %d of %d context tokens encoded", what, encoded, result.context_tokens)
    else:
        _log.info("%s %s", what, result.code)
