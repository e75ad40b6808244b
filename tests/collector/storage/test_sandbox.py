"""SQL of a person: what it can read, and that each lock holds alone."""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from redvsblue_telemetry.collector.messages import read_message
from redvsblue_telemetry.collector.models import EventFilter, StoredEvent
from redvsblue_telemetry.collector.storage import sandbox
from redvsblue_telemetry.collector.storage.database import Database, open_readonly
from redvsblue_telemetry.collector.storage.queries import events, sessions
from redvsblue_telemetry.collector.storage.sandbox import (
    MAX_SQL,
    Query,
    QueryError,
    TooSlowError,
    new_schema,
)
from redvsblue_telemetry.collector.storage.views import views
from redvsblue_telemetry.collector.storage.writer import Writer
from tests.support.systems import IS_WINDOWS

NOW = 1_795_914_000_000
HOUR = 3_600_000
ENDLESS = "WITH RECURSIVE r(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM r) SELECT count(*) FROM r"
CRASHES = (
    "SELECT e.seq FROM events e JOIN sessions s USING (session) "
    "WHERE s.outcome = 'crashed' AND e.type = 'crash'"
)
CROSS_JOIN = f"SELECT count(*) FROM {', '.join(f'events e{number}' for number in range(12))}"
DOUBLING = (
    "WITH RECURSIVE r(x) AS (SELECT 'aaaaaaaa' UNION ALL SELECT x || x FROM r) "
    "SELECT max(length(x)) FROM r"
)
REPLACING = (
    "SELECT replace(replace(replace(hex(printf('%9999s', 1)), '3', hex(printf('%999s', 1))), "
    "'2', hex(printf('%999s', 1))), '0', hex(printf('%999s', 1)))"
)
BOMB = (
    "WITH a0 AS (SELECT 1 AS x LIMIT 1)"
    + "".join(f", a{n} AS (SELECT p.x FROM a{n - 1} p, a{n - 1} q LIMIT 1)" for n in range(1, 40))
    + " SELECT * FROM a39"
)
"""It takes time and memory before it is a statement."""
EITHER = "only reads|can't be read"  # SQLite asks for a pragma first, or for its table
needs_limits = pytest.mark.skipif(
    sys.version_info < (3, 11), reason="Python: 3.10 can't set SQLite's limits"
)


def event(seq: int, **fields: Any) -> dict[str, Any]:
    whole = {"sessionId": "red", "seq": seq, "type": "hit", "timestamp": 1000 + seq}
    return {**whole, "id": f"run-{seq}", "data": {"damage": seq}, **fields}


EVENTS = [
    event(1, version="1.4.2", context={"player": "p-17"}),
    event(2, type="shot", data={"text": "it's 100 %"}),
    event(3, id="other"),
    event(4, id=""),
    event(6, id="\0run-6", type="crash"),
    event(1, sessionId="blue", id="elsewhere", version="1.4.1"),
    event(9, sessionId="green", id="run-9"),
]
REPORTS = [
    {"sessionId": "red", "number": 1, "state": "ended", "reason": "crashed", "startedAt": 900,
     "at": 2000, "lastSeq": 6, "emitted": 6, "version": "1.4.2"},
]  # fmt: skip


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = tmp_path / "t.sqlite3"
    times = iter([NOW - HOUR, NOW])
    with (
        contextlib.closing(Database(file)) as database,
        contextlib.closing(
            Writer(
                database,
                lambda type_, _: "data.text: too long" if type_ == "shot" else None,
                lambda: next(times),
            )
        ) as writer,
    ):
        reports = [json.dumps({"report": report}) for report in REPORTS]
        writer.store([read_message(each) for each in (json.dumps(EVENTS[:-1]), *reports)])
        writer.store([read_message(json.dumps(EVENTS[-1:])), read_message("not json \xff")])
    return file


@contextlib.contextmanager
def query(path: Path, **known: Any) -> Iterator[Query]:
    schema = new_schema()
    with open_readonly(path, schema=schema) as connection:
        yield Query(connection, schema, views(**{"now": NOW, **known}))


def rows(path: Path, sql: str, seconds: float | None = None, **known: Any) -> list[tuple[Any, ...]]:
    with query(path, **known) as asked, asked.run(sql, seconds) as (_, found):
        return list(found)


def refusal(path: Path, sql: str, seconds: float | None = 20.0) -> str:
    with pytest.raises(QueryError) as caught:
        rows(path, sql, seconds)
    return str(caught.value)


def table(path: Path, sql: str) -> list[dict[str, Any]]:
    with query(path) as asked, asked.run(sql) as (columns, found):
        return [dict(zip(columns, row, strict=True)) for row in found]


def test_events_are_those_that_the_api_returns(path: Path) -> None:
    def plain(event: StoredEvent) -> dict[str, Any]:
        return {
            "arrival": event.arrival,
            "received": event.received,
            "session": event.session_id,
            "seq": event.seq,
            "type": event.type,
            "timestamp": event.timestamp,
            "id": event.id,
            "version": event.version,
            "data": bytes(event.data).decode(),
            "context": bytes(event.context).decode() if event.context else None,
            "fault": event.fault,
        }

    with open_readonly(path) as connection:
        expected = [plain(each) for each in events(connection, EventFilter())]

    assert len(expected) == len(EVENTS)
    assert [each["id"] for each in expected] == [each["id"] for each in EVENTS]
    assert table(path, "SELECT * FROM events ORDER BY arrival") == expected


def test_sessions_are_those_that_the_api_returns(path: Path) -> None:
    names = ("version", "outcome", "reason", "events", "missing", "repeats", "deleted", "crashes",
             "faults", "first_received", "last_received", "first_timestamp", "last_timestamp",
             "highest", "last_seq", "waiting")  # fmt: skip
    with open_readonly(path) as connection:
        expected = {
            each.session_id: {name: getattr(each, name) for name in names}
            for each in sessions(connection, now=NOW)
        }
    found = {each["session"]: each for each in table(path, "SELECT * FROM sessions")}

    assert {key: {name: each[name] for name in names} for key, each in found.items()} == expected
    assert {key: each["outcome"] for key, each in found.items()} == {
        "red": "crashed",
        "blue": "no_word",
        "green": "running",
    }
    assert (found["red"]["started"], found["red"]["ended"]) == (900, 2000)
    assert (found["blue"]["started"], found["blue"]["ended"]) == (1001, None)
    assert json.loads(found["red"]["lost"]) == {"unexplained": 1}


def test_session_whose_client_is_connected_is_running(path: Path) -> None:
    hostile = "it's \\ \"\u202e"
    outcome = "SELECT outcome FROM sessions WHERE session = 'blue'"
    assert rows(path, outcome, connected={"blue", hostile}) == [("running",)]
    assert rows(path, outcome, connected={hostile}) == [("no_word",)]


def test_rejected_messages_are_texts_whatever_their_bytes_are(path: Path) -> None:
    ((arrival, received, reason, text),) = rows(path, "SELECT * FROM rejected")
    assert (arrival, received, text) == (1, NOW, "not json \xff")
    assert "JSON array" in reason


@pytest.mark.parametrize(
    ("sql", "expected"),
    [
        ("SELECT count(*) FROM events", [(7,)]),
        ("select sum(data ->> '$.damage') FROM events WHERE type = 'hit'", [(18,)]),
        ("-- a comment\n/* and ; one */ SELECT 1;", [(1,)]),
        ("WITH runs AS (SELECT 1 AS x) SELECT count(*), max(x) FROM runs", [(1, 1)]),
        ("VALUES (1, 'a')", [(1, "a")]),
        (CRASHES, [(6,)]),
        ("SELECT j.key FROM events e, json_each(data) AS j WHERE e.type = 'shot'", [("text",)]),
        ("SELECT date(0, 'unixepoch'), upper('a'), row_number() OVER ()", [("1970-01-01", "A", 1)]),
        ("WITH RECURSIVE r(x) AS (VALUES (1) UNION ALL SELECT 2 FROM r LIMIT 3) SELECT x FROM r",
         [(1,), (2,), (2,)]),
    ],
)  # fmt: skip
def test_query_reads_the_views(path: Path, sql: str, expected: list[tuple[Any, ...]]) -> None:
    assert rows(path, sql) == expected


@pytest.mark.parametrize(
    ("sql", "reason"),
    [
        ("SELECT count(*) FROM types", "the table types can't be read"),
        ("SELECT text FROM contexts", "the table contexts can't be read"),
        ("SELECT * FROM main.events", "no such table: main.events"),
        ("SELECT count(*) FROM main.runs", "no such table: main.runs"),
        ("SELECT count(*) FROM temp.runs", "the table runs can't be read"),
        ("WITH events AS (SELECT * FROM runs) SELECT * FROM events", "the table runs can't be"),
        ("SELECT 1 WHERE EXISTS (SELECT 1 FROM reports)", "the table reports can't be read"),
        ("SELECT * FROM sqlite_schema", "the table sqlite_master can't be read"),
        ("SELECT count(*) FROM sqlite_master", "the table sqlite_master can't be read"),
        ("SELECT sql FROM temp.sqlite_schema", "can't be read"),
        ("SELECT count(*) FROM temp.sqlite_master", "the table sqlite_master can't be read"),
        ("SELECT count(*) FROM sqlite_temp_schema", "can't be read"),
        ("SELECT seq FROM sqlite_sequence", "the table sqlite_sequence can't be read"),
        ("SELECT count(*) FROM sqlite_sequence", "the table sqlite_sequence can't be read"),
        ("SELECT * FROM pragma_database_list", EITHER),
        ("SELECT * FROM pragma_table_info('events')", EITHER),
        ("SELECT * FROM dbstat", ""),  # not in every build of SQLite
        ("SELECT * FROM sqlite_dbpage", ""),
        ("SELECT rowid FROM types", "can't be read"),
    ],
)
def test_nothing_else_can_be_read(path: Path, sql: str, reason: str) -> None:
    assert re.search(reason, refusal(path, sql))


WRITES = [
    "INSERT INTO events VALUES (1)",
    "WITH x AS (SELECT 1) DELETE FROM events",
    "WITH x AS (SELECT 1) INSERT INTO temp.types SELECT * FROM x",
    "UPDATE sessions SET version = 'x'",
    "REPLACE INTO events VALUES (1)",
    "CREATE TABLE x (y)",
    "CREATE TEMP TABLE x (y)",
    "CREATE TEMP VIEW x AS SELECT 1",
    "DROP VIEW events",
    "ALTER TABLE events RENAME TO x",
    "ATTACH '/tmp/x' AS x",
    "DETACH temp",
    "PRAGMA query_only = 0",
    "PRAGMA user_version",
    "BEGIN",
    "COMMIT",
    "SAVEPOINT x",
    "VACUUM",
    "VACUUM INTO '/tmp/x'",
    "ANALYZE",
    "REINDEX",
    "EXPLAIN SELECT 1",
    "EXPLAIN QUERY PLAN SELECT * FROM events",
]


@pytest.mark.parametrize("sql", WRITES)
def test_statement_that_is_no_select_is_refused(path: Path, sql: str) -> None:
    assert refusal(path, sql)


def test_file_stays_as_it_was(path: Path, tmp_path: Path) -> None:
    before = hashlib.sha256(path.read_bytes()).digest()
    for sql in WRITES:
        refusal(path, sql)
    assert hashlib.sha256(path.read_bytes()).digest() == before
    assert [each.name for each in tmp_path.iterdir()] == ["t.sqlite3"]


@pytest.mark.parametrize("sql", [each for each in WRITES if not each.startswith("EXPLAIN")])
def test_authorizer_refuses_without_the_look_at_the_first_word(
    path: Path, sql: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sandbox, "_check", lambda _: None)
    assert refusal(path, sql)
    with query(path) as asked, asked.run("SELECT count(*) FROM events") as (_, found):
        assert list(found) == [(7,)]


@pytest.mark.parametrize("sql", [each for each in WRITES if "VACUUM INTO" not in each])
def test_database_is_read_only_without_the_authorizer(path: Path, sql: str) -> None:
    """A temporary table would harm nobody; the file is that of the test above."""
    before = hashlib.sha256(path.read_bytes()).digest()
    schema = new_schema()
    with open_readonly(path, schema=schema) as connection:
        Query(connection, schema, views())
        connection.set_authorizer(None)
        if sys.version_info >= (3, 11):
            assert connection.getlimit(sqlite3.SQLITE_LIMIT_ATTACHED) == 1
        with contextlib.suppress(sqlite3.Error):
            connection.execute(sql.replace("events", f"{schema}.events", 1))
        connection.execute("PRAGMA query_only = 0")
        with pytest.raises(sqlite3.OperationalError, match="readonly"):
            connection.execute(f"DELETE FROM {schema}.events")
    assert hashlib.sha256(path.read_bytes()).digest() == before


@pytest.mark.parametrize(
    "function",
    ["load_extension('x')", "zeroblob(1000000000)", "randomblob(9)", "sqlite_version()",
     "readfile('/etc/passwd')", "fits_text('a', x'61')", "forbidden_table()",
     "sqlite_compileoption_get(1)", "last_insert_rowid()", "fts3_tokenizer('simple')"],
)  # fmt: skip
def test_function_that_is_not_in_the_list_is_refused(path: Path, function: str) -> None:
    reason = refusal(path, f"SELECT {function}")
    name = function.partition("(")[0]
    assert name in reason


@pytest.mark.parametrize(
    ("sql", "reason"),
    [
        ("", "the query is empty; write a SELECT"),
        (" -- nothing\n", "the query is empty; write a SELECT"),
        ("/* SELECT 1", "the query is empty; write a SELECT"),
        ("SELECT 1; SELECT 2", "there must be one statement"),
        ("SELECT 1; DROP TABLE events", "there must be one statement"),
        ("SELECT 'a\0b'", "the query has a null character"),
        ("SELECT '\ud800'", "the query is not valid Unicode"),
        ("SELECT ?", "a query has no parameters; put texts into 'quotes'"),
        ("SELECT :name", "a query has no parameters; put texts into 'quotes'"),
        ("SELECT nobody FROM events", "no such column: nobody"),
        ("SELECT fullname, bindings FROM events", "no such column: fullname"),
        ("SELECT bindings FROM events", "no such column: bindings"),
        (
            "SELECT * FROM evnts",
            "no such table: evnts; there are events, sessions, counts, rejected",
        ),
        ("SELECT forbidden_table()", "the function forbidden_table is not allowed"),
        ("SELECT (", "incomplete input"),
        ("PRAGMA user_version", "a query must begin with SELECT or WITH"),
        ("SELECT '" + "x" * MAX_SQL + "'", "the query has 20,009 characters; the maximum is"),
    ],
)
def test_query_that_is_wrong_is_explained(path: Path, sql: str, reason: str) -> None:
    assert refusal(path, sql).startswith(reason)


@pytest.mark.parametrize(
    "sql",
    [
        ENDLESS,
        CROSS_JOIN,
        "WITH RECURSIVE r(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM r) SELECT x FROM r",
    ],
)
def test_query_without_an_end_is_ended(path: Path, sql: str) -> None:
    began = time.monotonic()
    with pytest.raises(TooSlowError, match=r"longer than 0\.3 s"):
        rows(path, sql, 0.3)
    assert time.monotonic() - began < 10


@needs_limits
@pytest.mark.parametrize(
    "sql",
    [
        DOUBLING,
        REPLACING,
        "SELECT group_concat(hex(printf('%99999s', 1))) FROM events a, events b",
    ],
)
def test_texts_have_a_limit(path: Path, sql: str) -> None:
    assert refusal(path, sql) == "a text is too long; it may have a megabyte"


@needs_limits
def test_patterns_have_a_limit(path: Path) -> None:
    pattern = "replace(printf('%2000s', ''), ' ', '%')"
    assert "pattern too complex" in refusal(path, f"SELECT 'a' LIKE {pattern}")


@needs_limits
def test_width_longer_than_a_text_may_be_makes_none(path: Path) -> None:
    assert rows(path, "SELECT printf('%1000000000d', 1)") in ([(None,)], [("",)])


@needs_limits
def test_columns_have_a_limit(path: Path) -> None:
    assert "too many columns" in refusal(path, f"SELECT {', '.join(['1'] * 201)}")


@pytest.mark.parametrize("version", [1, 2, 3, 4])
def test_file_of_an_older_version_has_the_same_views(tmp_path: Path, version: int) -> None:
    path = tmp_path / "old.sqlite3"
    script = Path(__file__).with_name(f"version_{version}.sql").read_text("utf-8")
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.executescript(script)

    assert rows(path, "SELECT count(*), count(DISTINCT session) FROM events") == [(5, 2)]
    found = table(path, "SELECT * FROM sessions WHERE session = 'red'")
    assert [(each["crashes"], each["deleted"]) for each in found] == [(1, 0)]
    assert "can't be read" in refusal(path, "SELECT * FROM runs")
    for name in views():
        assert rows(path, f"SELECT count(*) FROM {name}")


def in_process(path: Path, sql: str, **limits: Any) -> dict[str, Any]:
    """Run a query in a process, as a collector does."""
    asked = {
        "uri": f"{path.as_uri()}?mode=ro",
        "views": views(now=NOW),
        "sql": sql,
        "limit": 1000,
        "bytes": 10**6,
        "seconds": 30,
        "memory": 2**29,
        "file_bytes": 2**28,
        **limits,
    }
    with contextlib.closing(Database(path)):  # as a collector has it open
        done = subprocess.run(
            [sys.executable, "-I", "-S", sandbox.__file__],
            input=json.dumps(asked),
            capture_output=True,
            text=True,
            check=False,
        )
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_process_returns_the_same_rows(path: Path) -> None:
    sql = "SELECT seq, type, x'00ff' AS b FROM events WHERE type = 'hit' ORDER BY arrival LIMIT 1"
    expected = {"columns": ["seq", "type", "b"], "rows": [[1, "hit", "x'00ff'"]], "partial": False}
    assert in_process(path, sql) == expected


def test_process_has_a_limit_of_memory(path: Path) -> None:
    began = time.monotonic()
    assert in_process(path, BOMB, memory=2**26) == {"slow": "the query needs too much memory"}
    assert time.monotonic() - began < 20


def test_process_has_a_limit_of_temporary_data(path: Path) -> None:
    numbers = "WITH RECURSIVE r(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM r)"
    sql = f"{numbers} SELECT printf('%9999d', x) AS y FROM r ORDER BY y"
    found = in_process(path, sql, file_bytes=2**22, memory=2**26)
    lacking = "memory" if IS_WINDOWS else "room for temporary data"
    assert found == {"slow": f"the query needs too much {lacking}"}


def test_schema_of_the_tables_has_another_name_each_time() -> None:
    assert len({new_schema() for _ in range(100)}) == 100
