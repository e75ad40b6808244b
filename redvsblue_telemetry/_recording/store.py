"""The bounded FIFO between the game and the worker.

Theory of operation
-------------------

``push`` runs on the game's thread, in signal handlers and in ``__del__``, so it takes no lock: a
lock that the worker held while the operating system had it pre-empted would stall a frame. What
has to be exact is instead done by single calls into C, which CPython (with the GIL) never
interrupts:

* ``deque.append`` puts an event at the back.
* ``next(self._departures)`` takes the oldest event from the front *and* numbers it, in one call.
  Everything that leaves takes the next number, whether it was drained or dropped. As the order
  of leaving is the order of arrival, the number says which event this was, counted from 1 in the
  order of emission; a dropped event leaves a gap. Nothing needs numbering on the hot path.
* A :class:`~redvsblue_telemetry._recording.counter.AtomicCounter` counts a drop.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable
from itertools import islice, repeat
from typing import Generic, TypeVar

from .counter import AtomicCounter

__all__ = ["TelemetryStore"]

T = TypeVar("T")


def _nothing() -> None:
    """Do nothing: the high-water callback of a store without a worker."""


class TelemetryStore(Generic[T]):
    """A bounded first-in, first-out store; when it is full, the oldest item is dropped and counted.

    Every method may be called from any thread at any time; ``push`` also from a signal handler or
    a ``__del__``, in the middle of any other call. None of them takes a lock or waits.

    Args:
        capacity: the largest number of items; at least 1.
        high_water: with this many items or more, each push calls ``on_high_water``.
        on_high_water: must be quick, must not raise, and may be called from any thread.
    """

    def __init__(
        self,
        capacity: int,
        *,
        high_water: int | None = None,
        on_high_water: Callable[[], object] = _nothing,
    ) -> None:
        if capacity < 1:
            raise ValueError(f"capacity must be at least 1, not {capacity}")
        self.capacity = capacity
        self._on_high_water = on_high_water
        self.high_water = capacity + 1 if high_water is None else min(high_water, capacity)
        self.items: deque[T] = deque()
        """The items. Only ``emit`` uses this from outside, the way :meth:`push` does."""
        self.begin()

    def begin(self) -> None:
        """Be empty, and count from 1. Only while no other thread uses it, such as after a fork."""
        self.items.clear()
        # These three are written by any thread, each by one uninterruptible call (see above).
        self._departed = AtomicCounter()
        self._dropped = AtomicCounter()
        self._departures = zip(
            map(deque[T].popleft, repeat(self.items)), self._departed, strict=False
        )

    def push(self, item: T) -> None:
        """Add an item at the back. If that exceeds the capacity, drop and count the oldest."""
        items = self.items
        items.append(item)
        if len(items) >= self.high_water:
            self.enforce_capacity()

    def enforce_capacity(self) -> None:
        """Slow path of `push`: drop the oldest item if over capacity, then signal high water."""
        if len(self.items) > self.capacity:
            try:
                next(self._departures)
            except IndexError:  # the worker has just drained it all: there is room again
                pass
            else:
                self._dropped.increment()
        self._on_high_water()

    def drain(self, limit: int) -> list[T]:
        """Remove and return the oldest items, at most ``limit`` of them, oldest first."""
        return [item for item, _ in self.drain_numbered(limit)]

    def drain_numbered(self, limit: int) -> list[tuple[T, int]]:
        """Like :meth:`drain`, but each item has its number in the order of pushes, from 1.

        A gap in the numbers is an item that was dropped.
        """
        drained: list[tuple[T, int]] = []
        with contextlib.suppress(IndexError):  # empty; the items taken before that are kept
            drained.extend(islice(self._departures, max(0, limit)))
        return drained

    def peek(self, limit: int) -> list[T]:
        """Return the oldest items, at most ``limit``, oldest first, without removing them."""
        return list(islice(self.items.copy(), limit))

    def clear(self) -> int:
        """Remove all items that are there now; return how many there were.

        They don't count as dropped: the caller counts them by reason.
        """
        return len(self.drain_numbered(len(self.items)))

    def __len__(self) -> int:
        return len(self.items)

    @property
    def dropped(self) -> int:
        """How many items were dropped because the store was full."""
        return self._dropped.value

    @property
    def departed(self) -> int:
        """How many items have left in any way, which is also the number of the last of them."""
        return self._departed.value

    @property
    def pushed(self) -> int:
        """How many items were ever pushed, which is also the number of the newest item."""
        return sum(self.departed_and_waiting())

    def departed_and_waiting(self) -> tuple[int, int]:
        """Return how many items have left and how many are waiting, at the same moment."""
        while True:
            departed = self.departed
            waiting = len(self.items)
            if departed == self.departed:  # nothing left in between, so the two belong together
                return departed, waiting
