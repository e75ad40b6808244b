from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator

import pytest

from redvsblue_telemetry.cluster.local.balancer import Balancer
from tests.support.wait import wait_until

PATIENCE = 20.0  # seconds


class NamedServer:
    """Says that it is well, or answers any other client with its name and what the client sends."""

    def __init__(self, name: bytes) -> None:
        self.status: int | None = 200
        """What it answers to ``/healthz``; None for nothing at all."""
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
                self.clients.append(client)
                threading.Thread(target=self._answer, args=(client,), daemon=True).start()

    def _answer(self, client: socket.socket) -> None:
        with contextlib.suppress(OSError):
            chunk = client.recv(65536)
            if chunk.startswith(b"GET /healthz "):
                if self.status is not None:
                    client.sendall(b"HTTP/1.0 %d Something\r\n\r\n" % self.status)
                return
            client.sendall(self._name)
            while chunk:
                client.sendall(chunk)
                chunk = client.recv(65536)
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


def balancing(*servers: NamedServer) -> Balancer:
    return Balancer([("127.0.0.1", server.port) for server in servers])


def connected(balancer: Balancer) -> socket.socket:
    client = socket.create_connection(("127.0.0.1", balancer.port), PATIENCE)
    client.sendall(b"!")
    return client


def received(client: socket.socket, count: int) -> bytes:
    found = b""
    while len(found) < count and (chunk := client.recv(count - len(found))):
        found += chunk
    return found


def name_of_server(balancer: Balancer) -> bytes:
    with connected(balancer) as client:
        return client.recv(1)


def test_connections_go_to_one_server_after_the_other() -> None:
    with servers(b"a", b"b") as (a, b), balancing(a, b) as balancer:
        assert [name_of_server(balancer) for _ in range(4)] == [b"a", b"b", b"a", b"b"]


def test_a_server_that_is_away_is_left_out() -> None:
    with servers(b"a", b"b") as (a, b), balancing(a, b) as balancer:
        a.close()
        assert [name_of_server(balancer) for _ in range(4)] == [b"b"] * 4


def test_without_any_server_a_connection_ends() -> None:
    with servers(b"a") as (a,), balancing(a) as balancer:
        a.close()
        assert name_of_server(balancer) == b""


def test_bytes_go_both_ways_until_the_client_has_no_more() -> None:
    sent = bytes(range(256)) * 4096
    with servers(b"a") as (a,), balancing(a) as balancer, connected(balancer) as client:
        writer = threading.Thread(
            target=lambda: (client.sendall(sent), client.shutdown(socket.SHUT_WR))
        )
        writer.start()
        answer = b""
        while chunk := client.recv(65536):
            answer += chunk
        writer.join(PATIENCE)
    assert answer == b"a!" + sent


def test_a_connection_ends_with_its_server() -> None:
    with servers(b"a") as (a,), balancing(a) as balancer, connected(balancer) as client:
        assert received(client, 2) == b"a!"
        assert wait_until(lambda: a.clients)
        a.close()
        assert client.recv(1) == b""


def test_a_close_ends_all_connections() -> None:
    with servers(b"a") as (a,), balancing(a) as balancer, connected(balancer) as client:
        assert received(client, 2) == b"a!"
        balancer.close()
        assert client.recv(1) == b""


@pytest.mark.parametrize("status", [503, None], ids=["unwell", "hanging"])
def test_a_server_that_is_not_well_loses_its_connections(status: int | None) -> None:
    with servers(b"a", b"b") as (a, b), balancing(a, b) as balancer:
        with connected(balancer) as one, connected(balancer) as other:
            assert received(one, 2) == b"a!"
            assert received(other, 2) == b"b!"
            a.status = status
            assert one.recv(1) == b""
            assert [name_of_server(balancer) for _ in range(4)] == [b"b"] * 4
            other.sendall(b"?")
            assert received(other, 1) == b"?"
        a.status = 200
        assert wait_until(lambda: name_of_server(balancer) == b"a")


def test_servers_that_are_not_well_are_tried_where_none_is() -> None:
    with servers(b"a") as (a,), balancing(a) as balancer, connected(balancer) as client:
        assert received(client, 2) == b"a!"
        a.status = 503
        assert client.recv(1) == b""
        assert name_of_server(balancer) == b"a"
