"""What is logged: each change of state once, nothing while all is well, and never a secret."""

from __future__ import annotations

import itertools
import logging
import socket
from collections.abc import Callable
from typing import Any

import pytest

from redvsblue_telemetry import SettingsError, TelemetryEvent, TelemetrySettings, start_telemetry
from redvsblue_telemetry._delivery.worker import TelemetryConnector
from redvsblue_telemetry._network.contract import Endpoint, Wait
from redvsblue_telemetry._network.websocket import WebSocketConnection, open_websocket
from redvsblue_telemetry._recording.codec import EventCodec
from redvsblue_telemetry._recording.store import TelemetryStore
from redvsblue_telemetry._shared import monotonic
from redvsblue_telemetry.testing import RecordingServer
from tests.support.raw_server import (
    Script,
    frame,
    raw_server,
    read_request,
    read_to_the_end,
    shake_hands,
)
from tests.support.wait import wait_until

QUICK: dict[str, Any] = {
    "enabled": True,
    "drain_interval": 0.02,
    "backoff_base": 0.001,
    "backoff_max": 0.003,
}
LOGGER = "redvsblue_telemetry"
ENOUGH = 12  # lines; fifty changes have happened by then


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == LOGGER]


@pytest.fixture(autouse=True)
def all_is_captured(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)


@pytest.mark.parametrize("acks", [True, False])
def test_a_long_healthy_exchange_is_three_lines(
    acks: bool, caplog: pytest.LogCaptureFixture
) -> None:
    with RecordingServer(acks=acks) as server:
        url = server.url
        telemetry = start_telemetry(**QUICK, url=url, keepalive_interval=0.01)
        for _ in range(20):
            for number in range(200):
                telemetry.emit("tick", number=number)
            assert telemetry.flush(5)
        assert telemetry.stop(5)
    assert wait_until(lambda: "telemetry stopped" in lines(caplog)[-1])
    assert lines(caplog) == [
        f"telemetry started: session {telemetry.session_id}",
        f"telemetry connected to {url}",
        "telemetry stopped: 4000 events delivered, 0 left behind",
    ]
    ours = [record for record in caplog.records if not record.name.startswith("websockets.")]
    assert {(record.name, record.levelno) for record in ours} == {(LOGGER, logging.INFO)}


def slam(client: socket.socket) -> None:
    shake_hands(client)


def refuse(client: socket.socket) -> None:
    read_request(client)
    client.sendall(b"HTTP/1.1 503 No\r\n\r\n")


def close(client: socket.socket) -> None:
    shake_hands(client)
    client.sendall(frame(0x8, (1012).to_bytes(2, "big")))
    read_to_the_end(client)


@pytest.mark.parametrize(
    "scripts",
    [[slam], [slam, refuse], [refuse, close], [close, slam, refuse]],
    ids=["a door that is slammed", "two failures", "two others", "three in turn"],
)
def test_fifty_failures_in_a_row_are_a_handful_of_lines(
    scripts: list[Script], caplog: pytest.LogCaptureFixture
) -> None:
    def script(client: socket.socket) -> None:
        nonlocal count
        count += 1
        next(turns)(client)

    count, turns = 0, itertools.cycle(scripts)
    with raw_server(script) as port:
        telemetry = start_telemetry(**QUICK, url=f"ws://127.0.0.1:{port}/")
        telemetry.emit("x")
        assert wait_until(lambda: count >= 50)
        telemetry.stop(0.1)
        assert wait_until(lambda: "telemetry stopped" in lines(caplog)[-1])
    _, *told, _ = lines(caplog)
    assert len(told) <= ENOUGH
    assert any("not connected" in line for line in told)


def test_after_a_storm_the_return_and_the_next_failure_are_told(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def script(client: socket.socket) -> None:
        nonlocal count
        count += 1
        shake_hands(client)

    count = 0
    later = 0.0  # seconds that have passed without anybody waiting for them
    store, codec = TelemetryStore[bytes](10), EventCodec("session")

    def deliver() -> None:
        store.push(codec.encode("x", {}, {}))
        assert connector.flush(10)

    with raw_server(script) as port:
        connector = TelemetryConnector(
            store,
            codec,
            TelemetrySettings(**QUICK, url=f"ws://127.0.0.1:{port}/"),
            clock=lambda: monotonic() + later,
        )
        connector.start()
        assert wait_until(lambda: count >= 50)
    with RecordingServer(port=port) as server:
        deliver()
        assert len(lines(caplog)) <= ENOUGH
        later += 120
        deliver()
        assert wait_until(lambda: "telemetry connected" in lines(caplog)[-1])
        later += 120
        deliver()
        before = len(lines(caplog))
        server.disconnect(1013)
        assert wait_until(lambda: len(lines(caplog)) > before)
        assert "not connected: the server closed with code 1013" in lines(caplog)[before]
        deliver()
        assert connector.stop(5)
    assert len(lines(caplog)) <= ENOUGH + 5
    assert max(r.levelno for r in caplog.records if r.name == LOGGER) == logging.WARNING


def test_a_network_that_is_back_before_the_worker_looks_is_no_error(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def connect(endpoint: Endpoint, wait: Wait, deadline: float) -> WebSocketConnection:
        connection = open_websocket(endpoint, wait, deadline)
        say_goodbye = connection.close

        def close() -> None:
            say_goodbye()
            connector.set_online(True)

        connection.close = close  # type: ignore[method-assign]
        return connection

    store, codec = TelemetryStore[bytes](10), EventCodec("session")
    with RecordingServer() as server:
        settings = TelemetrySettings(**QUICK, url=server.url)
        connector = TelemetryConnector(store, codec, settings, connect=connect)
        connector.start()
        for times in range(1, 4):
            assert wait_until(lambda times=times: connector.connections == times)
            connector.set_online(False)
        store.push(codec.encode("x", {}, {}))
        assert connector.flush(10)
        assert connector.stop(5)
        assert "session" in [event["sessionId"] for event in server.events]
    assert {r.levelno for r in caplog.records if r.name == LOGGER} == {logging.INFO}


TOKEN, HEADER, QUERY, DATA = "t0k3n-hush", "h34d3r-hush", "qu3ry-hush", "d4t4-hush"
ALL = f"{TOKEN} {HEADER} {QUERY} {DATA}".encode()


def assert_tells_no_secret(text: str) -> None:
    assert [secret for secret in (TOKEN, HEADER, QUERY, DATA) if secret in text] == []


def answered(data: bytes) -> Script:
    def script(client: socket.socket) -> None:
        read_request(client)
        client.sendall(data)

    return script


def told(data: bytes, *headers: bytes) -> Script:
    def script(client: socket.socket) -> None:
        shake_hands(client, *headers)
        client.recv(65536)
        client.sendall(data)
        read_to_the_end(client)

    return script


ECHOES: dict[str, Script] = {
    "a refusal": answered(b"HTTP/1.1 401 %b\r\nX: %b\r\n\r\n%b" % (ALL, ALL, ALL)),
    "a redirect": answered(b"HTTP/1.1 302 Found\r\nLocation: ws://%b/\r\n\r\n" % TOKEN.encode()),
    "a bad status": answered(b"HTTP/1.1 %b\r\n\r\n" % ALL),
    "garbage": answered(ALL + b"\r\n\r\n"),
    "a header without a colon": answered(b"HTTP/1.1 101 Yes\r\n%b\r\n\r\n" % ALL),
    "a cookie": answered(b"HTTP/1.1 302 Yes\r\nSet-Cookie: a@b=%b\r\n\r\n" % TOKEN.encode()),
    "a length": answered(b"HTTP/1.1 500 No\r\nContent-Length: %b\r\n\r\n" % ALL),
    "the reason of a close": told(frame(0x8, (1009).to_bytes(2, "big") + ALL)),
    "an ack": told(frame(0x1, ALL), b"Telemetry-Ack: cumulative"),
    "a frame that is none": told(b"\xff" + ALL),
    "a slammed door": told(b""),
}


@pytest.mark.parametrize("script", ECHOES.values(), ids=ECHOES)
def test_no_secret_is_told_whatever_the_server_echoes(
    script: Script, caplog: pytest.LogCaptureFixture
) -> None:
    with raw_server(script) as port:
        telemetry = start_telemetry(
            **QUICK,
            url=f"ws://127.0.0.1:{port}/telemetry?key={QUERY}",
            token=TOKEN,
            headers={"X-Key": HEADER},
            confirm_timeout=0.2,
        )
        telemetry.emit("hit", who=DATA, at=object())  # which is rejected
        telemetry.emit("large", who=DATA * 10_000)
        telemetry.emit("hit", who=DATA)
        assert wait_until(lambda: telemetry.stats().last_error)
        telemetry.stop(0.1)
    assert "not connected" in caplog.text
    assert_tells_no_secret(caplog.text)
    assert_tells_no_secret(str(telemetry.stats().last_error))
    assert_tells_no_secret(repr(telemetry))


def test_no_secret_is_told_where_all_is_well(caplog: pytest.LogCaptureFixture) -> None:
    with RecordingServer(token=TOKEN) as server:
        url = server.url
        telemetry = start_telemetry(
            **QUICK, url=f"{url}?key={QUERY}", token=TOKEN, headers={"X-Key": HEADER}
        )
        telemetry.emit("hit", who=DATA)
        assert telemetry.flush(5)
        assert telemetry.stop(5)
    ours = "\n".join(lines(caplog))  # the server is in this process, and logs what it likes
    assert f"connected to {url}" in ours
    assert_tells_no_secret(ours)


def test_no_repr_tells_a_secret() -> None:
    url = f"wss://host.example/telemetry?key={QUERY}"
    settings = TelemetrySettings(url=url, token=TOKEN, headers={"X-Key": HEADER})
    assert_tells_no_secret(repr(settings))
    assert_tells_no_secret(repr(Endpoint(url, token=TOKEN, headers={"X-Key": HEADER})))


@pytest.mark.parametrize(
    "wrong",
    [
        {"url": f"http://host.example/?key={QUERY}"},
        {"url": f"ws://host.example:port/?key={QUERY}"},
        {"url": f"ws://me:{TOKEN}@host.example/?key={QUERY}"},
        {"token": f"{TOKEN}\n"},
        {"headers": {"X-Key": f"{HEADER}\n"}},
    ],
    ids=["scheme", "port", "credentials", "token", "header"],
)
def test_no_settings_error_tells_a_secret(wrong: dict[str, Any]) -> None:
    with pytest.raises(SettingsError) as caught:
        start_telemetry(**QUICK, **wrong)
    assert_tells_no_secret(str(caught.value))
    assert_tells_no_secret(repr(caught.value))


class Broken(logging.Handler):
    """A handler that fails at every line."""

    def emit(self, record: logging.LogRecord) -> None:
        raise OSError("no space left on device")


def test_a_log_handler_that_fails_ends_no_delivery() -> None:
    log = logging.getLogger("redvsblue_telemetry")
    broken = Broken(logging.INFO)
    log.addHandler(broken)
    level = log.level
    log.setLevel(logging.INFO)
    try:
        with raw_server(lambda client: None) as port:  # slams the door
            telemetry = start_telemetry(
                enabled=True,
                url=f"ws://127.0.0.1:{port}/",
                backoff_base=0.01,
                before_send=failing_at_first(),
            )
            telemetry.emit("rejected")
            telemetry.emit("kept")
            assert wait_until(lambda: telemetry.stats().last_error)
        with RecordingServer(port=port) as server:
            assert server.wait_for(1, 20)
            assert telemetry.stop(5)
            assert [event["type"] for event in server.events] == ["kept"]
    finally:
        log.removeHandler(broken)
        log.setLevel(level)


def failing_at_first() -> Callable[[TelemetryEvent], TelemetryEvent]:
    def before_send(event: TelemetryEvent) -> TelemetryEvent:
        if event.type == "rejected":
            raise ValueError
        return event

    return before_send
