"""A socket whose descriptor was closed by other code does nothing to what took its place."""

from __future__ import annotations

import errno
import gc
import os
import socket
from pathlib import Path

import pytest

from redvsblue_telemetry._network.owned import OwnedSocket, owned_pair
from redvsblue_telemetry._network.sockets import PlainSocket
from tests.support.systems import needs_descriptors, needs_windows


def replaced(tmp_path: Path) -> tuple[OwnedSocket, int]:
    """A socket whose descriptor was closed, and the host's file that has its number now."""
    sock, other = owned_pair()
    other.close()
    number = sock.fileno()
    path = tmp_path / "host"
    path.write_bytes(b"the host's")
    file = os.open(path, os.O_RDWR)
    os.dup2(file, number)
    os.close(file)
    return sock, number


def content(number: int) -> bytes:
    return os.pread(number, 100, 0)


def test_an_intact_pair_works() -> None:
    one, other = owned_pair()
    assert one.is_intact
    assert one.send(b"hello") == 5
    assert other.recv(10) == b"hello"
    other.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    assert other.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
    one.close()
    one.close()
    assert not one.is_intact
    assert other.recv(10) == b""
    other.close()


@needs_windows
def test_the_bytes_of_a_pair_do_not_wait_for_each_other() -> None:
    for end in owned_pair():
        assert end.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        end.close()


@needs_descriptors
def test_each_use_fails_and_leaves_the_host_alone(tmp_path: Path) -> None:
    sock, number = replaced(tmp_path)
    assert not sock.is_intact
    for use in (
        lambda: sock.recv(10),
        lambda: sock.send(b"ours"),
        lambda: sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR),
        lambda: sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    ):
        with pytest.raises(OSError, match="closed the socket's descriptor") as caught:
            use()
        assert caught.value.errno == errno.EBADF
    sock.close()
    assert content(number) == b"the host's"
    assert os.lseek(number, 0, os.SEEK_CUR) == 0
    os.close(number)


@needs_descriptors
@pytest.mark.parametrize("end", ["close", "reset"])
def test_a_connection_that_ends_leaves_the_host_alone(tmp_path: Path, end: str) -> None:
    sock, number = replaced(tmp_path)
    getattr(PlainSocket(sock), end)()
    assert content(number) == b"the host's"
    os.close(number)


@needs_descriptors
def test_a_socket_that_is_forgotten_leaves_the_host_alone(tmp_path: Path) -> None:
    sock, number = replaced(tmp_path)
    del sock
    gc.collect()
    assert content(number) == b"the host's"
    os.close(number)


def test_a_socket_that_is_forgotten_is_closed() -> None:
    one, other = owned_pair()
    del one
    gc.collect()
    assert other.recv(1) == b""
    other.close()
