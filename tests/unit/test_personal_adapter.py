"""An adapter of a workspace's own: how it is trained, where it lies, and which drafts are its."""

from __future__ import annotations

import itertools
import logging
import stat
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save

from blockdiff.config import DecodingConfig
from blockdiff.diffusion import personal as stored
from blockdiff.engine.checkpoint import Checkpoint
from blockdiff.engine.engine import Engine
from blockdiff.errors import InputFileError, ModelCorrupt
from blockdiff.eval import draft
from blockdiff.model.adapter import GatedAdapter
from blockdiff.system import private
from blockdiff.train import personal
from blockdiff.train.personal_adapter import PersonalTraining
from blockdiff.types import Finished, Hole, InfillRequest
from tests.unit import tiny
from tests.unit.tiny_checkpoint import checkpoint, tokenizer

DOCUMENT = "def area(width, height):\n    \n\nprint(area(3, 4))\n"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BLOCKDIFF_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    root = tmp_path / "work"
    root.mkdir()
    for number in range(10):
        lines = (f"def area_{number}_{i}(width, height):\n    return width\n" for i in range(20))
        (root / f"f{number}.py").write_text("".join(lines))
    return root


@pytest.fixture
def shipped(tmp_path: Path) -> Path:
    """The folder of an adapter, as it ships."""
    folder, point = tmp_path / "shipped", checkpoint()
    folder.mkdir()
    assert point.adapter is not None
    (folder / "adapter.safetensors").write_bytes(save(point.adapter.state_dict()))
    point.drafting.write(folder / "config.json")
    return folder


def training(root: Path, shipped: Path, hours: float) -> PersonalTraining:
    point, files = checkpoint(), personal.find(root, lambda path: True).files
    return PersonalTraining(
        point.transformer, "tiny", point.tokenizer, shipped, (), root, files, hours
    )


def ignore(*_: object) -> None:
    """An `on_step` that does not look."""


def put(adapter: GatedAdapter, workspace: Path) -> Path:
    """Lay an adapter where the engine looks for that of a workspace."""
    data = save(adapter.state_dict())
    return personal.keep(lambda file: private.write(file, data), workspace, "tiny", stored.ADAPTER)


def filled(point: Checkpoint, path: Path, temperature: float = 0.0) -> Finished:
    decoding = DecodingConfig(max_tokens=24, temperature=temperature, seed=3)
    engine = Engine(point)
    request = InfillRequest(DOCUMENT, Hole(29, 29), str(path), decoding=decoding)
    last = list(engine.infill(request))[-1]
    assert isinstance(last, Finished)
    return last


# --- training -------------------------------------------------------------------------------------


def test_it_is_trained_stopped_and_goes_on(workspace: Path, shipped: Path) -> None:
    first = training(workspace, shipped, 0.5)
    steps: list[int] = []
    assert not first.train(lambda state, *_: steps.append(state.step), lambda: len(steps) == 3)
    assert steps == [1, 2, 3]
    again = training(workspace, shipped, 0.5)
    assert again.run.state.step == 3
    reached, found = first.run.adapter.state_dict(), again.run.adapter.state_dict()
    assert all(torch.equal(tensor, found[name]) for name, tensor in reached.items())

    last = training(workspace, shipped, 1e-9)  # its time is over
    assert last.train(ignore, lambda: False)
    trained = last.finish()
    assert trained.before.starts == trained.after.starts > 0
    assert (trained.file is not None) is (trained.after.served >= trained.before.served)
    assert not stored.file_of(workspace, "tiny", stored.RUN).exists()
    files = personal.find(workspace, lambda path: True).files
    put(last.run.adapter, workspace)
    figures = draft.personal(checkpoint(), workspace, files, 0, 4, 0, ignore)
    assert figures["with_trained"]["starts"] == figures["with_personal"]["starts"] > 0


def test_it_begins_where_the_last_one_ended(workspace: Path, shipped: Path) -> None:
    before = tiny.adapter(checkpoint().transformer.config, 5, checkpoint().adapter.config)  # type: ignore[union-attr]
    put(before, workspace)
    begun = training(workspace, shipped, 0.5).run.adapter
    assert torch.equal(begun.mask_embedding, before.mask_embedding)


def test_files_that_judge_it_are_not_learned(workspace: Path, shipped: Path) -> None:
    left = personal.left_out(workspace, personal.find(workspace, lambda path: True).files)
    assert len(left) == 2
    for path in workspace.iterdir():
        if path not in left:
            path.write_text(path.read_text().replace("area", "volume"))
    run = training(workspace, shipped, 0.5).run
    words, seen = tokenizer(), list(itertools.islice(run.documents.stream(0), 20))
    assert all("area" not in words.decode(sequence.tokens) for _, sequence in seen)
    assert all("area" in words.decode(sequence.tokens) for sequence in run.held_out)


def test_too_few_files_and_broken_runs_are_told(workspace: Path, shipped: Path) -> None:
    few = workspace / "few"
    few.mkdir()
    for number in range(4):
        (few / f"{number}.py").write_text(f"x = {number}\n" * 30)
    with pytest.raises(InputFileError, match="too few"):
        training(few, shipped, 0.5)
    for number in range(5):
        (few / f"{number}.py").write_text(f"def f{number}():\n    pass\n")
    with pytest.raises(InputFileError, match="too short"):
        training(few, shipped, 0.5)
    begun = training(workspace, shipped, 0.5)
    begun.run.save()
    (stored.file_of(workspace, "tiny", stored.RUN) / "checkpoint.safetensors").write_bytes(b"{}")
    with pytest.raises(ModelCorrupt) as caught:
        training(workspace, shipped, 0.5)
    assert "delete it" in caught.value.hint
    assert personal.forget(workspace) and not stored.files_of(workspace)
    training(workspace, shipped, 0.5)


@pytest.mark.skipif(sys.platform == "win32", reason="modes")
def test_it_is_its_owners_alone(workspace: Path, shipped: Path) -> None:
    training(workspace, shipped, 0.5)
    file = put(tiny.adapter(tiny.config()), workspace)
    paths = file, stored.folder(), stored.file_of(workspace, "tiny", stored.RUN)
    assert [stat.S_IMODE(path.stat().st_mode) for path in paths] == [0o600, 0o700, 0o700]


# --- drafting -------------------------------------------------------------------------------------


def test_it_drafts_below_its_workspace_and_nothing_else_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    point = checkpoint()
    assert point.adapter is not None
    silent = tiny.adapter(point.transformer.config, 5, point.adapter.config)
    asked: list[GatedAdapter] = []
    delta = GatedAdapter.delta

    def noted(self: GatedAdapter, layer: int, target: str, x: torch.Tensor) -> torch.Tensor | None:
        asked.append(self)
        return delta(self, layer, target, x)

    monkeypatch.setattr(GatedAdapter, "delta", noted)
    inside, outside = tmp_path / "work" / "deep" / "x.py", tmp_path / "x.py"
    before, sampled = filled(point, inside), filled(point, inside, 0.8)
    assert set(asked) == {point.adapter}
    put(silent, tmp_path / "work")
    asked.clear()
    assert filled(point, inside).text == before.text
    assert asked and point.adapter not in asked, "another one drafts"
    asked.clear()
    assert filled(point, outside).text == before.text
    again = filled(point, inside, 0.8)
    assert (again.text, again.forwards) == (sampled.text, sampled.forwards), "a seed says it all"
    assert set(asked) == {point.adapter}


@pytest.mark.parametrize("damage", ["cut", "shape"])
def test_one_that_cannot_be_used_is_done_without(
    damage: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    point = checkpoint()
    assert point.adapter is not None
    ranks = replace(point.adapter.config, ranks={"qkv": 3}) if damage == "shape" else None
    file = put(tiny.adapter(point.transformer.config, 5, ranks or point.adapter.config), tmp_path)
    if damage == "cut":
        file.write_bytes(file.read_bytes()[:-8])
    with caplog.at_level(logging.WARNING):
        engine, path = Engine(point), str(tmp_path / "x.py")
        request = InfillRequest(DOCUMENT, Hole(29, 29), path, decoding=DecodingConfig(max_tokens=9))
        texts = [list(engine.infill(request))[-1] for _ in range(2)]
    assert isinstance(texts[0], Finished) and isinstance(texts[1], Finished)
    assert texts[0].text == texts[1].text == filled_text(point)
    assert len(caplog.records) == 1 and "train personal" in caplog.text


def filled_text(point: Checkpoint) -> str:
    request = InfillRequest(DOCUMENT, Hole(29, 29), "x.py", decoding=DecodingConfig(max_tokens=9))
    last = list(Engine(point).infill(request))[-1]
    assert isinstance(last, Finished)
    return last.text
