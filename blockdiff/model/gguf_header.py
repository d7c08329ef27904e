"""Metadata of a GGUF file, read without touching its tensors.

The `gguf` package builds an array view for each of the 300,000 strings of a tokenizer, 9 seconds
for the default model; reading them in one pass takes under one.
"""

from __future__ import annotations

import os
import struct
from pathlib import Path
from typing import BinaryIO

from blockdiff.errors import ModelCorrupt, ModelNotFound

Value = bool | int | float | str | list["Value"]

_SCALARS = {
    0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d",
}  # fmt: skip
_STRING, _ARRAY = 8, 9
_MAX_DEPTH = 4


class _Cursor:
    """Typed reads; a length beyond the end of the file is damage, not an allocation."""

    def __init__(self, file: BinaryIO, size: int, path: Path) -> None:
        self.file, self.left, self.path = file, size, path

    def corrupt(self, what: str) -> ModelCorrupt:
        return ModelCorrupt(
            f"{self.path.name} is not a usable GGUF file: {what}",
            "remove it and download it again: blockdiff models pull",
        )

    def take(self, count: int) -> bytes:
        if count > self.left:
            raise self.corrupt("its header ends early")
        self.left -= count
        data = self.file.read(count)
        if len(data) != count:
            raise self.corrupt("its header ends early")
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
        return int(self.scalar(10))

    def string(self) -> str:
        return self.take(self.count()).decode("utf-8", "replace")

    def value(self, kind: int, depth: int = 0) -> Value:
        if kind == _STRING:
            return self.string()
        if kind != _ARRAY:
            return self.scalar(kind)
        if depth == _MAX_DEPTH:
            raise self.corrupt("arrays nested too deep")
        item, count = int(self.scalar(4)), self.count()
        if item in (_STRING, _ARRAY):
            if count * 8 > self.left:
                raise self.corrupt("its header ends early")
            return [self.value(item, depth + 1) for _ in range(count)]
        return list(self.scalars(item, count))


def read_metadata(path: Path) -> dict[str, Value]:
    """Keys and values of a GGUF file, version 2 or 3, little-endian.

    Raises:
        ModelNotFound: there is no such file.
        ModelCorrupt: it is not GGUF, or its header is damaged.
    """
    path = Path(path)
    try:
        with open(path, "rb", buffering=1 << 20) as file:
            cursor = _Cursor(file, os.fstat(file.fileno()).st_size, path)
            return _read(cursor)
    except OSError as error:
        raise ModelNotFound(f"cannot read {path}: {error.strerror}") from error


def _read(cursor: _Cursor) -> dict[str, Value]:
    if cursor.take(4) != b"GGUF":
        raise cursor.corrupt("it does not start with the letters GGUF")
    version = cursor.scalar(4)
    if version not in (2, 3):
        raise cursor.corrupt(f"format version {version}")
    cursor.count()  # tensors
    metadata: dict[str, Value] = {}
    for _ in range(cursor.count()):
        key = cursor.string()
        metadata[key] = cursor.value(int(cursor.scalar(4)))
    return metadata


def strings(metadata: dict[str, Value], key: str) -> list[str]:
    """The string array under `key`, empty when the file has none."""
    value = metadata.get(key, [])
    return [v for v in value if isinstance(v, str)] if isinstance(value, list) else []


def integers(metadata: dict[str, Value], key: str) -> list[int]:
    """The integer array under `key`, empty when the file has none."""
    value = metadata.get(key, [])
    return [v for v in value if isinstance(v, int)] if isinstance(value, list) else []
