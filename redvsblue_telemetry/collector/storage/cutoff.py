"""When a reader of the database has to end: its client has gone, or its time is over."""

from __future__ import annotations

import math
import sqlite3
from collections.abc import Callable

from ..._shared import monotonic

__all__ = ["NEVER", "Cutoff", "CutoffError"]

# Of SQLite's virtual machine, between two looks at a cutoff: a few milliseconds, unless the events
# are large. Each look needs the GIL.
_STEPS_BETWEEN_LOOKS = 50_000


class CutoffError(Exception):
    """A reader had to end before it had an answer."""


class Cutoff:
    """The end of one reader's time. Abandoned by one thread, used by another.

    Args:
        deadline: seconds after which a search returns what it has found.
        limit: seconds after which any query fails, in the middle of a statement.
        clock: returns monotonic seconds.
    """

    def __init__(
        self,
        deadline: float = math.inf,
        limit: float = math.inf,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self.clock = clock
        self._began = clock()
        self._deadline = deadline
        self._limit = limit
        self.is_abandoned = False
        """Whether nobody waits for the answer any more. Set by the thread that waited."""

    def begin(self) -> None:
        """Begin its time now."""
        self._began = self.clock()

    def watch(self, connection: sqlite3.Connection) -> None:
        """Begin its time now, and interrupt the statements of a connection when it has to end."""
        # Connection.interrupt() would have no effect between two statements.
        self.begin()
        connection.set_progress_handler(lambda: self.must_end, _STEPS_BETWEEN_LOOKS)

    @property
    def is_due(self) -> bool:
        """Whether a search should return what it has found."""
        return self.clock() - self._began >= self._deadline

    @property
    def must_end(self) -> bool:
        """Whether no answer is wanted any more, or it took too long."""
        return self.is_abandoned or self.clock() - self._began >= self._limit

    def check(self) -> None:
        """Raise CutoffError if the reader has to end; for between two statements."""
        if self.must_end:
            raise CutoffError


NEVER = Cutoff()
"""The cutoff of a reader that has all the time it needs."""
