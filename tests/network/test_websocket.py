"""Connecting and the frames, against servers good and bad."""

from __future__ import annotations

import selectors
import socket
import ssl
import threading
import time
from collections.abc import Callable

import pytest
import trustme

from redvsblue_telemetry._network.contract import (
    Connection,
    ConnectionLost,
    Endpoint,
    Frame,
    FrameKind,
)
from redvsblue_telemetry._network.websocket import open_websocket
from redvsblue_telemetry.testing import RecordingServer
from tests.support.raw_server import frame, raw_server, read_request, read_to_the_end, shake_hands
from tests.support.wait import wait_until


def wait(fd: int, events: int, deadline: float) -> None:
    with selectors.DefaultSelector() as selector:
        selector.register(fd, events)
        if not selector.select(max(0.0, deadline - time.monotonic())):
            raise TimeoutError


def connect(url: str, timeout: float = 5.0, **settings: object) -> Connection:
    endpoint = Endpoint(url, **settings)  # type: ignore[arg-type]
    return open_websocket(endpoint, wait, time.monotonic() + timeout)


def failure(url: str, timeout: float = 5.0, **settings: object) -> ConnectionLost:
    with pytest.raises(ConnectionLost) as caught:
        connect(url, timeout, **settings)
    return caught.value


def receive(connection: Connection, count: int) -> list[Frame]:
    received: list[Frame] = []

    def all_there() -> bool:
        received.extend(connection.receive())
        return len(received) >= count

    assert wait_until(all_there)
    return received


# Handshakes.

WRONG_KEY = b"\r\n".join(
    (
        b"HTTP/1.1 101 Yes",
        b"Upgrade: websocket",
        b"Connection: upgrade",
        b"Sec-WebSocket-Accept: bm8=",
        b"",
        b"",
    )
)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (b"HTTP/1.1 401 Unauthorized\r\n\r\n", "401"),
        (b"HTTP/1.1 500 No\r\nContent-Length: 4\r\n\r\nhush", "500"),
        (b"HTTP/1.1 200 OK\r\n\r\n", "200"),
        (b"HTTP/1.1 302 Found\r\nLocation: ws://127.0.0.1:1/\r\n\r\n", "redirected"),
        (b"SSH-2.0-hush\r\n\r\n", "not a WebSocket"),
        (b"HTTP/1.1 101 Yes\r\nUpgrade: websocket\r\n\r\n", "not a WebSocket"),
        (WRONG_KEY, "not a WebSocket"),
        (b"", "closed the connection"),
        (b"HTTP/1.1 101 Yes\r\n" + b"X: y\r\n" * 20000, "too much data"),
        (b"HTTP/1.1 500 No\r\nContent-Length: 9999999\r\n\r\n" + b"x" * 90000, "HTTP status 500"),
    ],
)
def test_a_handshake_that_fails_says_why_and_tells_no_secret(answer: bytes, words: str) -> None:
    def script(client: socket.socket) -> None:
        read_request(client)
        client.sendall(answer)

    with raw_server(script) as port:
        error = failure(f"ws://127.0.0.1:{port}/", token="hush")
    assert words in str(error)
    assert "hush" not in str(error)


@pytest.mark.parametrize("status", [429, 503])
def test_retry_after_in_either_form(status: int) -> None:
    forms = iter([b"17", b"Fri, 31 Dec 2100 23:59:59 GMT", b"soon"])

    def script(client: socket.socket) -> None:
        read_request(client)
        client.sendall(b"HTTP/1.1 %d No\r\nRetry-After: %b\r\n\r\n" % (status, next(forms)))

    with raw_server(script) as port:
        url = f"ws://127.0.0.1:{port}/"
        assert failure(url).retry_after == 17
        later = failure(url).retry_after
        assert later is not None
        assert later > 1e9
        assert failure(url).retry_after is None


def test_one_deadline_holds_over_a_handshake_that_drips() -> None:
    def script(client: socket.socket) -> None:
        read_request(client)
        client.settimeout(0.02)
        for byte in b"HTTP/1.1 101 Switching Protocols\r\n" * 20:
            client.sendall(bytes([byte]))
            try:
                if not client.recv(1):  # paced by the timeout
                    return
            except TimeoutError:
                continue

    with raw_server(script) as port:
        start = time.monotonic()
        assert "timed out" in str(failure(f"ws://127.0.0.1:{port}/", timeout=0.3))
        assert time.monotonic() - start < 2


def test_a_refused_port_and_a_name_that_is_none() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    assert "refused" in str(failure(f"ws://127.0.0.1:{port}/"))
    error = failure("ws://name.invalid/")
    assert error.is_offline
    assert "name.invalid" in str(error)


def test_the_token_and_headers_go_into_the_handshake() -> None:
    with RecordingServer(token="secret") as server:
        connection = connect(server.url, token="secret", headers={"X-Game": "rvb"})
        assert connection.has_acks
        connection.close()
        assert server.requests[0].headers["X-Game"] == "rvb"


def tls_server(hostname: str) -> tuple[trustme.CA, ssl.SSLContext]:
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(hostname).configure_cert(context)
    return authority, context


def test_tls_delivers_and_is_verified() -> None:
    authority, server_context = tls_server("127.0.0.1")
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)
    with RecordingServer(ssl_context=server_context) as server:
        connection = connect(server.url, ssl_context=trusting)
        connection.send(b'[{"type":"t"}]')
        connection.flush()
        assert server.wait_for(1)
        connection.close()
        assert "certificate was rejected" in str(failure(server.url))


def test_a_certificate_for_another_host_is_refused() -> None:
    authority, server_context = tls_server("other.example")
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)
    with RecordingServer(ssl_context=server_context) as server:
        error = failure(server.url, ssl_context=trusting)
    assert "certificate was rejected" in str(error)
    assert "mismatch" in str(error)


# Frames.


def answering(*frames: bytes) -> Callable[[socket.socket], None]:
    def script(client: socket.socket) -> None:
        shake_hands(client)
        for data in frames:
            client.sendall(data)
        read_to_the_end(client)

    return script


def test_frames_are_read_however_they_are_cut() -> None:
    data = frame(0xA, b"1") + frame(0x1, b"he", fin=False) + frame(0x0, b"llo") + frame(0xA, b"2")
    with raw_server(answering(*(bytes([byte]) for byte in data))) as port:
        connection = connect(f"ws://127.0.0.1:{port}/")
        received = receive(connection, 3)
        assert [(item.payload, item.kind) for item in received] == [
            (b"1", FrameKind.PONG),
            (b"hello", FrameKind.TEXT),
            (b"2", FrameKind.PONG),
        ]
        connection.abort()


def test_what_comes_before_a_close_still_counts() -> None:
    data = frame(0xA, b"1") + frame(0x8, (1009).to_bytes(2, "big"))
    with raw_server(answering(data)) as port:
        connection = connect(f"ws://127.0.0.1:{port}/")
        assert [item.payload for item in receive(connection, 1)] == [b"1"]
        assert connection.has_more
        with pytest.raises(ConnectionLost) as caught:
            connection.receive()
        assert caught.value.close_code == 1009
        connection.close()


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"\x82\x7f" + (2**40).to_bytes(8, "big") + b"x" * 100_000, "too much data"),
        (frame(0x1, b"a" * 60000, fin=False) + frame(0x0, b"b" * 60000), "too much data"),
        (frame(0x0, b"nothing to continue"), "violated the WebSocket protocol"),
        (frame(0x1, b"a", fin=False) + frame(0x1, b"b"), "violated the WebSocket protocol"),
        (b"\xf1\x00", "violated the WebSocket protocol"),
        (b"\x83\x00", "violated the WebSocket protocol"),
        (b"\x8a\x81\x00\x00\x00\x001", "violated the WebSocket protocol"),  # it is masked
        (frame(0x8), "code 1005"),
    ],
)
def test_a_server_that_breaks_the_rules_loses_the_connection(data: bytes, words: str) -> None:
    with raw_server(answering(data)) as port:
        connection = connect(f"ws://127.0.0.1:{port}/")
        with pytest.raises(ConnectionLost, match=words):
            receive(connection, 99)
        connection.abort()


def test_pings_are_answered() -> None:
    answers: list[bytes] = []

    def script(client: socket.socket) -> None:
        shake_hands(client)
        client.sendall(frame(0x9, b"hello"))
        answers.append(client.recv(100))

    with raw_server(script) as port:
        connection = connect(f"ws://127.0.0.1:{port}/")
        with pytest.raises(ConnectionLost):  # the script is over once it has its answer
            receive_and_flush(connection)
        connection.abort()
    head, mask, body = answers[0][:2], answers[0][2:6], answers[0][6:]
    assert head == b"\x8a\x85"
    assert bytes(byte ^ mask[index % 4] for index, byte in enumerate(body)) == b"hello"


def receive_and_flush(connection: Connection) -> None:
    def never() -> bool:
        connection.receive()
        connection.flush()
        return False

    wait_until(never)


def test_a_server_that_does_not_read_blocks_nobody() -> None:
    def script(client: socket.socket) -> None:
        shake_hands(client)
        released.wait(20)
        read_to_the_end(client)

    released = threading.Event()
    with raw_server(script) as port:
        connection = connect(f"ws://127.0.0.1:{port}/")
        while connection.unwritten < 1_000_000:
            connection.send(b"x" * 100_000)
            connection.flush()
        released.set()

        def written() -> bool:
            connection.flush()
            return not connection.unwritten

        assert wait_until(written)
        connection.close()


def test_an_address_that_does_not_answer_leaves_time_for_the_next(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with RecordingServer() as server, socket.socket() as hole:
        hole.bind(("127.0.0.2", 0))
        hole.listen(0)
        fill = [socket.socket() for _ in range(4)]
        for sock in fill:  # then the next one's SYN is dropped
            sock.setblocking(False)
            sock.connect_ex(hole.getsockname())
        addresses = [hole.getsockname(), ("127.0.0.1", server.port)]
        monkeypatch.setattr(
            "socket.getaddrinfo",
            lambda *_, **__: [
                (socket.AF_INET, socket.SOCK_STREAM, 6, "", address) for address in addresses
            ],
        )
        connect("ws://two.addresses:1/", timeout=2).close()
        monkeypatch.undo()
        for sock in fill:
            sock.close()
