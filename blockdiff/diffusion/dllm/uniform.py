"""Denoising where noise is a wrong token and not a mask: DiffusionGemma.

A canvas of random tokens is read, a token sampled for every position, those accepted whose
entropies sum up to a bound (arXiv 2505.24857), and all others drawn anew. Nothing is settled before
the end: an accepted token may be given up in the next step. Text around a hole is pinned: it stands
in the canvas at every step and conditions the next one as a certainty.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from blockdiff.diffusion.choose import nucleus
from blockdiff.diffusion.forwards import Snapshot

NEVER = -1e4
"""A score: nothing of it is left after a softmax, and float16 can hold it."""


class Denoiser(Protocol):
    """What the loop needs of a model; `DiffusionGemma` is one."""

    @property
    def canvas_length(self) -> int: ...
    @property
    def vocab_size(self) -> int: ...
    @property
    def device(self) -> torch.device: ...

    def logits(self, read: Any, canvas: Tensor, conditioning: Tensor | None) -> Tensor:
        """(1, canvas_length) to (1, canvas_length, vocab_size), float32, behind what was `read`."""
        ...


@dataclass(frozen=True, slots=True)
class UniformConfig:
    """How a canvas is denoised; the defaults are the published settings of DiffusionGemma.

    Attributes:
        steps: forwards at most.
        entropy_bound: nats that the accepted tokens of a step may have together, the least sure
            one of them not counted.
        coldest, hottest: the temperature falls from about the second to about the first.
        stable: steps for which the best guess has to stay the same, to stop early.
        sure: mean entropy in nats that it has to be below, too.
        top_p: tokens are drawn from the smallest set with this mass.
    """

    steps: int = 48
    entropy_bound: float = 0.1
    coldest: float = 0.4
    hottest: float = 0.8
    stable: int = 1
    sure: float = 0.005
    top_p: float = 1.0


def noise(model: Denoiser, random: torch.Generator, after: Sequence[int], hole: int) -> Tensor:
    """A canvas (1, canvas_length) of random tokens with `after` behind the hole."""
    canvas = torch.randint(
        0, model.vocab_size, (1, model.canvas_length), generator=random, device=model.device
    )
    canvas[0, hole : hole + len(after)] = torch.tensor(
        list(after), dtype=torch.long, device=model.device
    )
    return canvas


@torch.inference_mode()
def denoise(
    model: Denoiser,
    read: Any,
    hole: int,
    after: Sequence[int],
    *,
    random: torch.Generator,
    config: UniformConfig = UniformConfig(),
    limit: Callable[[Tensor], None] = lambda scores: None,
) -> Iterator[Snapshot]:
    """Fill a hole behind what the model has `read`, and before `after`.

    What is left of the canvas behind `after` is denoised as well and belongs to nobody. Yields a
    snapshot of the hole after every forward, all of it settled in the last one and nothing before.

    Args:
        hole: tokens; with those of `after` at most a canvas.
        random: of the device of the model.
        limit: takes the scores of the hole (hole, vocab) and puts `NEVER` where a token may not be.
    """
    pinned = slice(hole, hole + len(after))
    canvas, conditioning, history = noise(model, random, after, hole), None, list[Tensor]()
    text = canvas[:, pinned].clone()
    for step in range(config.steps, 0, -1):
        logits = model.logits(read, canvas, conditioning)
        heat = config.coldest + (config.hottest - config.coldest) * step / config.steps
        scores = logits / heat
        scores[:, pinned] = NEVER
        scores[:, pinned].scatter_(-1, text[..., None], 0.0)
        limit(scores[0, :hole])
        shares = scores.softmax(dim=-1)
        sampled = torch.multinomial(nucleus(shares[0], config.top_p), 1, generator=random).T
        best = scores.argmax(dim=-1)
        entropy = -(shares * scores.log_softmax(dim=-1)).sum(dim=-1)
        accepted = within_bound(entropy, config.entropy_bound)
        canvas = torch.where(accepted, sampled, noise(model, random, after, hole))
        conditioning = scores
        same = len(history) == config.stable and all(
            torch.equal(best[:, :hole], old) for old in history
        )
        history = [*history, best[:, :hole]][-config.stable :] if config.stable else []
        done = step == 1 or (same and float(entropy[:, :hole].mean()) < config.sure)
        chosen = logits.softmax(dim=-1).gather(-1, best[..., None])[0, :hole, 0]
        yield Snapshot(
            tokens=tuple(best[0, :hole].tolist()),
            settled=(done,) * hole,
            confidence=tuple(chosen.tolist()),
            forwards=config.steps - step + 1,
            ended=done,
        )
        if done:
            return


def within_bound(entropy: Tensor, bound: float) -> Tensor:
    """Which positions to accept: the surest ones, while those before them sum up to `bound`.

    Args:
        entropy: (1, canvas), nats.

    Returns:
        boolean, (1, canvas); at least one is true.
    """
    ordered, places = entropy.sort(dim=-1)
    few = ordered.cumsum(dim=-1) - ordered <= bound
    return torch.zeros_like(few).scatter(-1, places, few)
