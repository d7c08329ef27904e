"""Which tokens `verify` drafts, how many, and for which outcomes masks draft the next ones.

Copies from the text, counted n-grams, the original of a rewrite and the adapter compete token by
token, from left to right, so that each knows the tokens drafted before it (the adapter alone does
not: DSpark, arXiv 2607.05147, learns a term for that, here it is counted). A draft goes on as long
as its next token brings more than its row costs, and masks stand where they do.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from enum import Enum

import torch
from torch import Tensor

from blockdiff.diffusion.lookup import LONGEST, Original, TextNgrams
from blockdiff.diffusion.ngrams import FLOOR, NgramTable

MOST_ROWS = 48
"""Rows of a verifying forward; the cache has room for so many behind the text."""
_WEIGHTS = (0.7, 1.0)  # of the n-grams' log-probabilities on the first mask's logits, the others'
_TOKEN = 0.5  # of a forward of one row: what a token that comes true saves
_GAINS = (0.8, 1.05, 1.2, 1.25)  # tokens that come true thanks to 1, 2, ... masks
_LEAST_COST, _GREATEST_COST = 0.005, 0.3  # of a row
_TRUSTED = 0.5  # of the doubt in a token goes where any likely one will do
_OTHERS = 0.45  # share of its forward's weights that a request pays, for each that shares them


class Source(str, Enum):
    """What a drafted token comes from."""

    ADAPTER = "adapter"
    COPY = "copy"
    TABLE = "table"
    ORIGINAL = "original"


@dataclass(frozen=True, slots=True)
class RowCosts:
    """What a forward of `verify` costs beyond its first row, as shares of one of a single row.

    Attributes:
        row: each further exact row.
        mask: each mask's row.
        adapter: the adapter, where there is any mask.
    """

    row: float
    mask: float
    adapter: float

    @classmethod
    def measured(cls, one: float, exact: float, masked: float, rows: int) -> RowCosts:
        """From the seconds of a forward of one row, of `rows` more, and with half of these masks.

        Held to what a machine can be: a moment of other work must not end all drafting.
        """
        row = min(max((exact - one) / rows / one, _LEAST_COST), _GREATEST_COST)
        adapter = min(max((masked - exact) / one, 0.0), 1.0)
        return cls(row, row, adapter)


CHEAP = RowCosts(0.01, 0.01, 0.02)
"""Where weights are read anyway and arithmetic is free: a GPU, or numbers of 16 bits."""
FREE = RowCosts(0.0, 0.0, 0.0)
"""Where only what is drafted counts."""
INT8 = RowCosts(0.14, 0.14, 0.11)
"""A CPU in int8, where a row costs a seventh of a forward (two cores with VNNI)."""


@dataclass(frozen=True, slots=True)
class Speculation:
    """How `verify` drafts.

    Attributes:
        costs: of rows, on the machine that runs it.
        most: tokens of a draft at most; 0: the adapter's masks alone.
        tables: of counted n-grams, the more general first.
        shared: whether others who write in the same forwards make rows dearer: the weights are read
            anyway then, and a row must bring more to be worth its arithmetic.
    """

    costs: RowCosts = CHEAP
    most: int = 16
    tables: tuple[NgramTable, ...] = ()
    shared: bool = False

    def steady(self) -> Speculation:
        """The same on any machine and in any company, for sampling: what is drawn depends on what
        was drafted, and a seed must say what is drawn."""
        return replace(self, costs=INT8 if self.shared else CHEAP, shared=False)


@dataclass(frozen=True, slots=True)
class DraftTokens:
    """Tokens to verify.

    Attributes:
        confidence: the chance of each, given that those before it come true.
        sources: where each comes from.
    """

    tokens: tuple[int, ...] = ()
    confidence: tuple[float, ...] = ()
    sources: tuple[Source, ...] = ()


NO_DRAFT = DraftTokens()


class Drafter:
    """The drafts of one generation."""

    def __init__(
        self,
        prompt: Sequence[int],
        speculation: Speculation,
        original: Sequence[int] = (),
        *,
        trust: float = 1.0,
        drafted: Callable[[int], bool] = lambda token: True,
        company: Callable[[], int] = lambda: 0,
    ) -> None:
        """What is drafted of a text, and from what.

        Args:
            trust: share of the likeliest token's probability that is enough for a drafted one.
            drafted: whether a token may be in a draft.
            company: how many others write in the same forwards.
        """
        self._power = 1.0 - _TRUSTED * (1.0 - trust)
        self._speculation, self._drafted, self._company = speculation, drafted, company
        self._text = TextNgrams(prompt, speculation.tables)
        self._original = Original(original) if original else None

    def extend(self, tokens: Sequence[int]) -> None:
        """Append what was accepted."""
        self._text.extend(tokens)
        if self._original is not None:
            self._original.extend(tokens)

    def draft(self, logits: Tensor | None, room: int) -> DraftTokens:
        """What is likely to come next, at most `room` tokens.

        Args:
            logits: (masks, vocab) of the adapter, the first for the next token; None without masks.
        """
        masks = 0 if logits is None else len(logits)
        most = min(room, max(self._speculation.most, masks))
        tokens: list[int] = []
        confidence: list[float] = []
        sources: list[Source] = []
        survival, floor = 1.0, self._costs().row / _TOKEN
        copy, trusted = self._original.draft() if self._original is not None else ((), 0.0)
        context = self._text.context()
        while len(tokens) < most:
            index = len(tokens)
            row = logits[index] if logits is not None and index < masks else None
            if index < len(copy) and self._speculation.most:
                token, chance, source = copy[index], trusted, Source.ORIGINAL
            else:
                weight = _WEIGHTS[min(index, len(_WEIGHTS) - 1)]
                token, chance, source = self._next(row, context, weight)
            chance = chance**self._power
            survival *= chance
            if token < 0 or survival < floor or not self._drafted(token):
                break
            tokens.append(token)
            confidence.append(chance)
            sources.append(source)
            context = [*context[1 - LONGEST :], token]
        return DraftTokens(tuple(tokens), tuple(confidence), tuple(sources))

    def masks(self, draft: DraftTokens, most: int, left: int) -> tuple[Sequence[int], int]:
        """For which accepted lengths of `draft` the forward that verifies it has masks, and how
        many each.

        Args:
            most: masks of a group at most.
            left: positions that the forward has left for masks.
        """
        costs = self._costs()
        reached = [1.0]
        for chance in draft.confidence:
            reached.append(reached[-1] * chance)
        ends = [a - b for a, b in zip(reached, [*reached[1:], 0.0], strict=True)]
        left = min(left, MOST_ROWS - len(reached))
        best: tuple[float, Sequence[int], int] = (0.0, (), 0)
        for width in range(1, min(most, left) + 1):
            gain = _TOKEN * _GAINS[min(width, len(_GAINS)) - 1]
            likely = sorted(range(len(ends)), key=lambda n: -ends[n])[: left // width]
            paying = sorted(n for n in likely if ends[n] * gain > width * costs.mask)
            net = sum(ends[n] * gain - width * costs.mask for n in paying) - costs.adapter
            if net > best[0]:
                best = net, paying, width
        return best[1:]

    def _costs(self) -> RowCosts:
        """Those of the machine; a forward shared with others is only partly this request's."""
        costs = self._speculation.costs
        if not self._speculation.shared or not (others := self._company()):
            return costs
        dearer = 1.0 + others / (2 * _OTHERS)
        return RowCosts(costs.row * dearer, costs.mask * dearer, costs.adapter * dearer)

    def _next(
        self, row: Tensor | None, context: Sequence[int], weight: float
    ) -> tuple[int, float, Source]:
        """The likeliest token, its chance, and what it comes from; -1 where nothing is known.

        With a mask's row (vocab,) the n-grams are a term on its logits, of that `weight`.
        """
        known, of_text = self._text.following(context) if self._speculation.most else ({}, ())
        if row is not None:
            return *_corrected(row, known, weight), Source.ADAPTER
        if not known:
            return -1, 0.0, Source.TABLE
        token = max(known, key=known.__getitem__)
        return token, known[token], Source.COPY if token in of_text else Source.TABLE


def _corrected(row: Tensor, known: dict[int, float], weight: float) -> tuple[int, float]:
    """The likeliest token of logits (vocab,) with a term for those that n-grams know."""
    if known:
        ids = torch.tensor(list(known), device=row.device)
        terms = [weight * max(math.log(chance) - FLOOR, 0.0) for chance in known.values()]
        row = row.index_add(0, ids, torch.tensor(terms, dtype=row.dtype, device=row.device))
    token = int(row.argmax())
    return token, float((row[token] - row.logsumexp(-1)).exp())
