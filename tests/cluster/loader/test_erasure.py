"""``forget --lake``: the data of a person goes from the lake and from the stream before it."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.cluster.loader.loaders import (
    PATIENCE,
    loader_running,
    sequences,
    stored,
    wait_for_events,
)
from tests.cluster.loader.publishing import publishing
from tests.cluster.loader.traffic import traffic
from tests.support.collector import REFUSING_PORT
from tests.support.command import invoke_command, run_command, running_command
from tests.support.lake import bytes_of
from tests.support.systems import needs_posix
from tests.support.wait import wait_until

if TYPE_CHECKING:
    from redvsblue_telemetry.cluster.local.servers import StreamServers

pytestmark = [needs_posix, pytest.mark.timeout(180)]


@pytest.fixture
def lake(tmp_path: Path) -> Path:
    return tmp_path / "lake"


def publish(urls: tuple[str, ...], session: str, numbers: Iterable[int], player: str) -> None:
    batch = [
        {
            "id": f"{session}-{number}",
            "type": "hit",
            "timestamp": 1_790_000_000_000,
            "sessionId": session,
            "seq": number,
            "data": {},
            "context": {"player": player},
        }
        for number in numbers
    ]

    async def send() -> None:
        async with publishing(urls) as publisher:
            await publisher.body(session, json.dumps(batch).encode())

    asyncio.run(asyncio.wait_for(send(), PATIENCE))


def has(servers: StreamServers, text: bytes) -> bool:
    """Whether a file of the stream's servers has it."""
    files = [each for folder in servers.directories for each in (folder / "store").rglob("*.blk")]
    return any(text in each.read_bytes() for each in files)


def test_events_that_are_still_in_the_stream_go_too(
    stream_servers: StreamServers, lake: Path
) -> None:
    urls = stream_servers.urls
    arguments = ("forget", "--lake", lake, "--context", "player=p-17", "--yes")
    with loader_running(urls, lake):
        publish(urls, "anna", range(1, 11), "p-17")
        publish(urls, "berta", range(1, 11), "p-18")
        wait_for_events(lake, 20)
    publish(urls, "anna", range(11, 21), "p-17")
    assert has(stream_servers, b"p-17")
    with running_command(*arguments, "--stream", ",".join(urls)) as forgetting:
        with loader_running(urls, lake) as loader:
            assert wait_until(lambda: forgetting.process.poll() is not None, PATIENCE)
            assert forgetting.end() == 0, forgetting.said
            publish(urls, "berta", range(11, 21), "p-18")
            wait_for_events(lake, 20)
            assert loader.metric("telemetry_storing") == 1
            assert loader.running.errors == ""
        receipt = json.loads(forgetting.output)
    assert receipt.pop("at") > 1_700_000_000_000
    assert receipt == {"events": 20, "sessions": 1, "context": {"player": "p-17"}}
    assert sequences(lake) == Counter(("berta", number) for number in range(1, 21))
    assert [b"p-17" in bytes_of(lake), b"anna" in bytes_of(lake)] == [False, False]
    assert wait_until(lambda: not has(stream_servers, b"p-17"))


@pytest.mark.slow
def test_loaders_go_on_meanwhile(stream_servers: StreamServers, lake: Path) -> None:
    urls = stream_servers.urls
    with loader_running(urls, lake), loader_running(urls, lake), traffic(urls) as published:
        wait_for_events(lake, 500)
        result = run_command(
            *("forget", "--lake", lake, "--stream", ",".join(urls), "--session", "s3", "--yes")
        )
        assert result.returncode == 0, result.stderr
        expected = published.stop()
        deleted = json.loads(result.stdout)["events"]
        wait_for_events(lake, len(expected) - deleted)
    assert deleted > 0
    # Those that came later are there, after all that were deleted.
    for number in range(1, deleted + 1):
        del expected["s3", number]
    assert sequences(lake) == expected


def test_without_the_stream_it_says_what_may_come_later(
    stream_servers: StreamServers, lake: Path
) -> None:
    urls = stream_servers.urls
    with loader_running(urls, lake):
        publish(urls, "anna", range(1, 11), "p-17")
        wait_for_events(lake, 10)
    done = invoke_command("forget", "--lake", lake, "--session", "anna", "--yes")
    assert done.exit_code == 0
    assert json.loads(done.stdout)["events"] == 10
    assert "with --stream, that is deleted, too" in done.stderr
    assert stored(lake) == []
    again = invoke_command("forget", "--lake", lake, "--session", "anna", "--yes")
    assert (again.exit_code, again.stdout) == (1, "")
    assert "nothing found: session anna" in again.stderr


def test_nothing_is_deleted_while_no_loader_loads(
    stream_servers: StreamServers, lake: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("redvsblue_telemetry.cli.forget._PATIENCE", 1.0)
    urls = stream_servers.urls
    with loader_running(urls, lake):
        publish(urls, "anna", range(1, 11), "p-17")
        wait_for_events(lake, 10)
    publish(urls, "anna", range(11, 21), "p-17")
    wanted = ("forget", "--lake", lake, "--session", "anna", "--yes", "--stream")
    done = invoke_command(*wanted, ",".join(urls))
    assert (done.exit_code, done.stdout) == (2, "")
    assert "nothing was deleted: after 1 s, loaders had not put all of the stream" in done.stderr
    assert len(stored(lake)) == 10
    monkeypatch.setattr("redvsblue_telemetry.cluster.loader.erasure._CONNECT_TIMEOUT", 1.0)
    done = invoke_command(*wanted, f"nats://127.0.0.1:{REFUSING_PORT}")
    assert (done.exit_code, done.stdout) == (2, "")
    assert "nothing was deleted: the stream can't be reached" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--stream", "nats://127.0.0.1"], "--stream needs --lake"),
        (["--lake", "x", "--url", "http://x"], "--url and --lake can't be used together"),
        (["--lake", "nothing/here"], "nothing/here is not a lake"),
    ],
)
def test_unclear_commands_are_refused(arguments: list[str], reason: str) -> None:
    done = invoke_command("forget", "--session", "anna", "--yes", *arguments)
    assert (done.exit_code, done.stdout) == (2, "")
    assert reason in done.stderr
