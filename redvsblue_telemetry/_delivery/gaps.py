"""Which numbers of a session will not come, and why.

A receiver sees the events that were dropped as gaps in their numbers. The log of them explains each
gap in a report. It is bounded however many there are: runs of the same reason become one, also
across numbers that did come, and at last the oldest are forgotten.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence

from .._report import MAX_GAPS

__all__ = ["FORWARDED", "REJECTED", "Gap", "GapLog"]

Gap = tuple[int, int, str]
"""The first number, the last one, and the reason."""

# The others are those of `DropReason`.
REJECTED = "rejected"
"""``before_send`` raised for it."""
FORWARDED = "forwarded"
"""The game has pushed the event with its ``seq`` or ``session_id``, so the number is never sent."""

_SLACK = 4  # above the limit by this part of it, runs are merged: not for each one that is new


class GapLog:
    """Runs of numbers with the reason why they will not come. Used by the worker thread only.

    Args:
        most: the most runs that it returns.
    """

    def __init__(self, most: int = MAX_GAPS) -> None:
        self._most = most
        self._runs: list[Gap] = []  # ascending, and none overlaps another
        self.counts: dict[str, int] = {}
        """How many numbers were added, by reason. Exact, also of runs that are forgotten."""
        self._forgotten = 0  # the number up to which runs are forgotten
        self.changes = 0
        """How often something was added."""

    def add(self, first: int, last: int, reason: str) -> None:
        """Note that the events with these numbers will not come. Each number is added once."""
        self.counts[reason] = self.counts.get(reason, 0) + last - first + 1
        self.changes += 1
        first = max(first, self._forgotten + 1)
        if first > last:
            return
        runs = self._runs
        if not runs or first > runs[-1][1]:
            _append(runs, (first, last, reason))
        else:
            self._insert(first, last, reason)
        if len(runs) > self._most + self._most // _SLACK:
            self._shorten()

    def add_each(self, numbers: Iterable[int], reason: str) -> None:
        """Do the same for ascending numbers."""
        for first, last in _consecutive(numbers):
            self.add(first, last, reason)

    def _insert(self, first: int, last: int, reason: str) -> None:
        """Put a run between others, of which it may cut one that was merged across its numbers."""
        runs = self._runs
        place = bisect_right(runs, (first, last, reason))
        start, end = max(0, place - 1), place
        while end < len(runs) and runs[end][0] <= last + 1:
            end += 1
        merged: list[Gap] = []
        for old_first, old_last, old_reason in _with_cuts(runs[start:end], first, last, reason):
            _append(merged, (old_first, old_last, old_reason))
        if end < len(runs):
            _append(merged, runs[end])
            end += 1
        runs[start:end] = merged

    def runs(self) -> list[Gap]:
        """Return the runs in ascending order, at most so many as a report has."""
        if len(self._runs) > self._most:
            self._shorten()
        return list(self._runs)

    def _shorten(self) -> None:
        """Merge the oldest runs, and forget them if that is not enough."""
        too_many = len(self._runs) - self._most
        short: list[Gap] = []
        runs = iter(self._runs)
        for run in runs:
            if short and short[-1][2] == run[2]:
                short[-1] = (short[-1][0], run[1], run[2])
                too_many -= 1
            else:
                short.append(run)
            if not too_many:
                break
        self._runs[:] = [*short, *runs]
        if too_many:
            self._forgotten = self._runs[too_many - 1][1]
            del self._runs[:too_many]


def _append(runs: list[Gap], run: Gap) -> None:
    """Add a run at the end, or to the last one."""
    first, last, reason = run
    if runs and runs[-1][2] == reason and first <= runs[-1][1] + 1:
        runs[-1] = (runs[-1][0], max(last, runs[-1][1]), reason)
    else:
        runs.append(run)


def _with_cuts(runs: Sequence[Gap], first: int, last: int, reason: str) -> list[Gap]:
    """Return runs with one more, which cuts those of other reasons that span it."""
    result: list[Gap] = [(first, last, reason)]
    for run in runs:
        old_first, old_last, old_reason = run
        if old_reason == reason or old_last < first or old_first > last:
            result.append(run)
            continue
        if old_first < first:
            result.append((old_first, first - 1, old_reason))
        if old_last > last:
            result.append((last + 1, old_last, old_reason))
    return sorted(result)


def _consecutive(numbers: Iterable[int]) -> Iterator[tuple[int, int]]:
    """Yield ascending numbers as runs without a gap."""
    if isinstance(numbers, range) and numbers.step == 1:
        if numbers:
            yield numbers[0], numbers[-1]
        return
    first = last = None
    for number in numbers:
        if last is None or number != last + 1:
            if first is not None and last is not None:
                yield first, last
            first = number
        last = number
    if first is not None and last is not None:
        yield first, last
