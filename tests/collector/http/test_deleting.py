"""Deleting a session, or the data of a person, over the API: who may, and what it answers."""

from __future__ import annotations

import contextlib
import http.client
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from redvsblue_telemetry.collector.storage.upkeep import Keep
from tests.collector.clients import acks_up_to, client_of, event
from tests.support.collector import RunningCollector, bearer, collector_running

PLAYER = {"player": "p-17"}


@pytest.fixture
def collector(tmp_path: Path) -> Iterator[RunningCollector]:
    with collector_running(db=tmp_path / "telemetry.sqlite3", allow_reset=True) as running:
        yield running


def send(collector: RunningCollector, *events: dict[str, Any], token: str | None = None) -> None:
    with client_of(collector, token=token) as client:
        client.send(json.dumps(events))
        assert acks_up_to(client, 1) == [1]


def sessions(collector: RunningCollector, token: str | None = None) -> list[str]:
    found = collector.get("/api/sessions", bearer(token)).json()["sessions"]
    return sorted(each["sessionId"] for each in found)


def test_session_is_deleted_with_a_receipt(collector: RunningCollector) -> None:
    odd = "a/b ?\n"
    send(collector, event(1, odd), event(2, odd), event(1, "other"))
    answer = collector.request("DELETE", f"/api/sessions/{quote(odd, safe='')}")
    receipt = answer.json()
    assert (answer.status, receipt.pop("at") > 1_700_000_000_000) == (200, True)
    assert receipt == {"session": odd, "events": 2, "sessions": 1}
    assert sessions(collector) == ["other"]
    assert collector.stats().events == 1

    again = collector.request("DELETE", f"/api/sessions/{quote(odd, safe='')}")
    assert (again.status, again.json()) == (404, {"error": "nothing found to delete"})


def test_data_of_a_person_is_deleted_with_a_receipt(collector: RunningCollector) -> None:
    send(collector, event(1, context=PLAYER), event(1, "t", context=PLAYER), event(2, "t"))
    answer = collector.request("DELETE", "/api/sessions?context=player=p-17")
    receipt = answer.json()
    del receipt["at"]
    assert receipt == {"context": PLAYER, "events": 2, "sessions": 1}
    assert sessions(collector) == ["t"]


@pytest.mark.parametrize(
    "query", ["", "?context=player", "?context=a=1&context=b=2", "?limit=1&context=a=1"]
)
def test_unclear_request_deletes_nothing(collector: RunningCollector, query: str) -> None:
    send(collector, event(1, context={"a": "1", "b": "2"}))
    assert collector.request("DELETE", f"/api/sessions{query}").status == 400
    assert sessions(collector) == ["s"]


def test_live_stream_forgets(collector: RunningCollector) -> None:
    send(collector, event(1, data={"name": "Ada"}, context=PLAYER), event(1, "other"))
    assert b"Ada" in first_update(collector)
    assert collector.request("DELETE", "/api/sessions?context=player=p-17").status == 200
    update = first_update(collector)
    assert b"Ada" not in update
    assert b"other" in update


def first_update(collector: RunningCollector) -> bytes:

    connection = http.client.HTTPConnection("127.0.0.1", collector.port, 15)
    with contextlib.closing(connection):
        connection.request("GET", "/api/live")
        response = connection.getresponse()
        while not (line := response.readline()).startswith(b"data: "):
            pass
        return line


def test_nobody_deletes_without_a_token_unless_that_is_allowed(tmp_path: Path) -> None:
    with collector_running(db=tmp_path / "telemetry.sqlite3") as collector:
        send(collector, event(1, context=PLAYER))
        for path in ("/api/sessions/s", "/api/sessions?context=player=p-17"):
            answer = collector.request("DELETE", path)
            assert answer.status == 403
            assert "--allow-reset" in answer.json()["error"]
        assert sessions(collector) == ["s"]


def test_those_who_show_the_token_may_delete(tmp_path: Path) -> None:
    with collector_running(db=tmp_path / "telemetry.sqlite3", token="t0k") as collector:
        send(collector, event(1), token="t0k")
        assert collector.request("DELETE", "/api/sessions/s").status == 401
        assert collector.request("DELETE", "/api/sessions/s", bearer("other")).status == 401
        assert sessions(collector, "t0k") == ["s"]
        assert collector.request("DELETE", "/api/sessions/s", bearer("t0k")).status == 200
        assert sessions(collector, "t0k") == []
        # Everything at once still has to be allowed.
        assert collector.request("DELETE", "/api/events", bearer("t0k")).status == 403


def test_the_token_of_games_deletes_nothing_beside_a_read_token(tmp_path: Path) -> None:
    path = tmp_path / "telemetry.sqlite3"
    with collector_running(db=path, token="games", read_token="people") as collector:
        send(collector, event(1), token="games")
        assert collector.request("DELETE", "/api/sessions/s", bearer("games")).status == 401
        assert collector.request("DELETE", "/api/sessions/s", bearer("people")).status == 200


def test_page_of_another_site_deletes_nothing(collector: RunningCollector) -> None:
    send(collector, event(1))
    evil = {"Origin": "https://evil.example", "Sec-Fetch-Site": "cross-site"}
    assert collector.request("DELETE", "/api/sessions/s", evil).status == 403
    assert sessions(collector) == ["s"]


def test_stats_and_metrics_show_the_room(tmp_path: Path) -> None:
    options = {"keep": Keep(86_400.0, {"hit": 60.0}), "max_bytes": 200_000_000}
    with collector_running(db=tmp_path / "telemetry.sqlite3", **options) as collector:
        send(collector, event(1))
        storage = collector.stats().storage
        assert storage is not None
        assert 50_000 < storage.used_bytes <= storage.file_bytes < 10_000_000
        assert storage.disk_free_bytes > 0
        assert (storage.max_bytes, storage.keep) == (200_000_000, {"": 86_400.0, "hit": 60.0})
        text = collector.get("/metrics").body.decode()
        names = ("database_bytes", "database_file_bytes", "disk_free_bytes", "disk_low")
        assert all(f"\ntelemetry_{name} " in text for name in names)
        assert "\ntelemetry_database_max_bytes 2e+08" in text
