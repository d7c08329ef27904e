"""The families by name, around one network: blocks of our stack, read at a noise level.

It sees tokens, or the vectors of a continuous family, and gives numbers for each position: logits
of clean tokens mostly. Families differ in what they do with them, not in the network.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from blockdiff.errors import InvalidRequest
from blockdiff.lab.absorbing import Masked
from blockdiff.lab.autoregressive import Autoregressive, BlockDiffusion
from blockdiff.lab.continuous import AnalogBits, Cdcd, DiffusionLm, Plaid
from blockdiff.lab.d3pm import D3pmAbsorbing, D3pmMixing
from blockdiff.lab.family import LabFamily
from blockdiff.lab.scores import SeddAbsorbing, SeddUniform, Uniform
from blockdiff.model.cache import KeyValues
from blockdiff.model.config import TransformerConfig
from blockdiff.model.layer import Block, Placed, stream_norm
from blockdiff.model.rotary import rotary_tables

_TIME = 64  # sines and cosines of the noise level
_SILENT = ("time.2.weight", "time.2.bias", "turn.weight", "writer.weight")  # zero at first


class Network(nn.Module):
    """Inputs, blocks, final norm and head; parameters are float32.

    `words` (vocab_size + 1, hidden_size) are embedding and head at once, the last row the mask's.
    Between norm and head stands `turn`: a head that is the embedding alone finds in every position
    the token that was read there, which under noise is the wrong one more often than not.
    """

    words: Any

    def __init__(
        self, config: TransformerConfig, bias: Tensor, inputs: int = 0, outputs: int = 0
    ) -> None:
        """`inputs` and `outputs`: dimensions of vectors in place of tokens; 0: tokens.

        An untrained network says `bias`, whatever it reads: with the log frequencies of tokens
        there, every family begins at the bound of independent tokens.
        """
        super().__init__()
        width, self.config = config.hidden_size, config
        words = nn.Parameter(torch.empty(config.vocab_size + 1, width))
        self.words = None if inputs and outputs else words
        self.reader = nn.Linear(inputs, width) if inputs else None
        self.writer = nn.Linear(width, outputs, bias=False) if outputs else None
        self.turn = nn.Linear(width, width, bias=False)
        self.time = nn.Sequential(nn.Linear(_TIME, width), nn.SiLU(), nn.Linear(width, width))
        self.blocks = nn.ModuleList(Block(config, i) for i in range(config.n_layers))
        self.norm = stream_norm(config)
        self.bias = nn.Parameter(bias.clone())
        for name, parameter in self.named_parameters():
            if name.endswith(_SILENT):
                nn.init.zeros_(parameter)
            elif parameter.dim() == 2:
                nn.init.normal_(parameter, std=0.5 * parameter.shape[1] ** -0.5)

    def forward(
        self,
        inputs: Tensor,
        mask: Tensor,
        t: Tensor | None = None,
        positions: Tensor | None = None,
        cache: KeyValues | None = None,
    ) -> Tensor:
        """(batch, new, vocab_size or outputs) of ids (batch, new) or vectors (batch, new, inputs).

        A mask is (new, past + new), t (batch,), positions (1, new), the last ones unless given.
        """
        x: Tensor = self.reader(inputs) if self.reader else F.embedding(inputs, self.words)
        if t is not None:  # waves from 1 to 1,000
            angles = t[:, None] * torch.logspace(0, 3, _TIME // 2)
            x = x + self.time(torch.cat([angles.sin(), angles.cos()], dim=-1))[:, None]
        if positions is None:
            positions = torch.arange(mask.shape[1])[None, -x.shape[1] :]
        placed = Placed(*rotary_tables(self.config, positions))
        for block in self.blocks:
            x = block(x, placed, mask, cache, None)
        x = self.norm(x)
        if self.writer:
            return torch.add(self.writer(x), self.bias)
        return F.linear(self.turn(x), self.words[:-1], self.bias)


def shape(vocab_size: int, hidden_size: int, n_layers: int) -> TransformerConfig:
    """Heads of 32, a feed-forward of 8/3 of the width in steps of 32."""
    heads = max(1, hidden_size // 32)
    return TransformerConfig(
        vocab_size=vocab_size, hidden_size=hidden_size, n_layers=n_layers,
        n_heads=heads, n_kv_heads=heads, head_dim=hidden_size // heads,
        ffn_size=max(32, hidden_size * 8 // 3 // 32 * 32), qk_norm=True,
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Setting:
    """What a family is built for: the network's size, frequencies (vocab,) of single tokens, ids of
    near ones (groups, size) for D3PM, and dimensions of learnt embeddings that are noised."""

    hidden_size: int
    n_layers: int
    frequencies: Tensor
    groups: Tensor
    dimensions: int = 32

    @property
    def bits(self) -> int:
        """Of a token's number."""
        return (len(self.frequencies) - 1).bit_length()

    def build(
        self, kind: Callable[..., LabFamily], inputs: int = 0, outputs: int = 0, **options: object
    ) -> LabFamily:
        """A family whose network reads and writes vectors of so many dimensions; 0: tokens."""
        vocab_size, layers = len(self.frequencies), self.n_layers
        if inputs and outputs:  # no matrix of words: layers of about the same parameters
            layers += round(vocab_size / (12 * self.hidden_size))
        bias = torch.zeros(outputs or vocab_size) if inputs else self.frequencies.log()
        network = Network(shape(vocab_size, self.hidden_size, layers), bias, inputs, outputs)
        return kind(network, self.frequencies, **options)

    def embedded(self, kind: type[Plaid], size: int, outputs: int = 0) -> LabFamily:
        """One whose network reads noisy embeddings, and its last prediction if it sees that."""
        return self.build(kind, size * (1 + kind.self_conditioning), outputs, dimensions=size)


FAMILIES: dict[str, Callable[[Setting], LabFamily]] = {
    "ar": lambda s: s.build(Autoregressive),
    "mdlm": lambda s: s.build(Masked),
    "d3pm-absorbing": lambda s: s.build(D3pmAbsorbing),
    "d3pm-uniform": lambda s: s.build(D3pmMixing),
    "d3pm-nearest": lambda s: s.build(D3pmMixing, groups=s.groups),
    "sedd-absorbing": lambda s: s.build(SeddAbsorbing),
    "sedd-uniform": lambda s: s.build(SeddUniform),
    "uniform": lambda s: s.build(Uniform),
    "bd3lm-1": lambda s: s.build(BlockDiffusion, block_size=1),
    "bd3lm-4": lambda s: s.build(BlockDiffusion, block_size=4),
    "bd3lm-8": lambda s: s.build(BlockDiffusion, block_size=8),
    "bd3lm-16": lambda s: s.build(BlockDiffusion, block_size=16),
    "bd3lm-whole": lambda s: s.build(BlockDiffusion, block_size=0),
    "diffusion-lm": lambda s: s.embedded(DiffusionLm, s.dimensions, s.dimensions),
    "analog-bits": lambda s: s.embedded(AnalogBits, s.bits, s.bits),
    "plaid": lambda s: s.embedded(Plaid, s.dimensions),
    "cdcd": lambda s: s.embedded(Cdcd, s.dimensions),
}


def create(name: str, setting: Setting, seed: int) -> LabFamily:
    """A new family by name. Raises InvalidRequest for an unknown one."""
    if name not in FAMILIES:
        raise InvalidRequest(f"no family {name!r}", f"known: {', '.join(FAMILIES)}")
    torch.manual_seed(seed)
    return FAMILIES[name](setting)
