"""Deletes a session, or all events with a field in their context: the data of a person.

In small steps between the groups of events, and up to the events that were there at the beginning:
a game that still sends would keep it busy forever.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterable

from ..._shared import LARGEST_INTEGER, monotonic
from ..models import Forgotten
from .counting import delete_unused_series
from .deletion import (
    Deleted,
    delete_empty_session,
    delete_events,
    delete_unused_context,
    first_events,
)
from .upkeep import STEP_SECONDS, Pace, Upkeep, epoch_milliseconds

__all__ = ["MAX_MENTIONS", "Forgetting", "mentions"]

_ROWS = 200  # of rejected messages in a step
MAX_MENTIONS = 100
"""The most session ids that are looked for in the rejected messages."""


class Forgetting(Upkeep):
    """Forgets either a session or a field of the context.

    Args:
        session: the id of the session.
        field: the name and the value of the field.
        clock: returns milliseconds since the epoch.
    """

    def __init__(
        self,
        session: str | None = None,
        field: tuple[str, str] | None = None,
        clock: Callable[[], int] = epoch_milliseconds,
    ) -> None:
        self._session = session
        self._field = field
        self._clock = clock
        self._pace = Pace()
        self._newest: int | None = None  # the last arrival that goes; None before the first step
        self._newest_rejected = 0
        self._context = 0  # up to this one, all contexts are done
        self._emptied: dict[int, None] = {}  # sessions
        self._ids: list[str] = []  # of deleted sessions
        self._rejected = 0  # up to this one, all rejected messages are done
        self.forgotten = Forgotten(0, 0, 0, session, dict([field] if field else []))
        """What has been deleted by now. Read it when all is done."""

    @property
    def found_anything(self) -> bool:
        """Whether there was something to delete."""
        return bool(self.forgotten.events or self.forgotten.sessions)

    def step(self, connection: sqlite3.Connection) -> bool:
        """Delete some of it; return whether there is more."""
        if self._newest is None:
            self._newest = _highest(connection, "events")
            self._newest_rejected = _highest(connection, "rejected")
        self._pace.begin()
        has_more = (
            self._delete_session(connection)
            if self._session is not None
            else self._delete_context(connection)
        )
        self._pace.end()
        if not has_more and self.found_anything:
            has_more = self._blank_rejected(connection)
        if not has_more and self.forgotten.events:
            delete_unused_series(connection)
        self.forgotten.at = self._clock()
        return has_more

    def _delete_session(self, connection: sqlite3.Connection) -> bool:
        row = connection.execute(
            "SELECT key FROM sessions WHERE session_id = ?", (self._session,)
        ).fetchone()
        if row is None or self._ids:
            return False
        began = monotonic()
        while self._delete(connection, "session = ?", row, LARGEST_INTEGER):
            if monotonic() - began > STEP_SECONDS / 2:
                return True
        assert self._session is not None
        self._delete_if_empty(connection, row[0])
        self._ids.append(self._session)
        return False

    def _delete_context(self, connection: sqlite3.Connection) -> bool:
        """Delete the events of the next context with the field, then the emptied sessions."""
        assert self._field is not None
        assert self._newest is not None
        began = monotonic()
        while (row := self._next_context(connection)) is not None:
            if not self._delete(connection, "context = ?", row, self._newest):
                delete_unused_context(connection, row[0])
                self._context = row[0]
            if monotonic() - began > STEP_SECONDS / 2:
                return True
        while self._emptied:
            self._delete_if_empty(connection, self._emptied.popitem()[0])
            if monotonic() - began > STEP_SECONDS / 2:
                return True
        return False

    def _next_context(self, connection: sqlite3.Connection) -> tuple[int] | None:
        row: tuple[int] | None = connection.execute(
            "SELECT context FROM context_fields WHERE name = ? AND value = ? AND context > ? "
            "ORDER BY context LIMIT 1",
            (*(self._field or ()), self._context),
        ).fetchone()
        return row

    def _delete(
        self, connection: sqlite3.Connection, condition: str, values: tuple[int], newest: int
    ) -> bool:
        """Delete the first events of a condition; return whether there were any."""
        rows = first_events(
            connection, f"{condition} AND arrival <= ?", (*values, newest), self._pace.rows
        )
        if rows:
            between = f"{condition} AND arrival BETWEEN ? AND ?"
            whole = (*values, rows[0][0], rows[-1][0])
            self._note(delete_events(connection, between, whole, must_be_gone=True))
        return bool(rows)

    def _note(self, deleted: Deleted) -> None:
        self.forgotten.events += deleted.events
        self._emptied |= dict.fromkeys(deleted.emptied)

    def _delete_if_empty(self, connection: sqlite3.Connection, key: int) -> None:
        row = connection.execute("SELECT session_id FROM sessions WHERE key = ?", (key,)).fetchone()
        if row is not None and delete_empty_session(connection, key, LARGEST_INTEGER):
            self.forgotten.sessions += 1
            if len(self._ids) < MAX_MENTIONS:
                self._ids.append(row[0])

    def _blank_rejected(self, connection: sqlite3.Connection) -> bool:
        """Delete the text of rejected messages that mention it; return whether there are more.

        Their rows stay: they are numbered without gaps, by which they are counted.
        """
        rows = connection.execute(
            "SELECT arrival, text FROM rejected WHERE arrival > ? AND arrival <= ? "
            "ORDER BY arrival LIMIT ?",
            (self._rejected, self._newest_rejected, _ROWS),
        ).fetchall()
        found = mentions(self._ids, self._field)
        for arrival, text in rows:
            if any(mention in text for mention in found):
                connection.execute(
                    "UPDATE rejected SET text = x'', reason = 'deleted on request' "
                    "WHERE arrival = ?",
                    (arrival,),
                )
                self.forgotten.rejected += 1
            self._rejected = arrival
        return len(rows) == _ROWS


def mentions(sessions: Iterable[str], field: tuple[str, str] | None) -> list[bytes]:
    """Return texts that only a message of one of the sessions or with the field has in it."""
    found = [json.dumps(each, ensure_ascii=False).encode() for each in sessions]
    if field is not None:
        name, value = (json.dumps(each, ensure_ascii=False) for each in field)
        found += [f"{name}:{value}".encode(), f"{name}: {value}".encode()]
    return found


def _highest(connection: sqlite3.Connection, table: str) -> int:
    (highest,) = connection.execute(f"SELECT coalesce(max(arrival), 0) FROM {table}").fetchone()
    return int(highest)
