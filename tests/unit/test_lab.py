"""The laboratory as its user has it: text in, families trained, compared, asked; and bad input.

The `tiny` preset: 320 tokens, one layer of 32, windows of 16.
"""

from __future__ import annotations

import argparse
import inspect
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from blockdiff.cli.app import run
from blockdiff.errors import ExitCode, InputFileError, InvalidRequest, ModelCorrupt
from blockdiff.eval.results import share_interval
from blockdiff.lab.ask import QUESTIONS, Bench, ask, reversal
from blockdiff.lab.compare import compare, results
from blockdiff.lab.data import LabData, open_data
from blockdiff.lab.families import FAMILIES, Setting, create, unigram
from blockdiff.lab.family import SamplerSettings, Template
from blockdiff.lab.masked import Masked
from blockdiff.lab.report import markdown_table, write_report
from blockdiff.lab.samples import parses
from blockdiff.lab.training import PRESETS, Budget, Lesson
from blockdiff.types import no_op

TINY = PRESETS["tiny"]


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A laboratory with a module of the standard library as its text."""
    made = tmp_path_factory.mktemp("lab")
    text = made / "text.py"
    text.write_text(inspect.getsource(argparse), "utf-8")
    open_data(made, TINY.vocab_size, TINY.length, text)
    return made


@pytest.fixture(scope="session")
def data(folder: Path) -> LabData:
    return open_data(folder, TINY.vocab_size, TINY.length, None)


@pytest.fixture
def lab(folder: Path, tmp_path: Path) -> Path:
    """A copy to train in."""
    for name in ("tokens.safetensors", "vocabulary.json"):
        shutil.copy(folder / name, tmp_path / name)
    return tmp_path


def g(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# Text


def test_bytes_of_tokens_are_those_of_the_text(data: LabData) -> None:
    tokens = data.tokens["heldout"].long()
    text = data.text(tokens).replace("<end>", "")
    assert int(data.nbytes(tokens)) == len(text.encode())


def test_groups_hold_every_token_once(data: LabData) -> None:
    groups = data.groups
    assert sorted(groups.flatten().tolist()) == list(range(data.vocab_size))
    assert groups.shape[1] == 16


@pytest.mark.parametrize(
    ("text", "vocab", "says"),
    [
        ("x = 1\n" * 20, 320, "too little text"),
        ("x = 1\n" * 20, 200, "no token for every byte"),
        (b"\xff\xfe\x00", 320, "cannot read"),
        (None, 320, "cannot read"),
    ],
)
def test_text_that_cannot_be_used_is_refused(
    tmp_path: Path, text: str | bytes | None, vocab: int, says: str
) -> None:
    path = tmp_path / "text.txt"
    if text is not None:
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises((InputFileError, InvalidRequest), match=says):
        open_data(tmp_path / "lab", vocab, 16, path)
    assert not (tmp_path / "lab" / "tokens.safetensors").exists()


def test_damaged_text_is_named(lab: Path) -> None:
    (lab / "tokens.safetensors").write_bytes(b"\x00" * 100)
    with pytest.raises(InputFileError, match="damaged"):
        open_data(lab, TINY.vocab_size, TINY.length, None)


# Families


def counted(n: int, generator: torch.Generator) -> Tensor:
    """Texts (n, 8) that count up from anywhere, modulo 8."""
    return (torch.randint(0, 8, (n, 1), generator=generator) + torch.arange(8)) % 8


# other block sizes differ by a mask
LEARNERS = [name for name in FAMILIES if not name.startswith("bd3lm-") or name == "bd3lm-4"]


@pytest.mark.parametrize("name", LEARNERS)
def test_a_family_begins_near_the_unigram_bound_and_learns(name: str) -> None:
    frequencies = torch.full((8,), 1 / 8)
    setting = Setting(32, 1, frequencies, torch.arange(8).view(2, 4), dimensions=8)
    family = create(name, setting, seed=0)
    heldout = counted(256, g(1))
    floor = float(unigram(frequencies, heldout).mean())

    def bound() -> float:
        with torch.no_grad():
            return sum(float(family.bound(heldout, g(seed)).mean()) for seed in range(8)) / 8

    began = bound()
    assert began == pytest.approx(floor, rel=0.1)
    optimizer = torch.optim.AdamW(family.parameters(), lr=1e-2)
    for step in range(100):
        loss = family.loss(counted(32, g(step)), g(step))
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(family.parameters(), 1.0)
        optimizer.step()
    assert bound() < 0.97 * began


@pytest.mark.parametrize("name", FAMILIES)
def test_every_sampler_writes_tokens_around_what_is_known(name: str, data: LabData) -> None:
    family = create(name, Setting.of(data, 32, 1), seed=0)
    text = data.heldout(16, 3)
    known = torch.rand(text.shape, generator=g()) < 0.4
    for sampler in family.samplers:
        for steps in (1, 7):
            seen: list[Tensor] = []
            how = SamplerSettings(steps, g(), sampler, seen.append)
            made = family.sample(Template(text, known), how)
            assert torch.equal(made[known], text[known])
            assert made.shape == text.shape and int(made.max()) < data.vocab_size
            assert seen and all(s.shape == text.shape for s in seen)
            again = family.sample(Template(text, known), SamplerSettings(steps, g(), sampler))
            assert torch.equal(made, again)
    with pytest.raises(InvalidRequest, match="no sampler"):
        family.sample(Template(text, known), SamplerSettings(1, g(), "dowsing"))


class Graded(nn.Module):
    """Token 0 everywhere, at position i the surer the larger i is."""

    def forward(self, noisy: Tensor, mask: Tensor, t: Tensor | None = None) -> Tensor:
        logits = torch.zeros(*noisy.shape, 2)
        logits[..., 0] = 100 + torch.arange(noisy.shape[1])
        logits[..., 1] = 88 - torch.arange(noisy.shape[1]) * 0.5
        return logits


@pytest.mark.parametrize(
    ("sampler", "steps", "left"),
    [
        # LLaDA, algorithm 2: 8 masks over 3 steps are 3, 3 and 2; algorithm 5: the surest first
        ("low-confidence", 3, [5, 2, 0]),
        ("low-confidence", 8, [7, 6, 5, 4, 3, 2, 1, 0]),
        ("random", 4, [6, 4, 2, 0]),
        ("semi-ar", 4, [6, 4, 2, 0]),
    ],
)
def test_masks_go_by_the_published_schedule(sampler: str, steps: int, left: list[int]) -> None:
    family = Masked(Graded(), 2)
    family.block_size = 4
    seen: list[Tensor] = []
    how = SamplerSettings(steps, g(), sampler, seen.append)
    family.sample(Template.empty(1, 8), how)
    assert [int((x == 2).sum()) for x in seen] == left
    if sampler == "semi-ar":  # the first block is whole before the second begins
        assert seen[1][0].tolist() == [0] * 4 + [2] * 4
    for x, now in zip(seen, seen[1:], strict=False):
        assert torch.equal(now[x != 2], x[x != 2])


# Training


def weights(lesson: Lesson) -> list[Tensor]:
    return [p.detach().clone() for p in lesson.family.parameters()]


@pytest.mark.parametrize("name", ["mdlm", "plaid", "cdcd"])
def test_a_run_that_was_stopped_ends_in_the_same_bits(
    name: str, data: LabData, tmp_path: Path
) -> None:
    budget = Budget(1.0, tokens=8 * TINY.batch * TINY.length)
    whole = Lesson(name, data, TINY, tmp_path / "whole", seed=1)
    whole.run(budget, no_op, lambda: False)
    first = Lesson(name, data, TINY, tmp_path / "parts", seed=1)
    first.run(budget, no_op, lambda: first.state.step == 3)
    second = Lesson(name, data, TINY, tmp_path / "parts", seed=1)
    assert second.state.step == 3
    second.run(budget, no_op, lambda: False)
    assert second.state.step == whole.state.step == 8
    for one, other in zip(weights(whole), weights(second), strict=True):
        assert torch.equal(one, other)


def test_a_checkpoint_that_cannot_be_used_is_refused(data: LabData, tmp_path: Path) -> None:
    lesson = Lesson("mdlm", data, TINY, tmp_path, seed=0)
    lesson.run(Budget(1.0, tokens=1), no_op, lambda: False)
    with pytest.raises(InvalidRequest, match="other values of family"):
        Lesson("uniform", data, TINY, tmp_path, seed=0)
    path = tmp_path / "checkpoint.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ModelCorrupt, match="checkpoint.safetensors"):
        Lesson("mdlm", data, TINY, tmp_path, seed=0)


# Comparison


def test_a_comparison_goes_on_where_it_was_stopped(lab: Path, data: LabData) -> None:
    names = ["ar", "mdlm", "uniform", "bd3lm-4"]
    told: list[tuple[str, str, float]] = []

    def on_family(*report: Any) -> None:
        told.append(report)

    def compared(stop: bool) -> list[dict[str, Any]]:
        during = lambda: stop and any(name == "mdlm" for name, *_ in told)  # noqa: E731
        return compare(lab, data, TINY, names, 3.0, 0, on_family, during)

    part = compared(stop=True)
    assert {row["family"] for row in part} == {"ar", "unigram"}
    told.clear()
    rows = compared(stop=False)
    assert {row["family"] for row in rows} == {*names, "unigram"}
    assert "ar" not in {name for name, *_ in told}  # it was done
    shares = [share for *_, share in told]
    assert shares == sorted(shares) and shares[-1] == 1.0
    floor = next(row["bits"] for row in rows if row["family"] == "unigram")
    for row in rows:
        assert row["low"] <= 1.05 * floor, row["family"]
        assert row["low"] <= row["bits"] <= row["high"]
    written = write_report(lab)
    page = (lab / "report.html").read_text("utf-8")
    assert page.count("<svg") == 3 == page.count("what a large model would take")
    assert all(path.stat().st_size for path in written)
    asked_of(lab, data)


def asked_of(lab: Path, data: LabData) -> None:
    """Every question of the folder that was compared has rows with the columns of its table."""
    columns = {
        "steps": "bits",
        "revision": "steps",
        "infill": "known_length",
        "anchors": "anchored_bits",
        "blocks": "cached_ms",
    }
    bench = Bench(lab, data, TINY, ["mdlm", "uniform", "bd3lm-4"], count=3)
    for question in QUESTIONS:
        rows = list(ask(question, bench))
        assert rows and any(columns[question] in row for row in rows), question
        assert len(markdown_table(rows)) == len(rows) + 2
    kept = [row for row in ask("anchors", bench) if "kept" in row]
    assert {row["kept"] for row in kept} == {1.0}


def test_a_damaged_result_is_named(lab: Path) -> None:
    (lab / "results").mkdir()
    (lab / "results" / "ar.json").write_text("{")
    with pytest.raises(InputFileError, match="ar.json"):
        results(lab)


def test_what_was_told_in_one_direction_is_known_in_it() -> None:
    """Masked diffusion also answers from behind, within the sentence that it was told."""
    right = {
        (row["family"], row["question"]): row["right"]
        for name, rounds in (("ar", 200), ("mdlm", 800))
        for row in reversal((name,), seed=0, people=12, rounds=rounds)
    }
    assert right["ar", "B, as told"] == right["mdlm", "B, as told"] == 1
    assert right["ar", "A, by the inverse"] == 0
    assert right["ar", "A, in the sentence told"] < 0.5
    assert right["mdlm", "A, in the sentence told"] == 1


@pytest.mark.parametrize(
    ("text", "good"),
    [("rest)\ndef f():\n    return 1\nx =", True), ("a\n    if x:\n    y\nb", False), ("a", False)],
)
def test_whole_lines_of_a_window_are_parsed(text: str, good: bool) -> None:
    assert parses(text) is good


def test_intervals_of_shares_say_something_of_none() -> None:
    low, high = share_interval(0, 20)
    assert low == 0 and 0.1 < high < 0.2
    assert share_interval(0, 0) == (0.0, 1.0)


# The command


def test_a_family_is_trained_sampled_and_asked_by_commands(
    lab: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    where = ["--folder", str(lab), "--preset", "tiny"]
    assert run(["lab", "train", "mdlm", *where, "--tokens", "200"]) == 0
    line = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert line["family"] == "mdlm" and line["tokens"] >= 200
    assert line["low"] <= line["bits"] <= line["high"]
    command = ["lab", "sample", "mdlm", *where, "--prefix", "def ", "--suffix", ")", "--watch"]
    assert run([*command, "--steps", "3"]) == 0
    frames = capsys.readouterr().out.split("-" * 40 + "\n")
    assert len(frames) == 4 and "\u2591" in frames[0]
    assert frames[-1].startswith("def ") and frames[-1].endswith(")\n")


@pytest.mark.parametrize(
    ("command", "code", "says"),
    [
        (["train", "gpt"], ExitCode.USAGE, "no family 'gpt'"),
        (["train", "ar", "--preset", "huge"], ExitCode.USAGE, "no preset 'huge'"),
        (["sample", "ar"], ExitCode.MODEL, "no trained ar"),
        (["sample", "ar", "--prefix", "x " * 99], ExitCode.USAGE, "shorten"),
        (["ask", "why"], ExitCode.USAGE, "no question 'why'"),
        (["ask", "steps"], ExitCode.MODEL, "no trained ar"),
        (["compare", "--family", "gan"], ExitCode.USAGE, "no family 'gan'"),
    ],
)
def test_bad_commands_say_what_to_do(
    lab: Path, capsys: pytest.CaptureFixture[str], command: list[str], code: int, says: str
) -> None:
    preset = [] if "--preset" in command else ["--preset", "tiny"]
    assert run(["lab", *command, "--folder", str(lab), *preset]) == code
    assert says in capsys.readouterr().err


def test_a_report_of_nothing_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["lab", "report", "--folder", str(tmp_path)]) == ExitCode.INPUT_FILE
    assert "no results" in capsys.readouterr().err
