"""Reads the events of a snapshot for the API: pages, crashes, faults, frame times.

The files of a day that is over are in the order of their types, so a page in the order of arrival
is found in two steps: first the arrivals alone, then the rows with these.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

from ...collector.http.parameters import Paging
from ...collector.models import (
    ALL_TIME,
    CrashGroup,
    EventFilter,
    EventPage,
    FaultGroup,
    FrameSummary,
    RejectedMessage,
    StoredEvent,
    TimeRange,
)
from ...collector.storage.cutoff import Cutoff
from ...collector.storage.summaries import CrashGroups, FrameSummaries
from ...collector.textsearch import TextSearch
from ..lake.batches import COLUMNS, conditions_of, fitting, spans
from ..lake.reading import Reading
from ..lake.rows import EVENTS, REJECTED
from ..lake.table import DataFile

__all__ = ["crashes", "faults", "files_of", "frames", "in_span", "page", "rejected", "sample"]

_SPAN_ROWS = 200_000  # of the files that are read at once, at least
_ROWS = 1000  # that are read ahead
_MORE_ROWS = 200  # that are read where some of them don't fit
_MAX_PAGE_BYTES = 8 * 1024 * 1024  # of data
_MAX_CRASHES = 10_000  # that are grouped, the newest ones
_MAX_VERSIONS = 100  # of one group of faults
_MAX_INTERVALS = 10_000  # of frames that are summed up
_MIXED = "((((arrival % 2147483648) * 2654435761) % 4294967296) >> 8)"  # see queries.frames


def files_of(reading: Reading, span: TimeRange, kind: str = EVENTS) -> list[DataFile]:
    """Return the files that may have rows that were received in a range, the oldest first."""
    return reading.snapshot.files(kind, span)


def in_span(span: TimeRange) -> str:
    """Return SQL for a row that was received in a range."""
    start = "" if span.start is None else f" AND received >= {span.start:d}"
    end = "" if span.end is None else f" AND received < {span.end:d}"
    return f"(true{start}{end})"


def page(
    reading: Reading, wanted: EventFilter, paging: Paging, span: TimeRange, cutoff: Cutoff
) -> EventPage:
    """Return one page of events; see :func:`....collector.storage.queries.search`.

    Args:
        reading: the lake.
        wanted: selects the events.
        paging: which page.
        span: only events that were received in this range.
        cutoff: when the search ends. It examines some files at least, so it gets on each time.
    """
    after, before, newest_first = paging["after"], paging["before"], paging["newest_first"]
    files = [
        file
        for file in files_of(reading, span)
        if file.highest_arrival > after and (before is None or file.lowest_arrival < before)
    ]
    in_order = list(spans(files, _SPAN_ROWS))
    if newest_first:
        in_order.reverse()
    found: list[StoredEvent] = []
    for place, (first, last, some) in enumerate(in_order, 1):
        low = max(first, after + 1)
        high = last if before is None else min(last, before - 1)
        cutoff.check()
        reading.define("stored_events", some)
        is_full = _search(reading, wanted, paging, span, (low, high), found)
        if is_full or len(found) >= paging["limit"]:
            break
        if cutoff.is_due and place < len(in_order):
            return EventPage(found, low if newest_first else high, partial=True)
    start = before or 0 if newest_first else after
    return EventPage(found, found[-1].arrival if found else start)


def _search(
    reading: Reading,
    wanted: EventFilter,
    paging: Paging,
    span: TimeRange,
    window: tuple[int, int],
    found: list[StoredEvent],
) -> bool:
    """Add the events of a window, up to the limit; return whether their size is at its limit."""
    conditions, values = conditions_of(reading, wanted)
    chosen = " AND ".join([*conditions, in_span(span), "arrival BETWEEN ? AND ?"])
    order = "ORDER BY arrival DESC" if paging["newest_first"] else "ORDER BY arrival"
    search = None if wanted.text is None else TextSearch(wanted.text)
    size = sum(memoryview(event.data).nbytes for event in found)
    low, high = window
    while low <= high and len(found) < paging["limit"]:
        count = paging["limit"] - len(found) + (_MORE_ROWS if search else 0)
        rows = reading.run(
            f"SELECT arrival FROM stored_events WHERE {chosen} {order} LIMIT {count:d}",
            *values,
            low,
            high,
        )
        if not rows:
            return False
        ends = sorted((rows[0][0], rows[-1][0]))
        query = f"SELECT {COLUMNS} FROM stored_events WHERE {chosen} {order}"
        for event in _events(reading, query, [*values, *ends], search):
            found.append(event)
            size += memoryview(event.data).nbytes
            if size >= _MAX_PAGE_BYTES:
                return True
            if len(found) >= paging["limit"]:
                return False
        if len(rows) < count:
            return False
        low, high = (low, ends[0] - 1) if paging["newest_first"] else (ends[1] + 1, high)
    return False


def _events(
    reading: Reading, query: str, values: Sequence[object], search: TextSearch | None = None
) -> Iterator[StoredEvent]:
    """Yield the events that a query for :data:`COLUMNS` finds."""
    for batch in reading.stream(query, values, _ROWS):
        chosen = batch if search is None else batch.filter(fitting(batch, search))
        for row in chosen.to_pylist():
            yield _event(row)


def _event(row: dict[str, Any]) -> StoredEvent:
    id_ = row["id"]
    if id_ is None:
        id_ = "" if row["run"] is None else f"{row['run']}-{row['seq']}"
    context = row["context"]
    return StoredEvent(
        row["arrival"],
        row["received"],
        row["session"],
        row["seq"],
        row["type"],
        row["timestamp"],
        id_,
        msgspec.Raw(row["data"].encode()),
        row["version"],
        msgspec.UNSET if context is None else msgspec.Raw(context.encode()),
        row["fault"],
    )


def _events_at(reading: Reading, arrivals: Sequence[int]) -> dict[int, StoredEvent]:
    """Return events by their arrivals; those that are gone are left out."""
    files = [
        file
        for file in reading.snapshot.files(EVENTS)
        if any(file.lowest_arrival <= each <= file.highest_arrival for each in arrivals)
    ]
    reading.define("stored_events", files)
    listed = ", ".join(f"{each:d}" for each in arrivals) or "NULL"
    query = f"SELECT {COLUMNS} FROM stored_events WHERE arrival IN ({listed})"
    return {event.arrival: event for event in _events(reading, query, [])}


def sample(reading: Reading, limit: int) -> list[StoredEvent]:
    """Return some events of the relation, in order of arrival: the newest ones of each session."""
    rows = reading.run(
        "SELECT arrival FROM (SELECT arrival, row_number() OVER "
        "(PARTITION BY session ORDER BY arrival DESC) AS place FROM stored_events) "
        f"ORDER BY place, arrival DESC LIMIT {limit:d}"
    )
    listed = ", ".join(f"{arrival:d}" for (arrival,) in rows) or "NULL"
    query = f"SELECT {COLUMNS} FROM stored_events WHERE arrival IN ({listed}) ORDER BY arrival"
    return list(_events(reading, query, []))[:limit]


def crashes(
    reading: Reading, *, version: str | None, limit: int, span: TimeRange, cutoff: Cutoff
) -> list[CrashGroup]:
    """Return the crashes in groups; see :func:`....collector.storage.queries.crashes`."""
    groups = CrashGroups(limit, _MAX_PAGE_BYTES)
    reading.define("stored_events", files_of(reading, span))
    query = (
        f"SELECT {COLUMNS} FROM stored_events WHERE type = 'crash' AND {in_span(span)} "
        f"ORDER BY arrival DESC LIMIT {_MAX_CRASHES}"
    )
    for event in _events(reading, query, []):
        if version is None or event.version == version:
            groups.add(event)
        if cutoff.is_due:
            break
    return groups.found()


def faults(
    reading: Reading, *, version: str | None, limit: int, span: TimeRange
) -> list[FaultGroup]:
    """Return the faults in groups; see :func:`....collector.storage.queries.faults`.

    Without a range, they are in the catalog.
    """
    source = "faults_of"
    if span != ALL_TIME:
        reading.define("stored_events", files_of(reading, span))
        source = (
            "(SELECT session, type, fault, count(*) AS events, min(received) AS first, "
            "max(received) AS last, max(arrival) AS newest FROM stored_events "
            f"WHERE fault IS NOT NULL AND {in_span(span)} GROUP BY ALL)"
        )
    groups = reading.run(
        "WITH by_version AS (SELECT type, fault, sessions.version AS version, "
        "CAST(sum(found.events) AS BIGINT) AS events, count(DISTINCT found.session) AS sessions, "
        "min(first) AS first, max(last) AS last, max(newest) AS newest "
        f"FROM {source} AS found JOIN sessions ON sessions.session = found.session "
        "WHERE CAST(? AS VARCHAR) IS NULL OR sessions.version = ? GROUP BY ALL) "
        "SELECT type, fault, CAST(sum(events) AS BIGINT), CAST(sum(sessions) AS BIGINT), "
        "list(version ORDER BY newest DESC) FILTER (version IS NOT NULL), min(first), max(last), "
        "max(newest) FROM by_version GROUP BY type, fault "
        f"ORDER BY max(newest) DESC LIMIT {limit:d}",
        version,
        version,
    )
    newest_ones = _events_at(reading, [group[-1] for group in groups])
    found: list[FaultGroup] = []
    size = 0
    for type_, fault, events, sessions, versions, first, last, newest in groups:
        event = newest_ones.get(newest)
        if event is None:  # it was deleted a moment ago
            continue
        names = (versions or [])[:_MAX_VERSIONS]
        found.append(FaultGroup(type_, fault, events, sessions, names, first, last, event))
        size += memoryview(event.data).nbytes
        if size >= _MAX_PAGE_BYTES:
            break
    return found


def frames(
    reading: Reading, *, version: str | None, limit: int, span: TimeRange, intervals: int
) -> list[FrameSummary]:
    """Return the frame times by version; see :func:`....collector.storage.queries.frames`.

    Args:
        reading: the lake.
        version: only this version.
        limit: the maximum number of versions.
        span: only intervals that were received in this range.
        intervals: about how many there are.
    """
    stride = max(1, -(-intervals // _MAX_INTERVALS))
    reading.define("stored_events", files_of(reading, span))
    summaries = FrameSummaries(stride)
    query = (
        "SELECT received, timestamp, version, data FROM stored_events WHERE type = 'frames' "
        f"AND {in_span(span)} AND {_MIXED} % {stride:d} = 0 ORDER BY arrival"
    )
    for batch in reading.stream(query, rows=_ROWS):
        for row in zip(*(column.to_pylist() for column in batch.columns), strict=True):
            summaries.add(*row)
    return [
        summary for summary in summaries.found() if version is None or summary.version == version
    ][:limit]


def rejected(reading: Reading, paging: Paging, span: TimeRange) -> list[RejectedMessage]:
    """Return one page of rejected messages."""
    after, before = paging["after"], paging["before"]
    files = [
        file
        for file in files_of(reading, span, REJECTED)
        if file.highest_arrival > after and (before is None or file.lowest_arrival < before)
    ]
    reading.define("stored_rejected", files)
    order = "DESC" if paging["newest_first"] else "ASC"
    rows = reading.run(
        "SELECT arrival, received, fault, data FROM stored_rejected WHERE arrival > ? "
        f"AND arrival < ? AND {in_span(span)} ORDER BY arrival {order} LIMIT {paging['limit']:d}",
        after,
        2**63 - 1 if before is None else before,
    )
    return [RejectedMessage(*row) for row in rows]
