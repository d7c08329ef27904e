"""What other files bring, measured: which holes are drawn, what is shown, what is counted."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from blockdiff.cli.eval import app
from blockdiff.config import DecodingConfig
from blockdiff.eval.workspace import judge, request_of, summarise
from blockdiff.eval.workspace_holes import HeldOutPackages, OtherFiles, WorkspaceHole, draw
from tests.unit import hub_folder

STORE = '''"""Where things are kept."""


class Store:
    """Keeps what it is given."""

    def load_record(self, key: str) -> str:
        """What was kept there."""
        return self.kept[key]
'''
USER = (
    "from store import Store\n\n\ndef shown(store: Store, wanted: list[str]) -> list[str]:\n"
    + "".join(f"    line{n} = wanted[{n}]\n    print(line{n}, wanted)\n" for n in range(40))
    + "    return [store.load_record(key) for key in wanted]\n"
)


@pytest.fixture
def packages(tmp_path: Path) -> Path:
    for name in ("kept-1.0", "trained_on-2.1"):
        folder = tmp_path / "packages" / name
        folder.mkdir(parents=True)
        (folder / "store.py").write_text(STORE)
        (folder / "user.py").write_text(USER)
    return tmp_path / "packages"


@pytest.fixture
def spaces(packages: Path, tmp_path: Path) -> HeldOutPackages:
    return HeldOutPackages([packages], tmp_path / "indexes", frozenset({"trained-on"}))


def test_holes_of_both_sorts_and_no_package_that_was_trained_on(spaces: HeldOutPackages) -> None:
    holes = draw(spaces, 10, 2, 0)
    needing = [hole for hole in holes if hole.name]
    assert {(hole.name, hole.text) for hole in needing} == {
        ("Store", "Store, wanted: list[str]) -> list[str]:"),
        ("load_record", "load_record(key) for key in wanted]"),
    }
    controls = [hole for hole in holes if not hole.name]
    assert len(controls) == 2 and all("load" not in hole.text for hole in controls)
    for hole in holes:
        assert hole.package == "kept-1.0" and hole.before + hole.text + hole.after == USER
        assert [snippet.path for snippet in hole.ring] == ["store.py"]
    assert draw(spaces, 1, 1, 0) == holes[:2]


@pytest.mark.parametrize("way", OtherFiles)
def test_what_is_shown_in_each_way(spaces: HeldOutPackages, way: OtherFiles) -> None:
    hole = next(hole for hole in draw(spaces, 2, 0, 0) if hole.name == "load_record")
    request = request_of(spaces, hole, way, DecodingConfig(), 256, 0.25)
    texts = [snippet.text for snippet in request.snippets]
    assert request.context_tokens == 256 and "load_record" not in request.document
    signatures = [text for text in texts if "def load_record" in text and "self.kept" not in text]
    assert bool(signatures) == (way in (OtherFiles.INDEX, OtherFiles.ALL))
    assert any("self.kept" in text for text in texts) == (way in (OtherFiles.RING, OtherFiles.ALL))
    assert (request.snippet_tokens > 0) == (way is not OtherFiles.NONE)


HOLE = WorkspaceHole("p/a.py:4-9", "p", "a.py", "python", "load", "x = s.", "load(key)", "\n", ())


@pytest.mark.parametrize(
    "text, exact, identifiers, named",
    [
        ("load(key)", 1, 1, 1),
        ("load( key )", 0, 1, 1),
        ("load(name)", 0, 0, 1),
        ("loads(key)", 0, 0, 0),
        ("", 0, 0, 0),
    ],
)
def test_what_counts(text: str, exact: int, identifiers: int, named: int) -> None:
    row = judge(HOLE, OtherFiles.NONE, text, 3, 0, 1.0)
    assert (row.exact, row.identifiers, row.named) == (exact, identifiers, named)


@pytest.mark.parametrize(
    "text, prose",
    [
        ("load(key)", False),
        ("Here is the missing part of it.", True),
        ("load(key)\n```\n", True),
        ("```python\n", True),
        ("load(key)\nThe rest of the line reads the key.", True),
        ("load is not None and key in s", False),
        ("load('Here is the missing part')", False),
    ],
)
def test_prose_and_fences_count_within_a_line_too(text: str, prose: bool) -> None:
    assert judge(HOLE, OtherFiles.RING, text, 3, 0, 1.0).prose is prose


def test_gains_are_of_holes_filled_in_every_way() -> None:
    right, wrong = "load(key)", "read(key)"
    texts = {OtherFiles.NONE: wrong, OtherFiles.INDEX: right}
    rows = [judge(HOLE, way, text, 3, 40, 1.0) for way, text in texts.items()]
    other = replace(HOLE, id="q/b.py:4-9")  # the run ended before its second way
    rows.append(judge(other, OtherFiles.NONE, right, 3, 0, 1.0))
    figures = summarise(rows)["needing"]
    assert figures["none"]["holes"] == figures["index"]["holes"] == 1
    assert figures["index"]["gain"]["exact"] == {"points": 100.0, "ci95": [100.0, 100.0]}


def test_the_command_goes_on_where_it_stopped(packages: Path, tmp_path: Path) -> None:
    model = hub_folder.write(tmp_path / "tiny", "a2d (qwen2)")
    arguments = ["workspace", "--data", str(packages), "--limit", "1", "--controls", "1"]
    arguments += ["--context-tokens", "64", "--max-tokens", "4", "--model", str(model)]
    arguments += ["--mode", "diffusion", "--dtype", "float32"]
    arguments += ["--out", str(tmp_path / "rows.jsonl"), "--json"]
    first = CliRunner().invoke(app, [*arguments, "--way", "none"])
    assert first.exit_code == 0, first.output
    rows = (tmp_path / "rows.jsonl").read_text().splitlines()
    second = CliRunner().invoke(app, arguments)
    assert (tmp_path / "rows.jsonl").read_text().splitlines()[: len(rows)] == rows
    figures = json.loads(second.stdout.splitlines()[-1])
    assert [*figures["needing"]] == [way.value for way in OtherFiles]


def test_a_folder_without_a_place_is_said(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    done = CliRunner().invoke(app, ["workspace", "--data", str(tmp_path)])
    assert done.exit_code == 3 and "no place was found" in done.stderr
