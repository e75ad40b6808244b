"""Telemetry that has no network at first, so that a test decides when it connects."""

from __future__ import annotations

from typing import Any

from redvsblue_telemetry import Telemetry, TelemetrySettings, _process


def started_offline(**settings: Any) -> Telemetry:
    """Start telemetry as `start_telemetry` would, but without a network: it makes no attempt.

    ``set_online(False)`` after a start is too late for this: a connection may be open by then, or
    wait in the server's backlog, and a first batch may be sent without those that follow.
    """
    telemetry = Telemetry(TelemetrySettings(**settings))
    telemetry.set_online(False)
    _process._current = telemetry.start()  # which the end of the test stops
    return telemetry
