"""A GGUF file becomes a prepared folder, once: in bfloat16, or packed for int8 arithmetic.

Sharded safetensors of our own tensor names and a `config.json`, beside the file's tokenizer in the
cache folder; every later start maps those shards.
"""

from __future__ import annotations

import errno
import json
import math
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from reprlib import repr  # a value may be a list of millions
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from blockdiff.errors import DiskFull, ModelCorrupt, ModelUnsupported, OutputFileError
from blockdiff.model.config import TransformerConfig
from blockdiff.model.int8.packing import (
    ROWS,
    Format,
    Packed,
    check_width,
    has_finite_scales,
    pack,
    pack_q4_k,
    pack_q6_k,
    packed_format,
)
from blockdiff.model.load.from_folder import FORMAT, parameter_shapes
from blockdiff.model.load.gguf_config import config_from_gguf, unpermute
from blockdiff.model.load.gguf_file import Gguf, GgufTensor, open_gguf, same_matrix
from blockdiff.model.load.hub_config import read_json
from blockdiff.model.load.shards import check_shape, is_finite, joined, refuse_unread
from blockdiff.model.load.tensor_names import GGUF, TensorSources, sources
from blockdiff.types import OnProgress, no_op
from blockdiff.weights.folders import ROOM_HINT

_SHARD_BYTES = 500_000_000
_PREPARATION = 2  # raise it when files that are there already have to be prepared anew
_EMBEDDING, _HEAD = "token_embd.weight", "output.weight"
_TOKENS = "tokenizer.ggml.tokens"


def prepare_gguf(
    path: Path,
    folder: Path,
    progress: OnProgress = no_op,
    *,
    int8: bool = False,
) -> None:
    """Unpack a GGUF file into `folder`; nothing appears there until all of it is done.

    In bfloat16 about half a minute for 1.5 B parameters; with `int8` some seconds: matrices keep
    the file's own numbers, in another order, and all else is float32.

    All of the header is checked before anything is written, every weight while it is unpacked.

    Raises ModelCorrupt for a damaged file, ModelUnsupported for one with tensors we do not know,
    DiskFull when the result does not fit, OutputFileError where nothing can be written.
    """
    file = open_gguf(path)
    path = file.path
    config, names = gguf_sources(file)
    matrices = packed_names(config) if int8 else frozenset[str]()
    tensors = file.tensors
    needed = sum(
        _packed_bytes(tensors[name])
        if ours in matrices
        else math.prod(tensors[name].shape) * (4 if int8 else 2)
        for ours, theirs in names.items()
        for name in theirs
    )
    scratch = folder.with_name(folder.name + ".partial")
    with writing(scratch):
        folder.parent.mkdir(parents=True, exist_ok=True)
        if shutil.disk_usage(folder.parent).free < needed * 1.02:
            raise DiskFull(
                f"preparing {path.name} needs {needed / 1e9:.1f} GB in {folder.parent}", ROOM_HINT
            )
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir()
        record: dict[str, Any] = {"blockdiff_format": FORMAT, "transformer": asdict(config)}
        record |= {"preparation": _PREPARATION, "packed": {}}
        unpacked = _unpack_all(config, names, tensors, matrices, record["packed"])
        if int8:
            unpacked = ((n, t if t.dtype == torch.uint8 else t.float()) for n, t in unpacked)
        write_shards(unpacked, scratch, needed, progress)
        shards = sorted(scratch.glob("*.safetensors"))
        record["files"] = {shard.name: shard.stat().st_size for shard in shards}
        (scratch / "config.json").write_text(json.dumps(record, indent=2), "utf-8")
        shutil.rmtree(folder, ignore_errors=True)
        scratch.rename(folder)


def gguf_sources(file: Gguf) -> tuple[TransformerConfig, TensorSources]:
    """Shape of a GGUF file's model, and what each of our tensors is made of; all are there.

    Raises ModelCorrupt and ModelUnsupported as `prepare_gguf`.
    """
    source, tensors = str(file.path), file.tensors
    if (embedding := tensors.get(_EMBEDDING)) is None:
        raise ModelCorrupt(f"{source}: tensor {_EMBEDDING} is missing")
    rows = embedding.shape[0]
    listed = file.metadata.get(_TOKENS, [])
    if not isinstance(listed, list) or len(listed) > rows:
        raise ModelCorrupt(
            f"{embedding.where} has {rows} rows, but {_TOKENS} lists"
            f" {len(listed) if isinstance(listed, list) else repr(listed)} tokens"
        )
    known = {**file.metadata, "vocab_size": rows, "tied_embeddings": _HEAD not in tensors}
    config = config_from_gguf(known, source)
    if config.n_layers > len(tensors):  # not even their names are worth making
        raise ModelCorrupt(
            f"{source}: metadata: block_count is {config.n_layers}, but {len(tensors)} tensors"
            " are there"
        )
    _check_all(config, sources(config, GGUF), tensors, source)
    # The default model's file stores the tied matrix twice: as the embedding and, in more bits,
    # as the head. The finer copy serves as both. Qwen2 and Qwen3 below 3 B are published tied.
    twice = not config.tied_embeddings and known["general.architecture"] in ("qwen2", "qwen3")
    if twice and same_matrix(embedding, tensors[_HEAD]):
        config = replace(config, tied_embeddings=True)
        return config, sources(config, GGUF) | {"embedding.weight": (_HEAD,)}
    return config, sources(config, GGUF)


def packed_names(config: TransformerConfig) -> frozenset[str]:
    """Our names of the matrices that int8 packs."""
    shapes = parameter_shapes(config)
    return frozenset(name for name, shape in shapes.items() if len(shape) == 2)


def is_prepared(folder: Path) -> bool:
    """Whether `folder` holds a prepared checkpoint of the present format, whole."""
    try:
        record = read_json(folder / "config.json")
    except ModelCorrupt:
        return False
    files = record.get("files")
    known = (record.get("blockdiff_format"), record.get("preparation")) == (FORMAT, _PREPARATION)
    if not known or not isinstance(files, dict) or not files:
        return False
    return all(
        (folder / name).is_file() and (folder / name).stat().st_size == size
        for name, size in files.items()
    )


@contextmanager
def writing(scratch: Path) -> Iterator[None]:
    """Turns what goes wrong while `scratch` is written into our errors, and removes it."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        # safetensors does not pass on why a write failed; there is hardly another reason
        number = getattr(error, "errno", errno.ENOSPC)
        if number in (errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC)):
            raise DiskFull(f"cannot write {scratch}: {error}", ROOM_HINT) from error
        raise OutputFileError(
            f"cannot write {scratch}: {error}", "set BLOCKDIFF_CACHE to a folder you can write to"
        ) from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _check_all(
    config: TransformerConfig,
    names: Mapping[str, tuple[str, ...]],
    tensors: Mapping[str, GgufTensor],
    source: str,
) -> None:
    """Whether all tensors are there, each in its shape, and no other."""
    refuse_unread(tensors, names, source)
    shapes = parameter_shapes(config)
    for ours, theirs in names.items():
        for name in theirs:
            if name not in tensors:
                raise ModelCorrupt(f"{source}: tensor {name} is missing")
        check_shape([tensors[name].shape for name in theirs], shapes[ours], theirs, source)


def _unpack_all(
    config: TransformerConfig,
    names: Mapping[str, tuple[str, ...]],
    tensors: Mapping[str, GgufTensor],
    matrices: Iterable[str],
    record: dict[str, list[dict[str, Any]]],
) -> Iterator[tuple[str, Tensor]]:
    """Our tensors by name. Of `matrices` the packed parts, whose formats go into `record`."""
    interleaved = not config.qkv_bias and not config.qk_norm  # the Llama family
    permuted = {".attn_q.": config.n_heads, ".attn_k.": config.n_kv_heads} if interleaved else {}
    for ours, theirs in names.items():
        parts: list[Tensor] = []
        formats: list[dict[str, Any]] = []
        for name in theirs:
            heads = next((n for key, n in permuted.items() if key in name), 0)
            if ours not in matrices:
                part = _unpack(tensors[name])
                parts.append(unpermute(part, heads) if heads else part)
                continue
            packed = _pack(tensors[name], heads)
            yield f"{ours}.{len(formats)}", packed.data
            formats.append(
                {"format": packed.format.value, "rows": packed.rows, "inputs": packed.inputs}
            )
        if parts:
            yield ours, joined(parts)
        else:
            record[ours] = formats


def _pack(tensor: GgufTensor, heads: int) -> Packed:
    """A matrix in the order of the compiled product; `heads` of Llama's queries or keys."""
    inputs = tensor.shape[1]
    check_width(inputs)
    form, raw = packed_format(tensor.kind.name), tensor.data
    if form is Format.Q7:
        weight = _unpack(tensor)
        return pack(unpermute(weight, heads) if heads else weight)
    if not has_finite_scales(form, raw):
        raise tensor.not_finite()
    if heads:
        raw = unpermute(torch.from_numpy(raw.copy()), heads).numpy()
    return pack_q4_k(raw, inputs) if form is Format.Q4_K else pack_q6_k(raw, inputs)


def _packed_bytes(tensor: GgufTensor) -> int:
    rows, inputs = tensor.shape
    return -(-rows // ROWS) * packed_format(tensor.kind.name).tile_bytes(inputs)


def _unpack(tensor: GgufTensor) -> Tensor:
    """Dequantize to bfloat16, some rows at a time. Norms and biases go the same way."""
    out = torch.empty(tensor.shape, dtype=torch.bfloat16)
    rows, row = out.view(-1, tensor.shape[-1]), 0
    for part in tensor.floats():
        rows[row : row + len(part)] = part
        row += len(part)
    if not is_finite(out):
        raise ModelUnsupported(f"{tensor.where} does not fit into bfloat16")
    return out


def write_shards(
    tensors: Iterator[tuple[str, Tensor]], folder: Path, total: int, progress: OnProgress
) -> None:
    shard: dict[str, Tensor] = {}
    done = held = count = 0
    for name, tensor in tensors:
        shard[name] = tensor
        held += tensor.nbytes
        if held >= _SHARD_BYTES:
            save_file(shard, folder / f"model-{count:03}.safetensors")
            shard, count, done, held = {}, count + 1, done + held, 0
        progress("preparing weights", (done + held) / total)
    if shard:
        save_file(shard, folder / f"model-{count:03}.safetensors")
