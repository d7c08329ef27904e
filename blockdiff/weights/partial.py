"""An unfinished download that can be trusted when it is taken up again."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

_CHECKPOINT = 64 << 20  # bytes that a killed process may lose


class Partial:
    """A file that grows from the front, and a record of how much of it is known to be good.

    The record holds a length and the SHA-256 of the file up to there. Taken up again, the file is
    read against it: what does not match is dropped, and so is everything past the record.

    Attributes:
        path: the growing file; the record lies beside it.
        size: good bytes so far.
    """

    def __init__(self, path: Path, progress: Callable[[str, int, int], None]) -> None:
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
        while done < size and (chunk := self._file.read(min(1 << 22, size - done))):
            digest.update(chunk)
            done += len(chunk)
            self._progress("check", done, size)
        return digest


def _record(path: Path) -> Path:
    return path.with_name(path.name + ".json")
