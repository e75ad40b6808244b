"""What a server says that it has: believed where it can be true, else the connection ends."""

from __future__ import annotations

import logging
import socket
import sys
import threading
from typing import Any

import pytest

from redvsblue_telemetry import Telemetry, TelemetrySettings, start_telemetry
from redvsblue_telemetry.testing import RecordingServer
from tests.support.raw_server import (
    Script,
    frame,
    raw_server,
    read_request,
    read_to_the_end,
    shake_hands,
)
from tests.support.wait import wait_until

QUICK: dict[str, Any] = {
    "enabled": True,
    "drain_interval": 0.02,
    "backoff_base": 0.01,
    "backoff_max": 0.05,
}
PROMISE = b"Telemetry-Ack: cumulative"
TEXT, BINARY, PING, PONG = 0x1, 0x2, 0x9, 0xA
A_MEGABYTE = b'{"ack": 1, "x": "' + b"y" * 2**20 + b'"}'


def fence(client: socket.socket) -> None:
    """Return once the client has taken in all that was sent to it: it answers in order."""
    client.sendall(frame(PING))
    answer = b""
    while b"\x8a\x80" not in answer and (chunk := client.recv(65536)):
        answer += chunk


def read_message(client: socket.socket) -> None:
    """Read one message of the client's, whose frames have lengths of two bytes at most."""

    def read(count: int) -> bytes:
        data = b""
        while len(data) < count and (chunk := client.recv(count - len(data))):
            data += chunk
        return data

    length = read(2)[1] & 0x7F
    read(4 + (int.from_bytes(read(2), "big") if length == 126 else length))


def assert_ledger(telemetry: Telemetry, *, delivered: int, in_flight: int = 0) -> None:
    ledger = telemetry.stats()
    assert (ledger.delivered, ledger.in_flight) == (delivered, in_flight)
    assert (ledger.dropped, ledger.buffered) == (0, ledger.emitted - delivered - in_flight)


def assert_arrives_later(port: int, telemetry: Telemetry, types: list[str]) -> None:
    """Have the server replaced by one that behaves: it gets what the first one didn't confirm."""
    with RecordingServer(port=port) as server:
        assert telemetry.flush(10)
        # Of this session: a client of another test may have found its way to the port.
        events = [e["type"] for e in server.events if e["sessionId"] == telemetry.session_id]
        assert events == types
        assert telemetry.stop(5)


NONSENSE = {
    "too high": frame(TEXT, b'{"ack": 2}'),
    "higher than any integer": frame(TEXT, b'{"ack": 99999999999999999999999}'),
    "more digits than Python reads": frame(TEXT, b'{"ack": ' + b"9" * 5000 + b"}"),
    "negative": frame(TEXT, b'{"ack": -1}'),
    "a float": frame(TEXT, b'{"ack": 1.0}'),
    "an exponent": frame(TEXT, b'{"ack": 1e0}'),
    "a boolean": frame(TEXT, b'{"ack": true}'),
    "null": frame(TEXT, b'{"ack": null}'),
    "a string": frame(TEXT, b'{"ack": "1"}'),
    "an array": frame(TEXT, b'[{"ack": 1}]'),
    "a bare number": frame(TEXT, b"1"),
    "another key": frame(TEXT, b'{"Ack": 1}'),
    "nothing": frame(TEXT),
    "not JSON": frame(TEXT, b"{'ack': 1}"),
    "half of it": frame(TEXT, b'{"ack": 1'),
    "more than one": frame(TEXT, b'{"ack": 1}{"ack": 1}'),
    "not UTF-8": frame(TEXT, b'{"ack\xff": 1}'),
    "nested without end": frame(TEXT, b'{"ack": 1, "x": ' + b"[" * 60000),
    "binary": frame(BINARY, b'{"ack": 1}'),
    "in binary fragments": frame(BINARY, b'{"ack"', fin=False) + frame(0, b": 1}"),
}


NESTED_DEEP = frame(TEXT, b'{"ack": 1, "x": ' + b"[" * 20000 + b"]" * 20000 + b"}")
if sys.version_info < (3, 14):  # from then on, it isn't the levels that count but the C stack
    NONSENSE["nested deep"] = NESTED_DEEP


@pytest.mark.parametrize("nonsense", NONSENSE.values(), ids=NONSENSE)
def test_an_ack_that_makes_no_sense_ends_the_connection_and_costs_nothing(
    nonsense: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    def script(client: socket.socket) -> None:
        shake_hands(client, PROMISE)
        client.recv(65536)
        client.sendall(nonsense)
        read_to_the_end(client)

    with raw_server(script) as port:
        telemetry = start_telemetry(**QUICK, url=f"ws://127.0.0.1:{port}/")
        telemetry.emit("kept")
        assert wait_until(lambda: telemetry.stats().last_error)
        assert "malformed ack from the server" in str(telemetry.stats().last_error)
        assert telemetry.stats().delivered == 0
        assert wait_until(lambda: "malformed ack" in caplog.text)
    assert max(record.levelno for record in caplog.records) == logging.WARNING
    assert_arrives_later(port, telemetry, ["kept"])


@pytest.mark.skipif(
    sys.version_info < (3, 14), reason="Python: the message is malformed before 3.14"
)
def test_an_ack_that_is_nested_deep_is_an_ack() -> None:
    """The worker's stack, of the usual size, has room for it."""

    def script(client: socket.socket) -> None:
        shake_hands(client, PROMISE)
        client.recv(65536)
        client.sendall(NESTED_DEEP)
        read_to_the_end(client)

    with raw_server(script) as port:
        telemetry = start_telemetry(**QUICK, url=f"ws://127.0.0.1:{port}/")
        telemetry.emit("kept")
        assert wait_until(lambda: telemetry.stats().delivered == 1)
        assert telemetry.stop(5)


def test_an_ack_of_a_megabyte_is_not_even_read() -> None:
    def script(client: socket.socket) -> None:
        shake_hands(client, PROMISE)
        client.recv(65536)
        client.sendall(b"\x81\x7f" + len(A_MEGABYTE).to_bytes(8, "big") + A_MEGABYTE)
        read_to_the_end(client)

    with raw_server(script) as port:
        telemetry = start_telemetry(**QUICK, url=f"ws://127.0.0.1:{port}/")
        telemetry.emit("kept")
        assert wait_until(lambda: telemetry.stats().last_error)
        assert "sent too much data" in str(telemetry.stats().last_error)
        assert telemetry.stats().delivered == 0
    assert_arrives_later(port, telemetry, ["kept"])


def acks_in_turn(*acks: bytes) -> tuple[Script, threading.Event]:
    """Ack each message that comes by the next of these; then wait until the event is set."""
    over = threading.Event()
    left = iter(acks)

    def script(client: socket.socket) -> None:
        shake_hands(client, PROMISE)
        for ack in left:
            client.recv(65536)
            client.sendall(ack)
        fence(client)
        over.set()
        read_to_the_end(client)

    return script, over


def test_an_ack_that_goes_back_ends_the_connection_and_unconfirms_nothing() -> None:
    script, _ = acks_in_turn(frame(TEXT, b'{"ack": 1}'), frame(TEXT, b'{"ack": 0}'))
    with raw_server(script) as port:
        telemetry = start_telemetry(**QUICK, url=f"ws://127.0.0.1:{port}/")
        telemetry.emit("first")
        assert telemetry.flush(5)
        telemetry.emit("second")
        assert not telemetry.flush(0.1)
        assert wait_until(lambda: telemetry.stats().last_error)
        assert "malformed ack from the server: it confirms batch 0" in str(
            telemetry.stats().last_error
        )
        assert telemetry.stats().delivered == 1
    assert_arrives_later(port, telemetry, ["second"])
    assert_ledger(telemetry, delivered=2)


def test_an_ack_that_is_repeated_delivers_nothing_twice() -> None:
    thrice = frame(TEXT, b'{"ack": 1}') * 3
    script, over = acks_in_turn(thrice, frame(TEXT, b'{"ack": 1, "more": [{}, "of it"]}'))
    with raw_server(script) as port:
        telemetry = start_telemetry(**QUICK, url=f"ws://127.0.0.1:{port}/")
        telemetry.emit("first")
        assert telemetry.flush(5)
        telemetry.emit("second")
        assert not telemetry.flush(0.1)
        assert over.wait(5)
        assert_ledger(telemetry, delivered=1, in_flight=1)
        assert telemetry.stats().last_error is None
    assert_arrives_later(port, telemetry, ["second"])


def test_one_ack_covers_all_batches_up_to_it() -> None:
    def script(client: socket.socket) -> None:
        shake_hands(client, PROMISE)
        for _ in range(5):
            read_message(client)
        client.sendall(frame(TEXT, b'{"ack": 3}'))
        fence(client)
        over.set()
        read_to_the_end(client)

    over = threading.Event()
    with raw_server(script) as port:
        settings = TelemetrySettings(**QUICK, url=f"ws://127.0.0.1:{port}/", batch_size=2)
        telemetry = Telemetry(settings)
        telemetry.set_online(False)  # before the start: the script is for one connection
        telemetry.start()
        for number in range(10):
            telemetry.emit(f"e{number}")
        telemetry.set_online(True)
        assert over.wait(5)
        assert_ledger(telemetry, delivered=6, in_flight=4)
    assert_arrives_later(port, telemetry, [f"e{number}" for number in range(6, 10)])
    assert_ledger(telemetry, delivered=10)


@pytest.mark.parametrize("answer", [b"Telemetry-Ack: newest", b"X-Telemetry-Ack: cumulative"])
def test_without_the_promise_an_ack_confirms_nothing_and_harms_nothing(answer: bytes) -> None:
    acks = [b'{"ack": 1}', b'{"ack": 99}', b'{"ack": -1}', b"no ack", b"\xff", b"[" * 60000]

    def script(client: socket.socket) -> None:
        requests.append(shake_hands(client, answer))
        client.recv(65536)
        for ack in acks:
            client.sendall(frame(TEXT, ack) + frame(BINARY, ack))
        fence(client)
        acked.set()
        released.wait(10)
        client.sendall(frame(PONG, b"1"))
        read_to_the_end(client)

    requests: list[bytes] = []
    acked, released = threading.Event(), threading.Event()
    with raw_server(script) as port:
        telemetry = start_telemetry(**QUICK, url=f"ws://127.0.0.1:{port}/")
        telemetry.emit("x")
        assert acked.wait(5)
        assert_ledger(telemetry, delivered=0, in_flight=1)
        released.set()
        assert telemetry.flush(5)
        assert_ledger(telemetry, delivered=1)
        assert telemetry.stop(5)
    assert telemetry.stats().last_error is None
    assert b"\r\nTelemetry-Ack: cumulative\r\n" in requests[0]


def test_whoever_wants_no_proof_asks_for_no_acks() -> None:
    def script(client: socket.socket) -> None:
        requests.append(read_request(client))

    requests: list[bytes] = []
    with raw_server(script) as port:
        telemetry = start_telemetry(**QUICK, url=f"ws://127.0.0.1:{port}/", confirm="none")
        assert wait_until(lambda: requests)
        telemetry.stop(1)
    assert b"telemetry-ack" not in requests[0].lower()


FORGED = [
    *(b"0", b"2", b"3", b"99", b"-1", b"+1", b" 1", b"1 ", b"1\n", b"1.0", b"1_0", b"0x1"),
    *(b"", b"keepalive", b"\xff" * 125, b"\0" * 4),
    *(b"9" * 18, b"9" * 19, b"9" * 20, b"9" * 125),
    *("²".encode(), "²".encode("latin-1"), "\u0661".encode(), "\U0001d7d9".encode()),
]


def test_a_forged_pong_is_never_believed_and_the_true_one_still_is() -> None:
    def script(client: socket.socket) -> None:
        shake_hands(client)
        client.recv(65536)
        for payload in FORGED:
            client.sendall(frame(PONG, payload))
        fence(client)
        forged.set()
        released.wait(10)
        client.sendall(frame(PONG, b"1") * 2)
        read_to_the_end(client)

    forged, released = threading.Event(), threading.Event()
    with raw_server(script) as port:
        telemetry = start_telemetry(**QUICK, url=f"ws://127.0.0.1:{port}/")
        telemetry.emit("x")
        assert forged.wait(5)
        assert_ledger(telemetry, delivered=0, in_flight=1)
        released.set()
        assert telemetry.flush(5)
        assert_ledger(telemetry, delivered=1)
        assert telemetry.stats().last_error is None
        assert telemetry.stop(5)
