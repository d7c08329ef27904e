"""What a number format costs: bits per token of held-out code, the same tokens in two formats."""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from blockdiff.eval.heldout import HeldOutFile
from blockdiff.eval.results import by_language, resampled_ratio
from blockdiff.model.transformer import Transformer
from blockdiff.train.sequences import SequenceConfig, TextCodec, sequences
from blockdiff.train.step import clean_pass

_ROWS = 64  # of logits at a time


@dataclass(frozen=True, slots=True)
class Surprised:
    """What became of one file.

    Attributes:
        tokens: that were predicted.
        nats, against_nats: negative log-likelihoods under the base in either format, summed.
        same: of them have the same most likely token in both.
    """

    task_id: str
    language: str
    package: str
    tokens: int = 0
    nats: float = 0.0
    against_nats: float = 0.0
    same: int = 0


def compare(
    model: Transformer,
    against: Transformer,
    tokenizer: TextCodec,
    file: HeldOutFile,
    length: int,
    seed: int,
) -> Surprised:
    """Both models read one stretch of a file, `length` tokens at most, without the adapter."""
    rng = random.Random(f"{seed}/{file.id}")
    config = SequenceConfig(length=length, infill_share=0.0, padding=0)
    for sequence in sequences([file], tokenizer, config, rng):
        tokens, first = torch.tensor(sequence.tokens), sequence.first_target
        nats, best = nll(model, tokens, first)
        others, other_best = nll(against, tokens, first)
        return Surprised(
            file.id,
            file.language,
            file.package,
            tokens=len(nats),
            nats=float(nats.sum()),
            against_nats=float(others.sum()),
            same=int((best == other_best).sum()),
        )
    return Surprised(file.id, file.language, file.package)


@torch.inference_mode()
def nll(model: Transformer, tokens: Tensor, first: int) -> tuple[Tensor, Tensor]:
    """Negative log-likelihood, nats, of each token from `first` on, and the most likely one there.

    Both (len(tokens) - first,), on the CPU; `first` is at least 1.
    """
    hidden = clean_pass(model, tokens[:-1]).hidden[first - 1 :]
    nats, best = [], []
    chunks = zip(torch.split(hidden, _ROWS), torch.split(tokens[first:], _ROWS), strict=True)
    for rows, ids in chunks:
        logits = model.head(rows.contiguous()).float().cpu()
        nats.append(F.cross_entropy(logits, ids, reduction="none").double())
        best.append(logits.argmax(-1))
    return torch.cat(nats), torch.cat(best)


def summarise(rows: Sequence[Surprised]) -> dict[str, Any]:
    """Bits per token in both formats and their difference, with its interval over packages."""
    counted = [row for row in rows if row.tokens]
    low, high = resampled_ratio(
        [row.package for row in counted],
        [(row.nats - row.against_nats) / math.log(2) for row in counted],
        [float(row.tokens) for row in counted],
    )
    return _figures(counted) | {
        "difference_ci95": [round(low, 4), round(high, 4)],
        "by_language": by_language(counted, _figures),
    }


def _figures(rows: Iterable[Surprised]) -> dict[str, Any]:
    rows = list(rows)
    tokens = max(sum(row.tokens for row in rows), 1)
    bits = sum(row.nats for row in rows) / tokens / math.log(2)
    against = sum(row.against_nats for row in rows) / tokens / math.log(2)
    return {
        "files": len(rows),
        "tokens": sum(row.tokens for row in rows),
        "bits_per_token": round(bits, 4),
        "against_bits_per_token": round(against, 4),
        "difference": round(bits - against, 4),
        "same_choice": round(sum(row.same for row in rows) / tokens, 4),
    }
