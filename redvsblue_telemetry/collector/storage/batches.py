"""Events by column, for those who read all of them: an export, the frame times of a report.

SQLite puts a column of some thousand events into one text, so that a row costs neither a step of
Python nor a turn with the GIL. A thread reads the next batch while the one before is used.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Generator, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import msgspec

from ..models import EventFilter
from .bycolumn import DATA, parts
from .history import arrivals
from .ids import restored_id
from .plan import Plan, plan
from .snapshot import snapshot

__all__ = ["EventBatch", "ahead", "stream_batches", "windows"]

_MAX_EVENTS = 10_000  # of a batch
_MAX_CHARACTERS = 1024 * 1024  # of data in a batch, unless one event alone has more
_Item = TypeVar("_Item")

_COLUMNS = ("received", "session", "seq", "type", "timestamp", "version", "context")
_FACTS = "count(*), min(arrival), max(arrival), max(id), count(fault)"
# A column costs as much as reading its row. These are only read after the facts have shown that
# they are needed: most often all arrivals of a batch follow one another, all ids are empty (see
# `ids`), and no event has a fault.
_RARELY = ("arrival", "id", "fault")
_decode_numbers = msgspec.json.Decoder(list[int]).decode
_decode_keys = msgspec.json.Decoder(list[int | None]).decode
_decode_ids = msgspec.json.Decoder(list[str]).decode
_decode_versions = msgspec.json.Decoder(list[str | None]).decode


class EventBatch(msgspec.Struct):
    """Some events in order of arrival, by column; see :class:`~..models.StoredEvent`.

    What many events have in common is in it once, by a key.
    """

    arrival: list[int]
    received: list[int]
    session: list[int]
    seq: list[int]
    type: list[int]
    timestamp: list[int]
    id: list[str] | None
    """As they are stored, see :mod:`.ids`; None if all of them are empty."""
    version: list[str | None]
    data: bytes
    """The JSON texts, one behind the other."""
    lengths: list[int]
    """The length of each in bytes."""
    context: list[int | None]
    fault: list[int | None]
    sessions: dict[int, tuple[str, str | None]]
    """The id and the run of each session."""
    types: dict[int, str]
    contexts: dict[int, str]
    faults: dict[int, str]

    def columns(self) -> tuple[Sequence[Any], ...]:
        """Return the columns with texts for keys, in the order in which they are exported."""
        return (
            self.arrival,
            self.received,
            [self.sessions[key][0] for key in self.session],
            self.seq,
            [self.types[key] for key in self.type],
            self.timestamp,
            self.ids(),
            self.version,
            parts(self.data, self.lengths),
            [None if key is None else self.contexts[key] for key in self.context],
            [None if key is None else self.faults[key] for key in self.fault],
        )

    def ids(self) -> list[str]:
        """Return the ids of the events."""
        runs = {key: run for key, (_, run) in self.sessions.items()}
        stored = self.id or [""] * len(self.seq)
        return [
            restored_id(short, runs[key], seq)
            for short, key, seq in zip(stored, self.session, self.seq, strict=True)
        ]


def stream_batches(connection: sqlite3.Connection, wanted: EventFilter) -> Iterator[EventBatch]:
    """Yield all events stored by now, a few thousand at a time."""
    chosen = plan(connection, wanted)
    reader = _Reader(connection, chosen)
    for window in windows(connection, chosen):
        batch = reader.read(*window)
        if batch.arrival:
            yield batch


def windows(
    connection: sqlite3.Connection,
    chosen: Plan,
    condition: str = "TRUE",
    bounds: tuple[int, int] | None = None,
) -> Iterator[tuple[int, int]]:
    """Yield the first and last arrival number of ranges that together hold the chosen events.

    A range has a few thousand events, and less if they are large.

    Args:
        connection: a connection to the database.
        chosen: the events; a range may also have others.
        condition: ranges without an event that fulfills this, too, are left out.
        bounds: the first and last arrival to examine; None for all.
    """
    walk = chosen.walk or "TRUE"
    measure = (
        "SELECT count(*), total(length(data)) FROM events "
        f"WHERE {walk} AND {condition} AND arrival BETWEEN ? AND ?"
    )
    oldest, newest = bounds or arrivals(connection, chosen.span)
    for first, last in chosen.spans(connection, oldest, newest, newest_first=False):
        low, size = first, _MAX_EVENTS
        while low <= last:
            start, end = chosen.window(connection, low, last, size, newest_first=False)
            values = (*chosen.walk_values, start, end)
            events, characters = connection.execute(measure, values).fetchone()
            if characters > _MAX_CHARACTERS and size > 1:
                size //= 2
                continue
            if events:
                yield start, end
            low = end + 1
            if characters <= _MAX_CHARACTERS // 2:
                size = min(_MAX_EVENTS, size * 2)


class _Names:
    """The columns of rows that many events refer to, by key, for one batch after another."""

    def __init__(self, connection: sqlite3.Connection, table: str, *columns: str) -> None:
        self._connection = connection
        self._query = (
            f"SELECT key, {', '.join(columns)} FROM {table} "
            "WHERE key IN (SELECT value FROM json_each(?))"
        )
        self._known: dict[int, Any] = {}

    def of(self, keys: Iterable[int | None]) -> dict[int, Any]:
        """Return the column of each row, or its columns as a tuple."""
        wanted = {*keys}
        wanted.discard(None)
        # Only those of the batch before are kept: there may be millions of contexts.
        found = {key: self._known[key] for key in wanted if key in self._known}
        if len(found) < len(wanted):
            missing = msgspec.json.encode(list(wanted - found.keys())).decode()
            for key, *columns in self._connection.execute(self._query, (missing,)):
                found[key] = columns[0] if len(columns) == 1 else tuple(columns)
        self._known = found
        return found


class _Reader:
    """Reads batches, one after the other, from one plan."""

    def __init__(self, connection: sqlite3.Connection, chosen: Plan) -> None:
        self._connection = connection
        self._chosen = chosen
        self._columns = [*_COLUMNS]
        self._sessions = _Names(connection, "sessions", "session_id", "run")
        self._types = _Names(connection, "types", "name")
        self._contexts = _Names(connection, "contexts", "text")
        self._faults = _Names(connection, "faults", "text")

    def read(self, first: int, last: int) -> EventBatch:
        """Return the events from one arrival number to another."""
        with snapshot(self._connection):
            count, low, high, id_, faults, data, lengths, *arrays = self._row(first, last)
            has_gaps = count > 0 and high - low + 1 > count
            needed = (has_gaps, bool(id_), faults > 0)
            missing = [
                column
                for column, is_needed in zip(_RARELY, needed, strict=True)
                if is_needed and column not in self._columns
            ]
            if missing:  # the next batch probably needs them, too
                self._columns += missing
                return self.read(first, last)
            column = dict(zip(self._columns, arrays, strict=True))
            session, seq, type_ = (_decode_numbers(column[name]) for name in _COLUMNS[1:4])
            context = _decode_keys(column["context"])
            fault: list[int | None] = [None] * count
            if faults:
                fault = _decode_keys(column["fault"])
            if has_gaps:
                arrival = _decode_numbers(column["arrival"])
            else:
                arrival = [*range(low, high + 1)] if count else []
            return EventBatch(
                arrival,
                _decode_numbers(column["received"]),
                session,
                seq,
                type_,
                _decode_numbers(column["timestamp"]),
                _decode_ids(column["id"]) if id_ else None,
                _decode_versions(column["version"]),
                data or b"",
                _decode_numbers(lengths),
                context,
                fault,
                self._sessions.of(session),
                self._types.of(type_),
                self._contexts.of(context),
                self._faults.of(fault),
            )

    def _row(self, first: int, last: int) -> tuple[Any, ...]:
        """Return the facts, the data, and the columns that are read now."""
        wanted = " AND ".join([*self._chosen.conditions, "events.arrival BETWEEN ? AND ?"])
        source = f"events WHERE {wanted}"
        if self._chosen.walk is not None:
            # Without a walk, events come in the order of the table. With one, the subquery keeps
            # it: SQLite doesn't leave it out where an aggregate depends on the order. It copies
            # each row, which takes a third of the time.
            names = ", ".join(sorted({*_RARELY, *self._columns, "data"}))
            source = f"(SELECT {names} FROM {source} ORDER BY arrival)"
        arrays = ", ".join(f"json_group_array({name})" for name in self._columns)
        query = f"SELECT {_FACTS}, {DATA}, {arrays} FROM {source}"
        row: tuple[Any, ...] = self._connection.execute(
            query, (*self._chosen.values, first, last)
        ).fetchone()
        return row


def ahead(items: Iterator[_Item]) -> Generator[_Item, None, None]:
    """Yield the same items; a thread works on the next one meanwhile.

    Close it before that which the items are made from: only then has the thread ended.
    """
    with ThreadPoolExecutor(1) as thread:
        coming = thread.submit(next, items, None)
        while (item := coming.result()) is not None:
            coming = thread.submit(next, items, None)
            yield item
