"""The benchmarks measure what they say, here over a tiny checkpoint; no time is asserted."""

from __future__ import annotations

import pytest

from blockdiff.bench import holes, profile
from blockdiff.config import DecodingConfig, Mode
from blockdiff.engine.engine import Engine
from blockdiff.eval import heldout
from tests.unit.tiny_checkpoint import checkpoint


def test_a_profile_accounts_for_all_of_a_request() -> None:
    engine = Engine(checkpoint())
    wanted = profile.requests(2, 64, DecodingConfig(max_tokens=6), seed=1)
    report = profile.profile(engine, wanted)
    assert set(report["parts"]) == set(profile.PARTS)
    assert all(row["ms"] > 0 for row in report["parts"].values())
    assert sum(row["share"] for row in report["parts"].values()) == pytest.approx(1, abs=1e-3)
    outside = sum(report["parts"][part]["share"] for part in ("layout", "drafts", "end"))
    assert report["outside"] == pytest.approx(outside, abs=1e-3)


FILES = [
    heldout.HeldOutFile(
        "p", "1", "MIT", "python", f"{name}.py",
        "".join(f"def {name}_{n}(width):\n    # {n}\n    return width * {n}\n\n" for n in range(9)),
    )
    for name in ("alpha", "beta")
]  # fmt: skip


def test_the_holes_of_a_task_are_lines_of_code_apart_from_one_another() -> None:
    engine = Engine(checkpoint())
    made = list(holes.tasks(FILES, engine.tokenizer, 4, DecodingConfig(), 256, seed=1))
    assert {task.id for task in made} == {file.id for file in FILES}
    for task in made:
        lines = task.request.document.split("\n")
        rows = [task.request.document.count("\n", 0, hole.start) for hole in task.request.holes]
        assert all(later - row >= 3 for row, later in zip(rows, rows[1:], strict=False))
        assert task.truth == [lines[row].strip() for row in rows]
        assert not any(text.startswith("#") for text in task.truth)


def test_holes_together_are_compared_with_those_very_holes_alone() -> None:
    engine = Engine(checkpoint())
    decoding = DecodingConfig(mode=Mode.AR, max_tokens=3)
    wanted = list(holes.tasks(FILES, engine.tokenizer, 3, decoding, 128, seed=1))
    report = holes.compare(engine, wanted, kept=True, revise=True)
    assert (report["files"], report["holes"]) == (2, 6)
    ways = report["ways"]
    assert list(ways) == ["single", "together", "kept", "revised"]
    assert (ways["single"]["ratio"]["median"], ways["single"]["better"]) == (1.0, 0)
    assert ways["together"]["encoded"] < ways["single"]["encoded"] >= ways["kept"]["encoded"]
    assert ways["together"]["passes"] < ways["single"]["passes"] == ways["kept"]["passes"]
    assert ways["revised"]["encoded"] >= ways["together"]["encoded"]
    truth = holes.MultiHoleResult(tuple(wanted[0].truth), 3, 1.0, 1.0, 1, 1)
    wrong = holes.MultiHoleResult(("", *wanted[0].truth[1:]), 3, 2.0, 4.0, 1, 1)
    row = holes._row(wanted[:1], [truth], [wrong])
    assert row["processor_ratio"]["median"] == 0.25
    assert (row["exact"], row["better"], row["worse"], row["ratio"]["median"]) == (3, 1, 0, 0.5)
