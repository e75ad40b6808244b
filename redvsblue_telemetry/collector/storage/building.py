"""Builds the blocks of the fast copy, behind the writer.

A block takes many times as long as a step may: some steps read its events, some make its columns,
and the last one stores them, unless one of the events was deleted meanwhile, or another collector
on the same file was faster. Until that, a block is in memory only, so a kill leaves nothing behind.
"""

from __future__ import annotations

import contextlib
import logging
import sqlite3
import threading
from collections import Counter
from collections.abc import Callable
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import msgspec

from ..._shared import monotonic
from .blocks import BLOCK_EVENTS, VISITS, Span, fill_hole, is_covered, next_span
from .encoding import encode, has_arrow
from .fields import DATA, FIXED, NUMBER, TEXT, flatten
from .upkeep import STEP_SECONDS, Upkeep

__all__ = ["Building"]

logger = logging.getLogger("redvsblue_telemetry.collector")

_STEP_SECONDS = STEP_SECONDS * 3 / 4  # the rest is for SQLite's part
_ROWS = 16  # between two looks at the clock
_MAX_FIELDS = 64  # of a block that have columns, the most frequent ones
_DAY = 86_400_000  # milliseconds
_MAX_SIZE = 4 * 1024 * 1024  # characters of the data of a block: its events are in memory


class _Field(msgspec.Struct):
    """The values that a field has in a block, of one kind."""

    places: list[int] = []
    """Those of the events that have it."""
    values: list[float | str] = []


class _Block(msgspec.Struct):
    """A block that is being built."""

    span: Span
    next_arrival: int
    events: int = 0
    size: int = 0
    """Characters of the data that was read."""
    fixed: list[list[Any]] = msgspec.field(default_factory=lambda: [[] for _ in FIXED])
    """The values of the fixed columns."""
    fields: dict[tuple[str, type], _Field] = {}
    """By name, and float or str."""
    oldest: int = 0
    newest: int = 0
    is_whole: bool = True
    to_encode: list[tuple[str, Callable[[], Any]]] | None = None
    """Makes the arrays that are left, by the name of the column; None until all events are read."""
    columns: list[tuple[str, int, bytes]] = []
    """The name of each column, how many of its values are not null, and its bytes."""


class Building(Upkeep):
    """Builds blocks, one after the other.

    Args:
        clock: returns monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        self._clock = clock
        # Only answers by DuckDB read them; pyarrow alone may be there for exports.
        self._is_possible = has_arrow() and find_spec("duckdb") is not None
        self._importing: threading.Thread | None = None
        self._block: _Block | None = None

    def rolled_back(self) -> None:
        """Begin the block anew."""
        self._block = None

    def step(self, connection: sqlite3.Connection) -> bool:
        """Do a part of a block; return whether there is more to do."""
        end = self._clock() + _STEP_SECONDS
        block = self._block
        if block is None:
            span = next_span(connection) if self._is_possible else None
            if span is None or not self._has_imported():
                return False
            self._block = _Block(span, span.first)
        elif block.to_encode is None:
            self._read(connection, block, end)
        elif block.to_encode:
            _encode_one(block)
            while block.to_encode and self._clock() < end:
                _encode_one(block)
        else:
            self._block = None
            _store(connection, block)
        return True

    def _has_imported(self) -> bool:
        """Import pyarrow when it is needed, on another thread: acks would wait for it."""
        if self._importing is None:
            self._importing = threading.Thread(target=self._import, name="collector-import")
            self._importing.start()
        return not self._importing.is_alive() and self._is_possible

    def _import(self) -> None:
        try:
            import_module("pyarrow.compute")
        except Exception as error:  # an installation may be broken in many ways
            self._is_possible = False
            logger.warning("pyarrow can't be used, so some answers take longer: %r", error)

    def _read(self, connection: sqlite3.Connection, block: _Block, end: float) -> None:
        """Read some of the events, at least one; plan the columns when all are read."""
        rows = connection.execute(
            f"SELECT {', '.join(FIXED)}, arrival, data FROM events "
            "WHERE type = ? AND arrival BETWEEN ? AND ? ORDER BY arrival LIMIT ?",
            (block.span.type, block.next_arrival, block.span.last, BLOCK_EVENTS - block.events),
        )
        with contextlib.closing(rows):
            while some := rows.fetchmany(_ROWS):
                _take(block, some)
                if block.size >= _MAX_SIZE or self._clock() >= end:
                    break
        if block.events == BLOCK_EVENTS or block.size >= _MAX_SIZE:
            block.span = block.span._replace(last=block.next_arrival - 1)
            some = []
        if not some:
            _plan(block)


def _take(block: _Block, rows: list[tuple[Any, ...]]) -> None:
    """Add some events to a block."""
    *fixed, arrivals, texts = zip(*rows, strict=True)
    for column, values in zip(block.fixed, fixed, strict=True):
        column.extend(values)
    fields = block.fields
    for place, data in enumerate(texts, block.events):
        block.size += len(data)
        for name, value in flatten(data).items():
            key = name, type(value)
            field = fields.get(key)
            if field is None:
                field = fields[key] = _Field()
            field.places.append(place)
            field.values.append(value)
    block.events += len(rows)
    block.next_arrival = arrivals[-1] + 1


def _encode_one(block: _Block) -> None:
    assert block.to_encode
    name, make = block.to_encode.pop()
    array = make()
    present = len(array) // 3 if name == VISITS else len(array) - array.null_count
    block.columns.append((name, present, encode(array)))


def _plan(block: _Block) -> None:
    """Choose the columns of a block that has been read."""
    received = block.fixed[FIXED.index("received")]
    contexts = block.fixed[FIXED.index("context")]
    block.oldest, block.newest = min(received, default=0), max(received, default=0)
    counts: Counter[str] = Counter()
    for (name, _), field in block.fields.items():
        counts[name] += len(field.values)
    chosen = {name for name, _ in counts.most_common(_MAX_FIELDS)}
    block.is_whole = len(chosen) == len(counts)
    block.to_encode = [
        (name, partial(_array, block.fixed.pop(0), "string" if name == "version" else "int64"))
        for name in FIXED
    ]
    block.to_encode.append((VISITS, partial(_visits, received, contexts, block.oldest)))
    while block.fields:
        (name, kind), field = block.fields.popitem()
        if name in chosen:
            column = f"{DATA}{name}{NUMBER if kind is float else TEXT}"
            make = partial(_sparse, field, block.events, "float64" if kind is float else "string")
            block.to_encode.append((column, make))


def _visits(received: list[int], contexts: list[int | None], oldest: int) -> Any:
    """Return the column :data:`VISITS`.

    Between the first and the last event of a visit is a day at most, so the others are on the day
    of one of these, wherever a day begins.
    """
    visits: dict[int, list[tuple[int, int]]] = {}
    for moment, context in zip(received, contexts, strict=True):
        if context is None:
            continue
        known = visits.setdefault(context, [])
        if known:
            first, last = min(known[-1][0], moment), max(known[-1][1], moment)
            if last - first <= _DAY:
                known[-1] = first, last
                continue
        known.append((moment, moment))
    found = [(key, *visit) for key, known in visits.items() for visit in known]
    return _array(
        [
            *(key for key, _, _ in found),
            *(first - oldest for _, first, _ in found),
            *(last - first for _, first, last in found),
        ],
        "int64",
    )


def _array(values: list[Any], kind: str) -> Any:
    arrow: Any = import_module("pyarrow")
    return arrow.array(values, kind)


def _sparse(field: _Field, events: int, kind: str) -> Any:
    values: list[float | str | None] = [None] * events
    for place, value in zip(field.places, field.values, strict=True):
        values[place] = value
    return _array(values, kind)


def _store(connection: sqlite3.Connection, block: _Block) -> None:
    """Store a block, unless one of its events is not there any more, or in another block."""
    span = block.span
    (events,) = connection.execute(
        "SELECT count(*) FROM events WHERE type = ? AND arrival BETWEEN ? AND ?", span
    ).fetchone()
    if events != block.events or is_covered(connection, span):
        return
    if not events:
        fill_hole(connection, span)
        return
    key = connection.execute(
        "INSERT INTO blocks (type, first, last, events, oldest, newest, is_whole) "
        "VALUES (?, ?, ?, ?, ?, ?, ?)",
        (*span, events, block.oldest, block.newest, block.is_whole),
    ).lastrowid
    connection.executemany(
        "INSERT INTO columns (block, name, present, data) VALUES (?, ?, ?, ?)",
        [(key, *column) for column in block.columns],
    )
