"""One copy of the model, on the device that Ray gives it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

from ray import serve

from blockdiff.client.wire import EngineState
from blockdiff.errors import BlockdiffError, EngineStopping
from blockdiff.service.app import Service
from blockdiff.service.cluster.messages import ReplicaCall, ReplicaState
from blockdiff.service.launcher import ServeOptions, loader
from blockdiff.service.scheduler import Message, Scheduler
from blockdiff.service.stream import is_end
from blockdiff.service.worker import Worker
from blockdiff.types import Refinement, Unread, no_op

_LOOK_SECONDS = 0.05  # how often it is seen whether the model is loaded
_SILENT_SECONDS = 60.0  # of a request that waits: only then does anything happen here
_PACE_SECONDS = 0.03  # between two drafts of a request: an eye sees no more of them


class Replica:
    """The scheduler and the worker of `blockdiff serve` without its endpoints."""

    async def __init__(self, options: ServeOptions) -> None:  # type: ignore[misc]  # Ray awaits it
        """Ends when the model is loaded: Ray sends requests from then on. Raises why it is not."""
        self._scheduler = Scheduler()
        self._worker = Worker(self._scheduler, loader(options))
        self._service = Service(self._scheduler, self._worker, options.model, no_op)
        self._worker.start()
        while self._worker.state is EngineState.STARTING:
            await asyncio.sleep(_LOOK_SECONDS)
        if self._worker.failure is not None:
            raise self._worker.failure

    async def write(self, asked: ReplicaCall) -> AsyncGenerator[Message, None]:
        """What a call brings, its end last; a failure is one. Closing the iterator cancels it."""
        try:
            mailbox, cancel = self._service.ask(asked.call, asked.user)
        except BlockdiffError as error:
            yield error
            return
        try:
            ended = False
            while not ended:
                message = await mailbox.take(_SILENT_SECONDS)
                if message is None:
                    continue
                ended = is_end(message)
                yield message.read() if isinstance(message, Unread) else message
                if isinstance(message, (Refinement, Unread)):
                    await mailbox.ended(_PACE_SECONDS)
        finally:
            cancel()

    async def state(self) -> ReplicaState:
        return ReplicaState(self._service.health(), *self._service.sizes)

    async def metrics(self) -> tuple[str, bytes]:
        """Its name, and its metrics as Prometheus text."""
        return serve.get_replica_context().replica_id.unique_id, await self._service.metrics()

    async def check_health(self) -> None:
        """Ray starts another one in place of one that raises."""
        if self._worker.broken:
            raise RuntimeError("the engine failed again and again")

    def __del__(self) -> None:
        self._scheduler.close(EngineStopping("the replica is shutting down", "ask again"))
