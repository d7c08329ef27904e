"""The block loop: from a prompt's tokens to a stream of ever better drafts.

One structure serves every mode. Known tokens that are not in the cache yet (`pending`) run under
the base weights and are committed; noisy positions behind them run under the adapter and are
thrown away. `ar` has no noisy positions, `verify` checks a draft and writes the next in the same
forward (`verify.py`), `diffusion` denoises a block over several forwards (`denoise.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from blockdiff.config import DecodingConfig, Mode
from blockdiff.diffusion.canvas import BLANK, Canvas
from blockdiff.diffusion.choose import Chooser, Proposal
from blockdiff.diffusion.denoise import Denoising
from blockdiff.diffusion.snapshot import Constraint, Forwards, Snapshot, Steps, next_snapshot
from blockdiff.diffusion.verify import Speculation, Verification
from blockdiff.errors import Cancelled, ModelUnsupported
from blockdiff.model import masks
from blockdiff.model.adapter import GatedAdapter
from blockdiff.model.cache import BlockCache
from blockdiff.model.forward import Forward, drive, finish, run
from blockdiff.model.transformer import Gate, Transformer

__all__ = [
    "Constraint",
    "Forwards",
    "Sampler",
    "Snapshot",
    "Speculation",
    "Steps",
    "next_snapshot",
]

# Context tokens committed at a time, by device: what a cancel may lose. The flag itself is looked
# at before every layer. On a CPU 64 cost 17% more than 256, 128 cost 5%.
_CHUNK = {"cpu": 128}
_CHUNK_ELSEWHERE = 512


@dataclass
class Sampler:
    """Writes the middle of one prompt.

    The cache must hold a committed prefix of the prompt, possibly empty and never all of it.
    Whatever way a generation ends, `run` leaves the cache with the prompt's tokens but the last,
    so that the next request can build on it. `config.block_size` must be above 0 unless the mode
    is `ar`: masks of a draft in `verify`, positions of a block in `diffusion`; `config.max_tokens`
    must be above 0. Less is written where the model's context ends: the last token is that which
    its last position says, in every mode.
    """

    model: Transformer
    adapter: GatedAdapter | None
    cache: BlockCache
    chooser: Chooser
    stop: frozenset[int]
    config: DecodingConfig
    cancelled: Callable[[], bool]
    constraint: Constraint | None = None
    speculation: Speculation = Speculation()
    original: Sequence[int] = ()  # what a rewrite starts from: `verify` drafts from it
    company: Callable[[], int] = lambda: 0  # how many others write in the same forwards
    forwards: int = 0
    edits: int = 0  # settled tokens replaced, rule `edit`
    returns: int = 0  # positions of a block that wanted an earlier token back

    def __post_init__(self) -> None:
        if self.adapter is None and self.config.mode is not Mode.AR:
            raise ModelUnsupported(
                f"mode {self.config.mode.value} needs a drafting adapter, this model has none",
                "use --mode ar",
            )

    def run(self, prompt: Sequence[int], canvas: Canvas = BLANK) -> Generator[Snapshot, None, None]:
        """Yield a snapshot after every forward; the last one has everything settled.

        With a `canvas` (mode `diffusion` only) its masked tokens are denoised in their places and
        every snapshot holds all of it; `config.max_tokens` does not count then.

        Raises Cancelled between two forwards.
        """
        return drive(self.steps(prompt, canvas), self._alone)

    def steps(self, prompt: Sequence[int], canvas: Canvas = BLANK) -> Steps[None]:
        """What `run` does, with its forwards left to whoever drives it."""
        home = min(self.cache.length, len(prompt) - 1)
        try:
            yield from self.encoding(prompt)
            home = self.cache.length
            if self.config.mode is Mode.DIFFUSION:
                yield from Denoising(self).steps(prompt[-1], canvas)
            else:
                yield from Verification(self, prompt).steps()
        finally:
            self.cache.truncate(home)

    def surprise(self, prompt: Sequence[int], text: Sequence[int]) -> list[float]:
        """Nats by which each token of `text` right behind the prompt surprises the base.

        Leaves the cache as `run` does. Raises Cancelled.
        """
        return finish(self.surprising(prompt, text), self._alone)

    def surprising(self, prompt: Sequence[int], text: Sequence[int]) -> Forwards[list[float]]:
        """What `surprise` does, with its forwards left to whoever drives it."""
        nats: list[float] = []
        home = min(self.cache.length, len(prompt) - 1)
        try:
            yield from self.encoding(prompt)
            home = self.cache.length
            before = [prompt[-1], *text[:-1]]
            for start in range(0, len(text), self._chunk):
                self.check()
                chunk = before[start : start + self._chunk]
                logits = yield self.causal(chunk)
                self.forwards += 1
                self.cache.commit(len(chunk))
                wanted = self.ids(list(text[start : start + self._chunk]))[0]
                nats += torch.nn.functional.cross_entropy(logits, wanted, reduction="none").tolist()
        finally:
            self.cache.truncate(home)
        return nats

    def encode(self, prompt: Sequence[int]) -> None:
        """Commit all of the prompt but its last token, which the first forward takes along.

        Raises Cancelled between two layers; what is committed by then stays, and is exact.
        """
        finish(self.encoding(prompt), self._alone)

    def encoding(self, prompt: Sequence[int]) -> Forwards[None]:
        """What `encode` does, with its forwards left to whoever drives it."""
        self.cache.truncate(min(self.cache.length, len(prompt) - 1))
        while self.cache.length < len(prompt) - 1:
            self.check()
            start = self.cache.length
            chunk = prompt[start : min(start + self._chunk, len(prompt) - 1)]
            yield replace(self.causal(chunk), wanted=None, look=self.check)
            self.cache.commit(len(chunk))

    @property
    def positions_left(self) -> int:
        """Of the model's context, behind what is committed."""
        return self.cache.most_positions - self.cache.length

    # --- pieces of a forward -------------------------------------------------------------------

    def verifying_forward(
        self, last: int, draft: Sequence[int], lengths: Sequence[int], width: int
    ) -> Forwards[tuple[Tensor, dict[int, Tensor]]]:
        """Base logits (1 + draft, vocab); for each accepted length, draft logits (width, vocab)."""
        exact, noisy = 1 + len(draft), len(lengths) * width
        past, device = self.cache.length, self.model.device
        offsets = [*range(exact)] + [n + 1 + i for n in lengths for i in range(width)]
        tokens = self.ids([last, *draft] + [0] * noisy)
        positions = past + torch.tensor(offsets, device=device)[None]
        mask = masks.verifying(past, exact, lengths, width, device)
        gate = self.gate(exact, noisy)
        logits = yield from self.forward(Forward(tokens, positions, mask, self.cache, gate))
        groups = logits[exact:].view(len(lengths), width, logits.shape[-1]) if noisy else ()
        return logits[:exact], dict(zip(lengths, groups, strict=True))

    def gate(self, exact: int, noisy: int) -> Gate | None:
        """The adapter acts on the `noisy` masks behind `exact` positions."""
        if not noisy:
            return None
        assert self.adapter is not None
        masked = torch.arange(exact + noisy, device=self.model.device)[None] >= exact
        return Gate(self.adapter, masked, exact)

    def causal(self, tokens: Sequence[int]) -> Forward:
        """The next tokens under the base weights, behind the committed ones."""
        past, count = self.cache.length, len(tokens)
        mask = masks.causal(past, count, self.model.device)
        return Forward(self.ids(tokens), self.positions(past, count), mask, self.cache)

    def forward(self, forward: Forward) -> Forwards[Tensor]:
        """Its logits (rows, vocab) float32, tokens that may never appear at -inf."""
        logits = yield forward
        self.forwards += 1
        return self.chooser.without_banned(logits)

    def _alone(self, forwards: Sequence[Forward]) -> list[Tensor]:
        return run(self.model, forwards)

    @property
    def _chunk(self) -> int:
        return _CHUNK.get(self.model.device.type, _CHUNK_ELSEWHERE)

    def ids(self, tokens: Sequence[int]) -> Tensor:
        return torch.tensor([list(tokens)], device=self.model.device)

    def positions(self, start: int, count: int) -> Tensor:
        return torch.arange(start, start + count, device=self.model.device)[None]

    def check(self) -> None:
        if self.cancelled():
            raise Cancelled("the request was cancelled")

    def snapshot(
        self,
        accepted: list[int],
        confidence: list[float],
        draft: Proposal | None = None,
        ended: bool = False,
        settled: list[bool] | None = None,
        canvas: Canvas = BLANK,
    ) -> Snapshot:
        draft = draft or Proposal((), ())
        decided = settled if settled is not None else [False] * len(draft.tokens)
        every = (True,) * len(accepted)
        rest = len(accepted) + len(draft.tokens)  # of the canvas, not reached yet
        return Snapshot(
            tokens=(*accepted, *draft.tokens, *canvas.tokens[rest:]),
            settled=(*every, *decided, *(not m for m in canvas.masked[rest:])),
            confidence=(*confidence, *draft.confidence, *canvas.confidence[rest:]),
            forwards=self.forwards,
            ended=ended,
        )
