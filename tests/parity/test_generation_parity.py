"""Greedy generation is that of the published loops, token for token.

`generation.npz` holds what their code wrote (see `make_generation_references.py`); where that code
is not to be had, the published algorithm stands here as a plain loop.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch

from blockdiff.config import Mode
from blockdiff.diffusion.choose import Chooser
from blockdiff.diffusion.dllm.sampler import AbsorbingSampler
from blockdiff.diffusion.sampler import Sampler
from blockdiff.model import masks
from blockdiff.model.cache import BlockCache
from blockdiff.model.load.from_folder import load_transformer
from blockdiff.model.transformer import Transformer
from tests.parity.family_checkpoints import MASK
from tests.parity.generation_cases import CASES, FOLDER, PROMPTS, Case
from tests.unit import tiny

PLAIN = ["fast-dllm", "nemotron-ar", "nemotron-verify", "nemotron-diffusion"]
PUBLISHED = sorted(set(CASES) - set(PLAIN))


@cache
def references() -> dict[str, np.ndarray]:
    with np.load(FOLDER / "generation.npz") as stored:
        return dict(stored)


def written(case: Case, model: Transformer, before: list[int], after: list[int]) -> list[int]:
    """The hole as our sampler fills it, nothing cut off at an end token."""
    if case.family == "nemotron":
        return list(tiny.last(tri_mode(case, model).run(before)).tokens)
    sampler = AbsorbingSampler(
        model=model,
        kind=case.kind,
        cache=BlockCache(model.config, capacity=4),
        chooser=Chooser([MASK]),
        stop=frozenset(),
        config=case.config,
        cancelled=lambda: False,
        after=after,
        by_entropy=case.by_entropy,
        length=case.config.max_tokens if case.fixed else None,
    )
    snapshot = tiny.last(sampler.run(before))
    assert all(snapshot.settled)
    return list(snapshot.tokens)


def tri_mode(case: Case, model: Transformer) -> Sampler:
    return Sampler(
        model=model,
        adapter=None,
        cache=BlockCache(model.config, capacity=4),
        chooser=Chooser([MASK]),
        stop=frozenset(),
        config=case.config,
        cancelled=lambda: False,
        own_mask=MASK,
    )


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_text_is_that_of_the_published_loop(name: str, tmp_path: Path) -> None:
    case = CASES[name]
    model = load_transformer(case.write(tmp_path), dtype=torch.float32)
    table = references()[name]
    assert len(table) == PROMPTS
    for row, (before, after) in zip(table, case.prompts(), strict=True):
        expected = [int(token) for token in row if token >= 0]
        assert written(case, model, before, after) == expected


def test_holes_of_several_lengths_are_among_the_references() -> None:
    """Otherwise growing, shrinking and searching would be tested by nothing."""
    for name in ("dreamon", "cal"):
        lengths = {int((row >= 0).sum()) for row in references()[name]}
        assert len(lengths) > 4 and min(lengths) < 8 < max(lengths)


def fast_dllm(case: Case, model: Transformer, before: list[int]) -> list[int]:
    """Fast-dLLM v2, arXiv 2509.26328, without a cache: every forward reads everything again."""
    size, sub = case.kind.block_size, case.kind.sub_block_size
    assert size is not None and sub is not None

    def logits(tokens: list[int]) -> torch.Tensor:
        rows = tiny.forward(model, tokens, masks.block(0, len(tokens), size))
        rows[:, MASK] = -torch.inf
        return rows

    tokens = list(before)
    while len(tokens) < len(before) + case.config.max_tokens:
        if len(tokens) % size == 0:  # the block before says what comes first
            tokens.append(int(logits(tokens)[-1].argmax()))
        start = len(tokens) // size * size
        tokens += [MASK] * (start + size - len(tokens))
        for low in range(start, start + size, sub):
            while MASK in tokens[low : low + sub]:
                rows = logits(tokens)
                best = {}
                for at in range(low, low + sub):
                    if tokens[at] == MASK:
                        sure, token = rows[at - 1].softmax(-1).max(-1)
                        best[at] = (float(sure), int(token))
                chosen = [at for at in best if best[at][0] > case.config.threshold]
                for at in chosen or [max(best, key=lambda at: best[at][0])]:
                    tokens[at] = best[at][1]
    return tokens[len(before) :][: case.config.max_tokens]


def plain(case: Case, model: Transformer, before: list[int]) -> list[int]:
    """What the published algorithm of one of `PLAIN` writes."""
    if case.family == "nemotron":
        return nemotron(case, model, before)[0]
    return fast_dllm(case, model, before)


def test_fast_dllm_is_its_published_algorithm(tmp_path: Path) -> None:
    case = CASES["fast-dllm"]
    model = load_transformer(case.write(tmp_path), dtype=torch.float32)
    lengths = set()
    for before, after in case.prompts():
        assert written(case, model, before, after) == fast_dllm(case, model, before)
        lengths.add(len(before) % 8)
    assert 0 in lengths and len(lengths) > 3  # prompts that end with a block, and within one


def nemotron(case: Case, model: Transformer, before: list[int]) -> tuple[list[int], int]:
    """The published loops of Nemotron-Labs-Diffusion without a cache, and their forwards.

    `ar_generate`, `linear_spec_generate` and `generate` with causal context, of
    modeling_nemotron_labs_diffusion.py beside the published weights.
    """
    tokens, most, size, forwards = list(before), len(before) + case.config.max_tokens, 0, 0

    def rows(sequence: list[int], noisy: int) -> torch.Tensor:
        mask = masks.opening(0, len(sequence) - noisy, noisy)
        found = tiny.forward(model, sequence, mask)
        found[:, MASK] = -torch.inf
        return found

    tokens.append(int(rows(tokens, 0)[-1].argmax()))
    forwards += 1
    while len(tokens) < most:
        if case.config.mode is Mode.AR:
            tokens.append(int(rows(tokens, 0)[-1].argmax()))
            forwards += 1
            continue
        size = case.config.block_size
        block = [tokens[-1], *[MASK] * (size - 1)]
        while MASK in block:
            sure, best = rows([*tokens[:-1], *block], size)[-size:].softmax(-1).max(-1)
            forwards += 1
            open_ = [at for at in range(size) if block[at] == MASK]
            if case.config.mode is Mode.DIFFUSION:
                likely = [at for at in open_ if sure[at] >= case.config.threshold]
                open_ = likely or [max(open_, key=lambda at: float(sure[at]))]
            for at in open_:
                block[at] = int(best[at])
        exact = rows([*tokens[:-1], *block], 0)[-size:].argmax(-1).tolist()
        forwards += 1
        if case.config.mode is Mode.DIFFUSION:
            tokens += [*block[1:], exact[-1]]
            continue
        agreed = 0
        while agreed < size - 1 and exact[agreed] == block[agreed + 1]:
            agreed += 1
        tokens += exact[: agreed + 1]
    return tokens[len(before) : most], forwards


@pytest.mark.parametrize("name", PLAIN[1:])
def test_three_modes_of_one_set_of_weights_are_their_published_algorithms(
    name: str, tmp_path: Path
) -> None:
    case = CASES[name]
    model = load_transformer(case.write(tmp_path), dtype=torch.float32)
    for before, _ in case.prompts():
        sampler = tri_mode(case, model)
        last = tiny.last(sampler.run(before))
        theirs, forwards = nemotron(case, model, before)
        assert list(last.tokens) == theirs and all(last.settled)
        assert last.forwards <= forwards  # a draft is not longer than what is wanted
        assert sampler.cache.length == len(before) - 1
        if case.config.mode is Mode.VERIFY:
            assert theirs == nemotron(CASES["nemotron-ar"], model, before)[0]
