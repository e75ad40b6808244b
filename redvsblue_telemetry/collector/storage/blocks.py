"""Which events the blocks of the fast copy cover, and what is to be covered next.

A block covers a range of arrivals, and of these all events of one type. New events come after all
ranges, so a block never misses one; if one of its events is deleted, the block goes. The blocks of
a type lie side by side; a hole between two was left by a deletion, and is filled again.

The newest events of a type, and its oldest, may be in no block: too few to be worth one. So when
events expire, they empty the oldest block event by event, and it is not built again each time.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from typing import NamedTuple

__all__ = [
    "BLOCK_EVENTS",
    "VISITS",
    "Block",
    "Span",
    "blocks_of",
    "drop_blocks",
    "fill_hole",
    "is_covered",
    "next_span",
]

BLOCK_EVENTS = 8192
"""Events in a block. With more, fewer blocks are read, but more events are not in one."""

VISITS = "visits"
"""The name of a column with a summary of a block: the visits of each context, which last a day at
most. First the keys of the contexts, then when the first event of each visit was received, from the
block's oldest on, and then how much later its last one was."""


class Block(NamedTuple):
    """A row of the table."""

    key: int
    first: int
    """The first arrival that it covers."""
    last: int
    events: int
    oldest: int
    """When the first of its events was received, by the clock: not always its first arrival."""
    newest: int
    is_whole: bool
    """Whether it has a column for each field of its events."""


class Span(NamedTuple):
    """A range of arrivals that no block covers, for the events of one type."""

    type: int
    first: int
    last: int


def blocks_of(connection: sqlite3.Connection, type_key: int) -> list[Block]:
    """Return the blocks of a type, in the order of their arrivals."""
    rows = connection.execute(
        "SELECT key, first, last, events, oldest, newest, is_whole FROM blocks WHERE type = ? "
        "ORDER BY first",
        (type_key,),
    )
    return [Block(*row) for row in rows]


def drop_blocks(connection: sqlite3.Connection, deleted: Iterable[tuple[int, int]]) -> None:
    """Drop the blocks of events that are deleted, in the same transaction.

    Args:
        connection: writes, in the caller's transaction.
        deleted: the arrival and the type of each event.
    """
    by_type: dict[int, list[int]] = {}
    for arrival, type_key in deleted:
        by_type.setdefault(type_key, []).append(arrival)
    for type_key, arrivals in by_type.items():
        arrivals.sort()
        rows = connection.execute(
            "SELECT key, first, last FROM blocks "
            "WHERE type = ? AND last >= ? AND first <= ? ORDER BY first",
            (type_key, arrivals[0], arrivals[-1]),
        ).fetchall()
        place = 0
        for key, first, last in rows:
            while place < len(arrivals) and arrivals[place] < first:
                place += 1
            if place < len(arrivals) and arrivals[place] <= last:
                connection.execute("DELETE FROM blocks WHERE key = ?", (key,))
                connection.execute("DELETE FROM columns WHERE block = ?", (key,))


def next_span(connection: sqlite3.Connection) -> Span | None:
    """Return the next range to cover; None if there is none that is worth it.

    It has as many events as a block, or any number if it is a hole.
    """
    hole = connection.execute(
        "SELECT type, last + 1, next - 1 FROM (SELECT type, last, "
        "lead(first) OVER (PARTITION BY type ORDER BY first) AS next FROM blocks) "
        "WHERE next > last + 1 LIMIT 1"
    ).fetchone()
    if hole is not None:
        return Span(*hole)
    uncovered = connection.execute(
        "SELECT key, low, high FROM types LEFT JOIN (SELECT type, sum(events) AS covered, "
        "min(first) AS low, max(last) AS high FROM blocks GROUP BY type) ON type = key "
        "WHERE events - ifnull(covered, 0) >= ? ORDER BY events - ifnull(covered, 0) DESC",
        (BLOCK_EVENTS,),
    ).fetchall()
    for type_key, low, high in uncovered:
        # The newest first; without any block, the newest of all.
        last = None if high is None else _nth(connection, type_key, "> ?", high, "ASC")
        if last is not None:
            return Span(type_key, high + 1, last)
        newest = connection.execute(
            "SELECT max(arrival) FROM events WHERE type = ?", (type_key,)
        ).fetchone()[0]
        end = newest if low is None else low - 1
        first = _nth(connection, type_key, "<= ?", end, "DESC")
        if first is not None:
            return Span(type_key, first, end)
    return None


def _nth(
    connection: sqlite3.Connection, type_key: int, side: str, place: int, order: str
) -> int | None:
    """Return the arrival at which a block on one side of a place ends; None if there is none."""
    row = connection.execute(
        f"SELECT arrival FROM events WHERE type = ? AND arrival {side} "
        f"ORDER BY arrival {order} LIMIT 1 OFFSET ?",
        (type_key, place, BLOCK_EVENTS - 1),
    ).fetchone()
    return None if row is None else int(row[0])


def is_covered(connection: sqlite3.Connection, span: Span) -> bool:
    """Return whether a block covers a part of a range: another collector may have built it."""
    row = connection.execute(
        "SELECT 1 FROM blocks WHERE type = ? AND last >= ? AND first <= ? LIMIT 1", span
    ).fetchone()
    return row is not None


def fill_hole(connection: sqlite3.Connection, span: Span) -> None:
    """Have the block before a hole that has no event cover it."""
    connection.execute(
        "UPDATE blocks SET last = ? WHERE type = ? AND last = ?",
        (span.last, span.type, span.first - 1),
    )
