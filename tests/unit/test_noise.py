"""What the forward processes do to text, by their definitions and by counting."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from blockdiff.errors import InvalidRequest
from blockdiff.train.noise import (
    Noise,
    absorbing,
    hybrid,
    loss_weight,
)

VOCAB = 8
DRAWS = 20_000
LEVEL = st.floats(0.05, 1.0)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def pattern_probability(corrupted: torch.Tensor, t: float) -> float:
    """q(pattern | clean) = t^k (1 - t)^(n - k) for k corrupted of n positions (LLaDA, eq. 7)."""
    n, k = corrupted.numel(), int(corrupted.sum())
    return float(t**k * (1.0 - t) ** (n - k))


def near(count: float, draws: int, probability: float) -> bool:
    """Within five standard deviations of a binomial count."""
    deviation = math.sqrt(draws * probability * (1.0 - probability))
    return abs(count - draws * probability) <= 5.0 * deviation


@pytest.mark.parametrize("noise", [absorbing(VOCAB), hybrid(VOCAB, 0.0), hybrid(VOCAB, 0.4)])
def test_every_pattern_comes_as_often_as_its_probability_says(noise: Noise) -> None:
    tokens = torch.zeros(DRAWS, 4, dtype=torch.long)
    drawn = noise.corrupt(tokens, torch.tensor(0.3), generator())
    code = (drawn.corrupted * torch.tensor([8, 4, 2, 1])).sum(1)
    for number, pattern in enumerate(itertools.product([False, True], repeat=4)):
        count = int((code == number).sum())
        assert near(count, DRAWS, pattern_probability(torch.tensor(pattern), 0.3))


@given(t=LEVEL, share=st.floats(0.0, 1.0), seed=st.integers(0, 99))
@settings(max_examples=40, deadline=None)
def test_only_corrupted_tokens_change_and_masks_hide_theirs(
    t: float, share: float, seed: int
) -> None:
    tokens = torch.randint(0, VOCAB, (6, 9), generator=generator(seed + 1))
    drawn = hybrid(VOCAB, share).corrupt(tokens, torch.tensor(t), generator(seed))
    assert bool((drawn.corrupted | ~drawn.masked).all()), "a mask is a corruption"
    kept = drawn.masked | ~drawn.corrupted
    assert torch.equal(drawn.tokens[kept], tokens[kept])
    assert int(drawn.tokens.min()) >= 0
    assert int(drawn.tokens.max()) < VOCAB


def test_absorbing_noise_masks_all_that_it_corrupts() -> None:
    tokens = torch.randint(0, VOCAB, (DRAWS,), generator=generator(1))
    drawn = absorbing(VOCAB).corrupt(tokens, torch.tensor(0.6), generator())
    assert torch.equal(drawn.masked, drawn.corrupted)
    assert torch.equal(drawn.tokens, tokens)
    assert near(int(drawn.masked.sum()), DRAWS, 0.6)


def test_uniform_noise_draws_every_token_alike() -> None:
    """The clean token too: one replacement in VOCAB changes nothing."""
    tokens = torch.full((DRAWS,), 3)
    drawn = hybrid(VOCAB, 0.0).corrupt(tokens, torch.tensor(1.0), generator())
    assert not bool(drawn.masked.any())
    assert bool(drawn.corrupted.all())
    for count in torch.bincount(drawn.tokens, minlength=VOCAB).tolist():
        assert near(count, DRAWS, 1 / VOCAB)


@pytest.mark.parametrize("share", [0.0, 0.25, 0.5, 1.0])
def test_hybrid_noise_masks_its_share_of_what_it_corrupts(share: float) -> None:
    tokens = torch.full((DRAWS,), VOCAB)  # no replacement is this token
    drawn = hybrid(VOCAB, share).corrupt(tokens, torch.tensor(0.5), generator())
    replaced = drawn.tokens != VOCAB
    assert torch.equal(drawn.corrupted, drawn.masked | replaced)
    assert near(int(drawn.masked.sum()), DRAWS, 0.5 * share)
    assert near(int(replaced.sum()), DRAWS, 0.5 * (1.0 - share))


def test_each_row_has_its_own_level() -> None:
    t = torch.tensor([[0.1], [0.5], [1.0]])
    tokens = torch.zeros(3, DRAWS, dtype=torch.long)
    counts = absorbing(VOCAB).corrupt(tokens, t, generator()).masked.sum(1).tolist()
    assert near(counts[0], DRAWS, 0.1)
    assert near(counts[1], DRAWS, 0.5)
    assert counts[2] == DRAWS


@given(seed=st.integers(0, 1000))
@settings(max_examples=10, deadline=None)
def test_the_same_generator_makes_the_same_noise(seed: int) -> None:
    tokens, noise, t = torch.arange(8).repeat(8), hybrid(VOCAB, 0.5), torch.tensor(0.5)
    first = noise.corrupt(tokens, t, generator(seed))
    again = noise.corrupt(tokens, t, generator(seed))
    other = noise.corrupt(tokens, t, generator(seed + 1))
    assert torch.equal(first.tokens, again.tokens)
    assert torch.equal(first.masked, again.masked)
    assert not torch.equal(first.corrupted, other.corrupted)


@pytest.mark.parametrize("t", [0.2, 0.5, 1.0])
def test_the_weight_makes_up_for_how_seldom_a_position_counts(t: float) -> None:
    """E[1/t * corrupted] = 1, whatever the level: every position weighs the same."""
    level = torch.tensor(t)
    tokens = torch.zeros(DRAWS, dtype=torch.long)
    drawn = absorbing(VOCAB).corrupt(tokens, level, generator())
    mean = float((drawn.corrupted * loss_weight(level)).mean())
    assert mean == pytest.approx(1.0, abs=5.0 * math.sqrt((1.0 / t - 1.0) / DRAWS) + 1e-6)


@pytest.mark.parametrize("share", [-0.1, 1.1, math.nan])
def test_a_share_is_between_nothing_and_all(share: float) -> None:
    with pytest.raises(InvalidRequest, match="mask_share"):
        hybrid(VOCAB, share)
