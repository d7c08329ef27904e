"""What counted n-grams add to the logits of masks, in training as in drafting.

An adapter that drafts beside n-grams need not know what they know: with their term in its loss it
spends itself on the rest.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from blockdiff.diffusion.drafter import ngram_term
from blockdiff.diffusion.lookup import LONGEST, TextNgrams
from blockdiff.diffusion.ngrams import NgramTable
from blockdiff.train.corrupt import NoisyBlocks


def with_term(noisy: NoisyBlocks, text: Sequence[int], tables: Sequence[NgramTable]) -> NoisyBlocks:
    """The same blocks with a term for each target of a block that is all masks.

    Args:
        text: ids of the clean sequence. A target's n-grams know what stands before its block, and
            what is compared with them are the true tokens before the target: a draft that is wrong
            before it is not accepted as far as that anyway.
        tables: that drafting has, too; none: the blocks as they are.
    """
    if not tables:
        return noisy
    size = len(noisy.positions) // len(noisy.starts)
    all_masks = noisy.masked.view(-1, size).all(1).tolist()
    known, before = TextNgrams((), tables), 0
    terms: list[dict[int, float]] = []
    for row in noisy.targets.rows.tolist():  # blocks are sorted by their starts
        block, index = divmod(row, size)
        start = noisy.starts[block]
        known.extend(text[before : start + 1])
        before = start + 1
        context = text[max(0, start + index + 1 - LONGEST) : start + index + 1]
        terms.append(ngram_term(known.following(context)[0], index) if all_masks[block] else {})
    most = max(map(len, terms), default=0)
    ids = torch.zeros(len(terms), most, dtype=torch.long)
    above = torch.zeros(len(terms), most)
    for at, term in enumerate(terms):
        ids[at, : len(term)] = torch.tensor(list(term), dtype=torch.long)
        above[at, : len(term)] = torch.tensor(list(term.values()))
    return replace(noisy, targets=replace(noisy.targets, term_ids=ids, term=above))
