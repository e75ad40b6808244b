"""One loader: events are in the lake soon, and once, also beside messages that are none."""

from __future__ import annotations

import asyncio
import json
import re
import signal
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import nats.errors
import pytest

from redvsblue_telemetry import start_telemetry
from redvsblue_telemetry._report import Report, State, decode_report, encode_report
from redvsblue_telemetry.cluster.stream import (
    CHECK,
    ENCODING,
    FAULT,
    RECEIVED,
    STREAM,
    Answer,
    Inquiry,
    archive_subject,
    partition_of,
)
from tests.cluster.loader.loaders import (
    PATIENCE,
    loader_running,
    sequences,
    stored,
    wait_for_events,
)
from tests.cluster.loader.publishing import events, insisted, publishing
from tests.support.command import run_command, running_command
from tests.support.stream import stream_servers_running
from tests.support.systems import needs_posix
from tests.support.wait import wait_until

if TYPE_CHECKING:
    from redvsblue_telemetry.cluster.local.servers import StreamServers

pytestmark = needs_posix
GATEWAYS = {RECEIVED: "1790000000000"}


def expected(*sessions: str, last: int) -> Counter[tuple[str, int]]:
    return Counter((session, seq) for session in sessions for seq in range(1, last + 1))


def test_events_are_in_the_lake_within_seconds(
    stream_servers: StreamServers, tmp_path: Path
) -> None:
    lake = tmp_path / "lake"

    async def publish() -> None:
        async with publishing(stream_servers.urls) as publisher:
            for batch in range(20):
                for session in ("a", "b", "c"):
                    await publisher.batch(session, batch * 10 + 1, batch * 10 + 10)

    with loader_running(stream_servers.urls, lake) as loader:
        loader.wait_for_owned(4)
        asyncio.run(publish())
        began = time.monotonic()
        wait_for_events(lake, 600)
        assert time.monotonic() - began < 10
        assert sequences(lake) == expected("a", "b", "c", last=200)
        arrivals = [(row["session"], row["seq"]) for row in stored(lake)]
        assert [seq for session, seq in arrivals if session == "b"] == [*range(1, 201)]
        assert loader.ask("/healthz") == (200, "ok\n")
        loader.wait_for_metric("telemetry_events_stored_total", 600)
        loader.wait_for_metric("telemetry_lag_messages", 0)
        loader.stop()


def test_batch_of_hours_ago_is_stored_zero_times_more(
    stream_servers: StreamServers, tmp_path: Path
) -> None:
    lake, hours_ago = tmp_path / "lake", time.time_ns() // 1_000_000 - 3 * 3_600_000

    async def publish(gateway: str, *batches: tuple[int, int]) -> None:
        async with publishing(stream_servers.urls) as publisher:
            for first, last in batches:
                body, message_id = events("a", first, last), f"{gateway}:{first}-{last}"
                await publisher.body("a", body, message_id, received=hours_ago)

    with loader_running(stream_servers.urls, lake) as loader:
        asyncio.run(publish("first", (1, 10), (21, 30)))
        wait_for_events(lake, 20)
        loader.stop()
    with loader_running(stream_servers.urls, lake) as loader:  # it knows the lake only
        # The stream takes these for new ones, as it does after its duplicate window.
        asyncio.run(publish("second", (1, 10), (5, 25), (21, 30), (31, 31)))
        wait_for_events(lake, 31)
        loader.wait_for_metric("telemetry_events_repeated_total", 10 + 11 + 10)
        loader.wait_for_metric("telemetry_events_stored_total", 11)
        loader.stop()
    assert sequences(lake) == expected("a", last=31)


def test_messages_that_are_none_are_counted_and_stop_nothing(
    stream_servers: StreamServers, tmp_path: Path
) -> None:
    lake = tmp_path / "lake"

    async def publish() -> None:
        async with publishing(stream_servers.urls) as publisher:
            await publisher.batch("a", 1, 3)
            home = partition_of("a", publisher.state.partitions)
            await publisher.raw(home, b"no headers", {})
            await publisher.raw(home, b"garbage", GATEWAYS)
            await publisher.raw(home, b"\x00" * 100, {**GATEWAYS, ENCODING: "zstd"})
            await publisher.raw(home, b"unknown encoding", {**GATEWAYS, ENCODING: "brotli"})
            await publisher.raw(home, b"excerpt", {**GATEWAYS, FAULT: "a gateway's reason"})
            await publisher.raw(home, events("b", 1, 2), GATEWAYS)  # b is of another partition
            await publisher.raw(home, events("a", 900, 901), {**GATEWAYS, CHECK: "1"})
            one_is_broken = events("a", 4, 5)[:-1] + b', {"type": "shot"}]'
            await publisher.raw(home, one_is_broken, GATEWAYS)
            await publisher.batch("a", 6, 6)

    with loader_running(stream_servers.urls, lake) as loader:
        asyncio.run(publish())
        wait_for_events(lake, 6)
        assert sequences(lake) == expected("a", last=6)
        rejected = stored(lake, "rejected")
        assert [row["fault"].partition(":")[0] for row in rejected] == [
            "no gateway has written it",
            "must be a JSON array of events, or one JSON object per line",
            "compressed message",
            "compressed message",
            "a gateway's reason",
            "no gateway has written it",
            "no gateway has written it",
            "Object missing required field `sessionId`",
        ]
        assert rejected[0]["data"] == "no headers"
        loader.wait_for_metric("telemetry_events_rejected_total", len(rejected))
        loader.stop()


def test_reports_are_stored(stream_servers: StreamServers, tmp_path: Path) -> None:
    lake = tmp_path / "lake"
    report = Report(session_id="a", number=3, state=State.ENDED, at=1_790_000_000_123, last_seq=2)

    async def publish() -> None:
        async with publishing(stream_servers.urls) as publisher:
            await publisher.body("a", encode_report(report))

    with loader_running(stream_servers.urls, lake) as loader:
        asyncio.run(publish())
        assert wait_until(lambda: stored(lake, "reports"), PATIENCE)
        loader.stop()
    (row,) = stored(lake, "reports")
    assert (row["session"], row["seq"], row["type"]) == ("a", 3, "ended")
    assert decode_report(row["data"].encode()) == report


def test_events_that_do_not_fit_the_schema_have_their_fault(
    stream_servers: StreamServers, tmp_path: Path
) -> None:
    lake, schema = tmp_path / "lake", tmp_path / "events.json"
    shot = {"type": "object", "properties": {"n": {"type": "integer", "maximum": 2}}}
    schema.write_text(
        json.dumps({"oneOf": [{"properties": {"type": {"const": "shot"}, "data": shot}}]})
    )

    async def publish() -> None:
        async with publishing(stream_servers.urls) as publisher:
            await publisher.batch("a", 1, 3)

    with loader_running(stream_servers.urls, lake, "--schema", schema) as loader:
        asyncio.run(publish())
        wait_for_events(lake, 3)
        assert [row["fault"] is None for row in stored(lake)] == [True, True, False]
        loader.wait_for_metric("telemetry_events_faulty_total", 1)
        loader.stop()


def test_stop_commits_all_that_was_read(stream_servers: StreamServers, tmp_path: Path) -> None:
    lake = tmp_path / "lake"

    async def publish() -> None:
        async with publishing(stream_servers.urls) as publisher:
            await publisher.batch("a", 1, 10)

    with loader_running(stream_servers.urls, lake, "--interval", "60") as loader:
        asyncio.run(publish())
        loader.wait_for_metric("telemetry_lag_messages", 1)
        assert stored(lake) == []
        loader.stop()
        assert "in the lake" not in loader.running.errors
    assert sequences(lake) == expected("a", last=10)


def test_gateways_learn_what_is_in_the_lake(stream_servers: StreamServers, tmp_path: Path) -> None:
    """From the loader that has the partition now, also of what others have loaded before."""
    lake = tmp_path / "lake"

    async def publish(first: int, last: int) -> int:
        async with publishing(stream_servers.urls) as publisher:
            return await publisher.batch("a", first, last)

    async def ask(identity: str | None = None, **sessions: int) -> Answer:
        async with publishing(stream_servers.urls) as publisher:
            inquiry = Inquiry(identity or publisher.state.identity, sessions)
            text = msgspec.json.encode(inquiry)
            where = archive_subject(partition_of("a", publisher.state.partitions))
            answer = await insisted(lambda: publisher.client.request(where, text, 1))
            return msgspec.json.decode(answer.data, type=Answer)

    with loader_running(stream_servers.urls, lake) as loader:
        asyncio.run(publish(1, 10))
        wait_for_events(lake, 10)
        loader.stop()
    asyncio.run(publish(11, 20))
    sequence = asyncio.run(publish(31, 40))
    with loader_running(stream_servers.urls, lake) as loader:
        wait_for_events(lake, 30)
        loader.wait_for_metric("telemetry_lag_messages", 0)
        assert asyncio.run(ask(a=11, b=1)).numbers == {"a": [(1, 20), (31, 40)], "b": []}
        assert asyncio.run(ask(a=25)).numbers == {"a": [(31, 40)]}
        assert asyncio.run(ask()).sequence == sequence
        assert wait_until(lambda: asyncio.run(ask()).is_all, PATIENCE)
        loader.stop()


def test_what_is_read_and_not_in_the_lake_is_not_said_to_be(
    stream_servers: StreamServers, tmp_path: Path
) -> None:
    async def scenario() -> None:
        async with publishing(stream_servers.urls) as publisher:
            await publisher.batch("a", 1, 10)
            await asyncio.to_thread(loader.wait_for_metric, "telemetry_lag_messages", 1)
            inquiry = Inquiry(publisher.state.identity, {"a": 1})
            where = archive_subject(partition_of("a", publisher.state.partitions))
            text = msgspec.json.encode(inquiry)
            answer = await insisted(lambda: publisher.client.request(where, text, 1))
            assert msgspec.json.decode(answer.data, type=Answer) == Answer(0, False, {"a": []})
            text = msgspec.json.encode(Inquiry("another", {"a": 1}))
            with pytest.raises(nats.errors.TimeoutError):
                await publisher.client.request(where, text, 0.5)

    with loader_running(stream_servers.urls, tmp_path / "lake", "--interval", "60") as loader:
        asyncio.run(scenario())


def test_an_answer_goes_to_an_inbox_and_is_no_command(
    stream_servers: StreamServers, tmp_path: Path
) -> None:
    """A gateway has fewer rights than a loader, and must not borrow them."""

    async def scenario() -> None:
        async with publishing(stream_servers.urls) as publisher:
            await publisher.batch("a", 1, 10)
            await asyncio.to_thread(loader.wait_for_metric, "telemetry_lag_messages", 1)
            text = msgspec.json.encode(Inquiry(publisher.state.identity, {"a": 1}))
            where = archive_subject(partition_of("a", publisher.state.partitions))
            purge = f"$JS.API.STREAM.PURGE.{STREAM}"
            await publisher.client.publish(where, text, reply=purge)
            await insisted(lambda: publisher.client.request(where, text, 1))  # that one is over
            assert (await publisher.jetstream.stream_info(STREAM)).state.messages == 1

    with loader_running(stream_servers.urls, tmp_path / "lake", "--interval", "60") as loader:
        asyncio.run(scenario())


def test_messages_that_are_in_the_lake_leave_the_stream(
    stream_servers: StreamServers, tmp_path: Path
) -> None:
    lake = tmp_path / "lake"

    async def messages(*batches: tuple[str, int]) -> int:
        async with publishing(stream_servers.urls) as publisher:
            for session, seq in batches:
                await publisher.batch(session, seq, seq)
            return (await publisher.jetstream.stream_info(STREAM)).state.messages

    with loader_running(stream_servers.urls, lake, "--stream-keep", "1s") as loader:
        assert asyncio.run(messages(("a", 1), ("b", 1), ("c", 1))) == 3
        wait_for_events(lake, 3)
        assert wait_until(lambda: asyncio.run(messages()) == 0, PATIENCE)
        loader.stop()
    asyncio.run(messages(("a", 2)))
    with loader_running(stream_servers.urls, lake) as loader:
        wait_for_events(lake, 4)
        loader.stop()
    assert asyncio.run(messages()) == 1
    assert sequences(lake) == Counter([("a", 1), ("b", 1), ("c", 1), ("a", 2)])


def test_loader_waits_for_a_stream_that_comes_later(tmp_path: Path) -> None:
    lake = tmp_path / "lake"
    with stream_servers_running(tmp_path / "stream", 1) as servers:
        servers.kill(0)
        program = ("load", "--stream", servers.urls[0], "--lake", lake, "--interval", "0.2")
        with running_command(*program) as running:
            running.wait_for("the stream can't be reached yet")
            servers.start()
            running.wait_for("loading into")

            async def publish() -> None:
                async with publishing(servers.urls) as publisher:
                    await publisher.batch("a", 1, 10)

            asyncio.run(publish())
            wait_for_events(lake, 10)
            assert running.end(signal.SIGTERM) == 0, running.said


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--stream", "http://x"], "is not the URL of a server of the stream"),
        (["--stream", "nats://127.0.0.1:1", "--schema", "/nowhere"], "cannot read /nowhere"),
        (["--stream", "nats://127.0.0.1:1", "--keep", "1d", "--keep", "2d"], "more than once"),
        (["--stream", "nats://127.0.0.1:1", "--host", "192.0.2.1", "--port", "1"], "cannot listen"),
        (["--stream", "nats://127.0.0.1:1", "--lake", "gs://bucket/lake"], "neither a path nor an"),
        (["--stream", "nats://127.0.0.1:1", "--lake", ""], "can't be the path of a lake"),
    ],
)
def test_wrong_options_are_explained(arguments: list[str], complaint: str, tmp_path: Path) -> None:
    done = run_command("load", "--lake", tmp_path / "lake", *arguments)
    assert done.returncode != 0
    assert complaint in done.stderr


def test_events_go_from_a_game_through_a_gateway_into_the_lake(
    stream_servers: StreamServers, tmp_path: Path
) -> None:
    lake, servers = tmp_path / "lake", ",".join(stream_servers.urls)
    with (
        running_command("collect", "--stream", servers, "--port", "0") as gateway,
        loader_running(stream_servers.urls, lake) as loader,
    ):
        gateway.wait_for("collecting at")
        found = re.search(r"collecting at http://(\S+?)/?,", gateway.output)
        assert found, gateway.said
        telemetry = start_telemetry(enabled=True, url=f"ws://{found[1]}/telemetry")
        for number in range(2000):
            telemetry.emit("shot", n=number, by="red-3")
        assert telemetry.flush(PATIENCE)
        assert telemetry.stop(PATIENCE)
        wait_for_events(lake, 2000)
        rows = stored(lake)
        assert [row["seq"] for row in rows] == [*range(1, 2001)]
        assert {row["session"] for row in rows} == {telemetry.session_id}
        assert json.loads(rows[7]["data"]) == {"n": 7, "by": "red-3"}
        assert wait_until(lambda: stored(lake, "reports"), PATIENCE)
        loader.stop()
