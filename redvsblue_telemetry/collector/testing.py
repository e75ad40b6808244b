"""The documented name of :mod:`redvsblue_telemetry.testing.collector` until 0.1; it still works."""

from __future__ import annotations

from ..testing.collector import RunningCollector

__all__ = ["RunningCollector"]
