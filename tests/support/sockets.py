"""Connections at the level of the network: opened by the SDK's code, without a worker."""

from __future__ import annotations

import ctypes
import os
import selectors
import socket
import ssl
import sys
from typing import Any

import pytest
import trustme

from redvsblue_telemetry._network.contract import Connection, ConnectionLost, Endpoint
from redvsblue_telemetry._network.websocket import open_websocket
from redvsblue_telemetry._shared import monotonic

HOST = "game.invalid"  # no one can resolve it, except proxies of tests


def wait(fd: int, events: int, deadline: float) -> None:
    with selectors.DefaultSelector() as selector:
        selector.register(fd, events)
        if not selector.select(max(0.0, deadline - monotonic())):
            raise TimeoutError


def connect(url: str, timeout: float = 5.0, **settings: Any) -> Connection:
    return open_websocket(Endpoint(url, **settings), wait, monotonic() + timeout)


def connect_fails(url: str, timeout: float = 5.0, **settings: Any) -> ConnectionLost:
    """Return why a connection could not be opened."""
    with pytest.raises(ConnectionLost) as caught:
        connect(url, timeout, **settings)
    return caught.value


def ending(connection: Connection, timeout: float = 5.0) -> ConnectionLost:
    """Read from a connection until it is lost; return why it was."""
    deadline = monotonic() + timeout
    try:
        while True:
            connection.flush()
            connection.receive()
            if not connection.has_more:
                wait(connection.fileno(), selectors.EVENT_READ, deadline)
    except ConnectionLost as lost:
        return lost
    finally:
        connection.abort()


def system_text(code: int) -> str:
    """Return what the system says about an error of a socket."""
    if sys.platform != "win32":
        return os.strerror(code)
    return ctypes.FormatError(code).rstrip(". ")  # of sockets, `strerror` knows nothing there


def narrowed(sock: socket.socket) -> socket.socket:
    """Have the system hold little of what is to be sent, so that it is full soon."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 32768)
    return sock


def server_context(certificate: trustme.LeafCert) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificate.configure_cert(context)
    return context
