"""Documents are true: commands run, what is repeated is current, what is named exists."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from blockdiff.cli.source_file import hole_of_lines, read
from blockdiff.client.endpoint import Runtime
from blockdiff.engine.engine import Engine
from blockdiff.errors import ExitCode
from blockdiff.weights.catalog import DEFAULT_MODEL
from tests.unit.compat_clients import CLIENTS
from tests.unit.scripted_service import served
from tests.unit.tiny_checkpoint import checkpoint

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text("utf-8")

ENDS: dict[str, tuple[ExitCode, ...]] = {
    "blockdiff doctor": tuple(ExitCode),  # depends on the machine
    "blockdiff models pull": (ExitCode.NETWORK,),  # there is no network in this test
}


def commands(text: str) -> list[str]:
    """Every line of every `sh` block, continued lines joined."""
    blocks = re.findall(r"^```sh\n(.*?)^```", text, re.S | re.M)
    joined = "".join(blocks).replace("\\\n", " ")
    return [line for line in joined.splitlines() if line and not line.startswith("#")]


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where the real engine runs that `blockdiff infill` and `rewrite` join, on tiny weights."""
    folder = tmp_path_factory.mktemp("engine") / "run"
    point = replace(checkpoint(max_positions=4096), name=DEFAULT_MODEL)
    with served(Runtime(folder), lambda report: Engine(point), model=DEFAULT_MODEL):
        yield folder


@pytest.fixture
def shell(tmp_path: Path, engine: Path) -> Any:
    """Runs a line of shell in a copy of the examples, beside the engine."""
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    tools = tmp_path / "tools"
    tools.mkdir()
    command = tools / "blockdiff"
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m blockdiff "$@"\n')
    command.chmod(0o755)
    environment = os.environ | {
        "PATH": f"{tools}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "HF_HUB_OFFLINE": "1",
        "BLOCKDIFF_CACHE": str(tmp_path / "cache"),
        "BLOCKDIFF_RUNTIME": str(engine),
    }

    def run(line: str) -> subprocess.CompletedProcess[str]:
        shell = ["bash", "-o", "pipefail", "-c", line]
        return subprocess.run(shell, cwd=tmp_path, env=environment, capture_output=True, text=True)

    return run


def test_the_readme_opens_with_the_three_commands() -> None:
    assert README.startswith("# blockdiff\n\n```sh\nmake demo\nmake test\nmake plugins\n```\n")


DOCUMENTS = [ROOT / "README.md", ROOT / "examples" / "README.md", ROOT / "docs" / "architecture.md"]
LINES = [line for path in DOCUMENTS for line in commands(path.read_text("utf-8"))]


@pytest.mark.parametrize("line", [line for line in LINES if line.startswith(("blockdiff", "cat"))])
@pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not installed")
def test_every_command_runs(shell: Any, line: str) -> None:
    done = shell(line)
    assert done.returncode in ENDS.get(line, (ExitCode.OK,)), done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("line", [line for line in LINES if line.startswith("make")])
def test_every_target_is_there(line: str) -> None:
    subprocess.run([*line.split(), "--dry-run"], cwd=ROOT, check=True, capture_output=True)


def test_every_command_is_of_these_kinds() -> None:
    others = {line for line in LINES if not line.startswith(("blockdiff", "cat", "make"))}
    assert others == {"pip install -c constraints.txt '.[engine]'"}  # as `make setup` does


def script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / f"docs/{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_help_exit_codes_and_error_codes_are_those_of_the_code() -> None:
    parts = script("readme_parts")
    assert parts.updated(README) == README, "run: make docs"
    assert parts.guide() == parts.GUIDE.read_text("utf-8"), "run: make docs"


def test_settings_and_table_of_other_clients_are_those_of_the_code() -> None:
    parts = script("clients_parts")
    guide = parts.GUIDE.read_text("utf-8")
    assert parts.updated(guide) == guide, "run: make docs"
    tried = json.loads(parts.RESULTS.read_text("utf-8"))
    assert [(row["client"], row["endpoint"]) for row in tried] == [
        (client.name, client.endpoint) for client in CLIENTS
    ]


def test_the_road_is_the_one_that_a_request_takes() -> None:
    """In a process of its own: every function of a request is noted."""
    code = "from docs.road_parts import DOCUMENT, updated; t = DOCUMENT.read_text('utf-8'); "
    code += "assert updated(t) == t, updated(t)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, f"run: make docs\n{done.stderr}"


MODELS = sorted(path.parent for path in (ROOT / "models").glob("*/eval"))


@pytest.mark.parametrize("folder", MODELS, ids=lambda folder: folder.name)
def test_tables_of_a_model_are_its_result_files(folder: Path) -> None:
    parts = script("eval_parts")
    assert parts.evaluation(folder) == (folder / "EVAL.md").read_text("utf-8"), "run: make docs"
    card = (folder / "MODEL_CARD.md").read_text("utf-8")
    assert parts.card(card, folder) == card, "run: make docs"
    assert "<!-- results: single-line -->" in card


def test_a_figure_that_changes_shows(tmp_path: Path) -> None:
    """Every number of the result files that a table holds is read from them."""
    parts = script("eval_parts")
    for folder in MODELS:
        copy = tmp_path / folder.name
        shutil.copytree(folder, copy)
        before = parts.evaluation(copy)
        for path in (copy / "eval").glob("*.json"):
            text = path.read_text("utf-8")
            digit = re.search(r'"(?:parse_rate|mean_accepted|fixed|bits_per_token)": ([0-9])', text)
            assert digit is not None, path.name
            other = "1" if digit[1] == "7" else "7"
            path.write_text(text[: digit.start(1)] + other + text[digit.end(1) :], "utf-8")
            assert parts.evaluation(copy) != before, path.name
            path.write_text(text, "utf-8")


# The file tree


def tree() -> set[Path]:
    """What the file tree of the README names."""
    block = re.search(r"^```text\nblockdiff/\n(.*?)^```", README, re.S | re.M)
    assert block is not None
    paths = re.sub("^  ", "blockdiff/", block[1], flags=re.M)
    return {ROOT / line.split()[0] for line in paths.splitlines()}


def test_the_file_tree_has_a_line_for_every_room() -> None:
    assert not {path for path in tree() if not path.exists()}
    package = ROOT / "blockdiff"
    rooms = {path for path in package.glob("*.py") if path.name != "__init__.py"}
    rooms |= {path.parent for path in ROOT.glob("blockdiff/*/__init__.py")}
    rooms |= {path.parent for path in ROOT.glob("*/__init__.py")} - {package}
    unnamed = {str(path.relative_to(ROOT)) for path in rooms - tree()}
    assert not unnamed, "add a line to the file tree of README.md"


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_files_named_in_running_text_exist(path: Path) -> None:
    text = re.sub(r"^```.*?^```", "", path.read_text("utf-8"), flags=re.S | re.M)
    names = re.findall(r"`((?:[\w.-]+/)+[\w.-]*|[\w-]+\.(?:md|toml|txt|py))`", text)
    homes = (ROOT, path.parent, ROOT / "blockdiff")
    assert not {name for name in names if not any((home / name).exists() for home in homes)}


# The examples


HOLES = tomllib.loads((ROOT / "examples" / "holes.toml").read_text("utf-8"))["hole"]


def test_five_languages_have_an_example() -> None:
    assert len({hole["language"] for hole in HOLES}) == len(HOLES) == 5
    others = {"README.md", "holes.toml", *(hole["file"] for hole in HOLES)}
    assert set(os.listdir(ROOT / "examples")) - {"__pycache__"} == others


@pytest.mark.parametrize("hole", HOLES, ids=lambda hole: hole["file"])
def test_a_hole_is_where_the_examples_say(hole: dict[str, str]) -> None:
    source = read(str(ROOT / "examples" / hole["file"]))
    span = hole_of_lines(source, hole["lines"])
    assert source.text[span.start : span.end].startswith(hole["marker"])
    assert source.text.count("HOLE:") == 1
    assert 30 <= source.text.count("\n") <= 80
    command = f"blockdiff infill examples/{hole['file']} --lines {hole['lines']}"
    table = (ROOT / "examples" / "README.md").read_text("utf-8")
    assert f"| `{hole['file']}` | " in table and f"| line {hole['lines']} | `{command}` |" in table


def test_the_demo_fills_the_hole_of_an_example() -> None:
    made = ["make", "--dry-run", "demo"]
    said = subprocess.run(made, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    demo = re.search(r"blockdiff infill examples/(\S+) --lines (\S+)", said)
    assert demo is not None
    assert (demo[1], demo[2]) in {(hole["file"], hole["lines"]) for hole in HOLES}


# What is installed


def test_torch_is_pinned_as_the_readme_says() -> None:
    version = re.search(r"`constraints.txt` pins torch (\S+) without", README)
    assert version is not None
    assert f"torch=={version[1]}" in (ROOT / "constraints.txt").read_text("utf-8").splitlines()


def test_every_dependency_is_pinned() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    wanted = [*project["dependencies"], *sum(project["optional-dependencies"].values(), [])]
    names = {re.match(r"[\w-]+", spec)[0] for spec in wanted}  # type: ignore[index]
    constraints = (ROOT / "constraints.txt").read_text("utf-8")
    pinned = set(re.findall(r"^([\w-]+)==", constraints, re.M))
    # for Python 3.10 only, where little is pinned, and an extra within an extra
    assert names - pinned == {"tomli", "blockdiff"}
