"""The past: how many events were received in a range of time, and which arrivals these have.

Read from the counts (:mod:`.counting`). Events that are not counted yet, as in a file of an earlier
release, are counted here.
"""

from __future__ import annotations

import sqlite3
import time
from collections import Counter

import msgspec

from ..models import ALL_TIME, History, TimeRange
from ..steps import steps
from .counting import LENGTHS, MINUTE, RUN_LENGTHS
from .snapshot import snapshot

__all__ = ["arrivals", "bounds", "condition", "events_by_type", "history", "most_frequent"]

_MAX_TYPES = 8
_MAX_EVENTS_AT_END = 300_000  # that are counted one by one: they take about a twentieth of a second


def condition(span: TimeRange, column: str = "received") -> str:
    """Return SQL for a time in a range; the ends of the range are ``:start`` and ``:end``.

    Args:
        span: the range.
        column: that of the time.
    """
    parts = ["TRUE"]
    if span.start is not None:
        parts.append(f"{column} >= :start")
    if span.end is not None:
        parts.append(f"{column} < :end")
    return " AND ".join(parts)


def bounds(span: TimeRange) -> dict[str, object]:
    """Return the values of the parameters of :func:`condition`."""
    return {"start": span.start, "end": span.end}


# Arrivals.


def arrivals(connection: sqlite3.Connection, span: TimeRange) -> tuple[int, int]:
    """Return the first and the last arrival that events of a range may have.

    There may be other events between them, and the last may be before the first: then there are
    none.
    """
    with snapshot(connection):
        execute = connection.execute
        # Two queries, each of which SQLite answers from an end of the table.
        (lowest,) = execute("SELECT min(arrival) FROM events").fetchone()
        (newest,) = execute("SELECT max(arrival) FROM events").fetchone()
        if lowest is None:
            return 1, 0
        if span == ALL_TIME:
            return lowest, newest
        (counted,) = execute("SELECT first FROM counted").fetchone()
        firsts = []
        for length in RUN_LENGTHS:
            whole = f"period >= :start / {MINUTE * length} * {length} AND "
            until = f"period * {MINUTE} < :end AND "
            firsts += execute(
                "SELECT min(first), max(first) FROM arrivals WHERE "
                f"{'' if span.start is None else whole}{'' if span.end is None else until}"
                "minutes = :length",
                {**bounds(span), "length": length},
            ).fetchone()
        runs = [first for first in firsts if first is not None]
        if not runs:
            return (lowest, counted - 1)
        after = execute("SELECT min(first) FROM arrivals WHERE first > ?", (max(runs),)).fetchone()
        last = newest if after[0] is None else after[0] - 1
        return (lowest if lowest < counted else min(runs)), last


# Numbers of events.


class _Period(msgspec.Struct, frozen=True):
    """A period of the counts, in milliseconds since the epoch."""

    start: int
    end: int


def events_by_type(connection: sqlite3.Connection, span: TimeRange) -> dict[str, int]:
    """Return how many events of each type were received in a range, the most frequent first.

    Those that have been deleted since are among them, unless on request. The numbers are exact as
    long as the events at the two ends of the range are stored, and not too many. Otherwise, a
    period counts if it begins in the range: of the last days a minute, before that a quarter of an
    hour or an hour, and long ago a day.

    Args:
        connection: a connection to the database.
        span: the range.
    """
    with snapshot(connection):
        whole, ends = _divided(connection, span)
        found = Counter[str]()
        if whole is not None:
            found += _counts(connection, whole)
        for period, part in ends:
            exact = _events_at_end(connection, period, part)
            if exact is not None:
                found += exact
            elif span.start is None or span.start <= period.start:
                found += _counts(connection, TimeRange(period.start, period.end))
        for name, _, events in _uncounted(connection, span):
            found[name] += events
    return dict(sorted(found.items(), key=lambda item: (-item[1], item[0])))


def _divided(
    connection: sqlite3.Connection, span: TimeRange
) -> tuple[TimeRange | None, list[tuple[_Period, TimeRange]]]:
    """Return the part of a range that is whole periods, and the periods that it ends in.

    Each of these with the part of it that is in the range.
    """
    first, last = _period_around(connection, span.start), _period_around(connection, span.end)
    if first is not None and last is not None and last.start < first.end:
        around = max(first, last, key=lambda period: period.end - period.start)
        return None, [(around, span)]
    ends = []
    whole = span
    if first is not None:
        ends.append((first, TimeRange(span.start, first.end)))
        whole = TimeRange(first.end, whole.end)
    if last is not None:
        ends.append((last, TimeRange(last.start, span.end)))
        whole = TimeRange(whole.start, last.start)
    return whole, ends


def _period_around(connection: sqlite3.Connection, when: int | None) -> _Period | None:
    """Return the longest period with a count that has begun at a time, and not ended."""
    if when is None:
        return None
    for length in reversed(LENGTHS):
        period = when // (MINUTE * length) * length
        if period * MINUTE == when:
            break  # shorter ones begin then, too
        row = connection.execute(
            "SELECT 1 FROM counts WHERE minutes = ? AND period = ? LIMIT 1", (length, period)
        ).fetchone()
        if row is not None:
            return _Period(period * MINUTE, (period + length) * MINUTE)
    return None


def _counts(connection: sqlite3.Connection, span: TimeRange) -> Counter[str]:
    """Return the counts of the periods that begin in a range, by type."""
    rows = connection.execute(
        "SELECT type, sum(number) FROM ("
        f"SELECT series, sum(events) AS number FROM counts WHERE {_BEGINS} GROUP BY series"
        ") JOIN series ON series.key = series GROUP BY type",
        _minutes(span),
    )
    return Counter(dict(rows.fetchall()))


_BEGINS = f"minutes IN {LENGTHS} AND period >= :first AND period < :last"
_CHOSEN = "(:type IS NULL OR type = :type) AND (:version IS NULL OR version = :version)"
_LAST_MINUTE = 2**53  # after all of them


def _minutes(span: TimeRange) -> dict[str, object]:
    """Return the values of the parameters of :data:`_BEGINS`."""
    return {
        "first": 0 if span.start is None else -(-span.start // MINUTE),
        "last": _LAST_MINUTE if span.end is None else -(-span.end // MINUTE),
    }


def _events_at_end(
    connection: sqlite3.Connection, period: _Period, part: TimeRange
) -> Counter[str] | None:
    """Return how many events were received in a part of a period, counted one by one.

    None if there are too many, or if some of them have been deleted.
    """
    whole = TimeRange(period.start, period.end)
    first, last = arrivals(connection, whole)
    if last - first >= _MAX_EVENTS_AT_END:
        return None
    rows = connection.execute(
        f"SELECT name, sum(number), sum(is_in * number) FROM ("
        f"SELECT type, ({condition(part)}) AS is_in, count(*) AS number FROM events "
        "WHERE arrival BETWEEN :low AND :high AND arrival >= (SELECT first FROM counted) "
        "AND received >= :from AND received < :to GROUP BY 1, 2"
        ") JOIN types ON types.key = type GROUP BY name",
        {**bounds(part), "low": first, "high": last, "from": period.start, "to": period.end},
    ).fetchall()
    if sum(number for _, number, _ in rows) != _counts(connection, whole).total():
        return None
    return Counter({name: number for name, _, number in rows})


def _uncounted(
    connection: sqlite3.Connection,
    span: TimeRange,
    type: str | None = None,
    version: str | None = None,
) -> list[tuple[str, int, int]]:
    """Return the types of the events that are not counted yet, by minute, and how many they are."""
    return connection.execute(
        # By the arrivals: with the index of types, SQLite would look at all events.
        f"SELECT name, minute, number FROM (SELECT +type AS type, received / {MINUTE} AS minute, "
        "count(*) AS number FROM events WHERE arrival < (SELECT first FROM counted) "
        f"AND {condition(span)} AND (:version IS NULL OR version = :version) GROUP BY 1, 2"
        ") JOIN types ON types.key = type WHERE :type IS NULL OR name = :type",
        {**bounds(span), "type": type, "version": version},
    ).fetchall()


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
    or without both, until the last event. None is shorter than the counts that are left.

    Args:
        connection: a connection to the database.
        span: the range.
        offset: the zone of the calendar, in minutes east of UTC.
        type: only events of this type.
        version: only events of this version of the game's build.
        now: in milliseconds since the epoch; by default the time.
    """
    now = time.time_ns() // 1_000_000 if now is None else now
    with snapshot(connection):
        # All of them, since the steps at the two ends are wider than the range.
        uncounted = _uncounted(connection, ALL_TIME, type, version)
        start, end = _bounds(connection, span, uncounted, now)
        length = _longest(connection, TimeRange(start, end))
        first, last, step = steps(start, end, offset, length * MINUTE)
        # Before they are added up: that takes the time of each row.
        is_any = type is None and version is None
        chosen = "TRUE" if is_any else f"series IN (SELECT key FROM series WHERE {_CHOSEN})"
        counted = connection.execute(
            "SELECT type, place, sum(number) FROM ("
            f"SELECT series, (period * {MINUTE} - :start) / :step AS place, "
            f"sum(events) AS number FROM counts WHERE {_BEGINS} AND {chosen} GROUP BY 1, 2"
            ") JOIN series ON series.key = series GROUP BY 1, 2",
            {
                **_minutes(TimeRange(first, last)),
                "start": first,
                "step": step,
                "type": type,
                "version": version,
            },
        ).fetchall()
    counts: dict[str, list[int]] = {}
    size = (last - first) // step
    places = [(name, (minute * MINUTE - first) // step, n) for name, minute, n in uncounted]
    for name, place, events in [*counted, *places]:
        if 0 <= place < size:
            counts.setdefault(name, [0] * size)[place] += events
    return History(first, last, step, most_frequent(counts), sum(map(sum, counts.values())))


def _bounds(
    connection: sqlite3.Connection,
    span: TimeRange,
    uncounted: list[tuple[str, int, int]],
    now: int,
) -> tuple[int, int]:
    """Return the start and the end of a range, which may be open."""
    periods = [(minute, minute + 1) for _, minute, _ in uncounted]
    for length in LENGTHS:
        first, last = connection.execute(
            "SELECT (SELECT min(period) FROM counts WHERE minutes = :length), "
            "(SELECT max(period) + :length FROM counts WHERE minutes = :length)",
            {"length": length},
        ).fetchone()
        if first is not None:
            periods.append((first, last))
    start, end = span.start, span.end
    if start is None:
        start = min((first * MINUTE for first, _ in periods), default=now)
        if end is not None:
            start = min(start, end)
        elif periods:
            end = max(last * MINUTE for _, last in periods)
    if end is None:
        end = max(now + 1, start)
    return start, max(end, start + 1)


def _longest(connection: sqlite3.Connection, span: TimeRange) -> int:
    """Return the length of the longest periods in a range, in minutes."""
    for length in reversed(LENGTHS[1:]):
        row = connection.execute(
            "SELECT 1 FROM counts WHERE minutes = :length AND period + :length > :first "
            "AND period >= :first - :length AND period < :last LIMIT 1",
            {**_minutes(span), "length": length},
        ).fetchone()
        if row is not None:
            return int(length)
    return 1


def most_frequent(counts: dict[str, list[int]]) -> dict[str, list[int]]:
    """Return the most frequent types, with the sum of all others."""
    most_first = sorted((name for name in counts if name), key=lambda name: -sum(counts[name]))
    types = {name: counts[name] for name in most_first[:_MAX_TYPES]}
    others = [counts[name] for name in [*most_first[_MAX_TYPES:], *({""} & counts.keys())]]
    if others:
        types[""] = [sum(parts) for parts in zip(*others, strict=True)]
    return types
