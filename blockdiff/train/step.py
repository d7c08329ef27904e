"""One training step: a clean pass without gradient, then noisy blocks that attend to it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from blockdiff.model import masks
from blockdiff.model.adapter import GatedAdapter
from blockdiff.model.cache import BlockCache
from blockdiff.model.layer import Gate
from blockdiff.model.transformer import Transformer
from blockdiff.train.corrupt import NoisyBlocks
from blockdiff.train.loss import LossParts, Targets, backward


class CleanContext:
    """Keys and values of the clean pass, to which noisy ones are joined with their graph.

    A `KeyValues` for training: nothing is written in place, so autograd sees through it.
    """

    def __init__(self, cache: BlockCache) -> None:
        self._cache = cache

    @property
    def length(self) -> int:
        return self._cache.length

    def append(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        clean_keys, clean_values = self._cache.committed(layer)
        return torch.cat([clean_keys, keys], dim=2), torch.cat([clean_values, values], dim=2)


@dataclass(frozen=True, slots=True)
class CleanPass:
    """What the base made of the clean tokens: its cache and hidden states (length, hidden)."""

    context: CleanContext
    hidden: Tensor


@torch.no_grad()
def clean_pass(model: Transformer, tokens: Tensor) -> CleanPass:
    """Run the base over `tokens` (length,), causal."""
    length = tokens.numel()
    cache = BlockCache(model.config, capacity=length, dtype=model.dtype, device=model.device)
    positions = torch.arange(length, device=model.device)[None]
    mask = masks.causal(0, length, model.device)
    hidden = model.hidden(tokens[None].to(model.device), positions, mask, cache)
    cache.commit(length)
    return CleanPass(CleanContext(cache), hidden[0])


def noisy_pass(
    model: Transformer, adapter: GatedAdapter, clean: CleanPass, noisy: NoisyBlocks
) -> Tensor:
    """Hidden states (noisy positions, hidden) of all blocks in one forward, adapter on."""
    device = model.device
    masked = noisy.masked.to(device)[None]
    block_size = noisy.positions.numel() // len(noisy.starts)
    mask = masks.noisy_blocks(clean.context.length, noisy.starts, block_size, device)
    gate = Gate(adapter, masked)
    tokens, positions = noisy.tokens.to(device)[None], noisy.positions.to(device)[None]
    return model.hidden(tokens, positions, mask, clean.context, gate)[0]


def train_step(
    model: Transformer, adapter: GatedAdapter, tokens: Tensor, noisy: NoisyBlocks, distill: float
) -> LossParts:
    """Accumulate the gradient of one sequence into the adapter."""
    clean = clean_pass(model, tokens)
    student = noisy_pass(model, adapter, clean, noisy)
    return backward(student, clean.hidden, model.head, on_device(noisy.targets, model), distill)


def on_device(targets: Targets, model: Transformer) -> Targets:
    """The same targets on the model's device."""
    return Targets(*(part.to(model.device) for part in targets.parts()))
