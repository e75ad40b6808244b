"""Deletes events that are older than ``--keep`` says, and the oldest beyond ``--max-bytes``.

Events are deleted in the order in which they arrived. So all that has to be known is in the
tables, and after a kill it goes on from there. A step deletes about as much as fits into a few
milliseconds, since acks wait for it.
"""

from __future__ import annotations

import functools
import logging
import sqlite3
from collections import deque
from collections.abc import Callable
from itertools import takewhile

import msgspec

from ..._shared import monotonic
from .database import Database
from .deletion import delete_empty_session, delete_events, delete_leftovers, first_events
from .space import Usage
from .upkeep import STEP_SECONDS, Keep, Pace, Upkeep, epoch_milliseconds

__all__ = ["LEAST_MAX_BYTES", "Retention"]

logger = logging.getLogger("redvsblue_telemetry.collector")

LEAST_MAX_BYTES = 100_000_000
"""The smallest limit: a third of it is for the write-ahead log and for the next groups."""
_RESERVE = 32 * 1024 * 1024  # bytes of a limit for these
_RESERVE_PART = 20  # of a limit, if that is more
_FEW_PAGES = 1000  # that may be unused
_PROBES = 64  # among the events after those with a wrong time
_ROWS = 200  # of other tables than events in a step


class Retention(Upkeep):
    """Deletes by age and by size, and makes the file smaller.

    Args:
        database: the database.
        keep: for how long events are kept.
        max_bytes: the most that the database may take up.
        clock: returns milliseconds since the epoch.
    """

    def __init__(
        self,
        database: Database,
        keep: Keep | None = None,
        max_bytes: int | None = None,
        clock: Callable[[], int] = epoch_milliseconds,
    ) -> None:
        self._database = database
        self._keep = keep or Keep()
        self._exceptions = msgspec.json.encode(list(self._keep.by_type)).decode()
        self._max_bytes = max_bytes
        self._reserve = max(_RESERVE, (max_bytes or 0) // _RESERVE_PART)
        self._clock = clock
        # Beyond the limit, acks wait longer: what is stored must not outrun what is deleted.
        self._usual_pace, self._urgent_pace = Pace(), Pace(10 * STEP_SECONDS, 4000)
        by_type = [
            functools.partial(self._delete_of_type, name) for name in sorted(self._keep.by_type)
        ]
        self._tasks: deque[Callable[[sqlite3.Connection], bool]] = deque(
            [
                *by_type,
                self._delete_by_age,
                self._delete_rejected,
                self._delete_by_size,
                self._delete_sessions,
                delete_leftovers,
                self._shrink,
            ]
        )
        self._has_warned = False
        self.rolled_back()

    def rolled_back(self) -> None:
        """Look again for everything."""
        self._examined = 0  # the arrival up to which the general age was applied
        self._emptied: dict[int, None] = {}  # sessions; the cursor finds them after a restart
        self._session_cursor = (-1, 0)  # the time of its last word, and its key
        self._floor = 0  # everything from before this time was deleted for its size
        self._is_shrinking = False
        self.is_urgent = False

    def step(self, connection: sqlite3.Connection) -> bool:
        """Do the tasks in turn, up to the first that has more to do or as long as a step may take.

        A task that has deleted all there was says that there is no more, although a moment later
        there is: many steps for an event each would write as many bytes as if each were large.
        """
        began = monotonic()
        for _ in range(len(self._tasks)):
            task = self._tasks[0]
            self._tasks.rotate(-1)
            if task(connection) or monotonic() - began > STEP_SECONDS:
                return True
        return False

    # Each task does a bit of its work, and returns whether there is more of it.

    def _delete_of_type(self, name: str, connection: sqlite3.Connection) -> bool:
        row = connection.execute("SELECT key FROM types WHERE name = ?", (name,)).fetchone()
        return row is not None and self._delete_older(
            connection, "type = ?", row, self._cutoff(self._keep.by_type[name])
        )

    def _delete_by_age(self, connection: sqlite3.Connection) -> bool:
        if self._keep.age is None:
            return False
        cutoff = self._cutoff(self._keep.age)
        if not self._keep.by_type:
            return self._delete_older(connection, "TRUE", (), cutoff)
        rows = self._first_rows(connection, "arrival > ?", (self._examined,))
        expired, has_more = self._expired(connection, rows, cutoff)
        if expired:
            condition = (
                "arrival BETWEEN ? AND ? AND type NOT IN (SELECT key FROM types "
                "WHERE name IN (SELECT value FROM json_each(?)))"
            )
            self._delete(connection, condition, (expired[0], expired[-1], self._exceptions))
            self._examined = expired[-1]
        return has_more

    def _delete_rejected(self, connection: sqlite3.Connection) -> bool:
        if self._keep.age is None:
            return False
        return _delete_older_rejected(connection, self._cutoff(self._keep.age))

    def _delete_by_size(self, connection: sqlite3.Connection) -> bool:
        if self._max_bytes is None:
            return False
        usage = Usage(connection, self._database)
        self.is_urgent = usage.used + max(usage.log, self._reserve) > self._max_bytes
        if not self.is_urgent:
            return False
        event = _when(connection, "SELECT received FROM events ORDER BY arrival LIMIT 1")
        rejected = _when(connection, "SELECT received FROM rejected ORDER BY arrival LIMIT 1")
        if rejected is not None and (event is None or rejected < event):
            _delete_older_rejected(connection, rejected + 1)
            return True
        if event is not None:
            rows = self._first_rows(connection, "TRUE", ())
            self._delete(connection, "arrival BETWEEN ? AND ?", (rows[0][0], rows[-1][0]))
            self._floor = max(self._floor, rows[-1][1])
            return True
        # Nothing but sessions, perhaps with long reports: those of the longest silence go.
        oldest = "SELECT last_received FROM sessions ORDER BY last_received LIMIT 1 OFFSET ?"
        silent = _when(connection, oldest, _ROWS)
        self._floor = self._floor if silent is None else silent
        return silent is not None

    def _delete_sessions(self, connection: sqlite3.Connection) -> bool:
        """Delete sessions that have no event and no recent word."""
        began = monotonic()
        horizon = self._horizon()
        while self._emptied:
            delete_empty_session(connection, self._emptied.popitem()[0], horizon)
            if monotonic() - began > STEP_SECONDS / 2:
                return True
        rows = connection.execute(
            "SELECT last_received, key, events <= deleted FROM sessions "
            "WHERE (last_received, key) > (?, ?) AND last_received < ? "
            "ORDER BY last_received, key LIMIT ?",
            (*self._session_cursor, horizon, _ROWS),
        ).fetchall()
        for last_received, key, is_empty in rows:
            if is_empty:
                delete_empty_session(connection, key, horizon)
            self._session_cursor = last_received, key
            if monotonic() - began > STEP_SECONDS / 2:
                return True
        return len(rows) == _ROWS

    def _shrink(self, connection: sqlite3.Connection) -> bool:
        """Give pages that are not used back to the disk, if there are many."""
        usage = Usage(connection, self._database)
        is_beyond = (
            self._max_bytes is not None
            and usage.file + max(usage.log, self._reserve // 2) > self._max_bytes
        )
        many = usage.pages // (8 if self._is_shrinking else 4)
        self._is_shrinking = usage.free_pages > (0 if is_beyond else max(many, _FEW_PAGES))
        if not self._is_shrinking:
            return False
        if not connection.execute("PRAGMA auto_vacuum").fetchone()[0]:
            self._warn_of_old_file(is_beyond=is_beyond)
            self._is_shrinking = False
            return False
        began = monotonic()
        while monotonic() - began < STEP_SECONDS / 2:
            # One page each: the sqlite3 module ends a statement without columns at its first row.
            connection.execute("PRAGMA incremental_vacuum(1)")
        return True

    def _warn_of_old_file(self, *, is_beyond: bool) -> None:
        if is_beyond and not self._has_warned:
            self._has_warned = True
            logger.warning(
                "%s was made by an older release and can't be made smaller than it is, but its "
                "room is used again; to shrink it once, see Backups and size in docs/collector.md",
                self._database.path,
            )

    # Their parts.

    @property
    def _pace(self) -> Pace:
        return self._urgent_pace if self.is_urgent else self._usual_pace

    def _cutoff(self, age: float) -> int:
        return self._clock() - int(age * 1000)

    def _horizon(self) -> int:
        """Return the time of the last word before which sessions without events are deleted."""
        age = self._keep.age
        return self._floor if age is None else max(self._floor, self._cutoff(age))

    def _first_rows(
        self, connection: sqlite3.Connection, condition: str, values: tuple[object, ...]
    ) -> list[tuple[int, int]]:
        return first_events(connection, condition, values, self._pace.rows)

    def _delete_older(
        self,
        connection: sqlite3.Connection,
        condition: str,
        values: tuple[object, ...],
        cutoff: int,
    ) -> bool:
        rows = self._first_rows(connection, condition, values)
        expired, has_more = self._expired(connection, rows, cutoff)
        if expired:
            between = f"{condition} AND arrival BETWEEN ? AND ?"
            self._delete(connection, between, (*values, expired[0], expired[-1]))
        return has_more

    def _expired(
        self, connection: sqlite3.Connection, rows: list[tuple[int, int]], cutoff: int
    ) -> tuple[list[int], bool]:
        """Return the first arrivals, as long as they are older, and whether there may be more.

        Events of the future are deleted if a later one is older: after a day with a wrong clock,
        nothing would be deleted until that day has come. But none is deleted before its time
        because a later one seems to be older: a machine without a battery begins in 1970.
        """
        expired = [arrival for arrival, _ in takewhile(lambda row: row[1] < cutoff, rows)]
        now = self._clock()
        if not expired and rows and rows[0][1] > now:
            query = "SELECT received FROM events WHERE arrival >= ? ORDER BY arrival LIMIT 1"
            first = rows[0][0]
            newest = _when(connection, "SELECT max(arrival) FROM events") or first
            for place in range(first, newest, max(1, (newest - first) // _PROBES)):
                later = _when(connection, query, place)
                if later is not None and later < cutoff:
                    return [
                        arrival for arrival, _ in takewhile(lambda row: row[1] > now, rows)
                    ], True
        return expired, len(expired) == len(rows) > 0

    def _delete(
        self, connection: sqlite3.Connection, condition: str, values: tuple[object, ...]
    ) -> None:
        pace = self._pace
        pace.begin()
        deleted = delete_events(connection, condition, values, stay_counted=True)
        # The cursor may have passed those that had events until now.
        self._emptied |= dict.fromkeys(deleted.emptied)
        pace.end()


def _older(rows: list[tuple[int, int]], cutoff: int) -> list[int]:
    """Return the arrivals up to the last that is older."""
    last = max((place for place, row in enumerate(rows) if row[1] < cutoff), default=-1)
    return [arrival for arrival, _ in rows[: last + 1]]


def _when(connection: sqlite3.Connection, query: str, *values: object) -> int | None:
    row = connection.execute(query, values).fetchone()
    return None if row is None else int(row[0])


def _delete_older_rejected(connection: sqlite3.Connection, cutoff: int) -> bool:
    rows = connection.execute(
        "SELECT arrival, received FROM rejected ORDER BY arrival LIMIT ?", (_ROWS,)
    ).fetchall()
    if expired := _older(rows, cutoff):
        connection.execute("DELETE FROM rejected WHERE arrival <= ?", (expired[-1],))
    return len(expired) == len(rows) > 0
