"""Files for their owner alone, checked by digest, that take so many bytes at most.

    <root>/<group>/<name>    the SHA-256 of the name and of what follows it; the data

The least recently used go first, whatever group they are of. What cannot be believed (damaged, of
another user, open to others, a link) is removed unread; what cannot be written is left out.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from blockdiff.errors import BlockdiffError, NotPermitted
from blockdiff.system import private

_DIGEST_SIZE = hashlib.sha256().digest_size
_LEAST_FREE = 1 << 30  # bytes of the disk that are left to others


@dataclass(frozen=True, slots=True)
class BlobFolder:
    """A group of files under a root that all groups share, with its budget in bytes."""

    root: Path
    group: str
    budget: int

    def path(self, name: str) -> Path:
        return self.root / self.group / name

    def read(self, name: str, size: int) -> bytearray | None:
        """The `size` bytes of a file; None where there is none.

        Raises BlockdiffError for one that is damaged or not ours alone, which is removed if the
        folder is ours alone, and OSError.
        """
        path = self.path(name)
        try:
            data = private.read_bytes(path.parent, name, private.ENTER, _DIGEST_SIZE + size)
        except FileNotFoundError:
            return None
        except NotPermitted:
            private.check_folder(path.parent)
            _remove(path)
            raise
        digest, rest = data[:_DIGEST_SIZE], data[_DIGEST_SIZE:]
        if len(rest) != size or digest != _digest(name, rest):
            _remove(path)
            raise BlockdiffError(f"{path} is damaged and was removed")
        return rest

    def use(self, names: Iterable[str]) -> None:
        """Take note that files were used, the first ones to be kept longest."""
        now = time.time_ns()
        for age, name in enumerate(names):
            _date(self.path(name), now - age)

    def writing(self, blobs: Iterable[tuple[str, Callable[[], bytes]]]) -> Iterator[None]:
        """Write files that are not there yet, and take note of those that are, as `use` does.

        Each is asked for its data when its turn has come. No step waits for the disk. Ends early
        where the rest would exceed the budget.

        Raises BlockdiffError where the folder is not ours alone, and OSError, as of a full disk.
        """
        room = _Room.of(self)
        room.make(0)  # the budget may have been larger
        began = time.time_ns()
        for age, (name, data) in enumerate(blobs):
            path = self.path(name)
            if path in room.files:
                _date(path, began - age)
                room.use(path)
                continue
            writer = _Writer(room, path, data(), began - age)
            while writer.is_alive():
                yield
            if writer.failure is not None:
                raise writer.failure
            if not writer.fits:
                return


class _Room:
    """What lies under the root, as far as this process knows, and what may be removed of it."""

    def __init__(self, root: Path, files: dict[Path, int], budget: int) -> None:
        self.root, self.files, self._budget = root, files, budget
        self._removable = list(files)  # what goes first last
        self._used: set[Path] = set()

    @classmethod
    def of(cls, folder: BlobFolder) -> _Room:
        for made in (folder.root, folder.root / folder.group):
            made.mkdir(mode=0o700, parents=True, exist_ok=True)
            private.check_folder(made)
        found = sorted(_files(folder.root), key=lambda one: -one[1].st_mtime_ns)
        return cls(folder.root, {path: of.st_size for path, of in found}, folder.budget)

    def use(self, path: Path) -> None:
        self._used.add(path)

    def make(self, size: int) -> bool:
        """Remove what was used longest ago until `size` bytes fit; whether they do."""
        total = sum(self.files.values())
        while total + size > self._budget:
            if not self._removable:
                return False
            path = self._removable.pop()
            if path not in self._used:
                total -= self.files.pop(path)
                _remove(path)
        return True


class _Writer(threading.Thread):
    """Writes one file and ends; nobody has to wait for a disk that hangs.

    Attributes:
        failure: why it could not be written.
        fits: whether the budget had room for it.
    """

    def __init__(self, room: _Room, path: Path, data: bytes, stamp: int) -> None:
        super().__init__(name="blockdiff-blobs", daemon=True)
        self._room, self._path, self._data, self._stamp = room, path, data, stamp
        self.failure: OSError | None = None
        self.fits = True
        self.start()

    def run(self) -> None:
        size = _DIGEST_SIZE + len(self._data)
        try:
            self.fits = self._room.make(size)
            if self.fits:
                self._check_disk(size)
                self._write()
                self._room.files[self._path] = size
        except OSError as error:
            self.failure = error

    def _check_disk(self, size: int) -> None:
        root = self._room.root
        if shutil.disk_usage(root).free < size + _LEAST_FREE:
            raise OSError(f"less than {_LEAST_FREE >> 30} GiB of the disk of {root} is free")

    def _write(self) -> None:
        handle, name = tempfile.mkstemp(dir=self._path.parent)  # for its owner alone
        scratch = Path(name)
        try:
            with open(handle, "wb") as file:
                file.write(_digest(self._path.name, self._data))
                file.write(self._data)
            _date(scratch, self._stamp)
            os.replace(scratch, self._path)
        except BaseException:
            _remove(scratch)
            raise


def size_below(root: Path) -> int:
    """Bytes of all files under a root; 0 where it does not exist."""
    return sum(status.st_size for _, status in _files(root))


def clear(root: Path) -> int:
    """Remove all of a root and return the bytes freed. Raises OSError."""
    freed = size_below(root)
    with suppress(FileNotFoundError):
        shutil.rmtree(root)
    return freed


def _files(root: Path) -> Iterator[tuple[Path, os.stat_result]]:
    for path in root.glob("*/*"):
        with suppress(OSError):  # another process has just removed it
            yield path, path.lstat()


def _digest(name: str, data: bytes | bytearray) -> bytes:
    digest = hashlib.sha256(name.encode())
    digest.update(data)
    return digest.digest()


def _date(path: Path, stamp: int) -> None:
    with suppress(OSError):
        os.utime(path, ns=(stamp, stamp))


def _remove(path: Path) -> None:
    with suppress(OSError):
        path.unlink()
