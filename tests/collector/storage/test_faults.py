"""Events with a fault: each is stored, marked and counted."""

from __future__ import annotations

import contextlib
import json
import sqlite3
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from redvsblue_telemetry.collector.messages import read_message
from redvsblue_telemetry.collector.models import EventFilter, FaultGroup
from redvsblue_telemetry.collector.storage import faults, queries
from redvsblue_telemetry.collector.storage.database import Database
from redvsblue_telemetry.collector.storage.writer import Stored, Writer


def claimed(_: str, data: msgspec.Raw) -> str | None:
    """A check by which an event says itself what its fault is."""
    found: str | None = msgspec.json.decode(data).get("fault")
    return found


@pytest.fixture
def database() -> Iterator[Database]:
    database = Database(None)
    yield database
    database.close()


@pytest.fixture
def writer(database: Database) -> Iterator[Writer]:
    writer = Writer(database, claimed)
    yield writer
    writer.close()


@pytest.fixture
def connection(database: Database) -> Iterator[sqlite3.Connection]:
    with database.reading() as connection:
        yield connection


def event(
    seq: int, fault: str | None, type: str = "hit", session: str = "s", **more: Any
) -> dict[str, Any]:
    whole = {"sessionId": session, "seq": seq, "type": type, "timestamp": 1, "id": ""}
    return {**whole, "data": {"fault": fault}, **more}


def store(writer: Writer, *events: dict[str, Any]) -> Stored:
    return writer.store([read_message(json.dumps(events))])


def found(connection: sqlite3.Connection, wanted: EventFilter, **paging: Any) -> list[int]:
    """The arrival numbers of the events found, which the live stream would find, too."""
    events = queries.events(connection, wanted, **paging)
    if not paging:
        assert wanted.matching(queries.events(connection, EventFilter())) == events
    return [event.arrival for event in events]


def test_event_with_a_fault_is_stored_and_marked(
    writer: Writer, connection: sqlite3.Connection
) -> None:
    stored = store(writer, event(1, None), event(2, "data.a: wrong"), event(3, None))
    assert stored.faults == {1: "data.a: wrong"}
    faults = [each.fault for each in queries.events(connection, EventFilter())]
    assert faults == [None, "data.a: wrong", None]


def test_events_are_filtered_by_their_fault(writer: Writer, connection: sqlite3.Connection) -> None:
    store(
        writer,
        event(1, None),
        event(2, "data.damage: must be an integer"),
        event(3, "data: unknown field 'shp'"),
        event(4, "data.damage: must be an integer", "shot"),
    )
    assert found(connection, EventFilter(fault="any")) == [2, 3, 4]
    assert found(connection, EventFilter(fault="none")) == [1]
    assert found(connection, EventFilter(fault="DAMAGE")) == [2, 4]
    assert found(connection, EventFilter(fault="damage", type="shot")) == [4]
    assert found(connection, EventFilter(fault="é")) == []
    assert found(connection, EventFilter(fault="\ud800")) == []
    assert found(connection, EventFilter(fault="any"), newest_first=True, limit=2) == [4, 3]


def test_few_events_with_a_fault_are_found_without_reading_the_others(
    writer: Writer, connection: sqlite3.Connection
) -> None:
    for wanted in (EventFilter(fault="any"), EventFilter(fault="damage")):
        statements: list[str] = []
        store(writer, event(1, None))
        connection.set_trace_callback(statements.append)
        queries.events(connection, wanted)
        connection.set_trace_callback(None)
        (query,) = [text for text in statements if "CROSS JOIN" in text]
        plan = [row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {query}")]
        assert plan[0].startswith("SEARCH events USING INDEX events_with_fault (arrival>?")
        assert not [step for step in plan if "SCAN" in step or "B-TREE" in step]


def test_counts_are_those_of_new_events(writer: Writer, connection: sqlite3.Connection) -> None:
    store(writer, event(1, "x"), event(2, None), event(3, "y"))
    store(writer, event(1, "x"), event(3, "z"), event(4, "x"))  # two of them are repeats
    store(writer, event(1, "x", session="t"))
    assert queries.totals(connection).faults == 4
    counts = {each.session_id: each.faults for each in queries.sessions(connection)}
    assert counts == {"s": 3, "t": 1}
    one = queries.session(connection, "s")
    assert one is not None
    assert one.faults == 3


def test_faults_are_grouped_by_type_the_newest_first(
    writer: Writer, connection: sqlite3.Connection
) -> None:
    assert queries.faults(connection) == []
    old = store(
        writer, event(1, "x", version="1.0"), event(2, "x", version="1.0"), event(3, "y")
    ).received
    store(writer, event(4, None), event(5, "x", "shot"), event(1, "y", session="t", version="1.1"))
    new = store(
        writer, event(2, "x", session="t", version="1.1"), event(3, "x", session="t")
    ).received

    found = queries.faults(connection)

    newest = queries.events(connection, EventFilter())[-1]
    assert found[0] == FaultGroup("hit", "x", 4, 2, ["1.1", "1.0"], old, new, newest)
    others = [(group.type, group.fault, group.count, group.sessions) for group in found[1:]]
    assert others == [("hit", "y", 2, 2), ("shot", "x", 1, 1)]
    assert [group.newest.seq for group in found[1:]] == [1, 5]
    assert queries.faults(connection, limit=1) == found[:1]
    of_new = queries.faults(connection, version="1.1")
    assert [(group.fault, group.count, group.versions) for group in of_new] == [
        ("x", 2, ["1.1"]),
        ("y", 1, ["1.1"]),
    ]
    of_session = queries.faults(connection, session="s")
    assert [(group.type, group.fault, group.count) for group in of_session] == [
        ("shot", "x", 1),
        ("hit", "y", 1),
        ("hit", "x", 2),
    ]


def test_groups_with_large_events_are_fewer(
    writer: Writer, connection: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    store(writer, *(event(number, f"{number}" * 1000) for number in range(1, 8)))
    monkeypatch.setattr(queries, "_MAX_PAGE_BYTES", 2500)
    assert [group.fault[0] for group in queries.faults(connection)] == ["7", "6", "5"]


def test_counts_are_right_also_when_memory_forgets_the_faults(
    writer: Writer, connection: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(faults, "_MAX_IN_MEMORY", 3)
    for start in (1, 101):
        store(writer, *(event(start + number, f"fault {number % 10}") for number in range(100)))
    assert [group.count for group in queries.faults(connection)] == [20] * 10
    assert connection.execute("SELECT count(*) FROM faults").fetchone() == (10,)


def test_what_another_program_deletes_is_counted_anew(
    database: Database, writer: Writer, connection: sqlite3.Connection
) -> None:
    store(writer, event(1, "x"))
    with contextlib.closing(Writer(database)) as other:
        other.clear()
    assert queries.faults(connection) == []
    store(writer, event(2, "x"))
    assert [group.count for group in queries.faults(connection)] == [1]


def test_mark_stays_when_the_schema_is_another_one(
    database: Database, connection: sqlite3.Connection
) -> None:
    for number, check in enumerate((claimed, None, lambda *_: "other"), 1):
        with contextlib.closing(Writer(database, check)) as writer:
            store(writer, event(number, "x"))
    faults = [each.fault for each in queries.events(connection, EventFilter())]
    assert faults == ["x", None, "other"]


def test_event_is_marked_also_in_a_group_that_has_one_that_cannot_be_stored(
    writer: Writer, connection: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    message = read_message(json.dumps([event(1, "x"), event(2, "x"), event(3, "y")]))
    message.events[1].id = "\ud800"  # can't be written to SQLite
    stored = writer.store([message])
    assert (stored.faults, stored.rejected) == ({0: "x", 1: "y"}, 1)
    assert [group.count for group in queries.faults(connection)] == [1, 1]
