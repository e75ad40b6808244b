"""Ids are stored short, and come out as they went in."""

from __future__ import annotations

import contextlib
import json
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from redvsblue_telemetry.collector.messages import Event, read_message
from redvsblue_telemetry.collector.models import EventFilter
from redvsblue_telemetry.collector.storage import queries
from redvsblue_telemetry.collector.storage.database import Database
from redvsblue_telemetry.collector.storage.ids import restored_id, run_of, short_id
from redvsblue_telemetry.collector.storage.writer import Writer
from tests.collector.storage.test_schema import written_with


def event(id: str, seq: int, session: str = "s") -> Event:
    whole = {"sessionId": session, "seq": seq, "type": "t", "timestamp": 1, "id": id, "data": {}}
    (found,) = read_message(json.dumps([whole])).events
    return found


IDS = st.text("a-0123\0\x01", max_size=6)


@given(IDS, st.integers(0, 30), st.none() | IDS)
@example("a-1", 1, "a")
@example("-1", 1, "")
@example("", 1, "a")
@example("\0", 1, "a")
@example("a--1", -1, "a")
def test_id_is_restored_exactly(id: str, seq: int, run: str | None) -> None:
    one = event(id, abs(seq))
    assert restored_id(short_id(one, run), run, one.seq) == id
    own = run_of(one)
    if own is not None:
        assert short_id(one, own) == ""
        assert restored_id("", own, one.seq) == id


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "telemetry.sqlite3"


@contextlib.contextmanager
def writing(path: Path) -> Iterator[Writer]:
    database = Database(path)
    with contextlib.closing(database), contextlib.closing(Writer(database)) as writer:
        yield writer


def send(path: Path, *events: tuple[str, str, int]) -> None:
    """Store events of these sessions, ids and numbers."""
    parts = [
        {"sessionId": session, "seq": seq, "type": "t", "timestamp": 1, "id": id, "data": {}}
        for session, id, seq in events
    ]
    with writing(path) as writer:
        writer.store([read_message(json.dumps(parts))])


def ids(path: Path) -> list[tuple[str, str]]:
    """The ids as they are stored, and as they are read."""
    with contextlib.closing(Database(path)) as database, database.reading() as connection:
        stored = connection.execute("SELECT id FROM events ORDER BY arrival").fetchall()
        read = queries.events(connection, EventFilter())
    return [(id, event.id) for (id,), event in zip(stored, read, strict=True)]


def test_id_is_not_stored_if_it_follows_from_the_run_and_the_number(path: Path) -> None:
    send(path, ("s", "run-1", 1), ("s", "run-2", 2), ("t", "own", 1), ("t", "own-2", 2))
    send(path, ("s", "run-3", 3), ("s", "other-4", 4), ("s", "", 5), ("s", "\0", 6))
    assert ids(path) == [
        ("", "run-1"),
        ("", "run-2"),
        ("own", "own"),
        ("own-2", "own-2"),
        ("", "run-3"),
        ("other-4", "other-4"),
        ("\0", ""),
        ("\0\0", "\0"),
    ]


def test_session_that_began_with_a_report_has_a_run(path: Path) -> None:
    with writing(path) as writer:
        report = {"sessionId": "s", "number": 1, "state": "running"}
        writer.store([read_message(json.dumps({"report": report}))])
    send(path, ("s", "run-1", 1), ("s", "run-2", 2))
    assert ids(path) == [("", "run-1"), ("", "run-2")]


@pytest.mark.parametrize("version", [1, 2, 3])
def test_ids_of_an_older_file_stay_as_they_are(tmp_path: Path, version: int) -> None:
    old = written_with(version, tmp_path)
    with contextlib.closing(sqlite3.connect(old)) as connection, connection:
        connection.execute("UPDATE events SET id = '' WHERE arrival = 2")
    before = [id for _, id in ids(old)]
    send(old, ("red", "red-7", 7), ("new", "run-1", 1))
    assert before == ["red-1", "", "red-5", "blue-1", "blue-2"]
    assert ids(old)[:5] == [(id, id) for id in before]
    assert ids(old)[5:] == [("red-7", "red-7"), ("", "run-1")]
