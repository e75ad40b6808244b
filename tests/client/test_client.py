"""The front of the house: start, stop, flush, the toggle, the ledger."""

from __future__ import annotations

import gc
import logging
import os
import subprocess
import sys
import threading
import time
from typing import Any

import pytest
from freezegun import freeze_time

import redvsblue_telemetry as package
from redvsblue_telemetry import (
    ConnectionState,
    InvalidEventError,
    Telemetry,
    TelemetrySettings,
    TelemetryStats,
    emit,
    get_telemetry,
    start_telemetry,
    stop_telemetry,
)
from redvsblue_telemetry.testing import RecordingServer
from tests.support.ports import own_port
from tests.support.raw_server import raw_server, read_to_the_end
from tests.support.systems import needs_proc
from tests.support.wait import wait_until

QUICK: dict[str, Any] = {"enabled": True, "backoff_base": 0.02, "backoff_max": 0.1}


def test_off_means_that_everything_works_and_nothing_happens() -> None:
    threads = threading.active_count()
    telemetry = start_telemetry()
    telemetry.emit("x", {"a": object()})
    telemetry.push({"type": 5})  # type: ignore[dict-item]
    telemetry.set_online(False)
    telemetry.enabled = True
    assert not telemetry.enabled
    assert telemetry.flush()
    assert telemetry.stop()
    assert telemetry.stats() == TelemetryStats()
    assert threading.active_count() == threads
    assert "emitted=0" in repr(telemetry)


def test_the_process_has_one() -> None:
    with RecordingServer() as server:
        telemetry = start_telemetry(**QUICK, url=server.url)
        assert start_telemetry() is telemetry is get_telemetry()
        emit("hello", who="world")
        assert telemetry.flush(5)
        assert server.events[0]["data"] == {"who": "world"}
        assert stop_telemetry()
        emit("too late")
        again = start_telemetry(**QUICK, url=server.url)
        assert again is not telemetry
        assert again.session_id != telemetry.session_id


def test_starts_with_the_same_settings_return_the_same_client_while_it_is_off() -> None:
    off = start_telemetry(enabled=False, capacity=7)
    assert start_telemetry(enabled=False, capacity=7) is off
    other = start_telemetry(enabled=False, capacity=8)
    assert other is not off
    assert other.settings.capacity == 8
    on = start_telemetry(enabled=True, url="ws://127.0.0.1:9/")
    assert on.is_running
    stop_telemetry(0)
    again = start_telemetry(enabled=True, url="ws://127.0.0.1:9/")
    assert again is not on
    assert again.is_running
    assert again.session_id != on.session_id
    stop_telemetry(0)
    assert start_telemetry(enabled=False) is not again


def test_an_emit_that_the_game_keeps_does_nothing_after_the_stop() -> None:
    telemetry = Telemetry(TelemetrySettings(enabled=True, url="ws://127.0.0.1:9/")).start()
    emit = telemetry.emit
    telemetry.stop(0)
    emit("late")
    telemetry.emit("late")
    assert telemetry.stats().emitted == 0


def test_only_other_settings_are_warned_about(caplog: pytest.LogCaptureFixture) -> None:
    with RecordingServer() as server:
        start_telemetry(**QUICK, url=server.url)
        start_telemetry(url=server.url)
        assert not [r for r in caplog.records if r.levelno >= logging.WARNING]
        start_telemetry(batch_size=3)
        assert "the new settings are ignored" in caplog.text


def test_a_context_manager_stops_at_its_end() -> None:
    with RecordingServer() as server:
        with Telemetry(TelemetrySettings(**QUICK, url=server.url)) as telemetry:
            telemetry.emit("x")
        assert server.wait_for(1)
        assert telemetry.stats().state is ConnectionState.STOPPED
        telemetry.emit("y")
        assert telemetry.stats().emitted == 1
        assert telemetry.stop()


def test_two_at_once_keep_to_themselves() -> None:
    with RecordingServer() as one, RecordingServer() as two:
        with (
            Telemetry(TelemetrySettings(**QUICK, url=one.url)) as first,
            Telemetry(TelemetrySettings(**QUICK, url=two.url)) as second,
        ):
            first.emit("a")
            second.emit("b")
        assert [event["type"] for event in one.events] == ["a"]
        assert [event["type"] for event in two.events] == ["b"]


def test_stop_is_bounded_and_tells_the_truth() -> None:
    telemetry = start_telemetry(**QUICK, url=f"ws://127.0.0.1:{own_port()}/")
    telemetry.emit("x")
    start = time.monotonic()
    assert not telemetry.stop(0.3)
    assert time.monotonic() - start < 5
    assert not telemetry.stop(5)
    assert telemetry.stats().dropped == 1
    assert not telemetry.flush()


def test_stop_in_the_midst_of_a_handshake() -> None:
    with raw_server(lambda client: read_to_the_end(client) and None) as port:
        telemetry = start_telemetry(**QUICK, url=f"ws://127.0.0.1:{port}/")
        assert wait_until(lambda: telemetry.stats().state is ConnectionState.CONNECTING)
        start = time.monotonic()
        assert telemetry.stop(20)  # nothing is waiting, so there is nothing to wait for
        assert time.monotonic() - start < 10


def test_stop_tries_once_more_before_it_gives_up() -> None:
    port = own_port()
    telemetry = start_telemetry(
        enabled=True, url=f"ws://127.0.0.1:{port}/", backoff_base=30, backoff_max=60
    )
    telemetry.emit("x")
    assert wait_until(lambda: telemetry.stats().state is ConnectionState.BACKING_OFF)
    with RecordingServer(port=port) as server:
        assert telemetry.stop(5)
        assert server.wait_for(1)


def test_flush_and_stop_in_the_workers_own_callback_do_not_hang() -> None:
    results = []
    has_started = threading.Event()  # before, there is no current client to be flushed

    def note(state: ConnectionState) -> None:
        if state is ConnectionState.CONNECTED and has_started.wait(5):
            results.append(get_telemetry().flush(5))
            results.append(get_telemetry().stop(5))

    with RecordingServer() as server:
        start_telemetry(**QUICK, url=server.url, on_state_change=note)
        has_started.set()
        assert wait_until(lambda: len(results) == 2)
        assert results[0] is False


def test_flushes_from_several_threads_all_end() -> None:
    with RecordingServer() as server:
        telemetry = start_telemetry(**QUICK, url=server.url, drain_interval=60)
        results: list[bool] = []

        def play(name: str) -> None:
            for number in range(200):
                telemetry.emit(name, i=number)
            results.append(telemetry.flush(5))

        threads = [threading.Thread(target=play, args=(f"t{n}",)) for n in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert results == [True] * 4
        events = server.events
        assert [event["seq"] for event in events] == list(range(1, 801))
        for name in ("t0", "t1", "t2", "t3"):
            own = [event["data"]["i"] for event in events if event["type"] == name]
            assert own == list(range(200))


def test_the_toggle_discards_closes_and_resumes_in_the_same_session() -> None:
    with RecordingServer() as server:
        telemetry = start_telemetry(**QUICK, url=server.url, drain_interval=60)
        assert server.wait_for_connection()
        for _ in range(5):
            telemetry.emit("pending")
        telemetry.enabled = False
        assert wait_until(lambda: telemetry.stats().dropped == 5)
        telemetry.emit("refused")
        assert wait_until(lambda: server.connections == 0)
        assert telemetry.stats().emitted == 5
        assert server.events == []
        telemetry.enabled = True
        telemetry.emit("again")
        assert telemetry.flush(5)
        (event,) = server.events
        assert (event["type"], event["seq"]) == ("again", 6)
        assert event["sessionId"] == telemetry.session_id


def test_rejected_events_are_counted_and_warned_about_once_a_type(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with RecordingServer() as server:
        telemetry = start_telemetry(**QUICK, url=server.url)
        for _ in range(100):
            telemetry.emit("bad", {"ships": [{"target": object()}]})
        telemetry.push({"no": "type"})
        assert telemetry.stats().rejected == 101
        assert telemetry.stats().emitted == 0
    bad = [r.getMessage() for r in caplog.records if "'bad'" in r.getMessage()]
    assert len(bad) == 1
    assert "data.ships[0].target" in bad[0]


def test_strict_raises() -> None:
    with RecordingServer() as server:
        telemetry = start_telemetry(**QUICK, url=server.url, strict=True)
        with pytest.raises(InvalidEventError, match="object"):
            telemetry.emit("bad", x=object())
        with pytest.raises(InvalidEventError):
            telemetry.push(None)  # type: ignore[arg-type]


class EmittingHandler(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        package.emit("log", text=record.getMessage())
        package.emit("bad", x=object())
        raise RuntimeError("the handler's own")


def test_a_log_handler_may_emit_and_may_fail() -> None:
    logger = logging.getLogger("redvsblue_telemetry")
    handler = EmittingHandler()
    with RecordingServer() as server:
        telemetry = start_telemetry(**QUICK, url=server.url)
        assert server.wait_for_connection()
        assert wait_until(lambda: telemetry.stats().state is ConnectionState.CONNECTED)
        logger.addHandler(handler)
        try:
            telemetry.emit("bad", x=object())
        finally:
            logger.removeHandler(handler)
        assert telemetry.stats().emitted == 1
        assert telemetry.stats().rejected == 2


def test_fields_may_be_called_type_and_data() -> None:
    with RecordingServer() as server:
        telemetry = start_telemetry(**QUICK, url=server.url)
        telemetry.emit("spawn", type="asteroid", data=3, self=1)
        assert telemetry.flush(5)
        assert server.events[0]["data"] == {"type": "asteroid", "data": 3, "self": 1}


def test_frozen_time_stops_no_delivery() -> None:
    with RecordingServer() as server, freeze_time("2026-01-01"):
        telemetry = start_telemetry(**QUICK, url=server.url, drain_interval=0.05)
        telemetry.emit("x")
        assert server.wait_for(1)
        assert server.events[0]["timestamp"] == 1767225600000


@needs_proc
def test_starting_and_stopping_leaves_nothing_behind() -> None:
    with RecordingServer() as server:
        start_telemetry(**QUICK, url=server.url).stop()
        assert wait_until(lambda: server.connections == 0)
        before = len(os.listdir("/proc/self/fd"))
        for _ in range(50):
            telemetry = start_telemetry(**QUICK, url=server.url)
            telemetry.emit("x")
            assert telemetry.stop(5)
        assert wait_until(lambda: server.connections == 0)
        assert wait_until(lambda: len(os.listdir("/proc/self/fd")) <= before + 1)


def test_a_thread_that_cannot_be_had_turns_it_off(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(self: object) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr("redvsblue_telemetry._delivery.worker.TelemetryConnector.start", fail)
    telemetry = start_telemetry(**QUICK)
    assert not telemetry.enabled
    assert "could not be started" in caplog.text


def test_a_module_that_a_bundled_game_lacks_turns_it_off() -> None:
    script = (
        "import sys\n"
        "sys.modules['tenacity'] = None\n"
        "import redvsblue_telemetry\n"
        "telemetry = redvsblue_telemetry.start_telemetry(enabled=True)\n"
        "assert not telemetry.enabled\n"
    )
    game = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=30, check=False
    )
    assert game.returncode == 0, game.stderr
    assert "could not be started" in game.stderr
    assert "tenacity" in game.stderr


def test_the_kill_switch_wins_over_settings_made_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DO_NOT_TRACK", "1")
    with Telemetry(TelemetrySettings(enabled=True)) as telemetry:
        telemetry.emit("x")
        assert not telemetry.enabled
        assert telemetry.stats() == TelemetryStats()


def test_flushes_that_nobody_waits_for_leave_nothing_behind() -> None:
    telemetry = Telemetry(TelemetrySettings(enabled=True, url="ws://127.0.0.1:1/")).start()
    telemetry.emit("x")
    gc.collect()
    before = len(gc.get_objects())
    for _ in range(2000):
        assert not telemetry.flush(0)
    gc.collect()
    assert len(gc.get_objects()) - before < 500
    telemetry.stop(0)


def test_a_flush_beside_a_stop_tells_the_truth() -> None:
    with RecordingServer() as server:
        for _ in range(30):
            telemetry = Telemetry(TelemetrySettings(enabled=True, url=server.url)).start()
            telemetry.emit("x")
            assert telemetry.flush(10)
            thread = threading.Thread(target=telemetry.stop, args=(10,))
            thread.start()
            start = time.monotonic()
            assert telemetry.flush(10)
            assert time.monotonic() - start < 9
            thread.join(10)
