"""Several holes of one document, written together: one request, one batch, one shared context."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from blockdiff.engine import native_diffusion
from blockdiff.engine.batch import Steps, together
from blockdiff.engine.infilling import Infilling
from blockdiff.infill.joint import build_prompts
from blockdiff.types import Filled, Finished, InfillRequest, Refinement

if TYPE_CHECKING:
    from blockdiff.engine.engine import Engine


class Several:
    """A request with several holes: each is written by an `Infilling` of its own, the others blank.

    What stands before a hole and all holes above it is encoded once: in the order of the text each
    hole begins with a copy of what the one above has encoded. They then share their forwards.
    """

    def __init__(
        self, engine: Engine, request: InfillRequest, cancelled: Callable[[], bool]
    ) -> None:
        point = engine._checkpoint
        adapted = native_diffusion.adapted(request, point.kind, False)
        prompts = build_prompts(adapted, point.tokenizer, point.drafting.layout)
        self._request = request
        self._order = sorted(range(len(prompts)), key=lambda i: request.holes[i].start)
        self._writers = [
            Infilling(engine, request.only(i), cancelled, prompt=prompts[i]) for i in self._order
        ]

    def steps(self) -> Steps:
        began = time.monotonic()
        ends: dict[int, Finished] = {}
        numbers = itertools.count()

        def told(number: int, event: Refinement | Finished | Filled) -> Refinement | None:
            hole = self._order[number]
            if isinstance(event, Refinement):
                return replace(event, hole=hole, seq=next(numbers))
            assert isinstance(event, Finished)
            ends[hole] = replace(event, hole=hole)
            return None

        yield from together([writer.steps() for writer in self._writers], told)
        yield Filled(
            request_id=self._request.request_id,
            holes=tuple(ends[hole] for hole in range(len(ends))),
            elapsed_ms=1e3 * (time.monotonic() - began),
        )
