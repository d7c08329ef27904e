"""Drafts that cost no forward: what followed the last tokens where they stood before.

Code repeats itself, and an answer that rewrites code repeats most of it (prompt lookup decoding;
Saxena 2023). Verified like any other draft, it cannot change what is written.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

_CANDIDATES = 64  # earlier places looked at, the latest first
_LONGEST = 8  # tokens that two places are compared over


class Lookup:
    """The places of a growing text where each pair of tokens stood.

    Attributes:
        most: tokens of a draft at most.
    """

    def __init__(self, tokens: Sequence[int], most: int) -> None:
        self._tokens: list[int] = []
        self._after: defaultdict[tuple[int, int], list[int]] = defaultdict(list)
        self.most = most
        self.extend(tokens)

    def extend(self, tokens: Sequence[int]) -> None:
        """Append what was accepted."""
        for token in tokens:
            if self._tokens:
                # behind its pair there is a token to propose only once the next one has come
                self._after[self._tokens[-1], token].append(len(self._tokens) + 1)
            self._tokens.append(token)

    def draft(self) -> tuple[tuple[int, ...], int]:
        """What followed the longest earlier match of the last tokens; of equals, the latest.

        Returns:
            (tokens, number of tokens that match; 0 where nothing does). A draft is twice as long
            as its match: the longer that is, the further it holds.
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
        return tuple(tokens[best : best + min(self.most, 2 * longest)]), longest
