"""The past: counts that outlive the events, and the ranges that are read from them."""

from __future__ import annotations

import contextlib
import json
import random
import sqlite3
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from redvsblue_telemetry.collector.messages import read_message
from redvsblue_telemetry.collector.models import EventFilter, TimeRange
from redvsblue_telemetry.collector.storage import counting, queries
from redvsblue_telemetry.collector.storage.counting import Backfill, RollUp
from redvsblue_telemetry.collector.storage.database import Database
from redvsblue_telemetry.collector.storage.forgetting import Forgetting
from redvsblue_telemetry.collector.storage.history import arrivals, events_by_type, history
from redvsblue_telemetry.collector.storage.retention import Retention
from redvsblue_telemetry.collector.storage.upkeep import Keep, Upkeep
from redvsblue_telemetry.collector.storage.writer import Writer
from tests.collector.storage.consistency import contradictions

MINUTE = 60_000
DAY = 24 * 60 * MINUTE
NOON = 20_000 * DAY + DAY // 2


class Clock:
    now = NOON

    def __call__(self) -> int:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    with contextlib.closing(Database(tmp_path / "db.sqlite3")) as database:
        yield database


@pytest.fixture
def writer(database: Database, clock: Clock) -> Iterator[Writer]:
    with contextlib.closing(Writer(database, clock=clock)) as writer:
        yield writer


@pytest.fixture
def connection(database: Database, writer: Writer) -> Iterator[sqlite3.Connection]:
    with database.reading() as connection:
        yield connection


_seq = iter(range(1, 10**9))


def store(writer: Writer, *types: str, session: str = "s", version: str | None = "1.0") -> None:
    fields = {} if version is None else {"version": version}
    events = [
        {"sessionId": session, "seq": seq, "type": type_, "timestamp": 1, "id": str(seq)}
        | {"data": {}, "context": {"player": session}, **fields}
        for type_, seq in zip(types, _seq, strict=False)
    ]
    writer.store([read_message(json.dumps(events))])


def finish(writer: Writer, work: Upkeep) -> int:
    steps = 1
    while writer.maintain(work.step):
        steps += 1
        assert steps < 10_000
    return steps


def lengths(connection: sqlite3.Connection) -> dict[int, int]:
    """The number of events that are counted in periods of each length."""
    rows = connection.execute("SELECT minutes, sum(events) FROM counts GROUP BY 1")
    return dict(rows.fetchall())


def really(connection: sqlite3.Connection, span: TimeRange) -> Counter[str]:
    """The events of a range, counted one by one."""
    rows = connection.execute(
        "SELECT name FROM events JOIN types ON types.key = type "
        "WHERE received >= ifnull(?, received) AND received < ifnull(?, received + 1)",
        (span.start, span.end),
    )
    return Counter(name for (name,) in rows)


def test_events_are_counted_with_their_minute_type_and_version(
    writer: Writer, clock: Clock, connection: sqlite3.Connection
) -> None:
    store(writer, "hit", "hit", "shot")
    store(writer, "hit", version="2.0")
    store(writer, "hit", version=None)
    clock.now += MINUTE
    store(writer, "hit")
    rows = connection.execute(
        "SELECT minutes, period, type, version, events FROM counts "
        "JOIN series ON series.key = series ORDER BY period, type, version"
    ).fetchall()
    first = NOON // MINUTE
    assert rows == [
        (1, first, "hit", None, 1),
        (1, first, "hit", "1.0", 2),
        (1, first, "hit", "2.0", 1),
        (1, first, "shot", "1.0", 1),
        (1, first + 1, "hit", "1.0", 1),
    ]


@pytest.mark.parametrize("seed", range(5))
def test_ranges_are_exact_whatever_the_clock_did_and_whatever_was_added_up(
    writer: Writer, clock: Clock, connection: sqlite3.Connection, database: Database, seed: int
) -> None:
    rng = random.Random(seed)
    times = []
    clock.now = NOON - 500 * DAY
    for _ in range(150):
        jumps = [rng.randrange(2000), rng.randrange(40 * MINUTE), rng.randrange(20 * DAY)]
        clock.now += rng.choice([*jumps, -rng.randrange(3 * DAY)])
        times.append(clock.now)
        store(writer, *rng.choices(["hit", "shot", "end"], k=rng.randrange(1, 5)))
    for now in (max(times), max(times) + 3 * DAY, max(times) + 500 * DAY):
        finish(writer, RollUp(lambda now=now: now))  # type: ignore[misc]
        assert sum(lengths(connection).values()) == really(connection, TimeRange()).total()
        for _ in range(40):
            ends = sorted(rng.choice(times) + rng.randrange(-2000, 2000) for _ in range(2))
            span = TimeRange(*rng.choice([(ends[0], ends[1]), (ends[0], None), (None, ends[1])]))
            assert events_by_type(connection, span) == really(connection, span)
            found = queries.events(connection, EventFilter(), span=span, limit=1000)
            assert Counter(event.type for event in found) == really(connection, span)
            first, last = arrivals(connection, span)
            assert all(first <= event.arrival <= last for event in found)
    assert contradictions(database.path) == {}


def test_history_adds_up_to_all_events_and_needs_few_rows(
    writer: Writer, clock: Clock, connection: sqlite3.Connection
) -> None:
    clock.now = NOON - 450 * DAY
    for _ in range(300):
        store(writer, "hit", "shot")
        clock.now += 36 * 60 * MINUTE + 17
    finish(writer, RollUp(clock))
    assert set(lengths(connection)) == {1, 15, 60, 24 * 60}
    found = history(connection, TimeRange(), now=clock.now)
    assert (found.total, found.step) == (600, 7 * DAY)
    assert {name: sum(counts) for name, counts in found.types.items()} == {"hit": 300, "shot": 300}
    assert {len(counts) for counts in found.types.values()} == {
        (found.end - found.start) // found.step
    }
    assert history(connection, TimeRange(), type="hit", now=clock.now).total == 300
    assert history(connection, TimeRange(), version="2.0", now=clock.now).total == 0
    # Long ago there are only days, so a step is one.
    day = history(connection, TimeRange(NOON - 450 * DAY, NOON - 449 * DAY), now=clock.now)
    assert (day.step, day.total) == (DAY, 2)


def test_counts_outlive_the_events_but_not_a_request_to_forget(
    writer: Writer, clock: Clock, connection: sqlite3.Connection, database: Database
) -> None:
    store(writer, "hit", "note", session="red")
    store(writer, "hit", "hit", session="blue")
    clock.now += 30 * DAY
    store(writer, "hit", session="red")
    finish(writer, RollUp(clock))
    finish(writer, Retention(database, Keep(age=86400.0), clock=clock))
    assert queries.totals(connection).events == 1
    assert events_by_type(connection, TimeRange()) == {"hit": 4, "note": 1}

    store(writer, "secret", session="blue", version="of-blue")
    finish(writer, Forgetting(field=("player", "blue")))
    assert events_by_type(connection, TimeRange()) == {"hit": 4, "note": 1}
    assert connection.execute("SELECT count(*) FROM series WHERE type = 'secret'").fetchone() == (
        0,
    )


def test_events_of_a_forgotten_person_leave_the_counts_of_any_length(
    writer: Writer, clock: Clock, connection: sqlite3.Connection, database: Database
) -> None:
    for _ in range(4):
        store(writer, "hit", "note", session="red")
        store(writer, "hit", session="blue")
        clock.now += 200 * DAY
    clock.now -= 200 * DAY
    finish(writer, RollUp(clock))
    assert len(lengths(connection)) == 3
    finish(writer, Forgetting(field=("player", "red")))
    assert events_by_type(connection, TimeRange()) == {"hit": 4}
    assert connection.execute("SELECT DISTINCT type FROM series").fetchall() == [("hit",)]
    assert contradictions(database.path) == {}


def test_event_of_a_check_is_not_counted(writer: Writer, connection: sqlite3.Connection) -> None:
    event = {"sessionId": "c", "seq": 1, "type": "check", "timestamp": 1, "id": "x", "data": {}}
    writer.store_and_delete([read_message(json.dumps([event]))])
    assert events_by_type(connection, TimeRange()) == {}


def test_too_many_types_are_counted_together(
    writer: Writer, connection: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(counting, "_MAX_SERIES_IN_PERIOD", 5)
    store(writer, *(f"type-{number}" for number in range(20)), "type-0", "x" * 101)
    found = events_by_type(connection, TimeRange())
    assert sum(found.values()) == 22
    assert (found[""], found["type-0"]) == (16, 2)


def test_everything_that_is_deleted_leaves_the_counts(
    writer: Writer, connection: sqlite3.Connection
) -> None:
    store(writer, "hit")
    writer.clear()
    assert events_by_type(connection, TimeRange()) == {}
    store(writer, "hit", "hit")
    assert events_by_type(connection, TimeRange()) == {"hit": 2}


# A file of an earlier release.


def make_uncounted(path: Path) -> None:
    """Leave a file as the upgrade leaves one of an earlier release."""
    with contextlib.closing(sqlite3.connect(path)) as connection, connection:
        for table in ("counts", "series", "arrivals"):
            connection.execute(f"DELETE FROM {table}")
        connection.execute("UPDATE counted SET first = (SELECT max(arrival) + 1 FROM events)")


def filled(path: Path, clock: Clock) -> None:
    with (
        contextlib.closing(Database(path)) as database,
        contextlib.closing(Writer(database, clock=clock)) as writer,
    ):
        clock.now -= 40 * DAY
        for number in range(600):
            store(writer, "hit", "shot", version=f"1.{number % 3}")
            clock.now += 96 * MINUTE
    make_uncounted(path)


def test_old_events_are_counted_behind_the_writer(tmp_path: Path, clock: Clock) -> None:
    path = tmp_path / "old.sqlite3"
    filled(path, clock)
    with (
        contextlib.closing(Database(path)) as database,
        contextlib.closing(Writer(database, clock=clock)) as writer,
        database.reading() as connection,
    ):
        span = TimeRange(clock.now - 20 * DAY - 1)
        before = history(connection, TimeRange(), now=clock.now)
        assert before.total == 1200
        store(writer, "new")
        work = Backfill(clock)
        more, steps = True, 0
        while more:  # the figures are the same at any time
            more = writer.maintain(work.step)
            steps += 1
            assert events_by_type(connection, span) == really(connection, span)
            assert history(connection, TimeRange(), now=clock.now).total == 1201
        assert steps > 2
        assert sum(lengths(connection).values()) == 1201
        finish(writer, RollUp(clock))
        assert events_by_type(connection, span) == really(connection, span)
    assert contradictions(path) == {}


KILLED = """
import os, sys
from pathlib import Path
from redvsblue_telemetry.collector.storage import counting
from redvsblue_telemetry.collector.storage.counting import Backfill, RollUp
from redvsblue_telemetry.collector.storage.database import Database
from redvsblue_telemetry.collector.storage.writer import Writer

writer = Writer(Database(Path(sys.argv[1])))
steps, statements = 0, 0

def count(statement):
    global statements
    statements += 1
    if statements >= int(sys.argv[2]):
        os.kill(os.getpid(), 9)  # SIGKILL, or TerminateProcess on Windows

writer._connection.set_trace_callback(count)
for work in (Backfill(lambda: int(sys.argv[3])), RollUp(lambda: int(sys.argv[3]))):
    while writer.maintain(work.step):
        pass
"""


def test_kill_anywhere_counts_nothing_twice(tmp_path: Path, clock: Clock) -> None:
    path = tmp_path / "old.sqlite3"
    filled(path, clock)
    kills = 0
    for statements in (5, 40, 150, 400, 900, 1500, 3000, 10**9):
        run = [sys.executable, "-c", KILLED, path, str(statements), str(clock.now)]
        kills += abs(subprocess.run(run, check=False).returncode) == 9
        with contextlib.closing(sqlite3.connect(path)) as connection:
            (first,) = connection.execute("SELECT first FROM counted").fetchone()
            (left,) = connection.execute(
                "SELECT count(*) FROM events WHERE arrival >= ?", (first,)
            ).fetchone()
            assert sum(lengths(connection).values()) == left
            assert events_by_type(connection, TimeRange()) == {"hit": 600, "shot": 600}
    assert kills > 3
    assert left == 1200
    assert contradictions(path) == {}
