"""Work on the database that is not urgent, in small steps between the groups of events.

The storage thread does a step when no message waits. While messages always wait, it does one in a
while, so that the work gets a share of the time: a step must be short, since acks wait for it.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Sequence

import msgspec

from ..._shared import monotonic

__all__ = ["STEP_SECONDS", "Keep", "Pace", "Upkeep", "UpkeepSchedule", "epoch_milliseconds"]

STEP_SECONDS = 0.004
"""About how long a step may take; acks wait for it."""
_WALL_PART = 50  # of the time on the wall is that of a step, at least
_SHARE = 0.1  # of the time, while messages always wait
_URGENT_SHARE = 0.6  # of it, for work without which a limit would not hold
_IDLE_SECONDS = 1.0  # until work is looked for again


def epoch_milliseconds() -> int:
    """Return the time in milliseconds since the epoch."""
    return time.time_ns() // 1_000_000


class Keep(msgspec.Struct, frozen=True):
    """How long events are kept, in seconds; None is forever."""

    age: float | None = None
    """Of all types that are not in ``by_type``."""
    by_type: dict[str, float] = {}


class Pace:
    """How many rows fit into a step, learned from the steps before.

    By the processor time of the thread. The time on the wall is mostly that of waiting for the GIL,
    some milliseconds for each statement while the event loop is busy, however few rows it has:
    by it, a step under load shrank to a row. Only if it is far longer do the disk's reads count.

    Args:
        seconds: how long a step may take.
        most: the most rows.
    """

    def __init__(self, seconds: float = STEP_SECONDS, most: int = 2000) -> None:
        self._seconds = seconds
        self._most = most
        self._began = (0.0, 0.0)
        self.rows = 250

    def begin(self) -> None:
        """Note the beginning of a step."""
        self._began = time.thread_time(), monotonic()

    def end(self) -> None:
        """Learn from a step of this many rows."""
        processor, wall = self._began
        self.learn(max(time.thread_time() - processor, (monotonic() - wall) / _WALL_PART))

    def learn(self, seconds: float) -> None:
        """Adjust it after a step of this many rows that took this time."""
        if seconds > self._seconds:
            self.rows = max(1, int(self.rows * max(0.1, 0.7 * self._seconds / seconds)))
        elif seconds < self._seconds / 2:
            self.rows = min(self._most, self.rows * 2)


class Upkeep:
    """One kind of such work. Used on the storage thread, except where it says otherwise."""

    is_urgent = False
    """Whether it needs more than a small share of the time while messages always wait."""

    def step(self, connection: sqlite3.Connection) -> bool:
        """Do a bit of the work; return whether there is more to do now.

        Called in a transaction of the writer. Its commit is not synced to the disk: after a power
        cut, the step may have to be done again.
        """
        raise NotImplementedError

    def rolled_back(self) -> None:
        """Called when the changes of a step were undone, so memory may be ahead of the tables."""


class UpkeepSchedule:
    """Decides when a step is due, and takes turns between the kinds of work.

    Args:
        work: the kinds that are always looked for.
        clock: returns monotonic seconds.
    """

    def __init__(self, work: Sequence[Upkeep], clock: Callable[[], float] = monotonic) -> None:
        self._work = list(work)
        self._clock = clock
        self._busy: list[Upkeep] = list(work)
        self._looked_at = self._ended_at = clock()
        self._took = 0.0

    def add(self, work: Upkeep) -> None:
        """Take on work that is over once it has been done."""
        self._busy.append(work)

    @property
    def delay(self) -> float | None:
        """Seconds until a step is due if no message comes; None if there is no work at all."""
        if self._busy:
            return 0.0
        if not self._work:
            return None
        return max(0.0, self._looked_at + _IDLE_SECONDS - self._clock())

    @property
    def is_due_under_load(self) -> bool:
        """Whether a step is due although messages wait."""
        if not self._busy:
            return self.delay == 0.0
        share = _URGENT_SHARE if any(work.is_urgent for work in self._busy) else _SHARE
        return self._clock() - self._ended_at >= self._took * (1 - share) / share

    def step(self, run: Callable[[Callable[[sqlite3.Connection], bool]], bool]) -> Upkeep | None:
        """Do one step; return the work if there is no more to do of it.

        Args:
            run: runs a step in a transaction, and returns its result.
        """
        began = self._clock()
        if not self._busy or began - self._looked_at >= _IDLE_SECONDS:
            # Also while some work goes on: under load, there may always be some.
            self._busy = [work for work in self._work if work not in self._busy] + self._busy
            self._looked_at = began
        work = next((work for work in self._busy if work.is_urgent), self._busy[0])
        self._busy.remove(work)
        try:
            is_over = not run(work.step)
        except BaseException:
            work.rolled_back()
            raise
        finally:
            self._ended_at = self._clock()
            self._took = self._ended_at - began
        if not is_over:
            self._busy.append(work)
        return work if is_over else None
