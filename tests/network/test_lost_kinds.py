"""Each fault of a network or a server has its kind, with the cause as fields.

Those of proxies are in ``test_proxy``.
"""

from __future__ import annotations

import contextlib
import datetime
import errno
import select
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import trustme

from redvsblue_telemetry import TelemetrySettings, TelemetryStore
from redvsblue_telemetry._delivery.worker import TelemetryConnector
from redvsblue_telemetry._network.contract import Connection, ConnectionLost, LostKind
from redvsblue_telemetry._recording.codec import EventCodec
from redvsblue_telemetry._shared import monotonic
from redvsblue_telemetry.testing import RecordingServer
from tests.support.closing import ENDS_FIRST, reset
from tests.support.collector import REFUSING_PORT
from tests.support.raw_server import (
    Script,
    frame,
    raw_server,
    read_request,
    read_to_the_end,
    shake_hands,
)
from tests.support.sockets import connect, connect_fails, ending, server_context, system_text
from tests.support.systems import not_on_macos, not_on_windows, not_under_wine
from tests.support.wait import wait_until

NOW = datetime.datetime.now(datetime.timezone.utc)
A_DAY = datetime.timedelta(days=1)


# No connection at all.


def test_a_port_at_which_nothing_listens() -> None:
    lost = connect_fails(f"ws://127.0.0.1:{REFUSING_PORT}/")
    assert (lost.kind, lost.errno) == (LostKind.TCP, errno.ECONNREFUSED)
    assert str(lost) == system_text(errno.ECONNREFUSED)
    assert not lost.is_offline


@contextlib.contextmanager
def silent_port() -> Iterator[int]:
    """A port of this machine that neither accepts connections nor refuses them at once."""
    with (
        socket.create_server(("127.0.0.1", 0), backlog=1) as server,
        contextlib.ExitStack() as stack,
    ):
        port = int(server.getsockname()[1])
        is_full = False
        while not is_full:  # its backlog
            client = stack.enter_context(socket.socket())
            client.setblocking(False)
            client.connect_ex(("127.0.0.1", port))
            is_full = not select.select([], [client], [client], 0.2)[1]
        yield port


def test_an_address_of_this_machine_without_a_server_is_given_up_soon(
    server: RecordingServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As ``localhost`` on Windows: ::1 is tried first, which refuses only after two seconds."""
    with silent_port() as port:
        addresses = [
            (socket.AF_INET, socket.SOCK_STREAM, 0, "", ("127.0.0.1", number))
            for number in (port, server.port)
        ]
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: addresses)
        began = monotonic()
        connect("ws://localhost/", timeout=60).close()
    assert monotonic() - began < 10


@pytest.mark.parametrize("host", ["name.invalid", "é..example"])
def test_a_name_that_can_t_be_resolved(host: str) -> None:
    lost = connect_fails(f"ws://{host}/")
    assert lost.kind is LostKind.NAME
    assert lost.is_offline
    assert host in str(lost)


@not_on_macos("it refuses TCP to a group of hosts before it looks for a route")
def test_a_host_without_a_route() -> None:
    lost = connect_fails("ws://224.0.0.1/")  # a group of hosts, to which TCP has no route
    assert lost.kind is LostKind.UNREACHABLE
    assert lost.errno in (errno.ENETUNREACH, errno.EHOSTUNREACH)
    assert lost.is_offline


@pytest.mark.parametrize("scheme", ["ws", "wss"])
def test_a_server_that_never_answers(scheme: str) -> None:
    with raw_server(read_to_the_end) as port:
        lost = connect_fails(f"{scheme}://127.0.0.1:{port}/", timeout=0.1)
    assert lost.kind is LostKind.TIMEOUT


# TLS.


def test_a_server_that_does_not_speak_tls(trusting: ssl.SSLContext) -> None:
    def script(client: socket.socket) -> None:
        client.recv(65536)
        client.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        read_to_the_end(client)

    with raw_server(script) as port:
        lost = connect_fails(f"wss://127.0.0.1:{port}/", ssl_context=trusting)
    # OpenSSL 3 changed the name.
    assert lost.kind is LostKind.TLS
    assert lost.tls_reason in ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE")


def test_a_server_that_hangs_up_during_the_tls_handshake(trusting: ssl.SSLContext) -> None:
    with raw_server(lambda client: client.recv(65536) and None) as port:
        lost = connect_fails(f"wss://127.0.0.1:{port}/", ssl_context=trusting)
    assert lost.kind is LostKind.TLS


def certificate(fault: str, authority: trustme.CA, path: Path) -> ssl.SSLContext:
    """Return the context of a server whose certificate has this fault."""
    if fault == "self-signed":
        other = trustme.CA()
        path.write_bytes(other.private_key_pem.bytes() + other.cert_pem.bytes())
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(path)
        return context
    names = ["other.invalid"] if fault == "other name" else ["127.0.0.1", "localhost"]
    begin = NOW + {"not yet valid": A_DAY}.get(fault, -9 * A_DAY)
    end = NOW + {"expired": -A_DAY}.get(fault, 9 * A_DAY)
    return server_context(authority.issue_cert(*names, not_before=begin, not_after=end))


@pytest.mark.parametrize(
    ("fault", "host", "code", "words"),
    [
        ("expired", "localhost", 10, "expired"),
        ("not yet valid", "localhost", 9, "not yet valid"),
        ("self-signed", "localhost", 18, "self"),
        ("other name", "localhost", 62, "not valid for 'localhost'"),
        ("other name", "127.0.0.1", 64, "not valid for '127.0.0.1'"),
    ],
)
def test_a_certificate_that_fails_verification(
    fault: str,
    host: str,
    code: int,
    words: str,
    authority: trustme.CA,
    trusting: ssl.SSLContext,
    tmp_path: Path,
) -> None:
    context = certificate(fault, authority, tmp_path / "server.pem")
    with RecordingServer(ssl_context=context) as server:
        url = f"wss://{host}:{server.port}/"
        lost = connect_fails(url, ssl_context=trusting, token="hush")
        assert not server.requests  # no handshake, and so no token
    assert (lost.kind, lost.verify_code) == (LostKind.CERTIFICATE, code)
    assert str(lost).startswith("the server's certificate was rejected: ")
    assert words in str(lost)


def test_a_certificate_of_an_unknown_authority(secure_server: RecordingServer) -> None:
    lost = connect_fails(secure_server.url)  # with the context that trusts the system's
    assert (lost.kind, lost.verify_code) == (LostKind.CERTIFICATE, 20)
    assert not secure_server.requests


@pytest.mark.parametrize(
    ("version", "kind"),
    [
        (ssl.TLSVersion.TLSv1_3, LostKind.CLIENT_CERTIFICATE),
        (
            ssl.TLSVersion.TLSv1_2,
            LostKind.TLS,
        ),  # where the alert is a handshake failure like others
    ],
)
def test_a_server_that_requires_a_client_certificate(
    version: ssl.TLSVersion, kind: LostKind, authority: trustme.CA, trusting: ssl.SSLContext
) -> None:
    context = server_context(authority.issue_cert("127.0.0.1"))
    context.minimum_version = context.maximum_version = version
    context.verify_mode = ssl.CERT_REQUIRED
    authority.configure_trust(context)

    def script(client: socket.socket) -> None:
        with context.wrap_socket(client, server_side=True, do_handshake_on_connect=False) as sock:
            with contextlib.suppress(ssl.SSLError):
                sock.do_handshake()
            while socket.socket.recv(sock, 65536):  # else the close would reset, and lose the alert
                pass

    with raw_server(script) as port:
        lost = connect_fails(f"wss://127.0.0.1:{port}/", ssl_context=trusting)
    assert lost.kind is kind
    assert "CERTIFICATE_REQUIRED" in str(lost.tls_reason) or "HANDSHAKE_FAILURE" in str(
        lost.tls_reason
    )


@not_on_windows("a reset discards data that arrived")
def test_a_server_that_requires_a_client_certificate_and_hangs_up_at_once(
    authority: trustme.CA, trusting: ssl.SSLContext
) -> None:
    """Its reset overtakes the alert: the next write fails, while the alert can still be read."""
    context = server_context(authority.issue_cert("127.0.0.1"))
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.verify_mode = ssl.CERT_REQUIRED
    authority.configure_trust(context)

    def script(client: socket.socket) -> None:
        with contextlib.suppress(ssl.SSLError):
            context.wrap_socket(client, server_side=True)

    with raw_server(script) as port:
        url = f"wss://127.0.0.1:{port}/"
        lost = [connect_fails(url, ssl_context=trusting) for _ in range(10)]
    assert [each.kind for each in lost] == [LostKind.CLIENT_CERTIFICATE] * 10


# Handshakes.

SWITCHING = b"HTTP/1.1 101 Yes\r\nUpgrade: websocket\r\nConnection: upgrade\r\n"
REFUSALS = [200, 400, 401, 403, 404, 429, 500, 503]
REDIRECTS = [301, 302, 303, 307, 308]
NO_HANDSHAKES = {
    "nothing": b"",
    "not HTTP": b"SSH-2.0-hush\r\n\r\n",
    "no upgrade": b"HTTP/1.1 101 Yes\r\nUpgrade: websocket\r\n\r\n",
    "wrong key": SWITCHING + b"Sec-WebSocket-Accept: bm8=\r\n\r\n",
    "too long": SWITCHING + b"X: y\r\n" * 20_000,
}


def answering(answer: bytes) -> Script:
    def script(client: socket.socket) -> None:
        read_request(client)
        client.sendall(answer)

    return script


@pytest.mark.parametrize("status", REFUSALS)
def test_a_handshake_refused_with_a_status(status: int) -> None:
    with raw_server(answering(b"HTTP/1.1 %d No\r\nContent-Length: 4\r\n\r\nhush" % status)) as port:
        lost = connect_fails(f"ws://127.0.0.1:{port}/")
    assert (lost.kind, lost.status) == (LostKind.REFUSED, status)
    assert str(lost) == f"the server refused the handshake with HTTP status {status}"


@pytest.mark.parametrize("status", REDIRECTS)
def test_a_redirect(status: int) -> None:
    with raw_server(answering(b"HTTP/1.1 %d No\r\nLocation: ws://hush/\r\n\r\n" % status)) as port:
        lost = connect_fails(f"ws://127.0.0.1:{port}/")
    assert (lost.kind, lost.status) == (LostKind.REDIRECT, status)


@pytest.mark.parametrize("answer", NO_HANDSHAKES.values(), ids=NO_HANDSHAKES)
def test_an_answer_that_is_not_a_handshake(answer: bytes) -> None:
    with raw_server(answering(answer)) as port:
        lost = connect_fails(f"ws://127.0.0.1:{port}/")
    assert (lost.kind, lost.status) == (LostKind.HANDSHAKE, None)
    assert "hush" not in str(lost)


@pytest.mark.parametrize("status", [429, 503])
def test_a_refusal_that_asks_for_time(status: int) -> None:
    def retry_after(text: bytes, date: bytes = b"Thu, 31 Dec 2099 23:59:59 GMT") -> float | None:
        answer = b"HTTP/1.1 %d No\r\nDate: %b\r\nretry-after: %b\r\n\r\n" % (status, date, text)
        with raw_server(answering(answer)) as port:
            return connect_fails(f"ws://127.0.0.1:{port}/").retry_after

    assert retry_after(b"17") == 17
    assert retry_after(b"Fri, 01 Jan 2100 00:00:29 GMT") == 30
    assert retry_after(b"Thursday, 31-Dec-99 23:59:59 GMT", b"Fri Dec 31 23:59:49 1999") == 10
    assert retry_after(b"Fri, 31 Dec 1999 23:59:59 GMT") == 0
    assert retry_after(b"soon") is None
    assert retry_after(b"Fri, 31 Dec 2100 23:59:59 GMT", b"today") is None


# Open connections.


def after_handshake(then: Callable[[socket.socket], object]) -> Script:
    def script(client: socket.socket) -> None:
        shake_hands(client)
        then(client)

    return script


PROTOCOL_ERRORS = {
    "a frame of 2**40 bytes": b"\x82\x7f" + (2**40).to_bytes(8, "big") + b"x" * 100_000,
    "a message that is too long": frame(1, b"a" * 60_000, fin=False) + frame(0, b"b" * 60_000),
    "nothing to continue": frame(0, b"a"),
    "a message within a message": frame(1, b"a", fin=False) + frame(1, b"b"),
    "reserved bits": b"\xf1\x00",
    "an unknown opcode": b"\x83\x00",
    "a masked frame": b"\x8a\x81\x00\x00\x00\x001",
    "a ping over 125 bytes": frame(9, b"p" * 126),
    "a pong over 125 bytes": frame(10, b"1" * 126),
    "a fragment of a ping": frame(9, b"p", fin=False),
    "a fragment of a pong": frame(10, b"1", fin=False),
}


@pytest.mark.parametrize("data", PROTOCOL_ERRORS.values(), ids=PROTOCOL_ERRORS)
def test_a_server_that_violates_the_protocol(data: bytes) -> None:
    def then(client: socket.socket) -> None:
        client.sendall(data)
        read_to_the_end(client)

    with raw_server(after_handshake(then)) as port:
        lost = ending(connect(f"ws://127.0.0.1:{port}/"))
    assert lost.kind is LostKind.PROTOCOL


@pytest.mark.parametrize(
    ("payload", "code", "reason"),
    [
        ((1008).to_bytes(2, "big") + "zu groß\x1b".encode(), 1008, "zu groß\x1b"),
        ((4001).to_bytes(2, "big"), 4001, ""),
        (b"", 1005, ""),
    ],
)
def test_a_close_has_its_code_and_its_reason_which_the_message_lacks(
    payload: bytes, code: int, reason: str
) -> None:
    def then(client: socket.socket) -> None:
        client.sendall(frame(8, payload))
        read_to_the_end(client)

    with raw_server(after_handshake(then)) as port:
        lost = ending(connect(f"ws://127.0.0.1:{port}/"))
    assert (lost.kind, lost.close_code, lost.close_reason) == (LostKind.CLOSED, code, reason)
    assert str(lost) == f"the server closed with code {code}"


def test_an_end_without_a_close() -> None:
    with raw_server(after_handshake(lambda client: None)) as port:
        lost = ending(connect(f"ws://127.0.0.1:{port}/"))
    assert (lost.kind, lost.close_code, lost.errno) == (LostKind.RESET, None, None)


@not_on_windows("a reset discards data that arrived")
def test_a_reset_behind_more_frames_than_are_read_at_once() -> None:
    gone = threading.Event()

    def script(client: socket.socket) -> None:
        # Else the frames wait for the client's ACK, and the reset discards them on this side.
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        shake_hands(client)
        client.sendall(frame(10, b"1") * 1000 + frame(8, (1008).to_bytes(2, "big")))
        reset(client)
        gone.set()

    with raw_server(script) as port:
        connection = connect(f"ws://127.0.0.1:{port}/")
        assert gone.wait(5)
        lost = ending(connection)
    assert (lost.kind, lost.close_code) == (LostKind.CLOSED, 1008)


@not_under_wine(ENDS_FIRST)
def test_a_reset() -> None:
    def then(client: socket.socket) -> None:
        client.recv(100)  # so that the client has read the handshake's answer
        reset(client)

    with raw_server(after_handshake(then)) as port:
        connection = connect(f"ws://127.0.0.1:{port}/")
        connection.ping(b"")
        lost = ending(connection)
    assert (lost.kind, lost.errno) == (LostKind.RESET, errno.ECONNRESET)


# The worker.


def lost_by_worker(url: str, *, event: bool = True, **settings: Any) -> ConnectionLost:
    """Return why a worker lost its connection, or didn't get one."""
    chosen = {"backoff_base": 600.0, "backoff_max": 600.0, "confirm_timeout": 0.05, **settings}
    connect = {"connect": chosen.pop("connect")} if "connect" in chosen else {}
    codec = EventCodec("session", None, max_event_bytes=1000)
    store: TelemetryStore[Any] = TelemetryStore(1)
    if event:
        store.push(codec.encode("x", {}))
    all_settings = TelemetrySettings(enabled=True, url=url, **chosen)
    connector = TelemetryConnector(store, codec, all_settings, **connect)
    connector.start()
    try:
        assert wait_until(lambda: connector.last_lost)
    finally:
        connector.set_enabled(False)
        connector.stop(2)
    lost = connector.last_lost
    assert lost is not None
    assert connector.last_error == str(lost)
    return lost


def test_silence_where_a_confirmation_or_a_pong_is_due() -> None:
    with raw_server(after_handshake(read_to_the_end)) as port:
        url = f"ws://127.0.0.1:{port}/"
        assert lost_by_worker(url).kind is LostKind.UNCONFIRMED
        assert lost_by_worker(url, event=False, keepalive_interval=0.05).kind is LostKind.SILENT


@pytest.mark.parametrize(
    "ack", [frame(1, b"hello"), frame(2, b'{"ack":1}'), frame(1, b'{"ack":99}')]
)
def test_an_ack_that_is_malformed(ack: bytes) -> None:
    def script(client: socket.socket) -> None:
        shake_hands(client, b"Telemetry-Ack: cumulative")
        client.recv(65536)
        client.sendall(ack)
        read_to_the_end(client)

    with raw_server(script) as port:
        lost = lost_by_worker(f"ws://127.0.0.1:{port}/", confirm_timeout=5)
    assert lost.kind is LostKind.PROTOCOL
    assert str(lost).startswith("malformed ack")


def fail() -> str:
    raise LookupError("hush")


@pytest.mark.parametrize("token", [fail, lambda: "not\na token"])
def test_a_token_that_can_t_be_had(token: Callable[[], str]) -> None:
    lost = lost_by_worker("ws://127.0.0.1:9/", token=token)
    assert lost.kind is LostKind.TOKEN
    assert "hush" not in str(lost)


def test_an_internal_error() -> None:
    def broken(*_: object) -> Connection:
        raise ZeroDivisionError

    lost = lost_by_worker("ws://127.0.0.1:9/", connect=broken)
    assert lost.kind is LostKind.INTERNAL
    assert "ZeroDivisionError" in str(lost)


def test_the_worker_s_last_loss_keeps_no_frames_that_hold_a_token() -> None:
    lost = lost_by_worker("ws://name.invalid/", token="hush")
    assert (lost.__traceback__, lost.__context__, lost.__cause__) == (None, None, None)
