"""The sequence numbers of a session that have arrived, as ranges.

Most sessions have one range, which grows at its end. A gap between two ranges is an event that was
lost or is late; a number inside a range is a repeat. Only the highest range is in memory, so a
session with a million gaps takes no more of it than one without; the others are read from a table.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Protocol

__all__ = ["RangeTable", "SeqRanges", "gaps"]

_BEYOND = 2**63 - 1  # no number is higher


class RangeTable(Protocol):
    """Storage for the ranges of one session, keyed by their first numbers."""

    def find(self, number: int) -> tuple[int, int] | None:
        """Return the last range that starts at or before the number, as its two ends."""

    def put(self, first: int, last: int) -> None:
        """Store a range; replace one that starts at the same number."""

    def remove(self, first: int) -> None:
        """Remove the range that starts at the number, if there is one."""


class SeqRanges:
    """A set of numbers from 0 up, as disjoint ranges that don't touch.

    Args:
        table: holds the ranges, except for changes that :meth:`save` has not written yet.
    """

    def __init__(self, table: RangeTable) -> None:
        self._table = table
        # The highest range. If there is none, it is one so far below that no number touches it.
        self._first, self._last = table.find(_BEYOND) or (-2, -2)
        self._is_saved = True
        self.has_zero = table.find(0) is not None
        """Whether 0 is in it. Numbers start at 1, so 0 is stored but never counts as missing."""

    @property
    def highest(self) -> int:
        """The highest number; 0 if the set is empty."""
        return max(self._last, 0)

    def add(self, number: int) -> bool:
        """Add a number; return whether it is new."""
        if number == self._last + 1:  # nearly always
            self._last = number
            self._is_saved = False
            return True
        if number > self._last:
            self.save()
            self._first = self._last = number
            self._is_saved = False
        elif number >= self._first or not self._add_below(number):
            return False
        self.has_zero = self.has_zero or number == 0
        return True

    def _add_below(self, number: int) -> bool:
        """Add a number below the highest range; return whether it is new."""
        table, first = self._table, number
        if (before := table.find(number)) is not None:
            if number <= before[1]:
                return False
            if number == before[1] + 1:
                first = before[0]
        if number + 1 == self._first:
            table.remove(self._first)
            self._first, self._is_saved = first, False
            return True
        last = number
        after = table.find(number + 1)
        if after is not None and after[0] == number + 1:
            last = after[1]
            table.remove(number + 1)
        table.put(first, last)
        return True

    def save(self) -> None:
        """Write the changes to the table."""
        if not self._is_saved:
            self._table.put(self._first, self._last)
            self._is_saved = True


def gaps(ranges: Iterable[tuple[int, int]], end: int = 0) -> Iterator[tuple[int, int]]:
    """Yield the first and last number of each gap, starting at 1.

    Args:
        ranges: the first and last number of each range, in ascending order.
        end: a number; those after the last range up to this one are a gap, too.
    """
    expected = 1
    for first, last in ranges:
        if first > expected:
            yield expected, first - 1
        expected = max(expected, last + 1)
    if end >= expected:
        yield expected, end
