"""`blockdiff infill` and `rewrite` ask the engine that runs, where it has their model loaded."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from blockdiff.cli import app, interrupt
from blockdiff.cli import infill as infill_command
from blockdiff.cli.options import EngineChoice, Output
from blockdiff.client.endpoint import Runtime
from blockdiff.errors import ExitCode, ModelNotFound
from blockdiff.types import Event, InfillRequest
from tests.unit.scripted_service import ROOT, ScriptedEngine, served

PROGRAM = "def f(x):\n    y = x\n    return y\n"
LOADED = "the model was loaded"


@pytest.fixture
def runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Runtime:
    folder = tmp_path / "runtime"
    monkeypatch.setenv("BLOCKDIFF_RUNTIME", str(folder))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "program.py").write_text(PROGRAM)

    def load_engine(model: Any, *, silent: bool) -> Any:
        raise ModelNotFound(LOADED)

    monkeypatch.setattr(infill_command, "load_engine", load_engine)
    return Runtime(folder)


@pytest.fixture
def blockdiff(capfd: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    def run(*argv: str) -> tuple[int, str, str]:
        capfd.readouterr()
        status = app.run(list(argv))
        captured = capfd.readouterr()
        return status, captured.out, captured.err

    return run


INFILL = ("infill", "program.py", "--lines", "2", "--model", "scripted", "--max-tokens", "2")
REWRITE = ("rewrite", "program.py", "--lines", "2", "-i", "x", "--model", "scripted")


@pytest.mark.parametrize("command", [INFILL, REWRITE])
def test_a_running_engine_of_the_same_model_answers(
    command: tuple[str, ...], runtime: Runtime, blockdiff: Any
) -> None:
    with served(runtime):
        status, out, err = blockdiff(*command)
    assert status == 0, err
    assert "-    y = x\n+     done\n" in out  # the request has no name, the script says " done"
    assert "tokens" in err and "Traceback" not in err


def test_events_are_those_of_an_engine_of_our_own(runtime: Runtime, blockdiff: Any) -> None:
    with served(runtime):
        status, out, err = blockdiff(*INFILL, "--json")
    events = [json.loads(line) for line in out.splitlines()]
    assert status == 0 and not err
    kinds = [event["event"] for event in events]  # one that a later one overtakes is dropped
    assert kinds in (["refinement"] * 2 + ["finished"], ["refinement", "finished"])
    assert events[-1]["written"] is False and events[-1]["model"] == "scripted"


def test_several_holes_are_asked_for_together(runtime: Runtime, blockdiff: Any) -> None:
    with served(runtime):
        status, out, _ = blockdiff(*INFILL, "--lines", "3", "--json")
    assert status == 0 and json.loads(out.splitlines()[-1])["event"] == "filled"


@pytest.mark.parametrize(
    "options",
    [
        ("--no-engine",), ("--model", "another"), ("--device", "cuda"), ("--dtype", "bfloat16"),
        ("--drafter", "another"),
    ],
)
def test_otherwise_the_command_loads_the_model_itself(
    options: tuple[str, ...], runtime: Runtime, blockdiff: Any
) -> None:
    with served(runtime):
        status, _, err = blockdiff(*INFILL, *options)
    assert status == ExitCode.MODEL and LOADED in err


def test_what_the_engine_has_may_be_named(runtime: Runtime, blockdiff: Any) -> None:
    with served(runtime, drafter="its-dspark"):
        for options in (("--device", "cpu", "--dtype", "float32"), ("--drafter", "its-dspark")):
            assert blockdiff(*INFILL, *options)[0] == 0


def test_no_engine_is_started_where_none_runs(runtime: Runtime, blockdiff: Any) -> None:
    status, _, err = blockdiff(*INFILL)
    assert status == ExitCode.MODEL and LOADED in err
    assert not runtime.folder.exists() or runtime.announced() is None


def test_a_refusal_keeps_its_code_and_its_status(runtime: Runtime, blockdiff: Any) -> None:
    class Refusing(ScriptedEngine):
        def infill(self, request: Any, cancelled: Callable[[], bool]) -> Iterator[Event]:
            from blockdiff.errors import InvalidRequest

            raise InvalidRequest("it does not fit", "ask for less")
            yield

    with served(runtime, lambda report: Refusing()):
        status, _, err = blockdiff(*INFILL)
    assert status == ExitCode.USAGE and "it does not fit" in err and "ask for less" in err


def test_an_engine_that_dies_before_it_answers_is_done_without(
    runtime: Runtime, tmp_path: Path
) -> None:
    """In a process of its own: it is killed."""
    command = [sys.executable, "-c", f"import sys; sys.path.insert(0, {ROOT!r})\n"
               "import tests.unit.scripted_service as s; s.main()"]  # fmt: skip
    env = {**os.environ, "BLOCKDIFF_RUNTIME": str(runtime.folder)}
    serving = subprocess.Popen(
        [*command, "serve", "--json", "--model", "scripted"], env=env, stdout=subprocess.PIPE
    )
    try:
        assert serving.stdout is not None and b"serving" in serving.stdout.readline()
        with pytest.raises(ModelNotFound, match=LOADED):
            infill_command.infill(
                "program.py",
                infill_command.hole_finder((), ("2",), ()),
                InfillRequest("x", infill_command.Hole(0, 0)).decoding,
                language="die",
                context_tokens=64,
                revise=False,
                choice=EngineChoice("scripted", download=False),
                backend=None,
                output=Output(as_json=True, quiet=True),
            )
    finally:
        serving.kill()
        serving.wait()
        serving.stdout.close()


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
def test_ctrl_c_cancels_the_request_and_leaves_the_engine(
    runtime: Runtime, blockdiff: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = ScriptedEngine()
    monkeypatch.setattr(interrupt, "_pressed", False)
    interrupt.install()

    def press() -> None:
        while not engine.written:
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    try:
        with served(runtime, lambda report: engine):
            threading.Thread(target=press).start()
            status, out, err = blockdiff(*INFILL, "--max-tokens", "500", "--seed", "20")
            assert status == ExitCode.INTERRUPTED and not out and "Traceback" not in err
            monkeypatch.setattr(interrupt, "_pressed", False)
            assert blockdiff(*INFILL)[0] == 0
        assert engine.cancelled == [""] and engine.written < 400
    finally:
        interrupt.restore()
        signal.signal(signal.SIGINT, signal.default_int_handler)
    assert (Path.cwd() / "program.py").read_text() == PROGRAM
