"""A WebSocket sink in a process of its own, fast enough not to be what is measured.

It reads frames from a large buffer with a blocking socket, one thread a connection. The masking is
undone by numpy, and a batch isn't parsed: an event is counted at each ``"seq":`` (so an event's
data must have no field of that name). Pings are answered with their payload, in one write for all
that came with one read. Its own CPU time is among its counts: when that is as long as the
measurement, the sink was the limit after all.

    python -m benchmarks.fast_sink [--port N] [--acks] [--tls] [--ledger] [--reset-every SECONDS]

``--acks`` speaks ``Telemetry-Ack: cumulative``; ``--ledger`` remembers which (sessionId, seq) came,
to tell repeats from new ones (that parses, and is slow); ``--reset-every`` resets each connection
after so long. ``GET /control/stats`` on the same port gives the counts as JSON, ``/control/cut``
cuts the open connections as well. It ends when its standard input does.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import hashlib
import json
import re
import socket
import ssl
import struct
import threading
import time

import numpy as np

from benchmarks.measuring import Result, introduce

_BUFFER = 8 * 1024 * 1024
_LARGEST_FRAME = 2 * 1024 * 1024
_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455, section 1.3
_TEXT, _BINARY, _CLOSE, _PING = 1, 2, 8, 9
_EVENT = b'"seq":'
_SEQ = re.compile(rb'"seq":(\d+)')
_SESSION = re.compile(rb'"sessionId":"([^"]*)"')
_HANDSHAKE_TIMEOUT = 10.0  # seconds


class Ledger:
    """Which events came, and how often; for sinks that are asked to remember it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._seen: dict[bytes, bytearray] = {}
        self.unique = 0
        self.repeats = 0

    def record(self, batch: bytes) -> None:
        """Take the events of one batch, which are all of one session."""
        session = _SESSION.search(batch)
        with self._lock:
            seen = self._seen.setdefault(session[1] if session else b"", bytearray())
            for seq in map(int, _SEQ.findall(batch)):
                if seq >= len(seen):
                    seen.extend(bytes(seq + 65536 - len(seen)))
                self.repeats += seen[seq]
                self.unique += not seen[seq]
                seen[seq] = 1


class Client:
    """One WebSocket connection, from its handshake to its end."""

    def __init__(self, sink: Sink, sock: socket.socket) -> None:
        self._sink = sink
        self._sock = sock
        self._is_acking = False
        self._buffer = bytearray(_BUFFER)
        self.messages = self.events = self.payload_bytes = self.pings = 0

    def serve(self, headers: dict[bytes, bytes], early: bytes) -> None:
        """Shake hands, then count until the client goes, or is to be reset."""
        key = headers[b"sec-websocket-key"]
        accept = base64.b64encode(hashlib.sha1(key + _GUID).digest())
        self._is_acking = self._sink.acks and headers.get(b"telemetry-ack") == b"cumulative"
        self._sock.sendall(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            + (b"Telemetry-Ack: cumulative\r\n" if self._is_acking else b"")
            + b"Sec-WebSocket-Accept: %s\r\n\r\n" % accept
        )
        self._buffer[: len(early)] = early
        self._read(len(early))

    def _read(self, end: int) -> None:
        start = 0
        view = memoryview(self._buffer)
        reset_at = time.monotonic() + self._sink.reset_every if self._sink.reset_every else None
        while True:
            start, is_open = self._take(start, end)
            if not is_open:
                return
            if start == end:
                start = end = 0
            elif len(view) - end < _LARGEST_FRAME:
                rest = bytes(view[start:end])
                start, end = 0, len(rest)
                view[:end] = rest
            if reset_at is not None:
                self._sock.settimeout(max(0.001, reset_at - time.monotonic()))
            got = self._sock.recv_into(view[end : end + _LARGEST_FRAME])
            if not got or (reset_at is not None and time.monotonic() >= reset_at):
                return
            end += got

    def _take(self, start: int, end: int) -> tuple[int, bool]:
        """Take the whole frames in the buffer; where the rest starts, and whether to go on."""
        buffer = self._buffer
        replies = []
        messages = self.messages
        is_open = True
        while end - start >= 6 and is_open:
            opcode = buffer[start] & 15
            size = buffer[start + 1] & 127
            mask = start + 2
            if size == 126:
                size = int.from_bytes(buffer[mask : mask + 2], "big")
                mask += 2
            elif size == 127:
                size = int.from_bytes(buffer[mask : mask + 8], "big")
                mask += 8
            stop = mask + 4 + size
            if stop > end:
                break
            payload = _unmasked(buffer, mask, size)
            start = stop
            if opcode in (_TEXT, _BINARY):
                self._count(payload, size)
            elif opcode == _PING:
                self.pings += 1
                replies.append(b"\x8a%c%b" % (size, payload[:size]))
            elif opcode == _CLOSE:
                replies.append(b"\x88%c%b" % (size, payload[:size]))
                is_open = False
        if self._is_acking and self.messages > messages:
            ack = b'{"ack":%d}' % self.messages
            replies.append(b"\x81%c%b" % (len(ack), ack))
        if replies:
            self._sock.sendall(b"".join(replies))
        return start, is_open

    def _count(self, payload: bytes, size: int) -> None:
        if self._sink.ledger is not None:  # before an ack can say that it is kept
            self._sink.ledger.record(payload[:size])
        self.messages += 1
        self.events += payload.count(_EVENT, 0, size)
        self.payload_bytes += size

    def cut(self) -> None:
        """End the connection without a word, from any thread."""
        with contextlib.suppress(OSError):
            socket.socket.shutdown(self._sock, socket.SHUT_RDWR)


def _unmasked(buffer: bytearray, mask: int, size: int) -> bytes:
    """The payload after the mask at an index, and up to 7 bytes of rubbish behind it."""
    words = bytes(buffer[mask + 4 : mask + 4 + (size + 7) // 8 * 8])
    words += bytes(-len(words) % 8)  # at the very end of the buffer
    key = np.uint64(int.from_bytes(buffer[mask : mask + 4] * 2, "little"))
    unmasked: bytes = (np.frombuffer(words, dtype="<u8") ^ key).tobytes()
    return unmasked


class Sink:
    """Listens, and counts what its clients send."""

    def __init__(self, *, acks: bool, ledger: bool, reset_every: float) -> None:
        self.acks = acks
        self.reset_every = reset_every
        self.ledger = Ledger() if ledger else None
        self._clients: list[Client] = []  # those that are gone among them
        self._open: set[Client] = set()
        self._lock = threading.Lock()

    def listen(self, sock: socket.socket, tls: ssl.SSLContext | None) -> None:
        """Serve each connection on a thread of its own, for ever."""
        while True:
            client, _ = sock.accept()
            threading.Thread(target=self._serve, args=(client, tls), daemon=True).start()

    def _serve(self, sock: socket.socket, tls: ssl.SSLContext | None) -> None:
        with contextlib.suppress(OSError, ValueError, KeyError), contextlib.ExitStack() as stack:
            stack.callback(lambda: _end(sock, by_reset=bool(self.reset_every)))
            sock.settimeout(_HANDSHAKE_TIMEOUT)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if tls is not None:
                sock = tls.wrap_socket(sock, server_side=True)
            path, headers, early = _request(sock)
            sock.settimeout(None)
            if path.startswith(b"/control/"):
                self._obey(path.removeprefix(b"/control/"), sock)
            else:
                self._serve_client(Client(self, sock), headers, early)

    def _serve_client(self, client: Client, headers: dict[bytes, bytes], early: bytes) -> None:
        with self._lock:
            self._clients.append(client)
            self._open.add(client)
        try:
            client.serve(headers, early)
        finally:
            client._buffer = bytearray()
            with self._lock:
                self._open.discard(client)

    def _obey(self, command: bytes, sock: socket.socket) -> None:
        if command == b"cut":
            with self._lock:
                clients = tuple(self._open)
            for client in clients:
                client.cut()
        body = json.dumps(self.stats()).encode()
        sock.sendall(
            b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\nConnection: close\r\n\r\n" % len(body) + body
        )
        if self.reset_every:  # which could overtake the answer
            sock.shutdown(socket.SHUT_WR)
            sock.recv(1)

    def stats(self) -> Result:
        """The counts since the start."""
        with self._lock:
            clients, is_open = tuple(self._clients), len(self._open)
        counts = {
            "connections": len(clients),
            "open": is_open,
            "messages": sum(client.messages for client in clients),
            "events": sum(client.events for client in clients),
            "bytes": sum(client.payload_bytes for client in clients),
            "pings": sum(client.pings for client in clients),
            "cpu_seconds": time.process_time(),
        }
        if self.ledger is not None:
            counts |= {"unique": self.ledger.unique, "repeats": self.ledger.repeats}
        return counts


def _request(sock: socket.socket) -> tuple[bytes, dict[bytes, bytes], bytes]:
    """The path and the headers of a request, and what came after it."""
    head = b""
    while b"\r\n\r\n" not in head:
        chunk = sock.recv(65536)
        if not chunk:
            raise ConnectionError("gone during the handshake")
        head += chunk
    head, _, early = head.partition(b"\r\n\r\n")
    first, *lines = head.split(b"\r\n")
    headers = {}
    for line in lines:
        name, _, value = line.partition(b":")
        headers[name.strip().lower()] = value.strip()
    return first.split()[1], headers, early


def _end(sock: socket.socket, *, by_reset: bool) -> None:
    if by_reset:
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


def _tls() -> tuple[ssl.SSLContext, str]:
    """A context with a certificate for loopback, and the authority that signed it, as PEM."""
    import trustme  # only for wss://

    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1", "localhost").configure_cert(context)
    return context, authority.cert_pem.bytes().decode()


def main() -> None:
    """Serve until the standard input ends."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--acks", action="store_true")
    parser.add_argument("--tls", action="store_true")
    parser.add_argument("--ledger", action="store_true")
    parser.add_argument("--reset-every", type=float, default=0.0, metavar="SECONDS")
    options = parser.parse_args()
    tls, authority = _tls() if options.tls else (None, None)
    sink = Sink(acks=options.acks, ledger=options.ledger, reset_every=options.reset_every)
    with socket.create_server(("127.0.0.1", options.port), backlog=128) as sock:
        introduce({"port": sock.getsockname()[1]} | ({"ca": authority} if authority else {}))
        sink.listen(sock, tls)


if __name__ == "__main__":
    main()
