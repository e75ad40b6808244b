"""Files of older versions: a collector upgrades them, and readers see them as current ones."""

from __future__ import annotations

import contextlib
import json
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

from redvsblue_telemetry.collector.messages import read_message
from redvsblue_telemetry.collector.models import EventFilter, Outcome, TimeRange
from redvsblue_telemetry.collector.storage import queries
from redvsblue_telemetry.collector.storage.database import Database, open_readonly
from redvsblue_telemetry.collector.storage.history import history
from redvsblue_telemetry.collector.storage.schema import SCHEMA_VERSION, upgrade
from redvsblue_telemetry.collector.storage.writer import Writer
from tests.support.stored import stream_events

FOLDER = Path(__file__).parent
NOW = 1_795_531_418_300 + 1


def written_with(version: int, tmp_path: Path) -> Path:
    """A file that a collector wrote with that version of the schema."""
    path = tmp_path / f"version-{version}.sqlite3"
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.executescript((FOLDER / f"version_{version}.sql").read_text("utf-8"))
    return path


@pytest.fixture(params=[1, 2, 3, 4])
def old(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return written_with(request.param, tmp_path)


@pytest.fixture
def oldest(tmp_path: Path) -> Path:
    return written_with(1, tmp_path)


def version_of(path: Path) -> int:
    with contextlib.closing(sqlite3.connect(path)) as connection:
        return int(connection.execute("PRAGMA user_version").fetchone()[0])


def everything(connection: sqlite3.Connection) -> dict[str, Any]:
    """All answers of all queries, as JSON."""
    ids = [session.session_id for session in queries.stream_sessions(connection, now=NOW)]
    return {
        "events": msgspec.json.encode(queries.events(connection, EventFilter())),
        "hits": msgspec.json.encode(list(stream_events(connection, EventFilter("hit")))),
        "context": queries.events(connection, EventFilter(context={"player": "p-17"})),
        "sessions": queries.sessions(connection, now=NOW),
        "details": [queries.session(connection, each, now=NOW) for each in ids],
        "rejected": queries.rejected(connection),
        "totals": queries.totals(connection, now=NOW),
        "versions": queries.versions(connection, now=NOW),
        "crashes": msgspec.json.encode(queries.crashes(connection)),
        "faults": queries.faults(connection),
        "faulty": queries.events(connection, EventFilter(fault="any")),
        "fitting": msgspec.json.encode(queries.events(connection, EventFilter(fault="none"))),
        "frames": queries.frames(connection),
        "texts": queries.events(connection, EventFilter(text="red")),
        "history": history(connection, TimeRange(), now=NOW),
        **{
            f"range {span}": [
                queries.events(connection, EventFilter(), span=span),
                queries.sessions(connection, now=NOW, span=span),
                queries.totals(connection, now=NOW, span=span),
                queries.versions(connection, now=NOW, span=span),
                queries.crashes(connection, span=span),
                queries.faults(connection, span=span),
                queries.frames(connection, span=span),
                queries.rejected(connection, span=span),
                history(connection, span, now=NOW),
            ]
            for span in (TimeRange(NOW - 1), TimeRange(None, NOW - 1), TimeRange(0, NOW))
        },
    }


def test_old_file_is_read_as_a_current_one_and_stays_as_it_is(old: Path) -> None:
    before, version = old.read_bytes(), version_of(old)
    faulty = [2, 5] if version >= 3 else []

    with open_readonly(old) as connection:
        seen = everything(connection)
    assert (old.read_bytes(), version_of(old)) == (before, version)

    Database(old).close()
    assert version_of(old) == SCHEMA_VERSION
    with open_readonly(old) as connection:
        assert everything(connection) == seen

    assert [event["seq"] for event in json.loads(seen["events"])] == [1, 2, 5, 1, 2]
    assert [event.arrival for event in seen["faulty"]] == faulty
    assert [event["arrival"] for event in json.loads(seen["fitting"])] == [
        arrival for arrival in (1, 2, 3, 4, 5) if arrival not in faulty
    ]
    assert [group.count for group in seen["faults"]] == [len(faulty)] * bool(faulty)
    assert seen["totals"].types == {"hit": 3, "crash": 1, "round_end": 1}
    assert seen["totals"].faults == len(faulty)
    assert json.loads(seen["crashes"])[0]["exception"] == "KeyError"
    assert [session.faults for session in seen["sessions"]] == [len(faulty) // 2] * 2


def test_file_without_reports_is_read_as_a_current_one(oldest: Path) -> None:
    with open_readonly(oldest) as connection:
        seen = everything(connection)
    red, blue = seen["details"]
    assert (red.session_id, red.lost, red.crashes) == ("red", {"unexplained": 2}, 1)
    assert (red.outcome, red.reported, red.report) == (Outcome.RUNNING, None, None)
    assert (blue.session_id, blue.missing, blue.crashes) == ("blue", 0, 0)


@pytest.mark.parametrize("version", [2, 3, 4])
def test_file_with_reports_and_contexts_is_read_as_a_current_one(
    tmp_path: Path, version: int
) -> None:
    with open_readonly(written_with(version, tmp_path)) as connection:
        seen = everything(connection)
    red, blue = seen["details"]
    assert (red.outcome, red.lost) == (Outcome.CRASHED, {"overflow": 1, "unexplained": 2})
    assert (red.crashes, red.sampled, red.report.last_seq) == (1, {"hit": 6}, 6)
    assert (blue.outcome, blue.repeats) == (Outcome.RUNNING, 1)
    assert [event.seq for event in seen["context"]] == [1, 2]
    assert seen["totals"].sampled == {"hit": 6}


@pytest.mark.parametrize("version", [3, 4])
def test_file_with_faults_is_read_as_a_current_one(tmp_path: Path, version: int) -> None:
    with open_readonly(written_with(version, tmp_path)) as connection:
        seen = everything(connection)
    (group,) = seen["faults"]
    assert (group.type, group.count, group.sessions) == ("hit", 2, 2)
    assert (group.fault, group.newest.arrival) == ("data.damage: must be an integer", 5)
    assert [event.arrival for event in seen["texts"]] == [1, 4]
    assert seen["faulty"][0].context == msgspec.Raw(b'{"player": "p-17", "level": 3}')


def test_sessions_of_an_old_file_are_read_without_all_crashes_for_each(oldest: Path) -> None:
    count = 1000
    with contextlib.closing(sqlite3.connect(oldest)) as connection, connection:
        (crash,) = connection.execute("SELECT key FROM types WHERE name = 'crash'").fetchone()
        sessions = [(key, f"many-{key}") for key in range(1000, 1000 + count)]
        connection.executemany(
            "INSERT INTO sessions VALUES (?, ?, NULL, 1, 0, 0, 1, 5, 5, 5, 5)", sessions
        )
        connection.executemany(
            "INSERT INTO events (session, seq, type, timestamp, received, id, data) "
            f"VALUES (?, 1, {crash}, 5, 5, ?, '{{}}')",
            sessions,
        )
    steps = 0

    def step() -> int:
        nonlocal steps
        steps += 1
        return 0

    with open_readonly(oldest) as connection:
        connection.set_progress_handler(step, 1000)
        found = list(queries.stream_sessions(connection, now=NOW))
    assert [session.crashes for session in found[-count:]] == [1] * count
    assert steps < count  # thousands of instructions of SQLite's machine: less than 1000 a session


def test_upgraded_file_takes_what_a_new_one_takes(old: Path) -> None:
    faults = 1 if version_of(old) >= 3 else 0
    database = Database(old)
    writer = Writer(database, lambda type, _: "wrong" if type == "hit" else None)
    with contextlib.closing(database), contextlib.closing(writer):
        event = {"sessionId": "red", "seq": 4, "type": "hit", "timestamp": 1, "id": "x"}
        event |= {"data": {"x": 1}, "context": {"player": "p-17"}}
        report = {"sessionId": "red", "number": 2, "state": "ended", "reason": "crashed"}
        report |= {
            "startedAt": 1_795_531_418_000,
            "lastSeq": 5,
            "gaps": [[3, 3, "overflow"]],
            "sampled": {"hit": 6},
        }
        stored = writer.store(
            [read_message(json.dumps([event])), read_message(json.dumps({"report": report}))]
        )
        assert (stored.first_arrival, stored.repeats, stored.reports) == (6, 0, 1)
        with database.reading() as connection:
            found = queries.session(connection, "red")
            assert found is not None
            assert (found.outcome, found.lost) == (Outcome.CRASHED, {"overflow": 1})
            wanted = EventFilter(context={"player": "p-17"})
            assert queries.events(connection, wanted)[-1].seq == 4
            (faulty,) = queries.events(connection, EventFilter(fault="wrong"))
            assert (faulty.seq, faulty.fault) == (4, "wrong")
            assert (found.faults - faults, queries.faults(connection)[0].count) == (1, 1)
            assert [each.seq for each in queries.events(connection, EventFilter(text="x"))] == [4]
            assert queries.totals(connection).sampled == {"hit": 6}


def test_upgraded_file_has_the_tables_of_a_new_one(old: Path, tmp_path: Path) -> None:
    new = tmp_path / "new.sqlite3"
    for path in (old, new):
        Database(path).close()

    def tables(path: Path) -> list[Any]:
        with contextlib.closing(sqlite3.connect(path)) as connection:
            return connection.execute("SELECT type, name, sql FROM sqlite_schema").fetchall()

    assert sorted(tables(old), key=repr) == sorted(tables(new), key=repr)


def test_upgrade_is_whole_or_has_not_happened(old: Path) -> None:
    version = version_of(old)
    with contextlib.closing(sqlite3.connect(old)) as connection:
        connection.execute("CREATE TABLE counted (mine)")  # the upgrade fails in its middle
    before = old.read_bytes()
    with pytest.raises(Exception, match="counted already exists"):
        Database(old)
    assert version_of(old) == version
    with contextlib.closing(sqlite3.connect(old)) as connection:
        assert connection.execute("SELECT count(*) FROM events").fetchone() == (5,)
    assert len(old.read_bytes()) == len(before)


KILLED = """
import os, sys
from pathlib import Path
from redvsblue_telemetry.collector.storage import database

def upgrade(version, real=database.upgrade):
    statements = real(version)
    yield from statements[:{done}]
    os.kill(os.getpid(), 9)  # SIGKILL, or TerminateProcess on Windows

database.upgrade = upgrade
database.Database(Path(sys.argv[1]))
"""


@pytest.mark.parametrize("done", [1, 3, -2, -1])
def test_upgrade_that_is_killed_leaves_the_file_as_it_was(old: Path, done: int) -> None:
    with open_readonly(old) as connection:
        seen = everything(connection)
    version = version_of(old)

    killed = subprocess.run([sys.executable, "-c", KILLED.format(done=done), old], check=False)

    assert abs(killed.returncode) == 9
    assert version_of(old) == version
    with open_readonly(old) as connection:
        assert everything(connection) == seen
    Database(old).close()
    assert version_of(old) == SCHEMA_VERSION
    with open_readonly(old) as connection:
        assert everything(connection) == seen


@pytest.mark.parametrize("version", [3, 4])
def test_upgrade_reads_no_event(tmp_path: Path, version: int) -> None:
    """It has to be quick, however many there are."""
    read = []

    def look(action: int, table: str | None, column: str | None, *_: str | None) -> int:
        if action == sqlite3.SQLITE_READ and table == "events" and column != "ROWID":
            read.append(column)
        return sqlite3.SQLITE_OK

    with contextlib.closing(sqlite3.connect(written_with(version, tmp_path))) as connection:
        connection.set_authorizer(look)
        for statement in upgrade(version):
            connection.execute(statement)
    assert read == []


def test_file_that_is_upgraded_meanwhile_is_not_upgraded_twice(
    old: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Database._checked_version
    calls = 0

    def slow(self: Database, connection: sqlite3.Connection) -> int:
        nonlocal calls
        calls += 1
        version = real(self, connection)
        if calls == 1:
            Database(old).close()  # another collector
        return version

    monkeypatch.setattr(Database, "_checked_version", slow)
    Database(old).close()
    assert calls == 4
    assert version_of(old) == SCHEMA_VERSION
