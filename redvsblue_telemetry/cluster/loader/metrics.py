"""The metrics of a loader for Prometheus, served at ``/metrics``."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import msgspec
from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector
from prometheus_client import generate_latest as exposition
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from ..stream import StreamHealth
from .storing import Stored

__all__ = ["Lag", "Metrics", "State"]


class Lag(msgspec.Struct, frozen=True):
    """How far the lake is behind the stream, in one partition."""

    messages: int
    seconds: float
    """How long the oldest message that is not in the lake has waited since a gateway got it."""


class State(msgspec.Struct, frozen=True):
    """How a loader stands."""

    lags: dict[int, Lag]
    """Of each partition that it owns."""
    partitions: int
    """Of the stream."""
    loaders: int
    """That live, as far as this one knows."""
    stream: StreamHealth | None
    """None until it was asked for the first time."""
    is_storing: bool


class Metrics:
    """The metrics of one loader. Written on the event loop's thread, read on any thread.

    No metric has a label whose value a client could choose. Counters start with the process.

    Args:
        state: returns how the loader stands.
    """

    def __init__(self, state: Callable[[], State]) -> None:
        registry = self._registry = CollectorRegistry()
        self._commits = Counter("telemetry_commits", "Commits to the lake.", registry=registry)
        self._failures = Counter(
            "telemetry_commit_failures", "Commits to the lake that failed.", registry=registry
        )
        self._lost = Counter(
            "telemetry_commits_lost",
            "Commits that failed because another loader had taken a partition.",
            registry=registry,
        )
        self._upkeep_failures = Counter(
            "telemetry_upkeep_failures",
            "Times that the lake could not be tended.",
            registry=registry,
        )
        self._messages = Counter(
            "telemetry_messages_loaded", "Messages of the stream in commits.", registry=registry
        )
        self._stored = Counter(
            "telemetry_events_stored", "Events stored in the lake.", registry=registry
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
        self._faulty = Counter(
            "telemetry_events_faulty",
            "Stored events that do not fit the schema.",
            registry=registry,
        )
        self._seconds = Histogram(
            "telemetry_commit_seconds",
            "How long commits to the lake took.",
            buckets=(0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0),
            registry=registry,
        )
        registry.register(_Standing(state))
        ProcessCollector(registry=registry)  # memory, processor time, open files; on Linux

    def record(self, stored: Stored) -> None:
        """Count a commit."""
        self._commits.inc()
        self._messages.inc(stored.messages)
        self._stored.inc(stored.events)
        self._repeats.inc(stored.repeats)
        self._rejected.inc(stored.rejected)
        self._faulty.inc(stored.faulty)
        self._seconds.observe(stored.seconds)

    def record_failure(self, *, is_lost: bool) -> None:
        """Count a commit that failed."""
        (self._lost if is_lost else self._failures).inc()

    def record_upkeep_failure(self) -> None:
        """Count a time that the lake could not be tended."""
        self._upkeep_failures.inc()

    def exposition(self) -> bytes:
        """Return all metrics in Prometheus's text format."""
        return exposition(self._registry)


class _Standing(Collector):
    """The metrics that are asked for when they are served."""

    def __init__(self, state: Callable[[], State]) -> None:
        self._state = state

    def describe(self) -> Iterable[Metric]:
        """Yield nothing: the registry would otherwise read it while the loader is made."""
        return ()

    def collect(self) -> Iterable[Metric]:
        """Yield the metrics."""
        state = self._state()
        gauges = {
            "telemetry_partitions_owned": (
                "Partitions of the stream that this loader owns.",
                len(state.lags),
            ),
            "telemetry_partitions": ("Partitions of the stream.", state.partitions),
            "telemetry_loaders": ("Loaders that live, as this one sees it.", state.loaders),
            "telemetry_storing": ("Whether events can be stored.", float(state.is_storing)),
        }
        if state.stream is not None:
            stream = state.stream
            gauges |= {
                "telemetry_stream_copies": ("Servers that have all of the stream.", stream.copies),
                "telemetry_stream_replicas": ("Servers that should have it.", stream.replicas),
                "telemetry_stream_bytes": ("Size of the stream on each of them.", stream.size),
            }
        for name, (about, value) in gauges.items():
            yield GaugeMetricFamily(name, about, value=value)
        messages = GaugeMetricFamily(
            "telemetry_lag_messages",
            "Messages of a partition that are not in the lake yet.",
            labels=["partition"],
        )
        seconds = GaugeMetricFamily(
            "telemetry_lag_seconds",
            "How long the oldest of them has waited.",
            labels=["partition"],
        )
        for number, lag in sorted(state.lags.items()):
            messages.add_metric([str(number)], lag.messages)
            seconds.add_metric([str(number)], lag.seconds)
        yield messages
        yield seconds
