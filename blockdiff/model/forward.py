"""Forwards that wait to be run, alone or several in one pass over the weights.

Reading the weights is most of what a small forward costs. Requests that are written at the same
time share it: their positions become rows of the same matrix products, while each attends over its
own cache under its own mask, and gets what it would have got alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from blockdiff.model.cache import KeyValues
from blockdiff.model.transformer import Gate, Segment, Transformer


@dataclass(frozen=True, slots=True, eq=False)
class Forward:
    """One request's next forward.

    Attributes:
        tokens: (1, new) ids.
        positions: (1, new) absolute positions.
        mask: boolean, (new, past + new).
        cache: takes the drafts of keys and values.
        gate: noisy positions; None: base weights everywhere.
        wanted: first position whose logits are asked for; None: only keys and values are.
        on_layer: called before every layer of a forward that runs alone; what it raises ends it.
    """

    tokens: Tensor
    positions: Tensor
    mask: Tensor
    cache: KeyValues
    gate: Gate | None = None
    wanted: int | None = 0
    on_layer: Callable[[], None] | None = None

    @property
    def size(self) -> int:
        """Positions."""
        return self.tokens.shape[1]


Runner = Callable[[Sequence[Forward]], list[Tensor]]
"""Runs forwards together: for each its logits (wanted positions, vocab), float32."""


def run(model: Transformer, forwards: Sequence[Forward]) -> list[Tensor]:
    """Run forwards in one pass, all on one adapter; see `Runner`.

    Rows are made contiguous for the head: a strided view sends the product down a path 80 times
    slower. Raises what `on_layer` of a lone forward raises.
    """
    if len(forwards) == 1:
        one = forwards[0]
        hidden = model.hidden(
            one.tokens, one.positions, one.mask, one.cache, one.gate, one.on_layer
        )
        rows = [hidden[0, _wanted(one)]]
    else:
        segments = [Segment(one.size, one.mask, one.cache) for one in forwards]
        hidden = model.hidden_together(
            torch.cat([one.tokens for one in forwards], dim=1),
            torch.cat([one.positions for one in forwards], dim=1),
            segments,
            _joint_gate(forwards),
        )
        pieces = torch.split(hidden[0], [one.size for one in forwards])
        rows = [piece[_wanted(one)] for piece, one in zip(pieces, forwards, strict=True)]
    sizes = [len(some) for some in rows]
    if not sum(sizes):
        return [some.new_zeros(0, 0) for some in rows]
    wanted = rows[0] if len(rows) == 1 else torch.cat(rows)
    return list(torch.split(model.head(wanted.contiguous()).float(), sizes))


def _wanted(one: Forward) -> slice:
    return slice(one.size if one.wanted is None else one.wanted, None)


def _joint_gate(forwards: Sequence[Forward]) -> Gate | None:
    """One gate whose noisy positions are listed, since they lie between exact ones."""
    gates = [one.gate for one in forwards if one.gate is not None]
    if not gates:
        return None
    masked, noisy, start = [], [], 0
    for one in forwards:
        everywhere = torch.arange(start, start + one.size, device=one.tokens.device)
        if one.gate is None:
            masked.append(torch.zeros_like(one.tokens, dtype=torch.bool))
        else:
            masked.append(one.gate.masked.expand_as(one.tokens))
            which = one.gate.noisy
            if isinstance(which, Tensor):
                noisy.append(everywhere[which.reshape(-1)])
            else:
                noisy.append(everywhere[which or 0 :])
        start += one.size
    return Gate(gates[0].adapter, torch.cat(masked, dim=1), torch.cat(noisy))
