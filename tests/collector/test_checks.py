"""Checks: their events are stored and acknowledged as any other, and then forgotten."""

from __future__ import annotations

import contextlib
import json
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from tests.collector.clients import ACKS, acks_up_to, client_of, event, locked
from tests.support.collector import PATIENCE, RunningCollector, collector_running

HEADER = {"Telemetry-Check": "1"}
MOST = 8  # messages of a connection that are forgotten


@pytest.fixture
def db(tmp_path: Path) -> Path:
    return tmp_path / "telemetry.sqlite3"


@pytest.fixture
def collector(db: Path) -> Iterator[RunningCollector]:
    with collector_running(db=db) as running:
        yield running


@contextlib.contextmanager
def checking(collector: RunningCollector) -> Iterator[ClientConnection]:
    with connect(collector.url, additional_headers=ACKS | HEADER, proxy=None) as client:
        assert client.response is not None
        assert client.response.headers["Telemetry-Check"] == "1"
        yield client


def check(seq: int = 1, session: str = "check", **fields: Any) -> dict[str, Any]:
    return event(seq, session, **{"type": "telemetry_check", **fields})


def report(session: str, **fields: Any) -> str:
    whole = {"sessionId": session, "number": 1, "state": "ended", "reason": "stopped"}
    counts = {"startedAt": 1, "at": 2, "lastSeq": 3, "dropped": {"overflow": 2}}
    return json.dumps({"report": {**whole, **counts, **fields}})


def rows(db: Path, query: str) -> list[Any]:
    with contextlib.closing(sqlite3.connect(db)) as connection:
        return connection.execute(query).fetchall()


def stored(db: Path) -> list[Any]:
    return rows(
        db,
        "SELECT session_id, seq FROM events JOIN sessions ON sessions.key = session "
        "ORDER BY arrival",
    )


def is_empty(db: Path) -> bool:
    names = ("events", "sessions", "runs", "reports", "lost", "sampled", "types")
    names += ("contexts", "context_fields")
    return not any(rows(db, f"SELECT * FROM {name}") for name in names)


def test_check_is_acknowledged_once_it_is_stored_and_leaves_nothing(
    collector: RunningCollector, db: Path
) -> None:
    with checking(collector) as client:
        client.send(json.dumps([check(context={"player": "p"})]))
        client.send(report("check"))
        acks_up_to(client, 2)
        assert is_empty(db)
    assert rows(db, "SELECT seq FROM sqlite_sequence WHERE name = 'events'") == [(1,)]
    assert json.loads(collector.get("/api/stats").body)["sessions"] == 0


def test_check_that_cannot_be_stored_is_not_acknowledged(db: Path) -> None:
    with (
        collector_running(db=db, busy_timeout=0.05) as collector,
        checking(collector) as client,
        locked(db),
    ):
        client.send(json.dumps([check()]))
        with pytest.raises(ConnectionClosed) as closed:
            client.recv(PATIENCE)
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 1013


def test_check_harms_no_session_that_was_there(collector: RunningCollector, db: Path) -> None:
    with client_of(collector) as game:
        game.send(json.dumps([event(1), event(2)]))
        acks_up_to(game, 1)
        with checking(collector) as client:
            client.send(json.dumps([check(3, "s"), check(1, "new")]))
            acks_up_to(client, 1)
        game.send(json.dumps([event(4)]))
        acks_up_to(game, 2)
    assert stored(db) == [("s", 1), ("s", 2), ("s", 3), ("s", 4)]
    assert rows(db, "SELECT session_id, events, missing FROM sessions") == [("s", 4, 0)]
    types = rows(db, "SELECT name, events FROM types ORDER BY name")
    assert types == [("hit", 3), ("telemetry_check", 1)]


def test_other_events_are_stored_though_a_check_sends_them(
    collector: RunningCollector, db: Path
) -> None:
    with checking(collector) as client:
        client.send(json.dumps([check(1, "a"), event(2, "a")]))
        acks_up_to(client, 1)
    assert stored(db) == [("a", 1), ("a", 2)]


def test_only_the_first_messages_of_a_connection_are_a_check(
    collector: RunningCollector, db: Path
) -> None:
    with checking(collector) as client:
        for seq in range(1, MOST + 3):
            client.send(json.dumps([check(seq)]))
        acks_up_to(client, MOST + 2)
    assert stored(db) == [("check", MOST + 1), ("check", MOST + 2)]


def test_without_the_header_the_event_stays(collector: RunningCollector, db: Path) -> None:
    with client_of(collector) as client:
        assert client.response is not None
        assert "Telemetry-Check" not in client.response.headers
        client.send(json.dumps([check()]))
        acks_up_to(client, 1)
    assert stored(db) == [("check", 1)]


def test_nobody_who_looks_on_sees_a_check(collector: RunningCollector) -> None:
    with checking(collector) as client, client_of(collector) as game:
        client.send(json.dumps([check()]))
        acks_up_to(client, 1)
        game.send(json.dumps([event(1)]))
        acks_up_to(game, 1)
    text = collector.get("/metrics").body.decode()
    assert "\ntelemetry_events_stored_total 1.0\n" in text
    live = json.loads(collector.get("/api/stats").body)
    assert live["types"] == {"hit": 1}
