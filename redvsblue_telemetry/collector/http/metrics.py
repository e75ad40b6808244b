"""Metrics for Prometheus, served at ``/metrics``."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import get_args

from prometheus_client import CollectorRegistry, Counter, Gauge, ProcessCollector, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from ..models import Cause, Storage, Totals
from ..storage.writer import Stored
from .access import Reason

__all__ = ["Metrics"]

# Clients choose the causes in their reports. These are the ones that the SDK reports.
_CAUSES = (
    "overflow", "refused", "rejected", "filtered", "switched_off", "expired", "left_behind",
    "forwarded", "damaged", Cause.DROPPED,
)  # fmt: skip
_OTHER = "other"


class Metrics:
    """The metrics of one collector. Written on the event loop's thread, read on any thread.

    No metric has a label whose value a client could choose, so the number of series is fixed.
    Counters start with the process; the gauges of sessions and missing events are read from the
    database.

    Args:
        connections: returns the number of connected clients.
        viewers: returns the number of viewers of the live stream.
        firing: returns for each alert whether it is firing.
        more: metrics of the kind of storage.
    """

    def __init__(
        self,
        connections: Callable[[], int],
        viewers: Callable[[], int],
        firing: Callable[[], Mapping[str, bool]] = dict,
        more: Iterable[Collector] = (),
    ) -> None:
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
        self._received_bytes = Counter(
            "telemetry_received_bytes",
            "Bytes of messages as they came, compressed or not.",
            registry=registry,
        )
        self._text_bytes = Counter(
            "telemetry_text_bytes",
            "Bytes of the same messages as text, after unpacking.",
            registry=registry,
        )
        self._failures = Counter(
            "telemetry_storage_failures",
            "Groups of messages that could not be stored.",
            registry=registry,
        )
        self._crashes = Counter(
            "telemetry_crashes", "Stored events of the type crash.", registry=registry
        )
        self._faulty = Counter(
            "telemetry_events_faulty",
            "Stored events that do not fit the schema.",
            registry=registry,
        )
        self._alerts = Counter(
            "telemetry_alerts",
            "Alerts for a webhook, by whether it took them.",
            labelnames=["outcome"],
            registry=registry,
        )
        for outcome in ("delivered", "failed"):
            self._alerts.labels(outcome)
        registry.register(_Firing(firing))
        self._refused = Counter(
            "telemetry_refused_requests",
            "Requests that were refused before they reached the page, the API or ingest.",
            labelnames=["reason"],
            registry=registry,
        )
        for reason in get_args(Reason):
            self._refused.labels(reason)
        Gauge("telemetry_connections", "Clients connected now.", registry=registry).set_function(
            connections
        )
        Gauge(
            "telemetry_viewers", "Viewers of the live stream now.", registry=registry
        ).set_function(viewers)
        for each in more:
            registry.register(each)
        ProcessCollector(registry=registry)  # memory, processor time, open files; on Linux

    def record(self, stored: Stored) -> None:
        """Count a group that was just stored."""
        self.count(
            events=len(stored.events),
            repeats=stored.repeats,
            rejected=stored.rejected,
            crashes=stored.by_type.get("crash", 0),
        )
        self._faulty.inc(len(stored.faults))

    def count(self, *, events: int, repeats: int, rejected: int, crashes: int) -> None:
        """Count what a group had that was just stored."""
        self._groups.inc()
        self._stored.inc(events)
        self._repeats.inc(repeats)
        self._rejected.inc(rejected)
        self._crashes.inc(crashes)

    def record_message(self, received: int, text: int) -> None:
        """Count the bytes of a message, as it came and as text."""
        self._received_bytes.inc(received)
        self._text_bytes.inc(text)

    def record_failure(self) -> None:
        """Count a group that could not be stored."""
        self._failures.inc()

    def record_alert(self, was_taken: bool) -> None:
        """Count an alert that a webhook took, or didn't take in the end."""
        self._alerts.labels("delivered" if was_taken else "failed").inc()

    def record_refusal(self, reason: Reason) -> None:
        """Count a request that was refused."""
        self._refused.labels(reason).inc()

    def exposition(self, totals: Totals | None, storage: Storage | None) -> bytes:
        """Return all metrics in Prometheus's text format.

        Args:
            totals: the counts over the database; None, if it can't be read, leaves them out.
            storage: the room that it takes; None leaves it out.
        """
        text = generate_latest(self._registry)
        if totals is not None:
            registry = CollectorRegistry()
            registry.register(_Database(totals, storage))
            text += generate_latest(registry)
        return text


class _Firing(Collector):
    """Which alerts are firing."""

    def __init__(self, firing: Callable[[], Mapping[str, bool]]) -> None:
        self._firing = firing

    def describe(self) -> Iterable[Metric]:
        """Yield nothing: the registry would otherwise read it while the collector is made."""
        return ()

    def collect(self) -> Iterable[Metric]:
        """Yield the metric."""
        family = GaugeMetricFamily(
            "telemetry_alert_firing", "Whether an alert is firing.", labels=["alert"]
        )
        for name, is_firing in self._firing().items():
            family.add_metric([name], is_firing)
        yield family


class _Database(Collector):
    """The metrics that are read from the database."""

    def __init__(self, totals: Totals, storage: Storage | None) -> None:
        self._totals = totals
        self._storage = storage

    def collect(self) -> Iterable[Metric]:
        """Yield the metrics."""
        sessions = GaugeMetricFamily(
            "telemetry_sessions", "Sessions by outcome.", labels=["outcome"]
        )
        for outcome, count in self._totals.outcomes.items():
            sessions.add_metric([outcome], count)
        yield sessions
        missing = GaugeMetricFamily(
            "telemetry_events_missing", "Numbers without an event, by cause.", labels=["cause"]
        )
        for cause, count in _missing(self._totals).items():
            missing.add_metric([cause], count)
        yield missing
        if self._storage is not None:
            yield from _room(self._storage)


def _room(storage: Storage) -> Iterable[Metric]:
    days = math.nan if storage.days_left is None else storage.days_left
    gauges = {
        "telemetry_database_bytes": ("What the data takes up.", storage.used_bytes),
        "telemetry_database_file_bytes": ("The size of the database's files.", storage.file_bytes),
        "telemetry_database_max_bytes": (
            "The limit of --max-bytes, or 0.",
            storage.max_bytes or 0,
        ),
        "telemetry_disk_free_bytes": ("The room on its disk.", storage.disk_free_bytes),
        "telemetry_disk_days_left": ("Days until the disk is full, or NaN.", days),
        "telemetry_disk_low": ("Whether the disk will be full soon.", float(storage.is_low)),
    }
    for name, (about, value) in gauges.items():
        yield GaugeMetricFamily(name, about, value=value)


def _missing(totals: Totals) -> dict[str, int]:
    counts = dict.fromkeys((*_CAUSES, _OTHER), 0)
    for cause, count in totals.lost.items():
        counts[cause if cause in _CAUSES else _OTHER] += count
    explained = sum(counts.values()) + totals.waiting
    unexplained = max(0, totals.missing - totals.implausible_missing - explained)
    return {**counts, Cause.WAITING: totals.waiting, Cause.UNEXPLAINED: unexplained}
