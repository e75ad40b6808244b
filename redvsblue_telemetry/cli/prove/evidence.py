"""The sessions with their stored numbers, from a database, a lake, or a running collector."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator
from importlib import import_module
from typing import TYPE_CHECKING, Any, NamedTuple

from ...collector.client import CollectorClient
from ...collector.models import MAX_PAGE_SIZE, SessionDetail
from ...collector.storage import numbers, queries

if TYPE_CHECKING:
    from ...cluster.lake.reading import Reading

__all__ = ["Evidence", "from_collector", "from_database", "from_lake"]

_MAX_GAPS = 1000  # that the API lists for a session


class Evidence(NamedTuple):
    """One session."""

    session: SessionDetail
    ranges: Iterable[tuple[int, int]] | None
    """The numbers that are stored; None if the collector doesn't list them all."""
    events: int | None
    """The number of rows of events; None if only the collector knows. Those that were stored and
    then deleted have none; the session counts them."""


def from_database(connection: sqlite3.Connection, session_id: str | None) -> Iterator[Evidence]:
    """Yield one session, or all of them, oldest first. Each is read from one snapshot.

    Args:
        connection: the database.
        session_id: the one session; None for all.
    """
    ids = (
        (session.session_id for session in queries.stream_sessions(connection))
        if session_id is None
        else iter([session_id])
    )
    for each in ids:
        # A snapshot of all sessions would keep SQLite from shortening its log for too long.
        connection.execute("BEGIN")
        try:
            found = queries.session(connection, each)
            if found is not None:
                ranges = numbers.ranges(connection, each)
                yield Evidence(found, ranges, numbers.count(connection, each))
        finally:
            connection.execute("ROLLBACK")


def from_lake(reading: Reading, session_id: str | None) -> Iterator[Evidence]:
    """Yield one session, or all of them, oldest first, from one version of a lake.

    Args:
        reading: the lake.
        session_id: the one session; None for all.
    """
    standing: Any = import_module("...cluster.lake.standing", __package__)  # needs an extra
    standing.add_standing(reading, session_id)
    for found in standing.evidence(reading):
        yield Evidence(*found)


def from_collector(client: CollectorClient, session_id: str | None) -> Iterator[Evidence]:
    """Yield one session, or all of them, the most recently active first.

    Args:
        client: of the collector.
        session_id: the one session; None for all.

    Raises:
        CollectorError: the collector doesn't answer.
    """
    for each in [session_id] if session_id is not None else _ids(client):
        session = client.find_session(each)
        if session is None:
            continue
        is_complete = len(session.gaps) < _MAX_GAPS
        yield Evidence(session, list(_between(session)) if is_complete else None, None)


def _ids(client: CollectorClient) -> list[str]:
    """Return the ids of all sessions. One that becomes active meanwhile moves to the front."""
    ids: dict[str, None] = {}
    offset = 0
    while page := client.sessions(limit=MAX_PAGE_SIZE, offset=offset):
        ids |= {session.session_id: None for session in page}
        offset += len(page)
    return list(ids)


def _between(session: SessionDetail) -> Iterator[tuple[int, int]]:
    """Yield the ranges between the gaps."""
    first = 1
    for missing, last in session.gaps:
        if first < missing:
            yield first, missing - 1
        first = last + 1
    if first <= session.highest:
        yield first, session.highest
