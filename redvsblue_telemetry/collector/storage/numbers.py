"""The numbers of a session's stored events, read without a limit. For a proof."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator

__all__ = ["count", "ranges"]

_KEY = "(SELECT key FROM sessions WHERE session_id = ?)"


def ranges(connection: sqlite3.Connection, session_id: str) -> Iterator[tuple[int, int]]:
    """Yield the first and last number of each range that is stored, in ascending order."""
    yield from connection.execute(
        f"SELECT first, last FROM runs WHERE session = {_KEY} ORDER BY first", (session_id,)
    )


def count(connection: sqlite3.Connection, session_id: str) -> int:
    """Count the rows of a session's events. Their ranges, and all counts, are kept elsewhere."""
    row = connection.execute(
        f"SELECT count(*) FROM events WHERE session = {_KEY}", (session_id,)
    ).fetchone()
    return int(row[0])
