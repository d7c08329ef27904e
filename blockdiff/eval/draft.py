"""How far drafts hold on held-out files, by offset and by language."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from blockdiff.engine.checkpoint import Checkpoint
from blockdiff.eval.heldout import HeldOutFile
from blockdiff.eval.results import resampled_ratio
from blockdiff.train.measure import count_drafts
from blockdiff.train.sequences import SequenceConfig, sequences

BLOCKS = 24
"""Block starts in a file, fewer in a short one."""


@dataclass(frozen=True, slots=True)
class DraftedFile:
    """What became of one file; the counts are those of `train.measure.DraftCounts`."""

    task_id: str
    language: str
    seen: tuple[int, ...] = ()
    hits: tuple[int, ...] = ()
    agreed: tuple[int, ...] = ()
    accepted: int = 0
    starts: int = 0
    served: int = 0


def draft(point: Checkpoint, file: HeldOutFile, block_size: int, seed: int) -> DraftedFile:
    """Draft at places of one sequence of a file; the model must have an adapter."""
    assert point.adapter is not None
    rng = random.Random(f"{seed}/{file.id}")
    for sequence in sequences([file], point.tokenizer, SequenceConfig(), rng):
        g = torch.Generator().manual_seed(rng.randrange(1 << 30))
        counts = count_drafts(
            point.transformer, point.adapter, sequence, block_size, BLOCKS, g, point.tables
        )
        if counts is not None:
            return DraftedFile(file.id, file.language, **asdict(counts))
    return DraftedFile(file.id, file.language)


def summarise(rows: Sequence[DraftedFile]) -> dict[str, Any]:
    """Accuracy by offset, mean accepted run with its interval over files; the same by language."""
    counted = [row for row in rows if row.starts]
    low, high = resampled_ratio(
        [row.task_id for row in counted],
        [float(row.served) for row in counted],
        [float(row.starts) for row in counted],
    )
    by_language: dict[str, list[DraftedFile]] = defaultdict(list)
    for row in counted:
        by_language[row.language].append(row)
    return _figures(counted) | {
        "mean_accepted_ci95": [round(low, 4), round(high, 4)],
        "by_language": {name: _figures(found) for name, found in sorted(by_language.items())},
    }


def _figures(rows: Sequence[DraftedFile]) -> dict[str, Any]:
    seen, hits, agreed = (
        [sum(column) for column in zip(*(getattr(row, name) for row in rows), strict=True)]
        for name in ("seen", "hits", "agreed")
    )
    starts = sum(row.starts for row in rows)
    return {
        "files": len(rows),
        "starts": starts,
        "accuracy": [round(a / max(n, 1), 4) for a, n in zip(hits, seen, strict=True)],
        "agreement": [round(a / max(n, 1), 4) for a, n in zip(agreed, seen, strict=True)],
        "adapter_alone": round(sum(row.accepted for row in rows) / max(starts, 1), 4),
        "mean_accepted": round(sum(row.served for row in rows) / max(starts, 1), 4),
    }
