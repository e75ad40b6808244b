"""The gateway: a message is acknowledged when the stream has it, and clients refused otherwise."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.cluster.gateways import PATIENCE, gateway_running, numbers, stream_messages
from tests.collector.clients import game

if TYPE_CHECKING:
    from redvsblue_telemetry.cluster.local.servers import StreamServers


def test_a_game_delivers_through_a_gateway(three_stream_servers: StreamServers) -> None:
    with gateway_running(three_stream_servers.urls) as gateway:
        with game(gateway) as telemetry:
            for number in range(1000):
                telemetry.emit("hit", {"number": number})
            assert telemetry.flush(PATIENCE)
            session = telemetry.session_id
        assert numbers(stream_messages(three_stream_servers)) == {session: list(range(1, 1001))}
        assert gateway.metric("events_stored_total") == 1000
        assert gateway.is_healthy
