"""The game of the truth table: one process that emits with one SDK and obeys commands.

    python -m benchmarks.truth_game '{"sdk": "segment", "port": 1234, "folder": "/tmp/x", ...}'

It prints a line of JSON when it is ready, reads a command from its standard input, carries it out,
answers with a line of JSON, and reads the next one. ``benchmarks.truth_table`` writes the commands.

Each SDK is the one of ``benchmarks.peers``, configured for reliable delivery with the options that
its documentation names: ``not_default`` lists them, ``promise`` sums up its documentation and its
source. ``known_lost`` counts the events that the SDK itself reported as lost.
"""

from __future__ import annotations

import contextlib
import faulthandler
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks import peers
from benchmarks.harness import Result
from benchmarks.peers import EVENT_TYPE, HOST, PLAYER, Event, Peer, make_events

ROOM = 110_000  # events, where the room for waiting events can be set: more than any scenario emits
OUTAGE = 60.0  # seconds: where an SDK can be asked to keep trying for longer than this, it is
_FRAME = 1 / 60  # seconds
_FORK_TIMEOUT = 10.0  # seconds


class Contender(Peer):
    """What the truth table asks beyond :class:`~benchmarks.peers.Peer`."""

    keeps = "memory"
    not_default = "-"
    end_call = ""
    opt_out_call = ""
    """Empty if its documentation for Python has no opt-out."""
    count_api = ""
    promise = ""
    not_promised: frozenset[str] = frozenset()
    """The scenarios that it does not claim to survive."""
    writes_to_disk = False

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.reported_lost = 0

    def opt_out(self) -> None:
        """Say no to all further events, as its documentation shows."""

    def known_lost(self) -> int | None:
        """Return how many events it has reported as lost."""
        return self.reported_lost


class Ours(Contender, peers.Ours):
    title = "redvsblue-telemetry"
    not_default = f"`capacity={ROOM}`"
    end_call = "telemetry.stop(timeout=2.0)"
    opt_out_call = "telemetry.enabled = False"
    count_api = "stats().dropped"
    promise = (
        "retries until the stop, resends what was not confirmed, drops the oldest when full, "
        "counts every drop; events wait in memory"
    )
    not_promised = frozenset({"kill", "next-start"})

    def start(self, port: int) -> None:
        self._start(port, capacity=ROOM)

    def _start(self, port: int, **settings: Any) -> None:
        from redvsblue_telemetry import start_telemetry

        self._telemetry = start_telemetry(
            enabled=True, url=f"ws://{HOST}:{port}/telemetry", **settings
        )

    def stop(self, timeout: float) -> None:
        self._telemetry.stop(timeout=2.0)

    def opt_out(self) -> None:
        self._telemetry.enabled = False

    def known_lost(self) -> int:
        return self._telemetry.stats().dropped


class OursJournal(Ours):
    name = "ours-journal"
    title = "redvsblue-telemetry, journal"
    keeps = "files, from the emit on"
    not_default = "`journal`"
    promise = (
        "the same, and an event whose emit has returned survives a kill: the next start delivers it"
    )
    not_promised = frozenset()
    writes_to_disk = True

    def start(self, port: int) -> None:
        self._start(port, journal=self.folder / "journal")


class Sentry(Contender, peers.Sentry):
    not_default = "`enable_logs`, `keep_alive=True`, `transport_queue_size=1000` envelopes"
    end_call = "client.close(timeout=2.0)"
    count_api = "client reports, sent to its server"
    promise = "sends each envelope once; waits for up to 2 s at the exit; holds 1,000 unsent logs"
    not_promised = frozenset({"kill", "away", "next-start", "resets", "black-hole", "burst"})

    def start(self, port: int) -> None:
        import sentry_sdk
        import sentry_sdk.logger
        from sentry_sdk.transport import HttpTransport

        contender = self

        class CountingTransport(HttpTransport):  # type: ignore[misc]  # Any, if not installed
            def record_lost_event(
                self, reason: str, data_category: Any = None, item: Any = None, *, quantity: int = 1
            ) -> None:
                if item is not None and item.data_category == "log_item":
                    contender.reported_lost += int(item.headers.get("item_count") or 1)
                super().record_lost_event(reason, data_category, item, quantity=quantity)

        sentry_sdk.init(
            dsn=f"http://key@{HOST}:{port}/1",
            enable_logs=True,
            keep_alive=True,
            transport=CountingTransport,
            transport_queue_size=1000,
        )
        self._sdk = sentry_sdk

    def stop(self, timeout: float) -> None:
        self._sdk.get_client().close(timeout=2.0)


class OpenTelemetry(Contender, peers.OpenTelemetry):
    not_default = f"`max_queue_size={ROOM}`, `timeout={OUTAGE:g}`, the variable for its own metrics"
    end_call = "provider.shutdown()"
    count_api = "the SDK's own metrics"
    promise = "tries a batch up to six times, within half a minute; its shutdown takes up to 30 s"
    not_promised = frozenset({"kill", "away", "next-start"})

    def start(self, port: int) -> None:
        os.environ["OTEL_PYTHON_SDK_INTERNAL_METRICS_ENABLED"] = "true"
        from opentelemetry._logs import SeverityNumber
        from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter
        from opentelemetry.sdk._logs import LoggerProvider
        from opentelemetry.sdk._logs.export import BatchLogRecordProcessor
        from opentelemetry.sdk.metrics import MeterProvider
        from opentelemetry.sdk.metrics.export import InMemoryMetricReader

        self._reader = InMemoryMetricReader()
        meters = MeterProvider([self._reader])
        exporter = OTLPLogExporter(
            endpoint=f"http://{HOST}:{port}/v1/logs", timeout=OUTAGE, meter_provider=meters
        )
        self._provider = LoggerProvider(meter_provider=meters)
        self._provider.add_log_record_processor(
            BatchLogRecordProcessor(exporter, max_queue_size=ROOM, meter_provider=meters)
        )
        self._logger = self._provider.get_logger("game")
        self._severity = SeverityNumber.INFO

    def known_lost(self) -> int:
        counters = ("otel.sdk.processor.log.processed", "otel.sdk.exporter.log.exported")
        data = self._reader.get_metrics_data()
        return sum(
            int(point.value)
            for resource in (data.resource_metrics if data else ())
            for scope in resource.scope_metrics
            for metric in scope.metrics
            if metric.name in counters
            for point in metric.data.data_points
            if "error.type" in (point.attributes or {})
        )


class PostHog(Contender, peers.PostHog):
    not_default = f"`max_queue_size={ROOM}`, `max_retries=10`"
    end_call = "client.shutdown()"
    opt_out_call = "client.disabled = True"
    count_api = "on_error(error, batch)"
    promise = "tries a batch as often as `max_retries` says; its shutdown has no limit, an exit 1 s"
    not_promised = frozenset({"kill", "next-start"})

    def start(self, port: int) -> None:
        from posthog import Posthog

        self._client = Posthog(
            "phc_key",
            host=f"http://{HOST}:{port}",
            max_queue_size=ROOM,
            max_retries=10,
            on_error=self._on_error,
        )

    def _on_error(self, error: Exception, batch: Sequence[Any]) -> None:
        self.reported_lost += len(batch)

    def emit_all(self, events: Sequence[Event]) -> None:
        capture = self._client.capture
        for data in events:
            accepted = capture(EVENT_TYPE, distinct_id=PLAYER, properties=data)
            self.reported_lost += accepted is None

    def stop(self, timeout: float) -> None:
        self._client.shutdown()

    def opt_out(self) -> None:
        self._client.disabled = True


class Segment(Contender, peers.Segment):
    not_default = f"`max_queue_size={ROOM}`"
    end_call = "client.shutdown()"
    opt_out_call = "client.send = False"
    count_api = "on_error(error, batch)"
    promise = "tries a batch eleven times, over three minutes; its shutdown has no limit"
    not_promised = frozenset({"kill", "next-start", "fork"})

    def start(self, port: int) -> None:
        from segment.analytics import Client

        self._client = Client(
            "key", host=f"http://{HOST}:{port}", max_queue_size=ROOM, on_error=self._on_error
        )

    def _on_error(self, error: Exception, batch: Sequence[Any]) -> None:
        self.reported_lost += len(batch)

    def emit_all(self, events: Sequence[Event]) -> None:
        track = self._client.track
        for data in events:
            accepted, _ = track(PLAYER, EVENT_TYPE, data)
            self.reported_lost += not accepted

    def opt_out(self) -> None:
        self._client.send = False


class Amplitude(Contender, peers.Amplitude):
    not_default = "`flush_max_retries=20`"
    end_call = "client.shutdown()"
    opt_out_call = "client.configuration.opt_out = True"
    count_api = "callback(event, code, message)"
    promise = (
        "tries an event as often as `flush_max_retries` says; has an interface for a storage, and "
        "ships one that is in memory"
    )
    not_promised = frozenset({"kill", "next-start", "fork"})

    def start(self, port: int) -> None:
        from amplitude import Amplitude as Client
        from amplitude import BaseEvent, Config

        config = Config(
            server_url=f"http://{HOST}:{port}/2/httpapi",
            flush_max_retries=20,
            callback=self._on_event,
        )
        self._client = Client("key", config)
        self._event = BaseEvent

    def _on_event(self, event: Any, code: int, message: str | None = None) -> None:
        self.reported_lost += code != 200

    def stop(self, timeout: float) -> None:
        self._client.shutdown()

    def opt_out(self) -> None:
        self._client.configuration.opt_out = True


CONTENDERS: dict[str, type[Contender]] = {
    contender.name: contender
    for contender in (OursJournal, Ours, Sentry, OpenTelemetry, PostHog, Segment, Amplitude)
}


class Game:
    """Carries the commands out."""

    def __init__(self, sdk: Contender) -> None:
        self._sdk = sdk
        self.is_over = False

    def emit(self, command: Result) -> Result:
        """Emit some events, at once or spread over some seconds."""
        events = make_events(command["first"], command["count"])
        started = time.monotonic()
        seconds = command.get("seconds", 0.0)
        frames = max(1, int(seconds / _FRAME))
        for frame in range(frames):
            begin, end = (len(events) * number // frames for number in (frame, frame + 1))
            self._sdk.emit_all(events[begin:end])
            if seconds:
                time.sleep(max(0.0, started + (frame + 1) * _FRAME - time.monotonic()))
        return {"seconds": time.monotonic() - started}

    def emit_and_die(self, command: Result) -> Result:
        """Emit some events; when the last emit has returned, the next instruction is the kill."""
        self._sdk.emit_all(make_events(command["first"], command["count"]))
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError("unreachable")

    def emit_and_opt_out(self, command: Result) -> Result:
        """Emit some events and opt out before they are sent."""
        self._sdk.emit_all(make_events(command["first"], command["count"]))
        self._sdk.opt_out()
        return {}

    def emit_and_fork(self, command: Result) -> Result:
        """Emit the first half of the events and fork; the child emits the other half and ends."""
        half = command["count"] // 2
        self._sdk.emit_all(make_events(command["first"], half))
        child = os.fork()
        if not child:
            self._sdk.emit_all(make_events(command["first"] + half, command["count"] - half))
            self._sdk.stop(_FORK_TIMEOUT)
            os._exit(0)
        deadline = time.monotonic() + _FORK_TIMEOUT
        while not os.waitpid(child, os.WNOHANG)[0]:
            if time.monotonic() > deadline:
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)
                return {"child_hung": True}
            time.sleep(0.01)
        return {"child_hung": False}

    def fill_disk(self, command: Result) -> Result:
        """Write a file until the disk of the folder is full."""
        written = 0
        with (
            contextlib.suppress(OSError),
            (self._sdk.folder / "ballast").open("wb", buffering=0) as ballast,
        ):
            while written < command["at_most"]:
                written += ballast.write(bytes(4096))
        return {"bytes": written}

    def end(self, command: Result) -> Result:
        """Shut down as the documentation shows, or leave that to the exit of the interpreter."""
        self.is_over = True
        print(json.dumps({"at": time.monotonic()}), flush=True)
        if command["calls"]:
            self._sdk.stop(command["timeout"])
        return {"known_lost": self._sdk.known_lost()}


def main() -> None:
    """Play until the game is over, or until the standard input ends."""
    task: Result = json.loads(sys.argv[1])
    faulthandler.dump_traceback_later(task["lifetime"], exit=True)
    peers.forget_settings()
    sdk = CONTENDERS[task["sdk"]](Path(task["folder"]))
    sdk.start(task["port"])
    sdk.wait_until_ready()
    game = Game(sdk)
    commands: dict[str, Callable[[Result], Result]] = {
        name: getattr(game, name)
        for name in (
            "emit",
            "emit_and_die",
            "emit_and_opt_out",
            "emit_and_fork",
            "fill_disk",
            "end",
        )
    }
    print(json.dumps({"ready": True}), flush=True)
    while not game.is_over:
        line = sys.stdin.readline()
        if not line:  # its parent has gone
            os._exit(1)
        command = json.loads(line)
        print(json.dumps(commands[command["do"]](command)), flush=True)


if __name__ == "__main__":
    main()
