"""Work on the database that is not urgent, in small steps between the groups of events.

The storage thread does a step when no message waits. While messages always wait, it does one in a
while, so that the work gets a share of the time: a step must be short, since acks wait for it.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from typing import Protocol

import msgspec

from ..._shared import monotonic

__all__ = ["STEP_SECONDS", "Keep", "Upkeep", "UpkeepSchedule"]

STEP_SECONDS = 0.004
"""About how long a step may take; acks wait for it."""
_SHARE = 0.1  # of the time, while messages always wait
_IDLE_SECONDS = 1.0  # until work is looked for again


class Keep(msgspec.Struct, frozen=True):
    """How long events are kept, in seconds; None is forever."""

    age: float | None = None
    """Of all types that are not in ``by_type``."""
    by_type: dict[str, float] = {}


class Upkeep(Protocol):
    """One kind of such work."""

    def step(self, connection: sqlite3.Connection) -> bool:
        """Do a bit of the work; return whether there is more to do now.

        Called in a transaction of the writer, on the storage thread. Its commit is not synced to
        the disk: after a power cut, the step may have to be done again.
        """


class UpkeepSchedule:
    """Decides when a step is due, and takes turns between the kinds of work.

    Args:
        work: the kinds.
        clock: returns monotonic seconds.
    """

    def __init__(self, work: Sequence[Upkeep], clock: Callable[[], float] = monotonic) -> None:
        self._work = list(work)
        self._clock = clock
        self._busy: list[Upkeep] = list(work)
        self._looked_at = self._ended_at = clock()
        self._took = 0.0

    @property
    def delay(self) -> float | None:
        """Seconds until a step is due if no message comes; None if there is no work at all."""
        if not self._work:
            return None
        return 0.0 if self._busy else max(0.0, self._looked_at + _IDLE_SECONDS - self._clock())

    @property
    def is_due_under_load(self) -> bool:
        """Whether a step is due although messages wait."""
        if not self._busy:
            return self.delay == 0.0
        return self._clock() - self._ended_at >= self._took * (1 - _SHARE) / _SHARE

    def step(self, run: Callable[[Callable[[sqlite3.Connection], bool]], bool]) -> None:
        """Do one step.

        Args:
            run: runs a step in a transaction, and returns its result.
        """
        if not self._busy:
            self._busy = list(self._work)
        if len(self._busy) == len(self._work):
            self._looked_at = self._clock()
        began = self._clock()
        work = self._busy.pop(0)
        if run(work.step):
            self._busy.append(work)
        self._ended_at = self._clock()
        self._took = self._ended_at - began
