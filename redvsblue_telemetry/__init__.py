"""Telemetry for Python games: it never stalls a frame, and its numbers add up.

::

    from redvsblue_telemetry import start_telemetry

    telemetry = start_telemetry()
    telemetry.emit("ship_destroyed", {"shipId": "red-3", "by": "blue-1"})
"""

from __future__ import annotations

from ._delivery.states import ConnectionState
from ._delivery.worker import TelemetryConnector
from ._process import emit, get_telemetry, start_telemetry, stop_telemetry
from ._recording.store import TelemetryStore
from .client import Telemetry, TelemetryStats
from .errors import InvalidEventError, SettingsError, TelemetryError
from .events import TelemetryEvent
from .settings import TelemetrySettings

__version__ = "0.2.0"

__all__ = [
    "ConnectionState",
    "InvalidEventError",
    "SettingsError",
    "Telemetry",
    "TelemetryConnector",
    "TelemetryError",
    "TelemetryEvent",
    "TelemetrySettings",
    "TelemetryStats",
    "TelemetryStore",
    "emit",
    "get_telemetry",
    "start_telemetry",
    "stop_telemetry",
]
