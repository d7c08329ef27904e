"""An infill, or a rewrite by instruction, from the prompt to the text that fits."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial

import torch

from blockdiff.config import Layout, Mode, Rule
from blockdiff.diffusion.forwards import NOTHING, Generation, Snapshot
from blockdiff.diffusion.sampler import Sampler
from blockdiff.engine import published, remasking, renoise
from blockdiff.engine.batch import Steps
from blockdiff.engine.contexts import MAX_TOKENS, Contexts, resolved
from blockdiff.engine.draft_text import DraftText
from blockdiff.engine.remasking import Draft, Writing
from blockdiff.infill.layout import Lent, Prompt, build_prompt, framed
from blockdiff.infill.prose import verdict
from blockdiff.infill.rewrite import without_surroundings
from blockdiff.infill.seams import Seams
from blockdiff.model.cache import BlockCache
from blockdiff.model.rotary import shifted
from blockdiff.syntax.check import Faults, faults
from blockdiff.syntax.whitespace import to_lf
from blockdiff.types import Drafted, Finished, FinishReason, InfillRequest, Unread


class Infilling:
    """One request from prompt to final text; with an `instruction` the hole is rewritten by it."""

    def __init__(
        self,
        contexts: Contexts,
        request: InfillRequest,
        cancelled: Callable[[], bool],
        instruction: str = "",
        prompt: Prompt | None = None,
        draft: str = "",
        source: BlockCache | None = None,
    ) -> None:
        """With a `prompt` that one is used; `draft` is what `verify` drafts from, `source` holds
        what the prompt is lent.

        The request names its language as `language_of` does.
        """
        self._point = contexts.checkpoint
        request = published.adapted(request, self._point.kind, bool(instruction))
        self._contexts, self._request, self._cancelled = contexts, request, cancelled
        self._began = self._first_ms = 0.0
        hole = request.hole
        self._instructed = bool(instruction)
        self._draft, self._source = draft, source
        self._prompt = prompt or build_prompt(
            request,
            self._point.tokenizer,
            Layout.CHAT if instruction else self._point.drafting.layout,
            instruction=instruction,
        )
        if not instruction:
            self._prompt = framed(self._prompt, *self._point.frame)
        self.drafts = DraftText(
            self._point.tokenizer, request.request_id, skip=len(self._prompt.heal)
        )
        self._seams = Seams(
            request.prefix,
            request.suffix,
            request.language,
            replaced=request.document[hole.start : hole.end],
            fence=self._prompt.fence,
            indentation=request.indentation,
            extent=request.extent,
        )

    def steps(self) -> Steps:
        contexts, prompt = self._contexts, self._prompt
        self._began = time.monotonic()
        decoding = resolved(self._request.decoding, self._point.drafting, self._most_tokens())
        path = self._request.path
        with contexts.context(prompt, decoding, self._cancelled, path=path) as sampler:
            cached = sampler.cache.length
            if (lent := prompt.lent) is not None and self._source is not None:
                yield from sampler.prefilling(prompt.tokens[: lent.start + 1])
                self._borrow(sampler.cache, lent, self._source)
                cached += lent.count
            if isinstance(sampler, Sampler):
                sampler.original = self._original()
                yield from sampler.prefilling(prompt.tokens, sampler.most_left())
            else:
                yield from sampler.prefilling(prompt.tokens)
            with sampler.writing(prompt.tokens) as generation:
                draft = yield from self._written(generation)
            if isinstance(sampler, Sampler) and self._may_be_mended(sampler, draft):
                first, again = draft, self._attempts(sampler)
                draft = yield from remasking.mended(first, self._faults_aside, again)
                if sampler.forwards > first.snapshot.forwards:
                    yield self._refinement(replace(draft.snapshot, forwards=sampler.forwards))
        snapshot, reason = draft.snapshot, draft.reason
        raw = self._text(snapshot.settled_prefix)
        text = yield self._contexts.aside(partial(self._finished, raw, reason))
        if reason is FinishReason.LENGTH and self._seams.has_ended(raw):
            reason = FinishReason.EOM  # what was cut off is behind its end
        if self._instructed:
            text = without_surroundings(text, self._request)
        parses = partial(verdict, self._request, text, self._instructed)
        syntax = yield self._contexts.aside(parses)
        return Finished(
            request_id=self._request.request_id,
            hole=0,
            text=text,
            tokens=len(snapshot.settled_prefix),
            forwards=sampler.forwards,
            finish=reason,
            syntax=syntax,
            mode=decoding.mode.value,
            model=self._point.name,
            elapsed_ms=1e3 * (time.monotonic() - self._began),
            first_ms=self._first_ms,
            context_tokens=len(prompt.tokens),
            cached_tokens=cached,
            drafted=Drafted(**sampler.drafted) if isinstance(sampler, Sampler) else Drafted(),
        )

    @torch.inference_mode()
    def _borrow(self, cache: BlockCache, lent: Lent, source: BlockCache) -> None:
        """Commit what the prompt is lent, at its positions there."""
        part = source.committed_all()[..., lent.at :, :]
        cache.append_all(shifted(self._point.model.config, part, lent.start - lent.at))
        cache.commit(lent.count)

    def _written(self, generation: Generation, start: Snapshot = NOTHING) -> Writing[Draft]:
        """Show drafts behind the tokens of `start` until the hole's text ends."""
        snapshot, stopped = start, False
        while not stopped and (forward := generation.next_forward()) is not None:
            if (draft := generation.take((yield forward))) is None:
                continue
            snapshot, keep = draft.behind(start), ""
            if not self._prompt.after:  # else the hole ends where its text does
                raw = self._text(snapshot.settled_prefix)
                keep, stopped = self._seams.cut(raw, final=False)
            yield self._refinement(snapshot, len(keep) if stopped else None)
        ended = stopped or snapshot.ended
        return Draft(snapshot, FinishReason.EOM if ended else FinishReason.LENGTH)

    # --- what does not parse -------------------------------------------------------------------

    def _may_be_mended(self, sampler: Sampler, draft: Draft) -> bool:
        """Whether what does not parse is written again: the rule `syntax` says so, and `trust` does
        where the base alone would have written something else, which counts where that parses.
        What was cut off by its limit seldom does, whoever writes it."""
        config = sampler.config
        if config.mode is not Mode.DIFFUSION or sampler.departed is None:
            return False
        whole = draft.reason is FinishReason.EOM
        return config.rule is Rule.SYNTAX or config.rule is Rule.TRUST and whole

    def _attempts(self, sampler: Sampler) -> Iterator[remasking.Remask]:
        """Ways to write what does not parse again, the second further from the draft."""
        tried: set[int] = set()
        departed = sampler.departed or 0
        for keep in (True, False):
            yield partial(self._from_left, sampler, tried, departed, keep)

    def _from_left(
        self,
        sampler: Sampler,
        tried: set[int],
        departed: int,
        keep: bool,
        draft: Draft,
        faults: Faults,
    ) -> Writing[Draft | None]:
        """From left to right, behind the lines without errors at the start if these are to `keep`,
        and behind what the base would have written anyway.

        None where that has been `tried` from the same token on.
        """
        prompt, text = self._prompt.tokens, self._prompt.heal + self._kept(draft)
        offset = remasking.first_line(text, faults.spans) if keep else 0
        count = remasking.before(draft.snapshot, self._point.tokenizer, offset)
        count = max(count, departed)
        last = sampler.cache.most_positions - len(prompt)  # of the model's context
        room = min(sampler.config.max_tokens, last + 1) - count
        if count in tried or room < 1:
            return None
        tried.add(count)
        masks = self._point.drafting.draft_length
        config = replace(sampler.config, mode=Mode.VERIFY, block_size=masks, max_tokens=room)
        exact = replace(sampler, config=config)
        if count:  # of the text's start there is nothing left to write
            exact.constraint = None
        exact.original = draft.snapshot.settled_prefix[count:]
        start = draft.snapshot.first(count)
        tokens = [*prompt, *start.tokens]
        try:
            yield from exact.prefilling(tokens, exact.most_left())
            with exact.writing(tokens) as generation:
                return (yield from self._written(generation, start))
        finally:
            sampler.forwards = exact.forwards + (count > 0)  # one prefills what is kept
            sampler.cache.truncate(min(sampler.cache.length, len(prompt) - 1))

    def _faults_aside(self, draft: Draft) -> Writing[Faults]:
        """`_faults`, while other requests go on."""
        found: Faults = yield self._contexts.aside(partial(self._faults, draft))
        return found

    def _faults(self, draft: Draft) -> Faults:
        """What does not parse of a draft where it stands, by offsets of its text as generated."""
        raw = self._text(draft.snapshot.settled_prefix)
        found = self._faults_of(self._finished(raw, draft.reason))
        return replace(self._faults_of(self._kept(draft)), size=found.size)

    def _faults_of(self, text: str) -> Faults:
        request, start = self._request, self._request.hole.start
        document = request.prefix + text + request.suffix
        found = faults(document, start, start + len(text), self._request.language)
        skip = len(self._prompt.heal) - start
        return Faults(found.size, tuple((a + skip, b + skip) for a, b in found.spans))

    def _kept(self, draft: Draft) -> str:
        """What is kept of a draft's text, as it was generated."""
        text = self._text(draft.snapshot.settled_prefix)
        return self._seams.cut(text, True, draft.reason)[0]

    def _finished(self, raw: str, reason: FinishReason) -> str:
        """The text for the document. One that was stopped breaks off anywhere behind its end."""
        if not self._prompt.after and self._seams.cut(raw, final=False)[1]:
            reason = FinishReason.LENGTH
        return self._seams.finish(raw, reason)

    # --- text ----------------------------------------------------------------------------------

    def _text(self, tokens: Sequence[int]) -> str:
        """What tokens say behind the healed part of the prefix."""
        return self._point.tokenizer.decode(tokens)[len(self._prompt.heal) :]

    def _refinement(self, snapshot: Snapshot, length: int | None = None) -> Unread:
        elapsed = 1e3 * (time.monotonic() - self._began)
        self._first_ms = self._first_ms or elapsed
        return self.drafts.refinement(snapshot, elapsed, length)

    def _most_tokens(self) -> int:
        """What a request needs that leaves it open."""
        if not self._instructed:
            return MAX_TOKENS
        room = self._point.model.config.max_positions - len(self._prompt.tokens) + 1
        return renoise.most_tokens(len(self._replaced()), room)

    def _original(self) -> list[int]:
        """What the text is likely to follow, if anything."""
        if self._draft:
            return list(self._point.tokenizer.encode(to_lf(self._prompt.heal + self._draft)))
        return self._replaced(behind=self._prompt.heal) if self._instructed else []

    def _replaced(self, behind: str = "") -> list[int]:
        """Tokens of what stands in the hole, as they are `behind` a text that is written anew."""
        hole, document = self._request.hole, self._request.document
        return list(self._point.tokenizer.encode(behind + document[hole.start : hole.end]))
