"""What was encoded is found again, is what it would be if encoded anew, and stays in its budget."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from blockdiff.engine import prefix_store
from blockdiff.engine.prefix_store import PrefixStore
from blockdiff.errors import InvalidRequest
from blockdiff.model.cache import BlockCache
from tests.unit.tiny import config

SHAPE = config(n_layers=1, n_heads=1, n_kv_heads=1, head_dim=2, max_positions=400)
CAPACITY = 8
TOKEN_BYTES = 1 * 2 * 1 * 2 * 4  # of one position: layers, keys and values, heads, width, float32


def store(budget: int = 1 << 20) -> PrefixStore:
    return PrefixStore(lambda: BlockCache(SHAPE, capacity=CAPACITY), budget)


def fingerprint(tokens: Sequence[int]) -> float:
    """What stands for the keys of the last token: it depends on all of them, as real keys do."""
    return float(random.Random(str(list(tokens))).random())


def encode(cache: BlockCache, tokens: Sequence[int]) -> int:
    """Commit what is missing of `tokens`; returns how many that were."""
    missing = len(tokens) - cache.length
    while cache.length < len(tokens):
        keys = torch.full((1, 1, 1, 2), fingerprint(tokens[: cache.length + 1]))
        cache.append(0, keys, -keys)
        cache.commit(1)
    return missing


def is_exact(cache: BlockCache, tokens: Sequence[int]) -> bool:
    """Whether a cache holds what encoding its part of `tokens` from the start would give."""
    keys, values = cache.committed(0)
    expected = [fingerprint(tokens[: i + 1]) for i in range(cache.length)]
    exact = torch.tensor(expected).expand(2, -1).T
    return torch.equal(keys[0, 0], exact) and torch.equal(values[0, 0], -exact)


def ask(kept: PrefixStore, tokens: Sequence[int]) -> int:
    """A request from start to end; returns how many of its tokens were not known."""
    cache = kept.take(tokens)
    assert is_exact(cache, tokens)
    new = encode(cache, tokens)
    kept.put(tokens, cache)
    return new


class Twin:
    """The slow twin: token sequences in a list, without caches and without a budget."""

    def __init__(self) -> None:
        self.known: list[tuple[int, ...]] = []

    def ask(self, tokens: tuple[int, ...]) -> int:
        longest = max((_common(old, tokens) for old in self.known), default=0)
        self.known.append(tokens)
        return len(tokens) - longest


def _common(one: Sequence[int], other: Sequence[int]) -> int:
    return next(
        (i for i, pair in enumerate(zip(one, other, strict=False)) if pair[0] != pair[1]),
        min(len(one), len(other)),
    )


# A few documents, cut and continued: long common prefixes and every way to part.
PROMPT = st.builds(
    lambda document, cut, tail: tuple((document * 31 + i) % 97 for i in range(cut)) + tuple(tail),
    st.integers(0, 2),
    st.integers(0, 200),
    st.lists(st.integers(0, 1), max_size=20),
).filter(bool)


@settings(deadline=None, max_examples=60)
@given(st.lists(PROMPT, max_size=12))
def test_no_more_is_encoded_than_the_slow_twin_and_a_line_each_time(
    prompts: list[tuple[int, ...]],
) -> None:
    fast, slow = store(), Twin()
    lost = 0  # what entries gave up to be continued in place
    for tokens in prompts:
        allowed = prefix_store._LOSABLE_TOKENS * lost + prefix_store._LEAST_COPIED_TOKENS
        new, least = ask(fast, tokens), slow.ask(tokens)
        assert least <= new <= least + allowed
        lost += 1
        short = len(tokens) < prefix_store._LEAST_COPIED_TOKENS
        assert short or ask(fast, tokens) == 0, "the same request again"


@settings(deadline=None, max_examples=60)
@given(prompts=st.lists(PROMPT, max_size=12), budget=st.integers(0, 600 * TOKEN_BYTES),
       stops=st.lists(st.floats(0, 1), min_size=12, max_size=12))  # fmt: skip
def test_whatever_is_asked_and_cancelled_it_is_exact_and_within_the_budget(
    prompts: list[tuple[int, ...]], budget: int, stops: list[float]
) -> None:
    kept = store(budget)
    for tokens, share in zip(prompts, stops, strict=False):
        cache = kept.take(tokens)
        assert is_exact(cache, tokens)
        assert kept.nbytes <= max(0, budget - cache.nbytes)
        done = max(cache.length, int(share * len(tokens)))
        encode(cache, tokens[:done])  # cancelled there
        kept.put(tokens[: cache.length], cache)
        assert kept.nbytes <= budget


def test_typing_goes_on_in_the_same_buffer() -> None:
    kept, text = store(), tuple(range(100))
    first = kept.take(text, room=100)
    encode(first, text)
    kept.put(text, first)
    for typed in range(30):
        longer = text[: 100 - typed] + (200,) * typed
        cache = kept.take(longer)
        assert cache is first
        encode(cache, longer)
        kept.put(longer, cache)
        assert kept.entries == 1


def test_another_document_does_not_push_the_first_one_out() -> None:
    kept = store()
    one, other = tuple(range(300)), tuple(range(100)) + tuple(range(300, 390))
    assert ask(kept, one) == 300
    assert ask(kept, other) == 90, "their common start is copied"
    assert kept.entries == 2
    assert ask(kept, one) == ask(kept, other) == 0


def test_the_least_recently_used_goes_first() -> None:
    documents = [tuple(range(1000 * n, 1000 * n + 100)) for n in range(3)]
    kept = store(budget=2 * 100 * TOKEN_BYTES)
    for tokens in (documents[0], documents[1], documents[0], documents[2]):
        ask(kept, tokens)
    assert kept.entries == 2
    assert [ask(kept, documents[n]) for n in (2, 0)] == [0, 0]
    assert ask(kept, documents[1]) == 100


def test_an_entry_within_another_is_dropped() -> None:
    kept = store()
    long = tuple(range(200))
    taken = kept.take(long)
    other = kept.take(long[:50])
    encode(other, long[:50])
    kept.put(long[:50], other)
    encode(taken, long)
    kept.put(long, taken)
    assert kept.entries == 1 and kept.nbytes == taken.nbytes


@pytest.mark.parametrize("share", [16, 40, 89])
def test_what_is_kept_counts_as_what_it_holds(share: int) -> None:
    """A short copy of a long context, and a long request that ended early, are not long."""
    kept, long = store(), tuple(range(390))
    ask(kept, long)
    whole = kept.nbytes
    short = long[:share] + (999,) * 10
    ask(kept, short)
    assert kept.nbytes - whole == len(short) * TOKEN_BYTES
    other = (*range(1000, 1000 + share), *range(300))
    cache = kept.take(other, room=100)
    encode(cache, other[:share])  # cancelled there
    before = kept.nbytes
    kept.put(other[:share], cache)
    assert kept.nbytes - before <= 4 * share * TOKEN_BYTES
    assert ask(kept, other[:share]) == 0


def test_a_copy_that_was_cancelled_at_once_is_dropped() -> None:
    kept, tokens = store(), tuple(range(200))
    ask(kept, tokens)
    before = kept.nbytes
    cache = kept.take(tokens[:50] + (999,) * 50)
    assert cache.length == 50
    kept.put(tokens[:50], cache)
    assert (kept.entries, kept.nbytes) == (1, before)


def test_more_tokens_than_the_model_has_positions_are_refused_and_nothing_is_lost() -> None:
    kept, tokens = store(), tuple(range(390))
    ask(kept, tokens)
    with pytest.raises(InvalidRequest, match="context"):
        kept.take((*tokens, *range(50)))
    assert ask(kept, tokens) == 0
    assert kept.take((*tokens, 1), room=10_000).capacity == SHAPE.max_positions


def test_a_budget_of_nothing_keeps_nothing() -> None:
    kept = store(budget=0)
    ask(kept, (1, 2, 3))
    assert (kept.entries, kept.nbytes) == (0, 0)


def test_tokens_and_cache_must_belong_together() -> None:
    with pytest.raises(ValueError, match="2 tokens for 0"):
        store().put((1, 2), BlockCache(SHAPE))
