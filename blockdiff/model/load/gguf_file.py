"""A GGUF file with its tensors, mapped from disk: every number of its header is held against the
file before a byte of a weight is looked at. Parts of one model are read together."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from reprlib import repr  # values of a file may have any length
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from blockdiff.errors import ModelCorrupt, ModelNotFound, ModelUnsupported
from blockdiff.model.load.gguf_header import Header, TensorInfo, Value, corrupt, read_header
from blockdiff.model.load.shards import is_finite
from blockdiff.weights.gguf_parts import numbered, parts_of

_COUNT, _NUMBER, _TENSORS = "split.count", "split.no", "split.tensors.count"
_ARCHITECTURE = "general.architecture"
_ROWS = 8192  # of a quantized matrix that are unpacked at a time
_READABLE = "use a Q4_K_M, Q8_0 or F16 file"

_GROUP = 32  # neighbours that share a scale in most types
_EXACT = 24  # bits of float32
_BITS = {"F16": 11, "BF16": 8, "MXFP4": 3, "NVFP4": 3}
_QUANTIZED = re.compile(r"(?:I|T)?Q(\d)_")
# Measured: at most 0.72 between Q4_K and Q6_K of one matrix, 0.60 on average.
_MOST_APART = 1.5


@dataclass(frozen=True)
class GgufTensor:
    """A tensor, mapped.

    Attributes:
        path: the file that holds it.
        shape: rows first.
        kind: its `gguf.GGMLQuantizationType`.
    """

    path: Path
    name: str
    shape: tuple[int, ...]
    kind: Any
    _file: NDArray[np.uint8]
    _offset: int
    nbytes: int

    @property
    def where(self) -> str:
        """How errors name it."""
        return f"{self.path}: tensor {self.name}"

    @cached_property
    def data(self) -> NDArray[np.uint8]:
        """Its bytes, (rows, bytes of a row); a vector is one row."""
        rows = math.prod(self.shape[:-1])
        return self._file[self._offset : self._offset + self.nbytes].reshape(rows, -1)

    def floats(self) -> Iterator[Tensor]:
        """Its numbers as float32, some rows at a time.

        Raises ModelCorrupt where one is NaN or infinite, ModelUnsupported for a type that the
        `gguf` package cannot unpack.
        """
        from gguf.quants import dequantize

        for start in range(0, len(self.data), _ROWS):
            try:
                with np.errstate(all="ignore"):  # what is no number is found below
                    part = dequantize(np.array(self.data[start : start + _ROWS]), self.kind)
            except (NotImplementedError, ValueError, RuntimeError) as error:
                raise ModelUnsupported(f"{self.where}: {error}", _READABLE) from error
            found = torch.from_numpy(part)
            if not is_finite(found):
                raise self.not_finite()
            yield found

    def not_finite(self) -> ModelCorrupt:
        """The error for a weight, or a scale of a block, that is no number."""
        return ModelCorrupt(
            f"{self.where} holds NaN or infinity", "download the file again, or take another"
        )


@dataclass(frozen=True)
class Gguf:
    """Metadata of the first part, tensors of all."""

    path: Path
    metadata: Mapping[str, Value]
    tensors: Mapping[str, GgufTensor]


def open_gguf(path: Path) -> Gguf:
    """A GGUF file, whichever of its parts is named.

    Raises:
        ModelNotFound: there is no such file.
        ModelUnsupported: a version, or a type of tensor, that we do not know.
        ModelCorrupt: a damaged header; a tensor that does not lie in its file, or in that of
            another; a part that is missing or belongs to another model.
    """
    if not path.is_file():
        raise ModelNotFound(f"{path} does not exist", "run: blockdiff models pull")
    named = read_header(path)
    count = _integer(named, _COUNT, 1)
    if count <= 1:
        return Gguf(path, named.metadata, _tensors(named))
    if (marks := numbered(path)) is None or marks[1] != count:
        raise corrupt(
            path, f"{_COUNT} is {count}, but it is not called NAME-00001-of-{count:05}.gguf"
        )
    headers = [_part(each, i, count) for i, each in enumerate(parts_of(path))]
    tensors: dict[str, GgufTensor] = {}
    for header in headers:
        for name, tensor in _tensors(header).items():
            if name in tensors:
                raise corrupt(header.path, f"tensor {name} is in {tensors[name].path}, too")
            tensors[name] = tensor
    arch = headers[0].metadata.get(_ARCHITECTURE)
    for header in headers:
        if (other := header.metadata.get(_ARCHITECTURE, arch)) != arch:
            raise corrupt(header.path, f"{_ARCHITECTURE} is {repr(other)}, not {repr(arch)}")
        if (expected := _integer(header, _TENSORS, len(tensors))) != len(tensors):
            raise corrupt(
                header.path,
                f"{_TENSORS} is {expected}, but the {count} parts hold {len(tensors)} tensors:"
                " one of them belongs to another model",
            )
    return Gguf(headers[0].path, headers[0].metadata, tensors)


def _part(path: Path, index: int, count: int) -> Header:
    if not path.is_file():
        raise ModelCorrupt(
            f"{path} is missing, part {index + 1} of {count}", "put all parts into one folder"
        )
    header = read_header(path)
    for key, expected in ((_COUNT, count), (_NUMBER, index)):
        if (found := _integer(header, key, -1)) != expected:
            raise corrupt(path, f"{key} is {found}, not {expected}: it belongs to another model")
    return header


def _integer(header: Header, key: str, default: int) -> int:
    value = header.metadata.get(key, default)
    if isinstance(value, bool) or not isinstance(value, int) or not -1 <= value < 1 << 31:
        raise corrupt(header.path, f"{key} is {repr(value)}")
    return value


def _tensors(header: Header) -> dict[str, GgufTensor]:
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

    file = np.memmap(header.path, mode="r", dtype=np.uint8)
    found: dict[str, GgufTensor] = {}
    for info in header.tensors.values():
        try:
            kind = GGMLQuantizationType(info.kind)
        except ValueError as error:
            raise ModelUnsupported(
                f"{header.path}: tensor {info.name} is of the unknown type {info.kind}", _READABLE
            ) from error
        block, nbytes = GGML_QUANT_SIZES[kind]
        if info.shape[-1] % block:
            raise corrupt(
                header.path,
                f"tensor {info.name} of type {kind.name} has rows of {info.shape[-1]}, which are"
                f" no whole blocks of {block}",
            )
        size = math.prod(info.shape) // block * nbytes
        if info.offset + size > header.size:
            raise corrupt(
                header.path,
                f"tensor {info.name} of shape {info.shape} ends at byte {info.offset + size} of"
                f" {header.size}",
            )
        found[info.name] = GgufTensor(
            header.path, info.name, info.shape, kind, file, info.offset, size
        )
    _refuse_overlap(header, found)
    return found


def _refuse_overlap(header: Header, tensors: Mapping[str, GgufTensor]) -> None:
    end, before = 0, ""
    places: list[TensorInfo] = sorted(header.tensors.values(), key=lambda info: info.offset)
    for info in places:
        if info.offset < end:
            raise corrupt(header.path, f"tensors {before} and {info.name} overlap")
        end, before = info.offset + tensors[info.name].nbytes, info.name


def same_matrix(first: GgufTensor, second: GgufTensor) -> bool:
    """Whether two tensors are roundings of one matrix: every row of one lies as close to that of
    the other as the steps of both types explain.

    A step of b bits is taken for 1/(2^b - 1) of the range of 32 neighbours, what rounding to it
    costs for step^2 / 12. Raises as `GgufTensor.floats`.
    """
    if first.shape != second.shape:
        return False
    for a, b in zip(first.floats(), second.floats(), strict=True):
        rounding = _rounding(a, first) + _rounding(b, second)
        if bool(((a - b).square().sum(-1) > _MOST_APART * rounding).any()):
            return False
    return True


def _rounding(rows: Tensor, tensor: GgufTensor) -> Tensor:
    """Squared error of each row, (rows,)."""
    name: str = tensor.kind.name
    quantized = _QUANTIZED.match(name)
    bits = int(quantized[1]) if quantized else _BITS.get(name, _EXACT)
    width = rows.shape[-1]
    whole = torch.nn.functional.pad(rows, (0, -width % _GROUP)).reshape(len(rows), -1, _GROUP)
    step: Tensor = whole.abs().amax(-1) * (2 / (2**bits - 1))
    return step.square().sum(-1) * (_GROUP / 12)
