"""The worker waits, also when what wakes it up is lost, and never spins."""

from __future__ import annotations

import os
import selectors
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from redvsblue_telemetry import ConnectionState, Telemetry, TelemetrySettings, TelemetryStore
from redvsblue_telemetry._delivery import poller as module
from redvsblue_telemetry._delivery.poller import Poller
from redvsblue_telemetry._delivery.worker import TelemetryConnector
from redvsblue_telemetry._network.contract import Endpoint, Frame, Wait
from redvsblue_telemetry._recording.codec import EncodedEvent, EventCodec
from redvsblue_telemetry.testing import RecordingServer
from tests.support.systems import needs_descriptors
from tests.support.wait import wait_until


@pytest.fixture
def poller() -> Iterator[Poller]:
    poller = Poller()
    yield poller
    poller.close()


@pytest.fixture
def polls(monkeypatch: pytest.MonkeyPatch) -> list[float | None]:
    """The timeouts of all polls so far, of pollers that are made from now on."""
    timeouts: list[float | None] = []

    class Counting(module._Selector):  # type: ignore[name-defined, misc]
        def select(self, timeout: float | None = None) -> Any:
            timeouts.append(timeout)
            return super().select(timeout)

    monkeypatch.setattr(module, "_Selector", Counting)
    return timeouts


def test_a_wake_up_ends_one_wait(poller: Poller) -> None:
    poller.wake()
    poller.wake()
    start = time.monotonic()
    assert not poller.wait(10)
    assert time.monotonic() - start < 5
    assert not poller.wait(0.05)
    assert time.monotonic() - start >= 0.05


def test_a_descriptor_that_is_ready_ends_it(poller: Poller) -> None:
    one, other = socket.socketpair()
    with one, other:
        assert poller.wait(10, one.fileno(), selectors.EVENT_WRITE)
        assert not poller.wait(0.01, one.fileno(), selectors.EVENT_READ)
        other.send(b"x")
        assert poller.wait(10, one.fileno(), selectors.EVENT_READ)


@pytest.mark.parametrize("end", ["_sender", "_receiver"])
@pytest.mark.parametrize("how", [socket.SHUT_RD, socket.SHUT_WR, socket.SHUT_RDWR])
def test_a_pair_at_its_end_is_replaced(poller: Poller, end: str, how: int) -> None:
    getattr(poller, end).shutdown(how)
    poller.wait(0)
    poller.wake()
    start = time.monotonic()
    poller.wait(10)
    assert time.monotonic() - start < 5
    assert not poller.was_closed
    poller.wait(0.05)
    assert time.monotonic() - start >= 0.05


@needs_descriptors
@pytest.mark.parametrize("ends", [["_sender"], ["_receiver"], ["_receiver", "_sender"]])
def test_a_closed_pair_is_replaced_during_a_wait(poller: Poller, ends: list[str]) -> None:
    def close() -> None:
        for end in ends:
            os.close(getattr(poller, end).fileno())
        poller.wake()

    closer = threading.Timer(0.1, close)
    closer.start()
    start = time.monotonic()
    poller.wait(10)
    assert time.monotonic() - start < 5
    closer.join()
    poller.wait(0)  # if it has not noticed yet
    poller.wake()
    poller.wait(10)
    assert time.monotonic() - start < 5


@needs_descriptors
def test_neither_a_wake_up_nor_a_wait_touches_what_took_the_place_of_the_pair(
    poller: Poller,
) -> None:
    taken = [poller._receiver.fileno(), poller._sender.fileno()]
    one, other = socket.socketpair()
    with one, other:
        for end, number in zip((one, other), taken, strict=True):
            os.dup2(end.fileno(), number)
        host = [socket.socket(fileno=number) for number in taken]
        host[1].send(b"the host's")
        poller.wake()
        assert poller.wait(10, host[1].fileno(), selectors.EVENT_READ)
        assert poller.was_closed
        poller.wake()
        assert not poller.wait(10)
        assert host[0].recv(100) == b"the host's"
        host[0].setblocking(False)
        with pytest.raises(BlockingIOError):
            host[0].recv(1)
        poller.close()
        host[0].send(b"still open")
        assert host[1].recv(100) == b"still open"
        for end in host:
            end.close()


@needs_descriptors
def test_pairs_that_are_closed_again_and_again_make_no_wait_spin(
    polls: list[float | None],
) -> None:
    poller = Poller()
    deadline = time.monotonic() + 0.5
    while time.monotonic() < deadline:
        if poller._receiver.fileno() >= 0:
            poller._sender.shutdown(socket.SHUT_RDWR)
        poller.wait(10)
    poller.close()
    assert len(polls) < 30


# In a client.


def is_quiet_for(seconds: float, polls: list[float | None]) -> bool:
    """Whether hardly any wait begins in the next seconds."""
    before = len(polls)
    time.sleep(seconds)
    return len(polls) - before <= 2


def test_a_client_whose_pair_is_shut_down_delivers_at_once_and_does_not_spin(
    polls: list[float | None],
) -> None:
    with RecordingServer() as server:
        telemetry = Telemetry(
            TelemetrySettings(enabled=True, url=server.url, drain_interval=60)
        ).start()
        assert wait_until(lambda: telemetry.stats().state is ConnectionState.CONNECTED)
        connector = telemetry._connector
        assert connector is not None
        for number in range(3):
            pair = connector._poller._sender
            pair.shutdown(socket.SHUT_RDWR)
            assert wait_until(lambda pair=pair: connector._poller._sender is not pair)
            telemetry.emit("x", n=number)
            start = time.monotonic()
            assert telemetry.flush(20)
            assert time.monotonic() - start < 5
        assert len(server.events) == 3
        assert telemetry.stats().reconnects == 0
        # The last confirmations may still be on their way. Then it has nothing to do.
        assert wait_until(lambda: is_quiet_for(0.5, polls))
        assert telemetry.stop(5)


class NeverDone:
    """A connection that is always ready to be read, with nothing in it."""

    has_acks = has_archived_acks = has_more = has_reports = False
    encoding = None
    unwritten = 100

    def __init__(self) -> None:
        self._one, self._other = socket.socketpair()
        self._other.send(b"x")

    def fileno(self) -> int:
        return self._one.fileno()

    def send(self, payload: bytes) -> None:
        """Take it, to no effect."""

    ping = send

    def flush(self) -> None:
        """Write nothing."""

    def receive(self) -> list[Frame]:
        return []

    def close(self) -> None:
        self._one.close()
        self._other.close()

    abort = reset = close


def test_a_socket_that_is_always_ready_for_nothing_makes_no_worker_spin(
    polls: list[float | None],
) -> None:
    def connect(endpoint: Endpoint, wait: Wait, deadline: float) -> NeverDone:
        return NeverDone()

    codec = EventCodec("session", None, max_event_bytes=1000)
    store = TelemetryStore[EncodedEvent](10)
    settings = TelemetrySettings(enabled=True)
    connector = TelemetryConnector(store, codec, settings, connect=connect)
    connector.start()
    try:
        assert wait_until(lambda: connector.state is ConnectionState.CONNECTED)
        time.sleep(1)
        assert len(polls) < 400
        store.push(codec.encode("x", {}))
        assert not connector.flush(0.1)
    finally:
        assert not connector.stop(0.1)
