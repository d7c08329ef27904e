"""Start the engine of this user or join the one that runs; after a death, with back-off.

However many clients want an engine at once, one of them starts it and the others join. An engine
that keeps dying is started less and less often, and only when somebody asks for it. Nothing here
imports torch.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING

from blockdiff.client import endpoint, wire
from blockdiff.client.connections import Address
from blockdiff.client.endpoint import Runtime
from blockdiff.config import CACHE_MIB, DISK_CACHE_MIB, IDLE_SECONDS
from blockdiff.errors import (
    AddressInUse,
    BlockdiffError,
    EngineMismatch,
    EngineUnavailable,
    NotPermitted,
    Unauthorized,
)
from blockdiff.system import child
from blockdiff.weights import store
from blockdiff.weights.catalog import DEFAULT_MODEL

if TYPE_CHECKING:
    from filelock import FileLock

_POLL_SECONDS = 0.05
_PATIENCE_SECONDS = 2.0  # a longer back-off is reported instead of waited for
_LONGEST_BACK_OFF = 60.0
_FORGET_SECONDS = 600.0  # a death this long ago has nothing to do with the next
_LOG_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class StartOptions:
    """The engine to start if none runs.

    Attributes:
        model: name or path; empty takes the default, or whatever runs already.
        drafter: name or path of one made for the model; empty: none, or whatever runs already.
        idle_seconds: the engine stops after so long without a request; 0: never.
        cache_mib: of encoded context it keeps for later requests; 0: none.
        disk_cache_mib: of it are kept on disk for later engines; 0: none.
        timeout: seconds until it must answer; loading the model is not part of it.
        command: what runs the `blockdiff` command.
    """

    model: str = ""
    drafter: str = ""
    device: str = "auto"
    dtype: str = "auto"
    idle_seconds: float = IDLE_SECONDS
    download: bool = True
    cache_mib: int = CACHE_MIB
    disk_cache_mib: int = DISK_CACHE_MIB
    timeout: float = 60.0
    command: tuple[str, ...] = (sys.executable, "-m", "blockdiff")

    def arguments(self) -> list[str]:
        """The command line of the engine."""
        return [
            *self.command, "serve", "--json",
            "--model", model_name(self.model or DEFAULT_MODEL),
            *(["--drafter", model_name(self.drafter)] if self.drafter else []),
            "--device", self.device, "--dtype", self.dtype,
            "--idle-stop", str(self.idle_seconds), "--cache-mib", str(self.cache_mib),
            "--disk-cache-mib", str(self.disk_cache_mib),
            "--download" if self.download else "--no-download",
        ]  # fmt: skip


@dataclass(frozen=True, slots=True)
class Joined:
    """An engine that answered."""

    address: Address
    token: str
    health: wire.Health


def silent(hint: str = "wait, or stop it: blockdiff stop") -> EngineUnavailable:
    """The error for an engine that lives: nothing starts another while it does."""
    return EngineUnavailable("the engine that runs does not answer", hint)


def model_name(model: str) -> str:
    """A model as it was asked for, whatever folder the one who asked is in."""
    return str(Path(model).expanduser().absolute()) if store.is_path(model) else model


class Starter:
    """Finds the engine that belongs to a runtime folder, or starts one there."""

    def __init__(self, runtime: Runtime, options: StartOptions) -> None:
        self._runtime, self._options = runtime, options
        self._deaths = Deaths(runtime)

    def join(self) -> Joined | None:
        """The engine that runs, if one does.

        Raises EngineMismatch, Unauthorized, NotPermitted: one runs, but not for us.
        """
        announced = self._runtime.announced()
        if announced is None:
            return None
        try:
            token = self._runtime.token()
            health = endpoint.health(announced.address, token)
        except EngineUnavailable:
            return None
        except Unauthorized:
            if self._runtime.announced() != announced or not self.is_alive():
                return None  # it has just been replaced, or something else took its port
            raise
        if health.state is wire.EngineState.STOPPING:
            return None
        return Joined(announced.address, token, health)

    def find(self, seconds: float = 10.0) -> Joined | None:
        """The engine that runs, however slow it is to answer; None once none lives. Blocks.

        Raises as `join`, and EngineUnavailable for one that lives and never answers.
        """
        deadline = time.monotonic() + seconds
        while (joined := self.join()) is None and self.is_alive():
            if time.monotonic() > deadline:
                raise silent("end its process by hand")
            time.sleep(_POLL_SECONDS)
        return joined

    def join_or_start(self, patience: float = 10.0) -> Joined:
        """The engine that runs, else one that is started now. Blocks.

        One that has said where it listens and does not answer is waited for `patience` seconds.

        Raises:
            EngineUnavailable: it did not start, or died too often lately.
            EngineMismatch, Unauthorized, NotPermitted: one runs, but not for us.
            NotInstalled: or whatever else an engine ends with that cannot start.
        """
        if joined := self.join():
            return joined
        self._runtime.prepare()
        deadline = time.monotonic() + self._options.timeout
        with _held(self._runtime.start_lock, self._options.timeout):
            given_up = time.monotonic() + patience
            while not (joined := self.join()):
                if self._is_buried():
                    self._deaths.back_off()
                    return self._start(deadline)
                now = time.monotonic()  # it lives, but neither answers nor ends
                if now > deadline or (now > given_up and self._runtime.announced() is not None):
                    raise silent()
                time.sleep(_POLL_SECONDS)
            return joined

    def is_alive(self) -> bool:
        """Whether a process holds the engine's lock, answering or not."""
        with self._lock_of_the_dead() as dead:
            return not dead

    def _is_buried(self) -> bool:
        """Whether no engine lives; what one that was killed left behind is cleared away."""
        with self._lock_of_the_dead() as dead:
            if dead and self._runtime.announced() is not None:
                self._deaths.record(EngineUnavailable("the engine died"))
                self._runtime.retract()
            return dead

    @contextmanager
    def _lock_of_the_dead(self) -> Iterator[bool]:
        """Holds the engine's lock for a moment; false if an engine does."""
        from filelock import Timeout

        if not self._runtime.is_there():
            yield True
            return
        lock = self._runtime.life_lock
        with self._runtime.access():
            try:
                lock.acquire(timeout=0)
            except Timeout:  # an OSError, too
                pass
            try:
                yield lock.is_locked
            finally:
                lock.release()

    def _start(self, deadline: float) -> Joined:
        try:
            return self._await_answer(self._spawn(), deadline)
        except BlockdiffError as error:
            if not isinstance(error, (EngineMismatch, Unauthorized)):
                self._deaths.record(error)
            raise

    def _spawn(self) -> child.Popen[bytes]:
        """The engine as a process that outlives this one."""
        runtime = self._runtime
        environment = child.inherited() | {"BLOCKDIFF_RUNTIME": str(runtime.folder)}
        with runtime.access():
            if runtime.log.is_file() and runtime.log.stat().st_size > _LOG_BYTES:
                os.replace(runtime.log, runtime.log.with_suffix(".log.1"))
            with _private(runtime.log, "ab") as log, _private(self._said, "wb") as said:
                process = child.start(
                    self._options.arguments(), runtime.folder, environment,
                    stdout=said, stderr=log, **child.detached(),
                )  # fmt: skip
        # Reaps it, whenever that is.
        threading.Thread(target=process.wait, daemon=True).start()
        return process

    @property
    def _said(self) -> Path:
        return self._runtime.folder / "engine.out"

    def _await_answer(self, process: child.Popen[bytes], deadline: float) -> Joined:
        while time.monotonic() < deadline:
            if joined := self.join():
                return joined
            if process.returncode is not None:
                error = self._last_words(process.returncode)
                if not (isinstance(error, AddressInUse) and self.is_alive()):
                    raise error
            time.sleep(_POLL_SECONDS)
        process.kill()
        raise EngineUnavailable(
            f"the engine did not answer within {self._options.timeout:.0f} s of its start",
            f"see {self._runtime.log}",
        )

    def _last_words(self, status: int) -> BlockdiffError:
        """Why the engine did not start: what it printed last, or its exit status."""
        with contextlib.suppress(OSError, ValueError, IndexError, TypeError):
            last = json.loads(self._runtime.read(self._said.name).splitlines()[-1])
            if last["event"] == "failed":
                return wire.error_from_json(last)
        return EngineUnavailable(
            f"the engine ended with status {status} as it started", f"see {self._runtime.log}"
        )


class Deaths:
    """How often the engine died lately; shared by all clients through a file."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._file = runtime.folder / "deaths.json"

    def record(self, error: BlockdiffError) -> None:
        count = self._read()[0] + 1
        record = {"count": count, "at": time.time(), "error": error.to_json()}
        self._runtime.write_private(self._file.name, json.dumps(record))

    def forget(self) -> None:
        """The engine ended as it should, or a person took care of it."""
        with contextlib.suppress(OSError):
            self._file.unlink()

    def back_off(self) -> None:
        """Wait until the next start is due; raises the last error if that is not soon."""
        count, at, error = self._read()
        pause = min(2.0 ** (count - 2), _LONGEST_BACK_OFF) if count > 1 else 0.0
        left = at + pause - time.time()
        if left > _PATIENCE_SECONDS:
            again = f"it is started again in {left:.0f} s at the earliest"
            raise type(error)(
                f"{error.message}, {count} times in a row; {again}",
                error.hint or f"see {self._runtime.log}",
            )
        time.sleep(max(left, 0.0))

    def _read(self) -> tuple[int, float, BlockdiffError]:
        """Count, time of the last and what it was; a count of 0 if that was long ago."""
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError, NotPermitted):
            record = json.loads(self._runtime.read(self._file.name))
            count, at = int(record["count"]), float(record["at"])
            if 0 <= time.time() - at < _FORGET_SECONDS:
                return count, at, wire.error_from_json(record["error"])
        return 0, 0.0, EngineUnavailable("the engine died")


@contextmanager
def _held(lock: FileLock, timeout: float) -> Iterator[None]:
    from filelock import Timeout

    try:
        with lock.acquire(timeout=timeout, poll_interval=_POLL_SECONDS):
            yield
    except Timeout:
        raise EngineUnavailable(
            f"another client has been starting the engine for {timeout:.0f} s", "try again"
        ) from None


def _private(path: Path, mode: str) -> IO[bytes]:
    """Open a file that only we can read."""

    def opener(name: str, flags: int) -> int:
        return os.open(name, flags | getattr(os, "O_NOFOLLOW", 0), 0o600)

    return open(path, mode, opener=opener)
