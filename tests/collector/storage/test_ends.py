"""The ends of sessions, for alerts: as they are stored, and after a restart."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from redvsblue_telemetry.collector.messages import read_message
from redvsblue_telemetry.collector.models import Outcome
from redvsblue_telemetry.collector.storage import queries
from redvsblue_telemetry.collector.storage.database import Database
from redvsblue_telemetry.collector.storage.reports import End
from redvsblue_telemetry.collector.storage.writer import Writer


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    database = Database(tmp_path / "telemetry.sqlite3")
    yield database
    database.close()


@pytest.fixture
def writer(database: Database) -> Iterator[Writer]:
    writer = Writer(database)
    yield writer
    writer.close()


def report(session: str, reason: str | None, *, number: int = 1, **fields: object) -> str:
    known = {"sessionId": session, "number": number, "state": "ended", "reason": reason}
    if reason is None:
        known = {"sessionId": session, "number": number, "state": "running"}
    return json.dumps({"report": {**known, **fields}})


def stored_ends(writer: Writer, *messages: str) -> list[End]:
    return writer.store([read_message(message.encode()) for message in messages]).ends


@pytest.mark.parametrize(
    ("reason", "outcome"),
    [
        ("stopped", Outcome.WELL),
        ("exit", Outcome.WELL),
        ("a reason of another client's", Outcome.WELL),
        ("switched_off", Outcome.SWITCHED_OFF),
        ("crashed", Outcome.CRASHED),
        ("killed", Outcome.KILLED),
    ],
)
def test_the_first_report_of_an_end_is_news(writer: Writer, reason: str, outcome: str) -> None:
    assert stored_ends(writer, report("s", None)) == []
    assert stored_ends(writer, report("s", reason, number=2)) == [End(outcome, has_gaps=False)]
    again = report("s", reason, number=2), report("s", reason, number=3)
    assert [stored_ends(writer, message) for message in again] == [[], []]


def test_of_several_reports_in_a_group_the_newest_counts(writer: Writer) -> None:
    messages = report("s", None), report("s", "crashed", number=2), report("t", "stopped")
    assert stored_ends(writer, *messages) == [
        End(Outcome.CRASHED, has_gaps=False),
        End(Outcome.WELL, has_gaps=False),
    ]


def test_only_gaps_that_nothing_explains_are_gaps(writer: Writer) -> None:
    explained = report("s", "stopped", lastSeq=3, gaps=[[1, 3, "overflow"]])
    waiting = report("t", "stopped", lastSeq=3, buffered=3)
    unexplained = report("u", "stopped", lastSeq=3, gaps=[[1, 2, "overflow"]])
    ends = stored_ends(writer, explained, waiting, unexplained)
    assert [end.has_gaps for end in ends] == [False, False, True]


def test_the_ends_since_a_time_are_read_in_order_with_the_last_arrival(
    writer: Writer, database: Database
) -> None:
    before = time.time_ns() // 1_000_000
    stored_ends(writer, report("s", "crashed", lastSeq=3))
    stored_ends(writer, report("running", None))
    with database.reading() as connection:
        found, last = queries.newest_ends(connection, before)
        ((reported, end),) = found
        assert end == End(Outcome.CRASHED, has_gaps=True)
        assert last is not None
        assert before <= reported <= last
        assert queries.newest_ends(connection, last + 1) == ([], last)


def test_an_empty_database_has_no_ends(writer: Writer, database: Database) -> None:
    with database.reading() as connection:
        assert queries.newest_ends(connection, 0) == ([], None)


def test_the_ends_are_found_by_an_index_and_their_number_is_limited(
    writer: Writer, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queries, "_MAX_ENDS", 3)
    for number in range(5):
        reason = "crashed" if number == 4 else "stopped"
        stored_ends(writer, report(f"s{number}", reason))
    with database.reading() as connection:
        statements: list[str] = []
        connection.set_trace_callback(statements.append)
        found, _ = queries.newest_ends(connection, 0)
        connection.set_trace_callback(None)
        assert [end.outcome for _, end in found].count(Outcome.CRASHED) == 1
        assert len(found) == 3
        selects = [statement for statement in statements if statement.startswith("SELECT")]
        assert len(selects) == 2
        for statement in selects:
            plan = connection.execute(f"EXPLAIN QUERY PLAN {statement}").fetchall()
            assert all("sessions_by_last_received" in row[3] for row in plan), plan
