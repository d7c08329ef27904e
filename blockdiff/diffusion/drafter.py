"""Which tokens `verify` drafts, how many, and for which outcomes masks draft the next ones.

Copies from the text, counted n-grams, the original of a rewrite and the adapter compete token by
token, from left to right, so that each knows the tokens drafted before it (the adapter alone does
not: DSpark, arXiv 2607.05147, learns a term for that, here it is counted). Where a model of its own
drafts a block, its tokens stand, and the n-grams go on behind them. How much of a draft is
verified, and where masks stand, is planned by the chances against the costs of a forward's rows.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum

import torch
from torch import Tensor

from blockdiff.diffusion.choose import argmax
from blockdiff.diffusion.lookup import LONGEST, Original, TextNgrams
from blockdiff.diffusion.ngrams import FLOOR, NgramTable
from blockdiff.diffusion.row_costs import CHEAP, INT8, MOST_ROWS, RowCosts

_WEIGHTS = (0.7, 1.0)  # of the n-grams' log-probabilities on the first mask's logits, the others'
_TOKEN = 0.45  # of a forward of one row: what a token that comes true saves
_GAINS = (0.6, 0.8, 0.85, 0.85)  # tokens more that come true thanks to 1, 2, ... masks
_LEAST_CHANCE = 0.04  # of a draft to come true as far as a token: less pays nowhere
_TRUSTED = 0.5  # of the doubt in a token goes where any likely one will do


class Source(str, Enum):
    """What a drafted token comes from."""

    ADAPTER = "adapter"
    DRAFTER = "drafter"
    COPY = "copy"
    TABLE = "table"
    ORIGINAL = "original"


@dataclass(frozen=True, slots=True)
class Speculation:
    """How `verify` drafts.

    Attributes:
        costs: of rows, on the machine that runs it.
        most: tokens of a draft at most; 0: the adapter's masks alone.
        tables: of counted n-grams, the more general first.
        shared: whether others who write in the same forwards make rows dearer: the weights are read
            anyway then, and a row must bring more to be worth its arithmetic.
        fixed: whether what is drafted may depend on the text alone.
    """

    costs: RowCosts = CHEAP
    most: int = 16
    tables: tuple[NgramTable, ...] = ()
    shared: bool = False
    fixed: bool = False

    def steady(self) -> Speculation:
        """The same on any machine and in any company, where what is written depends on what was
        drafted: a seed must say what is drawn, and `diffusion` write the same again."""
        return replace(self, costs=INT8 if self.shared else CHEAP, shared=False, fixed=True)


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

    def first(self, count: int) -> DraftTokens:
        """Its first `count` tokens."""
        return DraftTokens(self.tokens[:count], self.confidence[:count], self.sources[:count])


NO_DRAFT = DraftTokens()


@dataclass(frozen=True, slots=True)
class Plan:
    """What a verifying forward carries.

    Attributes:
        kept: tokens of the draft.
        lengths: accepted lengths of it for which masks draft the next tokens, ascending.
        width: masks for each of them.
    """

    kept: int
    lengths: tuple[int, ...] = ()
    width: int = 0


def ngram_term(known: Mapping[int, float], index: int) -> dict[int, float]:
    """What n-grams add to a mask's logits, nats by token: the term for the tokens before it, which
    the adapter does not see (DSpark, arXiv 2607.05147, learns such a term).

    Args:
        known: chance of each token that may follow, as `TextNgrams.following` says.
        index: of the mask in its group, from 0.
    """
    weight = _WEIGHTS[min(index, len(_WEIGHTS) - 1)]
    return {token: weight * max(math.log(chance) - FLOOR, 0.0) for token, chance in known.items()}


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

    def draft(
        self, logits: Tensor | None, room: int, block: Sequence[tuple[int, float]] = ()
    ) -> DraftTokens:
        """What is likely to come next, at most `room` tokens.

        Args:
            logits: (masks, vocab) of the adapter, the first for the next token; None without masks.
            block: tokens that a drafter proposes, and the chance of each.
        """
        masks = 0 if logits is None else len(logits)
        rows = None if logits is None else _MaskRows.of(logits)
        most = min(room, max(self._speculation.most, masks, len(block)))
        proposed = [token for token, _ in block]
        tokens: list[int] = []
        confidence: list[float] = []
        sources: list[Source] = []
        survival = 1.0
        copy, trusted = self._original.draft() if self._original is not None else ((), 0.0)
        context = self._text.context()
        while len(tokens) < most:
            index = len(tokens)
            if index < len(copy) and self._speculation.most:
                token, chance, source = copy[index], trusted, Source.ORIGINAL
            elif index < len(block) and tokens == proposed[:index]:
                (token, chance), source = block[index], Source.DRAFTER
            else:
                token, chance, source = self._next(rows, index, context)
            chance = chance**self._power
            survival *= chance
            if token < 0 or survival < _LEAST_CHANCE or not self._drafted(token):
                break
            tokens.append(token)
            confidence.append(chance)
            sources.append(source)
            context = [*context[1 - LONGEST :], token]
        return DraftTokens(tuple(tokens), tuple(confidence), tuple(sources))

    def plan(self, draft: DraftTokens, most: int, left: int, known: int = 0) -> Plan:
        """What of `draft` a forward verifies, and its masks: what saves most for what it costs.

        Args:
            most: masks of a group at most.
            left: positions that the forward has left for masks.
            known: rows that it carries anyway, beside the last token's.
        """
        costs = self._costs().behind(0 if self._speculation.fixed else known)
        curve, adapter = costs.curve, costs.adapter
        best, saved = Plan(0), 0.0
        reached, expected = [1.0], 0.0
        for kept in range(min(len(draft.tokens), MOST_ROWS - 1) + 1):
            if kept:
                reached.append(reached[-1] * draft.confidence[kept - 1])
                expected += reached[-1]
            rows = 1 + kept
            if (net := _TOKEN * expected - curve[rows]) > saved:
                best, saved = Plan(kept), net
            ends = [a - b for a, b in zip(reached, [*reached[1:], 0.0], strict=True)]
            likely = sorted(range(len(ends)), key=lambda n: -ends[n])
            for width in range(1, most + 1):
                gain = _GAINS[min(width, len(_GAINS)) - 1]
                tokens = expected
                for groups, length in enumerate(likely, 1):
                    masks = groups * width
                    if masks > left or rows + masks > MOST_ROWS:
                        break
                    tokens += ends[length] * gain
                    net = _TOKEN * tokens - curve[rows + masks] - adapter
                    if net > saved:
                        best, saved = Plan(kept, tuple(sorted(likely[:groups])), width), net
        return best

    def _costs(self) -> RowCosts:
        """Those of the machine; a forward shared with others is only partly this request's."""
        costs, others = self._speculation.costs, self._company()
        return costs.in_company(others) if self._speculation.shared and others else costs

    def _next(
        self, rows: _MaskRows | None, index: int, context: Sequence[int]
    ) -> tuple[int, float, Source]:
        """The likeliest token, its chance, and what it comes from; -1 where nothing is known."""
        known, of_text = self._text.following(context) if self._speculation.most else ({}, ())
        if rows is not None and index < len(rows.best):
            return *rows.corrected(index, ngram_term(known, index)), Source.ADAPTER
        if not known:
            return -1, 0.0, Source.TABLE
        token = max(known, key=known.__getitem__)
        return token, known[token], Source.COPY if token in of_text else Source.TABLE


@dataclass(frozen=True, slots=True)
class _MaskRows:
    """Logits of masks, (masks, vocab), and of each row what one transfer for all of them tells.

    Attributes:
        best: the likeliest token.
        most: its logit.
        mass: the logarithm of the sum of all.
    """

    logits: Tensor
    best: list[int]
    most: list[float]
    mass: list[float]

    @classmethod
    def of(cls, logits: Tensor) -> _MaskRows:
        best = argmax(logits)[:, None]
        found = torch.cat(
            [best.float(), logits.gather(-1, best), logits.logsumexp(-1, keepdim=True)], dim=1
        ).tolist()
        ids, most, mass = zip(*found, strict=True) if found else ((), (), ())
        return cls(logits, list(map(int, ids)), list(most), list(mass))

    def corrected(self, index: int, term: Mapping[int, float]) -> tuple[int, float]:
        """The likeliest token of a row and its chance, with `ngram_term` added to its logits."""
        token, most, share = self.best[index], self.most[index], 1.0
        if term:  # it only adds: the likeliest is the row's own, or one of these
            values = self.logits[index, list(term)].tolist()
            for (other, above), value in zip(term.items(), values, strict=True):
                share += math.exp(value - self.mass[index]) * math.expm1(above)
                if value + above > most:
                    token, most = other, value + above
        return token, math.exp(most - self.mass[index]) / share
