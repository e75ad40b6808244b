"""Servers that send anything at all, once connected: at worst the connection is lost."""

from __future__ import annotations

import itertools
import logging
import random
import socket
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Callable
from typing import Any

import pytest

from redvsblue_telemetry import ConnectionState, Telemetry, start_telemetry
from redvsblue_telemetry._network import dial
from redvsblue_telemetry.testing import RecordingServer
from tests.support import REPOSITORY
from tests.support.raw_server import Script, frame, raw_server, read_to_the_end, shake_hands
from tests.support.sockets import narrowed
from tests.support.wait import wait_until

QUICK: dict[str, Any] = {
    "enabled": True,
    "drain_interval": 0.02,
    "backoff_base": 0.005,
    "backoff_max": 0.02,
}
TEXT, BINARY, CLOSE, PING, PONG = 0x1, 0x2, 0x8, 0x9, 0xA
MEBIBYTE = 2**20


def long_frame(head: int, length: int, payload: bytes = b"") -> bytes:
    """Return a frame with its length in eight bytes, needed or not."""
    return bytes([head, 127]) + length.to_bytes(8, "big") + payload


def noise(seed: int) -> bytes:
    return random.Random(seed).randbytes(5000)


HOSTILE = {
    "noise": noise(1),
    "more noise": noise(2),
    "noise in frames": b"".join(frame(n % 16, noise(n)[: n * 7]) for n in range(3, 40)),
    "every opcode": b"".join(frame(opcode, b"9") for opcode in (1, 2, 9, 10, 3, 11)),
    "the reserved bits": bytes([0xC1, 1, 65]) + bytes([0xA1, 1, 65]) + bytes([0x91, 1, 65]),
    "masked frames": b"\x8a\x81abcd" + b"X" + b"\x81\x85abcd" + b"hello" + b"\x89\x80abcd",
    "a length of 2**63": long_frame(0x81, 2**63),
    "the greatest length": long_frame(0x82, 2**64 - 1, b"x" * 100_000),
    "a pong of 2**40 bytes": long_frame(0x8A, 2**40, b"9" * 100_000),
    "lengths longer than they need": b"\x81\x7e\0\1a" + long_frame(0x81, 1, b"a"),
    "a ping over 125 bytes": frame(PING, b"p" * 60000) * 4,
    "a pong of too many digits": frame(PONG, b"9" * 5000),
    "fragmented pings": frame(PING, b"p", fin=False) + frame(0, b"p"),
    "fragmented pongs": frame(PONG, b"9", fin=False) + frame(0, b"9"),
    "a fragmented close": frame(CLOSE, b"\x03\xe8", fin=False) + frame(0),
    "a close of one byte": frame(CLOSE, b"\x03"),
    "a close with no such code": frame(CLOSE, b"\x00\x00"),
    "a close with a code for nobody": frame(CLOSE, (1006).to_bytes(2, "big")),
    "a close that is not UTF-8": frame(CLOSE, b"\x03\xe8\xff\xfe"),
    "a close of many bytes": frame(CLOSE, b"\x03\xe8" + b"hush" * 1000),
    "a close and more": frame(CLOSE, b"\x03\xe8") + frame(PONG, b"1") + noise(3),
    "text that is not JSON": frame(TEXT, b"hush {") + frame(TEXT, b"[" * 60000),
    "text that is not UTF-8": frame(TEXT, b"\xff\xfe\xed\xa0\x80"),
    "fragments without end": frame(TEXT, b"a", fin=False) + frame(0, b"a" * 999, fin=False) * 99,
    "empty fragments": frame(TEXT, b"", fin=False) + frame(0, b"", fin=False) * 5000,
    "a message in a message": frame(TEXT, b"a", fin=False) + frame(TEXT, b"b"),
    "half a frame": frame(TEXT, b"x" * 1000)[:500],
    "half a head": b"\x81",
    "pings by the thousand": frame(PING, b"ping") * 10_000,
    "pongs by the thousand": frame(PONG, b"7") * 10_000,
    "a second handshake": b"HTTP/1.1 101 Switching Protocols\r\n\r\n",
}


def say(data: bytes, *headers: bytes) -> Script:
    """Shake hands, send the data, and hang up once the client has had time to read it."""

    def script(client: socket.socket) -> None:
        shake_hands(client, *headers)
        client.recv(65536)
        client.sendall(data)
        client.shutdown(socket.SHUT_WR)
        read_to_the_end(client)

    return script


def assert_recovers(port: int, telemetry: Telemetry, caplog: pytest.LogCaptureFixture) -> None:
    """Have a server in its place that behaves: it gets all there is, and the log is in order."""
    with RecordingServer(port=port) as server:
        telemetry.emit("after")
        assert telemetry.flush(10)
        # Of this session: a client of another test may have found its way to the port.
        events = [e["type"] for e in server.events if e["sessionId"] == telemetry.session_id]
        assert events == ["before", "after"]
        assert telemetry.stop(5)
    ledger = telemetry.stats()
    assert (ledger.emitted, ledger.delivered, ledger.dropped) == (2, 2, 0)
    assert max(record.levelno for record in caplog.records) == logging.WARNING
    assert len(caplog.records) <= 20
    assert "hush" not in caplog.text


@pytest.mark.parametrize("data", HOSTILE.values(), ids=HOSTILE)
def test_events_arrive_once_a_hostile_server_behaves(
    data: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    with raw_server(say(data)) as port:
        telemetry = start_telemetry(**QUICK, url=f"ws://127.0.0.1:{port}/")
        telemetry.emit("before")
        # Twice, so what is left over of the first time would be found.
        assert wait_until(lambda: telemetry.stats().reconnects >= 2)
        assert telemetry.stats().delivered == 0
    assert_recovers(port, telemetry, caplog)


def test_all_of_it_in_turn_does_no_more_to_a_client_that_was_promised_acks(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def script(client: socket.socket) -> None:
        say(next(turns), b"Telemetry-Ack: cumulative")(client)

    turns = itertools.cycle(HOSTILE.values())
    with raw_server(script) as port:
        telemetry = start_telemetry(**QUICK, url=f"ws://127.0.0.1:{port}/")
        telemetry.emit("before")
        assert wait_until(lambda: telemetry.stats().reconnects >= len(HOSTILE))
        assert telemetry.stats().delivered == 0
    assert_recovers(port, telemetry, caplog)


def pour(data: bytes, limit: float = float("inf"), first: bytes = b"") -> Script:
    """Shake hands and send this over and over, reading nothing until so many bytes are sent."""

    def script(client: socket.socket) -> None:
        shake_hands(client)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.sendall(first)
        sent = 0
        while sent < limit:
            client.sendall(data)
            sent += len(data)
        client.shutdown(socket.SHUT_WR)
        while client.recv(65536):  # else the close would be a reset, and what was sent gone
            pass

    return script


MORE = frame(0, b"f" * 1000, fin=False) * 60
FLOODS: dict[str, Callable[..., Script]] = {
    "pongs": lambda limit: pour(frame(PONG, b"7" * 120) * 500, limit),
    "pings": lambda limit: pour(frame(PING, b"p" * 125) * 500, limit),
    "messages": lambda limit: pour(frame(TEXT, b"m" * 120) * 500, limit),
    "empty fragments": lambda limit: pour(
        frame(0, b"", fin=False) * 9000, limit, frame(TEXT, b"", fin=False)
    ),
}


@pytest.mark.parametrize("name", ["pongs", "pings", "messages", "fragments"])
def test_a_flood_is_not_kept_though_the_server_never_reads(
    name: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The answers to pings have to fill the buffers of two kernels first.
    monkeypatch.setattr(dial.sigpipe, "spare", narrowed)
    floods = FLOODS | {"fragments": lambda limit: pour(MORE, limit, frame(TEXT, b"", fin=False))}
    with raw_server(floods[name](limit=3 * MEBIBYTE)) as port:
        tracemalloc.start()
        try:
            telemetry = start_telemetry(**QUICK, url=f"ws://127.0.0.1:{port}/")
            telemetry.emit("before")
            assert wait_until(lambda: telemetry.stats().last_error)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert peak < 2 * MEBIBYTE
    assert_recovers(port, telemetry, caplog)


@pytest.mark.parametrize("name", FLOODS)
def test_a_flood_that_confirms_nothing_is_given_up(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    with raw_server(FLOODS[name](limit=float("inf"))) as port:
        telemetry = start_telemetry(**QUICK, url=f"ws://127.0.0.1:{port}/", confirm_timeout=0.1)
        telemetry.emit("before")
        assert wait_until(lambda: telemetry.stats().last_error)
        assert "confirmed nothing" in str(telemetry.stats().last_error)
    assert_recovers(port, telemetry, caplog)


@pytest.mark.parametrize("name", FLOODS)
def test_a_stop_in_the_midst_of_a_flood_returns_in_time(name: str) -> None:
    with raw_server(FLOODS[name](limit=float("inf"))) as port:
        telemetry = start_telemetry(**QUICK, url=f"ws://127.0.0.1:{port}/")
        telemetry.emit("before")
        assert wait_until(lambda: telemetry.stats().in_flight == 1)
        start = time.monotonic()
        assert not telemetry.stop(0.2)
        assert time.monotonic() - start < 5
        assert wait_until(lambda: telemetry.stats().state is ConnectionState.STOPPED)


@pytest.mark.slow
def test_fuzzing_finds_nothing() -> None:
    command = [sys.executable, "-m", "benchmarks.fuzz", "--inputs", "3000", "--seed", "1"]
    root = REPOSITORY
    done = subprocess.run(
        command, cwd=root, capture_output=True, text=True, timeout=100, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "3000 inputs of seed 1" in done.stdout
    assert "failed: 0" in done.stdout
