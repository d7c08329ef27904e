"""The benchmark harness: what passes, what it reports, and going on after an interruption."""

from __future__ import annotations

import gzip
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from blockdiff.cli.eval import app
from blockdiff.config import DecodingConfig, Mode
from blockdiff.errors import InputFileError, InvalidRequest
from blockdiff.eval import fillers, sandbox
from blockdiff.eval.infilling import (
    InfillResult,
    InfillTask,
    choose,
    evaluate,
    interval,
    load_tasks,
    parses,
    summarise,
)
from blockdiff.eval.sandbox import Limits, run_program
from blockdiff.types import Event, Finished, FinishReason, InfillRequest, Refinement, SyntaxState


def task(problem: int, line: int = 0) -> InfillTask:
    return InfillTask(
        id=f"SingleLineInfilling/HumanEval/{problem}/L{line}",
        prefix=f"def add(a, b):\n    c = {line}\n",
        suffix="    return total\n",
        canonical="    total = a + b\n",
        test=f"def check(candidate):\n    assert candidate(1, {problem}) == 1 + {problem}\n",
        entry_point="add",
    )


TASKS = [task(problem, line) for problem in range(5) for line in range(2)]


def row_of(entry: InfillTask) -> dict[str, str]:
    return {
        "task_id": entry.id,
        "prompt": entry.prefix,
        "suffix": entry.suffix,
        "canonical_solution": entry.canonical,
        "test": entry.test,
        "entry_point": entry.entry_point,
    }


@pytest.fixture
def data(tmp_path: Path) -> Path:
    path = tmp_path / "tasks.jsonl.gz"
    path.write_bytes(gzip.compress("".join(json.dumps(row_of(t)) + "\n" for t in TASKS).encode()))
    return path


@pytest.mark.parametrize(
    ("source", "outcome"),
    [
        ("x = 1\n", "passed"),
        ("assert 1 == 2\n", "wrong"),
        ("1 / 0\n", "error"),
        ("def f(:\n", "syntax"),
        ("return 1\n", "syntax"),
        ("x = '\ud800'\n", "syntax"),
        ("import sys; sys.exit(0)\n", "exit"),
        ("import os; os._exit(0)\n", "died"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)\n", "died"),
        ("while True: pass\n", "timeout"),
        ("import time; time.sleep(60)\n", "timeout"),
        ("x = bytearray(4 << 30)\n", "memory"),
        ("open('big', 'wb').write(bytes(64 << 20))\n", "error"),
        ("import os\nfor f in range(3, 20):\n    try: os.write(f, b'passed')\n"
         "    except OSError: pass\nos._exit(0)\n", "died"),
        ("if __name__ == '__main__': raise ValueError\n", "passed"),
    ],
)  # fmt: skip
def test_outcomes_of_programs(source: str, outcome: str) -> None:
    assert run_program(source, Limits(seconds=2.0)) == outcome


# Programs that look for whatever makes a pass, write it everywhere and leave.
FORGERIES = {
    "arguments": "found = [*map(str, sys.orig_argv), open('/proc/self/cmdline').read()]\n",
    "environment": "found = list(os.environ.values())\n",
    "frames": "frame, found = sys._getframe(), []\nwhile frame:\n"
    "    found += [*map(str, frame.f_locals.values()), *map(str, frame.f_globals.values())]\n"
    "    frame = frame.f_back\n",
    "files": "found = [open(name, errors='replace').read() for name in os.listdir()]\n",
    "memory": "import gc\nfound = [o for o in gc.get_objects() if isinstance(o, (str, bytes))]\n"
    "found = [o.decode('latin-1') if isinstance(o, bytes) else o for o in found]\n",
    "parent": "found = []\nfor name in ('cmdline', 'environ', 'mem'):\n"
    "    try: found.append(open(f'/proc/{os.getppid()}/{name}', errors='replace').read(1 << 16))\n"
    "    except (OSError, ValueError): pass\n",
}
FORGE = """
import os, re, sys
{look}
words = {{word for text in found for word in re.findall('[0-9a-f]{{16,64}}', text)}} | {{''}}
for fd in range(3, 64):
    for word in words:
        try: os.write(fd, word.encode() + b'passed')
        except OSError: pass
os._exit(0)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("apart", [True, False])
@pytest.mark.parametrize("look", FORGERIES)
def test_no_program_finds_what_makes_a_pass(
    look: str, apart: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not apart:
        monkeypatch.setattr(sandbox, "_apart", tuple)
    assert run_program(FORGE.format(look=FORGERIES[look])) == "died"


ESCAPES = {
    "a session of its own": "os.setsid()",
    "a group of its own": "os.setpgid(0, 0)",
    "twice removed": "os.setsid()\n    if os.fork(): os._exit(0)\n    os.setsid()",
    "deaf": "os.setsid()\n    [signal.signal(s, signal.SIG_IGN) for s in (1, 2, 13, 15)]",
}
ESCAPE = """
import os, signal, time
if not os.fork():
    {how}
    with open({beat!r}, 'a', buffering=1) as beat:
        while True:
            beat.write('.')
            time.sleep(0.01)
while not os.path.exists({beat!r}): time.sleep(0.01)
{end}
"""


@pytest.mark.skipif(sys.platform != "linux", reason="orphans are found by /proc")
@pytest.mark.parametrize("apart", [True, False])
@pytest.mark.parametrize(
    ("end", "outcome"),
    [("", "passed"), ("1 / 0", "error"), ("os._exit(0)", "died"), ("time.sleep(60)", "timeout")],
)
@pytest.mark.parametrize("how", ESCAPES)
def test_nothing_outlives_a_program(
    how: str, end: str, outcome: str, apart: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not apart:
        monkeypatch.setattr(sandbox, "_apart", tuple)
    beat = tmp_path / "beat"
    source = ESCAPE.format(how=ESCAPES[how], beat=str(beat), end=end)
    assert run_program(source, Limits(seconds=2.0)) == outcome
    before = beat.stat().st_size
    time.sleep(0.1)
    assert beat.stat().st_size == before


def test_a_program_works_in_a_folder_that_is_gone_afterwards(tmp_path: Path) -> None:
    note = f"open({str(tmp_path / 'where')!r}, 'w').write(os.getcwd())"
    assert run_program(f"import os\nopen('a', 'w').close()\n{note}\n") == "passed"
    where = Path((tmp_path / "where").read_text())
    assert where != Path.cwd() and not where.exists()


def test_loading(data: Path, tmp_path: Path) -> None:
    assert load_tasks(data) == TASKS
    for text in ("", '{"task_id', '{"a": 1}\n', "[1]\n"):
        path = tmp_path / "bad.jsonl"
        path.write_text(text)
        with pytest.raises(InputFileError):
            load_tasks(path)
    with pytest.raises(InputFileError):
        load_tasks(tmp_path / "nowhere.jsonl.gz")


def test_the_draw_depends_on_the_seed_only_and_a_larger_one_contains_a_smaller() -> None:
    assert choose(TASKS, 4, 7) == choose(TASKS[::-1], 4, 7) == choose(TASKS, 8, 7)[:4]
    assert choose(TASKS, 4, 7) != choose(TASKS, 4, 8)
    assert sorted(t.id for t in choose(TASKS, 0, 1)) == sorted(t.id for t in TASKS)


@pytest.mark.parametrize("text", ["def f(:\n", "x = 'a", "\0", "(" * 500])
def test_what_does_not_parse(text: str) -> None:
    assert not parses(text)
    assert parses("x = '\\d'\n")  # a warning is no error


class StandIn:
    """An engine that writes a fixed text, four characters a token, two tokens a forward."""

    name = "stand-in"

    def __init__(self, text: str) -> None:
        self.text = text
        self.requests: list[InfillRequest] = []

    def infill(self, request: InfillRequest) -> Iterator[Event]:
        self.requests.append(request)
        yield Refinement(request.request_id, 0, 0, "", (), 0, 0, 0.0)
        yield Finished(
            request_id=request.request_id, hole=0, text=self.text, tokens=8, forwards=4,
            finish=FinishReason.EOM, syntax=SyntaxState.OK, mode=request.decoding.mode.value,
            model=self.name, elapsed_ms=12.0, first_ms=3.0, context_tokens=30,
        )  # fmt: skip


def test_an_engine_sees_the_document_and_never_the_length() -> None:
    engine = StandIn("    total = a + b  \n")
    decoding = DecodingConfig(mode=Mode.DIFFUSION, max_tokens=64)
    results = evaluate(TASKS, lambda: fillers.ours(engine, decoding, 2048), {})
    request = engine.requests[0]
    assert (request.prefix, request.suffix) == (TASKS[0].prefix, TASKS[0].suffix)
    assert request.hole.start == request.hole.end and request.decoding == decoding
    assert TASKS[0].canonical.strip() not in request.document
    figures = summarise(TASKS, results)
    assert figures["pass@1"] == figures["parse_rate"] == figures["exact_match_rstrip"] == 1.0
    assert figures["exact_match"] == 0.0
    assert figures["tokens_per_forward"] == 2.0 and figures["mean_forwards"] == 4.0
    assert figures["length_rule"] == "unknown" and figures["problems"] == 5


def test_floor_and_ceiling() -> None:
    ceiling = summarise(TASKS, evaluate(TASKS, lambda: fillers.ceiling, {}))
    floor = summarise(TASKS, evaluate(TASKS, lambda: fillers.floor, {}))
    assert (ceiling["pass@1"], ceiling["exact_match"]) == (1.0, 1.0)
    assert (floor["pass@1"], floor["parse_rate"]) == (0.0, 1.0)
    assert floor["tokens_per_forward"] is None


def test_the_interval_resamples_problems_not_holes() -> None:
    def results(passing: set[int]) -> list[InfillResult]:
        return [
            InfillResult(t.id, "", "", i in passing, False, False, True, 0, 0, 0.0)
            for i, t in enumerate(TASKS)
        ]

    assert interval(TASKS, results(set(range(10)))) == (1.0, 1.0)
    # Whole problems pass or fail: as uncertain as five draws, not as ten.
    low, high = interval(TASKS, results({0, 1, 2, 3}))
    assert low == 0.0 and high >= 0.8


def test_a_run_goes_on_where_it_ended(tmp_path: Path) -> None:
    out = tmp_path / "results.jsonl"
    asked: list[str] = []

    def filler(fail_after: int) -> fillers.Filler:
        def fill(prefix: str, suffix: str, reference: str) -> fillers.Completion:
            if len(asked) == fail_after:
                raise KeyboardInterrupt
            asked.append(prefix)
            return fillers.Completion(reference, 1, 1, 0.0)

        return fill

    with pytest.raises(KeyboardInterrupt):
        evaluate(TASKS, lambda: filler(4), {"seed": 1}, out)
    with out.open("a") as torn:
        torn.write('{"task_id": "half a r')
    again = evaluate(TASKS, lambda: filler(99), {"seed": 1}, out)
    assert [r.task_id for r in again] == [t.id for t in TASKS] and len(asked) == len(TASKS)
    never: Any = None  # nothing is left to do, so no model is loaded
    assert evaluate(TASKS, never, {"seed": 1}, out) == again
    assert len(evaluate(TASKS[:3], never, {"seed": 1}, out)) == 3


@pytest.mark.parametrize("settings", [{"seed": 2}, {"seed": 1, "mode": "ar"}, {}])
def test_other_settings_are_refused(settings: dict[str, Any], tmp_path: Path) -> None:
    out = tmp_path / "results.jsonl"
    evaluate(TASKS[:1], lambda: fillers.ceiling, {"seed": 1}, out)
    before = out.read_bytes()
    with pytest.raises(InvalidRequest, match="other settings"):
        evaluate(TASKS, lambda: fillers.ceiling, settings, out)
    assert out.read_bytes() == before


@pytest.mark.parametrize(
    "text", ["not json\n", "{}\n", '{"format": 1, "settings": {}}\n{"a": 1}\n']
)
def test_a_file_that_holds_no_results_is_left_alone(text: str, tmp_path: Path) -> None:
    out = tmp_path / "results.jsonl"
    out.write_text(text)
    with pytest.raises(InputFileError):
        evaluate(TASKS, lambda: fillers.ceiling, {}, out)
    assert out.read_text() == text


@pytest.mark.parametrize("mode", ["empty", "canonical"])
def test_the_command_ends_with_one_json_object(mode: str, data: Path) -> None:
    arguments = ["infilling", "--data", str(data), "--mode", mode, "--limit", "3", "--seed", "5"]
    done = CliRunner().invoke(app, arguments)
    report = json.loads(done.stdout.splitlines()[-1])
    assert done.exit_code == 0
    assert report["mode"] == mode and report["limit"] == 3 and report["seed"] == 5
    assert report["pass@1"] == (mode == "canonical") and report["tasks"] == 3
    only = CliRunner().invoke(app, [*arguments, "--json"])
    assert [json.loads(line) for line in only.stdout.splitlines()] == [report]


@pytest.mark.parametrize(
    "options",
    [
        ["--mode", "empty", "--threshold", "0.5"],
        ["--mode", "ar", "--block-size", "8"],
        ["--mode", "verify", "--rule", "schedule"],
    ],
)
def test_an_option_that_a_mode_would_ignore_is_an_error(options: list[str], data: Path) -> None:
    done = CliRunner().invoke(app, ["infilling", "--data", str(data), *options])
    assert done.exit_code == 2 and "means nothing in mode" in done.stderr


def test_the_rival_without_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    from blockdiff.errors import NotInstalled

    monkeypatch.setitem(__import__("sys").modules, "xllamacpp", None)
    with pytest.raises(NotInstalled) as caught:
        fillers.llama_cpp("any", 64)
    assert "blockdiff[bench]" in caught.value.hint
