"""Where filled texts end: whether they write again what stands behind the hole, or talk.

The text of a hole is taken out of a document, the engine is asked for it as the command line and as
an editor's ghost text ask, and what it wrote is judged at its ends.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from blockdiff.config import DecodingConfig
from blockdiff.engine.engine import Engine
from blockdiff.errors import BlockdiffError
from blockdiff.eval.results import ResultsFile, gone_through, resampled_ratio
from blockdiff.eval.seam_faults import is_fenced, is_prose, repeats
from blockdiff.eval.seam_holes import LANGUAGES, Caller, SeamHole
from blockdiff.eval.seam_places import KINDS
from blockdiff.syntax.check import check
from blockdiff.types import (
    Extent,
    Finished,
    FinishReason,
    Hole,
    InfillRequest,
    Refinement,
    SyntaxState,
)

_SHOWN = 60  # characters on each side of a text that is shown


@dataclass(frozen=True, slots=True)
class Seamed:
    """One hole filled in one way.

    Attributes:
        exact: the rest of the hole's line is what it was, blanks at its end aside.
        repeats: what stands twice, by the names of `seam_faults.repeats`; empty: nothing.
        torn: within a line, with more behind it, more than a line was written.
        syntax: a `SyntaxState` of the whole document with the text in it.
        finish: a `FinishReason`.
        text: what goes into the document; `raw`: what the model had written when it was stopped.
    """

    task_id: str
    way: str
    file: str
    language: str
    kind: str
    neighbour: bool
    exact: bool
    repeats: str
    prose: bool
    fenced: bool
    torn: bool
    syntax: str
    finish: str
    tokens: int
    forwards: int
    ms: float
    text: str
    raw: str

    @property
    def is_clean(self) -> bool:
        return not (self.repeats or self.prose or self.fenced)


def request_of(
    hole: SeamHole, way: Caller, decoding: DecodingConfig, context_tokens: int
) -> InfillRequest:
    """What is asked for in this way: an insertion where the text was taken out."""
    at = len(hole.before)
    extent = Extent.HOLE
    if way is Caller.GHOST:  # as `lsp_server/inline.py` chooses
        within_line = bool(hole.after.split("\n", 1)[0].strip())
        extent = Extent.LINE if within_line else Extent.BLOCK
    return InfillRequest(
        hole.before + hole.after,
        Hole(at, at),
        path=hole.path,
        language=hole.language,
        snippets=(hole.neighbour,) if hole.neighbour else (),
        decoding=decoding,
        context_tokens=context_tokens,
        extent=extent,
    )


def fill(
    engine: Engine, hole: SeamHole, way: Caller, decoding: DecodingConfig, context_tokens: int
) -> Seamed:
    """Fill one hole in one way and judge it."""
    raw, began = "", time.perf_counter()
    for event in engine.infill(request_of(hole, way, decoding, context_tokens)):
        if isinstance(event, Refinement):
            raw = event.text
        elif isinstance(event, Finished):
            return judge(hole, way, event, raw, 1e3 * (time.perf_counter() - began))
    raise BlockdiffError("the engine ended without a result")


def judge(hole: SeamHole, way: Caller, end: Finished, raw: str, ms: float) -> Seamed:
    """Score what the engine ended with."""
    before, after, text = hole.before, hole.after, end.text.replace("\r\n", "\n")
    start = len(before)
    rest = after.split("\n", 1)[0]
    return Seamed(
        task_id=f"{way.value} {hole.id}",
        way=way.value,
        file=hole.file,
        language=hole.language,
        kind=hole.kind,
        neighbour=hole.neighbour is not None,
        exact=_first_line(text + after) == _first_line(hole.text + after),
        repeats=repeats(text, before, after, hole.language),
        prose=is_prose(text, before, after, hole.language),
        fenced=is_fenced(text, before, after),
        torn=bool(rest.strip()) and "\n" in text and "\n" not in hole.text,
        syntax=check(before + text + after, start, start + len(text), hole.language).value,
        finish=end.finish.value,
        tokens=end.tokens,
        forwards=end.forwards,
        ms=round(ms, 1),
        text=text,
        raw=raw,
    )


def _first_line(text: str) -> str:
    return text.split("\n", 1)[0].rstrip()


def measure(
    engine: Engine,
    holes: Sequence[SeamHole],
    ways: Sequence[Caller],
    decoding: DecodingConfig,
    context_tokens: int,
    results: ResultsFile[Seamed] | None,
    progress: Callable[[int, int], None],
) -> list[Seamed]:
    """Rows of every hole in every way, hole after hole; see `gone_through`."""
    tasks = [(hole, way) for hole in holes for way in ways]
    return gone_through(
        [f"{way.value} {hole.id}" for hole, way in tasks],
        lambda index: fill(engine, *tasks[index], decoding, context_tokens),
        results,
        progress,
    )


# --- figures --------------------------------------------------------------------------------------


def summarise(rows: Sequence[Seamed]) -> dict[str, Any]:
    """Figures of each way: of all holes, by kind, by language, with and without a neighbour."""
    ways = {way.value: [row for row in rows if row.way == way.value] for way in Caller}
    return {"ways": {name: _of_way(found) for name, found in ways.items() if found}}


def _of_way(rows: Sequence[Seamed]) -> dict[str, Any]:
    low, high = resampled_ratio([row.file for row in rows], [float(row.exact) for row in rows])
    beside = {"with": True, "without": False}
    return {
        **_figures(rows),
        "exact_ci95": [round(low, 4), round(high, 4)],
        "by_kind": _parts({k: [r for r in rows if r.kind == k] for k in KINDS}),
        "by_language": _parts({n: [r for r in rows if r.language == n] for n in LANGUAGES}),
        "by_neighbour": _parts(
            {n: [r for r in rows if r.neighbour is b] for n, b in beside.items()}
        ),
    }


def _parts(parts: dict[str, list[Seamed]]) -> dict[str, dict[str, Any]]:
    return {name: _figures(rows) for name, rows in parts.items() if rows}


def _figures(rows: Sequence[Seamed]) -> dict[str, Any]:
    count, forwards = len(rows), sum(row.forwards for row in rows)
    judged = [row for row in rows if row.syntax != SyntaxState.SKIPPED.value]
    parse = sum(row.syntax == SyntaxState.OK.value for row in judged)
    return {
        "holes": count,
        "exact": round(sum(row.exact for row in rows) / count, 4),
        "repeats": sum(bool(row.repeats) for row in rows),
        "prose": sum(row.prose for row in rows),
        "fences": sum(row.fenced for row in rows),
        "torn": sum(row.torn for row in rows),
        "empty": sum(not row.text.strip() for row in rows),
        "parse_rate": round(parse / len(judged), 4) if judged else None,
        "at_limit": sum(row.finish == FinishReason.LENGTH.value for row in rows),
        "tokens": round(sum(row.tokens for row in rows) / count, 2),
        "tokens_per_forward": round(sum(row.tokens for row in rows) / max(forwards, 1), 3),
    }


def shown(row: Seamed, hole: SeamHole) -> str:
    """One line on a text that is not clean: what is wrong, where, and the text in its place."""
    wrong = [f"repeats {row.repeats}"] if row.repeats else []
    wrong += ["prose"] * row.prose + ["fence"] * row.fenced
    before, after = hole.before[-_SHOWN:], hole.after[:_SHOWN]
    place = f"…{before}«{row.text}»{after}…".replace("\n", "⏎")
    return f"{row.task_id}, {row.kind}: {', '.join(wrong)}\n  {place}"
