"""Drafts that cost no forward: what the text itself, counted code, or an original say comes next.

Code repeats itself, so the tokens that stood behind the same tokens before are a good guess (prompt
lookup decoding; Saxena 2023), the better the more of them agree. Where the text knows nothing,
tables of n-grams counted in other code do. Verified like any other draft, a guess cannot change
what is written.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Sequence

from blockdiff.diffusion.ngrams import FLOOR, NgramTable

LONGEST = 10
"""Tokens before that two places are compared over."""
SUREST = 0.95
"""Chance that the longest match gives; such matches held for nine tokens of ten."""
_DISCOUNT = 0.7  # of every count; the share of what it leaves goes to shorter matches
_PLACES = 64  # earlier places looked at, the latest first
_FEW = 16  # so few, and those that agree in one token count as well
_ALSO_COUNTED = 0.7  # share of a table in what the tables before it say, where it knows the place
_UNKNOWN = math.exp(FLOOR)

_RIGHT, _WEIGHT = 0.9, 6.0  # share of an original's tokens that come back, as if seen in so many
_KEPT = 0.9  # of what was seen, with every draft
_AHEAD = 4  # tokens that may have been left out where two texts part and meet again
_LOST = 3  # tokens in a row that are not the original's: then it is no guide any more
_MOST_RIGHT = 0.99


class TextNgrams:
    """The n-grams of a growing text, on top of tables counted elsewhere.

    The chance of a token is interpolated from the longest match down to the tables, with absolute
    discounting (Ney, Essen, Kneser 1994).
    """

    def __init__(self, tokens: Sequence[int], tables: Sequence[NgramTable] = ()) -> None:
        self._tokens: list[int] = []
        self._after: defaultdict[int, list[int]] = defaultdict(list)
        self._after_two: defaultdict[tuple[int, int], list[int]] = defaultdict(list)
        self._tables = tables
        self.extend(tokens)

    def extend(self, tokens: Sequence[int]) -> None:
        """Append what was accepted."""
        for token in tokens:
            place = len(self._tokens) + 1  # of the token behind this one
            if self._tokens:
                self._after_two[self._tokens[-1], token].append(place)
            self._after[token].append(place)
            self._tokens.append(token)

    def context(self) -> list[int]:
        """The last tokens, as many as `following` looks at."""
        return self._tokens[-LONGEST:]

    def following(self, context: Sequence[int]) -> tuple[dict[int, float], frozenset[int]]:
        """What may come behind `context`, the last of which are compared.

        Returns:
            (chance of each token that is known to have come there, those that the text knows)
        """
        chance = self._counted(context)
        places = self._places(context)
        if not places:
            return chance, frozenset()
        said = dict.fromkeys((token for token, _ in places), 0.0)
        left = 1.0  # to the tables
        for length in range(1, max(match for _, match in places) + 1):
            counts = Counter(token for token, match in places if match >= length)
            total = sum(counts.values())
            rest = _DISCOUNT * len(counts) / total
            left *= rest
            for token, below in said.items():
                said[token] = max(counts[token] - _DISCOUNT, 0.0) / total + rest * below
        found = {token: min(left * p, SUREST) for token, p in chance.items()}
        for token, p in said.items():
            found[token] = min(p + left * chance.get(token, _UNKNOWN), SUREST)
        return found, frozenset(said)

    def _counted(self, context: Sequence[int]) -> dict[int, float]:
        chance: dict[int, float] = {}
        for table in self._tables:
            tokens, above = table.behind(context)
            said = {t: math.exp(a + FLOOR) for t, a in zip(tokens, above, strict=True)}
            if not chance or not said:
                chance = chance or said
                continue
            chance = {
                token: (1 - _ALSO_COUNTED) * chance.get(token, _UNKNOWN)
                + _ALSO_COUNTED * said.get(token, _UNKNOWN)
                for token in chance.keys() | said.keys()
            }
        return chance

    def _places(self, context: Sequence[int]) -> list[tuple[int, int]]:
        """(token, tokens before it that match) at earlier places like this, the latest first."""
        if not context:
            return []
        tokens, last, end = self._tokens, context[-1], len(self._tokens)
        found: list[tuple[int, int]] = []
        before = context[-2] if len(context) > 1 else None
        two = self._after_two.get((before, last), ()) if before is not None else ()
        for place in reversed(two[-_PLACES - 1 :]):
            if place == end:
                continue  # nothing stands behind the end yet
            match = 2
            while (
                match < LONGEST
                and match < min(place, len(context))
                and tokens[place - 1 - match] == context[-1 - match]
            ):
                match += 1
            found.append((tokens[place], match))
        if len(two) < _FEW:
            for place in reversed(self._after.get(last, ())[-_FEW - 1 :]):
                if place != end and (place < 2 or tokens[place - 2] != before):
                    found.append((tokens[place], 1))
        return found


class Original:
    """The text that is being rewritten, followed while the new one is written.

    Most of it comes back, so the draft is what stands next in it. A token that differs is taken to
    replace one; where more do, tokens were put in or left out, and the place is looked for where
    the two texts agree again.
    """

    def __init__(self, original: Sequence[int]) -> None:
        self._original = tuple(original)
        self._at = 0  # of the original's token that should come next
        self._last = -1  # token written
        self._agreeing, self._differing = 0, 0  # tokens in a row
        self._right, self._judged = _RIGHT * _WEIGHT, _WEIGHT

    def extend(self, tokens: Sequence[int]) -> None:
        """Append what was accepted."""
        self._right, self._judged = _KEPT * self._right, _KEPT * self._judged
        for token in tokens:
            self._follow(token)
            self._last = token

    def draft(self) -> tuple[Sequence[int], float]:
        """What comes next in the original, and the chance of each token given those before it."""
        if self._differing >= _LOST:
            return (), 0.0
        rate = min(self._right / self._judged, _MOST_RIGHT) if self._judged else _RIGHT
        doubt = self._differing / (self._agreeing + self._differing + 1)
        return self._original[self._at :], rate * (1.0 - doubt)

    def _follow(self, token: int) -> None:
        text, at = self._original, self._at
        self._judged += at < len(text)
        if text[at : at + 1] == (token,):
            self._at, self._agreeing, self._differing = at + 1, self._agreeing + 1, 0
            self._right += 1
            return
        self._agreeing, self._differing = 0, self._differing + 1
        if self._differing == 1:
            self._at = min(at + 1, len(text))
        elif (found := self._found(token)) is not None:
            self._at, self._agreeing, self._differing = found + 1, 1, 0

    def _found(self, token: int) -> int | None:
        """Where the original says `token`: close by, or anywhere behind the same token as here."""
        text, at = self._original, self._at
        near = range(max(at - 1, 0), min(at + _AHEAD, len(text)))
        if (place := next((i for i in near if text[i] == token), None)) is not None:
            return place
        pairs = [i for i in range(1, len(text)) if text[i - 1 : i + 1] == (self._last, token)]
        return min(pairs, key=lambda i: abs(i - at), default=None)
