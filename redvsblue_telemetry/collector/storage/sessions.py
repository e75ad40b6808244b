"""The state of each session: in a table, and in memory for those that were active recently."""

from __future__ import annotations

import sqlite3

import msgspec

from ..._report import Report, State
from ..messages import Event
from .ids import run_of
from .seqranges import SeqRanges

__all__ = ["SessionState", "Sessions"]

_MAX_IN_MEMORY = 10_000  # sessions


class SessionState(msgspec.Struct):
    """One run of a game, as far as its events and reports have arrived."""

    key: int
    numbers: SeqRanges
    version: str | None
    first_timestamp: int
    last_timestamp: int
    events: int = 0
    repeats: int = 0
    started_at: int = 0
    report_number: int = -1
    """The number of the newest report; -1 if there is none."""
    end: int = 0
    """The last number that the session has, once it has ended; 0 before."""
    run: str | None = None
    """The part of its events' ids that is not stored with each; see :mod:`.ids`."""
    new_report: Report | None = None
    """A report that has not been saved yet."""
    saved_version: str | None = None
    """The version that the table has."""

    def __post_init__(self) -> None:
        self.saved_version = self.version

    @property
    def missing(self) -> int:
        """The count of numbers that have not arrived, from 1 to the highest, or to the end."""
        return max(self.numbers.highest, self.end) - self.events + self.numbers.has_zero

    def add(self, event: Event) -> bool:
        """Record an event; return whether it is new."""
        if not self.numbers.add(event.seq):
            self.repeats += 1
            return False
        self.events += 1
        timestamp = event.timestamp
        if self.events == 1:  # the times until now were those of a report
            self.first_timestamp = self.last_timestamp = timestamp
            self.run = run_of(event)
        elif timestamp > self.last_timestamp:
            self.last_timestamp = timestamp
        elif timestamp < self.first_timestamp:
            self.first_timestamp = timestamp
        if event.version is not None:
            self.version = event.version
        return True

    def take(self, report: Report) -> None:
        """Record a report, unless a newer one is known."""
        if (report.started_at, report.number) < (self.started_at, self.report_number):
            return
        self.started_at, self.report_number = report.started_at, report.number
        self.end = report.last_seq if report.state == State.ENDED else 0
        self.new_report = report
        if not self.events:
            self.first_timestamp, self.last_timestamp = _times(report)
        if report.version is not msgspec.UNSET:
            self.version = report.version


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

    def drop(self, session_id: str) -> None:
        """Forget a session that has been deleted."""
        self._known.pop(session_id, None)

    def of(self, source: Event | Report, now: int) -> SessionState:
        """Return the session of an event or a report; create it if it is new."""
        session = self._known.get(source.session_id)
        if session is None:
            session = self._read(source.session_id) or self._make(source, now)
            self._known[source.session_id] = session
        self._touched[session.key] = session
        return session

    def _read(self, session_id: str) -> SessionState | None:
        row = self._connection.execute(
            "SELECT key, version, first_timestamp, last_timestamp, events, repeats, "
            "coalesce(started_at, 0), coalesce(report_number, -1), "
            "CASE state WHEN ? THEN last_seq ELSE 0 END, run FROM sessions WHERE session_id = ?",
            (State.ENDED, session_id),
        ).fetchone()
        if row is None:
            return None
        key, *others = row
        return SessionState(key, SeqRanges(_Table(self._connection, key)), *others)

    def _make(self, source: Event | Report, now: int) -> SessionState:
        version = None if source.version is msgspec.UNSET else source.version
        times = _times(source) if isinstance(source, Report) else (source.timestamp,) * 2
        key = self._connection.execute(
            # SQLite would use a key again that has leftovers, if it was the highest.
            "INSERT INTO sessions (key, session_id, version, events, repeats, missing, highest, "
            "first_timestamp, last_timestamp, first_received, last_received) VALUES (1 + max("
            "coalesce((SELECT max(key) FROM sessions), 0), "
            "coalesce((SELECT max(session) FROM leftovers), 0)), ?, ?, 0, 0, 0, 0, ?, ?, ?, ?)",
            (source.session_id, version, *times, now, now),
        ).lastrowid
        assert key is not None
        return SessionState(key, SeqRanges(_Table(self._connection, key)), version, *times)

    def save(self, now: int) -> list[SessionState]:
        """Write the changes since the last call; return the sessions that have a new report."""
        rows = []
        versions = []
        for session in self._touched.values():
            session.numbers.save()
            if session.version != session.saved_version:
                versions.append((session.version, session.key))
                session.saved_version = session.version
            rows.append(
                (
                    session.events,
                    session.repeats,
                    session.missing,
                    session.numbers.highest,
                    session.first_timestamp,
                    session.last_timestamp,
                    session.run,
                    now,
                    session.key,
                )
            )
        self._connection.executemany(
            "UPDATE sessions SET events = ?, repeats = ?, missing = ?, highest = ?, "
            "first_timestamp = ?, last_timestamp = ?, run = ?, last_received = ? WHERE key = ?",
            rows,
        )
        # On its own: SQLite would change the index of the versions for every session.
        self._connection.executemany("UPDATE sessions SET version = ? WHERE key = ?", versions)
        reported = [session for session in self._touched.values() if session.new_report]
        self._touched.clear()
        if len(self._known) > _MAX_IN_MEMORY:
            self._known.clear()
        return reported


def _times(report: Report) -> tuple[int, int]:
    """Return the first and the last time of a session without events."""
    times = [time for time in (report.started_at, report.at) if time] or [0]
    return min(times), max(times)


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
