"""What a check does to the network that the SDK has no need of."""

from __future__ import annotations

import contextlib
import http.client
import queue
import selectors
import socket
import ssl
import threading
import time
from typing import Any
from urllib.parse import urlsplit

from ..._network.contract import ConnectionLost, Endpoint, Frame, Wait
from ..._network.dial import default_ssl_context, open_socket
from ..._network.websocket import WebSocketConnection, open_websocket
from . import advice

__all__ = [
    "WatchedConnection",
    "answers_plainly",
    "answers_tls",
    "looked_up",
    "milliseconds",
    "names_in_certificate",
    "open_tls",
    "open_watched",
    "redirect_of",
    "since",
    "wait",
]


_CLOSE_FRAME = 8  # RFC 6455, section 11.8


class WatchedConnection(WebSocketConnection):
    """A connection that remembers its end.

    The SDK keeps no reason that a server closes with: it may be anything, and goes into no log.
    """

    lost: ConnectionLost | None = None
    """How it ended; None while it hasn't."""
    reason = ""
    """What the server said as it closed, whatever that is."""

    def receive(self) -> list[Frame]:
        """What has arrived by now; see :class:`..transport.Connection`."""
        try:
            return super().receive()
        except ConnectionLost as lost:
            self.lost = lost
            raise

    def _take(self, frame: Any, received: list[Frame]) -> None:
        if frame.opcode == _CLOSE_FRAME:
            self.reason = frame.data[2:].decode(errors="replace")
        super()._take(frame, received)


def open_watched(endpoint: Endpoint, wait: Wait, deadline: float) -> WatchedConnection:
    """Connect as the SDK does; see :func:`..transport.open_websocket`.

    Raises:
        ConnectionLost: it can't be done.
    """
    opened = open_websocket(endpoint, wait, deadline)
    return WatchedConnection(opened._client, opened._stream)


def wait(fd: int, events: int, deadline: float) -> None:
    """Wait for a descriptor; see :data:`redvsblue_telemetry._network.contract.Wait`."""
    with selectors.DefaultSelector() as selector:
        selector.register(fd, events)
        if not selector.select(max(0.0, deadline - time.monotonic())):
            raise TimeoutError


def looked_up(host: str, port: int, timeout: float) -> list[tuple[Any, ...]] | Exception | None:
    """The addresses of a host, or why there are none; None if that took too long."""
    answers: queue.SimpleQueue[list[tuple[Any, ...]] | Exception] = queue.SimpleQueue()

    def look_up() -> None:  # in a thread, since the system's look-up can't be told to hurry
        try:
            answers.put(list(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)))
        except (OSError, UnicodeError) as error:  # the latter: it can't be a name at all
            answers.put(error)

    threading.Thread(target=look_up, name="look-up", daemon=True).start()
    try:
        return answers.get(timeout=timeout)
    except queue.Empty:
        return None


def since(began: float) -> str:
    """The time since a moment of the monotonic clock, as it is told."""
    return milliseconds(time.monotonic() - began)


def milliseconds(seconds: float) -> str:
    """A duration, as it is told."""
    return f"{seconds * 1000:.{2 if seconds < 0.001 else 1}f} ms"


def open_tls(host: str, port: int, context: ssl.SSLContext, timeout: float) -> ssl.SSLSocket:
    """An encrypted connection, made as the SDK makes it.

    Raises:
        ConnectionLost: there is none; its context is what Python raised.
    """
    sock = open_socket(host, port, context, wait, time.monotonic() + timeout)
    assert isinstance(sock, ssl.SSLSocket)
    return sock


def names_in_certificate(host: str, port: int, timeout: float) -> str:
    """Whom a server's certificate is for, if its name is all that is wrong with it."""
    context = ssl.create_default_context()
    context.check_hostname = False
    try:
        with contextlib.closing(open_tls(host, port, context, timeout)) as sock:
            return advice.names(sock.getpeercert() or {})
    except ConnectionLost:
        return ""


def answers_tls(host: str, port: int, timeout: float) -> bool:
    """Whether a port speaks TLS, by whatever certificate."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE  # nothing is sent: only whether it is TLS is asked
    try:
        open_tls(host, port, context, timeout).close()
    except ConnectionLost:
        return False
    return True


def answers_plainly(host: str, port: int, timeout: float) -> bool:
    """Whether a port speaks HTTP without TLS. It is told no token and no path."""
    name = f"[{host}]" if ":" in host else host
    endpoint = Endpoint(f"ws://{name}:{port}/")
    try:
        open_websocket(endpoint, wait, time.monotonic() + timeout).close()
    except ConnectionLost as lost:
        return lost.status is not None
    return True


def redirect_of(url: str, timeout: float) -> str | None:
    """Where a server redirects to, as far as it says so to somebody without a token."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    client = (
        http.client.HTTPSConnection(
            host, parts.port or 443, timeout=timeout, context=default_ssl_context()
        )
        if parts.scheme == "wss"
        else http.client.HTTPConnection(host, parts.port or 80, timeout=timeout)
    )
    place = None
    with contextlib.closing(client), contextlib.suppress(OSError, http.client.HTTPException):
        client.request("GET", parts.path or "/", headers={"Connection": "close"})
        with client.getresponse() as answer:
            place = answer.getheader("Location")
    return place
