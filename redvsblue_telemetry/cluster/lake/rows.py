"""The rows of the lake: one table for all that is stored, so that one commit stores all of it.

``kind`` and ``day`` are the folders of the files, so a question about events reads no other file.
"""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Any, Final

import pyarrow as pa

__all__ = [
    "DAY",
    "EVENTS",
    "KINDS",
    "PARTITIONED_BY",
    "POSITIONS",
    "REJECTED",
    "REPORTS",
    "RUNS",
    "SCHEMA",
    "day_of",
]

EVENTS: Final = "events"
REPORTS: Final = "reports"
"""A session's report: ``session``; ``seq``, its number; ``type``, its state; ``timestamp``, its
``at``; and ``data``, the text that :func:`~.._report.encode_report` returns. The newest counts; see
:class:`~.._report.Report`."""
REJECTED: Final = "rejected"
"""A part of a message that is not an event: ``fault``, the reason, and ``data``, its beginning."""
RUNS: Final = "runs"
"""Which numbers of a session are stored: ``session``; ``seq``, its partition of the stream;
``timestamp``, how many of its events came once more, or NULL for none; and ``data``,
``[[first, last], …]`` in ascending order. Each commit writes what it adds, and compaction adds up,
so all rows of a session count: their ranges have no number in common, and their repeats are a
sum."""
KINDS: Final = (EVENTS, REPORTS, REJECTED, RUNS)

PARTITIONED_BY: Final = ("kind", "day")

POSITIONS: Final = 65_536
"""``arrival`` is ``(base + sequence) * POSITIONS + position``: the place in the order of arrival of
everything. The base is that of the stream, the position that within the message."""

DAY: Final = 86_400_000
"""Milliseconds of a day."""

SCHEMA: Final[Any] = pa.schema(
    [
        pa.field("kind", pa.string(), nullable=False),
        pa.field("day", pa.string(), nullable=False),  # of received, in UTC: 2026-11-29
        pa.field("arrival", pa.int64(), nullable=False),
        pa.field("received", pa.int64(), nullable=False),  # milliseconds since the epoch
        pa.field("session", pa.string()),
        pa.field("seq", pa.int64()),
        pa.field("type", pa.string()),
        pa.field("timestamp", pa.int64()),  # milliseconds since the epoch
        pa.field("run", pa.string()),  # the id is run-seq, unless there is another one
        pa.field("id", pa.string()),
        pa.field("version", pa.string()),
        pa.field("context", pa.string()),  # JSON
        pa.field("fault", pa.string()),
        pa.field("data", pa.string()),  # JSON
    ]
)


def day_of(milliseconds: int) -> str:
    """Return the day of a time since the epoch, in UTC, as ``day`` has it."""
    return datetime.fromtimestamp(milliseconds / 1000, timezone.utc).strftime("%Y-%m-%d")
