"""Where the engine of this user is found: one private folder.

    <runtime>/engine.json   where the running engine listens; left behind only if it was killed
    <runtime>/engine.sock   its Unix socket, where the system has them
    <runtime>/token         what every request must carry; mode 0600
    <runtime>/compat.token  the same at the endpoints for clients of other servers
    <runtime>/engine.lock   held by the engine as long as it lives
    <runtime>/start.lock    held by a client while it starts one
    <runtime>/engine.log    what an engine that a client started has to say
    <runtime>/missed.json   why the last automatic completion did not come, from the language server

The folder is `BLOCKDIFF_RUNTIME`, or one in the user's state folder: unlike the runtime folder it
is the same in every session, with whatever environment. It is looked at before anything in it is
believed: what is there decides where source text is sent. Nothing here imports torch.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import json
import os
import platform
import secrets
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from blockdiff.client import wire
from blockdiff.client.connections import Address, unreachable
from blockdiff.errors import EngineUnavailable, InvalidRequest, NotPermitted, Unauthorized
from blockdiff.system import private

if TYPE_CHECKING:
    import httpx
    from filelock import FileLock

COMPAT_TOKEN = "compat.token"
COMPAT_ADDRESS = "127.0.0.1:8012"
"""Where llama.vim looks for a server."""

_LONGEST_SOCKET_PATH = 100  # bytes; systems allow 104 to 108
_DENIED = (errno.EACCES, errno.EPERM, errno.EROFS)


@dataclass(frozen=True, slots=True)
class Announcement:
    """What a running engine tells its clients.

    Attributes:
        compat: URL of the endpoints for clients of other servers; empty where there are none.
    """

    pid: int
    address: Address
    compat: str = ""


@dataclass(frozen=True, slots=True)
class Runtime:
    """The folder in which the clients and the engine of one user meet."""

    folder: Path

    @classmethod
    def default(cls) -> Runtime:
        if chosen := os.environ.get("BLOCKDIFF_RUNTIME"):
            return cls(Path(chosen).expanduser().absolute())
        import platformdirs

        folder = Path(platformdirs.user_state_dir("blockdiff", appauthor=False)).absolute()
        # Machines that share a home folder do not share an engine.
        return cls(folder / (platform.node() or "here") if sys.platform == "linux" else folder)

    @property
    def log(self) -> Path:
        return self.folder / "engine.log"

    @property
    def socket(self) -> Path | None:
        """None where there are no Unix sockets, or the path would be too long for one."""
        path = self.folder / "engine.sock"
        usable = sys.platform != "win32" and len(os.fsencode(path)) <= _LONGEST_SOCKET_PATH
        return path if usable else None

    @property
    def token_file(self) -> Path:
        return self.folder / "token"

    @property
    def life_lock(self) -> FileLock:
        """Held by the engine as long as it lives, by nobody else for longer than a glance."""
        return self._lock("engine.lock")

    @property
    def start_lock(self) -> FileLock:
        """Held by the one client that starts the engine."""
        return self._lock("start.lock")

    def _lock(self, name: str) -> FileLock:
        from filelock import FileLock

        return FileLock(self.folder / name, mode=0o600)

    def prepare(self) -> None:
        """Make the folder. Raises NotPermitted if others could read or write it."""
        with self.access():
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self.is_there()

    def is_there(self) -> bool:
        """Whether there is such a folder. Raises NotPermitted if others could read or write it."""
        with self.access():
            try:
                private.check_folder(self.folder)
            except (FileNotFoundError, NotADirectoryError):
                return False
            except NotPermitted as error:
                raise self._open_to_others(error) from error
        return True

    def read(self, name: str, forbidden: int = private.WRITE) -> str:
        """The text of a file of the folder that nobody else can have written.

        Raises:
            NotPermitted: others can; nothing of it has been read.
            OSError: it cannot be read.
        """
        try:
            return private.read(self.folder, name, forbidden)
        except NotPermitted as error:
            raise self._open_to_others(error) from error

    def _open_to_others(self, error: NotPermitted) -> NotPermitted:
        own = "or set BLOCKDIFF_RUNTIME to a folder of your own that has mode 0700"
        return NotPermitted(error.message, f"{error.hint}, {own}")

    @contextmanager
    def access(self) -> Iterator[None]:
        """Turns what the system says about the folder into typed errors."""
        try:
            yield
        except OSError as error:
            hint = "set BLOCKDIFF_RUNTIME to a folder you can write to"
            message = f"cannot use the folder {self.folder}: {error.strerror or error}"
            kind = NotPermitted if error.errno in _DENIED else EngineUnavailable
            raise kind(message, hint) from error

    def announce(self, announcement: Announcement) -> None:
        value = dataclasses.asdict(announcement)
        self.write_private("engine.json", json.dumps(value))

    def retract(self) -> None:
        """Nobody should come any more."""
        (self.folder / "engine.json").unlink(missing_ok=True)
        if self.socket is not None:
            self.socket.unlink(missing_ok=True)

    def announced(self) -> Announcement | None:
        """What the engine said, which may be dead by now; None if there is none.

        Raises NotPermitted if others may have said it.
        """
        with self.access():
            try:
                raw = json.loads(self.read("engine.json"))
                compat = str(raw.get("compat", ""))
                return Announcement(int(raw["pid"]), Address(**raw["address"]), compat)
            except (FileNotFoundError, NotADirectoryError):
                return None
            except (ValueError, KeyError, TypeError):
                return None  # not of ours, or of another version; nobody can answer there

    def token(self) -> str:
        """What the engine expects. Raises Unauthorized if there is none, NotPermitted."""
        with self.access():
            try:
                return self.read(self.token_file.name, private.ENTER).strip()
            except FileNotFoundError:
                pass
        raise Unauthorized(f"there is no token in {self.token_file}", "start an engine first")

    def make_token(self, name: str = "token") -> str:
        """The token of the last engine, or a new one if there is none that was kept private."""
        with self.access():
            with contextlib.suppress(FileNotFoundError, NotPermitted):
                kept = self.read(name, private.ENTER).strip()
                if len(kept) >= 32 and kept.isascii() and kept.isalnum():
                    return kept
            token = secrets.token_hex(32)
            self.write_private(name, token + "\n")
            return token

    def write_private(self, name: str, text: str) -> None:
        """Write a file that only we can read, in one step."""
        path = self.folder / name
        temporary = path.with_name(f"{name}.{os.getpid()}.tmp")
        with self.access():
            temporary.unlink(missing_ok=True)
            handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with open(handle, "w", encoding="utf-8") as file:
                file.write(text)
            os.replace(temporary, path)


def check(response: httpx.Response) -> None:
    """Raise the typed error that an engine answered with; its body must have been read."""
    if response.status_code < 400:
        return
    try:
        raise wire.error_from_json(dict(response.json()))
    except (ValueError, TypeError):
        raise EngineUnavailable(
            f"what answers is no engine: HTTP status {response.status_code}",
            "check engine.url and what else listens there",
        ) from None


def sync_client(address: Address, token: str, timeout: float) -> httpx.Client:
    import httpx

    path = address.socket_path
    transport = httpx.HTTPTransport(uds=path, verify=False) if path is not None else None
    options = address.http_options() | address.engine_options(token)
    return httpx.Client(transport=transport, timeout=timeout, **options)


def health(address: Address, token: str, timeout: float = 2.0) -> wire.Health:
    """Ask the engine at `address` how it is.

    Raises EngineUnavailable, Unauthorized, EngineMismatch, NotPermitted.
    """
    import httpx

    try:
        with sync_client(address, token, timeout) as client:
            response = client.get("/health")
    except httpx.HTTPError as error:
        raise unreachable(address, error) from error
    check(response)
    try:
        return wire.Health.from_json(dict(response.json()))
    except (ValueError, TypeError, InvalidRequest) as error:
        raise EngineUnavailable(f"what answers at {address.url} is no engine") from error
