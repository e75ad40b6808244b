"""The SDKs that are compared, each behind a small adapter, and the floors to compare them with.

Each is set up as on the first page of its documentation, with its defaults except for the address;
``deviation`` lists the other changes. ``emit_all`` emits a list of events in its own loop, with the
call that the SDK's documentation shows, so that the cost of an adapter between the loop and the SDK
isn't counted as the SDK's.
"""

from __future__ import annotations

import json
import logging
import logging.handlers
import os
import queue
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import wait
from typing import Any

from benchmarks.harness import JOURNAL_PREFIX, package_version, wait_for_state

Event = dict[str, Any]

HOST = "127.0.0.1"
EVENT_TYPE = "ship_hit"
PLAYER = "player-1"
_NAMES = tuple(f"blue-{number}" for number in range(1, 24))
_FOREIGN_SETTINGS = ("OTEL_", "SENTRY_", "POSTHOG_", "SEGMENT_", "AMPLITUDE_")


def make_events(first: int, count: int) -> list[Event]:
    """Return events with six fields each, as games have them, numbered from ``first``.

    Their values vary: a thousand equal events would compress too well.
    """
    return [
        {
            "shipId": "red-3",
            "by": _NAMES[number % len(_NAMES)],
            "n": number,
            "damage": number * 7 % 41,
            "distance": number * 37 % 1009 / 8,
            "shield": number % 3 == 0,
        }
        for number in range(first, first + count)
    ]


class Peer:
    """Takes the events of a game loop. This base class is a loop without telemetry."""

    name = "none"
    title = "no telemetry"
    package = ""
    import_statement = ""
    destination = "-"
    call = "-"
    deviation = "-"
    emits = False
    """Whether a call is made for each event."""
    sends = False
    """Whether the events are to arrive at the sink."""
    has_own_import = True
    """Whether its import is another than that of a peer that is measured as well."""

    def load(self) -> None:
        """Import the SDK."""
        exec(self.import_statement, {})

    def start(self, port: int) -> None:
        """Set the SDK up, to send to the sink on this port."""

    def wait_until_ready(self) -> None:
        """Wait until it is connected, if it connects before it has events to send."""

    def emit_all(self, events: Sequence[Event]) -> None:
        """Emit them one by one."""

    def stop(self, timeout: float) -> None:
        """Flush, and shut down."""


class EmptyFunction(Peer):
    """A call that does nothing, with the signature of this SDK's ``emit``."""

    name = "empty"
    title = "an empty function"
    call = "a method with emit's signature"
    emits = True

    def nothing(self, type: str, data: Event | None = None, /, **fields: Any) -> None:
        """Do nothing."""

    def emit_all(self, events: Sequence[Event]) -> None:
        emit = self.nothing
        for data in events:
            emit(EVENT_TYPE, data)


class Ours(Peer):
    name = "ours"
    title = "redvsblue-telemetry"
    package = "redvsblue-telemetry"
    import_statement = "import redvsblue_telemetry"
    destination = "WebSocket, JSON, confirmed by Pongs"
    call = "telemetry.emit(type, data)"
    deviation = "enabled=True, url"
    emits = sends = True
    encodings = ""
    """Those that the sink answers with, as a server that can read them does."""

    def start(self, port: int) -> None:
        from redvsblue_telemetry import start_telemetry

        url = f"ws://{HOST}:{port}/telemetry?encodings={self.encodings}"
        self._telemetry = start_telemetry(enabled=self.sends, url=url, **self.settings())

    def settings(self) -> dict[str, Any]:
        """Return the settings that are not the defaults."""
        return {}

    def wait_until_ready(self) -> None:
        wait_for_state(self._telemetry, "connected")

    def emit_all(self, events: Sequence[Event]) -> None:
        emit = self._telemetry.emit
        for data in events:
            emit(EVENT_TYPE, data)

    def stop(self, timeout: float) -> None:
        self._telemetry.stop(timeout)


class OursWithJournal(Ours):
    name = "journal"
    title = "redvsblue-telemetry, journal"
    deviation = "enabled=True, url, journal"
    has_own_import = False

    def settings(self) -> dict[str, Any]:
        self._folder = tempfile.TemporaryDirectory(prefix=JOURNAL_PREFIX)
        return {"journal": self._folder.name}

    def stop(self, timeout: float) -> None:
        super().stop(timeout)
        self._folder.cleanup()


class OursOff(Ours):
    name = "off"
    title = "redvsblue-telemetry, off"
    destination = "-"
    deviation = "-"
    sends = False
    has_own_import = False

    def wait_until_ready(self) -> None:
        """It never connects."""


class OursByDeflate(Ours):
    name = "ours-deflate"
    title = "redvsblue-telemetry, `deflate`"
    destination = "WebSocket, JSON compressed by zlib, confirmed by Pongs"
    encodings = "deflate"


class OursByZstd(Ours):
    name = "ours-zstd"
    title = "redvsblue-telemetry, `zstd`"
    destination = "WebSocket, JSON compressed by Zstandard, confirmed by Pongs"
    encodings = "zstd"


class Sentry(Peer):
    name = "sentry"
    title = "Sentry (logs)"
    package = "sentry-sdk"
    import_statement = "import sentry_sdk, sentry_sdk.logger"
    destination = "HTTP, JSON envelopes, gzip"
    call = "sentry_sdk.logger.info(type, attributes=data)"
    deviation = "enable_logs=True (as its page on logs says), dsn"
    emits = sends = True

    def start(self, port: int) -> None:
        import sentry_sdk
        import sentry_sdk.logger

        sentry_sdk.init(dsn=f"http://key@{HOST}:{port}/1", enable_logs=True)
        self._sdk = sentry_sdk

    def emit_all(self, events: Sequence[Event]) -> None:
        info = self._sdk.logger.info
        for data in events:
            info(EVENT_TYPE, attributes=data)

    def stop(self, timeout: float) -> None:
        self._sdk.get_client().close(timeout)


class OpenTelemetry(Peer):
    name = "opentelemetry"
    title = "OpenTelemetry (logs)"
    package = "opentelemetry-sdk"
    import_statement = (
        "import opentelemetry._logs, opentelemetry.sdk._logs, opentelemetry.sdk._logs.export, "
        "opentelemetry.exporter.otlp.proto.http._log_exporter"
    )
    destination = "HTTP, OTLP protobuf"
    call = "logger.emit(event_name=, severity_number=, attributes=)"
    deviation = "endpoint"
    emits = sends = True

    def start(self, port: int) -> None:
        from opentelemetry._logs import SeverityNumber
        from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter
        from opentelemetry.sdk._logs import LoggerProvider
        from opentelemetry.sdk._logs.export import BatchLogRecordProcessor

        endpoint = f"http://{HOST}:{port}/v1/logs"
        exporter = OTLPLogExporter(endpoint=endpoint, **self.options())
        self._provider = LoggerProvider()
        self._provider.add_log_record_processor(BatchLogRecordProcessor(exporter))
        self._logger = self._provider.get_logger("game")
        self._severity = SeverityNumber.INFO

    def options(self) -> dict[str, Any]:
        """Return the options of the exporter that are not the defaults."""
        return {}

    def emit_all(self, events: Sequence[Event]) -> None:
        emit, severity = self._logger.emit, self._severity
        for data in events:
            emit(event_name=EVENT_TYPE, severity_number=severity, attributes=data)

    def stop(self, timeout: float) -> None:
        self._provider.shutdown()


class OpenTelemetryByGzip(OpenTelemetry):
    name = "opentelemetry-gzip"
    title = "OpenTelemetry (logs), gzip"
    destination = "HTTP, OTLP protobuf, gzip"
    deviation = "endpoint, compression"

    def options(self) -> dict[str, Any]:
        from opentelemetry.exporter.otlp.proto.http import Compression

        return {"compression": Compression.Gzip}


class PostHog(Peer):
    name = "posthog"
    title = "PostHog"
    package = "posthog"
    import_statement = "import posthog"
    destination = "HTTP, JSON"
    call = "client.capture(type, distinct_id=, properties=)"
    deviation = "host"
    emits = sends = True
    has_gzip = False

    def start(self, port: int) -> None:
        from posthog import Posthog

        self._client = Posthog("phc_key", host=f"http://{HOST}:{port}", gzip=self.has_gzip)

    def emit_all(self, events: Sequence[Event]) -> None:
        capture = self._client.capture
        for data in events:
            capture(EVENT_TYPE, distinct_id=PLAYER, properties=data)

    def stop(self, timeout: float) -> None:
        self._client.flush(timeout)
        self._client.shutdown()


class PostHogByGzip(PostHog):
    name = "posthog-gzip"
    title = "PostHog, gzip"
    destination = "HTTP, JSON, gzip"
    deviation = "host, gzip"
    has_gzip = True


class Segment(Peer):
    name = "segment"
    title = "Segment"
    package = "segment-analytics-python"
    import_statement = "import segment.analytics"
    destination = "HTTP, JSON"
    call = "client.track(user, type, data)"
    deviation = "host"
    emits = sends = True
    has_gzip = False

    def start(self, port: int) -> None:
        from segment.analytics import Client

        self._client = Client("key", host=f"http://{HOST}:{port}", gzip=self.has_gzip)

    def emit_all(self, events: Sequence[Event]) -> None:
        track = self._client.track
        for data in events:
            track(PLAYER, EVENT_TYPE, data)

    def stop(self, timeout: float) -> None:
        self._client.shutdown()


class SegmentByGzip(Segment):
    name = "segment-gzip"
    title = "Segment, gzip"
    destination = "HTTP, JSON, gzip"
    deviation = "host, gzip"
    has_gzip = True


class Amplitude(Peer):
    name = "amplitude"
    title = "Amplitude"
    package = "amplitude-analytics"
    import_statement = "import amplitude"
    destination = "HTTP, JSON"
    call = "client.track(BaseEvent(type, user_id=, event_properties=))"
    deviation = "server_url"
    emits = sends = True

    def start(self, port: int) -> None:
        from amplitude import Amplitude as Client
        from amplitude import BaseEvent, Config

        config = Config(server_url=f"http://{HOST}:{port}/2/httpapi")
        self._client = Client("key", config)
        self._event = BaseEvent

    def emit_all(self, events: Sequence[Event]) -> None:
        track, event = self._client.track, self._event
        for data in events:
            track(event(EVENT_TYPE, user_id=PLAYER, event_properties=data))

    def stop(self, timeout: float) -> None:
        deadline = time.monotonic() + timeout
        wait([future for future in self._client.flush() if future is not None], timeout)
        if time.monotonic() < deadline:
            self._client.shutdown()


class JsonLinesHandler(logging.handlers.SocketHandler):
    """Sends a line of JSON for each record, where ``SocketHandler`` sends a pickle."""

    def makePickle(self, record: logging.LogRecord) -> bytes:  # noqa: N802 (logging's name)
        line = {"type": record.msg, "timestamp": record.created, **record.__dict__["data"]}
        return json.dumps(line).encode() + b"\n"


class QueueHandler(Peer):
    name = "queuehandler"
    title = "logging, QueueHandler"
    import_statement = "import json, logging, logging.handlers, queue, socket"
    destination = "TCP, a line of JSON for each event, nothing confirmed"
    call = 'logger.info(type, extra={"data": data})'
    deviation = "a SocketHandler that writes JSON instead of pickles"
    emits = sends = True

    def start(self, port: int) -> None:
        records: queue.Queue[logging.LogRecord] = queue.Queue(-1)
        handler = JsonLinesHandler(HOST, port)
        self._listener = logging.handlers.QueueListener(records, handler)
        self._logger = logging.getLogger("game")
        self._logger.setLevel(logging.INFO)
        self._logger.propagate = False
        self._logger.addHandler(logging.handlers.QueueHandler(records))
        self._listener.start()

    def emit_all(self, events: Sequence[Event]) -> None:
        info = self._logger.info
        for data in events:
            info(EVENT_TYPE, extra={"data": data})

    def stop(self, timeout: float) -> None:
        self._listener.stop()


PEERS: dict[str, type[Peer]] = {
    peer.name: peer
    for peer in (
        Peer,
        EmptyFunction,
        OursOff,
        Ours,
        OursWithJournal,
        QueueHandler,
        Sentry,
        OpenTelemetry,
        Segment,
        Amplitude,
        PostHog,
    )
}
BY_BYTES: dict[str, type[Peer]] = {
    peer.name: peer
    for peer in (
        OursByZstd,
        OursByDeflate,
        Ours,
        QueueHandler,
        Sentry,
        OpenTelemetry,
        OpenTelemetryByGzip,
        Segment,
        SegmentByGzip,
        Amplitude,
        PostHog,
        PostHogByGzip,
    )
}
"""Those whose bytes on the wire are compared, also with the compression that is an option, or that
the server has to agree to."""
RIVALS = ("sentry", "opentelemetry", "segment", "amplitude", "posthog")
"""The SDKs of others."""


def forget_settings() -> None:
    """Remove the variables that would configure an SDK: the defaults are measured."""
    for variable in [name for name in os.environ if name.startswith(_FOREIGN_SETTINGS)]:
        del os.environ[variable]


def versions() -> dict[str, str | None]:
    """Return the installed version of each package."""
    packages = {peer.package for peer in PEERS.values() if peer.package}
    packages |= {"opentelemetry-exporter-otlp-proto-http", "websockets", "requests", "urllib3"}
    return {package: package_version(package) for package in sorted(packages)}
