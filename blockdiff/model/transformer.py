"""One decoder stack for every family.

Pre-norm blocks of grouped-query attention with rotary positions, and SwiGLU or a mixture of
experts. The differences between families are values of `TransformerConfig`, looked at once, when a
block is built.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Protocol, cast

import torch
from torch import Tensor, nn

from blockdiff.model.cache import KeyValues
from blockdiff.model.config import TransformerConfig
from blockdiff.model.layer import Block, Gate, Placed, Segment, shared_mask, stream_norm
from blockdiff.model.masks import windowed
from blockdiff.model.rotary import query_scale, rotary_tables


class Taps:
    """What chosen layers of one forward put out, for a drafter that reads it.

    Attributes:
        layers: ascending, none the last one; -1 is the embedding.
    """

    def __init__(self, layers: Sequence[int]) -> None:
        self.layers = tuple(layers)
        self._found: list[Tensor] = []

    def see(self, layer: int, x: Tensor) -> None:
        """Keep a copy of the stream behind a layer, if it is one of these."""
        if layer in self.layers:
            self._found.append(x.clone())

    def features(self) -> Tensor:
        """(batch, new, layers * hidden_size), once the forward is done."""
        return torch.cat(self._found, dim=-1)


class Layers(Protocol):
    """All blocks and the final norm of a model, run in another way than by torch."""

    def takes(self, caches: Sequence[KeyValues | None], gate: Gate | None) -> bool:
        """Whether it can run a forward with these."""
        ...

    def run(
        self,
        x: Tensor,
        rotary: tuple[Tensor, Tensor],
        segments: Sequence[Segment],
        gate: Gate | None,
        on_layer: Callable[[], None] | None = None,
        taps: Taps | None = None,
        wanted: bool = True,
    ) -> Tensor:
        """(1, new, hidden_size) of embedded positions, which it may overwrite."""
        ...


class Transformer(nn.Module):
    """Embedding, blocks, final norm and head.

    Attributes:
        fused: runs the blocks of one or several sequences with caches, where it can.
    """

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(config.vocab_size, config.hidden_size)
        self.blocks = nn.ModuleList(Block(config, i) for i in range(config.n_layers))
        self.norm = stream_norm(config)
        self.head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        if config.tied_embeddings:
            self.head.weight = self.embedding.weight
        self.fused: Layers | None = None

    @property
    def dtype(self) -> torch.dtype:
        """Of activations, keys and values."""
        return self.norm.weight.dtype

    @property
    def device(self) -> torch.device:
        return self.norm.weight.device

    def hidden(
        self,
        tokens: Tensor,
        positions: Tensor,
        mask: Tensor,
        cache: KeyValues | None = None,
        gate: Gate | None = None,
        on_layer: Callable[[], None] | None = None,
        taps: Taps | None = None,
        wanted: bool = True,
    ) -> Tensor:
        """Final hidden states, after the last norm.

        Drafts of keys and values are appended to `cache`; its committed part never changes here.

        Args:
            tokens: (batch, new) ids.
            positions: (batch or 1, new) absolute positions.
            mask: boolean, (new, past + new) or (batch, 1, new, past + new); see `masks`.
            gate: noisy positions and the adapter that acts on them; None: base weights everywhere.
            on_layer: called before each layer; what it raises ends the forward, with drafts at most
                in the cache.
            taps: sees what the layers put out.
            wanted: whether hidden states are; else only keys and values, and what is returned
                may be anything.

        Returns:
            (batch, new, hidden_size)
        """
        x = self._embedded(tokens, gate)
        placed = self._placed(positions, batch=len(tokens))
        fused = self.fused if mask.dim() == 2 and placed.query is None else None
        if fused is not None and fused.takes([cache], gate):
            segment = Segment(tokens.shape[1], mask, cast(KeyValues, cache))
            return fused.run(x, placed[:2], [segment], gate, on_layer, taps, wanted)
        return self._through(
            x, placed, self._rows(mask, positions), cache, gate, on_layer, taps
        )

    def hidden_together(
        self,
        tokens: Tensor,
        positions: Tensor,
        segments: Sequence[Segment],
        gate: Gate | None = None,
        taps: Taps | None = None,
        wanted: bool = True,
    ) -> Tensor:
        """As `hidden`, for several sequences laid end to end, each over its own cache.

        Args:
            tokens: (1, new) ids, those of the first segment before those of the second.
            positions: (1, new) absolute positions.
            segments: their sizes add up to `new`.
            gate: of all positions together.

        Returns:
            (1, new, hidden_size)
        """
        x = self._embedded(tokens, gate)
        sizes = [segment.size for segment in segments]
        placed = self._placed(positions, sizes)
        fused = self.fused if placed.query is None else None
        if fused is not None and fused.takes([segment.cache for segment in segments], gate):
            return fused.run(x, placed[:2], segments, gate, None, taps, wanted)
        places = torch.split(positions, sizes, dim=1)
        apart = [
            replace(segment, mask=self._rows(segment.mask, place))
            for segment, place in zip(segments, places, strict=True)
        ]
        return self._through(x, placed, apart, None, gate, None, taps)

    def _through(
        self,
        x: Tensor,
        placed: Placed,
        mask: Tensor | Sequence[Segment],
        cache: KeyValues | None,
        gate: Gate | None,
        on_layer: Callable[[], None] | None,
        taps: Taps | None,
    ) -> Tensor:
        """All blocks, one after the other, and the final norm."""
        if taps is not None:
            taps.see(-1, x)
        for index, block in enumerate(self.blocks):
            if on_layer is not None:
                on_layer()
            x = block(x, placed, mask, cache, gate)
            if taps is not None:
                taps.see(index, x)
        normed: Tensor = self.norm(x)
        return normed

    def _placed(self, positions: Tensor, sizes: Sequence[int] = (), batch: int = 1) -> Placed:
        """Of a batch of sequences, or of one row that holds sequences of these `sizes`."""
        routed, experts = None, self.config.experts
        if experts is not None and experts.capacity:
            owner = torch.arange(len(sizes) or batch, device=positions.device)
            if sizes:
                owner = owner.repeat_interleave(torch.tensor(sizes, device=positions.device))
            owner = owner[None] if sizes else owner[:, None]
            routed = positions // experts.block + owner * self.config.max_positions
        query = query_scale(self.config, positions)
        return Placed(*rotary_tables(self.config, positions), query, routed)

    def _embedded(self, tokens: Tensor, gate: Gate | None) -> Tensor:
        x: Tensor = self.embedding(tokens)
        if gate is None:
            return x
        return torch.where(gate.masked[..., None], gate.adapter.mask_embedding.to(x.dtype), x)

    def _rows(self, mask: Tensor, positions: Tensor) -> Tensor:
        """The mask as `_attend` wants it."""
        if self.config.sliding_window:
            mask = windowed(mask, positions, self.config.sliding_window)
        return shared_mask(mask, self.config.n_heads // self.config.n_kv_heads)

    def forward(
        self,
        tokens: Tensor,
        positions: Tensor,
        mask: Tensor,
        cache: KeyValues | None = None,
        gate: Gate | None = None,
    ) -> Tensor:
        """Logits (batch, new, vocab_size) in the model's dtype; arguments as for `hidden`."""
        logits: Tensor = self.head(self.hidden(tokens, positions, mask, cache, gate))
        return logits
