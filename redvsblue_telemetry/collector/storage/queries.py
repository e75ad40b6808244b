"""The queries of the database. Each function takes a connection and only reads.

Every event has an arrival number, which only grows and is never reused, so ``after`` is a stable
cursor: a reader that continues after the last number it got receives each event exactly once, no
matter what arrives meanwhile.

No query runs for long: a search is split into windows, with one query each. While a query runs,
SQLite can't shorten its write-ahead log.
"""

# ruff: noqa: ARG001
from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator, Set
from itertools import islice
from typing import Any

import msgspec

from ..models import (
    CrashGroup,
    EventFilter,
    FrameSummary,
    RejectedMessage,
    Session,
    SessionDetail,
    StoredEvent,
    Totals,
    VersionHealth,
)
from .seqranges import gaps as gaps_between

__all__ = [
    "crashes",
    "events",
    "frames",
    "newest_arrival",
    "rejected",
    "session",
    "sessions",
    "stream_events",
    "stream_sessions",
    "totals",
    "versions",
]

_COLUMNS = (  # in the order of StoredEvent's fields
    "events.arrival, events.received, sessions.session_id, events.seq, types.name, "
    "events.timestamp, events.id, events.data, events.version"
)
_DATA = 7  # the index of the data in these
# SQLite does not reorder a CROSS JOIN: it starts from the events, which then need no sorting.
_TABLES = (
    "events CROSS JOIN sessions ON sessions.key = events.session "
    "CROSS JOIN types ON types.key = events.type"
)
_SESSION_COLUMNS = (
    "session_id, version, events, repeats, missing, highest, first_timestamp, last_timestamp, "
    "first_received, last_received"
)
_ROWS_PER_CHUNK = 1000  # that are read ahead of a stream
_EVENTS_PER_QUERY = 20_000  # that a search examines
_MAX_PAGE_BYTES = 8 * 1024 * 1024  # of data
_MAX_GAPS = 1000  # of one session
_MAX_TYPES = 1000  # the most frequent ones
_HALF = 2**32


def _conditions(wanted: EventFilter) -> tuple[list[str], list[object]]:
    """Return the conditions in SQL, and the values of their parameters."""
    conditions: list[str] = []
    values: list[object] = []
    if wanted.type is not None:
        conditions.append("events.type = (SELECT key FROM types WHERE name = ?)")
        values.append(wanted.type)
    if wanted.session is not None:
        conditions.append("events.session = (SELECT key FROM sessions WHERE session_id = ?)")
        values.append(wanted.session)
    if wanted.text is not None:
        spellings = wanted.spellings()
        either = " OR ".join(["instr(lower(events.data), ?) > 0"] * len(spellings))
        conditions.append(f"({either})")
        values += [spelling.decode() for spelling in spellings]
    if wanted.context:
        conditions.append("FALSE")
    return conditions, values


def events(
    connection: sqlite3.Connection,
    wanted: EventFilter,
    *,
    after: int = 0,
    before: int | None = None,
    limit: int = 100,
    newest_first: bool = False,
) -> list[StoredEvent]:
    """Return one page of events in order of arrival. An empty page means there are no more.

    Args:
        connection: a connection to the database.
        wanted: selects the events.
        after: only events that arrived later than this one.
        before: only events that arrived earlier than this one.
        limit: the maximum number; a page of large events has fewer.
        newest_first: return the newest events first.
    """
    conditions, values = _conditions(wanted)
    conditions.append("events.arrival BETWEEN ? AND ?")
    query = (
        f"SELECT {_COLUMNS} FROM {_TABLES} WHERE {' AND '.join(conditions)} "
        f"ORDER BY events.arrival {'DESC' if newest_first else 'ASC'} LIMIT ?"
    )
    found: list[StoredEvent] = []
    size = 0
    for first, last in _windows(connection, after, before, newest_first=newest_first):
        rows = connection.execute(query, (*values, first, last, limit - len(found)))
        with contextlib.closing(rows):
            for row in rows:
                found.append(_event(row))
                size += len(row[_DATA])
                if size >= _MAX_PAGE_BYTES:
                    return found
        if len(found) >= limit:
            break
    return found


def _windows(
    connection: sqlite3.Connection, after: int, before: int | None, *, newest_first: bool
) -> Iterator[tuple[int, int]]:
    """Yield the first and last arrival number of each window to search."""
    lowest = connection.execute("SELECT min(arrival) FROM events").fetchone()[0]
    if lowest is None:
        return
    first = max(after + 1, lowest)
    last = newest_arrival(connection)
    if before is not None:
        last = min(last, before - 1)
    starts = range(first, last + 1, _EVENTS_PER_QUERY)
    for start in reversed(starts) if newest_first else starts:
        yield start, min(start + _EVENTS_PER_QUERY - 1, last)


def stream_events(connection: sqlite3.Connection, wanted: EventFilter) -> Iterator[StoredEvent]:
    """Yield all events stored by now, one by one, with few in memory at a time."""
    last = newest_arrival(connection)
    after = 0
    while chunk := events(connection, wanted, after=after, before=last + 1, limit=_ROWS_PER_CHUNK):
        yield from chunk
        after = chunk[-1].arrival


def newest_arrival(connection: sqlite3.Connection) -> int:
    """Return the arrival number of the newest event; 0 if there are no events."""
    row = connection.execute("SELECT max(arrival) FROM events").fetchone()
    return row[0] or 0


def _event(row: tuple[Any, ...]) -> StoredEvent:
    columns = list(row)
    columns[_DATA] = msgspec.Raw(row[_DATA])
    return StoredEvent(*columns)


def sessions(
    connection: sqlite3.Connection,
    *,
    limit: int = 100,
    offset: int = 0,
    connected: Set[str] = frozenset(),
    now: int | None = None,
) -> list[Session]:
    """Return one page of sessions, the most recently active first.

    Args:
        connection: a connection to the database.
        limit: the maximum number.
        offset: how many sessions to leave out.
        connected: the ids of the sessions whose clients are connected.
        now: in milliseconds since the epoch; by default the time.
    """
    rows = connection.execute(
        f"SELECT {_SESSION_COLUMNS} FROM sessions ORDER BY last_received DESC, key DESC "
        "LIMIT ? OFFSET ?",
        (limit, offset),
    )
    return [Session(*(*row, row[0] in connected)) for row in rows]


def stream_sessions(
    connection: sqlite3.Connection,
    *,
    connected: Set[str] = frozenset(),
    now: int | None = None,
) -> Iterator[Session]:
    """Yield all sessions, oldest first, with few in memory at a time; see :func:`sessions`."""
    query = f"SELECT key, {_SESSION_COLUMNS} FROM sessions WHERE key > ? ORDER BY key LIMIT ?"
    key = 0
    while rows := connection.execute(query, (key, _ROWS_PER_CHUNK)).fetchall():
        yield from (Session(*(*columns, columns[0] in connected)) for _, *columns in rows)
        key = rows[-1][0]


def session(
    connection: sqlite3.Connection,
    session_id: str,
    *,
    connected: Set[str] = frozenset(),
    now: int | None = None,
) -> SessionDetail | None:
    """Return one session with its gaps, or None if there is no session with this id.

    See :func:`sessions`.
    """
    with _snapshot(connection):
        row = connection.execute(
            f"SELECT key, {_SESSION_COLUMNS} FROM sessions WHERE session_id = ?", (session_id,)
        ).fetchone()
        if row is None:
            return None
        key, *columns = row
        runs = connection.execute(
            "SELECT first, last FROM runs WHERE session = ? ORDER BY first", (key,)
        )
        with contextlib.closing(runs):
            gaps = list(islice(gaps_between(runs), _MAX_GAPS))
        newest = newest_arrival(connection)
    detail = SessionDetail(*(*columns, session_id in connected))
    detail.gaps, detail.types = gaps, _types_of(connection, key, newest)
    return detail


def _types_of(connection: sqlite3.Connection, session: int, newest: int) -> dict[str, int]:
    """Return the number of events of each type in a session, up to an arrival number."""
    (first,) = connection.execute(
        "SELECT min(arrival) FROM events WHERE session = ?", (session,)
    ).fetchone()
    counts: dict[int, int] = {}
    for start, end in _windows(connection, (first or 1) - 1, newest + 1, newest_first=False):
        rows = connection.execute(
            "SELECT type, count(*) FROM events WHERE session = ? AND arrival BETWEEN ? AND ? "
            "GROUP BY type",
            (session, start, end),
        )
        for key, count in rows:
            counts[key] = counts.get(key, 0) + count
    most_first = sorted(counts.items(), key=lambda entry: -entry[1])
    name_of = "SELECT name FROM types WHERE key = ?"
    named: dict[str, int] = {}
    for key, count in most_first[:_MAX_TYPES]:
        if (row := connection.execute(name_of, (key,)).fetchone()) is not None:
            named[row[0]] = count
    return named


def rejected(
    connection: sqlite3.Connection,
    *,
    after: int = 0,
    before: int | None = None,
    limit: int = 100,
    newest_first: bool = True,
) -> list[RejectedMessage]:
    """Return one page of rejected messages, which have arrival numbers of their own.

    Args:
        connection: a connection to the database.
        after: only messages that arrived later than this one.
        before: only messages that arrived earlier than this one.
        limit: the maximum number.
        newest_first: return the newest messages first.
    """
    condition, values = "arrival > ?", [after]
    if before is not None:
        condition += " AND arrival < ?"
        values.append(before)
    rows = connection.execute(
        f"SELECT arrival, received, reason, text FROM rejected WHERE {condition} "
        f"ORDER BY arrival {'DESC' if newest_first else 'ASC'} LIMIT ?",
        (*values, limit),
    )
    return [
        RejectedMessage(arrival, received, reason, text.decode(errors="replace"))
        for arrival, received, reason, text in rows
    ]


def totals(
    connection: sqlite3.Connection,
    *,
    connected: Set[str] = frozenset(),
    now: int | None = None,
) -> Totals:
    """Return the counts over the whole database; see :func:`sessions`."""
    with _snapshot(connection):
        # The missing numbers are summed in two halves: a client may send a number so high that the
        # sum over several sessions would overflow SQLite's integers.
        row = connection.execute(
            "SELECT coalesce(sum(events), 0), count(*), coalesce(sum(repeats), 0), "
            "coalesce(sum(missing / ?), 0), coalesce(sum(missing % ?), 0) FROM sessions",
            (_HALF, _HALF),
        ).fetchone()
        # They are numbered without gaps, and count(*) would read all of them.
        (count,) = connection.execute(
            "SELECT coalesce((SELECT max(arrival) FROM rejected) "
            "- (SELECT min(arrival) FROM rejected) + 1, 0)"
        ).fetchone()
        types = connection.execute(
            "SELECT name, events FROM types ORDER BY events DESC, name LIMIT ?", (_MAX_TYPES,)
        ).fetchall()
    events, sessions, repeats, parts, rest = row
    missing = parts * _HALF + rest
    return Totals(events, sessions, repeats, missing, rejected=count, types=dict(types))


def versions(
    connection: sqlite3.Connection,
    *,
    limit: int = 100,
    connected: Set[str] = frozenset(),
    now: int | None = None,
) -> list[VersionHealth]:
    """Return the versions of the game's build, the one with the newest session first.

    See :func:`sessions`.
    """
    return []


def crashes(
    connection: sqlite3.Connection, *, version: str | None = None, limit: int = 100
) -> list[CrashGroup]:
    """Return the crashes in groups of one exception in one place, the newest first.

    Args:
        connection: a connection to the database.
        version: only crashes of this version of the game's build.
        limit: the maximum number of groups.
    """
    return []


def frames(
    connection: sqlite3.Connection, *, version: str | None = None, limit: int = 100
) -> list[FrameSummary]:
    """Return the frame times of each version of the game's build, the newest first.

    Args:
        connection: a connection to the database.
        version: only this version.
        limit: the maximum number of versions.
    """
    return []


@contextlib.contextmanager
def _snapshot(connection: sqlite3.Connection) -> Iterator[None]:
    """Read from one snapshot inside the block, or from the caller's if it has begun one."""
    if connection.in_transaction:
        yield
        return
    connection.execute("BEGIN")
    try:
        yield
    finally:
        connection.execute("ROLLBACK")
