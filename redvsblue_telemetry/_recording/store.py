"""The bounded FIFO between the game and the worker.

Theory of operation
-------------------

``push`` runs on the game's thread, in signal handlers and in ``__del__``, so it must not wait for a
lock: a lock that the worker held while the operating system had it pre-empted would stall a frame.
What has to be exact is instead done by single calls into C, which CPython (with the GIL) never
interrupts:

* ``deque.append`` puts an event at the back.
* ``next(self._departures)`` takes the oldest event from the front *and* numbers it, in one call.
  Everything that leaves takes the next number, whether it was drained or dropped. As the order
  of leaving is the order of arrival, the number says which event this was, counted from 1 in the
  order of emission; a dropped event leaves a gap. Nothing needs numbering on the hot path.
* A :class:`~redvsblue_telemetry._recording.counter.AtomicCounter` counts a drop.

Without the GIL
---------------

On a free-threaded build, the first and the third are still single steps, but ``next`` on a ``zip``
is several: two threads could take events in one order and number them in the other. So there,
:class:`FreeThreadedStore` lets one thread at a time do that, the one that holds a lock. The worker
waits for the lock. A push that finds the store over capacity *tries* to take it and drops the
excess. If it can't, it goes on, and the thread that holds the lock reads the length again after it
has released it, and drops the excess for both.

The operating system may preempt that thread meanwhile, for long enough that others push tens of
thousands of items. So while there are more than ``_MAX_EXCESS`` items too many, each push waits for
the lock, but no longer than ``_MAX_WAIT``: the thread that holds it may be in a signal handler that
joins the one that pushes. At rest, the store is at its capacity or below; only a thread that has
dropped for others ``_MAX_ROUNDS`` times in one push leaves the rest to the next call.

The lock is reentrant, because a signal handler may call any method in the middle of any other on
the same thread. It runs between two bytecodes, so never within a ``next``, as with the GIL.
One gap is left, as with every lock in Python: a Ctrl-C that raises right after the lock was taken,
before the ``try``, leaves it taken. The worker can't drain then, and ``stop`` returns False.

Numbering at the push was rejected: each ``emit`` would pay for it, and two threads could number
their events in one order and append them in the other.
"""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from collections.abc import Callable
from itertools import islice, repeat
from typing import Any, Generic, Protocol, TypeVar

from .counter import IS_FREE_THREADED, AtomicCounter

__all__ = ["FreeThreadedStore", "Journal", "Store", "TelemetryStore"]

T = TypeVar("T")

_MAX_ROUNDS = 100  # how often one push drops what other threads have pushed meanwhile
_MAX_EXCESS = 1024  # items above the capacity; with more, a push waits for the lock
_MAX_WAIT = 0.001  # seconds


def _nothing() -> None:
    """Do nothing: the high-water callback of a store without a worker."""


class Journal:
    """Where ``emit`` writes records, if there is a journal."""

    __slots__ = ("write",)

    def __init__(self, write: Callable[[bytes], object]) -> None:
        self.write = write
        """Writes a record in one step, or raises ValueError: then ``push`` has to."""


class Store(Protocol[T]):
    """A first-in, first-out store, as the client, the ledger and the worker see it.

    :class:`TelemetryStore` has the meaning of each method. Only where there is a journal, the last
    few do something.
    """

    high_water: int
    on_high_water: Callable[[], object]

    @property
    def journal(self) -> Journal | None: ...
    @property
    def dropped(self) -> int: ...
    @property
    def departed(self) -> int: ...
    @property
    def pushed(self) -> int: ...
    def begin(self) -> None: ...
    def push(self, item: T) -> None: ...
    def drain(self, limit: int) -> list[T]: ...
    def drain_numbered(self, limit: int) -> list[tuple[T, int]]: ...
    def peek(self, limit: int) -> list[T]: ...
    def clear(self) -> int: ...
    def __len__(self) -> int: ...
    def departed_and_waiting(self) -> tuple[int, int]: ...
    @property
    def expired(self) -> int: ...
    @property
    def erased(self) -> int: ...
    def confirm(self, number: int) -> None: ...


class TelemetryStore(Generic[T]):
    """A bounded first-in, first-out store; when it is full, the oldest item is dropped and counted.

    Every method may be called from any thread at any time; ``push`` also from a signal handler or
    a ``__del__``, in the middle of any other call. With the GIL, none of them waits.

    On a free-threaded build, the others wait for each other, for microseconds. Threads that push at
    the same moment can exceed the capacity for that moment; with about a thousand items too many,
    each ``push`` waits up to a millisecond for them to be dropped.

    Args:
        capacity: the largest number of items; at least 1.
        high_water: with this many items or more, each push calls ``on_high_water``.
        on_high_water: must be quick, must not raise, and may be called from any thread.
    """

    journal: Journal | None = None
    """None: the events are in ``items``."""
    expired = erased = 0
    """Without a journal, events are not dropped in these ways."""

    def __new__(cls, *_: Any, **__: Any) -> TelemetryStore[T]:
        """Return a store for this build of Python."""
        is_ours = cls is TelemetryStore and IS_FREE_THREADED
        return object.__new__(FreeThreadedStore if is_ours else cls)

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
        self.on_high_water = on_high_water  # its owner replaces it at the end
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
        try:
            if len(items) >= self.high_water:
                self.enforce_capacity()
        except RecursionError:  # the item is there, and a later push reports the high water
            pass

    def enforce_capacity(self) -> None:
        """Slow path of `push`: drop the oldest item if over capacity, then signal high water."""
        if len(self.items) > self.capacity:
            try:
                next(self._departures)
            except IndexError:  # the worker has just drained it all: there is room again
                pass
            else:
                self._dropped.increment()
        self.on_high_water()

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

    def confirm(self, number: int) -> None:
        """Do nothing: nothing is kept until it is confirmed."""


class FreeThreadedStore(TelemetryStore[T]):
    """The store for builds without the GIL: one thread at a time takes items out (see above)."""

    def begin(self) -> None:
        """Be empty, and count from 1, with a lock that no thread of a parent process holds."""
        super().begin()
        self._taking_out = threading.RLock()

    def enforce_capacity(self) -> None:
        """Slow path of `push`: drop what is over capacity, then signal high water."""
        self._drop_excess()
        self.on_high_water()

    def _drop_excess(self) -> None:
        """Drop the oldest items above the capacity, unless another thread is about to."""
        lock = self._taking_out
        for _ in range(_MAX_ROUNDS):  # other threads that push flat out must not keep this one here
            # The length is read again after the lock was released: a push that could not take
            # the lock had appended its item before, so either that thread or this one sees it.
            too_many = len(self.items) - self.capacity
            wait = _MAX_WAIT if too_many > _MAX_EXCESS else 0.0
            if too_many <= 0 or not lock.acquire(timeout=wait):
                return
            try:
                excess = range(len(self.items) - self.capacity)
                with contextlib.suppress(IndexError):  # a signal handler has just drained it
                    # One call into C takes each item out and counts it.
                    deque(zip(excess, self._departures, self._dropped, strict=False), maxlen=0)
            finally:
                lock.release()

    def drain_numbered(self, limit: int) -> list[tuple[T, int]]:
        """Remove and return the oldest items with their numbers, at most ``limit`` of them."""
        with self._taking_out:
            drained = super().drain_numbered(limit)
        self._drop_excess()  # for a push that came meanwhile
        return drained

    def departed_and_waiting(self) -> tuple[int, int]:
        """Return how many items have left and how many are waiting, at the same moment."""
        with self._taking_out:
            counts = self.departed, len(self.items)
        self._drop_excess()  # for a push that came meanwhile
        return counts
