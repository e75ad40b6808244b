"""Looks at all events, in SQL: only what is found costs a step of Python."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from ..models import ALL_TIME, EventFilter, TimeRange
from .batches import windows
from .bycolumn import DATA, cut
from .fields import DATA as DATA_PREFIX
from .fields import NUMBER
from .history import arrivals
from .plan import Plan, plan

__all__ = ["Activity", "activity", "data_with"]

MAX_CLOCK_ERROR = 86_400_000  # milliseconds
_IS_PLAUSIBLE = f"timestamp BETWEEN received - {MAX_CLOCK_ERROR} AND received + {MAX_CLOCK_ERROR}"


class Activity(NamedTuple):
    """Events of one type within a second. Times are in milliseconds since the epoch.

    They are those of the player's clock, or where that is more than a day off, those when the
    events were received: one clock that is years off would squeeze all others into a moment.
    """

    type: str
    first: int
    last: int
    events: int
    displaced: int
    """How many of them have the time when they were received."""


def activity(
    connection: sqlite3.Connection, wanted: EventFilter, span: TimeRange = ALL_TIME
) -> Iterator[Activity]:
    """Yield when events happened; a second may come more than once."""
    chosen = plan(connection, wanted, span)
    conditions = " AND ".join([*chosen.conditions, "events.arrival BETWEEN ? AND ?"])
    query = (
        "SELECT type, min(at), max(at), count(*), sum(is_displaced) FROM (SELECT events.type, "
        f"iif({_IS_PLAUSIBLE}, timestamp, received) AS at, NOT {_IS_PLAUSIBLE} AS is_displaced "
        f"FROM events WHERE {conditions}) GROUP BY type, at / 1000"
    )
    names = dict(connection.execute("SELECT key, name FROM types"))
    for window in windows(connection, chosen):
        for key, *columns in connection.execute(query, (*chosen.values, *window)):
            yield Activity(names[key], *columns)


def data_with(
    connection: sqlite3.Connection,
    wanted: EventFilter,
    fields: Sequence[str],
    parts: Sequence[str],
    span: TimeRange = ALL_TIME,
) -> Iterator[tuple[int, list[str]]]:
    """Yield the data of the events in which one of some fields may be a number, in pages.

    Blocks whose events have no such field are not read, and neither is other data that can't have
    one. The order is any.

    Args:
        connection: a connection to the database.
        wanted: the events to examine.
        fields: the names of the fields, which are not within another field.
        parts: the JSON of each event with such a field contains one of these.
        span: when the events were received.

    Returns:
        Each page with the arrival number up to which most events have been examined.
    """
    either = " OR ".join("instr(data, '{}')".format(part.replace("'", "''")) for part in parts)
    examined = 0
    for chosen, bounds in _to_examine(connection, wanted, fields, span):
        conditions = [*chosen.conditions, f"({either})", "events.arrival BETWEEN ? AND ?"]
        query = f"SELECT {DATA} FROM events WHERE {' AND '.join(conditions)}"
        for window in windows(connection, chosen, f"({either})", bounds):
            found = cut(*connection.execute(query, (*chosen.values, *window)).fetchone())
            examined = max(examined, window[1])
            if found:
                yield examined, found


def _to_examine(
    connection: sqlite3.Connection, wanted: EventFilter, fields: Sequence[str], span: TimeRange
) -> Iterator[tuple[Plan, tuple[int, int]]]:
    """Yield searches that together find all events with one of the fields, and their bounds."""
    oldest, newest = arrivals(connection, span)
    without = _blocks_without(connection, fields) if wanted == EventFilter() else {}
    if not without:
        yield plan(connection, wanted, span), (oldest, newest)
        return
    gaps: list[tuple[int, int, str]] = []
    for key, name in connection.execute("SELECT key, name FROM types").fetchall():
        next_arrival = oldest
        for first, last in without.get(key, ()):
            gaps.append((next_arrival, min(first - 1, newest), name))
            next_arrival = max(next_arrival, last + 1)
        gaps.append((next_arrival, newest, name))
    for first, last, name in sorted(gaps):
        if first <= last:
            yield plan(connection, EventFilter(type=name), span), (first, last)


def _blocks_without(
    connection: sqlite3.Connection, fields: Sequence[str]
) -> dict[int, list[tuple[int, int]]]:
    """Return the first and last arrivals of blocks in which no field is a number, by type."""
    columns = [f"{DATA_PREFIX}{field}{NUMBER}" for field in fields]
    rows = connection.execute(
        "SELECT type, first, last FROM blocks WHERE is_whole AND NOT EXISTS "
        "(SELECT 1 FROM columns WHERE block = blocks.key AND name IN "
        f"({', '.join('?' * len(columns))})) ORDER BY type, first",
        columns,
    )
    found: dict[int, list[tuple[int, int]]] = {}
    for key, first, last in rows:
        found.setdefault(key, []).append((first, last))
    return found
