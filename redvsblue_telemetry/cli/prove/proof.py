"""Compares the report of a session with the numbers of its events that are stored.

A client knows three fates of an event: it was delivered, it was dropped, or it waits on the
player's machine. Events are delivered in order, so those that wait are the newest of those that
weren't dropped. So of the numbers up to the last one in the report, each is stored, or is in a run
of the report's gaps, or waits; and the counts of both sides agree. Anything else is a problem: the
client, the server or the database has lost events without a trace.

Pure: knows nothing of databases and terminals.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Iterator, Sequence

import msgspec

from ..._report import MAX_GAPS, Report, State
from ..._shared import LARGEST_INTEGER
from ...collector.models import Cause
from ...collector.storage.losses import explained, reasons_of, start_of

__all__ = ["Proof", "Verdict", "prove_session"]

_FORWARDED = "forwarded"
"""The one reason that is not a drop: the event was sent under its own session or number."""
_REJECTED = "rejected"
"""``before_send`` raised. The report counts these apart from the drops."""

_MAX_SHOWN = 8  # runs of numbers in the text of a problem


class Verdict(str, enum.Enum):
    """The result of a proof."""

    PROVED = "proved"
    """The session has ended. Each of its events is stored, waits, or has a reason not to come."""
    FAILED = "failed"
    """The stored events contradict the report, or one of them contradicts itself."""
    OPEN = "open"
    """No contradiction; but the session has no report, or one that was not its last."""


class Proof(msgspec.Struct, rename="camel", kw_only=True):
    """The result for one session."""

    verdict: Verdict
    last_seq: int
    """The last number that was examined: that of the report, or the highest one that is stored."""
    stored: int
    """How many numbers from 1 to the last one were stored, also if their events have been deleted
    since."""
    deleted: int = 0
    """How many events were stored and then deleted."""
    missing: dict[str, int] = {}
    """How many are missing for a reason that is in the report, by reason; see also
    :attr:`Cause.DROPPED`."""
    waiting: int = 0
    """How many are missing since they wait on the player's machine, by the report."""
    unexplained: int = 0
    """How many are missing otherwise."""
    problems: list[str] = []


def prove_session(
    report: Report | None,
    ranges: Iterable[tuple[int, int]],
    events: int | None,
    deleted: int = 0,
) -> Proof:
    """Compare the report of a session with its stored events.

    Args:
        report: the last one; None if there is none.
        ranges: the numbers that were stored, as first and last number, in ascending order.
        events: how many events are stored; None if that isn't known.
        deleted: how many more were stored, and then deleted on purpose.
    """
    numbers = _Numbers(ranges, report.last_seq if report else None)
    losses = _Losses(report)
    for run in explained(numbers.missing(), losses.gaps):
        losses.add(*run)
    last = report.last_seq if report else numbers.highest
    proof = Proof(verdict=Verdict.OPEN, last_seq=last, stored=last - losses.total)
    proof.missing, proof.deleted = losses.by_reason, deleted
    if events is not None and numbers.count != events + deleted:
        and_deleted = f", and {deleted:,} deleted" if deleted else ""
        proof.problems.append(
            f"{events:,} events are stored{and_deleted}, under {numbers.count:,} numbers"
        )
    if report is None:
        proof.unexplained = losses.total
    else:
        _compare(proof, report, losses)
        if report.state == State.ENDED and numbers.highest > last:
            proof.problems.append(
                f"the report's last number is {last:,}, but {numbers.highest:,} is stored"
            )
    if proof.problems:
        proof.verdict = Verdict.FAILED
    elif report is not None and report.state == State.ENDED:
        proof.verdict = Verdict.PROVED
    return proof


class _Numbers:
    """The stored numbers, which are counted while :meth:`missing` reads them."""

    def __init__(self, ranges: Iterable[tuple[int, int]], last: int | None) -> None:
        self._ranges = ranges
        self._last = last
        self.count = 0
        self.highest = 0

    def missing(self) -> Iterator[tuple[int, int]]:
        """Yield the runs that are missing up to the last number; without one, up to the highest."""
        expected = 1
        for first, end in self._ranges:
            self.count += end - first + 1
            self.highest = max(self.highest, end)
            before = first - 1 if self._last is None else min(first - 1, self._last)
            if expected <= before:
                yield expected, before
            expected = max(expected, end + 1)
        if self._last is not None and expected <= self._last:
            yield expected, self._last


class _Losses:
    """The missing numbers by reason."""

    def __init__(self, report: Report | None) -> None:
        self.gaps = reasons_of(report) if report else []
        self._start = start_of(report, self.gaps) if report else 1
        self._first_waiting = _first_waiting(report, self.gaps) if report else LARGEST_INTEGER
        self.total = 0
        self.by_reason: dict[str, int] = {}
        self.waiting = 0
        self.old = 0
        """Those that are older than all gaps, if the report had no room for more."""
        self.others = 0
        """Those for which the report has no reason."""
        self.first_others: list[tuple[int, int]] = []

    def add(self, first: int, last: int, reason: str | None) -> None:
        """Count a run of missing numbers."""
        self.total += last - first + 1
        if reason is not None:
            self.by_reason[reason] = self.by_reason.get(reason, 0) + last - first + 1
            return
        if last >= self._first_waiting:
            self.waiting += last - max(first, self._first_waiting) + 1
            last = self._first_waiting - 1
        if first > last:
            return
        if last < self._start:
            self.old += last - first + 1
            return
        self.others += last - first + 1
        if len(self.first_others) <= _MAX_SHOWN:
            self.first_others.append((first, last))


def _first_waiting(report: Report, gaps: Sequence[tuple[int, int, str]]) -> int:
    """Return the lowest number that can wait: of those outside the gaps, as many as wait can."""
    end, left = report.last_seq, report.buffered
    for first, last, _ in reversed(gaps):
        if left <= end - last:
            break
        left -= max(0, end - last)
        end = min(end, first - 1)
    return max(1, end - left + 1)


def _compare(proof: Proof, report: Report, losses: _Losses) -> None:
    """Compare the counts of a report with those of the numbers that are missing."""
    counts = {**report.dropped, _REJECTED: report.rejected}
    counts[_FORWARDED] = forwarded = losses.by_reason.get(_FORWARDED, 0)
    balance = {
        reason: counts.get(reason, 0) - losses.by_reason.get(reason, 0)
        for reason in {*counts, *losses.by_reason}
    }
    proof.waiting = losses.waiting
    forgotten = min(losses.old, sum(max(0, balance[reason]) for reason in report.dropped))
    if forgotten:
        proof.missing[Cause.DROPPED] = forgotten
    proof.unexplained = losses.others + losses.old - forgotten
    if proof.unexplained:
        proof.problems.append(_unexplained(proof.unexplained, losses))
    # To make room, a client joins runs of one reason, with the numbers between them: also if those
    # are still on their way.
    spare = report.buffered - proof.waiting if len(losses.gaps) >= MAX_GAPS else 0
    if -sum(min(0, count) for count in balance.values()) > spare:
        proof.problems += [
            f"{losses.by_reason[reason]:,} are missing as {reason}, but the report counts "
            f"{counts.get(reason, 0):,}"
            for reason, count in balance.items()
            if count < 0
        ]
    if report.delivered > proof.stored + forwarded:
        proof.problems.append(f"{report.delivered:,} are delivered, but {proof.stored:,} stored")
    dropped = sum(report.dropped.values())
    if report.emitted != report.delivered + dropped + report.buffered:
        proof.problems.append(
            f"the report does not add up: {report.emitted:,} emitted, {report.delivered:,} "
            f"delivered, {dropped:,} dropped, {report.buffered:,} waiting"
        )
    if not report.emitted <= report.last_seq <= report.emitted + report.rejected:
        proof.problems.append(
            f"the report's last number is {report.last_seq:,}, but it counts {report.emitted:,} "
            "emitted"
        )


def _unexplained(count: int, losses: _Losses) -> str:
    text = f"{count:,} {'is' if count == 1 else 'are'} missing without a reason"
    if count != losses.others:
        return text
    runs = [
        f"{first:,}" if first == last else f"{first:,}-{last:,}"
        for first, last in losses.first_others
    ]
    return f"{text}: {', '.join(runs[:_MAX_SHOWN])}{', …' if len(runs) > _MAX_SHOWN else ''}"
