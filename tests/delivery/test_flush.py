"""What ``flush`` and ``stop`` answer, and that a flush tries at once."""

from __future__ import annotations

import contextlib
import copy
import itertools
import json
import math
import pickle
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import Any

import attrs
import msgspec
import pytest

from redvsblue_telemetry import (
    ConnectionState,
    Telemetry,
    TelemetryEvent,
    TelemetrySettings,
    TelemetryStats,
)
from redvsblue_telemetry._delivery import worker
from redvsblue_telemetry._delivery.backoff import Backoff
from redvsblue_telemetry.testing import RecordingServer
from tests.support.ports import own_port
from tests.support.raw_server import (
    frame,
    raw_server,
    read_request,
    read_to_the_end,
    shake_hands,
)
from tests.support.wait import wait_until

NEVER = 1e6  # seconds of backoff


def made(url: str, **settings: Any) -> Telemetry:
    quick = {"enabled": True, "backoff_base": 0.02, "backoff_max": 0.1}
    return Telemetry(TelemetrySettings(**{**quick, "url": url, **settings})).start()


def dropped(telemetry: Telemetry) -> dict[str, int]:
    """The drops by reason, without the reasons that don't occur."""
    stats = telemetry.stats()
    assert list(stats.dropped_by) == [
        "overflow",
        "refused",
        "filtered",
        "switched_off",
        "expired",
        "left_behind",
    ]
    assert sum(stats.dropped_by.values()) == stats.dropped
    return {reason: count for reason, count in stats.dropped_by.items() if count}


class Gate:
    """A ``before_send`` that holds the worker at its first event until it is opened."""

    def __init__(self) -> None:
        self.is_reached = threading.Event()
        self._may_pass = threading.Event()

    def __call__(self, event: TelemetryEvent) -> TelemetryEvent:
        self.is_reached.set()
        assert self._may_pass.wait(20)
        return event

    def open(self) -> None:
        self._may_pass.set()


@contextlib.contextmanager
def held(**settings: Any) -> Iterator[tuple[Telemetry, Gate]]:
    """A client whose worker has taken event 1 from the store, of 10, and takes no more yet."""
    gate = Gate()
    with RecordingServer() as server:
        telemetry = made(server.url, capacity=10, batch_size=1, before_send=gate, **settings)
        try:
            telemetry.emit("first")
            assert gate.is_reached.wait(20)
            yield telemetry, gate
        finally:
            gate.open()
            telemetry.stop(10)


def emit(telemetry: Telemetry, count: int) -> None:
    for number in range(count):
        telemetry.emit("x", i=number)


def begun_flush(telemetry: Telemetry) -> Future[bool]:
    """A flush in another thread, of which the worker knows."""
    connector = telemetry._connector
    assert connector is not None
    future: Future[bool] = Future()
    threading.Thread(target=lambda: future.set_result(telemetry.flush(20))).start()
    assert wait_until(lambda: connector.requests._flushes)
    return future


# What is confirmed, and what isn't.


def test_events_that_before_send_takes_out_are_no_loss() -> None:
    def review(event: TelemetryEvent) -> TelemetryEvent | None:
        return None if event.type == "secret" else event

    with RecordingServer() as server:
        telemetry = made(server.url, before_send=review)
        telemetry.emit("a")
        telemetry.emit("secret")
        assert telemetry.flush(10)
        telemetry.emit("secret")
        assert telemetry.stop(10)
        assert dropped(telemetry) == {"filtered": 2}
        assert telemetry.stats().delivered == 1


def test_events_that_overflow_before_a_flush_do_not_concern_it() -> None:
    with held() as (telemetry, gate):
        emit(telemetry, 15)
        flush = begun_flush(telemetry)
        gate.open()
        assert flush.result(20) is True
        assert dropped(telemetry) == {"overflow": 5}


def test_newer_events_that_overflow_do_not_concern_a_flush() -> None:
    with held() as (telemetry, gate):
        flush = begun_flush(telemetry)
        emit(telemetry, 15)
        gate.open()
        assert flush.result(20) is True
        assert wait_until(lambda: telemetry.stats().delivered == 11)
        assert dropped(telemetry) == {"overflow": 5}


@pytest.mark.parametrize("more", [1, 10, 25])
def test_events_of_a_flush_that_overflow_during_it_make_it_false(more: int) -> None:
    with held() as (telemetry, gate):
        emit(telemetry, 10)
        flush = begun_flush(telemetry)
        emit(telemetry, more)
        gate.open()
        assert flush.result(20) is False
        assert dropped(telemetry) == {"overflow": more}
        telemetry.emit("y")
        assert telemetry.flush(20)


def test_a_flush_is_false_if_all_of_its_events_overflow_and_none_is_ever_taken() -> None:
    url = f"ws://127.0.0.1:{own_port()}/"
    telemetry = made(url, capacity=10)
    emit(telemetry, 10)
    flush = begun_flush(telemetry)
    emit(telemetry, 10)
    assert flush.result(20) is False
    assert not telemetry.stop(0)
    assert wait_until(lambda: telemetry.stats().state is ConnectionState.STOPPED)
    assert dropped(telemetry) == {"overflow": 10, "left_behind": 10}


def close_at_poison(client: socket.socket) -> None:
    """Ack events, but close with 1009 (message too big) at one that has "poison" in it.

    It reads one message at a time, which is right as long as the client sends one by one.
    """
    shake_hands(client, b"Telemetry-Ack: cumulative")
    for number in itertools.count(1):
        data = client.recv(65536)
        if not data:
            return
        offset = 4 if data[1] & 0x7F == 126 else 2
        mask, body = data[offset : offset + 4], data[offset + 4 :]
        text = bytes(byte ^ mask[index % 4] for index, byte in enumerate(body))
        if b"poison" in text:
            client.sendall(frame(0x8, (1009).to_bytes(2, "big")))
            read_to_the_end(client)
            return
        client.sendall(frame(0x1, b'{"ack": %d}' % number))


def test_a_refused_event_makes_the_flush_and_the_stop_false_in_which_it_happens() -> None:
    with raw_server(close_at_poison) as port:
        telemetry = made(f"ws://127.0.0.1:{port}/", drain_interval=60)
        telemetry.emit("poison")
        assert not telemetry.flush(10)
        assert dropped(telemetry) == {"refused": 1}
        telemetry.emit("good")
        assert telemetry.flush(10)
        telemetry.emit("poison")
        assert not telemetry.stop(10)
        assert not telemetry.stop(10)
        assert not telemetry.flush(10)
        assert dropped(telemetry) == {"refused": 2}
        assert telemetry.stats().delivered == 1


def test_a_stop_is_true_if_the_server_refused_an_event_before_it() -> None:
    with raw_server(close_at_poison) as port:
        telemetry = made(f"ws://127.0.0.1:{port}/", drain_interval=0.01)
        telemetry.emit("poison")
        assert wait_until(lambda: dropped(telemetry) == {"refused": 1})
        telemetry.emit("good")
        assert telemetry.stop(10)


def test_the_toggle_makes_a_flush_false() -> None:
    with held() as (telemetry, gate):
        emit(telemetry, 3)
        flush = begun_flush(telemetry)
        telemetry.enabled = False
        gate.open()
        assert flush.result(20) is False
        assert dropped(telemetry) == {"switched_off": 4}
        assert telemetry.flush(20)
        assert telemetry.stop(20)


def test_a_stop_that_leaves_events_behind_makes_a_flush_false() -> None:
    with held() as (telemetry, gate):
        emit(telemetry, 3)
        flush = begun_flush(telemetry)
        assert not telemetry.stop(0)
        gate.open()
        assert flush.result(20) is False
        assert wait_until(lambda: dropped(telemetry) == {"left_behind": 4})


def test_events_that_the_toggle_discards_during_a_stop_are_not_left_behind() -> None:
    with held() as (telemetry, gate):
        emit(telemetry, 3)
        assert not telemetry.stop(0.1)
        telemetry.enabled = False
        gate.open()
        assert wait_until(lambda: telemetry.stats().state is ConnectionState.STOPPED)
        assert dropped(telemetry) == {"switched_off": 4}


def test_a_child_whose_worker_could_not_start_does_not_claim_delivery(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    telemetry = Telemetry(TelemetrySettings(enabled=True)).start()
    try:
        inherited = telemetry._connector
        assert inherited is not None
        monkeypatch.setattr(inherited, "abandon", lambda: None)
        telemetry.after_fork_in_child()

        def fail(*_: object, **__: object) -> None:
            raise OSError(24, "Too many open files")

        monkeypatch.setattr("redvsblue_telemetry._delivery.worker.TelemetryConnector", fail)
        telemetry.emit("lost")
        assert not telemetry.enabled
        assert not telemetry.flush(1)
        assert not telemetry.stop(1)
        assert dropped(telemetry) == {"left_behind": 1}
    finally:
        inherited.stop(1)


def test_the_figures_can_be_copied_pickled_and_encoded() -> None:
    stats = attrs.evolve(TelemetryStats(), dropped=2, dropped_by={"overflow": 2})
    assert pickle.loads(pickle.dumps(stats)) == stats
    assert copy.deepcopy(stats) == stats
    assert copy.copy(stats).dropped_by == {"overflow": 2}
    assert hash(stats) == hash(copy.copy(stats))
    assert "dropped_by={'overflow': 2}" in repr(stats)
    encoded = json.loads(msgspec.json.encode(stats))
    assert encoded["dropped_by"] == {"overflow": 2}
    assert json.loads(msgspec.json.encode(attrs.asdict(stats))) == encoded


def test_changing_the_reasons_of_one_reading_changes_no_other() -> None:
    with held() as (telemetry, _):
        telemetry.stats().dropped_by["overflow"] = 9  # type: ignore[index]
        assert telemetry.stats().dropped_by["overflow"] == 0


# When it tries.


class Attempts:
    """Counts the attempts to connect."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, state: ConnectionState) -> None:
        self.count += state is ConnectionState.CONNECTING


@contextlib.contextmanager
def backing_off(url: str, **settings: Any) -> Iterator[tuple[Telemetry, Attempts]]:
    """A client with an event, whose first attempt has failed, and which makes none by itself."""
    attempts = Attempts()
    patient = {"backoff_base": NEVER, "backoff_max": NEVER, "on_state_change": attempts}
    telemetry = made(url, **patient, **settings)
    try:
        telemetry.emit("x")
        assert wait_until(lambda: telemetry.stats().state is ConnectionState.BACKING_OFF)
        yield telemetry, attempts
    finally:
        telemetry.enabled = False
        telemetry.stop(1)


@contextlib.contextmanager
def gone() -> Iterator[int]:
    """A port that refuses connections."""
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        yield reserved.getsockname()[1]


def test_a_flush_during_a_backoff_tries_at_once() -> None:
    port = own_port()
    with backing_off(f"ws://127.0.0.1:{port}/") as (telemetry, attempts):
        with RecordingServer(port=port) as server:
            assert telemetry.flush(20)
            assert len(server.events) == 1
        assert attempts.count == 2


def test_each_flush_gets_one_attempt() -> None:
    with gone() as port, backing_off(f"ws://127.0.0.1:{port}/") as (telemetry, attempts):
        for count in (2, 3, 4):
            assert not telemetry.flush(0.3)
            assert attempts.count == count


def test_early_attempts_leave_the_regular_ones_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    class Patient(Backoff):
        draws = 0

        def next_delay(self) -> float:
            self.draws += 1
            return 2.0

    monkeypatch.setattr(worker, "Backoff", Patient)
    begun: list[float] = []

    def note(state: ConnectionState) -> None:
        if state is ConnectionState.CONNECTING:
            begun.append(time.monotonic())

    with gone() as port:
        telemetry = made(f"ws://127.0.0.1:{port}/", on_state_change=note)
        connector = telemetry._connector
        assert connector is not None
        backoff = connector._backoff
        assert isinstance(backoff, Patient)
        telemetry.emit("x")
        assert wait_until(lambda: backoff.draws == 1)
        first_failure = time.monotonic()
        while len(begun) < 4:  # three flushes, three attempts
            assert not telemetry.flush(0.1)
        assert backoff.draws == 1
        assert wait_until(lambda: backoff.draws == 2)
        assert begun[4] - begun[0] >= 2.0
        assert begun[4] - first_failure < 2.0 + 1
        assert len(begun) == 5
        telemetry.enabled = False
        telemetry.stop(1)


@pytest.mark.parametrize("flushes", [1, 10])
def test_a_flush_gets_its_attempt_though_many_did_before(flushes: int) -> None:
    port = own_port()
    with backing_off(f"ws://127.0.0.1:{port}/") as (telemetry, attempts):
        while attempts.count < 1 + 5:  # all that are made at once
            assert not telemetry.flush(0.01)
        for _ in range(flushes):
            assert not telemetry.flush(0.01)
        with RecordingServer(port=port) as server:
            assert telemetry.flush(20)
            assert [event["type"] for event in server.events] == ["x"]


def most_attempts(since: float) -> int:
    """How many a client makes that has begun at a time, and never tries by itself again."""
    return 1 + 5 + math.ceil(time.monotonic() - since)


def test_flushes_in_every_frame_do_not_hammer_a_server_that_is_gone() -> None:
    begin = time.monotonic()
    with gone() as port, backing_off(f"ws://127.0.0.1:{port}/") as (telemetry, attempts):
        for _ in range(300):
            assert not telemetry.flush(0.001)
        assert 2 <= attempts.count <= most_attempts(begin)


def flip_network(telemetry: Telemetry, on: bool) -> None:
    telemetry.set_online(on)


def flip_toggle(telemetry: Telemetry, on: bool) -> None:
    telemetry.enabled = on


@pytest.mark.parametrize("is_up", [False, True], ids=["gone", "up"])
@pytest.mark.parametrize("flip", [flip_network, flip_toggle])
def test_flips_do_not_hammer_a_server(flip: Callable[[Telemetry, bool], None], is_up: bool) -> None:
    away = {ConnectionState.OFFLINE, ConnectionState.IDLE}
    attempts = Attempts()
    begin = time.monotonic()
    with RecordingServer() if is_up else gone() as target:
        port = target if isinstance(target, int) else target.port
        telemetry = made(
            f"ws://127.0.0.1:{port}/",
            backoff_base=NEVER,
            backoff_max=NEVER,
            on_state_change=attempts,
        )
        assert wait_until(lambda: attempts.count == 1)
        for _ in range(50):
            flip(telemetry, False)
            assert wait_until(lambda: telemetry.stats().state in away)
            flip(telemetry, True)
            assert wait_until(lambda: telemetry.stats().state not in away)
        assert 1 + 5 <= attempts.count <= most_attempts(begin)
        if is_up:
            telemetry.emit("x")
            assert telemetry.flush(20)
        telemetry.enabled = False
        telemetry.stop(1)


@pytest.mark.parametrize("at", [ConnectionState.CONNECTING, ConnectionState.BACKING_OFF])
@pytest.mark.parametrize("call", [Telemetry.flush, Telemetry.stop])
def test_a_request_gets_an_attempt_that_begins_after_it(
    call: Callable[[Telemetry, float], bool], at: ConnectionState
) -> None:
    """It comes while ``on_state_change`` runs, so the worker looks only later."""
    port = own_port()
    is_there, may_go_on = threading.Event(), threading.Event()

    with contextlib.ExitStack() as stack:
        servers: list[RecordingServer] = []

        def look(state: ConnectionState) -> None:
            if state is ConnectionState.BACKING_OFF and not servers:
                servers.append(stack.enter_context(RecordingServer(port=port)))
            if state is at and not is_there.is_set():
                is_there.set()
                may_go_on.wait(10)

        telemetry = made(
            f"ws://127.0.0.1:{port}/",
            backoff_base=NEVER,
            backoff_max=NEVER,
            on_state_change=look,
        )
        telemetry.emit("x")
        assert is_there.wait(10)
        connector = telemetry._connector
        assert connector is not None
        result: Future[bool] = Future()
        caller = threading.Thread(target=lambda: result.set_result(call(telemetry, 10)))
        caller.start()
        assert wait_until(lambda: connector.requests._waiting)
        may_go_on.set()
        assert result.result(20) is True
        caller.join()
        assert [event["type"] for event in servers[0].events] == ["x"]
        telemetry.stop(10)


def test_reports_of_a_network_in_every_frame_do_not_hammer_either() -> None:
    attempts = Attempts()
    begin = time.monotonic()
    telemetry = made(
        "ws://name.invalid/", backoff_base=NEVER, backoff_max=NEVER, on_state_change=attempts
    )
    try:
        for count in range(1, 20):
            # The next report comes when the attempt for the one before has failed.
            wait_until(lambda: telemetry.stats().state is ConnectionState.OFFLINE)
            telemetry.set_online(True)
            if not wait_until(lambda count=count: attempts.count > count, 0.5):
                break
        assert 2 <= attempts.count <= most_attempts(begin)
    finally:
        telemetry.enabled = False
        telemetry.stop(1)


def test_a_flush_does_not_come_before_the_time_that_the_server_asked_for() -> None:
    def refuse(client: socket.socket) -> None:
        read_request(client)
        client.sendall(b"HTTP/1.1 503 Busy\r\nRetry-After: 3600\r\nContent-Length: 0\r\n\r\n")

    with (
        raw_server(refuse) as port,
        backing_off(f"ws://127.0.0.1:{port}/") as (telemetry, attempts),
    ):
        assert not telemetry.flush(0.3)
        assert not telemetry.flush(0.01)
        assert attempts.count == 1
