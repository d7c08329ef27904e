"""Our engine against others: same weights, same prompts, same counts, in turn in one run.

Every figure is a median over places in real code, with quartiles; ratios are taken place by place,
so that what else the machine does falls on both.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from blockdiff.bench import ceilings
from blockdiff.bench.peer_report import BASE, compared, ratios, single_forwards, spread, targets
from blockdiff.bench.rivals import Ours, TimedRun, Writer
from blockdiff.bench.scenes import Place, Renaming, Size, keystrokes, places, renamings
from blockdiff.config import DecodingConfig, Mode
from blockdiff.engine.batch import Batch, Steps
from blockdiff.engine.contexts import resolved
from blockdiff.engine.engine import Engine
from blockdiff.types import Finished, InfillRequest, no_op

REWRITE_CONTEXT = 512  # tokens of the file that are shown with a rewrite
_CLIENT_REPEATS = 3
_FORWARD_REPEATS = 5


@dataclass(frozen=True, slots=True)
class Scope:
    """How much is measured.

    Attributes:
        places: in real code, for each context.
        contexts: tokens of context, each measured by itself.
        tokens: that are written.
        window: tokens of context in which typing is counted.
        rewrites: functions in which a variable is renamed.
        rewrite: their size.
        clients: who write at once; 0 leaves that out.
    """

    places: int = 8
    contexts: tuple[int, ...] = (512, 2048)
    tokens: int = 32
    window: int = 2048
    rewrites: int = 4
    rewrite: Size = Size()
    clients: int = 8
    seed: int = 0


def measure(
    engine: Engine,
    rivals: Mapping[str, Writer],
    scope: Scope,
    progress: Callable[[int, int], None] = no_op,
    machine: Callable[[], ceilings.Ceilings] = ceilings.measure,
) -> dict[str, Any]:
    """Everything in one run; `rivals` by name, `peer_report.BASE` among them.

    `progress` is called with (parts done, parts in all), `machine` before and after the rest.
    What is returned is told by `blockdiff bench peers --help`.
    """
    modes = [Mode.AR, Mode.VERIFY, Mode.DIFFUSION] if engine.drafts else [Mode.AR]
    usual = Mode.VERIFY if engine.drafts else Mode.AR
    ours = {mode.value: Ours(engine, mode) for mode in modes}
    together = modes[:2] if scope.clients else []
    everybody = len(ours) + len(rivals)
    total = scope.places * (len(scope.contexts) * everybody + 1) + len(together) + 2
    total += scope.rewrites * (1 + len(rivals))
    done = 0

    def advance() -> None:
        nonlocal done
        done += 1
        progress(done, total)

    progress(0, total)
    report: dict[str, Any] = {"model": engine.name, "dtype": engine.dtype, "scope": asdict(scope)}
    report["load_before"] = _load()
    limits = [machine()]
    advance()
    first = min(scope.contexts)
    report["completions"] = {}
    for context in scope.contexts:
        runs, forward_ms = completions(engine, ours, rivals, scope, context, advance)
        report["completions"][str(context)] = {
            kind: compared([run[kind] for run in runs], usual.value) for kind in ("cold", "warm")
        }
        if context == first:
            alone, widths = [run["cold"] for run in runs], forward_ms
    lines = keystrokes(scope.places, scope.window, scope.seed, usual)
    counts = [typed(engine, requests, advance) for requests in lines]
    report["typing"] = {kind: spread([count[kind] for count in counts]) for kind in counts[0]}
    scenes = renamings(engine.tokenizer, scope.rewrites, REWRITE_CONTEXT, scope.seed, scope.rewrite)
    report["rewrite"] = rewritten(engine, usual, rivals, scenes, advance)
    various = places(engine.tokenizer, scope.clients, first, scope.seed) if together else []
    report["together"] = {}
    for mode in together:
        report["together"][mode.value] = clients(engine, various, mode, scope.tokens)
        advance()
    limits.append(machine())
    advance()
    report["ceilings"] = {kind: max(some[kind] for some in limits) for kind in limits[0]}
    report |= single_forwards(engine, report["ceilings"], alone, widths, usual.value)
    report["load_after"] = _load()
    report["ratios"] = ratios(report, usual.value)
    return report | {"targets": targets(report)}


def completions(
    engine: Engine,
    ours: Mapping[str, Ours],
    rivals: Mapping[str, Writer],
    scope: Scope,
    context: int,
    progress: Callable[[], None],
) -> tuple[list[dict[str, dict[str, TimedRun]]], dict[int, list[float]]]:
    """(what `complete` returns for each place, milliseconds of forwards there by their width)."""
    runs: list[dict[str, dict[str, TimedRun]]] = []
    widths: dict[int, list[float]] = {width: [] for width in ceilings.WIDTHS}
    for place in places(engine.tokenizer, scope.places, context, scope.seed):
        runs.append(complete(engine, ours, rivals, place, scope.tokens, progress))
        for width, ms in ceilings.forward_ms(engine, place.prompt, _FORWARD_REPEATS).items():
            widths[width] += ms
    return runs, widths


def complete(
    engine: Engine,
    ours: Mapping[str, Ours],
    rivals: Mapping[str, Writer],
    place: Place,
    tokens: int,
    progress: Callable[[], None] = no_op,
) -> dict[str, dict[str, TimedRun]]:
    """Cold, and after five characters; by kind and by who writes, in turn.

    What is typed stands at the end of the prefix for others, as their clients send it, and behind
    `<middle>` for us, as our engine sends it.
    """
    runs: dict[str, dict[str, TimedRun]] = {"cold": {}, "warm": {}}
    for name, mine in ours.items():
        runs["cold"][name] = mine(place.prompt, tokens, cold=True)
        runs["warm"][name] = mine(place.behind, tokens, cold=False, heal=place.heal)
        progress()
    typed_before = place.before(engine.tokenizer.special)
    for name, rival in rivals.items():
        runs["cold"][name] = rival(place.prompt, tokens, cold=True)
        rival(place.prompt, 1, cold=False)  # as good as free where the cold run is still cached
        runs["warm"][name] = rival(typed_before, tokens, cold=False)
        progress()
    return runs


def typed(
    engine: Engine, requests: Sequence[InfillRequest], progress: Callable[[], None] = no_op
) -> dict[str, int]:
    """Tokens of context, and those of them that are encoded again after five characters.

    `at_once`: when the next request comes after all five; `one_by_one`: with one after each, all
    five requests together. All go the way of a real request.
    """

    def encoded(request: InfillRequest) -> tuple[int, int]:
        *_, end = engine.infill(request)
        assert isinstance(end, Finished)
        return end.context_tokens, end.context_tokens - end.cached_tokens

    engine.forget()
    window, _ = encoded(requests[0])
    _, at_once = encoded(requests[-1])
    encoded(requests[0])  # back to the start
    one_by_one = sum(encoded(request)[1] for request in requests[1:])
    progress()
    return {"window": window, "at_once": at_once, "one_by_one": one_by_one}


def rewritten(
    engine: Engine,
    mode: Mode,
    rivals: Mapping[str, Writer],
    scenes: Sequence[Renaming],
    progress: Callable[[], None] = no_op,
) -> dict[str, Any]:
    """A function in which three tokens change: ours dictated and free, others as many tokens.

    Dictated, the engine writes the right answer whatever the model would say; what it drafts, and
    so its forwards and its time, are its own. `free` is what it writes by itself, to the end of the
    answer. Others write as many tokens of what they will, behind the same prompt, encoded before.
    """
    runs: list[dict[str, TimedRun]] = []
    free: list[Finished] = []
    right = 0
    ours, decoding = Ours(engine, mode), DecodingConfig(mode=mode)
    for scene in scenes:
        of_scene = {"ours": ours.rewrite(scene)}
        *_, end = engine.rewrite(replace(scene.request, decoding=decoding))
        assert isinstance(end, Finished)
        span, document = scene.request.span, scene.request.document
        right += document[: span.start] + end.text + document[span.end :] == scene.expected
        free.append(end)
        progress()
        for name, rival in rivals.items():
            rival(scene.prompt.tokens, 1, cold=False)
            of_scene[name] = rival(scene.prompt.tokens, len(scene.answer), cold=False)
            progress()
        runs.append(of_scene)
    return {
        "tokens": spread([len(scene.answer) for scene in scenes]),
        "forwards": {name: spread([run[name].forwards for run in runs]) for name in runs[0]},
        "seconds": {name: spread([run[name].seconds for run in runs]) for name in runs[0]},
        "ratio": spread([run["ours"].seconds / run[BASE].seconds for run in runs]),
        "free": {
            "tokens": spread([end.tokens for end in free]),
            "forwards": spread([end.forwards for end in free]),
            "right": right,
            "of": len(scenes),
        },
    }


def clients(engine: Engine, found: Sequence[Place], mode: Mode, tokens: int) -> dict[str, Any]:
    """Throughput of as many clients as places, who write at once, over that of one alone.

    Each has a context of its own, which is encoded before; the same texts are written one after
    another and together, in turn. `same`: how many of them are equal, token for token.
    """
    decoding = resolved(DecodingConfig(mode=mode, max_tokens=tokens), engine.drafting)
    written: dict[int, tuple[int, ...]] = {}

    def write(number: int) -> Steps:
        prompt = found[number].prompt
        with engine.behind(prompt, decoding) as sampler:
            sampler.stop = frozenset()
            yield from sampler.prefilling(prompt)
            with sampler.writing(prompt) as generation:
                while (forward := generation.next_forward()) is not None:
                    if (draft := generation.take((yield forward))) is not None:
                        written[number] = draft.tokens

    def seconds(numbers: Iterable[int]) -> float:
        batch: Batch[int] = Batch(engine.forward)
        for number in numbers:
            batch.add(number, write(number))
        began = time.perf_counter()
        while len(batch):
            for _, what in batch.step():
                if isinstance(what, Exception):
                    raise what
        return time.perf_counter() - began

    everybody = range(len(found))
    seconds(everybody)  # encodes the contexts
    gains, same = [], 0
    for _ in range(_CLIENT_REPEATS):
        alone = sum(seconds([number]) for number in everybody)
        before = dict(written)
        gains.append(alone / seconds(everybody))
        same = sum(before[number] == written[number] for number in everybody)
    return {"clients": len(found), "throughput": spread(gains), "same": same}


def _load() -> float:
    """How many processes want a core, lately; 0.0 where the system does not say."""
    return round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else 0.0
