"""Drafts that cost no forward: what followed the last tokens where they stood before.

Code repeats itself, and an answer that rewrites code repeats most of it (prompt lookup decoding;
Saxena 2023). Verified like any other draft, it cannot change what is written.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from typing import Protocol

DRAFT_FLOOR = 0.2
"""A draft ends before the probability of all of it falls below this."""
_EXPECTED, _WEIGHT = 0.7, 4.0  # share of drafted tokens that come true, as if seen in so many
_KEPT = 0.9  # of what was seen, with every draft
_CANDIDATES = 64  # earlier places looked at, the latest first
_LONGEST = 8  # tokens that two places are compared over
_AHEAD = 4  # tokens that may have been left out where two texts part and meet again
_LOST = 3  # tokens in a row that are not the original's: then it is no guide any more


class Source(Protocol):
    """Where drafts come from without a forward."""

    def extend(self, tokens: Sequence[int]) -> None:
        """Append what was accepted."""
        ...

    def draft(self) -> tuple[tuple[int, ...], int]:
        """(tokens, how many before them speak for them; 0: there are none)."""
        ...


class Acceptance:
    """How often a drafted token came true lately, given that those before it in its draft did."""

    def __init__(self) -> None:
        self._right, self._judged = _EXPECTED * _WEIGHT, _WEIGHT

    @property
    def length(self) -> int:
        """Tokens of a draft that is still right as a whole with a chance of `DRAFT_FLOOR`."""
        rate = min(self._right / self._judged, 0.99)
        return max(1, int(math.log(DRAFT_FLOOR) / math.log(rate))) if rate > 0.0 else 1

    def add(self, draft: Sequence[int], came: Sequence[int]) -> None:
        """Judge a draft by the tokens that came in its place, as far as there are any."""
        pairs = list(zip(draft, came, strict=False))
        right = next((i for i, (a, b) in enumerate(pairs) if a != b), len(pairs))
        self._right = _KEPT * self._right + right
        self._judged = _KEPT * self._judged + right + (right < len(pairs))


class Lookup:
    """The places of a growing text where each pair of tokens stood.

    Attributes:
        most: tokens of a draft at most; fewer while drafts are wrong soon.
    """

    def __init__(self, tokens: Sequence[int], most: int) -> None:
        self._tokens: list[int] = []
        self._after: defaultdict[tuple[int, int], list[int]] = defaultdict(list)
        self._acceptance, self._drafted = Acceptance(), tuple[int, ...]()
        self.most = most
        self.extend(tokens)

    def extend(self, tokens: Sequence[int]) -> None:
        """Append what was accepted."""
        if self._drafted:
            self._acceptance.add(self._drafted, tokens)
            self._drafted = ()
        for token in tokens:
            if self._tokens:
                # behind its pair there is a token to propose only once the next one has come
                self._after[self._tokens[-1], token].append(len(self._tokens) + 1)
            self._tokens.append(token)

    def draft(self) -> tuple[tuple[int, ...], int]:
        """What followed the longest earlier match of the last tokens; of equals, the latest.

        Returns:
            (tokens, number of tokens that match; 0 where nothing does). A draft is twice as long
            as its match, as the longer that is, the further it holds; and no longer than drafts
            have held lately.
        """
        tokens, end = self._tokens, len(self._tokens)
        if end < 2 or not self.most:
            return (), 0
        best, longest = 0, 0
        places = self._after[tokens[-2], tokens[-1]]
        for place in reversed(places[-_CANDIDATES - 1 :]):
            if place == end:
                continue  # the very tokens that are looked for
            length = 2
            while (
                length < _LONGEST
                and place > length
                and tokens[place - 1 - length] == tokens[end - 1 - length]
            ):
                length += 1
            if length > longest:
                best, longest = place, length
            if length == _LONGEST:
                break
        size = min(self.most, 2 * longest, self._acceptance.length)
        self._drafted = tuple(tokens[best : best + size])
        return self._drafted, longest


class Original:
    """The text that is being rewritten, followed while the new one is written.

    Most of it comes back, so the draft is what stands next in it. A token that differs is taken to
    replace one; where more do, tokens were put in or left out, and the place is looked for where
    the two texts agree again. Elsewhere `Lookup` serves.
    """

    def __init__(self, prompt: Sequence[int], original: Sequence[int], most: int) -> None:
        self._lookup = Lookup(prompt, most)
        self._original = tuple(original)
        self._at = 0  # of the original's token that should come next
        self._last = -1  # token written
        self._agreeing, self._differing = 0, 0  # tokens in a row
        self.most = most

    def extend(self, tokens: Sequence[int]) -> None:
        """Append what was accepted."""
        self._lookup.extend(tokens)
        for token in tokens:
            self._follow(token)
            self._last = token

    def draft(self) -> tuple[tuple[int, ...], int]:
        """What comes next in the original: more, the longer the texts agree."""
        size = self.most if self._differing < 2 else self.most // 2
        size = min(max(size, 2 * self._agreeing), 2 * self.most)
        rest = self._original[self._at : self._at + size]
        if not rest or self._differing >= _LOST:
            return self._lookup.draft()
        return rest, max(self._agreeing, _LONGEST)

    def _follow(self, token: int) -> None:
        text, at = self._original, self._at
        if text[at : at + 1] == (token,):
            self._at, self._agreeing, self._differing = at + 1, self._agreeing + 1, 0
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
