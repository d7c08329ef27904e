"""What the rows of a verifying forward cost on the machine that runs it.

Weights are read once for all rows, so that some come at no price while memory is what is waited
for; behind them each takes arithmetic. How many and how much differs between machines, and on one
machine with what else it does.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import accumulate, pairwise

MOST_ROWS = 48
"""Rows of a verifying forward; the cache has room for so many behind the text."""
_LEAST_COST, _GREATEST_COST = 0.005, 0.3  # of a row
_OTHERS = 0.45  # share of its forward's weights that a request pays, for each that shares them
_NEAR, _EVERYWHERE = 0.1, 0.05  # of an error: what its sizes learn of it, and what all do
_MOST_ERROR = 0.5  # of what was expected; more says that something else ran


@dataclass(frozen=True, slots=True)
class RowCosts:
    """What a forward of `verify` costs beyond one of a single row, as shares of that.

    Attributes:
        curve: by its rows, 0 to MOST_ROWS; ascending. Rows are not equally dear: some come at no
            price while weights are read, and a kernel takes them in groups.
        adapter: on top, where any row is a mask.
    """

    curve: tuple[float, ...]
    adapter: float

    @classmethod
    def linear(cls, row: float, adapter: float) -> RowCosts:
        """Each row costs the same."""
        return cls(tuple(row * max(rows - 1, 0) for rows in range(MOST_ROWS + 1)), adapter)

    @classmethod
    def measured(cls, seconds: Mapping[int, float], adapter: float) -> RowCosts:
        """From the seconds of forwards by their rows, one and at least one more, ascending.

        Between them by straight lines, behind the last as on average before it: arithmetic is
        what many rows wait for, however little the last ones seemed to take. Held to what a
        machine can be: a moment of other work must not end all drafting.

        Args:
            adapter: seconds more where some of the rows are masks.
        """
        sizes, one = list(seconds), seconds[1]
        curve = [0.0, 0.0]
        for rows in range(2, MOST_ROWS + 1):
            low, high = next(
                ((a, b) for a, b in pairwise(sizes) if rows <= b), (sizes[0], sizes[-1])
            )
            slope = (seconds[high] - seconds[low]) / (high - low) / one
            curve.append(curve[-1] + min(max(slope, _LEAST_COST), _GREATEST_COST))
        return cls(tuple(curve), min(max(adapter / one, 0.0), 1.0))

    @property
    def least(self) -> list[float]:
        """By its place, from 0: what a row and any behind it cost at least."""
        steps = (after - before for before, after in pairwise(self.curve))
        return list(accumulate(reversed(list(steps)), min))[::-1]

    def behind(self, others: int) -> RowCosts:
        """Where a forward carries `others` anyway: what its further rows cost on top of these."""
        average = self.curve[-1] / (MOST_ROWS - 1)
        rows = range(others + 1, others + MOST_ROWS + 1)
        costs = [self.curve[min(n, MOST_ROWS)] + average * max(n - MOST_ROWS, 0) for n in rows]
        return RowCosts((0.0, *(cost - costs[0] for cost in costs)), self.adapter)

    def in_company(self, others: int) -> RowCosts:
        """Where `others` write in the same forwards: rows are many, so that none comes at no price,
        and a forward is only partly this request's."""
        dearer = 1.0 + others / (2 * _OTHERS)
        return RowCosts.linear(self.curve[-1] / (MOST_ROWS - 1) * dearer, self.adapter * dearer)


CHEAP = RowCosts.linear(0.01, 0.02)
"""Where weights are read anyway and arithmetic is free: a GPU, or numbers of 16 bits."""
FREE = RowCosts.linear(0.0, 0.0)
"""Where only what is drafted counts."""
INT8 = RowCosts.measured({1: 57.0, 4: 62.0, 8: 87.0, 12: 120.0, 16: 150.0}, adapter=5.0)
"""A CPU in int8: milliseconds of two cores with VNNI."""


class RowTimes:
    """Seconds of forwards by their rows, the latest ones counting most.

    A forward that was timed tells most about its own number of rows, and a little about all: where
    other work slows the machine down or ends, sizes that nobody asks for follow.
    """

    def __init__(self, seconds: Mapping[int, float], adapter: float) -> None:
        """`seconds` by rows, ascending from 1, and what the adapter takes on top."""
        self._seconds, self._adapter = dict(seconds), max(adapter, 0.0)

    def add(self, rows: int, adapted: bool, seconds: float) -> None:
        """Count a forward of so many rows, with the adapter or without it; more rows than were
        ever timed tell nothing."""
        if not (near := self._near(rows)):
            return
        expected = sum(share * self._seconds[size] for size, share in near.items())
        expected += self._adapter * adapted
        most = _MOST_ERROR * expected
        error = min(max(seconds - expected, -most), most)
        if adapted:
            self._adapter = max(self._adapter + _NEAR * error * self._adapter / expected, 0.0)
        everywhere = 1.0 + _EVERYWHERE * error / expected
        for size, before in self._seconds.items():
            self._seconds[size] = before * everywhere + _NEAR * near.get(size, 0.0) * error

    def costs(self) -> RowCosts:
        """Of rows, by what was counted."""
        return RowCosts.measured(self._seconds, self._adapter)

    def _near(self, rows: int) -> dict[int, float]:
        """The sizes around a number of rows, and how near it is to each, together 1."""
        for low, high in pairwise(self._seconds):
            if low <= rows <= high:
                share = (rows - low) / (high - low)
                return {low: 1.0 - share, high: share}
        return {}
