"""How well an adapter drafts on held-out text."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence as Many
from dataclasses import dataclass

import torch
from torch import Tensor

from blockdiff.diffusion.drafter import Drafter, Speculation
from blockdiff.diffusion.ngrams import NgramTable
from blockdiff.diffusion.row_costs import FREE
from blockdiff.model.adapter import GatedAdapter
from blockdiff.model.transformer import Transformer
from blockdiff.train.corrupt import at_level, choose_starts, fully_masked
from blockdiff.train.loss import bits_per_byte
from blockdiff.train.noise import absorbing
from blockdiff.train.sequences import Sequence
from blockdiff.train.step import clean_pass, noisy_pass
from blockdiff.types import no_op


@dataclass(frozen=True, slots=True)
class DraftReport:
    """Means over block starts in held-out sequences.

    Attributes:
        accuracy: share of exact drafts (most likely token = true token), by offset 2, 3, ...
            from the last committed token; offset 1 is the base's own prediction.
        agreement: the same against the base's most likely token instead of the true one: what
            `verify` accepts.
        mean_accepted: tokens that one verifying forward would accept: 1 for the base's exact
            token, plus the leading drafts that equal the base's choice on the true text.
        served: the same where copies and counted n-grams draft beside the adapter.
        bits_per_byte: the block diffusion NELBO of the text (an upper bound).
        base_bits_per_byte: the base's autoregressive bits on the same text.
        starts: block starts measured.
    """

    accuracy: tuple[float, ...]
    agreement: tuple[float, ...]
    mean_accepted: float
    served: float
    bits_per_byte: float
    base_bits_per_byte: float
    starts: int


@dataclass(frozen=True, slots=True)
class DraftCounts:
    """Of one sequence.

    Attributes:
        seen, hits, agreed: by offset 2, 3, ...: drafts, those that are the true token, those that
            are the base's most likely one.
        accepted: tokens that one verifying forward at each start would settle, summed.
        served: the same where copies and counted n-grams draft beside the adapter.
        starts: block starts drafted at.
    """

    seen: tuple[int, ...]
    hits: tuple[int, ...]
    agreed: tuple[int, ...]
    accepted: int
    starts: int
    served: int = 0


@torch.no_grad()
def count_drafts(
    model: Transformer,
    adapter: GatedAdapter,
    sequence: Sequence,
    block_size: int,
    blocks: int,
    g: torch.Generator,
    tables: Many[NgramTable] = (),
) -> DraftCounts | None:
    """Draft `blocks` fully masked blocks in a sequence; None where it is too short for any.

    With `tables`, what these and the text before know counts in `served`.
    """
    tokens = torch.tensor(sequence.tokens)
    starts = choose_starts(sequence.first_target, len(tokens), block_size, blocks, g)
    if not starts:
        return None
    clean = clean_pass(model, tokens)
    noisy = fully_masked(tokens, sequence.real, starts, block_size)
    logits = model.head(noisy_pass(model, adapter, clean, noisy)).float().cpu()
    drafted = logits.argmax(-1)
    base = model.head(clean.hidden).argmax(-1).cpu()
    counts = (noisy.targets.weights > 0).view(-1, block_size)
    right = (drafted == noisy.targets.ids).view(-1, block_size) & counts
    same = (drafted == base[noisy.targets.teacher_rows]).view(-1, block_size) & counts
    return DraftCounts(
        seen=tuple(counts.sum(0).tolist()),
        hits=tuple(right.sum(0).tolist()),
        agreed=tuple(same.sum(0).tolist()),
        accepted=int((1 + (right & same).long().cumprod(1).sum(1)).sum()),
        starts=len(starts),
        served=_served(sequence, starts, logits.view(len(starts), block_size, -1), base, tables),
    )


def _served(
    sequence: Sequence,
    starts: Many[int],
    logits: Tensor,
    base: Tensor,
    tables: Many[NgramTable],
) -> int:
    """Tokens that verifying forwards accept at block starts, drafts as long as they may be."""
    tokens, accepted, known = sequence.tokens, 0, 0
    drafter = Drafter((), Speculation(FREE, tables=tuple(tables)))
    for index in sorted(range(len(starts)), key=lambda i: starts[i]):
        start = starts[index]
        drafter.extend(tokens[known : start + 1])
        known = start + 1
        run = 1
        for at, token in enumerate(drafter.draft(logits[index], sequence.real - known).tokens):
            if not token == tokens[known + at] == int(base[known + at - 1]):
                break
            run += 1
        accepted += run
    return accepted


@torch.no_grad()
def measure_drafts(
    model: Transformer,
    adapter: GatedAdapter,
    held_out: Many[Sequence],
    block_size: int,
    *,
    blocks: int = 24,
    tables: Many[NgramTable] = (),
    on_sequence: Callable[[], None] = no_op,
) -> DraftReport:
    """Draft `blocks` fully masked blocks in each sequence, and draw the NELBO once over it."""
    g = torch.Generator().manual_seed(0)
    hits = torch.zeros(block_size)
    agreed = torch.zeros(block_size)
    seen = torch.zeros(block_size)
    accepted = served = starts_seen = nats = base_nats = n_bytes = 0.0
    for sequence in held_out:
        on_sequence()
        counted = count_drafts(model, adapter, sequence, block_size, blocks, g, tables)
        if counted is None:
            continue
        tokens = torch.tensor(sequence.tokens)
        seen += torch.tensor(counted.seen)
        hits += torch.tensor(counted.hits)
        agreed += torch.tensor(counted.agreed)
        accepted += counted.accepted
        served += counted.served
        starts_seen += counted.starts
        bound, base_part, size = _nelbo(model, adapter, tokens, sequence, block_size, g)
        nats, base_nats, n_bytes = nats + bound, base_nats + base_part, n_bytes + size
    count = max(starts_seen, 1.0)
    size = max(int(n_bytes), 1)
    return DraftReport(
        accuracy=tuple(round(x, 4) for x in (hits / seen.clamp_min(1.0)).tolist()),
        agreement=tuple(round(x, 4) for x in (agreed / seen.clamp_min(1.0)).tolist()),
        mean_accepted=round(accepted / count, 4),
        served=round(served / count, 4),
        bits_per_byte=round(bits_per_byte(nats, size), 4),
        base_bits_per_byte=round(bits_per_byte(base_nats, size), 4),
        starts=int(starts_seen),
    )


def _nelbo(
    model: Transformer,
    adapter: GatedAdapter,
    tokens: Tensor,
    sequence: Sequence,
    block_size: int,
    g: torch.Generator,
) -> tuple[float, float, float]:
    """(bound, base, bytes) over the whole blocks behind `first_target`, in nats and UTF-8 bytes.

    The first token of each block costs the base's cross-entropy, the others 1/t times theirs
    where they are corrupted; t is drawn evenly over the blocks to lower the variance.
    """
    first = max(sequence.first_target, 1)
    count = (sequence.real - first - 1) // block_size
    if count < 1:
        return 0.0, 0.0, 0.0
    starts = [first + block_size * i for i in range(count)]
    clean = clean_pass(model, tokens)
    covered = slice(first - 1, first - 1 + count * block_size)
    base = _nll(model, clean.hidden[covered], tokens[first : first + count * block_size])
    u = (torch.arange(count) + torch.rand((), generator=g)) / count
    t = u[torch.randperm(count, generator=g)].clamp(0.05, 1.0)[:, None]
    noisy = at_level(tokens, starts, block_size, t, absorbing(model.config.vocab_size), g)
    inside = noisy.offsets < block_size
    rows = noisy.targets.rows[inside]
    hidden = noisy_pass(model, adapter, clean, noisy)[rows.to(model.device)]
    cross = _nll(model, hidden, noisy.targets.ids[inside])
    bound = float((cross * noisy.targets.weights[inside]).sum()) + float(base[::block_size].sum())
    share = count * block_size / max(sequence.real - first, 1)
    return bound, float(base.sum()), sequence.n_bytes * share


def _nll(model: Transformer, hidden: Tensor, ids: Tensor) -> Tensor:
    """Cross-entropy of each id under the head, on the CPU, (n,)."""
    if not len(ids):
        return torch.zeros(0)
    logits = model.head(hidden.contiguous()).float()
    return torch.nn.functional.cross_entropy(logits, ids.to(model.device), reduction="none").cpu()
