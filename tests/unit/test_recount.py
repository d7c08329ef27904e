"""When a workspace is counted, when again, when never: what the language server's child does."""

from __future__ import annotations

import json
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from blockdiff.cli.app import run
from blockdiff.diffusion import personal as stored
from blockdiff.diffusion.personal import TableNote
from blockdiff.system import child
from blockdiff.train import personal, recount
from blockdiff.types import no_op
from blockdiff.weights import store
from tests.unit import drafting_model, tiny_gguf
from tests.unit.drafting_model import NAME

NOTE = TableNote(NAME, 1e9, 10, 1000)  # of ten files of a hundred bytes each


@pytest.fixture(autouse=True)
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in drafting_model.install(tmp_path).items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    """Ten files of a hundred bytes each, as old as `NOTE`."""
    root = tmp_path / "work"
    for number in range(10):
        write(root / f"part{number % 2}" / f"f{number}.py", 1e9 - 1, number)
    return root


def write(path: Path, changed: float, number: int = 0, size: int = 100) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    text = f"def name_{number}(value):\n    return other_{number}(value)\n"
    path.write_text((text + "# more of it\n" * size)[: size - 1] + "\n")
    os.utime(path, (changed, changed))


def counted(root: Path, model: str = NAME) -> Any:
    """What the child says in the end."""
    done = child.run([sys.executable, "-m", "blockdiff.train", str(root), model])
    return json.loads(done.stdout.splitlines()[-1])


def note(root: Path) -> TableNote | None:
    return stored.note_of(stored.file_of(root, NAME))


def tables() -> list[Path]:
    return list(stored.folder().glob(f"*{stored.TABLE}"))


# --- the rule -------------------------------------------------------------------------------------


@pytest.mark.parametrize("days", [0, 2])
@pytest.mark.parametrize(
    ("changed", "new", "gone", "coming", "due"),
    [
        (0, 0, 0, 0, "never"),
        (1, 0, 0, 0, "after a day"),
        (0, 1, 0, 0, "after a day"),
        (0, 0, 1, 0, "after a day"),
        (2, 0, 0, 0, "at once"),
        (0, 3, 0, 0, "at once"),
        (0, 0, 2, 0, "at once"),
        (0, 0, 0, 5, "never"),  # of a clock that was wrong
    ],
)
def test_it_is_due_where_much_has_changed_or_after_a_day_anything(
    workspace: Path, days: int, changed: int, new: int, gone: int, coming: int, due: str
) -> None:
    now = 1e9 + 60 + days * recount.DAY_SECONDS
    files = sorted(workspace.rglob("*.py"))
    for path in files[:changed]:
        os.utime(path, (1e9 + 30, 1e9 + 30))
    for path in files[5 : 5 + coming]:
        os.utime(path, (now + 99, now + 99))
    for path in files[10 - gone :]:
        path.unlink()
    for number in range(new):
        write(workspace / f"new{number}.py", 1e9 + 30)
    file = personal.save(table(workspace), workspace, NAME, NOTE)
    found = replace(recount.sources(workspace), at=now)
    known = due == "never" or (due == "after a day" and not days)
    assert recount.is_due(workspace, found, NAME) != known
    file.write_bytes(file.read_bytes()[:-8])
    assert recount.is_due(workspace, found, NAME), "it is damaged"


def table(root: Path) -> Any:
    files = store.resolve(NAME)
    words = recount.tokenizer_of(files)
    return personal.count_files(recount.sources(root).files, words, no_op).table


def test_without_a_table_it_is_due_unless_there_is_nothing_to_count(
    workspace: Path, tmp_path: Path
) -> None:
    found = recount.sources(workspace)
    assert recount.is_due(workspace, found, NAME)
    personal.save(table(workspace), workspace, NAME)
    assert recount.is_due(workspace, found, NAME), "its table says nothing of itself"
    personal.save(table(workspace), workspace, NAME, replace(NOTE, at=found.at + 60))
    assert recount.is_due(workspace, found, NAME), "counted by a clock that was wrong"
    assert recount.is_due(workspace, found, "another")
    assert not recount.is_due(tmp_path / "x", replace(found, files=()), NAME)


# --- the child ------------------------------------------------------------------------------------


def test_the_child_counts_once_what_the_command_counts(
    workspace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert counted(workspace) == {"counted": 10}
    (file,) = tables()
    by_child = file.read_bytes()
    said = note(workspace)
    assert said is not None and (said.model, said.files, said.source_bytes) == (NAME, 10, 1000)
    assert counted(workspace) == {"counted": 0} and file.read_bytes() == by_child
    assert run(["train", "personal", str(workspace), "--model", NAME]) == 0
    assert tables() == [file]
    known = stored.tables(NAME, len(tiny_gguf.TOKENS)).of(str(workspace / "x.py"))
    capsys.readouterr()
    file.write_bytes(by_child)
    again = stored.tables(NAME, len(tiny_gguf.TOKENS)).of(str(workspace / "x.py"))
    assert known and again and known.entries.tolist() == again.entries.tolist()


def test_two_windows_count_a_workspace_once(workspace: Path) -> None:
    with ThreadPoolExecutor(2) as windows:
        said = list(windows.map(counted, [workspace, workspace]))
    assert sorted(one["counted"] for one in said) == [0, 10]


@pytest.mark.parametrize("what", ["no adapter", "no folder", "no code"])
def test_nothing_is_made_where_there_is_nothing_to_do(
    workspace: Path, tmp_path: Path, what: str
) -> None:
    model, root = NAME, workspace
    if what == "no adapter":
        model = str(tiny_gguf.write(tmp_path / "tiny.gguf"))
    elif what == "no folder":
        root = tmp_path / "none"
    else:
        root = tmp_path / "empty"
        root.mkdir()
    assert counted(root, model) == {"counted": 0}
    assert not stored.folder().exists()


def test_what_fails_is_said_in_a_line(workspace: Path) -> None:
    assert "no model is called" in counted(workspace, "none")["failed"]
    stored.folder().write_text("in the way")
    assert "cannot write" in counted(workspace)["failed"]


def test_counting_needs_no_torch(workspace: Path) -> None:
    code = (
        "import runpy, sys\n"
        f"sys.argv[1:] = [{str(workspace)!r}, {NAME!r}]\n"
        "try: runpy.run_module('blockdiff.train', run_name='__main__')\n"
        "except SystemExit: print('torch' in sys.modules)"
    )
    done = child.run([sys.executable, "-c", code])
    assert done.stdout.splitlines()[-2:] == ['{"counted": 10}', "False"], done.stderr


# --- what is forgotten ----------------------------------------------------------------------------


def test_what_was_forgotten_is_counted_on_command_alone(
    workspace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def said() -> Any:
        assert run(["index", str(workspace), "--json"]) == 0
        return json.loads(capsys.readouterr().out)

    assert said()["tables"] == [] and not said()["forgotten"]
    assert counted(workspace) == {"counted": 10}
    (shown,) = said()["tables"]
    assert (shown["model"], shown["files"]) == (NAME, 10) and shown["at"] > 1e9
    assert run(["index", str(workspace)]) == 0
    assert "drafts know 10 files, counted 20" in capsys.readouterr().out
    assert run(["train", "personal", str(workspace), "--forget"]) == 0
    assert json.loads(capsys.readouterr().out)["removed"] and not tables()
    assert counted(workspace) == counted(workspace / "part0") == {"counted": 0} and not tables()
    assert said()["forgotten"] and said()["tables"] == []
    assert run(["index", str(workspace)]) == 0
    assert "on command alone" in capsys.readouterr().out
    assert run(["train", "personal", str(workspace), "--model", NAME]) == 0
    assert tables() and not personal.is_forgotten(workspace)
    write(workspace / "new.py", 1e9, size=5000)
    assert counted(workspace) == {"counted": 11}


def test_a_workspace_is_counted_without_the_folders_in_it_that_were_forgotten(
    workspace: Path, tmp_path: Path
) -> None:
    personal.forget(workspace / "part0")
    assert counted(workspace) == {"counted": 5}
    if sys.platform != "win32":
        (tmp_path / "link").symlink_to(workspace)
        assert len(recount.sources(tmp_path / "link").files) == 5
        assert personal.is_forgotten(tmp_path / "link" / "part0")
    personal.remember(workspace / "part0")
    assert counted(workspace) == {"counted": 10}


def test_one_that_is_forgotten_while_it_is_counted_has_no_table(workspace: Path) -> None:
    def forgotten(done: int, total: int) -> None:
        personal.forget(workspace)

    assert recount.renew(workspace, store.resolve(NAME), forgotten) is None
    assert not tables()
