"""The port, and connections that only take up room: none of them keeps anybody else out."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import logging
import socket
import ssl
import time
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import trustme
from websockets.asyncio.client import connect as async_connect
from websockets.frames import Opcode

from redvsblue_telemetry.collector import listening
from redvsblue_telemetry.collector.server import Options, serve, telemetry_url
from tests.collector.clients import (
    ACKS,
    HANDSHAKE,
    acks_up_to,
    array,
    client_of,
    event,
    frame,
)
from tests.support.closing import reset
from tests.support.collector import PATIENCE, RunningCollector, collector_running
from tests.support.systems import needs_loopback_net, not_under_wine
from tests.support.wait import wait_until

TIMEOUT = 1.0  # seconds, in place of the real one; enough for a test to send its request
try:
    import uvloop
except ModuleNotFoundError:  # not available on Windows
    LOOPS = {"asyncio": asyncio.new_event_loop}
else:
    LOOPS = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}
LOGGER = "redvsblue_telemetry.collector"
GET = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listening, "_REQUEST_TIMEOUT", TIMEOUT)


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [
        record.getMessage()
        for record in caplog.records
        if record.levelno >= logging.WARNING
        and record.name.startswith((LOGGER, "uvicorn", "asyncio", "websockets"))
    ]


@contextlib.contextmanager
def connected(
    collector: RunningCollector, count: int = 1, host: str = "127.0.0.1"
) -> Iterator[list[socket.socket]]:
    with contextlib.ExitStack() as stack:
        yield [
            stack.enter_context(
                socket.create_connection(
                    ("127.0.0.1", collector.port), PATIENCE, source_address=(host, 0)
                )
            )
            for _ in range(count)
        ]


def has_ended(sock: socket.socket) -> bool:
    """Whether the other side has closed it by now; discards what it had sent before."""
    sock.setblocking(False)
    try:
        while sock.recv(65536):
            pass
    except BlockingIOError:
        return False
    except ConnectionError:
        pass
    return True


def drip(sock: socket.socket, data: bytes) -> None:
    """Send data byte by byte until the other side ends the connection, or for minutes."""
    with contextlib.suppress(ConnectionError):
        for byte in data:
            sock.sendall(bytes([byte]))
            sock.settimeout(0.02)
            with contextlib.suppress(TimeoutError):
                if sock.recv(1) == b"":
                    break


def ask(sock: socket.socket, request: bytes = GET) -> bytes:
    """The status line of the answer."""
    sock.settimeout(PATIENCE)
    sock.sendall(request)
    with sock.makefile("rb") as answer:
        status = answer.readline()
        length = 0
        while (line := answer.readline()) != b"\r\n":
            if line.lower().startswith(b"content-length:"):
                length = int(line.partition(b":")[2])
        answer.read(length)
    return status


def run(loop: asyncio.AbstractEventLoop, main: Coroutine[None, None, None]) -> None:
    with contextlib.closing(loop):
        loop.run_until_complete(main)
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.run_until_complete(loop.shutdown_default_executor())


@pytest.mark.parametrize("loop", LOOPS.values(), ids=LOOPS)
def test_connections_that_open_while_it_stops_are_closed(
    loop: Callable[[], asyncio.AbstractEventLoop], caplog: pytest.LogCaptureFixture
) -> None:
    arrived: list[socket.socket] = []

    async def play() -> None:
        stop, ready = asyncio.Event(), asyncio.get_running_loop().create_future()
        serving = asyncio.create_task(serve(Options(port=0, db=None), stop, ready.set_result))
        address = ("127.0.0.1", urlsplit(await ready).port)
        stop.set()
        with contextlib.suppress(ConnectionError):  # until the port is closed
            while not serving.done():
                arrived.append(socket.create_connection(address, PATIENCE))
                if len(arrived) > 50:
                    arrived.pop(0).close()
                await asyncio.sleep(0)
        await asyncio.wait_for(serving, PATIENCE)

    for _ in range(5):
        run(loop(), play())
        assert wait_until(lambda: all(map(has_ended, arrived)), PATIENCE)
        while arrived:
            arrived.pop().close()
    assert warnings(caplog) == []


@pytest.mark.usefixtures("quick")
def test_silent_connections_are_ended_with_one_line(
    collector: RunningCollector, caplog: pytest.LogCaptureFixture
) -> None:
    with client_of(collector) as client, connected(collector, 300) as crowd:
        assert wait_until(lambda: all(map(has_ended, crowd)), PATIENCE)
        client.send(array(1))
        assert json.loads(client.recv(timeout=PATIENCE)) == {"ack": 1}
    assert warnings(caplog) == [
        f"ended a connection that sent no complete request within {TIMEOUT:g} s; from 127.0.0.1"
    ]


@pytest.mark.usefixtures("quick")
def test_connection_that_a_browser_opens_ahead_of_need_is_not_worth_a_line(
    collector: RunningCollector, caplog: pytest.LogCaptureFixture
) -> None:
    with connected(collector) as (sock,):
        assert wait_until(lambda: has_ended(sock), PATIENCE)
    assert warnings(caplog) == []


@pytest.mark.slow
def test_silent_connection_is_ended_after_ten_seconds(collector: RunningCollector) -> None:
    began = time.monotonic()
    with connected(collector) as (sock,):
        assert wait_until(lambda: has_ended(sock), 2 * PATIENCE)
    assert time.monotonic() - began >= 10


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"GET /healthz HTTP/1.1\r\nX: " + b"x" * 10_000,
        HANDSHAKE[:-4] + b"\r\nX: " + b"x" * 10_000,
        b"POST /api/events HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9999\r\n\r\n"
        + b"x" * 9000,
        b"POST /healthz HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
        b"ffff\r\n" + b"x" * 9000,
    ],
    ids=["nothing", "request", "handshake", "body", "chunks"],
)
def test_request_that_comes_in_drips_is_ended(sent: bytes, collector: RunningCollector) -> None:
    for first in (b"", GET):  # also as the second request of a connection
        with connected(collector) as (sock,):
            if first:
                assert ask(sock).startswith(b"HTTP/1.1 200")
            drip(sock, sent)
            assert wait_until(lambda sock=sock: has_ended(sock), PATIENCE)


@pytest.mark.usefixtures("quick")
def test_requests_on_a_kept_connection_have_their_time_each(collector: RunningCollector) -> None:
    with connected(collector) as (sock,):
        for _ in range(4):
            assert ask(sock).startswith(b"HTTP/1.1 200")
            time.sleep(TIMEOUT / 2)  # the client's own pause
        assert ask(sock, GET * 2).startswith(b"HTTP/1.1 200")


@pytest.mark.usefixtures("quick")
def test_game_that_sends_nothing_stays(collector: RunningCollector) -> None:
    with client_of(collector) as client:
        with connected(collector) as (sock,):
            assert wait_until(lambda: has_ended(sock), PATIENCE)
        client.send(array(1))
        assert json.loads(client.recv(timeout=PATIENCE)) == {"ack": 1}


def test_kept_connection_is_closed_when_no_other_request_comes(collector: RunningCollector) -> None:
    with connected(collector) as (sock,):
        assert ask(sock).startswith(b"HTTP/1.1 200")
        assert wait_until(lambda: has_ended(sock), PATIENCE)


@needs_loopback_net
def test_crowd_gives_way_and_the_largest_part_of_it_first(
    collector: RunningCollector,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(listening, "_MAX_WAITING", 20)
    monkeypatch.setattr(listening, "_REQUEST_TIMEOUT", 3600.0)
    with connected(collector, 2, "127.0.0.3") as others, connected(collector, 100) as crowd:
        assert wait_until(lambda: sum(map(has_ended, crowd)) == 82, PATIENCE)
        assert not any(map(has_ended, others)), "they came first, but are few"
        assert not any(map(has_ended, crowd[-18:])), "the newest may still be about to send"
        assert ask(others[0]).startswith(b"HTTP/1.1 200")
    assert warnings(caplog) == [
        "too many connections without a complete request, 18 of them of one address; from 127.0.0.1"
    ]


def test_connections_of_all_kinds_have_a_limit(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from redvsblue_telemetry.collector import server

    monkeypatch.setattr(server, "_OTHER_CONNECTIONS", 3)
    monkeypatch.setattr(listening, "_REQUEST_TIMEOUT", 3600.0)
    with contextlib.ExitStack() as stack:
        collector = stack.enter_context(collector_running(max_connections=2))
        games = [stack.enter_context(client_of(collector)) for _ in range(2)]
        (idle,) = stack.enter_context(connected(collector))
        for _ in range(20):
            assert collector.get("/healthz").status == 200, "one that waits gives way"
        stack.enter_context(connected(collector, 10))
        assert wait_until(lambda: has_ended(idle), PATIENCE)
        assert collector.get("/healthz").status == 200
        for client in games:
            client.send(array(1))
            assert json.loads(client.recv(timeout=PATIENCE)) == {"ack": 1}
    assert len(warnings(caplog)) == 1


def fill(collector: RunningCollector, length: int) -> None:
    """Store 99 events of this length."""
    with client_of(collector) as client:
        for number in range(1, 100):
            client.send(json.dumps([event(number, data={"x": "x" * length})]))
        assert acks_up_to(client, 99)


def narrow(collector: RunningCollector) -> socket.socket:
    """A client for whom the system keeps little of what it does not read."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.connect(("127.0.0.1", collector.port))
    return sock


LARGE = b"GET /api/events?limit=99 HTTP/1.1\r\nHost: localhost\r\n\r\n"


def test_client_that_reads_a_large_answer_slowly_gets_all_of_it(
    collector: RunningCollector,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(listening, "_STALL_TIMEOUT", 0.5)
    fill(collector, 90_000)
    with narrow(collector) as sock:
        sock.settimeout(PATIENCE)
        sock.sendall(LARGE)
        with contextlib.closing(http.client.HTTPResponse(sock)) as answer:
            answer.begin()
            while chunk := answer.read(65536):
                time.sleep(len(chunk) / 4_000_000)  # so that it takes seconds
            assert answer.length == 0
    assert warnings(caplog) == []


def test_client_that_reads_no_answer_is_ended(
    collector: RunningCollector,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(listening, "_STALL_TIMEOUT", 0.5)
    fill(collector, 9000)
    with narrow(collector) as sock:
        with contextlib.suppress(ConnectionError, BlockingIOError):
            sock.setblocking(False)
            sock.sendall(LARGE * 100)
        assert wait_until(lambda: warnings(caplog), PATIENCE)
    assert warnings(caplog) == ["ended a connection that read nothing for 0.5 s; from 127.0.0.1"]


@pytest.mark.parametrize(
    "garbage",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"x" * 500,  # TLS
        b"hello\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: x\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET /\xff HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"x" * 100_000 + b"\r\n\r\n",
        b"\0" * 1000 + b"\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: upgrade\r\nUpgrade: h2c\r\n\r\n",
        HANDSHAKE.replace(b"Version: 13", b"Version: 99"),
        HANDSHAKE.replace(b"Sec-WebSocket-Key", b"X"),
        HANDSHAKE.replace(b"GET", b"POST"),
        HANDSHAKE[:-2] + b"".join(b"X-%d: x\r\n" % number for number in range(200)) + b"\r\n",
        HANDSHAKE + b"\xff" * 100,
        HANDSHAKE + frame(Opcode.TEXT, b"\xff\xfe"),
        HANDSHAKE + frame(Opcode.CONT, b"x"),
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"CONNECT example.com:443 HTTP/1.1\r\nHost: example.com\r\n\r\n",
        b"OPTIONS * HTTP/1.1\r\nHost: localhost\r\n\r\n",
    ],
)
def test_garbage_is_logged_once_a_minute_and_with_the_address(
    garbage: bytes, collector: RunningCollector, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(10):
        with connected(collector) as (sock,):
            with contextlib.suppress(ConnectionError):
                sock.sendall(garbage)
                sock.shutdown(socket.SHUT_WR)
            assert wait_until(lambda sock=sock: has_ended(sock), PATIENCE)
    assert collector.get("/healthz").status == 200
    lines = warnings(caplog)
    assert len(lines) == len(set(lines)) <= 2, "one of each kind"
    assert all(line.endswith("; from 127.0.0.1") for line in lines)


class GoneAgainError(OSError):
    """As an accept on Windows fails with when the client has reset the connection meanwhile."""

    def __init__(self, winerror: int) -> None:
        super().__init__()
        self.winerror = winerror


class LoopWithoutReaders(asyncio.SelectorEventLoop):
    """As Windows' default loop, which knows sockets but no other descriptors."""

    errors = (64, 10057)
    accepted = 0

    def add_reader(self, *_: object) -> None:
        raise NotImplementedError

    async def sock_accept(self, sock: socket.socket) -> tuple[socket.socket, Any]:
        self.accepted += 1
        if self.accepted <= len(self.errors):
            raise GoneAgainError(self.errors[self.accepted - 1])
        return await super().sock_accept(sock)

    async def sock_recv(self, sock: socket.socket, n: int) -> bytes:
        if n == 0:
            readable = asyncio.Event()
            super().add_reader(sock, readable.set)
            await readable.wait()
            super().remove_reader(sock)
        return await super().sock_recv(sock, n)


@pytest.mark.parametrize("loop", [LoopWithoutReaders, *LOOPS.values()])
@pytest.mark.parametrize("is_secure", [False, True])
def test_any_event_loop_serves(
    loop: Callable[[], asyncio.AbstractEventLoop],
    is_secure: bool,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    authority = trustme.CA()
    issued = authority.issue_cert("127.0.0.1")
    pem = tmp_path / "cert.pem"
    issued.private_key_and_cert_chain_pem.write_to_path(str(pem))
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)

    async def play() -> None:
        stop = asyncio.Event()
        ready: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        options = Options(port=0, db=None, tls_cert=pem if is_secure else None)
        serving = asyncio.create_task(serve(options, stop, ready.set_result))
        url = telemetry_url(await ready)
        context = trusting if is_secure else None
        for _ in range(3):
            async with async_connect(url, ssl=context, additional_headers=ACKS, proxy=None) as it:
                await it.send(array(1))
                assert json.loads(await it.recv()) == {"ack": 1}
        if is_secure:
            reader, writer = await asyncio.open_connection("127.0.0.1", urlsplit(url).port)
            writer.write(GET)
            assert (await reader.read()).endswith(
                b"This port serves TLS: use https:// or wss://.\n"
            )
            writer.close()
        stop.set()
        await serving

    run(loop(), asyncio.wait_for(play(), PATIENCE))
    expected = ["a request without TLS; from 127.0.0.1"] if is_secure else []
    assert warnings(caplog) == expected


@not_under_wine("an accepted connection that was reset is error 59, not 64")
def test_client_that_is_gone_before_it_is_accepted_keeps_nobody_out(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def play() -> None:
        stop = asyncio.Event()
        ready: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        serving = asyncio.create_task(serve(Options(port=0, db=None), stop, ready.set_result))
        port = urlsplit(url := await ready).port
        for _ in range(10):  # the loop doesn't run meanwhile
            with socket.create_connection(("127.0.0.1", port), PATIENCE) as sock:
                reset(sock)
        async with async_connect(telemetry_url(url), additional_headers=ACKS, proxy=None) as it:
            await it.send(array(1))
            assert json.loads(await it.recv()) == {"ack": 1}
        stop.set()
        await serving

    asyncio.run(asyncio.wait_for(play(), PATIENCE))
    assert [line for line in warnings(caplog) if "accept" in line and "retrieved" not in line] == []


def test_collector_that_can_accept_nobody_ends(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(_: listening.Acceptor) -> bool:
        raise ZeroDivisionError

    monkeypatch.setattr(listening.Acceptor, "_is_full", broken)

    async def play() -> None:
        ready = asyncio.get_running_loop().create_future()
        serving = asyncio.create_task(
            serve(Options(port=0, db=None), asyncio.Event(), ready.set_result)
        )
        port = urlsplit(await ready).port
        with socket.create_connection(("127.0.0.1", port), PATIENCE):
            await asyncio.wait_for(serving, PATIENCE)

    asyncio.run(play())
    assert warnings(caplog) == ["internal error in the collector"]
