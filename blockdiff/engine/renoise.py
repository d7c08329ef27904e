"""Rewriting without an instruction: what surprises the base is written anew, if that is likelier.

The base reads the span from left to right, given the text before and after it. Where a token lies
far behind what it expects, others take its place, it is left out, or one is put before it, and the
text that follows is scored behind each: what stands there stays unless the text as a whole becomes
likelier by a margin, and parses as it did. So nothing is changed that is merely unusual.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from typing import Any

from torch import Tensor

from blockdiff.config import MOST_TOKENS, Mode
from blockdiff.diffusion.branches import END, Scored, scored, weighed
from blockdiff.diffusion.forwards import Snapshot
from blockdiff.diffusion.sampler import Sampler
from blockdiff.engine.batch import Steps
from blockdiff.engine.contexts import Contexts
from blockdiff.engine.draft_text import DraftText
from blockdiff.errors import InvalidRequest, ModelUnsupported
from blockdiff.infill.layout import Prompt, build_prompt
from blockdiff.infill.rewrite import SpanTokens
from blockdiff.model.forward import Forward
from blockdiff.syntax.check import check_rewrite
from blockdiff.syntax.whitespace import line_ending
from blockdiff.types import Finished, FinishReason, InfillRequest, SyntaxState, Unread

# In nats, by measurement: see docs/LOG.md.
_SUSPICIOUS = 3.0  # behind the most likely token: other ways are tried
_MARGIN = 10.0  # by which the text has to become likelier
_MARGIN_BROKEN = 8.0  # the same in a text that does not parse, so that something is wrong
_OTHER_LENGTH = 5.0  # on top for a token more or less: a text with a token less is likelier anyway

_OTHERS = 4  # tokens that are tried in the place of one
_AHEAD = 24  # tokens behind it that judge them
_READ = 32  # tokens of a forward that reads; a CPU pays for what is read again after a change

_VERDICTS = (SyntaxState.OK, SyntaxState.SKIPPED, SyntaxState.BROKEN)  # the best first


def most_tokens(span: int, room: int) -> int:
    """Tokens that suffice for rewriting `span` ones by instruction, if there is `room` for them."""
    return max(1, min(math.ceil(1.5 * span) + 64, MOST_TOKENS, room))


@dataclass(frozen=True, slots=True)
class TokenGroup:
    """Tokens that change together, and their text in the document."""

    tokens: tuple[int, ...]
    text: str
    confidence: tuple[float, ...] = ()  # probability of each token; empty: not read yet


@dataclass(frozen=True, slots=True)
class _Way:
    """What may stand in the place of a piece, and by how many nats the text becomes likelier."""

    pieces: tuple[TokenGroup, ...]
    gain: float


class Renoise:
    """One rewriting request from the span's tokens to its new text.

    At most the share `strength` of the tokens changes; at 1 any may.
    """

    def __init__(
        self,
        contexts: Contexts,
        request: InfillRequest,
        strength: float,
        cancelled: Callable[[], bool],
    ) -> None:
        """The request names its language as `language_of` does.

        Raises InvalidRequest for too long a span.
        """
        self._contexts, self._request, self._cancelled = contexts, request, cancelled
        self._point = contexts.checkpoint
        original = request.document[request.hole.start : request.hole.end]
        self._prompt, span = self._laid_out(original)
        self.drafts = DraftText(self._point.tokenizer, request.request_id, skip=len(span.rest))
        limit = request.decoding.max_tokens
        if 0 < limit < len(span.tokens):
            raise InvalidRequest(
                f"the span has {len(span.tokens)} tokens, max_tokens is {limit}",
                "select less, or allow more tokens",
            )
        self._rest = span.rest
        self._pieces = [
            TokenGroup(span.tokens[slice(*unit.tokens)], original[slice(*unit.source)])
            for unit in span.units
        ]
        self._left = math.ceil(strength * len(span.tokens))  # tokens that may still change
        self._changes = 0  # each of one token: another one, one more or one less
        self._ending = line_ending(request.prefix + original, request.suffix)
        self._began, self._first_ms = 0.0, 0.0

    def _laid_out(self, original: str) -> tuple[Prompt, SpanTokens]:
        """The prompt up to the span, and the span's tokens as they follow it."""
        request, tokenizer = self._request, self._point.tokenizer
        for heal in (True, False):
            layout = self._point.drafting.layout
            prompt = build_prompt(request, tokenizer, layout, heal=heal)
            span = SpanTokens.of(original, prompt.heal, tokenizer)
            if span is not None:
                tokens = (*prompt.tokens, *span.context)
                return replace(prompt, tokens=tokens, heal=""), span
        raise InvalidRequest("the span holds characters that are no valid Unicode")

    def steps(self) -> Steps:
        prompt, cached, forwards = self._prompt, 0, 0
        self._began = time.monotonic()
        if self._left:
            size = sum(len(piece.tokens) for piece in self._pieces)
            # Nothing is drafted: any checkpoint that writes from left to right will do.
            decoding = replace(self._request.decoding, mode=Mode.AR, max_tokens=size)
            with self._contexts.context(prompt, decoding, self._cancelled) as sampler:
                if not isinstance(sampler, Sampler):
                    raise ModelUnsupported(
                        "rewriting without an instruction needs a model that writes from left to "
                        "right, which this one does not",
                        "give an instruction, or use a model of `blockdiff models list`",
                    )
                cached = sampler.cache.length
                yield from sampler.prefilling(prompt.tokens)
                home = sampler.cache.length
                try:
                    yield from self._mended(sampler)
                finally:
                    sampler.cache.truncate(home)
                forwards = sampler.forwards
        text = self._text(self._pieces)
        syntax = yield from self._verdict(text)
        return Finished(
            request_id=self._request.request_id,
            hole=0,
            text=text,
            tokens=self._changes,
            forwards=forwards,
            finish=FinishReason.EOM,
            syntax=syntax,
            mode=Mode.AR.value,
            model=self._point.name,
            elapsed_ms=1e3 * (time.monotonic() - self._began),
            first_ms=self._first_ms,
            context_tokens=len(prompt.tokens) if forwards else 0,
            cached_tokens=cached,
        )

    def _mended(self, sampler: Sampler) -> Steps:
        """Read the pieces in order, and change those that are likelier otherwise."""
        verdict = yield from self._verdict(self._text(self._pieces))
        at, skip, last = 0, 0, self._prompt.tokens[-1]
        known: list[Scored] = []  # of the tokens from `at` on
        room = 0  # tokens that the last forward has put into the cache's drafts
        while at < len(self._pieces) and self._left:
            sampler.check()
            if not room:
                known = yield from scored(sampler, last, self._next(at), 2 * _OTHERS)
                room = len(known)
                self._learn(at, known)
            index, count, suspect = self._walk(at, skip, known[:room])
            sampler.cache.commit(count)
            last = self._pieces[index - 1].tokens[-1] if count else last
            at, known, skip, room = index, known[count:], 0, 0
            yield self._refinement(sampler, at)
            if not suspect:
                continue
            skip, others = 1, self._ways(at, known[0])
            ahead = self._ahead(sampler, at, len(others))
            if not ahead:
                continue
            ways = yield from self._weighed(sampler, last, at, others, ahead)
            room = min(ahead, len(known))
            margin = _MARGIN_BROKEN if verdict is SyntaxState.BROKEN else _MARGIN
            for way in sorted(ways, key=lambda way: -way.gain):
                if way.gain < margin:
                    break
                pieces = [*self._pieces[:at], *way.pieces, *self._pieces[at + 1 :]]
                text = self._text(pieces)
                if text.strip() != text or not text:
                    continue  # the blanks around it are not its own
                after = yield from self._verdict(text)
                if _VERDICTS.index(after) > _VERDICTS.index(verdict):
                    continue
                self._left -= max(1, len(self._pieces[at].tokens))
                self._changes += 1
                self._pieces, verdict = pieces, after
                skip, room = len(way.pieces), 0
                break
        yield self._refinement(sampler, len(self._pieces))

    def _walk(self, at: int, skip: int, known: Sequence[Scored]) -> tuple[int, int, bool]:
        """The next piece that is in doubt, or the first of which not all is known; how many tokens
        lie before it, and whether it is in doubt. The first `skip` pieces are not."""
        count = 0
        for index in range(at, len(self._pieces)):
            size = len(self._pieces[index].tokens)
            if count + size > len(known):
                return index, count, False
            gap = max(one.gap for one in known[count : count + size])
            if index >= at + skip and gap >= _SUSPICIOUS:
                return index, count, True
            count += size
        return len(self._pieces), count, False

    def _ways(self, at: int, first: Scored) -> list[tuple[TokenGroup, ...]]:
        """What may stand in the place of a piece: other tokens, nothing, or a token before it."""
        piece, rest = self._pieces[at], self._rest if at == 0 else ""
        others: list[TokenGroup] = []
        for token in first.likeliest:
            if token not in piece.tokens and len(others) < _OTHERS:
                if (text := self._spelled(token)) is not None and text.startswith(rest):
                    others.append(TokenGroup((token,), text[len(rest) :]))
        ways: list[tuple[TokenGroup, ...]] = [(other,) for other in others]
        if not rest:
            ways += [(), *((other, piece) for other in others[:1])]
        return ways

    def _spelled(self, token: int) -> str | None:
        """A token as text for the document; None for an end, or a part of a character."""
        if self._point.tokenizer.is_special(token):
            return None
        try:
            text = self._point.tokenizer.token_bytes(token).decode()
        except UnicodeDecodeError:
            return None
        return None if "\r" in text else text.replace("\n", self._ending)

    def _ahead(self, sampler: Sampler, at: int, ways: int) -> int:
        """How many tokens from a piece on are scored behind each way; 0 where there is no room."""
        room = (sampler.positions_left - 1) // (ways + 1) - 1
        size = len(self._pieces[at].tokens)
        ahead = min(_AHEAD + size, room)
        return ahead if ahead > size else 0

    def _weighed(
        self,
        sampler: Sampler,
        last: int,
        at: int,
        ways: Sequence[tuple[TokenGroup, ...]],
        ahead: int,
    ) -> Generator[Forward, Tensor, list[_Way]]:
        """By how much each makes likelier what follows, with itself."""
        piece = self._pieces[at]
        own = list(islice(self._from(at), ahead))
        behind = own[len(piece.tokens) :]
        texts = [[t for one in way for t in one.tokens] + behind for way in ways]
        nll = yield from weighed(sampler, last, [own, *texts])
        base = sum(nll[0])
        return [
            _Way(way, base - sum(found) - (0 if len(way) == 1 else _OTHER_LENGTH))
            for way, found in zip(ways, nll[1:], strict=True)
        ]

    def _from(self, at: int) -> Iterator[int]:
        """The tokens of the pieces from one on, and the end."""
        for piece in self._pieces[at:]:
            yield from piece.tokens
        if not self._prompt.fence:
            yield END

    def _next(self, at: int) -> list[int]:
        """The tokens of the next pieces, whole."""
        tokens: list[int] = []
        for piece in self._pieces[at:]:
            if len(tokens) >= _READ:
                break
            tokens += piece.tokens
        return tokens

    def _learn(self, at: int, known: Sequence[Scored]) -> None:
        start = 0
        for index, piece in enumerate(self._pieces[at:], at):
            end = start + len(piece.tokens)
            if end > len(known):
                break
            confidence = tuple(math.exp(-one.nll) for one in known[start:end])
            self._pieces[index] = replace(piece, confidence=confidence)
            start = end

    def _refinement(self, sampler: Sampler, at: int) -> Unread:
        """The text as it stands; what is before a piece is settled."""
        elapsed = 1e3 * (time.monotonic() - self._began)
        self._first_ms = self._first_ms or elapsed
        tokens, settled, confidence = list[int](), list[bool](), list[float]()
        for index, piece in enumerate(self._pieces):
            tokens += piece.tokens
            settled += [index < at] * len(piece.tokens)
            confidence += piece.confidence or [1.0] * len(piece.tokens)
        ended = at == len(self._pieces)
        found = (tuple(tokens), tuple(settled), tuple(confidence))
        return self.drafts.refinement(Snapshot(*found, sampler.forwards, ended), elapsed)

    def _text(self, pieces: Sequence[TokenGroup]) -> str:
        return "".join(piece.text for piece in pieces)

    def _verdict(self, text: str) -> Generator[Any, Any, SyntaxState]:
        """Whether that parses in the place of the span, found out in another thread."""
        request, start = self._request, self._request.hole.start
        document, end = request.prefix + text + request.suffix, start + len(text)
        check = partial(check_rewrite, request.document, document, start, end, request.language)
        found: SyntaxState = yield self._contexts.aside(check)
        return found
