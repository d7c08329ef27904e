"""The header of a GGUF file, read and checked without touching its weights.

The `gguf` package builds an array view for each of the 300,000 strings of a tokenizer, 9 seconds
for the default model, and believes every number; reading them in one pass takes under one. What is
asked for here in memory and time is bounded by the size of the header, and that by `_MOST_BYTES`.
"""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass
from pathlib import Path
from reprlib import repr  # values of a file may have any length
from typing import BinaryIO

from blockdiff.errors import ModelCorrupt, ModelNotFound, ModelUnsupported

Value = bool | int | float | str | list["Value"]

_SCALARS = {
    0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d",
}  # fmt: skip
_UINT32, _STRING, _ARRAY, _UINT64 = 4, 8, 9, 10
_MAX_DEPTH = 4
_MOST_BYTES = 64 << 20  # of a header; those of the largest vocabularies have 16 MB
_MOST_ITEMS = 1 << 22  # of an array; the largest known vocabulary has 262,144 tokens
_MOST_DIMENSIONS = 4
_MOST_NAME, _MOST_KEY = 64, 256  # letters; GGML keeps 63 of a tensor's name
_ALIGNMENT = "general.alignment"


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """What a header says of a tensor.

    Attributes:
        shape: rows first; the file has it the other way round.
        kind: number of its type in GGML.
        offset: bytes from the start of the file.
    """

    name: str
    shape: tuple[int, ...]
    kind: int
    offset: int


@dataclass(frozen=True, slots=True)
class Header:
    """A header; `size` is that of the whole file in bytes."""

    path: Path
    size: int
    metadata: dict[str, Value]
    tensors: dict[str, TensorInfo]


class _Cursor:
    """Typed reads; a length beyond the end of the file is damage, not an allocation."""

    def __init__(self, file: BinaryIO, size: int, path: Path) -> None:
        self.file, self.left, self.path = file, min(size, _MOST_BYTES), path
        self.cut = size > _MOST_BYTES
        self.at = 0
        self.what = ""  # what is being read, for errors

    def corrupt(self, what: str) -> ModelCorrupt:
        where = f"{self.what}: " if self.what else ""
        return corrupt(self.path, where + what)

    def early(self) -> ModelCorrupt:
        most = f" within {_MOST_BYTES >> 20} MiB"
        return self.corrupt(f"its header does not end{most}" if self.cut else "it ends early")

    def take(self, count: int) -> bytes:
        if count > self.left:
            raise self.early()
        self.left -= count
        data = self.file.read(count)
        if len(data) != count:
            raise self.early()
        self.at += count
        return data

    def scalar(self, kind: int) -> bool | int | float:
        value: bool | int | float = self.scalars(kind, 1)[0]
        return value

    def scalars(self, kind: int, count: int) -> tuple[bool | int | float, ...]:
        code = _SCALARS.get(kind)
        if code is None:
            raise self.corrupt(f"unknown value type {kind}")
        data = self.take(struct.calcsize("<" + code) * count)
        return struct.unpack(f"<{count}{code}", data)

    def count(self) -> int:
        return int(self.scalar(_UINT64))

    def string(self) -> str:
        return self.take(self.count()).decode("utf-8", "replace")

    def name(self, most: int) -> str:
        """A string that errors can show: printable, of a length that names have."""
        name = self.string()
        if not name.isprintable() or not 1 <= len(name) <= most:
            raise self.corrupt(f"{repr(name)} is no name")
        return name

    def value(self, kind: int, depth: int = 0) -> Value:
        if kind == _STRING:
            return self.string()
        if kind != _ARRAY:
            return self.scalar(kind)
        if depth == _MAX_DEPTH:
            raise self.corrupt("arrays nested too deep")
        item, count = int(self.scalar(_UINT32)), self.count()
        if item in (_STRING, _ARRAY) and count * 8 > self.left:
            raise self.early()
        if count > _MOST_ITEMS:
            raise self.corrupt(f"an array of {count} items")
        if item in (_STRING, _ARRAY):
            return [self.value(item, depth + 1) for _ in range(count)]
        return list(self.scalars(item, count))


def corrupt(path: Path, what: str) -> ModelCorrupt:
    """The error for a damaged file."""
    return ModelCorrupt(
        f"{path} is not a usable GGUF file: {what}",
        "remove it and download it again: blockdiff models pull",
    )


def read_header(path: Path) -> Header:
    """The header of a GGUF file, version 2 or 3, little-endian. Its tensors lie within the file's
    bounds as far as their offsets go; how many bytes each has is for who knows its type.

    Raises:
        ModelNotFound: there is no such file.
        ModelUnsupported: it is of another version, or big-endian.
        ModelCorrupt: it is not GGUF, or its header is damaged.
    """
    path = Path(path)
    try:
        with open(path, "rb", buffering=1 << 20) as file:
            size = os.fstat(file.fileno()).st_size
            return _read(_Cursor(file, size, path), size)
    except OSError as error:
        raise ModelNotFound(f"cannot read {path}: {error.strerror}") from error


def read_metadata(path: Path) -> dict[str, Value]:
    """Keys and values of a GGUF file; errors as `read_header`."""
    return read_header(path).metadata


def _read(cursor: _Cursor, size: int) -> Header:
    if cursor.take(4) != b"GGUF":
        raise cursor.corrupt("it does not start with the letters GGUF")
    version = int(cursor.scalar(_UINT32))
    if version and version & 0xFFFF == 0:
        raise ModelUnsupported(f"{cursor.path} is a big-endian GGUF file")
    if version not in (2, 3):
        raise cursor.corrupt(f"format version {version}")
    n_tensors, n_keys = cursor.count(), cursor.count()
    metadata: dict[str, Value] = {}
    for _ in range(n_keys):
        key = cursor.name(_MOST_KEY)
        if key in metadata:
            raise cursor.corrupt(f"the key {key!r} is there twice")
        cursor.what = key
        metadata[key] = cursor.value(int(cursor.scalar(_UINT32)))
        cursor.what = ""
    align = metadata.get(_ALIGNMENT, 32)
    if isinstance(align, bool) or not isinstance(align, int) or align < 1 or align & (align - 1):
        raise cursor.corrupt(f"{_ALIGNMENT} is {repr(align)}, not a power of two")
    found = [_tensor(cursor) for _ in range(n_tensors)]
    start = -(-cursor.at // align) * align
    tensors: dict[str, TensorInfo] = {}
    for name, shape, kind, offset in found:
        if name in tensors:
            raise cursor.corrupt(f"tensor {name} is there twice")
        if offset % align or start + offset > size:
            raise cursor.corrupt(f"tensor {name} begins at byte {start + offset} of {size}")
        tensors[name] = TensorInfo(name, shape, kind, start + offset)
    return Header(cursor.path, size, metadata, tensors)


def _tensor(cursor: _Cursor) -> tuple[str, tuple[int, ...], int, int]:
    name = cursor.name(_MOST_NAME)
    cursor.what = f"tensor {name}"
    dimensions = int(cursor.scalar(_UINT32))
    if not 1 <= dimensions <= _MOST_DIMENSIONS:
        raise cursor.corrupt(f"it has {dimensions} dimensions")
    shape = tuple(int(extent) for extent in reversed(cursor.scalars(_UINT64, dimensions)))
    if 0 in shape:
        raise cursor.corrupt(f"it has the shape {shape}")
    kind, offset = int(cursor.scalar(_UINT32)), cursor.count()
    cursor.what = ""
    return name, shape, kind, offset


def strings(metadata: dict[str, Value], key: str) -> list[str]:
    """The string array under `key`, empty when the file has none."""
    value = metadata.get(key, [])
    return [v for v in value if isinstance(v, str)] if isinstance(value, list) else []


def integers(metadata: dict[str, Value], key: str) -> list[int]:
    """The integer array under `key`, empty when the file has none."""
    value = metadata.get(key, [])
    return [v for v in value if isinstance(v, int)] if isinstance(value, list) else []
