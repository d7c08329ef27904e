"""Which decoding is best: holes of held-out files filled by every configuration of a grid.

Configurations take turns at each hole, so that they meet the same text, the same encoded context
and the same machine. The file that ships is never one that an adapter was trained on.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Any

from blockdiff.config import DecodingConfig, Mode, Rule
from blockdiff.engine.contexts import resolved
from blockdiff.engine.engine import Engine
from blockdiff.errors import BlockdiffError, InvalidRequest
from blockdiff.eval.heldout_holes import HeldOutHole
from blockdiff.eval.results import ResultsFile, gone_through, resampled_ratio
from blockdiff.model.load.from_folder import DraftingConfig
from blockdiff.types import Finished, InfillRequest, SyntaxState

_SURE = 0.05  # chance at which a difference between two configurations counts
_LOST = 0.05  # share of the holes that may not be lost for the sake of speed
_FASTER = 0.95  # of the forwards: what is saved has to be worth a change


@dataclass(frozen=True, slots=True)
class Tuned:
    """One hole filled by one configuration.

    Attributes:
        exact: the text is the one that was there, blanks at the ends of lines ignored.
        syntax: a `SyntaxState`.
        ms: on the clock, the context being encoded already; `cpu_ms`: of processor time.
    """

    task_id: str
    configuration: str
    hole: str
    file: str
    kind: str
    exact: bool
    syntax: str
    tokens: int
    forwards: int
    ms: float
    cpu_ms: float


def name_of(decoding: DecodingConfig) -> str:
    """`ar`, `verify/MASKS` or `diffusion/RULE/PARAMETER/BLOCK`, sizes resolved."""
    if decoding.mode is Mode.AR:
        return "ar"
    if decoding.mode is Mode.VERIFY:
        return f"verify/{decoding.block_size}"
    parameter: float = decoding.trust if decoding.rule is Rule.TRUST else decoding.threshold
    if decoding.rule is Rule.ENTROPY_BOUND:
        parameter = decoding.entropy_bound
    elif decoding.rule is Rule.SCHEDULE:
        parameter = decoding.denoising_steps
    return f"diffusion/{decoding.rule.value}/{parameter:g}/{decoding.block_size}"


def grid(drafting: DraftingConfig, only: Sequence[str] = ()) -> dict[str, DecodingConfig]:
    """All configurations by name, or those that match one of the patterns `only`.

    Raises InvalidRequest where a pattern matches none.
    """
    block = drafting.block_size
    diffusion = DecodingConfig(mode=Mode.DIFFUSION, block_size=block)
    found = [DecodingConfig(mode=Mode.AR)]
    masks = sorted({drafting.draft_length, 1, 2, 4})
    found += [DecodingConfig(mode=Mode.VERIFY, block_size=count) for count in masks]
    found += [replace(diffusion, trust=share) for share in (0.1, 0.3, 0.5, 0.7)]
    by_threshold = replace(diffusion, rule=Rule.THRESHOLD)
    for size in (block, 2 * block):
        for threshold in (0.5, 0.7, 0.8, 0.9, 0.95):
            found.append(replace(by_threshold, threshold=threshold, block_size=size))
    for rule in (Rule.STABLE, Rule.ADAPTIVE):
        found += [replace(diffusion, rule=rule, threshold=t) for t in (0.7, 0.9)]
    found += [replace(diffusion, rule=Rule.SYNTAX, threshold=t) for t in (0.5, 0.9)]
    found.append(replace(diffusion, rule=Rule.EDIT))
    for nats in (0.1, 0.5):
        found.append(replace(diffusion, rule=Rule.ENTROPY_BOUND, entropy_bound=nats))
    for steps in (2, 4):
        found.append(replace(diffusion, rule=Rule.SCHEDULE, denoising_steps=steps))
    named = {name_of(decoding): decoding for decoding in found}
    for pattern in only:
        if not any(fnmatchcase(name, pattern) for name in named):
            known = ", ".join(named)
            raise InvalidRequest(f"no configuration matches {pattern!r}", f"known: {known}")
    wanted = only or ("*",)
    return {n: d for n, d in named.items() if any(fnmatchcase(n, p) for p in wanted)}


def fill(
    engine: Engine, hole: HeldOutHole, name: str, decoding: DecodingConfig, context_tokens: int
) -> Tuned:
    """Fill one hole by one configuration; its context is encoded before the clock starts."""
    request = InfillRequest(
        hole.file.text,
        hole.hole,
        path=hole.file.path,
        language=hole.file.language,
        decoding=decoding,
        context_tokens=context_tokens,
    )
    engine.warm(request)
    began, spent = time.perf_counter(), time.process_time()
    for event in engine.infill(request):
        if isinstance(event, Finished):
            return Tuned(
                task_id=f"{name} {hole.id}",
                configuration=name,
                hole=hole.id,
                file=hole.file.id,
                kind=hole.kind,
                exact=_stripped(event.text) == _stripped(hole.text),
                syntax=event.syntax.value,
                tokens=event.tokens,
                forwards=event.forwards,
                ms=round(1e3 * (time.perf_counter() - began), 1),
                cpu_ms=round(1e3 * (time.process_time() - spent), 1),
            )
    raise BlockdiffError("the engine ended without a result")


def tune(
    engine: Engine,
    holes: Sequence[HeldOutHole],
    configurations: dict[str, DecodingConfig],
    *,
    max_tokens: int,
    context_tokens: int,
    results: ResultsFile[Tuned] | None,
    progress: Callable[[int, int], None],
) -> list[Tuned]:
    """Rows of every hole by every configuration, hole after hole; see `gone_through`."""
    tasks = [(hole, name) for hole in holes for name in configurations]

    def work(index: int) -> Tuned:
        hole, name = tasks[index]
        decoding = replace(configurations[name], max_tokens=max_tokens)
        return fill(engine, hole, name, decoding, context_tokens)

    ids = [f"{name} {hole.id}" for hole, name in tasks]
    return gone_through(ids, work, results, progress)


# --- figures --------------------------------------------------------------------------------------


def summarise(rows: Sequence[Tuned], drafting: DraftingConfig) -> dict[str, Any]:
    """Figures of each configuration and the pick of each mode.

    `front_forwards` and `front_cpu_ms` say whether a configuration is on the Pareto front of exact
    match against that cost: of `all`, or else of those of its mode.
    """
    by_name: dict[str, list[Tuned]] = {}
    for row in rows:
        by_name.setdefault(row.configuration, []).append(row)
    figures = [{"configuration": name, **_figures(found)} for name, found in by_name.items()]
    for cost in ("forwards", "cpu_ms"):
        front = pareto(figures, cost)
        for line in figures:
            own = pareto([other for other in figures if _mode(other) == _mode(line)], cost)
            name = line["configuration"]
            line[f"front_{cost}"] = "all" if name in front else _mode(line) if name in own else ""
    return {
        "holes": len({row.hole for row in rows}),
        "kinds": {k: len({r.hole for r in rows if r.kind == k}) for k in ("line", "lines")},
        "configurations": figures,
        "picks": {mode.value: pick for mode in Mode if (pick := _pick(mode, by_name, drafting))},
    }


def pareto(figures: Iterable[dict[str, Any]], cost: str) -> set[str]:
    """Configurations than which none is as good and cheaper, or as cheap and better."""
    lines = list(figures)
    return {
        line["configuration"]
        for line in lines
        if not any(
            other["exact"] >= line["exact"]
            and other[cost] <= line[cost]
            and (other["exact"], other[cost]) != (line["exact"], line[cost])
            for other in lines
        )
    }


def _mode(line: dict[str, Any]) -> str:
    return str(line["configuration"]).split("/")[0]


def _figures(rows: Sequence[Tuned]) -> dict[str, Any]:
    count, judged = len(rows), [row for row in rows if row.syntax != SyntaxState.SKIPPED.value]
    low, high = resampled_ratio([row.file for row in rows], [float(row.exact) for row in rows])
    forwards = sum(row.forwards for row in rows)
    parses = sum(row.syntax == SyntaxState.OK.value for row in judged)
    return {
        "exact": round(sum(row.exact for row in rows) / count, 4),
        "exact_ci95": [round(low, 4), round(high, 4)],
        "parse_rate": round(parses / max(len(judged), 1), 4),
        "tokens_per_forward": round(sum(row.tokens for row in rows) / max(forwards, 1), 3),
        "forwards": round(forwards / count, 2),
        "ms": round(sum(row.ms for row in rows) / count, 1),
        "cpu_ms": round(sum(row.cpu_ms for row in rows) / count, 1),
    }


def _pick(
    mode: Mode, by_name: dict[str, list[Tuned]], drafting: DraftingConfig
) -> dict[str, Any] | None:
    """The default of a mode stays unless another configuration is clearly better, hole by hole."""
    default = name_of(resolved(DecodingConfig(mode=mode), drafting))
    if default not in by_name:
        return None
    rivals = [name for name in by_name if name.split("/")[0] == mode.value and name != default]
    better = {}
    for name in rivals:
        why = clearly_better(by_name[name], by_name[default])
        if why:
            better[name] = why
    if not better:
        why = "the only one measured" if not rivals else "no other is clearly better, hole by hole"
        return {"default": default, "pick": default, "why": why}

    def rank(name: str) -> tuple[float, float]:
        line = _figures(by_name[name])
        return -line["exact"], line["cpu_ms"]

    best = min(better, key=rank)
    return {"default": default, "pick": best, "why": better[best]}


def clearly_better(rows: Sequence[Tuned], than: Sequence[Tuned]) -> str:
    """Why one configuration beats another on the same holes; empty: it does not, or not clearly.

    More exact matches, by a sign test of the holes where the two differ. Or at least as many of
    them and of texts that parse, so few lost that it cannot well be one in twenty (59 holes of
    which none is), and 5% fewer forwards and less processor time, by the 95% interval of the ratio
    over files.
    """
    pairs = _paired(rows, than)
    wins = sum(a.exact and not b.exact for a, b in pairs)
    losses = sum(b.exact and not a.exact for a, b in pairs)
    if wins > losses and sign_test(wins, losses) < _SURE:
        return f"exact where the default is not in {wins} holes, the other way round in {losses}"
    files = [a.file for a, _ in pairs]
    parses = [sum(pair[i].syntax == SyntaxState.OK.value for pair in pairs) for i in (0, 1)]
    if wins < losses or parses[0] < parses[1] or at_most(losses, len(pairs), _LOST) > _SURE:
        return ""
    ratios = []
    for what, attribute in (("forwards", "forwards"), ("processor time", "cpu_ms")):
        ours, theirs = ([float(getattr(pair[i], attribute)) for pair in pairs] for i in (0, 1))
        if resampled_ratio(files, ours, theirs)[1] > _FASTER:
            return ""
        ratios.append(f"{sum(ours) / sum(theirs):.2f} of the {what}")
    return f"{' and '.join(ratios)}, exact in {wins} holes more and {losses} fewer"


def at_most(losses: int, count: int, share: float) -> float:
    """Chance of so few losses among `count` holes if each were lost with this probability."""
    return sum(
        math.comb(count, k) * share**k * (1.0 - share) ** (count - k) for k in range(losses + 1)
    )


def sign_test(wins: int, losses: int) -> float:
    """Chance of a split at least as uneven if both were equally good, two-sided."""
    count = wins + losses
    tail = sum(math.comb(count, k) for k in range(min(wins, losses) + 1))
    return min(1.0, 2.0 * tail / float(2**count))


def _paired(rows: Sequence[Tuned], others: Sequence[Tuned]) -> list[tuple[Tuned, Tuned]]:
    by_hole = {row.hole: row for row in others}
    return [(row, by_hole[row.hole]) for row in rows if row.hole in by_hole]


def _stripped(text: str) -> str:
    return "\n".join(line.rstrip() for line in text.splitlines()).strip()
