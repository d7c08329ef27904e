"""An infill, or a rewrite by instruction, from the prompt to the text that fits."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from blockdiff.config import DecodingConfig, Layout, Mode, Rule
from blockdiff.diffusion.canvas import Canvas
from blockdiff.diffusion.sampler import Sampler, Snapshot, next_snapshot
from blockdiff.engine import native_diffusion, remasking, rewriting
from blockdiff.engine.batch import Steps
from blockdiff.engine.draft_text import refinement
from blockdiff.errors import AnswerIsProse
from blockdiff.grammars import language_of
from blockdiff.infill.layout import Prompt, build_prompt, framed
from blockdiff.infill.rewrite import (
    is_prose,
    without_lead,
    without_lines_above,
    without_lines_below,
)
from blockdiff.infill.seams import Seams
from blockdiff.infill.syntax import check, check_rewrite, error_spans
from blockdiff.infill.whitespace import to_lf
from blockdiff.model.checkpoint import DraftingConfig
from blockdiff.types import Finished, FinishReason, InfillRequest, Refinement, SyntaxState

if TYPE_CHECKING:
    from blockdiff.engine.engine import Engine

DRAFT_ROOM = 64
"""Positions of the cache for what a forward tries out behind the text."""

_MAX_TOKENS = 256  # of a hole whose request leaves it open


class Infilling:
    """One request from prompt to final text; with an `instruction` the hole is rewritten by it."""

    def __init__(
        self,
        engine: Engine,
        request: InfillRequest,
        cancelled: Callable[[], bool],
        instruction: str = "",
        prompt: Prompt | None = None,
        draft: str = "",
    ) -> None:
        """With a `prompt` that one is used; `draft` is what `verify` drafts from."""
        self._point = engine._checkpoint
        request = native_diffusion.adapted(request, self._point.kind, bool(instruction))
        self._engine, self._request, self._cancelled = engine, request, cancelled
        first_line = request.document[:200].split("\n", 1)[0]
        self._language = language_of(request.path, request.language, first_line)
        hole = request.hole
        self._instructed = bool(instruction)
        self._draft = draft
        self._prompt = prompt or build_prompt(
            request,
            self._point.tokenizer,
            Layout.CHAT if instruction else self._point.drafting.layout,
            instruction=instruction,
        )
        if not instruction:
            self._prompt = framed(self._prompt, *self._point.frame)
        self._seams = Seams(
            request.prefix,
            request.suffix,
            self._language,
            replaced=request.document[hole.start : hole.end],
            fence=self._prompt.fence,
            indentation=request.indentation,
        )

    def steps(self) -> Steps:
        engine, prompt = self._engine, self._prompt
        began = time.monotonic()
        first_ms = 0.0
        decoding = resolved(self._request.decoding, self._point.drafting, self._most_tokens())
        snapshot = Snapshot((), (), (), 0, False)
        stopped, number = False, 0
        with engine._context(prompt, decoding, self._cancelled) as sampler:
            cached = sampler.cache.length
            # Apart from the sampler's own steps, which take back what a cancelled request has
            # encoded: context is exact whoever asked for it, and a completion that every keystroke
            # replaces would never get to the end of a long one.
            yield from sampler.encoding(prompt.tokens)
            if isinstance(sampler, Sampler):
                sampler.original = self._original()
            with closing(sampler.steps(prompt.tokens)) as drafts:
                for number in itertools.count():
                    draft = yield from next_snapshot(drafts)
                    if draft is None:
                        break
                    snapshot = draft
                    elapsed = 1e3 * (time.monotonic() - began)
                    first_ms = first_ms or elapsed
                    yield self._refinement(number, snapshot, elapsed)
                    if prompt.after:
                        continue  # such a hole ends where its text does
                    stopped = self._seams.cut(self._text(snapshot.settled_prefix), final=False)[1]
                    if stopped:
                        break
            ended = stopped or snapshot.ended
            reason = FinishReason.EOM if ended else FinishReason.LENGTH
            if (decoding.mode, decoding.rule) == (Mode.DIFFUSION, Rule.SYNTAX):
                assert isinstance(sampler, Sampler)  # others refuse the rule
                masked = partial(self._remasked, reason)
                again = remasking.rounds(sampler, prompt.tokens, snapshot, masked)
                with closing(again):
                    while (draft := (yield from next_snapshot(again))) is not None:
                        snapshot, number = draft, number + 1
                        yield self._refinement(number, snapshot, 1e3 * (time.monotonic() - began))
        text = self._seams.finish(self._text(snapshot.settled_prefix), reason)
        if self._instructed:
            prefix, hole = self._request.prefix, self._request.hole
            text = without_lead(text, prefix.rpartition("\n")[2])
            replaced = self._request.document[hole.start : hole.end]
            text = without_lines_above(text, prefix, replaced)
            text = without_lines_below(text, self._request.suffix, replaced)
        syntax = self._check_syntax(text)
        if self._instructed and syntax is SyntaxState.BROKEN and is_prose(text):
            raise AnswerIsProse(
                "the model answered with talk instead of code",
                "say it in other words, or select whole lines",
            )
        yield Finished(
            request_id=self._request.request_id,
            hole=0,
            text=text,
            tokens=len(snapshot.settled_prefix),
            forwards=sampler.forwards,
            finish=reason,
            syntax=syntax,
            mode=decoding.mode.value,
            model=engine.name,
            elapsed_ms=1e3 * (time.monotonic() - began),
            first_ms=first_ms,
            context_tokens=len(prompt.tokens),
            cached_tokens=cached,
        )

    def _remasked(self, reason: FinishReason, draft: Snapshot) -> Canvas | None:
        """The draft with masks for what does not parse where it stands."""
        text = self._seams.cut(self._text(draft.settled_prefix), True, reason)[0]
        request, start = self._request, self._request.hole.start
        document = request.prefix + text + request.suffix
        errors = error_spans(document, start, start + len(text), self._language)
        skip = len(self._prompt.heal)
        spans = [(first - start + skip, last - start + skip) for first, last in errors]
        return remasking.remasked(draft, self._point.tokenizer, skip + len(text), spans)

    def _text(self, tokens: Sequence[int]) -> str:
        """What tokens say behind the healed part of the prefix."""
        return self._point.tokenizer.decode(tokens)[len(self._prompt.heal) :]

    def _refinement(self, number: int, snapshot: Snapshot, elapsed: float) -> Refinement:
        return refinement(
            snapshot,
            self._point.tokenizer,
            request_id=self._request.request_id,
            number=number,
            elapsed_ms=elapsed,
            skip=len(self._prompt.heal),
        )

    def _most_tokens(self) -> int:
        """What a request needs that leaves it open."""
        if not self._instructed:
            return _MAX_TOKENS
        room = self._point.model.config.max_positions - len(self._prompt.tokens) - DRAFT_ROOM
        return rewriting.most_tokens(len(self._replaced()), room)

    def _original(self) -> list[int]:
        """What the text is likely to follow, if anything."""
        if self._draft:
            return list(self._point.tokenizer.encode(to_lf(self._prompt.heal + self._draft)))
        return self._replaced(behind=self._prompt.heal) if self._instructed else []

    def _replaced(self, behind: str = "") -> list[int]:
        """Tokens of what stands in the hole, as they are `behind` a text that is written anew."""
        hole, document = self._request.hole, self._request.document
        return list(self._point.tokenizer.encode(behind + document[hole.start : hole.end]))

    def _check_syntax(self, text: str) -> SyntaxState:
        request = self._request
        filled = request.prefix + text + request.suffix
        start = request.hole.start
        if self._instructed:
            end = start + len(text)
            return check_rewrite(request.document, filled, start, end, self._language)
        return check(filled, start, start + len(text), self._language)


def resolved(
    decoding: DecodingConfig, drafting: DraftingConfig, max_tokens: int = _MAX_TOKENS
) -> DecodingConfig:
    """Fill in what a request leaves to the checkpoint, and `max_tokens` where it is open."""
    decoding = replace(decoding, max_tokens=decoding.max_tokens or max_tokens)
    if decoding.block_size:
        return decoding
    verify = decoding.mode is Mode.VERIFY
    return replace(decoding, block_size=drafting.draft_length if verify else drafting.block_size)
