"""Deletes events and sessions, together with all that counts them or was there for them alone.

Each function leaves the tables consistent, so its caller may commit after any of them. What the
writer has in memory of a row goes with the row: see ``forget_deleted`` in :mod:`.writer`.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import msgspec

from ..models import context_fields
from .blocks import drop_blocks
from .counting import uncount
from .reports import remove_report
from .textindex import forget_events, note_expired

__all__ = [
    "Deleted",
    "delete_empty_session",
    "delete_events",
    "delete_leftovers",
    "delete_unused_context",
    "first_events",
]

_RUNS_PER_STEP = 500
_BYTES_PER_STEP = 256 * 1024  # of data, all of which is overwritten in the file


class Deleted(NamedTuple):
    """Some events that were deleted."""

    events: int
    emptied: list[int]
    """The keys of their sessions that have no event left."""


def first_events(
    connection: sqlite3.Connection, condition: str, values: Sequence[object], most: int
) -> list[tuple[int, int]]:
    """Return the arrival and the time of the first events of a condition.

    They are fewer if they are large: an event may be a thousand times as large as the one before,
    from which nobody can learn how long it takes to delete.

    Args:
        connection: reads them.
        condition: selects the events, in SQL.
        values: those of its parameters.
        most: the maximum number.
    """
    events: list[tuple[int, int]] = []
    size = 0
    rows = connection.execute(
        "SELECT arrival, received, length(CAST(data AS BLOB)) FROM events "
        f"WHERE {condition} ORDER BY arrival LIMIT ?",
        (*values, most),
    )
    with contextlib.closing(rows):
        for arrival, received, length in rows:
            events.append((arrival, received))
            size += length
            if size >= _BYTES_PER_STEP:
                break
    return events


def delete_events(
    connection: sqlite3.Connection,
    condition: str,
    values: Sequence[object],
    *,
    must_be_gone: bool = False,
    stay_counted: bool = False,
) -> Deleted:
    """Delete the events of a condition.

    Of one fault of a session, the newest events must be among the last that are deleted. Otherwise,
    the time of its newest event stays, and readers look for the newest one that is left.

    Args:
        connection: writes, in the caller's transaction.
        condition: selects the events, in SQL.
        values: those of its parameters.
        must_be_gone: whether no word of them may stay in the index of texts.
        stay_counted: whether the counts of the past keep them.
    """
    groups = connection.execute(
        "SELECT session, type, fault, context, count(*) FROM events "
        f"WHERE {condition} GROUP BY session, type, fault, context",
        values,
    ).fetchall()
    if not groups:
        return Deleted(0, [])
    if not stay_counted:
        uncount(connection, condition, values)
    deleted = connection.execute(
        f"DELETE FROM events WHERE {condition} RETURNING arrival, type", values
    ).fetchall()
    drop_blocks(connection, deleted)
    arrivals = [arrival for arrival, _ in deleted]
    (forget_events if must_be_gone else note_expired)(connection, arrivals)
    row = connection.execute("SELECT key FROM types WHERE name = 'crash'").fetchone()
    crash = row and row[0]
    sessions: Counter[int] = Counter()
    crashes: Counter[int] = Counter()
    faults: Counter[int] = Counter()
    types: Counter[int] = Counter()
    found: Counter[tuple[int, int]] = Counter()
    contexts: set[int] = set()
    for session, type_, fault, context, count in groups:
        sessions[session] += count
        types[type_] += count
        if type_ == crash:
            crashes[session] += count
        if fault is not None:
            faults[session] += count
            found[fault, session] += count
        if context is not None:
            contexts.add(context)
    connection.executemany(
        "UPDATE sessions SET deleted = deleted + ?, crashes = crashes - ?, faults = faults - ? "
        "WHERE key = ?",
        [(count, crashes[key], faults[key], key) for key, count in sessions.items()],
    )
    if found:
        _uncount_faults(connection, found)
    connection.executemany(
        "UPDATE types SET events = events - ? WHERE key = ?",
        [(count, key) for key, count in types.items()],
    )
    _delete_unused_types(connection, types)
    for context in contexts:
        delete_unused_context(connection, context)
    emptied = "SELECT 1 FROM sessions WHERE key = ? AND events <= deleted"
    return Deleted(
        sum(sessions.values()),
        [key for key in sessions if connection.execute(emptied, (key,)).fetchone() is not None],
    )


def _uncount_faults(connection: sqlite3.Connection, found: Counter[tuple[int, int]]) -> None:
    connection.executemany(
        "UPDATE session_faults SET events = events - ? WHERE fault = ? AND session = ?",
        [(count, *key) for key, count in found.items()],
    )
    connection.executemany(
        "DELETE FROM session_faults WHERE fault = ? AND session = ? AND events <= 0", list(found)
    )
    connection.executemany(
        "DELETE FROM faults WHERE key = :fault "
        "AND NOT EXISTS (SELECT 1 FROM session_faults WHERE fault = :fault)",
        [{"fault": fault} for fault in {fault for fault, _ in found}],
    )


def _delete_unused_types(connection: sqlite3.Connection, types: Iterable[int]) -> None:
    connection.executemany(
        "DELETE FROM types WHERE key = ? AND events <= 0 AND sampled = 0",
        [(key,) for key in types],
    )


def delete_unused_context(connection: sqlite3.Connection, key: int) -> None:
    """Delete a context, unless an event has it."""
    execute = connection.execute
    if execute("SELECT 1 FROM events WHERE context = ? LIMIT 1", (key,)).fetchone() is not None:
        return
    # All rows are read: an unfinished statement would be in the way of the commit.
    for (text,) in execute("DELETE FROM contexts WHERE key = ? RETURNING text", (key,)).fetchall():
        # The fields are found by their names and values: no index leads from the context to them.
        connection.executemany(
            "DELETE FROM context_fields WHERE name = ? AND value = ? AND context = ?",
            [(*field, key) for field in context_fields(msgspec.Raw(text.encode())).items()],
        )


def delete_empty_session(connection: sqlite3.Connection, key: int, before: int) -> bool:
    """Delete a session that has no event left; return whether it is deleted.

    Its runs may be left for later.

    Args:
        connection: writes, in the caller's transaction.
        key: the session.
        before: only if its last word is older than this, in milliseconds since the epoch.
    """
    row = connection.execute(
        "SELECT 1 FROM sessions WHERE key = ? AND events <= deleted AND last_received < ?",
        (key, before),
    ).fetchone()
    if row is None:
        return False
    types = remove_report(connection, key)
    _delete_unused_types(connection, types)
    connection.execute("DELETE FROM sessions WHERE key = ?", (key,))
    if _delete_runs(connection, key):
        connection.execute("INSERT INTO leftovers VALUES (?)", (key,))
    return True


def delete_leftovers(connection: sqlite3.Connection) -> bool:
    """Delete some of what deleted sessions have left; return whether there was anything."""
    row = connection.execute("SELECT session FROM leftovers LIMIT 1").fetchone()
    if row is None:
        return False
    if not _delete_runs(connection, row[0]):
        connection.execute("DELETE FROM leftovers WHERE session = ?", row)
    return True


def _delete_runs(connection: sqlite3.Connection, session: int) -> bool:
    """Delete the first runs of a session; return whether it has more."""
    row = connection.execute(
        "SELECT first FROM runs WHERE session = ? ORDER BY first LIMIT 1 OFFSET ?",
        (session, _RUNS_PER_STEP),
    ).fetchone()
    if row is None:
        connection.execute("DELETE FROM runs WHERE session = ?", (session,))
        return False
    connection.execute("DELETE FROM runs WHERE session = ? AND first < ?", (session, row[0]))
    return True
