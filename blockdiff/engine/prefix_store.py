"""What was prefilled for earlier requests, to be continued by later ones."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from blockdiff.engine.stored_contexts import StoredContexts
from blockdiff.model.cache import BlockCache

DEFAULT_BYTES = 512 << 20

# An entry may lose so many tokens to a request that goes on from its middle: the end of a line that
# is being typed. Above it the entry is kept and a copy goes on, because what it would lose (the
# text after the hole, another place in the file) is likely to be asked for again.
_LOSABLE_TOKENS = 64
_LEAST_COPIED_TOKENS = 16  # fewer are prefilled as fast as they are copied
_MOST_EMPTY = 4  # times its tokens: more capacity is left of a request that ended early


@dataclass(eq=False)
class _Entry:
    """A cache and the tokens of its committed positions."""

    tokens: tuple[int, ...]
    cache: BlockCache


class PrefixStore:
    """Committed caches by token prefix, least recently used first out, within a byte budget.

    A cache is taken out, continued by one request, and put back with the tokens it then holds; in
    the meantime others may begin with a copy of what it has committed. Buffers count with their
    capacity, and one that is mostly empty is not kept. Not for use from several threads, but for
    reading `entries` and `nbytes`.

    Attributes:
        stored: what an earlier process left on disk, where that is wanted.
    """

    def __init__(self, empty: Callable[[], BlockCache], budget: int = DEFAULT_BYTES) -> None:
        """`empty` makes a cache; `budget` is in bytes, 0 keeps nothing."""
        self._empty, self._budget = empty, budget
        self._entries: list[_Entry] = []  # least recently used first
        self._lent: list[_Entry] = []  # with the tokens they are to hold
        self.stored: StoredContexts | None = None

    @property
    def entries(self) -> int:
        return len(self._entries)

    @property
    def nbytes(self) -> int:
        """Of the buffers that are kept; a cache that is taken out does not count."""
        return sum(entry.cache.nbytes for entry in tuple(self._entries))

    @property
    def latest(self) -> list[tuple[tuple[int, ...], BlockCache]]:
        """What is kept and its tokens, the latest used first; of the states that a text went
        through, whose fronts are alike, the latest only."""
        found: list[_Entry] = []
        for entry in reversed(self._entries):
            half = len(entry.tokens) / 2
            if all(_common(entry.tokens, later.tokens) < half for later in found):
                found.append(entry)
        return [(entry.tokens, entry.cache) for entry in found]

    def take(self, tokens: Sequence[int], room: int = 0) -> BlockCache:
        """A cache of the longest prefix of `tokens` that is known, perhaps empty.

        It is the caller's until `put`. It has the capacity for `tokens` and, as far as the model's
        limit allows, `room` more; others make way for it. Nothing is copied if the entry that it
        comes from ends within a line of where the prefix ends.

        Raises:
            InvalidRequest: more tokens than the model has positions.
        """
        entry, shared = self._longest(tokens)
        lent, underway = self._longest_lent(tokens)
        if lent is not None and underway > max(shared, _LEAST_COPIED_TOKENS):
            cache = self._copied(lent.cache, underway, tokens, room)
        elif entry is None or shared < _LEAST_COPIED_TOKENS:
            cache = self._reserved(self._empty(), tokens, room)
        elif len(entry.tokens) - shared <= _LOSABLE_TOKENS:
            entry.tokens = entry.tokens[:shared]
            entry.cache.truncate(shared)
            cache = self._reserved(entry.cache, tokens, room)
            self._entries.remove(entry)
        else:
            self._touch(entry)
            cache = self._copied(entry.cache, shared, tokens, room)
        if self.stored is not None:
            self.stored.restore(tokens, cache)
        self._evict(self._budget - cache.nbytes)
        self._lent.append(_Entry(tuple(tokens), cache))
        return cache

    def put(self, tokens: Sequence[int], cache: BlockCache) -> None:
        """Keep `cache`, whose committed positions are `tokens`; an entry within it goes.

        A cache that holds nothing beyond an entry is dropped: what a cancelled request has copied.
        """
        if len(tokens) != cache.length:
            raise ValueError(f"{len(tokens)} tokens for {cache.length} committed positions")
        self.discard(cache)
        entry, shared = self._longest(tokens)
        if entry is not None and shared == len(tokens):
            return self._touch(entry)
        self._entries = [e for e in self._entries if _common(e.tokens, tokens) < len(e.tokens)]
        if tokens:
            if cache.capacity > _MOST_EMPTY * cache.length:
                cache = cache.fork()
            self._entries.append(_Entry(tuple(tokens), cache))
        self._evict(self._budget)

    def discard(self, cache: BlockCache) -> None:
        """Take note that a cache will not be put back."""
        self._lent = [one for one in self._lent if one.cache is not cache]

    def clear(self) -> None:
        """Forget everything."""
        self._entries = []

    def _longest(self, tokens: Sequence[int]) -> tuple[_Entry | None, int]:
        """The entry with the longest common prefix, the latest one of several, and its length."""
        best, longest = None, 0
        for entry in reversed(self._entries):
            shared = _common(entry.tokens, tokens)
            if shared > longest or best is None:
                best, longest = entry, shared
        return best, longest

    def _longest_lent(self, tokens: Sequence[int]) -> tuple[_Entry | None, int]:
        """The same among those that are taken out, as far as they have come."""
        found = [(min(_common(e.tokens, tokens), e.cache.length), e) for e in self._lent]
        shared, entry = max(found, key=lambda one: one[0], default=(0, None))
        return entry, shared

    def _reserved(self, cache: BlockCache, tokens: Sequence[int], room: int) -> BlockCache:
        cache.reserve(_positions(cache, tokens, room))
        return cache

    def _copied(
        self, cache: BlockCache, length: int, tokens: Sequence[int], room: int
    ) -> BlockCache:
        capacity = min(_positions(cache, tokens, room), cache.most_positions)
        return self._reserved(cache.fork(length=length, capacity=capacity), tokens, room)

    def _touch(self, entry: _Entry) -> None:
        self._entries.remove(entry)
        self._entries.append(entry)

    def _evict(self, budget: int) -> None:
        while self._entries and self.nbytes > budget:
            del self._entries[0]


def _positions(cache: BlockCache, tokens: Sequence[int], room: int) -> int:
    """What a cache needs for `tokens` and, within the model's limit, `room` more."""
    return max(len(tokens), min(len(tokens) + room, cache.most_positions))


def _common(one: Sequence[int], other: Sequence[int]) -> int:
    """Length of the common prefix."""
    pairs = enumerate(zip(one, other, strict=False))
    shorter = min(len(one), len(other))
    return next((i for i, (a, b) in pairs if a != b), shorter)
