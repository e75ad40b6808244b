"""Reads the events of a lake in order of arrival, as batches for an export.

The files of a day that is over are in another order (see :mod:`.rows`), so DuckDB sorts the events,
in temporary files if there is no room in memory. Each sort is over the files of a range of arrivals
alone, which is about a day.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.compute as pc

from ...collector.models import (
    MAX_CONTEXT_VALUE_LENGTH,
    EventFilter,
    StoredEvent,
    context_fields,
)
from ...collector.storage.batches import EventBatch
from ...collector.textsearch import TextSearch
from .reading import Reading
from .rows import EVENTS
from .table import DataFile

__all__ = ["COLUMNS", "conditions_of", "fitting", "spans", "stream_batches"]

COLUMNS = "arrival, received, session, seq, type, timestamp, run, id, version, data, context, fault"
"""Those of an event."""
_ROWS = 10_000  # of a batch
_MAX_BYTES = 8 * 1024 * 1024  # of data in a batch, unless one event alone has more
_MIN_ROWS = 1_000_000  # of files that are sorted together


def stream_batches(reading: Reading, wanted: EventFilter) -> Iterator[EventBatch]:
    """Yield the events of a lake in order of arrival, some thousand at a time.

    Raises:
        LakeError: the lake can't be read.
    """
    conditions, values = conditions_of(reading, wanted)
    search = None if wanted.text is None else TextSearch(wanted.text)
    for first, last, files in spans(reading.snapshot.files(EVENTS)):
        reading.define("some_events", files)
        chosen = [*conditions, "arrival BETWEEN ? AND ?"]
        query = f"SELECT {COLUMNS} FROM some_events WHERE {' AND '.join(chosen)} ORDER BY arrival"
        for batch in reading.stream(query, [*values, first, last], _ROWS):
            found = batch if search is None else batch.filter(fitting(batch, search))
            for part in _parts(found):
                yield _event_batch(part)


def spans(
    files: Sequence[DataFile], least: int = _MIN_ROWS
) -> Iterator[tuple[int, int, list[DataFile]]]:
    """Yield ranges of arrivals in order, each with all files that may have a row of it.

    A range ends where few rows are in files that go on after it: these are read twice.

    Args:
        files: the files.
        least: the rows of a range's files, of all but the last one.
    """
    in_order = sorted(files, key=lambda file: file.lowest_arrival)
    start, here, count = -(2**63), list[DataFile](), 0
    for file in in_order:
        crossing = [each for each in here if each.highest_arrival >= file.lowest_arrival]
        if count >= least and sum(each.rows for each in crossing) <= count // 2:
            yield start, file.lowest_arrival - 1, here
            start, here, count = file.lowest_arrival, crossing, 0
        here.append(file)
        count += file.rows
    if here:
        yield start, 2**63 - 1, here


def conditions_of(reading: Reading, wanted: EventFilter) -> tuple[list[str], list[object]]:
    """Return the conditions in SQL, with their values. A text is looked for in addition to them."""
    conditions = ["true"]
    values: list[object] = []
    for column, value in (("session", wanted.session), ("type", wanted.type)):
        if value is not None:
            conditions.append(f"{column} = ?")
            values.append(value)
    if wanted.context:
        _add_fitting(reading, "context", EventFilter(context=wanted.context))
        conditions.append("context IN (SELECT text FROM fitting_context)")
    if wanted.fault is not None:
        _add_fitting(reading, "fault", EventFilter(fault=wanted.fault))
        is_absent = "true" if _fits(EventFilter(fault=wanted.fault), "fault", None) else "false"
        conditions.append(
            f"CASE WHEN fault IS NULL THEN {is_absent} "
            "ELSE fault IN (SELECT text FROM fitting_fault) END"
        )
    if wanted.text is not None:
        # These characters have other cases in Unicode: this leaves some in that don't fit, and
        # none out.
        either = " OR ".join(["contains(lower(data), lower(?))"] * len(_spellings(wanted.text)))
        conditions.append(f"({either})")
        values += _spellings(wanted.text)
    return conditions, values


def _spellings(text: str) -> list[str]:
    return TextSearch(text).spellings


def _add_fitting(reading: Reading, column: str, wanted: EventFilter) -> None:
    """Make a table of those texts of a column with which an event is wanted."""
    texts: list[str] = []
    query = f"SELECT DISTINCT {column} FROM stored_events WHERE {column} IS NOT NULL"
    for batch in reading.stream(query):
        texts += [text for text in batch.column(0).to_pylist() if _fits(wanted, column, text)]
    reading.add(f"fitting_{column}", {"text": pa.array(texts, pa.string())})


def _fits(wanted: EventFilter, column: str, text: str | None) -> bool:
    raw = msgspec.Raw((text or "").encode())
    if column == "context" and any(
        len(value) > MAX_CONTEXT_VALUE_LENGTH for value in wanted.context.values()
    ):
        return False  # a collector doesn't find these either
    if column == "context":
        return wanted.context.items() <= context_fields(raw).items()
    event = StoredEvent(0, 0, "", 0, "", 0, "", msgspec.Raw(b"{}"), fault=text)
    return bool(wanted.matching([event]))


def fitting(batch: Any, search: TextSearch) -> Any:
    """Return whether the data of each row of a batch has a text, as an array."""
    texts = batch.column("data").to_pylist()
    return pa.array(
        [search.fits(text.encode().lower().decode(errors="replace")) for text in texts], pa.bool_()
    )


def _parts(batch: Any) -> Iterator[Any]:
    """Yield the rows of a batch in parts of bounded size."""
    size = pc.sum(pc.binary_length(batch.column("data"))).as_py() or 0
    if size > _MAX_BYTES and batch.num_rows > 1:
        half = batch.num_rows // 2
        yield from _parts(batch.slice(0, half))
        yield from _parts(batch.slice(half))
    elif batch.num_rows:
        yield batch


def _event_batch(batch: Any) -> EventBatch:
    """Return rows as the formats of an export take them."""
    has_id = pc.is_valid(batch.column("id"))
    session, sessions = _keyed(batch.column("session"))
    run, runs = _keyed(pc.if_else(has_id, pa.scalar(None, pa.string()), batch.column("run")))
    owners = [
        key * (len(runs) + 1) + (len(runs) if each is None else each)
        for key, each in zip(session, run, strict=True)
    ]
    type_, types = _keyed(batch.column("type"))
    context, contexts = _keyed(batch.column("context"))
    fault, faults = _keyed(batch.column("fault"))
    ids = batch.column("id")
    data = batch.column("data").cast(pa.string())
    lengths = pc.binary_length(data).to_pylist()
    return EventBatch(
        batch.column("arrival").to_pylist(),
        batch.column("received").to_pylist(),
        owners,
        batch.column("seq").to_pylist(),
        type_,
        batch.column("timestamp").to_pylist(),
        [text or "" for text in ids.to_pylist()] if len(ids) > ids.null_count else None,
        batch.column("version").to_pylist(),
        _bytes_of(data),
        lengths,
        context,
        fault,
        {
            owner: (sessions[owner // (len(runs) + 1)], runs.get(owner % (len(runs) + 1)))
            for owner in {*owners}
        },
        types,
        contexts,
        faults,
    )


def _keyed(column: Any) -> tuple[list[Any], dict[int, str]]:
    """Return the keys of the texts of a column, and the texts by key."""
    encoded = column.cast(pa.string()).dictionary_encode()
    return encoded.indices.to_pylist(), dict(enumerate(encoded.dictionary.to_pylist()))


def _bytes_of(texts: Any) -> bytes:
    """Return the texts of a column, one behind the other."""
    _, offsets, data = texts.buffers()
    if data is None:
        return b""
    ends = pa.Array.from_buffers(pa.int32(), texts.offset + len(texts) + 1, [None, offsets])
    first, last = ends[texts.offset].as_py(), ends[-1].as_py()
    return bytes(data.slice(first, last - first))
