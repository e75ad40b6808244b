"""Clients of a collector: bare WebSockets and real games, and what they send."""

from __future__ import annotations

import contextlib
import json
import socket
import sqlite3
import ssl
from collections.abc import Iterator
from io import BufferedReader
from pathlib import Path
from typing import Any, Protocol

import trustme
from websockets.exceptions import ConnectionClosed
from websockets.frames import Frame, Opcode
from websockets.sync.client import ClientConnection, connect

from redvsblue_telemetry import Telemetry, TelemetrySettings
from tests.support.closing import reset
from tests.support.collector import PATIENCE, RunningCollector, bearer

ACKS = {"Telemetry-Ack": "cumulative"}
HANDSHAKE = (
    b"GET /telemetry HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
    b"Telemetry-Ack: cumulative\r\n\r\n"
)


class HasUrl(Protocol):
    @property
    def url(self) -> str: ...


def event(seq: int, session: str = "s", **fields: Any) -> dict[str, Any]:
    whole = {"sessionId": session, "seq": seq, "type": "hit", "timestamp": 1000 + seq}
    return {**whole, "id": f"{session}-{seq}", "data": {}, **fields}


def array(*numbers: int, session: str = "s") -> str:
    return json.dumps([event(number, session) for number in numbers])


def lines(*numbers: int, session: str = "s") -> str:
    return "".join(json.dumps(event(number, session)) + "\n" for number in numbers)


def frame(opcode: Opcode, payload: bytes) -> bytes:
    return Frame(opcode, payload).serialize(mask=True)


@contextlib.contextmanager
def client_of(
    collector: HasUrl, acks: bool = True, token: str | None = None
) -> Iterator[ClientConnection]:
    headers = (ACKS if acks else {}) | bearer(token)
    with connect(collector.url, additional_headers=headers, proxy=None) as client:
        yield client


@contextlib.contextmanager
def game(
    collector: HasUrl, *, stop_timeout: float = PATIENCE, **settings: Any
) -> Iterator[Telemetry]:
    """A real client that reconnects and sends soon."""
    quick = {"backoff_base": 0.02, "backoff_max": 0.1, "drain_interval": 0.01}
    chosen = TelemetrySettings(enabled=True, url=collector.url, **(quick | settings))
    telemetry = Telemetry(chosen).start()
    try:
        yield telemetry
    finally:
        telemetry.stop(stop_timeout)


def connect_over_tls(url: str, authority: trustme.CA, **options: Any) -> ClientConnection:
    """A WebSocket over TLS 1.2; the options are those of ``connect``.

    The connection has a thread that reads while others write, and OpenSSL's objects are not safe
    for that. With TLS 1.3, tickets arrive after the handshake, and a request that is written at
    that moment may be lost.
    """
    context = ssl.create_default_context()
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    authority.configure_trust(context)
    return connect(url, ssl=context, proxy=None, **options)


def next_ack(client: ClientConnection) -> int:
    message = json.loads(client.recv(timeout=PATIENCE))
    assert message.keys() == {"ack"}
    return int(message["ack"])


def acks_up_to(client: ClientConnection, last: int) -> list[int]:
    acks = [next_ack(client)]
    while acks[-1] < last:
        acks.append(next_ack(client))
    return acks


def read_to_the_end(client: ClientConnection) -> tuple[list[int], int]:
    """Return the acks that arrive, and the code of the close after them."""
    acks: list[int] = []
    with contextlib.suppress(ConnectionClosed):
        while True:
            acks.append(next_ack(client))
    closed = client.protocol.close_rcvd
    assert closed is not None, "the connection ended without a close"
    return acks, closed.code


def have_been_read(collector: RunningCollector, *clients: ClientConnection) -> None:
    """Wait until the collector has received and parsed all that the clients have sent."""
    for pong in [client.ping() for client in clients]:
        assert pong.wait(PATIENCE)
    assert collector.get("/metrics").status == 200  # it comes after them in the collector's loop


def send_and_leave(raw: socket.socket, answers: BufferedReader, messages: int, how: str) -> None:
    """Send messages of one event each, and leave when the collector has read them."""
    raw.sendall(HANDSHAKE)
    while answers.readline() != b"\r\n":
        pass
    sent = [frame(Opcode.TEXT, array(number).encode()) for number in range(1, messages + 1)]
    raw.sendall(b"".join(sent) + frame(Opcode.PING, b""))
    assert answers.read(2) == b"\x8a\0", "a pong, so all has been read"
    if how == "a close":
        raw.sendall(frame(Opcode.CLOSE, b"\x03\xe8"))
    elif how == "a reset":
        reset(raw)
    answers.close()
    raw.close()


def seqs(collector: RunningCollector, session: str = "s") -> list[int]:
    return [event.seq for event in collector.events if event.session_id == session]


def stored(path: Path, session: str = "s") -> list[int]:
    """Return the committed sequence numbers of a session in order of arrival."""
    query = (
        "SELECT seq FROM events JOIN sessions ON sessions.key = events.session "
        "WHERE session_id = ? ORDER BY arrival"
    )
    with contextlib.closing(sqlite3.connect(path)) as connection:
        return [seq for (seq,) in connection.execute(query, (session,))]


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the database's write lock, as another program would."""
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        yield
