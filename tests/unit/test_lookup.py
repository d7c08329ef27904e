"""What a text, and tables beside it, say comes next; and an original while it is rewritten."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from blockdiff.diffusion.draft_tokens import Source
from blockdiff.diffusion.drafter import Drafter, Speculation
from blockdiff.diffusion.lookup import LONGEST, SUREST, TextNgrams
from blockdiff.diffusion.ngrams import STEP
from blockdiff.diffusion.row_costs import CHEAP
from blockdiff.train.ngrams import count, stream


def likeliest(text: TextNgrams) -> int | None:
    chance, _ = text.following(text.context())
    return max(chance, key=chance.__getitem__, default=None)


@pytest.mark.parametrize(
    ("tokens", "expected"),
    [
        ([1, 2, 3, 4, 5, 1, 2], 3),
        ([9, 1, 2, 5, 0, 1, 2, 6, 9, 1, 2], 5),  # the longest match
        ([1, 2, 5, 7, 1, 2, 5, 8, 1, 2, 6, 3, 1, 2], 5),  # of equals, what came more often
        ([7, 7, 7], 7),
        ([1, 2, 3, 4], None),
        ([1], None),
        ([], None),
    ],
)
def test_what_followed_before_is_likely_to_follow_again(
    tokens: list[int], expected: int | None
) -> None:
    assert likeliest(TextNgrams(tokens)) == expected


def test_the_longer_the_match_the_surer() -> None:
    text = list(range(100, 120))
    chances = []
    for length in range(1, LONGEST + 1):
        chance, known = TextNgrams([*text, 1, *text[5 - length % 2 : 5]]).following(
            text[15 - length : 15]
        )
        assert known == {text[15]}
        chances.append(chance[text[15]])
    assert chances == sorted(chances) and chances[0] < 0.5 < 0.9 < chances[-1] <= SUREST


def test_a_table_knows_what_the_text_does_not() -> None:
    counted = count(stream([[4, 5, 6]] * 3), vocab_size=50, entries=99)
    assert likeliest(TextNgrams([1, 2, 4, 5])) is None
    assert likeliest(TextNgrams([1, 2, 4, 5], [counted])) == 6
    both = TextNgrams([4, 5, 7, 4, 5, 7, 4, 5, 7, 4, 5], [counted])
    chance, known = both.following(both.context())
    assert known == {7} and chance[7] > chance[6] > 0.0, "the text itself comes first"


def test_a_second_table_counts_beside_the_first() -> None:
    general = count(stream([[4, 5, 6]] * 3), vocab_size=50, entries=99)
    personal = count(stream([[4, 5, 7]] * 3 + [[8, 9, 3]] * 3), vocab_size=50, entries=99)
    text = TextNgrams([4, 5], [general, personal])
    chance, _ = text.following([4, 5])
    assert 0.2 < chance[6] < chance[7] < 0.8, "what is nearer counts for more"
    assert max(text.following([8, 9])[0].items(), key=lambda kv: kv[1])[0] == 3


@example([0, 1, 0, 0], 0, [[0, 0, 0], [0, 0, 0]])
@given(
    st.lists(st.integers(0, 3), max_size=40),
    st.integers(0, 40),
    st.lists(st.lists(st.integers(0, 4), max_size=9), max_size=4),
)
def test_chances_are_chances(tokens: list[int], cut: int, counted: list[list[int]]) -> None:
    """Whether the text came at once or in pieces, with whatever table."""
    tables = [count(stream(counted), vocab_size=5, entries=60)]
    text = TextNgrams(tokens[:cut], tables)
    text.extend(tokens[cut:])
    chance, known = text.following(text.context())
    again = TextNgrams(tokens, tables)
    assert (chance, known) == again.following(again.context())
    assert all(0.0 < p <= 1.0 for p in chance.values()) and known <= set(tokens)
    rounding = math.exp(STEP / 2)  # of what a table holds; and what it lacks is given a little
    assert sum(chance[token] for token in known) <= rounding + 1e-3 * len(known)
    last = tokens[-1:]
    assert known == {b for a, b in zip(tokens, tokens[1:], strict=False) if [a] == last}


# The original of a rewrite

TEXT = list(range(100, 160))


def forwards(new: list[int], most: int = 16) -> int:
    """How many it takes to write `new` where every agreeing draft is accepted."""
    drafter = Drafter([1, 2, 3], Speculation(CHEAP, most), TEXT)
    written, count = 0, 0
    while written < len(new):
        draft = drafter.draft(None, len(new)).tokens
        taken = 0
        while taken < len(draft) and draft[taken : taken + 1] == tuple(new[written + taken :][:1]):
            taken += 1
        accepted = new[written : written + taken + 1]
        drafter.extend(accepted)
        written, count = written + len(accepted), count + 1
    return count


@pytest.mark.parametrize(
    ("changed", "most_forwards"),
    [
        (TEXT, 4),
        ([*TEXT[:20], 7, *TEXT[21:]], 6),
        ([*TEXT[:10], 7, *TEXT[11:30], 8, *TEXT[31:50], 9, *TEXT[51:]], 10),
        ([*TEXT[:20], 7, 8, *TEXT[21:]], 8),
        ([*TEXT[:20], *TEXT[23:]], 8),
        ([*TEXT[:20], 7, 8, 9, 6, 5, *TEXT[20:]], 12),
        ([*TEXT[30:], *TEXT[:30]], 12),
    ],
    ids=["nothing", "one token", "three tokens", "two for one", "left out", "put in", "moved"],
)
def test_what_is_kept_of_the_original_costs_few_forwards(
    changed: list[int], most_forwards: int
) -> None:
    assert forwards(changed) <= most_forwards


@given(st.lists(st.integers(100, 170), max_size=60))
def test_whatever_is_written_the_original_is_followed_from_one_place(new: list[int]) -> None:
    drafter = Drafter([1, 2, 3], Speculation(CHEAP, 8), TEXT)
    for token in new:
        draft = drafter.draft(None, 99)
        assert len(draft.tokens) <= 8 and len(draft.confidence) == len(draft.tokens)
        both = zip(draft.tokens, draft.sources, strict=True)
        copied = [t for t, source in both if source is Source.ORIGINAL]
        assert any(copied == TEXT[i : i + len(copied)] for i in range(len(TEXT) + 1))
        assert all(0.0 < p < 1.0 for p in draft.confidence)
        drafter.extend([token])


def test_counts_are_the_same_for_any_order_of_documents() -> None:
    documents = [[1, 2, 3, 4], [1, 2, 3], [5, 2, 3, 4], [1, 2]]
    tables = [
        count(stream(order), vocab_size=9, entries=40) for order in (documents, documents[::-1])
    ]
    assert np.array_equal(tables[0].entries, tables[1].entries)
