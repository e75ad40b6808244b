"""What the log is told of the connection: each change of its state, but no flood of them.

A server that slams the door, or a route that flaps, changes the state many times a second. The
first changes are told as they come; after that a line a minute says where things stand then.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable

from .._shared import TokenBucket

__all__ = ["LINES_AT_ONCE", "LINES_A_SECOND", "ConnectionLog", "log_safely"]

logger = logging.getLogger("redvsblue_telemetry")

LINES_AT_ONCE = 8
LINES_A_SECOND = 1 / 60  # after these


def log_safely(level: int, message: str, *args: object, with_traceback: bool = False) -> None:
    """Write a line to the log, from the worker: a handler that fails must not end delivery."""
    with contextlib.suppress(Exception):
        logger.log(level, message, *args, exc_info=with_traceback)


class ConnectionLog:
    """Tells the log where things stand, when that isn't what it was told last.

    Used by the worker thread alone.

    Args:
        clock: seconds that only go forward.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._allowance = TokenBucket(LINES_A_SECOND, LINES_AT_ONCE, clock)
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
            log_safely(*self._current)
            self._told = self._current
