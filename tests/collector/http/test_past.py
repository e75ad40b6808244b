"""Ranges of time over the API: what they select, and the history of events."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest

from redvsblue_telemetry.collector.messages import read_message
from redvsblue_telemetry.collector.storage.database import Database
from redvsblue_telemetry.collector.storage.writer import Writer
from tests.support.collector import RunningCollector, collector_running


@pytest.fixture(scope="module")
def shared() -> Iterator[RunningCollector]:
    """An empty collector, for requests that change nothing."""
    with collector_running() as running:
        yield running


def answer(collector: RunningCollector, path: str, **parameters: object) -> Any:
    response = collector.get(f"{path}?{urlencode(parameters)}")
    assert response.status == 200, response.body
    return json.loads(response.body)


def reason(collector: RunningCollector, path: str, **parameters: object) -> str:
    response = collector.get(f"{path}?{urlencode(parameters)}")
    assert response.status == 400
    return str(json.loads(response.body)["error"])


def test_words_are_resolved(shared: RunningCollector) -> None:
    found = answer(shared, "/api/range", range="2026-01-01 to 2026-01-02", offset=60)
    assert found == {
        "from": 1767222000000,
        "to": 1767394800000,
        "isOpen": False,
        "words": "2026-01-01 to 2026-01-02",
    }
    assert answer(shared, "/api/range", range="") == {
        "from": None,
        "to": None,
        "isOpen": True,
        "words": "all",
    }
    found = answer(shared, "/api/range", range="7D", offset=-480)
    assert (found["to"], found["isOpen"], found["words"]) == (None, True, "last 7 days")


def test_words_that_are_none_get_a_reason(shared: RunningCollector) -> None:
    assert "range is 'lst week'; use words such as" in reason(
        shared, "/api/range", range="lst week"
    )


@pytest.mark.parametrize("path", ["/api/range", "/api/history"])
@pytest.mark.parametrize("offset", ["1441", "-1441", "x", "", "1.5", "+-1", "٣", "--1"])
def test_zone_that_there_is_not_is_refused(
    shared: RunningCollector, path: str, offset: str
) -> None:
    assert "offset must be minutes east of UTC" in reason(shared, path, offset=offset)


@pytest.mark.parametrize("path", ["/api/history", "/api/events", "/api/rejected", "/api/stats"])
def test_range_that_cannot_be_meant_is_refused(shared: RunningCollector, path: str) -> None:
    assert reason(shared, path, **{"from": 2, "to": 1}) == "from is 2, which is after to, 1"
    assert reason(shared, path, to="now") == "to must be a whole number, not 'now'"
    assert reason(shared, path, **{"from": -1}) == "from must be a whole number, not '-1'"


def test_lists_and_totals_follow_a_range(tmp_path: Path) -> None:
    now = [1_795_531_418_300]
    path = tmp_path / "past.sqlite3"
    with (
        contextlib.closing(Database(path)) as database,
        contextlib.closing(Writer(database, lambda *_: "wrong", lambda: now[0])) as writer,
    ):
        for name in ("early", "late"):
            events = [
                {"sessionId": name, "seq": seq, "type": type_, "timestamp": 1, "id": f"{name}{seq}"}
                | {"version": f"of-{name}", "data": {"exception": name}}
                for seq, type_ in enumerate(("hit", "crash"), 1)
            ]
            writer.store([read_message(json.dumps([*events, {"type": name}]))])
            now[0] += 3_600_000
    with collector_running(db=path) as collector:
        late = {"from": 1_795_531_418_301}
        early = {"to": 1_795_531_418_301}
        for name, span in (("early", early), ("late", late)):
            found = answer(collector, "/api/events", **span)["events"]
            assert [event["sessionId"] for event in found] == [name, name]
            sessions = answer(collector, "/api/sessions", **span)["sessions"]
            assert [each["sessionId"] for each in sessions] == [name]
            versions = answer(collector, "/api/versions", **span)["versions"]
            assert [each["version"] for each in versions] == [f"of-{name}"]
            (crash,) = answer(collector, "/api/crashes", **span)["crashes"]
            assert (crash["exception"], crash["count"]) == (name, 1)
            groups = answer(collector, "/api/faults", **span)["faults"]
            assert [each["count"] for each in groups] == [1, 1]
            assert groups[0]["versions"] == [f"of-{name}"]
            (rejected,) = answer(collector, "/api/rejected", **span)["rejected"]
            assert name in rejected["text"]
            stats = answer(collector, "/api/stats", **span)
            assert (stats["events"], stats["sessions"], stats["rejected"]) == (2, 1, 1)
            assert (stats["types"], stats["faults"]) == ({"crash": 1, "hit": 1}, 2)
            assert stats["outcomes"]["no_word"] + stats["outcomes"]["running"] == 1
        assert answer(collector, "/api/events", **late, before=4)["events"][0]["arrival"] == 3
        assert answer(collector, "/api/history")["total"] == 4
        nothing = answer(collector, "/api/stats", **{"from": 5, "to": 5})
        assert (nothing["events"], nothing["sessions"], nothing["missing"]) == (0, 0, 0)
