"""The past: how many events of each type and version were received, by time."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterable

from ..models import History, TimeRange
from ..steps import steps

__all__ = ["history"]

_MAX_TYPES = 8


def history(
    connection: sqlite3.Connection,
    span: TimeRange,
    *,
    offset: int = 0,
    type: str | None = None,
    version: str | None = None,
    now: int | None = None,
) -> History:
    """Return how many events were received in equal steps of a range.

    The steps are those of the calendar: the first one contains the start of the range, the last one
    its end. Without a start, they begin with the first event; without an end, they go on until now,
    or without both, until the last event.

    Args:
        connection: a connection to the database.
        span: the range.
        offset: the zone of the calendar, in minutes east of UTC.
        type: only events of this type.
        version: only events of this version of the game's build.
        now: in milliseconds since the epoch; by default the time.
    """
    now = time.time_ns() // 1_000_000 if now is None else now
    oldest, newest = connection.execute(
        "SELECT min(received), max(received) FROM events"
    ).fetchone()
    if oldest is None:
        oldest = newest = now
    start = oldest if span.start is None else span.start
    end = span.end
    if end is None:
        end = newest + 1 if span.start is None else max(now, start) + 1
    first, last, step = steps(start, end, offset)
    rows = connection.execute(
        "SELECT name, (received - :first) / :step, count(*) FROM events JOIN types "
        "ON types.key = events.type WHERE received >= :first AND received < :last "
        "AND (:type IS NULL OR name = :type) AND (:version IS NULL OR version = :version) "
        "GROUP BY 1, 2",
        {"first": first, "last": last, "step": step, "type": type, "version": version},
    )
    return _history(rows, first, last, step)


def _history(rows: Iterable[tuple[str, int, int]], first: int, last: int, step: int) -> History:
    size = (last - first) // step
    counts: dict[str, list[int]] = {}
    for name, place, events in rows:
        counts.setdefault(name, [0] * size)[place] += events
    most_first = sorted(counts, key=lambda name: (-sum(counts[name]), name))
    types = {name: counts[name] for name in most_first[:_MAX_TYPES]}
    if others := [counts[name] for name in most_first[_MAX_TYPES:]]:
        types[""] = [sum(parts) for parts in zip(*others, strict=True)]
    return History(first, last, step, types, sum(map(sum, types.values())))
