"""`blockdiff infill FILE --model FOLDER` in a process of its own, on the layout of the hub."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.unit import hub_folder

ROOT = Path(__file__).resolve().parents[2]
DOCUMENT = "def area(width, height):\n    return \n\n\nprint(area(2, 3))\n"


def blockdiff(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "blockdiff", *arguments],
        cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True,
        timeout=120,
    )  # fmt: skip


@pytest.mark.parametrize("family", ["dreamon", "a2d (qwen2)"])
def test_a_folder_of_the_hub_fills_a_hole(family: str, tmp_path: Path) -> None:
    file = tmp_path / "area.py"
    file.write_text(DOCUMENT)
    folder = hub_folder.write(tmp_path / "tiny", family)
    (folder / "modeling_remote.py").write_text("raise RuntimeError('code of the checkpoint ran')")
    line = ["infill", str(file), "--at", "2:12", "--model", str(folder), "--dtype", "float32"]
    line += ["--max-tokens", "12", "--rule", "schedule"]
    run = blockdiff(*line, "--json")
    assert run.returncode == 0, run.stderr
    events = [json.loads(text) for text in run.stdout.splitlines()]
    drafts = [event["text"] for event in events if event["event"] == "refinement"]
    assert len(drafts) > 2 and len(set(drafts)) > 1
    assert [event["event"] for event in events].count("finished") == 1
    shown = blockdiff(*line)
    assert shown.returncode == 0, shown.stderr
    assert shown.stdout.startswith("--- ") and "-    return \n" in shown.stdout
    assert "diffusion" in shown.stderr  # the summary says how it was written
    assert file.read_text() == DOCUMENT


def test_a_folder_of_pickles_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "area.py"
    file.write_text(DOCUMENT)
    folder = hub_folder.write(tmp_path / "tiny", "dream")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    run = blockdiff("infill", str(file), "--at", "2:12", "--model", str(folder))
    assert run.returncode == 4 and "pickled" in run.stderr and "Traceback" not in run.stderr
