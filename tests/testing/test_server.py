"""The recording server, with real clients."""

from __future__ import annotations

import contextlib
import json
import socket
import ssl
import threading
import zlib
from typing import Any

import pytest
import trustme
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from redvsblue_telemetry import ConnectionState, start_telemetry
from redvsblue_telemetry._compression import pack, supported
from redvsblue_telemetry.testing import RecordingServer
from tests.support.ports import own_port


def client(server: RecordingServer, **options: Any) -> Any:
    return connect(server.url, compression=None, **options)


def test_it_has_the_messages_and_the_events_in_them() -> None:
    with RecordingServer() as server, client(server) as connection:
        connection.send('[{"type":"a"},{"type":"b"}]')
        connection.send('{"type":"c"}\n{"type":"d"}\n')
        assert server.wait_for(4)
        assert [event["type"] for event in server.events] == ["a", "b", "c", "d"]
        assert server.messages == ['[{"type":"a"},{"type":"b"}]', '{"type":"c"}\n{"type":"d"}\n']


def test_what_it_returns_is_a_copy() -> None:
    with RecordingServer() as server, client(server) as connection:
        connection.send('[{"type":"a"}]')
        assert server.wait_for(1)
        for kept in (server.messages, server.events, server.requests):
            assert len(kept) == 1
            kept.clear()
        assert [len(server.messages), len(server.events), len(server.requests)] == [1, 1, 1]


def test_wait_for_waits_until_events_have_come() -> None:
    with RecordingServer() as server, client(server) as connection:
        assert not server.wait_for(1, timeout=0)
        assert server.wait_for(0, timeout=0)
        timer = threading.Timer(0.05, connection.send, ['[{"type":"a"}]'])
        timer.start()
        assert server.wait_for(1)
        timer.join()


def test_wait_for_connection_waits_until_there_is_one() -> None:
    with RecordingServer() as server:
        assert not server.wait_for_connection(timeout=0)
        with client(server):
            assert server.wait_for_connection()
            assert server.connections == 1


@pytest.mark.parametrize("code", [1001, 1008, 1013])
def test_disconnect_closes_with_the_code_and_stays_open_for_more(code: int) -> None:
    with RecordingServer() as server:
        with client(server) as connection:
            assert server.wait_for_connection()
            server.disconnect(code)
            with pytest.raises(ConnectionClosed) as caught:
                connection.recv(timeout=5)
            assert caught.value.rcvd is not None
            assert caught.value.rcvd.code == code
        with client(server) as connection:
            connection.send('[{"type":"again"}]')
            assert server.wait_for(1)


def test_a_client_that_is_disconnected_comes_back() -> None:
    states: list[ConnectionState] = []
    with RecordingServer() as server:
        telemetry = start_telemetry(
            enabled=True, url=server.url, backoff_base=0.01, on_state_change=states.append
        )
        telemetry.emit("one")
        assert telemetry.flush(5)
        server.disconnect()
        telemetry.emit("two")
        assert telemetry.flush(5)
        assert [event["type"] for event in server.events] == ["one", "two"]
        assert states.count(ConnectionState.CONNECTED) == 2


@pytest.mark.parametrize(
    ("acks", "offer", "expected"),
    [(True, True, True), (True, False, False), (False, True, False)],
)
def test_acks_are_sent_where_both_want_them(acks: bool, offer: bool, expected: bool) -> None:
    headers = {"Telemetry-Ack": "cumulative"} if offer else {}
    with (
        RecordingServer(acks=acks) as server,
        client(server, additional_headers=headers) as connection,
    ):
        answer = connection.response.headers.get("Telemetry-Ack")
        assert answer == ("cumulative" if expected else None)
        for number in (1, 2):
            connection.send('[{"type":"a"}]')
            if expected:
                assert json.loads(connection.recv(timeout=5)) == {"ack": number}
        assert server.wait_for(2)
        if not expected:
            with pytest.raises(TimeoutError):
                connection.recv(timeout=0.05)


@pytest.mark.parametrize(
    ("reports", "offer", "expected"),
    [(True, "1", "1"), (True, None, None), (True, "2", None), (False, "1", None)],
)
def test_reports_are_apart_from_the_events(
    reports: bool, offer: str | None, expected: str | None
) -> None:
    headers = {"Telemetry-Ack": "cumulative"} | ({"Telemetry-Report": offer} if offer else {})
    with (
        RecordingServer(reports=reports) as server,
        client(server, additional_headers=headers) as connection,
    ):
        assert connection.response.headers.get("Telemetry-Report") == expected
        for number, end in enumerate(("", "\n"), start=1):
            connection.send(f'{{"report":{{"number":{number}}}}}{end}')
            assert json.loads(connection.recv(timeout=5)) == {"ack": number}
        connection.send('{"type":"report","report":{}}\n{"type":"b"}\n')
        assert server.wait_for(2)
        assert server.reports == [{"number": 1}, {"number": 2}]
        assert len(server.messages) == 1
        server.reports.clear()
        assert len(server.reports) == 2


@pytest.mark.parametrize("header", [None, "Bearer wrong", "right", "bearer right "])
def test_a_handshake_without_the_token_is_refused(header: str | None) -> None:
    headers = {"Authorization": header} if header else {}
    with RecordingServer(token="right") as server:
        with (
            pytest.raises(InvalidStatus) as caught,
            client(server, additional_headers=headers),
        ):
            pass
        assert caught.value.response.status_code == 401
        assert len(server.requests) == 1
        assert not server.wait_for_connection(timeout=0)
        with client(server, additional_headers={"Authorization": "Bearer right"}):
            assert server.wait_for_connection()


def test_its_url_says_where_it_listens() -> None:
    with RecordingServer() as server:
        assert server.url == f"ws://127.0.0.1:{server.port}/telemetry"
        socket.create_connection(("127.0.0.1", server.port), timeout=5).close()


def test_it_comes_back_on_the_same_port() -> None:
    port = own_port()
    with RecordingServer(port=port) as server, client(server):
        pass
    with RecordingServer(port=port) as server, client(server) as connection:
        assert server.port == port
        connection.send('[{"type":"a"}]')
        assert server.wait_for(1)


def test_it_speaks_tls() -> None:
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)
    with RecordingServer(ssl_context=context) as server:
        assert server.url == f"wss://127.0.0.1:{server.port}/telemetry"
        telemetry = start_telemetry(enabled=True, url=server.url, ssl_context=trusting)
        telemetry.emit("hit")
        assert telemetry.flush(5)
        assert [event["type"] for event in server.events] == ["hit"]
        assert telemetry.stop()


@pytest.mark.parametrize("leave", ["politely", "without a word", "not at all"])
def test_a_stop_leaves_no_thread_behind(leave: str) -> None:
    before = set(threading.enumerate())
    with contextlib.ExitStack() as clients, RecordingServer() as server:
        connection = clients.enter_context(client(server))
        connection.send('[{"type":"a"}]')
        assert server.wait_for(1)
        if leave == "politely":
            connection.close()
        elif leave == "without a word":
            connection.socket.shutdown(socket.SHUT_RDWR)
    left = set(threading.enumerate()) - before
    for thread in left:
        thread.join(2)
    assert not [thread for thread in left if thread.is_alive()]


@pytest.mark.parametrize(
    ("encodings", "offer", "expected"),
    [
        (None, ", ".join(supported()), supported()[0]),
        (None, "deflate, zstd", supported()[0]),
        (["deflate"], "zstd, deflate", "deflate"),
        (["deflate", "zstd"], "zstd, deflate", "deflate"),
        (["deflate"], "gzip", None),
        (["deflate"], None, None),
        ([], "zstd, deflate", None),
    ],
)
def test_it_picks_an_encoding_that_both_know(
    encodings: list[str] | None, offer: str | None, expected: str | None
) -> None:
    headers = {"Telemetry-Encoding": offer} if offer else {}
    with (
        RecordingServer(encodings=encodings) as server,
        client(server, additional_headers=headers) as connection,
    ):
        assert connection.response.headers.get("Telemetry-Encoding") == expected


@pytest.mark.parametrize("encoding", supported())
def test_a_compressed_message_is_kept_as_the_text_that_it_was(encoding: str) -> None:
    text = json.dumps([{"type": f"type {number}"} for number in range(100)])
    packed = pack(encoding)(text.encode())
    assert packed is not None
    with (
        RecordingServer() as server,
        client(server, additional_headers={"Telemetry-Encoding": encoding}) as connection,
    ):
        connection.send(packed)
        connection.send('[{"type":"a"}]')
        assert server.wait_for(101)
        assert server.messages == [text, '[{"type":"a"}]']
        assert server.message_encodings == [encoding, None]
        server.message_encodings.clear()
        assert len(server.message_encodings) == 2


def test_a_binary_message_that_nobody_agreed_on_is_kept_as_it_is() -> None:
    with RecordingServer() as server, client(server) as connection:
        connection.send(b'[{"type":"a"}]')
        assert server.wait_for(1)
        assert server.messages == [b'[{"type":"a"}]']
        assert server.message_encodings == [None]


@pytest.mark.parametrize(
    ("message", "code"),
    [
        (zlib.compress(b"[" + b" " * 10_000_000 + b"]"), 1009),
        (zlib.compress(b"[]" * 1000)[:-1], 1007),
        (b'[{"type":"a"}]', 1007),
    ],
    ids=["a bomb", "cut off", "a text"],
)
def test_a_message_that_can_t_be_unpacked_closes_the_connection(message: bytes, code: int) -> None:
    headers = {"Telemetry-Encoding": "deflate"}
    with (
        RecordingServer() as server,
        client(server, additional_headers=headers) as connection,
    ):
        assert connection.response.headers["Telemetry-Encoding"] == supported()[-1]
        connection.send(message)
        with pytest.raises(ConnectionClosed) as caught:
            connection.recv(timeout=5)
        assert caught.value.rcvd is not None
        assert caught.value.rcvd.code == code
        assert server.messages == []
