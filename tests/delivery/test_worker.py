"""From emit to a server that has it, through every kind of weather."""

from __future__ import annotations

import json
import logging
import socket
import threading
import time
from itertools import pairwise
from typing import Any

import pytest
from websockets.http11 import Response
from websockets.sync.server import ServerConnection

from redvsblue_telemetry import ConnectionState, Telemetry, TelemetryEvent, start_telemetry
from redvsblue_telemetry._delivery.states import TRANSITIONS
from redvsblue_telemetry._delivery.worker import TelemetryConnector
from redvsblue_telemetry._network.contract import Connection
from redvsblue_telemetry._network.websocket import open_websocket
from redvsblue_telemetry._recording.codec import EncodedEvent, EventCodec
from redvsblue_telemetry._recording.store import TelemetryStore
from redvsblue_telemetry.settings import TelemetrySettings
from redvsblue_telemetry.testing import RecordingServer
from tests.support.ports import own_port
from tests.support.raw_server import frame, raw_server, read_to_the_end, shake_hands
from tests.support.wait import wait_until
from tests.support.websocket_server import websocket_server

QUICK: dict[str, Any] = {"enabled": True, "backoff_base": 0.02, "backoff_max": 0.1}


def is_settled(telemetry: Telemetry) -> bool:
    """Wait until every event has been counted as delivered, dropped or rejected.

    An event that got lost on its way through the worker would stay in flight.
    """
    return wait_until(lambda: (telemetry.stats().buffered, telemetry.stats().in_flight) == (0, 0))


@pytest.mark.parametrize("acks", [True, False])
def test_a_burst_is_confirmed_in_order_each_event_once(acks: bool) -> None:
    with RecordingServer(acks=acks) as server:
        telemetry = start_telemetry(enabled=True, url=server.url, capacity=20_000)
        for number in range(20_000):
            telemetry.emit("burst", i=number)
        assert telemetry.flush(5)
        assert server.wait_for(20_000)
        assert [event["seq"] for event in server.events] == list(range(1, 20_001))
        messages = [json.loads(message) for message in server.messages]
        assert max(map(len, messages)) <= 50
        assert telemetry.stats().delivered == 20_000
        assert is_settled(telemetry)


def test_an_event_waits_no_longer_than_the_interval() -> None:
    with RecordingServer() as server:
        telemetry = start_telemetry(**QUICK, url=server.url, drain_interval=0.2)
        assert server.wait_for_connection()
        telemetry.emit("lonely")
        assert server.wait_for(1, timeout=20)


def test_a_store_that_fills_wakes_the_worker_before_the_interval() -> None:
    with RecordingServer() as server:
        telemetry = start_telemetry(**QUICK, url=server.url, drain_interval=60, capacity=80)
        assert server.wait_for_connection()
        assert wait_until(lambda: telemetry.stats().state is ConnectionState.CONNECTED)
        for _ in range(60):
            telemetry.emit("many")
        assert server.wait_for(10, timeout=20)


def test_a_store_that_fills_while_the_worker_is_about_to_wait_is_drained_at_once() -> None:
    codec = EventCodec("s")
    store = TelemetryStore[EncodedEvent](80, high_water=10)

    def connect(*arguments: Any) -> Connection:
        """A connection at whose first flush the game emits; the worker has looked before."""

        def flush_and_fill() -> None:
            flush()
            if not store.pushed:
                for _ in range(10):
                    store.push(codec.encode("many", {}))

        connection = open_websocket(*arguments)
        flush = connection.flush
        connection.flush = flush_and_fill  # type: ignore[method-assign]
        return connection

    with RecordingServer() as server:
        settings = TelemetrySettings(**QUICK, url=server.url, drain_interval=60)
        connector = TelemetryConnector(store, codec, settings, connect=connect)
        store.on_high_water = connector.nudge
        connector.start()
        try:
            assert server.wait_for(10, timeout=20)
        finally:
            assert connector.stop(20)


def test_batches_have_at_most_so_many_bytes() -> None:
    with RecordingServer() as server:
        telemetry = start_telemetry(**QUICK, url=server.url, max_batch_bytes=1000)
        for _ in range(50):
            telemetry.emit("fat", text="x" * 200)
        telemetry.emit("too fat", text="x" * 2000)
        assert telemetry.flush(5)
        assert max(len(message) for message in server.messages) <= 1000
        assert len(server.events) == 50
        assert telemetry.stats().rejected == 1


def test_ndjson_is_one_event_a_line() -> None:
    with RecordingServer() as server:
        telemetry = start_telemetry(**QUICK, url=server.url, wire_format="ndjson")
        telemetry.emit("a")
        telemetry.emit("b")
        assert telemetry.flush(5)
        (message,) = server.messages
        assert isinstance(message, str)
        assert message.endswith("}\n")
        assert [json.loads(line)["type"] for line in message.splitlines()] == ["a", "b"]


def test_offline_the_newest_are_kept_and_arrive_later() -> None:
    port = own_port()
    telemetry = start_telemetry(**QUICK, url=f"ws://127.0.0.1:{port}/", capacity=100)
    for number in range(1000):
        telemetry.emit("x", i=number)
    assert telemetry.stats().dropped == 900
    assert telemetry.stats().buffered == 100
    with RecordingServer(port=port) as server:
        assert telemetry.flush(10)
        assert [event["seq"] for event in server.events] == list(range(901, 1001))
        ledger = telemetry.stats()
        assert (ledger.delivered, ledger.dropped, ledger.buffered) == (100, 900, 0)
        assert is_settled(telemetry)
        assert telemetry.stop(2)


def test_a_server_that_is_gone_and_back_again_loses_nothing() -> None:
    with RecordingServer() as server:
        telemetry = start_telemetry(**QUICK, url=server.url, drain_interval=0.02, capacity=100_000)
        sent = 0
        for times in range(5):
            assert wait_until(lambda times=times: telemetry.stats().reconnects == times)
            assert server.wait_for_connection()
            for _ in range(500):
                sent += 1
                telemetry.emit("x", i=sent)
            server.disconnect()
        assert telemetry.flush(10)
        arrived = [event["seq"] for event in server.events]
        assert list(dict.fromkeys(arrived)) == list(range(1, sent + 1))
        assert telemetry.stats().reconnects >= 4
        assert is_settled(telemetry)


def test_what_is_not_confirmed_is_sent_again_first_and_to_the_byte() -> None:
    texts: list[bytes] = []

    def script(client: socket.socket) -> None:
        shake_hands(client)  # and not a word more
        texts.append(unmasked(client.recv(65536)))
        read_to_the_end(client)

    with raw_server(script) as port:
        telemetry = start_telemetry(
            **QUICK, url=f"ws://127.0.0.1:{port}/", confirm_timeout=0.2, drain_interval=0.05
        )
        telemetry.emit("first")
        assert wait_until(lambda: len(texts) == 1)
        telemetry.emit("second")
        assert wait_until(lambda: len(texts) == 3)
        assert texts[0] == texts[1] == texts[2]
        assert b'"first"' in texts[0]
        assert "confirmed nothing" in str(telemetry.stats().last_error)
        ledger = telemetry.stats()
        assert ledger.delivered == 0
        assert not telemetry.stop(0.3)
        # The stop returns in time, even if the worker, on a busy machine, has not ended by then.
        assert wait_until(lambda: telemetry.stats().dropped == 2)
        assert is_settled(telemetry)


def unmasked(data: bytes) -> bytes:
    """The payload of the first frame, which has a length of two bytes at most."""
    offset = 4 if data[1] & 0x7F == 126 else 2
    length = int.from_bytes(data[2:4], "big") if offset == 4 else data[1] & 0x7F
    mask, body = data[offset : offset + 4], data[offset + 4 : offset + 4 + length]
    return bytes(byte ^ mask[index % 4] for index, byte in enumerate(body))


def test_a_silent_idle_connection_is_found_out() -> None:
    def script(client: socket.socket) -> None:
        shake_hands(client)
        read_to_the_end(client)

    with raw_server(script) as port:
        telemetry = start_telemetry(
            **QUICK, url=f"ws://127.0.0.1:{port}/", keepalive_interval=0.05, confirm_timeout=0.1
        )
        assert wait_until(lambda: telemetry.stats().reconnects >= 1)
        assert "keepalive" in str(telemetry.stats().last_error)


def test_a_keepalive_that_is_answered_keeps_the_connection() -> None:
    with RecordingServer() as server:
        telemetry = start_telemetry(
            **QUICK, url=server.url, keepalive_interval=0.02, confirm_timeout=0.5
        )
        assert server.wait_for_connection()
        time.sleep(0.7)  # longer than an unanswered keepalive is borne
        assert telemetry.stats().reconnects == 0


def test_without_proof_sent_is_delivered() -> None:
    def script(client: socket.socket) -> None:
        shake_hands(client)
        read_to_the_end(client)

    with raw_server(script) as port:
        telemetry = start_telemetry(**QUICK, url=f"ws://127.0.0.1:{port}/", confirm="none")
        telemetry.emit("x")
        assert telemetry.flush(5)
        assert telemetry.stats().delivered == 1


@pytest.mark.parametrize(
    "nonsense", [b'{"ack": 5}', b'{"ack": -1}', b'{"ack": "1"}', b"no JSON", b"\xff"]
)
def test_an_ack_that_makes_no_sense_is_not_believed(nonsense: bytes) -> None:
    def script(client: socket.socket) -> None:
        shake_hands(client, b"Telemetry-Ack: cumulative")
        client.recv(65536)
        client.sendall(frame(0x1, nonsense))
        read_to_the_end(client)

    with raw_server(script) as port:
        telemetry = start_telemetry(**QUICK, url=f"ws://127.0.0.1:{port}/")
        telemetry.emit("x")
        assert wait_until(lambda: "malformed ack" in str(telemetry.stats().last_error))
        assert not telemetry.flush(0.3)
        assert telemetry.stats().delivered == 0


def test_with_acks_a_pong_confirms_nothing() -> None:
    def script(client: socket.socket) -> None:
        shake_hands(client, b"Telemetry-Ack: cumulative")
        client.recv(65536)
        client.sendall(frame(0xA, b"1") + frame(0xA, b"nonsense"))
        read_to_the_end(client)

    with raw_server(script) as port:
        telemetry = start_telemetry(**QUICK, url=f"ws://127.0.0.1:{port}/")
        telemetry.emit("x")
        assert not telemetry.flush(0.3)
        assert telemetry.stats().delivered == 0


def test_what_the_server_will_not_have_is_found_dropped_and_named(
    caplog: pytest.LogCaptureFixture,
) -> None:
    arrived: list[str] = []

    def offer_acks(connection: object, request: object, response: Response) -> Response:
        response.headers["Telemetry-Ack"] = "cumulative"
        return response

    def handler(connection: ServerConnection) -> None:
        for number, message in enumerate(connection, start=1):
            types = [event["type"] for event in json.loads(message)]
            if "poison" in types:
                connection.close(1009)
                return
            arrived.extend(types)
            connection.send(json.dumps({"ack": number}))

    with websocket_server(handler, process_response=offer_acks) as url:
        telemetry = start_telemetry(**QUICK, url=url, batch_size=8)
        for number in range(20):
            telemetry.emit("poison" if number == 11 else f"e{number}")
        telemetry.flush(10)
        assert wait_until(lambda: telemetry.stats().delivered == 19)
        assert telemetry.stats().dropped == 1
        assert list(dict.fromkeys(arrived)) == [f"e{n}" for n in range(20) if n != 11]
        assert telemetry.stop(2)
    (named,) = [record for record in caplog.records if "dropped" in record.getMessage()]
    assert "poison" in named.getMessage()


def test_before_send_changes_drops_and_rejects(caplog: pytest.LogCaptureFixture) -> None:
    threads = set()

    def review(event: TelemetryEvent) -> TelemetryEvent | None:
        threads.add(threading.current_thread().name)
        if event.type == "secret":
            return None
        if event.type == "broken":
            raise RuntimeError("in the callback")
        return TelemetryEvent(event.type, {**event.data, "seen": True}, timestamp=event.timestamp)

    with RecordingServer() as server:
        telemetry = start_telemetry(**QUICK, url=server.url, before_send=review)
        for type in ("a", "secret", "broken", "broken", "b"):
            telemetry.emit(type, x=1)
        telemetry.flush(5)
        assert server.wait_for(2)
        events = server.events
        assert [(event["type"], event["seq"]) for event in events] == [("a", 1), ("b", 5)]
        assert events[0]["data"] == {"x": 1, "seen": True}
        ledger = telemetry.stats()
        assert (ledger.delivered, ledger.dropped, ledger.rejected) == (2, 1, 2)
        assert is_settled(telemetry)
    assert threads == {"redvsblue-telemetry"}
    assert len([record for record in caplog.records if "before_send" in record.message]) == 1


def test_the_states_are_told_and_follow_the_table() -> None:
    states = [ConnectionState.IDLE]

    def note(state: ConnectionState) -> None:
        states.append(state)
        raise RuntimeError("the callback's own")

    with RecordingServer() as server:
        telemetry = start_telemetry(**QUICK, url=server.url, on_state_change=note)
        assert server.wait_for_connection()
        server.disconnect()
        assert wait_until(lambda: telemetry.stats().reconnects == 1)
        telemetry.set_online(False)
        assert wait_until(lambda: telemetry.stats().state is ConnectionState.OFFLINE)
        telemetry.emit("kept")
        assert not telemetry.flush(0.05)
        telemetry.set_online(True)
        assert telemetry.flush(5)
        telemetry.enabled = False
        assert wait_until(lambda: telemetry.stats().state is ConnectionState.IDLE)
        telemetry.enabled = True
        assert wait_until(lambda: telemetry.stats().state is ConnectionState.CONNECTED)
        telemetry.stop()
    assert states[-1] is ConnectionState.STOPPED
    assert ConnectionState.BACKING_OFF in states
    for before, after in pairwise(states):
        assert after in TRANSITIONS[before]


def test_a_name_that_is_none_is_offline_and_set_online_tries_at_once() -> None:
    telemetry = start_telemetry(
        enabled=True, url="ws://name.invalid/", backoff_base=30, backoff_max=30
    )
    assert wait_until(lambda: telemetry.stats().state is ConnectionState.OFFLINE)
    telemetry.set_online(True)
    telemetry.emit("x")
    assert not telemetry.stop(0.5)
    assert wait_until(lambda: telemetry.stats().dropped == 1)  # it may end after the stop


def test_a_callable_token_is_asked_at_each_attempt(caplog: pytest.LogCaptureFixture) -> None:
    answers: list[Any] = [RuntimeError("hush"), "bad\ntoken", "wrong", "right"]
    asked = 0

    def token() -> str:
        nonlocal asked
        answer = answers[min(asked, len(answers) - 1)]
        asked += 1
        if isinstance(answer, Exception):
            raise answer
        return str(answer)

    with RecordingServer(token="right") as server:
        telemetry = start_telemetry(**QUICK, url=server.url, token=token)
        telemetry.emit("x")
        assert telemetry.flush(5)
        assert asked == 4
    assert "hush" not in caplog.text
    assert "401" in caplog.text


def test_a_lasting_failure_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    with RecordingServer(token="right") as server:
        telemetry = start_telemetry(**QUICK, url=server.url, token="hush")
        assert wait_until(lambda: len(server.requests) >= 4)
        telemetry.stop(0.1)
    lines = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert len(lines) == 1
    assert "hush" not in caplog.text


def test_a_token_over_an_unencrypted_wire_is_warned_about(
    caplog: pytest.LogCaptureFixture,
) -> None:
    telemetry = start_telemetry(**QUICK, url="ws://name.invalid/", token="hush")
    telemetry.stop(0.1)
    assert "unencrypted" in caplog.text
    assert "hush" not in caplog.text


def test_an_open_connection_is_no_reason_to_hurry() -> None:
    opened: list[float] = []

    def script(client: socket.socket) -> None:
        shake_hands(client)
        opened.append(time.monotonic())  # and slams the door

    with raw_server(script) as port:
        telemetry = start_telemetry(
            enabled=True, url=f"ws://127.0.0.1:{port}/", backoff_base=0.01, backoff_max=60
        )
        telemetry.emit("x")
        assert wait_until(lambda: len(opened) >= 2)
        time.sleep(1.0)
        # With the bound doubling from 10 ms, a second holds about eight attempts; without, 200.
        assert len(opened) <= 30


def test_the_worker_lives_on_after_an_error_of_its_own(caplog: pytest.LogCaptureFixture) -> None:
    attempts = threading.Semaphore(0)

    def connect(*_: object) -> Any:
        attempts.release()
        raise ZeroDivisionError("a bug")

    settings = TelemetrySettings(**QUICK)
    connector = TelemetryConnector(
        TelemetryStore[bytes](10), EventCodec("s"), settings, connect=connect
    )
    connector.start()
    for _ in range(3):
        assert attempts.acquire(timeout=5)
    assert connector.stop(1)
    assert "ZeroDivisionError" in caplog.text
    assert "Traceback" in caplog.text


def test_a_stalled_server_delays_no_emit_and_no_stop() -> None:
    def script(client: socket.socket) -> None:
        shake_hands(client)
        stalled.wait(20)

    stalled = threading.Event()
    with raw_server(script) as port:
        telemetry = start_telemetry(**QUICK, url=f"ws://127.0.0.1:{port}/", drain_interval=0.01)
        for _ in range(5000):
            telemetry.emit("x", text="y" * 4000)
        assert wait_until(lambda: telemetry.stats().in_flight > 0)
        start = time.monotonic()
        assert not telemetry.stop(0.3)
        assert time.monotonic() - start < 5  # the server's silence would last for 20
        assert is_settled(telemetry)
        stalled.set()
