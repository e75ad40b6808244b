"""``query``: its formats, its limits, and its exit codes."""

from __future__ import annotations

import codecs
import contextlib
import csv
import io
import json
import signal
import subprocess
from pathlib import Path

import pytest

from redvsblue_telemetry.collector.messages import read_message
from redvsblue_telemetry.collector.storage.database import Database
from redvsblue_telemetry.collector.storage.writer import Writer
from tests.support.command import (
    PATIENCE,
    command,
    environment,
    invoke_command,
    needs_full_disk,
    run_command,
    run_command_onto_full_disk,
    running_command,
)

ENDLESS = "WITH RECURSIVE r(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM r) SELECT count(*) FROM r"
HOSTILE = "\x1b]0;pwned\x07"


@pytest.fixture
def db(tmp_path: Path) -> Path:
    path = tmp_path / "t.sqlite3"
    events = [
        {"sessionId": "s", "seq": seq, "id": f"s-{seq}", "timestamp": seq, "type": type_,
         "data": {"damage": seq * 100}}
        for seq, type_ in enumerate(["hit", "hit", HOSTILE, "=1+1"], 1)
    ]  # fmt: skip
    with (
        contextlib.closing(Database(path)) as database,
        contextlib.closing(Writer(database)) as writer,
    ):
        writer.store([read_message(json.dumps(events))])
    return path


def test_table_is_aligned_and_harmless(db: Path) -> None:
    sql = "SELECT type, sum(data ->> '$.damage') AS damage, 0.5 AS half, NULL AS none"
    done = invoke_command("query", "--db", db, f"{sql} FROM events GROUP BY 1 ORDER BY 2, 1 DESC")

    assert done.exit_code == 0, done.output
    assert done.stdout.splitlines() == [
        "type                  damage  half  none",
        "--------------------  ------  ----  ----",
        "hit                      300   0.5",
        "\\u001b]0;pwned\\u0007     300   0.5",
        "=1+1                     400   0.5",
    ]


def test_table_without_rows_has_its_columns(db: Path) -> None:
    done = invoke_command("query", "--db", db, "SELECT seq, type FROM events WHERE 0")
    assert done.stdout.splitlines() == ["seq  type", "---  ----"]


def test_csv_has_no_formulas(db: Path) -> None:
    sql = "SELECT type, x'00ff' AS bytes, NULL AS none FROM events WHERE seq = 4"
    done = invoke_command("query", "--db", db, "--format", "csv", sql)
    assert list(csv.reader(io.StringIO(done.stdout, newline=""))) == [
        ["type", "bytes", "none"],
        ["'=1+1", "x'00ff'", ""],
    ]


def test_json_is_one_object_a_line(db: Path, tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    sql = "SELECT seq, type, 9e999 AS big FROM events ORDER BY seq"
    done = invoke_command("query", "--db", db, "--format", "json", "-o", file, sql)
    assert (done.exit_code, done.output) == (0, "")
    found = [json.loads(line) for line in file.read_text().splitlines()]
    assert found[2] == {"seq": 3, "type": HOSTILE, "big": "Infinity"}
    assert len(found) == 4


def test_json_with_two_columns_of_one_name_is_refused(db: Path) -> None:
    done = invoke_command("query", "--db", db, "--format", "json", "SELECT 1 AS x, 2 AS x")
    assert done.exit_code == 2
    assert "name them with AS" in done.output


def test_query_comes_from_standard_input(db: Path) -> None:
    done = invoke_command("query", "--db", db, "-", answer="SELECT count(*) AS n\nFROM events;\n")
    assert done.stdout.splitlines() == ["n", "-", "4"]


@pytest.mark.parametrize("mark", [b"", codecs.BOM_UTF8])
def test_reads_the_query_from_a_file_in_utf_8(mark: bytes, db: Path, tmp_path: Path) -> None:
    file = tmp_path / "query.sql"
    file.write_bytes(mark + "SELECT '世界' AS world".encode())
    with file.open("rb") as stream:
        done = subprocess.run(
            command("query", "--db", db, "-"),
            env=environment(LC_ALL="C.UTF-8"),
            stdin=stream,
            capture_output=True,
            timeout=PATIENCE,
            check=False,
        )
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.decode().split() == ["world", "-----", "世界"]


def test_query_in_another_encoding_is_an_error(db: Path) -> None:
    done = subprocess.run(
        command("query", "--db", db, "-"),
        env=environment(PYTHONIOENCODING="utf-8"),
        input="SELECT 'Zoë'".encode("latin-1"),
        capture_output=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr.splitlines() == [b"Error: standard input is not utf-8"]


def test_limit_is_said_when_there_are_more(db: Path) -> None:
    sql = "SELECT seq FROM events ORDER BY seq"
    cut = invoke_command("query", "--db", db, "--limit", 2, sql)
    assert cut.stdout.splitlines()[2:] == ["  1", "  2"]
    assert cut.stderr == "there are more than these 2 rows; see --limit\n"
    assert invoke_command("query", "--db", db, "--limit", 4, sql).stderr == ""
    numbers = "WITH RECURSIVE r(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM r LIMIT 1500)"
    many = f"{numbers} SELECT x FROM r"
    assert len(invoke_command("query", "--db", db, many).stdout.splitlines()) == 1002
    all_of_them = invoke_command("query", "--db", db, "--format", "csv", many)
    assert len(all_of_them.stdout.splitlines()) == 1501
    assert all_of_them.stderr == ""


@pytest.mark.parametrize(
    ("sql", "reason"),
    [
        ("DELETE FROM events", "Error: a query must begin with SELECT or WITH\n"),
        ("SELECT * FROM types", "Error: the table types can't be read; there are events, "),
        ("SELECT nobody FROM events", "Error: no such column: nobody\n"),
    ],
)
def test_wrong_query_is_one_line_and_exit_code_2(db: Path, sql: str, reason: str) -> None:
    done = invoke_command("query", "--db", db, sql)
    assert done.exit_code == 2
    assert done.output.startswith(reason)
    assert done.output.count("\n") == 1


def test_missing_database_is_one_line_and_exit_code_2(tmp_path: Path) -> None:
    done = invoke_command("query", "--db", tmp_path / "none", "SELECT 1")
    assert done.exit_code == 2
    assert "does not exist; name the database" in done.output
    assert list(tmp_path.iterdir()) == []


def test_timeout_ends_a_query(db: Path) -> None:
    done = invoke_command("query", "--db", db, "--timeout", "0.2s", ENDLESS)
    assert done.exit_code == 2
    assert "longer than 0.2 s" in done.output


def test_failed_query_leaves_an_older_file(db: Path, tmp_path: Path) -> None:
    file = tmp_path / "rows.csv"
    file.write_text("old")
    done = invoke_command("query", "--db", db, "--timeout", "0.2s", "-o", file, ENDLESS)
    assert done.exit_code == 2
    assert file.read_text() == "old"
    assert {each.name for each in tmp_path.iterdir()} == {"rows.csv", "t.sqlite3"}


def test_interrupt_ends_a_query(db: Path) -> None:
    sql = "SELECT 'begun' UNION ALL SELECT * FROM (" + ENDLESS + ")"
    with running_command("query", "--db", db, "--format", "csv", sql) as command:
        command.wait_for("begun")
        code = command.end(signal.SIGINT)
    assert code == 1
    assert "Aborted!" in command.errors


@needs_full_disk
def test_full_disk_is_one_line_and_exit_code_2(db: Path) -> None:
    done = run_command_onto_full_disk("query", "--db", db, "SELECT 1")
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith(b"Error: standard output can't be written: ")


def test_collector_may_write_meanwhile(db: Path) -> None:
    with (
        contextlib.closing(Database(db)) as database,
        contextlib.closing(Writer(database)) as writer,
    ):
        message = '[{"sessionId":"s","seq":9,"id":"9","timestamp":1,"type":"hit","data":{}}]'
        writer.store([read_message(message)])
        done = run_command("query", "--db", db, "--format", "csv", "SELECT count(*) FROM events")
    assert done.stdout.splitlines() == ["count(*)", "5"]
