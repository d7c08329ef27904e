"""A published drafter from disk to memory, checked against the target that it is to draft for.

Of a model that it was not made for a drafter would make nothing of use, so whatever tells the
two apart is compared before a weight is read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from blockdiff.errors import ModelNotFound, ModelUnsupported
from blockdiff.model.block_drafter import BlockDrafter, BlockDrafterConfig, Markov
from blockdiff.model.config import TransformerConfig
from blockdiff.model.cuda.weight_only import floats_for
from blockdiff.model.int8.fused import fuse
from blockdiff.model.int8.packing import Packed, pack
from blockdiff.model.int8.quantized import QuantizedEmbedding, QuantizedLinear, install
from blockdiff.model.load.drafter_config import (
    DrafterFamily,
    drafter_config,
    family_of,
    is_drafter,
)
from blockdiff.model.load.from_folder import refuse_absurd
from blockdiff.model.load.hub_config import read_json
from blockdiff.model.load.kinds import Body
from blockdiff.model.load.shards import Shards, check_shape, refuse_unread, shard_files
from blockdiff.model.load.tensor_names import HUB, TensorSources, sources
from blockdiff.model.transformer import Transformer
from blockdiff.weights.footprint import drafter_shape

_SAMPLED = 64  # rows of a matrix that say whether it is the target's
_SAME, _OTHERS = 0.15, 0.5  # relative distance of these rows: a target's may have 4 bits
_STACK, _ENDS = "stack.", ("stack.embedding.weight", "stack.head.weight")


def refuse_drafter(folder: Path) -> None:
    """Raises ModelUnsupported for the folder of a drafter, where a model is wanted."""
    if is_drafter(read_json(folder / "config.json")):
        raise ModelUnsupported(
            f"{folder} is a drafter and writes nothing by itself",
            "give its model as --model, and this folder as --drafter",
        )


def check_drafter(
    folder: Path,
    target: TransformerConfig,
    target_name: str,
    *,
    dtype: torch.dtype,
    device: torch.device | str = "cpu",
) -> int:
    """Bytes of the weights of the drafter in a folder, once it is loaded beside its target; those
    that come with an embedding and a head hold copies of the target's, and keep none.

    Raises ModelNotFound, ModelUnsupported and ModelCorrupt as `load_drafter` for what its
    `config.json` says: no weight is opened.
    """
    _, raw = _checked_config(folder, target, target_name)
    shape = drafter_shape(raw, str(folder))
    if _packs(dtype, device):
        return shape.footprint("int8").weights
    return shape.parameters * _floats(dtype, device).itemsize


def load_drafter(
    folder: Path,
    target: Transformer,
    target_name: str,
    *,
    dtype: torch.dtype,
    device: torch.device | str = "cpu",
) -> BlockDrafter:
    """Read the drafter in a folder of the hub's layout, for `target`.

    Embedding and head are the target's own where the drafter has none, or copies of them.

    Args:
        dtype: that of the target. torch.int8 packs the matrices on a CPU; elsewhere it leaves the
            drafter in `floats_for` the device.

    Raises:
        ModelNotFound: no such folder or no weights in it.
        ModelUnsupported: pickle weights, a family or computation we do not have, or a drafter that
            was made for another target.
        ModelCorrupt: as `drafter_config`; a tensor is missing, misshapen or not finite.
        DeviceUnavailable: int8 where its library cannot be had.
    """
    source = str(folder)
    config, raw = _checked_config(folder, target.config, target_name)
    config = replace(
        config, stack=replace(config.stack, max_positions=target.config.max_positions)
    )
    stored = Shards(shard_files(folder))
    refuse_absurd(config.stack, len(stored), source)
    names = _sources(config, family_of(raw, source))
    refuse_unread(stored.names, names, source)
    with torch.device("meta"):
        drafter = BlockDrafter(config)
    shapes = {name: tuple(p.shape) for name, p in drafter.named_parameters()}
    for ours, theirs in names.items():
        check_shape([stored.shape(name) for name in theirs], shapes[ours], theirs, source)
    for ours in _ENDS:
        if ours in names and _is_copy(stored, names[ours][0], target, target_name, source):
            del names[ours]
    packs, dtype = _packs(dtype, device), _floats(dtype, device)
    packed = {name for name in names if packs and _is_packed(name, shapes[name])}
    state = {
        ours: stored.join(theirs, dtype, device)
        for ours, theirs in names.items()
        if ours not in packed
    }
    drafter.load_state_dict(state, strict=False, assign=True)
    _take_ends(drafter, target, names)
    if packs:
        _pack(drafter, {n: [_packed(stored, part) for part in names[n]] for n in packed})
        _take_ends(drafter, target, names)  # a head that is not packed would be the embedding
        fuse(drafter.stack)
    return drafter.eval().requires_grad_(False)


def _checked_config(
    folder: Path, target: TransformerConfig, target_name: str
) -> tuple[BlockDrafterConfig, dict[str, Any]]:
    """Shape of the drafter in a folder, and its `config.json`, which fits the target."""
    if not (folder / "config.json").is_file():
        raise ModelNotFound(f"{folder} holds no config.json", "give a drafter's folder")
    raw = read_json(folder / "config.json")
    config = drafter_config(raw, str(folder))
    _refuse_mismatch(config, raw, target, target_name, str(folder))
    return config, raw


def _packs(dtype: torch.dtype, device: torch.device | str) -> bool:
    return dtype is torch.int8 and torch.device(device).type == "cpu"


def _floats(dtype: torch.dtype, device: torch.device | str) -> torch.dtype:
    """Of what is not packed."""
    if dtype is not torch.int8:
        return dtype
    return torch.float32 if _packs(dtype, device) else floats_for(torch.device(device))


def _refuse_mismatch(
    config: BlockDrafterConfig,
    raw: Mapping[str, Any],
    target: TransformerConfig,
    name: str,
    source: str,
) -> None:
    """Whatever a drafter shares with the target it was made for."""
    stack = config.stack
    pairs = {
        "vocab_size": (stack.vocab_size, target.vocab_size),
        "hidden_size": (stack.hidden_size, target.hidden_size),
        "num_target_layers": (raw.get("num_target_layers"), target.n_layers),
        "rope_theta": (stack.rope_base, target.rope_base),
    }
    for key, (own, theirs) in pairs.items():
        if own != theirs:
            raise ModelUnsupported(
                f"{source}: config.json: {key} is {own}, that of {name} is {theirs}:"
                " it was made for another model",
                "`blockdiff models info NAME` lists the drafters of a model",
            )


def _sources(config: BlockDrafterConfig, family: DrafterFamily) -> TensorSources:
    """What each of our tensors is made of; both families name them alike."""
    naming = replace(
        HUB[Body.QWEN3], layer="layers.{}.", norm="norm", embedding="embed_tokens", head="lm_head"
    )
    names = {_STACK + ours: theirs for ours, theirs in sources(config.stack, naming).items()}
    if not family.own_ends:
        for ours in _ENDS:
            del names[ours]
    names |= {"fusion.weight": ("fc.weight",), "feature_norm.weight": ("hidden_norm.weight",)}
    if config.markov is not None:
        names["markov.before.weight"] = ("markov_head.markov_w1.weight",)
        names["markov.after.weight"] = ("markov_head.markov_w2.weight",)
    inner = {Markov.GATED: ("gate", "gate_proj"), Markov.RNN: ("joint", "joint_proj")}
    for kind in ("weight", "bias"):
        if config.markov in inner:
            ours, theirs = inner[config.markov]
            names[f"markov.{ours}.{kind}"] = (f"markov_head.{theirs}.{kind}",)
        if config.confidence:
            names[f"confidence.{kind}"] = (f"confidence_head.proj.{kind}",)
    return names


def _is_copy(
    stored: Shards, name: str, target: Transformer, target_name: str, source: str
) -> bool:
    """Whether a drafter's embedding or head is the target's, so that it need not be there twice.

    Raises ModelUnsupported for the embedding of a model that is another one altogether.
    """
    weight = stored.get_floats(name)
    rows = torch.linspace(0, len(weight) - 1, min(_SAMPLED, len(weight))).long()
    own = weight[rows].float()
    device = target.device
    is_head = name.startswith("lm_head")
    if is_head:  # whatever it is made of, what it does can be asked for
        seen = torch.randn(8, own.shape[1], generator=torch.Generator().manual_seed(0))
        own = seen @ own.T
        theirs = target.head(seen.to(device, target.dtype)).float().cpu()[:, rows]
    else:
        theirs = target.embedding(rows.to(device)).float().cpu()
    distance = float((own - theirs).norm() / theirs.norm().clamp_min(1e-9))
    if not is_head and not distance < _OTHERS:
        raise ModelUnsupported(
            f"{source}: tensor {name} is not the embedding of {target_name}:"
            " it was made for another model",
            "`blockdiff models info NAME` lists the drafters of a model",
        )
    return distance < _SAME


def _take_ends(drafter: BlockDrafter, target: Transformer, names: TensorSources) -> None:
    """The target's embedding and head, where the drafter has none of its own."""
    for ours in _ENDS:
        if ours not in names:
            part = ours.removeprefix(_STACK).removesuffix(".weight")
            setattr(drafter.stack, part, getattr(target, part))


def _is_packed(name: str, shape: Sequence[int]) -> bool:
    small = name.startswith(("markov.gate", "markov.joint", "confidence"))
    return len(shape) == 2 and not small


def _packed(stored: Shards, name: str) -> Packed:
    return pack(stored.join([name], torch.float32, "cpu"))


def _pack(drafter: BlockDrafter, packed: dict[str, list[Packed]]) -> None:
    """Put packed matrices in the places of those of these names; those of layers are taken out."""
    own = {n.removeprefix(_STACK): packed.pop(n) for n in list(packed) if n.startswith(_STACK)}
    install(drafter.stack, own)
    drafter.fusion = cast(nn.Linear, QuantizedLinear(packed["fusion.weight"]))
    if drafter.markov is not None:
        before = QuantizedEmbedding(QuantizedLinear(packed["markov.before.weight"]))
        drafter.markov.before = cast(nn.Embedding, before)
        drafter.markov.after = cast(nn.Linear, QuantizedLinear(packed["markov.after.weight"]))
