"""Every family against brute force: few tokens, all noisy texts and all paths enumerated.

With a network that knows all that can be known, the bound of a family in continuous time is the
likelihood itself and its sampler draws from the data; with any network the loss is the variational
bound that its own reverse process has.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from blockdiff.lab import continuous
from blockdiff.lab.absorbing import Masked, exact_masks
from blockdiff.lab.autoregressive import Autoregressive, BlockDiffusion, behind
from blockdiff.lab.continuous import AnalogBits, Cdcd, DiffusionLm, Plaid, alpha_sigma, posterior
from blockdiff.lab.d3pm import D3pm, D3pmAbsorbing, D3pmMixing
from blockdiff.lab.families import Network, shape
from blockdiff.lab.family import LabFamily, SamplerSettings, nll
from blockdiff.lab.scores import SeddAbsorbing, SeddUniform, Uniform, score_entropy
from blockdiff.model import masks
from blockdiff.model.cache import BlockCache
from tests.unit import lab_world as world
from tests.unit.lab_world import EVEN, LENGTH, VOCAB, Exact, Table, index, joint, quadrature, texts

G = torch.Generator


def chances(clean: Tensor, channel: world.Channel, t: Tensor) -> tuple[Tensor, Tensor]:
    """All noisy texts (n, length), and q(noisy | clean) at levels t, (levels, n)."""
    q = channel(t)
    noisy = texts(q.shape[-1])
    return noisy, q[:, clean[None], noisy].prod(-1)


# Likelihood


def small_network() -> Network:
    torch.manual_seed(0)
    network = Network(shape(VOCAB, 32, 1), torch.zeros(VOCAB))
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return network


@pytest.mark.parametrize("family", ["ar", "bd3lm-1"])
def test_likelihoods_of_all_texts_sum_to_one(family: str) -> None:
    network = small_network()
    made = Autoregressive(network, EVEN) if family == "ar" else BlockDiffusion(network, EVEN, 1)
    nats = made.bound(texts(length=4), G().manual_seed(0)).detach()
    assert float((-nats).exp().sum()) == pytest.approx(1, abs=1e-5)


def masked_integrand(clean: Tensor, noisy: Tensor, t: float) -> Tensor:
    family = Masked(Exact(joint(), world.absorbing), EVEN)
    tokens = clean.expand_as(noisy)
    return family.integrand(tokens, noisy == VOCAB, torch.tensor(t))


def sedd_absorbing_integrand(clean: Tensor, noisy: Tensor, t: float) -> Tensor:
    family = SeddAbsorbing(Exact(joint(), world.absorbing), EVEN)
    level = torch.full((len(noisy),), t)
    f = family.read(noisy, level)
    return family.integrand(f, noisy, clean.expand_as(noisy), level[:, None])


def uniform_integrand(clean: Tensor, noisy: Tensor, t: float) -> Tensor:
    family = Uniform(Exact(joint(), world.uniform), EVEN)
    level = torch.full((len(noisy),), t)
    log_s = family.log_score(family.read(noisy, level), noisy, level[:, None])
    return score_entropy(log_s, noisy, clean.expand_as(noisy), level[:, None])


def exact_log_score(noisy: Tensor, t: float) -> Tensor:
    """log p_t(noisy with y at i) - log p_t(noisy), from the marginal of every noisy text."""
    network = Exact(joint(), world.uniform)
    everything = texts()
    p = (network.likelihoods(everything, torch.full((VOCAB**LENGTH,), t)).prod(-1) * joint()).sum(1)
    found = torch.zeros(len(noisy), LENGTH, VOCAB)
    for i, y in itertools.product(range(LENGTH), range(VOCAB)):
        other = noisy.clone()
        other[:, i] = y
        found[:, i, y] = (p[index(other, VOCAB)] / p[index(noisy, VOCAB)]).log()
    return found


def sedd_uniform_integrand(clean: Tensor, noisy: Tensor, t: float) -> Tensor:
    level = torch.full((len(noisy), 1), t)
    return score_entropy(exact_log_score(noisy, t), noisy, clean.expand_as(noisy), level)


@pytest.mark.parametrize(
    ("integrand", "channel"),
    [
        (masked_integrand, world.absorbing),
        (sedd_absorbing_integrand, world.absorbing),
        (uniform_integrand, world.uniform),
        (sedd_uniform_integrand, world.uniform),
    ],
    ids=["mdlm", "sedd-absorbing", "uniform", "sedd-uniform"],
)
def test_with_all_knowledge_the_bound_is_the_likelihood(
    integrand: Callable[..., Tensor], channel: world.Channel
) -> None:
    places, weights = quadrature()
    for clean in texts()[::5]:
        total = torch.tensor(0.0)
        for t, weight in zip(places.tolist(), weights, strict=True):
            noisy, q = chances(clean, channel, torch.tensor([t]))
            total += weight * (q[0] * integrand(clean, noisy, t).sum(1)).sum()
        expected = -joint()[index(clean, VOCAB)].log()
        assert float(total) == pytest.approx(float(expected), rel=2e-3), clean


@pytest.mark.parametrize("clean", texts()[::7])
def test_the_masked_bound_is_the_mean_over_all_orders_of_writing(clean: Tensor) -> None:
    """Of any network: -sum log p(x_i | those written before), each of the 3! orders as likely."""
    family = Masked(Table(VOCAB + 1), EVEN)
    nats = []
    for order in itertools.permutations(range(LENGTH)):
        noisy = torch.full((LENGTH,), VOCAB)
        for place in order:
            nats.append(nll(family.read(noisy[None])[0, place], clean[place]).item())
            noisy[place] = clean[place]
    expected = sum(nats) / 6
    # LLaDA eq. 6: l uniform from 1 on, each set of l masks as likely
    subsets = torch.tensor(list(itertools.product([False, True], repeat=LENGTH)))
    count = subsets.sum(1)
    chance = torch.tensor([0.0, 1 / 9, 1 / 9, 1 / 3])[count]
    share = (count / LENGTH).clamp_min(1 / LENGTH)[:, None]
    terms = family.integrand(clean.expand(8, -1), subsets, share).sum(1)
    assert float((chance * terms).sum()) == pytest.approx(expected, rel=1e-5)
    # MDLM eq. 10: t uniform, each token masked by itself
    places, weights = quadrature(20)
    total = 0.0
    for t, weight in zip(places, weights, strict=True):
        q = t**count * (1 - t) ** (LENGTH - count)
        terms = family.integrand(clean.expand(8, -1), subsets, t).sum(1)
        total += float(weight * (q * terms).sum())
    assert total == pytest.approx(expected, rel=1e-4)


def test_exact_masks_are_as_many_as_their_share_says() -> None:
    masked, share = exact_masks(torch.Size((50, 8)), 4, G().manual_seed(0))
    per_block = masked.view(50, 2, 4).sum(-1)
    assert set(per_block.flatten().tolist()) == {1, 2, 3, 4}
    assert torch.equal(4 * share.view(50, 2, 4)[..., 0], per_block.float())


# D3PM


def dense(kind: str, steps: int) -> list[Tensor]:
    """Q_1 .. Q_T written out (D3PM, A.2), as functions of nothing in the package."""
    made = []
    for t in range(1, steps + 1):
        keep = (1 - t / steps) / (1 - (t - 1) / steps)
        if kind == "absorbing":
            q = torch.eye(VOCAB + 1) * keep
            q[:, -1] += 1 - keep
            q[-1] = torch.eye(VOCAB + 1)[-1]
        elif kind == "uniform":
            q = keep * torch.eye(4) + (1 - keep) / 4
        else:  # groups {0, 2} and {1, 3}: first to the neighbour, then anywhere
            near = torch.tensor([[1.0, 0, 1, 0], [0, 1, 0, 1], [1, 0, 1, 0], [0, 1, 0, 1]]) / 2
            fine = keep**3
            q = fine * torch.eye(4) + (keep - fine) * near + (1 - keep) / 4
        made.append(q)
    return made


def d3pm(kind: str, network: nn.Module, steps: int) -> D3pm:
    if kind == "absorbing":
        return D3pmAbsorbing(network, EVEN, steps)
    groups = torch.tensor([[0, 2], [1, 3]]) if kind == "nearest" else None
    return D3pmMixing(network, torch.full((4,), 0.25), steps, groups)


KINDS = ["absorbing", "uniform", "nearest"]


@pytest.mark.parametrize("kind", KINDS)
def test_d3pm_step_is_that_of_its_matrices(kind: str) -> None:
    steps = 4
    q = dense(kind, steps)
    vocab, states = (VOCAB, VOCAB + 1) if kind == "absorbing" else (4, 4)
    family = d3pm(kind, nn.Identity(), steps)
    p = torch.rand(vocab, generator=G().manual_seed(2))
    p /= p.sum()
    for t, s in [(1, 0), (3, 2), (4, 1), (4, 0)]:
        to_s = torch.linalg.multi_dot([torch.eye(states)] * 2 + q[:s])
        from_s = torch.linalg.multi_dot([torch.eye(states)] * 2 + q[s:t])
        at_s = p @ to_s[:vocab]
        for x in range(states):
            if float(at_s @ from_s[:, x]) == 0:
                continue
            expected = at_s * from_s[:, x] / (at_s @ from_s[:, x])
            found = family.back(p, torch.tensor([[x]]), torch.tensor(t), torch.tensor(s))[0, 0]
            torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_d3pm_loss_is_the_bound_over_all_paths(kind: str) -> None:
    """E_q [ log q(x_1 .. x_T | x_0) - log p(x_0 .. x_T) ] of two tokens and three steps."""
    steps, length = 3, 2
    q = dense(kind, steps)
    vocab, states = (VOCAB, VOCAB + 1) if kind == "absorbing" else (4, 4)
    network = Table(states, vocab, length)
    family = d3pm(kind, network, steps)
    clean = torch.tensor([2, 1])
    everything = texts(states, length)
    n = len(everything)

    def kernel(matrix: Tensor) -> Tensor:
        """(n, n): of whole texts, positions being independent."""
        return matrix[everything[:, None], everything[None]].prod(-1)

    reverse = []  # p(x_{t-1} | x_t), rows x_t
    so_far = torch.eye(states)
    for t in range(1, steps + 1):
        level = torch.full((n,), t / steps)
        p = network(everything, None, level).softmax(-1) @ so_far[:vocab]
        step = p * q[t - 1].T[everything]
        step = step / step.sum(-1, keepdim=True)
        places = torch.arange(length)
        reverse.append(step[torch.arange(n)[:, None, None], places, everything[None]].prod(-1))
        so_far = so_far @ q[t - 1]
    start = index(clean, states)
    forward = [kernel(matrix) for matrix in q]
    paths = torch.cartesian_prod(*[torch.arange(n)] * steps)
    before = torch.full((len(paths),), int(start))
    chance, log_p = torch.ones(len(paths)), torch.zeros(len(paths))
    for t in range(steps):
        now = paths[:, t]
        chance = chance * forward[t][before, now]
        log_p += reverse[t][now, before].log()
        before = now
    prior = torch.eye(states)[-1] if kind == "absorbing" else torch.full((states,), 1 / states)
    log_p += prior[everything[before]].prod(-1).log()
    seen = chance > 0
    expected = (chance[seen] * (chance[seen].log() - log_p[seen])).sum()

    total = torch.tensor(0.0)
    so_far = torch.eye(states)
    for t in range(1, steps + 1):
        so_far = so_far @ q[t - 1]
        at_t = so_far[clean[None], everything].prod(-1)
        times = torch.full((n, 1, 1), t)
        logits = network(everything, None, torch.full((n,), t / steps))
        terms = family.divergence(logits, everything, clean.expand(n, -1), times).sum(1)
        total += (at_t[at_t > 0] * terms[at_t > 0]).sum()
    assert float(total) == pytest.approx(float(expected), rel=1e-4)


# Steps of the samplers


def posterior_by_bayes(p: Tensor, channel: world.Channel, t: float, s: float, x: int) -> Tensor:
    """p(x_s | x_t = x) of one token with distribution p, by the matrices of both times."""
    to_s, to_t = channel(torch.tensor([s, t]))
    square = to_s.shape[-1] == VOCAB
    both = (
        (to_s, to_t)
        if square
        else tuple(torch.cat([m, torch.eye(VOCAB + 1)[-1:]]) for m in (to_s, to_t))
    )
    between = torch.linalg.solve(both[0], both[1])  # to_s @ between = to_t
    weight = (p @ to_s) * between[:, x]
    return weight / weight.sum()


P = torch.tensor([0.6, 0.3, 0.1])


class Constant(nn.Module):
    """The same logits everywhere."""

    def __init__(self, logits: Tensor) -> None:
        super().__init__()
        self.logits = logits

    def forward(self, noisy: Tensor, *_: Any) -> Tensor:
        return self.logits.expand(*noisy.shape[:2], -1)


@pytest.mark.parametrize(("t", "s"), [(0.9, 0.6), (0.5, 0.1), (0.3, 0.0)])
def test_steps_are_those_of_the_matrices(t: float, s: float) -> None:
    mask = torch.tensor([[VOCAB]])
    masked = Masked(Constant(P.log()), EVEN).transition(mask, t, s)[0, 0]
    tweedie = SeddAbsorbing(Constant(P.log()), EVEN).transition(mask, t, s, "tweedie")[0, 0]
    expected = posterior_by_bayes(P, world.absorbing, t, s, VOCAB)
    torch.testing.assert_close(masked, expected, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(tweedie, expected, atol=1e-5, rtol=1e-4)
    for x in range(VOCAB):
        expected = posterior_by_bayes(P, world.uniform, t, s, x)
        at = torch.tensor([[x]])
        # independent tokens: the network has nothing to correct
        for made in (Uniform, SeddUniform):
            found = made(Constant(P.log()), P).transition(at, t, s, "tweedie")
            torch.testing.assert_close(found[0, 0] / found.sum(), expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("kind", ["absorbing", "uniform"])
def test_small_leaps_are_tweedie_steps(kind: str) -> None:
    t, s = 0.5, 0.499
    if kind == "absorbing":
        family: Any = SeddAbsorbing(Constant(P.log()), P)
        x = torch.tensor([[VOCAB]])
    else:
        family, x = SeddUniform(Constant(P.log()), P), torch.tensor([[1]])
    leap, exact = (family.transition(x, t, s, name) for name in ("tau-leaping", "tweedie"))
    torch.testing.assert_close(leap, exact / exact.sum(), atol=1e-5, rtol=3e-3)


# What comes out


def family_of(name: str, p: Tensor) -> LabFamily:
    """With a network that knows p, over two tokens."""
    if name in ("mdlm", "sedd-absorbing", "d3pm-absorbing"):
        network: Any = Exact(p, world.absorbing, 2)
    else:
        network = Exact(p, world.uniform, 2)
    made: dict[str, Callable[[], LabFamily]] = {
        "mdlm": lambda: Masked(network, EVEN),
        "sedd-absorbing": lambda: SeddAbsorbing(network, EVEN),
        "uniform": lambda: Uniform(network, EVEN),
        "d3pm-absorbing": lambda: D3pmAbsorbing(network, EVEN, 64),
        "d3pm-uniform": lambda: D3pmMixing(network, EVEN, 64),
        "plaid": lambda: Plaid(ExactGaussian(p, EMBEDDINGS), EVEN, 2),
    }
    family = made[name]()
    if isinstance(family, Plaid):
        as_known(family)
    return family


@pytest.mark.parametrize(
    ("name", "sampler", "steps"),
    [
        ("mdlm", "ancestral", 48),
        ("mdlm", "random", 2),
        ("sedd-absorbing", "tweedie", 48),
        ("sedd-absorbing", "tau-leaping", 200),
        ("uniform", "tweedie", 48),
        ("d3pm-absorbing", "ancestral", 48),
        ("d3pm-uniform", "ancestral", 48),
        ("plaid", "ddpm", 100),
        ("plaid", "ddim", 100),
        ("plaid", "dpm-solver++(2m)", 40),
    ],
)
def test_samples_with_all_knowledge_are_the_data(name: str, sampler: str, steps: int) -> None:
    p = joint(length=2, seed=3)
    family = family_of(name, p)
    n = 4000
    empty = torch.full((n, 2), VOCAB)
    drawn = family.sample(empty, SamplerSettings(steps, G().manual_seed(0), sampler))
    counts = torch.bincount(index(drawn, VOCAB), minlength=VOCAB**2) / n
    assert float((counts - p).abs().sum() / 2) < 0.04


@pytest.mark.parametrize("name", ["mdlm", "sedd-absorbing", "uniform", "d3pm-uniform"])
def test_draws_of_the_bound_have_its_mean(name: str) -> None:
    """The weights of uneven levels and steps: with all knowledge the mean is the likelihood."""
    p = joint(length=2, seed=3)
    family = family_of(name, p)
    text = torch.tensor([[2, 1]])
    with torch.no_grad():
        nats = family.bound(text.expand(40000, -1), G().manual_seed(1)).mean()
    expected = float(-p[index(text[0], VOCAB)].log())
    assert float(nats) == pytest.approx(expected, rel=0.05)


@pytest.mark.parametrize("name", ["mdlm", "sedd-absorbing", "uniform", "d3pm-uniform", "plaid"])
def test_what_is_known_stays(name: str) -> None:
    template = torch.tensor([[VOCAB, 2]] * 50)
    family = family_of(name, joint(length=2))
    for sampler in family.samplers:
        drawn = family.sample(template, SamplerSettings(8, G().manual_seed(0), sampler))
        assert set(drawn[:, 1].tolist()) == {2}
        assert int(drawn.max()) < VOCAB


# BD3-LM


@pytest.mark.parametrize("block_size", [1, 2, 4])
def test_block_bound_is_the_mean_over_orders_within_blocks(block_size: int) -> None:
    """Each block by itself, behind the clean ones, in a forward without cache or noisy copy."""
    network, length = small_network(), 4
    family = BlockDiffusion(network, EVEN, block_size)
    clean = torch.tensor([[2, 0, 1, 1]])
    expected = 0.0
    for start in range(0, length, block_size):
        orders = list(itertools.permutations(range(start, start + block_size)))
        for order in orders:
            text = clean[:, : start + block_size].clone()
            text[:, start:] = VOCAB
            for place in order:
                mask = masks.block(0, text.shape[1], block_size)
                logits = network(text, mask)[0, place]
                expected += nll(logits, clean[0, place]).item() / len(orders)
                text[0, place] = clean[0, place]
    g = G().manual_seed(0)
    subsets = 0.0
    blocks = length // block_size
    per_block = torch.tensor(list(itertools.product([False, True], repeat=block_size)))[1:]
    for masked in per_block:  # the same set in every block: they do not see each other's noise
        count = int(masked.sum())
        ways = len(list(itertools.combinations(range(block_size), count)))
        where = masked.repeat(blocks)[None]
        logits = family.logits(torch.where(where, VOCAB, clean), clean)
        terms = nll(logits, clean) * where * block_size / count
        subsets += float(terms.detach().sum()) / block_size / ways
    assert subsets == pytest.approx(expected, rel=1e-4)
    draws = family.bound(clean.expand(4000, -1), g).detach()
    assert float(draws.mean()) == pytest.approx(expected, rel=0.03)


@pytest.mark.parametrize("block_size", [1, 2, 4, 8])
def test_block_logits_with_the_cache_are_those_without(block_size: int) -> None:
    network = small_network()
    family = BlockDiffusion(network, EVEN, block_size)
    g = G().manual_seed(0)
    clean = torch.randint(0, VOCAB, (2, 8), generator=g)
    noisy = torch.where(torch.rand(2, 8, generator=g) < 0.5, VOCAB, clean)
    cache = BlockCache(network.config, batch=2, capacity=8)
    with torch.no_grad():
        uncached = family.logits(noisy, clean)
        for start in range(0, 8, block_size):
            block = slice(start, start + block_size)
            torch.testing.assert_close(
                behind(network, noisy[:, block], cache), uncached[:, block], atol=1e-5, rtol=1e-4
            )
            family.finish(clean[:, block], cache)


@pytest.mark.parametrize("blocks", [1, 3, 9])
@pytest.mark.parametrize("block_size", [1, 2, 4])
def test_a_token_costs_no_more_behind_many_finished_blocks(block_size: int, blocks: int) -> None:
    """Each block is read as often as it has steps, and once when it is finished; no other is."""
    network, steps = small_network(), 3
    read: list[tuple[int, ...]] = []
    ends = [0]
    network.register_forward_pre_hook(lambda _, inputs: read.append(tuple(inputs[0].shape)))
    family = BlockDiffusion(network, EVEN, block_size)
    watch = lambda _: ends.append(len(read))  # noqa: E731
    how = SamplerSettings(steps * blocks, G().manual_seed(0), watch=watch)
    family.sample(torch.full((2, blocks * block_size), VOCAB), how)
    assert len(ends) == blocks + 1
    for before, end in itertools.pairwise(ends):
        assert read[before:end] == [(2, block_size)] * (min(steps, block_size) + 1)


# Gaussian


EMBEDDINGS = torch.tensor([[1.0, 0.9], [-1.2, 0.4], [0.2, -1.1]])


class ExactGaussian(nn.Module):
    """As `Exact`, of noisy vectors."""

    def __init__(self, p: Tensor, embeddings: Tensor) -> None:
        super().__init__()
        self.exact = Exact(p, world.uniform, 2)
        self.embeddings = embeddings
        self.ends = (7.0, -14.0)

    def forward(self, inputs: Tensor, mask: Tensor, t: Tensor) -> Tensor:
        z = inputs[..., : self.embeddings.shape[1]]
        lam = self.ends[0] + (self.ends[1] - self.ends[0]) * t[:, None, None]
        alpha, sigma = alpha_sigma(lam)
        distance = (z[:, :, None] - alpha[..., None] * self.embeddings).square().sum(-1)
        log = -distance / (2 * sigma**2)  # (batch, length, vocab)
        log = log - log.amax(-1, keepdim=True)
        places = torch.arange(2)
        return self.exact.others(log.exp()[:, places, self.exact.texts]).log()


def as_known(family: Plaid) -> None:
    family.ends.data = torch.tensor([7.0, -14.0])
    family.table.data = EMBEDDINGS
    family.network.embeddings = family.embeddings().detach()


def test_with_all_knowledge_the_gaussian_bound_is_the_likelihood() -> None:
    import numpy as np

    p = joint(length=2, seed=3)
    family = family_of("plaid", p)
    assert isinstance(family, Plaid)
    x, w = np.polynomial.hermite_e.hermegauss(9)
    nodes, weights = torch.tensor(x).float(), torch.tensor(w / w.sum()).float()
    eps = torch.cartesian_prod(*[nodes] * 4).view(-1, 2, 2)
    chance = torch.cartesian_prod(*[weights] * 4).prod(-1)
    places, shares = quadrature(70)
    with torch.no_grad():
        for clean in texts(length=2)[::3]:
            e = family.embeddings()[clean]
            total = family.prior_divergence(e).sum()
            for t, share in zip(places.tolist(), shares, strict=True):
                level = torch.full((len(eps),), t)
                alpha, sigma = alpha_sigma(family.level(level))
                predicted = family.mean(family.words(alpha * e + sigma * eps, level))
                terms = family.integrand(e, predicted, level).sum(1)
                total += share * (chance * terms).sum()
            expected = -p[index(clean, VOCAB)].log()
            assert float(total) == pytest.approx(float(expected), abs=0.03)


def test_gaussian_step_is_bayes_rule() -> None:
    """q(z_s | z_t, x) from q(z_s | x) and q(z_t | z_s), by precisions."""
    lam, after = torch.tensor(-1.0), torch.tensor(0.7)
    (alpha, sigma), (alpha_s, sigma_s) = alpha_sigma(lam), alpha_sigma(after)
    ratio = alpha / alpha_s
    between = sigma**2 - ratio**2 * sigma_s**2
    z, x = torch.tensor(0.4), torch.tensor(-1.3)
    precision = 1 / sigma_s**2 + ratio**2 / between
    mean = (alpha_s * x / sigma_s**2 + ratio * z / between) / precision
    found = posterior(z, x, lam, after)
    torch.testing.assert_close(torch.stack(found), torch.stack([mean, precision**-0.5]))


def solved(second_order: bool, lams: Tensor, predict: Callable[[int, Tensor], Tensor]) -> Tensor:
    """From z = 1 through all levels; `predict` gets the step and z."""
    z, before = torch.ones(1, dtype=torch.float64), None
    for i, (lam, after) in enumerate(zip(lams, lams[1:], strict=False)):
        x = used = predict(i, z)
        if second_order and before is not None:
            used = continuous.extrapolated(x, lam, after, *before)
        before = (x, lam)
        z = continuous.ddim(z, used, lam, after)
    return z


def test_the_solver_is_the_published_algorithm() -> None:
    """DPM-Solver++ (arXiv 2211.01095), algorithm 2; its lambda is half of ours."""
    lams = torch.tensor([-2.0, -0.3, 1.5, 2.2], dtype=torch.float64)
    predictions = torch.randn(3, dtype=torch.float64, generator=G().manual_seed(0))
    expected, h_before = torch.tensor(1.0), torch.tensor(0.0)
    for i, (lam, after) in enumerate(zip(lams, lams[1:], strict=False)):
        (_, sigma), (alpha_s, sigma_s) = alpha_sigma(lam), alpha_sigma(after)
        h, d = (after - lam) / 2, predictions[i]
        if i:
            r = h_before / h
            d = (1 + 1 / (2 * r)) * predictions[i] - predictions[i - 1] / (2 * r)
        expected = sigma_s / sigma * expected - alpha_s * torch.expm1(-h) * d
        h_before = h
    found = solved(True, lams, lambda i, z: predictions[i])
    assert float(found) == pytest.approx(float(expected))


def test_orders_of_the_solvers() -> None:
    """Gaussian data: E[x | z] is known, and the exact flow keeps z over its deviation."""
    spread = 1.5

    def deviation(lam: Tensor) -> Tensor:
        alpha, sigma = alpha_sigma(lam)
        return (alpha**2 * spread**2 + sigma**2).sqrt()

    def error(second_order: bool, steps: int) -> float:
        lams = torch.linspace(-6, 4, steps + 1, dtype=torch.float64)

        def predict(i: int, z: Tensor) -> Tensor:
            return alpha_sigma(lams[i])[0] * spread**2 / deviation(lams[i]) ** 2 * z

        exact = deviation(lams[-1]) / deviation(lams[0])
        return float((solved(second_order, lams, predict) - exact).abs())

    assert 1.7 < error(False, 50) / error(False, 100) < 2.4
    assert 3.2 < error(True, 50) / error(True, 100) < 5.0


@pytest.mark.parametrize("family", ["diffusion-lm", "analog-bits", "cdcd"])
def test_untrained_continuous_families_know_the_frequencies(family: str) -> None:
    """Independent tokens, and a network that corrects nothing: the bound is theirs."""
    made: dict[str, LabFamily] = {
        "diffusion-lm": DiffusionLm(Constant(torch.zeros(4)), P, 4),
        "analog-bits": AnalogBits(Constant(torch.zeros(2)), P, 2),
        "cdcd": Cdcd(Constant(torch.zeros(VOCAB)), P, 4),
    }
    for name in ("diffusion-lm", "cdcd"):  # the bits of analog-bits are fixed
        made[name].table.data = torch.eye(4)[:VOCAB]  # type: ignore[union-attr]
    tokens = torch.tensor([[0], [2]] * 40000)
    with torch.no_grad():
        nats = made[family].bound(tokens, G().manual_seed(0))
    assert float(nats[::2].mean()) == pytest.approx(-float(P[0].log()), rel=0.15)
    assert float(nats[1::2].mean()) == pytest.approx(-float(P[2].log()), rel=0.15)
