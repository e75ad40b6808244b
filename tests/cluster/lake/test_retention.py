from __future__ import annotations

import json
from pathlib import Path

import pytest

from redvsblue_telemetry.cluster.lake.lake import Lake
from redvsblue_telemetry.cluster.lake.rows import DAY
from redvsblue_telemetry.collector.messages import read_message
from redvsblue_telemetry.collector.storage.upkeep import Keep
from tests.support.lake import (
    NOON,
    STREAM,
    append,
    event,
    message,
    numbered,
    stored,
    stored_numbers,
    stored_runs,
)

SECONDS = DAY / 1000
MIDNIGHT = NOON + DAY // 2  # the end of the first day


@pytest.fixture
def now() -> list[int]:
    return [NOON]


@pytest.fixture
def lake(tmp_path: Path, now: list[int]) -> Lake:
    return Lake.open(str(tmp_path / "lake"), clock=lambda: now[0])


def types(lake: Lake) -> list[str]:
    return [row["type"] for row in stored(lake.url)]


def test_day_goes_when_all_of_it_is_older(lake: Lake, now: list[int]) -> None:
    claim = lake.claim(STREAM, [0])
    report = json.dumps({"report": {"sessionId": "s", "number": 1, "state": "running"}})
    append(lake, claim, 0, 2, numbered("s", 1, 5), read_message(report))
    append(lake, claim, 0, 3, read_message(b"nothing"))
    append(lake, claim, 0, 4, numbered("t", 1, 2), at=NOON + DAY)
    now[0] = MIDNIGHT + 7 * DAY - 1
    assert lake.keep(Keep(7 * SECONDS)) == 0
    now[0] += 1
    assert lake.keep(Keep(7 * SECONDS)) == 5
    assert stored_numbers(lake.url) == {"t": [1, 2]}
    assert [*stored(lake.url, "reports"), *stored(lake.url, "rejected")] == []
    assert set(stored_runs(lake.url)) == {"t"}
    assert lake.keep(Keep(7 * SECONDS)) == 0


def test_nothing_goes_without_an_age(lake: Lake, now: list[int]) -> None:
    append(lake, lake.claim(STREAM, [0]), 0, 1, numbered("s", 1, 5))
    now[0] += 10_000 * DAY
    assert lake.keep(Keep()) == 0
    assert stored_numbers(lake.url) == {"s": [1, 2, 3, 4, 5]}


def test_type_can_be_kept_for_less(lake: Lake, now: list[int]) -> None:
    claim = lake.claim(STREAM, [0])
    append(lake, claim, 0, 1, message(event("s", 1, "moved"), event("s", 2, "won")))
    now[0] = MIDNIGHT + DAY
    assert lake.keep(Keep(by_type={"moved": SECONDS})) == 1
    assert types(lake) == ["won"]
    # What has been deleted was stored, and isn't stored again.
    append(lake, lake.claim(STREAM, [0]), 0, 2, message(event("s", 1, "moved")), at=now[0])
    assert types(lake) == ["won"]


def test_type_can_be_kept_for_longer(lake: Lake, now: list[int]) -> None:
    claim = lake.claim(STREAM, [0])
    append(lake, claim, 0, 1, message(event("s", 1, "moved"), event("s", 2, "won")))
    rule = Keep(SECONDS, {"won": 3 * SECONDS})
    now[0] = MIDNIGHT + DAY
    assert lake.keep(rule) == 1
    assert types(lake) == ["won"]
    assert stored_runs(lake.url)["s"].total() == 2
    now[0] = MIDNIGHT + 3 * DAY
    assert lake.keep(rule) == 1
    assert (types(lake), stored_runs(lake.url)) == ([], {})


def test_session_that_goes_on_keeps_its_numbers(lake: Lake, now: list[int]) -> None:
    claim = lake.claim(STREAM, [0])
    append(lake, claim, 0, 2, numbered("s", 1, 5), numbered("t", 1, 5))
    now[0] = MIDNIGHT + DAY
    append(lake, claim, 0, 3, numbered("s", 6, 9), at=now[0])
    assert lake.keep(Keep(SECONDS)) == 10
    assert sorted(stored_runs(lake.url)["s"]) == [*range(1, 10)]
    assert "t" not in stored_runs(lake.url)
    append(lake, lake.claim(STREAM, [0]), 0, 4, numbered("s", 1, 10), at=now[0])
    assert stored_numbers(lake.url) == {"s": [6, 7, 8, 9, 10]}
