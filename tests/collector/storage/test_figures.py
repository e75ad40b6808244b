"""The sums over all sessions are those that adding up gives, after any history."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from redvsblue_telemetry.collector.messages import read_message
from redvsblue_telemetry.collector.models import MAX_PLAUSIBLE_MISSING, VersionHealth
from redvsblue_telemetry.collector.storage import figures, queries, schema
from redvsblue_telemetry.collector.storage.database import Database, open_readonly
from redvsblue_telemetry.collector.storage.schema import SCHEMA_VERSION
from redvsblue_telemetry.collector.storage.writer import Writer

START = 1_795_600_000_000
OUTCOMES = ("running", "well", "switched_off", "crashed", "killed", "no_word")

# The queries that these figures were read with before there were sums.

OUTCOME = """CASE WHEN state = 'ended' THEN
    CASE WHEN reason IN ('switched_off', 'crashed', 'killed') THEN reason ELSE 'well' END
    WHEN last_received > :quiet OR session_id IN (SELECT value FROM json_each(:connected))
        THEN 'running' ELSE 'no_word' END"""


def standing(connected: set[str], now: int) -> dict[str, object]:
    return {"quiet": now - 300_000, "connected": json.dumps(sorted(connected))}


def added_up(connection: sqlite3.Connection, connected: set[str], now: int) -> dict[str, Any]:
    rows = connection.execute(
        f"SELECT events - deleted, repeats, faults, missing, waiting, {OUTCOME} FROM sessions",
        standing(connected, now),
    ).fetchall()
    plausible = [row for row in rows if row[3] <= MAX_PLAUSIBLE_MISSING]
    return {
        "events": sum(row[0] for row in rows),
        "sessions": len(rows),
        "repeats": sum(row[1] for row in rows),
        "faults": sum(row[2] for row in rows),
        "missing": sum(row[3] for row in rows),
        "implausible_sessions": len(rows) - len(plausible),
        "implausible_missing": sum(row[3] for row in rows if row not in plausible),
        "waiting": sum(row[4] for row in plausible),
        "outcomes": {outcome: [row[5] for row in rows].count(outcome) for outcome in OUTCOMES},
        "types": dict(
            connection.execute(
                "SELECT name, events FROM types WHERE events > 0 ORDER BY events DESC, name"
            ).fetchall()
        ),
    }


def grouped(
    connection: sqlite3.Connection, connected: set[str], now: int
) -> list[tuple[int, VersionHealth]]:
    """The health of each version, with the time of its newest session."""
    rows = connection.execute(
        f"SELECT version, {OUTCOME} AS outcome, count(*), max(first_received) FROM sessions "
        "GROUP BY version, outcome",
        standing(connected, now),
    ).fetchall()
    found: dict[str | None, tuple[int, VersionHealth]] = {}
    for version, outcome, count, newest in rows:
        before, health = found.get(version, (0, VersionHealth(version, 0)))
        health.sessions += count
        setattr(health, outcome, count)
        found[version] = max(before, newest), health
    for _, health in found.values():
        ends = health.well + health.switched_off + health.crashed + health.killed
        if ends:
            health.crash_free = (health.well + health.switched_off) / ends
    return sorted(found.values(), key=lambda entry: -entry[0])


def check(connection: sqlite3.Connection, connected: set[str], now: int) -> None:
    totals = queries.totals(connection, connected=connected, now=now)
    expected = added_up(connection, connected, now)
    assert {name: getattr(totals, name) for name in expected} == expected

    found = queries.versions(connection, connected=connected, now=now, limit=1000)
    by_time = grouped(connection, connected, now)
    newest = {health.version: when for when, health in by_time}
    assert [newest[health.version] for health in found] == [when for when, _ in by_time]
    key = repr
    assert sorted(found, key=key) == sorted((health for _, health in by_time), key=key)
    for limit in (1, 2):
        few = queries.versions(connection, connected=connected, now=now, limit=limit)
        assert few == found[:limit]


def sums(connection: sqlite3.Connection) -> list[list[Any]]:
    """What is in the tables of sums, but for the newest session of all, which is not used."""
    columns = f"iif(name = {figures.ALL}, 0, newest), {', '.join(figures._COUNTS)}"
    return [
        connection.execute(query).fetchall()
        for query in (
            "SELECT * FROM totals",
            f"SELECT name, {columns} FROM versions ORDER BY name",
            "SELECT * FROM unended ORDER BY version, period",
        )
    ]


# Histories.

names = st.sampled_from("abcd")
versions = st.sampled_from([None, "1.0", "2.0", "", "0", "1"])
numbers = st.integers(0, 12) | st.sampled_from([2**32, 10**12, 10**12 + 1, 2**63 - 1])


def optional(**fields: Any) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}


events = st.builds(
    lambda session, seq, type_, version: {
        "sessionId": session, "seq": seq, "type": type_, "timestamp": seq - 2**62, "id": "i",
        "data": {}, **optional(version=version),
    },
    names, numbers, st.sampled_from(["hit", "crash", "miss"]), versions,
)  # fmt: skip
reports = st.builds(
    lambda session, number, state, reason, last, buffered, version: {
        "report": {
            "sessionId": session, "number": number, "state": state, "startedAt": START, "at": START,
            "lastSeq": last, "emitted": last, "delivered": 0, "rejected": 0, "dropped": {},
            "sampled": {}, "gaps": [[1, 2, "overflow"]], "reconnects": 0, "sdk": "0",
            "buffered": buffered, **optional(reason=reason, version=version),
        }
    },
    names, st.integers(1, 5), st.sampled_from(["running", "ended"]),
    st.sampled_from([None, "stopped", "exit", "crashed", "switched_off", "killed", "odd"]),
    numbers, numbers, versions,
)  # fmt: skip
steps = st.one_of(
    st.tuples(st.just("store"), st.lists(events, max_size=8)),
    st.tuples(st.just("report"), reports),
    st.tuples(st.just("nonsense"), st.none()),
    st.tuples(st.just("wait"), st.sampled_from([1, 4_999, 5_000, 61_000, 299_999, 300_000, 10**9])),
    st.tuples(st.just("delete"), names),
    st.tuples(st.just("shrink"), names),
    st.tuples(st.just("ask"), st.sets(names)),
    st.tuples(st.just("clear"), st.none()),
)


class Clock:
    """Milliseconds since the epoch, for the writer."""

    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> int:
        return self.now


def fault_of(type_: str, _: object) -> str | None:
    return "no good" if type_ == "miss" else None


@pytest.mark.timeout(300)
@settings(max_examples=150, deadline=None)
@given(st.lists(steps, max_size=25))
def test_figures_are_right_after_any_history(history: list[tuple[str, Any]]) -> None:
    clock = Clock()
    database = Database(None)
    storing = Writer(database, fault_of, clock)
    try:
        with database.reading() as connection:
            for what, value in history:
                follow(storing, clock, what, value)
                if what == "ask":
                    check(connection, value, clock.now)
            check(connection, set(), clock.now)
            check(connection, {"a", "c", "x"}, clock.now + 300_001)
        kept = sums(storing._connection)
        for statement in schema.count_anew():
            storing._connection.execute(statement)
        assert sums(storing._connection) == kept
    finally:
        storing.close()
        database.close()


@pytest.mark.parametrize("how", ["delete", "rename"])
def test_version_without_its_newest_session_is_as_new_as_the_one_before(
    how: str,
) -> None:
    clock = Clock()
    database = Database(None)
    storing = Writer(database, clock=clock)

    def store(session: str, version: str) -> None:
        clock.now += 1000
        whole = {"sessionId": session, "seq": clock.now, "type": "hit", "timestamp": 1, "id": "i"}
        follow(storing, clock, "store", [{**whole, "data": {}, "version": version}])

    for session, version in (("a", "1.0"), ("b", "2.0"), ("c", "1.0"), ("d", "3.0")):
        store(session, version)
    with database.reading() as connection:
        assert [each.version for each in queries.versions(connection)] == ["3.0", "1.0", "2.0"]
        if how == "delete":
            follow(storing, clock, "delete", "c")
        else:
            store("c", "0.1")
        order = [each.version for each in queries.versions(connection)]
        assert [version for version in order if version != "0.1"] == ["3.0", "2.0", "1.0"]
    storing.close()
    database.close()


def follow(storing: Writer, clock: Clock, what: str, value: Any) -> None:
    if what in ("store", "report"):
        storing.store([read_message(json.dumps(value))])
    elif what == "nonsense":
        storing.store([read_message(b"nonsense")])
    elif what == "wait":
        clock.now += value
    elif what == "clear":
        storing.clear()
    elif what in ("delete", "shrink"):
        change = (
            "DELETE FROM sessions"
            if what == "delete"
            else "UPDATE sessions SET deleted = (deleted + events) / 2"
        )
        storing._connection.execute(f"{change} WHERE session_id = ?", (value,))
        storing._forget()


# Older files.


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """A file of version 3 with some sessions."""
    path = tmp_path / "old.sqlite3"
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA journal_mode = WAL")
    for script in (schema._VERSION_1, schema._VERSION_2, schema._VERSION_3):
        connection.executescript(script)
    connection.execute(f"PRAGMA application_id = {schema.APPLICATION_ID}")
    connection.execute("PRAGMA user_version = 3")
    rows = [
        (
            f"s{n}", [None, "1", "2"][n % 3], n, n % 2, [n, 2**63 - 1][n % 7 == 3], 9,
            START + n, START + n, START + n, START + 61_000 * (n % 5),
            [None, "running", "ended"][n % 4 % 3], [None, "crashed", "stopped"][n % 5 % 3],
            json.dumps({"overflow": [n, 2**63 - 1][n % 7 == 3]}), n,
        )
        for n in range(1, 60)
    ]  # fmt: skip
    connection.executemany(
        "INSERT INTO sessions (session_id, version, events, repeats, missing, highest, "
        "first_timestamp, last_timestamp, first_received, last_received, state, reason, lost, "
        f"waiting) VALUES ({', '.join('?' * 14)})",
        rows,
    )
    connection.execute("INSERT INTO types (name, events, sampled) VALUES ('x', 5, 9)")
    connection.execute("INSERT INTO sampled VALUES (1, 1, 9), (2, 1, ?)", (2**63 - 1,))
    connection.execute("INSERT INTO lost VALUES ('overflow', ?)", (2**63 - 1,))
    connection.close()
    return path


def test_figures_of_an_old_file_are_right_before_and_after_it_is_upgraded(old: Path) -> None:
    for connected in (set[str](), {"s1", "s4", "s8"}):
        for now in (START, START + 400_000, START + 500_000):
            with open_readonly(old) as connection:
                check(connection, connected, now)
    database = Database(old)
    with database.reading() as connection:
        assert connection.execute("PRAGMA user_version").fetchone() == (SCHEMA_VERSION,)
        for connected in (set[str](), {"s1", "s4", "s8"}):
            for now in (START, START + 400_000, START + 500_000):
                check(connection, connected, now)
        totals = queries.totals(connection)
        assert totals.lost == {"overflow": sum(n for n in range(1, 60) if n % 7 != 3)}
        assert totals.sampled == {"x": 9}
    database.close()


# Plans: nothing goes through all rows of a table that grows.


def plans(connection: sqlite3.Connection, ask: Any) -> list[str]:
    """The plans of all statements that a query runs."""
    statements: list[str] = []
    connection.set_trace_callback(statements.append)
    ask()
    connection.set_trace_callback(None)
    return [
        row[3]
        for statement in statements
        if statement.startswith("SELECT")
        for row in connection.execute(f"EXPLAIN QUERY PLAN {statement}").fetchall()
    ]


def test_figures_read_no_table_that_grows_as_a_whole() -> None:
    database = Database(None)
    with database.reading() as connection:
        found = plans(connection, lambda: queries.totals(connection, connected={"a"}))
        found += plans(connection, lambda: queries.versions(connection, connected={"a"}))
    database.close()
    assert len(found) > 10
    scans = [plan for plan in found if plan.startswith("SCAN")]
    allowed = (
        "SCAN totals", "SCAN CONSTANT ROW", "SCAN known VIRTUAL TABLE",
        "SCAN types USING COVERING INDEX types_by_events",  # in their order, up to a limit
        "SCAN types USING COVERING INDEX types_by_sampled",
        "SCAN lost USING COVERING INDEX lost_by_events",
        "SCAN versions USING INDEX versions_by_newest",  # the same
    )  # fmt: skip
    assert [plan for plan in scans if not plan.startswith(allowed)] == []
    assert [plan for plan in found if "ORDER BY" in plan] == []
    recent = "SEARCH sessions USING COVERING INDEX sessions_unended (last_received>? AND"
    assert len([plan for plan in found if plan.startswith(recent)]) == 2
