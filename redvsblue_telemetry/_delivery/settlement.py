"""Which events are settled: delivered or dropped, so that nobody needs to keep them any more.

And which have arrived, so that the way to the server has room for others. To most servers that is
the same; one with an archive has stored them seconds before it confirms them.

The window settles events strictly in the order in which they were loaded, also when it takes a
refused batch apart. So a queue is enough: "once so many of the loaded events are settled, all that
a source gave up to this number are."
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from .window import DeliveryWindow

__all__ = ["Settlement"]

Confirm = Callable[[int], object]


class Settlement:
    """Notifies the sources of the events in a window. Used by the worker thread only.

    Args:
        window: the events on their way.
    """

    def __init__(self, window: DeliveryWindow) -> None:
        self._window = window
        self._loads: deque[tuple[int, int, Confirm, bool]] = deque()
        self._arrivals: deque[tuple[int, Callable[[], object]]] = deque()
        self.own_loaded = 0
        """How many events the window had been given at the last load of this run's own."""
        self.own_number = 0
        """The number up to which all events of this run are settled. Any thread may read it."""

    def note_load(self, number: int, confirm: Confirm, *, is_own: bool) -> None:
        """Have a source notified when all that it has given to the window so far is settled.

        Args:
            number: the number of the last of these events.
            confirm: called with the number.
            is_own: whether they are of this run, and not of an earlier one.
        """
        loaded, loads = self._window.loaded, self._loads
        if is_own and (not loads or loaded > loads[-1][0]):
            self.own_loaded = loaded
        elif is_own and loads[-1][3]:  # nothing was loaded since, only dropped
            loads.pop()
        loads.append((loaded, number, confirm, is_own))

    def note_arrival(self, arrived: Callable[[], object]) -> None:
        """Have a function called when all that the window has been given so far has arrived."""
        self._arrivals.append((self._window.loaded, arrived))

    def settle(self) -> None:
        """Notify the sources of the events that arrived or were settled since the last call."""
        arrivals = self._arrivals
        while arrivals and arrivals[0][0] <= self._window.arrived:
            arrivals.popleft()[1]()
        settled = self.settled
        loads = self._loads
        while loads and loads[0][0] <= settled:
            _, number, confirm, is_own = loads.popleft()
            if is_own:
                self.own_number = number
            confirm(number)

    @property
    def settled(self) -> int:
        """How many of the events that ever entered the window have left it."""
        return self._window.loaded - self._window.in_flight

    @property
    def are_own_settled(self) -> bool:
        """Whether none of this run's own events is in the window."""
        return self.settled >= self.own_loaded

    def own_in_flight(self) -> int:
        """Return how many of the events in the window are this run's own."""
        before, count = self.settled, 0
        for loaded, _, _, is_own in self._loads:
            if loaded > before:
                count += (loaded - before) * is_own
                before = loaded
        return count

    def forget(self) -> None:
        """Notify nobody of what is still in the window."""
        self._loads.clear()
        self._arrivals.clear()
