"""A ``before_send`` that drops or dawdles doesn't keep the worker from the rest of its work."""

from __future__ import annotations

import threading
import time

from redvsblue_telemetry import Telemetry, TelemetryEvent, TelemetrySettings
from redvsblue_telemetry.testing import RecordingServer
from tests.support.wait import wait_until


def test_what_is_sent_is_confirmed_while_nearly_all_is_dropped() -> None:
    def keep_a_few(event: TelemetryEvent) -> TelemetryEvent | None:
        assert event.seq is not None
        return event if event.seq % 1000 == 0 else None

    with RecordingServer() as server:
        settings = TelemetrySettings(enabled=True, url=server.url, before_send=keep_a_few)
        telemetry = Telemetry(settings).start()
        assert wait_until(lambda: telemetry.stats().state.value == "connected")
        is_over = threading.Event()

        def play() -> None:  # faster than the worker can drop: the store is never empty
            while not is_over.is_set():
                telemetry.emit("hit", n=1)

        player = threading.Thread(target=play)
        player.start()
        try:
            assert wait_until(lambda: telemetry.stats().delivered >= 3)
        finally:
            is_over.set()
            player.join()
            telemetry.stop()


def test_a_slow_callback_that_drops_everything_holds_no_worker_beyond_its_stop() -> None:
    calls = 0

    def dawdle(_: TelemetryEvent) -> None:
        nonlocal calls
        calls += 1
        time.sleep(0.002)

    with RecordingServer() as server:
        settings = TelemetrySettings(
            enabled=True, url=server.url, before_send=dawdle, drain_interval=0.01
        )
        telemetry = Telemetry(settings).start()
        assert wait_until(lambda: telemetry.stats().state.value == "connected")
        for number in range(4000):
            telemetry.emit("hit", n=number)
        telemetry.stop(0.2)
        called = calls
        workers = [t for t in threading.enumerate() if t.name == "redvsblue-telemetry"]
        for worker in workers:
            worker.join(20)
        assert not any(worker.is_alive() for worker in workers)
        assert calls - called <= 200
