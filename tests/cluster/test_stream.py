"""The stream: its options, and a connection to its servers."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from nats.aio.client import Client
from nats.aio.transport import TcpTransport

from redvsblue_telemetry.cluster.stream import StreamClient, StreamOptions, connect
from tests.support.stream import stream_servers_running

if TYPE_CHECKING:
    from redvsblue_telemetry.cluster.local.servers import StreamServers

PATIENCE = 20.0  # seconds


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"servers": ()}, "no server"),
        ({"servers": ("stream-1",)}, "not the URL of a server"),
        ({"servers": ("http://stream-1:4222",)}, "http://stream-1:4222"),
        ({"servers": ("nats://:4222",)}, "not the URL of a server"),
        ({"servers": ("nats://stream-1:port",)}, "no valid port"),
        ({"servers": ("nats://stream-1",), "partitions": 0}, "at least 1"),
        ({"servers": ("nats://stream-1",), "credentials": Path(__file__)}, "no credentials"),
        ({"servers": ("nats://stream-1",), "credentials": Path("gone")}, "cannot read gone"),
        ({"servers": ("nats://stream-1",), "ca": Path(__file__)}, "cannot read certificates"),
        ({"servers": ("nats://stream-1",), "ca": Path("gone")}, "cannot read certificates"),
        ({"servers": ("nats://user@stream-1",)}, "needs a password"),
        ({"servers": ("nats://a:b@stream-1", "nats://a:c@stream-2")}, "different users"),
        (
            {"servers": ("nats://a:b@stream-1",), "credentials": Path(__file__)},
            "either the URLs of the stream have a user, or",
        ),
    ],
)
def test_options_that_can_not_be_used_are_refused(options: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        StreamOptions(**options).check()


def test_an_error_does_not_show_a_password() -> None:
    with pytest.raises(ValueError, match="stream-1:port") as failure:
        StreamOptions(servers=("nats://user:secret@stream-1:port",)).check()
    assert "secret" not in str(failure.value)
    assert StreamOptions(servers=("nats://user:secret@stream-1:4222",)).addresses == (
        "stream-1:4222",
    )


def test_the_login_is_that_of_any_url_and_decoded() -> None:
    servers = ("nats://stream-1", "tls://gateway:p%40ss%2Fword@stream-2:4222")
    assert StreamOptions(servers=servers).login == ("gateway", "p@ss/word")
    assert StreamOptions(servers=servers[:1]).login is None


async def _connected(servers: StreamServers) -> tuple[StreamClient, asyncio.Event]:
    is_back = asyncio.Event()

    async def note() -> None:
        is_back.set()

    async def ignore(_: Exception) -> None:
        pass

    options = StreamOptions(servers=servers.urls)
    client = await connect(options, "test", on_reconnect=note, on_error=ignore, buffers=False)
    return client, is_back


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
def test_a_server_that_reads_nothing_is_given_up(tmp_path: Path) -> None:
    async def run(servers: StreamServers) -> None:
        client, is_back = await _connected(servers)
        ports = [int(url.rpartition(":")[2]) for url in servers.urls]
        assert client.connected_url is not None
        first = int(client.connected_url.port or 0)
        stopped = servers.children[ports.index(first)].pid
        assert stopped is not None
        os.kill(stopped, signal.SIGSTOP)
        try:
            for _ in range(20):  # more than the buffers of the kernel take
                await client.publish("telemetry.test", bytes(1_000_000))
            await asyncio.wait_for(is_back.wait(), PATIENCE)
            await client.flush()
            assert int(client.connected_url.port or 0) != first
        finally:
            os.kill(stopped, signal.SIGCONT)
            await client.close()

    with stream_servers_running(tmp_path, 3) as servers:
        asyncio.run(run(servers))


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
def test_a_close_does_not_wait_for_a_server_that_reads_nothing(
    stream_servers: StreamServers,
) -> None:
    async def run() -> None:
        client, _ = await _connected(stream_servers)
        stopped = stream_servers.children[0].pid
        assert stopped is not None
        os.kill(stopped, signal.SIGSTOP)
        try:
            for _ in range(20):
                await client.publish("telemetry.test", bytes(1_000_000))
            await asyncio.wait_for(client.close(), PATIENCE)
            assert client.is_closed
        finally:
            os.kill(stopped, signal.SIGCONT)

    asyncio.run(run())


def test_what_is_overridden_of_nats_is_there() -> None:
    assert callable(Client._process_op_err)
    assert callable(Client._process_connect_init)
    assert callable(Client.close)
    assert TcpTransport()._io_writer is None
    assert Client()._transport is None
