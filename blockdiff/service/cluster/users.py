"""Who of a team may ask, and how much: one token per user, of which only a digest is kept."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import re
import secrets
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from msgspec import to_builtins

from blockdiff.client import strict
from blockdiff.errors import InvalidRequest, RateLimited

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.@-]{0,63}")
_QUOTAS = "such as 2000/hour, or 60/minute;5000/day"

log = logging.getLogger("blockdiff.service")


@dataclass(frozen=True, slots=True)
class User:
    """One user as the file has him.

    Attributes:
        token_sha256: digest of his token, in hexadecimal.
        quota: requests in a time, in the notation of the library limits; empty: no limit.
        at_once: requests that he may have at a time.
    """

    token_sha256: str
    quota: str = ""
    at_once: int = 8

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[0-9a-f]{64}", self.token_sha256):
            raise InvalidRequest("token_sha256 must be 64 hexadecimal digits")
        if self.at_once < 1:
            raise InvalidRequest(f"at_once must be 1 or more, got {self.at_once}")
        if self.quota:
            import limits

            try:
                limits.parse_many(self.quota)
            except ValueError:
                raise InvalidRequest(f"{self.quota[:80]!r} is no quota", _QUOTAS) from None


class UsersFile:
    """The file; whoever serves reads it again when it has changed."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen: tuple[int, int, int] | None = None
        self._by_digest: dict[str, str] = {}
        self._users: dict[str, User] = {}

    def read(self) -> dict[str, User]:
        """By name. Raises InvalidRequest; FileNotFoundError."""
        table = strict.parse(self._path.read_bytes())
        users = {name: strict.read(User, value, name) for name, value in table.items()}
        if len({user.token_sha256 for user in users.values()}) < len(users):
            raise InvalidRequest("two users have one token", "give one of them another")
        for name in users:
            _check_name(name)
        return users

    def add(self, name: str, quota: str, at_once: int) -> str:
        """His token, which nobody can read again. Who has one already gets another."""
        _check_name(name)
        token = secrets.token_urlsafe(32)
        with contextlib.suppress(FileNotFoundError):
            self._users = self.read()
        self._write({**self._users, name: User(_digest(token.encode()), quota, at_once)})
        return token

    def remove(self, name: str) -> None:
        users = self.read()
        if name not in users:
            raise InvalidRequest(f"no user {name[:64]!r}", f"there are {', '.join(users)}")
        del users[name]
        self._write(users)

    def _write(self, users: dict[str, User]) -> None:
        text = json.dumps({name: to_builtins(user) for name, user in users.items()}, indent=2)
        made, scratch = tempfile.mkstemp(dir=self._path.parent)  # for its owner alone
        try:
            with os.fdopen(made, "w") as file:
                file.write(text + "\n")
            os.replace(scratch, self._path)
        except BaseException:
            os.unlink(scratch)
            raise

    def identify(self, token: bytes) -> str | None:
        """Whose token it is; None: nobody's."""
        self._refresh()
        return self._by_digest.get(_digest(token))

    def user(self, name: str) -> User | None:
        """As the file has him now."""
        return self._users.get(name)

    def _refresh(self) -> None:
        """What cannot be read changes nothing; without a file nobody is let in."""
        try:
            stat = self._path.stat()
            seen = stat.st_mtime_ns, stat.st_size, stat.st_ino
            if seen == self._seen:
                return
            self._seen = seen
            self._users = self.read()
        except FileNotFoundError:
            self._users, self._seen = {}, None
        except (OSError, InvalidRequest) as error:
            log.error("the users stay as they were: %s", error)
        self._by_digest = {user.token_sha256: name for name, user in self._users.items()}


class Quotas:
    """What each user has asked for lately, and has running."""

    def __init__(self, users: UsersFile) -> None:
        from limits.storage import MemoryStorage
        from limits.strategies import SlidingWindowCounterRateLimiter

        self._users = users
        self._limiter = SlidingWindowCounterRateLimiter(MemoryStorage())
        self._running: Counter[str] = Counter()

    def enter(self, name: str) -> Callable[[], None]:
        """Count a request; what is to be called when it is over. Raises RateLimited."""
        import limits

        user = self._users.user(name)
        if user is None:  # removed a moment ago
            raise RateLimited(f"{name} may not ask any more", "ask whoever runs the engine")
        if self._running[name] >= user.at_once:
            raise RateLimited(
                f"{user.at_once} requests of {name} are running already", "wait for one to end"
            )
        parts = limits.parse_many(user.quota) if user.quota else []
        for part in parts:
            if not self._limiter.test(part, name):
                reset = self._limiter.get_window_stats(part, name).reset_time
                seconds = max(1, round(reset - time.time()))
                raise RateLimited(f"the quota of {name}, {part}, is used up", f"ask in {seconds} s")
        for part in parts:
            self._limiter.hit(part, name)
        self._running[name] += 1
        left = [name]

        def leave() -> None:
            if left:
                self._running[left.pop()] -= 1

        return leave


def _digest(token: bytes) -> str:
    return hashlib.sha256(token).hexdigest()


def _check_name(name: str) -> None:
    if not _NAME.fullmatch(name):
        raise InvalidRequest(
            f"{name[:64]!r} is no name of a user", "letters, digits and _ . @ - only, 64 at most"
        )
