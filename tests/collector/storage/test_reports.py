"""Reports in the database: which one counts, and what sessions and totals say after it."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from redvsblue_telemetry._shared import LARGEST_INTEGER
from redvsblue_telemetry.collector.messages import Message, read_message
from redvsblue_telemetry.collector.models import Loss, Outcome, SessionDetail
from redvsblue_telemetry.collector.storage import queries
from redvsblue_telemetry.collector.storage.database import Database
from redvsblue_telemetry.collector.storage.writer import Stored, Writer

MINUTE = 60_000  # milliseconds


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


@pytest.fixture
def connection(database: Database) -> Iterator[sqlite3.Connection]:
    with database.reading() as connection:
        yield connection


def events(*numbers: int, session: str = "s", type: str = "hit", **fields: Any) -> Message:
    parts = [
        {"sessionId": session, "seq": n, "type": type, "timestamp": 1000 + n, "id": str(n)}
        | {"data": {}, **fields}
        for n in numbers
    ]
    return read_message(json.dumps(parts))


def report(number: int = 1, state: str = "running", **fields: Any) -> Message:
    whole = {"sessionId": "s", "number": number, "state": state, "startedAt": 900, "at": 2000}
    message = read_message(json.dumps({"report": whole | fields}))
    assert len(message.reports) == 1
    return message


def ended(number: int = 2, reason: str = "stopped", **fields: Any) -> Message:
    return report(number, "ended", reason=reason, **fields)


def the_session(connection: sqlite3.Connection, **standing: Any) -> SessionDetail:
    found = queries.session(connection, "s", **standing)
    assert found is not None
    return found


def lost(connection: sqlite3.Connection) -> dict[str, int]:
    session = the_session(connection)
    assert sum(session.lost.values()) + session.waiting == session.missing
    assert (session.lost, session.waiting) == (
        queries.sessions(connection)[0].lost,
        queries.sessions(connection)[0].waiting,
    )
    return session.lost


# Which report counts.


def test_session_exists_by_its_report_alone(writer: Writer, connection: sqlite3.Connection) -> None:
    stored = writer.store([report(version="1.4", sampled={"spark": 7})])
    assert (stored.events, stored.repeats, stored.rejected, stored.reports) == ([], 0, 0, 1)

    session = the_session(connection)

    assert (session.events, session.missing, session.highest) == (0, 0, 0)
    assert (session.first_timestamp, session.last_timestamp) == (900, 2000)
    assert (session.version, session.started_at, session.last_seq) == ("1.4", 900, 0)
    assert session.sampled == {"spark": 7}
    assert (session.gaps, session.losses, session.types) == ([], [], {})
    assert session.report == report(version="1.4", sampled={"spark": 7}).reports[0]

    writer.store([events(1)])
    session = the_session(connection)
    assert (session.events, session.first_timestamp, session.last_timestamp) == (1, 1001, 1001)


@pytest.mark.parametrize("in_one_group", [True, False])
def test_newest_report_counts_even_if_an_older_one_comes_later(
    writer: Writer, connection: sqlite3.Connection, in_one_group: bool
) -> None:
    messages = [
        report(1, startedAt=900, lastSeq=1),
        ended(3, "crashed", startedAt=900, lastSeq=3),
        report(2, startedAt=900, lastSeq=2),
    ]
    for group in [messages] if in_one_group else [[message] for message in messages]:
        writer.store(group)

    session = the_session(connection)
    assert (session.outcome, session.last_seq) == (Outcome.CRASHED, 3)
    assert session.report is not None
    assert session.report.number == 3

    writer.store([report(1, startedAt=901)])  # the same id, in another run
    assert the_session(connection).outcome == Outcome.RUNNING


def test_another_writer_knows_the_newest_report(
    database: Database, writer: Writer, connection: sqlite3.Connection
) -> None:
    writer.store([events(1), ended(5, "killed", lastSeq=3)])
    other = Writer(database)
    try:
        other.store([report(4), events(2)])
    finally:
        other.close()
    session = the_session(connection)
    assert (session.outcome, session.missing, session.highest) == (Outcome.KILLED, 1, 2)


def test_report_is_stored_with_the_group_or_not_at_all(
    writer: Writer, connection: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> Stored:
        raise sqlite3.OperationalError("disk I/O error")

    with monkeypatch.context() as patch:
        patch.setattr(writer, "_count_crashes", fail)
        with pytest.raises(Exception, match="disk I/O error"):
            writer.store([report(), events(1, type="crash")])
    assert queries.sessions(connection) == []
    assert queries.totals(connection).sessions == 0

    writer.store([report(), events(1)])
    assert the_session(connection).events == 1


def test_report_that_cannot_be_stored_is_rejected_and_the_rest_is_stored(
    writer: Writer, connection: sqlite3.Connection
) -> None:
    faulty = report(9)
    faulty.reports[0].last_seq = LARGEST_INTEGER + 1  # no message can say so
    stored = writer.store([events(1), faulty, ended()])
    assert (len(stored.events), stored.rejected, stored.reports) == (1, 1, 1)
    assert the_session(connection).outcome == Outcome.WELL
    (rejected,) = queries.rejected(connection)
    assert "the collector could not store it" in rejected.reason


# Outcomes.


@pytest.mark.parametrize(
    ("reason", "outcome"),
    [
        ("stopped", Outcome.WELL),
        ("exit", Outcome.WELL),
        ("crashed", Outcome.CRASHED),
        ("killed", Outcome.KILLED),
        ("switched_off", Outcome.SWITCHED_OFF),
        ("a reason of the future", Outcome.WELL),
    ],
)
def test_ended_session_has_the_outcome_of_its_reason(
    writer: Writer, connection: sqlite3.Connection, reason: str, outcome: str
) -> None:
    writer.store([events(1), ended(reason=reason)])
    session = the_session(connection, connected={"s"}, now=10**15)  # perhaps its adopter's
    assert (session.outcome, session.reason, session.since) == (outcome, reason, 2000)
    assert queries.sessions(connection)[0].outcome == outcome
    assert queries.totals(connection).outcomes[outcome] == 1


@pytest.mark.parametrize("has_report", [True, False])
def test_session_that_is_silent_and_gone_for_five_minutes_has_sent_no_word(
    writer: Writer, connection: sqlite3.Connection, has_report: bool
) -> None:
    stored = writer.store([events(1), *([report()] if has_report else [])])
    later = stored.received + 5 * MINUTE

    def outcome(**standing: Any) -> tuple[str, int]:
        session = the_session(connection, **standing)
        (listed,) = queries.sessions(connection, **standing)
        (streamed,) = queries.stream_sessions(connection, **standing)
        totals = queries.totals(connection, **standing)
        assert listed == streamed
        assert (listed.outcome, listed.since) == (session.outcome, session.since)
        assert totals.outcomes == dict.fromkeys(totals.outcomes, 0) | {session.outcome: 1}
        assert session.connected == ("s" in standing.get("connected", ()))
        return session.outcome, session.since

    start = 900 if has_report else 1001
    assert outcome(now=later - 1) == (Outcome.RUNNING, start)
    assert outcome(now=later) == (Outcome.NO_WORD, stored.received)
    assert outcome(now=later, connected={"s", "t"}) == (Outcome.RUNNING, start)
    assert outcome(now=later, connected={"t"}) == (Outcome.NO_WORD, stored.received)


def test_report_is_a_word_of_a_session(writer: Writer, connection: sqlite3.Connection) -> None:
    with_events = writer.store([events(1)]).received
    reported = writer.store([report()]).received
    session = the_session(connection, now=with_events + 5 * MINUTE - 1)
    assert (session.outcome, session.last_received, session.reported) == (
        Outcome.RUNNING,
        reported,
        reported,
    )


def test_late_events_do_not_undo_an_end(writer: Writer, connection: sqlite3.Connection) -> None:
    writer.store([events(1, 2), ended(reason="killed", lastSeq=5, buffered=3)])
    assert (lost(connection), the_session(connection).waiting) == ({}, 3)
    writer.store([events(3, 4)])
    session = the_session(connection)
    assert (session.outcome, session.missing, session.waiting) == (Outcome.KILLED, 1, 1)
    writer.store([events(5)])
    assert the_session(connection).missing == 0


def test_session_that_was_switched_on_again_runs(
    writer: Writer, connection: sqlite3.Connection
) -> None:
    writer.store([ended(2, "switched_off"), report(3)])
    session = the_session(connection)
    assert (session.outcome, session.reason) == (Outcome.RUNNING, None)


# Losses.


def test_each_gap_has_the_cause_that_the_report_gives(
    writer: Writer, connection: sqlite3.Connection
) -> None:
    gaps = [[3, 4, "overflow"], [7, 8, "filtered"], [10, 11, "left_behind"]]
    writer.store([events(1, 2, 5, 8, 9), ended(lastSeq=11, gaps=gaps)])

    assert lost(connection) == {"overflow": 2, "filtered": 1, "left_behind": 2, "unexplained": 1}
    session = the_session(connection)
    assert (session.missing, session.highest) == (6, 9)
    assert session.gaps == [(3, 4), (6, 7)]
    assert session.losses == [
        Loss(3, 4, "overflow"),
        Loss(6, 6, "unexplained"),
        Loss(7, 7, "filtered"),
        Loss(10, 11, "left_behind"),
    ]
    totals = queries.totals(connection)
    assert totals.missing == 6
    assert totals.lost == {"left_behind": 2, "overflow": 2, "filtered": 1}


def test_events_of_an_old_client_are_missing_without_a_cause(
    writer: Writer, connection: sqlite3.Connection
) -> None:
    writer.store([events(1, 4)])
    assert lost(connection) == {"unexplained": 2}
    assert queries.totals(connection).lost == {}


def test_new_gap_of_a_running_session_waits_for_the_next_report(
    writer: Writer, connection: sqlite3.Connection
) -> None:
    writer.store([events(1), report(1, lastSeq=1)])
    writer.store([events(5)])
    assert (lost(connection), the_session(connection).waiting) == ({}, 3)
    assert the_session(connection).losses == [Loss(2, 4, "waiting")]
    writer.store([report(2, lastSeq=5, gaps=[[2, 4, "filtered"]])])
    assert lost(connection) == {"filtered": 3}


def test_gaps_of_a_running_session_that_has_very_many_are_counted_at_its_end(
    writer: Writer, connection: sqlite3.Connection
) -> None:
    # Every other number is filtered, but for one that is lost and one that waits.
    last = 20_010
    odd = [number for number in range(1, last, 2) if number != 501]
    gaps = [(2, 500, "filtered"), (502, last - 2, "filtered")]
    counts = {"lastSeq": last, "dropped": {"filtered": last // 2 - 1}, "gaps": gaps}
    writer.store([events(*odd), report(1, **counts, buffered=1)])
    session = the_session(connection)
    # As the report claims, so the lost one seems to wait.
    assert (session.lost, session.waiting) == ({"filtered": last // 2 - 1}, 1)
    writer.store([report(2, **{**counts, "dropped": {"filtered": 7}})])
    session = the_session(connection)
    assert (session.lost, session.waiting) == ({"filtered": 7}, session.missing - 7)
    writer.store([ended(3, **counts, buffered=1)])
    assert lost(connection) == {"filtered": last // 2 - 1, "unexplained": 1}
    assert the_session(connection).waiting == 1


def test_totals_follow_the_newest_report_of_each_session(
    writer: Writer, connection: sqlite3.Connection
) -> None:
    def totals() -> tuple[dict[str, int], dict[str, int], int]:
        found = queries.totals(connection)
        return found.lost, found.sampled, found.waiting

    other = {"sessionId": "t", "lastSeq": 9, "buffered": 4, "gaps": [[1, 5, "overflow"]]}
    first = {"lastSeq": 4, "gaps": [[2, 2, "overflow"], [3, 3, "refused"]]}
    writer.store([events(1, 4), report(1, sampled={"spark": 5, "hit": 2}, **first)])
    writer.store([report(1, "ended", sampled={"spark": 100}, **other)])
    assert totals() == ({"overflow": 6, "refused": 1}, {"spark": 105, "hit": 2}, 4)

    writer.store([report(2, sampled={"spark": 8}, lastSeq=4, gaps=[[2, 3, "overflow"]])])
    assert totals() == ({"overflow": 7}, {"spark": 108}, 4)
    assert the_session(connection).sampled == {"spark": 8}

    writer.store([report(2, sampled={"spark": 8}, lastSeq=4, gaps=[[2, 3, "overflow"]])])
    assert totals() == ({"overflow": 7}, {"spark": 108}, 4)


def test_type_that_was_only_left_out_is_not_among_the_types(
    writer: Writer, connection: sqlite3.Connection
) -> None:
    writer.store([events(1), report(sampled={"spark": 5})])
    totals = queries.totals(connection)
    assert (totals.types, totals.sampled) == ({"hit": 1}, {"spark": 5})
    writer.store([events(2, type="spark")])
    assert queries.totals(connection).types == {"hit": 1, "spark": 1}


def test_claims_may_be_more_than_the_database_can_sum(
    writer: Writer, connection: sqlite3.Connection
) -> None:
    most = LARGEST_INTEGER
    for session in "abc":
        gaps = [[1, most - 5, "overflow"]]
        fields = {"sessionId": session, "lastSeq": most, "buffered": 3, "sampled": {"x": most}}
        writer.store([report(1, "ended", gaps=gaps, **fields)])
    totals = queries.totals(connection)
    assert totals.missing == totals.implausible_missing == 3 * most
    assert totals.implausible_sessions == 3
    assert (totals.waiting, totals.lost, totals.sampled) == (0, {}, {})


def test_claims_that_are_not_plausible_do_not_change_what_others_add(
    writer: Writer, connection: sqlite3.Connection
) -> None:
    def sums() -> tuple[object, ...]:
        found = queries.totals(connection)
        return found.missing - found.implausible_missing, found.waiting, found.lost, found.sampled

    plain = {"gaps": [[1, 4, "overflow"]], "lastSeq": 9, "buffered": 2, "sampled": {"x": 7}}
    writer.store([report(1, "ended", sessionId="plain", **plain)])
    expected = (9, 2, {"overflow": 4}, {"x": 7})
    assert sums() == expected
    most = LARGEST_INTEGER
    wrong = {"gaps": [[1, most, "overflow"]], "lastSeq": most, "sampled": {"x": most}}
    for number in (1, 2):
        for session in "ab":
            writer.store([report(number, "ended", sessionId=session, **wrong)])
            assert sums() == expected
    for session in "ab":
        writer.store([report(3, "ended", sessionId=session, **plain)])
    assert sums() == (27, 6, {"overflow": 12}, {"x": 21})


def test_types_of_one_report_are_few(writer: Writer, connection: sqlite3.Connection) -> None:
    writer.store([report(sampled={f"t{n}": n for n in range(1, 1501)})])
    assert the_session(connection).sampled == {f"t{n}": n for n in range(1500, 500, -1)}
    (in_list,) = queries.sessions(connection)
    assert in_list.sampled == {f"t{n}": n for n in range(1500, 1480, -1)}


def test_nothing_of_reports_remains_after_all_was_deleted(
    writer: Writer, connection: sqlite3.Connection, database: Database
) -> None:
    context = {"player": "p-17"}
    writer.store([events(1, context=context), report(sampled={"x": 1}, gaps=[[2, 2, "overflow"]])])
    writer.clear()
    assert queries.sessions(connection) == []
    assert queries.totals(connection).sampled == queries.totals(connection).lost == {}
    tables = connection.execute(
        "SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite_%'"
    ).fetchall()
    assert len(tables) >= 10
    for (table,) in tables:
        rows = connection.execute(f"SELECT * FROM {table}").fetchall()
        if table in ("totals", "versions"):  # the sums over all sessions
            assert [row[1:] for row in rows] == [(0,) * len(rows[0][1:])], table
        elif table == "counted":  # from which arrival on events are counted
            assert rows == [(1, 1)]
        else:
            assert rows == [], table
    writer.store([events(2, context=context), report(2)])
    session = the_session(connection)
    assert (session.missing, session.outcome) == (1, Outcome.RUNNING)


# Versions.


def test_versions_have_the_outcomes_of_their_sessions(
    writer: Writer, connection: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    def store(session: str, version: str, state: str = "ended", reason: str = "stopped") -> None:
        fields = {"sessionId": session, "version": version, "reason": reason}
        writer.store([report(1, state, **fields)])

    store("a", "1.0")
    store("b", "1.0", reason="switched_off")
    store("c", "1.0", reason="crashed")
    store("d", "1.0", reason="killed")
    store("e", "1.0", "running")
    last = writer.store([events(1, session="f", version="0.9")]).received
    clock = last + 5 * MINUTE
    monkeypatch.setattr("time.time_ns", lambda: (last + 1) * 1_000_000)
    store("g", "1.1")

    newest, middle, oldest = queries.versions(connection, connected={"e"}, now=clock)

    assert (newest.version, newest.sessions, newest.well, newest.crash_free) == ("1.1", 1, 1, 1.0)
    by_version = {middle.version: middle, oldest.version: oldest}
    ten, nine = by_version["1.0"], by_version["0.9"]
    assert (ten.sessions, ten.running, ten.no_word) == (5, 1, 0)
    assert (ten.well, ten.switched_off, ten.crashed, ten.killed, ten.crash_free) == (
        1,
        1,
        1,
        1,
        0.5,
    )
    assert (nine.sessions, nine.no_word, nine.crash_free) == (1, 1, None)
    assert queries.versions(connection, limit=1, now=clock)[0].version == "1.1"
