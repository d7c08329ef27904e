"""How far drafts hold on held-out files, by offset and by language."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from blockdiff.diffusion.personal import adapters
from blockdiff.engine.checkpoint import Checkpoint
from blockdiff.eval import tables
from blockdiff.eval.heldout import HeldOutFile
from blockdiff.eval.results import by_language, resampled_ratio
from blockdiff.syntax.grammars import language_of
from blockdiff.train.measure import count_drafts
from blockdiff.train.personal import texts
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


def personal(
    point: Checkpoint,
    root: Path,
    files: Sequence[Path],
    limit: int,
    block_size: int,
    seed: int,
    progress: Callable[[int, int], None],
) -> dict[str, Any]:
    """Draft in files of a folder, with and without what counting its others gives.

    Where an adapter was trained on the folder, with that, too: it never saw these files.

    Raises InputFileError for too few files, see `tables.divided`.
    """
    counted, judged = tables.divided(root, files, point.tokenizer, limit)
    own = replace(point, tables=(*point.tables, counted.table))
    points = {"without": point, "with_personal": own}
    if trained := adapters(point.name, point.adapter_from).of(str(root / "_")):
        points["with_trained"] = replace(own, adapter=trained)
    rows: dict[str, list[DraftedFile]] = {name: [] for name in points}
    for done, (path, text) in enumerate(texts(judged), 1):
        name = path.relative_to(root).as_posix()
        file = HeldOutFile(root.name, "", "", language_of(name), name, text)
        for by, one in points.items():
            rows[by].append(draft(one, file, block_size, seed))
        progress(done, len(judged))
    return {
        "counted_files": counted.files,
        "counted_tokens": counted.tokens,
        **{name: summarise(some) for name, some in rows.items()},
    }


def summarise(rows: Sequence[DraftedFile]) -> dict[str, Any]:
    """Accuracy by offset, mean accepted run with its interval over files; the same by language."""
    counted = [row for row in rows if row.starts]
    low, high = resampled_ratio(
        [row.task_id for row in counted],
        [float(row.served) for row in counted],
        [float(row.starts) for row in counted],
    )
    return _figures(counted) | {
        "mean_accepted_ci95": [round(low, 4), round(high, 4)],
        "by_language": by_language(counted, _figures),
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
