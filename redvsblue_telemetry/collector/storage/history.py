"""The past: how many events of each type and version were received, by time."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterable

from ..models import History, TimeRange

__all__ = ["history"]

_MINUTE = 60_000  # milliseconds
_HOUR = 60 * _MINUTE
_DAY = 24 * _HOUR
_STEPS = (
    *(minutes * _MINUTE for minutes in (1, 5, 15)),
    *(hours * _HOUR for hours in (1, 3, 12)),
    *(days * _DAY for days in (1, 7, 30)),
)
_MAX_STEPS = 200
_MAX_TYPES = 8
_MONDAY = 4 * _DAY  # the first one since the epoch


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
    step = next((each for each in _STEPS if _count(start, end, each, offset) <= _MAX_STEPS), 0)
    while not step:
        step = _DAY * 30 * -(-(end - start) // (_DAY * 30 * (_MAX_STEPS - 2)))
    first, last = _aligned(start, step, offset), _aligned(end - 1, step, offset) + step
    rows = connection.execute(
        "SELECT name, (received - :first) / :step, count(*) FROM events JOIN types "
        "ON types.key = events.type WHERE received >= :first AND received < :last "
        "AND (:type IS NULL OR name = :type) AND (:version IS NULL OR version = :version) "
        "GROUP BY 1, 2",
        {"first": first, "last": last, "step": step, "type": type, "version": version},
    )
    return _history(rows, first, last, step)


def _aligned(when: int, step: int, offset: int) -> int:
    """Return when the step begins that a time is in."""
    shift = offset * _MINUTE - (_MONDAY if step == 7 * _DAY else 0)
    return (when + shift) // step * step - shift


def _count(start: int, end: int, step: int, offset: int) -> int:
    return (_aligned(end - 1, step, offset) - _aligned(start, step, offset)) // step + 1


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
