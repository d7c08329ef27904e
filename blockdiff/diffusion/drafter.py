"""Which tokens `verify` drafts, how many, and for which outcomes masks draft the next ones.

Copies from the text, counted n-grams, the original of a rewrite and the adapter compete token by
token, from left to right, so that each knows the tokens drafted before it (the adapter alone does
not: DSpark, arXiv 2607.05147, learns a term for that, here it is counted). Where a model of its own
drafts a block, its tokens stand, and the n-grams go on behind them. How much of a draft is
verified, and where masks stand, is planned by the chances against the costs of a forward's rows.
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from blockdiff.diffusion.choose import most_likely
from blockdiff.diffusion.draft_tokens import DraftTokens, Source
from blockdiff.diffusion.lookup import LONGEST, Original, TextNgrams
from blockdiff.diffusion.ngrams import FLOOR, NgramTable
from blockdiff.diffusion.row_costs import CHEAP, INT8, MOST_ROWS, RowCosts

_WEIGHTS = (0.7, 1.0)  # of the n-grams' log-probabilities on the first mask's logits, the others'
_TOKEN = 0.4  # of a forward of one row: what a token that comes true saves
_GAINS = (0.6, 0.8, 0.85, 0.85)  # tokens more that come true thanks to 1, 2, ... masks
_OTHER_WAYS = 8  # tokens of a draft beside the likeliest way
_LEAST_CHANCE = 0.04  # of a draft to come true as far as a token: less pays nowhere
_TRUSTED = 0.5  # of the doubt in a token goes where any likely one will do


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
class Plan:
    """What a verifying forward carries.

    Attributes:
        kept: tokens of the draft.
        ends: where it may end and masks draft the next tokens, ascending: behind the text, 0, or
            behind its tokens, from 1.
        width: masks for each of them.
    """

    kept: int
    ends: tuple[int, ...] = ()
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
        ways: int = 1,
        drafted: Callable[[int], bool] = lambda token: True,
        company: Callable[[], int] = lambda: 0,
    ) -> None:
        """What is drafted of a text, and from what.

        Args:
            trust: share of the likeliest token's probability that is enough for a drafted one.
            ways: to go on behind a token, at most.
            drafted: whether a token may be in a draft.
            company: how many others write in the same forwards.
        """
        self._power = 1.0 - _TRUSTED * (1.0 - trust)
        self._speculation, self._drafted, self._company = speculation, drafted, company
        self._ways = ways
        self._text = TextNgrams(prompt, speculation.tables)
        self._original = Original(original) if original else None

    def extend(self, tokens: Sequence[int]) -> None:
        """Append what was accepted."""
        self._text.extend(tokens)
        if self._original is not None:
            self._original.extend(tokens)

    def draft(
        self,
        logits: Tensor | None,
        room: int,
        block: Sequence[tuple[int, float]] = (),
        rows: int = MOST_ROWS - 1,
    ) -> DraftTokens:
        """What is likely to come next, at most `room` tokens of one way and `rows` of all; the
        likeliest ones come first, each behind the one that it follows.

        Args:
            logits: (masks, vocab) of the adapter, the first for the next token; None without masks.
            block: tokens that a drafter proposes, and the chance of each.
        """
        masks = 0 if logits is None else len(logits)
        seen = None if logits is None else _MaskRows.of(logits, self._ways)
        deepest = min(room, max(self._speculation.most, masks, len(block)))
        most = min(deepest + (self._ways - 1) * _OTHER_WAYS, rows, MOST_ROWS - 1)
        least = self._costs().least
        copy, trusted = self._original.draft() if self._original is not None else ((), 0.0)
        proposed = [token for token, _ in block]
        made: list[_Drafted] = []
        likely: list[tuple[float, int, _Drafted]] = []  # what may follow, the likeliest at the top
        count = itertools.count()

        def follow(parent: int, way: tuple[int, ...], reached: float) -> None:
            depth = len(way)
            if depth >= deepest:
                return
            if depth < len(copy) and self._speculation.most:
                found = [(copy[depth], trusted, Source.ORIGINAL)]
            elif depth < len(block) and way == tuple(proposed[:depth]):
                found = [(*block[depth], Source.DRAFTER)]
            else:
                found = self._next(seen, depth, (*self._text.context(), *way)[-LONGEST:])
            for token, chance, source in found:
                chance = chance**self._power
                if reached * chance >= _LEAST_CHANCE and self._drafted(token):
                    one = _Drafted(token, chance, source, parent, way)
                    heapq.heappush(likely, (-reached * chance, next(count), one))

        follow(-1, (), 1.0)
        while likely and len(made) < most:
            reached, _, one = heapq.heappop(likely)
            if -reached * _TOKEN < least[1 + len(made)]:
                break  # neither this row nor one behind it would pay
            made.append(one)
            follow(len(made) - 1, (*one.way, one.token), -reached)
        return DraftTokens(
            tuple(one.token for one in made),
            tuple(one.chance for one in made),
            tuple(one.source for one in made),
            tuple(one.parent for one in made),
        ).only(range(len(made)))

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
        reached, behind, expected = draft.reached, draft.behind, 0.0
        ends: list[float] = []  # how likely it ends behind the text, and behind each token
        for kept in range(min(len(draft.tokens), MOST_ROWS - 1) + 1):
            if kept:
                expected += reached[kept]
                ends[behind[kept - 1] + 1] -= reached[kept]
            ends.append(reached[kept])
            rows = 1 + kept
            if (net := _TOKEN * expected - curve[rows]) > saved:
                best, saved = Plan(kept), net
            likely = sorted(range(len(ends)), key=lambda n: -ends[n])
            for width in range(1, most + 1):
                gain = _GAINS[min(width, len(_GAINS)) - 1]
                tokens = expected
                for groups, end in enumerate(likely, 1):
                    masks = groups * width
                    if masks > left or rows + masks > MOST_ROWS:
                        break
                    tokens += ends[end] * gain
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
    ) -> list[tuple[int, float, Source]]:
        """The likeliest tokens, the chance of each, and what it comes from; none where nothing is
        known."""
        known, of_text = self._text.following(context) if self._speculation.most else ({}, ())
        if rows is not None and index < rows.count:
            found = rows.corrected(index, ngram_term(known, index))
            return [(token, chance, Source.ADAPTER) for token, chance in found[: self._ways]]
        return [
            (token, known[token], Source.COPY if token in of_text else Source.TABLE)
            for token in heapq.nlargest(self._ways, known, key=known.__getitem__)
        ]


@dataclass(frozen=True, slots=True)
class _Drafted:
    """A token of a draft, its place behind `parent`, and the `way` there from the text's end."""

    token: int
    chance: float
    source: Source
    parent: int
    way: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class _MaskRows:
    """Logits of masks, (masks, vocab), and of each row what one transfer for all of them tells.

    Attributes:
        likeliest: tokens and their logits, the likeliest first.
        mass: the logarithm of the sum of all.
    """

    logits: Tensor
    likeliest: list[list[tuple[int, float]]]
    mass: list[float]

    @classmethod
    def of(cls, logits: Tensor, ways: int) -> _MaskRows:
        """With the `ways` likeliest tokens of each row."""
        ids = most_likely(logits, ways)
        values, mass = logits.gather(-1, ids), logits.logsumexp(-1, keepdim=True)
        told = torch.cat([ids.float(), values, mass], dim=1).tolist()
        pairs = [zip(map(int, row[:ways]), row[ways:-1], strict=True) for row in told]
        return cls(logits, list(map(list, pairs)), [row[-1] for row in told])

    @property
    def count(self) -> int:
        return len(self.mass)

    def corrected(self, index: int, term: Mapping[int, float]) -> list[tuple[int, float]]:
        """The likeliest tokens of a row and their chances, with `ngram_term` added to its logits,
        which only adds: they are the row's own likeliest ones, or some of these."""
        found, share = dict(self.likeliest[index]), 1.0
        if term:
            values = self.logits[index, list(term)].tolist()
            for (token, above), value in zip(term.items(), values, strict=True):
                share += math.exp(value - self.mass[index]) * math.expm1(above)
                found[token] = value + above
        ordered = sorted(found.items(), key=lambda one: -one[1])
        return [(t, math.exp(value - self.mass[index]) / share) for t, value in ordered]
