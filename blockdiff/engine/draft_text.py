"""From the bytes of tokens to text whose every character belongs to one token."""

from __future__ import annotations

import codecs
from collections.abc import Sequence

from blockdiff.diffusion.sampler import Snapshot
from blockdiff.infill.healing import Tokenizer
from blockdiff.types import Refinement, Span


def refinement(
    snapshot: Snapshot,
    tokenizer: Tokenizer,
    *,
    request_id: str,
    number: int,
    elapsed_ms: float,
    skip: int,
    length: int | None = None,
) -> Refinement:
    """A snapshot as an event, without its first `skip` characters; of the others only `length`, if
    that is where the text ends."""
    pieces = [tokenizer.token_bytes(token) for token in snapshot.tokens]
    text, ends = draft_text(pieces)
    if length is not None:
        text = text[: skip + length]
        ends = [min(end, len(text)) for end in ends]
    return Refinement(
        request_id=request_id,
        seq=number,
        hole=0,
        text=text[skip:],
        spans=split_draft(ends, snapshot.settled, snapshot.confidence, skip),
        step=number + 1,
        forwards=snapshot.forwards,
        elapsed_ms=elapsed_ms,
    )


def draft_text(pieces: Sequence[bytes]) -> tuple[str, list[int]]:
    """Decode token bytes one after another.

    Returns:
        The text, and for each token the offset (code points) at which its characters end. A
        character that is cut between tokens belongs to the token that completes it.
    """
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    text, ends = "", []
    for index, piece in enumerate(pieces):
        text += decoder.decode(piece, final=index == len(pieces) - 1)
        ends.append(len(text))
    return text, ends


def split_draft(
    ends: Sequence[int], settled: Sequence[bool], confidence: Sequence[float], skip: int
) -> tuple[Span, ...]:
    """Spans of the tokens in the text without its first `skip` characters; empty ones left out."""
    spans, start = [], 0
    for end, decided, probability in zip(ends, settled, confidence, strict=True):
        if end > max(start, skip):
            spans.append(Span(max(start - skip, 0), end - skip, decided, round(probability, 4)))
        start = end
    return tuple(spans)
