"""How many events of each type and version a file has in each minute, so that counts read no event.

The metadata of a file of the final size has them. They can be added up.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.compute as pc

from ...collector.storage.counting import MINUTE

__all__ = ["Counting", "Counts", "table_of"]

_MOST_ROWS = 10_000  # of the counts of a file: they are read with its metadata
_KEYS = ("minute", "type", "version")
_SCHEMA = pa.schema(
    [
        ("minute", pa.int64()),
        ("type", pa.string()),
        ("version", pa.string()),
        ("events", pa.int64()),
    ]
)


class Counts(msgspec.Struct):
    """The counts of a file, by column."""

    first: int
    """Minutes since the epoch: from when the others are counted."""
    types: list[str]
    """The names of the types."""
    versions: list[str | None]
    minute: list[int] = []
    type: list[int] = []
    """The places of the names."""
    version: list[int] = []
    events: list[int] = []


class Counting:
    """Counts the events of a file while it is written."""

    def __init__(self) -> None:
        self._found: pa.Table | None = _SCHEMA.empty_table()

    def add(self, rows: pa.Table) -> None:
        """Count some of its events."""
        if self._found is None:
            return
        minutes = pc.divide(rows["received"], pa.scalar(MINUTE, pa.int64()))
        ones = pa.repeat(pa.scalar(1, pa.int64()), rows.num_rows)
        more = pa.table([minutes, rows["type"], rows["version"], ones], schema=_SCHEMA)
        found = pa.concat_tables([self._found, more]).group_by([*_KEYS])
        sums = found.aggregate([("events", "sum")]).rename_columns({"events_sum": "events"})
        self._found = sums.select(_SCHEMA.names) if sums.num_rows <= _MOST_ROWS else None

    def counts(self) -> Counts | None:
        """Return the counts; None if they are too many."""
        if self._found is None or not self._found.num_rows:
            return None
        rows = self._found.sort_by([(name, "ascending") for name in _KEYS])
        first = rows["minute"][0].as_py()
        types, versions = (rows[name].unique().to_pylist() for name in ("type", "version"))
        return Counts(
            first,
            types,
            versions,
            pc.subtract(rows["minute"], first).to_pylist(),
            [types.index(each) for each in rows["type"].to_pylist()],
            [versions.index(each) for each in rows["version"].to_pylist()],
            rows["events"].to_pylist(),
        )


def table_of(counts: Iterable[Counts]) -> Any:
    """Return the counts of files, by ``minute``, ``type``, ``version``, with their ``events``."""
    parts = [
        pa.table(
            [
                pc.add(pa.array(each.minute, pa.int64()), each.first),
                pa.array(each.types, pa.string()).take(pa.array(each.type, pa.int64())),
                pa.array(each.versions, pa.string()).take(pa.array(each.version, pa.int64())),
                pa.array(each.events, pa.int64()),
            ],
            schema=_SCHEMA,
        )
        for each in counts
    ]
    return pa.concat_tables([_SCHEMA.empty_table(), *parts])
