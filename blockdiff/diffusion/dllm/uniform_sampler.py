"""Holes and answers of a checkpoint that denoises canvases of wrong tokens behind a causal prompt.

The surroundings of a hole are pinned: what stands before it is read into the checkpoint's own
cache, what stands behind it stands in the canvas. An answer is canvas after canvas, each of them
read before the next.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from blockdiff.config import DecodingConfig, Rule
from blockdiff.diffusion.choose import Chooser
from blockdiff.diffusion.dllm.diffusion_gemma import DiffusionGemma
from blockdiff.diffusion.dllm.length import calibrated_length, check_room
from blockdiff.diffusion.dllm.uniform import NEVER, UniformConfig, denoise, noise
from blockdiff.diffusion.forwards import NOTHING, Constraint, Foregone, Generation, Snapshot
from blockdiff.errors import Cancelled, InvalidRequest
from blockdiff.model.cache import BlockCache
from blockdiff.model.forward import Forward

_CHUNK = 512  # tokens that are read in one go; in between a request can be cancelled
_LEAST_AFTER = 4  # one part in 4 of a canvas is for the text behind a hole, if there is so much


@dataclass
class UniformSampler:
    """Writes the hole between two parts of a sequence, or on from a prompt.

    A hole before the text `after` has the length that a search over the confidence of a first step
    finds, as much of `after` behind it as the canvas holds, and no token of `stop`. An answer ends
    before the first of `stop`, or after `config.max_tokens`.

    The settings are the checkpoint's own, but for those that a request names: its number of steps,
    its bound under the rule `entropy_bound`, one temperature in place of the falling one.

    Attributes:
        cache: holds nothing: the checkpoint has one of its own for each request.
        forwards: of the decoder so far.
    """

    model: DiffusionGemma
    cache: BlockCache
    chooser: Chooser
    stop: frozenset[int]
    config: DecodingConfig
    cancelled: Callable[[], bool]
    after: Sequence[int] = ()
    constraint: Constraint | None = None
    forwards: int = 0

    def __post_init__(self) -> None:
        """Raises InvalidRequest for what has no meaning without masks and blocks."""
        config, size = self.config, self.model.canvas_length
        if config.rule not in (Rule.TRUST, Rule.THRESHOLD, Rule.ENTROPY_BOUND):
            raise InvalidRequest(
                f"the rule {config.rule.value} settles masks, this checkpoint has none",
                "leave --rule out, or use --rule entropy_bound",
            )
        if config.block_size:
            raise InvalidRequest(
                f"block_size is {config.block_size}, the checkpoint has canvases of {size}",
                "leave the block size out",
            )
        own = self.model.settings
        if config.rule is Rule.ENTROPY_BOUND:
            own = replace(own, entropy_bound=config.entropy_bound)
        if not config.greedy:
            own = replace(own, coldest=config.temperature, hottest=config.temperature)
        steps = config.denoising_steps or own.steps
        self._settings: UniformConfig = replace(own, steps=steps, top_p=config.top_p)
        self._random = torch.Generator(device=self.model.device).manual_seed(config.seed)
        stops = sorted(self.stop) if self.after else []
        self._stops = torch.tensor(stops, dtype=torch.long, device=self.model.device)

    def prefilling(self, prompt: Sequence[int]) -> Iterator[Forward]:
        """There is nothing that could be kept for another request."""
        yield from ()

    @contextmanager
    def writing(self, prompt: Sequence[int]) -> Iterator[Generation]:
        """`run`; its forwards are its own, no other request shares them."""
        with closing(self.run(prompt)) as snapshots:
            yield Foregone(snapshots)

    @torch.inference_mode()
    def run(self, prompt: Sequence[int]) -> Generator[Snapshot, None, None]:
        """Yield a snapshot after every denoising step; the last one has everything settled.

        Raises Cancelled between two forwards, InvalidRequest where the model's context ends.
        """
        check_room(self.model.config.max_positions, len(prompt) + self.model.canvas_length)
        read = self._read(prompt, None)
        if self.after:
            yield from self._fill(read)
        else:
            yield from self._answer(read, len(prompt))

    def _fill(self, read: Any) -> Iterator[Snapshot]:
        size = self.model.canvas_length
        most = size - min(len(self.after), size // _LEAST_AFTER)
        length = calibrated_length(
            lambda length: self._confidence(read, length), min(self.config.max_tokens, most)
        )
        yield from self._denoised(read, length, self.after[: size - length])

    def _answer(self, read: Any, start: int) -> Iterator[Snapshot]:
        written, size = NOTHING, self.model.canvas_length
        while not written.ended and len(written.tokens) < self.config.max_tokens:
            check_room(self.model.config.max_positions, start + len(written.tokens) + size)
            if written.tokens:
                read = self._read(written.tokens[-size:], read)
            before = written
            for snapshot in self._denoised(read, size, ()):
                written = self._cut(snapshot.behind(before))
                yield written
            self.constraint = None  # of the begin of the text

    def _cut(self, snapshot: Snapshot) -> Snapshot:
        """Up to the first stop, and to `max_tokens`."""
        stops = [at for at, token in enumerate(snapshot.tokens) if token in self.stop]
        whole = min(len(snapshot.tokens), self.config.max_tokens)
        ended = snapshot.ended and bool(stops) and stops[0] <= whole
        return replace(snapshot.first(min([whole, *stops])), ended=ended)

    def _denoised(self, read: Any, hole: int, after: Sequence[int]) -> Iterator[Snapshot]:
        self._check()
        for snapshot in denoise(
            self.model, read, hole, after,
            random=self._random, config=self._settings, limit=self._limit,
        ):  # fmt: skip
            self.forwards += 1
            yield replace(snapshot, forwards=self.forwards)
            if not snapshot.ended:
                self._check()

    def _confidence(self, read: Any, length: int) -> float:
        """Of the first step of a hole: the mean probability of its likeliest tokens."""
        self._check()
        self.forwards += 1
        after = self.after[: self.model.canvas_length - length]
        rows = self.model.logits(read, noise(self.model, self._random, after, length), None)
        rows = rows[0, :length]
        self._limit(rows)
        return float(rows.softmax(-1).amax(-1).mean())

    def _limit(self, scores: Tensor) -> None:
        """Keep to what may stand in a hole, and to the text that it has to begin with."""
        if self.after:
            self.chooser.without_banned(scores).clamp_(min=NEVER)
            scores.index_fill_(-1, self._stops, NEVER)
        guess: list[int] = []
        while self.constraint is not None and len(guess) < len(scores):
            if (allowed := self.constraint.allowed(guess)) is None:
                return
            row, ids = scores[len(guess)], torch.tensor(list(allowed), device=scores.device)
            kept = row[ids]
            row.fill_(NEVER)
            row[ids] = kept
            guess.append(int(row.argmax()))

    def _read(self, tokens: Sequence[int], read: Any) -> Any:
        """What is read so far, and these tokens behind it."""
        for start in range(0, len(tokens), _CHUNK):
            self._check()
            read = self.model.read(tokens[start : start + _CHUNK], read)
        return read

    def _check(self) -> None:
        if self.cancelled():
            raise Cancelled("the request was cancelled")
