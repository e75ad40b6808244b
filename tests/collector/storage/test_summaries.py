"""Crashes in groups, and frame times by version."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from typing import Any

import pytest

from redvsblue_telemetry.collector.messages import read_message
from redvsblue_telemetry.collector.storage import queries
from redvsblue_telemetry.collector.storage.database import Database
from redvsblue_telemetry.collector.storage.writer import Writer

DAY = 86_400_000  # milliseconds


@pytest.fixture
def database() -> Iterator[Database]:
    database = Database(None)
    yield database
    database.close()


@pytest.fixture
def writer(database: Database) -> Iterator[Writer]:
    writer = Writer(database)
    yield writer
    writer.close()


@pytest.fixture
def connection(database: Database) -> Iterator[sqlite3.Connection]:
    with database.reading() as connection:
        yield connection


class Game:
    """Sends events of one session, numbered."""

    def __init__(self, writer: Writer, session: str = "s", version: str | None = None) -> None:
        self._writer = writer
        self._fields = {"sessionId": session} | ({"version": version} if version else {})
        self._seq = 0

    def sends(self, type: str, data: object, timestamp: int = 1) -> int:
        """Returns when it was received."""
        self._seq += 1
        event = {"seq": self._seq, "type": type, "timestamp": timestamp, "id": "", "data": data}
        return self._writer.store([read_message(json.dumps([event | self._fields]))]).received

    def crashes(self, exception: str, *stack: str, message: str = "") -> int:
        return self.sends(
            "crash", {"exception": exception, "message": message, "stack": stack, "thread": "Main"}
        )

    def draws(self, frames: int, p50: float, timestamp: int = 1, **fields: Any) -> int:
        data = {"seconds": 10, "frames": frames, "p50Ms": p50, "p95Ms": p50 + 1, "p99Ms": p50 + 2}
        return self.sends("frames", data | {"maxMs": p50 + 9, "hitches": 1} | fields, timestamp)


# Crashes.


def test_crashes_are_grouped_by_exception_and_place(
    writer: Writer, connection: sqlite3.Connection
) -> None:
    old, new = Game(writer, "a", "1.0"), Game(writer, "b", "1.1")
    first = old.crashes("KeyError", "main.py:3 in run", "ship.py:9 in fire", message="'red'")
    old.crashes("KeyError", "main.py:3 in run", "ship.py:12 in turn")
    old.crashes("ValueError", "main.py:8 in other", "ship.py:9 in fire")
    old.crashes("KeyError", "other.py:1 in run", "ship.py:9 in fire")
    last = new.crashes("KeyError", "main.py:4 in run", "ship.py:9 in fire", message="'blue'")

    found = queries.crashes(connection)

    assert [(group.exception, group.place, group.count) for group in found] == [
        ("KeyError", "ship.py:9 in fire", 3),
        ("ValueError", "ship.py:9 in fire", 1),
        ("KeyError", "ship.py:12 in turn", 1),
    ]
    newest = found[0]
    assert (newest.sessions, newest.versions, newest.message) == (2, ["1.1", "1.0"], "'blue'")
    assert (newest.first, newest.last) == (first, last)
    assert (newest.newest.session_id, newest.newest.arrival) == ("b", 5)
    assert json.loads(bytes(newest.newest.data))["thread"] == "Main"
    assert queries.crashes(connection, limit=1) == found[:1]
    (of_new,) = queries.crashes(connection, version="1.1")
    assert (of_new.count, of_new.versions) == (1, ["1.1"])
    assert [session.crashes for session in queries.sessions(connection)] == [1, 4]


def test_crash_event_of_a_game_of_its_own_making_counts_without_a_place(
    writer: Writer, connection: sqlite3.Connection
) -> None:
    game = Game(writer)
    for data in ({}, {"stack": "a string"}, {"exception": 3}, {"stack": [1]}, {"stack": []}):
        game.sends("crash", data)
    (group,) = queries.crashes(connection)
    assert (group.exception, group.place, group.message, group.count) == ("", "", "", 5)


def test_only_the_newest_crashes_are_counted(
    writer: Writer, connection: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queries, "_MAX_CRASHES", 20)
    monkeypatch.setattr(queries, "_ROWS_PER_CHUNK", 10)
    game = Game(writer)
    for number in range(35):
        game.crashes("KeyError", f"place {'early' if number < 15 else 'late'}")
        game.sends("hit", {})
    assert [(group.place, group.count) for group in queries.crashes(connection)] == [
        ("place late", 20)
    ]


def test_groups_of_large_crashes_are_fewer(
    writer: Writer, connection: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    game = Game(writer)
    for number in range(10):
        game.crashes("KeyError", "x" * 1000, f"place {number}", message="y" * 600)
    monkeypatch.setattr(queries, "_MAX_PAGE_BYTES", 4000)
    found = queries.crashes(connection)
    assert [group.place for group in found] == ["place 9", "place 8", "place 7"]
    assert found[0].message == "y" * 500


# Frames.


def test_frames_are_summed_up_by_version_the_newest_first(
    writer: Writer, connection: sqlite3.Connection
) -> None:
    old, new = Game(writer, "a", "1.0"), Game(writer, "b", "1.1")
    start = old.draws(100, 5.0)
    for frames, p50 in [(300, 16.5), (200, 17.5), (50, 40.0)]:
        new.draws(frames, p50, timestamp=start + 1)

    newest, oldest = queries.frames(connection)

    assert (newest.version, newest.frames, newest.seconds, newest.hitches) == ("1.1", 550, 30.0, 3)
    # Half of the frames are in the interval with 16.5: the median isn't that of the intervals.
    assert (newest.p50, newest.p95, newest.p99, newest.max) == (16.5, 17.5, 18.5, 49.0)
    assert (oldest.version, oldest.frames, oldest.p50) == ("1.0", 100, 5.0)
    assert queries.frames(connection, version="1.0") == [oldest]
    assert queries.frames(connection, limit=1) == [newest]


def test_frames_over_time_are_in_parts_of_equal_length(
    writer: Writer, connection: sqlite3.Connection
) -> None:
    game = Game(writer)
    now = game.draws(60, 1.0, timestamp=1)  # a clock that is off by decades: it counts as now
    begin = now - 20 * DAY
    for number in range(200):
        game.draws(60, 10.0 + number, timestamp=begin + number * 1000)
    game.draws(60, 2.0, timestamp=now + DAY)  # a clock that is ahead

    (summary,) = queries.frames(connection)

    times = [part[0] for part in summary.over_time]
    assert times[0] == begin
    assert times == sorted(times)
    assert times[-1] <= now + DAY
    assert [part[1:] for part in summary.over_time[:1]] == [(109.0, 110.0, 111.0)]
    assert len(summary.over_time) == 2
    assert summary.over_time[-1][1] in (1.0, 2.0)


def test_many_parts_are_at_most_a_hundred(writer: Writer, connection: sqlite3.Connection) -> None:
    game = Game(writer)
    now = game.draws(60, 1.0)
    for number in range(1, 151):
        game.draws(60, float(number), timestamp=now - number * 3_600_000)
    (summary,) = queries.frames(connection)
    lengths = {
        later[0] - earlier[0]
        for earlier, later in zip(summary.over_time, summary.over_time[1:], strict=False)
    }
    assert len(summary.over_time) in (99, 100)
    assert len(lengths) == 1


def test_events_that_only_look_like_frames_are_left_out(
    writer: Writer, connection: sqlite3.Connection
) -> None:
    game = Game(writer)
    game.sends("frames", {"mine": 1})
    game.draws(0, 16.0)
    game.draws(-5, 16.0)
    game.draws(60, 16.0, seconds="10")
    game.draws(60, 16.0, maxMs=1e300)
    assert queries.frames(connection) == []
    game.draws(60, 16.0)
    (summary,) = queries.frames(connection)
    assert summary.frames == 60


def test_frames_are_those_of_their_version_whatever_texts_there_are(
    writer: Writer, connection: sqlite3.Connection
) -> None:
    versions = [None, 'a "quoted" one', "näh\\\n", "🚀", "1\x00.2"]
    for number, version in enumerate(versions):
        game = Game(writer, f"s{number}", version)
        game.draws(number + 1, 16.0, stage="Brücke 🚀")
        game.sends("frames", {"stage": "ä\n"})
    assert {each.version: each.frames for each in queries.frames(connection)} == {
        version: number + 1 for number, version in enumerate(versions)
    }


@pytest.mark.parametrize("others", [0, 3, 11])
def test_sums_over_too_many_intervals_are_estimates(
    writer: Writer, connection: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch, others: int
) -> None:
    monkeypatch.setattr(queries, "_MAX_INTERVALS", 50)
    game = Game(writer)
    for _ in range(200):
        game.draws(60, 16.0)
        for _ in range(others):  # the intervals come at regular places
            game.sends("hit", {})
    (summary,) = queries.frames(connection)
    examined, rest = divmod(summary.frames, 4 * 60)
    assert rest == 0
    assert summary.seconds == examined * 4 * 10
    assert 30 <= examined <= 70  # each for four
    assert summary.p50 == 16.0
