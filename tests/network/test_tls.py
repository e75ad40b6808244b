"""TLS: which servers are trusted, and bytes that flow in both directions."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trustme
from websockets.exceptions import ConnectionClosed
from websockets.sync.server import ServerConnection

from redvsblue_telemetry import ConnectionState, start_telemetry, stop_telemetry
from redvsblue_telemetry._network import dial
from redvsblue_telemetry._network.contract import LostKind
from redvsblue_telemetry._network.dial import default_ssl_context
from redvsblue_telemetry.testing import RecordingServer
from tests.support.raw_server import frame, raw_server, read_to_the_end, shake_hands
from tests.support.sdk import QUICK, delivers, failure
from tests.support.sockets import connect, ending, narrowed, server_context
from tests.support.systems import needs_windows, not_on_macos, not_on_windows
from tests.support.wait import wait_until
from tests.support.websocket_server import websocket_server

has_its_own_authorities = not_on_windows("Python always has the CA certificates of the system")

# Trust.


def test_a_context_of_the_game_s_own_decides(
    secure_server: RecordingServer, trusting: ssl.SSLContext
) -> None:
    assert delivers(secure_server.url, ssl_context=trusting)
    assert delivers(f"wss://localhost:{secure_server.port}/", ssl_context=trusting)


SENDS_ONE_EVENT = """
import sys
from redvsblue_telemetry import start_telemetry
telemetry = start_telemetry(enabled=True, url=sys.argv[1], backoff_base=0.02)
telemetry.emit("x")
telemetry.flush(10)
print(telemetry.stop(1), telemetry.stats().delivered, telemetry.stats().last_error)
"""


def test_what_the_system_trusts_is_believed(
    secure_server: RecordingServer, authority: trustme.CA, tmp_path: Path
) -> None:
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    done = subprocess.run(
        [sys.executable, "-c", SENDS_ONE_EVENT, secure_server.url],
        env={**os.environ, "SSL_CERT_FILE": str(tmp_path / "ca.pem")},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert (done.stdout, done.stderr) == ("True 1 None\n", "")


@not_on_windows("no variable adds an authority")
@not_on_macos("no variable adds an authority")
@pytest.mark.parametrize("way", ["ssl_context", "inject_into_ssl"])
def test_truststore_brings_the_authorities(
    way: str, secure_server: RecordingServer, authority: trustme.CA, tmp_path: Path
) -> None:
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    script = SENDS_ONE_EVENT
    if way == "ssl_context":
        context = "truststore.SSLContext(ssl.PROTOCOL_TLS_CLIENT)"
        script = f"import ssl, truststore\n{script}".replace(
            "enabled=True", f"enabled=True, ssl_context={context}"
        )
    else:
        script = f"import truststore\ntruststore.inject_into_ssl()\n{script}"
    for trusted in (True, False):
        if not trusted:
            trustme.CA().cert_pem.write_to_path(str(tmp_path / "ca.pem"))
            script = script.replace("flush(10)", "flush(1)")
        done = subprocess.run(
            [sys.executable, "-c", script, secure_server.url],
            env={**os.environ, "SSL_CERT_FILE": str(tmp_path / "ca.pem"), "SSL_CERT_DIR": "none"},
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        rejected = "the server's certificate was rejected: unable to get local issuer certificate"
        assert done.stdout == ("True 1 None\n" if trusted else f"False 0 {rejected}\n")


@pytest.mark.parametrize(
    "store",
    [
        pytest.param("nothing", marks=has_its_own_authorities),
        pytest.param("an empty file", marks=has_its_own_authorities),
        "another authority",
    ],
)
def test_a_python_without_ca_certificates_says_so_and_how_to_bring_some(
    store: str, secure_server: RecordingServer, tmp_path: Path
) -> None:
    """As in a bundled game, whose OpenSSL looks where the player's machine has none."""
    file, folder = tmp_path / "ca.pem", tmp_path / "certs"
    if store == "an empty file":
        file.touch()
    if store == "another authority":
        folder.mkdir()
        trustme.CA().cert_pem.write_to_path(str(folder / "0123abcd.0"))
    done = subprocess.run(
        [sys.executable, "-c", SENDS_ONE_EVENT.replace("flush(10)", "flush(1)"), secure_server.url],
        env={**os.environ, "SSL_CERT_FILE": str(file), "SSL_CERT_DIR": str(folder)},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    lacks_them = (
        "the server's certificate can't be checked, because this Python has no CA certificates; "
        "set ssl_context, for example to truststore.SSLContext(ssl.PROTOCOL_TLS_CLIENT)"
    )
    rejected = "the server's certificate was rejected: unable to get local issuer certificate"
    if sys.platform == "win32":  # which may not have downloaded the authority yet
        rejected += f"; if browsers accept it, {lacks_them.partition('; ')[2]}"
    reason = rejected if store == "another authority" else lacks_them
    assert done.stdout == f"False 0 {reason}\n"
    assert done.stderr == f"telemetry is not connected: {reason}; trying again\n"


@needs_windows
@pytest.mark.filterwarnings("ignore:Bad certificate:UserWarning")  # of Python 3.13.3 and later
def test_a_certificate_that_can_t_be_read_spoils_no_other(
    secure_server: RecordingServer, authority: trustme.CA, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = ssl.PEM_cert_to_DER_cert(authority.cert_pem.bytes().decode())
    stores = {"ROOT": [(bytes(100), "x509_asn", True), (good, "x509_asn", True)]}
    monkeypatch.setattr(ssl, "enum_certificates", lambda store: stores.get(store, []))
    default_ssl_context.cache_clear()
    assert delivers(secure_server.url)
    default_ssl_context.cache_clear()


def test_the_default_context_is_built_once_however_many_attempts_there_are(
    secure_server: RecordingServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    built = []
    build = ssl.create_default_context

    def note(*args: Any, **more: Any) -> ssl.SSLContext:
        built.append(build(*args, **more))
        return built[-1]

    monkeypatch.setattr(ssl, "create_default_context", note)
    default_ssl_context.cache_clear()
    states: list[ConnectionState] = []
    for _ in range(2):
        start_telemetry(**QUICK, url=secure_server.url, on_state_change=states.append)
        times = states.count(ConnectionState.BACKING_OFF)
        assert wait_until(lambda t=times: states.count(ConnectionState.BACKING_OFF) >= t + 3)
        stop_telemetry(1)
    assert default_ssl_context() is default_ssl_context()
    assert built == [default_ssl_context()]
    assert built[0].verify_mode is ssl.CERT_REQUIRED
    assert built[0].check_hostname


def test_a_certificate_of_the_client_goes_where_it_is_demanded(
    authority: trustme.CA, trusting: ssl.SSLContext
) -> None:
    demanding = server_context(authority.issue_cert("127.0.0.1"))
    demanding.verify_mode = ssl.CERT_REQUIRED
    authority.configure_trust(demanding)
    with RecordingServer(ssl_context=demanding) as server:
        failure(server.url, ssl_context=trusting)
        authority.issue_cert("player@game.invalid").configure_cert(trusting)
        assert delivers(server.url, ssl_context=trusting)
        assert len(server.requests) == 1


# Peers that speak something else, or too little.


def test_a_server_without_tls_fails_the_attempt_and_hears_no_token(
    trusting: ssl.SSLContext,
) -> None:
    heard: list[bytes] = []

    def script(client: socket.socket) -> None:
        heard.append(client.recv(65536))
        client.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\nhush")

    with raw_server(script) as port:
        reason = failure(f"wss://127.0.0.1:{port}/", ssl_context=trusting, token="hush")
    assert "SSL" in reason or "TLS" in reason
    assert "hush" not in reason
    assert heard[0][0] == 0x16  # a TLS handshake, and nothing before it
    assert b"hush" not in heard[0]


def test_a_server_with_tls_does_not_understand_a_plain_client(
    secure_server: RecordingServer,
) -> None:
    failure(f"ws://127.0.0.1:{secure_server.port}/")
    assert not secure_server.requests


def stall(client: socket.socket) -> None:
    read_to_the_end(client)


def drip(client: socket.socket) -> None:
    """A record of TLS that is never whole."""
    client.settimeout(0.02)
    for byte in b"\x16\x03\x03\x40\x00" + bytes(10_000):
        client.sendall(bytes([byte]))
        with contextlib.suppress(TimeoutError):  # which paces it
            while client.recv(65536):
                pass
            return


@pytest.mark.parametrize("script", [stall, drip])
def test_a_tls_handshake_that_takes_too_long_ends_with_the_connect_timeout(
    script: Callable[[socket.socket], None], trusting: ssl.SSLContext
) -> None:
    with raw_server(script) as port:
        start = time.monotonic()
        reason = failure(f"wss://127.0.0.1:{port}/", ssl_context=trusting, connect_timeout=0.3)
        assert 0.3 <= time.monotonic() - start < 8
    assert "timed out" in reason


@pytest.mark.parametrize("script", [stall, drip])
def test_a_stop_in_the_middle_of_a_tls_handshake_returns_in_time(
    script: Callable[[socket.socket], None], trusting: ssl.SSLContext
) -> None:
    shaking = threading.Event()

    def noting(client: socket.socket) -> None:
        client.recv(1)
        shaking.set()
        script(client)

    with raw_server(noting) as port:
        url = f"wss://127.0.0.1:{port}/"
        telemetry = start_telemetry(**QUICK, url=url, ssl_context=trusting, connect_timeout=60)
        telemetry.emit("x")
        assert shaking.wait(20)
        start = time.monotonic()
        assert not telemetry.stop(0.2)
        assert time.monotonic() - start < 10
        # A stop that timed out doesn't wait for the worker, which counts what it gives up.
        assert wait_until(lambda: telemetry.stats().dropped == 1)


# Bytes.


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_large_batches_and_a_talkative_server_that_reads_slowly_get_on(
    version: ssl.TLSVersion,
    authority: trustme.CA,
    trusting: ssl.SSLContext,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Either direction fills up while the other is under way, and nothing is lost or mixed up."""
    seqs: list[int] = []

    def handler(connection: ServerConnection) -> None:
        connection.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        with contextlib.suppress(ConnectionClosed):
            for message in connection:
                seqs.extend(event["seq"] for event in json.loads(message))
                connection.send("z" * 60_000)  # no ack was promised, so it is only weight
                time.sleep(0.005)

    context = server_context(authority.issue_cert("127.0.0.1"))
    context.minimum_version = context.maximum_version = version
    monkeypatch.setattr(dial.sigpipe, "spare", narrowed)
    options = {"ssl": context, "max_size": None, "compression": None}
    with websocket_server(handler, "wss", **options) as url:
        telemetry = start_telemetry(**QUICK, url=url, ssl_context=trusting, batch_size=10)
        for _ in range(600):
            telemetry.emit("x", text="y" * 8000)
        assert telemetry.flush(30)
        assert telemetry.stats().reconnects == 0
        assert telemetry.stats().delivered == 600
        assert wait_until(lambda: len(seqs) >= 600, 30)
        assert telemetry.stop(5)
    assert seqs == list(range(1, 601))


def test_connections_that_are_closed_under_tls_lose_nothing(
    secure_server: RecordingServer, trusting: ssl.SSLContext
) -> None:
    telemetry = start_telemetry(
        **QUICK, url=secure_server.url, ssl_context=trusting, drain_interval=0.02
    )
    for times in range(3):
        assert wait_until(lambda t=times: telemetry.stats().reconnects == t)
        assert secure_server.wait_for_connection()
        for _ in range(200):
            telemetry.emit("x", text="y" * 500)
        secure_server.disconnect()
    assert telemetry.flush(10)
    seqs = [event["seq"] for event in secure_server.events]
    assert list(dict.fromkeys(seqs)) == list(range(1, 601))
    assert telemetry.stop(2)


class OneFlight:
    """The server's end of TLS over a socket; the data leaves with :meth:`end`, all at once."""

    def __init__(self, sock: socket.socket, context: ssl.SSLContext) -> None:
        self._sock = sock
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        self._read(self._tls.do_handshake)
        self._sock.sendall(self._outgoing.read())

    def _read(self, step: Callable[[], Any]) -> Any:
        while True:
            try:
                return step()
            except ssl.SSLWantReadError:
                self._sock.sendall(self._outgoing.read())
                data = self._sock.recv(65536)
                if not data:
                    raise ConnectionError("gone") from None
                self._incoming.write(data)

    def recv(self, size: int) -> bytes:
        data: bytes = self._read(lambda: self._tls.read(size))
        return data

    def sendall(self, data: bytes) -> None:
        self._tls.write(data)

    def end(self) -> None:
        with contextlib.suppress(ssl.SSLWantReadError):  # the client's goodbye is not waited for
            self._tls.unwrap()
        self._sock.sendall(self._outgoing.read())


def test_frames_that_arrive_with_the_handshake_s_answer_and_the_end_are_read(
    authority: trustme.CA, trusting: ssl.SSLContext
) -> None:
    """As from a server that accepts, only to say why it has no place for the client."""
    context = server_context(authority.issue_cert("127.0.0.1"))

    def script(client: socket.socket) -> None:
        secure: Any = OneFlight(client, context)
        shake_hands(secure, b"Telemetry-Ack: cumulative")
        secure.sendall(frame(0xA, b"1") * 1000 + frame(8, b"\x03\xf0no seat"))
        secure.end()

    with raw_server(script) as port:
        lost = ending(connect(f"wss://127.0.0.1:{port}/", ssl_context=trusting))
    assert (lost.kind, lost.close_code, lost.close_reason) == (LostKind.CLOSED, 1008, "no seat")


def test_an_end_without_the_goodbye_of_tls_is_an_end(
    authority: trustme.CA, trusting: ssl.SSLContext
) -> None:
    context = server_context(authority.issue_cert("127.0.0.1"))

    def script(client: socket.socket) -> None:
        with context.wrap_socket(client, server_side=True) as secure:
            shake_hands(secure)
            secure.sendall(frame(0xA, b"1"))
            socket.socket.shutdown(secure, socket.SHUT_WR)
            read_to_the_end(secure)

    with raw_server(script) as port:
        lost = ending(connect(f"wss://127.0.0.1:{port}/", ssl_context=trusting))
    assert (lost.kind, lost.tls_reason) == (LostKind.RESET, None)
    assert str(lost) == "the connection ended without a close frame"
