"""Telemetry for Python games: it never stalls a frame, and its numbers add up.

::

    from redvsblue_telemetry import start_telemetry

    telemetry = start_telemetry()
    telemetry.emit("ship_destroyed", {"shipId": "red-3", "by": "blue-1"})
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from . import _packages  # noqa: F401 (first, since it checks what the others import)
from ._delivery.states import ConnectionState
from ._process import emit, get_telemetry, start_telemetry, stop_telemetry
from ._recording.store import TelemetryStore
from ._shared import VERSION
from ._user_dir import user_journal_dir
from .client import Telemetry, TelemetryStats
from .errors import InvalidEventError, SettingsError, TelemetryError
from .event_types import event_type
from .events import TelemetryEvent
from .settings import TelemetrySettings

if TYPE_CHECKING:
    from ._delivery.worker import TelemetryConnector

__version__ = VERSION

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
    "event_type",
    "get_telemetry",
    "start_telemetry",
    "stop_telemetry",
    "user_journal_dir",
]


def __getattr__(name: str) -> object:
    """Import the worker when it is asked for, not in a game that never starts telemetry."""
    if name == "TelemetryConnector":
        from ._delivery.worker import TelemetryConnector  # noqa: PLC0415

        return TelemetryConnector
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
