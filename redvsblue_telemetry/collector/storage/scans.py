"""Looks at all events, in SQL: only what is found costs a step of Python."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from ..models import ALL_TIME, EventFilter, TimeRange
from .batches import DATA, cut, windows
from .plan import plan

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
    parts: Sequence[str],
    span: TimeRange = ALL_TIME,
) -> Iterator[tuple[int, list[str]]]:
    """Yield the data of the events whose JSON contains one of these parts, in pages.

    Each page with the arrival number up to which the events have been examined.
    """
    chosen = plan(connection, wanted, span)
    either = " OR ".join("instr(data, '{}')".format(part.replace("'", "''")) for part in parts)
    conditions = " AND ".join([*chosen.conditions, f"({either})", "events.arrival BETWEEN ? AND ?"])
    query = f"SELECT {DATA} FROM events WHERE {conditions}"
    for window in windows(connection, chosen, f"({either})"):
        found = cut(*connection.execute(query, (*chosen.values, *window)).fetchone())
        if found:
            yield window[1], found
