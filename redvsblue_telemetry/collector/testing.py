"""Another import name of :mod:`redvsblue_telemetry.testing.collector`, which was here first."""

from __future__ import annotations

from ..testing.collector import RunningCollector

__all__ = ["RunningCollector"]
