"""The metrics that only a gateway has, beside those of a collector."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from prometheus_client import CollectorRegistry, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

__all__ = ["StreamMetrics"]

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class StreamMetrics(Collector):
    """How the stream takes messages. Read on any thread.

    Args:
        is_connected: returns whether there is a connection to one of its servers.
        is_storing: returns whether messages can be stored, as far as is known.
        waiting_bytes: returns the bytes of messages that are not stored yet.
        in_flight: returns the number of messages that are being published.
        retries: returns how often one was published again.
        unarchived: returns the number of messages that clients wait for to be archived.
    """

    def __init__(
        self,
        *,
        is_connected: Callable[[], bool],
        is_storing: Callable[[], bool],
        waiting_bytes: Callable[[], int],
        in_flight: Callable[[], int],
        retries: Callable[[], int],
        unarchived: Callable[[], int],
    ) -> None:
        self._gauges: dict[str, tuple[str, Callable[[], float]]] = {
            "telemetry_stream_connected": (
                "Whether there is a connection to a server of the stream.",
                is_connected,
            ),
            "telemetry_storing": ("Whether events can be stored, as far as is known.", is_storing),
            "telemetry_stream_waiting_bytes": (
                "Bytes of messages that are not stored yet.",
                waiting_bytes,
            ),
            "telemetry_stream_in_flight": ("Messages that are being published.", in_flight),
            "telemetry_stream_unarchived": (
                "Stored messages that clients wait for to be archived.",
                unarchived,
            ),
        }
        self._retries = retries
        self._seconds = Histogram(
            "telemetry_stream_store_seconds",
            "Seconds from the arrival of a message until the stream has stored it.",
            buckets=_SECONDS,
            registry=CollectorRegistry(),  # it is yielded with the others
        )

    def observe(self, seconds: float) -> None:
        """Note how long a message took."""
        self._seconds.observe(seconds)

    def describe(self) -> Iterable[Metric]:
        """Yield nothing: the registry would otherwise read it while the gateway is made."""
        return ()

    def collect(self) -> Iterable[Metric]:
        """Yield the metrics."""
        for name, (about, value) in self._gauges.items():
            yield GaugeMetricFamily(name, about, value=float(value()))
        yield CounterMetricFamily(
            "telemetry_stream_retries",
            "Messages that were published again.",
            value=self._retries(),
        )
        yield from self._seconds.collect()
