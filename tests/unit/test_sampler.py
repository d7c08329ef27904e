"""What the block loop promises, whatever the mode: exact, bounded, cancellable, repeatable."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Iterable, Sequence
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import (
    FAMILIES,
    Letters,
    adapter,
    cache_for,
    config,
    forward,
    last,
    sampler,
    toy_adapter,
    toy_base,
    toy_line,
    transformer,
)
from torch import Tensor

from blockdiff.config import DecodingConfig, Mode, Rule
from blockdiff.diffusion import verify
from blockdiff.diffusion.canvas import Canvas
from blockdiff.diffusion.drafter import Speculation
from blockdiff.diffusion.forwards import NOTHING, Snapshot
from blockdiff.diffusion.revision import MOST_EDITS
from blockdiff.diffusion.row_costs import CHEAP, FREE, INT8
from blockdiff.diffusion.sampler import Sampler
from blockdiff.diffusion.unmask import LEAST_SURE, next_size, to_unmask
from blockdiff.errors import Cancelled, ModelUnsupported
from blockdiff.model import masks
from blockdiff.model.adapter import GatedAdapter
from blockdiff.model.cache import BlockCache
from blockdiff.model.forward import Forward
from blockdiff.model.forward import run as run_forwards
from blockdiff.model.layer import Gate
from blockdiff.model.transformer import Transformer

VOCAB = 32
MODELS = {name: transformer(shape, seed=11) for name, shape in FAMILIES.items()}
ADAPTERS = {name: adapter(shape, 12) for name, shape in FAMILIES.items()}
PROMPT = st.lists(st.integers(0, VOCAB - 1), min_size=1, max_size=10)
AR = DecodingConfig(mode=Mode.AR, max_tokens=12)
VERIFY = DecodingConfig(mode=Mode.VERIFY, block_size=3, max_tokens=12)
DIFFUSION = DecodingConfig(mode=Mode.DIFFUSION, rule=Rule.THRESHOLD, block_size=4, max_tokens=12)
SPECULATION = st.builds(Speculation, st.sampled_from([CHEAP, INT8]), st.sampled_from([0, 4, 16]))
MODES = pytest.mark.parametrize("decoding", [AR, VERIFY, DIFFUSION], ids=lambda d: d.mode.value)


def greedy_oracle(
    model: Transformer, prompt: list[int], limit: int, stop: Sequence[int], banned: Sequence[int]
) -> list[int]:
    """`ar` by its definition: the whole text again for every token, no cache at all."""
    tokens: list[int] = []
    while len(tokens) < limit:
        logits = forward(model, prompt + tokens)[-1]
        logits[list(banned)] = -math.inf
        token = int(logits.argmax())
        if token in stop:
            break
        tokens.append(token)
    return tokens


# --- ar and verify -----------------------------------------------------------------------------


@given(
    family=st.sampled_from(sorted(FAMILIES)),
    prompt=PROMPT,
    limit=st.integers(1, 12),
    stop=st.sets(st.integers(0, VOCAB - 1), max_size=3),
    banned=st.sets(st.integers(0, VOCAB - 1), max_size=3),
)
@settings(max_examples=25, deadline=None)
def test_ar_writes_the_most_likely_token_one_by_one(
    family: str, prompt: list[int], limit: int, stop: set[int], banned: set[int]
) -> None:
    model = MODELS[family]
    run = sampler(model, None, replace(AR, max_tokens=limit), stop=stop, banned=banned)
    final = last(run.run(prompt))
    assert list(final.tokens) == greedy_oracle(model, prompt, limit, sorted(stop), sorted(banned))
    assert final.ended == (len(final.tokens) < limit)
    assert run.forwards == len(final.tokens) + final.ended


@given(
    family=st.sampled_from(sorted(FAMILIES)),
    weights=st.integers(0, 5),
    prompt=PROMPT,
    width=st.integers(1, 6),
    limit=st.integers(1, 16),
    stop=st.sets(st.integers(0, VOCAB - 1), max_size=2),
    speculation=SPECULATION,
    adapted=st.booleans(),
)
@settings(max_examples=50, deadline=None)
def test_verify_writes_what_ar_writes(
    family: str,
    weights: int,
    prompt: list[int],
    width: int,
    limit: int,
    stop: set[int],
    speculation: Speculation,
    adapted: bool,
) -> None:
    """Invariant 2: token for token, with an adapter that knows nothing, or none."""
    model = MODELS[family]
    drafter = adapter(FAMILIES[family], weights) if adapted else None
    expected = last(sampler(model, None, replace(AR, max_tokens=limit), stop=stop).run(prompt))
    verify = replace(VERIFY, block_size=width, max_tokens=limit)
    run = sampler(model, drafter, verify, stop=stop, speculation=speculation)
    final = last(run.run(prompt))
    assert (final.tokens, final.ended) == (expected.tokens, expected.ended)
    assert run.forwards <= len(final.tokens) + final.ended
    assert final.confidence == pytest.approx(expected.confidence, abs=1e-4)


@pytest.mark.parametrize("adapted", [True, False])
def test_text_that_repeats_is_copied_several_tokens_a_forward(adapted: bool) -> None:
    """The same tokens as `ar` in fewer forwards, with an adapter that knows nothing, or none."""
    model = toy_base()
    drafter = adapter(model.config, 3) if adapted else None
    prompt = Letters().encode("abcdefghijabcdefghijabc")
    expected = last(sampler(model, None, replace(AR, max_tokens=24)).run(prompt))
    forwards = {}
    for most in (0, 8):
        speculation = Speculation(INT8, most)
        verify = replace(VERIFY, max_tokens=24)
        run = sampler(model, drafter, verify, speculation=speculation)
        assert last(run.run(prompt)).tokens == expected.tokens
        forwards[most] = run.forwards
        assert run.forwards + run.drafted.total() >= len(expected.tokens) > run.drafted.total()
    assert forwards[8] < forwards[0] and run.drafted["copy"] > run.drafted["adapter"]


@pytest.mark.parametrize("speculation", [Speculation(), Speculation(INT8), Speculation(CHEAP, 4)])
@pytest.mark.parametrize("width", [1, 2, 3, 5])
def test_verify_writes_what_ar_writes_with_an_adapter_that_has_learned(
    width: int, speculation: Speculation
) -> None:
    """Most drafts are accepted, some are not: both ways of going on are walked."""
    model, drafter = toy_base(), toy_adapter()
    rng, forwards, written, rejected = random.Random(width), 0, 0, 0
    for _ in range(6):
        prompt = Letters().encode(toy_line(rng, rng.randint(6, 20)))
        expected = last(sampler(model, None, replace(AR, max_tokens=24)).run(prompt))
        verify = replace(VERIFY, block_size=width, max_tokens=24)
        run = sampler(model, drafter, verify, speculation=speculation)
        snapshots = list(run.run(prompt))
        assert snapshots[-1].tokens == expected.tokens
        for one, next_one in itertools.pairwise(snapshots):
            draft = one.tokens[len(one.settled_prefix) :]
            arrived = next_one.settled_prefix[len(one.settled_prefix) :]
            rejected += draft != arrived[: len(draft)]
        forwards, written = forwards + run.forwards, written + len(expected.tokens)
    assert forwards < 0.85 * written, "drafts are accepted"
    assert rejected > 0, "drafts are rejected"


@torch.no_grad()
def noisy_logits(
    model: Transformer,
    drafter: GatedAdapter,
    exact: Sequence[int],
    block: Sequence[int],
    masked: Sequence[bool],
) -> torch.Tensor:
    """Logits (1 + block, vocab) from the last exact token on: one forward without any cache."""
    total = len(exact) + len(block)
    noisy = torch.arange(total)[None] >= len(exact)
    hidden = torch.tensor([[False] * len(exact) + list(masked)])
    return model(
        torch.tensor([[*exact, *block]]),
        torch.arange(total)[None],
        masks.opening(0, len(exact), len(block)),
        None,
        Gate(drafter, hidden, noisy),
    )[0, len(exact) - 1 :]


@given(
    family=st.sampled_from(sorted(FAMILIES)),
    prompt=PROMPT,
    width=st.integers(1, 3),  # a fourth mask brings nothing more, and none is made
    learned=st.booleans(),
)
@settings(max_examples=25, deadline=None)
def test_a_draft_is_what_the_adapter_says_behind_what_is_accepted(
    family: str, prompt: list[int], width: int, learned: bool
) -> None:
    """However many tokens of the last draft were right. A draft ends where it gets unlikely."""
    model, drafter = MODELS[family], ADAPTERS[family]
    if learned:
        model, drafter = toy_base(), toy_adapter()
        prompt = Letters().encode(toy_line(random.Random(sum(prompt)), 12))
    speculation = Speculation(FREE, most=0)
    verify = replace(VERIFY, block_size=width)
    for snapshot in sampler(model, drafter, verify, speculation=speculation).run(prompt):
        accepted = snapshot.settled_prefix
        draft = snapshot.tokens[len(accepted) :]
        logits = noisy_logits(
            model, drafter, [*prompt, *accepted[:-1]], [0] * width, [True] * width
        )
        confidence, likely = logits[1:].softmax(-1).max(-1)
        assert list(draft) == likely[: len(draft)].tolist()
        shown = snapshot.confidence[len(accepted) :]
        assert shown == pytest.approx(confidence[: len(draft)].tolist(), abs=1e-4)
        if len(draft) < width and len(accepted) + len(draft) < VERIFY.max_tokens - 1:
            assert float(confidence[: len(draft) + 1].prod()) < 0.04 + 1e-4


def exact_distribution(
    model: Transformer, prompt: list[int], decoding: DecodingConfig, stop: int
) -> dict[tuple[int, ...], float]:
    """Probability of every text that `ar` can write, by walking the whole tree without cache."""
    found: dict[tuple[int, ...], float] = {}

    def walk(text: tuple[int, ...], mass: float) -> None:
        if len(text) == decoding.max_tokens or (text and text[-1] == stop):
            found[text] = mass
            return
        logits = forward(model, [*prompt, *text])[-1].double()
        p = (logits / decoding.temperature).softmax(-1)
        order = p.argsort(descending=True)
        before = p[order].cumsum(0) - p[order]
        p[order[before >= decoding.top_p]] = 0.0
        for token, share in enumerate((p / p.sum()).tolist()):
            if share > 0.0:
                walk((*text, token), mass * share)

    walk((), 1.0)
    return found


@pytest.mark.parametrize(("temperature", "top_p"), [(1.0, 1.0), (0.6, 0.9)])
@pytest.mark.parametrize(
    ("mode", "speculation", "original"),
    [
        (Mode.AR, Speculation(), []),
        (Mode.VERIFY, Speculation(most=0), []),
        (Mode.VERIFY, Speculation(), []),
        (Mode.VERIFY, Speculation(most=4), [1, 0, 0, 1]),
    ],
)
def test_sampling_keeps_the_distribution_of_the_base(
    mode: Mode, speculation: Speculation, original: list[int], temperature: float, top_p: float
) -> None:
    """Texts of four tokens over three letters, one of which ends them, over many seeds."""
    model = transformer(config(vocab_size=3, n_layers=1), seed=21, sharp=1.2)
    drafter, prompt, draws = adapter(model.config, 24), [0, 1, 0, 1], 700
    decoding = DecodingConfig(
        mode=mode, block_size=2, max_tokens=4, temperature=temperature, top_p=top_p
    )
    expected = exact_distribution(model, prompt, decoding, stop=2)
    assert sum(expected.values()) == pytest.approx(1.0)
    counts = dict.fromkeys(expected, 0)
    cache, drafted = cache_for(model), 0
    for seed in range(draws):
        seeded = replace(decoding, seed=seed)
        run = sampler(
            model, drafter, seeded, cache=cache, stop=[2], speculation=speculation
        )
        run.original = original
        snapshots = list(run.run(prompt))
        drafted += any(False in snapshot.settled for snapshot in snapshots)
        final = snapshots[-1]
        counts[(*final.tokens, 2) if final.ended else final.tokens] += 1
    statistic = sum(
        (counts[text] - draws * p) ** 2 / (draws * p) for text, p in expected.items()
    )
    freedom = len(expected) - 1
    assert statistic < freedom + 4.0 * math.sqrt(2.0 * freedom)
    shown = draws // 6 if original else draws // 3  # its first draft is settled when it is shown
    assert drafted > shown if mode is Mode.VERIFY else drafted == 0


@given(
    original=st.lists(st.integers(0, VOCAB - 1), max_size=16),
    prompt=PROMPT,
    stop=st.sets(st.integers(0, VOCAB - 1), max_size=3),
)
@settings(max_examples=15, deadline=None)
def test_the_original_of_a_rewrite_changes_no_token_of_it(
    original: list[int], prompt: list[int], stop: set[int]
) -> None:
    model, drafter = MODELS["qwen2"], ADAPTERS["qwen2"]
    plain = last(sampler(model, drafter, AR, stop=stop).run(prompt))
    run = sampler(model, drafter, VERIFY, stop=stop, speculation=Speculation(INT8, 8))
    run.original = original
    assert last(run.run(prompt)).tokens == plain.tokens


# --- diffusion ---------------------------------------------------------------------------------

KEEPING = [rule for rule in Rule if rule is not Rule.EDIT]
DENOISING = [rule for rule in KEEPING if rule is not Rule.TRUST]  # `trust` drafts as `verify` does
DECODING = st.builds(
    DecodingConfig,
    mode=st.just(Mode.DIFFUSION),
    rule=st.sampled_from(KEEPING),
    block_size=st.integers(1, 7),
    denoising_steps=st.integers(0, 8),
    threshold=st.floats(0.05, 1.0),
    entropy_bound=st.floats(0.05, 8.0),
    max_tokens=st.integers(1, 14),
    temperature=st.sampled_from([0.0, 0.0, 0.7, 2.0]),
    seed=st.integers(0, 99),
)


@given(
    family=st.sampled_from(sorted(FAMILIES)),
    decoding=DECODING,
    prompt=PROMPT,
    stop=st.sets(st.integers(0, VOCAB - 1), max_size=4),
    banned=st.sets(st.integers(0, VOCAB - 1), max_size=4),
)
@settings(max_examples=80, deadline=None)
def test_a_settled_token_stays(
    family: str, decoding: DecodingConfig, prompt: list[int], stop: set[int], banned: set[int]
) -> None:
    """Invariants 3 and 4, for every rule but `edit`: the stream ends in time, everything settled.

    A settled token can only fall away, where the text turns out to end before it.
    """
    run = sampler(MODELS[family], ADAPTERS[family], decoding, stop=stop - banned, banned=banned)
    snapshots = list(run.run(prompt))
    for one, next_one in itertools.pairwise(snapshots):
        kept = min(len(one.tokens), len(next_one.tokens))
        shorter = next_one.ended or decoding.rule is Rule.TRUST  # another draft
        assert kept == len(one.tokens) or shorter
        for i in range(kept):
            if one.settled[i]:
                assert next_one.settled[i]
                assert next_one.tokens[i] == one.tokens[i]
                assert next_one.confidence[i] == one.confidence[i]
    final = snapshots[-1]
    assert all(final.settled)
    assert set(final.tokens).isdisjoint(stop - banned)
    assert len(final.tokens) <= decoding.max_tokens
    assert final.ended or len(final.tokens) == decoding.max_tokens
    assert [s.forwards for s in snapshots] == list(range(1, run.forwards + 1))
    assert run.forwards <= forwards_at_most(decoding)
    for snapshot in snapshots:
        assert set(snapshot.tokens).isdisjoint(banned)
        assert len(snapshot.tokens) == len(snapshot.settled) == len(snapshot.confidence)
        assert all(0.0 <= p <= 1.0 + 1e-6 for p in snapshot.confidence)


@given(
    family=st.sampled_from(sorted(FAMILIES)),
    weights=st.integers(0, 5),
    decoding=DECODING,
    edit_threshold=st.floats(0.02, 0.9),
    prompt=PROMPT,
    stop=st.sets(st.integers(0, VOCAB - 1), max_size=4),
    banned=st.sets(st.integers(0, VOCAB - 1), max_size=4),
)
@settings(max_examples=60, deadline=None)
def test_the_rule_edit_ends_and_brings_no_token_back(
    family: str,
    weights: int,
    decoding: DecodingConfig,
    edit_threshold: float,
    prompt: list[int],
    stop: set[int],
    banned: set[int],
) -> None:
    """Settled tokens may change, but not back, and nothing once its block is done."""
    decoding = replace(decoding, rule=Rule.EDIT, edit_threshold=edit_threshold)
    drafter = adapter(FAMILIES[family], weights)
    run = sampler(MODELS[family], drafter, decoding, stop=stop - banned, banned=banned)
    snapshots = list(run.run(prompt))
    final = snapshots[-1]
    assert all(final.settled) and set(final.tokens).isdisjoint(stop | banned)
    assert final.ended or len(final.tokens) == decoding.max_tokens
    changes = 0
    for index in range(len(final.tokens)):
        held = [s.tokens[index] for s in snapshots if index < len(s.tokens) and s.settled[index]]
        distinct = [token for token, _ in itertools.groupby(held)]
        assert len(set(distinct)) == len(distinct) <= 1 + MOST_EDITS
        assert index % decoding.block_size or len(distinct) == 1, "an exact token stays"
        changes += len(distinct) - 1
    assert changes <= run.edits
    blocks = -(-decoding.max_tokens // decoding.block_size)
    assert run.forwards <= 2 * ((1 + MOST_EDITS) * decoding.max_tokens + blocks)


def test_a_text_without_masks_is_revised_in_its_place() -> None:
    """A line that the adapter has learned, with wrong tokens: only those that may change do."""
    model, drafter = toy_base(), toy_adapter()
    line = Letters().encode(toy_line(random.Random(5), 24))
    wrong = Letters().encode(toy_line(random.Random(6), 24))
    prompt, text = line[:8], wrong[8:]
    kept = Canvas(tuple(text), (False,) * len(text), (1.0,) * len(text))
    decoding = replace(DIFFUSION, rule=Rule.EDIT, edit_threshold=1e-3)
    editable = tuple(index % 2 == 1 for index in range(len(text)))
    run = sampler(model, drafter, decoding)
    final = last(run.run(prompt, replace(kept, editable=editable)))
    changed = [a != b for a, b in zip(final.tokens, text, strict=True)]
    assert run.edits >= sum(changed) > 0
    assert not any(is_new and not may for is_new, may in zip(changed, editable, strict=True))
    run = sampler(model, drafter, replace(decoding, rule=Rule.THRESHOLD))
    assert last(run.run(prompt, replace(kept, editable=editable))).tokens == tuple(text)


def forwards_at_most(decoding: DecodingConfig) -> int:
    """One a token; by the schedule at most its steps a block."""
    sizes = [decoding.block_size] * (decoding.max_tokens // decoding.block_size)
    sizes.append(decoding.max_tokens % decoding.block_size)
    if decoding.rule is Rule.SCHEDULE:
        return sum(min(decoding.denoising_steps or size, size) for size in sizes)
    return sum(sizes)


def plain_diffusion(
    model: Transformer, drafter: GatedAdapter, prompt: list[int], decoding: DecodingConfig
) -> list[tuple[list[int], list[bool]]]:
    """Tokens and settled after every forward: every forward over everything, without cache."""
    accepted: list[int] = []
    seen, most = [], decoding.block_size
    while len(accepted) < decoding.max_tokens:
        size = min(most, decoding.max_tokens - len(accepted))
        tokens, masked, step = [0] * size, [True] * size, 0
        before: list[int] = []
        while any(masked):
            logits = noisy_logits(model, drafter, prompt + accepted, tokens, masked)[:size]
            probabilities = logits.softmax(-1)
            proposed = logits.argmax(-1).tolist()
            pairs = zip(masked, proposed, tokens, strict=True)
            tokens = [new if hidden else old for hidden, new, old in pairs]
            confidence = probabilities.max(-1).values
            entropy = -(probabilities * probabilities.log()).sum(-1)
            if step == 0:
                confidence[0], entropy[0] = 2.0, 0.0  # the base's own token comes first
            chosen = to_unmask(decoding, confidence, entropy, torch.tensor(masked), step, size)
            sure = [float(probabilities[i].max()) for i in range(size) if masked[i]]
            if decoding.rule is Rule.STABLE and before == tokens:
                if min(sure) > LEAST_SURE * decoding.threshold:
                    chosen = torch.ones(size, dtype=torch.bool)
            before = tokens
            masked = (torch.tensor(masked) & ~chosen).tolist()
            step += 1
            settled = [True] * len(accepted) + [not hidden for hidden in masked]
            seen.append((accepted + tokens, settled))
        accepted = accepted + tokens
        most = next_size(decoding, most, step)
    return seen


@given(
    family=st.sampled_from(sorted(FAMILIES)),
    decoding=st.builds(
        replace, DECODING, rule=st.sampled_from(DENOISING), temperature=st.just(0.0)
    ),
    prompt=PROMPT,
)
@settings(max_examples=30, deadline=None)
def test_diffusion_with_the_cache_is_diffusion_without_it(
    family: str, decoding: DecodingConfig, prompt: list[int]
) -> None:
    model, drafter = MODELS[family], ADAPTERS[family]
    snapshots = list(sampler(model, drafter, decoding).run(prompt))
    found = [(list(s.tokens), list(s.settled)) for s in snapshots]
    assert found == plain_diffusion(model, drafter, prompt, decoding)


def test_the_schedule_takes_its_steps_exactly() -> None:
    """Three blocks of 4, 4 and 3 masks in two steps each."""
    decoding = replace(DIFFUSION, rule=Rule.SCHEDULE, denoising_steps=2, max_tokens=11)
    run = sampler(MODELS["qwen2"], ADAPTERS["qwen2"], decoding)
    counts = [sum(snapshot.settled) for snapshot in run.run([1, 2, 3])]
    assert counts == [2, 4, 6, 8, 10, 11]


def test_a_sure_model_settles_a_block_at_once() -> None:
    decoding = replace(DIFFUSION, rule=Rule.THRESHOLD, threshold=1e-6)
    run = sampler(MODELS["qwen2"], ADAPTERS["qwen2"], decoding)
    assert [sum(snapshot.settled) for snapshot in run.run([1, 2, 3])] == [4, 8, 12]


def test_diffusion_of_single_tokens_is_ar() -> None:
    """A block of one is filled from the last exact token: no adapter has a say in it."""
    for family, model in MODELS.items():
        expected = last(sampler(model, None, AR).run([3, 1, 4]))
        single = replace(DIFFUSION, block_size=1)
        assert last(sampler(model, ADAPTERS[family], single).run([3, 1, 4])).tokens == (
            expected.tokens
        )


def test_a_learned_adapter_fills_a_line_in_blocks() -> None:
    """With the threshold high the draft of the toy is mostly the line that goes on."""
    rng, right, total, forwards = random.Random(3), 0, 0, 0
    for _ in range(5):
        line = toy_line(rng, 22)
        prompt, rest = Letters().encode(line[:12]), Letters().encode(line[12:20])
        decoding = replace(DIFFUSION, max_tokens=8, threshold=0.6)
        run = sampler(toy_base(), toy_adapter(), decoding)
        final = last(run.run(prompt))
        right += sum(a == b for a, b in zip(final.tokens, rest, strict=True))
        total, forwards = total + len(rest), forwards + run.forwards
    assert right > 0.5 * total
    assert forwards < total


# --- all modes ---------------------------------------------------------------------------------


def within_the_context(run: Sampler, prompt: list[int], canvas: Canvas = Canvas()) -> Snapshot:
    """The last snapshot; no forward may have a position behind the last one of the model."""

    def runner(forwards: Sequence[Forward]) -> list[Tensor]:
        for one in forwards:
            assert int(one.positions.max()) < run.model.config.max_positions
        return run_forwards(run.model, forwards)

    run.alone = runner  # type: ignore[method-assign]
    return last(run.run(prompt, canvas))


SHORT_SHAPE = replace(FAMILIES["qwen2"], max_positions=16)
SHORT, SHORT_ADAPTER = transformer(SHORT_SHAPE, seed=11), adapter(SHORT_SHAPE, 12)
LATE = [
    *((replace(VERIFY, block_size=width), Speculation(CHEAP, 4)) for width in (1, 3, 8)),
    (VERIFY, Speculation(INT8, 16)),
    *((replace(DIFFUSION, rule=rule, threshold=0.3), Speculation()) for rule in Rule),
    (replace(DIFFUSION, block_size=1), Speculation()),
    (replace(DIFFUSION, block_size=16), Speculation()),
]


@pytest.mark.parametrize(("decoding", "speculation"), LATE)
def test_every_mode_writes_up_to_the_last_position(
    decoding: DecodingConfig, speculation: Speculation
) -> None:
    """As far as `ar`, whose last token is what the last position says, and never behind it."""
    rng = random.Random(5)
    for most in range(1, 14):
        prompt = [rng.randrange(VOCAB) for _ in range(17 - most)]
        for limit, temperature in ((most, 0.0), (most + 200, 1.0), (most + 1, 0.0)):
            config = replace(decoding, max_tokens=limit, temperature=temperature)
            run = sampler(SHORT, SHORT_ADAPTER, config, speculation=speculation)
            found = within_the_context(run, prompt)
            assert len(found.tokens) == most and not found.ended
            assert run.cache.length == len(prompt) - 1
            if temperature == 0.0 and config.mode is Mode.VERIFY:
                ar = sampler(SHORT, None, replace(config, mode=Mode.AR))
                assert found.tokens == within_the_context(ar, prompt).tokens


@pytest.mark.parametrize("room", [1, 2, 3, 6, 11])
def test_a_canvas_may_end_at_the_last_position(room: int) -> None:
    prompt, tokens = list(range(17 - room)), tuple(range(room))
    masked = tuple(i % 3 != 1 for i in range(room))
    allowed = {room - 1: torch.tensor([7])} if masked[-1] else {}
    run = sampler(SHORT, SHORT_ADAPTER, DIFFUSION)
    found = within_the_context(run, prompt, Canvas(tokens, masked, (0.5,) * room, allowed))
    kept = [i for i in range(room) if not masked[i]]
    assert [found.tokens[i] for i in kept] == kept
    assert len(found.tokens) == room and all(found.settled)
    assert not masked[-1] or found.tokens[-1] == 7


def test_the_end_token_may_come_last_of_all() -> None:
    prompt = [1] * 12
    for decoding in (VERIFY, DIFFUSION, AR):
        free = last(sampler(SHORT, SHORT_ADAPTER, decoding).run(prompt)).tokens
        stop = [free[-1]] if free[-1] not in free[:-1] else []
        found = last(sampler(SHORT, SHORT_ADAPTER, decoding, stop=stop).run(prompt))
        assert found.tokens == (free[:-1] if stop else free)
        assert found.ended == bool(stop)


@pytest.mark.parametrize("temperature", [1e-300, 1e-39, 1e-6, 1e-4, 10.0])
@pytest.mark.parametrize("top_p", [5e-324, 1e-300, 1e-8, 1.0 - 2**-53, 1.0])
def test_no_temperature_and_no_mass_is_too_small(temperature: float, top_p: float) -> None:
    for mode in (AR, VERIFY, DIFFUSION):
        decoding = replace(mode, max_tokens=6, temperature=temperature, top_p=top_p)
        final = last(sampler(MODELS["qwen2"], ADAPTERS["qwen2"], decoding).run([1, 2, 3]))
        assert len(final.tokens) == 6
        if mode is AR and (temperature <= 1e-4 or top_p <= 1e-8):
            greedy = last(sampler(MODELS["qwen2"], None, AR).run([1, 2, 3]))
            assert final.tokens == greedy.tokens[:6]


@MODES
@pytest.mark.parametrize("temperature", [0.0, 1.5])
@pytest.mark.parametrize("limit", [1, 2, 5, 9])
def test_max_tokens_is_exact(decoding: DecodingConfig, temperature: float, limit: int) -> None:
    """Without any end token; and no snapshot shows more."""
    decoding = replace(decoding, max_tokens=limit, temperature=temperature)
    snapshots = list(sampler(MODELS["qwen2"], ADAPTERS["qwen2"], decoding).run([1, 2, 3]))
    assert len(snapshots[-1].tokens) == limit
    assert not snapshots[-1].ended
    assert max(len(snapshot.tokens) for snapshot in snapshots) <= limit


@MODES
def test_the_end_token_ends_the_text_and_is_no_part_of_it(decoding: DecodingConfig) -> None:
    """Whichever token of a free text is made the end: what is before it stays the same."""
    model, drafter, prompt = MODELS["llama"], ADAPTERS["llama"], [1, 2, 3]
    for seed in range(3):
        free = last(sampler(model, drafter, decoding).run([*prompt, seed]))
        for end in set(free.tokens):
            final = last(sampler(model, drafter, decoding, stop=[end]).run([*prompt, seed]))
            assert final.ended
            assert end not in final.tokens
            if decoding.mode is not Mode.DIFFUSION:
                assert final.tokens == free.tokens[: free.tokens.index(end)]


@MODES
@pytest.mark.parametrize("temperature", [0.0, 1.0, 10.0])
def test_banned_tokens_are_never_shown(decoding: DecodingConfig, temperature: float) -> None:
    """All but three are banned: with so few left every one of them comes up."""
    banned = [i for i in range(VOCAB) if i not in (4, 9, 30)]
    seen: set[int] = set()
    for seed in range(4):
        settings_ = replace(decoding, temperature=temperature, seed=seed)
        run = sampler(MODELS["qwen3"], ADAPTERS["qwen3"], settings_, banned=banned)
        for snapshot in run.run([4, seed]):
            seen |= set(snapshot.tokens)
    assert seen <= {4, 9, 30}
    assert temperature == 0.0 or seen == {4, 9, 30}


class Spelled:
    """Limits the first tokens to given choices."""

    def __init__(self, *choices: Sequence[int]) -> None:
        self.choices = choices

    def allowed(self, so_far: Sequence[int]) -> Sequence[int] | None:
        return self.choices[len(so_far)] if len(so_far) < len(self.choices) else None


@MODES
@pytest.mark.parametrize("temperature", [0.0, 2.0])
def test_a_constraint_binds_the_first_tokens_and_no_more(
    decoding: DecodingConfig, temperature: float
) -> None:
    model, drafter = MODELS["qwen2"], ADAPTERS["qwen2"]
    limits = ([7], [3, 5, 20], [11, 12])
    for seed in range(4):
        settings_ = replace(decoding, temperature=temperature, seed=seed)
        run = sampler(model, drafter, settings_, constraint=Spelled(*limits))
        snapshots = list(run.run([1, seed]))
        tokens = snapshots[-1].tokens
        assert len(tokens) == decoding.max_tokens
        assert all(token in limit for token, limit in zip(tokens, limits, strict=False))
        for snapshot in snapshots:
            firm = zip(snapshot.settled_prefix, limits, strict=False)
            assert all(token in limit for token, limit in firm)
        after = last(sampler(model, drafter, settings_).run([1, seed, *tokens[:3]]))
        if temperature == 0.0 and decoding.mode is not Mode.DIFFUSION:
            assert tokens[3:] == after.tokens[: decoding.max_tokens - 3]


@MODES
def test_the_first_bound_token_is_the_most_likely_of_the_choices(decoding: DecodingConfig) -> None:
    model = MODELS["llama"]
    choices, prompt = [2, 8, 17, 31], [5, 6, 7]
    logits = forward(model, prompt)[-1]
    expected = max(choices, key=lambda i: float(logits[i]))
    run = sampler(model, ADAPTERS["llama"], decoding, constraint=Spelled(choices))
    assert last(run.run(prompt)).tokens[0] == expected


class Switch:
    """A cancel flag that goes up the n-th time it is looked at."""

    def __init__(self, at: int | None = None) -> None:
        self.at, self.looked = at, 0

    def __call__(self) -> bool:
        self.looked += 1
        return self.looked - 1 == self.at


def alike(snapshots: Iterable[Snapshot], others: Sequence[Snapshot]) -> bool:
    """The same but for the rounding of forwards of other sizes: less was left to encode."""
    return [replace(one, confidence=()) for one in snapshots] == [
        replace(one, confidence=()) for one in others
    ]


def contents(cache: BlockCache) -> list[torch.Tensor]:
    return [torch.stack(cache.committed(layer)).clone() for layer in range(2)]


def test_a_second_way_that_comes_true_leaves_what_one_alone_would(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each letter was followed by two, the latest of which the base does not say now."""
    model, prompt = toy_base(), Letters().encode("egikmo\nabcdefghijklmnop\nac")
    forwards = {}
    for ways in (1, 2):
        monkeypatch.setattr(verify, "_WAYS", ways)
        decoding, cache = replace(VERIFY, max_tokens=4), cache_for(model)
        run = sampler(model, None, decoding, cache=cache, speculation=Speculation(FREE, 8))
        with run.writing(prompt) as generation:
            snapshot = NOTHING
            while isinstance(forward := generation.next_forward(), Forward):
                snapshot = generation.take(run.alone([forward])[0]) or snapshot
                text = [*prompt, *snapshot.settled_prefix][: cache.length]
                fresh = sampler(model, None, AR, cache=cache_for(model))
                fresh.prefill([*text, 0])
                for one, other in zip(contents(cache), contents(fresh.cache), strict=True):
                    torch.testing.assert_close(one, other, atol=1e-5, rtol=0)
        assert Letters().decode(snapshot.tokens) == "egik"
        forwards[ways] = run.forwards
    assert forwards[2] < forwards[1]


TRUST = DecodingConfig(mode=Mode.DIFFUSION, block_size=3, max_tokens=12)


@pytest.mark.parametrize("decoding", [AR, VERIFY, TRUST], ids=lambda d: d.mode.value)
def test_what_is_left_of_the_prompt_comes_with_the_first_forward(decoding: DecodingConfig) -> None:
    """Whatever of it is known: the same text, and no forward for the last token alone."""
    model, drafter, prompt = MODELS["qwen2"], ADAPTERS["qwen2"], [1, 2, 3, 4, 5, 6]
    whole = list(sampler(model, drafter, decoding).run(prompt))
    for known in range(1, len(prompt)):
        cache = cache_for(model)
        run = sampler(model, drafter, decoding, cache=cache)
        run.prefill(prompt[: known + 1])
        assert cache.length == known
        assert list(run.prefilling(prompt, run.most_left())) == []
        assert alike(run.run(prompt), whole)
        assert cache.length == len(prompt) - 1


@MODES
def test_cancelled_at_any_forward_it_leaves_nothing_behind(decoding: DecodingConfig) -> None:
    """Invariant 6: the cache is at the prompt at most, and the next request is none the wiser."""
    model = transformer(config(max_positions=1024), seed=2)
    drafter = adapter(model.config, 3)
    prompt = torch.randint(0, VOCAB, (300,), generator=torch.Generator().manual_seed(1)).tolist()
    flag = Switch()
    whole = list(sampler(model, drafter, decoding, cancelled=flag).run(prompt))
    assert flag.looked > len(whole), "asked while the context is encoded, too"
    for at in range(flag.looked):
        cache = cache_for(model)
        run = sampler(model, drafter, decoding, cache=cache, cancelled=Switch(at))
        seen = []
        with pytest.raises(Cancelled):
            for snapshot in run.run(prompt):
                seen.append(snapshot)
        assert seen == whole[: len(seen)]
        assert cache.length < len(prompt)
        assert alike(sampler(model, drafter, decoding, cache=cache).run(prompt), whole)


@MODES
def test_a_reader_who_goes_away_leaves_nothing_behind(decoding: DecodingConfig) -> None:
    model, drafter, prompt = MODELS["qwen2"], ADAPTERS["qwen2"], [1, 2, 3, 4]
    whole = list(sampler(model, drafter, decoding).run(prompt))
    for taken in range(1, len(whole)):
        cache = cache_for(model)
        snapshots = sampler(model, drafter, decoding, cache=cache).run(prompt)
        assert list(itertools.islice(snapshots, taken)) == whole[:taken]
        snapshots.close()
        assert cache.length == len(prompt) - 1
        assert alike(sampler(model, drafter, decoding, cache=cache).run(prompt), whole)


@MODES
def test_a_whole_generation_leaves_the_prompt_and_nothing_else(decoding: DecodingConfig) -> None:
    model, drafter, prompt = MODELS["qwen2"], ADAPTERS["qwen2"], [1, 2, 3, 4]
    used, fresh = cache_for(model), cache_for(model)
    last(sampler(model, drafter, decoding, cache=used).run(prompt))
    last(sampler(model, drafter, replace(AR, max_tokens=1), cache=fresh).run(prompt))
    assert used.length == fresh.length == 3
    for one, other in zip(contents(used), contents(fresh), strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=0)


@MODES
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_the_same_seed_gives_the_same_text_cold_or_warm(
    decoding: DecodingConfig, temperature: float
) -> None:
    """Invariant 7: whatever the cache served before, as long as it holds a prefix of the prompt."""
    model, drafter = MODELS["qwen3"], ADAPTERS["qwen3"]
    prompt = [1, 2, 3, 4, 5, 6, 7, 8]

    def text(cache: BlockCache, seed: int) -> Snapshot:
        settings_ = replace(decoding, temperature=temperature, seed=seed)
        return last(sampler(model, drafter, settings_, cache=cache).run(prompt))

    cold = text(cache_for(model), 5)
    warm = cache_for(model)
    for shared in (8, 7, 4, 1, 0):
        other = prompt[:shared] + [30] * 9
        last(sampler(model, drafter, decoding, cache=warm).run(other))
        warm.truncate(min(shared, warm.length))
        assert text(warm, 5).tokens == cold.tokens
        assert text(warm, 5).confidence == pytest.approx(cold.confidence, abs=1e-5)
    if temperature:
        assert len({text(warm, seed).tokens for seed in range(5)}) == 5


@pytest.mark.parametrize("length", [1, 2, 255, 256, 257, 258, 513, 600])
def test_a_long_context_is_encoded_in_pieces_that_do_not_show(length: int) -> None:
    model = transformer(config(max_positions=1024), seed=2)
    g = torch.Generator().manual_seed(length)
    prompt = torch.randint(0, VOCAB, (length,), generator=g).tolist()
    final = last(sampler(model, None, replace(AR, max_tokens=3)).run(prompt))
    assert list(final.tokens) == greedy_oracle(model, prompt, 3, [], [])


def test_a_mode_that_needs_an_adapter_says_so() -> None:
    cache = cache_for(MODELS["llama"])
    with pytest.raises(ModelUnsupported, match="diffusion .* adapter"):
        next(iter(sampler(MODELS["llama"], None, DIFFUSION, cache=cache).run([1, 2])))
    assert cache.length == 0


@MODES
def test_the_weights_and_the_prompt_are_left_alone(decoding: DecodingConfig) -> None:
    model: Transformer = MODELS["llama"]
    drafter: GatedAdapter = ADAPTERS["llama"]
    weights = [*model.parameters(), *drafter.parameters()]
    before, prompt = [p.clone() for p in weights], [1, 2, 3]
    last(sampler(model, drafter, decoding).run(prompt))
    assert all(map(torch.equal, before, weights))
    assert prompt == [1, 2, 3]
