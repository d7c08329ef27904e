"""A checkpoint from disk to memory: prepared or published safetensors in, one `Transformer` out."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from blockdiff.config import AdapterConfig, Layout, TransformerConfig
from blockdiff.errors import ModelCorrupt, ModelNotFound, ModelUnsupported
from blockdiff.model.adapter import GatedAdapter
from blockdiff.model.families import config_from_hf, sources
from blockdiff.model.packing import ROWS, Format, Packed, pack
from blockdiff.model.quantized import install
from blockdiff.model.transformer import Transformer

Progress = Callable[[str, float], None]
"""Called with what is being done and the done share, 0 to 1."""

FORMAT = 1  # of a prepared folder; raise it when the layout of the tensors changes


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

    Args:
        dtype: torch.int8 packs the matrices for int8 arithmetic on a CPU and leaves all else in
            float32; a folder prepared for it is read no other way.

    Raises:
        ModelNotFound: no such folder or no weights in it.
        ModelUnsupported: pickle weights, or a family or width we do not have.
        ModelCorrupt: a tensor is missing, misshapen or cut short.
        DeviceUnavailable: int8 where its library cannot be had.
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
    raw = read_json(config_file)
    formats: dict[str, list[dict[str, Any]]] = {}
    if raw.get("blockdiff_format") == FORMAT:
        config = TransformerConfig(**raw["transformer"])
        formats = raw.get("packed", {})
        names = {
            name: tuple(f"{name}.{i}" for i in range(len(formats[name])))
            if name in formats
            else (name,)
            for name in parameter_shapes(config)
        }
    else:
        config = config_from_hf(raw, str(folder))
        names = sources(config, gguf=False)
    int8 = dtype is torch.int8
    if formats and not int8:
        raise ModelUnsupported(f"{folder} is packed for int8", "use --dtype int8")
    stored = _ShardedTensors(shards)
    refuse_unread(stored.names, names, str(folder))
    shapes = parameter_shapes(config)
    state: dict[str, Tensor] = {}
    packed: dict[str, list[Packed]] = {}
    for ours, theirs in names.items():
        parts = [stored.get(name) for name in theirs]
        if ours in formats:
            packed[ours] = [
                _packed(data, form, f"{folder}: {name}")
                for name, data, form in zip(theirs, parts, formats[ours], strict=True)
            ]
            found = [(part.rows, part.inputs) for part in packed[ours]]
            check_shape(found, shapes[ours], theirs, str(folder))
            continue
        check_shape([tuple(part.shape) for part in parts], shapes[ours], theirs, str(folder))
        if int8 and len(shapes[ours]) == 2:
            packed[ours] = [pack(part) for part in parts]
        else:
            floats = torch.float32 if int8 else dtype
            state[ours] = joined(parts).to(device=device, dtype=floats)
    return build(config, state, str(folder), packed)


def build(
    config: TransformerConfig,
    state: Mapping[str, Tensor],
    source: str,
    packed: Mapping[str, Sequence[Packed]] | None = None,
) -> Transformer:
    """A `Transformer` that owns the tensors of `state`; every shape is checked first.

    Matrices that are `packed` need not be there.
    """
    packed = packed or {}
    for name, shape in parameter_shapes(config).items():
        if name in packed:
            continue
        if name not in state:
            raise ModelCorrupt(f"{source}: tensor {name} is missing")
        if tuple(state[name].shape) != shape:
            raise ModelCorrupt(
                f"{source}: tensor {name} has shape {tuple(state[name].shape)}, expected {shape}"
            )
    with torch.device("meta"):
        model = Transformer(config)
    model.load_state_dict(state, strict=False, assign=True)
    if packed:
        install(model, packed)
    elif config.tied_embeddings:
        model.head.weight = model.embedding.weight
    return model.eval().requires_grad_(False)


def _packed(data: Tensor, form: Mapping[str, Any], where: str) -> Packed:
    try:
        part = Packed(Format(form["format"]), form["rows"], form["inputs"], data)
        size = -(-part.rows // ROWS) * part.format.tile_bytes(part.inputs)
    except (KeyError, TypeError, ValueError) as error:
        raise ModelCorrupt(f"{where}: {type(error).__name__}: {error}") from error
    if data.dtype is not torch.uint8 or data.numel() != size:
        raise ModelCorrupt(f"{where} holds {data.numel()} bytes, expected {size}")
    return part


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


def refuse_unread(
    stored: Iterable[str], read: Mapping[str, tuple[str, ...]], source: str
) -> None:
    """A tensor that none of ours is made of would change the logits: never drop it silently."""
    wanted = _REDUNDANT.union(*read.values())
    for name in sorted(stored):
        if name not in wanted and not name.endswith("rotary_emb.inv_freq"):
            raise ModelUnsupported(f"{source}: tensor {name} has no place in this architecture")


def parameter_shapes(config: TransformerConfig) -> dict[str, tuple[int, ...]]:
    with torch.device("meta"):
        model = Transformer(config)
    return {name: tuple(p.shape) for name, p in model.named_parameters()}


def check_shape(
    parts: Sequence[tuple[int, ...]], expected: tuple[int, ...], names: Sequence[str], source: str
) -> None:
    """Whether published tensors, one above the other, make one of ours."""
    rest = expected[1:]
    if all(part[1:] == rest for part in parts) and sum(p[0] for p in parts) == expected[0]:
        return
    found = ", ".join(f"{name} {part}" for name, part in zip(names, parts, strict=True))
    raise ModelCorrupt(f"{source}: {found} do not make a tensor of shape {expected}")


def joined(parts: list[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def read_json(path: Path) -> dict[str, Any]:
    try:
        raw = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise ModelCorrupt(f"{path}: {error}") from error
    if not isinstance(raw, dict):
        raise ModelCorrupt(f"{path}: not a JSON object")
    return raw
