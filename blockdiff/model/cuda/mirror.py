"""Where recorded forwards keep keys and values: copies of caches at fixed addresses.

Why copies, see `graphs.py`.
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from blockdiff.model.cache import BlockCache, KeyValues
from blockdiff.model.forward import Forward
from blockdiff.model.transformer import Transformer


@dataclass(slots=True)
class _Held:
    """What a slot of a mirror holds: a version of a cache; behind `written` it is zero."""

    cache: weakref.ref[BlockCache] | None = None
    version: int = 0
    written: int = 0


class Mirror:
    """Copies of the committed keys and values of a few caches, at addresses that never change.

    Behind `keys` positions of a sequence lie `rows` more, where padding is written and nobody
    looks.
    """

    def __init__(self, model: Transformer, slots: int, keys: int, rows: int) -> None:
        c = model.config
        shape = (c.n_layers, 2, slots, c.n_kv_heads, keys + rows, c.head_dim)
        self.buffer = torch.zeros(shape, dtype=model.dtype, device=model.device)
        self.scratch = keys
        self._held = [_Held() for _ in range(slots)]

    def load(self, forwards: Sequence[Forward], slots: int) -> list[int]:
        """Hold what the caches of forwards have committed, and zeros behind the rows that follow.

        A mask hides a stale key, but not what is not a number: nothing times that is still that.

        Returns:
            The slot of each, of the first `slots`.
        """
        free = list(range(slots))
        found: dict[int, int] = {}
        for index, one in enumerate(forwards):
            slot = next((n for n in free if self._is_current(n, one.cache)), None)
            if slot is not None:
                found[index] = slot
                free.remove(slot)
        for index, one in enumerate(forwards):
            assert isinstance(one.cache, BlockCache)
            slot = found.setdefault(index, -1)
            if slot < 0:
                slot = found[index] = free.pop(0)
                past = one.cache.length
                self.buffer[:, :, slot : slot + 1, :, :past] = one.cache.committed_all()
            held, end = self._held[slot], one.cache.length + one.size
            if held.written > end:
                self.buffer[:, :, slot, :, end : held.written] = 0
            held.cache, held.written = None, end
        return [found[index] for index in range(len(forwards))]

    def store(self, cache: BlockCache, slot: int, new: int) -> None:
        """Give the drafts of a forward to the cache that was loaded for it."""
        past = cache.length
        cache.append_all(self.buffer[:, :, slot : slot + 1, :, past : past + new])
        held = self._held[slot]
        held.cache, held.version = weakref.ref(cache), cache.version

    def _is_current(self, slot: int, cache: KeyValues) -> bool:
        held = self._held[slot]
        if held.cache is None or held.cache() is not cache:
            return False
        return isinstance(cache, BlockCache) and held.version == cache.version


@dataclass(frozen=True, slots=True)
class Window:
    """The first `keys` positions of the first slots of a mirror, as attention asks for them."""

    buffer: Tensor
    places: Tensor
    keys: int

    @property
    def length(self) -> int:
        return self.keys

    def append(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        both = self.buffer[layer, :, : len(self.places)]
        places = self.places[:, None, :, None].expand_as(keys)
        both[0].scatter_(2, places, keys)
        both[1].scatter_(2, places, values)
        return both[0, :, :, : self.keys], both[1, :, :, : self.keys]
