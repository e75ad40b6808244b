from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator

from redvsblue_telemetry.cluster.local.balancer import Balancer
from tests.support.wait import wait_until

PATIENCE = 20.0  # seconds


class NamedServer:
    """Sends each client its name, and then all that the client sends."""

    def __init__(self, name: bytes) -> None:
        self._name = name
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._socket.getsockname()[1])
        self.clients: list[socket.socket] = []
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._socket.accept()
                client.sendall(self._name)
                self.clients.append(client)
                threading.Thread(target=self._echo, args=(client,), daemon=True).start()

    def _echo(self, client: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while chunk := client.recv(65536):
                client.sendall(chunk)
            client.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self._thread.join(PATIENCE)
        for client in self.clients:
            with contextlib.suppress(OSError):
                client.shutdown(socket.SHUT_RDWR)
            client.close()


@contextlib.contextmanager
def servers(*names: bytes) -> Iterator[list[NamedServer]]:
    found = [NamedServer(name) for name in names]
    try:
        yield found
    finally:
        for server in found:
            server.close()


def connected(balancer: Balancer) -> socket.socket:
    return socket.create_connection(("127.0.0.1", balancer.port), PATIENCE)


def name_of_server(balancer: Balancer) -> bytes:
    with connected(balancer) as client:
        return client.recv(1)


def test_connections_go_to_one_server_after_the_other() -> None:
    with servers(b"a", b"b") as (a, b), Balancer([a.port, b.port]) as balancer:
        assert [name_of_server(balancer) for _ in range(4)] == [b"a", b"b", b"a", b"b"]


def test_a_server_that_is_away_is_left_out() -> None:
    with servers(b"a", b"b") as (a, b), Balancer([a.port, b.port]) as balancer:
        a.close()
        assert [name_of_server(balancer) for _ in range(4)] == [b"b"] * 4


def test_without_any_server_a_connection_ends() -> None:
    with servers(b"a") as (a,), Balancer([a.port]) as balancer:
        a.close()
        assert name_of_server(balancer) == b""


def test_bytes_go_both_ways_until_the_client_has_no_more() -> None:
    sent = bytes(range(256)) * 4096
    with servers(b"a") as (a,), Balancer([a.port]) as balancer, connected(balancer) as client:
        writer = threading.Thread(
            target=lambda: (client.sendall(sent), client.shutdown(socket.SHUT_WR))
        )
        writer.start()
        received = b""
        while chunk := client.recv(65536):
            received += chunk
        writer.join(PATIENCE)
    assert received == b"a" + sent


def test_a_connection_ends_with_its_server() -> None:
    with servers(b"a") as (a,), Balancer([a.port]) as balancer, connected(balancer) as client:
        assert client.recv(1) == b"a"
        assert wait_until(lambda: a.clients)
        a.close()
        assert client.recv(1) == b""


def test_a_close_ends_all_connections() -> None:
    with servers(b"a") as (a,), Balancer([a.port]) as balancer, connected(balancer) as client:
        assert client.recv(1) == b"a"
        balancer.close()
        assert client.recv(1) == b""
