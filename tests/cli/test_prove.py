"""``prove``: a nightly job learns from its exit code whether events were lost without a trace."""

from __future__ import annotations

import contextlib
import json
import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from redvsblue_telemetry._report import Reason, Report, State, encode_report
from redvsblue_telemetry.collector.messages import read_message
from redvsblue_telemetry.collector.storage.database import Database
from redvsblue_telemetry.collector.storage.writer import Writer
from tests.support.collector import free_port
from tests.support.command import (
    invoke_command,
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
        for message in messages:
            assert not w.store([read_message(message)]).rejected
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
    assert done.exit_code == 2
    assert done.output.endswith("has no session t\\u001b\n")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--db", "nowhere.sqlite3"], "nowhere.sqlite3 is not a database"),
        (["--db", "a", "--url", "http://localhost"], "--db and --url can't be used together"),
        (["--url", "ftp://localhost"], "is not the URL of a collector's page"),
        (["--url", f"http://127.0.0.1:{free_port()}"], "does not respond"),
    ],
)
def test_sessions_that_cannot_be_read_are_an_error(options: list[str], message: str) -> None:
    done = invoke_command("prove", *options)
    assert done.exit_code == 2
    assert message in done.output
