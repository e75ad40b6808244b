"""The reports of this run: what they say, and when one is due.

A report is due when a connection opens, and half a minute after something in it has changed. The
last one is written at the end: of the client, or of the player's consent. See
:mod:`redvsblue_telemetry._report`.
"""

from __future__ import annotations

from collections.abc import Callable
from time import time_ns  # a module-level name, so that tests can freeze it

import msgspec

from .._recording.codec import EncodedEvent, EventCodec
from .._recording.ledger import DropReason, Ledger
from .._recording.store import Store
from .._report import Report, State, encode_report
from .._shared import VERSION
from .gaps import REJECTED, GapLog
from .window import DeliveryWindow

__all__ = ["Reporter"]

_INTERVAL = 30.0  # seconds from a change to the report of it
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
        clock: Callable[[], float],
    ) -> None:
        self._codec = codec
        self._store = store
        self._window = window
        self._ledger = ledger
        self.gaps = GapLog()
        """Which events will not come, and why."""
        self._most_bytes = most_bytes
        self._clock = clock
        self._started_at = time_ns() // 1_000_000
        self._number = 0
        self._written: _Change | None = None  # as of the last report
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
            self._ledger.read().sampled,
            self.reconnects,
        )

    def write(self, reason: str | None = None) -> bytes:
        """Return the next report.

        Args:
            reason: how the session has ended; None while it runs.
        """
        self.due_at, self._written = None, self._change()
        self._number += 1
        gaps, counts = self.gaps.runs(), self.gaps.counts
        pushed = self._store.pushed
        delivered, rejected = self._window.own_delivered, counts.get(REJECTED, 0)
        dropped = {reason: counts[reason] for reason in _DROPS if reason in counts}
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
            rejected=self._ledger.rejected_by_emit + rejected,
            dropped=dropped,
            sampled=self._ledger.read().sampled,
            gaps=gaps,
            reconnects=self.reconnects,
            sdk=VERSION,
            version=self._codec.version or msgspec.UNSET,
        )
        return encode_report(report, self._most_bytes)
