"""``demo``: its verdict, its killed game, its exit codes, and that nothing outlives it."""

from __future__ import annotations

import re
import signal
import socket
from pathlib import Path
from typing import Any

import msgspec
import pytest

from redvsblue_telemetry.cli.demo.command import (
    StoredCounts,
    differences,
    differences_of_killed,
    progress_line,
)
from redvsblue_telemetry.cli.demo.game import Progress, Tally
from tests.support.command import (
    ENDINGS,
    PATIENCE,
    Terminal,
    command_without_reader,
    invoke_command,
    needs_full_disk,
    run_command,
    run_command_onto_full_disk,
    running_command,
)
from tests.support.systems import IS_WINDOWS, needs_posix, needs_terminals

VERDICT = "every event arrived once"
GAME = Progress(counted=500, emitted=503, recovered=40, delivered=543, is_over=True)
COUNTS = StoredCounts(stored=503, unique=503, repeats=0, missing=0, summaries=3, outcome="well")
KILLED = Progress(counted=300, emitted=250)
KILLED_COUNTS = StoredCounts(
    stored=302, unique=302, repeats=9, missing=0, summaries=2, outcome="killed"
)


def test_every_event_arrives_once_and_is_kept_where_it_was_said(tmp_path: Path) -> None:
    db = tmp_path / "t.sqlite3"
    # Settings that are meant for another game, and a proxy, aren't the demo's.
    elsewhere = {"REDVSBLUE_TELEMETRY_CAPACITY": "1", "HTTP_PROXY": "http://127.0.0.1:9"}
    opened = {"BROWSER": f"touch {tmp_path}/opened %s"}  # on a terminal only
    done = run_command("demo", "--seconds", "1.1", "--db", db, **elsewhere, **opened)

    assert done.returncode == 0, done.stdout + done.stderr
    assert not (tmp_path / "opened").exists()
    found = re.search(rf"{VERDICT}: (\d+) events", done.stdout)
    assert found
    assert re.search(r"live page: http://127\.0\.0\.1:\d+/\n", done.stdout)
    assert "\x1b" not in done.stdout
    assert done.stderr == ""
    lines = run_command("export", "--db", db).stdout.splitlines()
    assert len(lines) == int(found[1])
    assert any('"type":"frames"' in line for line in lines)
    assert all('"context":{"player":"p-17"' in line for line in lines)
    assert "killed the game on purpose" in done.stdout
    assert re.search(r"^  outcome +killed +well$", done.stdout, re.MULTILINE)
    proved = run_command("prove", "--db", db)
    assert proved.returncode == 0, proved.stdout + proved.stderr


@pytest.mark.parametrize(
    ("variable", "value"), [("DO_NOT_TRACK", "1"), ("REDVSBLUE_ENABLE_TELEMETRY", "false")]
)
def test_kill_switch_wins_and_nothing_is_claimed(variable: str, value: str) -> None:
    done = invoke_command("demo", "--seconds", "1", "--no-browser", **{variable: value})

    assert done.exit_code == 2
    (line,) = done.output.splitlines()
    assert "nothing to show" in line


@pytest.mark.parametrize("ending", [*ENDINGS, None])
def test_game_never_outlives_the_demo(ending: signal.Signals | None) -> None:
    with running_command("demo", "--seconds", 60, "--no-browser") as demo:
        demo.wait_for("1.0 s")
        if ending is None:
            demo.process.kill()
        code = demo.end(ending)  # and the game's, since that has the same standard error

    assert code == (130 if ending else 1 if IS_WINDOWS else -signal.SIGKILL)
    assert VERDICT not in demo.output
    # A game whose collector was killed with the demo may notice that before its own end.
    unexpected = [
        line for line in demo.errors.splitlines() if "telemetry is not connected" not in line
    ]
    assert unexpected == []
    assert ending is None or not demo.errors


@needs_terminals
def test_browser_is_opened_on_a_terminal_and_the_page_stays_if_asked(tmp_path: Path) -> None:
    noted = tmp_path / "noted"
    browser = tmp_path / "browser"
    browser.write_text(f'#!/bin/sh\necho "$1" >> {noted}\n')
    browser.chmod(0o755)
    with Terminal("demo", "--seconds", 0.1, "--stay", BROWSER=f"{browser} %s") as terminal:
        terminal.wait_for(b"the page stays open")
        assert VERDICT.encode() in terminal.shown
        assert terminal.end(signal.SIGINT) == 0
    assert b"--stay" not in terminal.shown
    found = re.search(rb"http://127\.0\.0\.1:\d+/", terminal.shown)
    assert found
    assert noted.read_bytes() == found[0] + b"\n"


@needs_terminals
def test_page_that_closes_with_the_collector_is_explained(tmp_path: Path) -> None:
    with Terminal("demo", "--seconds", 0.1, BROWSER="true %s") as terminal:
        assert terminal.end() == 0
    assert b"pass --stay to keep it open" in terminal.shown


def test_exit_code_is_the_verdict_though_nobody_reads_it() -> None:
    arguments = ["demo", "--seconds", 0.5, "--no-browser"]
    with command_without_reader(*arguments, until=b"live page: ") as demo:
        _, errors = demo.communicate(timeout=PATIENCE)

    assert (demo.returncode, errors) == (0, b"")


@needs_full_disk
def test_full_disk_is_one_line_and_exit_code_2() -> None:
    done = run_command_onto_full_disk("demo", "--seconds", 60, "--no-browser", "--stay")

    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith(b"Error: standard output can't be written: ")


@needs_posix
def test_closed_output_is_one_line_and_exit_code_2() -> None:
    shell = ("sh", "-c", 'exec "$@" >&-', "sh")
    done = run_command("demo", "--seconds", 1, "--no-browser", before=shell)

    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert "standard output is closed" in line


@pytest.mark.parametrize("seconds", ["nan", "inf"])
def test_seconds_that_are_none_are_wrong_usage(seconds: str) -> None:
    done = invoke_command("demo", "--no-browser", "--seconds", seconds)

    assert done.exit_code == 2
    assert "Invalid value for '--seconds'" in done.output


@needs_terminals
def test_progress_on_a_terminal_fits_its_columns(tmp_path: Path) -> None:
    variables = {"COLUMNS": "80", "BROWSER": f"touch {tmp_path}/opened %s"}
    with Terminal("demo", "--seconds", 2, "--no-browser", **variables) as terminal:
        assert terminal.end() == 0
    assert not (tmp_path / "opened").exists()
    shown = re.findall(r" +[\d.]+ s [^\r\n\x1b]*", terminal.shown.decode())
    assert all(len(line) < 80 and "waiting" in line for line in shown)
    assert re.search(r"frames [\d.]+ ms, worst [\d.]+$", shown[-1])


def test_what_is_emitted_is_delivered_or_waits() -> None:
    progress = Progress(seconds=3, emitted=243, delivered=146, buffered=90, in_flight=7)

    text = progress_line(progress).plain

    assert "243 emitted" in text
    assert "146 delivered" in text
    assert "97 waiting" in text
    assert "frames" not in text, "none is known yet"


@pytest.mark.parametrize("milliseconds", [0.01, 9.99, 16.67, 9999.0])
@pytest.mark.parametrize("events", [0, 99_999])
def test_progress_of_minutes_fits_eighty_columns(milliseconds: float, events: int) -> None:
    progress = Progress(
        seconds=600,
        emitted=events,
        delivered=events,
        buffered=5000,
        frame_ms=milliseconds,
        slowest_ms=milliseconds,
    )
    text = progress_line(progress, 80).plain

    assert len(text) < 80
    assert text.endswith(f"{milliseconds:.2f}" if milliseconds < 10 else f"{milliseconds:.0f}")


def test_progress_of_a_day_leaves_out_what_does_not_fit() -> None:
    events = 86_400 * 200
    progress = Progress(
        seconds=86_400, emitted=events, delivered=events, frame_ms=16.6, slowest_ms=16.6
    )
    text = progress_line(progress, 80).plain

    assert len(text) < 80
    assert text.endswith(" waiting")


def test_port_that_is_taken_is_one_line_and_exit_code_2() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        done = invoke_command("demo", "--port", taken.getsockname()[1], "--no-browser")

    assert done.exit_code == 2
    (line,) = done.output.splitlines()
    assert "--port" in line


def test_nothing_differs_when_all_counts_agree() -> None:
    assert differences(GAME, COUNTS) == []
    assert differences_of_killed(KILLED, KILLED_COUNTS) == []


def test_killed_game_may_have_recorded_one_event_more_than_it_counted() -> None:
    counts = msgspec.structs.replace(KILLED_COUNTS, stored=303, unique=303)
    assert differences_of_killed(KILLED, counts) == []


@pytest.mark.parametrize(
    ("change", "difference"),
    [
        ({"stored": 301, "unique": 301}, "stored 301 (301) of the killed game's 302"),
        ({"stored": 304, "unique": 304}, "stored 304 (304) of the killed game's 302"),
        ({"unique": 301}, "stored 302 (301) of the killed game's 302"),
        ({"missing": 1}, "missing 1 of the killed game's"),
        ({"outcome": "no_word"}, "the killed game is shown as no_word"),
    ],
)
def test_count_of_the_killed_game_that_differs_is_named(
    change: dict[str, Any], difference: str
) -> None:
    counts = msgspec.structs.replace(KILLED_COUNTS, **change)
    assert differences_of_killed(KILLED, counts) == [difference]


def test_game_that_is_shown_as_it_did_not_end_is_named() -> None:
    counts = msgspec.structs.replace(COUNTS, outcome="crashed")
    assert differences(GAME, counts) == ["outcome crashed instead of well"]


def test_tally_outlives_the_process_that_counts(tmp_path: Path) -> None:
    theirs, ours = Tally(tmp_path / "tally"), Tally(tmp_path / "tally")
    theirs.add()
    theirs.add()
    assert ours.count == 2
    theirs.close()
    assert ours.count == 2
    ours.close()


@pytest.mark.parametrize(
    "field", ["emitted", "delivered", "in_flight", "buffered", "dropped", "rejected"]
)
def test_count_of_the_game_that_differs_is_named(field: str) -> None:
    change: dict[str, Any] = {field: 1}

    (difference,) = differences(msgspec.structs.replace(GAME, **change), COUNTS)

    name = field.replace("_", " ")
    assert difference.startswith(f"{name} {-39 if field == 'delivered' else 1} instead of")


@pytest.mark.parametrize("field", ["stored", "unique", "repeats", "missing"])
def test_count_of_the_collector_that_differs_is_named(field: str) -> None:
    change: dict[str, Any] = {field: 1}

    (difference,) = differences(GAME, msgspec.structs.replace(COUNTS, **change))

    assert difference.startswith(f"{field} 1 instead of")


def test_battle_without_events_proves_nothing() -> None:
    nothing = StoredCounts(0, 0, 0, 0, 0, "well")
    assert differences(Progress(), nothing) == ["the game emitted nothing"]
