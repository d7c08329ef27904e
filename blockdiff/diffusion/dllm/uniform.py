"""Denoising where noise is a wrong token and not a mask: DiffusionGemma.

A canvas of random tokens is read, a token sampled for every position, those accepted whose
entropies sum up to a bound (arXiv 2505.24857), and all others drawn anew. Nothing is settled before
the end: an accepted token may be given up in the next step. Text around a hole is pinned: it stands
in the canvas at every step and conditions the next one as a certainty.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from blockdiff.diffusion.sampler import Snapshot
from blockdiff.errors import Cancelled, InvalidRequest

_NEVER = -1e4  # a score: nothing of it is left after a softmax, and float16 can hold it


class Denoiser(Protocol):
    """What the loop needs of a model; `DiffusionGemma` is one."""

    @property
    def canvas_length(self) -> int: ...
    @property
    def vocab_size(self) -> int: ...
    @property
    def device(self) -> torch.device: ...

    def logits(self, canvas: Tensor, conditioning: Tensor | None) -> Tensor:
        """(1, canvas_length) to (1, canvas_length, vocab_size), float32."""
        ...


@dataclass(frozen=True, slots=True)
class UniformConfig:
    """The published settings of DiffusionGemma.

    Attributes:
        steps: forwards at most.
        entropy_bound: nats that the accepted tokens of a step may have together, the least sure
            one of them not counted.
        coldest, hottest: the temperature falls from about the second to about the first.
        stable: steps for which the best guess has to stay the same, to stop early.
        sure: mean entropy in nats that it has to be below, too.
    """

    steps: int = 48
    entropy_bound: float = 0.1
    coldest: float = 0.4
    hottest: float = 0.8
    stable: int = 1
    sure: float = 0.005


@torch.inference_mode()
def denoise(
    model: Denoiser,
    hole: int,
    after: Sequence[int],
    *,
    config: UniformConfig = UniformConfig(),
    seed: int = 0,
    cancelled: Callable[[], bool] = lambda: False,
) -> Iterator[Snapshot]:
    """Fill a hole behind the prompt that the model has read, and before `after`.

    What is left of the canvas behind `after` is denoised as well and belongs to nobody. Yields a
    snapshot of the hole after every forward, all of it settled in the last one.

    Raises InvalidRequest where hole and `after` do not fit into the canvas, Cancelled between two
    forwards.
    """
    size, vocabulary, device = model.canvas_length, model.vocab_size, model.device
    if not 1 <= hole <= size - len(after):
        raise InvalidRequest(
            f"a hole of {hole} tokens and {len(after)} behind it do not fit into {size}",
            "lower --max-tokens or --context-tokens",
        )
    stream = torch.Generator(device=device).manual_seed(seed)
    pinned = slice(hole, hole + len(after))
    text = torch.tensor([list(after)], dtype=torch.long, device=device)

    def noise() -> Tensor:
        return torch.randint(0, vocabulary, (1, size), generator=stream, device=device)

    canvas, conditioning, history = noise(), None, list[Tensor]()
    canvas[:, pinned] = text
    for step in range(config.steps, 0, -1):
        if cancelled():
            raise Cancelled("cancelled while denoising")
        logits = model.logits(canvas, conditioning)
        heat = config.coldest + (config.hottest - config.coldest) * step / config.steps
        scores = logits / heat
        scores[:, pinned] = _NEVER
        scores[:, pinned].scatter_(-1, text[..., None], 0.0)
        shares = scores.softmax(dim=-1)
        sampled = torch.multinomial(shares[0], 1, generator=stream).T
        best = scores.argmax(dim=-1)
        entropy = -(shares * scores.log_softmax(dim=-1)).sum(dim=-1)
        accepted = within_bound(entropy, config.entropy_bound)
        canvas = torch.where(accepted, sampled, noise())
        canvas[:, pinned] = text
        conditioning = scores
        same = len(history) == config.stable and all(
            torch.equal(best[:, :hole], old) for old in history
        )
        history = [*history, best[:, :hole]][-config.stable :] if config.stable else []
        done = step == 1 or (same and float(entropy[:, :hole].mean()) < config.sure)
        chosen = logits.softmax(dim=-1).gather(-1, best[..., None])[0, :hole, 0]
        yield Snapshot(
            tokens=tuple(best[0, :hole].tolist()),
            settled=(True,) * hole if done else tuple(accepted[0, :hole].tolist()),
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
