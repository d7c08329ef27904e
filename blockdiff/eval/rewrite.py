"""Rewriting by instruction: tasks with known results, a rate for each kind."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from blockdiff.config import DecodingConfig
from blockdiff.errors import AnswerIsProse, BlockdiffError
from blockdiff.eval import edits, exercises, sandbox
from blockdiff.eval.heldout import HeldOutFile
from blockdiff.eval.infilling import parses
from blockdiff.eval.results import resampled_ratio
from blockdiff.eval.rewrite_task import RewriteTask, equivalent
from blockdiff.infill.prose import is_talk
from blockdiff.types import Event, Finished, Hole, RewriteRequest


@dataclass(frozen=True, slots=True)
class Rewritten:
    """What became of one task.

    Attributes:
        passed: the tests passed, or the file is what it should be.
        parses: the whole file parses.
        prose: the answer was talk about the code, and was refused.
        unchanged: the text is what it was.
    """

    task_id: str
    kind: str
    text: str
    passed: bool
    parses: bool
    prose: bool
    unchanged: bool
    tokens: int
    forwards: int
    elapsed_ms: float


class Rewrites(Protocol):
    """What is needed of an engine."""

    def rewrite(self, request: RewriteRequest) -> Iterator[Event]: ...


def tasks(files: Iterable[HeldOutFile], each: int, seed: int) -> list[RewriteTask]:
    """At most `each` tasks of every kind, from as many files as there are; kinds in turn."""
    made: dict[str, list[RewriteTask]] = {}
    for file in sorted(files, key=lambda file: file.id):
        if file.language == "python":
            for task in edits.tasks_of(file):
                made.setdefault(task.kind, []).append(task)
    for task in exercises.tasks():
        made.setdefault(task.kind, []).append(task)
    chosen: list[tuple[int, int, RewriteTask]] = []
    for order, (kind, found) in enumerate(sorted(made.items())):
        random.Random(f"{seed}/{kind}").shuffle(found)
        for turn, task in enumerate(_from_many(found)[:each]):
            chosen.append((turn, order, task))
    return [task for _, _, task in sorted(chosen, key=lambda entry: entry[:2])]


def _from_many(found: Sequence[RewriteTask]) -> list[RewriteTask]:
    """The same tasks, the first of each file and form of edit before the second of any."""
    seen: Counter[str] = Counter()
    order = []
    for index, task in enumerate(found):
        source = task.id.rsplit(":", 1)[0]
        order.append((seen[source] + seen[task.form], index))
        seen[source] += 1
        seen[task.form] += 1
    return [found[index] for _, index in sorted(order)]


def rewrite(
    engine: Rewrites, task: RewriteTask, decoding: DecodingConfig, context_tokens: int
) -> Rewritten:
    """Ask for the rewrite and judge the file that it makes."""
    request = RewriteRequest(
        document=task.document,
        span=Hole(task.start, task.end),
        instruction=task.instruction,
        path=task.path,
        decoding=decoding,
        context_tokens=context_tokens,
    )
    try:
        for event in engine.rewrite(request):
            if isinstance(event, Finished):
                return score(task, event)
    except AnswerIsProse:
        return Rewritten(task.id, task.kind, "", False, False, True, False, 0, 0, 0.0)
    raise BlockdiffError("the engine ended without a result")


def score(task: RewriteTask, answer: Finished) -> Rewritten:
    """By the tests of the task where it has some, otherwise by the syntax tree."""
    document = task.document[: task.start] + answer.text + task.document[task.end :]
    if task.tests:
        passed = sandbox.run_program(f"{document}\n{task.tests}\n") == "passed"
    else:
        passed = equivalent(task, document)
    whole = parses(document)
    return Rewritten(
        task.id,
        task.kind,
        answer.text,
        passed=passed,
        parses=whole,
        prose=not whole and is_talk(answer.text),
        unchanged=answer.text == task.text,
        tokens=answer.tokens,
        forwards=answer.forwards,
        elapsed_ms=round(answer.elapsed_ms, 1),
    )


def summarise(rows: Sequence[Rewritten]) -> dict[str, Any]:
    """A rate for each kind, and their mean, in which every kind weighs the same."""
    kinds = sorted({row.kind for row in rows})
    by_kind: dict[str, Any] = {}
    for kind in kinds:
        found = [row for row in rows if row.kind == kind]
        by_kind[kind] = {
            "tasks": len(found),
            "rate": round(sum(row.passed for row in found) / len(found), 4),
            "parse_rate": round(sum(row.parses for row in found) / len(found), 4),
            "unchanged": sum(row.unchanged for row in found),
        }
    forwards = sum(row.forwards for row in rows)
    low, high = resampled_ratio((row.task_id for row in rows), (float(row.passed) for row in rows))
    return {
        "tasks": len(rows),
        "mean_over_kinds": round(sum(k["rate"] for k in by_kind.values()) / max(len(kinds), 1), 4),
        "rate": round(sum(row.passed for row in rows) / max(len(rows), 1), 4),
        "rate_ci95": [round(low, 4), round(high, 4)],
        "parse_rate": round(sum(row.parses for row in rows) / max(len(rows), 1), 4),
        "prose": sum(row.prose for row in rows),
        "unchanged": sum(row.unchanged for row in rows),
        "tokens_per_forward": round(sum(row.tokens for row in rows) / max(forwards, 1), 4),
        "by_kind": by_kind,
    }
