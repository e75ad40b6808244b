"""Each fault really happens, to both ends of a connection."""

from __future__ import annotations

import contextlib
import random
import socket
import threading
import time
from collections.abc import Iterator

import pytest

from tests.support.closing import reset
from tests.support.collector import REFUSING_PORT
from tests.support.fault_proxy import Direction, FaultProxy
from tests.support.systems import IS_WINE
from tests.support.wait import wait_until

UP, DOWN = frozenset({Direction.TO_SERVER}), frozenset({Direction.TO_CLIENT})
MUCH = 32 * 1024 * 1024
BOUND = 8 * 1024 * 1024  # all the buffers that are between two programs, and some more


class Rig:
    """A proxy between two ends that the test holds itself."""

    def __init__(self, listener: socket.socket, proxy: FaultProxy, stack: contextlib.ExitStack):
        self.listener = listener
        self.proxy = proxy
        self._stack = stack

    def dial(self) -> socket.socket:
        client = socket.create_connection(("127.0.0.1", self.proxy.port), timeout=5)
        return self._stack.enter_context(client)

    def connect(self) -> tuple[socket.socket, socket.socket]:
        client = self.dial()
        server, _ = self.listener.accept()
        server.settimeout(5)
        return client, self._stack.enter_context(server)


@pytest.fixture
def rig() -> Iterator[Rig]:
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        listener.settimeout(5)
        proxy = stack.enter_context(FaultProxy(listener.getsockname()))
        yield Rig(listener, proxy, stack)


def read_exactly(sock: socket.socket, size: int) -> bytes:
    received = b""
    while len(received) < size:
        chunk = sock.recv(65536)
        assert chunk, f"ended after {len(received)} bytes"
        received += chunk
    return received


def is_reset(sock: socket.socket) -> bool:
    try:
        received = sock.recv(1)
    except ConnectionResetError:
        return True
    return IS_WINE and not received  # see ENDS_FIRST


def hears_nothing(sock: socket.socket, seconds: float = 0.15) -> bool:
    sock.settimeout(seconds)
    with pytest.raises(TimeoutError):
        sock.recv(1)
    sock.settimeout(5)
    return True


def push(sock: socket.socket) -> int:
    """Send until nobody takes any more for a while; how many bytes were taken."""
    sock.settimeout(0.3)
    taken = 0
    with contextlib.suppress(TimeoutError):
        while taken < MUCH:
            taken += sock.send(bytes(65536))
    sock.settimeout(5)
    return taken


def test_bytes_and_the_end_pass_in_both_directions(rig: Rig) -> None:
    client, server = rig.connect()
    client.sendall(b"ping" * 100_000)
    assert read_exactly(server, 400_000) == b"ping" * 100_000
    server.sendall(b"pong")
    assert client.recv(10) == b"pong"
    client.shutdown(socket.SHUT_WR)
    assert server.recv(1) == b""
    server.sendall(b"bye")
    server.close()
    assert client.recv(10) == b"bye"
    assert client.recv(1) == b""
    assert wait_until(lambda: rig.proxy.open == 0)
    assert wait_until(lambda: rig.proxy.connections == 1)


def test_a_reset_reaches_both_ends_of_every_connection(rig: Rig) -> None:
    pairs = [rig.connect() for _ in range(3)]
    assert wait_until(lambda: rig.proxy.open == 3)
    rig.proxy.reset()
    assert rig.proxy.open == 0
    assert all(is_reset(sock) for pair in pairs for sock in pair)
    client, server = rig.connect()
    client.sendall(b"anew")
    assert server.recv(10) == b"anew"


def test_a_reset_of_one_end_reaches_the_other(rig: Rig) -> None:
    client, server = rig.connect()
    reset(server)
    assert is_reset(client)


def test_a_cut_falls_in_the_midst_of_what_is_sent(rig: Rig) -> None:
    client, server = rig.connect()
    client.sendall(b"before")
    assert server.recv(10) == b"before"
    rig.proxy.cut_after(7)
    client.sendall(b"a message")
    assert read_exactly(server, 7) == b"a messa"
    assert is_reset(server)
    assert is_reset(client)


def test_a_black_hole_swallows_what_is_sent_into_it(rig: Rig) -> None:
    client, server = rig.connect()
    rig.proxy.black_hole(True)
    client.sendall(b"lost")
    server.sendall(b"lost")
    assert hears_nothing(server)
    assert hears_nothing(client)
    client.close()
    assert is_reset(server)
    rig.proxy.black_hole(False)
    client, server = rig.connect()
    client.sendall(b"found")
    assert server.recv(10) == b"found"


def test_what_is_in_a_black_hole_goes_on_when_it_ends_in_time(rig: Rig) -> None:
    client, server = rig.connect()
    rig.proxy.black_hole(True)
    client.sendall(b"late")
    assert hears_nothing(server)
    rig.proxy.black_hole(False)
    assert server.recv(10) == b"late"


def test_a_black_hole_accepts_connections_that_come_to_nothing(rig: Rig) -> None:
    rig.proxy.black_hole(True)
    client, server = rig.connect()
    client.sendall(b"hello?")
    assert hears_nothing(server)


def test_a_black_hole_may_be_in_one_direction_only(rig: Rig) -> None:
    client, server = rig.connect()
    rig.proxy.black_hole(True, DOWN)
    client.sendall(b"heard")
    assert server.recv(10) == b"heard"
    server.sendall(b"not heard")
    assert hears_nothing(client)


def test_a_delay_holds_in_each_direction_and_keeps_the_order(rig: Rig) -> None:
    client, server = rig.connect()
    rig.proxy.delay(0.2)
    start = time.monotonic()
    client.sendall(b"1")
    assert server.recv(1) == b"1"
    assert time.monotonic() - start >= 0.2
    server.sendall(b"2")
    assert client.recv(1) == b"2"
    assert time.monotonic() - start >= 0.4
    client.sendall(b"first ")
    time.sleep(0.02)
    rig.proxy.delay(0)
    client.sendall(b"second")
    assert read_exactly(server, 12) == b"first second"


def test_a_throttle_lets_so_much_through(rig: Rig) -> None:
    client, server = rig.connect()
    rig.proxy.throttle(100_000)
    start = time.monotonic()
    client.sendall(bytes(30_000))
    read_exactly(server, 30_000)
    assert time.monotonic() - start >= 0.25
    rig.proxy.throttle(50)
    client.sendall(bytes(1_000_000))  # hours, were it to stay so
    rig.proxy.throttle(None)
    read_exactly(server, 1_000_000)


def test_a_stall_closes_the_senders_window_and_loses_nothing(rig: Rig) -> None:
    client, server = rig.connect()
    rig.proxy.stall(True, UP)
    taken = push(client)
    assert taken < BOUND
    assert hears_nothing(server)
    server.sendall(b"the other way is open")
    assert client.recv(100) == b"the other way is open"
    rig.proxy.stall(False)
    assert len(read_exactly(server, taken)) == taken


def test_the_first_client_stalls_after_so_many_bytes_and_the_others_do_not(rig: Rig) -> None:
    with FaultProxy(rig.listener.getsockname(), first_takes=7) as rig.proxy:
        client, server = rig.connect()
        client.sendall(b"a message")
        assert read_exactly(server, 7) == b"a messa"
        assert wait_until(lambda: rig.proxy.has_stalled)
        assert hears_nothing(server)
        other_client, other_server = rig.connect()
        other_client.sendall(b"another one")
        assert read_exactly(other_server, 11) == b"another one"
        rig.proxy.go_on()
        assert read_exactly(server, 2) == b"ge"


def test_what_is_on_the_way_is_bounded(rig: Rig) -> None:
    client, server = rig.connect()  # which reads nothing
    taken = push(client)
    assert taken < BOUND
    assert len(read_exactly(server, taken)) == taken


@pytest.mark.parametrize("direction", Direction)
def test_a_half_close_ends_one_direction_only(rig: Rig, direction: Direction) -> None:
    client, server = rig.connect()
    sender, hearer = (client, server) if direction is Direction.TO_SERVER else (server, client)
    rig.proxy.half_close(direction)
    assert hearer.recv(1) == b""
    hearer.sendall(b"the other way is open")
    assert sender.recv(100) == b"the other way is open"
    hearer.close()
    assert sender.recv(1) == b""
    assert wait_until(lambda: rig.proxy.open == 0)


def test_refused_connections_are_reset_at_once(rig: Rig) -> None:
    client, server = rig.connect()
    rig.proxy.refuse(True)
    with contextlib.suppress(ConnectionResetError):  # it can come before the connect returns
        assert is_reset(rig.dial())
    assert wait_until(lambda: rig.proxy.refused == 1)
    client.sendall(b"those that are open stay")
    assert server.recv(100) == b"those that are open stay"
    rig.proxy.clear()
    client, server = rig.connect()
    assert wait_until(lambda: rig.proxy.connections == 2)


def test_the_server_may_be_away_and_come_back_elsewhere(rig: Rig) -> None:
    address = rig.proxy.upstream
    closed = ("127.0.0.1", REFUSING_PORT)
    for nowhere in (None, closed):
        rig.proxy.upstream = nowhere
        with contextlib.suppress(ConnectionResetError):
            assert is_reset(rig.dial())
    assert wait_until(lambda: rig.proxy.refused == 2)
    rig.proxy.upstream = address
    client, server = rig.connect()
    client.sendall(b"back")
    assert server.recv(10) == b"back"


def test_closing_resets_what_is_open_and_ends_the_thread() -> None:
    before = threading.active_count()
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        FaultProxy(listener.getsockname()) as proxy,
        socket.create_connection(("127.0.0.1", proxy.port), timeout=5) as client,
    ):
        server, _ = listener.accept()
        assert wait_until(lambda: proxy.open == 1)
        proxy.close()
        with server:
            server.settimeout(5)
            assert is_reset(server)
            assert is_reset(client)
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", proxy.port), timeout=5)
        proxy.reset()  # to no effect
    assert threading.active_count() == before


def test_a_proxy_that_was_closed_can_be_followed_by_one_on_the_same_port() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener, contextlib.ExitStack() as stack:
        listener.settimeout(5)
        first = on_a_port_that_the_system_gives_to_nobody(listener)
        with first:
            client = stack.enter_context(
                socket.create_connection(("127.0.0.1", first.port), timeout=5)
            )
            stack.enter_context(listener.accept()[0])
        assert is_reset(client)
        with FaultProxy(listener.getsockname(), port=first.port) as second:
            assert second.port == first.port
            stack.enter_context(socket.create_connection(("127.0.0.1", second.port), timeout=5))
            stack.enter_context(listener.accept()[0])


def on_a_port_that_the_system_gives_to_nobody(listener: socket.socket) -> FaultProxy:
    """On a port from its range, another process could come between the two proxies."""
    for port in random.SystemRandom().sample(range(20_000, 30_000), 100):
        with contextlib.suppress(OSError):
            return FaultProxy(listener.getsockname(), port=port)
    raise OSError("no free port")
