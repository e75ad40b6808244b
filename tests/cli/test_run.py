"""``run``: the game keeps its streams, signals and exit code, and its events are counted."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from redvsblue_telemetry.collector.client import CollectorClient
from tests.support.command import (
    ENDINGS,
    PATIENCE,
    Terminal,
    command,
    environment,
    run_command,
    running_command,
)
from tests.support.systems import (
    needs_linux,
    needs_posix,
    needs_terminals,
    needs_windows,
)
from tests.support.wait import wait_until

GAME = """
import os, signal, sys, time
from redvsblue_telemetry import start_telemetry
telemetry = start_telemetry()
for number in range(5):
    telemetry.emit("shot", number=number)
"""
WAITS_FOR_A_SIGNAL = """
got = []
for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, lambda number, frame: got.append(number))
print("pid", os.getpid(), flush=True)
while not got:
    time.sleep(0.01)
time.sleep(0.3)  # a second one would come at once
telemetry.emit("ended", got=got)
sys.exit(7)
"""
# Becomes a process without a terminal, or one whose terminal is its standard output.
NO_TERMINAL = (
    sys.executable,
    "-c",
    "import os, sys; os.setsid(); os.execv(sys.argv[1], sys.argv[1:])",
)
OWN_TERMINAL = (
    sys.executable,
    "-c",
    (
        "import fcntl, os, sys, termios; os.setsid(); fcntl.ioctl(1, termios.TIOCSCTTY, 0); "
        "os.execv(sys.argv[1], sys.argv[1:])"
    ),
)


def game(script: str) -> list[str]:
    return ["--", sys.executable, "-c", script]


def run_game(script: str, *options: object, **variables: str) -> subprocess.CompletedProcess[str]:
    return run_command("run", *options, *game(script), **variables)


def ended(db: Path) -> list[int]:
    """The signals that the game got before it ended."""
    lines = run_command("export", "--db", db, "--type", "ended").stdout.splitlines()
    (event,) = map(json.loads, lines)
    return list(event["data"]["got"])


def test_events_are_counted_and_the_exit_code_is_the_game_s() -> None:
    done = run_game(GAME + "sys.exit(3)")

    assert done.returncode == 3, done.stderr
    assert done.stdout == ""
    assert re.match(r"telemetry: live page at http://127\.0\.0\.1:\d+/\n", done.stderr)
    assert "telemetry: stored 5 events\n" in done.stderr
    assert re.search(r"^  [0-9a-f]{32} +5 +1 +5 +0  ended well$", done.stderr, re.MULTILINE)
    assert "no gaps" in done.stderr
    assert "\x1b" not in done.stderr


def test_game_has_the_standard_streams_and_its_arguments() -> None:
    script = "import sys; print(sys.argv[1:], sys.stdin.read(), end=''); sys.stderr.write('oops')"
    done = subprocess.run(
        [*command("run", *game(script)), "--help", "--port", "x"],
        env=environment(),
        input="line\n",
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert done.returncode == 0
    assert done.stdout == "['--help', '--port', 'x'] line\n"
    assert "oops" in done.stderr


def test_environment_leads_to_the_collector_past_any_proxy() -> None:
    given = {
        "REDVSBLUE_TELEMETRY_WS_URL": "wss://example.com/telemetry",
        "REDVSBLUE_TELEMETRY_TOKEN": "secret",
        "REDVSBLUE_TELEMETRY_BATCH_SIZE": "7",
        "HTTP_PROXY": "http://127.0.0.1:9",
        "NO_PROXY": "example.org",
    }
    both = '"no_proxy": os.environ["no_proxy"]'  # one variable, where their case does not count
    script = GAME + f"import json; print(json.dumps({{**os.environ, {both}}}))"
    done = run_game(script, **given)

    assert "stored 5 events" in done.stderr
    found = json.loads(done.stdout)
    assert re.match(r"ws://127\.0\.0\.1:\d+/telemetry$", found["REDVSBLUE_TELEMETRY_WS_URL"])
    assert found["REDVSBLUE_ENABLE_TELEMETRY"] == "true"
    assert found["REDVSBLUE_TELEMETRY_BATCH_SIZE"] == "7"
    assert found["NO_PROXY"] == found["no_proxy"] == "example.org,127.0.0.1"
    assert "REDVSBLUE_TELEMETRY_TOKEN" not in found


@pytest.mark.parametrize(
    ("variable", "value"), [("DO_NOT_TRACK", "1"), ("REDVSBLUE_ENABLE_TELEMETRY", "false")]
)
def test_kill_switch_wins_and_the_game_runs_all_the_same(variable: str, value: str) -> None:
    script = GAME + "print(telemetry.enabled); sys.exit(3)"
    done = run_game(script, **{variable: value})

    assert (done.returncode, done.stdout) == (3, "False\n")
    (line,) = done.stderr.splitlines()
    assert line.startswith("telemetry: off, because the environment forbids it")


def test_switch_that_is_unreadable_is_not_overridden() -> None:
    done = run_game(
        "import os; print(os.environ['REDVSBLUE_ENABLE_TELEMETRY'])",
        REDVSBLUE_ENABLE_TELEMETRY="nope",
    )

    assert done.stdout == "nope\n"


def test_game_without_events_gets_likely_reasons() -> None:
    done = run_game("")

    assert done.returncode == 0
    assert "the game sent no events" in done.stderr
    assert "start_telemetry()" in done.stderr
    assert "url=" in done.stderr


def test_gaps_and_rejected_messages_are_shown() -> None:
    script = (
        "import json, os\nfrom websockets.sync.client import connect\n"
        "event = {'type': 'x', 'timestamp': 1, 'sessionId': 's', 'data': {}}\n"
        "events = [event | {'id': f'{seq}', 'seq': seq} for seq in (3, 4, 7)]\n"
        "headers = {'Telemetry-Ack': 'cumulative'}\n"
        "url = os.environ['REDVSBLUE_TELEMETRY_WS_URL']\n"
        "with connect(url, additional_headers=headers, proxy=None) as client:\n"
        "    client.send(json.dumps([*events, {'type': 'no event'}]))\n"
        "    client.recv()\n"
    )
    done = run_game(script)

    assert re.search(r"^  s +3 +3 +7 +4  no report$", done.stderr, re.MULTILINE)
    assert "telemetry: missing from s: 1-2 unexplained, 5-6 unexplained\n" in done.stderr
    assert "telemetry: 1 rejected; the last one: " in done.stderr
    assert "no gaps" not in done.stderr


@needs_posix
def test_signal_that_kills_the_game_is_its_exit_code() -> None:
    done = run_game(GAME + "telemetry.flush(10); os.kill(os.getpid(), signal.SIGKILL)")

    assert done.returncode == 128 + signal.SIGKILL
    assert "SIGKILL killed the game" in done.stderr
    assert "stored 5 events" in done.stderr
    assert re.search(r" 5 +1 +5 +0  no word$", done.stderr, re.MULTILINE)


def test_crash_of_the_game_is_its_outcome() -> None:
    done = run_game(GAME + "sys.stderr = None\nraise KeyError('red-3')")

    assert done.returncode == 1
    assert re.search(r" 5 +1 +5 +0  crashed$", done.stderr, re.MULTILINE)


def test_events_that_do_not_fit_the_schema_are_shown_with_their_faults(tmp_path: Path) -> None:
    data = {"type": "object", "properties": {"number": {"type": "integer", "maximum": 3}}}
    shot = {"properties": {"type": {"const": "shot"}, "data": data}}
    schema = tmp_path / "events.schema.json"
    schema.write_text(json.dumps({"oneOf": [shot]}))
    script = GAME + "telemetry.emit('shout'); telemetry.emit('shout')"
    done = run_game(script, "--schema", schema)

    assert done.returncode == 0, done.stderr
    assert (
        "telemetry: 3 events do not fit the schema:\n"
        "  shout: no such type of event\n"
        "  shot: data.number: must be at most 3\n"
    ) in done.stderr
    assert (
        "telemetry: 1 event does not fit the schema:\n" in run_game(GAME, "--schema", schema).stderr
    )


def test_missing_events_have_the_reasons_that_the_game_reports() -> None:
    script = GAME.replace(
        "start_telemetry()",
        "start_telemetry(before_send=lambda event: event if event.data['number'] % 2 else None)",
    )
    done = run_game(script)

    assert re.search(r"^  [0-9a-f]{32} +2 +2 +5 +3  ended well$", done.stderr, re.MULTILINE)
    assert re.search(r"missing from \w+: 1 filtered, 3 filtered, 5 filtered\n", done.stderr)


def test_game_that_starts_telemetry_and_emits_nothing_gets_likely_reasons() -> None:
    done = run_game(GAME.replace("range(5)", "range(0)") + "telemetry.flush(10)")

    assert "the game sent no events" in done.stderr


@needs_windows
def test_exception_that_kills_the_game_is_its_exit_code() -> None:
    done = run_game(GAME + "telemetry.flush(10); os._exit(0xC0000005 - 2**32)")

    assert done.returncode == 0xC0000005
    assert "exception 0xC0000005 killed the game" in done.stderr
    assert "stored 5 events" in done.stderr


@needs_windows
def test_game_is_what_a_shell_would_start(tmp_path: Path) -> None:
    """The system would start the Python that runs the command, and nothing but .exe files."""
    (tmp_path / "python.cmd").write_text("@exit /b %1")
    done = run_command("run", "python", 5, PATH=f"{tmp_path};{os.environ['PATH']}")

    assert done.returncode == 5, done.stderr


@pytest.mark.parametrize(("mode", "code"), [(None, 127), (0o644, 126), (0o755, 126)])
def test_command_that_cannot_be_started(mode: int | None, code: int, tmp_path: Path) -> None:
    file = tmp_path / "game"
    if mode is not None:
        file.write_bytes(b"\x7fnot a program")
        file.chmod(mode)
    done = run_command("run", "--no-browser", file)

    assert done.returncode == code
    (line,) = done.stderr.splitlines()
    assert line.startswith("Error: ")
    assert str(file) in line


@needs_posix
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_goes_to_the_game_and_the_collector_stays_for_its_last_events(
    number: signal.Signals, tmp_path: Path
) -> None:
    db = tmp_path / "t.sqlite3"
    arguments = ["--db", db, *game(GAME + WAITS_FOR_A_SIGNAL)]
    with running_command("run", *arguments, before=NO_TERMINAL) as running:
        running.wait_for("pid ")
        assert running.end(number) == 7

    assert "stored 6 events" in running.errors
    assert ended(db) == [number]


@needs_windows
@pytest.mark.parametrize("number", ENDINGS)
def test_end_of_the_console_is_left_to_the_game(number: signal.Signals, tmp_path: Path) -> None:
    """A console interrupts all of its processes. Here, it interrupts the command alone."""
    script = f"""
from pathlib import Path
print("ready", flush=True)
while not Path({str(tmp_path / "end")!r}).exists():
    time.sleep(0.01)
telemetry.emit("ended")
sys.exit(7)
"""
    with running_command("run", *game(GAME + script)) as running:
        running.wait_for("ready")
        running.send(number)
        (tmp_path / "end").touch()
        assert running.end() == 7

    assert "stored 6 events" in running.errors


@needs_terminals
def test_ctrl_c_on_a_terminal_interrupts_the_game_once(tmp_path: Path) -> None:
    db = tmp_path / "t.sqlite3"
    arguments = ["--db", db, *game(GAME + WAITS_FOR_A_SIGNAL)]
    with Terminal("run", *arguments, before=OWN_TERMINAL) as terminal:
        terminal.wait_for(b"pid ")
        terminal.type(b"\x03")
        assert terminal.end() == 7

    assert ended(db) == [signal.SIGINT]


@needs_linux
def test_game_never_outlives_the_command() -> None:
    with running_command("run", *game(GAME + WAITS_FOR_A_SIGNAL)) as running:
        running.wait_for("pid ")
        pid = int(running.output.split()[1])
        assert running.end(signal.SIGKILL) == -signal.SIGKILL
    assert wait_until(lambda: not is_alive(pid), PATIENCE)


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@needs_terminals
def test_page_is_opened_on_a_terminal_and_stays_if_asked(tmp_path: Path) -> None:
    browser = tmp_path / "browser"
    browser.write_text(f'#!/bin/sh\necho "$1" > {tmp_path}/opened\n')
    browser.chmod(0o755)
    arguments = ["--stay", *game(GAME + "sys.exit(3)")]
    with Terminal("run", *arguments, BROWSER=f"{browser} %s") as terminal:
        terminal.wait_for(b"until Ctrl-C")
        assert b"stored 5 events" in terminal.shown
        opened = tmp_path / "opened"
        assert wait_until(lambda: opened.exists() and opened.read_text().endswith("\n"))
        page = opened.read_text().strip()
        assert page.encode() in terminal.shown
        with contextlib.closing(CollectorClient(page)) as client:
            assert client.stats().events == 5
        assert terminal.end(signal.SIGINT) == 3


def test_collector_that_cannot_start_keeps_the_game_from_running(tmp_path: Path) -> None:
    script = f"open({str(tmp_path / 'ran')!r}, 'w')"
    with socket.create_server(("127.0.0.1", 0)) as taken:
        done = run_game(script, "--port", taken.getsockname()[1])

    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert "--port" in line
    assert os.listdir(tmp_path) == []


def test_command_is_required() -> None:
    done = run_command("run")

    assert done.returncode == 2
    assert "Missing argument" in done.stderr
