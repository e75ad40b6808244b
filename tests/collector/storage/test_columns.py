"""Events of a type as columns: the same with any part of them in blocks."""

from __future__ import annotations

import contextlib
import json
import sqlite3
from collections.abc import Iterator
from typing import Any

import pytest

from redvsblue_telemetry.collector.messages import read_message
from redvsblue_telemetry.collector.models import TimeRange
from redvsblue_telemetry.collector.storage import columns
from redvsblue_telemetry.collector.storage.database import Database
from redvsblue_telemetry.collector.storage.writer import Writer

needs_pyarrow = pytest.mark.skipif(not columns.can_read(), reason="pyarrow is not installed")
EVERYTHING = [*columns.FIXED, "data.n#number", "data.n#text", "data.at.x#number"]


class Clock:
    """The collector's clock, set by the test."""

    now = 1000

    def __call__(self) -> int:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def database() -> Iterator[Database]:
    with contextlib.closing(Database(None)) as database:
        yield database


@pytest.fixture
def writer(database: Database, clock: Clock) -> Iterator[Writer]:
    with contextlib.closing(Writer(database, clock=clock)) as writer:
        yield writer


@pytest.fixture
def connection(database: Database) -> Iterator[sqlite3.Connection]:
    with database.reading() as connection:
        yield connection


def store(
    writer: Writer,
    first: int,
    *datas: Any,
    type: str = "tick",
    session: str = "s",
    version: str | None = None,
    player: str | None = None,
) -> None:
    """Store events with these data."""
    more = {"version": version} if version else {}
    context = {"context": {"player": player}} if player else {}
    events = [
        {"sessionId": session, "seq": seq, "type": type, "timestamp": 10 * seq, "id": str(seq),
         "data": data, **more, **context}
        for seq, data in enumerate(datas, first)
    ]  # fmt: skip
    writer.store([read_message(json.dumps(events))])


@needs_pyarrow
def test_table_has_the_asked_columns_of_one_type(
    writer: Writer, connection: sqlite3.Connection
) -> None:
    store(writer, 1, {"n": 5, "at": {"x": 0.5}}, {"n": "five"}, {}, version="1.4", player="p")
    store(writer, 4, {"n": 9}, type="other")
    store(writer, 1, {"n": True}, session="t")

    table = columns.read(connection, "tick", EVERYTHING)

    assert table.column_names == EVERYTHING
    assert table.to_pydict() == {
        "session": [1, 1, 1, 2],
        "seq": [1, 2, 3, 1],
        "timestamp": [10, 20, 30, 10],
        "received": [1000] * 4,
        "context": [1, 1, 1, None],
        "version": ["1.4", "1.4", "1.4", None],
        "data.n#number": [5.0, None, None, None],
        "data.n#text": [None, "five", None, "true"],
        "data.at.x#number": [0.5, None, None, None],
    }
    assert [str(field.type) for field in table.schema] == [
        "int64", "int64", "int64", "int64", "int64", "string", "double", "string", "double",
    ]  # fmt: skip


@needs_pyarrow
def test_unknown_type_and_unknown_field_have_the_same_shape(
    writer: Writer, connection: sqlite3.Connection
) -> None:
    store(writer, 1, {"n": 1})
    names = ["seq", "data.nothing#number", "data.nothing#text"]
    nothing = columns.read(connection, "nothing", names)
    tick = columns.read(connection, "tick", names)
    assert nothing.schema == tick.schema
    assert nothing.num_rows == 0
    assert tick.to_pydict() == {
        "seq": [1], "data.nothing#number": [None], "data.nothing#text": [None],
    }  # fmt: skip
    assert columns.read(connection, "tick", []).num_columns == 0


@needs_pyarrow
@pytest.mark.parametrize(
    ("span", "seqs"),
    [
        (TimeRange(), [1, 2, 3]),
        (TimeRange(1000, 3000), [1, 2]),
        (TimeRange(1001, None), [2, 3]),
        (TimeRange(None, 2000), [1]),
        (TimeRange(2000, 2001), [2]),
        (TimeRange(3001, None), []),
    ],
)
def test_span_includes_its_start_and_not_its_end(
    writer: Writer, connection: sqlite3.Connection, clock: Clock, span: TimeRange, seqs: list[int]
) -> None:
    for seq in (1, 2, 3):
        clock.now = 1000 * seq
        store(writer, seq, {"n": seq})
    table = columns.read(connection, "tick", ["seq"], span)
    assert table["seq"].to_pylist() == seqs


def test_fields_are_found_in_the_newest_events(
    writer: Writer, connection: sqlite3.Connection
) -> None:
    store(writer, 1, {"n": 1, "s": "old"}, {"n": "x", "s": "new"}, {"n": 2}, {"at": {"x": True}})
    assert columns.fields(connection, "tick") == [
        columns.Field("data.n", "both", 0.75, [2.0, "x", 1.0]),
        columns.Field("data.s", "text", 0.5, ["new", "old"]),
        columns.Field("data.at.x", "text", 0.25, ["true"]),
    ]
    assert columns.fields(connection, "nothing") == []
