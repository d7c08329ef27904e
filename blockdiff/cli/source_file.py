"""A source file on disk: read it once, find positions in it, replace it atomically.

Lines end with LF, CRLF or a lone CR, as editors count them; form feed, U+0085 and U+2028 do not
end a line. Lines and columns are 1-based, columns count Unicode code points, and the column after
a line's last character is valid. A leading byte order mark is not part of the text.
"""

from __future__ import annotations

import bisect
import contextlib
import errno
import os
import re
import shutil
import stat
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from blockdiff.config import MAX_BYTES
from blockdiff.errors import (
    DiskFull,
    InputFileError,
    InvalidRequest,
    OutputFileError,
    PositionOutside,
)
from blockdiff.types import Hole

STDIN = "-"

_BOM = b"\xef\xbb\xbf"
_NO_ROOM = (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC))  # Windows has no quotas
_LINE_END = re.compile(r"\r\n|\r|\n")


@dataclass(frozen=True, slots=True)
class SourceFile:
    """The content of a file at the moment it was read.

    Attributes:
        path: where it was read from; None is standard input.
        text: decoded content without the byte order mark, line endings untouched.
        bom: whether the file starts with a byte order mark, which is kept when it is written.
        line_starts: offset of the first code point of every line.
    """

    path: Path | None
    text: str
    bom: bool
    line_starts: tuple[int, ...]

    @classmethod
    def from_text(cls, text: str, path: Path | None = None, bom: bool = False) -> SourceFile:
        starts = (0, *(end.end() for end in _LINE_END.finditer(text)))
        return cls(path, text, bom, starts)

    @property
    def name(self) -> str:
        """How messages call this file."""
        return _label(STDIN if self.path is None else str(self.path))

    @property
    def n_lines(self) -> int:
        """Lines as an editor numbers them: after a final newline comes one more, empty."""
        return len(self.line_starts)

    def line_span(self, line: int) -> tuple[int, int]:
        """Offsets of a line's first code point and of its line ending.

        Raises:
            PositionOutside: if there is no such line.
        """
        if not 1 <= line <= self.n_lines:
            raise PositionOutside(
                f"line {line} is outside {self.name}, which has {_count(self.n_lines, 'line')}",
                f"use a line from 1 to {self.n_lines}",
            )
        start = self.line_starts[line - 1]
        if line == self.n_lines:
            return start, len(self.text)
        end = self.line_starts[line]
        return start, end - (2 if self.text[end - 2 : end] == "\r\n" else 1)

    def offset(self, line: int, column: int) -> int:
        """Offset into `text` of a 1-based position.

        Raises:
            PositionOutside: if the file has no such line or the line no such column.
        """
        start, end = self.line_span(line)
        if not 1 <= column <= end - start + 1:
            raise PositionOutside(
                f"column {column} is outside line {line} of {self.name}, "
                f"which has {_count(end - start, 'character')}",
                f"use a column from 1 to {end - start + 1}",
            )
        return start + column - 1

    def position(self, offset: int) -> tuple[int, int]:
        """1-based line and column of an offset; the inverse of `offset`."""
        line = bisect.bisect_right(self.line_starts, offset)
        return line, offset - self.line_starts[line - 1] + 1

    def replaced(self, hole: Hole, text: str) -> str:
        """The document with the hole filled."""
        return self.text[: hole.start] + text + self.text[hole.end :]


def _count(n: int, noun: str) -> str:
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"


# Reading


def read(name: str) -> SourceFile:
    """Read a file, or standard input for `-`.

    Raises:
        InputFileError: missing, unreadable, a directory, larger than `MAX_BYTES`, binary, empty,
            or not UTF-8.
    """
    path = None if name == STDIN else Path(name)
    label = _label(name)
    data = _read_bytes(path, label)
    if len(data) > MAX_BYTES:
        raise InputFileError(
            f"{label} is larger than {MAX_BYTES // 2**20} MiB",
            "pass the part around the hole on standard input: FILE `-`",
        )
    return SourceFile.from_text(*_decode(data, label, path))


def _label(name: str) -> str:
    if name == STDIN:
        return "standard input"
    return name if name and name.isprintable() else repr(name)  # errors stay on one line


def _read_bytes(path: Path | None, label: str) -> bytes:
    try:
        if path is None:
            if sys.__stdin__ is None:
                raise InputFileError("standard input is closed", "pipe the text in, or name a file")
            return sys.stdin.buffer.read(MAX_BYTES + 1)
        with open(path, "rb") as file:
            return file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        hint = "check the path; use `-` to read from standard input"
        raise InputFileError(f"{label} does not exist", hint) from None
    except IsADirectoryError:
        raise InputFileError(f"{label} is a directory", "name one file in it") from None
    except PermissionError:
        if path is not None and path.is_dir():  # how Windows refuses to open a directory
            raise InputFileError(f"{label} is a directory", "name one file in it") from None
        hint = "check its permissions: ls -l"
        raise InputFileError(f"{label} cannot be read: permission denied", hint) from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise InputFileError(f"{label} cannot be read: {reason}", "check the path") from None


def _decode(data: bytes, label: str, path: Path | None) -> tuple[str, Path | None, bool]:
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        hint = "convert it first: iconv -f UTF-16 -t UTF-8"
        raise InputFileError(f"{label} is UTF-16, not UTF-8", hint)
    if (nul := data.find(b"\0")) >= 0:
        hint = "only text files can be infilled"
        raise InputFileError(f"{label} is binary: NUL byte at offset {nul}", hint)
    bom = data.startswith(_BOM)
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise InputFileError(
            f"{label} is not UTF-8: byte 0x{data[error.start]:02x} at offset {error.start}, "
            f"line {line}",
            "convert it first, for example: iconv -f LATIN1 -t UTF-8",
        ) from None
    text = text.removeprefix("\ufeff")
    if not text:
        hint = "there is no context to infill from: write a first line, such as a comment"
        raise InputFileError(f"{label} is empty", hint)
    return text, path, bom


# Holes

HoleFinder = Callable[[SourceFile, str], Hole]


def hole_at(source: SourceFile, at: str) -> Hole:
    """`L:C`: an empty hole, text is inserted there."""
    offset = source.offset(*_position(at, "--at"))
    return Hole(offset, offset)


def hole_between(source: SourceFile, span: str, option: str = "--hole") -> Hole:
    """`L:C-L:C`: from the first position up to, not including, the second."""
    first, dash, last = span.partition("-")
    if not dash:
        raise InvalidRequest(f"{option} {span} is not a span", f"write {option} L:C-L:C")
    start = source.offset(*_position(first, option))
    end = source.offset(*_position(last, option))
    if end < start:
        problem = f"{option} {span} ends before it starts"
        raise InvalidRequest(problem, "write the earlier end first")
    return Hole(start, end)


def hole_of_lines(source: SourceFile, lines: str) -> Hole:
    """`A-B` or `A`: the content of those lines.

    The indentation of the first line and the line ending of the last stay outside the hole.
    """
    match = re.fullmatch(r"([0-9]{1,9})(?:-([0-9]{1,9}))?", lines)
    if match is None:
        raise InvalidRequest(f"--lines {lines} is not a range of lines", "write --lines A-B")
    first = int(match[1])
    last = int(match[2] or match[1])
    if last < first:
        raise InvalidRequest(f"--lines {lines} ends before it starts", f"--lines {last}-{first}")
    start, first_end = source.line_span(first)
    _, end = source.line_span(last)
    while start < first_end and source.text[start] in " \t":
        start += 1
    return Hole(start, end)


def _position(text: str, option: str) -> tuple[int, int]:
    match = re.fullmatch(r"([0-9]{1,9}):([0-9]{1,9})", text)
    if match is None:
        hint = "write line:column, both counted from 1, for example 12:5"
        raise InvalidRequest(f"{option} {text} is not a position", hint)
    return int(match[1]), int(match[2])


# Writing


def check_writable(source: SourceFile) -> None:
    """Find out before the work whether `write` can succeed.

    Raises:
        InvalidRequest: standard input has nothing to write to.
        OutputFileError: the file or its folder is read-only, or it is not a regular file.
    """
    if source.path is None:
        hint = "leave --write out: the diff goes to standard output"
        raise InvalidRequest("--write needs a file, not standard input", hint)
    target = Path(os.path.realpath(source.path))
    if not target.exists():
        raise OutputFileError(f"{source.name} was removed while the model worked", "restore it")
    if not target.is_file():
        raise OutputFileError(f"{source.name} is not a regular file", "leave --write out")
    if not os.access(target, os.W_OK):
        raise OutputFileError(f"{source.name} is read-only", f"chmod u+w {source.name}")
    if not os.access(target.parent, os.W_OK):
        raise OutputFileError(
            f"the folder of {source.name} is read-only, so the file cannot be replaced safely",
            f"make {target.parent} writable, or leave --write out and apply the diff",
        )


def write(source: SourceFile, text: str) -> None:
    """Replace the file by `text` in one step: readers see the old content or the new, no mixture.

    A symbolic link stays a link, its target is replaced. Mode, owner (where allowed) and extended
    attributes are kept.

    Raises:
        OutputFileError: the file changed since it was read, or cannot be written.
        DiskFull: no room; the file is untouched.
    """
    check_writable(source)
    assert source.path is not None
    target = Path(os.path.realpath(source.path))
    temporary = ""
    try:
        handle, temporary = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
        with open(handle, "wb") as file:
            file.write(_encode(text, source.bom))
            file.flush()
            _copy_attributes(target, temporary)
            os.fsync(file.fileno())
        if target.read_bytes() != _encode(source.text, source.bom):
            hint = "run the command again on the new content"
            raise OutputFileError(f"{source.name} was changed while the model worked", hint)
        os.replace(temporary, target)
    except BaseException as error:
        if temporary:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
        if isinstance(error, OSError):
            raise _write_error(source.name, error) from error
        raise
    _sync_folder(target.parent)


def _encode(text: str, bom: bool) -> bytes:
    return (_BOM if bom else b"") + text.encode("utf-8")


def _copy_attributes(target: Path, temporary: str) -> None:
    shutil.copystat(target, temporary)
    os.utime(temporary)  # the content is new even where the mode is not
    if hasattr(os, "chown"):
        status = os.stat(target)
        with contextlib.suppress(OSError):  # only root may give a file away
            os.chown(temporary, status.st_uid, status.st_gid)
            os.chmod(temporary, stat.S_IMODE(status.st_mode))  # chown clears set-id bits


def _sync_folder(folder: Path) -> None:
    if os.name == "nt":  # no such thing there
        return
    with contextlib.suppress(OSError):  # some file systems refuse; the replacement itself is done
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _write_error(name: str, error: OSError) -> OutputFileError | DiskFull:
    if error.errno in _NO_ROOM:
        return DiskFull(f"no room to write {name}; it is untouched", "free some disk space")
    reason = error.strerror or str(error)
    return OutputFileError(f"{name} cannot be written: {reason}", "leave --write out to see a diff")
