"""Reads events of one type as columns, in the order in which they arrived.

A question such as "the p95 of damage" needs two fields of a million events, and nothing else. Most
events are in blocks, with a column for each field (:mod:`.blocks`); the rows that no block covers
are read one by one. Both in one snapshot, so no event is missing or there twice.

Needs pyarrow, except for :func:`fields`.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import msgspec

from ..models import TimeRange
from .cutoff import NEVER, Cutoff
from .fields import flatten
from .snapshot import snapshot

__all__ = ["FIXED", "NUMBER", "TEXT", "Field", "can_read", "fields", "read"]

FIXED = ("session", "seq", "timestamp", "received", "context", "version")
"""The names of the columns that every type has. ``session`` and ``context`` are keys of the tables
of these names. All are int64, except for ``version``, which is a text."""
NUMBER, TEXT = "#number", "#text"
"""The ends of the names of a field's columns: ``data.damage#number`` has the values that are
numbers, and ``data.damage#text`` the others."""

_DATA = "data."
_ROWS = 8192  # of a piece
_SAMPLE = 1000  # of the newest events, whose fields are looked at
_EXAMPLES = 5  # different values of a field


def can_read() -> bool:
    """Return whether pyarrow is installed."""
    return find_spec("pyarrow") is not None


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
    arrow: Any = import_module("pyarrow")
    schema = arrow.schema([(name, _type_of(arrow, name)) for name in names])
    with snapshot(connection):
        row = connection.execute("SELECT key FROM types WHERE name = ?", (event_type,)).fetchone()
        pieces = [] if row is None else [*_rows(connection, row[0], schema, span, cutoff)]
    return arrow.Table.from_batches(pieces, schema)


def _type_of(arrow: Any, name: str) -> Any:
    if name.endswith(NUMBER):
        return arrow.float64()
    return arrow.string() if name == "version" or name.endswith(TEXT) else arrow.int64()


def _rows(
    connection: sqlite3.Connection, type_key: int, schema: Any, span: TimeRange, cutoff: Cutoff
) -> Iterator[Any]:
    """Yield record batches of the events in rows."""
    arrow: Any = import_module("pyarrow")
    fixed = [name for name in schema.names if name in FIXED]
    data = [name for name in schema.names if name not in FIXED]
    rows = connection.execute(
        f"SELECT {', '.join([*fixed, 'data' if data else 'NULL'])} FROM events WHERE type = ? "
        "AND received >= ifnull(?, received) AND received < ifnull(?, received + 1) "
        "ORDER BY arrival",
        (type_key, span.start, span.end),
    )
    while piece := rows.fetchmany(_ROWS):
        cutoff.check()
        *values, texts = zip(*piece, strict=True)
        columns = dict(zip(fixed, values, strict=True))
        if data:
            flat = [flatten(text) for text in texts]
            columns |= {name: _column(flat, name) for name in data}
        yield arrow.record_batch(
            [arrow.array(columns[field.name], field.type) for field in schema], schema=schema
        )


def _column(flat: list[dict[str, float | str]], name: str) -> Any:
    field, _, _ = name.removeprefix(_DATA).rpartition("#")
    kind = float if name.endswith(NUMBER) else str
    values = [each.get(field) for each in flat]
    return [value if type(value) is kind else None for value in values]


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

    Args:
        connection: a connection to the database.
        event_type: the type.
    """
    rows = connection.execute(
        "SELECT data FROM events WHERE type = (SELECT key FROM types WHERE name = ?) "
        "ORDER BY arrival DESC LIMIT ?",
        (event_type, _SAMPLE),
    ).fetchall()
    found: dict[str, list[float | str]] = {}
    for (data,) in rows:
        for name, value in flatten(data).items():
            found.setdefault(name, []).append(value)
    by_share = sorted(found.items(), key=lambda item: (-len(item[1]), item[0]))
    return [
        Field(
            _DATA + name,
            _kind({type(value) for value in values}),
            len(values) / len(rows),
            [*dict.fromkeys(values)][:_EXAMPLES],
        )
        for name, values in by_share
    ]


def _kind(kinds: set[type]) -> str:
    if len(kinds) > 1:
        return "both"
    return "number" if float in kinds else "text"
