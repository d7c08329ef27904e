"""HumanEval-Infilling (arXiv 2207.14255): fill, run the tests, count.

The length of the hole is never told to the model (`length_rule` is `unknown` in every report). A
results file makes a run resumable: one header row with all settings, then one row per task.
"""

from __future__ import annotations

import ast
import json
import os
import random
import re
import warnings
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from enum import Enum
from pathlib import Path
from typing import IO, Any

from blockdiff.errors import InputFileError, InvalidRequest, OutputFileError
from blockdiff.eval import sandbox
from blockdiff.eval.fillers import Filled, Filler
from blockdiff.jsonl import read_jsonl

RESAMPLES = 2000
_FORMAT = 1


class EvalMode(str, Enum):
    """Who fills the holes."""

    AR = "ar"
    VERIFY = "verify"
    DIFFUSION = "diffusion"
    EMPTY = "empty"  # the floor
    CANONICAL = "canonical"  # self-check of the harness
    LLAMACPP = "llamacpp"  # the rival on the same file


@dataclass(frozen=True, slots=True)
class Task:
    """One hole of one problem: `prefix + ? + suffix` has to pass `test`."""

    id: str
    prefix: str
    suffix: str
    canonical: str
    test: str
    entry_point: str

    @property
    def problem(self) -> str:
        """The HumanEval problem that this hole was cut from; its holes are not independent."""
        found = re.search(r"HumanEval/\d+", self.id)
        return found.group(0) if found else self.id

    def filled(self, text: str) -> str:
        return self.prefix + text + self.suffix

    def program(self, text: str) -> str:
        return f"{self.filled(text)}\n{self.test}\ncheck({self.entry_point})\n"


@dataclass(frozen=True, slots=True)
class Result:
    """What became of one task. Field names are those of a row of the results file."""

    task_id: str
    completion: str
    outcome: str
    passed: bool
    exact: bool
    exact_rstrip: bool
    parses: bool
    tokens: int
    forwards: int
    elapsed_ms: float


def load_tasks(path: Path) -> list[Task]:
    """Reads a `.jsonl` or `.jsonl.gz` file of HumanEval-Infilling.

    Raises:
        InputFileError: the file is missing, damaged, empty or of another form.
    """
    try:
        tasks = [
            Task(
                row["task_id"],
                row["prompt"],
                row["suffix"],
                row["canonical_solution"],
                row["test"],
                row["entry_point"],
            )
            for row in read_jsonl(path)
        ]
    except (KeyError, TypeError) as error:
        raise InputFileError(
            f"{path} is not HumanEval-Infilling: {error}", "rows need task_id, prompt, suffix, …"
        ) from None
    if not tasks:
        raise InputFileError(f"{path} has no tasks")
    if len({task.id for task in tasks}) < len(tasks):
        raise InputFileError(f"{path} names a task twice")
    return tasks


def choose(tasks: Sequence[Task], limit: int, seed: int) -> list[Task]:
    """The first `limit` tasks (0: all) of a shuffle that depends on nothing but ids and seed."""
    shuffled = sorted(tasks, key=lambda task: task.id)
    random.Random(seed).shuffle(shuffled)
    return shuffled[: limit or None]


def score(task: Task, filled: Filled, limits: sandbox.Limits) -> Result:
    """Runs the tests of a task on what was filled in."""
    outcome = sandbox.run_program(task.program(filled.text), limits)
    return Result(
        task_id=task.id,
        completion=filled.text,
        outcome=outcome,
        passed=outcome == "passed",
        exact=filled.text == task.canonical,
        exact_rstrip=filled.text.rstrip() == task.canonical.rstrip(),
        parses=parses(task.filled(filled.text)),
        tokens=filled.tokens,
        forwards=filled.forwards,
        elapsed_ms=round(1e3 * filled.seconds, 1),
    )


def parses(program: str) -> bool:
    """Whether Python source parses."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            ast.parse(program)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return True


def evaluate(
    tasks: Sequence[Task],
    filler: Callable[[], Filler],
    settings: dict[str, Any],
    out: Path | None = None,
    limits: sandbox.Limits | None = None,
    progress: Callable[[int, int, int], None] | None = None,
) -> list[Result]:
    """Fills and scores every task; with `out` it goes on where an earlier run ended.

    Args:
        filler: makes the filler; not called when every task is done already.
        settings: whatever changes the result; the header of `out` has to agree.
        progress: called with (tasks done, tasks in all, tasks passed).

    Raises:
        InvalidRequest: `out` holds results of other settings.
        InputFileError: `out` is not a results file.
        OutputFileError: `out` cannot be written.
    """
    done: dict[str, Result] = {}
    results_file = _Results(out, settings) if out else None
    if results_file:
        wanted = {task.id for task in tasks}
        done = {row.task_id: row for row in results_file.resume() if row.task_id in wanted}
    worker: Filler | None = None
    passed = sum(row.passed for row in done.values())
    try:
        if progress:
            progress(len(done), len(tasks), passed)
        for task in tasks:
            if task.id in done:
                continue
            worker = worker or filler()
            filled = worker(task.prefix, task.suffix, task.canonical)
            result = score(task, filled, limits or sandbox.Limits())
            done[task.id] = result
            passed += result.passed
            if results_file:
                results_file.add(result)
            if progress:
                progress(len(done), len(tasks), passed)
    finally:
        if results_file:
            results_file.close()
    return [done[task.id] for task in tasks]


def summarise(tasks: Sequence[Task], results: Sequence[Result]) -> dict[str, Any]:
    """The figures of a run; `tokens_per_forward` is null where nobody counted forwards."""
    count = len(results)
    forwards = sum(row.forwards for row in results)
    low, high = interval(tasks, results)

    def mean(values: Iterator[float]) -> float:
        return round(sum(values) / count, 5)

    return {
        "tasks": count,
        "problems": len({task.problem for task in tasks}),
        "pass@1": mean(float(row.passed) for row in results),
        "pass@1_ci95": [round(low, 5), round(high, 5)],
        "exact_match": mean(float(row.exact) for row in results),
        "exact_match_rstrip": mean(float(row.exact_rstrip) for row in results),
        "parse_rate": mean(float(row.parses) for row in results),
        "tokens_per_forward": (
            round(sum(row.tokens for row in results) / forwards, 4) if forwards else None
        ),
        "mean_tokens": mean(float(row.tokens) for row in results),
        "mean_forwards": mean(float(row.forwards) for row in results),
        "mean_ms": mean(row.elapsed_ms for row in results),
        "outcomes": dict(sorted(Counter(row.outcome for row in results).items())),
        "length_rule": "unknown",
    }


def interval(
    tasks: Sequence[Task], results: Sequence[Result], seed: int = 0
) -> tuple[float, float]:
    """95% interval of pass@1 by resampling whole HumanEval problems, not their holes."""
    by_problem: dict[str, list[bool]] = defaultdict(list)
    for task, row in zip(tasks, results, strict=True):
        by_problem[task.problem].append(row.passed)
    counts = [(sum(found), len(found)) for found in by_problem.values()]
    chance = random.Random(seed)
    means = []
    for _ in range(RESAMPLES):
        picked = chance.choices(counts, k=len(counts))
        means.append(sum(p for p, _ in picked) / sum(n for _, n in picked))
    means.sort()
    return means[int(0.025 * RESAMPLES)], means[int(0.975 * RESAMPLES) - 1]


class _Results:
    """The results file: rows are flushed one by one, a torn last row is dropped on resuming."""

    def __init__(self, path: Path, settings: dict[str, Any]) -> None:
        self._path = path
        # As they come back from the file: tuples as lists, enums as strings.
        self._header = json.loads(json.dumps({"format": _FORMAT, "settings": settings}))
        self._file: IO[bytes] | None = None

    def resume(self) -> list[Result]:
        """Rows that are there already; the file is open for more afterwards."""
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            held = self._path.read_bytes() if self._path.exists() else b""
            whole = held[: held.rfind(b"\n") + 1]
            rows = self._parse(whole) if whole else []
            self._file = self._path.open("r+b" if held else "wb")
            self._file.truncate(len(whole))
            self._file.seek(0, os.SEEK_END)
            if not whole:
                self._write(self._header)
        except OSError as error:
            raise OutputFileError(f"cannot write {self._path}: {error}") from None
        return rows

    def add(self, result: Result) -> None:
        try:
            self._write(asdict(result))
        except OSError as error:
            raise OutputFileError(
                f"cannot write {self._path}: {error}", "make room; the same command goes on"
            ) from None

    def close(self) -> None:
        if self._file:
            self._file.close()

    def _write(self, row: dict[str, Any]) -> None:
        assert self._file is not None
        self._file.write(json.dumps(row).encode() + b"\n")
        self._file.flush()

    def _parse(self, whole: bytes) -> list[Result]:
        try:
            header, *rows = [json.loads(line) for line in whole.splitlines()]
            results = [Result(**row) for row in rows]
            settings, kind = dict(header["settings"]), header["format"]
        except (ValueError, TypeError, KeyError):
            raise InputFileError(
                f"{self._path} is not a results file", "name another file"
            ) from None
        wanted = self._header["settings"]
        other = [k for k in sorted({*settings, *wanted}) if settings.get(k) != wanted.get(k)]
        if other or kind != _FORMAT:
            names = ", ".join(f"{k} {settings.get(k)!r} there" for k in other) or "format"
            raise InvalidRequest(
                f"{self._path} holds results of other settings: {names}",
                "name another file, or repeat the settings",
            )
        return results
