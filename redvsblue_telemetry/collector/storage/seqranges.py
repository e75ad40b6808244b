"""Which numbers of a session have come: runs of them, without gap.

Most sessions have one run, which grows at its end. A gap between two is loss, or late; a number
that is in a run already is a repeat. Of all runs only the highest is in memory, so a session takes
as little of it with a million gaps as with none; the others are in a table, and asked for there.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Protocol

__all__ = ["RunTable", "SeqRanges", "gaps"]

_BEYOND = 2**63 - 1  # no number is higher


class RunTable(Protocol):
    """Where the runs of one session are kept, by their first numbers."""

    def find(self, number: int) -> tuple[int, int] | None:
        """The first and last number of the last run that begins at the number or before."""

    def put(self, first: int, last: int) -> None:
        """Keep a run, in the place of any that begins at the same number."""

    def remove(self, first: int) -> None:
        """Forget the run that begins there, if there is one."""


class SeqRanges:
    """A set of numbers from 0 up, kept as disjoint runs that don't touch.

    Args:
        table: where they are kept. What :meth:`save` has not written is missing there.
    """

    def __init__(self, table: RunTable) -> None:
        self._table = table
        # The highest run. An empty one lies so far below that no number touches it.
        self._first, self._last = table.find(_BEYOND) or (-2, -2)
        self._is_saved = True
        self.has_zero = table.find(0) is not None
        """Whether 0 is in it, which counts as a number but not as one that can be missing."""

    @property
    def highest(self) -> int:
        """The highest number in it; 0 if there is none."""
        return max(self._last, 0)

    def add(self, number: int) -> bool:
        """Add a number; whether it is new."""
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
        """Add a number that lies below the highest run; whether it is new."""
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
        """Write what has changed to the table."""
        if not self._is_saved:
            self._table.put(self._first, self._last)
            self._is_saved = True


def gaps(runs: Iterable[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """The first and last number of each run from 1 on that is missing.

    Args:
        runs: the first and last number of each that is there, in ascending order.
    """
    expected = 1
    for first, last in runs:
        if first > expected:
            yield expected, first - 1
        expected = max(expected, last + 1)
