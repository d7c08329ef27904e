"""The command with the real model: from a marked hole to code that runs, and Ctrl-C on the way."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]

pytestmark = [pytest.mark.model, pytest.mark.slow]


@pytest.fixture
def example(tmp_path: Path) -> Path:
    """A copy of the Python example."""
    return Path(shutil.copy(ROOT / "examples" / "intervals.py", tmp_path))


def infill(example: Path, *options: str) -> Any:
    """Starts filling the hole of the example."""
    lines = example.read_text("utf-8").splitlines()
    hole = next(number for number, line in enumerate(lines, start=1) if "HOLE:" in line)
    command = [sys.executable, "-m", "blockdiff", "infill", example.name, "--lines", str(hole)]
    return subprocess.Popen(
        [*command, *options],
        cwd=example.parent,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def test_the_demo_hole_becomes_code_that_passes_its_doctest(example: Path) -> None:
    process = infill(example, "--write", "--json")
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err.decode()
    *refinements, finished = map(json.loads, out.splitlines())

    assert refinements and {event["event"] for event in refinements} == {"refinement"}
    assert [event["seq"] for event in refinements] == list(range(len(refinements)))
    assert (finished["event"], finished["mode"]) == ("finished", "verify")
    assert (finished["finish"], finished["syntax"], finished["written"]) == ("eom", "ok", True)
    assert 0 < finished["forwards"] <= finished["tokens"] + 1

    assert finished["text"] in example.read_text("utf-8")
    doctest = [sys.executable, "-m", "doctest", example.name]
    subprocess.run(doctest, cwd=example.parent, check=True, timeout=60)


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
@pytest.mark.parametrize(
    ("said", "seconds"),
    [("starting the engine", 0.05), ("starting the engine", 0.5), ("loading weights", 0.1)],
)
def test_ctrl_c_while_libraries_and_weights_load(
    example: Path, said: str, seconds: float
) -> None:
    before = example.read_text("utf-8")
    process = infill(example, "--write")
    while said not in (line := process.stderr.readline().decode()):
        assert line, "it ended before it said so"
    time.sleep(seconds)
    process.send_signal(signal.SIGINT)
    check_interrupted(process, example, before)


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
def test_ctrl_c_while_the_draft_is_refined(example: Path) -> None:
    before = example.read_text("utf-8")
    process = infill(example, "--write", "--json")
    assert json.loads(process.stdout.readline())["event"] == "refinement"
    process.send_signal(signal.SIGINT)
    out = check_interrupted(process, example, before)
    assert json.loads(out.splitlines()[-1])["code"] == "cancelled"


def check_interrupted(process: Any, example: Path, before: str) -> bytes:
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert b"Traceback" not in err
    assert example.read_text("utf-8") == before
    assert os.listdir(example.parent) == [example.name]
    return bytes(out)
