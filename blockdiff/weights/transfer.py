"""One file over HTTP into a `Partial`: as many connections as it takes, never from the start,
and trusted as far as its record goes when it is taken up again.

The hub's own client forgets what an interrupted process had fetched of a file; here it stays.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import httpx

CONNECT_SECONDS = 5.0
CHUNK = 1 << 22  # bytes of a file that are read at a time
_READ_SECONDS = 30.0
_CHECKPOINT = 64 << 20  # bytes that a killed process may lose
_CONNECTIONS = 20  # a broken download is resumed, as long as each connection brought something

OnTransfer = Callable[[str, int, int], None]
"""Called with the phase (`hub`, `wheels`, `copy`, `check`, `waiting`), bytes done, bytes in all."""


class SourceFailed(Exception):
    """What one source said, in one line."""


class Partial:
    """A file that grows from the front, and a record of how much of it is known to be good.

    The record holds a length and the SHA-256 of the file up to there. Taken up again, the file is
    read against it: what does not match is dropped, and so is everything past the record.

    Attributes:
        path: the growing file; the record lies beside it.
        size: good bytes so far.
    """

    def __init__(self, path: Path, progress: OnTransfer) -> None:
        """`progress` is called with "check" while an earlier download is read again."""
        self.path = path
        self.size = 0
        self._progress = progress
        self._digest = hashlib.sha256()
        self._recorded = 0
        self._file = open(path, "a+b")  # noqa: SIM115  (closed by __exit__)
        try:
            self._resume()
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> Partial:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            with self._file:
                self.checkpoint()
        except OSError:
            if error is None:
                raise  # otherwise the first failure is the one to report
        if not self.size:
            self.forget(self.path)

    @classmethod
    def forget(cls, path: Path) -> None:
        """Deletes the file at `path` and its record."""
        path.unlink(missing_ok=True)
        _record(path).unlink(missing_ok=True)

    def append(self, chunk: bytes) -> None:
        """Adds bytes at the end."""
        self._file.write(chunk)
        self._digest.update(chunk)
        self.size += len(chunk)
        if self.size - self._recorded >= _CHECKPOINT:
            self.checkpoint()

    def truncate(self, size: int) -> None:
        """Drops everything past the first `size` bytes."""
        if size < self.size:
            self._file.flush()
            self._file.truncate(size)
            self._digest, self.size = self._hash(size), size
            self.checkpoint()

    def checkpoint(self) -> None:
        """Writes the record: what is there now survives a kill."""
        self._file.flush()
        record = {"bytes": self.size, "sha256": self._digest.hexdigest()}
        path = _record(self.path)
        temporary = path.with_name(path.name + ".tmp")
        temporary.write_text(json.dumps(record), "utf-8")
        os.replace(temporary, path)
        self._recorded = self.size

    def hexdigest(self) -> str:
        """SHA-256 of the good bytes."""
        return self._digest.hexdigest()

    def _resume(self) -> None:
        try:
            record = json.loads(_record(self.path).read_text("utf-8"))
            size, sha256 = int(record["bytes"]), str(record["sha256"])
        except (OSError, ValueError, KeyError, TypeError):
            size, sha256 = 0, ""
        if 0 < size <= self.path.stat().st_size:
            digest = self._hash(size)
            if digest.hexdigest() == sha256:
                self._digest, self.size, self._recorded = digest, size, size
        self._file.truncate(self.size)

    def _hash(self, size: int) -> hashlib._Hash:
        digest, done = hashlib.sha256(), 0
        self._file.seek(0)
        while done < size and (chunk := self._file.read(min(CHUNK, size - done))):
            digest.update(chunk)
            done += len(chunk)
            self._progress("check", done, size)
        return digest


def _record(path: Path) -> Path:
    return path.with_name(path.name + ".json")


def is_offline() -> bool:
    """Whether the user wants nothing to be fetched, in the words of the hub's own client."""
    names = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
    return any(os.environ.get(name, "").upper() in ("1", "ON", "YES", "TRUE") for name in names)


def fill(url: str, size: int, partial: Partial, report: OnTransfer) -> None:
    """Append what is missing of the `size` bytes at `url`. Raises SourceFailed."""
    import httpx

    for _ in range(_CONNECTIONS):
        before = partial.size
        try:
            _stream(url, size, partial, report)
        except httpx.HTTPError as error:
            if partial.size == before:
                raise SourceFailed(one_line(error)) from error
        if partial.size == size:
            return
        if partial.size == before:
            break
        time.sleep(0.5)
    raise SourceFailed(f"stopped after {partial.size} of {size} bytes")


def _stream(url: str, size: int, partial: Partial, report: OnTransfer) -> None:
    import httpx

    headers = {"Accept-Encoding": "identity"}
    if partial.size:
        headers["Range"] = f"bytes={partial.size}-"
    timeout = httpx.Timeout(_READ_SECONDS, connect=CONNECT_SECONDS)
    with (
        _client(timeout) as http,
        http.stream("GET", url, headers=headers, follow_redirects=True) as got,
    ):
        got.raise_for_status()
        if got.status_code != httpx.codes.PARTIAL_CONTENT:
            partial.truncate(0)
        for chunk in got.iter_bytes():
            if partial.size + len(chunk) > size:
                raise SourceFailed(f"sent more than the {size} bytes the file has")
            partial.append(chunk)
            report("hub", partial.size, size)


def _client(timeout: httpx.Timeout) -> httpx.Client:
    """Raises SourceFailed where proxies or certificates of the environment cannot be used."""
    import httpx

    try:
        return httpx.Client(timeout=timeout)
    except (httpx.InvalidURL, ImportError, OSError, ValueError) as error:
        said = one_line(error)
        raise SourceFailed(f"proxies or certificates of the environment: {said}") from error


def one_line(problem: object) -> str:
    """The first line of a message that says anything, at most 200 characters."""
    lines = str(problem).split("\n")
    text = next((line.strip() for line in lines if line.strip()), type(problem).__name__)
    return text if len(text) <= 200 else text[:199] + "…"
