"""The rule `syntax`: what does not parse of a draft is masked and denoised once more.

The tokens under tree-sitter's errors become masks, all others stay; the new tokens then see what
stands behind them in their block, which those of the first draft did not.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import replace

from blockdiff.diffusion.canvas import Canvas
from blockdiff.diffusion.sampler import Sampler, Snapshot, Steps, next_snapshot
from blockdiff.engine.draft_text import draft_text
from blockdiff.infill.healing import Tokenizer

ROUNDS = 2
"""Of masking and denoising a draft, at most."""


def remasked(
    snapshot: Snapshot, tokenizer: Tokenizer, length: int, spans: Sequence[tuple[int, int]]
) -> Canvas | None:
    """The draft with the tokens masked that have a character in `spans`; None where none has.

    Args:
        length: characters of the draft's text that count; tokens behind them are left out.
        spans: half-open ranges of that text.
    """
    pieces = [tokenizer.token_bytes(token) for token in snapshot.settled_prefix]
    ends = draft_text(pieces)[1]
    starts = [0, *ends[:-1]]
    count = sum(start < length for start in starts)
    masked = tuple(
        any(start < last and first < end for first, last in spans)
        for start, end in zip(starts[:count], ends[:count], strict=True)
    )
    if not any(masked):
        return None
    return Canvas(snapshot.tokens[:count], masked, snapshot.confidence[:count])


def rounds(
    sampler: Sampler,
    prompt: Sequence[int],
    draft: Snapshot,
    canvas_of: Callable[[Snapshot], Canvas | None],
) -> Steps[None]:
    """Mask and denoise until nothing is left to mask, or nothing changes, or `ROUNDS` are over.

    The last snapshot is the first draft that has nothing to mask; where none has, the one given
    comes back, so that what comes out is never worse. Nothing is yielded where that has nothing to
    mask. Raises Cancelled.
    """
    found, canvas = draft, canvas_of(draft)
    for _ in range(ROUNDS):
        if canvas is None:
            return
        before = found.settled_prefix
        with closing(sampler.steps(prompt, canvas)) as drafts:
            while (denoised := (yield from next_snapshot(drafts))) is not None:
                yield (found := denoised)
        canvas = canvas_of(found)
        if found.settled_prefix == before:
            break
    if canvas is not None:
        yield replace(draft, forwards=sampler.forwards)
