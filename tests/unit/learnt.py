"""Models that the laboratory's families have taught the toy language, in seconds.

Their bodies are those that checkpoints are loaded into; the last token is the mask.
"""

from __future__ import annotations

import functools
import random

import torch
from torch import Tensor, nn

from blockdiff.lab.absorbing import Masked
from blockdiff.lab.autoregressive import BlockDiffusion
from blockdiff.lab.family import LabFamily
from blockdiff.lab.training import update
from blockdiff.model.load.kinds import AttentionPattern
from blockdiff.model.transformer import Transformer
from tests.unit.tiny import TOY_SHAPE, Letters, toy_line

MASK = TOY_SHAPE.vocab_size - 1
BLOCK_SIZE = 4
LENGTH = 24
HOLE = range(8, 14)  # what is written of a line
_STEPS = 150


class _Network(nn.Module):
    """What a family of the laboratory asks of its network, by a `Transformer`."""

    def __init__(self) -> None:
        super().__init__()
        self.body = Transformer(TOY_SHAPE)
        with torch.no_grad():
            self.body.embedding.weight.mul_(0.3)

    def forward(
        self, tokens: Tensor, mask: Tensor, t: object = None, positions: Tensor | None = None
    ) -> Tensor:
        places = torch.arange(tokens.shape[1])[None] if positions is None else positions
        logits: Tensor = self.body(tokens, places, mask)
        return logits[..., :MASK]


@functools.cache
def masked_diffusion(attention: AttentionPattern) -> Transformer:
    """MDLM, or BD3-LM with blocks of `BLOCK_SIZE`: writes lines of `toy_line`."""
    torch.manual_seed(0)
    network, even = _Network(), torch.full((MASK,), 1 / MASK)
    family: LabFamily = Masked(network, even)
    if attention is AttentionPattern.BLOCK:
        family = BlockDiffusion(network, even, BLOCK_SIZE)
    optimizer = torch.optim.AdamW(family.parameters())
    rng, g = random.Random(0), torch.Generator().manual_seed(0)
    for step in range(_STEPS):
        lines = [Letters().encode(toy_line(rng, LENGTH)) for _ in range(64)]
        update(family, optimizer, torch.tensor(lines), g, 1e-2 * min(1, 2 - 2 * step / _STEPS))
    return network.body.eval().requires_grad_(False)


def lines(count: int) -> list[list[int]]:
    """Such as were not learned."""
    rng = random.Random(5)
    return [Letters().encode(toy_line(rng, LENGTH)) for _ in range(count)]
