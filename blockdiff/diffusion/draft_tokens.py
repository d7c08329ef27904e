"""Tokens that are guessed to come next: one way to go on, or several as a tree."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum


class Source(str, Enum):
    """What a drafted token comes from."""

    ADAPTER = "adapter"
    DRAFTER = "drafter"
    COPY = "copy"
    TABLE = "table"
    ORIGINAL = "original"


@dataclass(frozen=True, slots=True)
class DraftTokens:
    """Tokens to verify: a tree of ways to go on (SpecInfer, arXiv 2305.09781), or one way alone.

    Attributes:
        confidence: the chance of each, given that those before it come true.
        sources: where each comes from.
        parents: of each token the one before it, by its place here; -1: the text. Empty: each
            stands behind the one before.
    """

    tokens: tuple[int, ...] = ()
    confidence: tuple[float, ...] = ()
    sources: tuple[Source, ...] = ()
    parents: tuple[int, ...] = ()

    @property
    def behind(self) -> Sequence[int]:
        """`parents`, whether they are told or not."""
        return self.parents or range(-1, len(self.tokens) - 1)

    @property
    def depths(self) -> list[int]:
        """How many tokens of the draft lie up to the text's end, 0, and up to each token."""
        found = [0]
        for parent in self.behind:
            found.append(found[parent + 1] + 1)
        return found

    @property
    def reached(self) -> list[float]:
        """The chance that all comes true up to the text's end, 1.0, and up to each token."""
        found = [1.0]
        for parent, chance in zip(self.behind, self.confidence, strict=True):
            found.append(found[parent + 1] * chance)
        return found

    @property
    def chain(self) -> DraftTokens:
        """Its first tokens, as far as each stands behind the one before."""
        pairs = enumerate(self.behind)
        return self.only(range(next((i for i, p in pairs if p != i - 1), len(self.tokens))))

    def laid_out(self, count: int) -> tuple[DraftTokens, list[int]]:
        """Its first `count` tokens, those of the likeliest way in front, so that they stand as the
        text would; and where the text's end, 0, and each of them has gone to.

        Of those behind the same token the likelier one must come first.
        """
        way, others, last = [], [], -1
        for index, parent in enumerate(self.behind[:count]):
            if parent == last:
                way.append(index)
                last = index
            else:
                others.append(index)
        order = [*way, *others]
        places = [0] * (count + 1)
        for place, index in enumerate(order, 1):
            places[index + 1] = place
        return self.only(order, places), places

    def only(self, order: Sequence[int], places: Sequence[int] = ()) -> DraftTokens:
        """Those tokens of it, and where each has gone to if it did."""
        parents = [self.behind[i] for i in order]
        if places:
            parents = [places[parent + 1] - 1 for parent in parents]
        alone = parents == list(range(-1, len(parents) - 1))
        return DraftTokens(
            tuple(self.tokens[i] for i in order),
            tuple(self.confidence[i] for i in order),
            tuple(self.sources[i] for i in order),
            () if alone else tuple(parents),
        )


NO_DRAFT = DraftTokens()
