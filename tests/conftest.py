"""What holds around every test: a clean environment before it, no thread of ours after it."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator

import pytest
from hypothesis import settings

from tests.support.chromium import browser, chromium

__all__ = ["browser", "chromium"]  # fixtures

THREADS = ("redvsblue-telemetry", "recording-server")
PATIENCE = 2.0  # seconds for a thread that is on its way out; one that leaks would stay for ever

# How long an example takes is the machine's affair; and what failed is told, not kept in a file.
settings.register_profile("tests", deadline=None, database=None)
settings.load_profile("tests")

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # As in a shell's background job; the programs that tests start and interrupt would inherit it.
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    """A developer's own DO_NOT_TRACK or HTTP_PROXY must not decide what a test finds."""
    for variable in tuple(os.environ):
        is_proxy = variable.lower().endswith("_proxy")
        if is_proxy or variable.startswith("REDVSBLUE_") or variable == "DO_NOT_TRACK":
            monkeypatch.delenv(variable)


@pytest.fixture(autouse=True)
def no_thread_left_behind() -> Iterator[None]:
    """A leaked worker would disturb tests that come later: let the one that leaked it fail."""
    before = threads_of_ours()  # such as those of a fixture that many tests share
    yield
    # Not imported here: what a test doesn't use must not decide whether it passes.
    if package := sys.modules.get("redvsblue_telemetry"):
        package.stop_telemetry(timeout=1)
    deadline = time.monotonic() + PATIENCE
    for thread in threads_of_ours() - before:
        thread.join(max(0.0, deadline - time.monotonic()))
    assert not threads_of_ours() - before, "threads left behind"


def threads_of_ours() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if thread.name in THREADS}
