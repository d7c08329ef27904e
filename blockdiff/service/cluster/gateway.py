"""Where a team's clients come: who they are, what they may, and which replica answers them."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import cast

from prometheus_client import CollectorRegistry, Counter, generate_latest
from prometheus_client.core import Metric
from prometheus_client.parser import text_string_to_metric_families
from ray.exceptions import RayActorError
from ray.serve.exceptions import BackPressureError, RayServeException, ReplicaUnavailableError
from ray.serve.handle import DeploymentHandle
from starlette.types import ASGIApp, Receive, Scope, Send

import blockdiff
from blockdiff.client import wire
from blockdiff.client.wire import EngineState
from blockdiff.errors import (
    EngineBusy,
    EngineDied,
    EngineStopping,
    EngineUnavailable,
    NotPermitted,
    Superseded,
    as_error,
)
from blockdiff.service.bodies import Bodies
from blockdiff.service.cluster.messages import ReplicaCall, ReplicaState
from blockdiff.service.cluster.options import ClusterOptions
from blockdiff.service.cluster.users import Quotas, UsersFile
from blockdiff.service.compat.app import Compat
from blockdiff.service.endpoints import Endpoints
from blockdiff.service.scheduler import JobResult
from blockdiff.service.stream import Mailbox, is_end
from blockdiff.service.worker import log_defect
from blockdiff.types import Priority, Progress, no_op

_ATTEMPTS = 5  # at a request that no replica has begun to write
_LOOK_SECONDS = 1.0  # how old what is known of the replicas may be
_ANSWER_SECONDS = 5.0  # for a replica to say how it is
_COMPAT = "/compat"
_STARTING = "starting a replica"

log = logging.getLogger("blockdiff.service")


class Gateway:
    """A `ServedEngine` whose worker is any of the replicas."""

    def __init__(self, replicas: DeploymentHandle, options: ClusterOptions) -> None:
        self._replicas, self._options = replicas, options
        self._write = replicas.options(stream=True).write
        self._users = UsersFile(Path(options.users))
        self._quotas = Quotas(self._users)
        self._requests = Counter(
            "blockdiff_user_requests", "Requests that ended, by user", ["user", "outcome"],
            registry=None,
        )  # fmt: skip
        self._answering: set[asyncio.Future[None]] = set()
        self._newest: dict[tuple[str, str], Callable[[], None]] = {}
        self._state: ReplicaState | None = None
        self.bodies = Bodies()
        self._looking = asyncio.create_task(self._look())

    def __serve_build_asgi_app__(self) -> ASGIApp:
        ours = Endpoints(self).app(self._users.identify)
        others = Compat(self).app(self._users.identify, "")

        async def choose(scope: Scope, receive: Receive, send: Send) -> None:
            path = scope.get("path", "")
            if not path.startswith(f"{_COMPAT}/"):
                return await ours(scope, receive, send)
            await others({**scope, "path": path.removeprefix(_COMPAT)}, receive, send)

        return choose

    @property
    def sizes(self) -> tuple[int, int]:
        return (self._state.context_size, self._state.together) if self._state else (0, 0)

    def health(self) -> wire.Health:
        if self._state is not None:
            return self._state.health
        return wire.Health(
            api=wire.API_VERSION, version=blockdiff.__version__, pid=os.getpid(),
            state=EngineState.STARTING, model=self._options.model, doing=_STARTING,
        )  # fmt: skip

    async def _look(self) -> None:
        while True:
            try:
                asking = self._replicas.state.remote()
                self._state = await asyncio.wait_for(asking, _ANSWER_SECONDS)
            except Exception as error:  # Ray's, of any kind: the replica is gone, or none is there
                self._state = None
                log.debug("no replica says how it is: %s", type(error).__name__)
            await asyncio.sleep(_LOOK_SECONDS)

    def stop(self, client: str, *, unless_shared: bool) -> None:
        raise NotPermitted("a team's engine is not stopped by its users", "whoever runs it may")

    async def metrics(self) -> bytes:
        """Those of every replica with its name, and what each user asked for."""
        registry = CollectorRegistry()
        registry.register(self._requests)
        try:
            told = await self._replicas.broadcast("metrics").results_async(
                timeout_s=_ANSWER_SECONDS, return_exceptions=True
            )
        except (RayServeException, TimeoutError):  # none runs
            told = []
        registry.register(_OfReplicas(dict(one for one in told if isinstance(one, tuple))))
        return generate_latest(registry)

    def ask(self, call: wire.Call, client: str) -> tuple[Mailbox, Callable[[], None]]:
        leave = self._quotas.enter(client) if call.priority is not Priority.AHEAD else no_op
        mailbox = Mailbox(asyncio.get_running_loop())
        if self._state is None:
            mailbox.put(Progress(call.request.request_id, _STARTING, 0.0))
        # Ray cancels with a request what it has asked for; what is shared may outlive the first.
        answering = contextvars.Context().run(
            asyncio.ensure_future, self._answer(ReplicaCall(call, client), mailbox)
        )

        def supersede() -> None:
            mailbox.put(Superseded("a newer completion of the same document was asked for"))
            answering.cancel()

        def over(_: object) -> None:
            leave()
            self._answering.discard(answering)
            if self._newest.get(place) is supersede:
                del self._newest[place]

        place = client, call.source
        if call.priority is Priority.AUTOMATIC and call.source:
            self._newest.get(place, no_op)()
            self._newest[place] = supersede
        self._answering.add(answering)
        answering.add_done_callback(over)
        return mailbox, lambda: no_op(answering.cancel())

    async def _answer(self, asked: ReplicaCall, mailbox: Mailbox) -> None:
        outcome = "cancelled"
        try:
            end = await self._written(asked, mailbox)
            outcome = getattr(end, "code", "finished")
            mailbox.put(end)
        finally:
            self._requests.labels(asked.user, outcome).inc()

    async def _written(self, asked: ReplicaCall, mailbox: Mailbox) -> JobResult:
        """How a call ends; what comes before goes into the mailbox. What no replica had begun to
        write when it went away is given to another one."""
        for _ in range(_ATTEMPTS):
            begun = False
            messages = self._write.remote(asked)
            try:
                async for message in messages:
                    if not is_end(message):
                        begun = begun or not isinstance(message, Progress)
                        mailbox.put(message)
                    elif begun or not isinstance(message, EngineStopping):
                        return cast(JobResult, message)
            except BackPressureError:
                return EngineBusy("too many requests are waiting already", "try again later")
            except (RayActorError, ReplicaUnavailableError) as error:
                log.warning("a replica went away: %s", type(error).__name__)
                if begun:
                    return EngineDied("the replica that was writing went away", "ask again")
            except RayServeException as error:
                return EngineUnavailable(f"no replica runs: {error}", "`serve status` says why")
            except Exception as error:
                log_defect(error)
                return as_error(error)
            finally:
                messages.cancel()
        return EngineUnavailable("no replica stays long enough to answer", "`serve status`")


class _OfReplicas:
    """The metrics of several replicas as one, each with the name of its replica."""

    def __init__(self, texts: dict[str, bytes]) -> None:
        self._texts = texts

    def collect(self) -> Iterator[Metric]:
        families: dict[str, Metric] = {}
        for replica, text in self._texts.items():
            for one in text_string_to_metric_families(text.decode()):
                family = families.setdefault(
                    one.name, Metric(one.name, one.documentation, one.type)
                )
                for sample in one.samples:
                    labels = {**sample.labels, "replica": replica}
                    family.add_sample(sample.name, labels, sample.value)
        yield from families.values()
