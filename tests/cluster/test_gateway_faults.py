"""A gateway whose stream fails: nothing acknowledged is lost, order holds, and it says so."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from redvsblue_telemetry import Telemetry
from tests.cluster.gateways import (
    PATIENCE,
    Gateway,
    first_ones,
    gateway_running,
    numbers,
    stream_messages,
    suspended,
)
from tests.collector.clients import (
    ACKS,
    array,
    client_of,
    event,
    game,
    next_ack,
    read_to_the_end,
)
from tests.support.stream import stream_servers_running
from tests.support.systems import needs_posix, needs_proc
from tests.support.wait import wait_until

if TYPE_CHECKING:
    from redvsblue_telemetry.cluster.local.servers import StreamServers

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]

LONG = 60.0  # seconds, for what takes several timeouts
GAMES = 4


@contextlib.contextmanager
def games_playing(*gateways: Gateway) -> Iterator[list[Telemetry]]:
    """Games that emit all the time, some at each gateway, until the block is left."""
    is_over = threading.Event()

    def play(telemetry: Telemetry) -> None:
        while not is_over.wait(0.01):
            telemetry.emit("hit")

    # Few messages, for each waits until a quorum has synced the one before it.
    settings: dict[str, Any] = {"capacity": 100_000, "drain_interval": 0.1, "stop_timeout": LONG}
    with contextlib.ExitStack() as stack:
        games = [
            stack.enter_context(game(gateways[number % len(gateways)], **settings))
            for number in range(GAMES)
        ]
        threads = [threading.Thread(target=play, args=(each,)) for each in games]
        for thread in threads:
            thread.start()
        try:
            yield games
        finally:
            is_over.set()
            for thread in threads:
                thread.join()


def delivered(games: list[Telemetry]) -> list[int]:
    return [each.stats().delivered for each in games]


def wait_for_more(games: list[Telemetry]) -> None:
    """Wait until each of the games has delivered more than until now."""
    before = delivered(games)
    assert wait_until(
        lambda: all(now > then for now, then in zip(delivered(games), before, strict=True)), LONG
    ), before


def check_that_all_arrived(servers: StreamServers, games: list[Telemetry]) -> None:
    """Check it for games that have stopped."""
    found = numbers(stream_messages(servers))
    for each in games:
        stats = each.stats()
        assert stats.delivered == stats.emitted > 0
        assert first_ones(found[each.session_id]) == list(range(1, stats.emitted + 1))


def test_nothing_is_lost_when_the_leader_is_killed(three_stream_servers: StreamServers) -> None:
    servers = three_stream_servers
    with (
        gateway_running(servers.urls) as one,
        gateway_running(servers.urls) as other,
        games_playing(one, other) as games,
    ):
        for _ in range(2):
            wait_for_more(games)
            leader = servers.leader()
            assert leader is not None
            servers.kill(leader)
            wait_for_more(games)
            servers.start_one(leader)
            servers.wait_current(LONG)
        wait_for_more(games)
        assert wait_until(lambda: one.is_healthy and other.is_healthy, LONG)
    check_that_all_arrived(servers, games)


def test_nothing_is_lost_when_a_gateway_is_killed(stream_servers: StreamServers) -> None:
    from redvsblue_telemetry.cluster.local.ports import ReservedPort

    with contextlib.ExitStack() as stack:
        port = ReservedPort()
        stack.callback(port.release)
        first = stack.enter_context(gateway_running(stream_servers.urls, "--port", port.number))
        with games_playing(first) as games:
            wait_for_more(games)
            first.running.process.kill()
            first.running.process.wait(PATIENCE)
            stack.enter_context(gateway_running(stream_servers.urls, "--port", port.number))
            wait_for_more(games)
        check_that_all_arrived(stream_servers, games)


def test_a_stream_that_is_away_at_the_start_is_used_when_it_comes(tmp_path: Path) -> None:
    with stream_servers_running(tmp_path, 1) as servers:
        servers.stop(0)
        with gateway_running(servers.urls) as gateway:
            assert gateway.get("healthz") == (503, "events can't be stored\n")
            gateway.running.wait_for("not connected to the stream at 127.0.0.1:")
            with client_of(gateway) as client:
                client.send(array(1))
                assert read_to_the_end(client) == ([], 1013)
            with game(gateway) as telemetry:
                telemetry.emit("hit")
                assert wait_until(lambda: gateway.metric("storage_failures_total") >= 3, LONG)
                servers.start_one(0)
                assert telemetry.flush(LONG)
                assert gateway.is_healthy
                session = telemetry.session_id
            gateway.running.wait_for("events are being stored again")
        assert numbers(stream_messages(servers)) == {session: [1]}


def test_a_stream_that_goes_is_reported_and_clients_are_soon_refused(
    three_stream_servers: StreamServers,
) -> None:
    servers = three_stream_servers
    with gateway_running(servers.urls) as gateway, game(gateway) as telemetry:
        telemetry.emit("hit")
        assert telemetry.flush(PATIENCE)
        for number in range(3):
            servers.kill(number)
        telemetry.emit("hit")
        assert wait_until(lambda: not gateway.is_healthy, LONG)
        assert gateway.metric("storing") == 0
        assert gateway.metric("stream_connected") == 0
        with client_of(gateway) as client:
            began = time.monotonic()
            client.send(array(1))
            assert read_to_the_end(client) == ([], 1013)
            assert time.monotonic() - began < 5  # the attempts to publish took longer
        for number in range(3):
            servers.start_one(number)
        assert telemetry.flush(LONG)
        assert wait_until(lambda: gateway.is_healthy, LONG)
        session = telemetry.session_id
        servers.wait_current(LONG)
        assert first_ones(numbers(stream_messages(servers))[session]) == [1, 2]


def test_a_stream_that_goes_is_noticed_although_nothing_is_sent(
    stream_servers: StreamServers,
) -> None:
    with gateway_running(stream_servers.urls) as gateway:
        assert gateway.is_healthy
        stream_servers.kill(0)
        assert wait_until(lambda: not gateway.is_healthy, LONG)
        stream_servers.start_one(0)
        assert wait_until(lambda: gateway.is_healthy, LONG)


def test_a_full_stream_refuses_and_takes_more_when_it_has_room(
    stream_servers: StreamServers,
) -> None:
    with gateway_running(stream_servers.urls, "--stream-max-bytes", "2MB") as gateway:
        acked: list[int] = []
        with connect(gateway.url, additional_headers=ACKS, proxy=None) as client:
            for number in range(1, 40):
                client.send(json.dumps([event(number, data={"text": "x" * 100_000})]))
            acks, code = read_to_the_end(client)
            acked += acks
        assert code == 1013
        assert 10 < acked[-1] < 39
        assert gateway.get("healthz")[0] == 503
        gateway.running.wait_for("the stream refuses messages: maximum bytes exceeded")
        found = numbers(stream_messages(stream_servers))["s"]
        assert found == list(range(1, acked[-1] + 1))

        asyncio.run(_purge(stream_servers))
        assert wait_until(lambda: gateway.is_healthy, LONG)
        with client_of(gateway) as client:
            client.send(array(*range(acked[-1] + 1, 40)))
            assert next_ack(client) == 1
        assert numbers(stream_messages(stream_servers))["s"] == list(range(acked[-1] + 1, 40))


async def _purge(servers: StreamServers) -> None:
    from redvsblue_telemetry.cluster.stream import STREAM, StreamOptions, connect

    client = await connect(StreamOptions(servers=servers.urls), "test")
    try:
        await client.jetstream().purge_stream(STREAM)
    finally:
        await client.close()


def resident_bytes(pid: int) -> int:
    pages = Path(f"/proc/{pid}/statm").read_text().split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


@needs_posix
@needs_proc
def test_memory_is_bounded_while_the_stream_stands_still(stream_servers: StreamServers) -> None:
    text = json.dumps([event(1, data={"text": "x" * 900_000})])
    most = 0
    with gateway_running(stream_servers.urls) as gateway, contextlib.ExitStack() as stack:
        before = resident_bytes(gateway.pid)

        def send() -> None:
            with (
                contextlib.suppress(ConnectionClosed),
                connect(gateway.url, additional_headers=ACKS, proxy=None) as client,
            ):
                for _ in range(64):
                    client.send(text)
                client.recv(timeout=LONG)

        with suspended(stream_servers.children):
            threads = [threading.Thread(target=send) for _ in range(20)]  # more than a gigabyte
            for thread in threads:
                thread.start()
                stack.callback(thread.join)
            while gateway.is_healthy:
                most = max(most, resident_bytes(gateway.pid))
                assert gateway.metric("stream_waiting_bytes") < 40_000_000
                time.sleep(0.1)
            assert wait_until(lambda: gateway.metric("stream_waiting_bytes") == 0, PATIENCE)
        assert wait_until(lambda: gateway.is_healthy, LONG)
        assert most - before < 200_000_000, (before, most)


@needs_posix
def test_a_leader_without_followers_is_silent_also_when_it_is_asked_again(
    three_stream_servers: StreamServers,
) -> None:
    """It answers that the message is in process, but another server may lead to a new leader."""
    from redvsblue_telemetry.cluster.gateway.link import Link, SilenceError
    from redvsblue_telemetry.cluster.stream import MESSAGE_ID, StreamOptions, subject

    servers = three_stream_servers

    async def publish(link: Link, timeout: float) -> None:
        await link.publish(subject(0), b"", {MESSAGE_ID: "the same"}, timeout)

    async def main() -> None:
        making = Link(StreamOptions(servers=servers.urls), "test")
        await making.check()
        await making.close()
        leader = servers.leader()
        assert leader is not None
        link = Link(StreamOptions(servers=(servers.urls[leader],)), "test")
        await link.check()
        followers = [child for child in servers.children if child is not servers.children[leader]]
        with suspended(followers):
            for _ in range(2):
                with pytest.raises(SilenceError, match="the stream does not answer"):
                    await publish(link, 1.0)
        await link.close()

    asyncio.run(main())


@needs_posix
def test_a_server_that_stands_still_is_left_for_another(
    three_stream_servers: StreamServers,
) -> None:
    servers = three_stream_servers
    with gateway_running(servers.urls) as gateway, games_playing(gateway) as games:
        wait_for_more(games)
        for child in servers.children:
            with suspended([child]):
                wait_for_more(games)
                wait_for_more(games)
        servers.wait_current(LONG)
        assert wait_until(lambda: gateway.is_healthy, LONG)
    check_that_all_arrived(servers, games)
