"""The families by name, built around networks of as nearly as possible the same size."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from blockdiff.errors import InvalidRequest
from blockdiff.lab.ar import Autoregressive
from blockdiff.lab.bd3lm import BlockDiffusion
from blockdiff.lab.continuous import AnalogBits, Cdcd, DiffusionLm, Plaid, bits_of
from blockdiff.lab.d3pm import Absorbing, Chain, D3pm, Mixing
from blockdiff.lab.data import LabData
from blockdiff.lab.family import LabFamily
from blockdiff.lab.masked import Masked
from blockdiff.lab.network import Network, shape
from blockdiff.lab.sedd import SeddAbsorbing, SeddUniform
from blockdiff.lab.uniform import Uniform


@dataclass(frozen=True, slots=True)
class Setting:
    """What a family is built for.

    Attributes:
        frequencies: (vocab,) of single tokens.
        groups: (groups, size) ids of near tokens, for D3PM.
        chain_steps: T of D3PM.
        dimensions: of learnt embeddings that are noised.
    """

    hidden_size: int
    n_layers: int
    frequencies: Tensor
    groups: Tensor
    chain_steps: int = 128
    dimensions: int = 32

    @classmethod
    def of(cls, data: LabData, hidden_size: int, n_layers: int) -> Setting:
        return cls(hidden_size, n_layers, data.frequencies, data.groups)

    @property
    def vocab_size(self) -> int:
        return len(self.frequencies)

    def network(self, inputs: int = 0, outputs: int = 0, *, informed: bool = True) -> Network:
        """Without a matrix of words it has further layers, to about the same parameters."""
        config = shape(self.vocab_size, self.hidden_size, self.n_layers)
        layers = self.n_layers
        if inputs and outputs:
            per_layer = self.hidden_size * (4 * self.hidden_size + 3 * config.ffn_size)
            layers += round(self.vocab_size * self.hidden_size / per_layer)
            config = shape(self.vocab_size, self.hidden_size, layers)
        bias = torch.zeros(outputs or self.vocab_size)
        if informed and not outputs:
            bias = self.frequencies.log()
        return Network(config, bias, inputs=inputs, outputs=outputs)


def _d3pm(setting: Setting, kind: str) -> LabFamily:
    v, steps = setting.vocab_size, setting.chain_steps
    chains: dict[str, Chain] = {
        "uniform": Mixing(v, steps),
        "nearest": Mixing(v, steps, setting.groups),
        "absorbing": Absorbing(v, steps),
    }
    return D3pm(setting.network(), v, chains[kind])


def _diffusion_lm(setting: Setting) -> LabFamily:
    d = setting.dimensions
    return DiffusionLm(setting.network(d, d), setting.vocab_size, setting.frequencies, d)


def _analog_bits(setting: Setting) -> LabFamily:
    bits = bits_of(setting.vocab_size)
    return AnalogBits(setting.network(2 * bits, bits), setting.vocab_size, setting.frequencies)


def _block(size: int) -> Callable[[Setting], LabFamily]:
    return lambda setting: BlockDiffusion(setting.network(), setting.vocab_size, size)


FAMILIES: dict[str, Callable[[Setting], LabFamily]] = {
    "ar": lambda s: Autoregressive(s.network(), s.vocab_size),
    "mdlm": lambda s: Masked(s.network(), s.vocab_size),
    "d3pm-absorbing": lambda s: _d3pm(s, "absorbing"),
    "d3pm-uniform": lambda s: _d3pm(s, "uniform"),
    "d3pm-nearest": lambda s: _d3pm(s, "nearest"),
    "sedd-absorbing": lambda s: SeddAbsorbing(s.network(), s.vocab_size),
    "sedd-uniform": lambda s: SeddUniform(s.network(informed=False), s.vocab_size, s.frequencies),
    "uniform": lambda s: Uniform(s.network(), s.vocab_size),
    "bd3lm-1": _block(1),
    "bd3lm-4": _block(4),
    "bd3lm-8": _block(8),
    "bd3lm-16": _block(16),
    "bd3lm-whole": _block(0),
    "diffusion-lm": _diffusion_lm,
    "analog-bits": _analog_bits,
    "plaid": lambda s: Plaid(s.network(2 * s.dimensions), s.vocab_size, s.dimensions),
    "cdcd": lambda s: Cdcd(s.network(2 * s.dimensions), s.vocab_size, s.dimensions),
}


def create(name: str, setting: Setting, seed: int) -> LabFamily:
    """A new family by name. Raises InvalidRequest for an unknown one."""
    if name not in FAMILIES:
        raise InvalidRequest(f"no family {name!r}", f"known: {', '.join(FAMILIES)}")
    torch.manual_seed(seed)
    return FAMILIES[name](setting)


def unigram(frequencies: Tensor, tokens: Tensor) -> Tensor:
    """(batch,) nats under independent tokens: the bound that no family may miss."""
    return -frequencies.log()[tokens].sum(-1)


def bits_per_byte(nats: float, nbytes: float) -> float:
    return nats / math.log(2) / nbytes
