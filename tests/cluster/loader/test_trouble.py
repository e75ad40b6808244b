"""Disks are full, servers are away, and leases can't be renewed: loading goes on after that."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import subprocess
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from redvsblue_telemetry.cluster.loader.membership import BUCKET
from redvsblue_telemetry.cluster.loader.source import Source
from redvsblue_telemetry.cluster.loader.upkeep import StreamUpkeep, Upkeep
from redvsblue_telemetry.cluster.stream import STREAM, partition_of
from redvsblue_telemetry.cluster.tasks import end
from redvsblue_telemetry.collector.storage.upkeep import Keep
from tests.cluster.loader.loaders import (
    PATIENCE,
    loader_running,
    sequences,
    stored,
    wait_for_events,
)
from tests.cluster.loader.publishing import PARTITIONS, publishing
from tests.cluster.loader.traffic import traffic
from tests.support.stream import stream_servers_running
from tests.support.systems import needs_posix
from tests.support.wait import wait_until

if TYPE_CHECKING:
    from redvsblue_telemetry.cluster.local.servers import StreamServers

pytestmark = [needs_posix, pytest.mark.slow, pytest.mark.timeout(180)]


def on_small_disk(folder: Path) -> tuple[str, ...]:
    """The words before a command that give it a disk of 4 MB in place of a folder."""
    mount = 'mount -t tmpfs -o size=4m none "$0" && exec "$@"'
    before = ("unshare", "--mount", "--map-root-user", "sh", "-c", mount, str(folder))
    if shutil.which("unshare") is None or subprocess.call([*before, "true"]):
        pytest.skip("machine: no disk can be mounted")
    return before


def fill(folder: Path) -> Path:
    filler = folder / "filler"
    with filler.open("wb", buffering=0) as file:
        for size in (65536, 1):
            with contextlib.suppress(OSError):
                while file.write(b"x" * size):
                    pass
    return filler


def test_full_disk_loses_nothing_and_goes_on_when_there_is_room(
    stream_servers: StreamServers, tmp_path: Path
) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    with (
        loader_running(stream_servers.urls, disk / "lake", before=on_small_disk(disk)) as loader,
        traffic(stream_servers.urls, pause=0.1) as published,
    ):
        seen = Path(f"/proc/{loader.running.process.pid}/root{disk}")
        assert wait_until(lambda: loader.metric("telemetry_events_stored_total") > 0, PATIENCE)
        filler = fill(seen)
        assert wait_until(lambda: loader.ask("/healthz")[0] == 503, PATIENCE)
        loader.running.wait_for("events can't be stored in the lake: ")
        loader.wait_for_metric("telemetry_storing", 0)
        failures = loader.metric("telemetry_commit_failures_total")
        assert wait_until(
            lambda: loader.metric("telemetry_commit_failures_total") > failures + 1, PATIENCE
        )
        filler.unlink()
        assert wait_until(lambda: loader.ask("/healthz")[0] == 200, PATIENCE)
        loader.running.wait_for("events are being stored again")
        expected = published.stop()
        loader.wait_for_metric("telemetry_events_stored_total", len(expected))
        # deltalake would follow the link to the disk of this process.
        shutil.copytree(seen / "lake", tmp_path / "copy")
        assert sequences(tmp_path / "copy") == expected
        loader.stop()


def test_all_servers_of_the_stream_are_killed_and_started(tmp_path: Path) -> None:
    lake = tmp_path / "lake"
    with (
        stream_servers_running(tmp_path / "stream", 3) as servers,
        loader_running(servers.urls, lake) as loader,
        traffic(servers.urls) as published,
    ):
        wait_for_events(lake, published.count + 1)
        for index in range(3):
            servers.kill(index)
        assert wait_until(lambda: loader.ask("/healthz")[0] == 503, PATIENCE)
        servers.start()
        wait_for_events(lake, published.count + 1)
        expected = published.stop()
        wait_for_events(lake, len(expected))
        assert sequences(lake) == expected
        assert loader.ask("/healthz")[0] == 200


def test_table_of_the_loaders_is_lost_and_made_anew(
    stream_servers: StreamServers, tmp_path: Path
) -> None:
    lake, urls = tmp_path / "lake", stream_servers.urls

    async def delete() -> None:
        async with publishing(urls) as publisher:
            await publisher.jetstream.delete_key_value(BUCKET)

    with (
        loader_running(urls, lake) as first,
        loader_running(urls, lake) as second,
        traffic(urls) as published,
    ):
        first.wait_for_owned(2)
        second.wait_for_owned(2)
        asyncio.run(delete())
        assert wait_until(lambda: {first.owned, second.owned} == {2}, PATIENCE)
        wait_for_events(lake, published.count + 1)
        expected = published.stop()
        wait_for_events(lake, len(expected))
        assert sequences(lake) == expected


def test_nothing_is_committed_while_the_lease_cannot_be_renewed(
    stream_servers: StreamServers, tmp_path: Path
) -> None:
    """The servers are stopped: all that was read waits, since others may have the partitions."""
    lake = tmp_path / "lake"
    with loader_running(stream_servers.urls, lake, "--interval", "4") as loader:

        async def publish() -> None:
            async with publishing(stream_servers.urls) as publisher:
                await publisher.batch("a", 1, 10)

        asyncio.run(publish())
        loader.wait_for_metric("telemetry_lag_messages", 1)
        stream_servers.children[0].suspend()
        loader.running.wait_for("the table of the loaders can't be reached")
        assert wait_until(lambda: loader.metric("telemetry_lag_seconds") > 7, PATIENCE)
        assert stored(lake) == []
        stream_servers.children[0].resume()
        wait_for_events(lake, 10)
        assert sequences(lake) == Counter(("a", seq) for seq in range(1, 11))
        loader.stop()


def test_loader_that_reaches_no_lake_takes_over_later(
    stream_servers: StreamServers, tmp_path: Path
) -> None:
    """A folder in which it may not write; then it may."""
    lake = tmp_path / "file" / "lake"
    lake.parent.write_text("in the way")
    with loader_running(stream_servers.urls, lake) as loader:
        loader.running.wait_for("events can't be stored in the lake: ")
        assert loader.ask("/healthz")[0] == 503
        lake.parent.unlink()
        loader.wait_for_owned(4)
        assert loader.ask("/healthz")[0] == 200
        loader.stop()


def test_loader_stops_although_the_lake_is_away(
    stream_servers: StreamServers, tmp_path: Path
) -> None:
    """It tries less and less often, and leaves what it has read to the stream."""
    lake, away = tmp_path / "lake", tmp_path / "away"

    async def publish() -> None:
        async with publishing(stream_servers.urls) as publisher:
            await publisher.batch("a", 1, 10)

    with loader_running(stream_servers.urls, lake) as loader:
        loader.wait_for_owned(4)
        lake.rename(away)
        began = time.monotonic()
        asyncio.run(publish())
        assert wait_until(lambda: loader.metric("telemetry_commit_failures_total") >= 5, PATIENCE)
        assert time.monotonic() - began > 3.5  # with pauses of 0.25, 0.5, 1 and 2 seconds
        loader.stop()
        assert "stopped before all that was read is in the lake" in loader.running.errors
        assert not lake.exists()
    away.rename(lake)
    with loader_running(stream_servers.urls, lake) as loader:
        wait_for_events(lake, 10)
        loader.stop()
    assert sequences(lake) == Counter(("a", seq) for seq in range(1, 11))


def test_servers_of_the_stream_are_replaced_by_empty_ones(tmp_path: Path) -> None:
    """A server that catches up must not answer as if it had all messages."""
    lake = tmp_path / "lake"
    with (
        stream_servers_running(tmp_path / "stream", 3) as servers,
        loader_running(servers.urls, lake) as loader,
        traffic(servers.urls, pause=0) as published,
    ):
        for index in range(3):
            wait_for_events(lake, published.count + 1)
            servers.replace(index)
            servers.wait_current()
        expected = published.stop()
        wait_for_events(lake, len(expected))
        assert sequences(lake) == expected
        assert loader.ask("/healthz")[0] == 200


LOST = "the stream has lost messages that it had acknowledged"


@pytest.mark.parametrize("more", [1, 20], ids=["fewer messages", "more messages"])
def test_stream_that_uses_its_numbers_again_is_read_again(
    stream_servers: StreamServers, tmp_path: Path, more: int
) -> None:
    lake = tmp_path / "lake"

    async def publish(*, first: int, last: int, is_new: bool) -> None:
        async with publishing(stream_servers.urls) as publisher:
            if is_new:
                await publisher.make_anew()
            for seq in range(first, last + 1):
                await publisher.batch("a", seq, seq)

    with loader_running(stream_servers.urls, lake) as loader:
        asyncio.run(publish(first=1, last=5, is_new=False))
        wait_for_events(lake, 5)
        asyncio.run(publish(first=6, last=5 + more, is_new=True))
        loader.running.wait_for(LOST)
        wait_for_events(lake, 5 + more)
        asyncio.run(publish(first=4, last=6 + more, is_new=False))
        wait_for_events(lake, 6 + more)
        loader.stop()
    with loader_running(stream_servers.urls, lake) as loader:
        asyncio.run(publish(first=7 + more, last=7 + more, is_new=False))
        wait_for_events(lake, 7 + more)
        assert LOST not in loader.running.errors
        loader.stop()
    assert sequences(lake) == Counter(("a", seq) for seq in range(1, 8 + more))


@pytest.mark.parametrize("is_asleep", [False, True], ids=["awake", "asleep"])
@pytest.mark.parametrize("others", [0, 20], ids=["alone", "with others"])
def test_numbers_that_are_used_again_are_noticed_by_each_partition(
    stream_servers: StreamServers, tmp_path: Path, others: int, *, is_asleep: bool
) -> None:
    """Also by one that was loaded by nobody meanwhile, and by one whose numbers are still lower."""
    lake = tmp_path / "lake"
    assert partition_of("a", PARTITIONS) != partition_of("b", PARTITIONS)

    async def publish_before() -> None:
        async with publishing(stream_servers.urls) as publisher:
            for seq in range(1, 11):
                await publisher.batch("a", seq, seq)

    async def publish_after() -> None:
        async with publishing(stream_servers.urls) as publisher:
            await publisher.make_anew()
            await publisher.batch("a", 11, 11)
            for seq in range(1, others + 1):
                await publisher.batch("b", seq, seq)

    with loader_running(stream_servers.urls, lake) as loader:
        asyncio.run(publish_before())
        wait_for_events(lake, 10)
        if is_asleep:
            loader.stop()
        else:
            asyncio.run(publish_after())
            loader.running.wait_for(LOST)
            wait_for_events(lake, 11 + others)
    if is_asleep:
        asyncio.run(publish_after())
        with loader_running(stream_servers.urls, lake) as loader:
            loader.running.wait_for(LOST)
            wait_for_events(lake, 11 + others)
    expected = [("a", seq) for seq in range(1, 12)] + [("b", seq) for seq in range(1, others + 1)]
    assert sequences(lake) == Counter(expected)


def test_messages_that_were_deleted_are_not_taken_for_lost_ones(
    stream_servers: StreamServers, tmp_path: Path
) -> None:
    """As by the loaders themselves, or by `nats stream purge`."""
    lake = tmp_path / "lake"

    async def publish(first: int, last: int) -> None:
        async with publishing(stream_servers.urls) as publisher:
            await publisher.jetstream.purge_stream(STREAM)
            for seq in range(first, last + 1):
                await publisher.batch("a", seq, seq)

    with loader_running(stream_servers.urls, lake) as loader:
        asyncio.run(publish(1, 5))
        wait_for_events(lake, 5)
        asyncio.run(publish(6, 10))
        wait_for_events(lake, 10)
        loader.stop()
        asyncio.run(publish(11, 15))
        assert LOST not in loader.running.errors
    with loader_running(stream_servers.urls, lake) as loader:
        wait_for_events(lake, 15)
        assert LOST not in loader.running.errors
    assert sequences(lake) == Counter(("a", seq) for seq in range(1, 16))


def test_messages_with_the_numbers_of_lost_ones_are_not_deleted_unread(
    stream_servers: StreamServers,
) -> None:
    async def scenario() -> None:
        async with publishing(stream_servers.urls) as publisher:
            source = Source(publisher.client)
            upkeep = StreamUpkeep(publisher.jetstream, source, keep=0.0)
            home = partition_of("a", PARTITIONS)

            async def last_message() -> dict[int, tuple[int, int | None]]:
                last = (await source.read(home, 0, 100, 1024 * 1024)).messages[-1]
                return {home: (last.sequence, last.stored_at)}

            async def messages() -> int:
                return (await publisher.jetstream.stream_info(STREAM)).state.messages

            for seq in range(1, 6):
                await publisher.batch("a", seq, seq)
            in_the_lake = await last_message()
            await publisher.make_anew()
            for seq in range(6, 13):
                await publisher.batch("a", seq, seq)
            await upkeep.delete(in_the_lake)
            assert await messages() == 7
            await upkeep.delete(await last_message())
            assert await messages() == 0

    asyncio.run(scenario())


def test_an_internal_error_of_the_upkeep_is_logged_and_ends_nothing(
    stream_servers: StreamServers, caplog: pytest.LogCaptureFixture
) -> None:
    failures: list[None] = []

    async def scenario() -> None:
        async with publishing(stream_servers.urls) as publisher:
            upkeep = Upkeep(
                None,  # type: ignore[arg-type]  # no URL, which is an error of ours
                publisher.state,
                publisher.jetstream,
                Source(publisher.client),
                keep=Keep(),
                stream_keep=0.0,
                interval=0.01,
                is_mine=lambda: True,
                on_failure=lambda: failures.append(None),
            )
            running = asyncio.create_task(upkeep.run())
            assert await asyncio.to_thread(wait_until, lambda: len(failures) > 1, PATIENCE)
            assert not running.done()
            await end(running)

    asyncio.run(scenario())
    assert "internal error in the loader" in caplog.text
