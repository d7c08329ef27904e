"""The engine process: take the lock, listen, serve, and leave nothing behind at the end."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from starlette.types import ASGIApp

from blockdiff.client.connections import Address, is_loopback
from blockdiff.client.endpoint import COMPAT_TOKEN, Announcement, Runtime
from blockdiff.client.starter import Deaths
from blockdiff.config import CACHE_MIB, DISK_CACHE_MIB, IDLE_SECONDS
from blockdiff.errors import (
    AddressInUse,
    BlockdiffError,
    EngineStopping,
    EngineUnavailable,
    ExitCode,
    InvalidRequest,
)
from blockdiff.service.app import Service
from blockdiff.service.compat.app import Compat
from blockdiff.service.endpoints import Endpoints, only
from blockdiff.service.http_server import server
from blockdiff.service.listen import host_and_port, listen_tcp, listen_unix
from blockdiff.service.scheduler import Scheduler
from blockdiff.service.worker import Load, Worker
from blockdiff.types import OnProgress, no_op
from blockdiff.weights import folders
from blockdiff.weights.catalog import DEFAULT_MODEL

if TYPE_CHECKING:
    from blockdiff.engine.engine import Engine

_LOCK_SECONDS = 2.0  # others look at the lock for a moment
_ENGINE_SECONDS = 10.0  # for the forward that runs

log = logging.getLogger("blockdiff.service")


@dataclass(frozen=True, slots=True)
class ServeOptions:
    """What to serve, where, and for how long.

    Attributes:
        drafter: name or folder of a drafter made for the model; empty: none.
        idle_seconds: stop after so long without a request; 0: never.
        host: empty takes a Unix socket, or the loopback interface where there are none.
        port: 0 takes any that is free; another one implies TCP.
        tls_cert, tls_key: PEM files; needed beyond loopback.
        allow_plain_http: listen beyond loopback without them.
        cache_mib: of encoded context are kept for later requests; 0: none.
        disk_cache_mib: of it are kept on disk for later engines; 0: none.
        compat: HOST:PORT of the endpoints for clients of other servers, too; empty: none.
        compat_token: these want a token, as everything else does.
    """

    model: str = DEFAULT_MODEL
    device: str = "auto"
    dtype: str = "auto"
    download: bool = True
    drafter: str = ""
    idle_seconds: float = IDLE_SECONDS
    host: str = ""
    port: int = 0
    tls_cert: str = ""
    tls_key: str = ""
    allow_plain_http: bool = False
    cache_mib: int = CACHE_MIB
    disk_cache_mib: int = DISK_CACHE_MIB
    compat: str = ""
    compat_token: bool = True

    def __post_init__(self) -> None:
        if min(self.cache_mib, self.disk_cache_mib) < 0:
            raise InvalidRequest("the size of the cache cannot be negative", "0: keep nothing")
        if self.idle_seconds < 0:
            raise InvalidRequest("the time until an idle stop cannot be negative", "0: never")
        if not 0 <= self.port <= 65535:
            raise InvalidRequest(f"{self.port} is no port", "0 to 65535")
        if bool(self.tls_cert) != bool(self.tls_key):
            raise InvalidRequest("a certificate and its key belong together")
        if self.tls_cert and not self.tcp and not self.secures_compat:
            raise InvalidRequest("TLS is for TCP, not for a Unix socket", "add --host or --port")
        for file in filter(None, (self.tls_cert, self.tls_key)):
            if not os.access(file, os.R_OK):
                raise InvalidRequest(f"cannot read {file}", "give a PEM file")
        self._check_exposed(self.host)
        if not self.compat and not self.compat_token:
            raise InvalidRequest("--no-token is for --compat", "add --compat")
        if self.compat:
            host, _ = host_and_port(self.compat)
            self._check_exposed(host)
            if not self.compat_token and not is_loopback(host):
                raise InvalidRequest(
                    f"without a token anybody could use the engine at {self.compat}",
                    "leave out --no-token, or listen on 127.0.0.1",
                )

    def _check_exposed(self, host: str) -> None:
        beyond = bool(host) and not is_loopback(host)
        if beyond and not (self.tls_cert or self.allow_plain_http):
            raise InvalidRequest(
                f"without TLS, listening on {host} shows code and the token to the network",
                "give --tls-cert and --tls-key, use an SSH tunnel, or add --allow-plain-http",
            )

    @property
    def tcp(self) -> bool:
        return bool(self.host or self.port)

    def certificate(self, *, tls: bool) -> tuple[str, str]:
        """The files of the certificate and its key where `tls` is spoken; else both are empty."""
        return (self.tls_cert, self.tls_key) if tls else ("", "")

    @property
    def secures_compat(self) -> bool:
        """Whether these endpoints speak TLS: beyond this machine, where there is a certificate."""
        return bool(self.compat and self.tls_cert) and not is_loopback(
            host_and_port(self.compat)[0]
        )


def serve(
    options: ServeOptions,
    runtime: Runtime,
    load: Load | None = None,
    started: Callable[[Address], None] = no_op,
) -> ExitCode:
    """Serve until told to stop or idle for long. `started` is called once clients can come.

    Raises:
        AddressInUse: an engine runs already, or another program has the port.
        NotPermitted: the folder, the socket or the port is not ours to use.
        InvalidRequest: the certificate cannot be used.
    """
    runtime.prepare()
    with _only_one(runtime):
        runtime.retract()  # what a killed engine left behind
        process = _Process(options, runtime, load or loader(options))
        with contextlib.ExitStack() as listening:
            listening.callback(runtime.retract)
            listener, address = _listen(options, runtime)
            listening.enter_context(listener)
            compat = _listen_compat(options)
            if compat is not None:
                listening.enter_context(compat[0])
            asyncio.run(process.run(listener, address, started, compat))
        return process.end()


def loader(options: ServeOptions) -> Load:
    """How the worker loads the model: download it if that is missing and allowed, then read it."""

    def load(report: OnProgress) -> Engine:
        def transfer(phase: str, done: int, total: int) -> None:
            report(_PHASES.get(phase, phase), done / max(total, 1))

        from blockdiff.weights import download

        download.ensure(options.model, options.download, transfer)
        report("starting the engine", 0.0)
        from blockdiff.engine.engine import Engine

        engine = Engine.load(
            options.model,
            device=options.device,
            dtype=options.dtype,
            cache_bytes=options.cache_mib << 20,
            progress=report,
            drafter=options.drafter,
        )
        if options.disk_cache_mib:
            engine.store_in(folders.contexts_folder(), options.disk_cache_mib << 20)
        return engine

    return load


_PHASES = {
    "hub": "downloading the model",
    "wheels": "downloading the model",
    "check": "checking the model",
    "waiting": "waiting for another download",
}


class _Process:
    """One life of the service."""

    def __init__(self, options: ServeOptions, runtime: Runtime, load: Load) -> None:
        self._options, self._runtime = options, runtime
        self._scheduler = Scheduler()
        self._worker = Worker(self._scheduler, load, ended=self._worker_ended)
        self._stop_asked = False

    async def run(
        self,
        listener: socket.socket,
        address: Address,
        started: Callable[[Address], None],
        compat: tuple[socket.socket, str] | None,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        stops = self._options.idle_seconds > 0
        options = self._options
        service = Service(
            self._scheduler, self._worker, options.model, self.stop, stops, options.drafter
        )
        app = Endpoints(service).app(only(self._runtime.make_token()))
        serving = [(listener, server(app, *options.certificate(tls=options.tcp)))]
        if compat is not None:
            certificate = options.certificate(tls=options.secures_compat)
            serving.append((compat[0], server(self._compat(service), *certificate)))
        self._servers = [one for _, one in serving]
        url = compat[1] if compat is not None else ""
        self._runtime.announce(Announcement(os.getpid(), address, url))
        started(address)
        idle = asyncio.create_task(self._watch_idle())
        self._worker.start()
        with self._signals():
            await asyncio.gather(*(one.serve(sockets=[at]) for at, one in serving))
        idle.cancel()

    def _compat(self, service: Service) -> ASGIApp:
        options = self._options
        known = only(self._runtime.make_token(COMPAT_TOKEN)) if options.compat_token else None
        return Compat(service).app(known, host_and_port(options.compat)[0])

    def stop(self, why: str = "it was told to") -> None:
        """Begin the shutdown: running and waiting requests end with EngineStopping."""
        log.info("stopping: %s", why)
        self._scheduler.close(EngineStopping("the engine is shutting down", "ask again"))
        self._runtime.retract()
        for one in self._servers:
            one.should_exit = True

    def end(self) -> ExitCode:
        """After the last connection: wait for the engine thread."""
        ended = self._worker.join(_ENGINE_SECONDS)
        deaths = Deaths(self._runtime)
        if self._worker.broken:
            deaths.record(EngineUnavailable("the engine failed again and again"))
            return ExitCode.INTERNAL
        deaths.forget()
        if not ended:  # a forward that takes that long; the interpreter would wait or crash
            logging.shutdown()
            os._exit(int(ExitCode.OK))
        return ExitCode.OK

    def _worker_ended(self) -> None:
        if self._worker.broken:
            with contextlib.suppress(RuntimeError):  # the loop is closed already
                self._loop.call_soon_threadsafe(self.stop, "the engine thread broke")

    async def _watch_idle(self) -> None:
        limit = self._options.idle_seconds
        while limit:
            await asyncio.sleep(min(limit / 4, 5.0))
            stopping = EngineStopping("the engine was idle and stops", "ask again")
            if self._worker.progress is None and self._scheduler.close_if_idle(limit, stopping):
                return self.stop(f"idle for {limit:.0f} s")

    @contextmanager
    def _signals(self) -> Iterator[None]:
        """SIGINT and SIGTERM begin the shutdown; a second one ends the process at once."""

        def on_signal(number: int, frame: object) -> None:
            if self._stop_asked:
                os._exit(128 + number)
            self._stop_asked = True
            name = signal.Signals(number).name
            self._loop.call_soon_threadsafe(self.stop, f"got {name}")

        if threading.current_thread() is not threading.main_thread():
            yield  # whoever runs the service in a thread stops it over HTTP
            return
        kinds = (signal.SIGINT, signal.SIGTERM)
        before = {kind: signal.signal(kind, on_signal) for kind in kinds}
        try:
            yield
        finally:
            for kind, handler in before.items():
                signal.signal(kind, handler)


@contextmanager
def _only_one(runtime: Runtime) -> Iterator[None]:
    from filelock import Timeout

    lock = runtime.life_lock
    with runtime.access():
        try:
            lock.acquire(timeout=_LOCK_SECONDS)
        except Timeout:
            announced = runtime.announced()
            where = f" at {announced.address.url}, process {announced.pid}" if announced else ""
            raise AddressInUse(
                f"an engine is running already{where}", "use it, or stop it: blockdiff stop"
            ) from None
    try:
        yield
    finally:
        lock.release()


def _listen(options: ServeOptions, runtime: Runtime) -> tuple[socket.socket, Address]:
    path = runtime.socket
    if path is not None and not options.tcp:
        return listen_unix(path), Address(f"unix:{path}")
    listener, url = listen_tcp(options.host or "127.0.0.1", options.port)
    if not options.tls_cert:
        return listener, Address(f"http://{url}")
    certificate = str(Path(options.tls_cert).absolute())
    return listener, Address(f"https://{url}", certificate, pinned=True)


def _listen_compat(options: ServeOptions) -> tuple[socket.socket, str] | None:
    """Where clients of other servers come, and its URL."""
    if not options.compat:
        return None
    host, port = host_and_port(options.compat)
    try:
        listener, url = listen_tcp(host, port)
    except BlockdiffError as error:
        error.hint = f"give it another address: --compat {host}:PORT"
        raise
    return listener, f"{'https' if options.secures_compat else 'http'}://{url}"
