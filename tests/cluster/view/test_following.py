"""A view shows what loaders store while it is open, and says so when it can't read the lake."""

from __future__ import annotations

import contextlib
import http.client
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from redvsblue_telemetry.cluster.lake.lake import Lake
from redvsblue_telemetry.collector.server import OptionsError
from tests.support.collector import PATIENCE
from tests.support.lake import append, numbered
from tests.support.view import RunningView, view_running
from tests.support.wait import wait_until


@contextlib.contextmanager
def looking(view: RunningView) -> Iterator[Iterator[Any]]:
    """The updates of the live stream."""
    connection = http.client.HTTPConnection("127.0.0.1", view.port, timeout=PATIENCE)
    with contextlib.closing(connection):
        connection.request("GET", "/api/live")
        response = connection.getresponse()
        lines = iter(response.readline, b"")
        yield (json.loads(line[6:]) for line in lines if line.startswith(b"data: "))


def numbers(view: RunningView) -> list[int]:
    return [each["seq"] for each in view.get("/api/events?session=s").json()["events"]]


def test_new_events_appear(tmp_path: Path) -> None:
    lake = Lake.open(str(tmp_path))
    claim = lake.claim("stream", [0, 1])
    append(lake, claim, 0, 1, numbered("s", 1, 5))
    with view_running(tmp_path) as view, looking(view) as updates:
        assert next(updates)["total"] == 0
        assert numbers(view) == [1, 2, 3, 4, 5]
        append(lake, claim, 0, 9, numbered("s", 6, 8))
        seen = [each["seq"] for update in updates_until(updates, 3) for each in update["events"]]
        assert seen == [6, 7, 8]
        # Of another partition, whose messages have lower numbers in the order of arrival.
        append(lake, claim, 1, 2, numbered("t", 1, 2))
        seen = [each["sessionId"] for u in updates_until(updates, 5) for each in u["events"]]
        assert seen == ["t", "t"]
        assert numbers(view) == [1, 2, 3, 4, 5, 6, 7, 8]
        stats = view.get("/api/stats").json()
        assert (stats["events"], stats["sessions"]) == (10, 2)
        assert view.get("/api/sessions/s").json()["events"] == 8


def updates_until(updates: Iterator[Any], total: int) -> Iterator[Any]:
    for update in updates:
        yield update
        if update["total"] >= total:
            return


def test_merged_files_change_nothing(tmp_path: Path) -> None:
    lake = Lake.open(str(tmp_path))
    claim = lake.claim("stream", [0])
    for sequence in range(1, 11):
        append(lake, claim, 0, sequence, numbered("s", sequence, sequence))
    with view_running(tmp_path) as view:
        before = view.get("/api/stats").json()
        version = shown_version(view)
        assert lake.compact().after
        assert wait_until(lambda: shown_version(view) > version)
        assert numbers(view) == [*range(1, 11)]
        after = view.get("/api/stats").json()
        assert {**after, "storage": None} == {**before, "storage": None}


def test_what_is_erased_is_gone(tmp_path: Path) -> None:
    lake = Lake.open(str(tmp_path))
    claim = lake.claim("stream", [0])
    append(lake, claim, 0, 2, numbered("s", 1, 3), numbered("t", 1, 4))
    with view_running(tmp_path) as view:
        assert view.get("/api/stats").json()["events"] == 7
        lake.forget(session="s")
        assert wait_until(lambda: view.get("/api/stats").json()["events"] == 4)
        assert view.get("/api/sessions/s").status == 404
        assert numbers(view) == []


def test_a_lake_that_is_gone_is_reported_and_one_in_its_place_is_shown(tmp_path: Path) -> None:
    path = tmp_path / "lake"
    lake = Lake.open(str(path))
    append(lake, lake.claim("stream", [0]), 0, 1, numbered("s", 1, 3))
    with view_running(path) as view:
        assert view.get("/healthz").status == 200
        shutil.rmtree(path)
        assert wait_until(lambda: view.get("/healthz").status == 503)
        assert view.get("/healthz").body == b"the lake can't be read\n"
        assert "lake" in view.get("/api/stats").json()["lastError"]
        lake = Lake.open(str(path))
        append(lake, lake.claim("stream", [0]), 0, 1, numbered("s", 8, 9))
        # It may have seen the lake before there was anything in it.
        assert wait_until(lambda: view.get("/healthz").status == 200)
        assert wait_until(lambda: numbers(view) == [8, 9])
        assert view.get("/api/stats").json()["events"] == 2


def shown_version(view: RunningView) -> int:
    lines = view.get("/metrics").body.decode().splitlines()
    (line,) = (line for line in lines if line.startswith("telemetry_lake_version "))
    return int(float(line.split()[1]))


def test_a_view_needs_a_lake(tmp_path: Path) -> None:
    with pytest.raises(OptionsError, match="is not a lake"), view_running(tmp_path):
        pass
