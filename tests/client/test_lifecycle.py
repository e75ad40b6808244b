"""Starting and stopping: often, at once, from everywhere; and the network that comes and goes."""

from __future__ import annotations

import gc
import os
import socket
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from redvsblue_telemetry import (
    ConnectionState,
    Telemetry,
    TelemetryEvent,
    TelemetrySettings,
    TelemetryStats,
    start_telemetry,
)
from redvsblue_telemetry._delivery.worker import TelemetryConnector
from redvsblue_telemetry.testing import RecordingServer
from tests.support.ports import own_port
from tests.support.raw_server import raw_server, read_to_the_end, shake_hands
from tests.support.systems import not_on_macos
from tests.support.wait import wait_until

QUICK: dict[str, Any] = {"enabled": True, "backoff_base": 0.02, "backoff_max": 0.1}


def made(**settings: Any) -> Telemetry:
    return Telemetry(TelemetrySettings(**(QUICK | settings)))


def ended_well(stats: TelemetryStats) -> bool:
    """Nothing is under way any more, and each event is accounted for."""
    return stats.state is ConnectionState.STOPPED and not stats.buffered and not stats.in_flight


def at_once(*calls: Callable[[], object]) -> None:
    """Call each on its own thread, and wait for all of them."""
    threads = [threading.Thread(target=call) for call in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
        assert not thread.is_alive()


class SlowToEncode:
    """Data whose encoding lasts until it is released: an emit that is caught in its midst."""

    def __init__(self) -> None:
        self.is_begun = threading.Event()
        self.may_end = threading.Event()

    def tolist(self) -> int:
        self.is_begun.set()
        assert self.may_end.wait(20)
        return 1


def workers() -> int:
    return sum(thread.name == "redvsblue-telemetry" for thread in threading.enumerate())


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0


def objects() -> int:
    """How many there are of what the package is made of."""
    gc.collect()
    # The class of h11's sentinels has no module.
    modules = (str(getattr(type(item), "__module__", "")) for item in gc.get_objects())
    return sum(module.startswith(("redvsblue_telemetry", "websocket.")) for module in modules)


def leaves_nothing(play: Callable[[], object], times: int) -> None:
    """Repeat an action; it may leave nothing behind."""
    workers_before = workers()
    for _ in range(5):  # what is made once
        play()
    assert wait_until(lambda: workers() <= workers_before)
    open_before, objects_before = descriptors(), objects()
    for _ in range(times):
        play()
    assert wait_until(lambda: workers() <= workers_before)
    assert wait_until(lambda: descriptors() <= open_before + 1)
    assert wait_until(lambda: objects() <= objects_before + 5)


@pytest.mark.slow
def test_hundreds_of_starts_and_stops_leave_nothing_behind() -> None:
    with RecordingServer() as server:

        def play() -> None:
            assert start_telemetry(**QUICK, url=server.url).stop(5)

        def play_with_an_event() -> None:
            telemetry = start_telemetry(**QUICK, url=server.url)
            telemetry.emit("x")
            assert telemetry.stop(5)
            assert telemetry.stats().delivered == 1

        leaves_nothing(play, 250)
        leaves_nothing(play_with_an_event, 100)
        assert wait_until(lambda: server.connections == 0)
        assert len(server.events) == 105


def test_starts_and_stops_at_a_dead_port_leave_nothing_behind() -> None:
    url = f"ws://127.0.0.1:{own_port()}/"

    def play() -> None:
        telemetry = start_telemetry(**QUICK, url=url)
        telemetry.emit("x")
        assert not telemetry.stop(0.002)
        assert wait_until(lambda: ended_well(telemetry.stats()))
        assert telemetry.stats().dropped == 1

    leaves_nothing(play, 100)


def test_two_at_one_server_have_each_a_session_and_a_ledger() -> None:
    with RecordingServer() as server, made(url=server.url) as red, made(url=server.url) as blue:
        for _ in range(300):
            red.emit("red")
            blue.emit("blue")
        blue.emit("bad", x=object())
        assert red.flush(10)
        assert blue.flush(10)
        assert (red.stats().delivered, red.stats().rejected) == (300, 0)
        assert (blue.stats().delivered, blue.stats().rejected) == (300, 1)
        assert red.stop(5)
        blue.emit("blue")
        assert blue.flush(10)
        assert (red.stats().emitted, blue.stats().delivered) == (300, 301)
        for telemetry, color, count in ((red, "red", 300), (blue, "blue", 301)):
            events = [e for e in server.events if e["sessionId"] == telemetry.session_id]
            assert [event["seq"] for event in events] == list(range(1, count + 1))
            assert {event["type"] for event in events} == {color}


def test_one_whose_server_is_gone_takes_nothing_from_the_other() -> None:
    url = f"ws://127.0.0.1:{own_port()}/"
    with RecordingServer() as server, made(url=server.url) as red, made(url=url) as blue:
        red.emit("red")
        blue.emit("blue")
        assert red.flush(10)
        assert not blue.flush(0.05)
        assert not blue.stop(0.05)
        assert wait_until(lambda: ended_well(blue.stats()))
        assert (red.stats().delivered, red.stats().dropped) == (1, 0)
        assert (blue.stats().delivered, blue.stats().dropped) == (0, 1)


@pytest.mark.parametrize("timeout", [10, 0.005])
def test_threads_that_emit_during_a_stop_are_all_accounted_for(timeout: float) -> None:
    errors: list[BaseException] = []
    with RecordingServer() as server:
        telemetry = made(url=server.url).start()
        is_over = threading.Event()

        def play() -> None:
            try:
                while not is_over.is_set():
                    telemetry.emit("x", text="y" * 100)
            except BaseException as error:
                errors.append(error)

        def stop() -> None:
            assert wait_until(lambda: telemetry.stats().delivered > 100)
            telemetry.stop(timeout)
            is_over.set()

        at_once(play, play, stop)
        assert wait_until(lambda: ended_well(telemetry.stats()))
        assert not errors
        stats = telemetry.stats()
        telemetry.emit("too late")
        assert telemetry.stats() == stats
        arrived = {event["seq"] for event in server.events}
        assert stats.delivered <= len(arrived) <= stats.emitted
        assert max(arrived) <= stats.emitted


def test_an_emit_that_ends_after_the_stop_counts_as_dropped() -> None:
    slow = SlowToEncode()
    with RecordingServer() as server, made(url=server.url) as telemetry:

        def stop() -> None:
            assert slow.is_begun.wait(20)
            assert telemetry.stop(10)
            slow.may_end.set()

        at_once(lambda: telemetry.emit("slow", it=slow), stop)
        stats = telemetry.stats()
        assert (stats.emitted, stats.dropped, stats.buffered) == (1, 1, 0)
        assert server.events == []


def test_a_stop_is_not_held_up_by_one_that_another_thread_waits_for() -> None:
    with raw_server(lambda client: (shake_hands(client), read_to_the_end(client))) as port:
        telemetry = made(url=f"ws://127.0.0.1:{port}/").start()
        telemetry.emit("x")
        assert wait_until(lambda: telemetry.stats().state is ConnectionState.CONNECTED)
        answers: list[bool] = []
        patient = threading.Thread(target=lambda: answers.append(telemetry.stop(60)))
        patient.start()
        assert wait_until(lambda: not telemetry.is_running)
        start = time.monotonic()
        assert not telemetry.stop(0.1)
        assert time.monotonic() - start < 5
        patient.join(10)  # it has nothing more to wait for
        assert answers == [False]
        assert ended_well(telemetry.stats())


def test_a_stop_that_left_something_behind_says_so_also_while_the_worker_ends() -> None:
    may_end = threading.Event()

    def linger(state: ConnectionState) -> None:
        if state is ConnectionState.STOPPED:
            may_end.wait(20)

    url = f"ws://127.0.0.1:{own_port()}/"
    telemetry = made(url=url, on_state_change=linger).start()
    try:
        telemetry.emit("x")
        assert not telemetry.stop(0.2)
        assert not telemetry.stop()
    finally:
        may_end.set()
    assert wait_until(lambda: ended_well(telemetry.stats()))


def test_callbacks_may_stop_it_while_the_game_does() -> None:
    answers: list[bool] = []

    def review(event: TelemetryEvent) -> TelemetryEvent:
        if event.type == "last":
            assert wait_until(lambda: not telemetry.is_running)
            answers.append(telemetry.stop(30))
        return event

    with RecordingServer() as server:
        telemetry = made(url=server.url, before_send=review).start()
        telemetry.emit("x")
        telemetry.emit("last")
        start = time.monotonic()
        assert telemetry.stop(30)
        assert time.monotonic() - start < 10
        assert answers == [False]  # it was on its way then
        assert ended_well(telemetry.stats())
        assert [event["type"] for event in server.events] == ["x", "last"]


@pytest.mark.parametrize("callback", ["before_send", "on_state_change", "token"])
def test_a_stop_on_the_workers_own_thread_ends_it(callback: str) -> None:
    answers: list[bool] = []

    def stop(argument: Any = None) -> Any:
        if argument is not ConnectionState.CONNECTING and not answers:
            answers.append(telemetry.stop(10))
        return argument

    with RecordingServer() as server:
        telemetry = made(url=server.url, **{callback: stop})
        telemetry.start()
        telemetry.emit("x")
        assert wait_until(lambda: ended_well(telemetry.stats()))
        assert len(answers) == 1
        stats = telemetry.stats()
        assert len(server.events) == stats.delivered
        assert stats.delivered == 1 or callback != "before_send"
        telemetry.emit("too late")
        assert telemetry.stats() == stats


def test_a_worker_that_fails_says_so_and_the_next_start_makes_a_new_one(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with RecordingServer() as server:
        telemetry = start_telemetry(**QUICK, url=server.url, drain_interval=60)
        assert wait_until(lambda: telemetry.stats().state is ConnectionState.CONNECTED)
        with monkeypatch.context() as patch:
            # The worker goes on after an exception in a step, but this is between two steps.
            patch.setattr(TelemetryConnector, "_is_finished", property(lambda _: 1 / 0))
            telemetry.emit("lost")
            assert not telemetry.flush(20)
            assert wait_until(lambda: ended_well(telemetry.stats()))
        assert not telemetry.enabled
        telemetry.emit("ignored")
        assert not telemetry.flush(1)
        assert not telemetry.stop(1)
        assert (telemetry.stats().emitted, telemetry.stats().dropped) == (1, 1)
        lines = [r.getMessage() for r in caplog.records if "telemetry is off" in r.getMessage()]
        assert lines == ["telemetry is off: its worker failed"]
        again = start_telemetry(**QUICK, url=server.url)
        assert again is not telemetry
        again.emit("again")
        assert again.flush(20)


def test_a_second_start_changes_nothing() -> None:
    with RecordingServer() as server, made(url=server.url) as telemetry:
        telemetry.enabled = False
        assert telemetry.start() is telemetry
        assert not telemetry.enabled
        telemetry.enabled = True
        telemetry.emit("x")
        assert telemetry.stop(5)
        telemetry.start()
        assert not telemetry.enabled
        assert server.wait_for(1)


def test_what_the_host_said_before_the_start_holds() -> None:
    states: list[ConnectionState] = []
    with RecordingServer() as server:
        telemetry = made(url=server.url, on_state_change=states.append)
        telemetry.set_online(False)
        with telemetry:
            telemetry.emit("kept")
            assert wait_until(lambda: telemetry.stats().state is ConnectionState.OFFLINE)
            assert not telemetry.flush(0.05)
            assert states == [ConnectionState.OFFLINE]
            assert server.requests == []
            telemetry.set_online(True)
            assert telemetry.flush(5)


def offline(**settings: Any) -> Telemetry:
    """One that has found that there is no network: the name of its server can't be looked up."""
    telemetry = made(url="ws://name.invalid/", **settings).start()
    assert wait_until(lambda: telemetry.stats().state is ConnectionState.OFFLINE)
    return telemetry


def test_without_a_network_attempts_are_few_and_one_follows_on_set_online_at_once() -> None:
    attempts: list[float] = []

    def note(state: ConnectionState) -> None:
        if state is ConnectionState.CONNECTING:
            attempts.append(time.monotonic())

    telemetry = offline(backoff_base=1e6, backoff_max=1e6, on_state_change=note)
    try:
        telemetry.emit("kept")
        assert len(attempts) == 1  # an event alone causes none
        assert not telemetry.flush(0.2)
        assert wait_until(lambda: len(attempts) == 2)
        assert wait_until(lambda: telemetry.stats().state is ConnectionState.OFFLINE)
        for count in (3, 4, 5):
            telemetry.set_online(True)
            assert wait_until(lambda count=count: len(attempts) == count, timeout=20)
            assert wait_until(lambda: telemetry.stats().state is ConnectionState.OFFLINE)
        telemetry.set_online(False)
        assert "can't be resolved" in str(telemetry.stats().last_error)
        stats = telemetry.stats()
        assert (stats.emitted, stats.buffered, stats.in_flight) == (1, 1, 0)
    finally:
        assert not telemetry.stop(0)
    assert wait_until(lambda: ended_well(telemetry.stats()))


@not_on_macos("it refuses TCP to a group of hosts before it looks for a route")
def test_without_a_route_it_is_offline_and_goes_on_trying_until_one_is_there(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # A route can't be taken away in a test. But to a group of hosts there is none for TCP.
    with RecordingServer() as server:
        resolve, address = socket.getaddrinfo, "224.0.0.1"

        def look_up(host: str, *rest: Any, **more: Any) -> Any:
            return resolve(address, *rest, **more)

        monkeypatch.setattr(socket, "getaddrinfo", look_up)
        with made(url=server.url) as telemetry:
            telemetry.emit("kept")
            assert wait_until(lambda: telemetry.stats().state is ConnectionState.OFFLINE)
            address = "127.0.0.1"
            assert telemetry.flush(10)
            assert len(server.events) == 1
