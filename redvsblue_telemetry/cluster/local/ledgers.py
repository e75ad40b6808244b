"""The lake's side of the ledger: which numbers of each session it has, and in which order."""

from __future__ import annotations

from collections.abc import Mapping

import duckdb
import msgspec
import pyarrow as pa
from deltalake import DeltaTable
from deltalake.exceptions import TableNotFoundError

from ..lake.rows import EVENTS

__all__ = ["Stored", "count_events", "stored_sessions"]


class Stored(msgspec.Struct, frozen=True):
    """What the lake has of a session."""

    events: int = 0
    unique: int = 0
    """Distinct numbers among them."""
    first: int = 0
    """The lowest number."""
    last: int = 0
    """The highest number."""
    disordered: int = 0
    """Events that arrived after one with a higher number."""

    @property
    def twice(self) -> int:
        """Events that are there once more."""
        return self.events - self.unique

    def missing(self, count: int) -> int:
        """Return how many of the numbers from 1 to ``count`` are not there."""
        return max(0, count - self.unique)


_BY_SESSION = """
    WITH ordered AS (
        SELECT session, seq, lag(seq) OVER (PARTITION BY session ORDER BY arrival) AS before
        FROM events
    )
    SELECT session, count(*), count(DISTINCT seq), min(seq), max(seq),
           count(*) FILTER (WHERE seq <= before)
    FROM ordered GROUP BY session
"""


def stored_sessions(lake: str) -> Mapping[str, Stored]:
    """Return what the lake has of each session, from the events themselves."""
    table = _table(lake)
    if table is None:
        return {}
    with duckdb.connect() as connection:
        connection.register("rows", table.to_pyarrow_dataset())
        connection.execute(
            f"CREATE VIEW events AS SELECT session, seq, arrival FROM rows WHERE kind = '{EVENTS}'"
        )
        rows = connection.execute(_BY_SESSION).fetchall()
    return {session: Stored(*counts) for session, *counts in rows}


def count_events(lake: str) -> int:
    """Return how many events the lake has, from its log alone."""
    table = _table(lake)
    if table is None:
        return 0
    actions = pa.table(table.get_add_actions(flatten=True)).to_pydict()
    counts = zip(actions["partition.kind"], actions["num_records"], strict=True)
    return sum(count for kind, count in counts if kind == EVENTS)


def _table(lake: str) -> DeltaTable | None:
    try:
        return DeltaTable(lake)
    except TableNotFoundError:
        return None  # nothing was committed yet
