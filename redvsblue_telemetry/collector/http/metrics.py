"""What Prometheus reads at ``/metrics``."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, ProcessCollector, generate_latest

from ..storage.writer import Stored

__all__ = ["Metrics"]


class Metrics:
    """The counters of one collector. Written on the event loop's thread, read on any.

    No metric has a label that a client could choose, so their number is fixed.

    Args:
        connections: how many clients are connected now.
        viewers: how many look on now.
    """

    def __init__(self, connections: Callable[[], int], viewers: Callable[[], int]) -> None:
        registry = self._registry = CollectorRegistry()
        self._stored = Counter(
            "telemetry_events_stored", "Events that were stored.", registry=registry
        )
        self._groups = Counter(
            "telemetry_groups_stored",
            "Groups of messages that were stored, each in one transaction.",
            registry=registry,
        )
        self._repeats = Counter(
            "telemetry_events_repeated",
            "Events that came and were stored already.",
            registry=registry,
        )
        self._rejected = Counter(
            "telemetry_events_rejected", "What came and was no event.", registry=registry
        )
        self._failures = Counter(
            "telemetry_storage_failures",
            "Groups of messages that could not be stored.",
            registry=registry,
        )
        Gauge(
            "telemetry_connections", "Clients that are connected now.", registry=registry
        ).set_function(connections)
        Gauge(
            "telemetry_viewers", "Viewers of the live stream now.", registry=registry
        ).set_function(viewers)
        ProcessCollector(registry=registry)  # memory, processor time, open files; on Linux

    def note(self, stored: Stored) -> None:
        """Count what has just been stored."""
        self._groups.inc()
        self._stored.inc(len(stored.events))
        self._repeats.inc(stored.repeats)
        self._rejected.inc(stored.rejected)

    def note_failure(self) -> None:
        """Count a group that could not be stored."""
        self._failures.inc()

    def exposition(self) -> bytes:
        """All of it, in Prometheus's text format."""
        return generate_latest(self._registry)
