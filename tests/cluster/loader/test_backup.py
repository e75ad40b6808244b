"""A lake is copied while its loaders rest, lost, and put back: the stream has what is missing."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.cluster.loader.loaders import loader_running, sequences, stored, wait_for_events
from tests.cluster.loader.publishing import events, publishing
from tests.cluster.loader.traffic import traffic
from tests.support.systems import needs_posix

if TYPE_CHECKING:
    from redvsblue_telemetry.cluster.local.servers import StreamServers

pytestmark = [needs_posix, pytest.mark.slow, pytest.mark.timeout(180)]


async def _send_again(urls: tuple[str, ...], session: str, last: int) -> None:
    """Publish the events of a session as a client does that waited for an acknowledgment."""
    async with publishing(urls) as publisher:
        await publisher.body(session, events(session, 1, last + 1), "not the id of before")


def test_restored_lake_gets_what_came_after_its_backup_and_nothing_twice(
    stream_servers: StreamServers, tmp_path: Path
) -> None:
    lake, backup, urls = tmp_path / "lake", tmp_path / "backup", stream_servers.urls
    with traffic(urls) as published:
        with loader_running(urls, lake) as loader:
            wait_for_events(lake, 100)
            loader.stop()
        shutil.copytree(lake, backup)
        in_backup = len(stored(backup))
        with loader_running(urls, lake) as loader:
            wait_for_events(lake, in_backup + 100)  # which are in the lake and not in the backup
            loader.stop()
        expected = published.stop()
    shutil.rmtree(lake)
    shutil.copytree(backup, lake)
    assert len(stored(lake)) < len(expected)
    with loader_running(urls, lake):
        wait_for_events(lake, len(expected))
        # A session sends all again, and one event more.
        session = next(iter(expected))[0]
        last = max(seq for each, seq in expected if each == session)
        asyncio.run(_send_again(urls, session, last))
        wait_for_events(lake, len(expected) + 1)
    assert sequences(lake) == expected + type(expected)({(session, last + 1): 1})
