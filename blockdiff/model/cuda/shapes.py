"""The few shapes that forwards are padded to, so that a recording fits them; see `graphs.py`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from blockdiff.model.config import TransformerConfig
from blockdiff.model.forward import Forward
from blockdiff.model.transformer import Transformer

KEYS = (1024, 2048, 4096)
"""Positions that a forward attends over, what is not there being masked."""

# Rows that forwards are padded to, and whether the adapter acts on any: one request alone, and each
# of several. 192 take what rewriting weighs in one forward, 165 at most.
_ALONE = ((1, False), (8, False), (32, False), (192, False), *((n, True) for n in (8, 16, 32, 64)))
_TOGETHER = ((1, False), (16, False), (16, True), (48, True))
_BATCHES = (4, 8)  # requests that forwards of several are padded to
MIRROR_BYTES = 1 << 30
"""Of each of the two mirrors: a wide cache gets a shorter one."""


@dataclass(frozen=True, slots=True)
class GraphShape:
    """What a recording is for: so many requests, rows and keys of each, with the adapter or not."""

    batch: int
    rows: int
    keys: int
    gated: bool

    @property
    def positions(self) -> int:
        """Rows of all requests."""
        return self.batch * self.rows

    def takes(self, forwards: Sequence[Forward]) -> bool:
        """Whether forwards can be padded to it."""
        return (
            len(forwards) <= self.batch
            and (self.gated or all(one.gate is None for one in forwards))
            and all(one.size <= self.rows for one in forwards)
            and all(one.cache.length + one.size <= self.keys for one in forwards)
        )


def supports(config: TransformerConfig) -> bool:
    """Whether forwards of an architecture have the same kernels whatever they compute."""
    return config.experts is None and not config.sliding_window


def shapes_for(
    model: Transformer, adapted: bool, mirror_bytes: int = MIRROR_BYTES
) -> list[GraphShape]:
    """Those that requests to a model need, as far as no mirror of them is larger than that.

    Few requests come near the most keys: between them and the fewest there is no shape of its own.
    """
    c = model.config
    each = 2 * c.n_layers * c.n_kv_heads * c.head_dim * model.dtype.itemsize
    needed = next((n for n in KEYS if n >= c.max_positions), KEYS[-1])

    def affordable(slots: int) -> list[int]:
        return [n for n in KEYS if n <= needed and slots * n * each <= mirror_bytes]

    alone, together = affordable(1), affordable(_BATCHES[-1])
    shapes = [
        GraphShape(1, rows, keys, gated)
        for keys in sorted({*alone[:1], *alone[-1:]})
        for rows, gated in _ALONE
    ] + [
        GraphShape(batch, rows, keys, gated)
        for keys in together[-1:]
        for batch in _BATCHES
        for rows, gated in _TOGETHER
    ]
    return [shape for shape in shapes if adapted or not shape.gated]


def size_of(shape: GraphShape) -> tuple[int, int, int, bool]:
    """What orders shapes: how much a recording of one computes."""
    return shape.positions, shape.keys, shape.batch, shape.gated
