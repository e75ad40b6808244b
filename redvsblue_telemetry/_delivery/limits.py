"""The limits of the journal: how many bytes it may have on disk, and how old its events may be.

The store keeps its own files below the limit of bytes. But several processes share the directory,
and earlier runs have left files there, so the worker adds all of them up now and then. Beyond the
limit, the oldest events go: those of dead runs first, then those of this run. The runs of other
processes are not touched.

The age of this run's events is measured on the monotonic clock: nobody sets it, and it is the time
of the emission, where an event's timestamp may be any. So the worker notes now and then how many
events there are, and once that was long enough ago, it drops those of them that still wait.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

from .adoption import Adoption

if TYPE_CHECKING:
    from .._journal.journal import Journal

__all__ = ["JournalLimits"]

_CHECK_INTERVAL = 1.0  # seconds between two looks at the directory while this run's files grow
_IDLE_INTERVAL = 30.0  # seconds while they don't: other processes write, too
_NOTES = 64  # an event's age is known to this fraction of the greatest age
_NOTE_INTERVAL = 0.1  # seconds: the shortest of these parts


class JournalLimits:
    """Keeps a journal within its limits. Used by the worker thread only.

    Args:
        journal: has this run, and the directory of all.
        adoption: has the dead runs.
        max_bytes: the most bytes in the directory.
        max_age: seconds after which an event is dropped.
        clock: returns monotonic seconds.
    """

    def __init__(
        self,
        journal: Journal,
        adoption: Adoption,
        *,
        max_bytes: int,
        max_age: float,
        clock: Callable[[], float],
    ) -> None:
        self._directory = journal.directory
        self._store = journal.store
        self._adoption = adoption
        self._max_bytes = max_bytes
        self._max_age = max_age
        self._clock = clock
        self._size = 0  # of this run's files, at the last look at the directory
        self._check_at = self._idle_check_at = -math.inf
        self._notes: deque[tuple[float, int]] = deque()  # at that time, so many had been pushed
        self._note_at = -math.inf

    def enforce_size(self) -> None:
        """Drop the oldest events if the directory is too large and it is time to look."""
        now, size = self._clock(), self._store.size
        if now < (self._check_at if size > self._size else self._idle_check_at):
            return
        self._check_at, self._idle_check_at = now + _CHECK_INTERVAL, now + _IDLE_INTERVAL
        excess = self._directory.size() - self._max_bytes
        excess -= self._adoption.free(excess)
        while excess > 0 and (freed := self._store.drop_oldest_segment()):
            excess -= freed
        self._size = self._store.size

    def expired(self) -> int:
        """Return the number up to which this run's events are too old."""
        now = self._clock()
        if now >= self._note_at:
            self._note_at = now + max(_NOTE_INTERVAL, self._max_age / _NOTES)
            self._notes.append((now, self._store.pushed))
        number = 0
        while self._notes and self._notes[0][0] <= now - self._max_age:
            number = self._notes.popleft()[1]
        return number

    @property
    def next_deadline(self) -> float:
        """When events may become too old."""
        return min(self._note_at, self._notes[0][0] + self._max_age if self._notes else math.inf)
