"""Servers that answer a handshake late, wrongly or endlessly: one deadline, then a new attempt."""

from __future__ import annotations

import logging
import os
import re
import socket
import threading
import time
import tracemalloc
from typing import Any

import pytest

from redvsblue_telemetry import ConnectionState, start_telemetry
from redvsblue_telemetry.testing import RecordingServer
from tests.support.raw_server import Script, raw_server, read_request, read_to_the_end
from tests.support.wait import wait_until

QUICK: dict[str, Any] = {
    "enabled": True,
    "token": "hush",
    "drain_interval": 0.02,
    "backoff_base": 0.01,
    "backoff_max": 0.05,
}
SWITCHING = b"HTTP/1.1 101 Switching Protocols\r\n"
UPGRADE = b"Upgrade: websocket\r\nConnection: Upgrade\r\n"
WRONG_KEY = b"Sec-WebSocket-Accept: c3VyZWx5IG5vdCB0aGlzIG9uZQ==\r\n\r\n"
TOO_LONG = "timed out while connecting"
TOO_MUCH = "sent too much data"
NO_HANDSHAKE = "not a WebSocket handshake"


def answer(data: bytes) -> Script:
    """Answer by this, and close."""

    def script(client: socket.socket) -> None:
        read_request(client)
        client.sendall(data)

    return script


def drip(data: bytes, then: bytes = b"x", *, at_once: bytes = b"") -> Script:
    """Answer by this, a byte at a time, and go on without end."""

    def script(client: socket.socket) -> None:
        read_request(client)
        client.sendall(at_once)
        client.settimeout(0.005)
        position = 0
        while True:
            client.sendall(data[position : position + 1] or then)
            position += 1
            try:
                if not client.recv(1):  # paced by the timeout
                    return
            except TimeoutError:
                continue

    return script


def flood(head: bytes, then: bytes) -> Script:
    """Answer by this, as fast as the client takes it, and go on without end."""

    def script(client: socket.socket) -> None:
        read_request(client)
        client.sendall(head)
        while True:
            client.sendall(then)

    return script


def say_nothing(client: socket.socket) -> None:
    read_to_the_end(client)


A_BODY = b"HTTP/1.1 503 No\r\nContent-Length: 99999999999\r\n\r\n"
SLOW: dict[str, tuple[Script, str]] = {
    "nothing at all": (say_nothing, TOO_LONG),
    "a byte at a time": (drip(SWITCHING + UPGRADE + b"X: "), TOO_LONG),
    "an error, slowly": (drip(A_BODY), TOO_LONG),
    "lines without end, slowly": (drip(SWITCHING + b"X: y\r\n" * 10000), TOO_LONG),
    "half an answer": (drip(SWITCHING + UPGRADE, then=b""), TOO_LONG),
}
OTHER: dict[str, tuple[Script, str]] = {
    "a line without end": (flood(SWITCHING + b"X: ", b"y" * 8192), TOO_MUCH),
    "lines without end": (flood(SWITCHING, b"X: y\r\n" * 1000), TOO_MUCH),
    "a status without end": (flood(b"HTTP/1.1 1", b"0" * 8192), TOO_MUCH),
    "a body without end": (flood(b"HTTP/1.1 500 No\r\n\r\n", b"y" * 8192), "status 500"),
    "a body with a length": (flood(A_BODY, b"y" * 8192), "status 503"),
    "a body, slowly": (drip(b"", at_once=A_BODY), "status 503"),
    "chunks without end": (
        flood(b"HTTP/1.1 502 No\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\ny\r\n" * 1000),
        "status 502",
    ),
    "continue, again and again": (flood(b"", b"HTTP/1.1 100 Continue\r\n\r\n"), "status 100"),
    "garbage": (answer(os.urandom(200).replace(b"\n", b"") + b"\r\n\r\n"), NO_HANDSHAKE),
    "an HTTP/2 preface": (answer(b"\0\0\x12\x04\0\0\0\0\0\0\3\0\0\0\x64\n\r\n\r\n"), NO_HANDSHAKE),
    "the wrong key": (answer(SWITCHING + UPGRADE + WRONG_KEY), NO_HANDSHAKE),
    "no upgrade": (answer(SWITCHING + b"Connection: Upgrade\r\n" + WRONG_KEY), NO_HANDSHAKE),
    "a page": (answer(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nhush"), "status 200"),
    "another site": (answer(b"HTTP/1.1 308 No\r\nLocation: ws://hush/\r\n\r\n"), "redirected"),
    "a status that is not a number": (answer(b"HTTP/1.1 hush No\r\n\r\n"), NO_HANDSHAKE),
    "a header that is not UTF-8": (
        answer(SWITCHING + b"X: \xff\r\n" + UPGRADE + WRONG_KEY),
        NO_HANDSHAKE,
    ),
    "a header without a colon": (answer(SWITCHING + b"hush\r\n\r\n"), NO_HANDSHAKE),
    "an invalid cookie": (
        answer(b"HTTP/1.1 302 No\r\nSet-Cookie: a@b=hush\r\n\r\n"),
        "redirected",
    ),
    "an invalid cookie in a handshake": (
        answer(SWITCHING + UPGRADE + b"Set-Cookie: a@b=hush\r\n" + WRONG_KEY),
        NO_HANDSHAKE,
    ),
    "an invalid date": (
        answer(
            b"HTTP/1.1 503 No\r\nRetry-After: Fri, 31 Dec 9%b 23:59:59 GMT\r\n\r\n" % (b"9" * 30)
        ),
        "status 503",
    ),
    "an invalid time zone": (
        answer(
            b"HTTP/1.1 429 No\r\nRetry-After: Fri, 31 Dec 2000 23:59:59 +9%b\r\n\r\n" % (b"9" * 30)
        ),
        "status 429",
    ),
    "an invalid length": (
        answer(b"HTTP/1.1 400 No\r\nContent-Length: -5\r\n\r\n"),
        "status 400",
    ),
    "nothing, at once": (lambda client: None, "closed the connection|reset"),
}


@pytest.mark.parametrize(("script", "words"), (SLOW | OTHER).values(), ids=SLOW | OTHER)
def test_the_deadline_holds_the_reason_is_logged_and_the_events_arrive_later(
    script: Script, words: str, caplog: pytest.LogCaptureFixture
) -> None:
    with raw_server(script) as port:
        telemetry = start_telemetry(**QUICK, url=f"ws://127.0.0.1:{port}/", connect_timeout=0.2)
        telemetry.emit("kept")
        start = time.monotonic()
        assert wait_until(lambda: caplog.records)
        assert time.monotonic() - start < 3  # a timeout for each byte would never end
        assert re.search(words, caplog.records[0].getMessage())
        assert re.search(words, str(telemetry.stats().last_error))
        assert telemetry.stats().delivered == 0
    with RecordingServer(port=port) as server:
        assert telemetry.flush(10)
        # Of this session: a client of another test may have found its way to the port.
        events = [e["type"] for e in server.events if e["sessionId"] == telemetry.session_id]
        assert events == ["kept"]
        assert telemetry.stop(5)
    assert max(record.levelno for record in caplog.records) == logging.WARNING
    assert len(caplog.records) <= 12
    assert "hush" not in caplog.text
    assert "hush" not in str(telemetry.stats())


@pytest.mark.parametrize("script", [script for script, _ in SLOW.values()], ids=SLOW)
@pytest.mark.parametrize("scheme", ["ws", "wss"])
def test_a_stop_in_the_midst_of_it_returns_in_time(script: Script, scheme: str) -> None:
    def noted(client: socket.socket) -> None:
        begun.set()
        script(client)

    begun = threading.Event()
    with raw_server(noted) as port:
        telemetry = start_telemetry(
            **QUICK, url=f"{scheme}://127.0.0.1:{port}/", connect_timeout=60
        )
        telemetry.emit("x")
        assert begun.wait(20)
        assert telemetry.stats().state is ConnectionState.CONNECTING
        start = time.monotonic()
        assert not telemetry.stop(0.1)
        assert time.monotonic() - start < 10
        assert wait_until(lambda: telemetry.stats().state is ConnectionState.STOPPED)
        assert telemetry.stats().dropped == 1


def test_what_a_server_pours_into_a_handshake_is_not_kept() -> None:
    cut_off = 0
    floods = ["a line without end", "a body with a length", "chunks without end"]
    scripts = iter([OTHER[name][0] for name in floods])

    def script(client: socket.socket) -> None:
        nonlocal cut_off
        try:
            next(scripts)(client)
        except OSError:
            cut_off += 1
        except StopIteration:
            over.set()

    over = threading.Event()
    with raw_server(script) as port:
        tracemalloc.start()
        try:
            telemetry = start_telemetry(**QUICK, url=f"ws://127.0.0.1:{port}/")
            assert over.wait(20)
            _, peak = tracemalloc.get_traced_memory()
            assert telemetry.stop(1)
        finally:
            tracemalloc.stop()
    assert cut_off >= len(floods)
    assert peak < 6 * 2**20


def test_cookies_are_not_collected() -> None:
    """A server could recognize its clients by them, and have them grow with each handshake."""

    def script(client: socket.socket) -> None:
        request = read_request(client)
        requests.append(request)
        cookie = b"Set-Cookie: mark%d=you; domain=127.0.0.1\r\n" % len(requests)
        client.sendall(b"HTTP/1.1 302 No\r\n" + cookie + b"\r\n")

    requests: list[bytes] = []
    with raw_server(script) as port:
        telemetry = start_telemetry(**QUICK, url=f"ws://127.0.0.1:{port}/")
        assert wait_until(lambda: len(requests) >= 4)
        telemetry.stop(1)
    assert not any(b"\r\ncookie:" in request.lower() for request in requests)
