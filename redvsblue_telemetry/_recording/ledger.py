"""The ledger: the fate of every event that was emitted.

Every event is in one place at a time, so at any moment::

    emitted + recovered == delivered + dropped + buffered + in_flight

``rejected`` events are apart: they were never accepted, or ``before_send`` raised for them.

Each event ends in one count, and the rest is derived. The store counts the events that were
pushed, that overflowed and that are waiting. The worker counts those that it took over from earlier
runs, and those that it delivered, dropped, rejected, or left in the journal. An event that has left
the store, or was taken over, and is in no count is in flight. So the sum can't be wrong: an event
that the worker lost would stay in flight forever, where a test finds it.

A new reason to drop events is one more :class:`DropReason`.
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, Any

import msgspec

from .._shared import keep_on_reload
from .counter import AtomicCounter
from .store import Store

if TYPE_CHECKING:
    from .sampling import Sampling

__all__ = ["Counts", "DropReason", "Ledger"]


@keep_on_reload
class DropReason(enum.Enum):
    """Why an event is dropped."""

    OVERFLOW = "overflow"
    """The store was full. The store counts these; it and the worker count the expired ones."""
    REFUSED = "refused"
    """The server closed the connection because of it."""
    FILTERED = "filtered"
    """``before_send`` returned None."""
    SWITCHED_OFF = "switched_off"
    """The player's toggle discarded it."""
    EXPIRED = "expired"
    """It was too old for the journal, or the journal had no room for it any more."""
    LEFT_BEHIND = "left_behind"
    """It was still undelivered at the end, and no journal keeps it."""


class Counts(msgspec.Struct, frozen=True):
    """All counts, at one moment."""

    emitted: int
    recovered: int
    delivered: int
    dropped: int
    buffered: int
    in_flight: int
    rejected: int
    dropped_by: dict[str, int]
    """The drops by reason. They add up to ``dropped``."""
    sampled: dict[str, int]
    """Events left out by sampling and rate limits, by type; apart from the others."""

    @property
    def is_settled(self) -> bool:
        """Whether nothing is waiting or in flight."""
        return not self.buffered and not self.in_flight


class Ledger:
    """Owns the counts of a session. Any thread may read it.

    Args:
        store: counts the events on the game's side.
        sampling: counts the events that it leaves out; None: there are none.
    """

    def __init__(self, store: Store[Any], sampling: Sampling | None = None) -> None:
        self._store = store
        self._sampling = sampling
        self.begin()

    def begin(self) -> None:
        """Count from zero. Only while no other thread uses it, such as after a fork."""
        # Written by any thread, in one uninterruptible call:
        self._rejected_by_emit = AtomicCounter()
        self.rejections = iter(self._rejected_by_emit)
        """Each step counts an event that could not be encoded. Any thread may take one."""
        # Written by the worker, or by the client's lock holder while there is no worker:
        self.delivered = 0
        self._taken_over = 0
        self.kept = 0
        self._rejected_by_hook = 0
        self._rejected_recovered = 0
        self._dropped = dict.fromkeys(DropReason, 0)  # always has the same keys: safe to iterate

    def recover(self, count: int) -> None:
        """Count events that were taken over from an earlier run."""
        self._taken_over += count

    def keep(self, count: int) -> None:
        """Count events that left the store and stay in the journal for the next start."""
        self.kept += count

    def deliver(self, count: int) -> None:
        """Count events that the server has confirmed."""
        self.delivered += count

    def drop(self, count: int, reason: DropReason) -> None:
        """Count events that will not be sent."""
        self._dropped[reason] += count

    def reject_reviewed(self, *, is_recovered: bool = False) -> int:
        """Count an event for which ``before_send`` raised; return how many there were so far."""
        if is_recovered:
            self._rejected_recovered += 1
        else:
            self._rejected_by_hook += 1
        return self._rejected_by_hook + self._rejected_recovered

    @property
    def dropped_by(self) -> dict[str, int]:
        """Events that will not be sent, by reason."""
        counts = {reason.value: count for reason, count in self._dropped.items()}
        counts[DropReason.OVERFLOW.value] += self._store.dropped
        counts[DropReason.EXPIRED.value] += self._store.expired
        counts[DropReason.SWITCHED_OFF.value] += self._store.erased
        return counts

    @property
    def rejected_by_emit(self) -> int:
        """Events that could not be encoded."""
        return self._rejected_by_emit.value

    @property
    def sampled(self) -> dict[str, int]:
        """Events left out by sampling and rate limits, by type."""
        return {} if self._sampling is None else self._sampling.counts()

    @property
    def left_behind(self) -> int:
        """Events that were still undelivered at the end."""
        return self._dropped[DropReason.LEFT_BEHIND]

    def read(self, *, is_over: bool = False) -> Counts:
        """Return all counts.

        Args:
            is_over: nothing takes events from the store any more, so those that are there count as
                dropped. They come from an ``emit`` that began before the stop and ended after it.
        """
        # In this order, a thread that moves events on meanwhile can make no count negative: it
        # counts an event as settled after the event has left the store, and this reads it before.
        delivered, kept = self.delivered, self.kept
        rejected, rejected_recovered = self._rejected_by_hook, self._rejected_recovered
        dropped_by = self.dropped_by
        dropped = sum(dropped_by.values())
        recovered = self._taken_over - rejected_recovered
        departed, buffered = self._store.departed_and_waiting()
        emitted = departed + buffered - rejected
        in_flight = departed - rejected + recovered - delivered - dropped - kept
        if is_over:
            dropped_by[DropReason.LEFT_BEHIND.value] += buffered
            dropped, buffered = dropped + buffered, 0
        return Counts(
            emitted=emitted,
            recovered=recovered,
            delivered=delivered,
            dropped=dropped,
            buffered=buffered + kept,
            in_flight=in_flight,
            rejected=self.rejected_by_emit + rejected + rejected_recovered,
            dropped_by=dropped_by,
            sampled=self.sampled,
        )
