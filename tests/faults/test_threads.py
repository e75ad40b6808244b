"""Exact counts with many threads, with the GIL or without it."""

from __future__ import annotations

import subprocess
import sys

import pytest

from benchmarks import threads


@pytest.mark.parametrize("overflows", [True, False])
def test_each_event_is_delivered_once_or_counted_as_dropped(overflows: bool) -> None:
    assert list(threads.run(threads=8, events=2_500, overflows=overflows)) == []


@pytest.mark.skipif(
    "free-threading build" not in sys.version, reason="this build of Python always has the GIL"
)
def test_the_sdk_does_not_turn_the_gil_on() -> None:
    """An extension module that isn't made for free threading does, with a RuntimeWarning."""
    script = "import sys, redvsblue_telemetry as t; t.emit; print(sys._is_gil_enabled())"
    command = [sys.executable, "-W", "error", "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.stdout, done.stderr) == ("False\n", "")
