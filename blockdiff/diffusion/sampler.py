"""The block loop: from a prompt's tokens to a stream of ever better drafts.

One structure serves every mode. Known tokens that are not in the cache yet (`pending`) run under
the base weights and are committed; noisy positions behind them run under the adapter and are
thrown away. `ar` has no noisy positions, `verify` checks a draft and writes the next in the same
forward (`verify.py`), `diffusion` denoises a block over several forwards (`denoise.py`). A model
that does all of this with one set of weights has its own ways of it (`tri_mode.py`).
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from blockdiff.config import Mode, Rule
from blockdiff.diffusion.canvas import BLANK, Canvas
from blockdiff.diffusion.denoise import Denoising
from blockdiff.diffusion.forwards import Generation, SamplerState, Snapshot
from blockdiff.diffusion.tri_mode import CausalBlocks, SelfSpeculation
from blockdiff.diffusion.verify import Verification
from blockdiff.model.forward import Forward


@dataclass
class Sampler(SamplerState):
    """Writes the middle of one prompt.

    The cache must hold a committed prefix of the prompt, possibly empty and never all of it.
    Whatever way a generation ends, `run` leaves the cache with the prompt's tokens but the last,
    so that the next request can build on it. `config.block_size` must be above 0 unless the mode
    is `ar`: masks of a draft in `verify`, positions of a block in `diffusion`; `config.max_tokens`
    must be above 0. Less is written where the model's context ends: the last token is that which
    its last position says, in every mode.
    """

    @torch.inference_mode()
    def run(self, prompt: Sequence[int], canvas: Canvas = BLANK) -> Iterator[Snapshot]:
        """Yield a snapshot after every forward; the last one has everything settled.

        With a `canvas` (mode `diffusion` only) its masked tokens are denoised in their places and
        every snapshot holds all of it; `config.max_tokens` does not count then.

        Raises Cancelled between two forwards.
        """
        for chunk in self.prefilling(prompt, self.most_left(canvas)):
            self.alone([chunk])
        with self.writing(prompt, canvas) as generation:
            while isinstance(forward := generation.next_forward(), Forward):
                if (snapshot := generation.take(self.alone([forward])[0])) is not None:
                    yield snapshot

    @contextmanager
    def writing(self, prompt: Sequence[int], canvas: Canvas = BLANK) -> Iterator[Generation]:
        """What `run` does behind a prompt of which at most `most_left` tokens are not committed,
        its forwards left to whoever asks."""
        try:
            if self.own_mask is not None and self.config.mode is not Mode.AR:
                if self.config.mode is Mode.VERIFY:
                    yield SelfSpeculation(self, prompt, self.own_mask)
                else:
                    yield CausalBlocks(self, prompt, self.own_mask)
                return
            if self._denoises(canvas):
                yield Denoising(self, prompt[-1], canvas)
            else:
                yield Verification(self, prompt)
        finally:
            self.cache.truncate(min(self.cache.length, len(prompt) - 1))

    def most_left(self, canvas: Canvas = BLANK) -> int:
        """Tokens at the prompt's end that the first forward of `writing` may take along: a chunk's,
        so that no forward is run for the last one alone."""
        own = self.own_mask is not None and self.config.mode is not Mode.AR
        alone = own or self.block_drafter is not None or self._denoises(canvas)
        return 1 if alone else self.chunk

    def _denoises(self, canvas: Canvas) -> bool:
        other = bool(canvas.tokens) or self.config.rule is not Rule.TRUST
        return self.config.mode is Mode.DIFFUSION and other

    def prefill(self, prompt: Sequence[int]) -> None:
        """Commit all of the prompt but its last token.

        Raises Cancelled between two layers; what is committed by then stays, and is exact.
        """
        for forward in self.prefilling(prompt):
            self.alone([forward])

    def prefilling(
        self, prompt: Sequence[int], most_left: int = 1
    ) -> Generator[Forward, Tensor, None]:
        """The forwards of `prefill`, each to be run before the next, until no more than `most_left`
        tokens are not committed."""
        self.cache.truncate(min(self.cache.length, len(prompt) - 1))
        while len(prompt) - self.cache.length > most_left:
            self.check()
            start = self.cache.length
            chunk = prompt[start : min(start + self.chunk, len(prompt) - 1)]
            yield replace(self.causal(chunk), wanted=None, on_layer=self.check)
            self.cache.commit(len(chunk))
