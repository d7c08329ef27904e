"""Keys and values of committed tokens, exact, in buffers allocated once.

Two regions: `[0, length)` is committed and never written again; what a forward appends behind it
is a draft. A forward may write drafts, only `commit` makes them part of the state.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from blockdiff.errors import InvalidRequest
from blockdiff.model.config import TransformerConfig


class KeyValues(Protocol):
    """What attention needs of a cache."""

    @property
    def length(self) -> int:
        """Committed positions (tokens)."""
        ...

    def append(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Put drafts behind the committed positions of one layer; return both regions together."""
        ...


class BlockCache:
    """Static buffers of shape (layers, 2, batch, kv_heads, capacity, head_dim).

    `append` writes the draft region of one layer, `commit` adopts drafts, `truncate` forgets
    committed positions, `fork` copies the committed region. Capacity grows by doubling, so that a
    short request does not pay for a long context.

    Attributes:
        version: another one after anything was written; who keeps a copy sees that it is stale.
        companion: what a drafter keeps of the same positions: committed, cut and forked with these.
    """

    def __init__(
        self,
        config: TransformerConfig,
        *,
        batch: int = 1,
        capacity: int = 512,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        companion: BlockCache | None = None,
    ) -> None:
        self._config = config
        self.companion = companion
        self._draft = 0
        self._length = 0
        self.version = 0
        shape = (config.n_layers, 2, batch, config.n_kv_heads, capacity, config.head_dim)
        self._buffer = torch.zeros(shape, dtype=dtype, device=device)

    @property
    def length(self) -> int:
        return self._length

    @property
    def capacity(self) -> int:
        return self._buffer.shape[4]

    @property
    def most_positions(self) -> int:
        """What the model's context limits the capacity to."""
        return self._config.max_positions

    @property
    def batch(self) -> int:
        return self._buffer.shape[2]

    @property
    def nbytes(self) -> int:
        """Size of the buffers in bytes, those of the companion included."""
        own = self._buffer.numel() * self._buffer.element_size()
        return own + (self.companion.nbytes if self.companion is not None else 0)

    def reserve(self, positions: int) -> None:
        """Make room for `positions` in all. Raises InvalidRequest past the model's limit."""
        if positions > self._config.max_positions:
            raise InvalidRequest(
                f"{positions} tokens exceed the model's context of {self._config.max_positions}",
                "lower --context-tokens or --max-tokens",
            )
        if positions <= self.capacity:
            return
        capacity = min(max(positions, 2 * self.capacity), self._config.max_positions)
        shape = list(self._buffer.shape)
        shape[4] = capacity
        grown = self._buffer.new_zeros(shape)
        used = self._length + self._draft
        grown[:, :, :, :, :used] = self._buffer[:, :, :, :, :used]
        self._buffer = grown

    def append(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Write drafts of one layer behind the committed positions, over any earlier draft.

        Args:
            keys, values: (batch, kv_heads, new, head_dim).

        Returns:
            Views of committed and draft keys and values, (batch, kv_heads, length + new, head_dim).
        """
        new = keys.shape[2]
        end = self._length + new
        if layer == 0:
            self.open(new)
        self._buffer[layer, 0, :, :, self._length : end] = keys
        self._buffer[layer, 1, :, :, self._length : end] = values
        return self._buffer[layer, 0, :, :, :end], self._buffer[layer, 1, :, :, :end]

    def append_all(self, keys_values: Tensor) -> None:
        """Write drafts of all layers at once, (layers, 2, batch, kv_heads, new, head_dim)."""
        new = keys_values.shape[4]
        self.open(new)[..., self._length : self._length + new, :] = keys_values

    def open(self, new: int) -> Tensor:
        """Make room for `new` drafts, over any earlier ones, and leave it to the caller to write.

        Returns:
            The buffers, (layers, 2, batch, kv_heads, capacity, head_dim). Drafts belong to
            `[length, length + new)`; nothing else may change.
        """
        self.reserve(self._length + new)
        self._draft = new
        self.version += 1
        return self._buffer

    def commit(self, count: int) -> None:
        """Adopt the first `count` drafts of the last forward; the others are gone."""
        if not 0 <= count <= self._draft:
            raise ValueError(f"cannot commit {count} of {self._draft} draft positions")
        if self.companion is not None:
            self.companion.commit(count)
        self._length += count
        self._draft = 0

    def truncate(self, length: int) -> None:
        """Keep the first `length` committed positions; drafts are gone."""
        if not 0 <= length <= self._length:
            raise ValueError(f"cannot truncate {self._length} committed positions to {length}")
        if self.companion is not None:
            self.companion.truncate(length)
        self._length = length
        self._draft = 0

    def fork(
        self, batch: int | None = None, length: int | None = None, capacity: int = 0
    ) -> BlockCache:
        """An independent copy of the committed region, its single row repeated `batch` times.

        With `length`, of its first `length` positions only. Its capacity is what is copied, or
        `capacity` where that is more: never that of this cache.
        """
        rows = self.batch if batch is None else batch
        length = self._length if length is None else length
        if not 0 <= length <= self._length:
            raise ValueError(f"cannot fork {length} of {self._length} committed positions")
        if rows != self.batch and self.batch != 1:
            raise ValueError(f"cannot fork {self.batch} rows into {rows}")
        copy = object.__new__(BlockCache)
        copy._config, copy._length, copy._draft, copy.version = self._config, length, 0, 0
        copy.companion = self.companion and self.companion.fork(batch, length, capacity)
        shape = list(self._buffer.shape)
        shape[2], shape[4] = rows, max(length, capacity)
        copy._buffer = self._buffer.new_zeros(shape)
        copy._buffer[:, :, :, :, :length] = self._buffer[:, :, :, :, :length]
        return copy

    def committed(self, layer: int) -> tuple[Tensor, Tensor]:
        """Views of one layer's committed keys and values, (batch, kv_heads, length, head_dim)."""
        pair = self._buffer[layer, :, :, :, : self._length]
        return pair[0], pair[1]

    def committed_all(self) -> Tensor:
        """View of all committed ones, (layers, 2, batch, kv_heads, length, head_dim)."""
        return self._buffer[..., : self._length, :]
