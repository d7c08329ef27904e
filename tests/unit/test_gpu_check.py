"""The check of a GPU runs as a whole without one, and tells what fails."""

from __future__ import annotations

import json

import pytest
import torch

from tests.bench import gpu_check
from tests.bench.gpu_check import Check


def test_every_step_runs_on_a_cpu_and_the_last_line_holds_all(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert gpu_check.main(["--device", "cpu", "--tiny"]) == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert found["ok"] and found["device"] == "cpu"
    steps = found["steps"]
    assert list(steps) == [
        "machine", "no memory", "engine", "tiny, parity", "tiny, graphs", "tiny, modes",
        "tiny, int8", "tiny, float16", "tiny, float32",
    ]  # fmt: skip
    assert steps["tiny, parity"]["apart"]["float32"] == 0.0
    modes = steps["tiny, modes"]
    assert modes["ar"]["forwards"] == modes["verify, nothing comes true"]["forwards"] == 8
    assert modes["verify, all comes true"]["forwards"] < 4
    assert modes["diffusion, 4 tokens a step"]["forwards"] < 8
    assert modes["with_context"]["same_tokens_first"] > 0  # of eight, in bfloat16


def test_a_step_that_fails_is_told_and_the_others_still_run() -> None:
    check = Check(torch.device("cpu"))

    def broken() -> dict[str, object]:
        raise RuntimeError("an illegal memory access\nwas encountered")

    check.step("one", broken)
    check.step("two", lambda: {"value": 3})
    check.seconds = 0.0
    check.step("three", lambda: {})
    one, two, three = check.steps.values()
    assert not one["ok"]
    assert one["error"] == "RuntimeError: an illegal memory access was encountered"
    assert one["at"].startswith("test_gpu_check.py:") and one["at"].endswith("broken")
    assert two["ok"] and two["value"] == 3
    assert not three["ok"] and "time was over" in three["error"]
