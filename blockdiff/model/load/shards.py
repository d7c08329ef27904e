"""Tensors of a folder of safetensors, mapped from disk and looked at before they are read."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from blockdiff.errors import ModelCorrupt, ModelNotFound, ModelUnsupported
from blockdiff.model.load.hub_config import read_json

_ONLY = "model.safetensors"
_PART = re.compile(r"model-\d+(-of-\d+)?\.safetensors")
_INDEX = "model.safetensors.index.json"
_PULL_AGAIN = "pull the model again"
_CHECKED = 1 << 24  # numbers that are looked at in one go
# Of tied embeddings: both copies may be there. Tables of RoPE come with old exports.
_REDUNDANT = {
    "token_embd.weight", "output.weight", "lm_head.weight", "model.transformer.ff_out.weight",
}  # fmt: skip
_TABLES = "rotary_emb.inv_freq"


def shard_files(folder: Path) -> list[Path]:
    """The safetensors files of a checkpoint, in the order of the transformers library (5.23):
    `model.safetensors`, else those that its index names, else parts of a model by their names, else
    all of the folder. What other files lie there, of an optimizer say, is no concern of ours.

    Raises:
        ModelNotFound: there are none.
        ModelUnsupported: there is nothing but pickle.
        ModelCorrupt: the index names a file that is not there, or that lies elsewhere.
    """
    if (only := folder / _ONLY).is_file():
        return [only]
    index = folder / _INDEX
    if index.is_file():
        return _indexed(folder, index)
    found = sorted(folder.glob("*.safetensors"))
    if parts := [path for path in found if _PART.fullmatch(path.name)]:
        return parts
    if found:
        return found
    if any(path for kind in ("*.bin", "*.pt", "*.pth", "*.ckpt") for path in folder.glob(kind)):
        raise ModelUnsupported(
            f"{folder} holds pickled weights, which can run code when opened",
            "convert them to safetensors first",
        )
    raise ModelNotFound(f"{folder} holds no .safetensors file")


def _indexed(folder: Path, index: Path) -> list[Path]:
    named = read_json(index).get("weight_map")
    if not isinstance(named, dict) or not named:
        raise ModelCorrupt(f"{index}: weight_map is missing", _PULL_AGAIN)
    files = sorted({str(name) for name in named.values()})
    for name in files:
        if Path(name).name != name or not name.endswith(".safetensors"):
            raise ModelCorrupt(f"{index}: weight_map names {name!r}, no file of this folder")
        if not (folder / name).is_file():
            raise ModelCorrupt(f"{folder / name} is missing", _PULL_AGAIN)
    return [folder / name for name in files]


class Shards:
    """Tensors of several safetensors files by name.

    Nothing is read before `get` or `join`; names and shapes come from the headers.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        """Raises ModelCorrupt for a file that is cut short, and for a name that is there twice."""
        self._where: dict[str, Any] = {}
        self._path: dict[str, Path] = {}
        self._folder = paths[0].parent
        for path in paths:
            try:
                shard = safe_open(path, framework="pt")
                names: list[str] = list(shard.keys())  # type: ignore[no-untyped-call]
            except (SafetensorError, OSError) as error:
                raise ModelCorrupt(f"{path}: {error}", _PULL_AGAIN) from error
            for name in names:
                if name in self._where:
                    raise ModelCorrupt(f"{path}: tensor {name} is in {self._path[name]}, too")
                self._where[name], self._path[name] = shard, path

    @property
    def names(self) -> Iterable[str]:
        return self._where.keys()

    def __len__(self) -> int:
        return len(self._where)

    def shape(self, name: str) -> tuple[int, ...]:
        """Of a tensor, from its header. Raises ModelCorrupt where it is missing."""
        return tuple(self._find(name).get_slice(name).get_shape())

    def is_packed(self, name: str) -> bool:
        """Whether a tensor holds bytes and no numbers, by its header. Raises as `shape`."""
        return bool(self._find(name).get_slice(name).get_dtype() == "U8")

    def get(self, name: str) -> Tensor:
        """A tensor, mapped. Raises ModelCorrupt where it is missing."""
        tensor: Tensor = self._find(name).get_tensor(name)
        return tensor

    def get_floats(self, name: str) -> Tensor:
        """As `get`. Raises ModelUnsupported where it does not hold float32, float16 or bfloat16."""
        tensor = self.get(name)
        if tensor.dtype not in (torch.float32, torch.float16, torch.bfloat16):
            kind = str(tensor.dtype).removeprefix("torch.")
            raise ModelUnsupported(f"{self._path[name]}: tensor {name} holds {kind}")
        return tensor

    def join(
        self, names: Sequence[str], dtype: torch.dtype, device: torch.device | str
    ) -> Tensor:
        """Tensors one above the other, copied once at most, from the file to the device.

        Raises ModelCorrupt where one is missing or holds NaN or infinity, ModelUnsupported as
        `get_floats` does. Their shapes are the caller's to check.
        """
        parts = [self.get_floats(name) for name in names]
        only = parts[0] if len(parts) == 1 else None
        if only is not None and only.dtype is dtype and torch.device(device).type == "cpu":
            joined = only  # stays mapped
        else:
            rows = sum(part.shape[0] for part in parts)
            joined = torch.empty((rows, *parts[0].shape[1:]), dtype=dtype, device=device)
            row = 0
            for part in parts:
                joined[row : row + len(part)].copy_(part)
                row += len(part)
        if not is_finite(joined):
            # Of a value that is finite in the file, the dtype asked for is to blame.
            bad = [n for n, part in zip(names, parts, strict=True) if not is_finite(part)]
            if not bad:
                raise ModelUnsupported(f"{self._folder}: {names[0]} does not fit into {dtype}")
            raise ModelCorrupt(f"{self._path[bad[0]]}: tensor {bad[0]} holds NaN or infinity")
        return joined

    def same(self, first: str, second: str) -> bool:
        """Whether two tensors hold the same numbers."""
        a, b = self.get(first), self.get(second)
        return a.shape == b.shape and torch.equal(a, b if a.dtype is b.dtype else b.to(a.dtype))

    def all(self) -> dict[str, Tensor]:
        return {name: self.get(name) for name in self._where}

    def _find(self, name: str) -> Any:
        if name not in self._where:
            raise ModelCorrupt(f"{self._folder}: tensor {name} is missing", _PULL_AGAIN)
        return self._where[name]


def is_finite(tensor: Tensor) -> bool:
    """Whether no number is NaN or infinite; takes no memory of the tensor's size."""
    flat = tensor.reshape(-1)
    for start in range(0, flat.numel(), _CHECKED):
        low, high = flat[start : start + _CHECKED].aminmax()
        if not bool(torch.isfinite(low) & torch.isfinite(high)):
            return False
    return True


def refuse_unread(
    stored: Iterable[str], read: Mapping[str, tuple[str, ...]], source: str
) -> None:
    """A tensor that none of ours is made of would change the logits: never drop it silently."""
    wanted = _REDUNDANT.union(*read.values())
    for name in sorted(stored):
        if name not in wanted and not name.endswith(_TABLES):
            raise ModelUnsupported(f"{source}: tensor {name} has no place in this architecture")


def check_shape(
    parts: Sequence[tuple[int, ...]], expected: tuple[int, ...], names: Sequence[str], source: str
) -> None:
    """Whether published tensors, one above the other, make one of ours."""
    rest = expected[1:]
    if all(len(part) == len(expected) and part[1:] == rest for part in parts) and (
        sum(p[0] for p in parts) == expected[0]
    ):
        return
    most = 4  # hundreds of experts would fill the screen
    pairs = list(zip(names, parts, strict=True))[:most]
    found = ", ".join(f"{name} {part}" for name, part in pairs)
    raise ModelCorrupt(f"{source}: {found} do not make a tensor of shape {expected}")


def joined(parts: list[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts)
