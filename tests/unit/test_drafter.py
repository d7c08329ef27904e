"""Which tokens are drafted: as many as pay, from whatever source knows them."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from blockdiff.diffusion.drafter import (
    CHEAP,
    INT8,
    MOST_ROWS,
    Drafter,
    DraftTokens,
    RowCosts,
    Source,
    Speculation,
)
from blockdiff.train.ngrams import count, stream

LOOP = [*range(10, 30)] * 2
VOCAB = 50


def logits(*rows: dict[int, float]) -> torch.Tensor:
    """Of masks, one row for each: the listed tokens' chances, the rest spread evenly."""
    out = []
    for row in rows:
        chances = torch.full((VOCAB,), (1 - sum(row.values())) / VOCAB)
        for token, chance in row.items():
            chances[token] += chance
        out.append(chances.log())
    return torch.stack(out)


def test_the_text_is_copied_as_far_as_that_is_likely() -> None:
    draft = Drafter([*LOOP, 10, 11, 12, 13, 14], Speculation(INT8, 16)).draft(None, 99)
    assert draft.tokens[:8] == tuple(range(15, 23))
    assert set(draft.sources) == {Source.COPY}


def test_dearer_rows_make_shorter_drafts() -> None:
    prompt = [*LOOP, 10, 11]
    lengths = [
        len(Drafter(prompt, Speculation(RowCosts(row, row, 0.1), 32)).draft(None, 99).tokens)
        for row in (0.01, 0.1, 0.2, 0.3, 0.6)
    ]
    assert lengths == sorted(lengths, reverse=True)
    assert lengths[0] == 32 and lengths[-1] == 0, "where a row costs more than it can bring: none"


def test_in_company_drafts_are_shorter_where_rows_are_shared() -> None:
    prompt, found = [*LOOP, 10], []
    for others in (0, 1, 7):
        drafter = Drafter(prompt, Speculation(INT8, 24, shared=True), company=lambda n=others: n)
        found.append(len(drafter.draft(None, 99).tokens))
    assert found[0] > found[1] >= found[2]
    alone = Drafter(prompt, Speculation(INT8, 24), company=lambda: 7).draft(None, 99)
    assert len(alone.tokens) == found[0]


def test_the_adapter_is_corrected_by_what_is_known_of_the_token_before() -> None:
    """The second mask does not know which token the first one became; the table does."""
    table = count(stream([[4, 5, 6]] * 3 + [[7, 8, 9]] * 3), vocab_size=VOCAB, entries=99)
    masks = logits({4: 0.9}, {5: 0.3, 8: 0.4})
    without = Drafter([1], Speculation(CHEAP, 16)).draft(masks, 9)
    assert without.tokens[:2] == (4, 8)
    draft = Drafter([1], Speculation(CHEAP, 16, (table,))).draft(masks, 9)
    assert draft.tokens[:3] == (4, 5, 6)
    assert draft.sources[:3] == (Source.ADAPTER, Source.ADAPTER, Source.TABLE)


def test_without_room_or_with_what_may_not_be_written_a_draft_ends() -> None:
    prompt = [*LOOP, 10, 11, 12]
    assert len(Drafter(prompt, Speculation(CHEAP, 16)).draft(None, 3).tokens) == 3
    assert not Drafter(prompt, Speculation(CHEAP, 16)).draft(None, 0).tokens
    banned = Drafter(prompt, Speculation(CHEAP, 16), drafted=lambda token: token != 15)
    assert banned.draft(None, 9).tokens == (13, 14)
    assert not Drafter(prompt, Speculation(CHEAP, 0)).draft(None, 9).tokens


CHANCES = st.lists(st.floats(0.01, 0.99), max_size=16)


@given(CHANCES, st.integers(0, 8), st.integers(0, 60), st.sampled_from([CHEAP, INT8]))
def test_masks_fit_the_room(chances: list[float], most: int, left: int, costs: RowCosts) -> None:
    count_ = len(chances)
    draft = DraftTokens((1,) * count_, tuple(chances), (Source.COPY,) * count_)
    lengths, width = Drafter([1], Speculation(costs)).masks(draft, most, left)
    assert list(lengths) == sorted(set(lengths)) and all(0 <= n <= count_ for n in lengths)
    rows = len(lengths) * width
    assert width <= most and rows <= left and 1 + count_ + rows <= MOST_ROWS


@pytest.mark.parametrize(
    ("costs", "confidence", "expected"),
    [
        (CHEAP, (0.5, 0.5), ([0, 1, 2], 3)),  # whatever comes of the draft
        (INT8, (0.95,), ([1], 1)),  # where it most likely ends
        (INT8, (0.5, 0.5), ([], 0)),  # nowhere, as nowhere is likely enough
        (RowCosts(0.9, 0.9, 0.5), (), ([], 0)),
    ],
)
def test_masks_stand_where_they_pay(
    costs: RowCosts, confidence: tuple[float, ...], expected: tuple[list[int], int]
) -> None:
    count_ = len(confidence)
    draft = DraftTokens((1,) * count_, confidence, (Source.COPY,) * count_)
    lengths, width = Drafter([1], Speculation(costs)).masks(draft, 4, 60)
    assert (list(lengths), width if lengths else 0) == expected


def test_what_a_seed_draws_does_not_hang_on_how_fast_the_machine_was() -> None:
    for shared in (False, True):
        timed = [RowCosts(row, row, 0.1) for row in (0.005, 0.1, 0.3)]
        found = {Speculation(costs, shared=shared).steady() for costs in timed}
        assert len(found) == 1
