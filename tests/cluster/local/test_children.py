from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from redvsblue_telemetry.cluster.local.children import Child, Guard
from tests.support.command import environment
from tests.support.systems import needs_posix, needs_proc
from tests.support.wait import wait_until

SLEEPS = "import time; print('awake', flush=True); time.sleep(600)"
IGNORES = f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); {SLEEPS}"
_PATIENCE = 20.0  # seconds for what takes a fraction of one, unless the machine is loaded


@pytest.fixture
def guard() -> Iterator[Guard]:
    with Guard() as guard:
        yield guard


def child(tmp_path: Path, guard: Guard, script: str = SLEEPS) -> Child:
    return Child("sleeper", [sys.executable, "-c", script], tmp_path / "log", guard)


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    # One that nobody has waited for isn't alive: its new parent may never do.
    with contextlib.suppress(FileNotFoundError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return os.path.exists("/proc") is False


def test_a_child_runs_until_it_is_stopped(tmp_path: Path, guard: Guard) -> None:
    sleeper = child(tmp_path, guard)
    assert sleeper.pid is None
    assert not sleeper.is_running
    sleeper.start()
    assert wait_until(lambda: sleeper.last_lines() == "awake")
    assert sleeper.is_running
    sleeper.stop()
    assert not sleeper.is_running
    assert sleeper.pid is None
    assert sleeper.exit_code


def test_a_killed_child_can_be_started_again(tmp_path: Path, guard: Guard) -> None:
    sleeper = child(tmp_path, guard)
    sleeper.start()
    first = sleeper.pid
    sleeper.kill()
    assert not sleeper.is_running
    sleeper.start()
    assert sleeper.is_running
    assert sleeper.pid != first
    sleeper.kill()


def test_a_start_of_a_child_that_runs_does_nothing(tmp_path: Path, guard: Guard) -> None:
    sleeper = child(tmp_path, guard)
    sleeper.start()
    pid = sleeper.pid
    sleeper.start()
    assert sleeper.pid == pid
    sleeper.kill()


def test_the_log_has_the_output_of_all_runs(tmp_path: Path, guard: Guard) -> None:
    speaker = child(tmp_path, guard, "import sys; print('said'); sys.exit('an error')")
    for _ in range(2):
        speaker.start()
        assert wait_until(lambda: speaker.exit_code is not None, _PATIENCE)
    assert speaker.exit_code == 1
    assert sorted(speaker.last_lines().splitlines()) == ["an error"] * 2 + ["said"] * 2


def test_of_a_long_log_the_last_lines_are_shown(tmp_path: Path, guard: Guard) -> None:
    speaker = child(tmp_path, guard, "print(*range(10_000), sep='\\n')")
    assert not speaker.last_lines()
    speaker.start()
    assert wait_until(lambda: speaker.exit_code == 0, _PATIENCE)
    assert speaker.last_lines().splitlines() == [str(n) for n in range(9_988, 10_000)]


@needs_posix
def test_a_child_that_does_not_stop_is_killed(tmp_path: Path, guard: Guard) -> None:
    stubborn = child(tmp_path, guard, IGNORES)
    stubborn.start()
    assert wait_until(lambda: stubborn.last_lines() == "awake")
    with pytest.raises(subprocess.TimeoutExpired):
        stubborn.stop(0.05)
    assert stubborn.exit_code == -signal.SIGKILL


@needs_proc
def test_a_suspended_child_does_not_run_until_it_is_resumed(tmp_path: Path, guard: Guard) -> None:
    def state() -> str:
        return Path(f"/proc/{sleeper.pid}/stat").read_text().rpartition(")")[2].split()[0]

    sleeper = child(tmp_path, guard)
    sleeper.start()
    sleeper.suspend()
    assert state() == "T"
    sleeper.resume()
    assert wait_until(lambda: state() in "RS")
    sleeper.kill()


@needs_posix
def test_a_closed_guard_has_killed_the_children_that_are_left(tmp_path: Path) -> None:
    with Guard() as guard:
        stopped, left = (child(tmp_path, guard) for _ in range(2))
        stopped.start()
        left.start()
        stopped.stop()
    assert wait_until(lambda: left.exit_code == -signal.SIGKILL, _PATIENCE)


@needs_posix
def test_children_end_with_their_parent_however_it_ends(tmp_path: Path) -> None:
    script = f"""
import sys, time
from pathlib import Path
from redvsblue_telemetry.cluster.local.children import Child, Guard
log = Path({str(tmp_path / "log")!r})
child = Child("sleeper", [sys.executable, "-c", {IGNORES!r}], log, Guard())
child.start()
print(child.pid, flush=True)
time.sleep(600)
"""
    with subprocess.Popen(
        [sys.executable, "-c", script], env=environment(), stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        assert is_alive(pid)
        parent.kill()
    assert wait_until(lambda: not is_alive(pid), _PATIENCE)
