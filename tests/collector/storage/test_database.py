"""What is stored: each event once, all of a group or nothing, and what is known of each session."""

from __future__ import annotations

import ast
import contextlib
import os
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path, PureWindowsPath
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from redvsblue_telemetry.collector.messages import Event, Message, Rejected
from redvsblue_telemetry.collector.storage.database import (
    Database,
    DatabaseError,
    _without_host,
    open_readonly,
)
from redvsblue_telemetry.collector.storage.schema import APPLICATION_ID
from redvsblue_telemetry.collector.storage.writer import Writer
from tests.support.command import environment
from tests.support.systems import IS_WINDOWS, needs_modes, not_on_windows

open_files_move = not_on_windows("an open database can't be renamed or deleted")


def event(seq: int, session: str = "s", type_: str = "hit", **fields: Any) -> Event:
    fields = {
        "timestamp": 1000 + seq,
        "id": f"{session}-{seq}",
        "data": msgspec.Raw(b"{}"),
    } | fields
    return Event(session_id=session, seq=seq, type=type_, **fields)


def message(*events: Event) -> Message:
    return Message(list(events), [])


@contextlib.contextmanager
def writing(path: Path | None, **options: Any) -> Iterator[Writer]:
    database = Database(path, **options)
    with contextlib.closing(database), contextlib.closing(Writer(database)) as writer:
        yield writer


def rows(path: Path, query: str) -> list[Any]:
    with contextlib.closing(sqlite3.connect(path)) as connection:
        return connection.execute(query).fetchall()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "telemetry.sqlite3"


EVENTS = (
    "SELECT session_id, seq, name, timestamp, id, run, events.version, data FROM events "
    "JOIN sessions ON sessions.key = session JOIN types ON types.key = type ORDER BY arrival"
)
SEQS = "SELECT seq FROM events ORDER BY arrival"
SESSION = (
    "SELECT events, repeats, missing, highest, first_timestamp, last_timestamp, version "
    "FROM sessions"
)


def test_events_are_stored_as_they_came_in_their_order(path: Path) -> None:
    data = msgspec.Raw('{"ü":1e400,"big":1000000000000000000000000001}'.encode())
    with writing(path) as writer:
        stored = writer.store(
            [message(event(1, data=data, version="1.4")), message(event(2), event(1, "t", "x"))]
        )
        assert (stored.first_arrival, stored.repeats, stored.rejected) == (1, 0, 0)
        assert [(e.session_id, e.seq) for e in stored.events] == [("s", 1), ("s", 2), ("t", 1)]
        assert stored.by_type == {"hit": 2, "x": 1}
        assert writer.store([message(event(3))]).first_arrival == 4
    assert rows(path, EVENTS) == [
        ("s", 1, "hit", 1001, "", "s", "1.4", bytes(data).decode()),
        ("s", 2, "hit", 1002, "", "s", None, "{}"),
        ("t", 1, "x", 1001, "", "t", None, "{}"),
        ("s", 3, "hit", 1003, "", "s", None, "{}"),
    ]
    assert rows(path, "SELECT DISTINCT typeof(data) FROM events") == [("text",)]
    assert rows(path, "SELECT name, events FROM types ORDER BY name") == [("hit", 3), ("x", 1)]


@pytest.mark.parametrize("count", [1, 63, 64, 65, 128, 1000])
def test_a_group_of_any_size_is_stored(path: Path, count: int) -> None:
    with writing(path) as writer:
        stored = writer.store([message(*(event(n) for n in range(1, count + 1)))])
        assert (len(stored.events), stored.first_arrival) == (count, 1)
        stored = writer.store([message(event(count + 1))])
        assert stored.first_arrival == count + 1
    assert rows(path, SEQS) == [(n,) for n in range(1, count + 2)]


def test_a_repeat_is_counted_and_not_stored(path: Path) -> None:
    with writing(path) as writer:
        writer.store([message(event(1), event(2))])
        stored = writer.store([message(event(2), event(3), event(3)), message(event(1))])
        assert ([e.seq for e in stored.events], stored.repeats) == ([3], 3)
    with writing(path) as writer:  # another process, which knows it from the table only
        assert writer.store([message(event(3), event(1))]).repeats == 2
    assert rows(path, SEQS) == [(1,), (2,), (3,)]
    assert rows(path, SESSION) == [(3, 5, 0, 3, 1001, 1003, None)]


def test_a_session_knows_what_is_missing(path: Path) -> None:
    with writing(path) as writer:
        writer.store([message(event(0), event(3), event(9, version="2"))])
        assert rows(path, SESSION) == [(3, 0, 7, 9, 1000, 1009, "2")]
        writer.store([message(event(4))])
        assert rows(path, SESSION) == [(4, 0, 6, 9, 1000, 1009, "2")]
    assert rows(path, "SELECT first, last FROM runs") == [(0, 0), (3, 4), (9, 9)]


def test_what_was_rejected_is_kept(path: Path) -> None:
    with writing(path) as writer:
        stored = writer.store([Message([event(1)], [Rejected("why", b"\xffx")])])
        assert stored.rejected == 1
    assert rows(path, "SELECT reason, text FROM rejected") == [("why", b"\xffx")]


def test_nothing_to_store_is_no_error(path: Path) -> None:
    with writing(path) as writer:
        stored = writer.store([])
        assert (stored.events, stored.repeats, stored.rejected) == ([], 0, 0)


def test_clearing_deletes_everything_and_arrivals_go_on(path: Path) -> None:
    with writing(path) as writer:
        writer.store([message(event(1), event(2))])
        writer.clear()
        for table in ("events", "sessions", "types", "runs", "rejected"):
            assert rows(path, f"SELECT * FROM {table}") == []
        stored = writer.store([message(event(1))])
        assert (len(stored.events), stored.first_arrival) == (1, 3)


def test_two_writers_on_one_file_store_each_event_once(path: Path) -> None:
    with writing(path) as one, writing(path) as other:
        for n in range(1, 40):
            batch = [message(event(n), event(n + 1))]
            one.store(batch)
            assert other.store(batch).repeats == 2
    assert rows(path, SEQS) == [(n,) for n in range(1, 41)]


def test_more_sessions_and_types_than_are_kept_in_memory(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("redvsblue_telemetry.collector.storage.sessions._MAX_IN_MEMORY", 5)
    monkeypatch.setattr("redvsblue_telemetry.collector.storage.writer._MAX_TYPES_IN_MEMORY", 5)
    batch = [message(*(event(n, f"s{s}", f"t{s}") for n in (1, 2, 4) for s in range(30)))]
    with writing(path) as writer:
        for expected in (90, 0, 0):
            assert len(writer.store(batch).events) == expected
        assert len(writer._sessions._known) <= 30
        assert writer.store([message(event(5, "s1", "t1"))]).repeats == 0
        assert len(writer._sessions._known) <= 5
    assert rows(path, "SELECT DISTINCT repeats, missing FROM sessions") == [(6, 1)]
    assert rows(path, "SELECT DISTINCT events FROM types WHERE name <> 't1'") == [(3,)]


def test_a_session_of_nothing_but_gaps_takes_no_memory(path: Path) -> None:
    import tracemalloc

    with writing(path) as writer:
        writer.store([message(event(1))])
        tracemalloc.start()
        try:
            for start in range(3, 60_000, 6_000):
                writer.store([message(*(event(n) for n in range(start, start + 6_000, 2)))])
            grown, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert grown < 500_000
        stored = writer.store([message(*(event(n) for n in range(2, 40_002)))])
        assert (len(stored.events), stored.repeats) == (20_000, 20_000)
    assert rows(path, "SELECT count(*) FROM events") == [(50_001,)]


@given(
    groups=st.lists(
        st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 12)), max_size=9), max_size=6
    ),
    forgets=st.sets(st.integers(0, 5)),
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_comes_is_stored_once(groups: Any, forgets: set[int], tmp_path: Path) -> None:
    path = tmp_path / f"{len(os.listdir(tmp_path))}-{os.urandom(4).hex()}.sqlite3"
    seen: list[tuple[str, int]] = []
    repeats = 0
    with writing(path) as writer:
        for index, group in enumerate(groups):
            if index in forgets:
                writer._forget()
            stored = writer.store([message(event(n, s)) for s, n in group])
            for pair in group:
                repeats += pair in seen
                seen += [] if pair in seen else [pair]
            new = seen[len(seen) - len(stored.events) :]
            assert [(e.session_id, e.seq) for e in stored.events] == new
    query = "SELECT session_id, seq FROM events JOIN sessions ON key = session ORDER BY arrival"
    assert rows(path, query) == seen
    for name, events, again, missing, highest in rows(
        path, "SELECT session_id, events, repeats, missing, highest FROM sessions"
    ):
        numbers = {n for s, n in seen if s == name}
        assert (events, highest) == (len(numbers), max(numbers))
        assert missing == highest - len(numbers - {0})
        repeats -= again
    assert repeats == 0


# What can't be stored.


@pytest.mark.parametrize(
    "fields",
    [
        {"session": "\ud800"},
        {"type_": "\udfff"},
        {"id": "\ud800"},
        {"version": "\ud800"},
        {"seq": 2**63},
        {"timestamp": 2**70},
        {"data": None},
        {"id": None},
        {"timestamp": "soon"},
    ],
    ids=repr,
)
def test_an_event_that_cant_be_stored_spares_all_others(path: Path, fields: Any) -> None:
    culprit = event(**({"seq": 2} | fields))
    with writing(path) as writer:
        writer.store([message(event(1))])
        stored = writer.store(
            [message(event(3)), message(event(4), culprit, event(5)), message(event(5), event(6))]
        )
        assert [e.seq for e in stored.events] == [3, 4, 5, 6]
        assert (stored.repeats, stored.rejected) == (1, 1)
        assert [e.seq for e in writer.store([message(event(7))]).events] == [7]
    assert rows(path, SEQS) == [(n,) for n in (1, 3, 4, 5, 6, 7)]
    ((reason, text),) = rows(path, "SELECT reason, text FROM rejected")
    assert reason.startswith("the collector could not store it: ")
    assert b"'seq': " in text
    assert rows(path, "SELECT session_id, missing FROM sessions") == [("s", 1)]


def test_names_with_nuls_are_stored(path: Path) -> None:
    with writing(path) as writer:
        writer.store([message(event(1, "a\0b", "c\0d", id="e\0f"))])
        assert writer.store([message(event(1, "a\0b"), event(1, "a\0c"))]).repeats == 1
    assert rows(path, EVENTS)[0][:5] == ("a\0b", 1, "c\0d", 1001, "e\0f")


def test_a_locked_database_stores_nothing_and_then_all(path: Path) -> None:
    with writing(path, busy_timeout=0.05) as writer:
        writer.store([message(event(1))])
        with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            with pytest.raises(DatabaseError, match=r"telemetry\.sqlite3: database is locked"):
                writer.store([message(event(1), event(2))])
        stored = writer.store([message(event(1), event(2))])
        assert ([e.seq for e in stored.events], stored.repeats) == ([2], 1)
    assert rows(path, SESSION)[0][:2] == (2, 1)


def test_a_full_disk_stores_nothing_and_then_all(path: Path) -> None:
    batch = [
        message(*(event(n, data=msgspec.Raw(b'{"x":"%b"}' % (b"y" * 500))) for n in range(500)))
    ]
    with writing(path) as writer:
        writer.store([message(event(0))])
        pages = writer._connection.execute("PRAGMA page_count").fetchone()[0]
        writer._connection.execute(f"PRAGMA max_page_count = {pages + 2}")
        for _ in range(2):
            with pytest.raises(DatabaseError, match="full"):
                writer.store(batch)
        assert rows(path, "SELECT count(*) FROM events") == [(1,)]
        writer._connection.execute("PRAGMA max_page_count = 1000000")
        stored = writer.store(batch)
        assert (len(stored.events), stored.repeats) == (499, 1)
    assert rows(path, SEQS) == [(n,) for n in range(500)]


@open_files_move
def test_a_file_that_was_deleted_is_no_place_to_store(path: Path) -> None:
    with writing(path) as writer:
        path.rename(path.with_name("elsewhere"))
        with pytest.raises(DatabaseError, match="deleted or replaced"):
            writer.store([message(event(1))])
        path.with_name("elsewhere").rename(path)
        writer.store([message(event(1))])


# What can't be opened.


def test_something_else_is_left_alone(tmp_path: Path) -> None:
    text = tmp_path / "notes.txt"
    text.write_text("no database at all, and rather long: " * 100)
    with pytest.raises(DatabaseError, match=r"notes\.txt is not a database; choose another file"):
        Database(text)
    assert text.read_text().startswith("no database")
    other = tmp_path / "other.sqlite3"
    with contextlib.closing(sqlite3.connect(other)) as connection:
        connection.execute("CREATE TABLE events (mine)")
    with pytest.raises(DatabaseError, match="is not a telemetry database; choose another file"):
        Database(other)
    assert rows(other, "SELECT name FROM sqlite_schema") == [("events",)]


def made_by(*statements: str) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
            for statement in statements:
                connection.execute(statement)

    return make


@pytest.mark.parametrize(
    "make",
    [
        made_by("PRAGMA application_id = 0x47504B47"),
        made_by("PRAGMA user_version = 3"),
        made_by("PRAGMA journal_mode = WAL"),
        made_by("CREATE TABLE theirs (x)", "DROP TABLE theirs"),
    ],
    ids=["application_id", "user_version", "WAL", "dropped"],
)
def test_file_of_another_program_without_tables_is_left_alone(
    make: Callable[[Path], None], path: Path
) -> None:
    make(path)
    before = path.read_bytes()
    refusal = "is not a telemetry database; choose another file"

    with pytest.raises(DatabaseError, match=refusal):
        Database(path)
    with pytest.raises(DatabaseError, match=refusal), open_readonly(path):
        pass

    assert path.read_bytes() == before


@pytest.mark.parametrize("size", [0, 4096], ids=["new", "begun"])
def test_empty_file_is_filled(size: int, path: Path) -> None:
    path.touch()
    if size:  # a collector was killed while it made the file
        made_by(f"PRAGMA application_id = {APPLICATION_ID}", "PRAGMA journal_mode = WAL")(path)
        with (
            pytest.raises(DatabaseError, match=r"telemetry\.sqlite3 is empty"),
            open_readonly(path),
        ):
            pass
    assert path.stat().st_size == size
    with writing(path) as writer:
        writer.store([message(event(1))])
    assert rows(path, SEQS) == [(1,)]


# Who may read it.

_WATCHED = """
import os, sys
from pathlib import Path, PureWindowsPath
from redvsblue_telemetry.collector.messages import read_message
from redvsblue_telemetry.collector.storage.database import Database
from redvsblue_telemetry.collector.storage.writer import Writer
from tests.support.command import environment

os.umask(0)
folder = Path(sys.argv[1])
calls = []

def note(event, _):
    if event in ("sqlite3.connect", "open"):  # before the file is opened, by SQLite or by Python
        calls.append({each.name: oct(each.stat().st_mode & 0o777) for each in folder.iterdir()})

sys.addaudithook(note)
database = Database(folder / "telemetry.sqlite3")
writer = Writer(database)
assert not writer.store([read_message(sys.argv[2])]).rejected
note("open", None)
print(calls)
"""


@needs_modes
def test_new_database_is_private_from_its_first_byte(tmp_path: Path) -> None:
    event_ = '[{"id":"","type":"t","timestamp":1,"sessionId":"s","seq":1,"data":{}}]'
    done = subprocess.run(
        [sys.executable, "-c", _WATCHED, tmp_path, event_],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    before, *seen = ast.literal_eval(done.stdout)
    assert before == {}
    assert {mode for files in seen for mode in files.values()} == {"0o600"}
    name = "telemetry.sqlite3"
    assert all(name in files for files in seen)  # before SQLite opened it for the first time
    assert seen[-1].keys() == {name, f"{name}-wal", f"{name}-shm"}


@needs_modes
def test_file_at_the_end_of_a_link_is_private_too(path: Path) -> None:
    link = path.with_name("link")
    link.symlink_to(path)
    Database(link).close()
    assert path.stat().st_mode & 0o777 == 0o600
    assert link.is_symlink()


@needs_modes
@pytest.mark.parametrize(
    ("mode", "is_exposed"), [(0o644, True), (0o640, True), (0o620, False), (0o600, False)]
)
def test_file_that_others_may_read_is_left_so_and_logged(
    mode: int, is_exposed: bool, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    Database(path).close()
    assert caplog.messages == []
    path.chmod(mode)

    Database(path).close()

    assert path.stat().st_mode & 0o777 == mode
    expected = f"other users of this machine may read {path}; unless that is meant: chmod 600 "
    assert len(caplog.messages) == is_exposed
    assert all(text.startswith(expected) for text in caplog.messages)
    if is_exposed:
        subprocess.run(["sh", "-c", caplog.messages[0].partition("meant: ")[2]], check=True)
        Database(path).close()
        assert len(caplog.messages) == 1  # its advice works


def test_tables_of_another_version_are_left_alone(path: Path) -> None:
    Database(path).close()
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA user_version = 99")
    with pytest.raises(DatabaseError, match="schema version 99"):
        Database(path)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("", "is a directory; name a file in it"),
        ("missing/telemetry.sqlite3", "can't be created: the directory .*missing does not exist"),
        ("file/telemetry.sqlite3", "can't be created: .*(file does not exist|Not a directory)"),
        (os.devnull, "is not a regular file"),
    ],
)
def test_a_place_where_no_file_can_be_says_so(tmp_path: Path, name: str, reason: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DatabaseError, match=reason):
        Database(tmp_path / name)


def test_names_that_mean_something_in_a_uri_are_names(tmp_path: Path) -> None:
    path = tmp_path / f"a{'' if IS_WINDOWS else '?'}mode=memory&b#c%41.sqlite3"
    with writing(path) as writer:
        writer.store([message(event(1))])
    assert rows(path, SEQS) == [(1,)]


@pytest.mark.parametrize(
    ("path", "uri"),
    [
        (r"C:\a folder\t.sqlite3", "file:///C:/a%20folder/t.sqlite3"),
        (r"\\host\share\t.sqlite3", "file:////host/share/t.sqlite3"),
    ],
)
def test_share_of_windows_is_a_path_for_sqlite(path: str, uri: str) -> None:
    assert _without_host(PureWindowsPath(path).as_uri()) == uri


def test_temporary_databases_are_apart_and_deleted_when_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with writing(None) as one, writing(None) as other:
        one.store([message(event(1))])
        assert other.store([message(event(1))]).repeats == 0
        with one._database.reading() as reader:
            assert reader.execute(SEQS).fetchall() == [(1,)]
        assert len(list(tmp_path.iterdir())) == 2
    assert list(tmp_path.iterdir()) == []


def test_no_place_for_a_temporary_database_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "missing"))
    with pytest.raises(DatabaseError, match=r"cannot create a temporary directory: .*missing"):
        Database(None)


def test_readers_and_the_writer_dont_wait_for_each_other(path: Path) -> None:
    with writing(path, busy_timeout=0.05) as writer:
        writer.store([message(*(event(n) for n in range(1, 3000)))])
        with writer._database.reading() as reader:
            found = reader.execute(SEQS)
            assert found.fetchone() == (1,)
            writer.store([message(event(3000))])
            with pytest.raises(sqlite3.OperationalError):
                reader.execute("DELETE FROM events")


def test_a_reader_is_kept_for_the_next_one_as_if_it_were_new(path: Path) -> None:
    with writing(path) as writer:
        database = writer._database
        with database.reading() as first:
            first.execute("BEGIN")
            assert first.execute(SEQS).fetchall() == []
            first.set_progress_handler(lambda: True, 1)
        writer.store([message(event(1))])
        with database.reading() as second, database.reading() as third:
            assert second is first
            assert third is not first
            for reader in (second, third):
                assert reader.execute(SEQS).fetchall() == [(1,)]
                with pytest.raises(sqlite3.OperationalError, match="readonly"):
                    reader.execute("DELETE FROM events")
        assert writer.empty_log()  # no kept reader is in the way
    with pytest.raises(sqlite3.ProgrammingError, match="closed"):
        first.execute(SEQS)
    assert sorted(file.name for file in path.parent.iterdir()) == [path.name]


def test_a_reader_that_failed_is_not_kept(path: Path) -> None:
    with writing(path) as writer:
        with pytest.raises(ZeroDivisionError), writer._database.reading() as first:
            raise ZeroDivisionError
        with writer._database.reading() as second:
            assert second is not first


@open_files_move
def test_a_kept_reader_does_not_read_a_file_that_was_replaced(path: Path) -> None:
    with writing(path) as writer:
        with writer._database.reading() as first:
            pass
        path.rename(path.with_name("moved"))
        with writing(path), writer._database.reading() as second:
            assert second is not first


def test_a_reader_that_outlives_the_database_is_closed_at_its_end(path: Path) -> None:
    with writing(path) as writer:
        reading = writer._database.reading()
        reader = reading.__enter__()
    assert reader.execute(SEQS).fetchall() == []
    reading.__exit__(None, None, None)
    with pytest.raises(sqlite3.ProgrammingError, match="closed"):
        reader.execute(SEQS)
