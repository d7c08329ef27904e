"""Which tokens are drafted: as many as pay, from whatever source knows them."""

from __future__ import annotations

import random

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from blockdiff.diffusion.draft_tokens import DraftTokens, Source
from blockdiff.diffusion.drafter import Drafter, Plan, Speculation
from blockdiff.diffusion.row_costs import CHEAP, FREE, INT8, MOST_ROWS, RowCosts, RowTimes
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


def kept(drafter: Drafter) -> int:
    """Drafted tokens that a forward verifies."""
    return drafter.plan(drafter.draft(None, 99), 0, 60).kept


def test_the_text_is_copied_as_far_as_that_is_likely() -> None:
    draft = Drafter([*LOOP, 10, 11, 12, 13, 14], Speculation(INT8, 16)).draft(None, 99)
    assert draft.tokens[:8] == tuple(range(15, 23))
    assert set(draft.sources) == {Source.COPY}


def test_dearer_rows_make_shorter_drafts() -> None:
    prompt = [*LOOP, 10, 11]
    lengths = [
        kept(Drafter(prompt, Speculation(RowCosts.linear(row, 0.1), 32)))
        for row in (0.01, 0.1, 0.2, 0.3, 0.6)
    ]
    assert lengths == sorted(lengths, reverse=True)
    assert lengths[0] == 32 and lengths[-1] == 0, "where a row costs more than it can bring: none"


def test_rows_behind_others_cost_what_they_add() -> None:
    costs = RowCosts.measured({1: 50.0, 8: 52.0, 16: 400.0}, 3.0)
    for known in (0, 4, 20):
        first, *others = costs.curve[known + 1 :]
        curve = costs.behind(known).curve[1:]
        assert curve[: len(others) + 1] == pytest.approx([0.0, *(one - first for one in others)])
    far = costs.behind(200).curve
    assert far[10] == pytest.approx(9 * far[2]) and far[2] == pytest.approx(costs.curve[48] / 47)


def test_what_was_known_before_counts_only_where_the_text_does_not_depend_on_it() -> None:
    for speculation in (Speculation(INT8, 32), Speculation(INT8, 32, shared=True).steady()):
        drafter = Drafter([1], speculation)
        draft = DraftTokens((2,) * 6, (0.5,) * 6, (Source.COPY,) * 6)
        found = [drafter.plan(draft, 0, 0, known) for known in (0, 6, 100)]
        assert (len(set(found)) == 1) is speculation.fixed


def test_in_company_drafts_are_shorter_where_rows_are_shared() -> None:
    prompt, found = [*LOOP, 10], []
    for others in (0, 1, 7):
        drafter = Drafter(prompt, Speculation(INT8, 24, shared=True), company=lambda n=others: n)
        found.append(kept(drafter))
    assert found[0] > found[1] >= found[2]
    assert kept(Drafter(prompt, Speculation(INT8, 24), company=lambda: 7)) == found[0]


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


def ways(draft: DraftTokens) -> dict[tuple[int, ...], float]:
    """Each way through a draft, and the chance that all of it comes true."""
    found: list[tuple[int, ...]] = [()]
    for token, parent in zip(draft.tokens, draft.behind, strict=True):
        found.append((*found[parent + 1], token))
    assert len(set(found)) == len(found), "no token is drafted twice"
    return dict(zip(found, draft.reached, strict=True))


def test_a_second_way_is_drafted_where_the_text_knows_two() -> None:
    prompt = [1, 2, 3, 4, 5, 1, 2, 7, 8, 9, 6, 2, 7, 8, 9, 1, 2]
    masks = logits({7: 0.6, 3: 0.3}, {8: 0.5, 4: 0.4})
    for seen in (None, masks):
        alone, both = (Drafter(prompt, Speculation(FREE, 6), ways=n).draft(seen, 6) for n in (1, 2))
        found = ways(both)
        assert alone.parents == () and alone.tokens[0] == 7
        assert ways(alone).items() <= found.items()
        assert (3,) in found and (7,) in found
        order = both.reached[1:]
        assert order == sorted(order, reverse=True)
        assert all(len(way) <= 6 for way in found)


@given(st.lists(st.tuples(st.floats(0, 0.999), st.floats(0.1, 0.9)), max_size=12), st.data())
def test_the_likeliest_way_is_laid_out_in_front(
    drawn: list[tuple[float, float]], data: st.DataObject
) -> None:
    """So that its keys and values stand where the text's would."""
    parents = tuple(int(x * (i + 1)) - 1 for i, (x, _) in enumerate(drawn))
    tokens, chances = tuple(range(len(drawn))), tuple(chance for _, chance in drawn)
    draft = DraftTokens(tokens, chances, (Source.COPY,) * len(drawn), parents)
    count_ = data.draw(st.integers(0, len(drawn)))
    laid, places = draft.laid_out(count_)
    before = list(ways(draft).items())[: count_ + 1]
    assert ways(laid) == pytest.approx(dict(before))
    after = list(ways(laid))
    assert [after[place] for place in places] == [way for way, _ in before]
    end, front = -1, []
    while end in parents[:count_]:
        end = parents.index(end)
        front.append(end)
    assert laid.chain.tokens == tuple(front)


CHANCES = st.lists(st.floats(0.01, 0.99), max_size=16)


STEPS = RowCosts.measured({1: 50.0, 8: 52.0, 9: 80.0, 16: 110.0}, adapter=5.0)
"""Eight rows at the price of one, and a step behind them."""
DEAR = RowCosts.linear(0.14, 0.08)


@given(CHANCES, st.integers(0, 8), st.integers(0, 60), st.sampled_from([CHEAP, INT8, STEPS]))
def test_a_plan_fits_the_room(chances: list[float], most: int, left: int, costs: RowCosts) -> None:
    count_ = len(chances)
    draft = DraftTokens((1,) * count_, tuple(chances), (Source.COPY,) * count_)
    plan = Drafter([1], Speculation(costs)).plan(draft, most, left)
    assert list(plan.ends) == sorted(set(plan.ends))
    assert all(0 <= n <= plan.kept <= count_ for n in plan.ends)
    rows = len(plan.ends) * plan.width
    assert plan.width <= most and rows <= left and 1 + plan.kept + rows <= MOST_ROWS


@pytest.mark.parametrize(
    ("costs", "confidence", "expected"),
    [
        (CHEAP, (0.5, 0.5), Plan(2, (0, 1, 2), 2)),  # whatever comes of the draft
        (DEAR, (0.95,), Plan(1, (1,), 1)),  # where it most likely ends
        (DEAR, (0.4, 0.4), Plan(1)),  # nowhere, as nowhere is likely enough
        (RowCosts.linear(0.9, 0.5), (), Plan(0)),
        (STEPS, (0.6, 0.6), Plan(2, (0, 1, 2), 1)),  # up to the step
        (STEPS, (0.9,) * 3 + (0.1,) * 5, Plan(3, (0, 3), 2)),
        (STEPS, (0.9,) * 8, Plan(7)),
        (STEPS, (0.95,) * 16, Plan(16)),  # over it where there is enough to gain
    ],
)
def test_a_forward_carries_what_pays(
    costs: RowCosts, confidence: tuple[float, ...], expected: Plan
) -> None:
    count_ = len(confidence)
    draft = DraftTokens((1,) * count_, confidence, (Source.COPY,) * count_)
    assert Drafter([1], Speculation(costs)).plan(draft, 4, 60) == expected


def test_costs_are_held_to_what_a_machine_can_be() -> None:
    """Where something else ran while they were timed."""
    for seconds in ({1: 9.0, 9: 1.0}, {1: 1.0, 8: 99.0, 9: 98.0}):
        costs = RowCosts.measured(seconds, adapter=-0.5)
        assert list(costs.curve) == sorted(costs.curve) and costs.adapter == 0.0
        assert 0.2 < costs.curve[MOST_ROWS] <= 0.3 * (MOST_ROWS - 1)
    seemed = RowCosts.measured({1: 58.0, 8: 91.0, 12: 104.0, 16: 104.0}, adapter=5.0)
    assert seemed.curve[MOST_ROWS] > 2.0  # however little the last rows seemed to take


IDLE = {1: 58.0, 4: 66.0, 8: 91.0, 12: 135.0, 16: 165.0}
BUSY = {1: 116.0, 4: 120.0, 8: 135.0, 12: 170.0, 16: 210.0}


@pytest.mark.parametrize(
    ("before", "now"), [(IDLE, BUSY), (BUSY, IDLE), ({1: 58.0, 16: 60.0}, IDLE)]
)
def test_costs_follow_the_machine(before: dict[int, float], now: dict[int, float]) -> None:
    """Also at sizes that are not asked for, as far as the whole machine is slower or faster."""
    times, draw = RowTimes({n: before.get(n, 59.0) for n in IDLE}, 5.0), random.Random(0)
    for _ in range(400):
        rows = draw.choice(list(now))
        times.add(rows, False, now[rows] * draw.uniform(0.9, 1.1))
    true, learnt = RowCosts.measured(now, 5.0), times.costs()
    assert learnt.curve[:17] == pytest.approx(true.curve[:17], abs=0.12)


def test_other_work_for_a_moment_changes_little() -> None:
    times = RowTimes(IDLE, 5.0)
    before = times.costs()
    times.add(8, True, 9_000.0)
    times.add(500, False, 9_000.0)  # a score, not a draft
    assert times.costs().curve == pytest.approx(before.curve, rel=0.15)


def test_what_a_seed_draws_does_not_hang_on_how_fast_the_machine_was() -> None:
    for shared in (False, True):
        timed = [RowCosts.linear(row, 0.1) for row in (0.005, 0.1, 0.3)]
        found = {Speculation(costs, shared=shared).steady() for costs in timed}
        assert len(found) == 1
