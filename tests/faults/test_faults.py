"""Lost, silent, slow and stalled connections: through a proxy that makes them so."""

from __future__ import annotations

import contextlib
import gc
import json
import random
import socket
import threading
import time
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks.chaos import problems
from benchmarks.chaos_game import Emitter
from benchmarks.notes import Notes
from benchmarks.receiver import Arrivals, Receiver
from redvsblue_telemetry import ConnectionState, Telemetry, TelemetryEvent, start_telemetry
from tests.support.fault_proxy import BOTH, Direction, Directions, FaultProxy
from tests.support.raw_server import frame, raw_server, read_to_the_end, shake_hands
from tests.support.wait import wait_until

QUICK: dict[str, Any] = {
    "enabled": True,
    "backoff_base": 0.01,
    "backoff_max": 0.05,
    "drain_interval": 0.02,
}
SESSION = "faults"
TO_CLIENT = frozenset({Direction.TO_CLIENT})
TO_SERVER = frozenset({Direction.TO_SERVER})


class Route:
    """The library at one end, a server with acks at the other, and the proxy between them."""

    def __init__(self, proxy: FaultProxy, stack: contextlib.ExitStack) -> None:
        self.proxy = proxy
        self.arrivals = Arrivals(SESSION, lambda: self.telemetry.stats().delivered)
        self.receiver = stack.enter_context(Receiver(self.arrivals))
        self.telemetry: Telemetry
        self.emitted = 0

    def open(self, **settings: Any) -> Telemetry:
        url = f"ws://127.0.0.1:{self.proxy.port}/"
        self.telemetry = start_telemetry(**{**QUICK, **settings}, url=url, session_id=SESSION)
        # Only now, since each handshake is noted together with what was delivered by then.
        self.proxy.upstream = ("127.0.0.1", self.receiver.listen())
        assert wait_until(lambda: self.telemetry.stats().state is ConnectionState.CONNECTED)
        return self.telemetry

    def emit(self, count: int, text: str = "") -> None:
        for _ in range(count):
            self.telemetry.emit("fault", thread=0, n=self.emitted, text=text)
            self.emitted += 1

    def settle(self) -> list[str]:
        """Deliver the rest, stop, and compare the counts."""
        assert self.telemetry.flush(20)
        assert self.telemetry.stop(5)
        return list(problems(self.telemetry.stats(), self.arrivals, self.emitted))


@pytest.fixture
def route() -> Iterator[Route]:
    with contextlib.ExitStack() as stack:
        route = Route(stack.enter_context(FaultProxy()), stack)
        yield route
        route.proxy.clear()  # so that the server's goodbyes get through


@pytest.mark.slow
def test_many_resets_lose_nothing_and_repeat_only_what_was_in_flight(
    route: Route, tmp_path: Path
) -> None:
    telemetry = route.open(capacity=200_000)
    chance = random.Random(1)
    notes = Notes(tmp_path / "notes")
    emitter = Emitter(telemetry, notes, 0, seed="1", rate=5000)
    emitter.start()
    number = 0
    while telemetry.stats().reconnects < 60:  # a reset may come before there is a connection
        number += 1
        if number % 4 == 0:  # so that the resets don't outrun a slow machine for good
            assert wait_until(lambda: telemetry.stats().state is ConnectionState.CONNECTED)
        if number % 2:  # every other time in the midst of a message, if one comes in time
            route.proxy.cut_after(chance.randrange(1, 5000))
        time.sleep(chance.uniform(0.03, 0.15))
        route.proxy.reset()
    emitter.finish.set()
    emitter.join()
    emitted = notes.begun(0)
    notes.close()
    assert telemetry.flush(20)
    assert telemetry.stop(5)
    stats, arrivals = telemetry.stats(), route.arrivals
    # Among these are repeats that are not whole batches, or of batches that had been confirmed.
    assert list(problems(stats, arrivals, emitted)) == []
    assert arrivals.lost(emitted, dropped=0) == 0
    assert (stats.delivered, stats.dropped) == (emitted, 0)
    assert emitted > 10_000


@pytest.mark.parametrize("directions", [BOTH, TO_CLIENT])
def test_what_went_into_a_black_hole_is_sent_again(route: Route, directions: Directions) -> None:
    telemetry = route.open(confirm_timeout=0.3, connect_timeout=0.3)
    route.emit(500)
    assert telemetry.flush(10)
    route.proxy.black_hole(True, directions)
    route.emit(500)
    assert wait_until(lambda: telemetry.stats().in_flight == 500)
    assert wait_until(lambda: "confirmed nothing" in str(telemetry.stats().last_error))
    assert wait_until(lambda: route.proxy.connections >= 2)  # so it knows that the first is over
    assert telemetry.stats().delivered == 500
    assert telemetry.stats().in_flight == 500
    # Either the events are in the hole or, where that is only on the way back, the acks are.
    assert route.arrivals.unique == (500 if directions == BOTH else 1000)
    route.proxy.black_hole(False)
    assert route.settle() == []
    assert telemetry.stats().delivered == 1000
    assert route.arrivals.duplicates >= (0 if directions == BOTH else 500)


def test_an_idle_connection_finds_out_that_it_is_in_a_black_hole(route: Route) -> None:
    telemetry = route.open(keepalive_interval=0.1, confirm_timeout=0.3, connect_timeout=0.3)
    route.emit(1)
    assert telemetry.flush(10)
    route.proxy.black_hole(True)
    assert wait_until(lambda: "keepalive" in str(telemetry.stats().last_error))
    route.proxy.black_hole(False)
    assert wait_until(lambda: telemetry.stats().reconnects >= 1)
    route.emit(1)
    assert route.settle() == []


def test_acks_that_are_late_but_in_time_repeat_nothing(route: Route) -> None:
    telemetry = route.open(confirm_timeout=20)
    route.receiver.ack_delay = 0.3
    route.emit(1000)
    assert telemetry.flush(10)
    assert (telemetry.stats().round_trip or 0) >= 0.3
    assert telemetry.stats().reconnects == 0
    assert route.settle() == []
    assert route.arrivals.duplicates == 0


def test_acks_that_are_too_late_lose_nothing(route: Route) -> None:
    telemetry = route.open(confirm_timeout=0.3)
    route.receiver.ack_delay = 60
    route.emit(500)
    assert wait_until(lambda: telemetry.stats().reconnects >= 2)
    assert telemetry.stats().delivered == 0
    route.receiver.ack_delay = 0
    assert route.settle() == []
    assert route.arrivals.duplicates >= 500


def test_a_batch_may_take_longer_than_the_timeout_while_others_are_confirmed() -> None:
    def script(client: socket.socket) -> None:
        shake_hands(client, b"Telemetry-Ack: cumulative")
        client.recv(65536)
        for number in range(1, 7):
            done.wait(0.25)
            client.sendall(frame(0x1, json.dumps({"ack": number}).encode()))
        read_to_the_end(client)

    done = threading.Event()
    with raw_server(script) as port:
        telemetry = start_telemetry(
            **{**QUICK, "drain_interval": 60}, url=f"ws://127.0.0.1:{port}/", confirm_timeout=1.1
        )
        assert wait_until(lambda: telemetry.stats().state is ConnectionState.CONNECTED)
        for _ in range(6 * 50):
            telemetry.emit("slow")
        assert telemetry.flush(10)
        stats = telemetry.stats()
        assert (stats.delivered, stats.reconnects) == (300, 0)
        assert (stats.round_trip or 0) > 1.1


@pytest.mark.slow
def test_a_server_that_stops_reading_stalls_no_emit_and_costs_bounded_memory(
    route: Route,
) -> None:
    capacity = 10_000
    telemetry = route.open(capacity=capacity, confirm_timeout=60)
    route.proxy.stall(True, TO_SERVER)
    route.emit(2 * capacity, "x" * 1000)
    assert wait_until(lambda: is_full(route, capacity))
    dropped, delivered = telemetry.stats().dropped, telemetry.stats().delivered
    tracemalloc.start()
    try:
        # The first round replaces what the store held before the tracing began.
        held = []
        for _ in range(2):
            route.emit(2 * capacity, "x" * 1000)
            gc.collect()
            held.append(tracemalloc.get_traced_memory()[0])
    finally:
        tracemalloc.stop()
    stats = telemetry.stats()
    assert held[1] - held[0] < 500_000  # of 20 MB that were emitted in between
    assert (stats.buffered, stats.delivered) == (capacity, delivered)
    assert stats.dropped == dropped + 4 * capacity
    assert 0 < stats.in_flight <= 5 * 1024 * 1024 // 1000
    assert stats.emitted == route.emitted
    start = time.monotonic()
    assert not telemetry.stop(0.5)
    assert time.monotonic() - start < 2.5
    assert wait_until(lambda: telemetry.stats().state is ConnectionState.STOPPED)
    stats = telemetry.stats()
    # In flight is derived from the other counts: a lost event would stay there.
    assert (stats.buffered, stats.in_flight) == (0, 0)
    assert stats.emitted == route.emitted
    assert stats.delivered <= route.arrivals.unique


def test_a_server_that_never_acks_is_sent_no_more_than_a_window(route: Route) -> None:
    capacity = 10_000
    telemetry = route.open(capacity=capacity, confirm_timeout=60)
    route.receiver.ack_delay = 60
    route.emit(2 * capacity, "x" * 1000)
    assert wait_until(lambda: is_full(route, capacity))
    stats = telemetry.stats()
    assert wait_until(lambda: route.arrivals.unique == stats.in_flight)
    assert stats.in_flight <= 5 * 1024 * 1024 // 1000
    assert (stats.delivered, stats.reconnects) == (0, 0)
    assert not telemetry.stop(0.1)


def is_full(route: Route, capacity: int) -> bool:
    """Whether the worker takes nothing more from a full store."""
    before = route.telemetry.stats()
    route.emit(capacity // 10, "x" * 1000)
    time.sleep(0.1)
    after = route.telemetry.stats()
    return after.buffered == capacity and after.in_flight == before.in_flight


def test_a_stop_whose_worker_is_just_giving_up_does_not_say_that_all_was_confirmed() -> None:
    def hold(state: ConnectionState) -> None:
        if state is ConnectionState.STOPPED:  # what was left is discarded by now
            released.wait(10)

    released = threading.Event()
    with FaultProxy() as proxy:  # and no server
        url = f"ws://127.0.0.1:{proxy.port}/"
        telemetry = start_telemetry(**QUICK, url=url, on_state_change=hold)
        telemetry.emit("undelivered")
        try:
            assert not telemetry.stop(0.3)
        finally:
            released.set()


def test_a_stop_while_an_event_is_under_review_does_not_say_that_all_was_confirmed(
    route: Route,
) -> None:
    def hold(event: TelemetryEvent) -> TelemetryEvent:
        under_review.set()
        released.wait(10)
        return event

    under_review, released = threading.Event(), threading.Event()
    telemetry = route.open(before_send=hold)
    route.emit(1)
    assert under_review.wait(5)  # so it is neither in the store nor in flight
    try:
        assert not telemetry.stop(0.3)
    finally:
        released.set()


def test_a_stall_that_ends_has_lost_nothing(route: Route) -> None:
    telemetry = route.open(confirm_timeout=0.5, connect_timeout=0.5, capacity=100_000)
    route.receiver.stall(True)
    route.emit(20_000, "x" * 200)
    assert wait_until(lambda: telemetry.stats().reconnects >= 1)
    route.receiver.stall(False)
    assert route.settle() == []
    assert telemetry.stats().delivered == 20_000
