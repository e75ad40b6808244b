"""The views of the lake that people may query: those of :mod:`....collector.storage.views`.

The columns and their meanings are the same; the SQL is DuckDB's.
"""

from __future__ import annotations

from collections.abc import Iterable

from ...collector.storage.counting import MINUTE
from .reading import Reading
from .rows import EVENTS
from .standing import COLUMNS, STANDING

__all__ = ["VIEWS", "add_views"]

ID = "coalesce(id, run || '-' || seq, '')"
"""SQL for the id of an event."""

_EVENTS = f"""SELECT arrival, received, session, seq, type, timestamp, {ID} AS id, version, data,
    context, fault
FROM stored_events"""

_COUNTS = f"""SELECT minute * {MINUTE} AS period, 'minute' AS level, type, version,
    CAST(sum(events) AS BIGINT) AS events
FROM stored_counts GROUP BY ALL"""

_REJECTED = "SELECT arrival, received, fault AS reason, data AS text FROM stored_rejected"

_SQL = {
    "events": _EVENTS,
    "sessions": f"SELECT {', '.join(COLUMNS)} FROM {STANDING}",
    "counts": _COUNTS,
    "rejected": _REJECTED,
}
VIEWS = tuple(_SQL)
"""Their names."""


def add_views(reading: Reading, names: Iterable[str] = VIEWS) -> None:
    """Make views; that of the sessions needs :func:`.standing.add_standing` before."""
    for name in names:
        if name == "counts":
            reading.define_counts("stored_counts", reading.snapshot.files(EVENTS))
        reading.run(f"CREATE OR REPLACE TEMP VIEW {name} AS {_SQL[name]}")
