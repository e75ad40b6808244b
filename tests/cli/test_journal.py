"""``journal``: what waits in a directory, delivered or erased by hand."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from redvsblue_telemetry._journal.directory import JournalDirectory
from redvsblue_telemetry._journal.run import RunDirectory
from redvsblue_telemetry._report import Report, encode_report
from redvsblue_telemetry.cli._database import open_database
from redvsblue_telemetry.collector.models import EventFilter
from redvsblue_telemetry.testing import RecordingServer
from tests.support.collector import REFUSING_PORT, collector_running
from tests.support.command import (
    command,
    environment,
    invoke_command,
    run_command,
    running_command,
)
from tests.support.journal import RUN, SESSION, STARTED_AT, Segment, records, write_run
from tests.support.stored import stream_events
from tests.support.wait import wait_until


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    """Two dead runs: one of 130 events and a torn record, and an older one of 9."""
    path = tmp_path / "journal"
    write_run(
        path,
        Segment(records=records(1, 90), indexed=60),
        Segment(number=2, first=91, records=records(91, 40), torn=b"[1795600000000000000,"),
    )
    old = Segment(
        session_id="old\x1b[31m", version="1.4", started_at=5, records=records(1, 9), confirmed=2
    )
    write_run(path, old, name="old")
    return path


@pytest.fixture
def living(journal: Path) -> Iterator[RunDirectory]:
    run = RunDirectory.create(journal, "running", RUN)
    segment = Segment(session_id="running", records=records(1, 3))
    run.segment_path(1).write_bytes(segment.content)
    yield run
    run.delete()


def test_it_shows_what_waits(journal: Path, living: RunDirectory) -> None:
    result = invoke_command("journal", journal)
    assert result.exit_code == 0
    lines = [line.split() for line in result.stdout.splitlines()]
    assert lines[0][:2] == ["STATE", "ENDING"]
    assert lines[0][2:] == ["EVENTS", "BYTES", "TORN", "OLDEST", "EVENT", "(UTC)", "SESSION"]
    assert [(*line[:3], line[4], line[-1]) for line in lines[1:-1]] == [
        ("dead", "-", "7", "0", r"old\u001b[31m"),
        ("dead", "-", "130", "1", SESSION),
        ("living", "-", "3", "0", "running"),
    ]
    assert result.stdout.splitlines()[-1].startswith("3 runs, 140 events, ")


def test_the_same_as_json(journal: Path, living: RunDirectory) -> None:
    result = invoke_command("journal", journal, "--json")
    old, dead, alive = json.loads(result.stdout)["runs"]
    assert old == {
        "session": "old\x1b[31m",
        "version": "1.4",
        "state": "dead",
        "ending": None,
        "startedAt": 5,
        "events": 7,
        "bytes": JournalDirectory(journal).inspect()[0].bytes,
        "oldest": STARTED_AT + 3,
        "torn": 0,
        "path": str(journal / "old"),
        "fault": None,
    }
    assert (dead["events"], dead["torn"], dead["state"]) == (130, 1, "dead")
    assert (alive["session"], alive["state"], alive["path"]) == (
        "running",
        "living",
        str(living.path),
    )


def test_it_shows_how_each_run_ended(journal: Path, living: RunDirectory) -> None:
    def save(path: Path, **fields: str) -> None:
        report = Report(session_id=fields.pop("session"), number=3, started_at=5, **fields)
        (path / "redvsblue.report").write_bytes(encode_report(report))

    save(journal / SESSION, session=SESSION, state="running")
    save(journal / "old", session="old\x1b[31m", state="ended", reason="stopped")
    save(living.path, session="running", state="running")
    write_run(journal, name="silent")
    save(journal / "silent", session="silent", state="ended", reason="crashed\x1b[31m")
    result = invoke_command("journal", journal)
    assert [line.split()[:3] for line in result.stdout.splitlines()[1:-1]] == [
        ["dead", "stopped", "7"],
        ["dead", r"crashed\u001b[31m", "0"],
        ["dead", "killed", "130"],
        ["living", "-", "3"],
    ]
    runs = json.loads(invoke_command("journal", journal, "--json").stdout)["runs"]
    assert [run["ending"] for run in runs] == ["stopped", "crashed\x1b[31m", "killed", None]


def test_it_reports_dead_runs(journal: Path, living: RunDirectory) -> None:
    with RecordingServer() as server:
        assert run_command("journal", journal, "--send", server.url).returncode == 0
        reports = {report["sessionId"]: report for report in server.reports}
    assert list(reports) == ["old\x1b[31m", SESSION]  # and none of the command itself
    assert {report["reason"] for report in reports.values()} == {"killed"}
    assert (reports[SESSION]["lastSeq"], reports[SESSION]["at"]) == (130, STARTED_AT + 130)
    assert reports["old\x1b[31m"]["emitted"] == 9


@pytest.mark.parametrize("options", [[], ["--send", "ws://127.0.0.1:1/"], ["--erase"]])
def test_an_empty_directory_is_not_an_error(tmp_path: Path, options: list[str]) -> None:
    result = invoke_command("journal", tmp_path, *options)
    assert (result.exit_code, result.stdout.count("\n")) == (0, 1)


def test_a_run_that_cannot_be_read_is_shown_with_the_reason(journal: Path) -> None:
    path = journal / "old" / "00000001.events"
    path.write_bytes(b"redvsblue-telemetry journal 7\n".ljust(16384, b"\0"))
    result = invoke_command("journal", journal)
    assert result.exit_code == 1
    assert "this version reads 1" in result.stdout


@pytest.mark.parametrize("options", [["--erase", "--send", "ws://x/"], ["--token", "é"]])
def test_wrong_options_are_usage_errors(journal: Path, options: list[str]) -> None:
    assert invoke_command("journal", journal, *options).exit_code == 2


def test_a_directory_that_does_not_exist_is_an_error(tmp_path: Path) -> None:
    result = invoke_command("journal", tmp_path / "nowhere")
    assert result.exit_code == 2
    assert "does not exist" in result.stderr


def test_device_is_not_a_directory() -> None:
    result = invoke_command("journal", os.devnull)
    assert result.exit_code == 2
    assert f"{os.devnull} is not a directory; name the journal of a game" in result.stderr


def test_it_delivers_dead_runs_with_what_they_were(
    journal: Path, living: RunDirectory, tmp_path: Path
) -> None:
    with collector_running(db=tmp_path / "events.sqlite3") as collector:
        result = run_command("journal", journal, "--send", collector.url)
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout == "Delivered 137 events of 2 dead runs.\n1 record is damaged.\n"
    assert [path.name for path in journal.iterdir()] == ["running"]
    assert living.segment_path(1).exists()
    with open_database(tmp_path / "events.sqlite3") as database:
        events = list(stream_events(database, EventFilter()))
    assert [(event.session_id, event.seq) for event in events] == [
        *(("old\x1b[31m", number) for number in range(3, 10)),
        *((SESSION, number) for number in range(1, 131)),
    ]
    assert all(event.id == f"{RUN}-{event.seq}" for event in events)
    assert all(event.timestamp == STARTED_AT + event.seq for event in events)
    assert events[0].version == "1.4"


def test_it_waits_for_the_archive(journal: Path) -> None:
    with RecordingServer(acks=True, archives=True) as server:
        arguments = ("journal", journal, "--send", server.url, "--confirm", "archived", "--json")
        with running_command(*arguments) as running:
            assert wait_until(lambda: len(server.events) == 137), running.said
            assert running.process.poll() is None
            assert sum(report.events for report in JournalDirectory(journal).inspect()) == 137

            def is_done() -> bool:
                server.archive()
                return running.process.poll() is not None

            assert wait_until(is_done), running.said
            assert running.end() == 0, running.said
    answer = json.loads(running.output)
    assert (answer["delivered"], answer["archived"], answer["runs"]) == (137, True, [])


def test_what_is_not_archived_in_time_is_left(
    journal: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("redvsblue_telemetry.cli.journal._PATIENCE", 0.05)
    with RecordingServer(acks=True, archives=True) as server:
        arguments = ("journal", journal, "--send", server.url, "--confirm", "archived")
        result = invoke_command(*arguments, "--timeout", "20")
    assert result.exit_code == 1
    assert "Left: 137 events of 2 runs.\nno event was archived for 1 s\n" in result.stdout
    assert sum(report.events for report in JournalDirectory(journal).inspect()) == 137


def test_it_says_that_a_server_has_no_archive(journal: Path) -> None:
    with RecordingServer(acks=True) as server:
        result = run_command("journal", journal, "--send", server.url, "--confirm", "archived")
    assert result.returncode == 0
    assert "The server does not confirm that events are archived" in result.stdout
    assert list(journal.iterdir()) == []


def test_what_could_not_be_delivered_is_left(journal: Path) -> None:
    url = f"ws://127.0.0.1:{REFUSING_PORT}/"
    result = run_command("journal", journal, "--json", "--send", url)
    assert result.returncode == 1
    answer = json.loads(result.stdout)
    assert (answer["delivered"], answer["refused"], answer["torn"]) == (0, 0, 1)
    assert "refused" in answer["error"]
    assert sum(run["events"] for run in answer["runs"]) == 137
    assert sum(report.events for report in JournalDirectory(journal).inspect()) == 137


def test_a_wrong_url_is_an_error(journal: Path) -> None:
    result = invoke_command("journal", journal, "--send", "localhost")
    assert result.exit_code == 2
    assert "url" in result.stderr
    assert len(list(journal.iterdir())) == 2


def test_it_erases_dead_runs_only(journal: Path, living: RunDirectory) -> None:
    result = invoke_command("journal", journal, "--erase", "--yes")
    assert result.exit_code == 0
    assert result.stdout == (
        "Erased 2 dead runs with 137 events.\nSession running is running; it was left alone.\n"
    )
    assert [path.name for path in journal.iterdir()] == ["running"]


def test_without_an_answer_nothing_is_erased(journal: Path) -> None:
    result = run_command("journal", journal, "--erase")
    assert result.returncode == 1
    assert "Erase 2 dead runs with 137 events for good?" in result.stderr
    assert len(list(journal.iterdir())) == 2


@pytest.mark.parametrize(("answer", "left"), [("n\n", 2), ("y\n", 0)])
def test_it_asks_before_it_erases(journal: Path, answer: str, left: int) -> None:
    result = subprocess.run(
        command("journal", journal, "--erase"),
        env=environment(),
        input=answer,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert "for good?" in result.stderr
    assert result.returncode == (1 if left else 0)
    assert len(JournalDirectory(journal).inspect()) == left


def test_erased_as_json(journal: Path, living: RunDirectory) -> None:
    result = invoke_command("journal", journal, "--erase", "--yes", "--json")
    answer = json.loads(result.stdout)
    assert answer["erased"] == 2
    assert [run["session"] for run in answer["runs"]] == ["running"]
