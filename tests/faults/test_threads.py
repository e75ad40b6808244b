"""Exact counts with many threads, with the GIL or without it."""

from __future__ import annotations

import subprocess
import sys
import threading

import pytest

from benchmarks import threads
from redvsblue_telemetry._delivery.requests import Requests


@pytest.mark.parametrize("overflows", [True, False])
def test_each_event_is_delivered_once_or_counted_as_dropped(overflows: bool) -> None:
    assert list(threads.run(threads=8, events=2_500, overflows=overflows)) == []


def test_the_worker_reads_the_requests_while_callers_leave_more() -> None:
    """Without the GIL, iterating over a deque fails when another thread appends to it."""
    requests = Requests(lambda: None)
    over = threading.Event()

    def leave() -> None:
        while not over.is_set():
            left = [requests.flush(1, since=0) for _ in range(5)]
            for request in left:
                requests.cancel_flush(request)

    callers = [threading.Thread(target=leave) for _ in range(3)]
    for caller in callers:
        caller.start()
    try:
        for _ in range(20_000):
            requests.settle_flushes(departed=0, loaded=0, settled=0)
            requests.mark_overflow(1, 1)
            requests.mark_attempt()
    finally:
        over.set()
        for caller in callers:
            caller.join()
    assert not requests.is_awaited


@pytest.mark.skipif(
    "free-threading build" not in sys.version, reason="Python: this build always has the GIL"
)
def test_the_sdk_does_not_turn_the_gil_on() -> None:
    """An extension module that isn't made for free threading does, with a RuntimeWarning."""
    script = "import sys, redvsblue_telemetry as t; t.emit; print(sys._is_gil_enabled())"
    command = [sys.executable, "-W", "error", "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    assert (done.stdout, done.stderr) == ("False\n", "")
