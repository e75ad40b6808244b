"""A server that runs a script with each client, and the WebSocket handshake by hand."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import socket
import threading
from collections.abc import Callable, Iterator

from tests.support.closing import hang_up, stop_listening
from tests.support.ports import own_port
from tests.support.systems import IS_WINE

GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
Script = Callable[[socket.socket], None]


def read_request(client: socket.socket) -> bytes:
    request = b""
    while not request.endswith(b"\r\n\r\n"):
        chunk = client.recv(4096)
        if not chunk:
            return request
        request += chunk
    return request


def shake_hands(client: socket.socket, *headers: bytes) -> bytes:
    request = read_request(client)
    if not request:
        raise ConnectionError("gone before it asked")
    key = next(
        line.split(b": ")[1]
        for line in request.split(b"\r\n")
        if line.lower().startswith(b"sec-websocket-key")
    )
    accept = base64.b64encode(hashlib.sha1(key + GUID).digest())
    client.sendall(
        b"\r\n".join(
            (
                b"HTTP/1.1 101 Switching Protocols",
                b"Upgrade: websocket",
                b"Connection: Upgrade",
                b"Sec-WebSocket-Accept: " + accept,
                *headers,
                b"",
                b"",
            )
        )
    )
    return request


def frame(opcode: int, payload: bytes = b"", *, fin: bool = True) -> bytes:
    head = bytes([(0x80 if fin else 0) | opcode])
    if len(payload) < 126:
        return head + bytes([len(payload)]) + payload
    return head + b"\x7e" + len(payload).to_bytes(2, "big") + payload


def read_to_the_end(client: socket.socket) -> bytes:
    received = b""
    with contextlib.suppress(OSError):
        while chunk := client.recv(65536):
            received += chunk
    return received


@contextlib.contextmanager
def raw_server(script: Script) -> Iterator[int]:
    """Run the script with each client, one after the other; yields the port."""
    listener = socket.create_server(("127.0.0.1", own_port()))  # where another may come later
    clients: list[socket.socket] = []

    def serve() -> None:
        with contextlib.suppress(OSError):  # the listener is closed, or a client is gone
            while True:
                client, _ = listener.accept()
                clients.append(client)
                with client, contextlib.suppress(OSError):
                    script(client)

    thread = threading.Thread(target=serve, name="raw-server")
    thread.start()
    try:
        yield listener.getsockname()[1]
    finally:
        stop_listening(listener)
        for client in clients:
            hang_up(client)
        # Under wine, closing a socket ends no `send` of another thread; the client does that later.
        thread.join(20 if IS_WINE else 5)
        assert not thread.is_alive()
