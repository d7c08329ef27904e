"""The block loop: from a prompt's tokens to a stream of ever better drafts.

One structure serves every mode. Known tokens that are not in the cache yet (`pending`) run under
the base weights and are committed; noisy positions behind them run under the adapter and are
thrown away. `ar` has no noisy positions, `verify` checks a draft and writes the next in the same
forward (`verify.py`), `diffusion` denoises a block over several forwards (`denoise.py`).
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace

import torch

from blockdiff.config import Mode, Rule
from blockdiff.diffusion.canvas import BLANK, Canvas
from blockdiff.diffusion.denoise import Denoising
from blockdiff.diffusion.drafter import Speculation
from blockdiff.diffusion.forwards import Generation
from blockdiff.diffusion.snapshot import Constraint, Forwards, Snapshot, Steps, next_snapshot
from blockdiff.diffusion.verify import Verification
from blockdiff.model.forward import drive, finish

__all__ = [
    "Constraint",
    "Forwards",
    "Sampler",
    "Snapshot",
    "Speculation",
    "Steps",
    "next_snapshot",
]

@dataclass
class Sampler(Generation):
    """Writes the middle of one prompt.

    The cache must hold a committed prefix of the prompt, possibly empty and never all of it.
    Whatever way a generation ends, `run` leaves the cache with the prompt's tokens but the last,
    so that the next request can build on it. `config.block_size` must be above 0 unless the mode
    is `ar`: masks of a draft in `verify`, positions of a block in `diffusion`; `config.max_tokens`
    must be above 0. Less is written where the model's context ends: the last token is that which
    its last position says, in every mode.
    """

    def run(self, prompt: Sequence[int], canvas: Canvas = BLANK) -> Generator[Snapshot, None, None]:
        """Yield a snapshot after every forward; the last one has everything settled.

        With a `canvas` (mode `diffusion` only) its masked tokens are denoised in their places and
        every snapshot holds all of it; `config.max_tokens` does not count then.

        Raises Cancelled between two forwards.
        """
        return drive(self.steps(prompt, canvas), self.alone)

    def steps(self, prompt: Sequence[int], canvas: Canvas = BLANK) -> Steps[None]:
        """What `run` does, with its forwards left to whoever drives it."""
        home = min(self.cache.length, len(prompt) - 1)
        try:
            yield from self.encoding(prompt)
            home = self.cache.length
            denoises = canvas.tokens or self.config.rule is not Rule.TRUST
            if self.config.mode is Mode.DIFFUSION and denoises:
                yield from Denoising(self).steps(prompt[-1], canvas)
            else:
                yield from Verification(self, prompt).steps()
        finally:
            self.cache.truncate(home)

    def surprise(self, prompt: Sequence[int], text: Sequence[int]) -> list[float]:
        """Nats by which each token of `text` right behind the prompt surprises the base.

        Leaves the cache as `run` does. Raises Cancelled.
        """
        return finish(self.surprising(prompt, text), self.alone)

    def surprising(self, prompt: Sequence[int], text: Sequence[int]) -> Forwards[list[float]]:
        """What `surprise` does, with its forwards left to whoever drives it."""
        nats: list[float] = []
        home = min(self.cache.length, len(prompt) - 1)
        try:
            yield from self.encoding(prompt)
            home = self.cache.length
            before = [prompt[-1], *text[:-1]]
            for start in range(0, len(text), self.chunk):
                self.check()
                chunk = before[start : start + self.chunk]
                logits = yield self.causal(chunk)
                self.forwards += 1
                self.cache.commit(len(chunk))
                wanted = self.ids(list(text[start : start + self.chunk]))[0]
                nats += torch.nn.functional.cross_entropy(logits, wanted, reduction="none").tolist()
        finally:
            self.cache.truncate(home)
        return nats

    def encode(self, prompt: Sequence[int]) -> None:
        """Commit all of the prompt but its last token, which the first forward takes along.

        Raises Cancelled between two layers; what is committed by then stays, and is exact.
        """
        finish(self.encoding(prompt), self.alone)

    def encoding(self, prompt: Sequence[int]) -> Forwards[None]:
        """What `encode` does, with its forwards left to whoever drives it."""
        self.cache.truncate(min(self.cache.length, len(prompt) - 1))
        while self.cache.length < len(prompt) - 1:
            self.check()
            start = self.cache.length
            chunk = prompt[start : min(start + self.chunk, len(prompt) - 1)]
            yield replace(self.causal(chunk), wanted=None, look=self.check)
            self.cache.commit(len(chunk))
