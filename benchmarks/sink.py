"""The sink that the benchmarks send to: a separate process, fast enough not to be the limit.

It serves four protocols on one port, with one thread for each connection, on blocking sockets:

- WebSocket: batches of this SDK. The masking is undone by numpy; Pings are answered with their
  payload, in one write for everything that arrived with one read.
- HTTP: Sentry's envelopes, OTLP, and the batches of PostHog, Segment and Amplitude.
- JSON lines over TCP: the logging handler.
- HTTP for the benchmark that started the sink: ``GET /control/...``.

A batch is not parsed when it arrives: an event is counted at each ``"seq":`` (so an event's data
must not have a field of that name). With ``--keep`` the batches are kept as they arrived, with the
time, and parsed when the counts are requested, so that no peer's format disturbs its measurement.

    python -m benchmarks.sink [--tls] [--acks] [--reports] [--ledger | --keep] [--reset-every N]

``--acks`` confirms by acks a client that offers them; it keeps nothing durably, though.
``--reports`` takes reports, and doesn't count them. A client chooses by its URL which encodings it
is answered with: ``/telemetry?encodings=zstd,deflate``; none without a query.
``--ledger`` remembers which (sessionId, seq) arrived, to count repeats apart; it parses, and is
slow. ``--reset-every`` resets each connection after that time.

``/control/stats`` answers with the counts as JSON, and with those of the WebSocket clients by their
target. ``wire_bytes`` are all bytes that clients have sent, heads and frames included, as they were
read from the socket (within TLS they aren't counted). The counts include the sink's own CPU time:
if it is as long as the measurement, the sink was the limit after all. ``/control/cut`` also cuts
the open connections. ``/control/counts?first=N&until=TIME`` counts the different events with a
field ``n`` of at least N, and those of them that had arrived by that time, in seconds since the
epoch.

The sink ends when its standard input does.
"""

from __future__ import annotations

import argparse
import base64
import collections
import contextlib
import gzip
import hashlib
import json
import re
import socket
import ssl
import struct
import threading
import time
import urllib.parse
import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from benchmarks.harness import Result, introduce
from redvsblue_telemetry._compression import choose, unpacker
from redvsblue_telemetry._shared import ENCODING_HEADER, REPORT_HEADER, REPORT_VERSION

_BUFFER = 8 * 1024 * 1024
_LARGEST_FRAME = 2 * 1024 * 1024
_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455, section 1.3
_TEXT, _BINARY, _CLOSE, _PING = 1, 2, 8, 9
_EVENT = b'"seq":'
_REPORT = b'{"report":'
_SEQ = re.compile(rb'"seq":(\d+)')
_SESSION = re.compile(rb'"sessionId":"([^"]*)"')
_HANDSHAKE_TIMEOUT = 90.0  # seconds: longer than a network is silent in any benchmark

Headers = dict[bytes, bytes]
Numbers = Callable[[bytes], Iterator[int]]


# The field ``n`` of each event in a body, by format.


def _in_array(body: bytes) -> Iterator[int]:
    """A batch of this SDK."""
    return (event["data"]["n"] for event in json.loads(body))


def _in_lines(body: bytes) -> Iterator[int]:
    """The lines of the logging handler."""
    return (json.loads(line)["n"] for line in body.splitlines())


def _in_envelope(body: bytes) -> Iterator[int]:
    """Sentry: a header, then items, each with its own header, which may have the length."""
    _, _, rest = body.partition(b"\n")
    while rest.strip():
        line, _, rest = rest.partition(b"\n")
        header = json.loads(line)
        length = header.get("length", rest.find(b"\n") if b"\n" in rest else len(rest))
        payload, rest = rest[:length], rest[length:].removeprefix(b"\n")
        if header["type"] == "log":
            for item in json.loads(payload)["items"]:
                yield item["attributes"]["n"]["value"]


def _in_otlp(body: bytes) -> Iterator[int]:
    from opentelemetry.proto.collector.logs.v1 import logs_service_pb2

    request = logs_service_pb2.ExportLogsServiceRequest.FromString(body)
    for resource_logs in request.resource_logs:
        for scope_logs in resource_logs.scope_logs:
            for record in scope_logs.log_records:
                yield next(a.value.int_value for a in record.attributes if a.key == "n")


def _in_batch(body: bytes) -> Iterator[int]:
    """PostHog and Segment."""
    return (event["properties"]["n"] for event in json.loads(body)["batch"])


def _in_amplitude(body: bytes) -> Iterator[int]:
    return (event["event_properties"]["n"] for event in json.loads(body)["events"])


_FORMATS: dict[str, Numbers] = {
    "/api/1/envelope/": _in_envelope,
    "/v1/logs": _in_otlp,
    "/batch/": _in_batch,
    "/v1/batch": _in_batch,
    "/2/httpapi": _in_amplitude,
}
_ANSWERS = {"/v1/logs": (b"application/x-protobuf", b"")}
_ANSWER = (b"application/json", b'{"code":200,"status":"Ok","success":true}')


def _decompress(body: bytes, encoding: bytes) -> bytes:
    match encoding:
        case b"gzip":
            return gzip.decompress(body)
        case b"deflate":
            return zlib.decompress(body)
    return body


# The arrivals.


class Ledger:
    """Which events arrived, and how often, by session and ``seq``."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._seen: dict[bytes, bytearray] = {}
        self.unique = 0
        self.repeats = 0

    def record(self, batch: bytes) -> None:
        """Record the events of a batch, which are all of one session."""
        session = _SESSION.search(batch)
        with self._lock:
            seen = self._seen.setdefault(session[1] if session else b"", bytearray())
            for seq in map(int, _SEQ.findall(batch)):
                if seq >= len(seen):
                    seen.extend(bytes(seq + 65536 - len(seen)))
                self.repeats += seen[seq]
                self.unique += not seen[seq]
                seen[seq] = 1


class Arrivals:
    """The bodies that arrived: kept as they are, and counted on request."""

    def __init__(self) -> None:
        self._lock = threading.Lock()  # between the threads that ask
        self._raw: collections.deque[tuple[float, bytes, bytes, Numbers]] = collections.deque()
        self._first_seen: dict[int, float] = {}  # the time at which each event came first
        self._repeats = 0
        self.requests = 0
        self.body_bytes = 0
        self.errors: list[str] = []

    def keep(self, body: bytes, numbers: Numbers, encoding: bytes = b"") -> None:
        """Keep a body that arrived just now."""
        self._raw.append((time.time(), body, encoding, numbers))
        self.requests += 1
        self.body_bytes += len(body)

    def complain(self, error: str) -> None:
        """Note an error; the first few are enough."""
        if len(self.errors) < 5:
            self.errors.append(error)

    def counts(self, first: int, until: float) -> Result:
        """Count the different events that arrived: in all, and by a time."""
        with self._lock:
            self._parse()
            times = [at for number, at in self._first_seen.items() if number >= first]
        return {
            "seen": len(self._first_seen),
            "arrived": len(times),
            "arrived_in_time": sum(at <= until for at in times),
            "repeats": self._repeats,
            "requests": self.requests,
            "body_bytes": self.body_bytes,
            "errors": self.errors,
            "cpu_seconds": time.process_time(),
        }

    def _parse(self) -> None:
        while self._raw:
            at, body, encoding, numbers = self._raw.popleft()
            try:
                for number in numbers(_decompress(body, encoding)):
                    if self._first_seen.setdefault(int(number), at) is not at:
                        self._repeats += 1
            except (
                Exception
            ) as error:  # a peer may send any bytes: note the error and count the rest
                self.complain(f"{numbers.__name__}: {error!r} in {body[:80]!r}")


# Connections.


class Metered(socket.socket):
    """A socket that counts the bytes that it receives."""

    received = 0

    def recv(self, size: int, flags: int = 0, /) -> bytes:
        data = super().recv(size, flags)
        self.received += len(data)
        return data

    def recv_into(self, buffer: Any, size: int = 0, flags: int = 0) -> int:
        count = super().recv_into(buffer, size, flags)
        self.received += count
        return count


class Client:
    """One WebSocket connection, from its handshake to its end."""

    def __init__(self, sink: Sink, sock: socket.socket, target: str) -> None:
        self._sink = sink
        self._sock = sock
        self._buffer = bytearray(_BUFFER)
        self.target = target
        self.messages = self.compressed = self.events = self.payload_bytes = 0
        self._acks = False
        self._unpack: Callable[[bytes, int], bytes] | None = None

    @property
    def wire_bytes(self) -> int:
        """All bytes that it has sent; 0 with TLS."""
        return self._sock.received if isinstance(self._sock, Metered) else 0

    def serve(self, headers: Headers, early: bytes) -> None:
        """Answer the handshake, then count until the client closes or has to be reset."""
        key = headers[b"sec-websocket-key"]
        accept = base64.b64encode(hashlib.sha1(key + _GUID).digest())
        self._acks = self._sink.acks and b"telemetry-ack" in headers
        agreed = ["Telemetry-Ack: cumulative"] if self._acks else []
        if self._sink.reports and REPORT_HEADER.encode() in headers:
            agreed.append(f"{REPORT_HEADER}: {REPORT_VERSION}")
        if encoding := self._encoding(headers):
            agreed.append(f"{ENCODING_HEADER}: {encoding}")
            self._unpack = unpacker(encoding)
        self._sock.sendall(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Accept: %s\r\n%s\r\n"
            % (accept, "".join(f"{line}\r\n" for line in agreed).encode())
        )
        self._buffer[: len(early)] = early
        try:
            self._read(len(early))
        finally:
            self._buffer = bytearray()

    def _encoding(self, headers: Headers) -> str | None:
        """Return the first encoding of the target that the client offers."""
        query = dict(urllib.parse.parse_qsl(urllib.parse.urlsplit(self.target).query))
        encodings = query.get("encodings", "").split(",")
        return choose(headers.get(ENCODING_HEADER.encode(), b"").decode("latin-1"), encodings)

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
        """Take the whole frames; return where the rest starts, and whether the client stays."""
        buffer = self._buffer
        replies = []
        is_open = True
        messages = self.messages
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
                self._count(payload, size, is_packed=opcode == _BINARY)
            elif opcode == _PING:
                replies.append(b"\x8a%c%b" % (size, payload[:size]))
            elif opcode == _CLOSE:
                replies.append(b"\x88%c%b" % (size, payload[:size]))
                is_open = False
        if self._acks and self.messages > messages:
            ack = b'{"ack":%d}' % self.messages
            replies.insert(0, b"\x81%c%b" % (len(ack), ack))
        if replies:
            self._sock.sendall(b"".join(replies))
        return start, is_open

    def _count(self, payload: bytes, size: int, *, is_packed: bool) -> None:
        self.messages += 1
        self.payload_bytes += size
        if is_packed and self._unpack is not None:
            payload = self._unpack(payload[:size], _BUFFER)
            size = len(payload)
            self.compressed += 1
        if payload.startswith(_REPORT):
            return
        if self._sink.ledger is not None:
            self._sink.ledger.record(payload[:size])
        elif self._sink.arrivals is not None:
            self._sink.arrivals.keep(payload[:size], _in_array)
        self.events += payload.count(_EVENT, 0, size)

    def cut(self) -> None:
        """End the connection without a close frame, from any thread."""
        with contextlib.suppress(OSError):
            socket.socket.shutdown(self._sock, socket.SHUT_RDWR)


def _unmasked(buffer: bytearray, mask: int, size: int) -> bytes:
    """Return the payload after the mask at an index, and up to 7 meaningless bytes after it."""
    words = bytes(buffer[mask + 4 : mask + 4 + (size + 7) // 8 * 8])
    words += bytes(-len(words) % 8)  # at the very end of the buffer
    key = np.uint64(int.from_bytes(buffer[mask : mask + 4] * 2, "little"))
    unmasked: bytes = (np.frombuffer(words, dtype="<u8") ^ key).tobytes()
    return unmasked


class Sink:
    """Listens, and counts the events of its clients."""

    def __init__(
        self, *, acks: bool, reports: bool, ledger: bool, keep: bool, reset_every: float
    ) -> None:
        self.acks = acks
        self.reports = reports
        self.reset_every = reset_every
        self.ledger = Ledger() if ledger else None
        self.arrivals = Arrivals() if keep else None
        self._clients: list[Client] = []  # the closed ones included
        self._open: set[Client] = set()
        self._meters: list[Metered] = []  # those of closed connections included
        self._lock = threading.Lock()

    def listen(self, sock: socket.socket, tls: ssl.SSLContext | None) -> None:
        """Serve each connection on its own thread, forever."""
        while True:
            client, _ = sock.accept()
            metered = Metered(fileno=client.detach())
            self._meters.append(metered)
            threading.Thread(target=self._serve, args=(metered, tls), daemon=True).start()

    def _serve(self, sock: Metered | ssl.SSLSocket, tls: ssl.SSLContext | None) -> None:
        with contextlib.suppress(OSError, ValueError, KeyError), contextlib.ExitStack() as stack:
            stack.callback(lambda: _end(sock, by_reset=bool(self.reset_every)))
            sock.settimeout(_HANDSHAKE_TIMEOUT)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if tls is not None:
                sock = tls.wrap_socket(sock, server_side=True)
            early = sock.recv(65536)
            sock.settimeout(None)
            if early.startswith(b"{"):
                self._serve_lines(sock, early)
            else:
                self._serve_http(sock, early)

    def _serve_lines(self, sock: socket.socket, early: bytes) -> None:
        chunk, rest = early, b""
        while chunk:
            whole, newline, rest = (rest + chunk).rpartition(b"\n")
            if newline and self.arrivals is not None:
                self.arrivals.keep(whole, _in_lines)
            chunk = sock.recv(65536)

    def _serve_http(self, sock: socket.socket, early: bytes) -> None:
        stays = True
        while stays:
            target, headers, early = _request(sock, early)
            if b"sec-websocket-key" in headers:
                self._serve_client(Client(self, sock, target), headers, early)
                return
            if headers.get(b"expect"):
                sock.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
            body, early = _body(sock, headers, early)
            url = urllib.parse.urlsplit(target)
            if url.path.startswith("/control/") and sock in self._meters:
                self._meters.remove(sock)
            stays = headers.get(b"connection", b"").lower() != b"close" and not self.reset_every
            kind, answer = self._answer(url, headers, body)
            sock.sendall(
                b"HTTP/1.1 200 OK\r\nContent-Type: %s\r\nContent-Length: %d\r\n"
                b"Connection: %s\r\n\r\n%s"
                % (kind, len(answer), b"keep-alive" if stays else b"close", answer)
            )
        if self.reset_every:  # a reset could overtake the answer
            sock.shutdown(socket.SHUT_WR)
            sock.recv(1)

    def _answer(
        self, url: urllib.parse.SplitResult, headers: Headers, body: bytes
    ) -> tuple[bytes, bytes]:
        if url.path.startswith("/control/"):
            return b"application/json", json.dumps(self._obey(url)).encode()
        if self.arrivals is not None and url.path in _FORMATS:
            encoding = headers.get(b"content-encoding", b"")
            self.arrivals.keep(body, _FORMATS[url.path], encoding)
        elif self.arrivals is not None:
            self.arrivals.complain(f"a request to {url.path}")
        return _ANSWERS.get(url.path, _ANSWER)

    def _serve_client(self, client: Client, headers: Headers, early: bytes) -> None:
        with self._lock:
            self._clients.append(client)
            self._open.add(client)
        try:
            client.serve(headers, early)
        finally:
            with self._lock:
                self._open.discard(client)

    def _obey(self, url: urllib.parse.SplitResult) -> Result:
        if url.path == "/control/counts" and self.arrivals is not None:
            query = dict(urllib.parse.parse_qsl(url.query))
            counts = self.arrivals.counts(int(query["first"]), float(query["until"]))
            return counts | {"wire_bytes": self._wire_bytes()}
        if url.path == "/control/cut":
            with self._lock:
                clients = tuple(self._open)
            for client in clients:
                client.cut()
        return self.stats()

    def stats(self) -> Result:
        """Return the counts since the start."""
        with self._lock:
            clients = tuple(self._clients)
        by_target: dict[str, list[Client]] = {}
        for client in clients:
            by_target.setdefault(client.target, []).append(client)
        counts = _totals(clients) | {
            "wire_bytes": self._wire_bytes(),
            "targets": {target: _totals(group) for target, group in by_target.items()},
            "cpu_seconds": time.process_time(),
        }
        if self.ledger is not None:
            counts |= {"unique": self.ledger.unique, "repeats": self.ledger.repeats}
        return counts

    def _wire_bytes(self) -> int:
        return sum(meter.received for meter in tuple(self._meters))


def _totals(clients: Sequence[Client]) -> Result:
    return {
        "connections": len(clients),
        "messages": sum(client.messages for client in clients),
        "compressed": sum(client.compressed for client in clients),
        "events": sum(client.events for client in clients),
        "bytes": sum(client.payload_bytes for client in clients),
        "wire_bytes": sum(client.wire_bytes for client in clients),
    }


def _more(sock: socket.socket) -> bytes:
    chunk = sock.recv(65536)
    if not chunk:
        raise ConnectionError("the client closed the connection")
    return chunk


def _line(sock: socket.socket, data: bytes, end: bytes = b"\r\n") -> tuple[bytes, bytes]:
    """Read up to a delimiter; return the bytes before it, and those after it."""
    while end not in data:
        data += _more(sock)
    line, _, rest = data.partition(end)
    return line, rest


def _exactly(sock: socket.socket, size: int, data: bytes) -> tuple[bytes, bytes]:
    while len(data) < size:
        data += _more(sock)
    return data[:size], data[size:]


def _request(sock: socket.socket, data: bytes) -> tuple[str, Headers, bytes]:
    """Read a request; return its target, its headers, and the bytes after them."""
    head, rest = _line(sock, data, b"\r\n\r\n")
    first, *lines = head.split(b"\r\n")
    fields = (line.partition(b":") for line in lines)
    headers = {name.strip().lower(): value.strip() for name, _, value in fields}
    return first.split()[1].decode("latin-1"), headers, rest


def _body(sock: socket.socket, headers: Headers, data: bytes) -> tuple[bytes, bytes]:
    if headers.get(b"transfer-encoding", b"").lower() != b"chunked":
        return _exactly(sock, int(headers.get(b"content-length", b"0")), data)
    body = b""
    while True:
        line, data = _line(sock, data)
        size = int(line.split(b";")[0], 16)
        chunk, data = _exactly(sock, size + 2, data)  # including the line end
        body += chunk[:size]
        if not size:
            return body, data


def _end(sock: socket.socket, *, by_reset: bool) -> None:
    if by_reset:
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


def _tls() -> tuple[ssl.SSLContext, str]:
    """Return a context with a certificate for loopback, and the PEM of its authority."""
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
    parser.add_argument("--tls", action="store_true")
    parser.add_argument("--acks", action="store_true")
    parser.add_argument("--reports", action="store_true")
    remembering = parser.add_mutually_exclusive_group()
    remembering.add_argument("--ledger", action="store_true")
    remembering.add_argument("--keep", action="store_true")
    parser.add_argument("--reset-every", type=float, default=0.0, metavar="SECONDS")
    options = parser.parse_args()
    tls, authority = _tls() if options.tls else (None, None)
    sink = Sink(
        acks=options.acks,
        reports=options.reports,
        ledger=options.ledger,
        keep=options.keep,
        reset_every=options.reset_every,
    )
    with socket.create_server(("127.0.0.1", 0), backlog=128) as sock:
        introduce({"port": sock.getsockname()[1]} | ({"ca": authority} if authority else {}))
        sink.listen(sock, tls)


if __name__ == "__main__":
    main()
