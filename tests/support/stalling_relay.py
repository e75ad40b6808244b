"""A network that stalls: it stands between a game and its server, and can stop taking bytes."""

from __future__ import annotations

import contextlib
import socket
import threading
from types import TracebackType


class StallingRelay:
    """Passes on what the clients and the server say; a context manager.

    Args:
        port: the server's.
        first_takes: the bytes that are taken from the first client until :meth:`go_on`. From
            the later ones all are.
    """

    def __init__(self, port: int, *, first_takes: int) -> None:
        self._server_port = port
        self._first_takes = first_takes
        self._may_go_on = threading.Event()
        self._sockets: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"ws://127.0.0.1:{self._listener.getsockname()[1]}/telemetry"
        self.is_stalling = threading.Event()
        """Set once it takes no more from the first client."""

    def go_on(self) -> None:
        self._may_go_on.set()

    def __enter__(self) -> StallingRelay:
        self._start(self._accept)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.go_on()
        for sock in (self._listener, *self._sockets):
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(5)
            assert not thread.is_alive()
        for sock in (self._listener, *self._sockets):
            sock.close()

    def _start(self, target: object, *arguments: object) -> None:
        thread = threading.Thread(target=target, args=arguments)  # type: ignore[arg-type]
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        takes: int | None = self._first_takes
        with contextlib.suppress(OSError):  # the listener is shut down
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(("127.0.0.1", self._server_port))
                self._sockets += (client, server)
                self._start(self._pass_on, client, server, takes)
                self._start(self._pass_on, server, client, None)
                takes = None

    def _pass_on(self, source: socket.socket, target: socket.socket, takes: int | None) -> None:
        with contextlib.suppress(OSError):  # one of the two is gone
            while True:
                if takes is not None and takes <= 0 and not self._may_go_on.is_set():
                    self.is_stalling.set()
                    self._may_go_on.wait()
                chunk = source.recv(65536 if takes is None else min(65536, max(1, takes)))
                takes = None if takes is None or self._may_go_on.is_set() else takes - len(chunk)
                if not chunk:
                    break
                target.sendall(chunk)
        with contextlib.suppress(OSError):
            target.shutdown(socket.SHUT_WR)
