"""The last report of an earlier run, as its adopter finds that run. Pure: it opens no file.

The run has saved a report now and then, and each time before its files forgot an event that was
dropped. So the numbers up to the settled one are as that report says: dropped where it has a gap,
and delivered otherwise. The rest is found out anew from the events themselves. A number
that none of them has was dropped by the limits, if it is from before the files that are left, and
otherwise its record is damaged; unless the saved report knows another reason.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from .._recording.codec import EncodedEvent
from .._recording.ledger import DropReason
from .._report import Reason, Report, State, encode_report
from .gaps import FORWARDED, REJECTED, Gap, GapLog

__all__ = ["ClosingReport"]

DAMAGED = "damaged"
"""The event's record can't be read, or a power cut took it."""
_NUMBER_AFTER_A_LOST_ONE = 1_000_000
"""Is higher than that of any report which the run can have sent. Two reports a minute make a
million in a year."""
_NANOSECONDS_PER_MILLISECOND = 1_000_000


class ClosingReport:
    """Finds out what became of an earlier run. Used by the worker thread only.

    Args:
        saved: the report that the run, or an earlier adopter, has saved last.
        is_lost: whether there was one that can't be read.
        confirmed: up to which number its events are settled, as its files say.
        first: the number of the first event in its files; None if it has no files.
        last: the number of the last one.
        most_bytes: the limit of one report, in bytes. Beyond it, the oldest gaps are left out.
    """

    def __init__(
        self,
        saved: Report,
        *,
        is_lost: bool,
        confirmed: int,
        first: int | None,
        last: int,
        most_bytes: int,
    ) -> None:
        self._saved = saved
        self._number = _NUMBER_AFTER_A_LOST_ONE if is_lost else saved.number + 1
        self._most_bytes = most_bytes
        self._has_files = first is not None
        self._first = first or 0
        self._last = max(last, saved.last_seq)
        self._seen = settled = confirmed if self._has_files else self._last
        self._seen_at: int | None = None
        self._gaps = GapLog()
        self._dropped = dict(saved.dropped)
        # Of these, only the ones that `before_send` has rejected have numbers.
        self._rejected = max(0, saved.last_seq - saved.emitted)
        self._known: list[Gap] = []
        for start, end, reason in saved.gaps:
            if start <= settled:
                self._gaps.add(start, min(end, settled), reason)
            if end > settled:
                self._known.append((max(start, settled + 1), end, reason))
                self._count(reason, -(end - max(start - 1, settled)))
        self.is_saved = True
        """Whether all that was found out is in a report that was saved. The caller sets it."""

    # What becomes of the events.

    def see(self, taken: list[tuple[EncodedEvent, int]]) -> None:
        """Note that events were taken from the files, in the order of their numbers."""
        if taken[-1][1] != self._seen + len(taken):
            for _, number in taken:
                self._miss(self._seen + 1, number - 1)
                self._seen = number
        self._seen = taken[-1][1]
        self._seen_at = taken[-1][0].time // _NANOSECONDS_PER_MILLISECOND

    def see_end(self) -> None:
        """Note that no event is left in the files."""
        if not self._has_files:
            self._miss_unsaved()
        self._miss(self._seen + 1, self._last)
        self._seen = self._last

    def drop(self, numbers: Iterable[int], reason: str) -> None:
        """Note that events which were taken will not come."""
        numbers = list(numbers)
        self._gaps.add_each(numbers, reason)
        self._count(reason, len(numbers))
        self.is_saved = False

    def skip(self, last: int) -> None:
        """Note that the limits drop the events up to a number, which were not taken."""
        self._add(self._seen + 1, last, DropReason.EXPIRED.value)
        self._seen = max(self._seen, last)

    def _miss(self, first: int, last: int) -> None:
        """Explain the numbers from one to another, which no event has."""
        for start, end, reason in self._known:
            if start <= last and end >= first:
                self._miss_unknown(first, start - 1)
                self._add(max(first, start), min(last, end), reason)
                first = end + 1
        self._miss_unknown(first, last)

    def _miss_unknown(self, first: int, last: int) -> None:
        self._add(first, min(last, self._first - 1), DropReason.EXPIRED.value)
        self._add(max(first, self._first), last, DAMAGED)

    def _miss_unsaved(self) -> None:
        """Explain the losses of a killed run whose events were in memory only."""
        saved = self._saved
        waiting = saved.emitted - saved.delivered - sum(saved.dropped.values())
        self._add(max(1, self._last - waiting + 1), self._last, DAMAGED)

    def _add(self, first: int, last: int, reason: str) -> None:
        if first <= last:
            self._gaps.add(first, last, reason)
            self._count(reason, last - first + 1)
            self.is_saved = False

    def _count(self, reason: str, more: int) -> None:
        if reason == REJECTED:
            self._rejected = max(0, self._rejected + more)
        elif reason != FORWARDED:
            self._dropped[reason] = max(0, self._dropped.get(reason, 0) + more)

    # The reports.

    def interim(self, in_flight: tuple[int, int] | None = None) -> bytes:
        """Return a report for the next adopter, in case that this process is killed.

        Args:
            in_flight: events from one number to another, which the files are about to lose. If they
                are delivered, the next report says so.
        """
        gaps, dropped = self._gaps.runs(), self._dropped
        if in_flight is not None:
            log = GapLog()
            for gap in gaps:
                log.add(*gap)
            log.add(*in_flight, DropReason.EXPIRED.value)
            gaps = log.runs()
            more = in_flight[1] - in_flight[0] + 1
            expired = DropReason.EXPIRED.value
            dropped = {**dropped, expired: dropped.get(expired, 0) + more}
        return self._written(self._saved, gaps, dropped)

    def final(self, now: int) -> bytes:
        """Return the report for the server.

        Args:
            now: milliseconds since the epoch.
        """
        saved = self._saved
        report = msgspec.structs.replace(saved, number=self._number, state=State.ENDED)
        if saved.state == State.RUNNING:
            report.reason = Reason.KILLED
            # The game may have given its events any time.
            if self._seen_at is not None and report.at < self._seen_at <= now:
                report.at = self._seen_at
        return self._written(report, self._gaps.runs(), self._dropped)

    def _written(self, report: Report, gaps: list[Gap], dropped: dict[str, int]) -> bytes:
        dropped = {reason: count for reason, count in dropped.items() if count}
        emitted = self._last - self._rejected
        saved = self._saved
        report = msgspec.structs.replace(
            report,
            last_seq=self._last,
            emitted=emitted,
            delivered=max(0, emitted - sum(dropped.values())),
            buffered=0,
            rejected=max(0, saved.rejected - (saved.last_seq - saved.emitted)) + self._rejected,
            dropped=dropped,
            gaps=gaps,
        )
        return encode_report(report, self._most_bytes)
