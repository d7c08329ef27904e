"""The one network of all families: blocks of our stack, read at a noise level.

It sees tokens, or the vectors of a continuous family, and gives numbers for each position: logits
of clean tokens mostly. Families differ in what they do with them, not in the network.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from blockdiff.config import TransformerConfig
from blockdiff.model.cache import KeyValues
from blockdiff.model.layer import Block, Placed, stream_norm
from blockdiff.model.rotary import rotary_tables

_TIME = 64  # sines and cosines of the noise level


def shape(vocab_size: int, hidden_size: int, n_layers: int) -> TransformerConfig:
    """Heads of 32, a feed-forward of 8/3 of the width in steps of 32."""
    heads = max(1, hidden_size // 32)
    return TransformerConfig(
        vocab_size=vocab_size,
        hidden_size=hidden_size,
        n_layers=n_layers,
        n_heads=heads,
        n_kv_heads=heads,
        head_dim=hidden_size // heads,
        ffn_size=max(32, hidden_size * 8 // 3 // 32 * 32),
        qk_norm=True,
    )


class Network(nn.Module):
    """Inputs, blocks, final norm and head; parameters are float32.

    Attributes:
        words: (vocab_size + 1, hidden_size), embedding and head at once; the last row embeds the
            mask. None where the network reads vectors and gives something else than logits.
        bias: of the head: where it holds the log frequencies of tokens, an untrained network
            knows them, so that every family begins at the same bound.
    """

    def __init__(
        self, config: TransformerConfig, bias: Tensor, *, inputs: int = 0, outputs: int = 0
    ) -> None:
        """`inputs` and `outputs`: dimensions of vectors in place of tokens; 0: tokens."""
        super().__init__()
        width = config.hidden_size
        self.config = config
        has_words = not inputs or not outputs
        self.words = nn.Parameter(torch.empty(config.vocab_size + 1, width)) if has_words else None
        self.reader = nn.Linear(inputs, width) if inputs else None
        self.writer = nn.Linear(width, outputs, bias=False) if outputs else None
        last = nn.Linear(width, width)
        self.time = nn.Sequential(nn.Linear(_TIME, width), nn.SiLU(), last)
        self.blocks = nn.ModuleList(Block(config, i) for i in range(config.n_layers))
        self.norm = stream_norm(config)
        self.bias = nn.Parameter(bias.clone())
        for name, parameter in self.named_parameters():
            if parameter.dim() == 2:
                residual = name.endswith(("attention.o.weight", "ffn.down.weight"))
                scale = 0.02 / math.sqrt(2 * config.n_layers) if residual else 0.02
                nn.init.normal_(parameter, std=scale)
        nn.init.zeros_(last.weight)  # or the level would drown the embeddings, which are small
        nn.init.zeros_(last.bias)
        if self.reader is not None:
            nn.init.normal_(self.reader.weight, std=inputs**-0.5)

    def forward(
        self,
        inputs: Tensor,
        mask: Tensor,
        t: Tensor | None = None,
        positions: Tensor | None = None,
        cache: KeyValues | None = None,
    ) -> Tensor:
        """(batch, new, vocab_size or outputs).

        Args:
            inputs: (batch, new) ids, or (batch, new, inputs) vectors.
            mask: boolean, (new, past + new); see `blockdiff.model.masks`.
            t: (batch,) noise levels in [0, 1]; None: the family does not tell it.
            positions: (1, new); None: from 0 on.
        """
        x = self._embedded(inputs)
        if t is not None:
            x = x + self.time(_waves(t))[:, None]
        if positions is None:
            positions = torch.arange(x.shape[1], device=x.device)[None]
        placed = Placed(*rotary_tables(self.config, positions))
        for block in self.blocks:
            x = block(x, placed, mask, cache, None)
        x = self.norm(x)
        if self.writer is not None:
            out: Tensor = self.writer(x) + self.bias
            return out
        assert self.words is not None
        return F.linear(x, self.words[:-1], self.bias)

    def _embedded(self, inputs: Tensor) -> Tensor:
        if self.reader is not None:
            vectors: Tensor = self.reader(inputs)
            return vectors
        assert self.words is not None
        return F.embedding(inputs, self.words)


def _waves(t: Tensor) -> Tensor:
    """(batch, 64) from (batch,): frequencies from 1 to 1,000."""
    rates = torch.logspace(0, 3, _TIME // 2, device=t.device)
    angles = t[:, None] * rates
    return torch.cat([angles.sin(), angles.cos()], dim=-1)
