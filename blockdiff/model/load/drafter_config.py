"""The `config.json` of a published drafter: which families there are and what shape each has."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from blockdiff.errors import ModelCorrupt, ModelUnsupported
from blockdiff.model.block_drafter import BlockDrafterConfig, Markov
from blockdiff.model.load.kinds import Body, published
from blockdiff.model.load.stack_config import config_from_hf

MOST_POSITIONS = 64
"""Of a block."""


@dataclass(frozen=True, slots=True)
class DrafterFamily:
    """How a family of drafters differs from the others.

    Attributes:
        shift: the logits of a position of a block are those of the next one.
        own_ends: it comes with an embedding and a head, copies of its target's when it was made.
        settings: key of the object that holds its settings, before those beside it.
    """

    name: str
    shift: bool
    own_ends: bool
    settings: str = ""


# By `architectures[0]`.
_FAMILIES = {
    "DFlashDraftModel": DrafterFamily("dflash", False, False, "dflash_config"),
    "Qwen3DSparkModel": DrafterFamily("dspark", True, True),
}


class _Settings(msgspec.Struct):
    """The keys that only drafters have. Those with one value change what is computed by another."""

    mask_token_id: Annotated[int, Meta(ge=0)]
    num_target_layers: Annotated[int, Meta(ge=2, le=1024)]
    target_layer_ids: Annotated[list[int], Meta(min_length=1, max_length=64)] | None = None
    block_size: Annotated[int, Meta(ge=2, le=MOST_POSITIONS)] = 16
    markov_rank: Annotated[int, Meta(ge=0, le=8192)] = 0
    markov_head_type: str = Markov.VANILLA.value
    enable_confidence_head: bool = False
    confidence_head_with_markov: bool = False
    input_embedding_scale: float | None = None
    output_multiplier: float | None = None
    final_logit_softcapping: float | None = None
    is_causal: bool | None = None


def is_drafter(config: Mapping[str, Any]) -> bool:
    """Whether a `config.json` is that of a drafter that we read."""
    return _architecture(config) in _FAMILIES


def family_of(config: Mapping[str, Any], source: str) -> DrafterFamily:
    """Of the drafter with this `config.json`. Raises ModelUnsupported."""
    found = _FAMILIES.get(_architecture(config))
    if found is None:
        raise ModelUnsupported(
            f"{source}: config.json: architectures {_architecture(config)!r} is no drafter we read",
            f"supported: {', '.join(sorted(_FAMILIES))}",
        )
    return found


def drafter_config(config: Mapping[str, Any], source: str) -> BlockDrafterConfig:
    """Shape from a `config.json`.

    Raises ModelUnsupported for a family or a computation that we do not have, ModelCorrupt for a
    key that is missing or holds an impossible value.
    """
    family, where = family_of(config, source), f"{source}: config.json"
    stack = config_from_hf(config, source)
    if published(config, source).body is not Body.QWEN3:
        raise ModelUnsupported(f"{where}: model_type {config.get('model_type')!r} of a drafter")
    inner = config.get(family.settings) or {}
    if not isinstance(inner, Mapping):
        raise ModelCorrupt(f"{where}: {family.settings} is no object")
    try:
        keys = msgspec.convert({**config, **inner}, _Settings)
        markov = Markov(keys.markov_head_type) if keys.markov_rank else None
    except ValueError as error:
        raise ModelCorrupt(f"{where}: {error}") from error
    neutral = {"input_embedding_scale": (None, 1.0), "output_multiplier": (None, 1.0),
               "final_logit_softcapping": (None, 0.0), "is_causal": (None, False)}  # fmt: skip
    for key, values in neutral.items():
        if (value := getattr(keys, key)) not in values:
            raise ModelUnsupported(f"{where}: {key} {value} is not supported")
    if keys.mask_token_id >= stack.vocab_size:
        raise ModelCorrupt(
            f"{where}: mask_token_id is {keys.mask_token_id}, vocab_size {stack.vocab_size}"
        )
    reads_token = keys.enable_confidence_head and keys.confidence_head_with_markov
    if reads_token and markov is None:
        raise ModelCorrupt(f"{where}: confidence_head_with_markov, but markov_rank is 0")
    return BlockDrafterConfig(
        stack=replace(stack, tied_embeddings=False),
        layers=_layers(keys, stack.n_layers, where),
        mask_token_id=keys.mask_token_id,
        block_size=keys.block_size,
        shift=family.shift,
        markov=markov,
        markov_rank=keys.markov_rank,
        confidence=keys.enable_confidence_head,
        confidence_reads_token=reads_token,
    )


def _architecture(config: Mapping[str, Any]) -> str:
    named = config.get("architectures")
    return str(named[0]) if isinstance(named, list) and named else ""


def _layers(keys: _Settings, own: int, where: str) -> tuple[int, ...]:
    """The target's layers that are read: those that are named, or as many as the drafter's own,
    evenly from 1 to three before their number, as DFlash chooses them."""
    count, ids = keys.num_target_layers, keys.target_layer_ids
    if ids is None:
        last, steps = count - 3, max(own - 1, 1)
        ids = [count // 2] if own == 1 else [round(1 + i * (last - 1) / steps) for i in range(own)]
    # What the last layer puts out passes a norm in one published loop, and none in another.
    if ids != sorted(set(ids)) or not (ids[0] >= -1 and ids[-1] <= count - 2):
        raise ModelCorrupt(
            f"{where}: target_layer_ids {ids} are not ascending layers of {count}, before the last"
        )
    return tuple(ids)
