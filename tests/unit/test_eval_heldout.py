"""Measuring on held-out files: what is drawn, what is damaged, what is counted."""

from __future__ import annotations

import copy
import gzip
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from blockdiff.config import DecodingConfig, Mode, Rule
from blockdiff.engine.engine import Engine
from blockdiff.errors import InputFileError
from blockdiff.eval import bits, draft, heldout, revise
from blockdiff.eval.heldout import HeldOutFile
from blockdiff.eval.results import ResultsFile, gone_through, resampled_ratio
from tests.unit import tiny
from tests.unit.tiny_checkpoint import checkpoint

EDIT = DecodingConfig(
    mode=Mode.DIFFUSION, rule=Rule.EDIT, block_size=4, max_tokens=64, edit_threshold=0.9
)


def source(number: int, language: str = "python", licence: str = "MIT") -> HeldOutFile:
    text = "".join(
        f"def area_{number}_{i}(width, height):\n    return width * height + {i}\n\n"
        for i in range(20)
    )
    return HeldOutFile(f"package{number % 3}", "1.0", licence, language, f"area{number}.x", text)


FILES = [source(i, language) for i, language in enumerate(["python"] * 6 + ["go"] * 3 + ["c"])]


@pytest.fixture(scope="module")
def engine() -> Engine:
    return Engine(checkpoint())


# --- files --------------------------------------------------------------------------------------


def test_what_is_written_is_read(tmp_path: Path) -> None:
    path = tmp_path / "set" / "held_out.jsonl.gz"
    heldout.write(FILES, path)
    before = path.read_bytes()
    assert heldout.load(path) == FILES
    heldout.write(FILES, path)
    assert path.read_bytes() == before, "nothing of the clock is in it"


@pytest.mark.parametrize("rows", ["", "{}\n", '{"package": "a"}\n', "not json\n"])
def test_other_files_are_refused(rows: str, tmp_path: Path) -> None:
    path = tmp_path / "files.jsonl"
    path.write_text(rows)
    with pytest.raises(InputFileError):
        heldout.load(path)
    heldout.write([FILES[0], FILES[0]], path.with_suffix(".jsonl.gz"))
    with pytest.raises(InputFileError, match="twice"):
        heldout.load(path.with_suffix(".jsonl.gz"))


def test_languages_take_turns_and_a_larger_draw_holds_a_smaller() -> None:
    three = heldout.choose(FILES, 3, 5)
    assert {file.language for file in three} == {"python", "go", "c"}
    assert heldout.choose(FILES[::-1], 6, 5)[:3] == three
    assert heldout.choose(FILES, 0, 5) != heldout.choose(FILES, 0, 6)
    assert sorted(f.id for f in heldout.choose(FILES, 0, 5)) == sorted(f.id for f in FILES)
    assert {f.language for f in heldout.choose(FILES, 0, 5, ["go"])} == {"go"}


def test_a_sample_holds_small_files_under_plain_licences() -> None:
    files = [
        *FILES,
        source(20, "java", "GPL-2"),
        source(21, "java", "MIT and GPL-2"),
        replace(source(22, "java"), text="x" * 10_000),
        replace(source(23, "java"), text="x" * 10),
    ]
    chosen = heldout.sample(files, each=2, python=3, most_bytes=9000)
    assert [file.language for file in chosen].count("python") == 3
    assert [file.language for file in chosen].count("go") == 2
    assert "java" not in {file.language for file in chosen}
    assert chosen == heldout.sample(files[::-1], each=2, python=3, most_bytes=9000)


def test_only_held_out_files_of_a_corpus_are_taken(tmp_path: Path) -> None:
    names = {"train": ["train-000.jsonl.gz"], "heldout": ["heldout-000.jsonl.gz"]}
    (tmp_path / "manifest.json").write_text(json.dumps({"shards": names}))
    row = {"package": "p", "version": "1", "licence": "MIT", "language": "c", "sha256": "0"}
    for name in ("train", "heldout"):
        data = json.dumps({**row, "path": f"{name}.c", "text": "int x;"}).encode()
        (tmp_path / f"{name}-000.jsonl.gz").write_bytes(gzip.compress(data))
    assert [file.path for file in heldout.of_corpus(tmp_path)] == ["heldout.c"]
    with pytest.raises(InputFileError):
        list(heldout.of_corpus(tmp_path / "nowhere"))


# --- results ------------------------------------------------------------------------------------


def test_intervals_resample_whole_groups() -> None:
    assert resampled_ratio("aabb", [1.0] * 4) == (1.0, 1.0)
    low, high = resampled_ratio("aaaaabbbbb", [1.0] * 5 + [0.0] * 5)
    assert (low, high) == (0.0, 1.0), "two draws, not ten"
    low, high = resampled_ratio("abcd", [3.0, 3.0, 3.0, 3.0], [2.0, 2.0, 2.0, 2.0])
    assert (low, high) == (1.5, 1.5)


def test_tasks_that_are_done_are_not_done_again(tmp_path: Path) -> None:
    worked: list[int] = []

    def work(index: int) -> draft.DraftedFile:
        if len(worked) == 2:
            raise KeyboardInterrupt
        worked.append(index)
        return draft.DraftedFile(f"t{index}", "c", (1, 1), (1, 0), (1, 1), 3, 1)

    def run() -> list[draft.DraftedFile]:
        file = ResultsFile(tmp_path / "rows.jsonl", {"seed": 1}, draft.DraftedFile)
        return gone_through(["t0", "t1", "t2"], work, file, lambda done, total: None)

    with pytest.raises(KeyboardInterrupt):
        run()
    worked.clear()
    assert [row.task_id for row in run()] == ["t0", "t1", "t2"]
    assert worked == [2]


# --- drafts -------------------------------------------------------------------------------------


def test_drafts_are_counted_by_offset_and_language() -> None:
    point = checkpoint()
    rows = [draft.draft(point, file, 4, seed=1) for file in FILES[:2] + FILES[6:8]]
    assert rows == [draft.draft(point, file, 4, seed=1) for file in FILES[:2] + FILES[6:8]]
    assert all(len(row.seen) == 4 and row.starts for row in rows)
    for row in rows:
        assert all(0 <= hit <= n for hit, n in zip(row.hits, row.seen, strict=True))
        assert row.starts <= row.accepted <= 5 * row.starts
    figures = draft.summarise(rows)
    low, high = figures["mean_accepted_ci95"]
    assert low <= figures["mean_accepted"] <= high
    assert {name: part["files"] for name, part in figures["by_language"].items()} == {
        "go": 2,
        "python": 2,
    }
    assert figures["starts"] == sum(row.starts for row in rows)


def test_figures_of_drafts_are_sums_over_files() -> None:
    rows = [
        draft.DraftedFile("a", "c", (10, 10), (5, 2), (6, 4), 14, 10, 15),
        draft.DraftedFile("b", "go", (30, 10), (5, 0), (6, 0), 30, 30, 33),
        draft.DraftedFile("short", "go"),
    ]
    figures = draft.summarise(rows)
    assert figures["accuracy"] == [0.25, 0.1] and figures["agreement"] == [0.3, 0.2]
    assert figures["mean_accepted"] == 1.2 and figures["files"] == 2
    assert figures["adapter_alone"] == 1.1
    assert figures["by_language"]["c"]["mean_accepted"] == 1.5


# --- revisions ----------------------------------------------------------------------------------


@pytest.mark.parametrize("noise", revise.NOISES)
def test_one_to_three_tokens_are_made_wrong_and_never_the_first(engine: Engine, noise: str) -> None:
    counts = set()
    for seed in range(12):
        spoilt = revise.damage(FILES[0], engine, noise, seed)
        assert spoilt is not None
        differ = [i for i, (a, b) in enumerate(zip(spoilt.tokens, spoilt.original, strict=True))
                  if a != b]  # fmt: skip
        assert tuple(differ) == spoilt.wrong and 0 not in differ
        counts.add(len(differ))
        text = engine.tokenizer.decode(spoilt.original)
        assert text in FILES[0].text
        assert engine.tokenizer.special.fim_middle == spoilt.prompt[-1]
        if noise == "nearby":
            known = {*spoilt.prompt, *spoilt.original}
            assert {spoilt.tokens[i] for i in differ} <= known
    assert counts == {1, 2, 3}


def test_what_a_revision_mends_and_breaks_is_counted() -> None:
    spoilt = revise.Damaged((9,), (1, 2, 3, 4, 5), (1, 7, 8, 4, 6), (1, 2, 4), "nearby")
    row = revise.score(FILES[0], spoilt, (1, 2, 5, 0, 6), edits=4, returns=1, forwards=3)
    assert (row.wrong, row.fixed, row.changed, row.broken) == (3, 1, 1, 1) and not row.whole
    short = revise.score(FILES[0], spoilt, (1, 2), 1, 0, 1)
    assert (short.fixed, short.broken) == (1, 1), "what is gone is broken"
    figures = revise.summarise([row, short])
    assert figures["fixed_share"] == round(2 / 6, 4) and figures["fixed_per_broken"] == 1.0
    assert figures["round_trips"] == 0.2
    assert figures["by_noise"]["nearby"]["texts"] == 2
    assert figures["by_noise"]["vocabulary"]["texts"] == 0
    assert revise.score(FILES[0], spoilt, spoilt.original, 3, 0, 2).whole


@pytest.mark.parametrize(
    ("after", "fixed", "changed", "broken"),
    [
        ((1, 2, 3, 4, 5), 3, 0, 0),
        ((1, 7, 8, 4, 6), 0, 0, 0),
        ((1, 2, 8, 4), 1, 2, 0),
        ((1, 2, 9, 9, 9, 4, 5), 2, 1, 2),
        ((9, 2, 3, 5), 3, 0, 2),
        ((), 0, 3, 2),
    ],
    ids=["as it was", "left alone", "one gone", "two more", "others", "nothing"],
)
def test_a_rewrite_of_another_length_is_counted(
    after: tuple[int, ...], fixed: int, changed: int, broken: int
) -> None:
    spoilt = revise.Damaged((9,), (1, 2, 3, 4, 5), (1, 7, 8, 4, 6), (1, 2, 4), "nearby")
    row = revise.compared(FILES[0], spoilt, spoilt.tokens, after)
    assert (row.fixed, row.changed, row.broken) == (fixed, changed, broken)
    assert row.whole == (after == spoilt.original)


def test_what_is_right_and_changed_has_an_interval() -> None:
    rows = [revise.Revised(str(i), "c", "nearby", wrong=1, clean_changed=i < 2) for i in range(46)]
    figures = revise.summarise(rows)
    assert figures["clean_changed"] == 2 and figures["clean_changed_ci95"] == [0.012, 0.1453]
    assert revise.summarise(rows[2:])["clean_changed_ci95"][0] == 0.0


def test_a_rewrite_runs_and_repeats_itself(engine: Engine) -> None:
    rows = [revise.rewrite(engine, file, 64, seed=3) for file in FILES[:2]]
    assert rows == [revise.rewrite(engine, file, 64, seed=3) for file in FILES[:2]]
    assert all(row.wrong and row.forwards and row.parses == row.parsed for row in rows)


def test_a_revision_runs_and_repeats_itself(engine: Engine) -> None:
    rows = [revise.revise(engine, file, EDIT, seed=3) for file in FILES[:3]]
    assert rows == [revise.revise(engine, file, EDIT, seed=3) for file in FILES[:3]]
    assert all(row.wrong and row.forwards for row in rows)
    eager = [
        revise.revise(engine, file, replace(EDIT, edit_threshold=1e-6), seed=3)
        for file in FILES[:3]
    ]
    assert sum(row.edits for row in eager) > 0, "the threshold decides"
    assert all(row.fixed + row.changed + row.broken <= row.edits for row in eager)
    never = [
        revise.revise(engine, file, replace(EDIT, edit_threshold=1.0), seed=3) for file in FILES[:3]
    ]
    assert not any(row.edits or row.fixed or row.broken for row in never)


# --- bits ---------------------------------------------------------------------------------------


def test_surprise_is_what_a_plain_pass_over_all_tokens_says() -> None:
    point = checkpoint()
    tokens = torch.tensor(point.tokenizer.encode(FILES[0].text)[:150])
    nats, best = bits.nll(point.model, tokens, first=16)
    log_probs = tiny.forward(point.model, tokens.tolist()).log_softmax(-1)[15:-1]
    expected = -log_probs.gather(1, tokens[16:, None])[:, 0]
    assert (nats - expected).abs().max() <= 1e-4
    assert torch.equal(best, log_probs.argmax(-1))


def test_a_format_costs_nothing_against_itself_and_something_against_a_rounded_one() -> None:
    point = checkpoint()
    rounded = copy.deepcopy(point.model).to(torch.bfloat16)
    rows = [
        bits.compare(point.model, other, point.tokenizer, file, 96, seed=0)
        for other in (point.model, rounded)
        for file in FILES[:4]
    ]
    same, other = bits.summarise(rows[:4]), bits.summarise(rows[4:])
    assert same["difference"] == 0 and same["same_choice"] == 1
    assert same["difference_ci95"] == [0, 0]
    assert other["bits_per_token"] == same["bits_per_token"], "the same tokens"
    assert 0 < abs(other["difference"]) < 0.5
    low, high = other["difference_ci95"]
    assert low <= other["difference"] <= high
    assert other["tokens"] == sum(row.tokens for row in rows[4:]) == 4 * 80
    assert other["by_language"]["python"]["files"] == 4


def test_a_file_that_is_too_short_is_left_out() -> None:
    point, short = checkpoint(), replace(FILES[0], text="x = 1\n")
    row = bits.compare(point.model, point.model, point.tokenizer, short, 96, seed=0)
    assert row.tokens == 0
    assert bits.summarise([row])["files"] == 0
