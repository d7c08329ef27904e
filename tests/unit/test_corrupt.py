"""Noisy blocks and their targets, against the rule spelled out position by position."""

from __future__ import annotations

import math
import random
from collections.abc import Iterable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import Letters, Text, toy_documents

from blockdiff.errors import InvalidRequest
from blockdiff.train.corrupt import (
    CorruptionConfig,
    NoisyBlocks,
    at_level,
    choose_starts,
    fully_masked,
    noisy_blocks,
)
from blockdiff.train.noise import absorbing
from blockdiff.train.sequences import Sequence, SequenceConfig, sequences

VOCAB = 50
CLEAN = 1000  # clean ids lie above the vocabulary of replacements, so that each of those shows
Row = tuple[int, int, float, int, int]  # row, id, weight, teacher row, offset


def clean_tokens(length: int) -> torch.Tensor:
    return torch.arange(CLEAN, CLEAN + length)


def oracle(
    noisy: NoisyBlocks, size: int, real: int, t: float, keep: float, keep_all: bool = False
) -> list[Row]:
    """The shift rule by a plain loop: position p predicts token p + 1, itself in the same block.

    A corrupted token weighs 1/t, a visible one `keep`, the token behind the block 1, padding 0.
    """
    rows = []
    for k, start in enumerate(noisy.starts):
        for j in range(size):
            row, position = k * size + j, start + j
            behind = j == size - 1
            masked = not behind and bool(noisy.masked[row + 1])
            replaced = not behind and int(noisy.tokens[row + 1]) < VOCAB
            weight = 1.0 if behind else 1.0 / t if masked or replaced else keep
            if position + 1 >= real:
                weight = 0.0
            if weight or keep_all:
                rows.append((row, CLEAN + position + 1, weight, position, j + 1))
    return rows


def targets_of(noisy: NoisyBlocks) -> list[Row]:
    t = noisy.targets
    columns = (t.rows, t.ids, t.weights, t.teacher_rows, noisy.offsets)
    return list(zip(*(column.tolist() for column in columns), strict=True))


def assert_same(found: list[Row], expected: list[Row]) -> None:
    assert [row[:2] + row[3:] for row in found] == [row[:2] + row[3:] for row in expected]
    assert [row[2] for row in found] == pytest.approx([row[2] for row in expected])


@st.composite
def places(draw: st.DrawFn) -> tuple[int, int, int, list[int]]:
    """Length, where padding begins, block size, and block starts."""
    size = draw(st.integers(1, 6))
    length = draw(st.integers(size + 2, 40))
    real = draw(st.integers(2, length))
    every = range(1, length - size)
    starts = draw(st.lists(st.sampled_from(every), min_size=1, max_size=5, unique=True))
    return length, real, size, sorted(starts)


@pytest.mark.parametrize("kind", ["full", "partial", "replaced", "masked or kept"])
@given(place=places(), t=st.floats(0.1, 1.0), seed=st.integers(0, 999))
@settings(max_examples=40, deadline=None)
def test_targets_follow_the_shift_rule(
    kind: str, place: tuple[int, int, int, list[int]], t: float, seed: int
) -> None:
    length, real, size, starts = place
    share = "replaced" if kind == "masked or kept" else kind
    shares = {"full": 0.0, "partial": 0.0, "replaced": 0.0} | {share: 1.0}
    mask_share = {"replaced": 0.4, "masked or kept": 1.0}.get(kind, 0.5)
    config = CorruptionConfig(**shares, t_min=t, t_max=t, mask_share=mask_share, keep_weight=0.25)
    g = torch.Generator().manual_seed(seed)
    noisy = noisy_blocks(clean_tokens(length), real, starts, size, config, VOCAB, g)
    level = 1.0 if kind == "full" else t
    keep = 0.25 if share == "replaced" else 0.0
    assert_same(targets_of(noisy), oracle(noisy, size, real, level, keep))
    assert noisy.positions.tolist() == [s + j for s in starts for j in range(size)]
    visible = ~noisy.masked & (noisy.tokens >= VOCAB)
    assert torch.equal(noisy.tokens[visible], CLEAN + noisy.positions[visible])
    if kind == "full":
        assert bool(noisy.masked.all())
    if kind in ("partial", "masked or kept"):
        assert bool((noisy.tokens >= VOCAB).all()), "nothing is replaced"


@given(place=places())
@settings(max_examples=40, deadline=None)
def test_fully_masked_blocks_keep_a_place_for_every_offset(
    place: tuple[int, int, int, list[int]],
) -> None:
    length, real, size, starts = place
    noisy = fully_masked(clean_tokens(length), real, starts, size)
    assert_same(targets_of(noisy), oracle(noisy, size, real, 1.0, 0.0, keep_all=True))
    assert noisy.offsets.tolist() == list(range(1, size + 1)) * len(starts)


@given(place=places(), t=st.floats(0.1, 1.0), seed=st.integers(0, 999))
@settings(max_examples=40, deadline=None)
def test_blocks_at_a_level_weigh_by_it(
    place: tuple[int, int, int, list[int]], t: float, seed: int
) -> None:
    length, _, size, starts = place
    g = torch.Generator().manual_seed(seed)
    level = torch.full((len(starts), 1), t)
    noisy = at_level(clean_tokens(length), starts, size, level, absorbing(VOCAB), g)
    assert_same(targets_of(noisy), oracle(noisy, size, length, t, 0.0))


@given(
    first=st.integers(0, 12),
    length=st.integers(0, 40),
    size=st.integers(1, 8),
    count=st.integers(0, 60),
    seed=st.integers(0, 99),
)
@settings(max_examples=80, deadline=None)
def test_starts_are_distinct_places_with_something_before_and_behind(
    first: int, length: int, size: int, count: int, seed: int
) -> None:
    starts = choose_starts(first, length, size, count, torch.Generator().manual_seed(seed))
    possible = [s for s in range(max(first, 1), length) if s + size < length]
    assert starts == sorted(set(starts))
    assert set(starts) <= set(possible)
    assert len(starts) == min(count, len(possible))


def test_every_place_gets_its_turn() -> None:
    g = torch.Generator().manual_seed(0)
    seen = {s for _ in range(200) for s in choose_starts(4, 20, 5, 2, g)}
    assert seen == set(range(4, 15))


def test_the_three_kinds_come_in_their_shares() -> None:
    """At a level at which no kind looks like another one."""
    size, blocks = 10, 3000
    config = CorruptionConfig(
        full=0.5, partial=0.2, replaced=0.3, t_min=0.5, t_max=0.5, mask_share=0.0
    )
    starts = list(range(1, blocks + 1))
    g = torch.Generator().manual_seed(1)
    clean = clean_tokens(blocks + size + 2)
    noisy = noisy_blocks(clean, len(clean), starts, size, config, VOCAB, g)
    masked = noisy.masked.view(blocks, size).float().mean(1)
    replaced = (noisy.tokens < VOCAB).view(blocks, size).any(1)
    unchanged = 0.5**size
    counts = {
        "full": (int((masked == 1).sum()), 0.5 + 0.2 * unchanged),
        "replaced": (int(replaced.sum()), 0.3 * (1 - unchanged)),
    }
    for count, share in counts.values():
        assert abs(count - blocks * share) <= 5.0 * math.sqrt(blocks * share * (1 - share))
    assert not bool(noisy.masked.view(blocks, size)[replaced].any())
    partial = masked[(masked < 1) & (masked > 0)]
    assert float(partial.mean()) == pytest.approx(0.5, abs=0.05)


def test_the_level_stays_in_its_range() -> None:
    config = CorruptionConfig(full=0.0, partial=1.0, replaced=0.0, t_min=0.25, t_max=0.5)
    g = torch.Generator().manual_seed(2)
    noisy = noisy_blocks(clean_tokens(900), 900, list(range(1, 800)), 6, config, VOCAB, g)
    inside = noisy.targets.weights[noisy.offsets < 6]
    assert 2.0 <= float(inside.min()) < 2.1
    assert 3.8 < float(inside.max()) <= 4.0


def test_replaced_blocks_have_a_range_of_their_own() -> None:
    config = CorruptionConfig(
        full=0.0,
        partial=0.0,
        replaced=1.0,
        t_min=0.8,
        t_max=0.9,
        replaced_t_min=0.1,
        replaced_t_max=0.2,
        mask_share=0.0,
    )
    g = torch.Generator().manual_seed(3)
    noisy = noisy_blocks(clean_tokens(900), 900, list(range(1, 800)), 6, config, VOCAB, g)
    share = float((noisy.tokens < VOCAB).float().mean())
    assert share == pytest.approx(0.15, abs=0.02)


@pytest.mark.parametrize("nearby", [0.0, 0.5, 1.0])
def test_a_share_of_the_wrong_tokens_comes_from_the_text(nearby: float) -> None:
    config = CorruptionConfig(
        full=0.0,
        partial=0.0,
        replaced=1.0,
        t_min=0.5,
        t_max=0.5,
        mask_share=0.0,
        nearby_share=nearby,
    )
    g = torch.Generator().manual_seed(4)
    real = 700
    noisy = noisy_blocks(clean_tokens(900), real, list(range(1, 600)), 6, config, VOCAB, g)
    foreign = noisy.tokens < VOCAB
    moved = ~foreign & (noisy.tokens != CLEAN + noisy.positions)
    found = float(moved.sum() / (moved | foreign).sum())
    assert found == pytest.approx(nearby, abs=0.05)
    assert bool((noisy.tokens[moved] < CLEAN + real).all()), "padding is nobody's token"


@pytest.mark.parametrize(
    "bad",
    [
        {"full": 0.7},
        {"full": 1.0},
        {"t_min": 0.0},
        {"t_min": 0.95},
        {"t_max": 1.5},
        {"replaced_t_max": 0.2},
        {"replaced_t_min": 1.5},
        {"nearby_share": 1.5},
    ],
)
def test_shares_and_levels_that_contradict_themselves_are_refused(bad: dict[str, float]) -> None:
    with pytest.raises(InvalidRequest):
        CorruptionConfig(**bad)


# --- sequences ---------------------------------------------------------------------------------


def made(config: SequenceConfig, documents: Iterable[Text], seed: int = 0) -> list[Sequence]:
    return list(sequences(documents, Letters(), config, random.Random(seed)))


def test_a_plain_sequence_is_a_stretch_of_the_document() -> None:
    letters = Letters()
    for document in toy_documents(3, 10):
        for sequence in made(SequenceConfig(length=32, infill_share=0.0), [document]):
            text = letters.decode(sequence.tokens)
            assert text in document.text
            assert len(sequence.tokens) == sequence.real == 32
            assert sequence.n_bytes == len(text[sequence.first_target :].encode())


def test_an_infill_is_laid_out_as_the_base_knows_it() -> None:
    """`<prefix> P <suffix> S <middle> M <end>`, and P + M + S is a stretch of the document."""
    letters, config = Letters(), SequenceConfig(length=120, infill_share=1.0, padding=5)
    special, count = letters.special, 0
    for seed, document in enumerate(toy_documents(4, 30)):
        for sequence in made(config, [document], seed):
            count += 1
            tokens = sequence.tokens
            assert tokens[0] == special.fim_prefix
            suffix_at = tokens.index(special.fim_suffix)
            middle_at = tokens.index(special.fim_middle)
            end_at = tokens.index(special.end_of_text)
            prefix = letters.decode(tokens[1:suffix_at])
            suffix = letters.decode(tokens[suffix_at + 1 : middle_at])
            middle = letters.decode(tokens[middle_at + 1 : end_at])
            assert prefix + middle + suffix in document.text
            assert (sequence.first_target, sequence.real) == (middle_at + 1, end_at + 1)
            assert tokens[sequence.real :] == [special.end_of_text] * 5
            assert sequence.real <= config.length
            assert sequence.n_bytes == len(middle.encode())
    assert count >= 10


def test_a_document_too_short_makes_no_sequence() -> None:
    for share in (0.0, 1.0):
        assert made(SequenceConfig(length=64, infill_share=share), [Text("ab")]) == []
