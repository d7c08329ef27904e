"""A published folder becomes one whose matrices are packed for int8 arithmetic, once and for all.

In 8 bits what `load_transformer` does at every start with `--dtype int8`, written down: a folder of
the hub's layout with packed weights, the same tokenizer, and a `config.json` that still says what
kind of checkpoint it is. In 4 bits the matrices of the layers are rounded to Q4_K, where their
width allows it; embedding and head keep 8.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from blockdiff.errors import DiskFull, ModelUnsupported, OutputFileError
from blockdiff.model.config import TransformerConfig
from blockdiff.model.int8.four_bits import INPUTS, quantize_q4_k
from blockdiff.model.int8.packing import GROUP, ROWS, Format, check_width, pack, pack_q4_k
from blockdiff.model.load.from_folder import FORMAT, parameter_shapes, published_sources
from blockdiff.model.load.hub_config import read_json
from blockdiff.model.load.prepare import packed_names, write_shards, writing
from blockdiff.model.load.shards import Shards, shard_files
from blockdiff.types import OnProgress

_KEPT = (
    "generation_config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json",
    "added_tokens.json", "vocab.json", "merges.txt",
)  # fmt: skip
_LEGAL = ("LICENSE*", "NOTICE*")


def convert(folder: Path, target: Path, progress: OnProgress, *, bits: int = 8) -> int:
    """Write `folder` anew as `target`, which must not exist; nothing appears until all is done.

    A matrix at a time is in memory. `bits` is 8 or 4; the arithmetic is int8 in either case.

    Returns:
        Bytes of the new weights.

    Raises:
        OutputFileError: there is something at `target` already, or it cannot be written.
        ModelUnsupported: a mixture of experts, a width that int8 does not have, packed already.
        ModelCorrupt, ModelNotFound: as `load_transformer`.
        DiskFull: not enough room.
    """
    if target.exists():
        raise OutputFileError(f"{target} is there already", "name a folder that does not exist")
    raw = read_json(folder / "config.json")
    if "blockdiff_format" in raw:
        raise ModelUnsupported(f"{folder} is a prepared folder already")
    stored = Shards(shard_files(folder))
    config, names = published_sources(folder, raw, stored)
    if config.experts is not None:
        raise ModelUnsupported(f"{folder}: int8 does not cover mixtures of experts")
    shapes = parameter_shapes(config)
    matrices = packed_names(config)
    for ours in matrices:
        check_width(shapes[ours][1])
    four = _four_bits(config, matrices) if bits == 4 else frozenset[str]()
    needed = _needed(config, matrices, four)
    scratch = target.with_name(f".{target.name}.partial")
    with writing(scratch):
        target.parent.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(target.parent).free
        if free < needed * 1.02:
            raise DiskFull(
                f"{target} needs {needed / 1e9:.1f} GB, {free / 1e9:.1f} GB are free",
                "free some space, or name a folder on a larger disk",
            )
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir()
        packed: dict[str, list[dict[str, Any]]] = {}
        write_shards(_tensors(stored, names, matrices, four, packed), scratch, needed, progress)
        shards = {shard.name: shard.stat().st_size for shard in scratch.glob("*.safetensors")}
        raw |= {"blockdiff_format": FORMAT, "transformer": asdict(config), "packed": packed}
        raw["files"] = shards
        (scratch / "config.json").write_text(json.dumps(raw, indent=2), "utf-8")
        for pattern in (*_KEPT, *_LEGAL):
            for path in folder.glob(pattern):
                shutil.copyfile(path, scratch / path.name)
        scratch.rename(target)
    return sum(shards.values())


def _four_bits(config: TransformerConfig, matrices: frozenset[str]) -> frozenset[str]:
    """The matrices that 4 bits suffice for, and whose rows are whole blocks."""
    ends = ("embedding.weight", "head.weight")
    shapes = parameter_shapes(config)
    return frozenset(
        name for name in matrices if name not in ends and shapes[name][1] % INPUTS == 0
    )


def _needed(config: TransformerConfig, matrices: frozenset[str], four: frozenset[str]) -> int:
    """Bytes of the result, but for rows that fill up a tile."""
    total = 0
    for name, shape in parameter_shapes(config).items():
        numbers = shape[0] * (shape[1] if len(shape) == 2 else 1)
        if name in four:
            total += numbers // INPUTS * Format.Q4_K.tile_bytes(INPUTS) // ROWS
        elif name in matrices:
            total += numbers // GROUP * Format.Q7.tile_bytes(GROUP) // ROWS
        else:
            total += numbers * 4
    return total


def _tensors(
    stored: Shards,
    names: Mapping[str, tuple[str, ...]],
    matrices: frozenset[str],
    four: frozenset[str],
    record: dict[str, list[dict[str, Any]]],
) -> Iterator[tuple[str, Tensor]]:
    """Our tensors by name; of `matrices` the packed parts, whose formats go into `record`."""
    for ours, theirs in names.items():
        if ours not in matrices:
            yield ours, stored.join(theirs, torch.float32, "cpu")
            continue
        formats: list[dict[str, Any]] = []
        for name in theirs:
            weight = stored.join([name], torch.float32, "cpu")
            if ours in four:
                part = pack_q4_k(quantize_q4_k(weight), weight.shape[1])
            else:
                part = pack(weight)
            yield f"{ours}.{len(formats)}", part.data
            formats.append(
                {"format": part.format.value, "rows": part.rows, "inputs": part.inputs}
            )
        record[ours] = formats
