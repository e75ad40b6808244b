"""How the worker and the game take turns at the interpreter.

One thread at a time runs Python code: the one that has the GIL. While the worker works, a frame
that wants to go on waits. So the worker works for a tenth of a millisecond, writes what it has
made, and then makes sure that the game has had its turn. Writing is a system call, during which
another thread may take the GIL; where it takes longer than it can have needed, one has. Otherwise
it was over before a waiting thread woke up, and the worker sleeps for a moment.

A game that never rests gives the GIL back after 5 ms only (:func:`sys.setswitchinterval`). So the
fuller the store, the longer the worker's turn.
"""

from __future__ import annotations

from collections.abc import Callable
from time import sleep

__all__ = ["TimeSlice"]

_WORK = 100e-6  # seconds
_FULLEST = 4.0  # times as long, at most
_MOMENT = 1e-6  # seconds; the system's timer makes about 70 microseconds of it
_LONG = 1e-3  # seconds that no write takes by itself, as the socket never blocks


class TimeSlice:
    """The worker's turn, from a wait to the next. Used by the worker thread alone.

    Args:
        clock: seconds that only go forward.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._ends_at = clock()

    def begin(self, fullness: float = 0.0) -> None:
        """Begin to work.

        Args:
            fullness: of the store, in parts of what makes it worth a wake-up.
        """
        self._ends_at = self._clock() + _WORK * min(_FULLEST, max(1.0, fullness))

    @property
    def is_over(self) -> bool:
        """Whether it is the game's turn."""
        return self._clock() >= self._ends_at

    def yield_gil(self, write: Callable[[], None]) -> None:
        """Write, and come back when the game has had its turn."""
        since = self._clock()
        write()
        if self._clock() - since < _LONG:
            sleep(_MOMENT)
