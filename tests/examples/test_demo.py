"""The demo: its verdict, its exit codes, and that nothing outlives it."""

from __future__ import annotations

import re
import signal
import socket
import subprocess
import sys
import time

import pytest
from example_process import EXAMPLES, run_example, start_example

VERDICT = "every event arrived once"
needs_posix_signals = pytest.mark.skipif(
    sys.platform == "win32", reason="sends POSIX signals to the demo"
)


def test_every_event_arrives_once() -> None:
    demo = run_example("demo.py", "--seconds", "1")

    assert demo.returncode == 0, demo.stdout + demo.stderr
    (verdict,) = (line for line in demo.stdout.splitlines() if VERDICT in line)
    assert re.fullmatch(rf"{VERDICT}: [1-9]\d+ events", verdict)
    assert "events/s" in demo.stdout
    assert "\x1b" not in demo.stdout
    assert demo.stderr == ""


@pytest.mark.parametrize(
    ("variable", "value"), [("DO_NOT_TRACK", "1"), ("REDVSBLUE_ENABLE_TELEMETRY", "false")]
)
def test_kill_switch_wins_and_nothing_is_claimed(variable: str, value: str) -> None:
    demo = run_example("demo.py", "--seconds", "1", **{variable: value})

    assert demo.returncode == 2
    assert "Telemetry stays off" in demo.stdout
    assert VERDICT not in demo.stdout


@needs_posix_signals
@pytest.mark.parametrize("ending", ["SIGINT", "SIGTERM", "SIGKILL"])
def test_receiver_never_outlives_the_demo(ending: str) -> None:
    with start_example("demo.py", "--seconds", "60") as demo:
        port = receiver_port(demo)
        demo.send_signal(signal.Signals[ending])
        output, errors = demo.communicate(timeout=10)

    assert VERDICT not in output
    # websockets itself logs a handshake that was cut off; no traceback leads through an example.
    assert str(EXAMPLES) not in errors
    wait_until_refused(port)


def receiver_port(demo: subprocess.Popen[str]) -> int:
    """The port that the demo's first line names. The game is running once that line is out."""
    assert demo.stdout is not None
    found = re.search(r"ws://127\.0\.0\.1:(\d+)", demo.stdout.readline())
    assert found
    return int(found[1])


def wait_until_refused(port: int, timeout: float = 5.0) -> None:
    """Return once nobody listens on ``port`` any more; fail after ``timeout`` seconds."""
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1.0).close()
        except OSError:
            return
        time.sleep(0.02)
    pytest.fail(f"something still listens on port {port}")
