"""The player's toggle: after a no, nothing goes out; after a yes, only what came after it."""

from __future__ import annotations

import random
import socket
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from redvsblue_telemetry import ConnectionState, Telemetry, TelemetryEvent
from redvsblue_telemetry.testing import RecordingServer
from tests.client.test_lifecycle import SlowToEncode, at_once, ended_well, made
from tests.support.fault_proxy import FaultProxy
from tests.support.raw_server import raw_server, read_request, read_to_the_end, shake_hands
from tests.support.wait import wait_until

SOON = 5.0  # seconds: far less than any wait that the toggle must not wait for


def is_in(telemetry: Telemetry, state: ConnectionState) -> bool:
    return wait_until(lambda: telemetry.stats().state is state)


def switched_off(telemetry: Telemetry) -> None:
    """Switch it off, which must be quick in any state of the network."""
    start = time.monotonic()
    telemetry.enabled = False
    assert time.monotonic() - start < SOON
    assert not telemetry.enabled


def test_what_was_in_flight_is_not_sent_again_and_the_gap_shows() -> None:
    # The first connection confirms nothing; the next are those of a server that works.
    with (
        RecordingServer(encodings=()) as server,
        FaultProxy(server.port, first_takes=2000) as proxy,
    ):
        telemetry = made(url=proxy.url, drain_interval=0.01).start()
        for _ in range(500):
            telemetry.emit("before", text="x" * 500)
        assert wait_until(lambda: proxy.has_stalled)
        assert wait_until(lambda: telemetry.stats().in_flight > 0)
        session = telemetry.session_id
        switched_off(telemetry)
        assert is_in(telemetry, ConnectionState.IDLE)
        stats = telemetry.stats()
        assert (stats.dropped, stats.in_flight, stats.buffered) == (500, 0, 0)
        telemetry.emit("while off")
        assert telemetry.stats() == stats
        assert telemetry.flush(10)  # there is nothing to wait for
        telemetry.enabled = True
        telemetry.emit("after")
        assert telemetry.flush(10)
        (event,) = server.events
        assert (event["type"], event["seq"], event["sessionId"]) == ("after", 501, session)
        assert telemetry.stop(5)
        assert ended_well(telemetry.stats())


@pytest.mark.parametrize("acks", [True, False])
def test_what_was_sent_and_not_confirmed_is_not_sent_again(acks: bool) -> None:
    texts: list[bytes] = []

    def script(client: socket.socket) -> None:
        shake_hands(client, *([b"Telemetry-Ack: cumulative"] if acks else []))
        texts.append(client.recv(65536))
        texts.append(read_to_the_end(client))

    with raw_server(script) as port:
        telemetry = made(url=f"ws://127.0.0.1:{port}/", drain_interval=0.01).start()
        telemetry.emit("before")
        assert wait_until(lambda: len(texts) == 1)
        assert telemetry.stats().in_flight == 1
        switched_off(telemetry)
        assert wait_until(lambda: len(texts) == 2)  # the connection is closed
        assert len(texts[1]) < 50  # a ping at the most, and the goodbye
        telemetry.enabled = True
        assert wait_until(lambda: telemetry.stats().reconnects == 1)
        assert telemetry.stop(5)  # there is nothing to part with
        assert wait_until(lambda: len(texts) == 4)
        assert len(texts[2]) < 50
        assert (telemetry.stats().dropped, telemetry.stats().delivered) == (1, 0)


def test_nothing_is_sent_after_a_no_that_comes_while_before_send_works() -> None:
    is_begun, may_end = threading.Event(), threading.Event()

    def review(event: TelemetryEvent) -> TelemetryEvent:
        is_begun.set()
        assert may_end.wait(20)
        return event

    with RecordingServer() as server:
        telemetry = made(url=server.url, before_send=review, drain_interval=0.01).start()
        telemetry.emit("before")
        assert is_begun.wait(20)
        switched_off(telemetry)
        may_end.set()
        assert is_in(telemetry, ConnectionState.IDLE)
        assert wait_until(lambda: server.connections == 0)
        assert server.events == []
        assert wait_until(lambda: telemetry.stats().dropped == 1)
        telemetry.enabled = True
        telemetry.emit("after")
        assert telemetry.flush(10)
        assert [event["type"] for event in server.events] == ["after"]
        assert telemetry.stop(5)


def test_an_emit_that_ends_after_the_no_is_not_sent_after_the_yes() -> None:
    slow = SlowToEncode()
    with RecordingServer() as server, made(url=server.url) as telemetry:

        def toggle() -> None:
            assert slow.is_begun.wait(20)
            switched_off(telemetry)
            slow.may_end.set()
            assert wait_until(lambda: telemetry.stats().emitted == 1)
            telemetry.enabled = True
            telemetry.emit("after")

        at_once(lambda: telemetry.emit("slow", it=slow), toggle)
        assert telemetry.flush(10)
        assert [(event["type"], event["seq"]) for event in server.events] == [("after", 2)]
        assert telemetry.stats().dropped == 1


def test_a_no_while_another_thread_stops_ends_the_delivery() -> None:
    with raw_server(lambda client: (shake_hands(client), read_to_the_end(client))) as port:
        telemetry = made(url=f"ws://127.0.0.1:{port}/").start()
        telemetry.emit("x")
        assert is_in(telemetry, ConnectionState.CONNECTED)
        answers: list[bool] = []

        def say_no() -> None:
            assert wait_until(lambda: not telemetry.is_running)
            switched_off(telemetry)

        start = time.monotonic()
        at_once(lambda: answers.append(telemetry.stop(60)), say_no)
        assert time.monotonic() - start < 20
        assert answers == [False]
        assert ended_well(telemetry.stats())
        telemetry.enabled = True
        assert not telemetry.enabled  # stopped is stopped


Script = Callable[[socket.socket], object]


def in_the_handshake(client: socket.socket) -> None:
    read_request(client)
    read_to_the_end(client)


def after_the_handshake(client: socket.socket) -> None:
    shake_hands(client)
    read_to_the_end(client)


def slamming_the_door(client: socket.socket) -> None:
    read_request(client)


@pytest.mark.parametrize(
    ("server", "state"),
    [
        (in_the_handshake, ConnectionState.CONNECTING),
        (after_the_handshake, ConnectionState.CONNECTED),
        (slamming_the_door, ConnectionState.BACKING_OFF),
    ],
)
def test_a_no_is_soon_done_whatever_the_worker_is_at(server: Script, state: Any) -> None:
    clients: list[socket.socket] = []

    def script(client: socket.socket) -> None:
        clients.append(client)
        server(client)

    with raw_server(script) as port:
        telemetry = made(
            url=f"ws://127.0.0.1:{port}/",
            backoff_base=1e6,
            backoff_max=1e6,
            connect_timeout=60,
        ).start()
        telemetry.emit("x")
        assert is_in(telemetry, state)
        assert wait_until(lambda: len(clients) == 1)
        switched_off(telemetry)
        assert is_in(telemetry, ConnectionState.IDLE)
        assert wait_until(lambda: telemetry.stats().dropped == 1)
        # The yes makes an attempt at once, also where the worker would have waited for days.
        telemetry.enabled = True
        assert wait_until(lambda: len(clients) == 2)
        switched_off(telemetry)
        assert is_in(telemetry, ConnectionState.IDLE)
        assert telemetry.stop(20)
        assert len(clients) == 2
        assert ended_well(telemetry.stats())


def test_a_no_is_soon_done_while_the_server_takes_nothing() -> None:
    with (
        RecordingServer(encodings=()) as server,
        FaultProxy(server.port, first_takes=100_000) as proxy,
    ):
        telemetry = made(url=proxy.url, batch_size=1000, max_batch_bytes=2**25).start()
        for _ in range(1000):
            telemetry.emit("x", text="y" * 15_000)
        assert wait_until(lambda: proxy.has_stalled)
        switched_off(telemetry)
        assert is_in(telemetry, ConnectionState.IDLE)
        assert telemetry.stats().dropped == 1000
        proxy.go_on()
        assert wait_until(lambda: server.connections == 0)
        assert server.events == []
        assert telemetry.stop(5)


def test_toggled_quickly_from_two_threads_it_ends_as_it_was_set_last() -> None:
    with RecordingServer() as server:
        telemetry = made(url=server.url, drain_interval=0.01, batch_size=5).start()
        is_over = threading.Event()
        errors: list[BaseException] = []

        def play() -> None:
            number = 0
            while not is_over.is_set():
                number += 1
                telemetry.emit("x", number=number)

        def toggle(seed: int) -> None:
            randomness = random.Random(seed)
            try:
                for _ in range(150):
                    telemetry.enabled = randomness.random() < 0.5
                    if randomness.random() < 0.1:
                        time.sleep(0.002)
            except BaseException as error:
                errors.append(error)

        player = threading.Thread(target=play)
        player.start()
        try:
            at_once(lambda: toggle(1), lambda: toggle(2))
        finally:
            is_over.set()
            player.join(20)
        assert not errors
        telemetry.enabled = False
        assert is_in(telemetry, ConnectionState.IDLE)
        assert wait_until(lambda: server.connections == 0)
        arrived = len(server.events)
        telemetry.enabled = True
        telemetry.emit("last")
        assert telemetry.flush(10)
        assert len(server.events) == arrived + 1
        seqs = [event["seq"] for event in server.events]
        assert seqs == sorted(set(seqs))  # nothing twice, nothing out of order
        stats = telemetry.stats()
        assert (stats.emitted, stats.delivered + stats.dropped) == (seqs[-1], seqs[-1])
        assert telemetry.stop(5)


def test_the_host_and_the_player_both_have_to_agree() -> None:
    with RecordingServer() as server, made(url=server.url) as telemetry:
        assert is_in(telemetry, ConnectionState.CONNECTED)
        telemetry.set_online(False)
        telemetry.emit("kept, then discarded")
        assert is_in(telemetry, ConnectionState.OFFLINE)
        switched_off(telemetry)
        assert is_in(telemetry, ConnectionState.IDLE)
        assert wait_until(lambda: telemetry.stats().dropped == 1)
        attempts = len(server.requests)
        telemetry.set_online(True)
        assert telemetry.flush(0.1)
        assert telemetry.stats().state is ConnectionState.IDLE  # the player hasn't agreed
        telemetry.set_online(False)
        telemetry.enabled = True
        telemetry.emit("kept")
        assert is_in(telemetry, ConnectionState.OFFLINE)
        assert not telemetry.flush(0.1)  # the host hasn't
        assert len(server.requests) == attempts
        telemetry.set_online(True)
        assert telemetry.flush(10)
        assert [(event["type"], event["seq"]) for event in server.events] == [("kept", 2)]


def test_what_was_in_flight_is_kept_while_the_host_has_no_network() -> None:
    seen: list[Any] = []
    with (
        RecordingServer(encodings=()) as server,
        FaultProxy(server.port, first_takes=2000) as proxy,
    ):
        telemetry = made(url=proxy.url, drain_interval=0.01).start()
        for _ in range(50):
            telemetry.emit("x", text="x" * 500)
        assert wait_until(lambda: proxy.has_stalled)
        telemetry.set_online(False)
        assert is_in(telemetry, ConnectionState.OFFLINE)
        telemetry.set_online(True)
        assert telemetry.flush(10)
        seen += [event["seq"] for event in server.events]
        assert list(dict.fromkeys(seen)) == list(range(1, 51))
        assert telemetry.stats().dropped == 0
        assert telemetry.stop(5)


def test_a_callback_may_use_the_toggle() -> None:
    def say_no(event: TelemetryEvent) -> TelemetryEvent:
        telemetry.enabled = False
        return event

    with RecordingServer() as server:
        telemetry = made(url=server.url, before_send=say_no)
        telemetry.start()
        telemetry.emit("x")
        assert wait_until(lambda: not telemetry.enabled)
        assert is_in(telemetry, ConnectionState.IDLE)
        assert wait_until(lambda: telemetry.stats().dropped == 1)
        assert server.messages == []
        assert telemetry.stop(5)


def test_what_has_not_left_this_machine_when_the_player_says_no_never_does() -> None:
    is_over = threading.Event()
    arrived: list[int] = []
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
    listener.bind(("127.0.0.1", 0))
    listener.listen()

    def serve() -> None:
        client, _ = listener.accept()
        with client:
            shake_hands(client)
            is_over.wait(30)
            arrived.append(len(read_to_the_end(client)))

    thread = threading.Thread(target=serve)
    thread.start()
    with listener:
        telemetry = made(url=f"ws://127.0.0.1:{listener.getsockname()[1]}/", drain_interval=0.01)
        telemetry.start()
        for _ in range(3000):
            telemetry.emit("x", text="x" * 1000)
        # In the window is what the operating system has taken, most of which it hasn't sent.
        assert wait_until(lambda: telemetry.stats().in_flight >= 2000)
        switched_off(telemetry)
        assert is_in(telemetry, ConnectionState.IDLE)
        is_over.set()
        thread.join(30)
    assert arrived[0] < 500_000  # of 3 MB: what the receiving end had already
    telemetry.stop(1)
