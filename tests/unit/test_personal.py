"""Tables of one's own: what is counted of a workspace, where it lies, and who drafts from it."""

from __future__ import annotations

import errno
import gzip
import json
import logging
import os
import stat
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from blockdiff.cli.app import run
from blockdiff.config import DecodingConfig
from blockdiff.diffusion import personal as stored
from blockdiff.diffusion.ngrams import NgramTable
from blockdiff.engine.engine import Engine
from blockdiff.errors import DiskFull, InputFileError, NotPermitted, OutputFileError
from blockdiff.eval import draft, tables
from blockdiff.system.ignored import IgnoreFiles, Verdict
from blockdiff.train import personal
from blockdiff.train.ngrams import count, stream
from blockdiff.types import Finished, Hole, InfillRequest
from tests.unit import tiny_gguf
from tests.unit.tiny_checkpoint import checkpoint, tokenizer
from tests.unit.toy_tokenizers import ToyTokenizer

WORDS = ToyTokenizer()
SIZE = WORDS.vocab_size
posix = pytest.mark.skipif(sys.platform == "win32", reason="owners and modes")


def code(name: str, lines: int = 6) -> str:
    return "".join(f"def {name}_{i}(value):\n    return value.{name}({i})\n" for i in range(lines))


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("BLOCKDIFF_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    root = tmp_path / "vendor" / "work"  # what stands above a workspace does not matter
    for number, name in enumerate(("a.py", "src/b.py", "src/deep/c.rs")):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(code(f"name_{number}"))
        os.utime(path, (1e9 + number, 1e9 + number))
    return root


def table(token: int = 3) -> NgramTable:
    return count(stream([[1, 2, token]] * 3), vocab_size=SIZE, entries=99)


def quiet(done: int, total: int) -> None:
    """The progress of who does not look."""


def found(root: Path) -> list[str]:
    rules = IgnoreFiles()
    files = personal.find(root, lambda path: rules.verdict(path) is Verdict.OPEN).files
    return [path.relative_to(root).as_posix() for path in files]


# --- what is counted ------------------------------------------------------------------------------


def test_source_files_are_found_the_latest_first(workspace: Path) -> None:
    assert found(workspace) == ["src/deep/c.rs", "src/b.py", "a.py"]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("notes.txt", b"words"),
        ("node_modules/x/index.js", b"x"),
        ("src/vendor/x.py", b"x"),
        (".venv/x.py", b"x"),
        ("env/x.py", b"x"),
        ("build/x.py", b"x"),
        ("secret/x.py", b"x"),
        ("x_pb2.py", b"x"),
        ("empty.py", b""),
        ("large.py", b"x = 1\n" * 50_000),
    ],
)
def test_what_is_not_for_counting_is_passed_by(workspace: Path, name: str, content: bytes) -> None:
    (workspace / ".git").mkdir()
    (workspace / ".gitignore").write_text("build/\n")
    (workspace / ".blockdiffignore").write_text("secret/\n")
    (workspace / "env").mkdir()
    (workspace / "env" / "pyvenv.cfg").touch()
    before = found(workspace)
    (workspace / name).parent.mkdir(parents=True, exist_ok=True)
    (workspace / name).write_bytes(content)
    assert found(workspace) == before and len(before) == 3


@posix
def test_links_are_not_followed(workspace: Path, tmp_path: Path) -> None:
    (tmp_path / "else").mkdir()
    (tmp_path / "else" / "x.py").write_text(code("other"))
    (workspace / "folder").symlink_to(tmp_path / "else")
    (workspace / "file.py").symlink_to(tmp_path / "else" / "x.py")
    (workspace / "loop").symlink_to(workspace)
    os.mkfifo(workspace / "pipe.py")
    assert len(found(workspace)) == 3


def test_a_huge_workspace_is_looked_through_in_part(
    workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert personal.find(workspace, lambda path: True).whole
    monkeypatch.setattr(personal, "_LOOKED_AT", 1)
    assert not personal.find(workspace, lambda path: True).whole


def test_of_much_code_the_latest_is_counted(
    workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = personal.find(workspace, lambda path: True).files
    monkeypatch.setattr(personal, "MOST_BYTES", files[0].stat().st_size + 9)
    counted = personal.count_files(files, WORDS, quiet)
    assert (counted.files, counted.left_out) == (1, 2)
    known = WORDS.encode("name_2_0(value")
    assert counted.table.behind(known[:3])[0] and counted.tokens == counted.nbytes


def test_a_workspace_may_change_while_it_is_counted(workspace: Path) -> None:
    files = personal.find(workspace, lambda path: True).files
    gone, grown, same = files
    gone.unlink()
    grown.write_text(code("name", 9000))
    (workspace / "copy.py").write_text(same.read_text())
    (workspace / "bytes.py").write_bytes(b"\xff\xfe\x00" * 99)
    made = workspace / "made.py"
    made.write_text("# Generated by a tool. Do not edit.\n" + code("made"))
    more = [*files, workspace / "copy.py", workspace / "bytes.py", made]
    counted = personal.count_files(more, WORDS, quiet)
    assert counted.files == 1 and counted.nbytes == same.stat().st_size


def test_nothing_to_count_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InputFileError, match="no source code"):
        personal.count_files((), WORDS, quiet)
    with pytest.raises(InputFileError, match="no folder"):
        personal.find(tmp_path / "missing", lambda path: True)


# --- where it lies --------------------------------------------------------------------------------


def test_a_file_has_the_table_of_the_innermost_workspace(tmp_path: Path) -> None:
    outer, inner = tmp_path / "a", tmp_path / "a" / "b"
    personal.save(table(3), outer, "m")
    personal.save(table(4), inner, "m")
    known = stored.tables("m", SIZE)
    for path, tokens in {
        f"{outer}/x.py": [3],
        f"{outer}/c/../x.py": [3],
        f"{inner}/c/d/x.py": [4],
        f"{inner}/../x.py": [3],
        f"{tmp_path}/x.py": [],
        str(inner / "x\0.py"): [],
        "a/b/x.py": [],
        "": [],
    }.items():
        one = known.of(path)
        assert (one.behind([1, 2])[0] if one else []) == tokens, path
    assert not stored.tables("another", SIZE).of(f"{inner}/x.py")


def test_a_table_is_read_anew_when_it_was_counted_again(tmp_path: Path) -> None:
    known, path = stored.tables("m", SIZE), str(tmp_path / "x.py")
    assert known.of(path) is None
    file = personal.save(table(3), tmp_path, "m")
    first = known.of(path)
    assert first is not None and known.of(path) is first, "it is kept"
    personal.save(table(4), tmp_path, "m")
    os.utime(file, ns=(1, 1))
    again = known.of(path)
    assert again is not None and again.behind([1, 2])[0] == [4]
    assert personal.forget(tmp_path) and known.of(path) is None
    assert not personal.forget(tmp_path)


@posix
def test_a_workspace_is_known_by_its_links_too(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    personal.save(table(), tmp_path / "link", "m")
    known = stored.tables("m", SIZE)
    assert known.of(f"{tmp_path}/link/x.py") and known.of(f"{tmp_path}/real/x.py")
    personal.forget(tmp_path / "link")
    assert not list(stored.folder().glob(f"*{stored.TABLE}"))


def test_only_so_many_tables_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(personal, "_MOST", {stored.TABLE: 2})
    for number in range(3):
        os.utime(personal.save(table(), tmp_path / str(number), "m"), (number, number))
    personal.save(table(), tmp_path / "last", "m")
    known = stored.tables("m", SIZE)
    kept = [bool(known.of(f"{tmp_path}/{name}/x.py")) for name in ("0", "1", "2", "last")]
    assert kept == [False, False, True, True]


@posix
def test_a_table_is_its_owners_alone(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = personal.save(table(), tmp_path, "m")
    modes = [stat.S_IMODE(path.stat().st_mode) for path in (file, file.parent)]
    assert modes == [0o600, 0o700]
    file.chmod(0o666)
    assert stored.tables("m", SIZE).of(f"{tmp_path}/x.py") is None and "write to it" in caplog.text
    file.parent.chmod(0o755)
    with pytest.raises(NotPermitted, match="open"):
        personal.save(table(), tmp_path, "m")


@pytest.mark.parametrize("damage", ["cut", "vocabulary", "large", "token"])
def test_a_table_that_cannot_be_used_is_done_without(
    damage: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = personal.save(table(), tmp_path, "m")
    data = file.read_bytes()
    if damage == "token":
        replace(table(SIZE + 9), vocab_size=SIZE).save(file, 0o600)
    elif damage != "vocabulary":
        file.write_bytes(data[:-8] if damage == "cut" else data + bytes(stored.MOST_BYTES))
    known = stored.tables("m", SIZE + (damage == "vocabulary"))
    with caplog.at_level(logging.WARNING):
        assert [known.of(f"{tmp_path}/x.py") for _ in range(3)] == [None] * 3
    assert len(caplog.records) == 1 and "train personal" in caplog.text


@pytest.mark.parametrize(
    ("number", "error"), [(errno.ENOSPC, DiskFull), (errno.EROFS, OutputFileError)]
)
def test_no_room_leaves_the_old_table_and_no_half_of_a_new_one(
    number: int, error: type[Exception], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = personal.save(table(3), tmp_path, "m")
    before = file.read_bytes()

    def refused(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "replace", refused)
    with pytest.raises(error):
        personal.save(table(4), tmp_path, "m")
    assert file.read_bytes() == before and list(file.parent.iterdir()) == [file]


# --- who drafts from it ---------------------------------------------------------------------------


def filled(path: str, temperature: float = 0.0) -> Finished:
    document = "def area(width, height):\n    \n\nprint(area(3, 4))\n"
    decoding = DecodingConfig(max_tokens=24, temperature=temperature, seed=3)
    engine = Engine(checkpoint())
    engine.contexts.speculation = replace(engine.contexts.speculation, most=8)
    last = list(engine.infill(InfillRequest(document, Hole(29, 29), path, decoding=decoding)))[-1]
    assert isinstance(last, Finished)
    return last


def test_the_text_is_the_same_in_fewer_forwards(tmp_path: Path) -> None:
    path = str(tmp_path / "x.py")
    before, sampled = filled(path), filled(path, 0.8)
    words = tokenizer()
    text = "def area(width, height):\n    " + before.text
    counted = stream([words.encode(text)] * 3)
    own = count(counted, vocab_size=words.vocab_size, entries=9999)
    personal.save(own, tmp_path, checkpoint().name)
    after = filled(path)
    assert after.text == before.text and after.tokens == before.tokens
    assert after.forwards < before.forwards == filled("/elsewhere/x.py").forwards
    again = filled(path, 0.8)
    assert (again.text, again.forwards) == (sampled.text, sampled.forwards), "a seed says it all"


def test_what_counting_brings_is_measured_on_files_left_out(tmp_path: Path) -> None:
    for number in range(10):
        (tmp_path / f"f{number}.py").write_text(f"# file {number}\n" + code("shared"))
    files = personal.find(tmp_path, lambda path: True).files
    figures = tables.measure(tmp_path, files, WORDS, (), 0, quiet)
    assert (figures["counted_files"], figures["files"]) == (8, 2)
    one, other = figures["without"], figures["with_personal"]
    assert other["guessed"] > one["guessed"] > 0 and other["mean_run"] > one["mean_run"] > 1
    assert tables.measure(tmp_path, files, WORDS, (), 1, quiet)["files"] == 1
    with pytest.raises(InputFileError, match="too few"):
        tables.measure(tmp_path, files[:4], WORDS, (), 0, quiet)
    drafted = draft.personal(checkpoint(), tmp_path, files, 0, 4, 0, quiet)
    one, other = drafted["without"], drafted["with_personal"]
    assert one["files"] == other["files"] == 2 and one["starts"] == other["starts"] > 0
    assert one["adapter_alone"] == other["adapter_alone"]


def test_runs_are_what_a_forward_settles() -> None:
    assert tables.guess([7, 8, 7, 8], ()) == tables.Guessed(places=3, right=1, runs=1 + 1 + 2)


# --- commands -------------------------------------------------------------------------------------


@pytest.fixture
def model(tmp_path: Path) -> str:
    return str(tiny_gguf.write(tmp_path / "tiny.gguf"))


def corpus(folder: Path) -> Path:
    """As `train corpus` writes it, of few files."""
    folder.mkdir()
    rows = [
        {"text": code(f"common_{i % 2}") + code(f"own_{i}"), "language": "python",
         "path": f"{i}.py", "package": "p"} for i in range(4)
    ]  # fmt: skip
    for split, some in (("train", rows), ("heldout", [])):
        lines = "".join(json.dumps(row) + "\n" for row in some).encode()
        (folder / f"{split}.jsonl.gz").write_bytes(gzip.compress(lines))
    manifest = {
        "shards": {"train": ["train.jsonl.gz"], "heldout": ["heldout.jsonl.gz"]},
        "documents": {"train": 4, "heldout": 0},
    }
    (folder / "manifest.json").write_text(json.dumps(manifest))
    (folder / "held.jsonl").write_text(json.dumps({"text": rows[0]["text"]}) + "\n")
    return folder


def test_the_shipped_table_is_counted_from_a_corpus(
    tmp_path: Path, model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    data, out = corpus(tmp_path / "corpus"), tmp_path / "new" / "ngrams.safetensors"
    command = ["train", "ngrams", "--data", str(data), "--out", str(out), "--model", model]
    assert run([*command, "--leave-out", str(data / "held.jsonl"), "--entries", "500"]) == 0
    figures = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (figures["documents"], figures["left_out"]) == (3, 1)
    written = NgramTable.load(out, len(tiny_gguf.TOKENS))
    assert 0 < len(written.entries) == figures["entries"] <= 500
    assert [path.name for path in out.parent.iterdir()] == [out.name]
    before = out.read_bytes()
    assert run(command) == 0 and run(command) == 0 and out.read_bytes() != before
    assert run([*command[:4], "--out", str(tmp_path), "--model", model]) == 3
    assert run(["train", "ngrams", "--data", str(out.parent), *command[4:]]) == 3
    assert run([*command, "--leave-out", str(data / "none.jsonl")]) == 3


def test_commands_on_a_workspace(
    workspace: Path, model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(6):
        (workspace / f"f{number}.py").write_text(f"# file {number}\n" + code("shared"))
    assert run(["eval", "draft", "--data", str(workspace), "--model", model]) == 0
    said, figures = capsys.readouterr().out.splitlines()
    assert "guessed by n-grams" in said and json.loads(figures)["counted_files"] == 8
    assert not stored.folder().exists()
    assert run(["train", "personal", str(workspace), "--model", model]) == 4
    assert "does not draft" in capsys.readouterr().err
    personal.save(table(), workspace, "m")
    assert run(["train", "personal", str(workspace), "--forget"]) == 0
    assert json.loads(capsys.readouterr().out)["removed"]
    assert not list(stored.folder().glob(f"*{stored.TABLE}"))
    assert run(["train", "personal", str(workspace / "none")]) == 3
