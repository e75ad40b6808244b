"""Ranges of time over the API: what they select, and the history of events."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlencode

import pytest

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


@pytest.mark.parametrize("path", ["/api/history"])
def test_range_that_cannot_be_meant_is_refused(shared: RunningCollector, path: str) -> None:
    assert reason(shared, path, **{"from": 2, "to": 1}) == "from is 2, which is after to, 1"
    assert reason(shared, path, to="now") == "to must be a whole number, not 'now'"
    assert reason(shared, path, **{"from": -1}) == "from must be a whole number, not '-1'"
