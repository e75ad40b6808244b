"""Metrics for Prometheus, served at ``/metrics``."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, ProcessCollector, generate_latest

from ..storage.writer import Stored

__all__ = ["Metrics"]


class Metrics:
    """The metrics of one collector. Written on the event loop's thread, read on any thread.

    No metric has a label whose value a client could choose, so the number of series is fixed.

    Args:
        connections: returns the number of connected clients.
        viewers: returns the number of viewers of the live stream.
    """

    def __init__(self, connections: Callable[[], int], viewers: Callable[[], int]) -> None:
        registry = self._registry = CollectorRegistry()
        self._stored = Counter("telemetry_events_stored", "Events stored.", registry=registry)
        self._groups = Counter(
            "telemetry_groups_stored",
            "Groups of messages stored, each in one transaction.",
            registry=registry,
        )
        self._repeats = Counter(
            "telemetry_events_repeated",
            "Events that arrived again and were already stored.",
            registry=registry,
        )
        self._rejected = Counter(
            "telemetry_events_rejected",
            "Messages, or parts of them, that were not valid events.",
            registry=registry,
        )
        self._failures = Counter(
            "telemetry_storage_failures",
            "Groups of messages that could not be stored.",
            registry=registry,
        )
        Gauge("telemetry_connections", "Clients connected now.", registry=registry).set_function(
            connections
        )
        Gauge(
            "telemetry_viewers", "Viewers of the live stream now.", registry=registry
        ).set_function(viewers)
        ProcessCollector(registry=registry)  # memory, processor time, open files; on Linux

    def record(self, stored: Stored) -> None:
        """Count a group that was just stored."""
        self._groups.inc()
        self._stored.inc(len(stored.events))
        self._repeats.inc(stored.repeats)
        self._rejected.inc(stored.rejected)

    def record_failure(self) -> None:
        """Count a group that could not be stored."""
        self._failures.inc()

    def exposition(self) -> bytes:
        """Return all metrics in Prometheus's text format."""
        return generate_latest(self._registry)
