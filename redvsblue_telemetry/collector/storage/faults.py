"""The faults of events: each distinct one of a type is stored once, with counts by session."""

from __future__ import annotations

import sqlite3

import msgspec

__all__ = ["Faults", "Finding"]

_MAX_IN_MEMORY = 10_000  # faults


class Finding(msgspec.Struct, gc=False):
    """A fault of one of the events that are being stored."""

    index: int
    """The event's place among the new ones."""
    fault: int
    """The key of the fault."""
    session: int
    """The key of the session."""


class Faults:
    """All faults; the keys of those that were found recently are in memory."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._keys: dict[tuple[int, str], int] = {}

    def forget(self) -> None:
        """Forget everything in memory, which may differ from the table."""
        self._keys.clear()

    def drop(self, type_key: int, text: str) -> None:
        """Forget a fault that has been deleted."""
        self._keys.pop((type_key, text), None)

    def key(self, type_key: int, text: str) -> int:
        """Return the key of a fault of events of a type; the fault is stored if it is new."""
        if (key := self._keys.get((type_key, text))) is not None:
            return key
        if len(self._keys) >= _MAX_IN_MEMORY:
            self.forget()
        execute = self._connection.execute
        row = execute(
            "SELECT key FROM faults WHERE type = ? AND text = ?", (type_key, text)
        ).fetchone()
        if row is None:
            new = execute("INSERT INTO faults (type, text) VALUES (?, ?)", (type_key, text))
            row = (new.lastrowid,)
        key = self._keys[type_key, text] = int(row[0])
        return key

    def count(self, findings: list[Finding], first_arrival: int, now: int) -> None:
        """Count the findings, given the arrival number of the first new event."""
        by_fault: dict[tuple[int, int], tuple[int, int]] = {}
        by_session: dict[int, int] = {}
        for found in findings:
            events, _ = by_fault.get((found.fault, found.session), (0, 0))
            by_fault[found.fault, found.session] = events + 1, first_arrival + found.index
            by_session[found.session] = by_session.get(found.session, 0) + 1
        self._connection.executemany(
            "INSERT INTO session_faults (fault, session, events, first, last, newest) "
            "VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET "
            "events = events + excluded.events, last = excluded.last, newest = excluded.newest",
            [(*key, events, now, now, newest) for key, (events, newest) in by_fault.items()],
        )
        self._connection.executemany(
            "UPDATE sessions SET faults = faults + ? WHERE key = ?",
            [(count, session) for session, count in by_session.items()],
        )
