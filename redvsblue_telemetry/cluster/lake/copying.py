"""Copies sessions of a lake into a collector's database, as if a collector had received them.

For those who need everything that a collector knows of sessions, such as a report. It takes as long
as a collector needs to store the events, and as much space.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec

from ..._report import decode_report
from ...collector.messages import Event, Message, Rejected
from ...collector.models import ALL_TIME, TimeRange
from ...collector.storage.database import Database
from ...collector.storage.writer import Writer
from .reading import Reading
from .rows import EVENTS, REJECTED, REPORTS
from .standing import STANDING, add_standing, ranges
from .views import ID

__all__ = ["copy_into"]

_ROWS = 10_000  # that are stored in one transaction

_Groups = list[tuple[int, list[Message]]]


def copy_into(
    reading: Reading,
    database: Database,
    session: str | None = None,
    span: TimeRange = ALL_TIME,
    *,
    now: int | None = None,
) -> None:
    """Copy sessions with all their events, and the rejected messages.

    Args:
        reading: the lake.
        database: an empty one.
        session: only the one with this id.
        span: only those that were last heard of in this range, or have an event that was received
            in it.
        now: in milliseconds since the epoch; by default the time.

    Raises:
        LakeError: the lake can't be read.
        DatabaseError: the database can't be written.
    """
    add_standing(reading, session, now=now)
    reading.run(
        f"CREATE OR REPLACE TEMP TABLE copied AS SELECT session FROM {STANDING} WHERE "
        f"{_within(span, 'last_received')} OR session IN "
        f"(SELECT session FROM stored_events WHERE {_within(span)})"
    )
    faults: list[str | None] = []  # of the events that are stored next
    writer = Writer(database, lambda *_: faults.pop())
    try:
        for rows in _rows(reading, span):
            groups = _groups(rows)
            faults[:] = [row["fault"] for row in reversed(rows) if row["kind"] == EVENTS]
            writer.store_past(groups)
        writer.maintain(lambda connection: _restore(reading, connection))
    finally:
        writer.close()


def _within(span: TimeRange, column: str = "received") -> str:
    bounds = {f"{column} >= {span.start}": span.start, f"{column} < {span.end}": span.end}
    return " AND ".join(["true", *(each for each, bound in bounds.items() if bound is not None)])


def _rows(reading: Reading, span: TimeRange) -> Iterator[list[dict[str, Any]]]:
    columns = "arrival, received, session, seq, type, timestamp, version, context, fault, data"
    chosen = "session IN (SELECT session FROM copied)"
    query = f"""
        SELECT '{EVENTS}' AS kind, {ID} AS id, {columns} FROM stored_events WHERE {chosen}
        UNION ALL
        SELECT '{REPORTS}', '', {columns} FROM stored_reports WHERE {chosen}
        UNION ALL
        SELECT '{REJECTED}', '', {columns} FROM stored_rejected WHERE {_within(span)}
        ORDER BY arrival"""
    for batch in reading.stream(query, rows=_ROWS):
        yield batch.to_pylist()


def _groups(rows: list[dict[str, Any]]) -> _Groups:
    """Return rows as messages, with those together that were received at the same time."""
    groups: _Groups = []
    for row in rows:
        if not groups or groups[-1][0] != row["received"]:
            groups.append((row["received"], []))
        messages = groups[-1][1]
        if row["kind"] == EVENTS:
            if not messages or messages[-1].reports:  # the events of a message come first
                messages.append(Message([], []))
            messages[-1].events.append(_event(row))
        elif row["kind"] == REPORTS:
            messages.append(Message([], [], [decode_report(row["data"])]))
        else:
            messages.append(Message([], [Rejected(row["fault"], row["data"].encode())]))
    return groups


def _event(row: dict[str, Any]) -> Event:
    context = row["context"]
    return Event(
        row["session"],
        row["seq"],
        row["type"],
        row["timestamp"],
        msgspec.Raw(row["data"].encode()),
        row["id"],
        row["version"],
        msgspec.UNSET if context is None else msgspec.Raw(context.encode()),
    )


def _restore(reading: Reading, connection: Any) -> bool:
    """Restore the facts about sessions that don't follow from the events that are left."""
    columns = "session, events, deleted, missing, highest, repeats, lost, waiting"
    query = (
        f"SELECT {columns}, to_json(ranges) AS ranges FROM {STANDING} "
        "WHERE session IN (SELECT session FROM copied) AND (deleted > 0 OR repeats > 0)"
    )
    for batch in reading.stream(query):
        for row in batch.to_pylist():
            connection.execute(
                "UPDATE sessions SET events = :events, deleted = :deleted, missing = :missing, "
                "highest = :highest, repeats = :repeats, lost = :lost, waiting = :waiting "
                "WHERE session_id = :session",
                row,
            )
            if row["deleted"]:
                key = "(SELECT key FROM sessions WHERE session_id = ?)"
                connection.execute(f"DELETE FROM runs WHERE session = {key}", (row["session"],))
                connection.executemany(
                    f"INSERT INTO runs VALUES ({key}, ?, ?)",
                    [(row["session"], *run) for run in ranges(row["ranges"])],
                )
    return False
