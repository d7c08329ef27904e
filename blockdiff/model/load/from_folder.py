"""A checkpoint from disk to memory: prepared or published safetensors in, one `Transformer` out."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from blockdiff.config import Layout
from blockdiff.errors import ModelCorrupt, ModelNotFound, ModelUnsupported
from blockdiff.model.adapter import GatedAdapter
from blockdiff.model.config import AdapterConfig, TransformerConfig
from blockdiff.model.cuda.weight_only import floats_for, in_eight_bits
from blockdiff.model.int8.fused import fuse
from blockdiff.model.int8.packing import ROWS, Format, Packed, pack
from blockdiff.model.int8.quantized import install
from blockdiff.model.load.hub_config import read_json
from blockdiff.model.load.kinds import Body, published
from blockdiff.model.load.shards import Shards, check_shape, refuse_unread, shard_files
from blockdiff.model.load.stack_config import config_from_hf, config_from_prepared
from blockdiff.model.load.tensor_names import HUB, TensorSources, sources
from blockdiff.model.transformer import Transformer

FORMAT = 1  # of a prepared folder; raise it when the layout of the tensors changes
_PACKED = 1.125  # bytes of a number in 8 bits, with its share of scales


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
    """Read a prepared folder or a published checkpoint folder (safetensors).

    Names and shapes are compared with `config.json` before anything is read; code that lies beside
    the weights is never run, whatever `auto_map` says.

    Args:
        dtype: torch.int8 packs the matrices for int8 arithmetic on a CPU and leaves all else in
            float32; a folder prepared for it is read no other way. On other devices it makes
            matrices of 8 bits and leaves all else in `floats_for` them.

    Raises:
        ModelNotFound: no such folder or no weights in it.
        ModelUnsupported: pickle weights, or a family or width we do not have.
        ModelCorrupt: a key of `config.json` is impossible; a tensor is missing, misshapen, cut
            short or not finite.
        DeviceUnavailable: int8 where its library cannot be had.
    """
    config_file = folder / "config.json"
    if not config_file.is_file():
        raise ModelNotFound(f"{folder} holds no config.json", "give a checkpoint folder")
    stored = Shards(shard_files(folder))
    raw = read_json(config_file)
    load = _load_prepared if raw.get("blockdiff_format") == FORMAT else _load_published
    if dtype is torch.int8 and torch.device(device).type != "cpu":
        target = torch.device(device)
        model = load(folder, raw, stored, floats_for(target), "cpu")
        return in_eight_bits(model, target, str(folder))
    return load(folder, raw, stored, dtype, device)


def config_in(folder: Path) -> TransformerConfig:
    """Shape of what `load_transformer` would read. Raises as it does for keys of `config.json`."""
    raw = read_json(folder / "config.json")
    if raw.get("blockdiff_format") == FORMAT:
        return config_from_prepared(raw.get("transformer"), str(folder))
    return config_from_hf(raw, str(folder))


def bytes_in_memory(folder: Path, dtype: torch.dtype, device: torch.device) -> int:
    """Of the weights in a folder once they are loaded, by the headers of its files.

    Raises ModelNotFound, ModelUnsupported and ModelCorrupt as `load_transformer` for its files.
    """
    stored, needed = Shards(shard_files(folder)), 0.0
    packs = dtype is torch.int8 and device.type == "cpu"
    for name in stored.names:
        shape = stored.shape(name)
        if stored.is_packed(name):
            size = 1.0
        elif packs:
            size = _PACKED if len(shape) == 2 else 4.0
        else:
            size = dtype.itemsize
        needed += size * math.prod(shape)
    return round(needed)


def _load_prepared(
    folder: Path,
    raw: Mapping[str, Any],
    stored: Shards,
    dtype: torch.dtype,
    device: torch.device | str,
) -> Transformer:
    config = config_from_prepared(raw.get("transformer"), str(folder))
    refuse_absurd(config, len(stored), str(folder))
    formats: dict[str, list[dict[str, Any]]] = raw.get("packed", {})
    if not isinstance(formats, dict) or not all(isinstance(p, list) for p in formats.values()):
        raise ModelCorrupt(f"{folder}: config.json: packed is no table of formats")
    if formats and dtype is not torch.int8:
        raise ModelUnsupported(
            f"{folder} is packed for int8 on a CPU", "use --device cpu --dtype int8"
        )
    shapes = parameter_shapes(config)
    names = {name: [f"{name}.{i}" for i in range(len(formats.get(name, ())))] for name in shapes}
    refuse_unread(stored.names, {n: tuple(p) or (n,) for n, p in names.items()}, str(folder))
    state: dict[str, Tensor] = {}
    packed: dict[str, list[Packed]] = {}
    for ours, theirs in names.items():
        if ours in formats:
            packed[ours] = [
                _packed(stored.get(name), form, f"{folder}: {name}")
                for name, form in zip(theirs, formats[ours], strict=True)
            ]
            found = [(part.rows, part.inputs) for part in packed[ours]]
            check_shape(found, shapes[ours], theirs, str(folder))
            continue
        check_shape([stored.shape(ours)], shapes[ours], [ours], str(folder))
        if dtype is torch.int8 and len(shapes[ours]) == 2:
            packed[ours] = [pack(stored.get(ours))]
        else:
            floats = torch.float32 if dtype is torch.int8 else dtype
            # a norm that stays a view of a packed file would keep all of that file mapped
            copy = dtype is torch.int8
            state[ours] = stored.get(ours).to(device=device, dtype=floats, copy=copy)
    return build(config, state, str(folder), packed)


def _load_published(
    folder: Path,
    raw: Mapping[str, Any],
    stored: Shards,
    dtype: torch.dtype,
    device: torch.device | str,
) -> Transformer:
    config, names = published_sources(folder, raw, stored)
    shapes = parameter_shapes(config)
    if dtype is torch.int8 and config.experts is not None:
        raise ModelUnsupported(
            f"{folder}: int8 does not cover mixtures of experts", "use --dtype bfloat16"
        )
    state: dict[str, Tensor] = {}
    packed: dict[str, list[Packed]] = {}
    for ours, theirs in names.items():
        if dtype is torch.int8 and len(shapes[ours]) == 2:
            packed[ours] = [pack(stored.join([name], torch.float32, "cpu")) for name in theirs]
            continue
        exact = dtype is torch.int8 or ours.endswith("choice_bias")  # close calls between experts
        state[ours] = stored.join(theirs, torch.float32 if exact else dtype, device)
    return build(config, state, str(folder), packed)


def published_sources(
    folder: Path, raw: Mapping[str, Any], stored: Shards
) -> tuple[TransformerConfig, TensorSources]:
    """Shape of a published checkpoint, and what each of our tensors is made of; all are there.

    What a folder stores of a tied matrix decides as in the transformers library (5.23): one copy
    serves as both, whichever it is; two that differ are two, whatever the configuration says.

    Raises ModelUnsupported and ModelCorrupt as `load_transformer`.
    """
    source, body = str(folder), published(raw, str(folder)).body
    config, naming = config_from_hf(raw, source), HUB[body]
    refuse_absurd(config, len(stored), source)
    embedding, head = f"{naming.embedding}.weight", f"{naming.head}.weight"
    there, swapped = set(stored.names), TensorSources()
    if config.tied_embeddings and head in there:
        if embedding not in there:
            swapped = {"embedding.weight": (head,)}
        elif not stored.same(embedding, head):
            if body is Body.LLADA:  # its own code would read the embedding alone
                raise ModelCorrupt(
                    f"{source}: config.json: weight_tying is true, but {head} is not {embedding}"
                )
            config = replace(config, tied_embeddings=False)
    names = sources(config, naming) | swapped
    refuse_unread(stored.names, names, source)
    shapes = parameter_shapes(config)
    for ours, theirs in names.items():
        check_shape([stored.shape(name) for name in theirs], shapes[ours], theirs, source)
    return config, names


def refuse_absurd(config: TransformerConfig, stored: int, source: str) -> None:
    """More layers or experts than there are tensors: not even their names are worth making."""
    needed, keys = config.n_layers, f"num_hidden_layers is {config.n_layers}"
    if config.experts is not None:
        needed += max(config.n_layers - config.experts.first_layer, 0) * config.experts.count
        keys += f", num_experts {config.experts.count}"
    if needed > stored:
        raise ModelCorrupt(f"{source}: config.json: {keys}, but {stored} tensors are there")


def build(
    config: TransformerConfig,
    state: Mapping[str, Tensor],
    source: str,
    packed: dict[str, list[Packed]] | None = None,
) -> Transformer:
    """A `Transformer` that owns the tensors of `state`; every shape is checked first.

    Matrices that are `packed` need not be there, and are taken out of it.
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
        fuse(model)
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
    return read_adapter(path, config, drafting.adapter)


def read_adapter(path: Path, config: TransformerConfig, shape: AdapterConfig) -> GatedAdapter:
    """Read an adapter of that shape. Raises ModelCorrupt."""
    adapter = GatedAdapter(config, shape)
    adapter.load(Shards([path]).all(), str(path))
    return adapter.eval().requires_grad_(False)


def parameter_shapes(config: TransformerConfig) -> dict[str, tuple[int, ...]]:
    """Names and shapes of all weights, none of which is made for it."""
    with torch.device("meta"):
        model = Transformer(config)
    return {name: tuple(p.shape) for name, p in model.named_parameters()}
