"""Which masks settle: every rule, at every edge."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from blockdiff.config import DecodingConfig, Rule
from blockdiff.diffusion.canvas import Canvas
from blockdiff.diffusion.revision import MOST_EDITS, Revision
from blockdiff.diffusion.unmask import (
    LEAST_SURE,
    SIZES,
    doubted,
    edits,
    next_size,
    schedule_counts,
    to_unmask,
    unchanged,
)

T, F = True, False
FLAT = [0.5, 0.5, 0.5, 0.5]
BY_THRESHOLD = [kind for kind in Rule if kind not in (Rule.SCHEDULE, Rule.ENTROPY_BOUND)]
PROBABILITY = st.floats(0.0, 1.0, width=32)


def rule(kind: Rule, value: float = 0.0) -> DecodingConfig:
    """A rule and its one parameter: steps, threshold or nats."""
    if kind is Rule.SCHEDULE:
        return DecodingConfig(rule=kind, denoising_steps=int(value))
    if kind is Rule.ENTROPY_BOUND:
        return DecodingConfig(rule=kind, entropy_bound=value)
    return DecodingConfig(rule=kind, threshold=value)


CASES = [
    # rule and parameter, confidence, entropy, masked, step -> settled
    ("schedule: the surer half first", rule(Rule.SCHEDULE, 2), [0.1, 0.9, 0.8, 0.2], FLAT,
     [T, T, T, T], 0, [F, T, T, F]),
    ("schedule: the rest in the last step", rule(Rule.SCHEDULE, 2), [0.1, 0.9, 0.8, 0.2], FLAT,
     [T, F, F, T], 1, [T, F, F, T]),
    ("schedule: one a step by default", rule(Rule.SCHEDULE, 0), [0.1, 0.9, 0.8, 0.2], FLAT,
     [T, T, T, T], 0, [F, T, F, F]),
    ("schedule: all at once", rule(Rule.SCHEDULE, 1), FLAT, FLAT, [T, T, T, T], 0, [T, T, T, T]),
    ("schedule: more steps than masks", rule(Rule.SCHEDULE, 9), [0.1, 0.9, 0.8, 0.2], FLAT,
     [T, T, T, T], 0, [F, T, F, F]),
    ("schedule: a settled token does not count, however sure", rule(Rule.SCHEDULE, 2),
     [0.1, 0.9, 0.8, 0.2], FLAT, [T, F, T, T], 0, [F, F, T, T]),
    ("schedule: beyond the last step all that is left", rule(Rule.SCHEDULE, 2),
     FLAT, FLAT, [T, F, T, F], 7, [T, F, T, F]),
    ("threshold: all above it", rule(Rule.THRESHOLD, 0.7), [0.1, 0.9, 0.8, 0.7], FLAT,
     [T, T, T, T], 0, [F, T, T, F]),
    ("threshold: none above it, the surest", rule(Rule.THRESHOLD, 0.95), [0.1, 0.9, 0.8, 0.7],
     FLAT, [T, T, T, T], 0, [F, T, F, F]),
    ("threshold: of 1 never reached, the surest", rule(Rule.THRESHOLD, 1.0),
     [0.1, 1.0, 1.0, 0.7], FLAT, [T, F, T, T], 0, [F, F, T, F]),
    ("threshold: settled ones above it stay out", rule(Rule.THRESHOLD, 0.7), [0.1, 0.9, 0.8, 0.7],
     FLAT, [T, F, T, T], 3, [F, F, T, F]),
    ("threshold: confidence 0 still settles one", rule(Rule.THRESHOLD, 0.7), [0.0, 0.0, 0.0, 0.0],
     FLAT, [F, F, T, F], 0, [F, F, T, F]),
    ("edit: masks settle as by threshold", rule(Rule.EDIT, 0.7), [0.1, 0.9, 0.8, 0.7], FLAT,
     [T, T, T, T], 0, [F, T, T, F]),
    ("entropy: lowest while the sum stays under", rule(Rule.ENTROPY_BOUND, 0.5), FLAT,
     [0.3, 0.1, 0.2, 0.05], [T, T, T, T], 0, [F, T, T, T]),
    ("entropy: the bound itself is within", rule(Rule.ENTROPY_BOUND, 0.5), FLAT,
     [0.25, 2.0, 0.25, 2.0], [T, T, T, T], 0, [T, F, T, F]),
    ("entropy: all above the bound, the surest", rule(Rule.ENTROPY_BOUND, 0.5),
     [0.1, 0.2, 0.4, 0.3], [2.0, 2.0, 2.0, 2.0], [T, T, T, T], 0, [F, F, T, F]),
    ("entropy: settled ones spend nothing", rule(Rule.ENTROPY_BOUND, 0.5), FLAT,
     [0.0, 0.4, 0.45, 0.0], [F, T, T, F], 0, [F, T, F, F]),
]  # fmt: skip


@pytest.mark.parametrize(
    ("config", "confidence", "entropy", "masked", "step", "expected"),
    [case[1:] for case in CASES],
    ids=[case[0] for case in CASES],
)
def test_table(
    config: DecodingConfig,
    confidence: list[float],
    entropy: list[float],
    masked: list[bool],
    step: int,
    expected: list[bool],
) -> None:
    chosen = to_unmask(
        config, torch.tensor(confidence), torch.tensor(entropy), torch.tensor(masked), step, 4
    )
    assert chosen.tolist() == expected


RULES = st.one_of(
    st.integers(0, 12).map(lambda steps: rule(Rule.SCHEDULE, steps)),
    st.builds(rule, st.sampled_from(BY_THRESHOLD), st.floats(0.01, 1.0)),
    st.floats(0.01, 8.0).map(lambda nats: rule(Rule.ENTROPY_BOUND, nats)),
)


@st.composite
def positions(draw: st.DrawFn) -> tuple[Tensor, Tensor, Tensor]:
    """Confidence, entropy and masks of a block."""
    size = draw(st.integers(1, 9))

    def row(values: st.SearchStrategy[float]) -> Tensor:
        return torch.tensor(draw(st.lists(values, min_size=size, max_size=size)))

    masked = draw(st.lists(st.booleans(), min_size=size, max_size=size))
    return row(PROBABILITY), row(st.floats(0.0, 12.0, width=32)), torch.tensor(masked)


FLOOR = 0.6 * LEAST_SURE


@pytest.mark.parametrize(
    ("drafts", "confidence", "masked", "done"),
    [
        ([[1, 2, 3], [1, 2, 3]], [0.9, 0.5, 0.4], [F, T, T], True),
        ([[9, 9, 9], [1, 2, 3], [1, 2, 3]], [0.9, 0.5, 0.4], [F, T, T], True),
        ([[1, 2, 3], [1, 2, 4]], [0.9, 0.5, 0.4], [F, T, T], False),
        ([[1, 2, 3], [1, 9, 3], [1, 2, 3]], [0.9, 0.5, 0.4], [F, T, T], False),
        ([[1, 2, 3]], [0.9, 0.5, 0.4], [F, T, T], False),
        ([[1, 2, 3], [1, 2, 3]], [0.9, 0.5, FLOOR - 0.01], [F, T, T], False),
        ([[1, 2, 3], [1, 2, 3]], [FLOOR - 0.01, 0.5, 0.4], [F, T, T], True),
    ],
    ids=["same", "same at last", "other", "back again", "one forward", "unsure", "settled unsure"],
)
def test_a_draft_that_does_not_change_is_done(
    drafts: list[list[int]], confidence: list[float], masked: list[bool], done: bool
) -> None:
    """Two forwards have to agree, and to be sure enough of what is not settled."""
    given_ = [torch.tensor(draft) for draft in drafts], torch.tensor(confidence)
    assert unchanged(rule(Rule.STABLE, 0.6), *given_, torch.tensor(masked)) is done
    assert not unchanged(rule(Rule.THRESHOLD, 0.6), *given_, torch.tensor(masked))


@pytest.mark.parametrize(
    ("size", "forwards", "after"),
    [(4, 1, 8), (4, 2, 8), (4, 3, 4), (4, 4, 2), (8, 7, 8), (8, 8, 4), (16, 1, 16), (2, 2, 2),
     (1, 1, 2), (64, 2, 16)],
)  # fmt: skip
def test_blocks_grow_where_they_settle_fast_and_shrink_where_slowly(
    size: int, forwards: int, after: int
) -> None:
    assert next_size(rule(Rule.ADAPTIVE, 0.9), size, forwards) == after
    assert SIZES[0] <= after <= SIZES[1]
    assert next_size(rule(Rule.THRESHOLD, 0.9), size, forwards) == size


@given(config=RULES, block=positions(), step=st.integers(0, 12))
@settings(max_examples=150, deadline=None)
def test_only_masks_settle_and_at_least_one_does(
    config: DecodingConfig, block: tuple[Tensor, Tensor, Tensor], step: int
) -> None:
    confidence, entropy, masked = block
    chosen = to_unmask(config, confidence, entropy, masked, step, len(masked))
    assert not bool((chosen & ~masked).any())
    assert bool(chosen.any()) == bool(masked.any())


@pytest.mark.parametrize("kind", list(Rule))
def test_nothing_masked_nothing_settles(kind: Rule) -> None:
    none = torch.zeros(5, dtype=torch.bool)
    assert not bool(to_unmask(rule(kind, 0.5), torch.ones(5), torch.zeros(5), none, 0, 5).any())


@given(block=positions(), bound=st.floats(0.01, 8.0))
@settings(max_examples=100, deadline=None)
def test_entropy_bound_spends_as_much_as_it_may_and_no_more(
    block: tuple[Tensor, Tensor, Tensor], bound: float
) -> None:
    confidence, entropy, masked = block
    chosen = to_unmask(rule(Rule.ENTROPY_BOUND, bound), confidence, entropy, masked, 0, len(masked))
    left = masked & ~chosen
    if int(chosen.sum()) > 1:
        assert float(entropy[chosen].sum()) <= bound * (1 + 1e-6)
    if bool(left.any()) and float(entropy[masked].min()) <= bound:
        cheapest = float(entropy[left].min())
        assert float(entropy[chosen].max()) <= cheapest
        assert float(entropy[chosen].sum()) + cheapest > bound * (1 - 1e-6)


@pytest.mark.parametrize(
    ("masks", "steps", "counts"),
    [(8, 4, [2, 2, 2, 2]), (8, 3, [3, 3, 2]), (5, 5, [1] * 5), (3, 5, [1, 1, 1, 0, 0]),
     (7, 1, [7]), (0, 3, [0, 0, 0])],
)  # fmt: skip
def test_schedule_table(masks: int, steps: int, counts: list[int]) -> None:
    assert schedule_counts(masks, steps) == counts


def test_n_masks_over_s_steps_are_n() -> None:
    """Invariant 4, as numbers: n // s each, the first n mod s one more."""
    for masks, steps in itertools.product(range(65), range(1, 70)):
        counts = schedule_counts(masks, steps)
        assert (sum(counts), len(counts)) == (masks, steps)
        assert counts == sorted(counts, reverse=True)
        assert max(counts) - min(counts) <= 1


@given(n=st.integers(1, 20), steps=st.integers(0, 24), seed=st.integers(0, 99))
@settings(max_examples=60, deadline=None)
def test_n_masks_over_s_steps_settle_exactly_n(n: int, steps: int, seed: int) -> None:
    """Invariant 4, as it happens: in s steps, or n where there are fewer masks than steps."""
    g = torch.Generator().manual_seed(seed)
    masked, settled = torch.ones(n, dtype=torch.bool), []
    while bool(masked.any()):
        confidence = torch.rand(n, generator=g)
        config = rule(Rule.SCHEDULE, steps)
        chosen = to_unmask(config, confidence, torch.zeros(n), masked, len(settled), n)
        left_out = masked & ~chosen
        if bool(left_out.any()):
            assert float(confidence[chosen].min()) >= float(confidence[left_out].max())
        masked = masked & ~chosen
        settled.append(int(chosen.sum()))
    assert settled == schedule_counts(n, min(steps or n, n))


# --- editing ------------------------------------------------------------------------------------

EDIT = DecodingConfig(rule=Rule.EDIT, edit_threshold=0.6)


@pytest.mark.parametrize(
    ("other", "own", "open_", "expected"),
    [
        ([0.7, 0.7], [0.1, 0.1], [T, F], [T, F]),
        ([0.6, 0.61], [0.1, 0.1], [T, T], [F, T]),
        ([0.2, 0.9], [0.7, 0.05], [T, T], [F, T]),
    ],
    ids=["only open ones", "above the threshold", "where it is the better one"],
)
def test_edits_table(
    other: list[float], own: list[float], open_: list[bool], expected: list[bool]
) -> None:
    values = torch.tensor(other), torch.tensor(own), torch.tensor(open_)
    assert edits(EDIT, *values).tolist() == expected
    for kind in set(Rule) - {Rule.EDIT}:
        assert not bool(edits(rule(kind, 0.5), *values).any())


def test_of_two_that_are_likely_enough_the_better_stays() -> None:
    low = DecodingConfig(rule=Rule.EDIT, edit_threshold=0.1)
    assert edits(low, torch.tensor([0.4]), torch.tensor([0.5]), torch.tensor([T])).tolist() == [F]


def sure_of(*tokens: int, vocab: int = 5) -> Tensor:
    """Logits (block, vocab) that give nearly all probability to one token each."""
    return torch.nn.functional.one_hot(torch.tensor(tokens), vocab).float() * 20.0


def step(
    revision: Revision, logits: Tensor, tokens: Tensor, masked: Tensor, exact: float = 0.0
) -> tuple[Tensor, Tensor, Tensor]:
    """What changes, to what, how sure; the base gives every token the probability `exact`."""
    wishes = revision.wishes(logits, tokens, masked)
    chosen = revision.granted(wishes, torch.full((len(tokens),), exact))
    return chosen, torch.where(chosen, wishes.tokens, tokens), wishes.confidence


def test_the_base_has_a_veto() -> None:
    block = Canvas((4, 1, 1), (F, F, F), (1.0,) * 3, editable=(F, T, T))
    tokens, masked = torch.tensor([4, 1, 1]), torch.zeros(3, dtype=torch.bool)
    for exact, expected in ((0.39, 1), (0.41, 0)):
        revision = Revision(EDIT, block)
        chosen, _, _ = step(revision, sure_of(0, 2, 1), tokens, masked, exact)
        assert int(chosen.sum()) == revision.edits == expected
    assert doubted(EDIT, torch.tensor([0.1, 0.5])).tolist() == [True, False]


def test_a_token_does_not_come_back() -> None:
    """A model that goes A, B, A, B: the first change is made, the way back is counted."""
    block = Canvas((4, 1, 1), (F, F, F), (1.0,) * 3, editable=(F, T, T))
    revision = Revision(EDIT, block)
    tokens, masked = torch.tensor([4, 1, 1]), torch.zeros(3, dtype=torch.bool)
    chosen, ids, sure = step(revision, sure_of(0, 2, 1), tokens, masked)
    assert (chosen.tolist(), ids.tolist()) == ([F, T, F], [4, 2, 1])
    assert float(sure[1]) > 0.99 and (revision.edits, revision.returns) == (1, 0)
    for _ in range(3):
        chosen, again, _ = step(revision, sure_of(0, 1, 1), ids, masked)
        assert not bool(chosen.any()) and again.tolist() == ids.tolist()
    assert (revision.edits, revision.returns) == (1, 1)


@given(seed=st.integers(0, 500), size=st.integers(2, 6))
@settings(max_examples=60, deadline=None)
def test_revision_ends_whatever_the_model_says(seed: int, size: int) -> None:
    """Every position changes a limited number of times and never to what it has held."""
    g = torch.Generator().manual_seed(seed)
    block = Canvas((0,) * size, (T,) * size, (0.0,) * size)
    revision = Revision(EDIT, block)
    tokens, masked = torch.zeros(size, dtype=torch.long), torch.zeros(size, dtype=torch.bool)
    held = [[0] for _ in range(size)]
    for _ in range(40):
        wanted = torch.randint(0, 7, (size,), generator=g).tolist()
        chosen, tokens, _ = step(revision, sure_of(*wanted, vocab=7), tokens, masked)
        for index in chosen.nonzero().flatten().tolist():
            held[index].append(int(tokens[index]))
    assert held[0] == [0], "what is predicted without sight of the block is not revised"
    assert all(len(set(row)) == len(row) <= 1 + MOST_EDITS for row in held)
    assert revision.edits <= size // 2
    assert revision.edits == sum(len(row) - 1 for row in held)


def test_the_surest_changes_first_and_at_most_half_of_a_block() -> None:
    block = Canvas((1,) * 5, (F,) * 5, (1.0,) * 5, editable=(T,) * 5)
    revision = Revision(EDIT, block)
    logits = sure_of(2, 2, 2, 2, 2) * torch.tensor([1.0, 0.6, 0.5, 0.9, 0.7])[:, None]
    tokens, masked, order = torch.tensor([1] * 5), torch.tensor([F] * 5), []
    for _ in range(5):
        chosen, tokens, _ = step(revision, logits, tokens, masked)
        order.append(chosen.nonzero().flatten().tolist())
    assert order == [[3], [4], [], [], []] and revision.edits == 2


def test_masks_and_kept_tokens_are_not_edited() -> None:
    block = Canvas((1, 1, 1), (F, T, F), (1.0, 0.0, 1.0))
    revision = Revision(EDIT, block)
    now = torch.tensor([1, 1, 1])
    chosen, _, _ = step(revision, sure_of(2, 2, 2), now, torch.tensor([F, T, F]))
    assert not bool(chosen.any())
    chosen, ids, _ = step(revision, sure_of(2, 2, 2), now, torch.tensor([F, F, F]))
    assert (chosen.tolist(), ids.tolist()) == ([F, T, F], [1, 2, 1])
