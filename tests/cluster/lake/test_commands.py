"""The commands that read a lake: what they print, and what they refuse."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest

from redvsblue_telemetry.cluster.lake.lake import Lake
from redvsblue_telemetry.collector.messages import read_message
from tests.support.command import PATIENCE, invoke_command, running_command
from tests.support.lake import NOON, STREAM, append, event, message
from tests.support.systems import needs_posix
from tests.support.wait import wait_until

ENDLESS = "WITH RECURSIVE r(x) AS (SELECT 1 UNION ALL SELECT 1 - x FROM r) SELECT count(*) FROM r"
REPORT = {
    "sessionId": "s",
    "number": 1,
    "state": "ended",
    "reason": "stopped",
    "startedAt": NOON,
    "at": NOON + 9,
    "lastSeq": 4,
    "emitted": 4,
    "delivered": 3,
    "dropped": {"overflow": 1},
    "gaps": [[2, 2, "overflow"]],
}


@pytest.fixture
def lake(tmp_path: Path) -> str:
    url = str(tmp_path / "lake of 'ours' #1")
    lake = Lake.open(url)
    claim = lake.claim(STREAM, [0])
    append(lake, claim, 0, 1, message(event("s", 1, "hit"), event("s", 3, "shot")))
    append(lake, claim, 0, 2, message(event("s", 4, "hit"), event("other", 1)), at=NOON + 5)
    append(lake, claim, 0, 4, read_message(json.dumps({"report": REPORT})), read_message("[1]"))
    return url


def test_export_writes_the_events_in_order_of_arrival(lake: str, tmp_path: Path) -> None:
    done = invoke_command("export", "--lake", lake)
    assert done.exit_code == 0, done.output
    events = [json.loads(line) for line in done.output.splitlines()]
    assert [(each["sessionId"], each["seq"], each["id"]) for each in events] == [
        ("s", 1, "s-run-1"),
        ("s", 3, "s-run-3"),
        ("s", 4, "s-run-4"),
        ("other", 1, "other-run-1"),
    ]
    assert [each["received"] for each in events] == [NOON, NOON, NOON + 5, NOON + 5]
    file = tmp_path / "hits.csv"
    done = invoke_command("export", "--lake", lake, "--type", "hit", "--format", "csv", "-o", file)
    assert (done.exit_code, len(file.read_text("utf-8").splitlines())) == (0, 3)
    assert file.stat().st_mode & 0o077 == 0


def test_export_says_what_there_is_none_of(lake: str) -> None:
    done = invoke_command("export", "--lake", lake, "--type", "hit", "--session", "nobody")
    assert done.exit_code == 1
    assert "has no event of session nobody" in done.output


def test_query_prints_a_table(lake: str) -> None:
    sql = "SELECT type, count(*) AS events FROM events GROUP BY type ORDER BY events DESC, type"
    done = invoke_command("query", "--lake", lake, sql)
    assert done.exit_code == 0, done.output
    assert done.stdout.splitlines() == [
        "type    events",
        "------  ------",
        "hit          2",
        "played       1",
        "shot         1",
    ]
    sql = "SELECT session, reason, events, missing, lost FROM sessions ORDER BY session"
    done = invoke_command("query", "--lake", lake, "--format", "json", sql)
    assert [json.loads(line) for line in done.stdout.splitlines()] == [
        {"session": "other", "reason": None, "events": 1, "missing": 0, "lost": "{}"},
        {"session": "s", "reason": "stopped", "events": 3, "missing": 1, "lost": '{"overflow":1}'},
    ]


@pytest.mark.parametrize(
    ("sql", "reason"),
    [
        ("", "the query is empty"),
        ("SELECT 1; SELECT 2", "there must be one statement"),
        ("DROP VIEW events", "must begin with SELECT or WITH"),
        ("COPY events TO '{folder}/x.csv'", "must begin with SELECT or WITH"),
        ("ATTACH '{folder}/x.db'", "must begin with SELECT or WITH"),
        ("SET memory_limit = '8GB'", "must begin with SELECT or WITH"),
        ("SELECT * FROM stored_runs", "the table stored_runs can't be read"),
        (
            "WITH stored_runs AS (SELECT * FROM stored_runs) SELECT * FROM stored_runs",
            "the table stored_runs can't be read",
        ),
        (
            "SELECT * FROM (WITH stored_runs AS (SELECT 1) SELECT 2), stored_runs",
            "the table stored_runs can't be read",
        ),
        (
            'WITH "main.duckdb_views" AS (SELECT 1) SELECT * FROM main.duckdb_views',
            "the table main.duckdb_views can't be read",
        ),
        # A Kelvin sign is a letter k for Python alone.
        ('WITH "duc\u212adb_views" AS (SELECT 1) SELECT * FROM duckdb_views', "can't be read"),
        ("SELECT current_setting('allowed_paths')", "is not allowed"),
        ("SELECT * FROM information_schema.tables", "can't be read"),
        ("SELECT * FROM duckdb_settings()", "is not allowed"),
        ("SELECT * FROM read_csv('{folder}/secret.csv')", "is not allowed"),
        ("SELECT * FROM '{folder}/secret.csv'", "can't be read"),
        ("SELECT (SELECT count(*) FROM glob('*')) FROM events", "is not allowed"),
        ("WITH a AS (SELECT * FROM b), b AS (SELECT 1) SELECT * FROM a", "the table b can't be"),
        ("SELECT * FROM (SHOW TABLES)", "a query only reads"),
        ("SELECT nothing FROM events", 'Error: Referenced column "nothing" not found'),
        ("SELECT 'a\0b'", "null character"),
        ("SELECT " + "1 + " * 10_000 + "1", "the maximum is 20,000"),
        ("SELECT CAST('x' AS INTEGER)", "Could not convert"),
    ],
)
def test_query_only_reads_the_views(lake: str, tmp_path: Path, sql: str, reason: str) -> None:
    (tmp_path / "secret.csv").write_text("a\n1\n")
    done = invoke_command("query", "--lake", lake, sql.replace("{folder}", str(tmp_path)))
    assert (done.exit_code, done.stdout) == (2, "")
    assert reason in done.stderr
    assert {each.name for each in tmp_path.iterdir()} == {"secret.csv", Path(lake).name}


def test_query_that_is_nested_deeply_is_no_internal_error(lake: str) -> None:
    done = invoke_command("query", "--lake", lake, "SELECT " + "[" * 900 + "]" * 900)
    # How deeply JSON may be nested depends on the version of Python.
    assert done.exit_code == 0 or "the query is nested too deeply" in done.stderr, done.output


def test_query_ends_after_its_time(lake: str) -> None:
    done = invoke_command("query", "--lake", lake, "--timeout", "1s", ENDLESS)
    assert done.exit_code == 2
    assert "took longer than 1 s" in done.stderr


def test_prove_compares_the_report_with_what_is_in_the_lake(lake: str) -> None:
    done = invoke_command("prove", "--lake", lake, "s")
    assert done.exit_code == 0, done.output
    assert "proved  s  4 events: 3 stored, 1 overflow" in done.output
    done = invoke_command("prove", "--lake", lake)
    assert (
        "2 sessions: 1 proved, 0 failed, 1 open (1 no report); missing: 1 overflow" in done.output
    )
    done = invoke_command("prove", "--lake", lake, "nobody")
    assert (done.exit_code, "has no session nobody" in done.output) == (1, True)


@pytest.mark.parametrize("arguments", [["export"], ["query", "SELECT 1"], ["prove"]])
def test_there_is_one_thing_to_read(lake: str, arguments: list[str]) -> None:
    done = invoke_command(*arguments, "--lake", lake, "--db", "x.sqlite3")
    assert done.exit_code == 2
    assert "--db and --lake can't be used together" in done.output


@pytest.mark.parametrize("arguments", [["export"], ["query", "SELECT 1"], ["prove"]])
def test_a_lake_that_is_not_there_is_named(tmp_path: Path, arguments: list[str]) -> None:
    url = str(tmp_path / "nothing")
    done = invoke_command(*arguments, "--lake", url)
    assert done.exit_code == 2
    assert f"{url} is not a lake" in done.output
    assert not Path(url).exists()


def test_report_has_the_figures_of_the_lake(lake: str, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    done = invoke_command("report", "--lake", lake, "-o", page)
    assert done.exit_code == 0, done.output
    assert "4 events of 2 sessions" in done.output
    assert "overflow" in page.read_text("utf-8")
    done = invoke_command("report", "--lake", lake, "--session", "s", "--json", "-o", "-")
    found = json.loads(done.stdout)
    assert (found["events"], found["missing"], found["lost"]) == (3, 1, {"overflow": 1})
    assert found["types"] == {"hit": 2, "shot": 1}
    done = invoke_command("report", "--lake", lake, "--session", "nobody", "-o", page)
    assert (done.exit_code, "has no session nobody" in done.output) == (1, True)


def test_questions_of_a_report_are_about_the_whole_lake(lake: str) -> None:
    arguments = ("--session", "other", "--values", "hit.n", "--json", "-o", "-")
    done = invoke_command("report", "--lake", lake, *arguments)
    assert done.exit_code == 0, done.output
    (values,) = json.loads(done.stdout)["answers"]
    assert [each["value"] for each in values["answer"]["values"]] == [1, 4]
    done = invoke_command("report", "--lake", lake, "--values", "nothing.n", "-o", "-")
    assert (done.exit_code, "--values nothing.n: no event has the type" in done.output) == (2, True)


@needs_posix
def test_interrupt_ends_a_query_and_leaves_no_file(lake: str, tmp_path: Path) -> None:
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    with running_command(
        "query", "--lake", lake, "--timeout", "1h", ENDLESS, TMPDIR=str(temporary)
    ) as command:
        assert wait_until(lambda: any(temporary.glob("redvsblue-*")), PATIENCE), command.said
        code = command.end(signal.SIGINT)
    assert code == 1, command.said
    assert "Aborted!" in command.errors
    assert [*temporary.glob("redvsblue-*")] == []
