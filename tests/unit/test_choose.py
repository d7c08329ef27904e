"""From logits to tokens: bans, temperature, nucleus, and accepting a draft without bias."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from blockdiff.diffusion.choose import Chooser, most_likely

VOCAB = 7
LOGITS = torch.tensor([1.0, -0.5, 2.0, 0.3, 0.0, -2.0, 1.2])
DRAWS = 4000
TEMPERATURES = [0.0, 0.3, 1.0, 3.0]
random_logits = st.integers(0, 10_000).map(
    lambda seed: 3.0 * torch.randn(4, VOCAB, generator=torch.Generator().manual_seed(seed))
)


def chi_square(counts: Tensor, probabilities: Tensor) -> float:
    """In units of its own standard deviation above its mean; impossible outcomes never happen."""
    possible = probabilities > 0
    assert int(counts[~possible].sum()) == 0
    expected = probabilities[possible] * counts.sum()
    statistic = float(((counts[possible] - expected) ** 2 / expected).sum())
    freedom = max(int(possible.sum()) - 1, 1)
    return (statistic - freedom) / math.sqrt(2.0 * freedom)


class Elsewhere(Tensor):
    """Says that it is not on a CPU, and is."""

    is_cpu = False


def verified(
    chooser: Chooser, logits: Tensor, guess: int | None, allowed: list[int] | None = None
) -> tuple[int, float, bool]:
    """Of one row (vocab,), with a token drafted for it or none."""
    (one,) = chooser.verify(logits[None], [] if guess is None else [guess], [allowed])
    return one.token, one.probability, one.drafted


def draws(chooser: Chooser, logits: Tensor, guess: int | None, allowed: list[int] | None) -> Tensor:
    tokens = [verified(chooser, logits, guess, allowed)[0] for _ in range(DRAWS)]
    return torch.bincount(torch.tensor(tokens), minlength=VOCAB).double()


def nucleus(probabilities: Tensor, top_p: float) -> Tensor:
    """By a plain loop: the most likely tokens until their mass reaches top_p."""
    kept, mass = torch.zeros_like(probabilities), 0.0
    for token in probabilities.argsort(descending=True).tolist():
        if top_p < 1.0 and mass >= top_p:
            break
        kept[token] = probabilities[token]
        mass += float(probabilities[token])
    return kept / kept.sum()


@pytest.mark.parametrize("guess", [None, 2, 1, 5])
def test_temperature_zero_takes_the_most_likely_token(guess: int | None) -> None:
    chooser = Chooser(banned=(), temperature=0.0)
    untouched = LOGITS.clone()
    for _ in range(3):
        token, probability, agreed = verified(chooser, LOGITS, guess)
        assert (token, agreed) == (2, guess == 2)
        assert probability == pytest.approx(float(untouched.softmax(-1)[2]))
    assert torch.equal(LOGITS, untouched)


@given(
    st.integers(0, 10_000),
    st.lists(st.integers(0, VOCAB - 1), max_size=3),
    st.sets(st.integers(0, VOCAB - 1), min_size=1),
    st.sampled_from([0.2, 0.7, 1.0]),
    st.sampled_from(["cpu", "all at once"]),
    st.sets(st.integers(0, VOCAB - 1), max_size=2),
)
@settings(max_examples=80, deadline=None)
def test_rows_together_are_rows_one_by_one(
    seed: int, draft: list[int], allowed: set[int], trust: float, where: str, ends: set[int]
) -> None:
    """By the definition: row after row, as long as the drafted token is the one that is taken.

    Departures from the likeliest token count where more of the draft is taken behind them, and
    never lead past an end.
    """
    logits = torch.randn(4, VOCAB, generator=torch.Generator().manual_seed(seed))
    limits = [sorted(allowed), *[None] * len(draft)]
    expected, likeliest = [], []
    for row, guess, limit in zip(logits, [*draft, None], limits, strict=False):
        kept = torch.full_like(row, -math.inf)
        ids = list(range(VOCAB)) if limit is None else limit
        kept[ids] = row[ids]
        p = kept.softmax(-1)
        token = int(kept.argmax())
        likeliest.append((token, float(p[token]), token == guess))
        least = trust * float(p.max()) if trust < 1.0 and token not in ends else math.inf
        if guess is not None and float(p[guess]) >= least:
            token = guess
        expected.append((token, float(p[token]), token == guess))
        if token != guess:
            break
    for index in reversed(range(len(expected))):
        if expected[index] != likeliest[index] and not any(one[2] for one in expected[index + 1 :]):
            expected = [*expected[:index], likeliest[index]]
    rows = logits if where == "cpu" else logits.as_subclass(Elsewhere)
    found = Chooser(()).verify(rows, draft, limits, trust, ends)
    assert [(one.token, one.probability, one.drafted) for one in found] == expected
    assert torch.equal(logits, torch.randn(4, VOCAB, generator=torch.Generator().manual_seed(seed)))


@given(
    st.integers(0, 10_000),
    st.lists(st.tuples(st.integers(0, VOCAB - 1), st.floats(0, 0.999)), max_size=12),
    st.sampled_from([0.2, 0.7, 1.0]),
    st.sampled_from(["cpu", "all at once"]),
)
@settings(max_examples=80, deadline=None)
def test_of_several_ways_the_likeliest_tokens_are_followed(
    seed: int, drawn: list[tuple[int, float]], trust: float, where: str
) -> None:
    """By the definition: from each row to the drafted token that is its likeliest one, if any; else
    to the first that is likely enough, where the draft goes on behind that."""
    logits = torch.randn(1 + len(drawn), VOCAB, generator=torch.Generator().manual_seed(seed))
    draft = [token for token, _ in drawn]
    behind = [int(x * (i + 1)) - 1 for i, (_, x) in enumerate(drawn)]
    at, expected, likeliest = -1, [], []
    while at is not None:
        p = logits[at + 1].softmax(-1)
        token = int(p.argmax())
        after = {draft[i]: i for i in reversed(range(len(draft))) if behind[i] == at}
        first = next((draft[i] for i in range(len(draft)) if behind[i] == at), token)
        likeliest.append((token, float(p[token]), after.get(token)))
        if trust < 1.0 and token not in after and float(p[first]) >= trust * float(p[token]):
            token = first
        at = after.get(token)
        expected.append((token, float(p[token]), at))
    for index in reversed(range(len(expected))):
        behind_it = [one[2] for one in expected[index + 1 :]]
        if expected[index] != likeliest[index] and not any(one is not None for one in behind_it):
            expected = [*expected[:index], (*likeliest[index][:2], None)]
    rows = logits if where == "cpu" else logits.as_subclass(Elsewhere)
    found = Chooser(()).verify(rows, draft, [None] * len(logits), trust, behind=behind)
    assert [(one.token, one.probability, one.draft) for one in found] == expected


@pytest.mark.parametrize("count", [1, 2, 3])
def test_the_most_likely_ones_come_in_order_and_leave_the_rows_alone(count: int) -> None:
    rows = torch.randn(4, VOCAB, generator=torch.Generator().manual_seed(3))
    before = rows.clone()
    assert torch.equal(most_likely(rows, count), rows.topk(count, dim=-1).indices)
    assert torch.equal(rows, before)


@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_confidence_is_the_models_own_probability_whatever_the_temperature(
    temperature: float,
) -> None:
    chooser = Chooser(banned=(), temperature=temperature)
    own = LOGITS.softmax(-1)
    for _ in range(20):
        token, probability, _ = verified(chooser, LOGITS, None)
        assert probability == pytest.approx(float(own[token]))
        proposal = chooser.sample(LOGITS.repeat(3, 1))
        assert proposal.confidence.tolist() == pytest.approx(own[proposal.tokens].tolist())


@pytest.mark.parametrize("guess", [None, 2, 4, 5])
@pytest.mark.parametrize(
    ("temperature", "top_p", "allowed"),
    [(1.0, 1.0, None), (0.5, 1.0, None), (2.0, 0.8, None), (1.0, 1.0, [1, 4, 5])],
)
def test_a_draft_does_not_change_what_is_drawn(
    guess: int | None, temperature: float, top_p: float, allowed: list[int] | None
) -> None:
    """Whatever was guessed, likely, unlikely or impossible, the text is the base's own."""
    logits = LOGITS
    if allowed is not None:
        logits = torch.full_like(LOGITS, -math.inf)
        logits[allowed] = LOGITS[allowed]
    expected = nucleus((logits / temperature).softmax(-1), top_p).double()
    chooser = Chooser((), temperature, top_p, seed=17)
    assert chi_square(draws(chooser, LOGITS, guess, allowed), expected) < 4.0


def test_a_draft_is_accepted_as_often_as_the_base_would_write_it() -> None:
    chooser = Chooser((), temperature=1.0, seed=3)
    agreed = sum(verified(chooser, LOGITS, 2)[2] for _ in range(DRAWS))
    p = float(LOGITS.softmax(-1)[2])
    assert abs(agreed - DRAWS * p) <= 4.0 * math.sqrt(DRAWS * p * (1 - p))


@pytest.mark.parametrize("temperature", TEMPERATURES)
@given(logits=random_logits, banned=st.sets(st.integers(0, VOCAB - 1), max_size=VOCAB - 1))
@settings(max_examples=20, deadline=None)
def test_a_banned_token_is_never_chosen(
    temperature: float, logits: Tensor, banned: set[int]
) -> None:
    """Also by a guess that drafts it, and no probability is left on it."""
    chooser = Chooser(banned, temperature, top_p=0.95)
    clean = chooser.without_banned(logits.clone())
    assert set(chooser.sample(clean).tokens.tolist()).isdisjoint(banned)
    for guess in (None, *banned):
        assert verified(chooser, clean[0], guess)[0] not in banned
    ids = sorted(banned)
    assert float(clean.softmax(-1)[:, ids].sum()) == 0.0
    kept = [i for i in range(VOCAB) if i not in banned]
    assert torch.equal(clean[:, kept], logits[:, kept])


@pytest.mark.parametrize("temperature", TEMPERATURES)
@given(
    logits=random_logits,
    allowed=st.sets(st.integers(0, VOCAB - 1), min_size=1),
    guess=st.none() | st.integers(0, VOCAB - 1),
)
@settings(max_examples=20, deadline=None)
def test_only_allowed_tokens_are_chosen(
    temperature: float, logits: Tensor, allowed: set[int], guess: int | None
) -> None:
    chooser = Chooser((), temperature)
    ids = sorted(allowed)
    token, probability, _ = verified(chooser, logits[0], guess, ids)
    assert token in allowed
    among = logits[0, ids].softmax(-1)[ids.index(token)]
    assert probability == pytest.approx(float(among), rel=1e-4)
    if temperature == 0.0:
        assert token == max(ids, key=lambda i: float(logits[0, i]))


@given(logits=random_logits, top_p=st.floats(0.01, 1.0))
@settings(max_examples=30, deadline=None)
def test_the_nucleus_is_the_smallest_set_with_its_mass(logits: Tensor, top_p: float) -> None:
    inside = nucleus(logits[0].softmax(-1), top_p) > 0
    chooser = Chooser((), temperature=1.0, top_p=top_p)
    guesses = 4 * list(range(VOCAB))
    seen = {verified(chooser, logits[0], guess)[0] for guess in guesses}
    assert all(bool(inside[token]) for token in seen)


def test_a_tiny_nucleus_is_greedy() -> None:
    chooser = Chooser((), temperature=5.0, top_p=1e-6)
    assert {verified(chooser, LOGITS, guess)[0] for guess in range(VOCAB)} == {2}
    assert set(chooser.sample(LOGITS.repeat(50, 1)).tokens.tolist()) == {2}


def test_the_cooler_the_surer() -> None:
    shares = []
    for temperature in (0.2, 1.0, 5.0):
        tokens = Chooser((), temperature, seed=1).sample(LOGITS.repeat(2000, 1)).tokens
        shares.append(float((tokens == 2).float().mean()))
    assert shares == sorted(shares, reverse=True)
    assert shares[0] > shares[2] + 0.3


def test_a_block_is_drawn_from_the_distribution_of_each_row() -> None:
    other = LOGITS.flip(0)
    rows = torch.stack([LOGITS, other]).repeat(DRAWS, 1)
    tokens = Chooser((), temperature=1.0, seed=5).sample(rows).tokens.view(DRAWS, 2)
    for column, logits in enumerate((LOGITS, other)):
        counts = torch.bincount(tokens[:, column], minlength=VOCAB).double()
        assert chi_square(counts, logits.softmax(-1).double()) < 4.0


def test_entropy_is_that_of_the_models_own_distribution() -> None:
    certain = torch.full((VOCAB,), -50.0)
    certain[3] = 50.0
    rows = torch.stack([torch.zeros(VOCAB), certain, LOGITS])
    p = LOGITS.double().softmax(-1)
    expected = [math.log(VOCAB), 0.0, -float((p * p.log()).sum())]
    for temperature in TEMPERATURES:
        entropy = Chooser((), temperature).sample(rows).entropy
        assert entropy.tolist() == pytest.approx(expected, abs=1e-5)


def test_banned_tokens_add_nothing_to_the_entropy() -> None:
    chooser = Chooser(banned=[0, 6])
    entropy = chooser.sample(chooser.without_banned(torch.zeros(1, VOCAB))).entropy
    assert entropy.tolist() == pytest.approx([math.log(VOCAB - 2)])


@pytest.mark.parametrize("method", ["verify", "sample"])
def test_the_seed_decides(method: str) -> None:
    def text(seed: int) -> list[int]:
        chooser = Chooser((), temperature=2.0, seed=seed)
        if method == "sample":
            return chooser.sample(LOGITS.repeat(30, 1)).tokens.tolist()
        return [verified(chooser, LOGITS, 2)[0] for _ in range(30)]

    assert text(1) == text(1)
    assert len({tuple(text(seed)) for seed in range(4)}) == 4
