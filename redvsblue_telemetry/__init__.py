"""Telemetry for Python games: an emit that no frame feels, delivery that is proved.

::

    from redvsblue_telemetry import start_telemetry

    telemetry = start_telemetry()
    telemetry.emit("ship_destroyed", {"shipId": "red-3", "by": "blue-1"})
"""

from __future__ import annotations

from .client import (
    Telemetry,
    TelemetryStats,
    emit,
    get_telemetry,
    start_telemetry,
    stop_telemetry,
)
from .connector import TelemetryConnector
from .errors import InvalidEventError, SettingsError, TelemetryError
from .events import TelemetryEvent
from .settings import TelemetrySettings
from .states import ConnectionState
from .store import TelemetryStore

__version__ = "0.1.0"

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
