"""From the bytes of tokens to text whose every character belongs to one token."""

from __future__ import annotations

import codecs
import itertools
from collections.abc import Sequence
from dataclasses import replace

from blockdiff.diffusion.forwards import Snapshot
from blockdiff.infill.healing import PromptTokenizer
from blockdiff.types import Refinement, Span, Unread


class DraftText:
    """The drafts of one request as refinements, each built only when it is read.

    What is settled at the start of a draft is decoded once: a later draft goes on behind it.

    Attributes:
        before, after: text that stands around every draft, and is settled.
        hole: whose drafts they are.
        numbers: where `seq` comes from, of all holes of a request.
        spent: forwards before the first draft.
    """

    def __init__(self, tokenizer: PromptTokenizer, request_id: str, skip: int) -> None:
        """The first `skip` characters that are written are not shown."""
        self._tokenizer, self._request_id, self._skip = tokenizer, request_id, skip
        self.before = self.after = ""
        self.hole, self.numbers, self.spent = 0, itertools.count(), 0
        self._steps = itertools.count(1)
        self._decoder = _decoder()
        self._tokens: tuple[int, ...] = ()
        self._confidence: tuple[float, ...] = ()
        self._text, self._spans = "", tuple[Span, ...]()

    def refinement(
        self, snapshot: Snapshot, elapsed_ms: float, length: int | None = None
    ) -> Unread:
        """A snapshot as an event, numbered in the order of the calls; only `length` characters of
        what is written, if that is where the text ends."""
        step, number, hole = next(self._steps), next(self.numbers), self.hole
        forwards = self.spent + snapshot.forwards
        whole = Refinement(self._request_id, number, hole, "", (), step, forwards, elapsed_ms)

        def build() -> Refinement:
            text, spans = self._decoded(snapshot)
            if length is not None:
                end = len(self.before) + length
                spans = tuple(replace(s, end=min(s.end, end)) for s in spans if s.start < end)
                text = text[:end]
            return replace(whole, text=text, spans=spans)

        return Unread(build, number, forwards, hole)

    def _decoded(self, snapshot: Snapshot) -> tuple[str, tuple[Span, ...]]:
        last = len(snapshot.tokens) - 1  # which also gets what is left of a character
        if len(self._tokens) > last or not self._continues(snapshot):
            self._forget()
        known = len(self._tokens)
        settled = max(min(len(snapshot.settled_prefix), last), known)
        self._text, self._spans = self._decode(snapshot, known, settled)
        self._tokens = snapshot.tokens[:settled]
        self._confidence = snapshot.confidence[:settled]
        state = self._decoder.getstate()
        text, spans = self._decode(snapshot, settled, last + 1)
        self._decoder.setstate(state)
        shift = len(self.before)
        text = self.before + text[self._skip :] + self.after
        if self.before:
            spans = (Span(0, shift, True, 1.0), *spans)
        if self.after:
            spans = (*spans, Span(len(text) - len(self.after), len(text), True, 1.0))
        return text, spans

    def _continues(self, snapshot: Snapshot) -> bool:
        """Whether what is known stands at the start of a draft."""
        known = len(self._tokens)
        same = snapshot.tokens[:known] == self._tokens and all(snapshot.settled[:known])
        return same and snapshot.confidence[:known] == self._confidence

    def _decode(self, snapshot: Snapshot, start: int, end: int) -> tuple[str, tuple[Span, ...]]:
        """Text and spans of the first `end` tokens, those of the first `start` being known."""
        pieces = [self._tokenizer.token_bytes(token) for token in snapshot.tokens[start:end]]
        final = end == len(snapshot.tokens)
        rest, ends = draft_text(pieces, self._decoder, final=final)
        skip, at = self._skip, len(self._text)
        shift = len(self.before) - skip
        spans, first = [], at
        for i, offset in enumerate(ends, start):
            stop = at + offset
            if stop > max(first, skip):
                probability = round(snapshot.confidence[i], 4)
                begin = max(first, skip) + shift
                spans.append(Span(begin, stop + shift, snapshot.settled[i], probability))
            first = stop
        return self._text + rest, (*self._spans, *spans)

    def _forget(self) -> None:
        self._decoder.reset()
        self._tokens, self._confidence = (), ()
        self._text, self._spans = "", ()


def draft_text(
    pieces: Sequence[bytes],
    decoder: codecs.IncrementalDecoder | None = None,
    *,
    final: bool = True,
) -> tuple[str, list[int]]:
    """Decode token bytes one after another, behind what the `decoder` has had.

    Returns:
        The text, and for each token the offset (code points) at which its characters end. A
        character that is cut between tokens belongs to the token that completes it; one that
        nothing completes, if this is `final`, to the last.
    """
    decoder = decoder or _decoder()
    parts, ends, size = [], [], 0
    for index, piece in enumerate(pieces):
        part = decoder.decode(piece, final=final and index == len(pieces) - 1)
        size += len(part)
        parts.append(part)
        ends.append(size)
    return "".join(parts), ends


def _decoder() -> codecs.IncrementalDecoder:
    return codecs.getincrementaldecoder("utf-8")("replace")
