"""Batches: the same events as a search finds, in order, in little memory."""

from __future__ import annotations

import contextlib
import json
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from redvsblue_telemetry.collector.messages import read_message
from redvsblue_telemetry.collector.models import EventFilter
from redvsblue_telemetry.collector.storage import batches, plan, queries
from redvsblue_telemetry.collector.storage.batches import ahead, stream_batches
from redvsblue_telemetry.collector.storage.database import Database, open_readonly
from redvsblue_telemetry.collector.storage.writer import Writer
from tests.support.stored import stream_events


def event(seq: int, **fields: Any) -> dict[str, Any]:
    default = {"sessionId": "s", "seq": seq, "type": "hit", "data": {}, "id": f"r-{seq}"}
    return {**default, "timestamp": seq, **fields}


def fill(path: Path, events: list[dict[str, Any]]) -> None:
    with (
        contextlib.closing(Database(path)) as database,
        contextlib.closing(Writer(database, lambda *_: "wrong")) as writer,
    ):
        for each in events:
            assert not writer.store([read_message(json.dumps([each], ensure_ascii=False))]).rejected


TEXTS = st.text(st.sampled_from('ab-1\0\x1f"\\\u00e4\u20ac\U0001f600,[]'), max_size=4)


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    st.lists(
        st.fixed_dictionaries(
            {"type": TEXTS.filter(bool), "data": st.dictionaries(TEXTS, TEXTS, max_size=2)},
            optional={
                "id": TEXTS.filter(bool),
                "sessionId": TEXTS.filter(bool),
                "version": TEXTS,
                "context": st.dictionaries(TEXTS, TEXTS, max_size=2),
                "timestamp": st.integers(-(2**63), 2**63 - 1),
            },
        ),
        max_size=9,
    )
)
def test_batches_have_the_events_that_a_search_finds(
    tmp_path_factory: pytest.TempPathFactory, given_: list[dict[str, Any]]
) -> None:
    path = tmp_path_factory.mktemp("batches") / "t.sqlite3"
    fill(path, [event(seq, **fields) for seq, fields in enumerate(given_, 1)])
    with open_readonly(path) as connection:
        found = list(stream_events(connection, EventFilter()))
        assert found == queries.events(connection, EventFilter(), limit=100)
        assert len(found) == len(given_)


@pytest.fixture
def connection(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    path = tmp_path / "t.sqlite3"
    kinds: list[dict[str, Any]] = [
        {},
        {"context": {"a": 1, "b": 2}},
        {"type": "shot", "context": {"a": 1}},
        {"sessionId": "t", "data": {"text": "word"}},
    ]
    fill(path, [event(seq, **kinds[seq % 4]) for seq in range(1, 41)])
    with open_readonly(path) as connection:
        yield connection


@pytest.mark.parametrize("few", [0, 10_000])
@pytest.mark.parametrize(
    "wanted",
    [
        EventFilter(type="shot"),
        EventFilter(session="t"),
        EventFilter(session="nobody"),
        EventFilter(text="word"),
        EventFilter(context={"a": "1"}),
        EventFilter(context={"a": "1", "b": "2"}),
        EventFilter(type="hit", fault="any"),
        EventFilter(fault="none"),
    ],
)
def test_batches_of_a_filter_are_in_order(
    few: int, wanted: EventFilter, connection: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batches, "_MAX_EVENTS", 3)
    monkeypatch.setattr(plan, "_FEW_EVENTS", few)
    found = list(stream_events(connection, wanted))
    assert found == queries.events(connection, wanted)


def test_gaps_and_ids_that_come_later_are_in_the_batches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first batches do without these columns."""
    monkeypatch.setattr(batches, "_MAX_EVENTS", 4)
    path = tmp_path / "t.sqlite3"
    events = [event(seq) for seq in range(1, 41)]
    for each in events[20:]:
        each["id"] = f"other-{each['seq']}"
    with (
        contextlib.closing(Database(path)) as database,
        contextlib.closing(Writer(database, lambda *_: None)) as writer,
    ):
        writer.store([read_message(json.dumps(events[:25]))])
    fill(path, events[25:])  # which have faults
    with contextlib.closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("DELETE FROM events WHERE arrival IN (11, 12, 30)")
    with open_readonly(path) as connection:
        found = list(stream_events(connection, EventFilter()))
        assert found == queries.events(connection, EventFilter(), limit=100)
    assert [each.arrival for each in found] == [n for n in range(1, 41) if n not in (11, 12, 30)]
    assert [each.id for each in found[17:21]] == ["r-20", "other-21", "other-22", "other-23"]
    assert [each.fault for each in found[21:25]] == [None, None, "wrong", "wrong"]


def test_batches_are_small_where_events_are_large(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batches, "_MAX_CHARACTERS", 1000)
    path = tmp_path / "t.sqlite3"
    sizes = [10] * 300 + [600] * 5 + [5000] + [10] * 300
    fill(path, [event(seq, data={"x": "y" * size}) for seq, size in enumerate(sizes, 1)])
    with open_readonly(path) as connection:
        found = list(stream_batches(connection, EventFilter()))
    assert [seq for batch in found for seq in batch.seq] == list(range(1, len(sizes) + 1))
    assert all(len(batch.data) <= 1000 or len(batch.seq) == 1 for batch in found)
    assert len(found) < 40


def test_stream_ends_although_events_keep_coming(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batches, "_MAX_EVENTS", 2)
    path = tmp_path / "t.sqlite3"
    fill(path, [event(seq) for seq in range(1, 6)])
    with (
        contextlib.closing(Database(path)) as database,
        contextlib.closing(Writer(database)) as writer,
        database.reading() as connection,
    ):
        seen = []
        for batch in stream_batches(connection, EventFilter()):
            seen += batch.arrival
            writer.store([read_message(json.dumps([event(100 + seen[-1])]))])
    assert seen == [1, 2, 3, 4, 5]


def test_thread_that_reads_ahead_has_ended_when_its_reader_closes_it() -> None:
    before = threading.active_count()
    going_on = ahead(iter(range(100)))
    assert next(going_on) == 0
    going_on.close()  # type: ignore[attr-defined]
    assert threading.active_count() == before


def test_error_of_the_thread_that_reads_ahead_is_raised() -> None:
    def broken() -> Iterator[int]:
        yield 1
        raise sqlite3.OperationalError("disk I/O error")

    found = []
    with pytest.raises(sqlite3.OperationalError, match="disk"):
        found += list(ahead(broken()))
