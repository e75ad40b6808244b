"""Collects the contents of messages, by column, until they are appended to the lake."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Protocol

import msgspec
import pyarrow as pa

from ..._report import Report, encode_report
from ...collector.messages import Event, Message, Rejected
from ...collector.storage.ids import run_of
from .numbers import Increment, StoredNumbers
from .rows import DAY, EVENTS, POSITIONS, REJECTED, REPORTS, RUNS, day_of
from .table import FILE_SCHEMA

__all__ = ["Added", "Check", "Dedupe", "Rows"]

Check = Callable[[str, msgspec.Raw], "str | None"]
"""``check(type, data)`` returns the fault of the data of an event of a type, or None. It never
raises."""

_BYTES_PER_ROW = 64  # about what a row takes beside its data
_BRACE = b"{"


class Dedupe(Protocol):
    """The part of a claim that its rows need."""

    base: int
    """The origin of the stream's sequence numbers."""

    def offset(self, partition: int) -> int:
        """Return the sequence up to which the partition is in the lake."""

    def numbers(self, session: str, partition: int) -> StoredNumbers:
        """Return the numbers of a session that are stored or wait."""


class Added(msgspec.Struct):
    """The counts of one message's contents."""

    events: int = 0
    """The new events."""
    repeats: int = 0
    """The events that were stored before, or wait already; they are left out."""
    reports: int = 0
    rejected: int = 0
    faults: int = 0
    """Those of the new events that don't fit the schema."""


class _Columns:
    """The rows of one kind from one partition."""

    __slots__ = tuple(FILE_SCHEMA.names)

    def __init__(self) -> None:
        for name in FILE_SCHEMA.names:
            setattr(self, name, [])

    def add(self, arrival: int, received: int, **values: object) -> None:
        self.arrival.append(arrival)
        self.received.append(received)
        for name in FILE_SCHEMA.names[2:]:
            getattr(self, name).append(values.get(name))

    def table(self) -> pa.Table:
        return pa.table([getattr(self, each) for each in FILE_SCHEMA.names], schema=FILE_SCHEMA)

    arrival: list[int]
    received: list[int]
    session: list[str | None]
    seq: list[int | None]
    type: list[str | None]
    timestamp: list[int | None]
    run: list[str | None]
    id: list[str | None]
    version: list[str | None]
    context: list[bytes | None]
    fault: list[str | None]
    data: list[bytes | None]


class _Part:
    """The rows from one partition."""

    def __init__(self) -> None:
        self.columns = {kind: _Columns() for kind in (EVENTS, REPORTS, REJECTED)}
        self.increments: dict[str, Increment] = {}
        self.sequence = 0
        self.arrival = 0
        self.received = 0
        self.events = 0
        self.bytes = 0


class Rows:
    """Rows that wait to be appended to the lake. Made for one claim; used by one thread at a time.

    Args:
        claim: knows which numbers are stored. The numbers that are added here are added there.
    """

    def __init__(self, claim: Dedupe) -> None:
        self._claim = claim
        self._parts: dict[int, _Part] = {}

    @property
    def events(self) -> int:
        """How many events wait."""
        return sum(part.events for part in self._parts.values())

    @property
    def bytes(self) -> int:
        """About how many bytes of memory everything takes."""
        return sum(part.bytes for part in self._parts.values())

    @property
    def sequences(self) -> Mapping[int, int]:
        """The sequence of the last message that was added, by partition."""
        return {key: part.sequence for key, part in self._parts.items()}

    def add(
        self,
        partition: int,
        sequence: int,
        received: int,
        message: Message,
        check: Check | None = None,
    ) -> Added:
        """Add a message of the stream; the events that are stored or wait already are left out.

        Args:
            partition: its partition, of which all its sessions have to be.
            sequence: its place in the stream, after that of the message before.
            received: when a gateway received it, in milliseconds since the epoch.
            message: its contents.
            check: finds the faults of new events; without it, no event has one.

        Raises:
            ValueError: the partition is not the claim's, or the sequence is not a later one.
        """
        part = self._parts.get(partition)
        last = self._claim.offset(partition) if part is None else part.sequence
        if sequence <= last:
            raise ValueError(f"message {sequence} of partition {partition} came after {last}")
        if part is None:
            part = self._parts[partition] = _Part()
        part.sequence, part.received = sequence, received
        part.arrival = (self._claim.base + sequence) * POSITIONS
        added = Added()
        self._add_events(part, partition, message.events, check, added)
        place = len(message.events)
        for report in message.reports:
            self._add_report(part, place, report)
            place += 1
        for rejected in message.rejected:
            self._add_rejected(part, place, rejected)
            place += 1
        added.reports, added.rejected = len(message.reports), len(message.rejected)
        return added

    def discard(self, partitions: Iterable[int]) -> None:
        """Drop the rows of some partitions. Their numbers have to be read from the lake anew."""
        for partition in partitions:
            self._parts.pop(partition, None)

    def clear(self) -> None:
        """Drop everything: it has been appended."""
        self._parts.clear()

    def tables(self) -> Iterator[tuple[str, str, pa.Table]]:
        """Yield the kind, the day and the rows of each file that is to be written."""
        for kind in (EVENTS, REPORTS, REJECTED):
            columns = [part.columns[kind] for part in self._parts.values()]
            tables = [each.table() for each in columns if each.arrival]
            if tables:
                yield from _by_day(kind, pa.concat_tables(tables))
        runs = self._runs()
        if runs.arrival:
            yield from _by_day(RUNS, runs.table())

    def _add_events(
        self,
        part: _Part,
        partition: int,
        events: list[Event],
        check: Check | None,
        added: Added,
    ) -> None:
        columns = part.columns[EVENTS]
        session: str | None = None
        before = len(columns.seq)
        numbers: Any = None
        increment = Increment()
        size = 0
        for place, event in enumerate(events):
            seq = event.seq
            if event.session_id != session:
                session = event.session_id
                numbers = self._claim.numbers(session, partition)
                increment = part.increments.setdefault(session, Increment())
            if not numbers.add(seq):
                increment.repeats += 1
                added.repeats += 1
                continue
            increment.add(seq)
            fault = None if check is None else check(event.type, event.data)
            if fault is not None:
                added.faults += 1
            run = run_of(event)
            data = bytes(event.data)
            context = None if event.context is msgspec.UNSET else bytes(event.context)
            size += len(data)
            columns.arrival.append(part.arrival + min(place, POSITIONS - 1))
            columns.seq.append(seq)
            columns.session.append(session)
            columns.type.append(event.type)
            columns.timestamp.append(event.timestamp)
            columns.run.append(run)
            columns.id.append(event.id if run is None else None)
            columns.version.append(event.version)
            columns.context.append(context if context and context[:1] == _BRACE else None)
            columns.fault.append(fault)
            columns.data.append(data)
        added.events = len(columns.seq) - before
        columns.received += [part.received] * added.events
        part.events += added.events
        part.bytes += size + _BYTES_PER_ROW * len(events)

    def _add_report(self, part: _Part, place: int, report: Report) -> None:
        text = encode_report(report)
        part.columns[REPORTS].add(
            part.arrival + min(place, POSITIONS - 1),
            part.received,
            session=report.session_id,
            seq=report.number,
            type=report.state,
            timestamp=report.at,
            version=None if report.version is msgspec.UNSET else report.version,
            data=text,
        )
        part.bytes += _BYTES_PER_ROW + len(text)

    def _add_rejected(self, part: _Part, place: int, rejected: Rejected) -> None:
        part.columns[REJECTED].add(
            part.arrival + min(place, POSITIONS - 1),
            part.received,
            fault=rejected.reason,
            data=rejected.text.decode(errors="backslashreplace").encode(),
        )
        part.bytes += _BYTES_PER_ROW + len(rejected.text)

    def _runs(self) -> _Columns:
        runs = _Columns()
        for partition, part in self._parts.items():
            for session, increment in part.increments.items():
                runs.add(
                    part.arrival,
                    part.received,
                    session=session,
                    seq=partition,
                    timestamp=increment.repeats or None,
                    data=increment.text(),
                )
        return runs


def _by_day(kind: str, rows: pa.Table) -> Iterator[tuple[str, str, pa.Table]]:
    """Yield the rows of each day, in UTC."""
    days = [received // DAY for received in rows["received"].to_pylist()]
    different = sorted(set(days))
    for day in different:
        chosen = rows if len(different) == 1 else rows.filter(pa.array([d == day for d in days]))
        yield kind, day_of(day * DAY), chosen
