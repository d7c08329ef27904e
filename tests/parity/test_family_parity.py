"""Every family's logits are its reference's: at once, block by block, and with padding before."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from blockdiff.model import masks
from blockdiff.model.load.from_folder import load_transformer
from blockdiff.model.load.hub_config import kind_of
from blockdiff.model.load.kinds import AttentionPattern
from docs import checkpoints_parts
from tests.parity.family_checkpoints import CHECKPOINTS, LENGTH, tokens
from tests.parity.family_parity import (
    HERE,
    RESULTS,
    TOLERANCE,
    greedy,
    live,
    measure,
    stored,
)
from tests.parity.generation_cases import CASES, PROMPTS
from tests.parity.plain_llada2 import PlainLLaDA2

STORED = [tiny.family for tiny in CHECKPOINTS.values() if tiny.stored]


@pytest.mark.parametrize("family", CHECKPOINTS)
def test_logits_are_those_of_the_reference(family: str, tmp_path: Path) -> None:
    found = measure(CHECKPOINTS[family], tmp_path)
    assert max(found.values()) <= TOLERANCE, found
    exact_cache = kind_of(tmp_path / "ours").attention is not AttentionPattern.FULL
    assert ("cached" in found) == exact_cache


@pytest.mark.parametrize("family", ["dream", "coda", "sdar"])
def test_transformers_says_the_same_as_the_published_code(family: str, tmp_path: Path) -> None:
    """Where both can be had: the body of transformers with our mask is a reference, too."""
    tiny = CHECKPOINTS[family]
    tiny.write(tmp_path / "ours")
    full = live(tiny, kind_of(tmp_path / "ours"), tmp_path / "theirs")["full"]
    assert (full - stored(tiny)["full"]).abs().max() <= 1e-5


def test_the_plain_llada2_says_the_same_as_the_published_code() -> None:
    """What its routing by blocks is compared with, without that."""
    tiny = CHECKPOINTS["llada2"]
    seen = masks.block(0, LENGTH, tiny.config["block_size"])
    plain = PlainLLaDA2(tiny.config, tiny.weights()).logits(tokens("llada2")[0], seen)
    assert (plain - stored(tiny)["full"][0]).abs().max() <= 1e-5


def test_the_mask_of_the_family_matters() -> None:
    """The references were computed with different masks: those of one body differ."""
    dream, sdar = stored(CHECKPOINTS["dream"]), stored(CHECKPOINTS["sdar"])
    for outputs in (dream, sdar):
        assert all(torch.isfinite(logits).all() for logits in outputs.values())
        assert (outputs["full"] - outputs["padded"])[1].abs().max() > 0.1


@pytest.mark.parametrize("family", ["llada", "llada2", "sdar-moe", "ar (starcoder2)"])
def test_another_dtype_is_the_same_model(family: str, tmp_path: Path) -> None:
    """bfloat16 keeps three digits; a wrong order of rows would keep none."""
    folder = CHECKPOINTS[family].write(tmp_path)
    ids, positions = tokens(family)[:1], torch.arange(LENGTH)[None]
    mask = masks.full(0, LENGTH)
    with torch.no_grad():
        exact = load_transformer(folder, dtype=torch.float32)(ids, positions, mask)
        rounded = load_transformer(folder, dtype=torch.bfloat16)(ids, positions, mask)
    # Where two experts are nearly as good, rounding may choose the other one: most is enough.
    close = (rounded.float() - exact).abs().amax(dim=-1) <= 0.1
    assert close.float().mean() >= 0.8


def test_references_are_there_and_small() -> None:
    files = sorted((HERE / "references").iterdir())
    assert set(STORED) <= {path.stem for path in files}
    assert sum(path.stat().st_size for path in files) < 3_000_000


@pytest.mark.parametrize("family", [name for name in CHECKPOINTS if name.startswith("ar ")])
def test_greedy_text_is_what_transformers_generates(family: str, tmp_path: Path) -> None:
    same, prompts = greedy(CHECKPOINTS[family], tmp_path)
    assert same == prompts == 20


def test_results_are_of_these_checkpoints() -> None:
    """What docs/checkpoints.md is made from; `python -m tests.parity.family_parity` renews it."""
    results = json.loads(RESULTS.read_text())
    assert list(results["logits"]) == list(CHECKPOINTS)
    for family, row in results["logits"].items():
        numbers = [value for value in row.values() if isinstance(value, float)]
        assert 2 <= len(numbers) <= 3, family
        assert max(numbers) <= TOLERANCE, family
    autoregressive = {family for family in CHECKPOINTS if family.startswith("ar ")}
    assert set(results["generation"]) == {*CASES, *autoregressive}
    assert {tuple(pair) for pair in results["generation"].values()} == {(PROMPTS, PROMPTS)}


def test_the_guide_has_the_results() -> None:
    text = checkpoints_parts.GUIDE.read_text("utf-8")
    assert checkpoints_parts.updated(text) == text, "run: make docs"
