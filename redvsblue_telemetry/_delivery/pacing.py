"""How the worker shares the interpreter with the game.

Only the thread that has the GIL runs Python code, so a frame that wants to continue while the
worker works has to wait. CPython makes a thread give up the GIL only after 5 ms
(:func:`sys.setswitchinterval`), a third of a frame. So the worker gives it up itself after a tenth
of a millisecond of work. It does so by writing: a system call, during which another thread can
take the GIL.

A write into a socket's buffer is often over before the waiting thread has woken up, and then the
worker has the GIL again and the game has gained nothing. A ``sleep(0)`` would be over just as soon.
So the worker sleeps for the shortest time that the operating system's timer can measure, about
70 microseconds: time for the other thread to wake up and take the GIL. It doesn't sleep if the
write took so long that another thread must have run.

On Windows this matters more: the 5 ms end with a tick of its clock, which comes every 15.6 ms where
no program asks for more. The shortest sleep is half a millisecond there, with Python 3.10 one tick.

A game that never rests keeps the GIL for 5 ms each time it gets it. So the fuller the store, the
longer the worker's turn; otherwise such a game would fill the store faster than it is drained.
"""

from __future__ import annotations

from collections.abc import Callable

from .._shared import rest

__all__ = ["TimeSlice"]

_TURN = 100e-6  # seconds of work between two yields
_MAX_TURN_FACTOR = 4.0  # how many times longer the turn is for a full store
_LONG_WRITE = 1e-3  # seconds; the socket never blocks, so another thread has had the GIL


class TimeSlice:
    """The worker's turn, from one wait to the next. Used by the worker thread only.

    Args:
        clock: returns monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._ends_at = clock()

    def begin(self, fullness: float = 0.0) -> None:
        """Begin a turn.

        Args:
            fullness: how full the store is, as a multiple of its high-water mark.
        """
        self._ends_at = self._clock() + _TURN * min(_MAX_TURN_FACTOR, max(1.0, fullness))

    @property
    def is_over(self) -> bool:
        """Whether it is the game's turn."""
        return self._clock() >= self._ends_at

    def yield_gil(self, write: Callable[[], None]) -> None:
        """Write, and return when the game has had its turn."""
        since = self._clock()
        write()
        if self._clock() - since < _LONG_WRITE:
            rest()
