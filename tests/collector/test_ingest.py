"""Ingest: messages are stored and then acknowledged, in order; or the client is closed."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import select
import socket
import sqlite3
import struct
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.types import Message as ASGIEvent
from starlette.websockets import WebSocket
from websockets.exceptions import ConnectionClosed
from websockets.frames import Opcode
from websockets.sync.client import connect

from redvsblue_telemetry.collector import connections
from redvsblue_telemetry.collector.ingest import Ingest, Limits
from redvsblue_telemetry.collector.storage.database import Database
from redvsblue_telemetry.collector.storage.thread import WriterThread
from tests.collector.clients import (
    acks_up_to,
    array,
    client_of,
    event,
    frame,
    game,
    have_been_read,
    lines,
    locked,
    next_ack,
    read_to_the_end,
    send_and_leave,
    seqs,
)
from tests.support.collector import PATIENCE, RunningCollector, collector_running
from tests.support.wait import wait_until

SHORT = 0.05  # seconds to wait for a lock that stays


def metric(collector: RunningCollector, name: str) -> float:
    text = collector.get("/metrics").body.decode()
    found = re.search(rf"^telemetry_{name}_total (.+)$", text, re.MULTILINE)
    assert found is not None
    return float(found[1])


def commits(path: Path) -> int:
    """How many transactions are in the database's log: the frames that end one are marked."""
    log = path.with_name(path.name + "-wal").read_bytes()
    frame = 24 + struct.unpack(">I", log[8:12])[0]
    found = 0
    for start in range(32, len(log) - frame + 1, frame):
        is_of_this_log = log[start + 8 : start + 16] == log[16:24]
        found += is_of_this_log and log[start + 4 : start + 8] != bytes(4)
    return found


@pytest.fixture
def patient(tmp_path: Path) -> Iterator[RunningCollector]:
    """Waits long for a locked database."""
    with collector_running(db=tmp_path / "telemetry.sqlite3", busy_timeout=PATIENCE) as running:
        yield running


@pytest.fixture
def hasty(tmp_path: Path) -> Iterator[RunningCollector]:
    """Soon gives up on a locked database."""
    with collector_running(db=tmp_path / "telemetry.sqlite3", busy_timeout=SHORT) as running:
        yield running


# What is taken in.


@pytest.mark.parametrize("encode", [str, str.encode], ids=["text", "binary"])
@pytest.mark.parametrize("write", [array, lines], ids=["array", "lines"])
def test_both_formats_are_taken_in_both_kinds_of_message(
    write: Callable[..., str], encode: Callable[[str], str | bytes], collector: RunningCollector
) -> None:
    with client_of(collector) as client:
        client.send(encode(write(1, 2, 3)))
        assert next_ack(client) == 1
        client.send(encode(write(4)))
        assert next_ack(client) == 2
    assert seqs(collector) == [1, 2, 3, 4]
    assert collector.stats().rejected == 0


def test_formats_and_kinds_may_alternate_on_one_connection(collector: RunningCollector) -> None:
    with client_of(collector) as client:
        client.send(array(1))
        client.send(lines(2, 3).encode())
        client.send([part.encode() for part in lines(4, 5).partition(":")])  # in three frames
        client.send(list(array(6)))
        assert acks_up_to(client, 4)[-1] == 4
    assert seqs(collector) == [1, 2, 3, 4, 5, 6]


def test_games_deliver_in_both_formats(collector: RunningCollector) -> None:
    for number, wire_format in enumerate(("json", "ndjson"), 1):
        with game(collector, wire_format=wire_format, session_id=wire_format) as telemetry:
            for _ in range(200):
                telemetry.emit("hit", {"ü": [1.5, None]})
            assert telemetry.flush(PATIENCE)
        assert seqs(collector, wire_format) == list(range(1, 201))
        assert collector.stats().sessions == number


def test_good_events_of_a_bad_message_are_stored_and_the_bad_kept(
    collector: RunningCollector,
) -> None:
    long = json.dumps({"sessionId": "s", "seq": 3, "note": "x" * 5000})
    with client_of(collector) as client:
        client.send(f"[{json.dumps(event(1))}, {long}, 7, {json.dumps(event(2))}]")
        assert next_ack(client) == 1
        client.send(f'{json.dumps(event(4))}\n{{"type": "torn\n{json.dumps(event(5))}\n')
        assert next_ack(client) == 2
        client.send(array(6))
        assert next_ack(client) == 3
    assert seqs(collector) == [1, 2, 4, 5, 6]
    torn, seven, incomplete = collector.rejected
    assert incomplete.text == long[:1024]
    assert "required field `type`" in incomplete.reason
    assert seven.text == "7"
    assert torn.text == '{"type": "torn'


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        ("hello", "must be a JSON array"),
        ("", "must be a JSON array"),
        (b"\xff\xfe", "must be a JSON array"),
        (b'[{"type": "\xff"}]', "not valid UTF-8"),
        ("[", "not valid JSON"),
        ("{}", "required field"),
        ("[" * 2000, ""),
    ],
)
def test_message_without_any_event_is_rejected_and_acknowledged(
    message: str | bytes, reason: str, collector: RunningCollector
) -> None:
    with client_of(collector) as client:
        client.send(message)
        assert next_ack(client) == 1  # else the client would send it again for ever
        client.send(array(1))
        assert next_ack(client) == 2
    assert seqs(collector) == [1]
    (rejected,) = collector.rejected
    assert reason in rejected.reason


def test_message_of_no_events_is_acknowledged(collector: RunningCollector) -> None:
    with client_of(collector) as client:
        client.send("[]")
        assert next_ack(client) == 1
    assert collector.stats().events == collector.stats().rejected == 0


def test_event_is_stored_once_however_often_it_comes(collector: RunningCollector) -> None:
    with client_of(collector) as one, client_of(collector) as other:
        one.send(array(1, 2, 2))
        assert next_ack(one) == 1
        other.send(array(2, 3) + " ")
        assert next_ack(other) == 1
        one.send(lines(3, 1, 4))
        assert next_ack(one) == 2
        one.send(array(1, session="another"))
        assert next_ack(one) == 3
    assert seqs(collector) == [1, 2, 3, 4]
    assert seqs(collector, "another") == [1]
    assert collector.stats().repeats == 4
    assert collector.get("/api/sessions/s").json()["repeats"] == 4


# What is acknowledged, and when.


def test_acks_are_cumulative_and_each_connection_has_its_own(collector: RunningCollector) -> None:
    with client_of(collector) as client:
        for number in range(1, 501):
            client.send(array(number))
        acks = acks_up_to(client, 500)
        assert acks == sorted(set(acks))
        assert acks[-1] == 500
        with client_of(collector) as other:
            other.send(array(501))
            assert next_ack(other) == 1
        client.send(array(502))
        assert next_ack(client) == 501
    assert seqs(collector) == list(range(1, 503))


def test_nothing_is_acknowledged_before_it_is_committed(patient: RunningCollector) -> None:
    with client_of(patient) as client:
        with locked(patient.db):
            client.send(array(1))
            client.send(array(2))
            have_been_read(patient, client)
            with pytest.raises(TimeoutError):
                client.recv(timeout=0.3)  # long, for what would take a millisecond
            assert patient.stats().events == 0
        assert next_ack(client) >= 1
        with contextlib.closing(sqlite3.connect(patient.db)) as other:
            assert other.execute("SELECT count(*) FROM events").fetchone()[0] >= 1
        client.send(array(3))
        acks_up_to(client, 3)
    assert patient.get("/healthz").status == 200


@pytest.mark.parametrize("offer", [None, "", "none", "cumulative, other"])
def test_client_that_asks_for_no_acks_gets_none_and_is_served(
    offer: str | None, collector: RunningCollector
) -> None:
    headers = {} if offer is None else {"Telemetry-Ack": offer}
    with connect(collector.url, additional_headers=headers, proxy=None) as client:
        assert client.response is not None
        assert "Telemetry-Ack" not in client.response.headers
        for number in range(1, 101):
            client.send(array(number))
            if number % 10 == 0:
                assert client.ping().wait(PATIENCE)
        assert wait_until(lambda: len(seqs(collector)) == 100, PATIENCE)
        with pytest.raises(TimeoutError):
            client.recv(timeout=0.05)
    assert seqs(collector) == list(range(1, 101))


def test_client_that_asks_for_acks_is_promised_them(collector: RunningCollector) -> None:
    headers = {"telemetry-ack": " Cumulative"}
    with connect(collector.url, additional_headers=headers, proxy=None) as client:
        assert client.response is not None
        assert client.response.headers["Telemetry-Ack"] == "cumulative"
        client.send(array(1))
        assert next_ack(client) == 1


def test_game_that_waits_for_an_archive_gets_the_acks_of_a_collector(
    collector: RunningCollector, tmp_path: Path
) -> None:
    with game(collector, confirm="archived", journal=tmp_path / "journal") as telemetry:
        telemetry.emit("hit")
        assert telemetry.flush(PATIENCE)
        assert telemetry.stats().delivered == 1


def test_game_that_wants_no_confirmation_is_served(collector: RunningCollector) -> None:
    with game(collector, confirm="none") as telemetry:
        for _ in range(100):
            telemetry.emit("hit")
        assert telemetry.flush(PATIENCE)
        session = telemetry.session_id
        assert wait_until(lambda: len(seqs(collector, session)) == 100, PATIENCE)
    assert seqs(collector, session) == list(range(1, 101))


def test_one_commit_stores_what_came_on_many_connections(patient: RunningCollector) -> None:
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(client_of(patient)) for _ in range(20)]
        before = commits(patient.db)
        assert metric(patient, "groups_stored") == 0
        with locked(patient.db):
            for number, client in enumerate(clients):
                client.send(array(1, session=f"s{number}"))
                client.send(array(2, session=f"s{number}"))
            have_been_read(patient, *clients)
        for client in clients:
            assert acks_up_to(client, 2)[-1] == 2
        # One for what was taken when the first message came, one for all that came meanwhile.
        assert 1 <= commits(patient.db) - before <= 2
        assert metric(patient, "groups_stored") == commits(patient.db) - before
    assert patient.stats().events == 40


# When it can't be stored.


def test_events_that_cannot_be_stored_are_not_acknowledged_and_the_client_is_closed(
    hasty: RunningCollector,
) -> None:
    with client_of(hasty) as client, client_of(hasty) as idle:
        client.send(array(1))
        assert next_ack(client) == 1
        with locked(hasty.db):
            client.send(array(2))
            assert read_to_the_end(client) == ([], 1013)
            health = hasty.get("/healthz")
            assert (health.status, health.body) == (503, b"events can't be stored\n")
            assert "database is locked" in hasty.stats().last_error
            assert metric(hasty, "storage_failures") == 1
        idle.send(array(3, session="other"))  # who sent nothing meanwhile is not to blame
        assert next_ack(idle) == 1
    assert hasty.get("/healthz").status == 200
    assert hasty.stats().last_error is None
    assert (seqs(hasty), seqs(hasty, "other")) == ([1], [3])


def test_client_without_acks_is_closed_as_well(hasty: RunningCollector) -> None:
    with client_of(hasty, acks=False) as client, locked(hasty.db):
        client.send(array(1))
        assert read_to_the_end(client) == ([], 1013)


def test_game_keeps_what_can_not_be_stored_and_delivers_it_later(hasty: RunningCollector) -> None:
    with game(hasty) as telemetry:
        telemetry.emit("hit")
        assert telemetry.flush(PATIENCE)
        with locked(hasty.db):
            for _ in range(300):
                telemetry.emit("hit")
            assert wait_until(lambda: metric(hasty, "storage_failures") >= 3, PATIENCE)
            stats = telemetry.stats()
            assert (stats.delivered, stats.dropped) == (1, 0)
            assert stats.buffered + stats.in_flight == 300
            assert hasty.get("/healthz").status == 503
        assert telemetry.flush(PATIENCE)
        assert telemetry.stats().delivered == 301
        assert hasty.get("/healthz").status == 200
        assert seqs(hasty, telemetry.session_id) == list(range(1, 302))
    assert hasty.stats().repeats == 0


def test_order_is_kept_through_failures(tmp_path: Path) -> None:
    path = tmp_path / "telemetry.sqlite3"
    is_over = threading.Event()

    def lock_again_and_again() -> None:
        with contextlib.closing(sqlite3.connect(path, isolation_level=None, timeout=5)) as other:
            while not is_over.is_set():
                other.execute("BEGIN IMMEDIATE")
                is_over.wait(0.03)
                other.execute("ROLLBACK")
                is_over.wait(0.01)

    with contextlib.ExitStack() as stack:
        collector = stack.enter_context(collector_running(db=path, busy_timeout=0.005))
        games = [stack.enter_context(game(collector, batch_size=5)) for _ in range(3)]
        disturbing = threading.Thread(target=lock_again_and_again)
        disturbing.start()
        try:
            ended = time.monotonic() + 1.5
            while time.monotonic() < ended:
                for telemetry in games:
                    for _ in range(20):
                        telemetry.emit("hit")
                time.sleep(0.005)
        finally:
            is_over.set()
            disturbing.join(PATIENCE)
        assert all(telemetry.flush(PATIENCE) for telemetry in games)
        assert metric(collector, "storage_failures") > 0
        for telemetry in games:
            emitted = telemetry.stats().emitted
            assert telemetry.stats().delivered == emitted
            assert seqs(collector, telemetry.session_id) == list(range(1, emitted + 1))
        assert collector.stats().missing == 0


# Limits.


def test_message_that_is_too_large_is_refused_and_what_came_before_is_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(connections, "GOODBYE_TIMEOUT", 0.3)  # that these clients wait for the end
    with collector_running(max_message_bytes=2000) as collector:
        with client_of(collector) as client:
            client.send(array(1))
            assert next_ack(client) == 1
            client.send("[" + " " * 1997 + "]")  # neither counts the frames' heads
            client.send(array(2))
            acks_up_to(client, 3)
            client.send(" " * 2001)
            assert read_to_the_end(client) == ([], 1009)
        with client_of(collector) as client:
            client.send(["[" + " " * 1200, " " * 1200 + "]"])  # nor in fragments
            assert read_to_the_end(client) == ([], 1009)
        assert seqs(collector) == [1, 2]


def test_game_takes_a_batch_that_is_too_large_apart() -> None:
    with collector_running(max_message_bytes=4000) as collector:
        with game(collector, batch_size=100, drain_interval=PATIENCE) as telemetry:
            for number in range(60):
                telemetry.emit("hit", pad="x" * (6000 if number == 30 else 100))
            assert not telemetry.flush(PATIENCE), "one event is too large by itself"
            stats = telemetry.stats()
            assert (stats.delivered, stats.dropped) == (59, 1)
            expected = [seq for seq in range(1, 61) if seq != 31]
            assert seqs(collector, telemetry.session_id) == expected
        assert collector.stats().missing == 1


def test_no_more_clients_than_may() -> None:
    with (
        collector_running(max_connections=2) as collector,
        client_of(collector) as first,
        client_of(collector) as second,
    ):
        for client in (first, second):
            client.send(array(1))
            assert next_ack(client) == 1
        with client_of(collector) as third:
            assert read_to_the_end(third) == ([], 1013)
        assert collector.stats().connections == 2
        with game(collector) as telemetry:
            telemetry.emit("hit")
            refused = "the server closed with code 1013"
            assert wait_until(lambda: telemetry.stats().last_error == refused, PATIENCE)
            assert telemetry.stats().delivered == 0
            second.close()  # then there is room for it
            assert telemetry.flush(PATIENCE)
        first.send(array(2))
        assert next_ack(first) == 2


def test_who_sends_too_much_is_refused_and_what_came_before_is_stored(tmp_path: Path) -> None:
    options: dict[str, Any] = {"max_rate": 10, "busy_timeout": PATIENCE}
    with (
        collector_running(db=tmp_path / "telemetry.sqlite3", **options) as collector,
        client_of(collector) as client,
        client_of(collector) as other,
    ):
        with locked(collector.db):
            client.send(array(*range(1, 61)))
            client.send(array(*range(61, 1101)))  # some of it is within what is left
            client.send(array(1101))
            client.send(array(1102))
            other.send(array(*range(2001, 2101)))  # each connection has its own allowance
            have_been_read(collector, other)
        acks, code = read_to_the_end(client)
        assert (acks[-1], code) == (2, 1008)
        assert next_ack(other) == 1
        assert sorted(seqs(collector)) == [*range(1, 1101), *range(2001, 2101)]


@pytest.mark.parametrize(
    ("messages", "rate"),
    [([json.dumps(["bad"] * 1000)] * 2, 50), (["[]"] * 1000, 10)],
    ids=["no events", "nothing"],
)
def test_invalid_events_count_toward_the_rate(messages: list[str], rate: int) -> None:
    with collector_running(max_rate=rate) as collector, client_of(collector) as client:
        with contextlib.suppress(ConnectionClosed):
            for message in messages:
                client.send(message)
        acks, code = read_to_the_end(client)
        assert (acks[-1] < len(messages), code) == (True, 1008)


@pytest.mark.parametrize("parts", [3000, 300], ids=["large", "small"])
def test_messages_that_have_all_arrived_leave_other_clients_their_turns(
    parts: int, tmp_path: Path
) -> None:
    """The server of ASGI doesn't wait for a message that it has."""
    text = json.dumps([0] * parts)
    arrived = [
        {"type": "websocket.connect"},
        *[{"type": "websocket.receive", "text": text}] * (30_000 // parts),
        {"type": "websocket.disconnect", "code": 1000},
    ]
    turns = []

    async def receive() -> ASGIEvent:
        return arrived.pop(0)

    async def send(event: ASGIEvent) -> None:
        pass

    async def take_turns() -> None:
        while True:
            turns.append(len(arrived))
            await asyncio.sleep(0)

    async def serve() -> None:
        with contextlib.closing(Database(tmp_path / "telemetry.sqlite3")) as database:
            storage = WriterThread(database, lambda stored: None, lambda: None)
            other = asyncio.create_task(take_turns())
            scope = {"type": "websocket", "headers": []}
            ingest = Ingest(storage, Limits(), lambda size, text_size: None)
            await ingest.serve(WebSocket(scope, receive, send))
            other.cancel()
            await storage.close()

    asyncio.run(serve())
    assert len(set(turns)) >= 9


def test_allowance_grows_again_with_time() -> None:
    with collector_running(max_rate=50) as collector, client_of(collector) as client:
        client.send(array(*range(1, 501)))
        assert next_ack(client) == 1
        for number in range(1, 6):
            time.sleep(0.1)  # in which it may send five more, at least
            client.send(array(*range(number * 1000, number * 1000 + 5)))
            assert next_ack(client) == number + 1


def test_game_that_sends_too_much_at_once_loses_nothing() -> None:
    with collector_running(max_rate=50) as collector, game(collector) as telemetry:
        for _ in range(2000):
            telemetry.emit("hit")
        assert telemetry.flush(PATIENCE)
        assert telemetry.stats().reconnects >= 2
        assert seqs(collector, telemetry.session_id) == list(range(1, 2001))


def fill(raw: socket.socket, part: bytes, most: int) -> int:
    """Send something again and again until it is no longer taken; how many bytes were."""
    sent = 0
    raw.setblocking(False)
    while sent < most and select.select([], [raw], [], 0.5)[1]:  # else nobody reads any more
        with contextlib.suppress(BlockingIOError):
            sent += raw.send(part[sent % len(part) :])
    raw.settimeout(PATIENCE)
    return sent


def socket_buffers() -> int:
    """The most bytes that the kernel keeps for a connection; on Linux it may raise both buffers."""
    try:
        limits = [Path(f"/proc/sys/net/ipv4/tcp_{name}").read_text() for name in ("rmem", "wmem")]
    except OSError:
        return 13_000_000
    return sum(int(limit.split()[2]) for limit in limits)


@pytest.mark.parametrize(
    ("size", "most"), [(16_384, 64 * 16_384), (1_000_000, 16 * 1024 * 1024)], ids=["many", "large"]
)
def test_client_that_sends_more_than_is_stored_has_to_wait(
    size: int, most: int, patient: RunningCollector
) -> None:
    large = frame(Opcode.TEXT, array(1).ljust(size).encode())
    with client_of(patient) as client:
        with locked(patient.db):
            sent = fill(client.socket, large, 80_000_000)
            # Up to the limit of unstored bytes, a message in hand, and the sockets' buffers.
            assert sent < most + 2 * size + socket_buffers()
            assert patient.get("/healthz").status == 200, "others aren't kept waiting"
        client.socket.sendall(large[sent % len(large) :])
        whole = sent // len(large) + 1
        assert acks_up_to(client, whole)[-1] == whole
    assert wait_until(lambda: patient.stats().repeats == whole - 1, PATIENCE)


# Clients that go.


@pytest.mark.parametrize("goodbye", ["a close", "none", "a reset"])
def test_client_that_goes_leaves_its_events_and_nothing_else(
    goodbye: str, patient: RunningCollector, caplog: pytest.LogCaptureFixture
) -> None:
    with (
        socket.create_connection(("127.0.0.1", patient.port), PATIENCE) as raw,
        raw.makefile("rb") as answers,
        locked(patient.db),
    ):
        send_and_leave(raw, answers, 50, goodbye)
        assert wait_until(lambda: patient.stats().connections == 0, PATIENCE)
    assert wait_until(lambda: len(seqs(patient)) == 50, PATIENCE)
    assert caplog.records == []
