"""What the log is told of the connection: each change of its state, but no flood of them.

A server that slams the door, or a route that flaps, changes the state many times a second. The
first changes are told as they come; after that a line a minute says where things stand then.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable

__all__ = ["Allowance", "StateLog", "tell"]

logger = logging.getLogger("redvsblue_telemetry")

_BURST = 8  # lines that may follow on each other at once
_SECONDS_A_LINE = 60.0  # after these, one in so many seconds


def tell(level: int, message: str, *args: object, with_traceback: bool = False) -> None:
    """Write a line to the log, from the worker: a handler that fails must not end delivery."""
    with contextlib.suppress(Exception):
        logger.log(level, message, *args, exc_info=with_traceback)


class Allowance:
    """How many lines may still be written now. Used by the worker thread alone.

    Args:
        clock: seconds that only go forward.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._lines = float(_BURST)
        self._counted_at = clock()

    def take(self) -> bool:
        """Use up one line, if there is one left."""
        now = self._clock()
        self._lines += (now - self._counted_at) / _SECONDS_A_LINE
        self._lines = min(self._lines, _BURST)
        self._counted_at = now
        if self._lines < 1:
            return False
        self._lines -= 1
        return True


class StateLog:
    """Tells the log where things stand, when that isn't what it was told last.

    Used by the worker thread alone.

    Args:
        clock: seconds that only go forward.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._allowance = Allowance(clock)
        self._current: tuple[int, str, str] | None = None
        self._told: tuple[int, str, str] | None = None

    def say(self, level: int, message: str, detail: str) -> None:
        """This is how things stand now.

        Args:
            level: as in :mod:`logging`.
            message: with one ``%s``.
            detail: what comes in its place.
        """
        self._current = (level, message, detail)
        self.catch_up()

    def catch_up(self) -> None:
        """Tell what could not be told when it was said, if it still holds."""
        if self._current is None or self._current == self._told:
            return
        if self._allowance.take():
            tell(*self._current)
            self._told = self._current
