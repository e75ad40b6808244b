"""TLS in the collector: which files it takes, and how a certificate is replaced."""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import os
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trustme
from websockets.sync.client import ClientConnection

from redvsblue_telemetry import Telemetry, TelemetrySettings
from redvsblue_telemetry.collector import listening, server
from redvsblue_telemetry.collector.http import guesses
from redvsblue_telemetry.collector.server import Options, OptionsError, telemetry_url
from redvsblue_telemetry.collector.tls import Certificate
from tests.collector.clients import ACKS, HANDSHAKE, array, connect_over_tls
from tests.support.collector import PATIENCE, RunningCollector, collector_running
from tests.support.command import Running, invoke_command, running_command
from tests.support.systems import IS_WINDOWS, needs_modes, needs_posix
from tests.support.wait import wait_until

PASSWORD = b"sesame"


class Files:
    """An authority, and the files of a certificate that it has issued."""

    def __init__(self, folder: Path) -> None:
        self.authority = trustme.CA()
        self.cert = folder / "cert.pem"
        self.key = folder / "key.pem"
        self.trust = folder / "trust.pem"
        self.authority.cert_pem.write_to_path(str(self.trust))
        self.renew()

    def renew(self) -> None:
        issued = self.authority.issue_cert("localhost", "127.0.0.1")
        self.cert.write_bytes(b"".join(pem.bytes() for pem in issued.cert_chain_pems))
        self.key.write_bytes(issued.private_key_pem.bytes())

    def context(self) -> ssl.SSLContext:
        """That of a client who trusts the authority."""
        return ssl.create_default_context(cafile=str(self.trust))

    @property
    def options(self) -> dict[str, Any]:
        return {"tls_cert": self.cert, "tls_key": self.key}


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


@pytest.fixture
def secure(files: Files, monkeypatch: pytest.MonkeyPatch) -> Iterator[RunningCollector]:
    """A collector with TLS, which this process trusts."""
    monkeypatch.setenv("SSL_CERT_FILE", str(files.trust))
    with collector_running(**files.options) as collector:
        yield collector


def client_of(url: str, files: Files) -> ClientConnection:
    return connect_over_tls(url, files.authority, additional_headers=ACKS)


def serial(port: int, files: Files) -> str:
    """The serial number of the certificate that a new connection gets."""
    with (
        socket.create_connection(("127.0.0.1", port), PATIENCE) as plain,
        files.context().wrap_socket(plain, server_hostname="localhost") as sock,
    ):
        certificate = sock.getpeercert()
        assert certificate
        return str(certificate["serialNumber"])


def test_page_api_and_games_are_served_over_tls_at_one_port(
    secure: RunningCollector, files: Files
) -> None:
    assert secure.http_url == f"https://127.0.0.1:{secure.port}/"
    assert secure.url == f"wss://127.0.0.1:{secure.port}/telemetry"
    settings = TelemetrySettings(enabled=True, url=secure.url, ssl_context=files.context())
    telemetry = Telemetry(settings).start()
    try:
        telemetry.emit("hit")
        assert telemetry.flush(PATIENCE)
    finally:
        telemetry.stop(PATIENCE)
    assert secure.stats().events == 1, "the client of the API trusts the system's authorities"


def test_certificate_and_key_may_be_in_one_file(files: Files) -> None:
    files.cert.write_bytes(files.key.read_bytes() + files.cert.read_bytes())
    with collector_running(tls_cert=files.cert) as collector:
        assert serial(collector.port, files)


@pytest.mark.parametrize(
    ("version", "is_served"),
    [
        (ssl.TLSVersion.TLSv1_1, False),
        (ssl.TLSVersion.TLSv1_2, True),
        (ssl.TLSVersion.TLSv1_3, True),
    ],
)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_old_versions_of_tls_are_not_served(
    version: ssl.TLSVersion, is_served: bool, secure: RunningCollector, files: Files
) -> None:
    context = files.context()
    context.set_ciphers("ALL:@SECLEVEL=0")
    context.minimum_version = context.maximum_version = version
    with socket.create_connection(("127.0.0.1", secure.port), PATIENCE) as plain:
        if is_served:
            with context.wrap_socket(plain, server_hostname="localhost") as sock:
                assert sock.version() == version.name.replace("_", ".")
        else:
            with pytest.raises((ssl.SSLError, ConnectionError)):
                context.wrap_socket(plain, server_hostname="localhost")


def encrypted(key: bytes) -> bytes:
    from cryptography.hazmat.primitives import serialization

    loaded = serialization.load_pem_private_key(key, None)
    return loaded.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(PASSWORD),
    )


def break_files(how: str, files: Files) -> None:
    if how == "no certificate":
        files.cert.unlink()
    elif how == "no key":
        files.key.unlink()
    elif how == "a folder":
        files.key.unlink()
        files.key.mkdir()
    elif how == "not PEM":
        files.cert.write_bytes(b"\x30\x82\x01\x0a" * 100)
    elif how == "empty":
        files.key.write_bytes(b"")
    elif how == "swapped":
        cert, key = files.cert.read_bytes(), files.key.read_bytes()
        files.cert.write_bytes(key)
        files.key.write_bytes(cert)
    elif how == "another key":
        files.key.write_bytes(files.authority.issue_cert("other").private_key_pem.bytes())
    elif how == "encrypted":
        files.key.write_bytes(encrypted(files.key.read_bytes()))
    elif how == "cut off":
        files.cert.write_bytes(files.cert.read_bytes()[:300])


FAULTS = {
    "no certificate": "cannot read CERT: No such file or directory",
    "no key": "cannot read KEY: No such file or directory",
    "a folder": f"cannot read KEY: {os.strerror(errno.EACCES if IS_WINDOWS else errno.EISDIR)}",
    "not PEM": "CERT is not in PEM",
    "empty": "KEY is not in PEM",
    "swapped": "CERT contains no certificate",
    "another key": "cannot serve TLS with CERT and KEY: the key does not belong to the certificate",
    "encrypted": "the private key in KEY is encrypted; write it without a password",
    "cut off": "cannot serve TLS with CERT and KEY",
}


def fault(how: str, files: Files) -> str:
    return FAULTS[how].replace("CERT", str(files.cert)).replace("KEY", str(files.key))


@pytest.mark.parametrize("how", FAULTS)
def test_files_that_can_not_be_used_are_named_at_the_start(
    how: str, files: Files, tmp_path: Path
) -> None:
    break_files(how, files)
    db = tmp_path / "telemetry.sqlite3"
    with (
        pytest.raises(OptionsError) as refused,
        collector_running(db=db, **files.options),
    ):
        pass
    assert str(refused.value).startswith(fault(how, files))
    assert not db.exists()


def test_file_without_a_key_asks_for_the_key(files: Files) -> None:
    with pytest.raises(OptionsError, match=r"no private key; name the file that does with --tls-k"):
        Options(tls_cert=files.cert).certificate()


def test_key_without_a_certificate_is_refused(files: Files) -> None:
    with pytest.raises(OptionsError, match="--tls-key needs --tls-cert"):
        Options(tls_key=files.key).check()


# The modules are imported before root becomes another user, who may not be able to read them.
UNPRIVILEGED = """
import os, sys
from pathlib import Path
from redvsblue_telemetry.collector.tls import Certificate, CertificateError
if os.geteuid() == 0:
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
try:
    Certificate(Path(sys.argv[1]), Path(sys.argv[2]))
except CertificateError as error:
    print(error)
"""


@needs_modes
def test_key_that_may_not_be_read_is_named() -> None:
    with tempfile.TemporaryDirectory() as name:  # pytest's own folders keep other users out
        folder = Path(name)
        folder.chmod(0o755)
        files = Files(folder)
        files.key.chmod(0)
        done = subprocess.run(
            [sys.executable, "-c", UNPRIVILEGED, str(files.cert), str(files.key)],
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout == f"cannot read {files.key}: Permission denied\n"


@pytest.mark.parametrize("how", FAULTS)
def test_files_that_can_not_be_used_leave_the_old_certificate(
    how: str, files: Files, caplog: pytest.LogCaptureFixture
) -> None:
    certificate = Certificate(files.cert, files.key)
    before = certificate.context
    break_files(how, files)
    assert not certificate.reload()
    assert certificate.context is before
    (line,) = caplog.messages
    assert line.startswith(f"the certificate was not replaced: {fault(how, files)}")


# Strangers.


def test_request_without_tls_gets_an_answer(
    secure: RunningCollector, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(5):
        with socket.create_connection(("127.0.0.1", secure.port), PATIENCE) as sock:
            sock.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
            answer = b"".join(iter(lambda: sock.recv(65536), b""))
        assert answer.startswith(b"HTTP/1.1 400 Bad Request\r\n")
        assert answer.endswith(b"This port serves TLS: use https:// or wss://.\n")
    assert caplog.messages == ["a request without TLS; from 127.0.0.1"]


def test_check_without_tls_asks_for_it(secure: RunningCollector) -> None:
    done = invoke_command("check", secure.url.replace("wss:", "ws:"))
    assert done.exit_code == 1
    assert "Then the URL must begin with wss://" in done.output


@pytest.mark.parametrize("sent", [b"", b"\x16\x03\x01\x02\x00\x01"], ids=["silence", "a part"])
def test_half_a_tls_handshake_is_ended(
    sent: bytes,
    secure: RunningCollector,
    files: Files,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    with contextlib.ExitStack() as stack:
        client = stack.enter_context(client_of(secure.url, files))
        monkeypatch.setattr(listening, "_REQUEST_TIMEOUT", 0.4)
        crowd = []
        for _ in range(30):
            sock = socket.create_connection(("127.0.0.1", secure.port), PATIENCE)
            crowd.append(stack.enter_context(sock))
            sock.sendall(sent)
        for sock in crowd:
            with contextlib.suppress(ConnectionError):
                assert sock.recv(1) == b""
        client.send(array(1))
        assert json.loads(client.recv(timeout=PATIENCE)) == {"ack": 1}
    warnings = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert 1 <= len(warnings) <= 2
    assert all(record.getMessage().endswith("; from 127.0.0.1") for record in warnings)


CLOSED = pytest.mark.parametrize(
    "request_",
    [
        b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
        b"nonsense\r\n\r\n",
        HANDSHAKE.replace(b"/telemetry", b"/nowhere"),
        HANDSHAKE.replace(b"Host", b"Authorization: Bearer wrong\r\nHost"),
    ],
    ids=["asked to close", "invalid", "no endpoint", "wrong token"],
)
"""Requests after which the collector closes the connection."""


def lingering(
    stack: contextlib.ExitStack, collector: RunningCollector, files: Files, request_: bytes
) -> socket.socket:
    """Have a connection closed, and not confirm it; return the socket beneath TLS."""
    plain = socket.create_connection(("127.0.0.1", collector.port), PATIENCE)
    beneath = stack.enter_context(plain.dup())
    sock = stack.enter_context(files.context().wrap_socket(plain, server_hostname="localhost"))
    sock.sendall(request_)
    assert sock.recv(9) == b"HTTP/1.1 "  # and not the rest, with the close
    return beneath


@CLOSED
def test_clients_that_do_not_confirm_the_close_keep_nobody_out(
    request_: bytes, files: Files, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(guesses, "_FREE_GUESSES", 100)
    monkeypatch.setattr(server, "_OTHER_CONNECTIONS", 9)
    with contextlib.ExitStack() as stack:
        collector = stack.enter_context(
            collector_running(max_connections=1, token="sesame", **files.options)
        )
        for _ in range(15):
            lingering(stack, collector, files, request_)
        assert serial(collector.port, files)
    assert [line for line in caplog.messages if line.startswith("too many connections")] == [
        "too many connections (10); ended one that its client does not close; from 127.0.0.1"
    ]


@CLOSED
def test_client_that_does_not_confirm_the_close_is_ended(
    request_: bytes, files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listening, "_STALL_TIMEOUT", 0.4)
    with contextlib.ExitStack() as stack:
        collector = stack.enter_context(collector_running(token="sesame", **files.options))
        for _ in range(2):  # the first must not stop what ends them
            beneath = lingering(stack, collector, files, request_)
            with contextlib.suppress(ConnectionError):
                while beneath.recv(65536):
                    pass


def test_client_that_does_not_trust_it_is_logged_once(
    secure: RunningCollector, caplog: pytest.LogCaptureFixture
) -> None:
    distrusting = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    distrusting.load_verify_locations(cadata=trustme.CA().cert_pem.bytes().decode())
    for _ in range(5):
        with (
            socket.create_connection(("127.0.0.1", secure.port), PATIENCE) as plain,
            pytest.raises(ssl.SSLCertVerificationError),
        ):
            distrusting.wrap_socket(plain, server_hostname="localhost")
    assert wait_until(lambda: caplog.messages, PATIENCE)
    (line,) = caplog.messages
    assert line.startswith("TLS handshake failed: ")
    assert line.endswith("; from 127.0.0.1")


# The command.


def port_of(collector: Running) -> int:
    collector.wait_for("Press Ctrl-C to stop.\n")
    assert "collecting at https://127.0.0.1:" in collector.output
    assert 'url="wss://127.0.0.1:' in collector.output
    return int(collector.output.partition("https://127.0.0.1:")[2].partition("/")[0])


@needs_posix
def test_hangup_replaces_the_certificate_and_keeps_the_connections(
    files: Files, tmp_path: Path
) -> None:
    options = ["--tls-cert", files.cert, "--tls-key", files.key, "--db", tmp_path / "t.sqlite3"]
    with running_command("collect", "--port", 0, *options) as collector:
        port = port_of(collector)
        before = serial(port, files)
        with client_of(telemetry_url(f"https://127.0.0.1:{port}/"), files) as client:
            files.renew()
            collector.process.send_signal(signal.SIGHUP)
            collector.wait_for("read the certificate again\n")
            after = serial(port, files)
            assert after != before
            client.send(array(1))
            assert json.loads(client.recv(timeout=PATIENCE)) == {"ack": 1}
            files.key.unlink()
            collector.process.send_signal(signal.SIGHUP)
            assert wait_until(lambda: "not replaced: cannot read" in collector.errors, PATIENCE)
            assert serial(port, files) == after
        collector.process.send_signal(signal.SIGTERM)
        assert collector.end() == 0


def test_encrypted_key_does_not_ask_at_the_terminal(files: Files, tmp_path: Path) -> None:
    break_files("encrypted", files)
    options = ["--tls-cert", files.cert, "--tls-key", files.key, "--db", tmp_path / "t.sqlite3"]
    with running_command("collect", "--port", 0, *options) as collector:
        assert collector.end() == 2
        assert "is encrypted" in collector.errors
