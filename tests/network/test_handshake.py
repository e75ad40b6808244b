"""The opening handshake: the request, byte by byte, and which answers are accepted."""

from __future__ import annotations

import base64
import hashlib
import socket
from typing import Any

import pytest

from redvsblue_telemetry._network.contract import ConnectionLost, Endpoint, LostKind
from redvsblue_telemetry._network.handshake import Handshake
from tests.support.raw_server import GUID, frame, raw_server, read_to_the_end, shake_hands
from tests.support.sockets import connect, connect_fails, ending

OFFERS = b"Telemetry-Ack: cumulative"
YES = "HTTP/1.1 101 Yes\r\n"
ACCEPT = "Sec-WebSocket-Accept: {}\r\n"
RIGHT = f"Upgrade: websocket\r\nConnection: Upgrade\r\n{ACCEPT}"


def lines_of(url: str, **settings: Any) -> list[bytes]:
    return Handshake(Endpoint(url, **settings)).request().split(b"\r\n")


def accept_of(handshake: Handshake) -> str:
    (key,) = (line for line in handshake.request().split(b"\r\n") if b"-Key: " in line)
    digest = hashlib.sha1(key.partition(b": ")[2] + GUID).digest()
    return base64.b64encode(digest).decode()


def test_the_request() -> None:
    lines = lines_of("ws://localhost:3000/telemetry?a=b", token="t", headers={"X-Key": "k: v"})
    (key,) = (line for line in lines if line.startswith(b"Sec-WebSocket-Key: "))
    assert len(base64.b64decode(key.partition(b": ")[2])) == 16
    assert lines == [
        b"GET /telemetry?a=b HTTP/1.1",
        b"Host: localhost:3000",
        b"Upgrade: websocket",
        b"Connection: Upgrade",
        key,
        b"Sec-WebSocket-Version: 13",
        b"X-Key: k: v",
        b"Authorization: Bearer t",
        OFFERS,
        b"",
        b"",
    ]


def test_it_offers_acks_and_reports_as_it_is_asked_to() -> None:
    for acks in (True, False):
        for reports in (True, False):
            lines = lines_of("ws://a", offers_acks=acks, offers_reports=reports)
            assert (OFFERS in lines) == acks
            assert (b"Telemetry-Report: 1" in lines) == reports
            assert b"Telemetry-Confirm: archived" not in lines


def test_it_asks_for_the_archive_in_a_header_of_its_own() -> None:
    lines = lines_of("ws://a", offers_archived_acks=True)
    assert OFFERS in lines
    assert b"Telemetry-Confirm: archived" in lines


@pytest.mark.parametrize(
    ("headers", "has_reports"),
    [
        ([], False),
        ([b"Telemetry-Report: 1"], True),
        ([b"telemetry-report:1 "], True),
        ([b"Telemetry-Report: 2"], False),
        ([b"Telemetry-Report: 1", b"Telemetry-Report: 1"], False),
        ([b"Telemetry-Report:"], False),
    ],
)
def test_a_server_takes_reports_if_it_answers_with_their_version(
    headers: list[bytes], has_reports: bool
) -> None:
    def script(client: socket.socket) -> None:
        shake_hands(client, *headers)
        read_to_the_end(client)

    with raw_server(script) as port:
        connection = connect(f"ws://127.0.0.1:{port}/")
        assert connection.has_reports == has_reports
        connection.close()


def test_it_offers_the_encodings_that_it_is_given_in_their_order() -> None:
    lines = lines_of("ws://a", encodings=("zstd", "deflate"), offers_reports=True)
    assert lines[-3:] == [b"Telemetry-Encoding: zstd, deflate", b"", b""]
    assert lines_of("ws://a", encodings=("deflate",))[-3] == b"Telemetry-Encoding: deflate"
    assert not [line for line in lines_of("ws://a") if b"encoding" in line.lower()]


@pytest.mark.parametrize(
    ("headers", "encoding"),
    [
        ([], None),
        ([b"Telemetry-Encoding: zstd"], "zstd"),
        ([b"telemetry-encoding:  Deflate "], "deflate"),
        ([b"Telemetry-Encoding: gzip"], None),
        ([b"Telemetry-Encoding: zstd, deflate"], None),
        ([b"Telemetry-Encoding: deflate", b"Telemetry-Encoding: deflate"], None),
        ([b"Telemetry-Encoding: deflate;level=1"], None),
        ([b"Telemetry-Encoding:"], None),
        ([b"Content-Encoding: deflate"], None),
    ],
)
def test_a_server_picks_an_encoding_by_answering_with_one_that_was_offered(
    headers: list[bytes], encoding: str | None
) -> None:
    def script(client: socket.socket) -> None:
        shake_hands(client, *headers)
        read_to_the_end(client)

    with raw_server(script) as port:
        connection = connect(f"ws://127.0.0.1:{port}/", encodings=("zstd", "deflate"))
        assert connection.encoding == encoding
        connection.close()
        without = connect(f"ws://127.0.0.1:{port}/")
        assert without.encoding is None
        without.close()


def test_each_handshake_has_another_key() -> None:
    endpoint = Endpoint("ws://localhost/")
    assert Handshake(endpoint).request() != Handshake(endpoint).request()


@pytest.mark.parametrize(
    ("url", "first", "host"),
    [
        ("ws://a", b"GET / HTTP/1.1", b"a"),
        ("ws://a:80/x", b"GET /x HTTP/1.1", b"a"),
        ("ws://a:443/x", b"GET /x HTTP/1.1", b"a:443"),
        ("wss://a:443/x", b"GET /x HTTP/1.1", b"a"),
        ("wss://a:80/x", b"GET /x HTTP/1.1", b"a:80"),
        ("wss://A.example/x#fragment", b"GET /x HTTP/1.1", b"a.example"),
        ("ws://[::1]:3000?q", b"GET /?q HTTP/1.1", b"[::1]:3000"),
        ("ws://sch\u00f6n.example/\u00fc?\u20ac=%20|", b"GET /%C3%BC?%E2%82%AC=%20| HTTP/1.1",
         b"xn--schn-7qa.example"),
    ],
)  # fmt: skip
def test_target_and_host(url: str, first: bytes, host: bytes) -> None:
    lines = lines_of(url, offers_acks=False)
    assert lines[:2] == [first, b"Host: " + host]
    assert OFFERS not in lines


@pytest.mark.parametrize(
    "headers",
    [
        "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: {}\r\n\r\n",
        "UPGRADE:WebSocket\r\nconnection: keep-alive, upgrade\r\nsec-websocket-accept:{}\r\n\r\n",
        "Upgrade: websocket\nConnection: Upgrade\nSec-WebSocket-Accept:  {} \n\n",
        f"Connection: a\r\nX: \xff\r\nno colon\r\n{RIGHT}\r\n",
    ],
)
def test_an_answer_that_accepts(headers: str) -> None:
    handshake = Handshake(Endpoint("ws://a/"))
    answer = "HTTP/1.1 101 Fine\r\nTelemetry-Ack: Cumulative\r\n" + headers.format(
        accept_of(handshake)
    )
    assert handshake.check(answer.encode("latin-1"))["telemetry-ack"] == "Cumulative"


@pytest.mark.parametrize(
    "answer",
    [
        f"{YES}Connection: Upgrade\r\n{ACCEPT}\r\n",
        f"{YES}Upgrade: h2c\r\nConnection: Upgrade\r\n{ACCEPT}\r\n",
        f"{YES}Upgrade: websocket\r\n{ACCEPT}\r\n",
        f"{YES}Upgrade: websocket\r\nConnection: close\r\n{ACCEPT}\r\n",
        f"{YES}Upgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
        f"{YES}{RIGHT}{ACCEPT}\r\n",
        f"{YES}{RIGHT}",  # the empty line is missing
        f"HTTP/1.1 1010 No\r\n{RIGHT}\r\n",
        f"SMTP/1.1 101 No\r\n{RIGHT}\r\n",
        "",
    ],
)
def test_an_answer_that_accepts_nothing(answer: str) -> None:
    handshake = Handshake(Endpoint("ws://a/"))
    with pytest.raises(ConnectionLost) as caught:
        handshake.check(answer.replace("{}", accept_of(handshake)).encode())
    assert caught.value.kind is LostKind.HANDSHAKE


def test_the_accepted_key_is_compared_as_it_is() -> None:
    handshake = Handshake(Endpoint("ws://a/"))
    wrong = accept_of(handshake).swapcase()
    with pytest.raises(ConnectionLost, match="not a WebSocket handshake"):
        handshake.check(f"HTTP/1.1 101 Yes\r\n{RIGHT.format(wrong)}\r\n".encode())


INTERIM = {
    "continue": b"HTTP/1.1 100 Continue\r\n\r\n",
    "early hints": b"HTTP/1.1 103 Early Hints\r\nLink: </style.css>\r\nUpgrade: h2c\r\n\r\n",
}


@pytest.mark.parametrize("interim", INTERIM.values(), ids=INTERIM)
@pytest.mark.parametrize("times", [1, 8])
def test_interim_answers_precede_the_answer(interim: bytes, times: int) -> None:
    def script(client: socket.socket) -> None:
        client.sendall(interim * times)
        shake_hands(client, OFFERS)
        client.sendall(frame(8, b"\x0f\xa1"))
        read_to_the_end(client)

    with raw_server(script) as port:
        connection = connect(f"ws://127.0.0.1:{port}/")
        assert connection.has_acks
        assert ending(connection).close_code == 4001


def test_the_answer_can_t_be_put_off_without_end() -> None:
    def script(client: socket.socket) -> None:
        client.sendall(INTERIM["early hints"] * 9)
        shake_hands(client)
        read_to_the_end(client)

    with raw_server(script) as port:
        lost = connect_fails(f"ws://127.0.0.1:{port}/")
    assert (lost.kind, lost.status) == (LostKind.REFUSED, 103)


def test_an_interim_answer_and_no_more() -> None:
    def script(client: socket.socket) -> None:
        client.sendall(INTERIM["continue"])
        client.shutdown(socket.SHUT_WR)
        read_to_the_end(client)

    with raw_server(script) as port:
        lost = connect_fails(f"ws://127.0.0.1:{port}/")
    assert lost.kind is LostKind.HANDSHAKE
    assert "closed the connection" in str(lost)
