"""Reads events of one type as columns, in the order in which they arrived.

A question such as "the p95 of damage" needs two fields of a million events, and nothing else. Most
events are in blocks, with a column for each field (:mod:`.blocks`); the others are read from their
rows. Both in one snapshot, so no event is missing or there twice.

Needs pyarrow, except for :func:`fields` and :func:`fields_of`.
"""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from importlib import import_module
from typing import Any

import msgspec

from ..._shared import LARGEST_INTEGER
from ..loglimit import LogLimit
from ..models import TimeRange
from .blocks import VISITS, Block, blocks_of
from .bycolumn import DATA as TEXTS
from .bycolumn import cut
from .cutoff import NEVER, Cutoff
from .encoding import DamagedColumnError, decode, has_arrow
from .fields import DATA, FIXED, NUMBER, TEXT, flatten, parts_of
from .snapshot import snapshot

__all__ = [
    "FIXED",
    "NUMBER",
    "TEXT",
    "Field",
    "can_read",
    "fields",
    "fields_of",
    "read",
    "visits",
]

_ROWS = 8192  # of a piece
_ROWS_WITH_DATA = 256  # of a piece: their data is one text
_SAMPLE = 1000  # of the newest events, whose fields are looked at
_EXAMPLES = 5  # different values of a field
_VISIT = ("context", "first", "stay")

logger = logging.getLogger("redvsblue_telemetry.collector")
_warnings = LogLimit(logger)
_decode = msgspec.json.Decoder().decode


def can_read() -> bool:
    """Return whether pyarrow is installed."""
    return has_arrow()


def read(
    connection: sqlite3.Connection,
    event_type: str,
    names: Sequence[str],
    span: TimeRange = TimeRange(),  # noqa: B008 - it is frozen
    *,
    cutoff: Cutoff = NEVER,
) -> Any:
    """Return columns of all events of a type that arrived in a span, as a ``pyarrow.Table``.

    Args:
        connection: a connection to the database; if it is in a transaction, that is the snapshot.
        event_type: the type.
        names: those of the columns: some of :data:`FIXED`, and for a field that is named
            ``data.damage``, ``data.damage#number`` and ``data.damage#text``. A column that no
            event has is null.
        span: when the events arrived.
        cutoff: when to give up.

    Raises:
        CutoffError: it had to end.
    """
    schema = _schema(names)
    pieces = _pieces(_Reader, connection, event_type, schema, span, cutoff)
    return import_module("pyarrow").Table.from_batches(pieces, schema)


def _schema(names: Sequence[str]) -> Any:
    arrow: Any = import_module("pyarrow")
    return arrow.schema([(name, _type_of(arrow, name)) for name in names])


def _pieces(
    kind: type[_Reader],
    connection: sqlite3.Connection,
    event_type: str,
    schema: Any,
    span: TimeRange,
    cutoff: Cutoff,
) -> list[Any]:
    with snapshot(connection):
        row = connection.execute("SELECT key FROM types WHERE name = ?", (event_type,)).fetchone()
        return [] if row is None else [*kind(connection, row[0], schema, span, cutoff).pieces()]


def visits(connection: sqlite3.Connection, event_type: str, *, cutoff: Cutoff = NEVER) -> Any:
    """Return when the contexts of a type's events were there, as a ``pyarrow.Table``.

    Its columns are ``context``, the key; ``first``, when the first event of a visit was received;
    and ``stay``, how much later its last one was: at most a day, in milliseconds. So the two are
    on each day on which there is any event of the visit, in all time zones. Events without a
    context may be left out.

    Args:
        connection: see :func:`read`.
        event_type: the type.
        cutoff: when to give up.

    Raises:
        CutoffError: it had to end.
    """
    events = _schema(["context", "received"])
    pieces = _pieces(_VisitReader, connection, event_type, events, TimeRange(), cutoff)
    return import_module("pyarrow").Table.from_batches(pieces, _schema(_VISIT))


def _type_of(arrow: Any, name: str) -> Any:
    if name.endswith(NUMBER):
        return arrow.float64()
    return arrow.string() if name == "version" or name.endswith(TEXT) else arrow.int64()


class _Reader:
    """Reads the events of one table."""

    def __init__(
        self,
        connection: sqlite3.Connection,
        type_key: int,
        schema: Any,
        span: TimeRange,
        cutoff: Cutoff,
    ) -> None:
        self._connection = connection
        self._type_key = type_key
        self._schema = schema
        self._span = span
        self._cutoff = cutoff
        self._arrow: Any = import_module("pyarrow")
        self._compute: Any = import_module("pyarrow.compute")

    def pieces(self) -> Iterator[Any]:
        """Yield all events as record batches."""
        next_arrival = 0
        for block in blocks_of(self._connection, self._type_key):
            self._cutoff.check()
            if next_arrival < block.first:
                yield from self._rows(next_arrival, block.first - 1)
            next_arrival = block.last + 1
            if self._overlaps(block):
                yield from self._block(block)
        yield from self._rows(next_arrival, LARGEST_INTEGER)

    def _overlaps(self, block: Block) -> bool:
        start, end = self._span.start, self._span.end
        is_later = start is None or block.newest >= start
        return is_later and (end is None or block.oldest < end)

    def _is_inside(self, block: Block) -> bool:
        start, end = self._span.start, self._span.end
        is_later = start is None or block.oldest >= start
        return is_later and (end is None or block.newest < end)

    def _block(self, block: Block) -> Iterator[Any]:
        """Yield the events of a block; from their rows if it lacks a column, or is damaged."""
        names = [*self._schema.names]
        if not self._is_inside(block) and "received" not in names:
            names.append("received")
        try:
            columns = self._columns(block, names)
        except DamagedColumnError as error:
            _warnings.warn(
                "damaged",
                None,
                "the columns of the events %d to %d are damaged, so their rows are read: %s",
                block.first,
                block.last,
                error,
            )
            columns = None
        if columns is None:
            yield from self._rows(block.first, block.last)
            return
        own = [columns[name] for name in self._schema.names]
        batch = self._arrow.record_batch(own, schema=self._schema)
        yield batch if self._is_inside(block) else batch.filter(self._mask(columns["received"]))

    def _columns(self, block: Block, names: Sequence[str]) -> dict[str, Any] | None:
        """Return the columns of a block; None if it may have left one of them out."""
        columns = {
            name: decode(data, _type_of(self._arrow, name))
            for name, data in self._connection.execute(
                "SELECT name, data FROM columns WHERE block = ? "
                f"AND name IN ({', '.join('?' * len(names))})",
                (block.key, *names),
            ).fetchall()
        }
        for name in names:
            if name not in columns and name not in FIXED:
                if not block.is_whole:
                    return None
                columns[name] = self._arrow.nulls(block.events, _type_of(self._arrow, name))
            if name not in columns or len(columns[name]) != block.events:
                raise DamagedColumnError(f"{name} has too few values")
        return columns

    def _mask(self, received: Any) -> Any:
        """Return which events are in the span."""
        start, end = self._span.start, self._span.end
        compute = self._compute
        is_later = compute.greater_equal(received, -LARGEST_INTEGER if start is None else start)
        is_earlier = compute.less(received, LARGEST_INTEGER if end is None else end)
        return compute.and_(is_later, is_earlier)

    def _rows(self, first: int, last: int) -> Iterator[Any]:
        """Yield the events of a range of arrivals from their rows."""
        names = self._schema.names
        fixed = [name for name in names if name in FIXED]
        data = [name for name in names if name not in FIXED]
        wanted = parts_of([_field_of(name) for name in data])
        # By column: a row that is fetched costs a turn with the GIL.
        arrays = [f"json_group_array({name})" for name in fixed]
        bounds = {"received >= ?": self._span.start, "received < ?": self._span.end}
        inside = {each: bound for each, bound in bounds.items() if bound is not None}
        conditions = " AND ".join(["type = ?", "arrival BETWEEN ? AND ?", *inside])
        query = (
            f"SELECT {', '.join(['max(arrival)', *arrays, *([TEXTS] if data else [])])} FROM "
            f"(SELECT * FROM events WHERE {conditions} ORDER BY arrival LIMIT ?)"
        )
        limit = _ROWS_WITH_DATA if data else _ROWS
        while True:
            self._cutoff.check()
            row = self._connection.execute(
                query, (self._type_key, first, last, *inside.values(), limit)
            ).fetchone()
            if row[0] is None:
                return
            first = row[0] + 1
            columns = {name: _decode(text) for name, text in zip(fixed, row[1:], strict=False)}
            if data:
                flat = [flatten(text, wanted) for text in cut(*row[-2:])]
                columns |= {name: _column(flat, name) for name in data}
            yield self._arrow.record_batch(
                [self._arrow.array(columns[each.name], each.type) for each in self._schema],
                schema=self._schema,
            )


class _VisitReader(_Reader):
    """Reads the visits of a block instead of its events. Each other event is a visit."""

    def pieces(self) -> Iterator[Any]:
        """Yield all visits as record batches."""
        for piece in super().pieces():
            if piece.schema.names == [*_VISIT]:
                yield piece
                continue
            none = self._arrow.repeat(self._arrow.scalar(0, self._arrow.int64()), len(piece))
            yield self._arrow.record_batch([*piece.columns, none], [*_VISIT])

    def _block(self, block: Block) -> Iterator[Any]:
        row = self._connection.execute(
            "SELECT present, data FROM columns WHERE block = ? AND name = ?", (block.key, VISITS)
        ).fetchone()
        if row is None:
            yield from super()._block(block)
            return
        count, data = row
        try:
            numbers = decode(data, self._arrow.int64())
            if len(numbers) != 3 * count:
                raise DamagedColumnError("too few visits")
        except DamagedColumnError:
            yield from super()._block(block)
            return
        firsts = self._compute.add(numbers.slice(count, count), block.oldest)
        columns = [numbers.slice(0, count), firsts, numbers.slice(2 * count)]
        yield self._arrow.record_batch(columns, [*_VISIT])


def _column(flat: list[dict[str, float | str]], name: str) -> Any:
    field = _field_of(name)
    kind = float if name.endswith(NUMBER) else str
    values = [each.get(field) for each in flat]
    return [value if type(value) is kind else None for value in values]


def _field_of(name: str) -> str:
    field, _, _ = name.removeprefix(DATA).rpartition("#")
    return field


class Field(msgspec.Struct):
    """A field of a type of events."""

    name: str
    """Such as ``data.damage``."""
    kind: str
    """``number``, ``text``, or ``both``."""
    share: float
    """The share of the events that have it."""
    examples: list[float | str]
    """A few different values, the newest first."""


def fields(connection: sqlite3.Connection, event_type: str) -> list[Field]:
    """Return the fields of a type, the most frequent first. Doesn't need pyarrow.

    Their shares are those of the newest thousand events. A field that only older events have is
    there if it is in a block; its share is then that of all events in blocks, without examples.

    Args:
        connection: a connection to the database.
        event_type: the type.
    """
    with snapshot(connection):
        row = connection.execute("SELECT key FROM types WHERE name = ?", (event_type,)).fetchone()
        if row is None:
            return []
        rows = connection.execute(
            "SELECT data FROM events WHERE type = ? ORDER BY arrival DESC LIMIT ?", (*row, _SAMPLE)
        ).fetchall()
        present = connection.execute(
            "SELECT name, sum(present) FROM columns WHERE block IN "
            "(SELECT key FROM blocks WHERE type = ?) AND name LIKE ? GROUP BY name",
            (*row, f"{DATA}%"),
        ).fetchall()
        (covered,) = connection.execute(
            "SELECT sum(events) FROM blocks WHERE type = ?", row
        ).fetchone()
    return fields_of([data for (data,) in rows], present, covered)


def fields_of(
    sample: Sequence[str], present: Iterable[tuple[str, int]] = (), covered: int = 0
) -> list[Field]:
    """Return the fields of a sample of events, the most frequent first.

    Args:
        sample: the data of each, the newest first.
        present: the names of columns of older events, and how many have a value there.
        covered: how many older events these are.
    """
    found: dict[str, list[float | str]] = {}
    for data in sample:
        for name, value in flatten(data).items():
            found.setdefault(DATA + name, []).append(value)
    kinds = {name: {type(value) for value in values} for name, values in found.items()}
    shares = {name: len(values) / len(sample) for name, values in found.items()}
    for column, count in present:
        name, _, end = column.rpartition("#")
        if name not in found:
            shares[name] = shares.get(name, 0.0) + count / covered
        kinds.setdefault(name, set()).add(float if end == NUMBER[1:] else str)
    return [
        Field(
            name,
            _kind(kinds[name]),
            shares[name],
            [*dict.fromkeys(found.get(name, ()))][:_EXAMPLES],
        )
        for name in sorted(shares, key=lambda name: (-shares[name], name))
    ]


def _kind(kinds: set[type]) -> str:
    if len(kinds) > 1:
        return "both"
    return "number" if float in kinds else "text"
