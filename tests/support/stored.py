"""The stored events, for tests that compare all of them."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator

import msgspec

from redvsblue_telemetry.collector.models import EventFilter, StoredEvent
from redvsblue_telemetry.collector.storage.batches import stream_batches

__all__ = ["stream_events"]


def stream_events(connection: sqlite3.Connection, wanted: EventFilter) -> Iterator[StoredEvent]:
    """Yield the events of all batches, one by one."""
    for batch in stream_batches(connection, wanted):
        for *columns, version, data, context, fault in zip(*batch.columns(), strict=True):
            raw = msgspec.Raw(data.encode())
            known = msgspec.UNSET if context is None else msgspec.Raw(context.encode())
            yield StoredEvent(*columns, raw, version, known, fault)
