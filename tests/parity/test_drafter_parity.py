"""Every drafter drafts what the published code drafts, round after round over a growing context."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from blockdiff.model import masks
from blockdiff.model.block_drafter import BlockDrafter
from blockdiff.model.cache import BlockCache
from blockdiff.model.forward import Forward, run
from blockdiff.model.load.drafters import load_drafter
from blockdiff.model.load.from_folder import load_transformer
from blockdiff.model.transformer import Transformer
from tests.parity.drafter_checkpoints import DRAFTERS, ROUNDS, TARGET
from tests.parity.family_checkpoints import tokens
from tests.parity.family_parity import HERE, RESULTS, TOLERANCE


def loaded(name: str, folder: Path) -> tuple[Transformer, BlockDrafter]:
    target = load_transformer(TARGET.write(folder / "target"), dtype=torch.float32)
    drafter = DRAFTERS[name].write(folder / "drafter")
    return target, load_drafter(drafter, target, TARGET.family, dtype=torch.float32)


def stored(name: str) -> list[dict[str, Tensor]]:
    with np.load(HERE / "references" / "drafters.npz") as arrays:
        keys = [key.split("/") for key in arrays.files if key.split("/")[0] == name]
        rounds: list[dict[str, Tensor]] = [{} for _ in ROUNDS]
        for _, index, what in keys:
            rounds[int(index)][what] = torch.from_numpy(arrays[f"{name}/{index}/{what}"])
    return rounds


@torch.no_grad()
def measure(name: str, folder: Path) -> tuple[float, float, list[int]]:
    """Largest deviation of any logit and of any confidence, and of how many rounds of how many the
    block is the published one."""
    target, drafter = loaded(name, folder)
    text, cache = tokens(TARGET.family)[0].tolist(), BlockCache(target.config, capacity=4)
    cache.companion, config = drafter.cache(), drafter.config
    logits, chances, same = 0.0, 0.0, 0
    for (start, _), theirs in zip(ROUNDS, stored(name), strict=True):
        past, new = cache.length, start + 2 - cache.length  # one more is tried, and not accepted
        ids, positions = torch.tensor([text[past : past + new]]), torch.arange(past, past + new)
        one = Forward(ids, positions[None], masks.causal(past, new), cache)
        run(target, [one], drafter)
        cache.commit(start - past)
        seen: list[Tensor] = []
        block = [text[start]] + [config.mask_token_id] * (config.block_size - 1)
        (ours,) = run(
            target,
            [
                Forward(
                    torch.tensor([block]),
                    torch.arange(start, start + len(block))[None],
                    masks.full(start, len(block)),
                    cache.companion,
                    wanted=config.first,
                    drafts=True,
                    on_hidden=seen.append,
                )
            ],
            drafter,
        )
        logits = max(logits, float((ours - theirs["logits"]).abs().max()))
        drafted, confidence = zip(*drafter.propose(text[start], ours, seen[0]), strict=True)
        same += list(drafted) == theirs["tokens"].tolist()
        if "confidence" in theirs:
            told = (torch.tensor(confidence) - theirs["confidence"]).abs().max()
            chances = max(chances, float(told))
    assert theirs["logits"].std() > 0.3, "logits too alike to compare"
    return logits, chances, [same, len(ROUNDS)]


@pytest.mark.parametrize("name", DRAFTERS)
def test_blocks_are_the_published_ones(name: str, tmp_path: Path) -> None:
    logits, chances, (same, rounds) = measure(name, tmp_path)
    assert logits <= TOLERANCE and chances <= TOLERANCE
    assert same == rounds == 5


def test_the_term_for_the_token_before_matters() -> None:
    """Of the heads' own choices some are others than those of the logits alone."""
    for name in ("dspark", "dspark (gated)", "dspark (rnn)"):
        assert any(
            round_["logits"].argmax(-1).tolist() != round_["tokens"].tolist()
            for round_ in stored(name)
        )


def test_results_are_of_these_drafters() -> None:
    """What docs/checkpoints.md is made from; `python -m tests.parity.family_parity` renews it."""
    results = json.loads(RESULTS.read_text())["drafters"]
    assert list(results) == list(DRAFTERS)
    for row in results.values():
        assert row["logits"] <= TOLERANCE and row["blocks"] == [5, 5]
