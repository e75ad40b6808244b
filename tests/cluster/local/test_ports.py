from __future__ import annotations

import socket

import pytest

from redvsblue_telemetry.cluster.local.ports import ReservedPort
from tests.support.systems import needs_linux


def test_a_server_can_listen_on_a_reserved_port() -> None:
    port = ReservedPort()
    with socket.create_server(("127.0.0.1", port.number)) as server:
        assert server.getsockname()[1] == port.number
    port.release()


def test_two_reservations_differ() -> None:
    ports = [ReservedPort() for _ in range(50)]
    assert len({port.number for port in ports}) == 50
    for port in ports:
        port.release()


@needs_linux
def test_a_reserved_port_stays_reserved_after_its_server_has_ended() -> None:
    port = ReservedPort()
    socket.create_server(("127.0.0.1", port.number)).close()
    with socket.socket() as stranger, pytest.raises(OSError, match="in use"):
        stranger.bind(("127.0.0.1", port.number))
    port.release()


def test_a_released_port_is_free_for_anyone() -> None:
    port = ReservedPort()
    port.release()
    with socket.socket() as anyone:
        anyone.bind(("127.0.0.1", port.number))
