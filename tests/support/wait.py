"""Waiting for a condition, with a deadline."""

from __future__ import annotations

import time
from collections.abc import Callable

PATIENCE = 60.0  # seconds for what takes one, on a machine that has other things to do


def wait_until(condition: Callable[[], object], timeout: float = PATIENCE) -> bool:
    """Look every few milliseconds; whether the condition came to hold in time."""
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.002)
    return True
