"""Tuning on held-out holes: what is drawn, what is compared, what is picked."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from blockdiff.config import DecodingConfig, Layout, Mode, Rule
from blockdiff.engine.engine import Engine
from blockdiff.errors import InvalidRequest
from blockdiff.eval import heldout_holes as holes
from blockdiff.eval import tune, tune_plot
from blockdiff.eval.heldout import HeldOutFile
from blockdiff.eval.results import ResultsFile
from blockdiff.eval.tune import Tuned
from blockdiff.model.load.from_folder import DraftingConfig
from tests.unit.tiny_checkpoint import checkpoint

DRAFTING = DraftingConfig(Layout.PSM, block_size=4, draft_length=1, adapter=None)


def source(number: int, language: str = "python") -> HeldOutFile:
    line = "area = width * height" if language == "python" else "int area = width * height;"
    text = "".join(f"# shape {i} of {number}\n\n{line} // {i + number}\n" for i in range(12))
    if language == "c":
        text = text.replace("#", "//")
    return HeldOutFile("package", "1.0", "MIT", language, f"area{number}.x", text)


FILES = [source(i, language) for i, language in enumerate(["python", "c"] * 4)]

# --- holes --------------------------------------------------------------------------------------


def test_holes_are_lines_of_code_that_parse_where_they_stand() -> None:
    drawn = holes.draw(FILES, 0, 3, ["line"])
    assert len(drawn) == len(FILES) == len({hole.file.id for hole in drawn})
    for hole in drawn:
        assert hole.text in hole.file.text.splitlines()
        assert "width * height" in hole.text


def test_languages_and_kinds_take_turns_and_a_larger_draw_holds_a_smaller() -> None:
    text = "".join(f"a{i} = f({i})\nb{i} = g(a{i})\n" for i in range(20))
    files = [replace(file, text=text, language="python") for file in FILES]
    drawn = holes.draw(files, 0, 0)
    assert [hole.kind for hole in drawn[:4]] == ["line", "lines"] * 2
    assert len(drawn) == 2 * len(files), "one of each kind in every file"
    assert holes.draw(files[::-1], 5, 0) == drawn[:5]
    assert holes.draw(files, 5, 1) != drawn[:5]
    for hole in drawn:
        least, most = holes.KINDS[hole.kind]
        assert least <= hole.text.count("\n") + 1 <= most


def test_what_cannot_be_judged_is_not_drawn() -> None:
    broken = replace(FILES[0], text="def f(:\n" * 20, path="a.x")
    comments = replace(FILES[0], text="# nothing but words here\n" * 20, path="b.x")
    unknown = replace(FILES[0], language="cobol", path="c.x")
    assert holes.draw([broken, comments, unknown], 0, 0) == []


# --- the grid -----------------------------------------------------------------------------------


def test_the_grid_holds_every_mode_rule_and_default() -> None:
    found = tune.grid(DRAFTING)
    assert {decoding.mode for decoding in found.values()} == set(Mode)
    diffusion = [d for d in found.values() if d.mode is Mode.DIFFUSION]
    assert {decoding.rule for decoding in diffusion} == set(Rule)
    assert all(tune.name_of(decoding) == name for name, decoding in found.items())
    assert "diffusion/trust/0.3/4" in found and "verify/1" in found


def test_patterns_choose_from_the_grid() -> None:
    assert list(tune.grid(DRAFTING, ["ar", "verify/[12]"])) == ["ar", "verify/1", "verify/2"]
    with pytest.raises(InvalidRequest, match="diffusion/none"):
        tune.grid(DRAFTING, ["ar", "diffusion/none"])


# --- figures ------------------------------------------------------------------------------------


def rows(
    name: str, exact: str, forwards: int = 10, cpu_ms: float = 100.0, syntax: str = "ok"
) -> list[Tuned]:
    """One row for each character of `exact`: `x` a match, `.` none."""
    return [
        Tuned(f"{name} h{i}", name, f"h{i}", f"f{i}", "line", c == "x", syntax, 20, forwards,
              cpu_ms, cpu_ms)
        for i, c in enumerate(exact)
    ]  # fmt: skip


DEFAULT = "diffusion/trust/0.3/4"


def picked(*others: list[Tuned]) -> str:
    every = [row for part in (rows(DEFAULT, "x.x.x.x." * 8), *others) for row in part]
    return str(tune.summarise(every, DRAFTING)["picks"]["diffusion"]["pick"])


def test_a_default_gives_way_only_to_what_is_clearly_better() -> None:
    other = "diffusion/stable/0.9/4"
    assert picked() == DEFAULT
    assert picked(rows(other, "xxx.x.x." + "x.x.x.x." * 7, forwards=9)) == DEFAULT
    assert picked(rows(other, "x.x.x.x." * 8, forwards=9, cpu_ms=90.0)) == other
    assert picked(rows(other, "x.x.x.x." * 8, forwards=9, cpu_ms=120.0)) == DEFAULT, "not faster"
    assert picked(rows(other, "..x.x.x." + "x.x.x.x." * 7, forwards=5, cpu_ms=50.0)) == DEFAULT
    assert picked(rows(other, "xxxxxxxx" * 8, forwards=20, cpu_ms=200.0)) == other
    assert picked(rows("verify/1", "xxxxxxxx" * 8)) == DEFAULT, "of another mode"
    few = rows(other, "x.x.x.x." * 7, forwards=5, cpu_ms=50.0)
    assert picked(few) == DEFAULT, "too few holes to tell"
    broken = rows(other, "x.x.x.x." * 8, forwards=5, cpu_ms=50.0)
    broken[0] = replace(broken[0], syntax="broken")
    assert picked(broken) == DEFAULT, "fast, but fewer parse"


def test_so_few_losses_are_as_likely_as_the_binomial_says() -> None:
    assert tune.at_most(0, 58, 0.05) > 0.05 > tune.at_most(0, 59, 0.05)
    assert tune.at_most(5, 5, 0.3) == pytest.approx(1.0)
    assert tune.at_most(1, 3, 0.5) == pytest.approx(4 / 8)


def test_a_sign_test_is_that_of_a_fair_coin() -> None:
    assert tune.sign_test(0, 0) == tune.sign_test(3, 3) == 1.0
    assert tune.sign_test(5, 0) == tune.sign_test(0, 5) == 2 / 32
    assert tune.sign_test(1, 7) == pytest.approx(2 * (1 + 8) / 256)


def test_the_front_is_what_nothing_else_beats() -> None:
    lines = [
        {"configuration": name, "exact": exact, "forwards": cost}
        for name, exact, cost in [
            ("cheap", 0.1, 1), ("best", 0.9, 9), ("dear", 0.9, 10), ("twin", 0.9, 9),
            ("worse", 0.1, 2), ("between", 0.5, 5),
        ]
    ]  # fmt: skip
    assert tune.pareto(lines, "forwards") == {"cheap", "best", "twin", "between"}


def test_what_has_no_grammar_counts_for_no_parse_rate() -> None:
    judged = [*rows("ar", "xx"), *rows("ar", "x", syntax="broken")]
    skipped = [replace(row, hole=f"s{row.hole}") for row in rows("ar", "x" * 9, syntax="skipped")]
    (line,) = tune.summarise([*judged, *skipped], DRAFTING)["configurations"]
    assert line["parse_rate"] == pytest.approx(2 / 3, abs=1e-4)
    assert line["tokens_per_forward"] == 2.0


# --- a whole run --------------------------------------------------------------------------------


def test_a_run_goes_on_where_it_stopped_and_is_drawn(tmp_path: Path) -> None:
    engine, out = Engine(checkpoint()), tmp_path / "rows.jsonl"
    drawn = holes.draw(FILES, 2, 0, ["line"])
    names = {"ar": DecodingConfig(mode=Mode.AR)}
    names |= tune.grid(engine.drafting, ["diffusion/stable/*"])
    steps: list[int] = []

    def run(configurations: dict[str, DecodingConfig]) -> list[Tuned]:
        results = ResultsFile(out, {"seed": 0}, Tuned)
        steps.clear()
        return tune.tune(
            engine,
            drawn,
            configurations,
            max_tokens=6,
            context_tokens=32,
            results=results,
            progress=lambda done, _: steps.append(done),
        )

    first = run({"ar": names["ar"]})
    assert steps == [0, 1, 2]
    everything = run(names)
    assert steps[0] == 2, "what is there is not done again"
    assert [row for row in everything if row.configuration == "ar"] == first
    assert {(r.hole, r.configuration) for r in everything} == {
        (hole.id, name) for hole in drawn for name in names
    }
    assert all(0 < row.forwards and row.tokens <= 6 for row in everything)
    figures = tune.summarise(everything, engine.drafting)
    assert json.loads(json.dumps(figures)) == figures
    svg = tmp_path / "plot.svg"
    tune_plot.draw(figures, svg)
    drawing = svg.read_text("utf-8")
    assert "exact match" in drawing and "stable" in drawing
    tune_plot.draw(figures, svg)
    assert svg.read_text("utf-8") == drawing, "nothing of the clock is in it"
