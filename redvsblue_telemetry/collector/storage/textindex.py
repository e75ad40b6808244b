"""The index by which a search for a text finds the events that may have it.

It doesn't hold events but blocks of 256 consecutive arrivals, each with the distinct words of its
events (:mod:`..textsearch`). A search asks it for the blocks that have all words, and examines the
events of those. With one entry for each event, the index was as large as the events.

Each partition of the index is a table, so it is deleted quickly, and made anew from its events:
nothing can be taken out of an index that doesn't hold the texts it was made from.

The index is made behind the writer. Events that are not in it yet are examined one by one, as all
of them are where SQLite was built without FTS5.
"""

from __future__ import annotations

import contextlib
import logging
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterable, Iterator

import msgspec

from ..._shared import monotonic
from ..textsearch import TextSearch, words_of
from .snapshot import snapshot
from .upkeep import STEP_SECONDS, Upkeep

logger = logging.getLogger("redvsblue_telemetry.collector")

__all__ = [
    "BLOCK_EVENTS",
    "TextIndex",
    "can_find",
    "drop_index",
    "forget_events",
    "note_expired",
    "spans",
]

BLOCK_EVENTS = 256
"""Arrivals in a block. Larger ones make the index smaller, and a search examine more events."""
_PARTITION_BLOCKS = 4096
_PARTITION_EVENTS = BLOCK_EVENTS * _PARTITION_BLOCKS
_MODULE = "fts5"
_MAX_WORDS = 20_000  # of a block; every search examines one with more
_EVERY_SEARCH = "any" * 9  # the word of such a block; data has none that is as long
_FEW_EXPIRED = 10_000  # events of a partition, for which it isn't worth making it anew
_STEP_SECONDS = STEP_SECONDS * 3 / 4  # the rest is for SQLite's part
_CHARACTERS = 4096  # of data between two looks at the clock

_Terms = list[tuple[str, bool]]


# Searching.


def spans(
    connection: sqlite3.Connection,
    search: TextSearch,
    first: int,
    last: int,
    *,
    newest_first: bool,
) -> Iterator[tuple[int, int]]:
    """Yield the ranges of arrivals that may hold events that are found, in order.

    Args:
        connection: a connection to the database.
        search: the search.
        first: the first arrival to examine.
        last: the last one.
        newest_first: yield the newest ranges first.
    """
    match = _match(search)
    partitions = range(first // _PARTITION_EVENTS, last // _PARTITION_EVENTS + 1)
    for partition in reversed(partitions) if newest_first else partitions:
        start = partition * _PARTITION_EVENTS
        low, high = max(first, start), min(last, start + _PARTITION_EVENTS - 1)
        found = None
        if match is not None:
            found = _candidates(connection, match, partition, low, high)
        if found is None:
            yield low, high
        else:
            yield from reversed(found) if newest_first else found


def can_find(search: TextSearch) -> bool:
    """Return whether the index is of use for a search."""
    return search.terms() is not None


def _match(search: TextSearch) -> str | None:
    """Return a search as an expression of FTS5; None if any event may be found."""
    spellings = search.terms()
    if spellings is None:
        return None
    return " OR ".join([*(f"({_all(terms)})" for terms in spellings), f'"{_EVERY_SEARCH}"'])


def _all(terms: _Terms) -> str:
    return " AND ".join(f'"{word}"{"*" if may_go_on else ""}' for word, may_go_on in terms)


def _candidates(
    connection: sqlite3.Connection, match: str, partition: int, first: int, last: int
) -> list[tuple[int, int]] | None:
    """Return the ranges in one partition, in ascending order; None if it has no index."""
    with snapshot(connection):
        row = connection.execute(
            "SELECT blocks FROM text_index WHERE partition = ?", (partition,)
        ).fetchone()
        if row is None:
            return None
        table = _table(partition)
        try:
            blocks = connection.execute(
                f"SELECT rowid FROM {table} WHERE {table} MATCH ? AND rowid BETWEEN ? AND ? "
                "ORDER BY rowid",
                (match, first // BLOCK_EVENTS, last // BLOCK_EVENTS),
            ).fetchall()
        except sqlite3.OperationalError as error:
            if _is_missing(error):
                return None
            raise
    found: list[tuple[int, int]] = []
    for (block,) in blocks:
        start = block * BLOCK_EVENTS
        if found and found[-1][1] == start - 1:
            start = found.pop()[0]
        found.append((start, (block + 1) * BLOCK_EVENTS - 1))
    rest = partition * _PARTITION_EVENTS + row[0] * BLOCK_EVENTS
    if rest <= last:
        found.append((rest, last))
    return [(max(low, first), min(high, last)) for low, high in found]


def _table(partition: int) -> str:
    return f"words_{partition}"


def _is_missing(error: sqlite3.Error) -> bool:
    """Return whether SQLite was built without the module."""
    return str(error).startswith("no such module")


# Deleting. In a transaction of the caller.


def drop_index(connection: sqlite3.Connection) -> None:
    """Drop the whole index."""
    for (partition,) in connection.execute("SELECT partition FROM text_index").fetchall():
        _drop(connection, partition)


def forget_events(connection: sqlite3.Connection, arrivals: Iterable[int]) -> None:
    """Drop the parts of the index that have words of these events, which nobody may find again.

    They are made anew without them. Until then, searches examine the events of those parts.

    Args:
        connection: a connection to the database.
        arrivals: those of the events that are deleted.
    """
    for partition in {arrival // _PARTITION_EVENTS for arrival in arrivals}:
        _drop(connection, partition)


def note_expired(connection: sqlite3.Connection, arrivals: Iterable[int]) -> None:
    """Count deleted events, whose words may stay in the index for a while.

    Args:
        connection: a connection to the database.
        arrivals: those of the events that are deleted.
    """
    counts = Counter(arrival // _PARTITION_EVENTS for arrival in arrivals)
    connection.executemany(
        "UPDATE text_index SET expired = expired + ? WHERE partition = ?",
        [(count, partition) for partition, count in counts.items()],
    )


def _drop(connection: sqlite3.Connection, partition: int) -> None:
    connection.execute(f"DROP TABLE IF EXISTS {_table(partition)}")
    connection.execute("DELETE FROM text_index WHERE partition = ?", (partition,))


# Making.


class _Block(msgspec.Struct):
    """A block of which some events were read."""

    number: int
    next_arrival: int
    events: int = 0
    words: set[str] = msgspec.field(default_factory=set)


class TextIndex(Upkeep):
    """Makes the index.

    Args:
        clock: returns monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        self._clock = clock
        self._is_possible = True
        self._block: _Block | None = None

    def step(self, connection: sqlite3.Connection) -> bool:
        """Add some blocks, the newest partition's first; or drop a partition that is of no use."""
        if not self._is_possible:
            return False
        lowest, newest = connection.execute(
            "SELECT (SELECT min(arrival) FROM events), (SELECT max(arrival) FROM events)"
        ).fetchone()
        done = dict(connection.execute("SELECT partition, blocks FROM text_index").fetchall())
        if (partition := _useless(connection, lowest)) is not None:
            _drop(connection, partition)
            return True
        if lowest is None:
            return False
        for partition in range(newest // _PARTITION_EVENTS, lowest // _PARTITION_EVENTS - 1, -1):
            whole = min(
                _PARTITION_BLOCKS, (newest + 1) // BLOCK_EVENTS - partition * _PARTITION_BLOCKS
            )
            if done.get(partition, 0) < whole:
                break
        else:
            return False
        if partition not in done:
            if not self._create(connection, partition):
                return False
            # The blocks before the first event are empty.
            skipped = max(0, lowest // BLOCK_EVENTS - partition * _PARTITION_BLOCKS)
            self._block, done[partition] = None, skipped
            connection.execute(
                "INSERT INTO text_index (partition, blocks) VALUES (?, ?)", (partition, skipped)
            )
        self._add(connection, partition, done[partition], whole)
        return True

    def _create(self, connection: sqlite3.Connection, partition: int) -> bool:
        try:
            connection.execute(
                f"CREATE VIRTUAL TABLE {_table(partition)} USING {_MODULE}(words, content='', "
                "detail=none, columnsize=0, tokenize='ascii')"
            )
        except sqlite3.OperationalError as error:
            if not _is_missing(error):
                raise
            self._is_possible = False
            logger.warning("SQLite was built without FTS5, so searches for a text take longer")
        return self._is_possible

    def _add(self, connection: sqlite3.Connection, partition: int, blocks: int, whole: int) -> None:
        """Add blocks to a partition that has some, until the time of a step is over."""
        end = self._clock() + _STEP_SECONDS
        added: list[_Block] = []
        number = partition * _PARTITION_BLOCKS + blocks
        block = self._block
        if block is None or block.number != number:
            block = _Block(number, number * BLOCK_EVENTS)
        while _read(connection, block, lambda: self._clock() >= end):
            added.append(block)
            number += 1
            block = _Block(number, number * BLOCK_EVENTS)
            if number == partition * _PARTITION_BLOCKS + whole or self._clock() >= end:
                break
        self._block = block
        connection.executemany(
            f"INSERT INTO {_table(partition)} (rowid, words) VALUES (?, ?)",
            [(each.number, " ".join(each.words)) for each in added if each.words],
        )
        connection.execute(
            "UPDATE text_index SET blocks = blocks + ?, events = events + ? WHERE partition = ?",
            (len(added), sum(each.events for each in added), partition),
        )


def _useless(connection: sqlite3.Connection, lowest: int | None) -> int | None:
    """Return a partition that has lost all events, or so many that it should be made anew."""
    row = connection.execute(
        "SELECT partition FROM text_index "
        "WHERE ? IS NULL OR partition < ? OR (expired > ? AND expired > events / 2) LIMIT 1",
        (lowest, None if lowest is None else lowest // _PARTITION_EVENTS, _FEW_EXPIRED),
    ).fetchone()
    return None if row is None else int(row[0])


def _read(connection: sqlite3.Connection, block: _Block, is_over: Callable[[], bool]) -> bool:
    """Read the events of a block; return whether all of them were read."""
    rows = connection.execute(
        "SELECT arrival, lower(data) FROM events WHERE arrival BETWEEN ? AND ? ORDER BY arrival",
        (block.next_arrival, (block.number + 1) * BLOCK_EVENTS - 1),
    )
    unchecked = 0
    with contextlib.closing(rows):
        for arrival, data in rows:
            block.next_arrival = arrival + 1
            block.events += 1
            if len(block.words) <= _MAX_WORDS:
                block.words |= words_of(data)
            unchecked += len(data)
            if unchecked >= _CHARACTERS:
                if is_over():
                    return False
                unchecked = 0
    if len(block.words) > _MAX_WORDS:
        block.words = {_EVERY_SEARCH}
    return True
