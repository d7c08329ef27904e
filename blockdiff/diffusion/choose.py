"""From logits to tokens: bans, temperature, nucleus, and the acceptance of a draft.

Greedy choice reads the logits as they are. Sampling accepts a drafted token with the probability
the base gives it and otherwise draws from what is left, so that the text is distributed exactly
as the base's own (speculative sampling, arXiv 2211.17192, algorithm 1, for a draft that is a
point mass).
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from blockdiff.config import LEAST_TEMPERATURE
from blockdiff.model.forward import moved

_LEAST_SAVED = 2  # tokens behind a departure: one comes with any forward


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


@dataclass(frozen=True, slots=True)
class Chosen:
    """A token that was chosen from exact logits.

    Attributes:
        probability: un-noised.
        draft: the place in the draft of the token that it agrees with; None: with none.
        instead_of: the likeliest one, where a drafted one was taken that is less likely.
    """

    token: int
    probability: float
    draft: int | None = None
    instead_of: Chosen | None = None

    @property
    def drafted(self) -> bool:
        return self.draft is not None


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
        self._banned = moved(self._banned, logits.device)
        return logits.index_fill_(-1, self._banned, -torch.inf)

    def verify(
        self,
        logits: Tensor,
        draft: Sequence[int] = (),
        limits: Sequence[Sequence[int] | None] = (None,),
        trust: float = 1.0,
        ends: Container[int] = (),
        behind: Sequence[int] | None = None,
    ) -> list[Chosen]:
        """Choose tokens from exact logits (rows, vocab), as far as they agree with what was drafted
        for them, and the one behind those.

        Args:
            draft: tokens; the first row says what comes first, the others what follows each.
            limits: for each row that counts the ids to choose among; None: all.
            trust: below 1, a drafted token is taken, too, where its probability is at least this
                share of the likeliest one's: another text, in fewer forwards. Of several ways to
                go on that of the likeliest token is taken, else the first is looked at, and that
                alone in sampling.
            ends: tokens that end a text. Where one is the likeliest no other is taken: what is
                written past an end costs forwards, however fast.
            behind: of each drafted token the one that it follows, by its place, -1 for the first
                ones; None: each follows the one before.

        Returns:
            The tokens; only the last may be another than the drafted ones.
        """
        following: list[list[int]] = [[] for _ in range(len(draft) + 1)]
        for index, before in enumerate(range(-1, len(draft) - 1) if behind is None else behind):
            following[before + 1].append(index)
        guesses = [[draft[index] for index in some] for some in following]
        chosen: list[Chosen] = []
        # a CPU pays for every row; elsewhere it is the waiting for a value that costs
        step = 1 if logits.is_cpu or not self._greedy else len(limits)
        found: dict[int, Chosen] = {}
        row = 0
        while row < len(limits):
            if row not in found:
                part = slice(row, row + step) if step == 1 else slice(0, step)
                rows, some = _limited(logits[part], limits[part]), guesses[part]
                if self._greedy:
                    new = self._greedily(rows, some, trust, ends)
                else:
                    new = [self._drawn(rows[0], some[0][0] if some[0] else None, trust, ends)]
                found |= dict(enumerate(new, part.start))
            one = found[row]
            at = next((i for i in following[row] if draft[i] == one.token), None)
            chosen.append(replace(one, draft=at))
            if at is None:
                break
            row = at + 1
        return _worthwhile(chosen)

    def _greedily(
        self,
        rows: Tensor,
        guesses: Sequence[Sequence[int]],
        trust: float,
        ends: Container[int],
    ) -> list[Chosen]:
        """What `verify` says of each row by itself, by one transfer for all of them."""
        best = argmax(rows)
        drafted = [some[0] if some else 0 for some in guesses]
        ids = torch.stack([best, moved(torch.tensor(drafted), best.device)], dim=1)
        shares = rows.softmax(-1).gather(-1, ids)
        told = torch.cat([best[:, None].to(shares.dtype), shares], dim=1).tolist()
        found = []
        for some, (token, most, share) in zip(guesses, told, strict=True):
            first = Chosen(int(token), most)
            kept = first.token in some or first.token in ends or share < trust * most
            if not some or kept:
                found.append(first)
            else:
                found.append(Chosen(some[0], share, instead_of=first))
        return found

    def _drawn(
        self, row: Tensor, guess: int | None, trust: float, ends: Container[int]
    ) -> Chosen:
        """What `verify` says of a row (vocab,), by a draw."""
        probabilities = row.softmax(-1)
        if guess is not None and trust < 1.0:
            share, (most, likeliest) = probabilities[guess], probabilities.max(-1)
            if int(likeliest) not in ends and float(share) >= trust * float(most):
                return Chosen(guess, float(share))
        token = self._draw_verified(self._sharpened(row[None])[0], guess)
        return Chosen(token, float(probabilities[token]))

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
        told = torch.stack([tokens.to(confidence.dtype), confidence, entropy]).cpu()
        return BlockProposal(told[0].long(), told[1], told[2])

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


def _worthwhile(chosen: list[Chosen]) -> list[Chosen]:
    """`chosen` without departures from the likeliest token that save nothing.

    The likeliest one comes with the same forward; another is worth its place only where the draft
    goes on behind it.
    """
    for index in reversed(range(len(chosen))):
        likeliest = chosen[index].instead_of
        if likeliest is not None and len(chosen) - 1 - index < _LEAST_SAVED:
            chosen = [*chosen[:index], likeliest]
    return chosen


def argmax(rows: Tensor) -> Tensor:
    """Of each row, the first of the largest; numpy's is the faster one, by ten times."""
    if rows.is_cpu:
        return torch.from_numpy(rows.numpy().argmax(-1))
    return rows.argmax(-1)


def most_likely(rows: Tensor, count: int) -> Tensor:
    """Of each row the ids of the largest, in order, (rows, count)."""
    if count == 1:
        return argmax(rows)[:, None]
    if not rows.is_cpu:
        return rows.topk(count, dim=-1).indices
    values, every = rows.numpy(), np.arange(len(rows))
    ids, before = [], []
    for _ in range(count):  # as `argmax` does: `topk` takes far longer
        ids.append(values.argmax(-1))
        before.append(values[every, ids[-1]])
        values[every, ids[-1]] = -np.inf
    for some, was in zip(ids, before, strict=True):
        values[every, some] = was
    return torch.from_numpy(np.stack(ids, 1))


def _limited(rows: Tensor, limits: Sequence[Sequence[int] | None]) -> Tensor:
    """With -inf where a row's limit does not allow a token; `rows` stay as they are."""
    if all(limit is None for limit in limits):
        return rows
    limited = rows.clone()
    for row, limit in enumerate(limits):
        if limit is not None:
            ids = moved(torch.tensor(limit, dtype=torch.long), rows.device)
            limited[row].fill_(-torch.inf).index_copy_(0, ids, rows[row, ids])
    return limited


def nucleus(p: Tensor, top_p: float) -> Tensor:
    """Probabilities (rows, vocab) with 0 outside the smallest set with a mass of `top_p`."""
    if top_p >= 1.0:
        return p
    values, order = p.sort(-1, descending=True)
    outside = values.cumsum(-1) - values >= top_p
    outside[..., 0] = False  # a mass too small for float32 is 0, and nothing is below it
    p = p.scatter(-1, order, values.masked_fill(outside, 0.0))
    return p / p.sum(-1, keepdim=True)
