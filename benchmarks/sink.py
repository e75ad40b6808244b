"""A sink that every SDK of the side-by-side benchmark can send to, in a process of its own.

It speaks WebSocket (batches as JSON arrays, Pings answered), HTTP (Sentry's envelopes, OTLP, and
the batches of PostHog, Segment and Amplitude) and JSON lines over TCP, each on a port of its own.
What comes is kept as it came, with the time: it is decompressed, parsed and counted only when
somebody asks, so no peer's measurement is disturbed by the parsing of its format.

    python -m benchmarks.sink

Each event has a serial number in its field ``n``: so an event that comes twice is counted once.
``GET /control/counts?first=N&until=TIME`` on the HTTP port tells how many different events numbered
N and up have arrived, and how many of them had by that time (seconds since the epoch). It ends
when its standard input does.
"""

from __future__ import annotations

import asyncio
import collections
import gzip
import json
import time
import urllib.parse
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import websockets.asyncio.server
import websockets.exceptions

from benchmarks.measuring import Result, introduce

HOST = "127.0.0.1"
_LONGEST_LINE = 1024 * 1024


# How each format numbers its events.


def _numbers_in_array(body: bytes) -> Iterator[int]:
    """A batch of this SDK."""
    return (event["data"]["n"] for event in json.loads(body))


def _numbers_in_lines(body: bytes) -> Iterator[int]:
    """What the logging handler sends."""
    return (json.loads(line)["n"] for line in body.splitlines())


def _numbers_in_envelope(body: bytes) -> Iterator[int]:
    """Sentry: a header, then items, each with a header of its own that may tell its length."""
    _, _, rest = body.partition(b"\n")
    while rest.strip():
        line, _, rest = rest.partition(b"\n")
        header = json.loads(line)
        length = header.get("length", rest.find(b"\n") if b"\n" in rest else len(rest))
        payload, rest = rest[:length], rest[length:].removeprefix(b"\n")
        if header["type"] == "log":
            for item in json.loads(payload)["items"]:
                yield item["attributes"]["n"]["value"]


def _numbers_in_otlp(body: bytes) -> Iterator[int]:
    from opentelemetry.proto.collector.logs.v1 import logs_service_pb2

    request = logs_service_pb2.ExportLogsServiceRequest.FromString(body)
    for resource_logs in request.resource_logs:
        for scope_logs in resource_logs.scope_logs:
            for record in scope_logs.log_records:
                yield next(a.value.int_value for a in record.attributes if a.key == "n")


def _numbers_in_batch(body: bytes) -> Iterator[int]:
    """PostHog and Segment."""
    return (event["properties"]["n"] for event in json.loads(body)["batch"])


def _numbers_in_amplitude(body: bytes) -> Iterator[int]:
    return (event["event_properties"]["n"] for event in json.loads(body)["events"])


_OF_PATH: dict[str, Callable[[bytes], Iterator[int]]] = {
    "/api/1/envelope/": _numbers_in_envelope,
    "/v1/logs": _numbers_in_otlp,
    "/batch/": _numbers_in_batch,
    "/v1/batch": _numbers_in_batch,
    "/2/httpapi": _numbers_in_amplitude,
}
_ANSWERS = {"/v1/logs": (b"application/x-protobuf", b"")}
_ANSWER = (b"application/json", b'{"code":200,"status":"Ok","success":true}')


def _decompress(body: bytes, encoding: str) -> bytes:
    match encoding:
        case "gzip":
            return gzip.decompress(body)
        case "deflate":
            return zlib.decompress(body)
        case "br":
            import brotli  # only where a peer has found it, too

            return bytes(brotli.decompress(body))
    return body


# What has arrived.


class Arrivals:
    """All that has come: kept raw first, counted when asked."""

    def __init__(self) -> None:
        self._raw: collections.deque[tuple[float, bytes, str, Callable[[bytes], Any]]] = (
            collections.deque()
        )
        self._first_seen: dict[int, float] = {}  # when each event came first
        self._repeats = 0
        self.requests = 0
        self.wire_bytes = 0
        self.errors: list[str] = []

    def keep(self, body: bytes, numbers: Callable[[bytes], Any], encoding: str = "") -> None:
        """Take what came just now."""
        self._raw.append((time.time(), body, encoding, numbers))
        self.requests += 1
        self.wire_bytes += len(body)

    def complain(self, error: str) -> None:
        """Note what could not be understood; the first few are enough."""
        if len(self.errors) < 5:
            self.errors.append(error)

    def counts(self, first: int, until: float) -> Result:
        """How many different events have come: in all, and by a time."""
        self._count()
        times = [at for number, at in self._first_seen.items() if number >= first]
        return {
            "seen": len(self._first_seen),
            "arrived": len(times),
            "arrived_in_time": sum(at <= until for at in times),
            "repeats": self._repeats,
            "requests": self.requests,
            "wire_bytes": self.wire_bytes,
            "errors": self.errors,
            "cpu_seconds": time.process_time(),
        }

    def _count(self) -> None:
        while self._raw:
            at, body, encoding, numbers = self._raw.popleft()
            try:
                for number in numbers(_decompress(body, encoding)):
                    if self._first_seen.setdefault(int(number), at) is not at:
                        self._repeats += 1
            except Exception as error:  # whatever a peer sends: it is told, and the rest counted
                self.complain(f"{numbers.__name__}: {error!r} in {body[:80]!r}")


# The three ports.


async def _serve_http(
    arrivals: Arrivals, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    try:
        while await _serve_request(arrivals, reader, writer):
            pass
    except (asyncio.IncompleteReadError, ConnectionError):
        pass  # the client has gone
    finally:
        writer.close()


async def _serve_request(
    arrivals: Arrivals, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> bool:
    """Read one request and answer it; whether the connection stays open."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    request, *lines = head.strip().split("\r\n")
    _, target, _ = request.split(" ")
    headers = {
        name.strip().lower(): value.strip()
        for name, _, value in (line.partition(":") for line in lines)
    }
    if headers.get("expect"):
        writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    body = await _read_body(reader, headers)
    url = urllib.parse.urlsplit(target)
    kind, answer = _ANSWERS.get(url.path, _ANSWER)
    if url.path == "/control/counts":
        query = dict(urllib.parse.parse_qsl(url.query))
        counts = arrivals.counts(int(query["first"]), float(query["until"]))
        answer = json.dumps(counts).encode()
    elif url.path in _OF_PATH:
        arrivals.keep(body, _OF_PATH[url.path], headers.get("content-encoding", ""))
    else:
        arrivals.complain(f"a request to {url.path}")
    stays = headers.get("connection", "").lower() != "close"
    writer.write(
        b"HTTP/1.1 200 OK\r\nContent-Type: %s\r\nContent-Length: %d\r\nConnection: %s\r\n\r\n%s"
        % (kind, len(answer), b"keep-alive" if stays else b"close", answer)
    )
    await writer.drain()
    return stays


async def _read_body(reader: asyncio.StreamReader, headers: dict[str, str]) -> bytes:
    if headers.get("transfer-encoding", "").lower() != "chunked":
        return await reader.readexactly(int(headers.get("content-length", "0")))
    body = b""
    while size := int((await reader.readline()).split(b";")[0], 16):
        body += await reader.readexactly(size)
        await reader.readline()
    await reader.readline()
    return body


async def _serve_lines(
    arrivals: Arrivals, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    rest = b""
    try:
        while chunk := await reader.read(65536):
            whole, newline, rest = (rest + chunk).rpartition(b"\n")
            if newline:
                arrivals.keep(whole, _numbers_in_lines)
    except ConnectionError:
        pass  # what came is kept
    finally:
        writer.close()


async def _serve_websocket(
    arrivals: Arrivals, connection: websockets.asyncio.server.ServerConnection
) -> None:
    try:
        while True:
            arrivals.keep(await connection.recv(decode=False), _numbers_in_array)
    except websockets.exceptions.ConnectionClosed:
        pass  # what came is kept


async def serve() -> None:
    """Listen on three ports, say which, and serve for ever."""
    arrivals = Arrivals()
    http = await asyncio.start_server(
        lambda reader, writer: _serve_http(arrivals, reader, writer), HOST, 0, limit=_LONGEST_LINE
    )
    lines = await asyncio.start_server(
        lambda reader, writer: _serve_lines(arrivals, reader, writer), HOST, 0
    )
    websocket = await websockets.asyncio.server.serve(
        lambda connection: _serve_websocket(arrivals, connection),
        HOST,
        0,
        compression=None,
        max_size=None,
    )
    servers = {"http": http, "lines": lines, "websocket": websocket}
    introduce({name: next(iter(s.sockets)).getsockname()[1] for name, s in servers.items()})
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(serve())
