"""The cache folder: where it is, who may write in it, and which of its files were checked.

It is `BLOCKDIFF_CACHE`, or the user's cache folder. Nothing here imports torch.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from blockdiff.errors import DiskFull, OutputFileError
from blockdiff.types import no_op
from blockdiff.weights.transfer import CHUNK, OnTransfer

ROOM_HINT = "free some space, or set BLOCKDIFF_CACHE to a folder on a larger disk"
_NO_ROOM = (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC))  # Windows has no quotas


def cache_root() -> Path:
    """Folder that everything downloaded or derived goes to; it may not exist yet."""
    if chosen := os.environ.get("BLOCKDIFF_CACHE"):
        return Path(chosen).expanduser().absolute()
    return own_cache_root()


def own_cache_root() -> Path:
    """The cache folder of this user, whatever `BLOCKDIFF_CACHE` says."""
    import platformdirs

    return Path(platformdirs.user_cache_dir("blockdiff", appauthor=False)).absolute()


def contexts_folder() -> Path:
    """Where encoded contexts are kept; it may not exist yet."""
    return cache_root() / "contexts"


def folder_of(name: str) -> Path:
    """Folder of the cache that belongs to the model `name`."""
    return cache_root() / "models" / name


def lock(name: str) -> Any:
    """A lock between processes over the cache folder of `name`, as a context manager."""
    from filelock import FileLock

    path = folder_of(name).with_name(f".{name}.lock")
    path.parent.mkdir(parents=True, exist_ok=True)
    return FileLock(path)


@contextmanager
def locked(name: str) -> Iterator[None]:
    """Holds the lock of `name`. Raises as `writing_errors`."""
    with writing_errors(), lock(name):
        yield


@contextmanager
def writing_errors() -> Iterator[None]:
    """Turns what the system says about the cache folder into DiskFull or OutputFileError."""
    try:
        yield
    except OSError as error:
        if error.errno in _NO_ROOM:
            raise DiskFull(f"the disk of {cache_root()} is full", ROOM_HINT) from error
        raise OutputFileError(
            f"cannot write in the cache folder {cache_root()}: {error}",
            "set BLOCKDIFF_CACHE to a folder you can write to",
        ) from error


def is_verified(base: Path, sha256: str, progress: OnTransfer = no_op) -> bool:
    """Whether `base` has this digest; reads it only if it changed since the last time."""
    try:
        if json.loads(_marker(base).read_text("utf-8")) == _seen(base, sha256):
            return True
    except (OSError, ValueError):
        pass
    if sha256_of(base, progress) != sha256:
        return False
    mark_verified(base, sha256)
    return True


def mark_verified(base: Path, sha256: str) -> None:
    """Remembers that `base`, as it is now, has this digest."""
    try:
        _marker(base).write_text(json.dumps(_seen(base, sha256)), "utf-8")
    except OSError:
        pass  # a cache we cannot write to is read again next time


def _marker(base: Path) -> Path:
    return base.with_name("verified.json")


def _seen(base: Path, sha256: str) -> dict[str, str | int]:
    status = base.stat()
    return {"sha256": sha256, "size": status.st_size, "mtime_ns": status.st_mtime_ns}


def sha256_of(path: Path, progress: OnTransfer = no_op) -> str:
    """The SHA-256 of a file."""
    digest, done, total = hashlib.sha256(), 0, path.stat().st_size
    with open(path, "rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
            done += len(chunk)
            progress("check", done, total)
    return digest.hexdigest()
