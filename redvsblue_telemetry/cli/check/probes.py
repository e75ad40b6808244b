"""Network probes that only the check needs."""

from __future__ import annotations

import contextlib
import http.client
import queue
import selectors
import socket
import ssl
import threading
import time
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from ..._network.contract import Connection, ConnectionLost, Endpoint, FrameKind
from ..._network.dial import default_ssl_context, open_socket
from ..._network.sockets import SecureSocket
from ..._network.websocket import open_websocket
from ..._shared import monotonic
from .._terminal import printable

__all__ = [
    "certificate_names",
    "days_left",
    "issuer",
    "open_tls",
    "ping",
    "redirect_target",
    "resolve",
    "speaks_http",
    "speaks_tls",
    "wait",
]

_SECONDS_PER_DAY = 86400
_NAMES_SHOWN = 8


def wait(fd: int, events: int, deadline: float) -> None:
    """Wait for a descriptor; see :data:`redvsblue_telemetry._network.contract.Wait`."""
    with selectors.DefaultSelector() as selector:
        selector.register(fd, events)
        if not selector.select(max(0.0, deadline - monotonic())):
            raise TimeoutError


def resolve(host: str, port: int, timeout: float) -> list[tuple[Any, ...]]:
    """Return the addresses of a host.

    Raises:
        TimeoutError: the look-up took too long.
        OSError: there is no address.
        UnicodeError: the name is not a valid host name.
    """
    answers: queue.SimpleQueue[list[tuple[Any, ...]] | Exception] = queue.SimpleQueue()

    def look_up() -> None:  # in a thread, since the system's look-up takes no timeout
        try:
            answers.put(list(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)))
        except (OSError, UnicodeError) as error:
            answers.put(error)

    threading.Thread(target=look_up, name="look-up", daemon=True).start()
    try:
        answer = answers.get(timeout=timeout)
    except queue.Empty:
        raise TimeoutError from None
    if isinstance(answer, Exception):
        raise answer
    return answer


def ping(connection: Connection, payload: bytes, timeout: float) -> float:
    """Send a ping and return the seconds until its pong.

    Raises:
        TimeoutError: no pong came in time.
        ConnectionLost: the connection ended.
    """
    began = monotonic()
    deadline = began + timeout
    connection.ping(payload)
    while True:
        connection.flush()
        for frame in connection.receive():
            if frame.kind is FrameKind.PONG and frame.payload == payload:
                return monotonic() - began
        if monotonic() > deadline:  # also while other frames keep coming
            raise TimeoutError
        if not connection.has_more:
            wait(connection.fileno(), selectors.EVENT_READ, deadline)


def open_tls(host: str, port: int, context: ssl.SSLContext, timeout: float) -> SecureSocket:
    """Open a TLS connection as the SDK does.

    Raises:
        ConnectionLost: it failed.
    """
    sock = open_socket(host, port, context, wait, monotonic() + timeout)
    assert isinstance(sock, SecureSocket)
    return sock


def speaks_tls(host: str, port: int, timeout: float) -> bool:
    """Return whether a port speaks TLS, with any certificate."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE  # nothing is sent over it
    with contextlib.suppress(ConnectionLost):
        open_tls(host, port, context, timeout).close()
        return True
    return False


def speaks_http(host: str, port: int, timeout: float) -> bool:
    """Return whether a port speaks HTTP without TLS. Sends neither token nor path."""
    name = f"[{host}]" if ":" in host else host
    endpoint = Endpoint(f"ws://{name}:{port}/")
    try:
        open_websocket(endpoint, wait, monotonic() + timeout).close()
    except ConnectionLost as lost:
        return lost.status is not None
    return True


def redirect_target(url: str, timeout: float) -> str:
    """Return where a server redirects a client without a token; empty if it doesn't say."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    client = (
        http.client.HTTPSConnection(
            host, parts.port or 443, timeout=timeout, context=default_ssl_context()
        )
        if parts.scheme == "wss"
        else http.client.HTTPConnection(host, parts.port or 80, timeout=timeout)
    )
    with contextlib.closing(client), contextlib.suppress(OSError, http.client.HTTPException):
        client.request("GET", parts.path or "/", headers={"Connection": "close"})
        with client.getresponse() as answer:
            return answer.getheader("Location") or ""
    return ""


# Certificates.


def certificate_names(host: str, port: int, timeout: float) -> str:
    """Return the names in a server's certificate; empty if it is invalid for any of them."""
    context = ssl.create_default_context()
    context.check_hostname = False
    with (
        contextlib.suppress(ConnectionLost),
        contextlib.closing(open_tls(host, port, context, timeout)) as sock,
    ):
        certificate: Mapping[str, Any] = sock.tls.getpeercert() or {}
        names = [text for _, text in certificate.get("subjectAltName", ())]
        more = ", …" if len(names) > _NAMES_SHOWN else ""
        return printable(", ".join(names[:_NAMES_SHOWN]), 300) + more
    return ""


def days_left(certificate: Mapping[str, Any]) -> int:
    """Return the number of days for which a certificate is still valid."""
    return int(
        (ssl.cert_time_to_seconds(certificate["notAfter"]) - time.time()) // _SECONDS_PER_DAY
    )


def issuer(certificate: Mapping[str, Any]) -> str:
    """Return the name of a certificate's issuer."""
    found = {key: text for part in certificate.get("issuer", ()) for key, text in part}
    return printable(found.get("organizationName") or found.get("commonName") or "unknown", 80)
