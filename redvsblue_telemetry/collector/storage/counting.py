"""Counts of events by minute, type and version: the past, which outlives the events.

The writer adds to them in the transaction that stores the events. Later, an upkeep adds up minutes
to quarters of an hour, these to hours, and hours to days, so that years are few rows. Each event
counts in one row, so a range is the sum of its rows of all lengths.

Also here: in which minute events arrived, as runs of arrival numbers. The clock may go back; then a
minute has several runs.
"""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

from ..._shared import monotonic
from .upkeep import STEP_SECONDS, Pace, Upkeep, epoch_milliseconds

__all__ = [
    "LENGTHS",
    "MINUTE",
    "OTHERS",
    "RUN_LENGTHS",
    "Backfill",
    "Counts",
    "RollUp",
    "delete_unused_series",
    "uncount",
]

MINUTE = 60_000
"""Milliseconds. The periods of all counts are in minutes since the epoch."""
LENGTHS = (1, 15, 60, 24 * 60)
"""How long the period of a count may be, in minutes. Each is a multiple of the one before."""
RUN_LENGTHS = (1, 60)
"""How long the period of a run of arrivals may be, in minutes."""
OTHERS = ("", None)
"""The type and version of events that are counted together, since there are too many others."""

_DAY = 24 * 60
_KEPT = (2 * _DAY, 14 * _DAY, 400 * _DAY)  # minutes for which counts of each length are kept
_RUNS_KEPT = 14 * _DAY  # minutes; older runs of arrivals are by the hour
_HOUR = RUN_LENGTHS[-1]
# Clients choose types and versions, and the counts outlive their events: there must be an end.
_MAX_SERIES = 100_000
_MAX_SERIES_IN_PERIOD = 500
_MAX_NAME_LENGTH = 100  # characters
_MAX_IN_MEMORY = 10_000  # series
_ROWS = 200  # runs of arrivals in a step

_Series = tuple[str, "str | None"]

_ROW = "(?, ?, ?, ?)"
_ROWS_PER_STATEMENT = 32


class Counts:
    """Adds to the counts, for the writer.

    Args:
        connection: writes, in the caller's transactions.
    """

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._keys: dict[_Series, int] = {}
        self._period = -1  # minutes since the epoch
        self._present: set[int] = set()  # the series that are counted in it

    def forget(self) -> None:
        """Forget everything in memory, which may differ from the tables."""
        self._keys.clear()
        self._period = -1

    def drop(self, type_: str, version: str | None) -> None:
        """Forget a series that has been deleted."""
        self._keys.pop((type_, version), None)

    def add(
        self, events: Mapping[str | None, Mapping[str, int]], first_arrival: int, now: int
    ) -> None:
        """Count new events.

        Args:
            events: how many there are of each version and type.
            first_arrival: that of the first of them; the others follow.
            now: when they are received, in milliseconds since the epoch.
        """
        period = now // MINUTE
        if period != self._period:
            self._begin(period, first_arrival)
        keys, present = self._keys, self._present
        values: list[int] = []
        for version, types in events.items():
            for name, count in types.items():
                key = keys.get((name, version))
                if key is None or key not in present:
                    key = self._join((name, version))
                values += (1, period, key, count)
        _insert(self._connection, values)

    def _begin(self, period: int, first_arrival: int) -> None:
        """Begin a run of arrivals, unless the last one goes on; see what its minute has."""
        row = self._connection.execute(
            "SELECT period FROM arrivals ORDER BY first DESC LIMIT 1"
        ).fetchone()
        if row is None or row[0] != period:
            self._connection.execute(
                "INSERT INTO arrivals VALUES (?, 1, ?)", (first_arrival, period)
            )
        self._present = _series_in(self._connection, 1, period)
        self._period = period
        if len(self._keys) > _MAX_IN_MEMORY:
            self._keys.clear()

    def _join(self, series: _Series) -> int:
        """Return the key of a series that is not in the period yet."""
        is_full = len(self._present) >= _MAX_SERIES_IN_PERIOD
        if not is_full and series not in self._keys:
            self._keys[series] = _key_of(self._connection, series)
        key = _others(self._connection) if is_full else self._keys[series]
        self._present.add(key)
        return key


def _insert(connection: sqlite3.Connection, values: list[int]) -> None:
    """Add to counts: of each, the length and the beginning of its period, its series, and events.

    In statements of many rows, which take half the time.
    """
    step = 4 * _ROWS_PER_STATEMENT
    for start in range(0, len(values), step):
        some = values[start : start + step]
        connection.execute(
            f"INSERT INTO counts VALUES {', '.join([_ROW] * (len(some) // 4))} "
            "ON CONFLICT DO UPDATE SET events = events + excluded.events",
            some,
        )


def _key_of(connection: sqlite3.Connection, series: _Series) -> int:
    """Return the key of a series, which is created if need be; that of the others if it can't."""
    execute = connection.execute
    row = execute("SELECT key FROM series WHERE type = ? AND version IS ?", series).fetchone()
    if row is not None:
        return int(row[0])
    (newest,) = execute("SELECT coalesce(max(key), 0) FROM series").fetchone()
    is_long = any(len(name) > _MAX_NAME_LENGTH for name in series if name)
    if series != OTHERS and (is_long or newest >= _MAX_SERIES):
        return _others(connection)
    key = execute("INSERT INTO series (type, version) VALUES (?, ?)", series).lastrowid
    assert key is not None
    return key


def _others(connection: sqlite3.Connection) -> int:
    return _key_of(connection, OTHERS)


def _series_in(connection: sqlite3.Connection, length: int, period: int) -> set[int]:
    rows = connection.execute(
        "SELECT series FROM counts WHERE minutes = ? AND period = ?", (length, period)
    )
    return {key for (key,) in rows}


# Deleting. In a transaction of the caller.


def uncount(connection: sqlite3.Connection, condition: str, values: Sequence[object]) -> None:
    """Take the events of a condition, which are about to be deleted, out of the counts.

    Args:
        connection: writes, in the caller's transaction.
        condition: selects the events, in SQL.
        values: those of its parameters.
    """
    rows = connection.execute(
        "SELECT minute, (SELECT name FROM types WHERE key = type), version, events FROM ("
        f"SELECT received / {MINUTE} AS minute, type, version, count(*) AS events FROM events "
        f"WHERE {condition} AND arrival >= (SELECT first FROM counted) GROUP BY 1, 2, 3)",
        values,
    ).fetchall()
    for minute, type_, version, events in rows:
        left = events
        for series in ((type_, version), OTHERS):
            left = _take(connection, series, minute, left)


def _take(connection: sqlite3.Connection, series: _Series, minute: int, events: int) -> int:
    """Take a number of events out of the counts of a minute; return how many were not in them."""
    row = connection.execute(
        "SELECT key FROM series WHERE type = ? AND version IS ?", series
    ).fetchone()
    for length in LENGTHS if row is not None else ():
        if not events:
            break
        place = (length, minute // length * length, row[0])
        where = "WHERE minutes = ? AND period = ? AND series = ?"
        found = connection.execute(f"SELECT events FROM counts {where}", place).fetchone()
        if found is None:
            continue
        if found[0] > events:
            connection.execute(f"UPDATE counts SET events = events - ? {where}", (events, *place))
        else:
            connection.execute(f"DELETE FROM counts {where}", place)
        events -= min(found[0], events)
    return events


def delete_unused_series(connection: sqlite3.Connection) -> None:
    """Delete the series that have no counts: a type or a version may name a person, too."""
    connection.execute("DELETE FROM series WHERE key NOT IN (SELECT series FROM counts)")


# Upkeep.


def _add(
    connection: sqlite3.Connection, length: int, period: int, events: Mapping[int, int]
) -> None:
    """Add to the counts of a period, by the keys of the series."""
    present = _series_in(connection, length, period)
    values: list[int] = []
    for each, count in events.items():
        is_full = each not in present and len(present) >= _MAX_SERIES_IN_PERIOD
        key = _others(connection) if is_full else each
        present.add(key)
        values += (length, period, key, count)
    _insert(connection, values)


def _border(place: int, now: int) -> int:
    """Return the first minute for which counts of a length are kept.

    Args:
        place: that of the length.
        now: in minutes since the epoch.
    """
    whole = LENGTHS[place + 1]
    return (now - _KEPT[place]) // whole * whole


class RollUp(Upkeep):
    """Adds up what is older: minutes to quarters of an hour, these to hours, and hours to days.

    Args:
        clock: returns milliseconds since the epoch.
    """

    def __init__(self, clock: Callable[[], int] = epoch_milliseconds) -> None:
        self._clock = clock

    def step(self, connection: sqlite3.Connection) -> bool:
        """Move the counts of some periods; return whether there are more to move."""
        began = monotonic()
        now = self._clock() // MINUTE
        for place in range(len(_KEPT)):
            while _move_oldest(connection, place, _border(place, now)):
                if monotonic() - began > STEP_SECONDS:
                    return True
        return _merge_runs(connection, (now - _RUNS_KEPT) // _HOUR * _HOUR)


def _move_oldest(connection: sqlite3.Connection, place: int, border: int) -> bool:
    """Move the counts of the oldest period of a length, if it is before the border."""
    length, longer = LENGTHS[place], LENGTHS[place + 1]
    row = connection.execute(
        "SELECT period FROM counts WHERE minutes = ? ORDER BY period LIMIT 1", (length,)
    ).fetchone()
    if row is None or row[0] >= border:
        return False
    where, period = "WHERE minutes = ? AND period = ?", row[0]
    moved = connection.execute(f"SELECT series, events FROM counts {where}", (length, period))
    _add(connection, longer, period // longer * longer, dict(moved.fetchall()))
    connection.execute(f"DELETE FROM counts {where}", (length, period))
    return True


def _merge_runs(connection: sqlite3.Connection, border: int) -> bool:
    """Merge some runs of arrivals that are older; return whether there may be more.

    And drop those of events that are deleted.
    """
    execute = connection.execute
    execute(
        # The last run before the first event is the one that it is in.
        "DELETE FROM arrivals WHERE first IN (SELECT first FROM arrivals WHERE first < ("
        "SELECT max(first) FROM arrivals WHERE first <= ("
        "SELECT coalesce(min(arrival), 0) FROM events)) LIMIT ?)",
        (_ROWS,),
    )
    rows = execute(
        "SELECT first, period FROM arrivals WHERE minutes = 1 AND period < ? "
        "ORDER BY period LIMIT ?",
        (border, _ROWS),
    ).fetchall()
    for first, period in rows:
        hour = period // _HOUR * _HOUR
        before = execute(
            "SELECT minutes, period FROM arrivals WHERE first < ? ORDER BY first DESC LIMIT 1",
            (first,),
        ).fetchone()
        if before == (_HOUR, hour):
            execute("DELETE FROM arrivals WHERE first = ?", (first,))
        else:
            execute(
                "UPDATE arrivals SET minutes = ?, period = ? WHERE first = ?", (_HOUR, hour, first)
            )
    return len(rows) == _ROWS


class Backfill(Upkeep):
    """Counts the events of a file from before there were counts, the newest first.

    Args:
        clock: returns milliseconds since the epoch.
    """

    def __init__(self, clock: Callable[[], int] = epoch_milliseconds) -> None:
        self._clock = clock
        self._pace = Pace(most=8000)
        self._is_done = False

    def step(self, connection: sqlite3.Connection) -> bool:
        """Count some events, and note in the same transaction how far it is."""
        if self._is_done:
            return False
        self._pace.begin()
        rows = connection.execute(
            f"SELECT arrival, received / {MINUTE}, types.name, version FROM events "
            "CROSS JOIN types ON types.key = events.type "
            "WHERE arrival < (SELECT first FROM counted) ORDER BY arrival DESC LIMIT ?",
            (self._pace.rows,),
        ).fetchall()
        if rows:
            self._count(connection, rows)
            self._pace.end()
        self._is_done = not rows
        return bool(rows)

    def _count(
        self, connection: sqlite3.Connection, rows: list[tuple[int, int, str, str | None]]
    ) -> None:
        now = self._clock() // MINUTE
        by_period: dict[tuple[int, int], Counter[int]] = {}
        keys: dict[_Series, int] = {}
        for (minute, *names), count in Counter(row[1:] for row in rows).items():
            series = str(names[0]), names[1]
            if series not in keys:
                keys[series] = _key_of(connection, series)
            kept = (
                each for place, each in enumerate(LENGTHS[:-1]) if minute >= _border(place, now)
            )
            length = next(kept, LENGTHS[-1])
            period = length, minute // length * length
            by_period.setdefault(period, Counter())[keys[series]] += count
        for period, events in by_period.items():
            _add(connection, *period, events)
        rows.reverse()
        runs = [
            (row[0], row[1])
            for before, row in zip([None, *rows], rows, strict=False)
            if before is None or before[1] != row[1]
        ]
        execute = connection.execute
        # The run after these goes on from them if it has the same minute.
        after = "SELECT minutes, period, first FROM arrivals WHERE first > ? ORDER BY first LIMIT 1"
        following = execute(after, (rows[-1][0],)).fetchone()
        if following is not None and following[:2] == (1, runs[-1][1]):
            execute("DELETE FROM arrivals WHERE first = ?", following[2:])
        connection.executemany("INSERT INTO arrivals VALUES (?, 1, ?)", runs)
        execute("UPDATE counted SET first = ?", (rows[0][0],))
