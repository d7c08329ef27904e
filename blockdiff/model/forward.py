"""Forwards that wait to be run, alone or several in one pass over the weights.

Reading the weights is most of what a small forward costs. Requests that are written at the same
time share it: their positions become rows of the same matrix products, while each attends over its
own cache under its own mask, and gets what it would have got alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from blockdiff.model.block_drafter import BlockDrafter
from blockdiff.model.cache import BlockCache, KeyValues
from blockdiff.model.layer import Gate, Segment
from blockdiff.model.transformer import Taps, Transformer


@dataclass(frozen=True, slots=True, eq=False)
class Forward:
    """One request's next forward, built on the CPU: whoever runs it brings it to the model.

    Attributes:
        tokens: (1, new) ids.
        positions: (1, new) absolute positions.
        mask: boolean, (new, past + new).
        cache: takes the drafts of keys and values.
        gate: noisy positions; None: base weights everywhere.
        wanted: first position whose logits are asked for; None: only keys and values are.
        on_layer: called before every layer of a forward that runs alone; what it raises ends it.
        drafts: by the drafter and its layers, over the cache that it keeps.
        on_hidden: called with the hidden states that the logits are made of, (wanted, hidden_size).
    """

    tokens: Tensor
    positions: Tensor
    mask: Tensor
    cache: KeyValues
    gate: Gate | None = None
    wanted: int | None = 0
    on_layer: Callable[[], None] | None = None
    drafts: bool = False
    on_hidden: Callable[[Tensor], None] | None = None

    @property
    def size(self) -> int:
        """Positions."""
        return self.tokens.shape[1]

    @property
    def encoded(self) -> int:
        """Positions whose logits nobody asks for: context, as a rule."""
        return self.size if self.wanted is None else self.wanted


Runner = Callable[[Sequence[Forward]], list[Tensor]]
"""Runs forwards together: for each its logits (wanted positions, vocab), float32."""


def run(
    model: Transformer, forwards: Sequence[Forward], drafter: BlockDrafter | None = None
) -> list[Tensor]:
    """Run forwards in one pass, or in one for each adapter that acts in them; see `Runner`.

    Those that draft have a pass of their own, over the weights of the `drafter`. For the others it
    reads what the model's layers put out, into the companions of their caches.

    What they are made of is copied to the model's device without waiting for it. Raises what
    `on_layer` of a lone forward raises.
    """
    first = next((one.gate.adapter for one in forwards if one.gate is not None), None)
    others = [one.gate is not None and one.gate.adapter is not first for one in forwards]
    if any(others):
        each: Runner = partial(run, model, drafter=drafter)
        return apart(forwards, others, each, each)
    if drafter is None:
        return _pass(model, forwards)
    return apart(
        forwards,
        [one.drafts for one in forwards],
        lambda own: _pass(model, own, drafter),
        lambda drafts: _pass(drafter.stack, drafts),
    )


def apart(
    forwards: Sequence[Forward], others: Sequence[bool], own: Runner, other: Runner
) -> list[Tensor]:
    """The answers of forwards: `others` are run by `other`, the rest by `own`."""
    answers = []
    for kind, runner in ((False, own), (True, other)):
        some = [one for one, which in zip(forwards, others, strict=True) if which is kind]
        answers.append(iter(runner(some)) if some else iter(()))
    return [next(answers[which]) for which in others]


def companions(forwards: Sequence[Forward]) -> list[BlockCache | None]:
    """What a drafter keeps of the sequence of each; None: there is no drafter."""
    return [one.cache.companion if isinstance(one.cache, BlockCache) else None for one in forwards]


def _pass(
    model: Transformer, forwards: Sequence[Forward], drafter: BlockDrafter | None = None
) -> list[Tensor]:
    """Rows are made contiguous for the head: a strided view sends the product down a path 80 times
    slower."""
    device = model.device
    kept = companions(forwards)
    taps = Taps(drafter.config.layers) if drafter is not None and any(kept) else None
    wanted = any(one.encoded < one.size for one in forwards)
    if len(forwards) == 1:
        one = forwards[0]
        positions = moved(one.positions, device)
        hidden = model.hidden(
            moved(one.tokens, device),
            positions,
            moved(one.mask, device),
            one.cache,
            _moved_gate(one.gate, device),
            one.on_layer,
            taps,
            wanted,
        )
    else:
        positions = moved(torch.cat([one.positions for one in forwards], dim=1), device)
        hidden = model.hidden_together(
            moved(torch.cat([one.tokens for one in forwards], dim=1), device),
            positions,
            [Segment(one.size, moved(one.mask, device), one.cache) for one in forwards],
            _moved_gate(_joint_gate(forwards), device),
            taps,
            wanted,
        )
    if drafter is not None and taps is not None:
        drafter.encode(taps.features(), positions, [one.size for one in forwards], kept)
    pieces = torch.split(hidden[0], [one.size for one in forwards])
    rows = [piece[_wanted(one)] for piece, one in zip(pieces, forwards, strict=True)]
    for one, some in zip(forwards, rows, strict=True):
        if one.on_hidden is not None:
            one.on_hidden(some)
    sizes = [len(some) for some in rows]
    if not sum(sizes):
        return [some.new_zeros(0, 0) for some in rows]
    headed = rows[0] if len(rows) == 1 else torch.cat(rows)
    return list(torch.split(model.head(headed.contiguous()).float(), sizes))


def moved(x: Tensor, device: torch.device) -> Tensor:
    """A tensor on `device`; to CUDA the copy is queued like a kernel, from pinned memory."""
    if x.device.type == device.type:
        return x
    if x.is_cpu and device.type == "cuda":
        return x.pin_memory().to(device, non_blocking=True)
    return x.to(device)


def _moved_gate(gate: Gate | None, device: torch.device) -> Gate | None:
    if gate is None or device.type == gate.masked.device.type:
        return gate
    noisy = gate.noisy
    return Gate(
        gate.adapter,
        moved(gate.masked, device),
        moved(noisy, device) if isinstance(noisy, Tensor) else noisy,
    )


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
