"""The command as a whole: real servers, gateways, loaders and games, as on other machines."""

from __future__ import annotations

import contextlib
import http.client
import json
import re
import signal
import sys
from pathlib import Path

import pytest

from redvsblue_telemetry.cluster.local.ledgers import count_events
from redvsblue_telemetry.cluster.local.servers import ServersError, find_program
from tests.cli.test_run import is_alive
from tests.support.command import (
    PATIENCE,
    Running,
    Terminal,
    invoke_command,
    running_command,
    running_process,
)
from tests.support.systems import needs_posix, needs_proc
from tests.support.wait import wait_until

# The pauses are for people who watch.
_HURRIED = """
import sys
from redvsblue_telemetry.__main__ import main
from redvsblue_telemetry.cli.cluster import command
command._BETWEEN_KILLS, command._DEAD_FOR = 1.0, 0.5
sys.exit(main())
"""
VERDICT = r"^every event once: ([\d,]+) events$"


def _is_installed() -> bool:
    try:
        find_program()
    except ServersError:
        return False
    return True


pytestmark = pytest.mark.skipif(not _is_installed(), reason="needs nats-server")


def children_of(running: Running) -> list[int]:
    tasks = Path(f"/proc/{running.process.pid}/task")
    found = (path.read_text().split() for path in tasks.glob("*/children"))
    return [int(pid) for pids in found for pid in pids]


def figure(output: str, name: str) -> int:
    found = re.search(rf"^  {name} +([\d,]+)$", output, re.MULTILINE)
    assert found, output
    return int(found[1].replace(",", ""))


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_every_event_is_in_the_lake_once_though_each_part_is_killed(tmp_path: Path) -> None:
    options = ("--kill", "--seconds", "5", "--games", "3", "--rate", "60", "--dir", str(tmp_path))
    with running_process([sys.executable, "-c", _HURRIED, "cluster", *options]) as running:
        assert wait_until(lambda: running.process.poll() is not None, 220), running.said
        code = running.end()

    assert code == 0, running.said
    output = running.output
    for victim in ("gateway 1", "loader 1", "view 1", "the leader of the stream", "a follower"):
        assert re.search(rf"kill -9 \d+: .*{victim}", output), output
    assert figure(output, "missing") == figure(output, "twice") == 0
    assert figure(output, "out of order") == figure(output, "dropped") == 0
    assert figure(output, "reconnects") > 0  # of the games of the gateway that was killed
    verdict = re.search(VERDICT, output, re.MULTILINE)
    assert verdict, output
    assert int(verdict[1].replace(",", "")) == figure(output, "stored") > 100
    assert count_events(str(tmp_path / "lake")) == figure(output, "stored")


@needs_posix
@pytest.mark.slow
@pytest.mark.timeout(120)
def test_on_a_terminal_the_progress_is_one_line(tmp_path: Path) -> None:
    options = ("--seconds", 2, "--games", 1, "--dir", tmp_path)
    with Terminal("cluster", *options) as terminal:
        assert wait_until(lambda: terminal.process.poll() is not None, 100), terminal.shown
        assert terminal.end() == 0, terminal.shown

    shown = terminal.shown.decode()
    assert "\x1b[1;32mevery event once: " in shown
    assert re.search(r"\r\x1b\[2K +\d+\.\d s +[\d,]+ emitted", shown)  # over the line before


def assert_events_are_shown(output: str) -> None:
    """Check that the view whose address is printed shows what games send."""
    printed = re.search(r"^  look at +http://([\d.:]+)/$", output, re.MULTILINE)
    assert printed, output

    def shown() -> int:
        connection = http.client.HTTPConnection(printed[1], timeout=PATIENCE)
        with contextlib.closing(connection):
            connection.request("GET", "/api/stats")
            return int(json.loads(connection.getresponse().read())["events"])

    assert wait_until(lambda: shown() > 0, PATIENCE)


@needs_proc
@pytest.mark.slow
@pytest.mark.timeout(120)
@pytest.mark.parametrize("ending", ["SIGINT", "SIGKILL"])
def test_no_part_outlives_the_command(tmp_path: Path, ending: str) -> None:
    options = ("--seconds", 60, "--games", 1, "--dir", tmp_path)
    with running_command("cluster", *options) as running:
        assert wait_until(lambda: "in the lake" in running.output, 3 * PATIENCE), running.said
        parts = children_of(running)
        assert_events_are_shown(running.output)
        code = running.end(signal.Signals[ending])

    assert code == (-signal.SIGKILL if ending == "SIGKILL" else 130), running.said
    assert "every event once" not in running.output
    assert len(parts) >= 10  # three servers, two gateways, two loaders, a view, a guard, a game
    assert wait_until(lambda: not any(map(is_alive, parts)), PATIENCE)


@pytest.mark.parametrize(
    ("variable", "value"), [("DO_NOT_TRACK", "1"), ("REDVSBLUE_ENABLE_TELEMETRY", "false")]
)
def test_kill_switch_wins_and_nothing_is_claimed(variable: str, value: str) -> None:
    done = invoke_command("cluster", **{variable: value})

    assert done.exit_code == 2
    assert "nothing to show" in done.output


def test_a_directory_that_can_not_be_made_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    done = invoke_command("cluster", "--dir", tmp_path / "file" / "below")

    assert done.exit_code == 2
    assert "can't be made: Not a directory" in done.output
