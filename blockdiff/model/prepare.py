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
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from blockdiff.config import TransformerConfig
from blockdiff.errors import (
    DiskFull,
    ModelCorrupt,
    ModelNotFound,
    ModelUnsupported,
    OutputFileError,
)
from blockdiff.model.checkpoint import FORMAT, Progress, parameter_shapes
from blockdiff.model.families import config_from_gguf, unpermute
from blockdiff.model.kinds import read_json
from blockdiff.model.packing import (
    ROWS,
    Format,
    Packed,
    check_width,
    pack,
    pack_q4_k,
    pack_q6_k,
    packed_format,
)
from blockdiff.model.shards import check_shape, joined, refuse_unread
from blockdiff.model.tensor_names import GGUF, sources

_ROOM_HINT = "free some space, or set BLOCKDIFF_CACHE to a folder on a larger disk"
_SHARD_BYTES = 500_000_000
_ROWS = 8192  # rows of a quantized matrix that are unpacked at a time

def prepare_gguf(
    path: Path,
    folder: Path,
    progress: Progress = lambda what, share: None,
    *,
    int8: bool = False,
) -> None:
    """Unpack a GGUF file into `folder`; nothing appears there until all of it is done.

    In bfloat16 about half a minute for 1.5 B parameters; with `int8` some seconds: matrices keep
    the file's own numbers, in another order, and all else is float32.

    Raises ModelCorrupt for a damaged file, ModelUnsupported for one with tensors we do not know,
    DiskFull when the result does not fit, OutputFileError where nothing can be written.
    """
    reader = _open_gguf(path)
    tensors = {t.name: t for t in reader.tensors}
    fields = {key: _field(field) for key, field in reader.fields.items()}
    if "token_embd.weight" not in tensors:
        raise ModelCorrupt(f"{path}: tensor token_embd.weight is missing")
    fields["vocab_size"] = int(tensors["token_embd.weight"].shape[1])
    # The default model's file stores the tied matrix twice: as the embedding and, in more bits,
    # as the head. The finer copy serves as both.
    fields["tied_embeddings"] = _is_tied(fields, tensors)
    config = config_from_gguf(fields, str(path))
    names = sources(config, GGUF)
    if config.tied_embeddings and "output.weight" in tensors:
        names["embedding.weight"] = ("output.weight",)
    refuse_unread(tensors, names, str(path))
    _check_all(config, names, tensors, str(path))
    matrices = packed_names(config) if int8 else frozenset[str]()
    needed = sum(
        _packed_bytes(tensors[name])
        if ours in matrices
        else math.prod(_shape(tensors[name])) * (4 if int8 else 2)
        for ours, theirs in names.items()
        for name in theirs
    )
    scratch = folder.with_name(folder.name + ".partial")
    with writing(scratch):
        folder.parent.mkdir(parents=True, exist_ok=True)
        if shutil.disk_usage(folder.parent).free < needed * 1.02:
            raise DiskFull(
                f"preparing {path.name} needs {needed / 1e9:.1f} GB in {folder.parent}", _ROOM_HINT
            )
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir()
        record: dict[str, Any] = {"blockdiff_format": FORMAT, "transformer": asdict(config)}
        record["packed"] = {}
        unpacked = _unpack_all(config, names, tensors, str(path), matrices, record["packed"])
        if int8:
            unpacked = ((n, t if t.dtype == torch.uint8 else t.float()) for n, t in unpacked)
        write_shards(unpacked, scratch, needed, progress)
        shards = sorted(scratch.glob("*.safetensors"))
        record["files"] = {shard.name: shard.stat().st_size for shard in shards}
        (scratch / "config.json").write_text(json.dumps(record, indent=2), "utf-8")
        shutil.rmtree(folder, ignore_errors=True)
        scratch.rename(folder)


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
    if record.get("blockdiff_format") != FORMAT or not isinstance(files, dict) or not files:
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
            raise DiskFull(f"cannot write {scratch}: {error}", _ROOM_HINT) from error
        raise OutputFileError(
            f"cannot write {scratch}: {error}", "set BLOCKDIFF_CACHE to a folder you can write to"
        ) from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _shape(tensor: Any) -> tuple[int, ...]:
    """Of a GGUF tensor, which counts its dimensions from the last."""
    return tuple(int(extent) for extent in reversed(tensor.shape))


def _open_gguf(path: Path) -> Any:
    from gguf import GGUFReader

    if not path.is_file():
        raise ModelNotFound(f"{path} does not exist", "run: blockdiff models pull")
    try:
        return GGUFReader(path)
    except (ValueError, KeyError, IndexError, OSError) as error:
        raise ModelCorrupt(f"{path} is no readable GGUF file: {error}") from error


def _field(field: Any) -> Any:
    # tokens and merges are hundreds of thousands of strings; the shape needs scalars only
    return field.contents() if len(field.data) == 1 else None


def _is_tied(fields: dict[str, Any], tensors: dict[str, Any]) -> bool:
    if "output.weight" not in tensors:
        return True
    # Qwen2 and Qwen3 below 3 B are published tied; some files carry the head all the same.
    return fields.get("general.architecture") in ("qwen2", "qwen3") and _same_matrix(
        tensors["token_embd.weight"], tensors["output.weight"]
    )


def _same_matrix(first: Any, second: Any, rows: int = 64) -> bool:
    """Whether two differently quantized tensors are roundings of one matrix."""
    from gguf.quants import dequantize

    a = torch.from_numpy(dequantize(first.data[:rows], first.tensor_type)).flatten()
    b = torch.from_numpy(dequantize(second.data[:rows], second.tensor_type)).flatten()
    return bool(torch.nn.functional.cosine_similarity(a, b, dim=0) > 0.98)


def _check_all(
    config: TransformerConfig,
    names: Mapping[str, tuple[str, ...]],
    tensors: Mapping[str, Any],
    source: str,
) -> None:
    """Whether all tensors are there, each in its shape."""
    shapes = parameter_shapes(config)
    for ours, theirs in names.items():
        for name in theirs:
            if name not in tensors:
                raise ModelCorrupt(f"{source}: tensor {name} is missing")
        check_shape([_shape(tensors[name]) for name in theirs], shapes[ours], theirs, source)


def _unpack_all(
    config: TransformerConfig,
    names: Mapping[str, tuple[str, ...]],
    tensors: Mapping[str, Any],
    source: str,
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
            where = f"{source}: {name}"
            if ours not in matrices:
                part = _unpack(tensors[name], where)
                parts.append(unpermute(part, heads) if heads else part)
                continue
            packed = _pack(tensors[name], where, heads)
            yield f"{ours}.{len(formats)}", packed.data
            formats.append(
                {"format": packed.format.value, "rows": packed.rows, "inputs": packed.inputs}
            )
        if parts:
            yield ours, joined(parts)
        else:
            record[ours] = formats


def _pack(tensor: Any, where: str, heads: int) -> Packed:
    """A matrix in the order of the native product; `heads` of Llama's queries or keys."""
    rows, inputs = _shape(tensor)
    check_width(inputs)
    form, raw = packed_format(tensor.tensor_type.name), tensor.data
    if form is Format.Q7:
        weight = _unpack(tensor, where)
        return pack(unpermute(weight, heads) if heads else weight)
    raw = raw.reshape(rows, -1)
    if heads:
        raw = unpermute(torch.from_numpy(raw.copy()), heads).numpy()
    return pack_q4_k(raw, inputs) if form is Format.Q4_K else pack_q6_k(raw, inputs)


def _packed_bytes(tensor: Any) -> int:
    rows, inputs = _shape(tensor)
    return -(-rows // ROWS) * packed_format(tensor.tensor_type.name).tile_bytes(inputs)


def _unpack(tensor: Any, where: str) -> Tensor:
    """Dequantize to bfloat16, a slice of rows at a time. Norms and biases go the same way."""
    from gguf.quants import dequantize

    data = tensor.data
    out = torch.empty(_shape(tensor), dtype=torch.bfloat16)
    try:
        for start in range(0, len(data), _ROWS):
            part = dequantize(data[start : start + _ROWS], tensor.tensor_type)
            out[start : start + len(part)] = torch.from_numpy(part.copy())
    except (NotImplementedError, ValueError, RuntimeError) as error:
        raise ModelUnsupported(f"{where}: {error}", "use a Q4_K_M, Q8_0 or F16 file") from error
    return out


def write_shards(
    tensors: Iterator[tuple[str, Tensor]], folder: Path, total: int, progress: Progress
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
