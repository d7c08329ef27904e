"""Where filled texts end, judged: what is drawn, what is blamed, what is counted."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from blockdiff.cli.eval import app
from blockdiff.config import DecodingConfig
from blockdiff.engine.engine import Engine
from blockdiff.eval import heldout, seams
from blockdiff.eval.results import ResultsFile
from blockdiff.eval.seam_faults import is_fenced, is_prose, repeats
from blockdiff.eval.seam_holes import LANGUAGES, Caller, SeamHole, draw
from blockdiff.eval.seam_places import KINDS
from blockdiff.syntax.check import check
from blockdiff.types import Extent, Finished, FinishReason, Snippet, SyntaxState
from tests.unit import hub_folder
from tests.unit.tiny_checkpoint import checkpoint

FOLDER = Path(__file__).resolve().parents[2] / "models/qwen2.5-coder-1.5b-blockdiff/eval"
FILES = [file for name in ("held_out", "own") for file in heldout.load(FOLDER / f"{name}.jsonl.gz")]


@pytest.fixture(scope="module")
def holes() -> list[SeamHole]:
    return draw(FILES)


# --- what is drawn ------------------------------------------------------------------------------


@pytest.mark.slow
def test_four_hundred_holes_of_all_languages_and_kinds(holes: list[SeamHole]) -> None:
    assert len({hole.id for hole in holes}) == 400
    for language in LANGUAGES:
        mine = [hole for hole in holes if hole.language == language]
        assert len(mine) == 40 and sum(hole.neighbour is not None for hole in mine) == 20
        for kind in KINDS:
            assert sum(hole.kind == kind for hole in mine) >= 4, f"{kind} in {language}"
    assert len({hole.file for hole in holes}) > 100, "not the same files over and over"


@pytest.mark.slow
def test_a_smaller_draw_is_the_start_of_a_larger_one(holes: list[SeamHole]) -> None:
    few = draw(FILES, 40)
    assert few == holes[:40] and draw(list(reversed(FILES)), 40) == few
    assert {hole.language for hole in few} == set(LANGUAGES)
    assert {hole.kind for hole in few} == set(KINDS)
    assert sum(hole.neighbour is not None for hole in few) == 20
    assert [hole.id for hole in draw(FILES, 40, seed=1)] != [hole.id for hole in few]


@pytest.mark.slow
def test_without_neighbours_files_are_whole() -> None:
    whole = {file.id: file.text for file in FILES}
    for hole in draw(FILES, 12, neighbours=False):
        assert hole.neighbour is None
        assert hole.before + hole.text + hole.after == whole[hole.file]


@pytest.mark.slow
def test_a_hole_is_cut_out_of_its_file_and_sound(holes: list[SeamHole]) -> None:
    files = {file.id: file for file in FILES}
    for hole in holes:
        document, start = hole.before + hole.text + hole.after, len(hole.before)
        whole = files[hole.file].text
        assert document in whole and (hole.neighbour is not None or document == whole)
        assert hole.text == hole.text.strip() != ""
        state = check(document, start, start + len(hole.text), hole.language)
        skipped = hole.language == "shell"
        assert state is (SyntaxState.SKIPPED if skipped else SyntaxState.OK), hole.id
        if hole.before.endswith('"""'):
            assert hole.after.startswith('"""'), f"the end of a docstring is torn: {hole.id}"
        if hole.neighbour is not None:
            assert hole.neighbour.path != hole.path and hole.neighbour.text.strip()


@pytest.mark.slow
def test_true_texts_are_clean_and_spoilt_ones_are_not(holes: list[SeamHole]) -> None:
    spoilt = 0
    for hole in holes:
        before, after, language = hole.before, hole.after, hole.language
        assert not repeats(hole.text, before, after, language), hole.id
        assert not is_prose(hole.text, before, after, language), hole.id
        assert not is_fenced(hole.text, before, after), hole.id
        rest, _, below = after.partition("\n")
        if any(map(str.isalnum, rest)):
            assert repeats(hole.text + rest, before, after, language) == "rest", hole.id
            spoilt += 1
        following = next((line for line in below.split("\n") if len(line.strip()) > 8), "")
        if any(map(str.isalnum, following)) and below.lstrip().startswith(following.strip()):
            text = f"{hole.text}\n{following}"
            assert repeats(text, before, after, language), hole.id
            spoilt += 1
        assert repeats(hole.text + "\n" + 9 * "and_so_on(1)\n", before, after, language), hole.id
    assert spoilt > 200


# --- what is blamed -----------------------------------------------------------------------------

REPEATS = [
    # written, before, after, language, what
    ("os.getcwd(), 'file.txt')", "path = os.path.join(", ", 'file.txt')\n", "python", "rest"),
    ("1, 'y': 2}", "point = {'x': ", ", 'y': 2}\nprint(point)\n", "python", "rest"),
    ("w * h  # square metres", "    return ", "  # square metres\n", "python", "rest"),
    ("'b', 'c']", "names = ['a', ", ", 'c']\n", "python", "rest"),
    ("'b', 'c'", "names = ['a', ", ", 'c']\n", "python", "rest"),
    ("* FROM users WHERE id = 1\" # all\n# of them\n", 'query = "SELECT ',
     ' FROM users WHERE id = 1"\n', "python", "rest"),
    ("w * h;", "function area(w, h) {\n    return ", ";\n}\n", "javascript", "closer"),
    ("new Date()}", "const s = `Hello ${", "}`;\n", "javascript", "closer"),
    ("x % 2 == 0:", "if ", ":\n    print('even')\n", "python", "closer"),
    ('all is well"', 'print("', '")\n', "python", "closer"),
    ("(\\w+)', 'a is b')", "m = re.match(r'", "', line)\n", "python", "closer"),
    ('Area."""\n    return 1', '    """', '"""\n    ...\n', "python", "closer"),
    ("a, b)", "f(", ")\n", "python", "closer"),
    ("  return 1;\n}", "int f(void) {\n", "\n}\n", "c", "closer"),
    ("s = 0\n    for x in xs:\n        s += x\n    return s", "def total(xs):\n    ",
     "\n    return s\n", "python", "below"),
    ("return w * h\n\n\ndef total(xs):\n    pass", "def area(w, h):\n    ",
     "\n\n\ndef total(xs):\n    return sum(xs)\n", "python", "below"),
    (64 * "0", 'f"{', '}"\n', "python", "loop"),
    ("name, age, email, " * 6, "SELECT id, ", "\n", "sql", "loop"),
    ("print(area(2, 3))\n" * 3, "", "\nx = 1\n", "python", "loop"),
]  # fmt: skip


@pytest.mark.parametrize(("written", "before", "after", "language", "what"), REPEATS)
def test_what_stands_twice(written: str, before: str, after: str, language: str, what: str) -> None:
    assert repeats(written, before, after, language) == what


CLEAN = [
    ("os.getcwd()", "path = os.path.join(", ", 'file.txt')\n", "python"),
    ("area(2, 3)", "print(", ")\n", "python"),
    ('f"{name}"', "print(", ")\n", "python"),
    ('say "hi"', 'print("""', '""")\n', "python"),
    ('a " + b + " c', 'print("', '")\n', "python"),
    ("'b'", "names = ['a', ", ", 'c']\n", "python"),
    ("x, y", "f(", ", y)\n", "python"),
    ("if x:\n        return None\n    x += 1", "def f(x):\n    ", "\n    return None\n", "python"),
    ("  if (x) {\n    g();\n  }", "void f(int x) {\n", "\n}\n", "c"),
    ("-" * 70, "# ", "\nx = 1\n", "python"),
    ("", "x = ", "\n", "python"),
]


@pytest.mark.parametrize(("written", "before", "after", "language"), CLEAN)
def test_what_people_write_is_no_repeat(
    written: str, before: str, after: str, language: str
) -> None:
    assert repeats(written, before, after, language) == ""


@pytest.mark.parametrize(
    ("written", "prose", "fenced"),
    [
        ("main()\n```\n\nThis Python script defines two functions.", True, True),
        ("main()\nHere is what the function does:\n", True, False),
        ("main()\n# This calls the function above.\n", False, False),
        ('"""Call it.\n\nThis calls the function above.\n"""\nmain()', False, False),
        ("x = 1\n~~~\n", False, True),
        ("Class.method(a, b)\n", False, False),
    ],
)
def test_talk_and_fences(written: str, prose: bool, fenced: bool) -> None:
    before, after = "def main():\n    pass\n\n\n", "\n"
    assert is_prose(written, before, after, "python") is prose
    assert is_fenced(written, before, after) is fenced
    assert not is_fenced(written, "```python\n" + before, after), "the document has fences itself"


def test_ghost_text_is_asked_for_as_an_editor_does() -> None:
    decoding = DecodingConfig(max_tokens=8)
    within = replace(HOLE, neighbour=Snippet("b.py", "x = 1\n"))
    at_end = replace(HOLE, after="\nprint(p)\n")
    extents = [
        seams.request_of(hole, way, decoding, 64).extent
        for hole in (within, at_end)
        for way in (Caller.INFILL, Caller.GHOST)
    ]
    assert extents == [Extent.HOLE, Extent.LINE, Extent.HOLE, Extent.BLOCK]
    request = seams.request_of(within, Caller.GHOST, decoding, 64)
    assert request.prefix == within.before and request.suffix == within.after
    assert request.snippets == (within.neighbour,) and request.context_tokens == 64


# --- what is counted ----------------------------------------------------------------------------


def end(text: str, finish: FinishReason = FinishReason.EOM) -> Finished:
    return Finished("", 0, text, 6, 3, finish, SyntaxState.OK, "verify", "tiny", 1.0, 1.0, 10)


HOLE = SeamHole("a:1-2", "a", "a.py", "python", "mid-line", "p = join(", "here", ", 'x')  \n", None)


@pytest.mark.parametrize(
    ("text", "exact", "repeated", "torn", "syntax"),
    [
        ("here", True, "", False, "ok"),
        ("there", False, "", False, "ok"),
        ("here, 'x')", False, "rest", False, "broken"),
        ("here,\n  there", False, "", True, "ok"),
        ("here(", False, "", False, "broken"),
    ],
)
def test_a_text_is_judged(text: str, exact: bool, repeated: str, torn: bool, syntax: str) -> None:
    row = seams.judge(HOLE, Caller.GHOST, end(text), "raw", 1.0)
    assert (row.exact, row.repeats, row.torn, row.syntax) == (exact, repeated, torn, syntax)
    assert row.is_clean is not bool(repeated) and row.task_id == "ghost a:1-2"


def test_figures_are_those_of_the_rows() -> None:
    java = replace(HOLE, id="b", language="java", kind="body")
    shell = replace(HOLE, id="c", language="shell")
    rows = [
        seams.judge(HOLE, Caller.INFILL, end("here"), "", 1.0),
        seams.judge(java, Caller.INFILL, end("", FinishReason.LENGTH), "", 1.0),
        seams.judge(shell, Caller.INFILL, end("here, 'x')"), "", 1.0),
        seams.judge(HOLE, Caller.GHOST, end("```\nThis is what it does."), "", 1.0),
    ]
    ways = seams.summarise(rows)["ways"]
    infill, ghost = ways["infill"], ways["ghost"]
    assert (infill["holes"], infill["repeats"], infill["at_limit"]) == (3, 1, 1)
    assert infill["exact"] == round(1 / 3, 4) and infill["empty"] == 1
    assert infill["tokens"] == 6 and infill["tokens_per_forward"] == 2
    assert infill["by_kind"]["body"]["holes"] == 1 and "string" not in infill["by_kind"]
    assert infill["by_language"]["shell"]["parse_rate"] is None, "nothing to parse it with"
    assert infill["by_neighbour"] == {"without": infill["by_neighbour"]["without"]}
    assert (ghost["prose"], ghost["fences"], ghost["torn"]) == (1, 1, 1)


# --- a whole run --------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_run_goes_on_where_it_stopped(holes: list[SeamHole], tmp_path: Path) -> None:
    engine, out = Engine(checkpoint()), tmp_path / "rows.jsonl"
    decoding = DecodingConfig(max_tokens=4)
    steps: list[int] = []

    def run(wanted: list[SeamHole]) -> list[seams.Seamed]:
        results = ResultsFile(out, {"seed": 0}, seams.Seamed)
        steps.clear()
        return seams.measure(
            engine, wanted, list(Caller), decoding, 64, results, lambda done, _: steps.append(done)
        )

    first = run(holes[:1])
    assert [row.way for row in first] == ["infill", "ghost"] and steps == [0, 1, 2]
    again = run(holes[:3])
    assert again[:2] == first and steps[0] == 2, "what is there is not done again"
    assert all(row.tokens <= 4 for row in again)


@pytest.mark.slow
def test_the_command_prints_a_table_and_an_object(tmp_path: Path) -> None:
    folder = hub_folder.write(tmp_path / "tiny", "a2d (qwen2)")
    line = ["seams", f"--data={FOLDER / 'own.jsonl.gz'}", "--limit", "3", "--way", "infill"]
    line += ["--model", str(folder), "--dtype", "float32", "--max-tokens", "4"]
    line += ["--mode", "diffusion", "--context-tokens", "64"]
    run = CliRunner().invoke(app, line)
    assert run.exit_code == 0, run.output
    *table, last = run.stdout.splitlines()
    figures = json.loads(last)
    assert figures["eval"] == "seams" and figures["data"] == ["own.jsonl.gz"]
    assert figures["way"] == ["infill"] and figures["ways"]["infill"]["holes"] == 3
    assert table[0].split()[:4] == ["infill", "holes", "exact", "repeats"]
    assert {"all", "lua", "shell", "typescript"} <= {row.split()[0] for row in table if row}


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    missing = tmp_path / "none.jsonl.gz"
    run = CliRunner().invoke(app, ["seams", "--data", str(missing)])
    assert run.exit_code and str(missing) in run.stderr


@pytest.mark.model
@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_default_model_ends_where_it_should(tmp_path: Path) -> None:
    """40 holes as the command line and as ghost text fill them."""
    out = tmp_path / "rows.jsonl"
    data = [f"--data={FOLDER / name}.jsonl.gz" for name in ("held_out", "own")]
    limits = ["--limit", "40", "--max-tokens", "32", "--context-tokens", "384"]
    run = CliRunner().invoke(app, ["seams", *data, *limits, "--out", str(out), "--json"])
    assert run.exit_code == 0, run.output
    ways = json.loads(run.stdout.splitlines()[-1])["ways"]
    rows = [json.loads(line) for line in out.read_text().splitlines()[1:]]
    wrong = [row for row in rows if row["repeats"] or row["prose"] or row["fenced"]]
    assert not wrong and len(rows) == 80
    for way in ways.values():
        assert way["holes"] == 40 and way["parse_rate"] >= 0.75
        assert way["exact"] >= 0.25, "ends early, but not by writing nothing"
    assert ways["ghost"]["torn"] == 0
