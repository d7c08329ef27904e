"""How likely a text is to the base, and what would be in its place: exact, without the adapter.

A text is read from left to right behind what is committed. Where it might go on otherwise, all ways
to go on are scored in one forward, each blind to the others.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from blockdiff.diffusion.forwards import SamplerState
from blockdiff.model import masks
from blockdiff.model.forward import Forward

END = -1
"""In a text that is scored: that it ends here, by any of the tokens that end one."""


@dataclass(frozen=True, slots=True)
class Scored:
    """What the base says of one token, given all before it.

    Attributes:
        nll: its negative log-likelihood, nats.
        gap: how many nats it lies behind the most likely token.
        likeliest: the most likely ids, best first.
    """

    nll: float
    gap: float
    likeliest: tuple[int, ...]


def scored(
    sampler: SamplerState, last: int, text: Sequence[int], count: int
) -> Generator[Forward, Tensor, list[Scored]]:
    """Score `text` behind what is committed and the token `last`; `count` ids are told of each.

    Its keys and values are drafts: committing n of them takes `last` and the first n - 1 tokens.
    """
    logits = sampler.counted((yield sampler.causal([last, *text[:-1]])))
    nll = _nll(sampler, logits, text)
    best = logits.logsumexp(-1) - logits.max(-1).values
    ids = logits.topk(min(count, logits.shape[-1])).indices
    return [
        Scored(own, own - other, tuple(likeliest))
        for own, other, likeliest in zip(nll, best.tolist(), ids.tolist(), strict=True)
    ]


def weighed(
    sampler: SamplerState, last: int, ways: Sequence[Sequence[int]]
) -> Generator[Forward, Tensor, list[list[float]]]:
    """Negative log-likelihood, nats, of every token of each of several texts behind `last`.

    Drafts as of `scored`, of `last` and the first of the texts.
    """
    fed = [way[:-1] for way in ways]
    past, sizes = sampler.cache.length, [len(way) for way in fed]
    offsets = [0, *(1 + i for size in sizes for i in range(size))]
    forward = Forward(
        sampler.ids([last, *(token for way in fed for token in way)]),
        past + torch.tensor(offsets)[None],
        masks.branches(past, sizes),
        sampler.cache,
    )
    logits = sampler.counted((yield forward))
    found, start = [], 1
    for way, size in zip(ways, sizes, strict=True):
        rows = torch.cat([logits[:1], logits[start : start + size]])
        found.append(_nll(sampler, rows[: len(way)], way))
        start += size
    return found


def _nll(sampler: SamplerState, logits: Tensor, text: Sequence[int]) -> list[float]:
    """Of each token, by its row of logits (tokens, vocab)."""
    if not text:
        return []
    ids = sampler.ids([max(token, 0) for token in text]).to(logits.device)
    own = logits.gather(-1, ids.T)[:, 0]
    if text[-1] == END:
        own[-1] = logits[-1, sorted(sampler.stop)].logsumexp(-1)
    return (logits.logsumexp(-1) - own).tolist()
