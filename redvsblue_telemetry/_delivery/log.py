"""The log of the connection: each change of its state, but no flood of lines.

A server that slams the door, or a route that flaps, changes the state many times a second. The
first changes are logged as they come; after that, one line a minute logs the latest state.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable

from .._packages import HiddenModuleError, hidden_by
from .._shared import TokenBucket

__all__ = ["LINES_AT_ONCE", "LINES_PER_SECOND", "ConnectionLog", "log_failed_start", "log_safely"]

logger = logging.getLogger("redvsblue_telemetry")

LINES_AT_ONCE = 8
LINES_PER_SECOND = 1 / 60  # after those


def log_safely(level: int, message: str, *args: object, with_traceback: bool = False) -> None:
    """Log a line from the worker; a handler that raises must not end delivery."""
    with contextlib.suppress(Exception):
        logger.log(level, message, *args, exc_info=with_traceback)


def log_failed_start(error: Exception) -> None:
    """Log why telemetry is off although it should run. For an except clause."""
    hidden = error if isinstance(error, HiddenModuleError) else hidden_by(error)
    if hidden is not None:
        log_safely(logging.ERROR, "telemetry is off: %s", hidden)
    else:  # out of descriptors or threads, say
        message = "telemetry is off: it could not be started"
        log_safely(logging.ERROR, message, with_traceback=True)


class ConnectionLog:
    """Logs the state of the connection whenever it differs from the last line.

    Used by the worker thread only.

    Args:
        clock: returns monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._allowance = TokenBucket(LINES_PER_SECOND, LINES_AT_ONCE, clock)
        self._current: tuple[int, str, str] | None = None
        self._logged: tuple[int, str, str] | None = None

    def report(self, level: int, message: str, detail: str) -> None:
        """Set the state, and log it if that is allowed now.

        Args:
            level: as in :mod:`logging`.
            message: with one ``%s``.
            detail: replaces the ``%s``.
        """
        self._current = (level, message, detail)
        self.catch_up()

    def catch_up(self) -> None:
        """Log the state if it was not allowed before and still differs from the last line."""
        if self._current is None or self._current == self._logged:
            return
        if self._allowance.take():
            log_safely(*self._current)
            self._logged = self._current
