"""Why numbers are missing: the gaps in what arrived, compared with those in the report.

Pure. A report gives its reasons as runs of numbers, and a run may span numbers that did come: so
only the numbers that are missing count.

What no run explains is either waiting on the player's machine or unexplained. Events are sent in
the order of their numbers, so those that wait are the newest. And a client that has too many runs
for a report leaves out the oldest, so those that it dropped without a run are the oldest.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

import msgspec

from ..._report import MAX_GAPS, Report, State
from ..models import Cause, Loss

__all__ = [
    "Losses",
    "claimed_losses",
    "count_losses",
    "describe_losses",
    "explained",
    "reasons_of",
    "start_of",
]

_MAX_CAUSES = 32  # of one session; further ones count as unexplained

_OWN_CAUSES = (Cause.DROPPED, Cause.UNEXPLAINED, Cause.WAITING)  # not reasons of a report
Run = tuple[int, int, str]


class Losses(msgspec.Struct):
    """The missing events of one session, counted."""

    lost: dict[str, int]
    """By cause."""
    waiting: int

    def adjusted(self, missing: int, *, is_running: bool) -> Losses:
        """Return the counts for a number of missing events that has changed since they were made.

        Events that are new among the missing wait, if the session has a report and runs. Events
        that came late are most likely some that waited.
        """
        change = missing - self.waiting - sum(self.lost.values())
        if not change:
            return self
        lost, waiting = dict(self.lost), self.waiting
        if change > 0 and is_running:
            waiting += change
        elif change > 0:
            lost[Cause.UNEXPLAINED] = lost.get(Cause.UNEXPLAINED, 0) + change
        else:
            waiting, change = max(0, waiting + change), min(0, waiting + change)
            for cause in (Cause.UNEXPLAINED, *self.lost):
                count = lost.pop(cause, 0)
                if count + change > 0:
                    lost[cause] = count + change
                change = min(0, count + change)
        return Losses(lost, waiting)


def count_losses(missing: Iterable[tuple[int, int]], report: Report) -> Losses:
    """Return the missing events of a session, counted by cause.

    Args:
        missing: the runs of missing numbers, in ascending order.
        report: the report.
    """
    lost: dict[str, int] = {}
    unexplained = beyond = before = 0
    reasons = reasons_of(report)
    first_known = start_of(report, reasons)
    for first, last, cause in explained(missing, reasons):
        if cause is not None:
            lost[cause] = lost.get(cause, 0) + last - first + 1
        else:
            unexplained += last - first + 1
            before += max(0, min(last, first_known - 1) - first + 1)
            beyond += max(0, last - max(first - 1, report.last_seq))
    known = sum(lost.get(cause, 0) for cause in report.dropped)
    if before and (dropped := min(before, sum(report.dropped.values()) - known)) > 0:
        lost[Cause.DROPPED] = dropped
        unexplained -= dropped
    if report.state == State.ENDED:
        waiting = min(unexplained, report.buffered)
    else:  # the report didn't know of the numbers beyond its last one
        waiting = beyond + min(unexplained - beyond, report.buffered)
    if unexplained > waiting:
        lost[Cause.UNEXPLAINED] = unexplained - waiting
    return Losses(lost, waiting)


def claimed_losses(missing: int, report: Report) -> Losses:
    """Return the counts of a running session as its report claims them, without its gaps.

    Missing events that the report doesn't count as dropped are waiting.

    Args:
        missing: how many events are missing.
        report: the report.
    """
    lost: dict[str, int] = {}
    for cause, count in report.dropped.items():
        if cause in _OWN_CAUSES or len(lost) == _MAX_CAUSES:
            continue
        if (count := min(count, missing)) > 0:
            lost[cause] = count
            missing -= count
    return Losses(lost, missing)


def describe_losses(
    missing: Iterable[tuple[int, int]], report: Report | None, lost: Mapping[str, int]
) -> Iterator[Loss]:
    """Yield the runs of missing numbers with their causes, in ascending order.

    Args:
        missing: the runs of missing numbers, in ascending order.
        report: the report; None if there is none.
        lost: how many are lost, by cause; see :func:`count_losses`.
    """
    left = {cause: lost.get(cause, 0) for cause in (Cause.DROPPED, Cause.UNEXPLAINED)}
    for first, last, cause in explained(missing, reasons_of(report) if report else []):
        if cause is not None:
            yield Loss(first, last, cause)
            continue
        start = first
        for own_cause, count in left.items():
            end = min(last, start + count - 1)
            if start <= end:
                yield Loss(start, end, own_cause)
                left[own_cause] -= end - start + 1
                start = end + 1
        if start <= last:
            yield Loss(start, last, Cause.WAITING)


def reasons_of(report: Report) -> list[Run]:
    """Return the gaps of a report, ascending and disjoint even if a client sent others."""
    runs: list[Run] = []
    known: set[str] = set()
    end = 0
    for first, last, reason in sorted(report.gaps):
        start = max(first, end + 1)
        is_known = reason in known or len(known) < _MAX_CAUSES
        if start <= last and is_known and reason not in _OWN_CAUSES:
            known.add(reason)
            runs.append((start, last, reason))
        end = max(end, last)
    return runs


def start_of(report: Report, reasons: Sequence[Run]) -> int:
    """Return the number from which on a report has the reasons of all dropped events.

    Its client has left out the oldest ones if there are as many as there can be, or if more events
    were dropped than have one: then the report was larger than the client's limit.
    """
    covered = sum(last - first + 1 for first, last, reason in reasons if reason in report.dropped)
    if len(reasons) < MAX_GAPS and covered >= sum(report.dropped.values()):
        return 1
    return reasons[0][0] if reasons else report.last_seq + 1


def explained(
    missing: Iterable[tuple[int, int]], reasons: Sequence[Run]
) -> Iterator[tuple[int, int, str | None]]:
    """Yield the missing runs, cut where the reason changes; None where there is none.

    Args:
        missing: the runs of missing numbers, in ascending order.
        reasons: the runs with reasons, in ascending order; see :func:`reasons_of`.
    """
    position = 0
    for first, last in missing:
        start = first
        while start <= last:
            while position < len(reasons) and reasons[position][1] < start:
                position += 1
            reason: str | None = None
            end = last
            if position < len(reasons):
                begin, its_end, its_reason = reasons[position]
                if begin > start:
                    end = min(last, begin - 1)
                else:
                    end, reason = min(last, its_end), its_reason
            yield start, end, reason
            start = end + 1
