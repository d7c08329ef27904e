"""Half-open intervals of integers, such as line ranges or bookings.

>>> merged([Interval(5, 8), Interval(1, 3), Interval(2, 4)])
[Interval(start=1, end=4), Interval(start=5, end=8)]
>>> covered([Interval(1, 4), Interval(2, 3)])
3
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(order=True)
class Interval:
    """Every x with start <= x < end."""

    start: int
    end: int

    def __post_init__(self) -> None:
        if self.end < self.start:
            raise ValueError(f"interval ends before it starts: {self}")

    def overlaps(self, other: Interval) -> bool:
        return self.start < other.end and other.start < self.end


def merged(intervals: Iterable[Interval]) -> list[Interval]:
    """The same points as disjoint intervals, in order."""
    # HOLE: sort the intervals and join those that overlap
    return result


def covered(intervals: Iterable[Interval]) -> int:
    """How many integers lie in at least one interval."""
    return sum(interval.end - interval.start for interval in merged(intervals))


def gaps(intervals: Iterable[Interval]) -> list[Interval]:
    """What lies between the intervals, in order."""
    parts = merged(intervals)
    return [Interval(left.end, right.start) for left, right in zip(parts, parts[1:])]
