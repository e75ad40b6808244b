"""Messages are read in order and without a gap, also those that strangers have written."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from redvsblue_telemetry.cluster.loader.source import Source, SourceError
from redvsblue_telemetry.cluster.stream import RECEIVED, subject
from tests.cluster.loader.publishing import Publisher, publishing

if TYPE_CHECKING:
    from redvsblue_telemetry.cluster.local.servers import StreamServers

GATEWAYS = {RECEIVED: "1790000000000"}


async def read_all(
    publisher: Publisher, partition: int, most: int = 3
) -> list[tuple[int, bytes, str | None]]:
    source = Source(publisher.client)
    found: list[tuple[int, bytes, str | None]] = []
    empty = 0
    while empty < 2:
        batch = await source.read(partition, found[-1][0] if found else 0, most, 1024 * 1024)
        found += [(each.sequence, each.body, each.fault) for each in batch.messages]
        empty = 0 if batch.messages else empty + 1
    return found


def test_messages_of_one_partition_come_in_order(stream_servers: StreamServers) -> None:
    async def scenario() -> None:
        async with publishing(stream_servers.urls) as publisher:
            for number in range(20):
                await publisher.raw(number % 2, b"%d" % number, GATEWAYS)
            found = await read_all(publisher, 1)
            assert found == [(number + 1, b"%d" % number, None) for number in range(1, 20, 2)]
            batch = await Source(publisher.client).read(1, 4, 3, 1024)
            assert [each.sequence for each in batch.messages] == [6, 8, 10]
            assert batch.messages[0].received == 1_790_000_000_000
            assert batch.pending == 5

    asyncio.run(scenario())


def test_size_bounds_a_batch(stream_servers: StreamServers) -> None:
    async def scenario() -> None:
        async with publishing(stream_servers.urls) as publisher:
            for _ in range(5):
                await publisher.raw(0, b"x" * 10_000, GATEWAYS)
            batch = await Source(publisher.client).read(0, 0, 100, 15_000)
            assert 1 <= len(batch.messages) <= 2
            assert len(await read_all(publisher, 0)) == 5

    asyncio.run(scenario())


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {RECEIVED: "yesterday"},
        {RECEIVED: "-1"},
        {RECEIVED: "9" * 30},
        {"Nats-Sequence": "7", RECEIVED: ""},
        {"Nats-Last-Sequence": "7"},
        {"Nats-Sequence": "x", "Nats-Last-Sequence": "y", "Nats-Num-Pending": "z"},
        {"Status": "204"},
        {"Status": "404", "Nats-Sequence": ""},
        {"Nats-Subject": "telemetry.messages.x"},
    ],
    ids=str,
)
def test_message_of_a_stranger_has_a_fault_and_stops_nothing(
    stream_servers: StreamServers, headers: dict[str, str]
) -> None:
    async def scenario() -> None:
        async with publishing(stream_servers.urls) as publisher:
            await publisher.raw(0, b"before", GATEWAYS)
            await publisher.raw(0, b"strange", headers)
            await publisher.raw(0, b"after", GATEWAYS)
            found = await read_all(publisher, 0)
            assert [each[:2] for each in found] == [(1, b"before"), (2, b"strange"), (3, b"after")]
            assert found[1][2] is not None
            assert "no gateway has written it" in found[1][2]

    asyncio.run(scenario())


RAW = [
    b"NATS/1.0\r\n\xff\xfe: \xff\r\n\r\n",
    b"NATS/1.0\r\nno colon\r\n\r\n",
    b"NATS/1.0\r\n: empty\r\n\r\n",
    b"NATS/1.0\r\nA: \x00\r\nB\r\n C: d\r\n\r\n",
    b"NATS/1.0 204 EOB\r\n\r\n",
    b"NATS/1.0 abc\r\n\r\n",
]


@pytest.mark.parametrize("header", RAW, ids=str)
def test_headers_that_no_library_writes_stop_nothing(
    stream_servers: StreamServers, header: bytes
) -> None:
    async def scenario() -> None:
        async with publishing(stream_servers.urls) as publisher:
            await publisher.raw(0, b"before", GATEWAYS)
            for body in (b"strange", b"stranger"):
                writer = publisher.client._transport
                writer.write(
                    b"HPUB %s %d %d\r\n%s%s\r\n"
                    % (subject(0).encode(), len(header), len(header + body), header, body)
                )
                await writer.drain()
            await publisher.raw(0, b"after", GATEWAYS)
            found = await read_all(publisher, 0, most=10)
            bodies = [each[1] for each in found]
            assert bodies == [b"before", b"strange", b"stranger", b"after"]
            assert [each[0] for each in found] == [1, 2, 3, 4]

    asyncio.run(scenario())


def test_stream_that_is_away_is_an_error(stream_servers: StreamServers) -> None:
    async def scenario() -> None:
        async with publishing(stream_servers.urls) as publisher:
            await publisher.jetstream.delete_stream("TELEMETRY")
            with pytest.raises(SourceError):
                await Source(publisher.client).read(0, 0, 10, 1000)

    asyncio.run(scenario())
