"""The command line: one clear line for every failure, the documented exit status, no traceback."""

from __future__ import annotations

import dataclasses
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from blockdiff.cli import app, console, doctor, infill
from blockdiff.config import DecodingConfig, Mode, Reuse, Rule, annotations_of, meta_of
from blockdiff.errors import BlockdiffError, ExitCode
from blockdiff.syntax.grammars import grammar_of
from blockdiff.types import InfillRequest
from blockdiff.weights import download, store
from blockdiff.weights.catalog import find
from tests.unit import scripted_cli
from tests.unit.scripted_cli import ScriptedEngine

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = "def f(x):\n    y = x\n    return y\n"
posix = pytest.mark.skipif(os.name == "nt", reason="POSIX signals and terminals")


@dataclasses.dataclass
class Result:
    """How a command ended."""

    status: int
    out: str
    err: str

    @property
    def error(self) -> str:
        """The one line that says what went wrong; checks that there is one, and at most a hint."""
        assert "Traceback" not in self.err
        lines = self.err.splitlines()
        errors = [line for line in lines if line.startswith("error: ")]
        assert len(errors) == 1, self.err
        rest = lines[lines.index(errors[0]) + 1 :]
        assert all(line.startswith("hint: ") for line in rest) and len(rest) <= 1, self.err
        return errors[0].removeprefix("error: ")


@pytest.fixture(autouse=True)
def scripted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """The scripted engine, an empty cache, and an empty folder to work in."""
    monkeypatch.setenv("BLOCKDIFF_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("BLOCKDIFF_DEBUG", raising=False)
    # What `install` replaces is restored at the end.
    monkeypatch.setattr(download, "resolve", download.resolve)
    monkeypatch.setattr(infill, "find_spec", infill.find_spec)
    real = sys.modules.get("blockdiff.engine.engine")
    scripted_cli.install()
    ScriptedEngine.requests.clear()
    folder = tmp_path / "work"
    folder.mkdir()
    monkeypatch.chdir(folder)
    yield
    del sys.modules["blockdiff.engine.engine"]
    if real is not None:
        sys.modules["blockdiff.engine.engine"] = real


@pytest.fixture
def blockdiff(capfd: pytest.CaptureFixture[str]) -> Any:
    """Runs the command in this process."""

    def run(*argv: str) -> Result:
        capfd.readouterr()
        status = app.run(list(argv))
        captured = capfd.readouterr()
        return Result(status, captured.out, captured.err)

    return run


@pytest.fixture
def program() -> Path:
    path = Path("program.py")
    path.write_bytes(PROGRAM.encode())
    return path


def script(monkeypatch: pytest.MonkeyPatch, scene: str = "fill", text: str = "x = 1") -> None:
    monkeypatch.setenv("SCRIPT", scene)
    monkeypatch.setenv("SCRIPT_TEXT", text)


def child(*argv: str, scene: str = "fill", text: str = "x = 1", **options: Any) -> Any:
    """Starts the command with the scripted engine as a process of its own."""
    environment = os.environ | {
        "SCRIPT": scene,
        "SCRIPT_TEXT": text,
        "PYTHONPATH": str(ROOT),
        "TERM": "xterm",
        "COLUMNS": "80",
    }
    pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    command = [sys.executable, scripted_cli.__file__, *argv]
    return subprocess.Popen(command, env=environment, **(pipes | options))


def ended(process: Any, stdin: bytes | None = None) -> Result:
    out, err = process.communicate(stdin, timeout=30)
    return Result(process.returncode, (out or b"").decode(), (err or b"").decode())


# Results


def test_the_diff_goes_to_standard_output_and_the_file_stays(blockdiff: Any, program: Path) -> None:
    result = blockdiff("infill", "program.py", "--lines", "2")
    assert result.status == 0
    assert result.out == (
        "--- a/program.py\n+++ b/program.py\n@@ -1,3 +1,3 @@\n"
        " def f(x):\n-    y = x\n+    x = 1\n     return y\n"
    )
    assert "verify · 2 tokens in 3 forwards" in result.err
    assert program.read_text() == PROGRAM


def test_quiet_prints_the_diff_and_nothing_else(blockdiff: Any, program: Path) -> None:
    result = blockdiff("infill", "program.py", "--lines", "2", "--quiet")
    assert result.out.startswith("--- a/program.py")
    assert result.err == ""


@pytest.mark.parametrize("holes", [("--lines", "2"), ("--at", "2:5", "--at", "3:5")])
def test_quiet_says_when_the_text_was_cut_off(
    blockdiff: Any, program: Path, monkeypatch: pytest.MonkeyPatch, holes: tuple[str, ...]
) -> None:
    script(monkeypatch, "length")
    result = blockdiff("infill", "program.py", *holes, "--quiet")
    assert result.out.startswith("--- a/program.py")
    assert result.err == "cut off at --max-tokens (finish: length)\n"


def test_write_changes_the_file_and_prints_no_diff(blockdiff: Any, program: Path) -> None:
    result = blockdiff("infill", "program.py", "--at", "2:5", "--write")
    assert (result.status, result.out) == (0, "")
    assert "wrote program.py" in result.err
    assert program.read_text() == PROGRAM.replace("y = x", "x = 1y = x")


def test_a_hole_that_stays_as_it_is_says_so(
    blockdiff: Any, program: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script(monkeypatch, text="y = x")
    result = blockdiff("infill", "program.py", "--lines", "2")
    assert (result.status, result.out) == (0, "")
    assert "left the hole as it is" in result.err


def test_several_holes_are_one_request_and_one_diff(blockdiff: Any, program: Path) -> None:
    holes = ("--hole", "3:12-3:13", "--at", "1:6", "--lines", "2")
    result = blockdiff("infill", "program.py", *holes)
    assert result.status == 0
    assert result.out == (
        "--- a/program.py\n+++ b/program.py\n@@ -1,3 +1,3 @@\n"
        "-def f(x):\n-    y = x\n-    return y\n"
        "+def fx = 10(x):\n+    x = 11\n+    return x = 12\n"
    )
    assert "verify · 6 tokens in 9 forwards" in result.err
    (request,) = ScriptedEngine.requests[:1]
    assert [PROGRAM[hole.start : hole.end] for hole in request.holes] == ["", "y = x", "y"]
    assert blockdiff("infill", "program.py", *holes, "--write").out == ""
    assert program.read_text() == "def fx = 10(x):\n    x = 11\n    return x = 12\n"


def test_json_of_several_holes_has_their_numbers(blockdiff: Any, program: Path) -> None:
    result = blockdiff("infill", "program.py", "--at", "2:5", "--at", "3:12", "--json", "--write")
    *drafts, end = map(json.loads, result.out.splitlines())
    assert {(draft["event"], draft["hole"]) for draft in drafts} == {
        ("refinement", 0), ("refinement", 1)
    }  # fmt: skip
    assert (end["event"], end["written"]) == ("filled", True)
    assert [(hole["hole"], hole["text"]) for hole in end["holes"]] == [(0, "x = 10"), (1, "x = 11")]
    assert program.read_text() == PROGRAM.replace("y = x", "x = 10y = x").replace(
        "return y", "return x = 11y"
    )


@pytest.mark.parametrize("write", [False, True])
def test_json_prints_events_and_ends_with_finished(
    blockdiff: Any, program: Path, write: bool
) -> None:
    options = ("--write",) if write else ()
    result = blockdiff("infill", "program.py", "--lines", "2", "--json", *options)
    assert (result.status, result.err) == (0, "")
    *refinements, finished = map(json.loads, result.out.splitlines())
    assert [event["event"] for event in refinements] == ["refinement"] * 4
    assert refinements[-1] == {
        "event": "refinement",
        "request_id": "",
        "seq": 3,
        "hole": 0,
        "text": "x = 1",
        "settled": [[0, 4]],
        "confidence": 0.8,
        "spans": [[0, 4, True, 1.0], [4, 5, False, 0.6]],
        "step": 3,
        "forwards": 3,
        "elapsed_ms": 30.0,
    }
    assert finished == {
        "event": "finished",
        "request_id": "",
        "hole": 0,
        "text": "x = 1",
        "tokens": 2,
        "forwards": 3,
        "finish": "eom",
        "syntax": "ok",
        "mode": "verify",
        "model": "scripted",
        "elapsed_ms": 12.5,
        "first_ms": 3.2,
        "context_tokens": 40,
        "cached_tokens": 0,
        "drafted": {"adapter": 0, "copy": 0, "table": 0, "original": 0, "drafter": 0},
        "written": write,
    }
    assert (program.read_text() != PROGRAM) is write


def test_standard_input_is_a_file(program: Path) -> None:
    process = child("infill", "-", "--lines", "2", "--quiet", stdin=subprocess.PIPE)
    result = ended(process, PROGRAM.encode())
    assert result.status == 0
    assert result.out.startswith("--- a/stdin\n")
    assert "+    x = 1\n" in result.out


def test_line_endings_of_the_file_are_in_the_diff(program: Path) -> None:
    program.write_bytes(PROGRAM.replace("\n", "\r\n").encode())
    result = ended(child("infill", "program.py", "--lines", "2", "--quiet"))
    assert "-    y = x\r\n+    x = 1\r\n" in result.out


def test_a_file_of_megabytes_works(blockdiff: Any) -> None:
    Path("big.py").write_text("".join(f"x = {i}\n" for i in range(1, 200_001)))
    assert Path("big.py").stat().st_size > 2**20
    result = blockdiff("infill", "big.py", "--lines", "100000-100001", "--quiet")
    assert result.status == 0
    assert result.out.splitlines()[2] == "@@ -99997,8 +99997,7 @@"


# What is asked for


OPTIONS: dict[str, tuple[str, Any]] = {
    "mode": ("ar", Mode.AR),
    "rule": ("entropy_bound", Rule.ENTROPY_BOUND),
    "block_size": ("7", 7),
    "denoising_steps": ("3", 3),
    "threshold": ("0.5", 0.5),
    "trust": ("0.4", 0.4),
    "entropy_bound": ("0.25", 0.25),
    "edit_threshold": ("0.6", 0.6),
    "cache": ("approximate-dual", Reuse.DUAL),
    "max_tokens": ("9", 9),
    "temperature": ("0.7", 0.7),
    "top_p": ("0.8", 0.8),
    "seed": ("11", 11),
}


@pytest.mark.parametrize("field", dataclasses.fields(DecodingConfig), ids=lambda f: f.name)
def test_every_setting_is_an_option_that_reaches_the_engine(
    blockdiff: Any, program: Path, field: Any
) -> None:
    text, value = OPTIONS[field.name]
    option = "--" + field.name.replace("_", "-")
    assert blockdiff("infill", "program.py", "--lines", "2", option, text).status == 0
    (request,) = ScriptedEngine.requests
    assert request.decoding == dataclasses.replace(DecodingConfig(), **{field.name: value})


@pytest.mark.parametrize("mode", list(Mode))
@pytest.mark.parametrize("rule", list(Rule))
def test_every_mode_and_rule_is_accepted(
    blockdiff: Any, program: Path, mode: Mode, rule: Rule
) -> None:
    chosen = ("--mode", mode.value, "--rule", rule.value)
    assert blockdiff("infill", "program.py", "--lines", "2", *chosen).status == 0


def test_the_request_carries_the_document_its_path_and_language(
    blockdiff: Any, program: Path
) -> None:
    options = ("--language", "go", "--context-tokens", "99")
    blockdiff("infill", "./program.py", "--hole", "1:5-2:3", *options)
    (request,) = ScriptedEngine.requests
    assert isinstance(request, InfillRequest)
    assert request.document == PROGRAM
    assert (request.prefix, request.suffix) == ("def ", "  y = x\n    return y\n")
    assert (request.path, request.language) == (program.absolute().as_posix(), "go")
    assert request.context_tokens == 99


def test_help_tells_what_the_settings_tell(blockdiff: Any) -> None:
    text = " ".join(blockdiff("infill", "--help").out.split())
    for field in dataclasses.fields(DecodingConfig):
        default = getattr(field.default, "value", field.default)
        told = meta_of(annotations_of(DecodingConfig)[field.name])["description"]
        help_text = f"{told} [default: {default}]"
        assert help_text in text


def test_help_lists_every_exit_code(blockdiff: Any) -> None:
    for argv in (["--help"], ["infill", "--help"], []):
        result = blockdiff(*argv)
        assert result.status == 0
        for code in ExitCode:
            assert re.search(rf"^ +{code.value} +{re.escape(code.meaning)}$", result.out, re.M)


def test_version(blockdiff: Any) -> None:
    assert re.fullmatch(r"\d+\.\d+\.\d+\n", blockdiff("version").out)


@pytest.mark.parametrize("command", ["models", "train", "eval"])
def test_commands_of_other_modules_get_their_own_help(blockdiff: Any, command: str) -> None:
    pytest.importorskip(f"blockdiff.cli.{command}")
    result = blockdiff(command, "--help")
    assert result.status == 0
    assert f"Usage: blockdiff {command}" in result.out


def test_models_reports_its_errors_as_every_command_does(blockdiff: Any) -> None:
    result = blockdiff("models", "info", "no-such-model")
    assert result.status == ExitCode.MODEL
    assert "no-such-model" in result.error


# Bad input: each one line, the documented status, and the file untouched


BAD_FILES: dict[str, tuple[bytes | None, str]] = {
    "missing": (None, "does not exist"),
    "empty": (b"", "is empty"),
    "binary": (b"\x7fELF\0\0", "is binary: NUL byte at offset 4"),
    "latin1": (b"# caf\xe9\nx = 1\n", "is not UTF-8: byte 0xe9 at offset 5, line 1"),
    "huge": (b"x" * (8 * 2**20 + 1), "is larger than 8 MiB"),
}


@pytest.mark.parametrize("name", BAD_FILES)
@pytest.mark.parametrize("write", [False, True])
def test_files_that_cannot_be_used(blockdiff: Any, name: str, write: bool) -> None:
    content, message = BAD_FILES[name]
    path = Path("bad.py")
    if content is not None:
        path.write_bytes(content)
    result = blockdiff("infill", "bad.py", "--at", "1:1", *(["--write"] if write else []))
    assert result.status == ExitCode.INPUT_FILE
    assert result.error == f"bad.py {message}"
    assert path.exists() is (content is not None)
    assert content is None or path.read_bytes() == content
    assert not ScriptedEngine.requests


def test_a_folder_is_no_file(blockdiff: Any) -> None:
    result = blockdiff("infill", ".", "--at", "1:1")
    assert (result.status, result.error) == (ExitCode.INPUT_FILE, ". is a directory")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root reads all")
def test_an_unreadable_file(blockdiff: Any, program: Path) -> None:
    program.chmod(0)
    result = blockdiff("infill", "program.py", "--at", "1:1")
    assert result.status == ExitCode.INPUT_FILE
    assert "permission denied" in result.error


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "say where the hole is"),
        (["--at", "1:1", "--lines", "1"], "two holes overlap"),
        (["--at", "9:1"], "line 9 is outside program.py, which has 4 lines"),
        (["--at", "1:11"], "column 11 is outside line 1 of program.py, which has 9 characters"),
        (["--at", "0:1"], "line 0 is outside program.py, which has 4 lines"),
        (["--at", "first"], "--at first is not a position"),
        (["--lines", "3-2"], "--lines 3-2 ends before it starts"),
        (["--lines", "2-9"], "line 9 is outside program.py, which has 4 lines"),
        (["--hole", "2:1-1:1"], "--hole 2:1-1:1 ends before it starts"),
        (["--lines", "1", "--at", "1:3"], "two holes overlap"),
        (["--at", "1:1"] + [f"--at=2:{n}" for n in range(1, 9)], "9 holes, a request has 8"),
        (["--lines", "1-3"], "the hole covers all of program.py, so nothing says what to write"),
        (["--hole", "1:1-4:1"], "the hole covers all of program.py, so nothing says what to write"),
        (["--lines", "2", "--max-tokens", "-1"], "max_tokens must be 0..8192, got -1"),
        (["--lines", "2", "--threshold", "2"], "threshold must be in (0, 1], got 2.0"),
        (["--lines", "2", "--top-p", "nan"], "top_p must be in (0, 1], got nan"),
        (["--lines", "2", "--context-tokens", "1"], "context_tokens must be 16..1048576, got 1"),
        (["--lines", "2", "--mode", "fast"], "Invalid value for '--mode'"),
        (["--lines", "2", "--seed", "x"], "Invalid value for '--seed'"),
        (["--lines"], "Option '--lines' requires an argument"),
        (["--no-such-option"], "No such option: --no-such-option"),
    ],
)
def test_requests_that_make_no_sense(
    blockdiff: Any, program: Path, options: list[str], message: str
) -> None:
    result = blockdiff("infill", "program.py", *options)
    assert result.status == ExitCode.USAGE
    assert result.error.startswith(message)
    assert "hint: " in result.err
    assert program.read_text() == PROGRAM
    assert not ScriptedEngine.requests


def test_a_missing_argument_and_an_unknown_command(blockdiff: Any) -> None:
    assert blockdiff("infill").error.startswith("Missing argument 'FILE'")
    assert blockdiff("infil").error.startswith("No such command 'infil'")


def test_standard_input_cannot_be_written_to(blockdiff: Any, program: Path) -> None:
    with open(program, "rb") as file:
        process = child("infill", "-", "--lines", "2", "--write", stdin=file)
        result = ended(process)
    assert (result.status, result.error) == (2, "--write needs a file, not standard input")


@pytest.mark.parametrize(
    ("scene", "status", "message"),
    [
        ("memory-load", ExitCode.RESOURCE, "not enough memory"),
        ("allocator", ExitCode.RESOURCE, "not enough memory"),
        ("crash", ExitCode.INTERNAL, "ZeroDivisionError: division by zero"),
        ("remove-meanwhile", ExitCode.INPUT_FILE, "program.py was removed while the model worked"),
    ],
)
def test_failures_of_the_engine(
    blockdiff: Any,
    program: Path,
    monkeypatch: pytest.MonkeyPatch,
    scene: str,
    status: ExitCode,
    message: str,
) -> None:
    script(monkeypatch, scene)
    result = blockdiff("infill", "program.py", "--lines", "2", "--write")
    assert (result.status, result.error) == (status, message)
    assert not program.exists() or program.read_text() == PROGRAM


def test_a_file_edited_meanwhile_keeps_the_edit(
    blockdiff: Any, program: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script(monkeypatch, "edit-meanwhile")
    result = blockdiff("infill", "program.py", "--lines", "2", "--write")
    assert result.status == ExitCode.INPUT_FILE
    assert result.error == "program.py was changed while the model worked"
    assert program.read_text() == "somebody else was here\n"


@pytest.mark.parametrize(
    ("argv", "code"),
    [
        (["infill", "missing.py", "--at", "1:1", "--json"], "input_file"),
        (["infill", "program.py", "--at", "9:9", "--json"], "position_outside"),
        (["infill", "program.py", "--json", "--no-such-option"], "invalid_request"),
        (["infill", "program.py", "--json"], "invalid_request"),
    ],
)
def test_errors_as_json(blockdiff: Any, program: Path, argv: list[str], code: str) -> None:
    result = blockdiff(*argv)
    assert result.err == ""
    event = json.loads(result.out)
    assert (event["event"], event["code"]) == ("failed", code)
    assert set(event) == {"event", "code", "message", "hint"}


def test_json_that_fails_half_way_ends_with_failed(
    blockdiff: Any, program: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script(monkeypatch, "edit-meanwhile")
    result = blockdiff("infill", "program.py", "--lines", "2", "--write", "--json")
    *_, last = map(json.loads, result.out.splitlines())
    assert (last["event"], last["code"]) == ("failed", "output_file")
    assert '"finished"' not in result.out


# The model


def test_a_model_that_isnot_there_is_not_fetched_against_the_users_will(program: Path) -> None:
    command = [sys.executable, "-m", "blockdiff", "infill", "program.py", "--lines", "2"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        [*command, "--no-download"],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    result = ended(process)
    assert result.status == ExitCode.MODEL
    assert "is not downloaded" in result.error
    assert "blockdiff models pull" in result.err


@pytest.mark.parametrize("option", ["--quiet", "--json"])
def test_a_download_is_announced_even_when_nothing_else_is_said(
    blockdiff: Any, program: Path, monkeypatch: pytest.MonkeyPatch, option: str
) -> None:
    pulled: list[str] = []

    monkeypatch.setattr(download, "resolve", scripted_cli.not_there)
    monkeypatch.setattr(
        "blockdiff.weights.download.pull", lambda name, progress: pulled.append(name)
    )
    result = blockdiff("infill", "program.py", "--lines", "2", option)
    assert (result.status, pulled) == (0, [app.DEFAULT_MODEL])
    assert re.fullmatch(r"\S+ is not downloaded; downloading \d+ MB, once\n", result.err)


def test_an_unknown_model_is_not_downloaded(
    blockdiff: Any, program: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download, "resolve", lambda name, _: find(name))
    result = blockdiff("infill", "program.py", "--lines", "2", "--model", "no-such-model")
    assert result.status == ExitCode.MODEL
    assert "no-such-model" in result.error


def test_without_torch_nothing_is_downloaded(
    blockdiff: Any, program: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download, "resolve", scripted_cli.not_there)
    monkeypatch.setattr(infill, "find_spec", lambda name: None)
    result = blockdiff("infill", "program.py", "--lines", "2")
    assert (result.status, result.error) == (ExitCode.MODEL, "torch is not installed")
    assert "pip install 'blockdiff[engine]'" in result.err


@pytest.mark.parametrize(
    ("package", "extra"),
    [
        ("torch", "engine"),
        ("huggingface_hub", "engine"),
        ("matplotlib", "train"),
        ("xllamacpp", "bench"),
    ],
)
def test_a_package_that_was_left_out_is_named_with_its_extra(package: str, extra: str) -> None:
    missing = ModuleNotFoundError(f"No module named '{package}'", name=f"{package}.nn")
    error = console.as_error(missing)
    assert (error.code, error.exit_code) == ("not_installed", ExitCode.MODEL)
    assert error.hint == f"pip install 'blockdiff[{extra}]'"


def test_every_kind_of_error_is_reported_with_its_own_status() -> None:
    kinds = [BlockdiffError]
    for kind in kinds:
        kinds += kind.__subclasses__()
        assert console.as_error(kind("what", "how")).exit_code is kind.exit_code
    assert len({kind.code for kind in kinds}) == len(kinds)


# Ctrl-C and closed pipes


def interrupted(process: Any) -> Result:
    process.send_signal(signal.SIGINT)
    return ended(process)


@posix
@pytest.mark.parametrize("scene", ["hang", "hang-load", "hang-download", "swallow"])
@pytest.mark.parametrize("json_option", [[], ["--json"]])
def test_ctrl_c_while_something_takes_long(
    program: Path, scene: str, json_option: list[str]
) -> None:
    process = child("infill", "program.py", "--lines", "2", "--write", *json_option, scene=scene)
    said = b""
    while not said.endswith(b"hanging\n"):
        line = process.stderr.readline()
        assert line, said
        said += line
    result = interrupted(process)
    assert result.status == ExitCode.INTERRUPTED
    if json_option:
        assert json.loads(result.out.splitlines()[-1])["code"] == "cancelled"
    else:
        assert result.error == "interrupted"
    assert program.read_text() == PROGRAM
    assert os.listdir() == ["program.py"]


def catches_sigterm(pid: int) -> bool:
    """Whether the command has taken over the signals, as the kernel sees it."""
    status = Path(f"/proc/{pid}/status").read_text()
    mask = int(re.search(r"^SigCgt:\s*(\w+)$", status, re.M)[1], 16)  # type: ignore[index]
    return bool(mask >> (signal.SIGTERM - 1) & 1)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.parametrize("seed", range(8))
def test_ctrl_c_at_any_moment(program: Path, seed: int) -> None:
    # The real entry point, so that the moments between its imports are among them.
    process = child("infill", "program.py", "--lines", "2", "--write", scene="hang", text="y" * 99)
    while not catches_sigterm(process.pid):
        time.sleep(0.001)
    time.sleep(random.Random(seed).uniform(0, 0.3))
    result = interrupted(process)
    assert result.status == ExitCode.INTERRUPTED
    assert "Traceback" not in result.err
    assert program.read_text() == PROGRAM


@posix
def test_a_second_ctrl_c_leaves_at_once(program: Path) -> None:
    code = (
        "import os, signal, time; from blockdiff.cli import interrupt; interrupt.install()\n"
        "def press(): os.kill(os.getpid(), signal.SIGINT); time.sleep(1)\n"
        "try: press()\n"
        "except KeyboardInterrupt: press()\n"
        "print('still here')"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    process = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True)
    assert (process.returncode, process.stdout, process.stderr) == (130, b"", b"")


@posix
def test_ctrl_c_while_code_in_a_string_runs_is_no_other(tmp_path: Path) -> None:
    """Data classes are made so; as a module the program would end by the signal, not by 130."""
    (tmp_path / "probe.py").write_text(
        "import sys; from blockdiff.cli import interrupt; interrupt.install()\n"
        "try: exec('import os, signal, time; os.kill(os.getpid(), signal.SIGINT); time.sleep(9)')\n"
        "except KeyboardInterrupt: print('interrupted')\n"
        "interrupt.restore(); sys.exit(interrupt.STATUS)"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(tmp_path)])}
    process = subprocess.run([sys.executable, "-m", "probe"], env=environment, capture_output=True)
    assert (process.returncode, process.stdout.strip()) == (130, b"interrupted")
    assert process.stderr == b""


@posix
def test_ctrl_c_while_a_library_is_imported_waits_for_its_end() -> None:
    """Inside the set-up of a C extension it would abort the process."""
    code = (
        "import os, signal; from blockdiff.cli import interrupt; interrupt.install()\n"
        "try:\n"
        "    with interrupt.held():\n"
        "        os.kill(os.getpid(), signal.SIGINT)\n"
        "        print('imported')\n"
        "    print('went on')\n"
        "except KeyboardInterrupt: print('interrupted')"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    process = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True)
    assert (process.returncode, process.stderr) == (0, b"")
    assert process.stdout.split() == [b"imported", b"interrupted"]


@posix
@pytest.mark.parametrize(
    ("within", "said"), [("held()", "worked False"), ("noticed()", "worked True")]
)
def test_termination_waits_where_something_is_imported_or_saved(within: str, said: str) -> None:
    code = (
        "import os, signal; from blockdiff.cli import interrupt; interrupt.install()\n"
        f"with interrupt.{within}:\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n"
        "    print('worked', interrupt.pressed())\n"
        "print('went on')"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    process = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True)
    assert (process.returncode, process.stderr) == (143, b"")
    assert process.stdout.split() == said.encode().split()


@posix
def test_ctrl_c_during_the_write_lets_it_finish(program: Path) -> None:
    code = (
        "import os, signal; from pathlib import Path\n"
        "from blockdiff.cli import interrupt, source_file; interrupt.install()\n"
        "real = os.replace\n"
        "def replace(*a): os.kill(os.getpid(), signal.SIGINT); real(*a)\n"
        "os.replace = replace\n"
        "with interrupt.deferred(): source_file.write(source_file.read('program.py'), 'new')\n"
        "print(interrupt.pressed())"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    process = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True)
    assert (process.returncode, process.stderr) == (0, b"")
    assert program.read_text() == "new"


@posix
def test_a_reader_that_goes_away_ends_the_command_quietly(program: Path) -> None:
    process = child("infill", "program.py", "--at", "2:5", "--json", scene="slow", text="y" * 4000)
    process.stdout.readline()
    process.stdout.close()
    status = process.wait(timeout=30)
    assert status == ExitCode.PIPE_CLOSED
    assert process.stderr.read() == b""
    assert program.read_text() == PROGRAM
    process.stderr.close()


# The terminal


def on_terminal(*argv: str, scene: str = "slow", press: bool = False, **options: Any) -> Result:
    """Runs the command on a pseudo-terminal; `out` is all that reached it."""
    import pty

    ours, theirs = pty.openpty()
    process = child(*argv, scene=scene, stdin=theirs, stdout=theirs, stderr=theirs, **options)
    os.close(theirs)
    seen = b""
    while True:
        try:
            chunk = os.read(ours, 65536)
        except OSError:  # how Linux says that the other side is closed
            break
        if not chunk:
            break
        seen += chunk
        if press and b"hanging" in seen:
            process.send_signal(signal.SIGINT)
            press = False
    os.close(ours)
    return Result(process.wait(timeout=30), seen.decode(), "")


def cursor_is_visible(output: str) -> bool:
    return output.rfind("\x1b[?25h") >= output.rfind("\x1b[?25l")


@posix
def test_the_live_view_ends_with_a_coloured_diff(program: Path) -> None:
    result = on_terminal("infill", "program.py", "--lines", "2", text="z = x + 1  # 日本語")
    assert result.status == 0
    assert "░" in result.out and "tokens settled" in result.out
    assert "\x1b[32m+    z = x + 1  # 日本語\x1b[0m" in result.out
    assert cursor_is_visible(result.out)


@posix
def test_ctrl_c_restores_the_terminal(program: Path) -> None:
    result = on_terminal("infill", "program.py", "--lines", "2", scene="hang", press=True)
    assert result.status == ExitCode.INTERRUPTED
    assert "interrupted" in result.out and "Traceback" not in result.out
    assert cursor_is_visible(result.out)


@posix
def test_control_characters_do_not_reach_the_terminal(program: Path) -> None:
    result = on_terminal("infill", "program.py", "--lines", "2", text="x = '\x1b]0;title\x07'")
    assert "\x1b]0" not in result.out and "␛]0;title␇" in result.out


# doctor


def test_doctor_names_a_missing_model_and_the_command_that_gets_it(blockdiff: Any) -> None:
    result = blockdiff("doctor")
    assert result.status == ExitCode.MODEL
    assert f"fix: blockdiff models pull {app.DEFAULT_MODEL}" in result.out


def test_doctor_as_json(blockdiff: Any) -> None:
    report = json.loads(blockdiff("doctor", "--json").out)
    assert report["ok"] is False
    names = [check["name"] for check in report["checks"]]
    wanted = {"blockdiff", "python", "platform", "torch", "grammars"}
    wanted |= {"model", "memory", "disk", "cache"}
    assert wanted <= set(names)
    assert all(check["ok"] or check["fix"] for check in report["checks"])


def test_doctor_without_torch_says_how_to_get_it(
    blockdiff: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    result = blockdiff("doctor")
    assert result.status == ExitCode.MODEL
    assert "torch      not installed" in result.out
    assert "fix: pip install 'blockdiff[engine]'" in result.out


def test_doctor_without_grammars_says_how_to_get_them(
    blockdiff: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tree_sitter_lua", None)
    grammar_of.cache_clear()
    try:
        checks = {check.name: check for check in doctor.examine()}
    finally:
        grammar_of.cache_clear()
    assert checks["grammars"].ok  # nothing else needs them
    said = "; lua cannot be parsed: pip install 'blockdiff[grammars]'"
    assert checks["grammars"].value.endswith(said)
    assert "python" in checks["grammars"].value.split(";")[0]


@pytest.mark.parametrize(
    ("free", "status"), [(10**6, ExitCode.RESOURCE), (10**12, ExitCode.OK), (None, ExitCode.OK)]
)
def test_doctor_compares_memory_with_what_the_model_needs(
    monkeypatch: pytest.MonkeyPatch, free: int | None, status: ExitCode
) -> None:
    monkeypatch.setattr(doctor, "available_memory", lambda: free)
    assert doctor._memory(app.DEFAULT_MODEL).exit_code is status


@pytest.mark.parametrize(("free", "status"), [(10**6, ExitCode.RESOURCE), (10**12, ExitCode.OK)])
def test_doctor_compares_the_disk_with_what_is_missing(
    monkeypatch: pytest.MonkeyPatch, free: int, status: ExitCode
) -> None:
    usage = type("usage", (), {"free": free})
    monkeypatch.setattr("blockdiff.cli.doctor.shutil.disk_usage", lambda _: usage)
    assert doctor.exit_code(doctor._disk(app.DEFAULT_MODEL)) is status


def test_doctor_sees_a_half_finished_download(blockdiff: Any) -> None:
    partial = store.partial_of(find(app.DEFAULT_MODEL))
    partial.parent.mkdir(parents=True)
    partial.write_bytes(b"x" * 1000)
    result = blockdiff("doctor")
    assert result.status == ExitCode.MODEL
    assert "half downloaded" in result.out and "fix: continue" in result.out
