"""Several holes of a file in one request, against a request for each: time, exact match, work.

Holes are single lines of held-out files, four of a file within a window of lines, all blank at
once. The requests run in turn on an empty cache, so that what else the machine does falls on both.
"""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from blockdiff.config import DecodingConfig, Reuse
from blockdiff.engine.batch import events_of
from blockdiff.engine.contexts import never
from blockdiff.engine.engine import Engine
from blockdiff.eval.heldout import HeldOutFile, choose
from blockdiff.infill.healing import PromptTokenizer
from blockdiff.model.forward import Forward
from blockdiff.types import Filled, Finished, Hole, InfillRequest, SyntaxState, no_op

_LINES = 48  # that the holes of a file lie within
_APART = 3  # lines from one hole to the next, at least
_TOKENS = range(3, 25)  # of a hole
_LETTERS = 5  # of a hole, at least: not only brackets
_COMMENTS = tuple("#/*\"'<!-;%")


@dataclass(frozen=True, slots=True)
class MultiHoleTask:
    """A file with its holes; the document has the true texts in them."""

    id: str
    request: InfillRequest

    @property
    def truth(self) -> list[str]:
        return [self.request.document[hole.start : hole.end] for hole in self.request.holes]


def tasks(
    files: Sequence[HeldOutFile],
    tokenizer: PromptTokenizer,
    holes: int,
    decoding: DecodingConfig,
    context: int,
    seed: int,
) -> Iterator[MultiHoleTask]:
    """A task of each file that has lines enough; languages take turns."""
    rng = random.Random(seed)
    for file in choose(files, 0, seed):
        lines = file.text.split("\n")
        first = rng.randrange(max(1, len(lines) - _LINES))
        rows = _rows(lines, range(first, min(first + _LINES, len(lines))), tokenizer, holes, rng)
        if len(rows) < holes or "\r" in file.text:
            continue
        spans = []
        for row in rows:
            end = len("\n".join(lines[: row + 1]))
            spans.append(Hole(end - len(lines[row].lstrip()), end))
        yield MultiHoleTask(
            file.id,
            InfillRequest(
                file.text,
                spans[0],
                path=file.path,
                language=file.language,
                decoding=decoding,
                context_tokens=context,
                also=tuple(spans[1:]),
            ),
        )


def _rows(
    lines: Sequence[str], among: range, tokenizer: PromptTokenizer, count: int, rng: random.Random
) -> list[int]:
    """Numbers of lines of code, far enough from one another, in order."""
    chosen: list[int] = []
    for row in rng.sample(among, len(among)):
        text = lines[row].strip()
        code = sum(map(str.isalpha, text)) >= _LETTERS and not text.startswith(_COMMENTS)
        if not code or len(tokenizer.encode(text)) not in _TOKENS:
            continue
        if len(chosen) < count and all(abs(row - other) >= _APART for other in chosen):
            chosen.append(row)
    return sorted(chosen)


@dataclass(frozen=True, slots=True)
class MultiHoleResult:
    """What came of all holes of a task.

    Attributes:
        processor: seconds of all threads; of less use on a GPU, of more on a busy machine.
        encoded: context tokens that forwards encoded.
        passes: of the model over its weights to write, the encoding of context not counted.
    """

    texts: tuple[str, ...]
    parses: int
    seconds: float
    processor: float
    encoded: int
    passes: int


def together(engine: Engine, request: InfillRequest) -> MultiHoleResult:
    """All holes in one request, on an empty cache."""
    engine.forget()
    return _attempt(engine, [request])


def lending(engine: Engine, request: InfillRequest) -> MultiHoleResult:
    """The same with keys and values behind the holes that all share."""
    decoding = replace(request.decoding, cache=Reuse.SUFFIX)
    return together(engine, replace(request, decoding=decoding))


def singly(engine: Engine, request: InfillRequest, *, keep: bool = False) -> MultiHoleResult:
    """A request for each hole, the others blank, each on an empty cache.

    With `keep` only the first: the others reuse what those before them have encoded.
    """
    wanted = [request.only(index) for index in range(len(request.holes))]
    engine.forget()
    return _attempt(engine, wanted, engine.forget if not keep else no_op)


def _attempt(
    engine: Engine, wanted: Sequence[InfillRequest], between: Callable[[], None] = no_op
) -> MultiHoleResult:
    encoded = passes = 0
    ends: list[Finished] = []
    seconds = processor = 0.0

    def runner(waiting: Sequence[Forward]) -> list[Tensor]:
        nonlocal encoded, passes
        encoded += sum(one.encoded for one in waiting)
        passes += any(one.wanted is not None for one in waiting)
        return engine.forward(waiting)

    for request in wanted:
        between()
        began, spent = time.perf_counter(), time.process_time()
        *_, end = events_of(engine.steps(request, never), runner, engine.has_room)
        seconds += time.perf_counter() - began
        processor += time.process_time() - spent
        assert isinstance(end, (Finished, Filled))
        ends += end.holes if isinstance(end, Filled) else (end,)
    texts = tuple(end.text for end in ends)
    parses = sum(end.syntax is SyntaxState.OK for end in ends)
    return MultiHoleResult(texts, parses, seconds, processor, encoded, passes)


def compare(
    engine: Engine,
    wanted: Sequence[MultiHoleTask],
    *,
    kept: bool = False,
    lend: bool = False,
    revise: bool = False,
    done: Callable[[str], None] = no_op,
) -> dict[str, Any]:
    """Ways to fill the holes of all tasks: `together`, `single`, and, as asked for, `kept` (one
    request after the other, on what the earlier ones encoded), `lent` (see `lending`), `revised`.

    `ratio` is of the seconds of a task to those of `single`, `processor_ratio` the same of
    processor time. `done` takes a line on each task.
    """
    ways: dict[str, Callable[[InfillRequest], MultiHoleResult]] = {
        "single": lambda request: singly(engine, request),
        "together": lambda request: together(engine, request),
    }
    if kept:
        ways["kept"] = lambda request: singly(engine, request, keep=True)
    if lend:
        ways["lent"] = lambda request: lending(engine, request)
    if revise:
        ways["revised"] = lambda request: together(engine, replace(request, revise=True))
    together(engine, wanted[0].request)  # what happens once a process is not timed
    found: dict[str, list[MultiHoleResult]] = {name: [] for name in ways}
    for number, task in enumerate(wanted):
        order = list(ways) if number % 2 else list(reversed(ways))
        for name in order:
            found[name].append(ways[name](task.request))
        parts = [
            f"{name} {one.seconds:.2f} s ({one.processor:.2f}), {sum(_right(task, one))} right"
            for name, (*_, one) in found.items()
        ]
        done(f"{task.id}: {'; '.join(parts)}")
    return {
        "files": len(wanted),
        "holes": sum(len(task.truth) for task in wanted),
        "ways": {name: _row(wanted, found[name], found["single"]) for name in ways},
    }


def _row(
    wanted: Sequence[MultiHoleTask],
    attempts: Sequence[MultiHoleResult],
    single: Sequence[MultiHoleResult],
) -> dict[str, Any]:
    both = list(zip(attempts, single, strict=True))
    right = [_right(task, one) for task, one in zip(wanted, attempts, strict=True)]
    alone = [_right(task, one) for task, one in zip(wanted, single, strict=True)]
    pairs = [pair for rows in zip(right, alone, strict=True) for pair in zip(*rows, strict=True)]
    return {
        "exact": sum(map(sum, right)),
        "better": sum(mine and not its for mine, its in pairs),
        "worse": sum(its and not mine for mine, its in pairs),
        "parses": sum(one.parses for one in attempts),
        "encoded": sum(one.encoded for one in attempts),
        "passes": sum(one.passes for one in attempts),
        "seconds": round(sum(one.seconds for one in attempts), 2),
        "ratio": _spread([one.seconds / other.seconds for one, other in both]),
        "processor_ratio": _spread([one.processor / other.processor for one, other in both]),
    }


def _spread(ratios: Sequence[float]) -> dict[str, float]:
    """Their median and range."""
    return {
        "median": round(statistics.median(ratios), 3),
        "low": round(min(ratios), 3),
        "high": round(max(ratios), 3),
    }


def _right(task: MultiHoleTask, attempt: MultiHoleResult) -> list[bool]:
    pairs = zip(task.truth, attempt.texts, strict=True)
    return [true.strip() == text.strip() for true, text in pairs]
