"""A checkpoint from disk to memory: GGUF or safetensors in, one `Transformer` out.

A GGUF file is dequantized once into sharded safetensors of our own tensor names, in bfloat16,
beside it in the cache folder; every later start maps those shards.
"""

from __future__ import annotations

import errno
import json
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from blockdiff.config import AdapterConfig, Layout, TransformerConfig
from blockdiff.errors import (
    DiskFull,
    ModelCorrupt,
    ModelNotFound,
    ModelUnsupported,
    OutputFileError,
)
from blockdiff.model.adapter import GatedAdapter
from blockdiff.model.families import config_from_gguf, config_from_hf, sources, unpermute
from blockdiff.model.transformer import Transformer

Progress = Callable[[str, float], None]
"""Called with what is being done and the done share, 0 to 1."""

_ROOM_HINT = "free some space, or set BLOCKDIFF_CACHE to a folder on a larger disk"
_SHARD_BYTES = 500_000_000
_ROWS = 8192  # rows of a quantized matrix that are unpacked at a time
_FORMAT = 1  # of a prepared folder; raise it when the layout of the tensors changes


@dataclass(frozen=True, slots=True)
class DraftingConfig:
    """How a checkpoint was trained to draft; `config.json` beside `adapter.safetensors`.

    Attributes:
        layout: how an infill is laid out as one sequence.
        block_size: masks of a block in `diffusion` unless a request says otherwise.
        draft_length: masks of a draft in `verify` unless a request says otherwise.
        adapter: shape of the gated adapter; None for a purely autoregressive checkpoint.
    """

    layout: Layout
    block_size: int
    draft_length: int
    adapter: AdapterConfig | None

    @classmethod
    def read(cls, path: Path) -> DraftingConfig:
        """Parse `config.json`. Raises ModelCorrupt on a missing or unknown key."""
        try:
            raw = json.loads(path.read_text("utf-8"))
            adapter = raw.pop("adapter")
            config = cls(
                layout=Layout(raw.pop("layout")),
                block_size=int(raw.pop("block_size")),
                draft_length=int(raw.pop("draft_length")),
                adapter=AdapterConfig(**adapter) if adapter else None,
            )
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise ModelCorrupt(f"{path}: {type(error).__name__}: {error}") from error
        if raw:
            raise ModelCorrupt(f"{path}: unknown keys {sorted(raw)}")
        return config

    def write(self, path: Path) -> None:
        """Store as JSON that `read` takes back."""
        path.write_text(json.dumps(asdict(self), indent=2) + "\n", "utf-8")


def load_transformer(
    folder: Path, *, dtype: torch.dtype, device: torch.device | str = "cpu"
) -> Transformer:
    """Read a prepared folder or a transformers checkpoint folder (safetensors).

    Raises:
        ModelNotFound: no such folder or no weights in it.
        ModelUnsupported: pickle weights, or a family we do not have.
        ModelCorrupt: a tensor is missing, misshapen or cut short.
    """
    config_file = folder / "config.json"
    if not config_file.is_file():
        raise ModelNotFound(f"{folder} holds no config.json", "give a checkpoint folder")
    shards = sorted(folder.glob("*.safetensors"))
    if not shards:
        if any(folder.glob("*.bin")) or any(folder.glob("*.pt")):
            raise ModelUnsupported(
                f"{folder} holds pickled weights, which can run code when opened",
                "convert them to safetensors first",
            )
        raise ModelNotFound(f"{folder} holds no .safetensors file")
    raw = _read_json(config_file)
    if raw.get("blockdiff_format") == _FORMAT:
        config = TransformerConfig(**raw["transformer"])
        names: dict[str, tuple[str, ...]] = {n: (n,) for n in _parameter_shapes(config)}
    else:
        config = config_from_hf(raw, str(folder))
        names = sources(config, gguf=False)
    stored = _ShardedTensors(shards)
    _refuse_unread(stored.names, names, str(folder))
    shapes, state = _parameter_shapes(config), {}
    for ours, theirs in names.items():
        parts = [stored.get(name) for name in theirs]
        _check_shape([tuple(part.shape) for part in parts], shapes[ours], theirs, str(folder))
        state[ours] = _joined(parts).to(device=device, dtype=dtype)
    return build(config, state, str(folder))


def build(config: TransformerConfig, state: dict[str, Tensor], source: str) -> Transformer:
    """A `Transformer` that owns the tensors of `state`; every shape is checked first."""
    for name, shape in _parameter_shapes(config).items():
        if name not in state:
            raise ModelCorrupt(f"{source}: tensor {name} is missing")
        if tuple(state[name].shape) != shape:
            raise ModelCorrupt(
                f"{source}: tensor {name} has shape {tuple(state[name].shape)}, expected {shape}"
            )
    with torch.device("meta"):
        model = Transformer(config)
    model.load_state_dict(state, strict=False, assign=True)
    if config.tied_embeddings:
        model.head.weight = model.embedding.weight
    return model.eval().requires_grad_(False)


def load_adapter(folder: Path, config: TransformerConfig, drafting: DraftingConfig) -> GatedAdapter:
    """Read `adapter.safetensors` of a checkpoint whose `DraftingConfig` names an adapter."""
    if drafting.adapter is None:
        raise ModelUnsupported(f"{folder} is an autoregressive checkpoint without an adapter")
    path = folder / "adapter.safetensors"
    if not path.is_file():
        raise ModelNotFound(f"{path} is missing", "pull the model again, or train an adapter")
    adapter = GatedAdapter(config, drafting.adapter)
    adapter.load(_ShardedTensors([path]).all(), str(path))
    return adapter.eval().requires_grad_(False)


def prepare_gguf(path: Path, folder: Path, progress: Progress = lambda what, share: None) -> None:
    """Dequantize a GGUF file into `folder`; nothing appears there until all of it is done.

    Takes about half a minute for 1.5 B parameters and at most 1.5 GB of memory.
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
    names = sources(config, gguf=True)
    if config.tied_embeddings and "output.weight" in tensors:
        names["embedding.weight"] = ("output.weight",)
    _refuse_unread(tensors, names, str(path))
    needed = 2 * sum(_size(shape) for shape in _parameter_shapes(config).values())
    scratch = folder.with_name(folder.name + ".partial")
    with _writing(scratch):
        folder.parent.mkdir(parents=True, exist_ok=True)
        if shutil.disk_usage(folder.parent).free < needed * 1.02:
            raise DiskFull(
                f"preparing {path.name} needs {needed / 1e9:.1f} GB in {folder.parent}", _ROOM_HINT
            )
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir()
        unpacked = _unpack_all(config, names, tensors, str(path))
        _write_shards(unpacked, scratch, needed, progress)
        sizes = {p.name: p.stat().st_size for p in sorted(scratch.glob("*.safetensors"))}
        record = {"blockdiff_format": _FORMAT, "transformer": asdict(config), "files": sizes}
        (scratch / "config.json").write_text(json.dumps(record, indent=2), "utf-8")
        shutil.rmtree(folder, ignore_errors=True)
        scratch.rename(folder)


def is_prepared(folder: Path) -> bool:
    """Whether `folder` holds a prepared checkpoint of the present format, whole."""
    try:
        record = _read_json(folder / "config.json")
    except ModelCorrupt:
        return False
    files = record.get("files")
    if record.get("blockdiff_format") != _FORMAT or not isinstance(files, dict) or not files:
        return False
    return all(
        (folder / name).is_file() and (folder / name).stat().st_size == size
        for name, size in files.items()
    )


@contextmanager
def _writing(scratch: Path) -> Iterator[None]:
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


class _ShardedTensors:
    """Tensors of several safetensors files by name, mapped from disk."""

    def __init__(self, paths: list[Path]) -> None:
        self._where: dict[str, Any] = {}
        for path in paths:
            try:
                shard = safe_open(path, framework="pt")
            except (SafetensorError, OSError) as error:
                raise ModelCorrupt(f"{path}: {error}", "pull the model again") from error
            self._where.update(dict.fromkeys(list(shard.keys()), shard))  # type: ignore[no-untyped-call]
        self._paths = paths

    @property
    def names(self) -> Iterable[str]:
        return self._where.keys()

    def get(self, name: str) -> Tensor:
        if name not in self._where:
            raise ModelCorrupt(f"{self._paths[0].parent}: tensor {name} is missing")
        tensor: Tensor = self._where[name].get_tensor(name)
        return tensor

    def all(self) -> dict[str, Tensor]:
        return {name: self.get(name) for name in self._where}


_REDUNDANT = {"token_embd.weight", "output.weight", "lm_head.weight"}  # of tied embeddings


def _refuse_unread(
    stored: Iterable[str], read: Mapping[str, tuple[str, ...]], source: str
) -> None:
    """A tensor that none of ours is made of would change the logits: never drop it silently."""
    wanted = _REDUNDANT.union(*read.values())
    for name in sorted(stored):
        if name not in wanted and not name.endswith("rotary_emb.inv_freq"):
            raise ModelUnsupported(f"{source}: tensor {name} has no place in this architecture")


def _parameter_shapes(config: TransformerConfig) -> dict[str, tuple[int, ...]]:
    with torch.device("meta"):
        model = Transformer(config)
    return {name: tuple(p.shape) for name, p in model.named_parameters()}


def _check_shape(
    parts: Sequence[tuple[int, ...]], expected: tuple[int, ...], names: Sequence[str], source: str
) -> None:
    """Whether published tensors, one above the other, make one of ours."""
    rest = expected[1:]
    if all(part[1:] == rest for part in parts) and sum(p[0] for p in parts) == expected[0]:
        return
    found = ", ".join(f"{name} {part}" for name, part in zip(names, parts, strict=True))
    raise ModelCorrupt(f"{source}: {found} do not make a tensor of shape {expected}")


def _shape(tensor: Any) -> tuple[int, ...]:
    """Of a GGUF tensor, which counts its dimensions from the last."""
    return tuple(int(extent) for extent in reversed(tensor.shape))


def _joined(parts: list[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _size(shape: tuple[int, ...]) -> int:
    count = 1
    for extent in shape:
        count *= extent
    return count


def _read_json(path: Path) -> dict[str, Any]:
    try:
        raw = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise ModelCorrupt(f"{path}: {error}") from error
    if not isinstance(raw, dict):
        raise ModelCorrupt(f"{path}: not a JSON object")
    return raw


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


def _unpack_all(
    config: TransformerConfig,
    names: dict[str, tuple[str, ...]],
    tensors: dict[str, Any],
    source: str,
) -> Iterator[tuple[str, Tensor]]:
    permuted = {".attn_q.": config.n_heads, ".attn_k.": config.n_kv_heads}
    shapes = _parameter_shapes(config)
    for ours, theirs in names.items():
        for name in theirs:
            if name not in tensors:
                raise ModelCorrupt(f"{source}: tensor {name} is missing")
        _check_shape([_shape(tensors[name]) for name in theirs], shapes[ours], theirs, source)
        parts = []
        for name in theirs:
            part = _unpack(tensors[name], f"{source}: {name}")
            heads = next((n for key, n in permuted.items() if key in name), 0)
            interleaved = not config.qkv_bias and not config.qk_norm  # the Llama family
            parts.append(unpermute(part, heads) if heads and interleaved else part)
        yield ours, _joined(parts)


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


def _write_shards(
    tensors: Iterator[tuple[str, Tensor]], folder: Path, total: int, progress: Progress
) -> None:
    shard: dict[str, Tensor] = {}
    done = held = count = 0
    for name, tensor in tensors:
        shard[name] = tensor
        held += tensor.numel() * 2
        if held >= _SHARD_BYTES:
            save_file(shard, folder / f"model-{count:03}.safetensors")
            shard, count, done, held = {}, count + 1, done + held, 0
        progress("preparing weights", (done + held) / total)
    if shard:
        save_file(shard, folder / f"model-{count:03}.safetensors")
