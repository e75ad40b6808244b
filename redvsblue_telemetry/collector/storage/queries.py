"""What can be asked of the database. Pure reading: each function takes a connection to read by.

Events are given in the order of their arrival, each with the number of its arrival, which only
grows and is never given again. So ``after`` is a stable cursor: whoever asks on with the last
number that was given gets each event once, whatever comes in meanwhile.

Nothing here reads for long at once: a search goes from window to window, each a query of its own.
In memory, whoever reads keeps the writer waiting; in a file, its log can only grow meanwhile.
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Protocol, TypeVar

import msgspec

from .seqranges import gaps as gaps_between

__all__ = [
    "EventFilter",
    "Filterable",
    "RejectedMessage",
    "Session",
    "SessionDetail",
    "StoredEvent",
    "Totals",
    "events",
    "newest_arrival",
    "rejected",
    "session",
    "sessions",
    "stream_events",
    "stream_sessions",
    "totals",
]

_COLUMNS = (
    "events.arrival, events.received, sessions.session_id, events.seq, types.name, "
    "events.timestamp, events.id, events.version, events.data"
)
# CROSS JOIN keeps the order of the tables: from the events, which then need no sorting.
_TABLES = (
    "events CROSS JOIN sessions ON sessions.key = events.session "
    "CROSS JOIN types ON types.key = events.type"
)
_SESSION_COLUMNS = (
    "session_id, version, events, repeats, missing, highest, first_timestamp, last_timestamp, "
    "first_received, last_received"
)
_Found = TypeVar("_Found", bound="Filterable")
_CHUNK = 1000
_WINDOW = 20_000  # events that one query may look at
_MOST_BYTES = 8 * 1024 * 1024  # of data in one answer
_GAPS = 1000  # of one session, that are told
_TYPES = 1000  # that are told, the most frequent ones
_PART = 2**32


class StoredEvent(msgspec.Struct, rename="camel", omit_defaults=True):
    """An event as it came, and when it came. Times are in milliseconds since the epoch."""

    arrival: int
    received: int
    """By the clock of the collector's machine."""
    session_id: str
    seq: int
    type: str
    timestamp: int
    """By the clock of the player's machine."""
    id: str
    data: msgspec.Raw
    version: str | None = None


class Session(msgspec.Struct, rename="camel"):
    """One run of a game."""

    session_id: str
    version: str | None
    events: int
    """How many are stored, each counted once."""
    repeats: int
    """How many came that were there already."""
    missing: int
    """How many numbers below the highest have not come: what was lost, or is late."""
    highest: int
    first_timestamp: int
    last_timestamp: int
    first_received: int
    last_received: int


class SessionDetail(Session):
    """A session, and what is missing from it."""

    gaps: list[tuple[int, int]] = []
    """The first and last number of each run that is missing; the first thousand of them."""
    types: dict[str, int] = {}
    """How many events there are of each type; the thousand most frequent of them."""


class RejectedMessage(msgspec.Struct):
    """What came and was no event."""

    arrival: int
    received: int
    reason: str
    text: str
    """The first kilobyte of it; what is no UTF-8 in it is shown as U+FFFD."""


class Totals(msgspec.Struct):
    """How much there is of everything."""

    events: int
    sessions: int
    repeats: int
    missing: int
    rejected: int
    types: dict[str, int]
    """How many events there are of each type; the thousand most frequent of them."""


class Filterable(Protocol):
    """What an event has that a filter looks at."""

    type: str
    session_id: str
    data: msgspec.Raw


class EventFilter(msgspec.Struct):
    """Which events are asked for; all of what is set has to fit."""

    type: str | None = None
    session: str | None = None
    text: str | None = None
    """Part of the data, as it is read or as JSON has it. The case of a to z means nothing."""

    def where(self) -> tuple[list[str], list[object]]:
        """The conditions in SQL, and their values."""
        conditions: list[str] = []
        values: list[object] = []
        if self.type is not None:
            conditions.append("events.type = (SELECT key FROM types WHERE name = ?)")
            values.append(self.type)
        if self.session is not None:
            conditions.append("events.session = (SELECT key FROM sessions WHERE session_id = ?)")
            values.append(self.session)
        if self.text is not None:
            spellings = _spellings(self.text)
            either = " OR ".join(["instr(lower(events.data), ?) > 0"] * len(spellings))
            conditions.append(f"({either})")
            values += [spelling.decode() for spelling in spellings]
        return conditions, values

    def matching(self, found: Iterable[_Found]) -> list[_Found]:
        """Those events that fit, by the same rules as in the database."""
        spellings = None if self.text is None else _spellings(self.text)
        return [
            event
            for event in found
            if (self.type is None or event.type == self.type)
            and (self.session is None or event.session_id == self.session)
            and (spellings is None or _has_any(event.data, spellings))
        ]


def _has_any(data: msgspec.Raw, spellings: list[bytes]) -> bool:
    text = bytes(data).lower()
    return any(spelling in text for spelling in spellings)


def _spellings(text: str) -> list[bytes]:
    """What to look for in the text of JSON when somebody looks for this; a to z in lower case.

    It may be inside a string, where quotes are escaped, and for some clients what isn't ASCII too.
    Or it is copied from where JSON is laid out with spaces, which the SDK sends without.
    """
    spellings = (
        text,
        text.replace('": ', '":').replace(', "', ',"'),
        json.dumps(text, ensure_ascii=False)[1:-1],
        json.dumps(text)[1:-1],
    )
    return sorted({spelling.encode(errors="replace").lower() for spelling in spellings})


def events(
    connection: sqlite3.Connection,
    wanted: EventFilter,
    *,
    after: int = 0,
    before: int | None = None,
    limit: int = 100,
    newest_first: bool = False,
) -> list[StoredEvent]:
    """Some events, in the order of their arrival. They are none only if there are no more.

    Args:
        connection: to read by.
        wanted: which.
        after: only those that arrived later than this one.
        before: only those that arrived earlier than this one.
        limit: at most so many; fewer if their data is large.
        newest_first: begin with the newest, and go back.
    """
    conditions, values = wanted.where()
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
                size += len(row[-1])
                if size >= _MOST_BYTES:
                    return found
        if len(found) >= limit:
            break
    return found


def _windows(
    connection: sqlite3.Connection, after: int, before: int | None, *, newest_first: bool
) -> Iterator[tuple[int, int]]:
    """The first and last number of each window in which to look for events."""
    lowest = connection.execute("SELECT min(arrival) FROM events").fetchone()[0]
    if lowest is None:
        return
    first = max(after + 1, lowest)
    last = newest_arrival(connection)
    if before is not None:
        last = min(last, before - 1)
    starts = range(first, last + 1, _WINDOW)
    for start in reversed(starts) if newest_first else starts:
        yield start, min(start + _WINDOW - 1, last)


def stream_events(connection: sqlite3.Connection, wanted: EventFilter) -> Iterator[StoredEvent]:
    """All events that there are now, one by one; in memory there are never many."""
    last = newest_arrival(connection)
    after = 0
    while chunk := events(connection, wanted, after=after, before=last + 1, limit=_CHUNK):
        yield from chunk
        after = chunk[-1].arrival


def newest_arrival(connection: sqlite3.Connection) -> int:
    """The number of the newest event; 0 if there is none."""
    row = connection.execute("SELECT max(arrival) FROM events").fetchone()
    return row[0] or 0


def _event(row: tuple[object, ...]) -> StoredEvent:
    arrival, received, session_id, seq, type_, timestamp, id_, version, data = row
    return StoredEvent(
        arrival=arrival,  # type: ignore[arg-type]
        received=received,  # type: ignore[arg-type]
        session_id=session_id,  # type: ignore[arg-type]
        seq=seq,  # type: ignore[arg-type]
        type=type_,  # type: ignore[arg-type]
        timestamp=timestamp,  # type: ignore[arg-type]
        id=id_,  # type: ignore[arg-type]
        data=msgspec.Raw(data),  # type: ignore[call-overload]
        version=version,  # type: ignore[arg-type]
    )


def sessions(connection: sqlite3.Connection, *, limit: int = 100, offset: int = 0) -> list[Session]:
    """The sessions, the one that was heard of last first."""
    rows = connection.execute(
        f"SELECT {_SESSION_COLUMNS} FROM sessions ORDER BY last_received DESC, key DESC "
        "LIMIT ? OFFSET ?",
        (limit, offset),
    )
    return [Session(*row) for row in rows]


def stream_sessions(connection: sqlite3.Connection) -> Iterator[Session]:
    """All sessions, one by one, the oldest first; in memory there are never many."""
    query = f"SELECT key, {_SESSION_COLUMNS} FROM sessions WHERE key > ? ORDER BY key LIMIT ?"
    key = 0
    while rows := connection.execute(query, (key, _CHUNK)).fetchall():
        yield from (Session(*columns) for _, *columns in rows)
        key = rows[-1][0]


def session(connection: sqlite3.Connection, session_id: str) -> SessionDetail | None:
    """One session, with its gaps; None if there is none of this id."""
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
            gaps = list(islice(gaps_between(runs), _GAPS))
        newest = newest_arrival(connection)
    detail = SessionDetail(*columns)
    detail.gaps, detail.types = gaps, _types_of(connection, key, newest)
    return detail


def _types_of(connection: sqlite3.Connection, session: int, newest: int) -> dict[str, int]:
    """How many events of a session there are of each type, up to the newest to be counted."""
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
    for key, count in most_first[:_TYPES]:
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
    """What was rejected; it is numbered as events are, apart from them.

    Args:
        connection: to read by.
        after: only what arrived later than this.
        before: only what arrived earlier than this.
        limit: at most so many.
        newest_first: begin with the newest, and go back.
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


def totals(connection: sqlite3.Connection) -> Totals:
    """How much there is of everything."""
    with _snapshot(connection):
        # What is missing is summed in two parts: a client may name a number so high that a sum of
        # several would be more than SQLite can hold.
        row = connection.execute(
            "SELECT coalesce(sum(events), 0), count(*), coalesce(sum(repeats), 0), "
            "coalesce(sum(missing / ?), 0), coalesce(sum(missing % ?), 0) FROM sessions",
            (_PART, _PART),
        ).fetchone()
        # They are numbered without a gap, and counting them one by one would read them all.
        (count,) = connection.execute(
            "SELECT coalesce((SELECT max(arrival) FROM rejected) "
            "- (SELECT min(arrival) FROM rejected) + 1, 0)"
        ).fetchone()
        types = connection.execute(
            "SELECT name, events FROM types ORDER BY events DESC, name LIMIT ?", (_TYPES,)
        ).fetchall()
    events, sessions, repeats, parts, rest = row
    missing = parts * _PART + rest
    return Totals(events, sessions, repeats, missing, rejected=count, types=dict(types))


@contextlib.contextmanager
def _snapshot(connection: sqlite3.Connection) -> Iterator[None]:
    """What is read inside is of one moment: of the caller's, if it has begun one."""
    if connection.in_transaction:
        yield
        return
    connection.execute("BEGIN")
    try:
        yield
    finally:
        connection.execute("ROLLBACK")
