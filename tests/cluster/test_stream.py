"""The stream: its options, and a connection to its servers."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from nats.aio.client import Client
from nats.aio.transport import TcpTransport

from redvsblue_telemetry.cluster.stream import StreamClient, StreamOptions, connect
from tests.collector.test_tls import Files
from tests.support.stream import stream_servers_running
from tests.support.systems import needs_posix

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


@pytest.mark.parametrize("password", ["sec/ret", "sec#ret", "sec?ret", "sec[ret", "secret\u2100"])
def test_an_error_does_not_show_a_password_that_is_not_encoded(password: str) -> None:
    with pytest.raises(ValueError, match="percent-encoded") as failure:
        StreamOptions(servers=(f"nats://user:{password}@stream-1:4222",)).check()
    assert "sec" not in str(failure.value)
    assert "ret" not in str(failure.value)
    assert failure.value.__context__ is None or failure.value.__suppress_context__


def test_an_error_does_not_show_a_password_with_a_comma() -> None:
    with pytest.raises(ValueError, match="percent-encoded") as failure:
        StreamOptions(servers=("nats://user:sec", "ret@stream-1:4222")).check()
    assert "sec" not in str(failure.value)


@pytest.mark.parametrize("with_ca", [False, True])
def test_a_password_is_not_sent_without_tls_where_that_is_wanted(
    tmp_path: Path, with_ca: bool
) -> None:
    """nats-py leaves it to the server, or to an attacker in its place."""
    heard: list[bytes] = []

    async def pretend(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        info = {"server_id": "x", "version": "2.11.0", "max_payload": 1000, "tls_required": False}
        writer.write(f"INFO {json.dumps(info)}\r\n".encode())
        heard.append(await reader.read(1000))
        writer.close()

    async def run() -> None:
        errors: list[Exception] = []
        refused = asyncio.Event()

        async def note(error: Exception) -> None:
            errors.append(error)
            refused.set()

        server = await asyncio.start_server(pretend, "127.0.0.1", 0)
        async with server:
            port = server.sockets[0].getsockname()[1]
            url = f"{'nats' if with_ca else 'tls'}://user:secret@127.0.0.1:{port}"
            ca = Files(tmp_path).trust if with_ca else None
            options = StreamOptions(servers=(url,), ca=ca)
            connecting = asyncio.create_task(connect(options, "test", on_error=note))
            await asyncio.wait_for(refused.wait(), PATIENCE)
            connecting.cancel()
            await asyncio.wait([connecting])
        assert "does not speak TLS" in str(errors[0])

    asyncio.run(run())
    assert heard
    assert set(heard) == {b""}


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


@needs_posix
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


@needs_posix
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
    assert callable(Client._connect_command)
    assert callable(Client.close)
    assert TcpTransport()._io_writer is None
    assert Client()._transport is None
