"""The state of each session: in a table, and in memory for those that were active recently."""

from __future__ import annotations

import sqlite3

import msgspec

from ..messages import Event
from .seqranges import SeqRanges

__all__ = ["SessionState", "Sessions"]

_MAX_IN_MEMORY = 10_000  # sessions


class SessionState(msgspec.Struct):
    """One run of a game, as far as its events have arrived."""

    key: int
    numbers: SeqRanges
    version: str | None
    first_timestamp: int
    last_timestamp: int
    events: int = 0
    repeats: int = 0

    @property
    def missing(self) -> int:
        """The count of numbers from 1 to the highest that have not arrived."""
        return self.numbers.highest - self.events + self.numbers.has_zero

    def add(self, event: Event) -> bool:
        """Record an event; return whether it is new."""
        if not self.numbers.add(event.seq):
            self.repeats += 1
            return False
        self.events += 1
        timestamp = event.timestamp
        if timestamp > self.last_timestamp:
            self.last_timestamp = timestamp
        elif timestamp < self.first_timestamp:
            self.first_timestamp = timestamp
        if event.version is not None:
            self.version = event.version
        return True


class Sessions:
    """All sessions. :meth:`save` writes their changes in the caller's transaction."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._known: dict[str, SessionState] = {}
        self._touched: dict[int, SessionState] = {}

    def forget(self) -> None:
        """Forget everything in memory, which may differ from the table."""
        self._known.clear()
        self._touched.clear()

    def of(self, event: Event, now: int) -> SessionState:
        """Return the session of an event; create it if it is new."""
        session = self._known.get(event.session_id)
        if session is None:
            session = self._read(event.session_id) or self._make(event, now)
            self._known[event.session_id] = session
        self._touched[session.key] = session
        return session

    def _read(self, session_id: str) -> SessionState | None:
        row = self._connection.execute(
            "SELECT key, version, first_timestamp, last_timestamp, events, repeats "
            "FROM sessions WHERE session_id = ?",
            (session_id,),
        ).fetchone()
        if row is None:
            return None
        key, *others = row
        return SessionState(key, SeqRanges(_Table(self._connection, key)), *others)

    def _make(self, event: Event, now: int) -> SessionState:
        time = event.timestamp
        key = self._connection.execute(
            "INSERT INTO sessions (session_id, version, events, repeats, missing, highest, "
            "first_timestamp, last_timestamp, first_received, last_received) "
            "VALUES (?, ?, 0, 0, 0, 0, ?, ?, ?, ?)",
            (event.session_id, event.version, time, time, now, now),
        ).lastrowid
        assert key is not None
        return SessionState(
            key, SeqRanges(_Table(self._connection, key)), event.version, time, time
        )

    def save(self, now: int) -> None:
        """Write the changes since the last call."""
        rows = []
        for session in self._touched.values():
            session.numbers.save()
            rows.append(
                (
                    session.version,
                    session.events,
                    session.repeats,
                    session.missing,
                    session.numbers.highest,
                    session.first_timestamp,
                    session.last_timestamp,
                    now,
                    session.key,
                )
            )
        self._connection.executemany(
            "UPDATE sessions SET version = ?, events = ?, repeats = ?, missing = ?, highest = ?, "
            "first_timestamp = ?, last_timestamp = ?, last_received = ? WHERE key = ?",
            rows,
        )
        self._touched.clear()
        if len(self._known) > _MAX_IN_MEMORY:
            self._known.clear()


class _Table:
    """The ranges of one session in the table ``runs``; see RangeTable."""

    def __init__(self, connection: sqlite3.Connection, session: int) -> None:
        self._execute = connection.execute
        self._session = session

    def find(self, number: int) -> tuple[int, int] | None:
        row: tuple[int, int] | None = self._execute(
            "SELECT first, last FROM runs WHERE session = ? AND first <= ? "
            "ORDER BY first DESC LIMIT 1",
            (self._session, number),
        ).fetchone()
        return row

    def put(self, first: int, last: int) -> None:
        self._execute("INSERT OR REPLACE INTO runs VALUES (?, ?, ?)", (self._session, first, last))

    def remove(self, first: int) -> None:
        self._execute("DELETE FROM runs WHERE session = ? AND first = ?", (self._session, first))
