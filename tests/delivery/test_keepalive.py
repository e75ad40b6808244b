"""Pings that come before the idle timeout of a proxy: learned from the ends of connections."""

from __future__ import annotations

import contextlib
import logging
import re
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from redvsblue_telemetry import Telemetry, start_telemetry
from redvsblue_telemetry._delivery.keepalive import Keepalive
from redvsblue_telemetry.testing import RecordingServer
from tests.support.closing import reset
from tests.support.proxies import CONFIGS, reverse_proxy
from tests.support.raw_server import frame, raw_server, shake_hands
from tests.support.wait import wait_until

INTERVAL = 20.0
HOUR = 3600.0
LEARNED = re.compile(
    r"connections end after ([\d.]+) s of quiet, probably by the idle timeout of a proxy; "
    r"sending a keepalive ping after ([\d.]+) s"
)


# The rule, with the time passed in.


def test_two_quiet_ends_in_a_row_after_the_same_time_are_learned_from() -> None:
    keepalive = Keepalive(INTERVAL)
    assert not keepalive.note_end(15.0, 0)
    assert keepalive.interval == INTERVAL
    assert keepalive.note_end(15.2, 20)
    assert keepalive.interval == 10.0
    assert not keepalive.note_end(15.1, 40), "nothing new"
    assert keepalive.interval == 10.0


@pytest.mark.parametrize(
    "ends", [(15.0, 12.0), (12.0, 15.0), (15.0, None, 15.0), (None, 15.0), (15.0, None)]
)
def test_ends_that_differ_or_had_a_reason_teach_nothing(ends: tuple[float | None, ...]) -> None:
    keepalive = Keepalive(INTERVAL)
    assert not any(keepalive.note_end(quiet, 0) for quiet in ends)
    assert keepalive.interval == INTERVAL


def test_the_interval_has_a_lower_bound() -> None:
    keepalive = Keepalive(INTERVAL)
    assert keepalive.note_end(6.0, 0) is keepalive.note_end(7.0, 0) is False
    assert keepalive.note_end(6.5, 0)
    assert keepalive.interval == 5.0


def test_a_timeout_below_the_bound_teaches_nothing() -> None:
    keepalive = Keepalive(INTERVAL)
    for _ in range(5):
        assert not keepalive.note_end(4.9, 0)
    assert keepalive.interval == INTERVAL


def test_ends_at_the_ping_itself_shorten_the_interval_step_by_step() -> None:
    keepalive = Keepalive(INTERVAL)
    intervals = []
    for _ in range(8):
        keepalive.note_end(keepalive.interval, 0)
        intervals.append(round(keepalive.interval, 1))
    assert intervals == [20.0, 13.3, 13.3, 8.9, 8.9, 5.9, 5.9, 5.0]


def test_after_a_calm_hour_the_interval_is_that_of_the_settings_until_the_next_such_end() -> None:
    keepalive = Keepalive(INTERVAL)
    keepalive.note_end(15.0, 0)
    keepalive.note_end(15.0, 100)
    keepalive.note_ping(100 + HOUR - 1)
    assert keepalive.interval == 10.0
    keepalive.note_ping(100 + HOUR)
    assert keepalive.interval == INTERVAL
    assert keepalive.note_end(14.9, 200 + HOUR), "one is enough to know it again"
    assert keepalive.interval == pytest.approx(14.9 * 2 / 3)
    keepalive.note_ping(300 + HOUR)
    assert keepalive.interval == pytest.approx(14.9 * 2 / 3)


@given(
    st.floats(0.01, 1e6),
    st.lists(st.tuples(st.none() | st.floats(0, 1e6), st.floats(0, 10_000), st.booleans())),
)
def test_the_interval_is_never_longer_than_that_of_the_settings_nor_below_its_quarter(
    interval: float, steps: list[tuple[float | None, float, bool]]
) -> None:
    keepalive = Keepalive(interval)
    now = 0.0
    for quiet, seconds, is_end in steps:
        now += seconds
        before = keepalive.interval
        if is_end:
            assert keepalive.note_end(quiet, now) == (keepalive.interval < before)
        else:
            keepalive.note_ping(now)
        assert interval / 4 <= keepalive.interval <= interval


# A client, and servers that end its connections.

IDLE = 1.0  # seconds, after which the servers here end a connection
SETTINGS: dict[str, Any] = {
    "enabled": True,
    "backoff_base": 0.001,
    "backoff_max": 0.003,
    "keepalive_interval": 2 * IDLE,
}


@pytest.fixture(autouse=True)
def all_is_captured(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)


def learned(caplog: pytest.LogCaptureFixture) -> list[tuple[float, float]]:
    """Return the numbers in the lines of the log."""
    found = [LEARNED.fullmatch(record.getMessage()) for record in caplog.records]
    return [(float(match[1]), float(match[2])) for match in found if match]


def end_plainly(_: socket.socket) -> None:
    """The caller closes the socket."""


def end_with(code: int) -> Callable[[socket.socket], None]:
    def end(client: socket.socket) -> None:
        client.sendall(frame(8, code.to_bytes(2, "big")))

    return end


class IdleServer:
    """Answers pings, and ends a connection when nothing has come for a while.

    Args:
        end: ends it.
        idle: the seconds for each connection; the last ones are for all others.
    """

    def __init__(
        self,
        end: Callable[[socket.socket], None] = end_plainly,
        idle: tuple[float, ...] = (IDLE,),
    ) -> None:
        self._end = end
        self._idle = list(idle)
        self.pings: list[list[float]] = []
        """The times of quiet after which a ping came, for each connection."""

    def __call__(self, client: socket.socket) -> None:
        shake_hands(client)
        idle = self._idle[0] if len(self._idle) == 1 else self._idle.pop(0)
        pings: list[float] = []
        self.pings.append(pings)
        client.settimeout(idle)
        with contextlib.suppress(TimeoutError):
            began = time.monotonic()
            while data := client.recv(65_536):
                if data[0] & 0x0F == 9:
                    pings.append(time.monotonic() - began)
                    self.answer(client, data)
                began = time.monotonic()
            return  # the client has gone
        self._end(client)

    def answer(self, client: socket.socket, data: bytes) -> None:
        mask, body = data[2:6], data[6:15]
        payload = bytes(byte ^ mask[place % 4] for place, byte in enumerate(body))
        client.sendall(frame(10, payload))


@contextlib.contextmanager
def client_of(port: int, **settings: Any) -> Iterator[Telemetry]:
    telemetry = start_telemetry(**SETTINGS | settings, url=f"ws://127.0.0.1:{port}/telemetry")
    try:
        yield telemetry
    finally:
        telemetry.enabled = False
        telemetry.stop(1)


def comes_to_stay_connected(telemetry: Telemetry, seconds: float) -> bool:
    """Whether a connection lasts this long; on a loaded machine, ends may differ at first."""

    def lasts() -> bool:
        reconnects = telemetry.stats().reconnects
        return not wait_until(lambda: telemetry.stats().reconnects != reconnects, seconds)

    return wait_until(lasts, 30.0)


def assert_learned_from(idle: float, caplog: pytest.LogCaptureFixture) -> None:
    lines = learned(caplog)
    assert lines
    for quiet, interval in lines:
        assert quiet > 0.9 * idle  # it is longer only where the machine is slow
        assert interval == pytest.approx(quiet * 2 / 3, rel=0.15)  # that of the shorter of two


@pytest.mark.parametrize("end", [end_plainly, reset, end_with(1001)], ids=["end", "reset", "1001"])
def test_a_quiet_client_stays_connected_once_it_has_learned(
    end: Callable[[socket.socket], None], caplog: pytest.LogCaptureFixture
) -> None:
    server = IdleServer(end)
    with raw_server(server) as port, client_of(port) as telemetry:
        assert wait_until(lambda: telemetry.stats().reconnects >= 2)
        assert comes_to_stay_connected(telemetry, 3 * IDLE)
    assert server.pings[:2] == [[], []]
    assert len(server.pings[-1]) >= 2
    assert_learned_from(IDLE, caplog)


def test_a_server_that_closes_with_another_reason_teaches_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    ends = [end_with(code) for code in (1000, 1011, 1012, 1013) for _ in range(2)]

    def end(client: socket.socket) -> None:
        ends.pop(0)(client)

    server = IdleServer(end, idle=(*[0.6] * len(ends), 60.0))
    with raw_server(server) as port, client_of(port):
        assert wait_until(lambda: len(server.pings) == 9 and server.pings[8], 40)
    assert server.pings[8][0] > 1.8 * IDLE
    assert learned(caplog) == []


def test_a_server_that_restarts_now_and_then_teaches_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    server = IdleServer(idle=(0.6, 1.2, 0.6, 1.2, 60.0))
    with raw_server(server) as port, client_of(port):
        assert wait_until(lambda: len(server.pings) == 5 and server.pings[4])
    assert server.pings[4][0] > 1.8 * IDLE
    assert learned(caplog) == []


def test_a_server_that_ends_connections_at_once_teaches_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    server = IdleServer(idle=(*[0.05] * 20, 60.0))
    with raw_server(server) as port, client_of(port):
        assert wait_until(lambda: len(server.pings) == 21 and server.pings[20])
    assert learned(caplog) == []


def test_an_end_before_events_are_confirmed_is_not_a_quiet_one(
    caplog: pytest.LogCaptureFixture,
) -> None:
    connections = []

    def script(client: socket.socket) -> None:
        shake_hands(client)
        connections.append(client.recv(65_536))
        time.sleep(0.7)

    with raw_server(script) as port, client_of(port, drain_interval=0.01) as telemetry:
        telemetry.emit("never confirmed")
        assert wait_until(lambda: len(connections) == 4)
    assert learned(caplog) == []


# The real thing.

IDLE_PROXIES = {
    "nginx": CONFIGS["nginx"].replace(
        "proxy_http_version", "proxy_read_timeout IDLEms;\n      proxy_http_version"
    ),
    "haproxy": CONFIGS["haproxy"].replace("timeout tunnel 1h", "timeout tunnel IDLEms"),
}


@pytest.mark.parametrize("name", IDLE_PROXIES)
def test_a_quiet_client_behind_a_proxy_with_a_short_idle_timeout(
    name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    idle = 2.0
    text = IDLE_PROXIES[name].replace("IDLE", f"{idle * 1000:.0f}")
    with (
        RecordingServer() as server,
        reverse_proxy(name, text, tmp_path, server.port) as port,
        client_of(port, keepalive_interval=2 * idle) as telemetry,
    ):
        assert wait_until(lambda: telemetry.stats().reconnects >= 2)
        assert comes_to_stay_connected(telemetry, 3 * idle)
        telemetry.emit("still there")
        assert telemetry.flush(10)
        assert [event["type"] for event in server.events] == ["still there"]
    assert_learned_from(idle, caplog)
