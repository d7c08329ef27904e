"""Where the time of a request goes.

The engine's requests yield the forwards they wait for, so that what lies between two of them can be
timed from outside, without a profiler that slows one part more than another.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from blockdiff.bench.scenes import lines_of_code
from blockdiff.config import DecodingConfig
from blockdiff.engine.batch import events_of
from blockdiff.engine.contexts import never
from blockdiff.engine.engine import Engine
from blockdiff.model.forward import Forward
from blockdiff.types import Hole, InfillRequest

PARTS = {
    "layout": "the document as tokens, and what lies between two chunks of them",
    "context": "forwards that encode them",
    "writing": "forwards that draft and verify",
    "drafts": "between these: choosing tokens, drafting on, and the text of every refinement",
    "end": "behind the last one: fitting the text to the document, and checking the syntax",
}


def requests(count: int, context: int, decoding: DecodingConfig, seed: int) -> list[InfillRequest]:
    """Lines of the standard library to be filled in, with `context` tokens around them."""
    made = []
    for name, lines, at in itertools.islice(lines_of_code(seed), count):
        start = sum(map(len, lines[:at]))
        hole = Hole(start, start + len(lines[at].rstrip("\n")))
        made.append(
            InfillRequest(
                "".join(lines), hole, f"{name}.py", decoding=decoding, context_tokens=context
            )
        )
    return made


def profile(engine: Engine, wanted: Sequence[InfillRequest]) -> dict[str, Any]:
    """Milliseconds and shares of `PARTS`, over all requests, each on an empty cache.

    The first request is run once before, so that nothing is timed that happens once a process.
    """
    _profile(engine, wanted[0])
    total = dict.fromkeys(PARTS, 0.0)
    for request in wanted:
        engine.forget()
        for part, seconds in _profile(engine, request).items():
            total[part] += seconds
    everything = sum(total.values())
    forwards = total["context"] + total["writing"]
    return {
        "model": engine.name,
        "device": engine.device,
        "dtype": engine.dtype,
        "requests": len(wanted),
        "parts": {
            part: {"ms": round(1e3 * s / len(wanted), 2), "share": round(s / everything, 4)}
            for part, s in total.items()
        },
        "outside": round(1 - forwards / everything, 4),
    }


def _profile(engine: Engine, request: InfillRequest) -> dict[str, float]:
    spent = dict.fromkeys(PARTS, 0.0)
    last, before = time.perf_counter(), "layout"

    def add(part: str) -> None:
        nonlocal last
        now = time.perf_counter()
        spent[part] += now - last
        last = now

    def runner(waiting: Sequence[Forward]) -> list[Tensor]:
        nonlocal before
        add(before)
        answers = engine.forward(waiting)
        wanted = waiting[0].wanted
        add("writing" if wanted == 0 else "context")
        before = "layout" if wanted is None else "drafts"
        return answers

    for _ in events_of(engine.steps(request, never), runner):
        pass
    add("end")
    return spent
