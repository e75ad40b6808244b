"""Old events are deleted in small steps, and nothing else notices."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import random
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from redvsblue_telemetry._report import Report, State, encode_report
from redvsblue_telemetry.collector.messages import read_message
from redvsblue_telemetry.collector.storage import (
    deletion,
    forgetting,
    queries,
    retention,
    upkeep,
)
from redvsblue_telemetry.collector.storage.database import Database, DatabaseError
from redvsblue_telemetry.collector.storage.forgetting import Forgetting
from redvsblue_telemetry.collector.storage.retention import Retention
from redvsblue_telemetry.collector.storage.textindex import TextIndex
from redvsblue_telemetry.collector.storage.thread import WriterThread
from redvsblue_telemetry.collector.storage.upkeep import Keep, Upkeep
from redvsblue_telemetry.collector.storage.writer import Stored, Writer
from tests.collector.clients import event
from tests.collector.storage.consistency import contradictions
from tests.collector.storage.test_thread import until
from tests.support.systems import not_under_wine

DAY = 86_400.0
START = 1_790_000_000_000
LARGE = {"x": "x" * 1000}
pytestmark = pytest.mark.timeout(300)  # some take 10 s, if the machine has nothing else to do


class Collected:
    """A database with its writer, at a time that the test sets."""

    def __init__(self, path: Path, **check: Any) -> None:
        self.path = path
        self.now = START
        self.database = Database(path)
        self.writer = Writer(self.database, clock=self.clock, **check)
        self.writer._synchronous = "OFF"  # or it waits for the disk, thousands of times
        self.writer._connection.execute("PRAGMA synchronous = OFF")

    def clock(self) -> int:
        return self.now

    def pass_days(self, days: float) -> None:
        self.now += round(days * DAY * 1000)

    def store(self, *events: dict[str, Any]) -> Stored:
        return self.writer.store([read_message(json.dumps(events))])

    def report(self, session: str, last_seq: int, **fields: Any) -> None:
        fields = {"number": 1, "state": State.ENDED, "started_at": START} | fields
        report = Report(session_id=session, last_seq=last_seq, **fields)
        self.writer.store([read_message(encode_report(report))])

    def tend(self, work: Upkeep, most_steps: int = 100_000) -> int:
        """Do all there is to do; return the number of steps."""
        for steps in range(1, most_steps):
            if not self.writer.maintain(work.step):
                return steps
        pytest.fail("it doesn't end")

    def keeping(self, **rules: Any) -> Retention:
        keep = Keep(rules.pop("age", None), rules.pop("by_type", {}))
        return Retention(self.database, keep, rules.pop("max_bytes", None), self.clock)

    def read(self, query: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        with self.database.reading() as connection:
            return query(connection, *args, **kwargs)

    def rows(self, query: str) -> list[Any]:
        return self.read(lambda connection: connection.execute(query).fetchall())

    def count(self, table: str) -> int:
        return int(self.rows(f"SELECT count(*) FROM {table}")[0][0])

    def numbers(self, session: str = "s") -> list[int]:
        return [
            seq
            for (seq,) in self.rows(
                "SELECT seq FROM events JOIN sessions ON sessions.key = events.session "
                f"WHERE session_id = '{session}' ORDER BY arrival"
            )
        ]


@pytest.fixture
def collected(tmp_path: Path) -> Iterator[Collected]:
    made = Collected(tmp_path / "telemetry.sqlite3")
    yield made
    made.writer.close()
    assert contradictions(made.path) == {}


def test_events_are_deleted_after_their_time(collected: Collected) -> None:
    for seq in range(1, 7):
        collected.store(event(seq))
        collected.pass_days(1)
    collected.tend(collected.keeping(age=3.5 * DAY))
    assert collected.numbers() == [4, 5, 6]


def test_types_have_times_of_their_own(collected: Collected) -> None:
    for seq in range(1, 10):
        name = ("hit", "bullet_fired", "crash")[seq % 3]
        collected.store(event(seq, type=name))
        collected.pass_days(1)
    rules = {"bullet_fired": 1.5 * DAY, "crash": 100 * DAY}
    keep = collected.keeping(age=5.5 * DAY, by_type=rules)
    collected.tend(keep)
    assert collected.numbers() == [2, 5, 6, 8, 9]

    # It goes on behind those that stay, also after a restart.
    collected.pass_days(2)
    collected.tend(keep)
    assert collected.numbers() == [2, 5, 8, 9]
    collected.pass_days(3)
    collected.tend(collected.keeping(age=5.5 * DAY, by_type=rules))
    assert collected.numbers() == [2, 5, 8]


def test_only_the_named_type_is_deleted_if_no_other_time_is_given(collected: Collected) -> None:
    collected.store(event(1), event(2, type="bullet_fired"))
    collected.pass_days(1000)
    collected.tend(collected.keeping(by_type={"bullet_fired": DAY, "unknown": DAY}))
    assert collected.numbers() == [1]
    assert collected.read(queries.totals).types == {"hit": 1}


def test_without_rules_nothing_is_deleted(collected: Collected) -> None:
    collected.store(event(1))
    collected.pass_days(10_000)
    collected.tend(collected.keeping())
    assert collected.numbers() == [1]


def test_deleted_events_are_neither_missing_nor_new(collected: Collected) -> None:
    collected.store(event(1), event(2), event(5))
    collected.pass_days(2)
    collected.store(event(6))
    before = collected.read(queries.session, "s", now=collected.now)
    collected.tend(collected.keeping(age=DAY))

    after = collected.read(queries.session, "s", now=collected.now)
    assert (after.events, after.deleted, after.missing) == (4, 3, before.missing)
    assert (after.gaps, after.losses) == ([(3, 4)], before.losses)
    assert after.types == {"hit": 1}
    assert collected.read(queries.totals).events == 1

    again = collected.store(event(1), event(5), event(6), event(4), event(7))
    assert [each.seq for each in again.events] == [4, 7]
    assert again.repeats == 3
    assert collected.read(queries.session, "s").missing == 1


def test_session_goes_when_its_last_word_is_old_and_its_events_are_gone(
    collected: Collected,
) -> None:
    collected.store(event(1, "silent"), event(1, "talking"))
    collected.report("silent", 3, dropped={"overflow": 2}, sampled={"step": 7})
    collected.pass_days(2)
    collected.report("talking", 1, sampled={"step": 1})
    collected.tend(collected.keeping(age=DAY))

    (left,) = collected.read(queries.sessions, now=collected.now)
    assert (left.session_id, left.events, left.deleted) == ("talking", 1, 1)
    totals = collected.read(queries.totals)
    assert (totals.lost, totals.sampled, totals.types) == ({}, {"step": 1}, {})
    assert collected.read(queries.session, "silent") is None

    collected.pass_days(2)
    collected.tend(collected.keeping(age=DAY))
    tables = ("sessions", "runs", "reports", "sampled", "lost", "types", "events")
    assert {table: collected.count(table) for table in tables} == dict.fromkeys(tables, 0)


def test_session_that_has_events_of_another_time_goes_with_the_last_of_them(
    collected: Collected,
) -> None:
    collected.store(event(1), event(2, type="crash"))
    keep = collected.keeping(age=DAY, by_type={"crash": 10 * DAY})
    collected.pass_days(5)
    collected.tend(keep)
    assert collected.read(queries.session, "s").crashes == 1
    collected.pass_days(6)
    collected.tend(keep)
    assert collected.count("sessions") == 0


def test_what_is_only_there_for_deleted_events_goes_with_them(tmp_path: Path) -> None:
    made = Collected(
        tmp_path / "telemetry.sqlite3",
        check=lambda name, data: "a fault" if name == "bad" else None,
    )
    with contextlib.closing(made.writer):
        for session in "ab":
            made.store(
                event(1, session, context={"level": 1}),
                event(2, session, type="bad", context={"level": 2, "player": session}),
                event(3, session, type="crash"),
            )
            made.pass_days(2)
        made.tend(made.keeping(age=3 * DAY))
        assert made.read(queries.totals).faults == 1
        (fault,) = made.read(queries.faults)
        assert (fault.count, fault.sessions, fault.newest.session_id) == (1, 1, "b")
        assert made.count("contexts") == 2

        made.pass_days(2)
        made.store(event(4, "b", type="bad", context={"level": 1}))
        made.tend(made.keeping(age=3 * DAY))
        (fault,) = made.read(queries.faults)
        assert (fault.count, fault.newest.seq) == (1, 4)
        assert made.rows("SELECT text FROM contexts") == [('{"level": 1}',)]
        assert made.read(queries.session, "b").crashes == 0

        # What the writer knew of the deleted rows is forgotten.
        made.store(event(5, "b", context={"level": 2, "player": "b"}), event(1, "a", type="crash"))
        assert made.count("contexts") == 2
    assert contradictions(made.path) == {}


def test_rejected_messages_go_after_the_general_time(collected: Collected) -> None:
    for number in range(3):
        collected.writer.store([read_message(f"no JSON {number}")])
        collected.pass_days(1)
    collected.tend(collected.keeping(age=1.5 * DAY))
    assert [each.text for each in collected.read(queries.rejected)] == ["no JSON 2"]
    assert collected.read(queries.totals).rejected == 1


def test_session_with_many_gaps_is_deleted_in_steps(
    collected: Collected, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deletion, "_RUNS_PER_STEP", 10)
    collected.store(*[event(seq) for seq in range(1, 202, 2)])
    collected.pass_days(2)
    keep = collected.keeping(age=DAY)
    while not collected.count("leftovers"):
        assert collected.writer.maintain(keep.step)
    # Its key, the highest, must not be that of a new session, which would have these runs.
    collected.store(event(1, "new"), event(4, "new"))
    collected.tend(keep)
    assert collected.read(queries.session, "new").gaps == [(2, 3)]
    assert (collected.count("leftovers"), collected.count("runs")) == (0, 2)


def test_events_of_a_day_with_a_wrong_clock_keep_no_others(collected: Collected) -> None:
    collected.pass_days(10_000)
    collected.store(*[event(seq) for seq in range(1, 100)])
    collected.pass_days(-10_000)
    collected.store(event(100), event(101, "t"))
    collected.pass_days(1)
    collected.store(event(102))
    keep = collected.keeping(age=2 * DAY)
    collected.tend(keep)
    assert len(collected.numbers()) == 101
    collected.pass_days(1.5)
    collected.tend(keep)
    assert collected.numbers() == [102]


def test_events_are_kept_although_a_later_one_seems_to_be_older(collected: Collected) -> None:
    # A machine without a battery begins in 1970, until it has asked for the time.
    collected.store(event(1), event(2, type="crash"))
    collected.pass_days(-10_000)
    collected.store(event(3))
    collected.pass_days(10_000.5)
    collected.store(event(4))
    for rules in ({}, {"crash": DAY, "hit": DAY}):
        keep = collected.keeping(age=DAY, by_type=rules)
        collected.tend(keep)
        assert {1, 2, 4} <= set(collected.numbers())
    collected.pass_days(0.6)
    collected.tend(keep)
    assert collected.numbers() == [4]


def test_step_that_was_undone_is_done_again(collected: Collected) -> None:
    collected.store(event(1), event(2, type="crash"), event(3))
    collected.pass_days(2)
    keep = collected.keeping(age=DAY, by_type={"crash": 10 * DAY})

    def fail(connection: sqlite3.Connection) -> bool:
        keep.step(connection)
        raise sqlite3.OperationalError("disk I/O error")

    with pytest.raises(DatabaseError, match="disk I/O error"):
        collected.writer.maintain(fail)
    keep.rolled_back()
    assert collected.numbers() == [1, 2, 3]
    collected.tend(keep)
    assert collected.numbers() == [2]


# By size.


@pytest.fixture
def small_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retention, "_RESERVE", 5_000_000)  # the log takes 4 MB


stats_while_locked = not_under_wine("keeps a descriptor for each os.stat of a file with locks")


@stats_while_locked
@pytest.mark.usefixtures("small_limits")
def test_oldest_go_beyond_the_limit_of_the_size(collected: Collected) -> None:
    limit = 9_000_000
    keep = collected.keeping(max_bytes=limit)
    for number in range(1, 101):
        collected.store(*[event(number, f"{number}-{n}", data=LARGE) for n in range(100)])
        collected.pass_days(0.1)
        collected.tend(keep)
        assert collected.path.stat().st_size <= limit
    sessions = [each.session_id for each in collected.read(queries.sessions, limit=10_000)]
    assert 1000 < len(sessions) < 4000
    assert sessions[0].startswith("100-")
    assert {int(each.partition("-")[0]) for each in sessions} == set(
        range(101 - len(sessions) // 100, 101)
    ) | {100 - (len(sessions) - 1) // 100}


@stats_while_locked
@pytest.mark.usefixtures("small_limits")
def test_rejected_messages_and_lone_sessions_go_beyond_the_limit_too(collected: Collected) -> None:
    limit = 6_500_000
    keep = collected.keeping(max_bytes=limit)
    common: dict[str, Any] = {"number": 1, "state": State.ENDED, "sampled": {"x" * 200: 1}}
    for number in range(200):
        reports = [Report(session_id=f"lone-{number}-{n}", **common) for n in range(10)]
        messages = [read_message("x" * 1000)] * len(reports)
        collected.writer.store(messages + [read_message(encode_report(each)) for each in reports])
        collected.pass_days(0.1)
        if number % 5 == 0:
            collected.tend(keep)
    collected.tend(keep)
    assert collected.path.stat().st_size <= limit
    assert 50 < collected.count("rejected") < 1500
    assert collected.count("sessions") > 50


def test_deleted_room_is_given_back(collected: Collected) -> None:
    collected.store(*[event(seq, data={"x": "x" * 10_000}) for seq in range(1, 1501)])
    collected.writer.empty_log()
    before = collected.path.stat().st_size
    collected.pass_days(2)
    collected.tend(collected.keeping(age=DAY))
    assert collected.writer.empty_log()
    assert collected.path.stat().st_size < before / 3


def test_room_of_older_files_is_used_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "_RESERVE", 0)
    path = tmp_path / "telemetry.sqlite3"
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.executescript(Path(__file__).with_name("version_2.sql").read_text("utf-8"))
        connection.execute("UPDATE events SET received = 0")
        connection.commit()
    made = Collected(path)
    with contextlib.closing(made.writer):
        assert made.rows("PRAGMA auto_vacuum") == [(0,)]
        numbers = itertools.count(1)
        for _ in range(3):
            made.store(*[event(next(numbers), data={"x": "x" * 10_000}) for _ in range(500)])
            made.pass_days(2)
            made.tend(made.keeping(age=1.5 * DAY, max_bytes=4_000_000))
            made.writer.empty_log()
        assert 5_000_000 < path.stat().st_size < 8_000_000
    assert caplog.text.count("was made by an older release") == 3  # of three starts


# The log.


def test_log_does_not_grow_without_bound(collected: Collected) -> None:
    sizes = []
    for seq in range(1, 41):
        collected.store(event(seq, data={"x": "x" * 1_000_000}))
        collected.tend(collected.keeping())
        sizes.append(collected.database.log_bytes())
    assert max(sizes) < 24 * 1024 * 1024


@pytest.mark.parametrize("how", ["age", "type", "size", "session", "context"])
def test_step_deletes_few_events_if_they_are_large(
    collected: Collected, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, context = {"x": "x" * 300_000}, {"player": "p-17"}
    collected.store(*[event(seq, data=data, context=context) for seq in range(1, 9)])
    work: Upkeep = {
        "age": collected.keeping(age=DAY),
        "type": collected.keeping(by_type={"hit": DAY}),
        "size": collected.keeping(max_bytes=1),
        "session": Forgetting("s"),
        "context": Forgetting(field=("player", "p-17")),
    }[how]
    collected.pass_days(2)
    looks = itertools.count()
    for module in (retention, forgetting):  # where each look at the clock is a second later
        monkeypatch.setattr(module, "monotonic", lambda: float(next(looks)))
    for _ in range(10):  # a step for each kind of work, at most
        if collected.count("events") == 8:
            collected.writer.maintain(work.step)
    assert collected.count("events") == 7
    monkeypatch.undo()
    collected.tend(work)
    assert collected.count("events") == 0


def test_step_deletes_what_fits_into_its_time(collected: Collected) -> None:
    collected.store(*[event(seq) for seq in range(1, 5001)])
    collected.pass_days(2)
    steps = collected.tend(collected.keeping(age=DAY))
    assert steps >= 3
    assert collected.count("events") == 0


# Kills.


def test_after_kills_it_goes_on_and_nothing_is_inconsistent(tmp_path: Path) -> None:
    path = tmp_path / "telemetry.sqlite3"
    chance = random.Random(17)
    for _ in range(6):
        command = [sys.executable, "-m", "tests.collector.storage.deleting_process", path]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            for _ in range(chance.randrange(30, 120)):
                assert process.stdout.readline()
            time.sleep(chance.random() * 0.02)
            process.kill()
        assert contradictions(path) == {}
        with contextlib.closing(sqlite3.connect(path)) as connection:
            ((last,),) = connection.execute("SELECT seq FROM sqlite_sequence WHERE name = 'events'")
            ((left,),) = connection.execute("SELECT count(*) FROM events")
            assert left < last
    made = Collected(path)
    made.now = time.time_ns() // 1_000_000 + 10_000
    with contextlib.closing(made.writer):
        made.tend(made.keeping(age=1, by_type={"crash": 1}))
        tables = ("events", "sessions", "runs", "contexts", "faults", "types", "leftovers")
        assert {table: made.count(table) for table in tables} == dict.fromkeys(tables, 0)


# A week.


def test_a_week_stays_within_both_limits_without_a_missed_ack(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "_RESERVE", 12_000_000)
    monkeypatch.setattr(upkeep, "_IDLE_SECONDS", 0.005)
    hour, limit = 3_600_000, 24_000_000
    now = START
    path = tmp_path / "telemetry.sqlite3"
    largest = 0

    def clock() -> int:
        return now

    def oldest(name: str) -> int:
        rows = reader.execute(
            "SELECT received FROM events JOIN types ON types.key = type WHERE name = ? "
            "ORDER BY arrival LIMIT 1",
            (name,),
        ).fetchall()
        return int(rows[0][0]) if rows else now

    def is_kept() -> bool:
        return oldest("bullet") >= now - 6 * hour and oldest("hit") >= now - 48 * hour

    def size() -> int:
        return path.stat().st_size + database.log_bytes()

    async def run() -> None:
        nonlocal now, largest
        keep = Keep(2 * DAY, {"bullet": 0.25 * DAY})
        storage = WriterThread(
            database,
            lambda _: None,
            lambda: None,
            upkeep=[Retention(database, keep, limit, clock), TextIndex()],
            clock=clock,
        )
        receipt = Acks()
        sent = 0
        for passed in range(7 * 24):
            now = START + passed * hour
            # The third day is as busy as the others together.
            for seq in range(10 if passed // 24 != 2 else 40):
                kinds = ("bullet", "hit", "bullet", "crash")
                batch = [
                    event(seq * 20 + n + 1, f"game-{passed}", type=kinds[n % 4], data=LARGE)
                    for n in range(20)
                ]
                storage.submit(read_message(json.dumps(batch)), 1, receipt)
                sent += 1
            await until(lambda: receipt.acked == sent)  # noqa: B023
            await until(is_kept)
            largest = max(largest, size())
        await storage.close()
        assert (receipt.acked, receipt.failures) == (sent, 0)

    database = Database(path)
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as reader:
        asyncio.run(run())
        sessions = reader.execute("SELECT count(*) FROM sessions").fetchone()[0]
    assert 10_000_000 < largest <= limit
    assert 45 <= sessions <= 52  # those of two days
    assert contradictions(path) == {}


class Acks:
    """A sender that counts its acks."""

    is_broken = False
    acked = failures = 0

    def stored(self, messages: int) -> None:
        self.acked += messages

    def failed(self) -> None:
        self.failures += 1
