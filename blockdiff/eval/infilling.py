"""HumanEval-Infilling (arXiv 2207.14255): fill, run the tests, count.

The length of the hole is never told to the model (`length_rule` is `unknown` in every report). A
results file makes a run resumable: one header row with all settings, then one row per task.
"""

from __future__ import annotations

import ast
import random
import re
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from blockdiff.errors import InputFileError
from blockdiff.eval import sandbox
from blockdiff.eval.fillers import Completion, Filler
from blockdiff.eval.results import ResultsFile, resampled_ratio
from blockdiff.train.jsonl import read_jsonl


class EvalMode(str, Enum):
    """Who fills the holes."""

    AR = "ar"
    VERIFY = "verify"
    DIFFUSION = "diffusion"
    EMPTY = "empty"  # the floor
    CANONICAL = "canonical"  # self-check of the harness
    LLAMACPP = "llamacpp"  # the rival on the same file


@dataclass(frozen=True, slots=True)
class InfillTask:
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
class InfillResult:
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


def load_tasks(path: Path) -> list[InfillTask]:
    """Reads a `.jsonl` or `.jsonl.gz` file of HumanEval-Infilling.

    Raises:
        InputFileError: the file is missing, damaged, empty or of another form.
    """
    try:
        tasks = [
            InfillTask(
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


def choose(tasks: Sequence[InfillTask], limit: int, seed: int) -> list[InfillTask]:
    """The first `limit` tasks (0: all) of a shuffle that depends on nothing but ids and seed."""
    shuffled = sorted(tasks, key=lambda task: task.id)
    random.Random(seed).shuffle(shuffled)
    return shuffled[: limit or None]


def score(task: InfillTask, filled: Completion, limits: sandbox.Limits) -> InfillResult:
    """Runs the tests of a task on what was filled in."""
    outcome = sandbox.run_program(task.program(filled.text), limits)
    return InfillResult(
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
    tasks: Sequence[InfillTask],
    filler: Callable[[], Filler],
    settings: dict[str, Any],
    out: Path | None = None,
    progress: Callable[[int, int, int], None] | None = None,
) -> list[InfillResult]:
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
    done: dict[str, InfillResult] = {}
    results_file = ResultsFile(out, settings, InfillResult) if out else None
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
            result = score(task, filled, sandbox.Limits())
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


def summarise(tasks: Sequence[InfillTask], results: Sequence[InfillResult]) -> dict[str, Any]:
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


def interval(tasks: Sequence[InfillTask], results: Sequence[InfillResult]) -> tuple[float, float]:
    """95% interval of pass@1 by resampling whole HumanEval problems, not their holes."""
    groups = [task.problem for task in tasks]
    return resampled_ratio(groups, [float(row.passed) for row in results])
