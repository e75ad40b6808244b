"""Compressed messages, from the game to a server: who gets them, and that nothing else changes."""

from __future__ import annotations

import json
import logging
import socket
import struct
import threading
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest

from redvsblue_telemetry import Telemetry, _compression, start_telemetry
from redvsblue_telemetry._compression import DEFLATE, ZSTD, supported, unpacker
from redvsblue_telemetry._network import frames, handshake
from redvsblue_telemetry.testing import RecordingServer
from tests.client.test_fork import FORK, needs_fork
from tests.client.test_process import START, run
from tests.delivery.test_refused import picky_server, settle
from tests.support.collector import REFUSING_PORT
from tests.support.offline import started_offline
from tests.support.raw_server import frame, raw_server, shake_hands
from tests.support.wait import wait_until

QUICK: dict[str, Any] = {
    "enabled": True,
    "drain_interval": 0.02,
    "backoff_base": 0.01,
    "backoff_max": 0.02,
}
TEXT, BINARY, CLOSE, PING, PONG = 0x1, 0x2, 0x8, 0x9, 0xA
LARGEST = 1 << 24  # bytes
ENCODINGS = pytest.mark.parametrize(
    "encoding",
    [
        DEFLATE,
        pytest.param(
            ZSTD, marks=pytest.mark.skipif(ZSTD not in supported(), reason="needs backports.zstd")
        ),
    ],
)
OFFER = ", ".join(supported()).encode()


def emit(telemetry: Telemetry, count: int, first: int = 1) -> None:
    for number in range(first, first + count):
        telemetry.emit("bullet_fired", ship=f"red-{number % 8}", x=number * 7.3 % 1280)


def waiting(url: str, count: int, **settings: Any) -> Telemetry:
    """Telemetry with events in its store before it connects."""
    telemetry = started_offline(**{**QUICK, **settings}, url=url)
    emit(telemetry, count)
    telemetry.set_online(True)
    return telemetry


@ENCODINGS
@pytest.mark.parametrize("wire_format", ["json", "ndjson"])
@pytest.mark.parametrize("acks", [True, False])
def test_batches_come_compressed(encoding: str, wire_format: Any, acks: bool) -> None:
    with RecordingServer(encodings=[encoding], acks=acks) as server:
        telemetry = waiting(server.url, 120, wire_format=wire_format)
        assert telemetry.flush(10)
        assert server.wait_for(120)
        assert server.message_encodings == [encoding] * 3
        assert [event["seq"] for event in server.events] == list(range(1, 121))
        first = str(server.messages[0])
        assert first.startswith("[{" if wire_format == "json" else "{")
        assert first.endswith("}]" if wire_format == "json" else "}\n")
        assert telemetry.stats().delivered == 120
        assert telemetry.stop(5)
        assert wait_until(lambda: server.reports[-1]["state"] == "ended")  # a pong may precede it
        assert server.reports[-1]["delivered"] == 120


def test_the_best_encoding_that_both_know_is_used() -> None:
    with RecordingServer() as server:
        telemetry = waiting(server.url, 50)
        assert telemetry.flush(10)
        assert server.requests[0].headers["Telemetry-Encoding"] == ", ".join(supported())
        assert server.message_encodings == [supported()[0]]


def test_without_compression_nothing_is_offered() -> None:
    with RecordingServer() as server:
        telemetry = waiting(server.url, 50, compression="none")
        assert telemetry.flush(10)
        assert "Telemetry-Encoding" not in server.requests[0].headers
        assert server.message_encodings == [None]


@ENCODINGS
def test_a_message_for_which_it_does_not_pay_is_a_text(encoding: str) -> None:
    with RecordingServer(encodings=[encoding]) as server:
        telemetry = start_telemetry(**QUICK, url=server.url)
        telemetry.emit("one")
        assert telemetry.flush(10)
        emit(telemetry, 50)
        assert telemetry.flush(10)
        telemetry.emit("one")
        assert telemetry.flush(10)
        encodings = server.message_encodings
        assert (encodings[0], encodings[-1]) == (None, None)
        assert set(encodings[1:-1]) == {encoding}


@ENCODINGS
def test_the_largest_batch_counts_the_text(encoding: str) -> None:
    with RecordingServer(encodings=[encoding]) as server:
        telemetry = waiting(server.url, 100, max_batch_bytes=1000)
        assert telemetry.flush(10)
        assert set(server.message_encodings) == {encoding}
        assert 700 < max(map(len, server.messages)) <= 1000


# What is on the wire, byte for byte.


class Message(NamedTuple):
    """A frame of the client's, without its mask."""

    opcode: int
    payload: bytes


class Turn(NamedTuple):
    """One connection of a scripted server."""

    request: bytes
    received: bytearray

    @property
    def frames(self) -> list[Message]:
        """The frames that have come in whole."""
        data, found = bytes(self.received), []
        while len(data) >= 6:
            size, start = data[1] & 0x7F, 2
            if size > 125:
                size, start = (
                    (int.from_bytes(data[2:4], "big"), 4)
                    if size == 126
                    else (int.from_bytes(data[2:10], "big"), 10)
                )
            end = start + 4 + size
            if len(data) < end:
                break
            key = data[start : start + 4] * (size // 4 + 1)
            payload = bytes(a ^ b for a, b in zip(data[start + 4 : end], key, strict=False))
            found.append(Message(data[0] & 0x0F, payload))
            data = data[end:]
        return found

    @property
    def messages(self) -> list[Message]:
        return [message for message in self.frames if message.opcode in (TEXT, BINARY)]


class ScriptedServer:
    """Answers each connection's handshake as it is asked to, and may answer pings.

    Args:
        answers: the encoding that the server picks, for one connection after another.
        slams: how many messages it takes before it hangs up, on all connections but the last.
    """

    def __init__(self, *answers: str | None, slams: int = 1) -> None:
        self._answers = answers
        self._slams = slams
        self.turns: list[Turn] = []

    def __call__(self, client: socket.socket) -> None:
        answer = self._answers[min(len(self.turns), len(self._answers) - 1)]
        is_last = len(self.turns) >= len(self._answers) - 1
        headers = [f"Telemetry-Encoding: {answer}".encode()] if answer else []
        turn = Turn(shake_hands(client, *headers), bytearray())
        self.turns.append(turn)
        answered = 0
        while chunk := client.recv(65536):
            turn.received.extend(chunk)
            if not is_last:
                if len(turn.messages) >= self._slams:
                    return
                continue
            pings = [message for message in turn.frames if message.opcode == PING]
            for ping in pings[answered:]:
                client.sendall(frame(PONG, ping.payload))
            answered = len(pings)


def texts(turn: Turn, encoding: str | None) -> list[bytes]:
    """The messages of a connection as texts."""
    return [
        unpacker(str(encoding))(message.payload, LARGEST)
        if message.opcode == BINARY
        else message.payload
        for message in turn.messages
    ]


MASK = b"\x01\x02\x03\x04"


def sent(opcode: int, payload: bytes) -> bytes:
    """A frame as a client has to send it (RFC 6455, section 5.2), with a known mask."""
    size = len(payload)
    length = struct.pack("!B", 0x80 | size) if size < 126 else struct.pack("!BH", 0x80 | 126, size)
    masked = bytes(byte ^ MASK[i % 4] for i, byte in enumerate(payload))
    return bytes([0x80 | opcode]) + length + MASK + masked


def pushed(number: int) -> dict[str, Any]:
    return {"type": "hit", "timestamp": 1_795_600_000_000 + number, "id": f"e-{number}", "data": {}}


def on_the_wire(number: int) -> bytes:
    return (
        b'{"sessionId":"s","id":"e-%d","seq":%d,"type":"hit","timestamp":%d,"data":{}}'
        % (number, number, 1_795_600_000_000 + number)
    )  # fmt: skip


def expected_stream(port: int, *offers: bytes) -> bytes:
    """All that a client sends for 75 events: as it was before there was any compression."""
    head = (
        b"GET /telemetry HTTP/1.1",
        b"Host: 127.0.0.1:%d" % port,
        b"Upgrade: websocket",
        b"Connection: Upgrade",
        b"Sec-WebSocket-Key: AQIDBAECAwQBAgMEAQIDBA==",
        b"Sec-WebSocket-Version: 13",
        b"Telemetry-Ack: cumulative",
        b"Telemetry-Report: 1",
        *offers,
        b"",
        b"",
    )
    batches = [
        b"[" + b",".join(map(on_the_wire, numbers)) + b"]"
        for numbers in (range(1, 51), range(51, 76))
    ]
    return b"".join(
        (
            b"\r\n".join(head),
            sent(TEXT, batches[0]),
            sent(PING, b"1"),
            sent(TEXT, batches[1]),
            sent(PING, b"2"),
            sent(CLOSE, (1000).to_bytes(2, "big")),
        )
    )


@pytest.mark.parametrize(
    ("compression", "answer"),
    [("none", None), ("auto", None), ("none", "deflate"), ("auto", "gzip")],
)
def test_a_server_that_picks_nothing_gets_what_it_got_before_byte_for_byte(
    compression: Any, answer: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = SimpleNamespace(urandom=lambda size: MASK * (size // 4))
    monkeypatch.setattr(frames, "os", known)
    monkeypatch.setattr(handshake, "os", known)
    server = ScriptedServer(answer)
    with raw_server(server) as port:
        telemetry = started_offline(
            **QUICK,
            url=f"ws://127.0.0.1:{port}/telemetry",
            session_id="s",
            compression=compression,
        )
        for number in range(1, 76):
            telemetry.push(pushed(number))
        telemetry.set_online(True)
        assert telemetry.flush(10)
        assert telemetry.stop(5)
        offers = [b"Telemetry-Encoding: " + OFFER] if compression == "auto" else []
        expected = expected_stream(port, *offers)
        (turn,) = server.turns
        assert wait_until(lambda: len(turn.request + turn.received) >= len(expected))
        assert turn.request + bytes(turn.received) == expected


@ENCODINGS
def test_what_is_sent_again_is_the_same_bytes(encoding: str) -> None:
    server = ScriptedServer(encoding, encoding, encoding, slams=3)
    with raw_server(server) as port:
        telemetry = waiting(f"ws://127.0.0.1:{port}/", 150)
        assert telemetry.flush(10)
        first, second, last = (turn.messages for turn in server.turns)
        assert {message.opcode for message in last} == {BINARY}
        assert first[:3] == second[:3] == last[:3]
        assert telemetry.stats().delivered == 150


def test_another_server_may_pick_another_encoding_or_none() -> None:
    answers = (supported()[0], None, DEFLATE)
    server = ScriptedServer(*answers, slams=3)
    with raw_server(server) as port:
        telemetry = started_offline(**QUICK, url=f"ws://127.0.0.1:{port}/", session_id="s")
        emit(telemetry, 150)
        telemetry.set_online(True)
        assert telemetry.flush(10)
        ways = [{message.opcode for message in turn.messages} for turn in server.turns]
        assert ways == [{BINARY}, {TEXT}, {BINARY}]
        first, second, third = map(texts, server.turns, answers)
        assert first[:3] == second[:3] == third[:3]
        assert [len(json.loads(text)) for text in third] == [50, 50, 50]
        assert zlib.decompress(server.turns[2].messages[0].payload) == first[0]
        assert telemetry.stats().delivered == 150


def test_acks_count_compressed_messages_and_texts_alike() -> None:
    with RecordingServer(encodings=[DEFLATE]) as server:
        telemetry = start_telemetry(**QUICK, url=server.url)
        for number in range(10):
            telemetry.emit("one")
            assert telemetry.flush(10)
            emit(telemetry, 30, number)
            assert telemetry.flush(10)
        assert {None, DEFLATE} == set(server.message_encodings)
        assert telemetry.stats().delivered == 310


@ENCODINGS
@pytest.mark.parametrize("takes_reports", [True, False], ids=["reports", "no reports"])
def test_a_server_that_cannot_read_what_it_has_picked_gets_texts(
    encoding: str, takes_reports: bool
) -> None:
    with picky_server(
        lambda types: None, takes_reports=takes_reports, encoding=encoding, reads_it=False
    ) as server:
        telemetry = started_offline(**QUICK, url=server.url)
        for _ in range(120):
            telemetry.emit("bullet_fired", text="each of them is long enough to be compressed" * 9)
        telemetry.set_online(True)
        settle(telemetry)
        assert telemetry.stats().delivered == 120
        assert sorted(server.arrived) == [*range(1, 121)]
        assert server.compressed > 0
        assert bool(server.reports) is takes_reports


@ENCODINGS
@pytest.mark.parametrize("code", [1007, 1009])
def test_an_event_that_is_refused_is_found_among_compressed_ones(encoding: str, code: int) -> None:
    with picky_server(
        lambda types: code if "bad" in types else None, takes_reports=True, encoding=encoding
    ) as server:
        telemetry = started_offline(**QUICK, url=server.url)
        emit(telemetry, 120)
        telemetry.emit("bad", padding="x" * 300)
        emit(telemetry, 60)
        telemetry.set_online(True)
        settle(telemetry)
        ledger = telemetry.stats()
        assert (ledger.dropped, ledger.dropped_by["refused"]) == (1, 1)
        assert sorted(server.arrived) == [*range(1, 121), *range(122, 182)]
        assert server.compressed > 3


@ENCODINGS
def test_events_of_an_earlier_run_come_compressed(encoding: str, tmp_path: Path) -> None:
    nowhere = f"ws://127.0.0.1:{REFUSING_PORT}/"
    telemetry = start_telemetry(**QUICK, url=nowhere, journal=tmp_path)
    emit(telemetry, 120)
    assert not telemetry.stop(0.1)
    with RecordingServer(encodings=[encoding]) as server:
        telemetry = start_telemetry(**QUICK, url=server.url, journal=tmp_path)
        assert server.wait_for(120)
        assert [event["seq"] for event in server.events] == list(range(1, 121))
        assert set(server.message_encodings) == {encoding}
        assert telemetry.stop(5)


@needs_fork
@ENCODINGS
def test_a_forked_child_compresses_too(encoding: str) -> None:
    script = """
def many():
    for number in range(50):
        telemetry.emit("many", number=number)
    return telemetry.flush(20)
assert many()
assert ended(forked(lambda: 0 if many() and telemetry.stop(20) else 4)) == 0
assert many()
"""
    with RecordingServer(encodings=[encoding]) as server:
        done = run(START + FORK + script, server.url)
        assert done.returncode == 0, done.stderr
        assert len({event["sessionId"] for event in server.events}) == 2
        assert len(server.events) == 150
        assert server.message_encodings.count(encoding) >= 3


# When compression fails or takes long.


def fails(error: Exception) -> Callable[..., bytes]:
    def compress(*_: object) -> bytes:
        raise error

    return compress


@pytest.mark.parametrize(
    "error", [MemoryError(), OSError("broken")], ids=lambda e: type(e).__name__
)
def test_where_compression_fails_the_messages_are_texts(
    error: Exception, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(_compression.zlib, "compress", fails(error))
    with RecordingServer(encodings=[DEFLATE]) as server:
        telemetry = waiting(server.url, 200)
        assert telemetry.flush(10)
        server.disconnect()
        emit(telemetry, 100)
        assert telemetry.flush(10)
        assert set(server.message_encodings) == {None}
        assert {event["seq"] for event in server.events} == set(range(1, 301))
        offers = [request.headers.get("Telemetry-Encoding") for request in server.requests]
        others = ", ".join(set(supported()) - {DEFLATE})
        assert offers[-1] == (others or None)
    (warning,) = (r for r in caplog.records if "compress" in r.getMessage())
    assert warning.levelno == logging.WARNING
    assert f"deflate; they are sent as text: {type(error).__name__}" in warning.getMessage()


class SlowCompression:
    """Takes its time over each batch, as for one of many megabytes."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.has_begun = threading.Event()
        self.may_end = threading.Event()
        self._compress = zlib.compress
        monkeypatch.setattr(_compression.zlib, "compress", self)

    def __call__(self, text: bytes, level: int) -> bytes:
        if text.startswith(b"["):
            self.has_begun.set()
            assert self.may_end.wait(20)
        return self._compress(text, level)


def test_a_batch_that_is_compressed_while_the_player_says_no_is_not_sent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    slow = SlowCompression(monkeypatch)
    with RecordingServer(encodings=[DEFLATE]) as server:
        telemetry = start_telemetry(**QUICK, url=server.url)
        emit(telemetry, 50)
        assert slow.has_begun.wait(10)
        telemetry.enabled = False
        slow.may_end.set()
        assert wait_until(lambda: server.connections == 0)
        assert server.events == []
        assert telemetry.stats().dropped_by["switched_off"] == 50


def test_a_stop_does_not_wait_for_a_batch_that_is_compressed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    slow = SlowCompression(monkeypatch)
    with RecordingServer(encodings=[DEFLATE]) as server:
        telemetry = start_telemetry(**QUICK, url=server.url)
        emit(telemetry, 50)
        assert slow.has_begun.wait(10)
        since = time.monotonic()
        assert not telemetry.stop(0.2)
        assert time.monotonic() - since < 5
        slow.may_end.set()
        assert wait_until(lambda: telemetry.stats().state.name == "STOPPED")
        assert server.events == []
