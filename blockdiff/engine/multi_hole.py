"""Several holes of one document, written together: one request, one batch, one shared context."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

from blockdiff.engine import published
from blockdiff.engine.batch import Steps
from blockdiff.engine.contexts import Contexts
from blockdiff.engine.infilling import Infilling
from blockdiff.infill.joint import build_prompts
from blockdiff.infill.layout import Prompt
from blockdiff.types import Filled, Finished, InfillRequest


class MultiHole:
    """A request with several holes: each is written by an `Infilling` of its own, the others blank.

    What stands before a hole and all holes above it is prefilled once: in the order of the text
    each begins with a copy of what the one above has prefilled. They then share their forwards.

    With `revise`, each hole that is shown the place of another is then written once more, with the
    others' texts in place and its own as the first draft.
    """

    def __init__(
        self, contexts: Contexts, request: InfillRequest, cancelled: Callable[[], bool]
    ) -> None:
        kind = contexts.checkpoint.kind
        self._contexts, self._cancelled = contexts, cancelled
        self._request = published.adapted(request, kind, instructed=False)
        self._prompts = self._laid_out()
        self._numbers = itertools.count()
        self._ends: dict[int, Finished] = {}

    def steps(self) -> Steps:
        began = time.monotonic()
        yield from self._round(self._prompts, range(len(self._prompts)))
        if self._request.revise:
            texts = self._texts()
            again = yield self._contexts.aside(partial(self._laid_out, texts))
            near = [i for i, prompt in enumerate(again) if prompt != self._prompts[i]]
            yield from self._round(again, near, texts)
        return Filled(
            request_id=self._request.request_id,
            holes=tuple(self._ends[hole] for hole in range(len(self._ends))),
            elapsed_ms=1e3 * (time.monotonic() - began),
        )

    def _round(
        self, prompts: Sequence[Prompt], holes: Sequence[int], texts: Sequence[str] = ()
    ) -> Steps:
        """Write these holes, the others holding `texts`."""
        order = sorted(holes, key=lambda hole: self._request.holes[hole].start)
        writers = []
        for hole in order:
            request, draft = self._request.only(hole, texts), texts[hole] if texts else ""
            writer = Infilling(
                self._contexts, request, self._cancelled, prompt=prompts[hole], draft=draft
            )
            writer.drafts.hole, writer.drafts.numbers = hole, self._numbers
            writer.drafts.spent = self._ends[hole].forwards if hole in self._ends else 0
            writers.append(writer)
        ends = yield [writer.steps() for writer in writers]
        for hole, end in zip(order, ends, strict=True):
            self._ends[hole] = _both(self._ends.get(hole), replace(end, hole=hole))

    def _laid_out(self, texts: Sequence[str] = ()) -> list[Prompt]:
        point = self._contexts.checkpoint
        return build_prompts(self._request, point.tokenizer, point.drafting.layout, texts)

    def _texts(self) -> list[str]:
        return [self._ends[hole].text for hole in range(len(self._ends))]


def _both(first: Finished | None, second: Finished) -> Finished:
    """The second, with what both have cost."""
    if first is None:
        return second
    return replace(
        second,
        forwards=first.forwards + second.forwards,
        context_tokens=first.context_tokens + second.context_tokens,
        cached_tokens=first.cached_tokens + second.cached_tokens,
        elapsed_ms=first.elapsed_ms + second.elapsed_ms,
        first_ms=first.first_ms,
    )
