"""What the process does to it: exits, signals, forks."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from redvsblue_telemetry.testing import RecordingServer

ROOT = Path(__file__).parent.parent

START = """
import os, signal, sys, time
from redvsblue_telemetry import start_telemetry
telemetry = start_telemetry(enabled=True, url=sys.argv[1], backoff_base=0.05)
"""


def run(script: str, url: str, timeout: float = 20) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "ignore:This process", "-c", START + script, url],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


@pytest.mark.parametrize(
    ("ending", "code"),
    [("", 0), ("sys.exit(3)", 3), ("raise RuntimeError('its own')", 1)],
)
def test_what_was_emitted_last_arrives(ending: str, code: int) -> None:
    with RecordingServer() as server:
        done = run(f"telemetry.emit('last')\n{ending}", server.url)
        assert done.returncode == code
        assert server.wait_for(1)
        assert done.stdout == ""
        assert code == 1 or done.stderr == ""


def test_an_exit_with_a_dead_server_is_soon_and_silent() -> None:
    with RecordingServer() as server:
        url = server.url
    start = time.monotonic()
    done = run("telemetry.emit('lost')", url)
    assert (done.returncode, done.stdout) == (0, "")
    assert "Traceback" not in done.stderr
    assert time.monotonic() - start < 8


needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")


@needs_fork
def test_a_forked_child_has_a_session_of_its_own() -> None:
    script = """
for number in range(100):
    telemetry.emit("parent", i=number)
child = os.fork()
if child == 0:
    code = 0 if telemetry.stats().emitted == 0 else 3
    telemetry.emit("child")
    if not telemetry.stop(5):
        code = 4
    os._exit(code)
assert os.waitpid(child, 0)[1] == 0
telemetry.emit("after")
assert telemetry.flush(5)
"""
    with RecordingServer() as server:
        done = run(script, server.url)
        assert (done.returncode, done.stderr) == (0, "")
        assert server.wait_for(102)
        parent = [e for e in server.events if e["type"] != "child"]
        (child,) = [e for e in server.events if e["type"] == "child"]
        assert [event["seq"] for event in parent] == list(range(1, 102))
        assert child["seq"] == 1
        assert child["sessionId"] != parent[0]["sessionId"]


@needs_fork
def test_a_handler_for_sigterm_may_stop_it() -> None:
    script = """
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0 if telemetry.stop(5) else 5))
telemetry.emit("before")
os.kill(os.getpid(), signal.SIGTERM)
time.sleep(10)
"""
    with RecordingServer() as server:
        done = run(script, server.url)
        assert (done.returncode, done.stderr) == (0, "")
        assert server.wait_for(1)


@needs_fork
def test_a_signal_handler_may_emit_in_the_midst_of_anything() -> None:
    script = """
count = 0
def handler(*_):
    global count
    count += 1
    telemetry.emit("signal")
signal.signal(signal.SIGALRM, handler)
signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
own = 0
while count < 200:
    own += 1
    telemetry.emit("own", i=own)
    if own % 100 == 0:
        telemetry.flush(5)
signal.setitimer(signal.ITIMER_REAL, 0)
assert telemetry.stop(10)
stats = telemetry.stats()
assert stats.delivered == count + own, (stats, count, own)
"""
    with RecordingServer() as server:
        done = run(script, server.url, timeout=40)
        assert (done.returncode, done.stderr) == (0, "")
