"""The command with the real model: code is rewritten as it was told, and still parses."""

from __future__ import annotations

import ast
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from blockdiff.cli.source_file import hole_of_lines, read

ROOT = Path(__file__).resolve().parents[2]

pytestmark = [pytest.mark.model, pytest.mark.slow]


@pytest.mark.parametrize(
    "options",
    [("--instruction", "use a loop instead of sum", "--max-tokens", "96"), ("--strength", "0.2")],
    ids=["instruction", "strength"],
)
def test_whole_lines_are_rewritten_and_stay_whole_lines(
    tmp_path: Path, options: tuple[str, ...]
) -> None:
    example = Path(shutil.copy(ROOT / "examples" / "intervals.py", tmp_path))
    before = example.read_text("utf-8")
    number = 1 + before[: before.index("    return sum(")].count("\n")
    hole = hole_of_lines(read(str(example)), str(number))
    command = [sys.executable, "-m", "blockdiff", "rewrite", example.name, "--lines", str(number)]
    done = subprocess.run(
        [*command, *options, "--context-tokens", "200", "--write", "--json"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr.decode()
    *refinements, finished = map(json.loads, done.stdout.splitlines())
    after = example.read_text("utf-8")
    assert refinements and finished["written"] and finished["finish"] == "eom"
    assert after == before[: hole.start] + finished["text"] + before[hole.end :]
    assert "```" not in finished["text"] and finished["text"] == finished["text"].strip()
    assert before[: hole.start].endswith("\n    ") and before[hole.end] == "\n"
    if "--strength" in options:
        assert finished["text"] == before[hole.start : hole.end], "there is nothing to mend"
        return
    assert finished["syntax"] == "ok" and "for " in finished["text"]
    ast.parse(after)
