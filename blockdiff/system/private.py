"""Folders and files that are believed only if nobody else can have written what is in them.

Looked at through a descriptor, so that nothing can be exchanged between the look and the use.
Windows has other means for this: there the folders of a user are closed to others.
"""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from blockdiff.errors import NotPermitted

ENTER, WRITE = 0o077, 0o022
"""What others may not do: anything at all; write."""

_NO_LINK = getattr(os, "O_NOFOLLOW", 0)
_AT_ONCE = getattr(os, "O_NONBLOCK", 0)  # a pipe in place of a file would wait for its writer


def flaw(status: os.stat_result, forbidden: int) -> str:
    """What lets others write or see a folder or file; empty if it is ours alone."""
    if sys.platform == "win32":
        return ""
    if status.st_uid != os.getuid():
        return f"belongs to another user (uid {status.st_uid})"
    if stat.S_IMODE(status.st_mode) & forbidden:
        verb = "enter" if forbidden == ENTER and stat.S_ISDIR(status.st_mode) else "write to"
        verb = "read" if forbidden == ENTER and stat.S_ISREG(status.st_mode) else verb
        return f"is open: other users can {verb} it (mode {stat.S_IMODE(status.st_mode):04o})"
    return ""


def check_folder(folder: Path, forbidden: int = ENTER) -> None:
    """Raises NotPermitted if others can enter `folder` or exchange it for theirs, and OSError."""
    with _folder(folder, forbidden):
        pass


def read(folder: Path, name: str, forbidden: int = WRITE) -> str:
    """The text of a file that is ours, in a folder that is ours alone.

    Raises:
        NotPermitted: others can write it, or it is a link, or `forbidden` is `ENTER` and they can
            read it.
        OSError: as `open`, FileNotFoundError if there is no such file or folder.
    """
    with _folder(folder, ENTER) as at:
        with open(_file(folder, name, at, forbidden), encoding="utf-8", errors="replace") as file:
            return file.read()


def read_bytes(folder: Path, name: str, forbidden: int, most: int) -> bytearray:
    """The first `most` bytes of a file and one more, where there are so many. Raises as `read`."""
    with _folder(folder, ENTER) as at:
        with open(_file(folder, name, at, forbidden), "rb", buffering=0) as file:
            data = bytearray(most + 1)
            size = done = 0
            while size < len(data) and (done := file.readinto(memoryview(data)[size:]) or 0):
                size += done
            del data[size:]
            return data


def write(path: Path, data: bytes, mode: int = 0o600) -> None:
    """Write a file in one step, with `mode` from the first byte on. Raises OSError."""
    scratch = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        scratch.unlink(missing_ok=True)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
        with open(os.open(scratch, flags, mode), "wb") as file:
            file.write(data)
        os.replace(scratch, path)
    finally:
        scratch.unlink(missing_ok=True)


@contextmanager
def pinned(path: Path) -> Iterator[Path]:
    """A name for a file that is ours, in a folder of ours that others cannot write to.

    As long as the block runs, it means the file that was looked at. Raises as `read`.
    """
    with _folder(path.parent, WRITE) as at:
        os.close(_file(path.parent, path.name, at, WRITE))
        fixed = Path(f"/proc/self/fd/{at}") / path.name
        yield fixed if sys.platform == "linux" and fixed.exists() else path


@contextmanager
def _folder(folder: Path, forbidden: int) -> Iterator[int | None]:
    if sys.platform == "win32":
        folder.stat()
        yield None
        return
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        if wrong := flaw(os.fstat(handle), forbidden):
            raise NotPermitted(f"the folder {folder} {wrong}", _hint(folder, forbidden))
        for above in folder.resolve().parents:
            mode = above.stat().st_mode
            if mode & stat.S_IWOTH and not mode & stat.S_ISVTX:
                raise NotPermitted(
                    f"other users can exchange {folder}: they can write to {above}",
                    f"chmod o-w {above}",
                )
        yield handle
    finally:
        os.close(handle)


def _file(folder: Path, name: str, at: int | None, forbidden: int) -> int:
    path, flags = folder / name, os.O_RDONLY | _NO_LINK | _AT_ONCE
    if at is None:
        return os.open(path, flags)
    if stat.S_ISLNK(os.stat(name, dir_fd=at, follow_symlinks=False).st_mode):
        raise NotPermitted(f"{path} is a link", f"delete it: rm {path}")
    handle = os.open(name, flags, dir_fd=at)
    try:
        status = os.fstat(handle)
        wrong = flaw(status, forbidden) if stat.S_ISREG(status.st_mode) else "is no regular file"
        if wrong:
            raise NotPermitted(f"{path} {wrong}", f"delete it: rm {path}")
    except BaseException:
        os.close(handle)
        raise
    return handle


def _hint(folder: Path, forbidden: int) -> str:
    mode = "0700" if forbidden == ENTER else "0755"
    return f"make it your own, with mode {mode}: chmod {mode} {folder}"
