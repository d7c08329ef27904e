"""Rewriting without an instruction: a span is partly masked and denoised again.

The base scores the span's own tokens, given the text before and after it; the most surprising ones
are masked. What is left of the text is the start that denoising is given, and stays.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from blockdiff.config import MOST_TOKENS, Mode
from blockdiff.diffusion.canvas import Canvas, most_surprising
from blockdiff.diffusion.sampler import Sampler, Snapshot
from blockdiff.engine.batch import Steps
from blockdiff.engine.contexts import Contexts
from blockdiff.engine.draft_text import DraftText
from blockdiff.errors import InvalidRequest, ModelUnsupported
from blockdiff.infill.healing import breaking_tokens, tokens_starting
from blockdiff.infill.layout import Prompt, build_prompt
from blockdiff.infill.rewrite import SpanTokens, Unit, without_lead
from blockdiff.infill.seams import Seams
from blockdiff.syntax.check import check_rewrite
from blockdiff.syntax.grammars import language_of
from blockdiff.types import Finished, FinishReason, InfillRequest


def most_tokens(span: int, room: int) -> int:
    """Tokens that suffice for rewriting `span` ones by instruction, if there is `room` for them."""
    return max(1, min(math.ceil(1.5 * span) + 64, MOST_TOKENS, room))


class Renoise:
    """One rewriting request from the span's tokens to its new text.

    Below a `strength` of 1 the number of tokens stays, and so do line breaks and indentation. At 1
    it is an infill of the span whose length is limited to that of the span.
    """

    def __init__(
        self,
        contexts: Contexts,
        request: InfillRequest,
        strength: float,
        cancelled: Callable[[], bool],
    ) -> None:
        """Raises ModelUnsupported without an adapter, InvalidRequest for too long a span."""
        self._contexts, self._request, self._cancelled = contexts, request, cancelled
        self._point = contexts.checkpoint
        if self._point.adapter is None:
            raise ModelUnsupported(
                "rewriting without an instruction needs a drafting adapter, this model has none",
                "give an instruction, or use a model of `blockdiff models list`",
            )
        self._strength, self._all = strength, strength == 1.0
        first_line = request.document[:200].split("\n", 1)[0]
        self._language = language_of(request.path, request.language, first_line)
        self._original = request.document[request.hole.start : request.hole.end]
        self._prompt, self._span = self._laid_out()
        self.drafts = DraftText(
            self._point.tokenizer, request.request_id, skip=len(self._span.rest)
        )
        limit = request.decoding.max_tokens
        if 0 < limit < len(self._span.tokens):
            raise InvalidRequest(
                f"the span has {len(self._span.tokens)} tokens, max_tokens is {limit}",
                "select less, or allow more tokens",
            )

    def _laid_out(self) -> tuple[Prompt, SpanTokens]:
        """The prompt up to the span, and the span's tokens as they follow it."""
        request, tokenizer = self._request, self._point.tokenizer
        indentation = request.prefix.rpartition("\n")[2]
        for heal in (True, False):
            layout = self._point.drafting.layout
            prompt = build_prompt(request, tokenizer, layout, heal=heal)
            span = SpanTokens.of(self._original, prompt.heal, indentation, tokenizer)
            if span is not None:
                tokens = (*prompt.tokens, *span.context)
                return replace(prompt, tokens=tokens, heal=""), span
        raise InvalidRequest("the span holds characters that are no valid Unicode")

    def steps(self) -> Steps:
        contexts, prompt, span = self._contexts, self._prompt, self._span
        began = time.monotonic()
        if self._strength == 0.0:
            return (yield from self._finished(self._original, 0, 0, FinishReason.EOM, began))
        first_ms = 0.0
        tokenizer = self._point.tokenizer
        decoding = replace(
            self._request.decoding,
            mode=Mode.DIFFUSION,
            max_tokens=len(span.tokens),
            block_size=self._request.decoding.block_size or self._point.drafting.block_size,
        )
        banned = [] if self._all else [*tokenizer.special.stop, *breaking_tokens(tokenizer)]
        snapshot = Snapshot((), (), (), 0, False)
        with contexts.context(prompt, decoding, self._cancelled, banned) as sampler:
            assert isinstance(sampler, Sampler)  # there is an adapter
            cached = sampler.cache.length
            yield from sampler.encoding(prompt.tokens)
            canvas = yield from self._canvas(sampler)
            with sampler.writing(prompt.tokens, canvas) as generation:
                while (forward := generation.next_forward()) is not None:
                    if (draft := generation.take((yield forward))) is None:
                        continue
                    snapshot = draft
                    elapsed = 1e3 * (time.monotonic() - began)
                    first_ms = first_ms or elapsed
                    yield self.drafts.refinement(snapshot, elapsed)
        reason = FinishReason.LENGTH if self._all and not snapshot.ended else FinishReason.EOM
        finished = yield from self._finished(
            self._text(snapshot.tokens, reason),
            len(snapshot.tokens) if self._all else sum(canvas.masked),
            sampler.forwards,
            reason,
            began,
        )
        return replace(
            finished,
            first_ms=first_ms,
            context_tokens=len(prompt.tokens),
            cached_tokens=cached,
        )

    def _canvas(self, sampler: Sampler) -> Generator[Any, Any, Canvas]:
        """The span with its most surprising tokens masked, line breaks and indentation spared."""
        span, size = self._span, len(self._span.tokens)
        nats = yield from sampler.surprising(self._prompt.tokens, span.tokens)
        if self._all:
            chosen = [(0, size)]
        else:
            units = [unit.tokens for unit in span.units if not unit.structure]
            chosen = most_surprising(nats, units, self._strength)
        masked = [any(start <= i < end for start, end in chosen) for i in range(size)]
        return Canvas(
            span.tokens,
            tuple(masked),
            tuple(math.exp(-surprise) for surprise in nats),
            {
                unit.tokens[0]: ids
                for unit in span.units
                if masked[unit.tokens[0]] and (ids := self._allowed(unit)) is not None
            },
        )

    def _allowed(self, unit: Unit) -> Tensor | None:
        """Ids that may take the place of a unit's first token; None for all."""
        keeps_indentation = unit.opens_line and not self._all
        lead = unit.lead if keeps_indentation or unit.tokens[0] == 0 else ""
        if not (lead or keeps_indentation):
            return None
        blank_next = not keeps_indentation
        ids = tokens_starting(self._point.tokenizer, lead.encode(), blank_next=blank_next)
        return torch.tensor(ids, device=self._point.model.device)

    def _text(self, tokens: Sequence[int], reason: FinishReason) -> str:
        """The new text; what was not masked is what stands in the document."""
        span, tokenizer, request = self._span, self._point.tokenizer, self._request
        if not self._all:
            return span.rewritten(tokens, tokenizer)
        seams = Seams(
            request.prefix,
            request.suffix,
            self._language,
            replaced=self._original,
            indentation=request.indentation,
        )
        text = seams.finish(tokenizer.decode(tokens)[len(span.rest) :], reason)
        return without_lead(text, request.prefix.rpartition("\n")[2])

    def _finished(
        self, text: str, tokens: int, forwards: int, finish: FinishReason, began: float
    ) -> Generator[Any, Any, Finished]:
        request, start = self._request, self._request.hole.start
        document, end = request.prefix + text + request.suffix, start + len(text)
        check = partial(
            check_rewrite, request.document, document, start, end, self._language
        )
        syntax = yield self._contexts.aside(check)
        return Finished(
            request_id=request.request_id,
            hole=0,
            text=text,
            tokens=tokens,
            forwards=forwards,
            finish=finish,
            syntax=syntax,
            mode=Mode.DIFFUSION.value,
            model=self._point.name,
            elapsed_ms=1e3 * (time.monotonic() - began),
            first_ms=0.0,
            context_tokens=0,
        )
