"""The laboratory as its user has it: text in, families trained, compared, asked; and bad input.

The `tiny` preset: 320 tokens, one layer of 32, windows of 16.
"""

from __future__ import annotations

import argparse
import inspect
import json
import math
import shutil
import time
from contextlib import nullcontext
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from blockdiff.cli.app import run
from blockdiff.errors import ExitCode, InputFileError, InvalidRequest, ModelCorrupt
from blockdiff.eval.results import share_interval
from blockdiff.lab.absorbing import Masked
from blockdiff.lab.ask import Asked, answer, rows_of
from blockdiff.lab.compare import compare, read_json, results
from blockdiff.lab.data import END, LabData, open_data
from blockdiff.lab.families import FAMILIES, Setting, create
from blockdiff.lab.family import LabFamily, SamplerSettings
from blockdiff.lab.report import markdown_table, write_report
from blockdiff.lab.training import PRESETS, Lab, Lesson, train, update
from blockdiff.types import no_op
from docs import lab_parts
from tests.unit import hub_folder, tiny

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
def lab(folder: Path, data: LabData, tmp_path: Path) -> Lab:
    """A copy to train in."""
    shutil.copy(folder / "tokens.safetensors", tmp_path)
    return Lab(tmp_path, data, TINY)


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


def test_damaged_text_is_named(lab: Lab) -> None:
    (lab.folder / "tokens.safetensors").write_bytes(b"\x00" * 100)
    with pytest.raises(InputFileError, match="damaged"):
        open_data(lab.folder, TINY.vocab_size, TINY.length, None)


# Families


# other block sizes differ by a mask
LEARNERS = [name for name in FAMILIES if not name.startswith("bd3lm-") or name == "bd3lm-4"]
ZIPF = 1 / torch.arange(1.0, 9.0)


def unigram(frequencies: Tensor, tokens: Tensor) -> Tensor:
    """(batch,) nats under independent tokens."""
    return -frequencies.log()[tokens].sum(-1)


def bound(family: LabFamily, texts: Tensor) -> Tensor:
    """(n,) nats, each text at several noise levels."""
    with torch.no_grad():
        copies = texts.repeat(family.draws, 1)
        return family.bound(copies, g(7)).view(family.draws, -1).mean(0)


@pytest.mark.parametrize("name", FAMILIES)
def test_an_untrained_family_is_at_the_unigram_bound(name: str) -> None:
    """Whatever the noise: the network says the frequencies, and that is all that it can say."""
    setting = Setting(32, 1, ZIPF / ZIPF.sum(), torch.arange(8).view(2, 4), dimensions=8)
    texts = torch.multinomial(setting.frequencies, 800 * 16, True, generator=g(1)).view(-1, 16)
    above = bound(create(name, setting, seed=0), texts) - unigram(setting.frequencies, texts)
    error = float(above.std()) / len(texts) ** 0.5
    assert float(above.mean()) < 3 * error + 1e-4
    assert error < 0.02 * float(unigram(setting.frequencies, texts).mean())


def counted(n: int, generator: torch.Generator) -> Tensor:
    """Texts (n, 8) that count up from anywhere, modulo 8."""
    return (torch.randint(0, 8, (n, 1), generator=generator) + torch.arange(8)) % 8


@pytest.mark.parametrize("name", LEARNERS)
def test_a_family_learns(name: str) -> None:
    frequencies = torch.full((8,), 1 / 8)
    setting = Setting(32, 1, frequencies, torch.arange(8).view(2, 4), dimensions=8)
    family = create(name, setting, seed=0)
    optimizer = torch.optim.AdamW(family.parameters())
    for step in range(100):
        update(family, optimizer, counted(32, g(step)), g(step), 1e-2)
    heldout = counted(256, g(1))
    floor = float(unigram(frequencies, heldout).mean())
    assert float(bound(family, heldout).mean()) < 0.97 * floor


@pytest.mark.parametrize("name", FAMILIES)
def test_every_sampler_writes_tokens_around_what_is_known(name: str, data: LabData) -> None:
    family = create(name, Setting(32, 1, data.frequencies, data.groups), seed=0)
    text = data.heldout(16, 3)
    known = torch.rand(text.shape, generator=g()) < 0.4
    template = torch.where(known, text, data.vocab_size)
    for sampler in family.samplers:
        for steps in (1, 7):
            seen: list[Tensor] = []
            how = SamplerSettings(steps, g(), sampler, seen.append)
            made = family.sample(template, how)
            assert torch.equal(made[known], text[known])
            assert made.shape == text.shape and int(made.max()) < data.vocab_size
            assert seen and all(s.shape == text.shape for s in seen)
            again = family.sample(template, SamplerSettings(steps, g(), sampler))
            assert torch.equal(made, again)
    with pytest.raises(InvalidRequest, match="no sampler"):
        family.sample(template, SamplerSettings(1, g(), "dowsing"))


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
    family = Masked(Graded(), torch.tensor([0.5, 0.5]))
    family.semi_ar = 4
    seen: list[Tensor] = []
    how = SamplerSettings(steps, g(), sampler, seen.append)
    family.sample(torch.full((1, 8), 2), how)
    assert [int((x == 2).sum()) for x in seen] == left
    if sampler == "semi-ar":  # the first block is whole before the second begins
        assert seen[1][0].tolist() == [0] * 4 + [2] * 4
    for x, now in zip(seen, seen[1:], strict=False):
        assert torch.equal(now[x != 2], x[x != 2])


# Training


def trained(lab: Lab, name: str, steps: int) -> Lesson:
    """A family with so many steps behind it."""
    lesson = Lesson(lab, name)
    train([lesson], lambda: lesson.state.step / 8, no_op, lambda: lesson.state.step == steps)
    return lesson


@pytest.mark.parametrize("name", ["mdlm", "plaid", "cdcd"])
def test_a_run_that_was_stopped_ends_in_the_same_bits(name: str, lab: Lab) -> None:
    whole, parts = (replace(lab, folder=lab.folder / part) for part in ("whole", "parts"))
    at_once = trained(whole, name, 8)
    assert trained(parts, name, 3).state.step == 3
    in_parts = trained(parts, name, 8)
    assert in_parts.state.step == at_once.state.step == 8
    for one, other in zip(at_once.family.parameters(), in_parts.family.parameters(), strict=True):
        assert torch.equal(one, other)


def test_a_checkpoint_that_cannot_be_used_is_refused(lab: Lab) -> None:
    trained(lab, "mdlm", 1)
    other = replace(lab, preset=replace(TINY, learning_rate=0.1))
    with pytest.raises(InvalidRequest, match="other values of learning_rate"):
        Lesson(other, "mdlm")
    path = lab.folder / "mdlm" / "checkpoint.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ModelCorrupt, match="checkpoint.safetensors"):
        Lesson(lab, "mdlm")


# Comparison


class Killed(Exception):
    """Nothing is saved after it."""


@pytest.mark.parametrize("kills", [True, False])
def test_a_comparison_in_pieces_is_that_at_once(lab: Lab, kills: bool) -> None:
    """Killed or stopped amid a round: families are at different steps then, not in the end."""
    lab = replace(lab, preset=replace(TINY, windows=8))
    whole, parts = (replace(lab, folder=lab.folder / part) for part in ("whole", "parts"))
    steps = 0

    def compared(lab: Lab, tokens: int, until: int) -> list[dict[str, Any]]:
        nonlocal steps
        steps = 0

        def on_work(doing: str, share: float) -> None:
            nonlocal steps
            steps += doing.startswith("training")
            if kills and steps == until:
                raise Killed

        stop = lambda: steps >= until  # noqa: E731
        return compare(lab, ["ar", "mdlm", "cdcd"], on_work, stop, 0.0, tokens=tokens)

    at_once = compared(whole, 20 * 64, 10**9)
    for until in (2, 4, 17):
        with pytest.raises(Killed) if kills else nullcontext():
            compared(parts, 20 * 64, until)
    in_parts = compared(parts, 20 * 64, 10**9)
    for one, other in zip(at_once, in_parts, strict=True):
        assert one | {"seconds": 0, "curve": 0} == other | {"seconds": 0, "curve": 0}
    further = compared(parts, 22 * 64, 10**9)
    assert {row["tokens"] for row in further if row["family"] != "unigram"} == {22 * 64}


def test_an_unfinished_comparison_has_a_table_at_equal_tokens(lab: Lab) -> None:
    """At the last doubling that every family has reached, whatever further ones some have."""
    many = replace(lab, preset=replace(TINY, batch=512))
    steps = count()
    stop = lambda: next(steps) >= 9  # noqa: E731
    rows = compare(many, ["ar", "mdlm"], no_op, stop, 0.0, tokens=1 << 20)
    assert {row.get("tokens") for row in rows} == {None, 32768}
    assert [len(row["curve"]) for row in rows if "curve" in row] == [2, 2]
    assert write_report(lab.folder)


def test_a_comparison_goes_on_where_it_was_stopped(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ["ar", "mdlm", "uniform", "bd3lm-4"]
    told: list[tuple[str, float]] = []

    def compared(until: str) -> list[dict[str, Any]]:
        """Stopped where it comes to say that."""
        told.clear()
        stop = lambda: any(until in doing for doing, _ in told)  # noqa: E731
        note = lambda *said: told.append(said)  # noqa: E731
        return compare(lab, names, note, stop, time.monotonic(), seconds=3.0)

    assert {row["family"] for row in compared("training")} == {"unigram"}
    compared("measuring mdlm")
    assert not (lab.folder / "results" / "mdlm.json").exists()
    rows = compared("never")
    assert [doing for doing, _ in told] == [f"measuring {name}" for name in names[1:]]
    assert len({row["tokens"] for row in rows if row["family"] != "unigram"}) == 1
    floor = next(row["bits"] for row in rows if row["family"] == "unigram")
    for row in rows:
        assert row["low"] <= 1.02 * floor, row["family"]
        assert row["low"] <= row["bits"] <= row["high"]
    asked_of(lab)
    pages = write_report(lab.folder)
    monkeypatch.setattr(lab_parts, "RESULTS", lab.folder / "report.json")
    guide = lab_parts.updated(lab_parts.GUIDE.read_text("utf-8"))
    assert f"| unigram | {floor:.3f} |" in guide and "`mdlm` over `ar`" in guide
    page = (lab.folder / "report.html").read_text("utf-8")
    assert page.count("<svg") == 1
    assert page.count("what a large model would take") == page.count('id="axes_') > 5
    assert all(path.stat().st_size for path in pages)
    with pytest.raises(InvalidRequest, match="families, more seconds"):
        compare(lab, ["ar"], no_op, lambda: False, time.monotonic(), seconds=2.0)


def test_the_guide_is_what_was_measured() -> None:
    text = lab_parts.GUIDE.read_text("utf-8")
    assert lab_parts.updated(text) == text, "run: make docs"


@pytest.mark.parametrize(
    ("low", "high", "found"),
    [(1.02, 1.1, "agrees"), (1.02, 1.2, "open"), (0.9, 1.1, "open"), (1.2, 1.3, "contradicts")],
)
def test_a_claim_is_settled_by_the_whole_interval(low: float, high: float, found: str) -> None:
    claim = lab_parts.CLAIMS[0]
    assert (claim.least, claim.most) == (1.0, 1.15)
    assert lab_parts.verdict(claim, low, high) == found
    said = "\n".join(lab_parts.follows([(claim, 1.0, low, high)]))
    assert ("Nothing yet" in said) == (found == "open")


def asked_of(lab: Lab) -> None:
    """Every question of the folder that was compared has rows with figures and their intervals."""
    figures = {
        "steps": "bits",
        "revision": "mended",
        "infill": "known_length",
        "anchors": "kept",
        "blocks": "cached_ms",
    }
    asked = Asked(lab, count=3)
    for question, figure in figures.items():
        told: list[Any] = []
        rows = answer(asked, question, ["mdlm", "uniform", "bd3lm-4"], told.append)
        assert rows == told and any(figure in row for row in rows), question
        for row in rows:
            ends = [f"{figure}_{end}" if figure != "bits" else end for end in ("low", "high")]
            low, value, high = (row.get(key, 0.0) for key in (ends[0], figure, ends[1]))
            assert low <= value <= high
        assert len(markdown_table(rows)) == len(rows) + 2
    assert {row["kept"] for row in rows_of(read_json(lab.folder / "asks" / "anchors.json"))} == {1}


def test_a_question_that_was_interrupted_goes_on(lab: Lab) -> None:
    """With the next family; what was trained further, or is asked with another seed, anew."""
    for name in ("ar", "mdlm"):
        trained(lab, name, 1)

    def told(lab: Lab, stops: bool) -> list[str]:
        found: list[str] = []

        def on_row(row: dict[str, Any]) -> None:
            found.append(row["family"])
            if stops and row["family"] == "mdlm":
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt) if stops else nullcontext():
            answer(Asked(lab, 2), "anchors", ["ar", "mdlm"], on_row)
        return found

    assert told(lab, stops=True) == ["ar", "real text", "mdlm"]
    assert told(lab, stops=False) == ["mdlm"]
    trained(lab, "mdlm", 2)
    assert told(lab, stops=False) == ["mdlm"]
    assert told(replace(lab, seed=1), stops=False) == ["ar", "real text", "mdlm"]
    path = lab.folder / "asks" / "anchors.json"
    path.write_text('{"count": 2, "seed": 0, "rows": []}')  # as another version kept it
    assert rows_of(read_json(path)) == []
    assert told(lab, stops=False) == ["ar", "real text", "mdlm"]


def test_passes_over_the_same_text_are_measured(lab: Lab) -> None:
    """Each time they have doubled, and the same again by the same seed."""
    text = replace(lab.data, tokens=lab.data.tokens | {"train": lab.data.tokens["train"][:5000]})
    many = replace(lab, data=text, preset=replace(TINY, batch=256))
    once, again = (
        answer(Asked(replace(many, folder=lab.folder / part), 8), "epochs", ["ar"], no_op)
        for part in ("once", "again")
    )
    assert [row["epochs"] for row in once] == [4, 8, 16, 32]
    assert [row["bits"] for row in once] == [row["bits"] for row in again]
    assert all(row["low"] <= row["bits"] <= row["high"] for row in once)


@pytest.mark.parametrize(
    ("text", "share"),
    [("rest)\ndef f():\n    return 1\nx =", 1), ("a\n    if x:\n    y\nb", 0), ("a", 0)],
)
def test_whole_lines_of_a_window_are_parsed(lab: Lab, text: str, share: float) -> None:
    trained(lab, "ar", 1)
    tokens = torch.tensor([lab.data.tokenizer.encode(text).ids])
    assert Asked(lab).described(tokens)["parses"] == share


def test_the_base_judges_samples_and_text(lab: Lab, tmp_path: Path) -> None:
    """By all of its tokens, over the bytes of the text; the end of a document is a line end."""
    trained(lab, "ar", 1)
    asked = Asked(lab, 3, str(hub_folder.write(tmp_path / "judge", "a2d (qwen2)", ffn=64)))
    rows = answer(asked, "base", ["ar"], no_op)
    assert [row["family"] for row in rows] == ["ar", "real text"]
    assert all(row["low"] <= row["bits"] <= row["high"] for row in rows)
    encode = lab.data.tokenizer.encode
    text = torch.tensor([encode("x = 1\n").ids + [lab.data.tokenizer.token_to_id(END)]])
    ids = asked.base.tokenizer.encode("\nx = 1\n\n")
    log_p = tiny.forward(asked.base.transformer, ids)[:-1].log_softmax(-1)
    nats = -log_p.gather(1, torch.tensor(ids[1:])[:, None]).sum()
    assert asked.by_base(text)["bits"] == pytest.approx(float(nats) / math.log(2) / 6, rel=1e-4)


def test_a_damaged_result_is_named(lab: Lab) -> None:
    (lab.folder / "plan.json").write_text("{")
    with pytest.raises(InputFileError, match="plan.json"):
        results(lab.folder)


def test_what_was_told_in_one_direction_is_known_in_it(lab: Lab) -> None:
    """Masked diffusion also answers from behind, within the sentence that it was told."""
    rows = answer(Asked(lab, 4), "reversal", ["ar", "mdlm"], no_op)
    right = {(row["family"], row["question"]): row["right"] for row in rows}
    assert right["ar", "B, as told"] == right["mdlm", "B, as told"] == 1
    assert right["ar", "A, by the inverse"] == 0
    assert right["ar", "A, in the sentence told"] < 0.5
    assert right["mdlm", "A, in the sentence told"] == 1


def test_intervals_of_shares_say_something_of_none() -> None:
    low, high = share_interval(0, 20)
    assert low == 0 and 0.1 < high < 0.2
    assert share_interval(0, 0) == (0.0, 1.0)


# The command


def test_a_family_is_trained_sampled_and_asked_by_commands(
    lab: Lab, capsys: pytest.CaptureFixture[str]
) -> None:
    where = ["--folder", str(lab.folder), "--preset", "tiny"]
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
    lab: Lab, capsys: pytest.CaptureFixture[str], command: list[str], code: int, says: str
) -> None:
    preset = [] if "--preset" in command else ["--preset", "tiny"]
    assert run(["lab", *command, "--folder", str(lab.folder), *preset]) == code
    assert says in capsys.readouterr().err


def test_a_report_of_nothing_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["lab", "report", "--folder", str(tmp_path)]) == ExitCode.INPUT_FILE
    assert "no results" in capsys.readouterr().err
