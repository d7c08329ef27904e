"""From logits to tokens: bans, temperature, nucleus, and the acceptance of a draft.

Greedy choice reads the logits as they are. Sampling accepts a drafted token with the probability
the base gives it and otherwise draws from what is left, so that the text is distributed exactly
as the base's own (speculative sampling, arXiv 2211.17192, algorithm 1, for a draft that is a
point mass).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from blockdiff.config import LEAST_TEMPERATURE


@dataclass(frozen=True, slots=True)
class Proposal:
    """Drafted tokens and the un-noised probability of each."""

    tokens: tuple[int, ...]
    confidence: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class BlockProposal:
    """A token for every position of a block: tensors (block,) on the CPU.

    Attributes:
        confidence: un-noised probability of each token.
        entropy: of each position's un-noised distribution, nats.
    """

    tokens: Tensor
    confidence: Tensor
    entropy: Tensor


class Chooser:
    """Chooses tokens for one request; its random numbers depend on the seed alone."""

    def __init__(
        self, banned: Iterable[int], temperature: float = 0.0, top_p: float = 1.0, seed: int = 0
    ) -> None:
        self._never = frozenset(banned)
        self._banned = torch.tensor(sorted(self._never), dtype=torch.long)
        self._greedy = temperature < LEAST_TEMPERATURE
        self._temperature, self._top_p = temperature, top_p
        self._random = torch.Generator().manual_seed(seed)

    def never(self, token: int) -> bool:
        """Whether a token may not appear."""
        return token in self._never

    def without_banned(self, logits: Tensor) -> Tensor:
        """Put -inf where a token may never appear; in place, returns `logits` (rows, vocab)."""
        return logits.index_fill_(-1, self._banned.to(logits.device), -torch.inf)

    def verify(
        self, logits: Tensor, guess: int | None, allowed: Sequence[int] | None, trust: float = 1.0
    ) -> tuple[int, float, bool]:
        """Choose the next token from exact logits (vocab,), knowing what was drafted for it.

        Args:
            guess: the drafted token; None where nothing was drafted.
            allowed: ids to choose among; None: all.
            trust: below 1, the drafted token is taken, too, where its probability is at least this
                share of the likeliest one's: another text, in fewer forwards.

        Returns:
            (token, its un-noised probability, whether it is the drafted one)
        """
        if allowed is not None:
            limited = torch.full_like(logits, -torch.inf)
            ids = torch.tensor(allowed, dtype=torch.long, device=logits.device)
            logits = limited.index_copy_(0, ids, logits[ids])
        probabilities = logits.softmax(-1)
        if guess is not None and trust < 1.0:
            if float(probabilities[guess]) >= trust * float(probabilities.max()):
                return guess, float(probabilities[guess]), True
        if self._greedy:
            token = int(logits.argmax())
        else:
            token = self._draw_verified(self._sharpened(logits[None])[0], guess)
        return token, float(probabilities[token]), token == guess

    def sample(self, logits: Tensor) -> BlockProposal:
        """A token for each row (rows, vocab): the most likely one, or a draw."""
        log_probs = logits.log_softmax(-1)
        probabilities = log_probs.exp()
        # 0 * -inf of banned tokens is no contribution
        entropy = -torch.nan_to_num(probabilities * log_probs, nan=0.0).sum(-1)
        if self._greedy:
            tokens = logits.argmax(-1)
        else:
            sharpened = self._sharpened(logits).cpu()
            tokens = torch.multinomial(sharpened, 1, generator=self._random)[:, 0]
            tokens = tokens.to(logits.device)
        confidence = probabilities.gather(-1, tokens[:, None])[:, 0]
        return BlockProposal(tokens.cpu(), confidence.cpu(), entropy.cpu())

    def _draw_verified(self, probabilities: Tensor, guess: int | None) -> int:
        p = probabilities.cpu()
        if guess is not None:
            if float(torch.rand((), generator=self._random)) < float(p[guess]):
                return guess
            p = p.clone()
            p[guess] = 0.0
            if not bool(p.any()):  # it had all of the mass, but for what rounding took
                return guess
        return int(torch.multinomial(p, 1, generator=self._random))

    def _sharpened(self, logits: Tensor) -> Tensor:
        """Probabilities at the temperature, outside the nucleus set to 0; (rows, vocab)."""
        return nucleus((logits / self._temperature).softmax(-1), self._top_p)


def nucleus(p: Tensor, top_p: float) -> Tensor:
    """Probabilities (rows, vocab) with 0 outside the smallest set with a mass of `top_p`."""
    if top_p >= 1.0:
        return p
    values, order = p.sort(-1, descending=True)
    outside = values.cumsum(-1) - values >= top_p
    outside[..., 0] = False  # a mass too small for float32 is 0, and nothing is below it
    p = p.scatter(-1, order, values.masked_fill(outside, 0.0))
    return p / p.sum(-1, keepdim=True)
