"""One loader: events are in the lake soon, and once, also beside messages that are none."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from tests.cluster.loader.loaders import loader_running, sequences, stored, wait_for_events
from tests.cluster.loader.publishing import publishing

if TYPE_CHECKING:
    from redvsblue_telemetry.cluster.local.servers import StreamServers


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
        assert loader.metric("telemetry_events_stored_total") == 600
        assert loader.metric("telemetry_lag_messages") == 0
        loader.stop()
