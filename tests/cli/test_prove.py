"""``prove``: a nightly job learns from its exit code whether events were lost without a trace."""

from __future__ import annotations

import contextlib
import json
import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from msgspec import UNSET

from redvsblue_telemetry._report import MAX_GAPS, Reason, Report, State, encode_report
from redvsblue_telemetry.collector.messages import read_message
from redvsblue_telemetry.collector.storage.database import Database
from redvsblue_telemetry.collector.storage.writer import Writer
from tests.support.collector import REFUSING_PORT, collector_running
from tests.support.command import (
    PATIENCE,
    command_without_reader,
    invoke_command,
    needs_full_disk,
    run_command_onto_full_disk,
)

NOW = 1_795_600_000_000  # ms since the epoch


def events(session: str, numbers: Sequence[int]) -> bytes:
    return json.dumps(
        [
            {"id": f"{session}-{n}", "type": "hit", "timestamp": NOW + n, "data": {}}
            | {"sessionId": session, "seq": n}
            for n in numbers
        ]
    ).encode()


def report(session: str, last: int, **fields: Any) -> bytes:
    """The last report of a session, true if no event is missing but those in ``dropped``."""
    lost = sum(fields.get("dropped", {}).values()) + fields.get("buffered", 0)
    whole: dict[str, Any] = {
        "number": 1,
        "state": State.ENDED,
        "reason": Reason.STOPPED,
        "started_at": NOW,
        "at": NOW + last,
        "emitted": last,
        "delivered": last - lost,
        **fields,
    }
    return encode_report(Report(session_id=session, last_seq=last, **whole))


def stored(path: Path, *messages: bytes) -> Path:
    with contextlib.closing(Database(path)) as database, contextlib.closing(Writer(database)) as w:
        assert not w.store([read_message(message) for message in messages]).rejected
    return path


@pytest.fixture
def db(tmp_path: Path) -> Path:
    return tmp_path / "telemetry.sqlite3"


def proved(db: Path, *options: object) -> tuple[int, list[str]]:
    done = invoke_command("prove", "--db", db, *options)
    return done.exit_code, done.output.splitlines()


# The exit code.


def test_empty_database_has_nothing_to_prove(db: Path) -> None:
    line = "0 sessions: 0 proved, 0 failed, 0 open; missing: none"
    assert proved(stored(db)) == (0, [line])


def test_session_without_a_report_is_open_and_strictly_a_failure(db: Path) -> None:
    stored(db, events("old", [1, 2, 4]))
    line = "1 session: 0 proved, 0 failed, 1 open (1 no report); missing: none"
    assert proved(db) == (0, [line])
    about = "open    old  4 events: 3 stored, 1 unexplained: no report"
    assert proved(db, "--strict") == (1, [about, line])
    assert proved(db, "old") == (1, [about])


def test_rows_that_the_database_has_lost_fail(db: Path) -> None:
    stored(db, events("s", [1, 2, 3]))
    with contextlib.closing(sqlite3.connect(db)) as connection:
        connection.execute("DELETE FROM events WHERE seq = 2")
        connection.commit()
    code, lines = proved(db)
    assert code == 1
    assert lines[0] == "failed  s  3 events: 3 stored: 2 events are stored, under 3 numbers"


def test_unknown_session_is_an_error(db: Path) -> None:
    done = invoke_command("prove", "--db", stored(db, events("s", [1])), "t\x1b")
    assert done.exit_code == 1
    assert done.output.endswith("has no session t\\u001b\n")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--db", "nowhere.sqlite3"], "nowhere.sqlite3 does not exist"),
        (["--db", "a", "--url", "http://localhost"], "--db and --url can't be used together"),
        (["--url", "ftp://localhost"], "is not the URL of a collector's page"),
        (["--url", f"http://127.0.0.1:{REFUSING_PORT}"], "does not respond"),
    ],
)
def test_sessions_that_cannot_be_read_are_an_error(options: list[str], message: str) -> None:
    done = invoke_command("prove", *options)
    assert done.exit_code == 2
    assert message in done.output


# With reports.


def test_sessions_that_account_for_every_event_are_proved(db: Path) -> None:
    dropped = {"overflow": 2, "filtered": 1}
    gaps = [(2, 3, "overflow"), (5, 5, "filtered")]
    stored(
        db,
        events("a", [1, 4, 6]),
        report("a", 6, dropped=dropped, gaps=gaps, reason=Reason.CRASHED),
        events("b", range(1, 1001)),
        report("b", 1003, buffered=3, reason=Reason.KILLED),
        report("c", 0),
    )
    line = "3 sessions: 3 proved, 0 failed, 0 open; missing: 2 overflow, 1 filtered, 3 waiting"
    assert proved(db, "--strict") == (0, [line])
    about = "proved  b  1,003 events: 1,000 stored, 3 waiting"
    assert proved(db, "b") == (0, [about])


def test_event_that_is_missing_without_a_reason_fails(db: Path) -> None:
    gaps = [(2, 3, "overflow")]
    stored(
        db,
        events("good", [1, 2]),
        report("good", 2),
        events("bad", [1, 4, 6, 7]),
        report("bad", 7, dropped={"overflow": 2}, gaps=gaps),
    )
    code, lines = proved(db)
    assert code == 1
    counts = "failed  bad  7 events: 4 stored, 2 overflow, 1 unexplained"
    problems = "1 is missing without a reason: 5; 5 are delivered, but 4 stored"
    summary = "2 sessions: 1 proved, 1 failed, 0 open; missing: 2 overflow"
    assert lines == [f"{counts}: {problems}", summary]
    assert proved(db, "good")[0] == 0
    assert proved(db, "bad")[0] == 1


def test_running_session_is_open(db: Path) -> None:
    stored(db, events("s", [1, 2]), report("s", 2, state=State.RUNNING, reason=UNSET))
    line = "1 session: 0 proved, 0 failed, 1 open (1 running); missing: none"
    assert proved(db) == (0, [line])
    assert proved(db, "s") == (1, ["open    s  2 events: 2 stored: running"])


def test_session_with_more_gaps_than_the_api_lists_is_proved_from_the_database(db: Path) -> None:
    numbers = range(1, 2 * MAX_GAPS + 100, 2)
    last = numbers[-1] + 1
    dropped = {"filtered": len(numbers)}
    told = report("s", last, dropped=dropped, gaps=[(2, last, "filtered")])
    stored(db, events("s", numbers), told)
    assert proved(db, "--strict")[0] == 0


def test_result_as_json(db: Path) -> None:
    stored(db, events("a", [1]), report("a", 1), events("b", [1, 3]), report("b", 3))
    done = invoke_command("prove", "--db", db, "--json")
    assert done.exit_code == 1
    problems = ["1 is missing without a reason: 2", "3 are delivered, but 2 stored"]
    assert json.loads(done.stdout) == {
        "proved": 1,
        "failed": 1,
        "open": 0,
        "obstacles": {},
        "missing": {},
        "waiting": 0,
        "sessions": [
            {
                "session": "b",
                "outcome": "well",
                "obstacle": "",
                "verdict": "failed",
                "lastSeq": 3,
                "stored": 2,
                "deleted": 0,
                "missing": {},
                "waiting": 0,
                "unexplained": 1,
                "problems": problems,
            }
        ],
    }


def test_hostile_text_is_escaped(db: Path) -> None:
    session, reason = "s\x1b[2J", "\u202eoverflow"
    stored(
        db,
        events(session, [1, 3]),
        report(session, 3, dropped={reason: 1}, gaps=[(2, 2, reason)]),
    )
    for options in ([session], ["--strict"], ["--json", session]):
        done = invoke_command("prove", "--db", db, *options)
        assert done.exit_code == 0
        assert done.stdout.replace("\n", "").isprintable()


# A running collector.


def test_running_collector_is_asked(db: Path) -> None:
    stored(db, events("a", range(1, 5)), report("a", 4), events("b", [2, 3, 5]), report("b", 6))
    with collector_running(db=db, token="secret", insecure=True) as collector:
        done = invoke_command("prove", "--url", collector.http_url, "--token", "secret")
        assert done.exit_code == 1
        lines = done.output.splitlines()
        assert lines[0].startswith("failed  b  6 events: 3 stored, 3 unexplained: 3 are missing")
        assert "2 sessions: 1 proved, 1 failed, 0 open" in lines[1]
        one = invoke_command("prove", "--url", collector.http_url, "a", "--token", "secret")
        assert (one.exit_code, one.output) == (0, "proved  a  4 events: 4 stored\n")
        assert invoke_command("prove", "--url", collector.http_url).exit_code == 2
        unknown = invoke_command("prove", "--url", collector.http_url, "other", "--token", "secret")
        assert unknown.exit_code == 1
        assert unknown.output == f"Error: {collector.http_url} has no session other\n"


def test_more_gaps_than_the_api_lists_leave_a_session_open(db: Path) -> None:
    numbers = range(1, 2 * MAX_GAPS + 101, 2)
    stored(db, events("s", numbers), report("s", numbers[-1]))
    with collector_running(db=db) as collector:
        done = invoke_command("prove", "--url", collector.http_url)
    assert done.exit_code == 0
    assert "1 open (1 too many gaps for --url)" in done.output


# Output.


def test_reader_that_has_enough_does_not_change_the_exit_code(db: Path) -> None:
    sessions = [f"session-{n}" for n in range(1000)]  # more than a pipe holds
    messages = [(events(name, [1, 3]), report(name, 3)) for name in sessions]
    stored(db, *(message for pair in messages for message in pair))
    with command_without_reader("prove", "--db", db, until=b"failed") as process:
        assert process.wait(PATIENCE) == 1


@needs_full_disk
def test_full_disk_is_an_error(db: Path) -> None:
    done = run_command_onto_full_disk("prove", "--db", stored(db, events("s", [1])))
    assert done.returncode == 2
    assert b"can't be written" in done.stderr
