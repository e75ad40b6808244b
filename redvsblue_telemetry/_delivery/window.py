"""What is in flight, what confirms it, and what becomes of a batch that the server won't have.

Theory of operation
-------------------

The window is the sending half of the delivery protocol, with no socket and no clock in it: time
is passed in. A batch goes through it like this::

    load ──▶ unsent ── mark_sent ──▶ sent ── confirm ──▶ delivered
               ▲                       │
               └── connection_lost ────┘   (same order, same bytes, before anything new)

Batches are numbered from 1 on each connection, in the order of sending. Confirmations are
cumulative: *n* confirms the batches 1…*n*.

A server that closes because of what a batch holds would close at it again for ever. So the batch
is found and taken apart. While several batches are in flight, nobody knows which one it was:
they are sent again *one by one*, each only when the one before is confirmed. A refused batch
that was alone in flight is halved, and its halves go one by one in turn, until one event is left
alone and refused: that one is dropped. Close code 1009 (message too big) refuses at once; the
others that can mean a refusal may as well be a server's bad moment, so they count as one only
when they hit the same batch again and again with no progress between.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

__all__ = ["Batch", "DeliveryWindow", "InvalidConfirmationError"]

TOO_BIG = 1009
REFUSALS = frozenset({1003, 1007, 1008, TOO_BIG, 1011})
_PATIENCE = 3
"""At so many closes in a row, the batch at the front is held to be their cause."""


class InvalidConfirmationError(Exception):
    """The peer confirmed what can't be: never sent, or less than before."""


class Batch:
    """Events that travel in one message, as their bytes on the wire."""

    __slots__ = ("events", "refusals", "sent_at", "size")

    def __init__(self, events: tuple[bytes, ...], refusals: int = 0) -> None:
        self.events = events
        self.refusals = refusals
        """How often in a row the server closed with this batch at the front."""
        self.sent_at = 0.0
        """When it was last sent, in seconds of the clock that the window is given."""
        self.size = _size(events)
        """Bytes on the wire, with the array's brackets and commas."""


def _size(events: Sequence[bytes]) -> int:
    return sum(map(len, events)) + len(events) + 1


class DeliveryWindow:
    """The batches that are under way. Used by the worker thread alone.

    Args:
        max_batches: the most batches in it.
        max_bytes: when its batches have so many bytes, there is no room for more.
        max_batch_bytes: the most bytes that one batch may have.
        confirm_timeout: seconds after which an unconfirmed batch means a dead connection.
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
        self._bytes = 0
        self._confirmed = 0  # the number of the last confirmed batch on this connection
        self._suspects = 0  # so many batches from the front on go one by one
        self._progress_at = 0.0
        self.in_flight = 0
        """Events in the window: sent, or about to be, and not yet confirmed."""
        self.loaded = 0
        """Events that ever came into the window; these minus ``in_flight`` are settled."""
        self.round_trip: float | None = None
        """Seconds from sending to confirmation, of the batch confirmed last."""

    @property
    def has_room(self) -> bool:
        """Whether another batch may be loaded."""
        count = len(self._sent) + len(self._unsent)
        return count < self._max_batches and self._bytes < self._max_bytes and not self._suspects

    @property
    def last_sent(self) -> int:
        """The number of the newest batch that was sent on this connection; 0 if none was."""
        return self._confirmed + len(self._sent)

    @property
    def is_empty(self) -> bool:
        """Whether nothing is under way."""
        return not self._sent and not self._unsent

    @property
    def awaits_confirmation(self) -> bool:
        """Whether a batch was sent on this connection and is not yet confirmed."""
        return bool(self._sent)

    def load(self, events: Sequence[bytes]) -> None:
        """Take events in, as one batch, or as several where one would have too many bytes."""
        if not events:
            return
        batch = Batch(tuple(events))
        if batch.size <= self._max_batch_bytes or len(events) == 1:
            self._append(batch)
            return
        start = size = 0
        for index, event in enumerate(events):
            if index > start and size + len(event) + 2 > self._max_batch_bytes:
                self._append(Batch(tuple(events[start:index])))
                start, size = index, 0
            size += len(event) + 1
        self._append(Batch(tuple(events[start:])))

    def _append(self, batch: Batch) -> None:
        self._unsent.append(batch)
        self.loaded += len(batch.events)
        self._bytes += batch.size
        self.in_flight += len(batch.events)

    def next_unsent(self) -> Batch | None:
        """The batch that has to be sent now, or None if there is none or it has to wait."""
        if not self._unsent or (self._suspects and self._sent):
            return None
        return self._unsent[0]

    def mark_sent(self, now: float) -> int:
        """Note that the batch of :meth:`next_unsent` was sent; its number on this connection."""
        batch = self._unsent.popleft()
        batch.sent_at = now
        self._sent.append(batch)
        return self.last_sent

    def confirm(self, number: int, now: float) -> int:
        """The peer has the batches up to ``number``: returns how many events that delivers.

        Raises:
            InvalidConfirmationError: the number is higher than any sent, or goes back.
        """
        if not self._confirmed <= number <= self.last_sent:
            raise InvalidConfirmationError(
                f"confirmed {number}, where {self._confirmed} to {self.last_sent} are possible"
            )
        delivered = 0
        for _ in range(number - self._confirmed):
            batch = self._sent.popleft()
            delivered += self._forget(batch)
            self.round_trip = now - batch.sent_at
            self._progress_at = now
            self._suspects = max(0, self._suspects - 1)
        self._confirmed = number
        return delivered

    @property
    def overdue_at(self) -> float | None:
        """When the connection has to be given up for dead; None while nothing is unconfirmed.

        The time counts from the last progress, so a slow link that moves is not a dead one.
        """
        if not self._sent:
            return None
        return max(self._sent[0].sent_at, self._progress_at) + self._confirm_timeout

    def connection_lost(self, close_code: int | None = None) -> bytes | None:
        """Put the unconfirmed batches back in front, to be sent again on the next connection.

        Args:
            close_code: what the server closed with, if it did.

        Returns:
            The one event that the server won't have, which is dropped; mostly None.
        """
        suspects = list(self._sent)
        self._unsent.extendleft(reversed(suspects))
        self._sent.clear()
        self._confirmed = 0
        if not suspects or close_code not in REFUSALS:
            return None
        front = suspects[0]
        front.refusals = max(front.refusals + 1, _PATIENCE if close_code == TOO_BIG else 0)
        if front.refusals < _PATIENCE:
            return None
        if len(suspects) > 1:
            # It can be any of them, and the close that hits it alone decides.
            for suspect in suspects:
                suspect.refusals = 0 if close_code == TOO_BIG else _PATIENCE - 1
            self._suspects = max(self._suspects, len(suspects))
            return None
        # The halves of a batch that is too big are under no other suspicion.
        return self._take_apart(
            self._unsent.popleft(), refusals=0 if close_code == TOO_BIG else _PATIENCE - 1
        )

    def _take_apart(self, batch: Batch, refusals: int) -> bytes | None:
        """Halve a refused batch; of a single event, return it: it is out of the window."""
        self._suspects = max(0, self._suspects - 1)
        size = self._forget(batch)
        if size == 1:
            return batch.events[0]
        middle = size // 2
        for half in (batch.events[middle:], batch.events[:middle]):
            part = Batch(half, refusals)
            self._unsent.appendleft(part)
            self._bytes += part.size
            self.in_flight += len(half)
            self._suspects += 1
        return None

    def discard(self) -> int:
        """Give up everything that is under way; returns how many events that is."""
        discarded = self.in_flight
        self._unsent.clear()
        self._sent.clear()
        self._bytes = self._confirmed = self._suspects = self.in_flight = 0
        return discarded

    def _forget(self, batch: Batch) -> int:
        self._bytes -= batch.size
        self.in_flight -= len(batch.events)
        return len(batch.events)
