"""Whether one event gets through to a server, and why not."""

from __future__ import annotations

from typing import Any

from redvsblue_telemetry import start_telemetry, stop_telemetry
from tests.support.wait import wait_until

QUICK: dict[str, Any] = {"enabled": True, "backoff_base": 0.02, "backoff_max": 0.1}
ONE_ATTEMPT: dict[str, Any] = {"enabled": True, "backoff_base": 600, "backoff_max": 600}


def delivers(url: str, **settings: Any) -> bool:
    """Whether it is confirmed, be it at the first attempt or a later one."""
    telemetry = start_telemetry(**{**QUICK, "url": url, **settings})
    telemetry.emit("x")
    delivered = telemetry.flush(10)
    stop_telemetry(1)
    return delivered


def failure(url: str, **settings: Any) -> str:
    """Why the first attempt, or connection, failed."""
    telemetry = start_telemetry(**{**ONE_ATTEMPT, "url": url, **settings})
    telemetry.emit("x")
    assert wait_until(lambda: telemetry.stats().last_error is not None)
    reason = str(telemetry.stats().last_error)
    assert telemetry.stats().delivered == 0
    telemetry.enabled = False  # so that nothing is left for which the stop would try once more
    stop_telemetry(1)
    return reason
