"""Results of an evaluation on disk, and intervals of its figures.

A results file makes a run resumable: one header row with all settings, then one row per task.
"""

from __future__ import annotations

import json
import math
import os
import random
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any, Generic, Protocol, TypeVar

from blockdiff.errors import InputFileError, InvalidRequest, OutputFileError

RESAMPLES = 2000
_FORMAT = 1


class Row(Protocol):
    """What became of one task: a dataclass whose fields are those of a row of the file."""

    @property
    def task_id(self) -> str: ...


class OfLanguage(Protocol):
    @property
    def language(self) -> str: ...


R = TypeVar("R", bound=Row)
T = TypeVar("T", bound=OfLanguage)


class ResultsFile(Generic[R]):
    """Rows are flushed one by one, a torn last row is dropped on resuming."""

    def __init__(self, path: Path, settings: dict[str, Any], row: Callable[..., R]) -> None:
        self._path, self._row = path, row
        # As they come back from the file: tuples as lists, enums as strings.
        self._header = json.loads(json.dumps({"format": _FORMAT, "settings": settings}))
        self._file: IO[bytes] | None = None

    def resume(self) -> list[R]:
        """Rows that are there already; the file is open for more afterwards.

        Raises InvalidRequest where they have other settings, InputFileError, OutputFileError.
        """
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            held = self._path.read_bytes() if self._path.exists() else b""
            whole = held[: held.rfind(b"\n") + 1]
            rows = self._parse(whole) if whole else []
            self._file = self._path.open("r+b" if held else "wb")
            self._file.truncate(len(whole))
            self._file.seek(0, os.SEEK_END)
            if not whole:
                self._write(self._header)
        except OSError as error:
            raise OutputFileError(f"cannot write {self._path}: {error}") from None
        return rows

    def add(self, result: R) -> None:
        """Append a row. Raises OutputFileError."""
        try:
            self._write(asdict(result))  # type: ignore[call-overload]
        except OSError as error:
            raise OutputFileError(
                f"cannot write {self._path}: {error}", "make room; the same command goes on"
            ) from None

    def close(self) -> None:
        if self._file:
            self._file.close()

    def _write(self, row: dict[str, Any]) -> None:
        assert self._file is not None
        self._file.write(json.dumps(row).encode() + b"\n")
        self._file.flush()

    def _parse(self, whole: bytes) -> list[R]:
        try:
            header, *rows = [json.loads(line) for line in whole.splitlines()]
            results = [self._row(**row) for row in rows]
            settings, kind = dict(header["settings"]), header["format"]
        except (ValueError, TypeError, KeyError):
            raise InputFileError(
                f"{self._path} is not a results file", "name another file"
            ) from None
        wanted = self._header["settings"]
        other = [k for k in sorted({*settings, *wanted}) if settings.get(k) != wanted.get(k)]
        if other or kind != _FORMAT:
            names = ", ".join(f"{k} {settings.get(k)!r} there" for k in other) or "format"
            raise InvalidRequest(
                f"{self._path} holds results of other settings: {names}",
                "name another file, or repeat the settings",
            )
        return results


def gone_through(
    ids: Sequence[str],
    work: Callable[[int], R],
    results: ResultsFile[R] | None,
    progress: Callable[[int, int], None],
) -> list[R]:
    """Rows of all tasks in order; those that `results` holds already are not done again.

    Args:
        work: does the task of that index.
        progress: called with (tasks done, tasks in all).
    """
    done: dict[str, R] = {}
    if results:
        done = {row.task_id: row for row in results.resume() if row.task_id in set(ids)}
    try:
        progress(len(done), len(ids))
        for index, name in enumerate(ids):
            if name in done:
                continue
            done[name] = work(index)
            if results:
                results.add(done[name])
            progress(len(done), len(ids))
    finally:
        if results:
            results.close()
    return [done[name] for name in ids]


def resampled_ratio(
    groups: Iterable[str], values: Iterable[float], weights: Iterable[float] | None = None
) -> tuple[float, float]:
    """95% interval of sum of values / sum of weights by resampling whole groups, the groups of each
    value: what is of one group is not independent. Without weights it is that of the mean."""
    sums: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])
    values = list(values)
    weights = [1.0] * len(values) if weights is None else weights
    for group, value, weight in zip(groups, values, weights, strict=True):
        sums[group][0] += value
        sums[group][1] += weight
    pairs = list(sums.values())
    chance = random.Random(0)
    means = []
    for _ in range(RESAMPLES):
        picked = chance.choices(pairs, k=len(pairs))
        total = sum(weight for _, weight in picked)
        means.append(sum(value for value, _ in picked) / total if total else 0.0)
    means.sort()
    return means[int(0.025 * RESAMPLES)], means[int(0.975 * RESAMPLES) - 1]


def share_interval(count: int, of: int) -> tuple[float, float]:
    """95% interval of a share (Wilson), which says something of none, too."""
    if not of:
        return 0.0, 1.0
    z, share = 1.96, count / of
    middle = share + z * z / (2 * of)
    spread = z * math.sqrt(share * (1 - share) / of + (z / of) ** 2 / 4)
    low, high = ((middle + sign * spread) / (1 + z * z / of) for sign in (-1, 1))
    return max(low, 0.0), min(high, 1.0)


def by_language(rows: Iterable[T], figures: Callable[[list[T]], Any]) -> dict[str, Any]:
    """The figures of the rows of each language, by its name."""
    found: dict[str, list[T]] = defaultdict(list)
    for row in rows:
        found[row.language].append(row)
    return {name: figures(found[name]) for name in sorted(found)}
