"""What other files of a workspace bring: the same hole with and without them in the context."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from blockdiff.config import DecodingConfig
from blockdiff.engine.engine import Engine
from blockdiff.errors import BlockdiffError
from blockdiff.eval.results import ResultsFile, gone_through, resampled_ratio
from blockdiff.eval.seam_faults import is_fenced, is_prose, is_sentence
from blockdiff.eval.workspace_holes import HeldOutPackages, OtherFiles, WorkspaceHole
from blockdiff.syntax.check import check
from blockdiff.types import Extent, Finished, Hole, InfillRequest, SyntaxState
from blockdiff.workspace.pieces import context_pieces

_NAME = re.compile(r"[^\W\d]\w*")


@dataclass(frozen=True, slots=True)
class FilledLine:
    """One hole filled in one way, up to the end of its line.

    Attributes:
        needing: whether the true text uses a name of another file.
        exact: the line is what it was, blanks at its end aside.
        identifiers: its names are, in their order.
        named: the name of the other file is among them.
        prose: a sentence outside of comments and strings, or a fence. Holes begin within a line:
            the rest of that is one if it reads so, and the document does not parse with it.
        syntax: a `SyntaxState` of the whole document.
        shown: about as many tokens of other files' definitions as the context had.
    """

    task_id: str
    way: str
    package: str
    language: str
    needing: bool
    exact: bool
    identifiers: bool
    named: bool
    prose: bool
    syntax: str
    tokens: int
    shown: int
    ms: float
    text: str


def measure(
    engine: Engine,
    spaces: HeldOutPackages,
    holes: Sequence[WorkspaceHole],
    ways: Sequence[OtherFiles],
    decoding: DecodingConfig,
    context_tokens: int,
    share: float,
    results: ResultsFile[FilledLine] | None,
    progress: Callable[[int, int], None],
) -> list[FilledLine]:
    """Rows of every hole in every way, hole after hole; see `gone_through`.

    Args:
        share: of the context, for what is shown of other files.
    """
    tasks = [(hole, way) for hole in holes for way in ways]

    def work(index: int) -> FilledLine:
        hole, way = tasks[index]
        request = request_of(spaces, hole, way, decoding, context_tokens, share)
        return _fill(engine, request, hole, way)

    return gone_through([_id(*task) for task in tasks], work, results, progress)


def _id(hole: WorkspaceHole, way: OtherFiles) -> str:
    return f"{way.value} {hole.id}"


def request_of(
    spaces: HeldOutPackages,
    hole: WorkspaceHole,
    way: OtherFiles,
    decoding: DecodingConfig,
    context_tokens: int,
    share: float,
) -> InfillRequest:
    """As an editor's ghost text asks within a line."""
    document, at = hole.before + hole.after, Hole(len(hole.before), len(hole.before))
    budget = int(context_tokens * share)
    ring = hole.ring if way in (OtherFiles.RING, OtherFiles.ALL) else ()
    snippets, kept = ring, budget if ring else 0
    if way in (OtherFiles.INDEX, OtherFiles.ALL):
        pieces = context_pieces(
            spaces.index(hole.package), document, at, hole.path, hole.language, budget,
            window=context_tokens, ring=ring,
        )  # fmt: skip
        snippets, kept = pieces.snippets, budget if ring else pieces.tokens
    return InfillRequest(
        document,
        at,
        path=hole.path,
        language=hole.language,
        snippets=snippets,
        snippet_tokens=kept,
        decoding=decoding,
        context_tokens=context_tokens,
        extent=Extent.LINE,
    )


def _fill(
    engine: Engine, request: InfillRequest, hole: WorkspaceHole, way: OtherFiles
) -> FilledLine:
    began = time.perf_counter()
    for event in engine.infill(request):
        if isinstance(event, Finished):
            ms = 1e3 * (time.perf_counter() - began)
            return judge(hole, way, event.text, event.tokens, request.snippet_tokens, ms)
    raise BlockdiffError("the engine ended without a result")


def judge(
    hole: WorkspaceHole, way: OtherFiles, text: str, tokens: int, shown: int, ms: float
) -> FilledLine:
    """Score what the engine wrote."""
    before, after = hole.before, hole.after
    line = text.replace("\r\n", "\n").split("\n", 1)[0].rstrip()
    names = _NAME.findall(line)
    start = len(before)
    syntax = check(before + text + after, start, start + len(text), hole.language)
    talks = syntax is SyntaxState.BROKEN and line != hole.text and is_sentence(line)
    prose = is_prose(text, before, after, hole.language)
    return FilledLine(
        task_id=_id(hole, way),
        way=way.value,
        package=hole.package,
        language=hole.language,
        needing=bool(hole.name),
        exact=line == hole.text,
        identifiers=names == _NAME.findall(hole.text),
        named=hole.name in names,
        prose=talks or prose or is_fenced(text, before, after),
        syntax=syntax.value,
        tokens=tokens,
        shown=shown,
        ms=round(ms, 1),
        text=text,
    )


# --- figures --------------------------------------------------------------------------------------


def summarise(rows: Sequence[FilledLine]) -> dict[str, Any]:
    """Figures of each way and what it is better by than nothing, for both sorts of holes."""
    sorts = {"needing": True, "controls": False}
    parts = {name: [row for row in rows if row.needing is sort] for name, sort in sorts.items()}
    return {name: _of_sort(found) for name, found in parts.items() if found}


def _of_sort(rows: Sequence[FilledLine]) -> dict[str, Any]:
    """Of the holes that were filled in every way."""
    ways = [way for way in OtherFiles if any(row.way == way.value for row in rows)]
    by_way = {way: {_hole_of(row): row for row in rows if row.way == way.value} for way in ways}
    whole = set.intersection(*(set(found) for found in by_way.values()))
    languages = sorted({row.language for row in rows})
    base = by_way.get(OtherFiles.NONE)
    figures: dict[str, Any] = {}
    for way in ways:
        mine = [by_way[way][name] for name in sorted(whole)]
        figures[way.value] = _figures(mine)
        by_language = {n: [row for row in mine if row.language == n] for n in languages}
        figures[way.value]["by_language"] = {n: _figures(r) for n, r in by_language.items() if r}
        if base and way is not OtherFiles.NONE:
            none = [base[_hole_of(row)] for row in mine]
            figures[way.value]["gain"] = {
                key: _gain(mine, none, key) for key in ("exact", "identifiers", "named")
            }
    return figures


def _hole_of(row: FilledLine) -> str:
    return row.task_id.partition(" ")[2]


def _figures(rows: Sequence[FilledLine]) -> dict[str, Any]:
    count = max(len(rows), 1)
    judged = [row for row in rows if row.syntax != SyntaxState.SKIPPED.value]
    parse = sum(row.syntax == SyntaxState.OK.value for row in judged)
    return {
        "holes": len(rows),
        "packages": len({row.package for row in rows}),
        **{
            key: round(sum(getattr(row, key) for row in rows) / count, 4)
            for key in ("exact", "identifiers", "named")
        },
        "prose": sum(row.prose for row in rows),
        "parse_rate": round(parse / len(judged), 4) if judged else None,
        "tokens": round(sum(row.tokens for row in rows) / count, 2),
        "shown": round(sum(row.shown for row in rows) / count, 1),
        "ms": round(sum(row.ms for row in rows) / count, 1),
    }


def _gain(mine: Sequence[FilledLine], none: Sequence[FilledLine], key: str) -> dict[str, Any]:
    """Difference of a rate, and its 95% interval over packages."""
    pairs = zip(mine, none, strict=True)
    values = [float(getattr(one, key)) - float(getattr(other, key)) for one, other in pairs]
    low, high = resampled_ratio([row.package for row in mine], values)
    mean = sum(values) / max(len(values), 1)
    return {"points": round(100 * mean, 1), "ci95": [round(100 * low, 1), round(100 * high, 1)]}
