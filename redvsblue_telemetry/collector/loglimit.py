"""Log lines that any stranger can cause: at most one a minute of each kind, with an address.

Otherwise anyone who can reach the port could fill the log, and the disk under it.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

__all__ = ["LogLimit"]

_INTERVAL = 60.0  # seconds between two lines of a kind


class LogLimit:
    """Logs warnings, and counts those that come too soon after another of their kind.

    Its methods may be called from any thread.

    Args:
        logger: where the lines go.
        clock: returns monotonic seconds.
    """

    def __init__(self, logger: logging.Logger, clock: Callable[[], float] = time.monotonic) -> None:
        self._logger = logger
        self._clock = clock
        self._lock = threading.Lock()
        self._next: dict[str, float] = {}  # kind: when the next line may be logged
        self._left_out: dict[str, int] = {}

    def warn(self, kind: str, client: tuple[str, int] | None, message: str, *args: object) -> None:
        """Log a warning, unless one of its kind was logged less than a minute ago.

        Args:
            kind: one of a few constants; not text from a request, for each kind is kept.
            client: the address and port it came from, as in an ASGI scope; None if unknown.
            message: as in :mod:`logging`, without a period.
            args: the arguments of the message.
        """
        now = self._clock()
        with self._lock:
            if now < self._next.get(kind, now):
                self._left_out[kind] = self._left_out.get(kind, 0) + 1
                return
            self._next[kind] = now + _INTERVAL
            left_out = self._left_out.pop(kind, 0)
        if client is not None:
            message += "; from %s"
            args += (client[0],)
        if left_out:
            message += "; %d more since the last such line"
            args += (left_out,)
        self._logger.warning(message, *args)
