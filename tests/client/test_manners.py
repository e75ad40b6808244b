"""Backing off with manners: how long a server is left in peace, and what ends that."""

from __future__ import annotations

import contextlib
import email.utils
import itertools
import random
import socket
import time

import pytest
from freezegun import freeze_time

from redvsblue_telemetry import ConnectionState, Telemetry, start_telemetry, stop_telemetry
from redvsblue_telemetry._delivery.worker import TelemetryConnector
from redvsblue_telemetry._recording.codec import EventCodec
from redvsblue_telemetry._recording.store import TelemetryStore
from redvsblue_telemetry._shared import monotonic
from redvsblue_telemetry.settings import TelemetrySettings
from redvsblue_telemetry.testing import RecordingServer
from tests.support.connect_proxy import relay_to
from tests.support.raw_server import (
    Script,
    frame,
    raw_server,
    read_request,
    read_to_the_end,
    shake_hands,
)
from tests.support.sdk import QUICK
from tests.support.wait import wait_until


@pytest.fixture
def bounds(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The upper bounds of the waits so far; each wait is a tenth of its bound."""
    asked: list[float] = []

    def uniform(self: random.SystemRandom, low: float, high: float) -> float:
        asked.append(high)
        return high / 10

    monkeypatch.setattr(random.SystemRandom, "uniform", uniform)
    return asked


class Door:
    """A script for a raw server: does one thing after the other, one for each client.

    The last is done over and over. Notes when each client came.
    """

    def __init__(self, *scripts: Script) -> None:
        self._scripts = itertools.chain(scripts, itertools.repeat(scripts[-1]))
        self.came: list[float] = []

    def __call__(self, client: socket.socket) -> None:
        self.came.append(time.monotonic())
        next(self._scripts)(client)


def answer(head: str) -> Script:
    """Refuse the handshake."""

    def script(client: socket.socket) -> None:
        read_request(client)
        client.sendall(f"HTTP/1.1 {head}\r\nContent-Length: 0\r\n\r\n".encode())

    return script


def slam(client: socket.socket) -> None:
    """Accept the handshake, and go."""
    shake_hands(client)


def close_after_a_batch(code: int) -> Script:
    def script(client: socket.socket) -> None:
        shake_hands(client)
        client.recv(65536)
        client.sendall(frame(0x8, code.to_bytes(2, "big")))
        while client.recv(65536):  # until the client has gone, so that nothing is reset
            pass

    return script


def seqs(server: RecordingServer) -> list[int]:
    return [event["seq"] for event in server.events]


# Retry-After.

A_DATE = "Fri, 31 Dec 9999 23:59:59 GMT"


def test_nobody_comes_back_before_the_time_that_was_asked_for() -> None:
    with RecordingServer() as server:
        door = Door(answer("429 Busy\r\nRetry-After: 1"), relay_to(server.port))
        with raw_server(door) as port:
            telemetry = start_telemetry(**QUICK, url=f"ws://127.0.0.1:{port}/")
            telemetry.emit("kept")
            assert telemetry.flush(10)
            assert telemetry.stop(1)
    assert len(door.came) == 2
    assert door.came[1] - door.came[0] >= 0.99
    assert seqs(server) == [1]


@pytest.mark.parametrize("player", ["1999-12-31", "2099-12-31", None])
def test_a_date_is_waited_for_by_the_servers_own_clock(player: str | None) -> None:
    def http_date(seconds: int) -> str:
        return email.utils.formatdate(noon + seconds, usegmt=True)

    noon = 1_800_000_000
    head = f"503 Busy\r\nDate: {http_date(0)}\r\nRetry-After: {http_date(1)}"
    with (
        freeze_time(player, tick=True) if player else contextlib.nullcontext(),
        RecordingServer() as server,
    ):
        door = Door(answer(head), relay_to(server.port))
        with raw_server(door) as port:
            telemetry = start_telemetry(**QUICK, url=f"ws://127.0.0.1:{port}/")
            telemetry.emit("kept")
            assert telemetry.flush(10)
            assert telemetry.stop(1)
    assert 0.99 <= door.came[1] - door.came[0] < 5
    assert seqs(server) == [1]


@pytest.mark.parametrize(
    "head",
    [
        "500 No\r\nRetry-After: 3600",  # who is broken doesn't know for how long
        "401 No\r\nRetry-After: 3600",
        "503 No",
        "503 No\r\nRetry-After: soon",
        "503 No\r\nRetry-After: -5",
        f"503 No\r\nDate: {A_DATE}\r\nRetry-After: {A_DATE}",
        f"503 No\r\nRetry-After: {A_DATE}",  # how far away is that?
        f"503 No\r\nDate: yesterday\r\nRetry-After: {A_DATE}",
    ],
)
def test_what_asks_for_no_time_is_answered_with_the_usual_wait(head: str) -> None:
    with RecordingServer() as server:
        door = Door(answer(head), relay_to(server.port))
        with raw_server(door) as port:
            telemetry = start_telemetry(**QUICK, url=f"ws://127.0.0.1:{port}/")
            telemetry.emit("kept")
            assert telemetry.flush(10)
            assert telemetry.stop(1)


@pytest.mark.parametrize("asked", ["3601", "999999999999999", A_DATE])
def test_no_server_is_left_in_peace_for_more_than_an_hour(asked: str) -> None:
    offset = 0.0
    door = Door(answer(f"503 Busy\r\nDate: Fri, 31 Dec 2100 23:59:59 GMT\r\nRetry-After: {asked}"))
    with raw_server(door) as port:
        connector = TelemetryConnector(
            TelemetryStore[bytes](10),
            EventCodec("s"),
            TelemetrySettings(**QUICK, url=f"ws://127.0.0.1:{port}/"),
            clock=lambda: monotonic() + offset,
        )
        connector.start()
        try:
            assert wait_until(lambda: connector.state is ConnectionState.BACKING_OFF)
            offset += 3500
            assert connector.flush(5)  # there is nothing to send: it has looked at the clock
            assert len(door.came) == 1
            # More than once, since the first may come before the hour is reckoned with.
            for _ in range(3):
                offset += 3601
                connector.flush(5)
                if wait_until(lambda: len(door.came) >= 2, timeout=1):
                    break
            assert len(door.came) >= 2
        finally:
            assert connector.stop(2)


def test_a_stop_does_not_call_on_a_server_that_asked_for_peace() -> None:
    door = Door(answer("503 Busy\r\nRetry-After: 3600"))
    with raw_server(door) as port:
        telemetry = start_telemetry(**QUICK, url=f"ws://127.0.0.1:{port}/")
        telemetry.emit("x")
        assert wait_until(lambda: telemetry.stats().state is ConnectionState.BACKING_OFF)
        start = time.monotonic()
        assert not telemetry.stop(0.3)
        assert time.monotonic() - start < 2
    assert len(door.came) == 1
    assert telemetry.stats().dropped == 1


# Closes.


@pytest.mark.parametrize("code", [1001, 1012, 1013])
def test_a_server_that_restarts_is_waited_for_and_nothing_is_lost(
    code: int, bounds: list[float]
) -> None:
    with RecordingServer() as server:
        door = Door(*[close_after_a_batch(code)] * 5, relay_to(server.port))
        with raw_server(door) as port:
            telemetry = start_telemetry(
                enabled=True, url=f"ws://127.0.0.1:{port}/", backoff_base=0.01, batch_size=10
            )
            for _ in range(100):
                telemetry.emit("kept")
            # Not by a flush: if it comes within a wait, it ends that.
            assert wait_until(lambda: telemetry.stats().delivered == 100)
            assert str(code) in str(telemetry.stats().last_error)
            assert telemetry.stats().delivered == 100
            assert telemetry.stats().dropped == 0
            assert telemetry.stop(2)
    # The code speaks of the server and not of the batch, so the batch isn't taken apart.
    assert seqs(server) == list(range(1, 101))
    assert len(server.messages) == 10
    assert bounds[:5] == pytest.approx([0.01, 0.02, 0.04, 0.08, 0.16])


# What starts the waits anew.


def test_a_door_that_is_slammed_is_knocked_at_less_and_less(bounds: list[float]) -> None:
    door = Door(slam)
    with raw_server(door) as port:
        telemetry = start_telemetry(
            enabled=True, url=f"ws://127.0.0.1:{port}/", backoff_base=0.1, backoff_max=60
        )
        telemetry.emit("x")
        assert wait_until(lambda: len(door.came) >= 6)
        assert telemetry.stats().reconnects >= 4  # each of these was an open connection
        telemetry.enabled = False
    for number in range(5):
        gap = door.came[number + 1] - door.came[number]
        assert gap >= 0.95 * 0.01 * 2**number
    assert bounds[:5] == pytest.approx([0.1, 0.2, 0.4, 0.8, 1.6])


def test_no_wait_exceeds_the_largest(bounds: list[float]) -> None:
    door = Door(slam)
    with raw_server(door) as port:
        start_telemetry(
            enabled=True, url=f"ws://127.0.0.1:{port}/", backoff_base=0.01, backoff_max=0.05
        )
        assert wait_until(lambda: len(bounds) >= 8)
        stop_telemetry(1)
    assert bounds[:8] == pytest.approx([0.01, 0.02, 0.04, 0.05, 0.05, 0.05, 0.05, 0.05])


def test_an_answered_keepalive_proves_nothing_about_delivery(bounds: list[float]) -> None:
    def answer_one_ping(client: socket.socket) -> None:
        shake_hands(client)
        ping = client.recv(100)
        payload = bytes(byte ^ ping[2 + index % 4] for index, byte in enumerate(ping[6:]))
        client.sendall(frame(0xA, payload))

    with raw_server(answer_one_ping) as port:
        start_telemetry(
            enabled=True,
            url=f"ws://127.0.0.1:{port}/",
            backoff_base=0.01,
            keepalive_interval=0.01,
        )
        assert wait_until(lambda: len(bounds) >= 5)
        stop_telemetry(1)
    assert bounds[:5] == pytest.approx([0.01, 0.02, 0.04, 0.08, 0.16])


@pytest.mark.parametrize("acks", [True, False])
def test_a_confirmed_batch_starts_the_waits_anew(acks: bool, bounds: list[float]) -> None:
    with RecordingServer(acks=acks) as server:
        door = Door(*[slam] * 5, relay_to(server.port))
        with raw_server(door) as port:
            telemetry = start_telemetry(
                enabled=True, url=f"ws://127.0.0.1:{port}/", backoff_base=0.01
            )
            telemetry.emit("x")
            # Without a flush, whose attempt would be one more, and would draw no wait.
            assert wait_until(lambda: telemetry.stats().delivered == 1)
            assert len(bounds) == 5
            assert server.wait_for_connection()  # a pong can be ahead of the server's own books
            server.disconnect()
            assert wait_until(lambda: len(bounds) == 6)
            telemetry.emit("y")
            assert telemetry.flush(10)
            assert telemetry.stop(2)
    assert bounds == pytest.approx([0.01, 0.02, 0.04, 0.08, 0.16, 0.01])


def test_games_that_were_cut_off_together_do_not_come_back_in_step() -> None:
    games = 8
    came: list[float] = []

    def note(known: int) -> bool:
        came.extend([time.monotonic()] * (len(server.requests) - known - len(came)))
        return len(came) >= games

    with RecordingServer() as server:
        settings = TelemetrySettings(enabled=True, url=server.url, backoff_base=0.5)
        running = [Telemetry(settings).start() for _ in range(games)]
        try:
            assert wait_until(lambda: server.connections == games)
            server.disconnect(1012)
            assert wait_until(lambda: note(games))
        finally:
            for telemetry in running:
                telemetry.stop(1)
    # Eight even draws from half a second are within 50 ms of each other once in a million times.
    assert came[games - 1] - came[0] > 0.05


def test_neither_the_host_nor_the_player_can_hurry_a_server_that_asked_for_peace() -> None:
    door = Door(answer("503 No\r\nRetry-After: 60"))
    with raw_server(door) as port:
        telemetry = start_telemetry(**QUICK, url=f"ws://127.0.0.1:{port}/")
        telemetry.emit("x")
        assert wait_until(lambda: telemetry.stats().state is ConnectionState.BACKING_OFF)
        for _ in range(5):
            telemetry.set_online(False)
            assert wait_until(lambda: telemetry.stats().state is ConnectionState.OFFLINE)
            telemetry.set_online(True)
            assert wait_until(lambda: telemetry.stats().state is ConnectionState.BACKING_OFF)
            telemetry.enabled = False
            assert wait_until(lambda: telemetry.stats().state is ConnectionState.IDLE)
            telemetry.enabled = True
            assert wait_until(lambda: telemetry.stats().state is ConnectionState.BACKING_OFF)
        assert len(door.came) == 1
        telemetry.stop(1)


def test_a_stop_does_not_wait_for_an_attempt_that_would_come_too_late() -> None:
    with raw_server(lambda client: None) as port:
        telemetry = start_telemetry(
            enabled=True, url=f"ws://127.0.0.1:{port}/", backoff_base=1e6, backoff_max=1e6
        )
        telemetry.emit("x")
        assert wait_until(lambda: telemetry.stats().state is ConnectionState.BACKING_OFF)
        start = time.monotonic()
        assert not telemetry.stop(60)
        assert time.monotonic() - start < 30
        assert telemetry.stats().dropped == 1


def test_a_server_is_told_goodbye() -> None:
    parting: list[bytes] = []

    def script(client: socket.socket) -> None:
        shake_hands(client)
        parting.append(read_to_the_end(client))

    with raw_server(script) as port:
        telemetry = start_telemetry(**QUICK, url=f"ws://127.0.0.1:{port}/")
        assert wait_until(lambda: telemetry.stats().state is ConnectionState.CONNECTED)
        assert telemetry.stop(5)
        assert wait_until(lambda: parting)
    (frame_,) = parting
    assert frame_[:2] == b"\x88\x82"  # a close with two bytes, masked
    code = bytes(a ^ b for a, b in zip(frame_[2:4], frame_[6:8], strict=True))
    assert int.from_bytes(code, "big") == 1000
