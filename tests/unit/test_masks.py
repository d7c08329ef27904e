"""Who may see whom: every mask against the rule of its kind, spelled out entry by entry."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from blockdiff.model import masks

PAST, NEW, BLOCK = st.integers(0, 9), st.integers(1, 9), st.integers(1, 5)
FEW = settings(max_examples=40, deadline=None)


def oracle(queries: int, keys: int, sees: Callable[[int, int], bool]) -> Tensor:
    """The mask by a plain loop; `sees(query, key)` with indices into the two lists."""
    return torch.tensor([[sees(q, k) for k in range(keys)] for q in range(queries)])


@given(past=PAST, new=NEW)
@FEW
def test_causal_sees_everything_up_to_itself(past: int, new: int) -> None:
    expected = oracle(new, past + new, lambda q, k: k <= past + q)
    assert torch.equal(masks.causal(past, new), expected)


@given(past=PAST, new=NEW)
@FEW
def test_full_sees_everything(past: int, new: int) -> None:
    assert torch.equal(masks.full(past, new), oracle(new, past + new, lambda q, k: True))


@given(past=PAST, new=NEW, size=BLOCK)
@FEW
def test_block_sees_its_own_block_and_all_before_it(past: int, new: int, size: int) -> None:
    """Also where the committed positions end inside a block: blocks count from position 0."""
    expected = oracle(new, past + new, lambda q, k: k // size <= (past + q) // size)
    assert torch.equal(masks.block(past, new, size), expected)


def test_block_of_one_is_causal_and_one_block_is_full() -> None:
    assert torch.equal(masks.block(3, 5, 1), masks.causal(3, 5))
    assert torch.equal(masks.block(3, 5, 8), masks.full(3, 5))


@given(past=PAST, exact=NEW, noisy=st.integers(0, 6))
@FEW
def test_opening_is_causal_and_then_one_block_that_sees_everything(
    past: int, exact: int, noisy: int
) -> None:
    def sees(query: int, key: int) -> bool:
        return query >= exact or key <= past + query

    expected = oracle(exact + noisy, past + exact + noisy, sees)
    assert torch.equal(masks.opening(past, exact, noisy), expected)


@given(past=PAST, exact=st.integers(1, 6), width=st.integers(1, 4), data=st.data())
@FEW
def test_verifying_shows_each_group_what_it_drafts_behind(
    past: int, exact: int, width: int, data: st.DataObject
) -> None:
    """Group g drafts for the case that g of the exact - 1 drafted tokens are accepted."""
    groups = data.draw(st.integers(0, exact))
    kinds = [("past", p) for p in range(past)] + [("exact", e) for e in range(exact)]
    kinds += [("group", g) for g in range(groups) for _ in range(width)]

    def sees(query: int, key: int) -> bool:
        (mine, i), (other, j) = kinds[past + query], kinds[key]
        if other == "past":
            return True
        if mine == "exact":
            return other == "exact" and j <= i
        return j <= i if other == "exact" else j == i

    expected = oracle(exact + groups * width, past + exact + groups * width, sees)
    assert torch.equal(masks.verifying(past, exact, range(groups), width), expected)


TREES = st.lists(st.floats(0, 0.999), max_size=7).map(
    lambda draws: [int(x * (i + 1)) - 1 for i, x in enumerate(draws)]
)
"""Of each token the one that it stands behind, any before it, or -1."""


@given(past=PAST, known=st.integers(1, 4), behind=TREES, width=st.integers(1, 3), data=st.data())
@FEW
def test_in_a_tree_each_token_sees_those_that_it_stands_behind(
    past: int, known: int, behind: list[int], width: int, data: st.DataObject
) -> None:
    ends = data.draw(st.lists(st.integers(0, len(behind)), unique=True).map(sorted))

    def way(end: int) -> set[int]:
        """What it sees of the forward: known tokens and those on the way to it, itself included."""
        seen = set(range(known))
        while end:
            seen.add(known + end - 1)
            end = behind[end - 1] + 1
        return seen

    exact = known + len(behind)
    rows = [set(range(row + 1)) for row in range(known)]
    rows += [way(i + 1) for i in range(len(behind))]
    for group, end in enumerate(ends):
        own = range(exact + group * width, exact + (group + 1) * width)
        rows += [way(end) | set(own)] * width
    expected = oracle(len(rows), past + len(rows), lambda q, k: k < past or k - past in rows[q])
    lengths = [known - 1 + end for end in ends]
    assert torch.equal(masks.verifying(past, exact, lengths, width, behind), expected)


@given(clean=st.integers(1, 14), size=BLOCK, data=st.data())
@FEW
def test_noisy_blocks_see_the_clean_tokens_before_them_and_themselves(
    clean: int, size: int, data: st.DataObject
) -> None:
    """Blocks may overlap and need not be in order: none ever sees another."""
    starts = data.draw(st.lists(st.integers(0, clean), min_size=1, max_size=4))

    def sees(query: int, key: int) -> bool:
        mine = query // size
        return key < starts[mine] if key < clean else (key - clean) // size == mine

    noisy = len(starts) * size
    expected = oracle(noisy, clean + noisy, sees)
    assert torch.equal(masks.noisy_blocks(clean, starts, size), expected)


@given(length=st.integers(1, 14), size=st.integers(1, 16))
@FEW
def test_training_is_the_mask_of_bd3lm(length: int, size: int) -> None:
    """Noisy half first; also where the last block is cut short."""

    def sees(query: int, key: int) -> bool:
        mine, other = (query % length) // size, (key % length) // size
        if query >= length:  # clean
            return key >= length and other <= mine
        return other == mine if key < length else other < mine

    assert torch.equal(masks.training(length, size), oracle(2 * length, 2 * length, sees))


@pytest.mark.parametrize("size", [1, 2, 3, 4, 8, 16])
@pytest.mark.parametrize("blocks", [1, 2, 3, 7])
def test_training_mask_has_n_squared_plus_n_times_b_true_entries(blocks: int, size: int) -> None:
    n = blocks * size
    allowed = masks.training(n, size)
    assert allowed.numel() == 4 * n * n
    assert int(allowed.sum()) == n * n + n * size


def test_every_query_sees_at_least_itself() -> None:
    """A row without any true entry would make attention divide by zero."""
    for allowed in (
        masks.causal(0, 1),
        masks.block(0, 7, 3),
        masks.opening(0, 1, 3),
        masks.verifying(0, 3, range(3), 2),
        masks.noisy_blocks(4, [0], 3),
        masks.training(6, 4),
    ):
        assert bool(allowed.any(dim=1).all())


@given(past=PAST, new=NEW, window=st.integers(1, 6), start=st.integers(0, 3))
@FEW
def test_a_window_hides_what_is_far_behind(past: int, new: int, window: int, start: int) -> None:
    """Distances are of positions, which padding shifts against the places in the cache."""
    positions = torch.arange(past, past + new)[None] - start
    found = masks.windowed(masks.full(past, new), positions, window)
    expected = oracle(new, past + new, lambda q, k: past + q - k < window)
    assert torch.equal(found[0, 0], expected)
