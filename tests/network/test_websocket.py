"""Open connections: frames in and out, and never a call that blocks."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable

import pytest

from redvsblue_telemetry._network.contract import Connection, Frame, FrameKind, LostKind
from redvsblue_telemetry.testing import RecordingServer
from tests.support.raw_server import frame, raw_server, read_request, read_to_the_end, shake_hands
from tests.support.sockets import connect, connect_fails, ending
from tests.support.systems import needs_loopback_net
from tests.support.wait import wait_until


def receive(connection: Connection, count: int) -> list[Frame]:
    received: list[Frame] = []

    def all_there() -> bool:
        received.extend(connection.receive())
        return len(received) >= count

    assert wait_until(all_there)
    return received


def answering(*frames: bytes) -> Callable[[socket.socket], None]:
    def script(client: socket.socket) -> None:
        shake_hands(client)
        for data in frames:
            client.sendall(data)
        read_to_the_end(client)

    return script


# Connecting.


def test_one_deadline_spans_a_handshake_that_comes_byte_by_byte() -> None:
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
        lost = connect_fails(f"ws://127.0.0.1:{port}/", timeout=0.2)
        assert lost.kind is LostKind.TIMEOUT
        assert time.monotonic() - start < 8  # all of the answer takes 13 seconds


def test_the_token_and_headers_go_into_the_handshake() -> None:
    with RecordingServer(token="secret") as server:
        connection = connect(server.url, token="secret", headers={"X-Game": "rvb"})
        assert connection.has_acks
        connection.close()
        assert server.requests[0].headers["X-Game"] == "rvb"


@needs_loopback_net
def test_an_address_that_does_not_answer_leaves_time_for_the_next(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with RecordingServer() as server, socket.socket() as hole:
        hole.bind(("127.0.0.2", 0))
        hole.listen(1)  # macOS takes 0 for its default, which is large
        fill = [socket.socket() for _ in range(6)]
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
        connect("ws://two.addresses:1/", timeout=1.6).close()
        monkeypatch.undo()
        for sock in fill:
            sock.close()


# Frames.


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


def test_frames_before_a_close_still_count() -> None:
    data = frame(0xA, b"1") + frame(0x8, (1009).to_bytes(2, "big"))
    with raw_server(answering(data)) as port:
        connection = connect(f"ws://127.0.0.1:{port}/")
        assert [item.payload for item in receive(connection, 1)] == [b"1"]
        assert connection.has_more
        assert ending(connection).close_code == 1009


def test_pings_are_answered() -> None:
    answers: list[bytes] = []

    def script(client: socket.socket) -> None:
        shake_hands(client)
        client.sendall(frame(0x9, b"hello"))
        answers.append(client.recv(100))
        read_to_the_end(client)

    def flush() -> bool:
        connection.receive()
        connection.flush()
        return bool(answers)

    with raw_server(script) as port:
        connection = connect(f"ws://127.0.0.1:{port}/")
        assert wait_until(flush)
        connection.abort()
    head, mask, body = answers[0][:2], answers[0][2:6], answers[0][6:]
    assert head == b"\x8a\x85"
    assert bytes(byte ^ mask[index % 4] for index, byte in enumerate(body)) == b"hello"


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
