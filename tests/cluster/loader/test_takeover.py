"""Loaders come and go, well and badly: nothing is lost, nothing is stored twice."""

from __future__ import annotations

import signal
import time
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.cluster.loader.loaders import (
    EXPIRY,
    PATIENCE,
    loader_running,
    sequences,
    stored,
    wait_for_events,
)
from tests.cluster.loader.traffic import Traffic, traffic
from tests.support.fault_proxy import FaultProxy
from tests.support.objects import object_store, settings
from tests.support.systems import needs_posix
from tests.support.wait import wait_until

if TYPE_CHECKING:
    from redvsblue_telemetry.cluster.local.servers import StreamServers

pytestmark = [needs_posix, pytest.mark.slow, pytest.mark.timeout(180)]


def assert_all_is_there_once(lake: Path | str, published: Traffic) -> None:
    """Wait until what was acknowledged is in the lake; each event once, each session in order."""
    expected = published.stop()
    wait_for_events(lake, len(expected))
    assert sequences(lake) == expected
    of_session: dict[str, list[int]] = defaultdict(list)
    for row in stored(lake):
        of_session[row["session"]].append(row["seq"])
    for numbers in of_session.values():
        assert numbers == sorted(numbers)


def wait_for_more(lake: Path | str, published: Traffic, timeout: float = PATIENCE) -> None:
    """Wait until events are in the lake that are published after this call."""
    wait_for_events(lake, published.count + 1, timeout)


def test_killed_loader_is_replaced(stream_servers: StreamServers, tmp_path: Path) -> None:
    lake, urls = tmp_path / "lake", stream_servers.urls
    with loader_running(urls, lake) as first, loader_running(urls, lake) as second:
        first.wait_for_owned(2)
        second.wait_for_owned(2)
        with traffic(urls) as published:
            wait_for_more(lake, published)
            first.kill()
            killed = time.monotonic()
            second.wait_for_owned(4)
            assert time.monotonic() - killed < EXPIRY + 8
            wait_for_more(lake, published)
            assert_all_is_there_once(lake, published)
        second.wait_for_metric("telemetry_loaders", 1)


def test_loader_that_is_cut_off_from_the_lake_is_replaced(
    stream_servers: StreamServers, monkeypatch: pytest.MonkeyPatch
) -> None:
    urls, lake = stream_servers.urls, "s3://bucket/lake"
    with (
        object_store("bucket") as port,
        FaultProxy() as way,
        traffic(urls, pause=0.1) as published,
    ):
        way.upstream = ("127.0.0.1", port)
        for name, value in settings(port).items():
            monkeypatch.setenv(name, value)
        through = ("env", f"AWS_ENDPOINT_URL=http://127.0.0.1:{way.port}")
        with (
            loader_running(urls, lake, before=through) as one,
            loader_running(urls, lake) as other,
        ):
            one.wait_for_owned(2)
            other.wait_for_owned(2)
            wait_for_more(lake, published)
            way.black_hole(True)
            other.wait_for_owned(4)
            assert one.ask("/healthz")[0] == 503
            wait_for_more(lake, published)
            way.black_hole(False)
            way.reset()
            one.wait_for_owned(2)
            assert wait_until(lambda: one.ask("/healthz")[0] == 200, PATIENCE)
            assert_all_is_there_once(lake, published)


def test_loaders_join_and_leave_in_good_order(
    stream_servers: StreamServers, tmp_path: Path
) -> None:
    lake, urls = tmp_path / "lake", stream_servers.urls
    with loader_running(urls, lake) as first, traffic(urls) as published:
        first.wait_for_owned(4)
        wait_for_more(lake, published)
        with loader_running(urls, lake) as second:
            second.wait_for_owned(2)
            first.wait_for_owned(2)
            wait_for_more(lake, published)
            second.stop()
            left = time.monotonic()
            first.wait_for_owned(4)
            assert time.monotonic() - left < EXPIRY  # nobody had to wait for a lease
        wait_for_more(lake, published)
        assert_all_is_there_once(lake, published)
        first.wait_for_metric("telemetry_commits_lost_total", 0)
        first.stop()


def test_stopped_loader_wakes_up_as_one_that_has_lost_all(
    stream_servers: StreamServers, tmp_path: Path
) -> None:
    lake, urls = tmp_path / "lake", stream_servers.urls
    with loader_running(urls, lake) as first, traffic(urls, pause=0) as published:
        first.wait_for_owned(4)
        wait_for_more(lake, published)
        first.send(signal.SIGSTOP)
        with loader_running(urls, lake) as second:
            second.wait_for_owned(4)
            wait_for_more(lake, published)
            first.send(signal.SIGCONT)
            first.wait_for_owned(2)
            second.wait_for_owned(2)
            wait_for_more(lake, published)
            assert_all_is_there_once(lake, published)
            assert first.metric("telemetry_events_stored_total") > 0


def test_leader_of_the_stream_is_killed(
    three_stream_servers: StreamServers, tmp_path: Path
) -> None:
    lake, servers = tmp_path / "lake", three_stream_servers
    with (
        loader_running(servers.urls, lake) as first,
        loader_running(servers.urls, lake) as second,
        traffic(servers.urls) as published,
    ):
        wait_for_more(lake, published)
        leader = servers.leader()
        assert leader is not None
        servers.kill(leader)
        wait_for_more(lake, published)
        servers.start_one(leader)
        servers.wait_current()
        wait_for_more(lake, published)
        assert_all_is_there_once(lake, published)
        assert wait_until(lambda: first.owned + second.owned == 4, PATIENCE)


def test_loader_of_another_lake_gets_nothing_until_the_first_has_ended(
    stream_servers: StreamServers, tmp_path: Path
) -> None:
    """Each lake would get half of the partitions otherwise, and nobody would notice."""
    lake, other, urls = tmp_path / "lake", tmp_path / "other", stream_servers.urls
    with loader_running(urls, lake) as first:
        first.wait_for_owned(4)
        with loader_running(urls, other) as second, traffic(urls) as published:
            second.running.wait_for("the stream is being loaded into another lake")
            assert second.ask("/healthz")[0] == 503
            assert_all_is_there_once(lake, published)
            assert (first.owned, second.owned) == (4, 0)
            first.stop()
            second.wait_for_owned(4)
            assert_all_is_there_once(other, published)
            assert second.ask("/healthz")[0] == 200
