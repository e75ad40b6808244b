"""The reports of this run: what they say, and when one is due.

A report is due when a connection opens, and half a minute after something in it has changed. The
last one is written at the end: of the client, or of the player's consent. See
:mod:`redvsblue_telemetry._report`.

With a journal, the report is also saved beside the events, for the next start, which sends the last
one if this process is killed. It is saved before it is sent, so that no number is used twice, and
before the journal forgets an event that was dropped, so that each gap has its reason.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from time import time_ns  # a module-level name, so that tests can freeze it

import msgspec

from .._recording.codec import EncodedEvent, EventCodec
from .._recording.ledger import DropReason, Ledger
from .._recording.store import Store
from .._report import Report, State, encode_report
from .._shared import VERSION
from .gaps import REJECTED, GapLog
from .window import DeliveryWindow

__all__ = ["Reporter", "outside"]

_INTERVAL = 30.0  # seconds from a change to the report of it
_SAVE_INTERVAL = 1.0  # seconds between two times that it is saved
_SAVE_GAPS_INTERVAL = 0.1  # the same if there are new gaps: the journal waits for it
_DROPS = tuple(reason.value for reason in DropReason)

_Change = tuple[object, ...]


class Reporter:
    """Writes the reports of this run. Used by the worker thread only.

    Args:
        codec: names the session.
        store: has the events that wait.
        window: has those in flight.
        ledger: counts what is not in the gaps.
        most_bytes: of one report. Beyond it, the oldest gaps are left out.
        save: saves a report for the next start, if there is a journal.
        clock: returns monotonic seconds.
    """

    def __init__(
        self,
        *,
        codec: EventCodec,
        store: Store[EncodedEvent],
        window: DeliveryWindow,
        ledger: Ledger,
        most_bytes: int,
        save: Callable[[bytes], object] | None,
        clock: Callable[[], float],
    ) -> None:
        self._codec = codec
        self._store = store
        self._window = window
        self._ledger = ledger
        self.gaps = GapLog()
        """Which events will not come, and why."""
        self._most_bytes = most_bytes
        self._save = save
        self._clock = clock
        self._started_at = time_ns() // 1_000_000
        self._number = 0
        self._written: _Change | None = None  # as of the last report
        self._saved: _Change | None = None  # likewise, in the journal
        self._saved_gaps = -1  # how many changes of the gaps are in it
        self._saved_ending: str | None = None
        self._saved_at = -math.inf
        self.save_at: float | None = None
        """When :meth:`save_changes` has something to save; None while it has not."""
        self.ending: str | None = None
        """How the session ends, once a stop has begun: saved at once, since the process may be gone
        before the last report is written."""
        self.reconnects = 0
        """How often a connection was made again."""
        self.due_at: float | None = None
        """When the next report is due; None while nothing has changed."""

    def ask(self) -> None:
        """Have a report due now."""
        self.due_at = self._clock()

    @property
    def is_due(self) -> bool:
        """Whether a report is due."""
        return self.due_at is not None and self._clock() >= self.due_at

    def look(self) -> None:
        """Find out whether something has changed since the last report."""
        if self.due_at is None and self._change() != self._written:
            self.due_at = self._clock() + _INTERVAL

    def _change(self) -> _Change:
        """Return values that differ whenever two reports would."""
        return (
            self._store.pushed,
            self._window.own_delivered,
            self.gaps.changes,
            self._ledger.rejected_by_emit,
            self._ledger.sampled,
            self.reconnects,
        )

    def write(self, reason: str | None = None) -> bytes:
        """Return the next report.

        Args:
            reason: how the session has ended; None while it runs.
        """
        self._number += 1
        self.due_at, self._written = None, self._change()
        message = self._message(reason)
        if self._save is not None:
            self._save(message)
            self._note_saved()
        return message

    def save_changes(self, *, at_once: bool = False) -> bool:
        """Save the report in the journal if it has changed, but not too often.

        Args:
            at_once: in any case.

        Returns:
            Whether all gaps are saved, so that the journal may forget their events.
        """
        if self._save is None:
            return True
        has_new_gaps = self.gaps.changes != self._saved_gaps
        is_pressing = has_new_gaps or self.ending != self._saved_ending
        if not is_pressing and self._change() == self._saved:
            return True
        interval = _SAVE_GAPS_INTERVAL if is_pressing else _SAVE_INTERVAL
        self.save_at = self._saved_at + interval
        if at_once or self._clock() >= self.save_at:
            self._save(self._message(self.ending))
            self._note_saved()
            return True
        return not has_new_gaps

    def _note_saved(self) -> None:
        self._saved, self._saved_gaps = self._change(), self.gaps.changes
        self._saved_ending = self.ending
        self._saved_at, self.save_at = self._clock(), None

    def forget_saved(self) -> None:
        """Save it anew: the journal was erased."""
        self._saved, self._saved_gaps, self._saved_at = None, -1, -math.inf

    def _message(self, reason: str | None) -> bytes:
        gaps, counts = self.gaps.runs(), self.gaps.counts
        pushed = self._store.pushed
        delivered, rejected = self._window.own_delivered, counts.get(REJECTED, 0)
        dropped = {reason: counts[reason] for reason in _DROPS if reason in counts}
        ledger = self._ledger
        report = Report(
            session_id=self._codec.session_id,
            number=self._number,
            state=State.RUNNING if reason is None else State.ENDED,
            reason=msgspec.UNSET if reason is None else reason,
            started_at=self._started_at,
            at=time_ns() // 1_000_000,
            last_seq=pushed,
            emitted=pushed - rejected,
            delivered=delivered,
            buffered=pushed - rejected - delivered - sum(dropped.values()),
            rejected=ledger.rejected_by_emit + rejected,
            dropped=dropped,
            sampled=ledger.sampled,
            gaps=gaps,
            reconnects=self.reconnects,
            sdk=VERSION,
            version=self._codec.version or msgspec.UNSET,
        )
        return encode_report(report, self._most_bytes)


def outside(numbers: Sequence[int], runs: Sequence[tuple[int, int]]) -> Sequence[int]:
    """Return the numbers that are in none of the runs. All are ascending."""
    if not numbers or any(first <= numbers[0] and numbers[-1] <= last for first, last in runs):
        return ()
    left = iter(runs)
    first, last = next(left, (math.inf, math.inf))
    result = []
    for number in numbers:
        while number > last:
            first, last = next(left, (math.inf, math.inf))
        if number < first:
            result.append(number)
    return result
