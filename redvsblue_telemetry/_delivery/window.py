"""The window: batches in flight, their confirmation, and refused batches.

Theory of operation
-------------------

The window is the sending half of the delivery protocol, with no socket and no clock in it: time
is passed in. A batch goes through it like this::

    load ──▶ unsent ── mark_sent ──▶ sent ── confirm ──▶ delivered
               ▲                       │
               └── connection_lost ────┘   (same order, same bytes, before anything new)

Batches are numbered from 1 on each connection, in the order of sending. Confirmations are
cumulative: *n* confirms the batches 1…*n*.

A server with an archive confirms a batch only when it is archived, which takes seconds, and says
before that it is *stored* (``mark_stored``). A stored batch stays in the window, since it is sent
again if the connection is lost. In everything else it counts as taken: it can't be overdue, and it
is not suspected of a refusal.

A server that closes the connection because of the content of a batch would do so forever. So the
batch is found and taken apart. While several batches are in flight, it can be any of them: they are
sent again *one by one*, each only after the one before is confirmed. A refused batch that was alone
in flight is halved, and its halves are sent one by one in turn, until a single event is refused:
that one is dropped. Close code 1009 (message too big) is a refusal at once. The other codes that
can mean a refusal can also mean that the server has a problem, so they count only if they hit the
same batch several times with no progress in between. Events leave the window in the order of
loading, so a single event that was refused behind stored batches is not dropped yet: it is sent
once more, when all of these are confirmed.

A report (see :mod:`.report`) is a message as well, but one without events. It takes a number and is
confirmed like a batch. It is not sent again, since a newer one takes its place. It must not make an
event suspect, nor an event the report, so where both were in flight at a refusal, each is alone in
flight next time. If the server refuses a report that is alone, it gets no more of them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence

__all__ = ["Batch", "DeliveryWindow", "InvalidConfirmationError"]

TOO_BIG = 1009
REFUSALS = frozenset({1003, 1007, 1008, TOO_BIG, 1011})
_REFUSALS_BEFORE_SPLIT = 3
"""After this many closes in a row, the batch at the front is taken to be the cause."""


class InvalidConfirmationError(Exception):
    """The peer confirmed a batch that was never sent, or fewer than before."""


class Batch:
    """One message: events as bytes, or a report, which has none."""

    __slots__ = (
        "confirmed",
        "events",
        "is_last_to_go",
        "is_suspect",
        "numbers",
        "refusals",
        "sent_at",
        "size",
        "source",
    )

    def __init__(
        self,
        events: tuple[bytes, ...],
        numbers: Sequence[int] = (),
        source: object = None,
        refusals: int = 0,
    ) -> None:
        self.events = events
        self.numbers = numbers
        """The number of each event in its session."""
        self.source = source
        """The earlier run whose events they are, or whose report it is; None for this run."""
        self.refusals = refusals
        """How often in a row the server closed with this batch at the front."""
        self.is_suspect = False
        """Whether the server may have refused it, so that it is sent by itself."""
        self.is_last_to_go = False
        """Whether it is a refused event that waits until all batches before it are confirmed."""
        self.sent_at = 0.0
        """When it was last sent, by the caller's clock."""
        self.confirmed: Callable[[], object] | None = None
        """Called when a report is confirmed."""
        self.size = _size(events)
        """Bytes on the wire, with the array's brackets and commas."""


def _size(events: Sequence[bytes]) -> int:
    return sum(map(len, events)) + len(events) + 1


class DeliveryWindow:
    """The batches on their way. Used by the worker thread only.

    Args:
        max_batches: the largest number of batches in it.
        max_bytes: once its batches have this many bytes, there is no room for more.
        max_batch_bytes: the largest size of one batch.
        confirm_timeout: seconds after which a batch that is neither confirmed nor stored means a
            dead connection.
    """

    def __init__(
        self,
        *,
        max_batches: int,
        max_bytes: int,
        max_batch_bytes: int,
        confirm_timeout: float,
    ) -> None:
        self._max_batches = max_batches
        self._max_bytes = max_bytes
        self._max_batch_bytes = max_batch_bytes
        self._confirm_timeout = confirm_timeout
        self._unsent: deque[Batch] = deque()
        self._sent: deque[Batch] = deque()
        self._stored: deque[Batch] = deque()  # were sent before all of these
        self._bytes = 0
        self._confirmed = 0  # the number of the last confirmed batch on this connection
        self._stored_events = 0
        self._suspects = 0  # how many batches are sent one by one
        self._progress_at = 0.0
        self._report_refusals: dict[object, int] = {}  # by the run that the report is about
        self._are_reports_alone = False  # whether they wait until nothing else is in flight
        self.refuses_reports = False
        """Whether the server has refused a report, so that it gets no more."""
        self.own_delivered = 0
        """Events of this run that were confirmed."""
        self.in_flight = 0
        """Events in the window: sent, or about to be, and not yet confirmed."""
        self.loaded = 0
        """Events that ever entered the window. Those that are not ``in_flight`` are settled."""
        self.round_trip: float | None = None
        """Seconds from sending to confirmation, for the batch confirmed last."""

    @property
    def has_room(self) -> bool:
        """Whether another batch may be loaded."""
        is_full = self._count >= self._max_batches or self._bytes >= self._max_bytes
        return not (is_full or self._suspects)

    @property
    def is_half_empty(self) -> bool:
        """Whether there is so much room that less urgent events may be loaded, too."""
        is_half_full = 2 * self._count >= self._max_batches or 2 * self._bytes >= self._max_bytes
        return not (is_half_full or self._suspects)

    @property
    def _count(self) -> int:
        return len(self._stored) + len(self._sent) + len(self._unsent)

    @property
    def last_sent(self) -> int:
        """The number of the newest batch sent on this connection; 0 before the first."""
        return self._confirmed + len(self._stored) + len(self._sent)

    @property
    def is_empty(self) -> bool:
        """Whether no event is on its way."""
        return not self.in_flight

    @property
    def awaits_confirmation(self) -> bool:
        """Whether events were sent on this connection and are neither confirmed nor stored."""
        return any(batch.events for batch in self._sent)

    @property
    def arrived(self) -> int:
        """Of the events that ever entered the window, how many have been stored or have left it.

        Those that have to be sent again don't count until they are stored again.
        """
        return self.loaded - self.in_flight + self._stored_events

    @property
    def may_report(self) -> bool:
        """Whether a report may be sent now."""
        is_alone = self._are_reports_alone or self._suspects
        return not (self.refuses_reports or (is_alone and self._sent))

    def has_refused_report(self, source: object) -> bool:
        """Return whether the server may have refused the last report about a run."""
        return source in self._report_refusals

    def mark_report_sent(
        self, now: float, confirmed: Callable[[], object], source: object = None
    ) -> int:
        """Note a report as sent; return its number on this connection.

        Args:
            now: the time.
            confirmed: called once it is confirmed, unless the connection is lost before.
            source: the earlier run that it is about; None for this one.
        """
        report = Batch((), source=source, refusals=self._report_refusals.get(source, 0))
        report.confirmed = confirmed
        report.sent_at = now
        self._sent.append(report)
        return self.last_sent

    @property
    def own_numbers(self) -> list[Sequence[int]]:
        """The numbers of this run's own events that are in flight, in order, in pieces."""
        batches = (*self._stored, *self._sent, *self._unsent)
        return [b.numbers for b in batches if b.source is None and b.events]

    def load(
        self, events: Sequence[bytes], numbers: Sequence[int] = (), source: object = None
    ) -> None:
        """Add events as one batch, or as several if one would be too large.

        Args:
            events: as on the wire.
            numbers: the number of each in its session.
            source: the earlier run that they are of; None for this one.
        """
        if not events:
            return
        batch = Batch(tuple(events), numbers, source)
        if batch.size <= self._max_batch_bytes or len(events) == 1:
            self._append(batch)
            return
        start = size = 0
        for index, event in enumerate(events):
            if index > start and size + len(event) + 2 > self._max_batch_bytes:
                self._append(Batch(tuple(events[start:index]), numbers[start:index], source))
                start, size = index, 0
            size += len(event) + 1
        self._append(Batch(tuple(events[start:]), numbers[start:], source))

    def _append(self, batch: Batch) -> None:
        self._unsent.append(batch)
        self.loaded += len(batch.events)
        self._bytes += batch.size
        self.in_flight += len(batch.events)

    def next_unsent(self) -> Batch | None:
        """Return the batch to send now; None if there is none or it has to wait."""
        if not self._unsent:
            return None
        front = self._unsent[0]
        if self._sent and (front.is_suspect or self._sent[-1].is_suspect):
            return None
        if self._stored and front.is_last_to_go:
            return None
        return front

    def mark_sent(self, now: float) -> int:
        """Mark the batch of :meth:`next_unsent` as sent; return its number on this connection."""
        batch = self._unsent.popleft()
        batch.sent_at = now
        self._sent.append(batch)
        return self.last_sent

    def mark_stored(self, number: int, now: float) -> int:
        """Mark the batches up to ``number`` as stored; return how many events that is new for.

        Raises:
            InvalidConfirmationError: the number was not sent, or is lower than the last one.
        """
        known = self._confirmed + len(self._stored)
        if not known <= number <= self.last_sent:
            raise InvalidConfirmationError(
                f"it has stored batch {number}; expected {known} to {self.last_sent}"
            )
        before = self._stored_events
        for _ in range(number - known):
            batch = self._take(now)
            self._stored.append(batch)
            self._stored_events += len(batch.events)
        return self._stored_events - before

    def _take(self, now: float) -> Batch:
        """Return the oldest batch that the server had not taken yet, and now has."""
        batch = self._sent.popleft()
        self._progress_at = now
        batch.refusals = 0
        if batch.confirmed is not None:
            self._report_refusals.pop(batch.source, None)
            self._are_reports_alone = bool(self._report_refusals)
        elif batch.is_suspect:
            batch.is_suspect = batch.is_last_to_go = False
            self._suspects -= 1
        return batch

    def confirm(self, number: int, now: float) -> int:
        """Mark the batches up to ``number`` as delivered; return how many events they have.

        Raises:
            InvalidConfirmationError: the number was not sent, or is lower than the last one.
        """
        if not self._confirmed <= number <= self.last_sent:
            raise InvalidConfirmationError(
                f"it confirms batch {number}; expected {self._confirmed} to {self.last_sent}"
            )
        delivered = 0
        for _ in range(number - self._confirmed):
            if self._stored:
                batch = self._stored.popleft()
                self._stored_events -= len(batch.events)
                self._progress_at = now
            else:
                batch = self._take(now)
            if batch.confirmed is not None:
                batch.confirmed()
                continue
            count = self._forget(batch)
            delivered += count
            if batch.source is None:
                self.own_delivered += count
            self.round_trip = now - batch.sent_at
        self._confirmed = number
        return delivered

    @property
    def overdue_at(self) -> float | None:
        """When the connection counts as dead; None while all is confirmed or stored.

        The time counts from the last progress, so a slow link that moves is not a dead one.
        """
        if not self._sent:
            return None
        return max(self._sent[0].sent_at, self._progress_at) + self._confirm_timeout

    def connection_lost(self, close_code: int | None = None) -> Batch | None:
        """Put the unconfirmed batches back in front, to be sent again on the next connection.

        Args:
            close_code: the code with which the server closed, if it did.

        Returns:
            The event that the server refused, alone in its batch, if it has been found. It is out
            of the window.
        """
        stored = [batch for batch in self._stored if batch.events]
        flight = [batch for batch in self._sent if batch.events or batch.confirmed]
        self._stored.clear()
        self._sent.clear()
        self._confirmed = self._stored_events = 0
        self._unsent.extendleft(reversed([batch for batch in flight if batch.events]))
        refused = self._search(flight, close_code, is_first=not stored)
        self._unsent.extendleft(reversed(stored))
        return refused

    def _search(
        self, flight: Sequence[Batch], close_code: int | None, *, is_first: bool
    ) -> Batch | None:
        """Look among the batches that the server has not taken for the one that it refused."""
        if not flight or close_code not in REFUSALS:
            return None
        front = flight[0]
        front.refusals = max(
            front.refusals + 1, _REFUSALS_BEFORE_SPLIT if close_code == TOO_BIG else 0
        )
        if not front.events:
            self._report_refusals[front.source] = front.refusals
        if front.refusals < _REFUSALS_BEFORE_SPLIT:
            return None
        # What was too big is not suspected of anything else, so its parts start at 0.
        refusals = 0 if close_code == TOO_BIG else _REFUSALS_BEFORE_SPLIT - 1
        if len(flight) > 1:
            # It can be any of them; the one that is refused when sent alone is the one.
            for suspect in flight:
                suspect.refusals = refusals
                if suspect.events:
                    self._suspect(suspect)
                else:
                    self._report_refusals[suspect.source] = refusals
                    self._are_reports_alone = True
            return None
        if not front.events:
            self.refuses_reports = True
            return None
        if len(front.events) == 1 and not is_first:
            self._suspect(front)
            front.is_last_to_go = True
            return None
        return self._take_apart(self._unsent.popleft(), refusals)

    def _suspect(self, batch: Batch) -> None:
        self._suspects += not batch.is_suspect
        batch.is_suspect = True

    def _take_apart(self, batch: Batch, refusals: int) -> Batch | None:
        """Halve a refused batch, or take a single event out of the window and return it."""
        self._suspects -= batch.is_suspect
        size = self._forget(batch)
        if size == 1:
            return batch
        middle = size // 2
        for half in (slice(middle, None), slice(middle)):
            part = Batch(batch.events[half], batch.numbers[half], batch.source, refusals)
            self._unsent.appendleft(part)
            self._bytes += part.size
            self.in_flight += len(part.events)
            self._suspect(part)
        return None

    def discard(self) -> int:
        """Remove all events; return how many there were.

        The messages that were sent on this connection keep their numbers.
        """
        discarded = self.in_flight
        self._unsent.clear()
        for batch in (*self._stored, *self._sent):
            batch.events = ()
            batch.is_suspect = batch.is_last_to_go = False
        self._bytes = self._suspects = self.in_flight = self._stored_events = 0
        return discarded

    def _forget(self, batch: Batch) -> int:
        if batch.events:  # or else they were discarded
            self._bytes -= batch.size
            self.in_flight -= len(batch.events)
        return len(batch.events)
