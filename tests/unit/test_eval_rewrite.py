"""Tasks of rewriting: every edit can be taken back, and what is wrong does not pass."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from blockdiff.config import DecodingConfig
from blockdiff.eval import edits, exercises, rewrite, sandbox
from blockdiff.eval.heldout import HeldOutFile
from blockdiff.eval.rewrite_task import RewriteTask
from blockdiff.types import Event, Finished, FinishReason, RewriteRequest, SyntaxState

SOURCE = '''import json


class Reader:
    def load(self, path: str, default: int = 0) -> dict:
        """Read a file."""
        try:
            text = open(path).read()
        except OSError:
            return {}
        found = json.loads(text)
        return found

    def names(self, rows):
        if not rows:
            return []
        kept = [row.name for row in rows if row.name]
        print(f"{len(kept)} names")
        return kept
'''
FILE = HeldOutFile("package", "1.0", "MIT", "python", "reader.py", SOURCE)
TASKS = {task.form: task for task in edits.tasks_of(FILE)}


def text_of(form: str, what: str) -> str:
    """What belongs in the place of a task's span: the expected file without what surrounds it."""
    task = TASKS[form]
    behind = len(task.document) - task.end
    document = task.expected if what == "expected" else task.document
    return document[task.start : len(document) - behind]


def answer(text: str) -> Finished:
    return Finished(
        request_id="", hole=0, text=text, tokens=8, forwards=4, finish=FinishReason.EOM,
        syntax=SyntaxState.OK, mode="verify", model="stand-in", elapsed_ms=12.0, first_ms=3.0,
        context_tokens=30,
    )  # fmt: skip


@pytest.mark.parametrize("form", sorted(edits.FORMS))
def test_every_edit_can_be_taken_back(form: str) -> None:
    task = TASKS[form]
    assert rewrite.score(task, answer(text_of(form, "expected"))).passed
    same = rewrite.score(task, answer(task.text))
    assert same.unchanged and not same.passed, "leaving it as it is is no answer"
    assert same.parses == (form != "syntax")
    assert not rewrite.score(task, answer("")).passed


@pytest.mark.parametrize(
    ("form", "gone", "there"),
    [
        ("type hints", "path: str", "path, default=0):"),
        ("docstring", '"""Read', "open(path)"),
        ("f-string", 'f"', "'{} names'.format(len(kept))"),
        ("comprehension", "[row.name", "kept.append(row.name)"),
        ("early return", "\n        kept", "        else:\n            kept"),
        ("error handling", "except", "        text = open(path).read()\n        found"),
    ],
)
def test_what_the_edits_do(form: str, gone: str, there: str) -> None:
    text = TASKS[form].text
    assert gone not in text
    assert there.replace(" ", "") in text.replace(" ", "")


def test_hints_and_docstrings_are_not_told_word_by_word_but_the_code_is() -> None:
    hinted = text_of("type hints", "expected")
    task = TASKS["type hints"]
    assert rewrite.score(task, answer(hinted.replace("-> dict", "-> object"))).passed
    assert not rewrite.score(task, answer(hinted.replace("-> dict", ""))).passed
    assert not rewrite.score(task, answer(hinted.replace("return found", "return None"))).passed
    task, told = TASKS["docstring"], text_of("docstring", "expected")
    assert rewrite.score(task, answer(told.replace("Read a file", "Anything else"))).passed
    assert not rewrite.score(task, answer(told.replace("Read a file.", " "))).passed


def test_a_rename_names_both() -> None:
    task = TASKS["rename"]
    assert task.instruction.startswith("Rename the variable ")
    assert task.document == SOURCE != task.expected


@pytest.mark.parametrize("exercise", exercises.EXERCISES, ids=lambda e: e.name)
def test_exercises_pass_as_they_should_be_and_not_as_they_are_shown(
    exercise: exercises.Exercise,
) -> None:
    limits = sandbox.Limits(seconds=1.0)
    for task in (exercises.bug(exercise), exercises.body(exercise)):
        right = sandbox.run_program(f"{task.expected}\n{task.tests}\n", limits)
        assert (right, task.document != task.expected) == ("passed", True)
        assert sandbox.run_program(f"{task.document}\n{task.tests}\n", limits) != "passed"


def test_prose_is_told_from_code() -> None:
    task = exercises.bug(exercises.EXERCISES[0])
    talk = rewrite.score(task, answer("Here is the fixed function, which splits a list."))
    assert talk.prose and not talk.parses and not talk.passed
    code = rewrite.score(task, answer(task.expected.rstrip()))
    assert code.passed and not code.prose


class StandIn:
    """An engine that gives back what stands in the document."""

    def __init__(self) -> None:
        self.requests: list[RewriteRequest] = []

    def rewrite(self, request: RewriteRequest) -> Iterator[Event]:
        self.requests.append(request)
        yield answer(request.document[request.span.start : request.span.end])


def test_the_engine_sees_the_shown_file_and_a_rate_is_given_for_each_kind() -> None:
    tasks = rewrite.tasks([FILE], 2, seed=0)
    assert tasks == rewrite.tasks([FILE], 2, seed=0)
    kinds = [task.kind for task in tasks]
    assert len(set(kinds)) == 8 and kinds.count("convert") == 2 and kinds.count("body") == 2
    engine = StandIn()
    rows = [rewrite.rewrite(engine, task, DecodingConfig(), 512) for task in tasks]
    for task, request in zip(tasks, engine.requests, strict=True):
        assert (request.document, request.instruction) == (task.document, task.instruction)
        assert request.context_tokens == 512
    figures = rewrite.summarise(rows)
    assert figures["mean_over_kinds"] == 0.0 and figures["unchanged"] == len(tasks)
    assert figures["tokens_per_forward"] == 2.0
    assert json.loads(json.dumps(figures)) == figures


def test_every_kind_weighs_the_same_in_the_mean() -> None:
    def row(kind: str, passed: bool) -> rewrite.Rewritten:
        return rewrite.Rewritten(kind, kind, "", passed, True, False, False, 1, 1, 0.0)

    figures = rewrite.summarise([row("a", True), *[row("b", False)] * 3])
    assert (figures["mean_over_kinds"], figures["rate"]) == (0.5, 0.25)


def test_files_that_offsets_would_not_fit_are_left_out() -> None:
    odd = HeldOutFile("p", "1", "MIT", "python", "odd.py", SOURCE.replace("Read", "Lies\u00e9"))
    broken = HeldOutFile("p", "1", "MIT", "python", "broken.py", SOURCE + "def f(:\n")
    other = HeldOutFile("p", "1", "MIT", "go", "main.go", SOURCE)
    assert not list(edits.tasks_of(odd)) and not list(edits.tasks_of(broken))
    forms = {task.form for task in rewrite.tasks([odd, broken, other], 3, 0)}
    assert forms == {"bug", "body"}


def test_a_task_says_what_it_is() -> None:
    for task in TASKS.values():
        assert isinstance(task, RewriteTask) and task.id.startswith(f"{task.form}/")
        assert task.document[task.start : task.end] == task.text
        assert task.text.lstrip().startswith("def ")
