"""Games turn off the garbage collector, so nothing may depend on it: no cycle is left behind.

The game runs in a separate process, since the servers of a test make garbage, too.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import trustme

from redvsblue_telemetry.testing import RecordingServer
from tests.support.closing import reset
from tests.support.connect_proxy import ConnectProxy
from tests.support.raw_server import (
    Script,
    frame,
    raw_server,
    read_request,
    read_to_the_end,
    shake_hands,
)
from tests.support.sockets import server_context

_OBJECTS_UNDER_WAY = 40  # of one attempt; each cycle would leave more, 50 times

A_GAME = """
import gc, logging, sys, time
from redvsblue_telemetry import (
    ConnectionState, InvalidEventError, Telemetry, TelemetrySettings, emit, start_telemetry,
    stop_telemetry,
)

gc.disable()
logging.disable()
url, play = sys.argv[1:]
lost = 0

def note(state):
    global lost
    lost += state in (ConnectionState.BACKING_OFF, ConnectionState.OFFLINE)

def start(**settings):
    return start_telemetry(
        enabled=True, url=url, backoff_base=0.001, backoff_max=0.001, connect_timeout=0.05,
        drain_interval=0.005, on_state_change=note, **settings
    )

def wait_for(count):
    since = time.monotonic()
    while lost < count:
        assert time.monotonic() - since < 40, telemetry.stats()
        telemetry.emit("x", text="y" * 100)
        time.sleep(0.001)

def lose_connections(times):
    wait_for(lost + times)

def reject(times):
    for _ in range(times):
        telemetry.emit("x", bad=object())
        telemetry.emit("x", {"nested": [{"bad": {1, object()}}]})
        telemetry.push({"no": "type"})
        telemetry.emit("x", long="y" * 20_000)

def reject_strictly(times):
    with Telemetry(TelemetrySettings(enabled=True, url=url, strict=True)) as strict:
        for _ in range(times):
            for reject in (
                lambda: strict.emit("x", bad=object()),
                lambda: strict.emit("x", {"nested": [{"bad": {1, object()}}]}),
                lambda: strict.emit(7),
                lambda: strict.emit("x", long="y" * 20_000),
                lambda: strict.push({"no": "type"}),
                lambda: strict.push({"type": "x", "timestamp": "noon"}),
                lambda: strict.push(7),
            ):
                try:
                    reject()
                except InvalidEventError:
                    continue
                raise AssertionError

def reject_strictly_with_the_current_client(times):
    stop_telemetry()
    start(strict=True)
    for _ in range(times):
        try:
            emit("x", bad=object())
        except InvalidEventError:
            continue
        raise AssertionError

def start_while_off(times):
    stop_telemetry()
    for _ in range(times):
        start_telemetry(enabled=False).emit("x")
        Telemetry(TelemetrySettings(enabled=False)).emit("x")

def start_and_stop(times):
    for timeout in (0, 5):  # in this order: no worker is still ending at the end
        for _ in range(times):
            stop_telemetry(timeout)
            start().emit("x")
            session = Telemetry(TelemetrySettings(enabled=True, url=url)).start()
            session.emit("x")
            session.stop(timeout)

def request(times):
    for number in range(times):
        telemetry.emit("x")
        assert telemetry.flush(10)
        telemetry.flush(0)
        if number % 20 == 0:  # the attempts after a few flips are limited to one a second
            telemetry.enabled = False
            telemetry.enabled = True
            telemetry.set_online(False)
            telemetry.set_online(True)

def count_objects():
    "Return the smallest of several counts: an attempt in progress holds some objects."
    counts = []
    for _ in range(30):
        counts.append(len(gc.get_objects()))
        time.sleep(0.001)
    return min(counts)

telemetry = start()
run = globals()[play]
run(15)
gc.collect()
before = count_objects()
run(50)
grown = count_objects() - before
gc.set_debug(gc.DEBUG_SAVEALL)
print(gc.collect(), grown, sorted({type(found).__name__ for found in gc.garbage}))
gc.set_debug(0)
gc.garbage.clear()
telemetry.stop(0)
"""


def garbage_of(url: str, play: str = "lose_connections", **environment: str) -> tuple[str, int]:
    """Play fifty times; return the unreachable objects, and how many more there are at all."""
    game = subprocess.run(
        [sys.executable, "-c", A_GAME, url, play],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert game.returncode == 0, game.stderr
    unreachable, grown, kinds = game.stdout.split(" ", 2)
    return f"{unreachable} {kinds.strip()}", int(grown)


def assert_clean(garbage: tuple[str, int]) -> None:
    unreachable, grown = garbage
    assert unreachable == "0 []"
    assert grown <= _OBJECTS_UNDER_WAY


def answering(answer: bytes) -> Script:
    def script(client: socket.socket) -> None:
        read_request(client)
        client.sendall(answer)

    return script


def after_handshake(then: Callable[[socket.socket], object]) -> Script:
    def script(client: socket.socket) -> None:
        shake_hands(client)
        then(client)

    return script


def close_at_a_batch(client: socket.socket) -> None:
    client.recv(65536)
    client.sendall(frame(0x8, (1007).to_bytes(2, "big") + b"reason"))
    read_to_the_end(client)


SERVERS: dict[str, Script] = {
    "closed": lambda client: None,
    "closed after the request": lambda client: read_request(client) and None,
    "a timeout": read_to_the_end,
    "an HTTP status": answering(b"HTTP/1.1 503 No\r\nRetry-After: Wed, 1 Jan\r\n\r\n"),
    "a redirect": answering(b"HTTP/1.1 302 No\r\nLocation: /\r\nSet-Cookie: a=b\r\n\r\n"),
    "garbage": answering(b"hello\r\n\r\n"),
    "another key": answering(
        b"HTTP/1.1 101 Yes\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n"
    ),
    "an end after the handshake": after_handshake(lambda client: None),
    "a reset": after_handshake(reset),
    "half a frame": after_handshake(lambda client: client.sendall(b"\x81\x7e\1")),
    "a protocol error": after_handshake(lambda client: client.sendall(b"\xff" * 20)),
    "a masked frame": after_handshake(lambda client: client.sendall(b"\x81\x81abcdx")),
    "a pong, then the end": after_handshake(lambda client: client.sendall(frame(0xA, b"1"))),
    "a close": after_handshake(lambda client: client.sendall(frame(0x8, b"\x03\xf0"))),
    "a refused batch": after_handshake(close_at_a_batch),
    "too much": after_handshake(
        lambda client: client.sendall(2 * frame(0x2, b"x" * 40_000, fin=False))
    ),
}


@pytest.mark.parametrize("script", SERVERS.values(), ids=SERVERS)
def test_a_server_that_fails_leaves_nothing(script: Script) -> None:
    with raw_server(script) as port:
        assert_clean(garbage_of(f"ws://127.0.0.1:{port}/"))


def test_a_refused_connection_leaves_nothing() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    assert_clean(garbage_of(f"ws://127.0.0.1:{port}/"))


def test_a_name_that_cannot_be_resolved_leaves_nothing() -> None:
    assert_clean(garbage_of(f"ws://{'a' * 70}.invalid/"))


@pytest.mark.parametrize("script", [answering(b"HTTP/1.1 400 No\r\n\r\n"), lambda client: None])
def test_a_failed_tls_handshake_leaves_nothing(script: Script) -> None:
    with raw_server(script) as port:
        assert_clean(garbage_of(f"wss://127.0.0.1:{port}/"))


def test_an_untrusted_certificate_leaves_nothing(authority: trustme.CA) -> None:
    context = server_context(authority.issue_cert("127.0.0.1"))

    def script(client: socket.socket) -> None:
        with context.wrap_socket(client, server_side=True):
            pass

    with raw_server(script) as port:
        assert_clean(garbage_of(f"wss://127.0.0.1:{port}/"))


@pytest.mark.parametrize("name", ["an HTTP status", "an end after the handshake", "a close"])
def test_a_server_with_tls_that_fails_leaves_nothing(
    name: str, authority: trustme.CA, tmp_path: Path
) -> None:
    context = server_context(authority.issue_cert("127.0.0.1"))

    def script(client: socket.socket) -> None:
        with context.wrap_socket(client, server_side=True) as secure:
            SERVERS[name](secure)

    certificates = tmp_path / "authority.pem"
    authority.cert_pem.write_to_path(certificates)
    with raw_server(script) as port:
        assert_clean(garbage_of(f"wss://127.0.0.1:{port}/", SSL_CERT_FILE=str(certificates)))


@pytest.mark.parametrize(
    "script",
    [None, lambda client: None, answering(b"HTTP/1.1 502 No\r\n\r\n"), answering(b"hello\r\n\r\n")],
    ids=["407", "closed", "502", "garbage"],
)
def test_a_proxy_that_fails_leaves_nothing(script: Script | None) -> None:
    with ConnectProxy(credentials="a:b", script=script) as proxy:
        assert_clean(garbage_of("ws://game.invalid/", HTTP_PROXY=proxy.url))


@pytest.mark.parametrize("url", ["http://127.0.0.1:1/", "socks5://127.0.0.1:1/", "http://[/"])
def test_a_proxy_that_cannot_be_used_leaves_nothing(url: str) -> None:
    assert_clean(garbage_of("ws://game.invalid/", HTTP_PROXY=url))


@pytest.mark.parametrize(
    "play",
    [
        "reject",
        "reject_strictly",
        "reject_strictly_with_the_current_client",
        "request",
        "start_and_stop",
        "start_while_off",
    ],
)
def test_a_game_that_is_served_leaves_nothing(play: str, server: RecordingServer) -> None:
    assert_clean(garbage_of(server.url, play))


def test_requests_with_tls_leave_nothing(
    secure_server: RecordingServer, authority: trustme.CA, tmp_path: Path
) -> None:
    certificates = tmp_path / "authority.pem"
    authority.cert_pem.write_to_path(certificates)
    assert_clean(garbage_of(secure_server.url, "request", SSL_CERT_FILE=str(certificates)))
