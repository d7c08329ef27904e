"""Several holes of one document, written together: one request, one batch, one shared context."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import replace
from functools import partial

from torch import Tensor

from blockdiff.config import Layout, Reuse
from blockdiff.engine import published
from blockdiff.engine.batch import Steps
from blockdiff.engine.contexts import Contexts, resolved
from blockdiff.engine.infilling import Infilling
from blockdiff.infill.joint import build_prompts
from blockdiff.infill.layout import Prompt
from blockdiff.model.cache import BlockCache
from blockdiff.model.forward import Forward
from blockdiff.types import Filled, Finished, InfillRequest


class MultiHole:
    """A request with several holes: each is written by an `Infilling` of its own, the others blank.

    What stands before a hole and all holes above it is prefilled once: in the order of the text
    each begins with a copy of what the one above has prefilled. They then share their forwards.

    With the cache `approximate-suffix` all of the text around the holes is prefilled once, with
    every hole empty, and lent to each: what stands behind its nearest lines is not prefilled in its
    place behind them (`infill/joint.py`).

    With `revise`, each hole that is shown the place of another is then written once more, with the
    others' texts in place and its own as the first draft.
    """

    def __init__(
        self, contexts: Contexts, request: InfillRequest, cancelled: Callable[[], bool]
    ) -> None:
        point = contexts.checkpoint
        self._contexts, self._cancelled = contexts, cancelled
        reuse = request.decoding.cache
        lends = reuse is Reuse.SUFFIX and point.drafting.layout is Layout.PSM
        self._lends = lends and point.drafter is None  # it would have nothing of what is lent
        if lends:  # that is all of it: each hole is written as with an exact cache
            request = replace(request, decoding=replace(request.decoding, cache=Reuse.EXACT))
        self._request = published.adapted(request, point.kind, instructed=False)
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
        sources: dict[tuple[int, ...], BlockCache] = {}
        new = dict.fromkeys(order, 0)  # tokens that were encoded to be lent, at the first to borrow
        for hole in order:
            if (lent := prompts[hole].lent) is not None and lent.source not in sources:
                sources[lent.source], new[hole] = yield from self._encoded(lent.source)
        writers = []
        for hole in order:
            request, draft = self._request.only(hole, texts), texts[hole] if texts else ""
            lent = prompts[hole].lent
            writer = Infilling(
                self._contexts, request, self._cancelled, prompt=prompts[hole], draft=draft,
                source=sources[lent.source] if lent is not None else None,
            )  # fmt: skip
            writer.drafts.hole, writer.drafts.numbers = hole, self._numbers
            writer.drafts.spent = self._ends[hole].forwards if hole in self._ends else 0
            writers.append(writer)
        ends = yield [writer.steps() for writer in writers]
        for hole, end in zip(order, ends, strict=True):
            cached = max(0, end.cached_tokens - new[hole])
            end = replace(end, hole=hole, cached_tokens=cached)
            self._ends[hole] = _both(self._ends.get(hole), end)

    def _encoded(
        self, tokens: tuple[int, ...]
    ) -> Generator[Forward, Tensor, tuple[BlockCache, int]]:
        """A copy of all keys and values of a sequence, and how many were not known."""
        point = self._contexts.checkpoint
        decoding = resolved(self._request.decoding, point.drafting)
        text = Prompt(tokens, "", len(tokens))
        with self._contexts.context(text, decoding, self._cancelled) as sampler:
            known = sampler.cache.length
            yield from sampler.prefilling((*tokens, tokens[-1]))  # all but the last one
            copy = sampler.cache.fork()
        return copy, len(tokens) - known

    def _laid_out(self, texts: Sequence[str] = ()) -> list[Prompt]:
        point = self._contexts.checkpoint
        layout = point.drafting.layout
        return build_prompts(self._request, point.tokenizer, layout, texts, lend=self._lends)

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
