"""Nothing of the project that is open runs because a program of ours was started in its folder."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from blockdiff.client.client import EngineClient
from blockdiff.client.endpoint import Runtime
from blockdiff.client.starter import Starter, StartOptions
from blockdiff.model.int8 import library
from blockdiff.system import child, search_path
from tests.unit.cloned_project import Project
from tests.unit.scripted_service import run as run_story

ROOT = Path(__file__).resolve().parents[2]
posix = pytest.mark.skipif(os.name == "nt", reason="programs are scripts with a mode")


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    """The folder this process is in."""
    made = Project(tmp_path / "project", tmp_path / "marks")
    monkeypatch.chdir(made.folder)
    return made


# The values of PYTHONPATH that put a project on the search path; {} is its folder.
PYTHON_PATHS = ["", ":", ".", "src", "{}", f":{ROOT}", f"{ROOT}:./src:"]


@posix
@pytest.mark.parametrize("value", PYTHON_PATHS)
def test_an_engine_imports_nothing_from_the_folder_it_is_started_from(
    project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    monkeypatch.setenv("PYTHONPATH", value.format(project.folder))
    monkeypatch.setenv("PATH", f".:{os.environ['PATH']}:")
    monkeypatch.setenv("BLOCKDIFF_CACHE", "../cache")  # is that of this process, not of the child
    runtime = Runtime(tmp_path / "run")
    starter = Starter(runtime, StartOptions(download=False, idle_seconds=60))
    joined = starter.join_or_start()
    assert Path(f"/proc/{joined.health.pid}/cwd").resolve() == runtime.folder.resolve() or (
        sys.platform != "linux"
    )
    run_story(EngineClient(runtime=runtime).stop())
    assert project.ran() == []


@posix
@pytest.mark.parametrize("value", PYTHON_PATHS)
def test_a_python_child_imports_nothing_from_the_project(
    project: Project, monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    monkeypatch.setenv("PYTHONPATH", value.format(project.folder))
    code = "import json, filelock, os, blockdiff; print(filelock.__file__, os.getcwd())"
    done = child.run([sys.executable, "-c", code])
    assert done.returncode == 0, done.stderr
    assert str(project.folder) not in done.stdout
    assert project.ran() == []


@posix
@pytest.mark.parametrize("module", ["lsp_server", "blockdiff"])
@pytest.mark.parametrize("value", [str(ROOT), f"{ROOT}:", f"{ROOT}:.:src"])
def test_a_program_started_with_m_in_a_project_leaves_it(
    project: Project, module: str, value: str
) -> None:
    """As an editor may be told to, in place of `blockdiff-lsp`."""
    done = subprocess.run(
        [sys.executable, "-m", module, "--help"], env=os.environ | {"PYTHONPATH": value},
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0 and "usage" in done.stdout.lower(), done.stderr
    assert project.ran() == []


def test_without_pythonpath_nothing_relative_is_added(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PYTHONPATH", raising=False)
    monkeypatch.setattr(child, "PACKAGE_ROOT", "/opt/venv/lib/python3.11/site-packages")
    assert "PYTHONPATH" not in child.inherited()  # an empty one would mean the working directory


@posix
@pytest.mark.parametrize(
    ("name", "path", "found"),
    [
        ("tool", "{own}", True),
        ("tool", ".:{own}:", True),
        ("gcc", ".", False),
        ("gcc", "", False),
        ("gcc", ":src", False),
        ("./gcc", "{own}", False),
        ("src/gcc", "{own}", False),
        ("{own}/tool", "", True),
        ("{own}/none", "{own}", False),
    ],
)
def test_programs_are_found_by_absolute_folders_only(
    project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    name: str, path: str, found: bool,
) -> None:  # fmt: skip
    own = tmp_path / "own"
    own.mkdir()
    (own / "tool").write_text("#!/bin/sh\necho it ran\n")
    (own / "tool").chmod(0o755)
    monkeypatch.setenv("PATH", path.format(own=own))
    name = name.format(own=own)
    assert child.which(name) == (str(own / "tool") if found else None)
    if found:
        assert child.run([name]).stdout == "it ran\n"
    else:
        with pytest.raises(FileNotFoundError):
            child.run([name])
    assert project.ran() == []


@posix
@pytest.mark.parametrize("compiler", ["./cc", "src/cc -O3", "cc"])
def test_no_compiler_of_the_project_is_run(
    project: Project, monkeypatch: pytest.MonkeyPatch, compiler: str
) -> None:
    monkeypatch.setenv("CC", compiler)
    monkeypatch.setenv("PATH", f":.:src:{os.environ['PATH']}")
    for command in library._compilers():
        assert os.path.isabs(command[0]) and not command[0].startswith(str(project.folder))
        assert child.run([*command, "--version"]).returncode == 0
    assert project.ran() == []


def test_a_child_starts_in_an_empty_folder_that_is_gone_afterwards() -> None:
    code = "import os; print(os.getcwd(), os.listdir())"
    folder, listed = child.run([sys.executable, "-c", code]).stdout.split()
    assert listed == "[]" and not os.path.exists(folder)


def test_relative_places_keep_their_meaning(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BLOCKDIFF_CACHE", "cache")
    monkeypatch.setenv("SSL_CERT_FILE", "certificates.pem")
    monkeypatch.setenv("HF_HOME", "~/hub")
    seen = child.inherited()
    assert seen["BLOCKDIFF_CACHE"] == str(project.folder / "cache")
    assert seen["SSL_CERT_FILE"] == str(project.folder / "certificates.pem")
    assert seen["HF_HOME"] == "~/hub"


def test_a_checkout_in_which_one_works_stays_on_the_search_path(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(sys, "path", ["", *sys.path])
    search_path.leave_project()
    assert "" not in sys.path and str(ROOT) in map(os.path.realpath, sys.path)


# Nobody goes around it

_STARTS = re.compile(
    r"subprocess|multiprocessing|pty|os\.(system|popen|exec\w+|spawn\w+|posix_spawn\w*)|"
    r"asyncio\.create_subprocess_\w+"
)


def python_starts(path: Path) -> set[str]:
    """Names in a file that start processes."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names)]
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            names = [f"{node.value.id}.{node.attr}"]
        else:
            continue
        found |= {name for name in names if _STARTS.fullmatch(name)}
    return found


def test_python_starts_processes_in_one_place() -> None:
    files = [path for top in ("blockdiff", "lsp_server") for path in (ROOT / top).rglob("*.py")]
    starting = {str(path.relative_to(ROOT)) for path in files if python_starts(path)}
    assert starting == {"blockdiff/system/child.py"}


def calls(text: str, name: str) -> list[str]:
    """The arguments of every call of a function, as written."""
    found = []
    for start in re.finditer(re.escape(name) + r"\(", text):
        depth, end = 1, start.end()
        while depth:
            depth += {"(": 1, ")": -1}.get(text[end], 0)
            end += 1
        found.append(text[start.end() : end - 1])
    return found


@pytest.mark.parametrize(
    ("folder", "pattern", "starters", "others"),
    [
        (
            "vscode/src", "*.ts", ("spawn",),
            r"import [^;]*\b(exec|fork|\w+Sync|execFile)\b[^;]*child_process",
        ),
        (
            "nvim", "*.lua", ("vim.system", "vim.lsp.rpc.start"),
            r"jobstart|termopen|io\.popen|os\.execute|uv\.spawn|fn\.system",
        ),
    ],
)  # fmt: skip
def test_editors_start_processes_in_a_folder_of_ours(
    folder: str, pattern: str, starters: tuple[str, ...], others: str
) -> None:
    started = 0
    for path in (ROOT / "editors" / folder).rglob(pattern):
        text = path.read_text(encoding="utf-8")
        assert not re.search(others, text), path
        for arguments in (found for name in starters for found in calls(text, name)):
            started += 1
            assert "cwd" in arguments, f"{path}: {arguments}"
    assert started >= 2


