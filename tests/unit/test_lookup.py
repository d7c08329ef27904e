"""Drafts from the text itself: the latest of the longest matches, never the text's own end."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blockdiff.diffusion.lookup import DRAFT_FLOOR, Acceptance, Lookup, Original


def test_what_followed_before_is_proposed_again() -> None:
    lookup = Lookup([1, 2, 3, 4, 5, 6, 7, 1, 2], most=8)
    assert lookup.draft() == ((3, 4, 5, 6), 2)  # twice the match
    lookup.extend([3])
    assert lookup.draft() == ((4, 5, 6, 7, 1, 2), 3)


def test_the_longest_match_wins_and_of_equals_the_latest() -> None:
    assert Lookup([9, 1, 2, 5, 0, 1, 2, 6, 9, 1, 2], most=1).draft() == ((5,), 3)
    assert Lookup([8, 1, 2, 5, 7, 1, 2, 6, 3, 1, 2], most=1).draft() == ((6,), 2)


def test_without_a_match_there_is_no_draft() -> None:
    assert Lookup([1, 2, 3, 4], most=8).draft() == ((), 0)
    assert Lookup([1], most=8).draft() == ((), 0)
    assert Lookup([], most=8).draft() == ((), 0)
    assert Lookup([1, 2, 1, 2], most=0).draft() == ((), 0)


def test_one_token_over_and_over_is_proposed_on() -> None:
    assert Lookup([7, 7, 7], most=8).draft() == ((7,), 2)


def test_drafts_get_shorter_where_they_are_wrong_and_longer_where_they_are_right() -> None:
    """A text that repeats itself eight at a time, then one of which only the first two return."""
    repeated = [*range(10, 18)] * 12
    lookup = Lookup(repeated[:24], most=32)
    right = []
    for start in range(24, 96, 8):
        right.append(len(lookup.draft()[0]))
        lookup.extend(repeated[start : start + 8])
    assert right == sorted(right) and right[-1] > right[0]
    wrong = []
    for fresh in range(100, 500, 10):
        lookup.extend([10, 11])
        draft, match = lookup.draft()
        assert match >= 2
        wrong.append(len(draft))
        lookup.extend([fresh, fresh + 1])
    assert wrong == sorted(wrong, reverse=True)
    assert wrong[-1] == 1, "never none: a match is worth a try"


@given(st.lists(st.tuples(st.integers(1, 9), st.integers(0, 9)), max_size=30))
def test_a_length_is_what_recent_drafts_make_likely(seen: list[tuple[int, int]]) -> None:
    """As many tokens as all come true with a fifth's chance, if each does so as lately."""
    acceptance, right, judged = Acceptance(), 0.7 * 4, 4.0
    for size, same in seen:
        same = min(size, same)
        acceptance.add([1] * size, [1] * same + [2] * (size - same))
        right, judged = 0.9 * right + same, 0.9 * judged + same + (same < size)
    rate, length = min(right / judged, 0.99), acceptance.length
    assert length >= 1
    assert rate ** (length + 1) < DRAFT_FLOOR + 1e-9
    assert length == 1 or rate**length > DRAFT_FLOOR - 1e-9


@given(st.lists(st.integers(0, 3), max_size=40), st.integers(1, 12), st.integers(0, 40))
def test_a_draft_did_stand_behind_such_a_match(tokens: list[int], most: int, cut: int) -> None:
    """Whether the text came at once or in pieces."""
    lookup = Lookup(tokens[:cut], most)
    lookup.extend(tokens[cut:])
    draft, match = lookup.draft()
    assert (draft, match) == Lookup(tokens, most).draft()
    places = range(len(tokens) - 1)
    longest = max(
        (
            n
            for n in range(2, 9)
            for i in places
            if n <= i + 1 < len(tokens) and tokens[i + 1 - n : i + 1] == tokens[-n:]
        ),
        default=0,
    )
    assert match == longest
    if match:
        assert 0 < len(draft) <= min(most, 2 * match)
        assert any(
            tokens[i - match : i] == tokens[-match:] and tokens[i : i + len(draft)] == list(draft)
            for i in range(match, len(tokens))
        )


# The original of a rewrite

TEXT = list(range(100, 160))


def forwards(new: list[int], most: int = 8) -> int:
    """How many it takes to write `new` where every agreeing draft is accepted."""
    source, written, count = Original([1, 2, 3], TEXT, most), 0, 0
    while written < len(new):
        draft, _ = source.draft()
        taken = 0
        while taken < len(draft) and draft[taken : taken + 1] == tuple(new[written + taken :][:1]):
            taken += 1
        accepted = new[written : written + taken + 1]
        source.extend(accepted)
        written, count = written + len(accepted), count + 1
    return count


@pytest.mark.parametrize(
    ("changed", "most_forwards"),
    [
        (TEXT, 6),
        ([*TEXT[:20], 7, *TEXT[21:]], 8),
        ([*TEXT[:10], 7, *TEXT[11:30], 8, *TEXT[31:50], 9, *TEXT[51:]], 12),
        ([*TEXT[:20], 7, 8, *TEXT[21:]], 10),
        ([*TEXT[:20], *TEXT[23:]], 10),
        ([*TEXT[:20], 7, 8, 9, 6, 5, *TEXT[20:]], 16),
        ([*TEXT[30:], *TEXT[:30]], 16),
    ],
    ids=["nothing", "one token", "three tokens", "two for one", "left out", "put in", "moved"],
)
def test_what_is_kept_of_the_original_costs_few_forwards(
    changed: list[int], most_forwards: int
) -> None:
    assert forwards(changed) <= most_forwards


@given(st.lists(st.integers(100, 170), max_size=60))
def test_whatever_is_written_a_draft_is_part_of_a_text_that_is_known(new: list[int]) -> None:
    source = Original([1, 2, 3], TEXT, 4)
    known = [TEXT, [1, 2, 3]]
    for index, token in enumerate(new):
        draft, match = source.draft()
        both = [*known, [1, 2, 3, *new[:index]]]
        assert len(draft) <= 8 and (match > 0) == bool(draft)
        assert any(
            list(draft) == text[i : i + len(draft)] for text in both for i in range(len(text) + 1)
        )
        source.extend([token])
