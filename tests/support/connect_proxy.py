"""A real CONNECT proxy on loopback, which can also misbehave."""

from __future__ import annotations

import base64
import contextlib
import selectors
import socket
import threading
from collections.abc import Callable, Mapping
from types import TracebackType

import attrs

from tests.support.closing import hang_up, stop_listening
from tests.support.raw_server import Script

ESTABLISHED = b"HTTP/1.1 200 Connection established\r\nProxy-Agent: tests\r\n\r\n"


@attrs.frozen
class Request:
    """A client's request to the proxy."""

    raw: bytes
    method: str
    target: str
    headers: Mapping[str, str]
    """Keyed by their names in lower case."""


class ConnectProxy:
    """Tunnels wherever it is asked to; a context manager.

    Args:
        credentials: ``user:password`` that it demands; without them a client gets a 407.
        hosts: addresses of names that this proxy alone can resolve.
        script: runs with each client that has sent a request, instead of a tunnel.
        port: 0 for a free port.
    """

    def __init__(
        self,
        *,
        credentials: str | None = None,
        hosts: Mapping[str, str] | None = None,
        script: Script | None = None,
        port: int = 0,
    ) -> None:
        self._credentials = credentials
        self._hosts = hosts or {}
        self._script = script
        self._changed = threading.Lock()
        self._sockets: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self.connections = 0
        """The number of connections, with or without a request."""
        self.requests: list[Request] = []
        self._listener = socket.create_server(("127.0.0.1", port))
        self.port: int = self._listener.getsockname()[1]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> ConnectProxy:
        self._begin(self._listen)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        stop_listening(self._listener)
        self._threads[0].join(5)
        self.cut()
        for thread in self._threads:
            thread.join(5)
            assert not thread.is_alive()

    def cut(self) -> None:
        """End all connections without an answer."""
        with self._changed:
            for sock in self._sockets:
                hang_up(sock)

    def _begin(self, run: Callable[..., None], *args: socket.socket) -> None:
        thread = threading.Thread(target=run, args=args, name="connect-proxy")
        self._threads.append(thread)
        thread.start()

    def _listen(self) -> None:
        with contextlib.suppress(OSError):  # it is closed
            while True:
                client, _ = self._listener.accept()
                self.connections += 1
                self._keep(client)
                self._begin(self._serve, client)

    def _keep(self, sock: socket.socket) -> None:
        with self._changed:
            self._sockets.append(sock)

    def _serve(self, client: socket.socket) -> None:
        with client, contextlib.suppress(OSError):
            request = _read_request(client)
            if request is None:
                return
            self.requests.append(request)
            if self._script is not None:
                self._script(client)
            elif not self._may_pass(request):
                client.sendall(
                    b"HTTP/1.1 407 Proxy Authentication Required\r\n"
                    b'Proxy-Authenticate: Basic realm="tests"\r\nContent-Length: 0\r\n\r\n'
                )
            elif request.method != "CONNECT":
                client.sendall(b"HTTP/1.1 405 Method Not Allowed\r\nContent-Length: 0\r\n\r\n")
            else:
                self._tunnel(client, request.target)

    def _may_pass(self, request: Request) -> bool:
        if self._credentials is None:
            return True
        right = "Basic " + base64.b64encode(self._credentials.encode()).decode()
        return request.headers.get("proxy-authorization") == right

    def _tunnel(self, client: socket.socket, target: str) -> None:
        host, _, port = target.rpartition(":")
        host = host.strip("[]")
        try:
            server = socket.create_connection((self._hosts.get(host, host), int(port)), 5)
        except OSError:
            client.sendall(b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n")
            return
        with server:
            server.settimeout(None)
            self._keep(server)
            client.sendall(ESTABLISHED)
            relay(client, server)


def _read_request(client: socket.socket) -> Request | None:
    raw = b""
    while not raw.endswith(b"\r\n\r\n"):
        chunk = client.recv(1)  # not one byte of the tunnel's
        if not chunk:
            return None
        raw += chunk
    first, *lines = raw.decode("latin-1").strip().split("\r\n")
    method, target, _ = first.split(" ")
    pairs = (line.partition(":") for line in lines)
    return Request(raw, method, target, {name.lower(): text.strip() for name, _, text in pairs})


def relay(one: socket.socket, other: socket.socket) -> None:
    """Carry bytes between two sockets until either side ends."""
    with selectors.DefaultSelector() as selector:
        selector.register(one, selectors.EVENT_READ, other)
        selector.register(other, selectors.EVENT_READ, one)
        while True:
            for key, _ in selector.select():
                assert isinstance(key.fileobj, socket.socket)
                chunk = key.fileobj.recv(65536)
                if not chunk:
                    return
                key.data.sendall(chunk)


def relay_to(port: int) -> Script:
    """Return a script for a raw server that connects its client to the server at a port."""

    def script(client: socket.socket) -> None:
        with socket.create_connection(("127.0.0.1", port)) as server:
            relay(client, server)

    return script
