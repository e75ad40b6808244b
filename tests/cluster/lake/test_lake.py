from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from redvsblue_telemetry.cluster.lake.errors import LakeError, LostPartitionsError
from redvsblue_telemetry.cluster.lake.lake import Lake
from redvsblue_telemetry.cluster.lake.rows import POSITIONS
from redvsblue_telemetry.collector.messages import read_message
from tests.support.lake import (
    NOON,
    STREAM,
    append,
    numbered,
    stored,
    stored_numbers,
    stored_runs,
)


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake.open(str(tmp_path / "lake"))


def test_lake_that_is_not_there_is_made_only_if_asked_for(tmp_path: Path) -> None:
    with pytest.raises(LakeError, match="is not a lake"):
        Lake.open(str(tmp_path / "lake"), create=False)
    Lake.open(str(tmp_path / "lake"))
    Lake.open(str(tmp_path / "lake"), create=False)


def test_event_is_stored_as_it_came(lake: Lake) -> None:
    claim = lake.claim(STREAM, [3])
    text = '{"a": 1.50, "b": "\\u00e4", "c": "ä"}'
    body = (
        '[{"id":"run-7","type":"hit","timestamp":-5,"sessionId":"s","seq":7,"version":"1.2",'
        '"data":' + text + ',"context":{"player":"p"}},'
        '{"id":"other","type":"hit","timestamp":6,"sessionId":"s","seq":8,"data":{},"context":4}]'
    )
    rows = claim.rows()
    added = rows.add(3, 11, NOON, read_message(body), check=lambda type, data: f"{type} is odd")
    assert (added.events, added.repeats, added.faults) == (2, 0, 2)
    lake.append(claim, rows, {3: 11})
    first, second = stored(lake.url)
    assert first == {
        "kind": "events",
        "day": "2026-11-29",
        "arrival": 11 * POSITIONS,
        "received": NOON,
        "session": "s",
        "seq": 7,
        "type": "hit",
        "timestamp": -5,
        "run": "run",
        "id": None,
        "version": "1.2",
        "context": '{"player":"p"}',
        "fault": "hit is odd",
        "data": text,
    }
    assert (second["arrival"], second["run"], second["id"]) == (11 * POSITIONS + 1, None, "other")
    assert (second["version"], second["context"]) == (None, None)


def test_reports_and_rejected_parts_are_stored(lake: Lake) -> None:
    claim = lake.claim(STREAM, [0])
    body = (
        '{"report":{"sessionId":"s","number":3,"state":"ended","reason":"exit","at":9,'
        '"version":"1"}}\n{"nothing": 1}\n'
    )
    rows = claim.rows()
    added = rows.add(0, 1, NOON, read_message(body.encode() + b"\xff"))
    assert (added.reports, added.rejected) == (1, 2)
    lake.append(claim, rows, {0: 1})
    (report,) = stored(lake.url, "reports")
    assert (report["session"], report["seq"], report["type"]) == ("s", 3, "ended")
    assert (report["timestamp"], report["version"]) == (9, "1")
    assert json.loads(report["data"])["report"]["reason"] == "exit"
    faulty, garbage = stored(lake.url, "rejected")
    assert "missing required field" in faulty["fault"]
    assert faulty["data"] == '{"nothing": 1}'
    assert garbage["data"] == "\\xff"


def test_number_is_stored_once(lake: Lake) -> None:
    claim = lake.claim(STREAM, [0])
    append(lake, claim, 0, 2, numbered("s", 1, 5), numbered("s", 4, 8))
    append(lake, claim, 0, 4, numbered("s", 1, 9), numbered("s", 20, 21))
    assert stored_numbers(lake.url) == {"s": [*range(1, 10), 20, 21]}
    runs = stored_runs(lake.url)
    assert runs["s"] == Counter([*range(1, 10), 20, 21])
    assert sum(row["timestamp"] or 0 for row in stored(lake.url, "runs")) == 2 + 8


def test_numbers_are_restored_by_the_next_owner(lake: Lake) -> None:
    append(lake, lake.claim(STREAM, [0]), 0, 4, numbered("s", 1, 5), numbered("t", 1, 3))
    second = lake.claim(STREAM, [0])
    assert second.offset(0) == 4
    append(lake, second, 0, 7, numbered("s", 4, 6))
    third = lake.claim(STREAM, [0, 1])
    assert (third.offset(0), third.offset(1)) == (7, 0)
    append(lake, third, 0, 9, numbered("s", 1, 7), numbered("t", 1, 4))
    assert stored_numbers(lake.url) == {"s": [*range(1, 8)], "t": [*range(1, 5)]}


def test_late_owner_cannot_commit(lake: Lake) -> None:
    late, owner = lake.claim(STREAM, [0, 1]), lake.claim(STREAM, [0])
    append(lake, owner, 0, 5, numbered("s", 1, 5))
    rows = late.rows()
    rows.add(0, 5, NOON, numbered("s", 1, 5))
    rows.add(1, 6, NOON, numbered("t", 1, 2))
    with pytest.raises(LostPartitionsError) as caught:
        lake.append(late, rows, {0: 5, 1: 6})
    assert caught.value.partitions == {0}
    assert late.partitions == {1}
    assert rows.events == 2
    lake.append(late, rows, {1: 6})
    late.add([0])
    assert late.offset(0) == 5
    append(lake, late, 0, 7, numbered("s", 1, 6))
    assert stored_numbers(lake.url) == {"s": [1, 2, 3, 4, 5, 6], "t": [1, 2]}


def test_owners_of_different_partitions_do_not_disturb_each_other(lake: Lake) -> None:
    claims = [lake.claim(STREAM, [partition]) for partition in range(3)]
    for sequence in range(1, 4):
        for partition, claim in enumerate(claims):
            append(lake, claim, partition, sequence, numbered(f"s{partition}", 1, sequence))
    assert stored_numbers(lake.url) == {f"s{each}": [1, 2, 3] for each in range(3)}


def test_partition_that_was_lost_before_another_was_added_stays_lost(lake: Lake) -> None:
    late, owner = lake.claim(STREAM, [0]), lake.claim(STREAM, [0])
    append(lake, owner, 0, 5, numbered("s", 1, 5))
    late.add([1])  # reads the lake anew, and with it the other's commit
    with pytest.raises(LostPartitionsError):
        append(lake, late, 0, 6, numbered("s", 1, 6))
    assert stored_numbers(lake.url) == {"s": [1, 2, 3, 4, 5]}


def test_offsets_move_without_rows(lake: Lake) -> None:
    claim = lake.claim(STREAM, [0, 1])
    lake.append(claim, claim.rows(), {0: 9})
    assert lake.claim(STREAM, [0, 1]).offset(0) == 9
    before = claim.version
    lake.append(claim, claim.rows(), {0: 9, 1: 0})
    assert claim.version == before


def test_offset_that_would_lose_or_repeat_messages_is_refused(lake: Lake) -> None:
    claim = lake.claim(STREAM, [0])
    append(lake, claim, 0, 5, numbered("s", 1, 5))
    rows = claim.rows()
    with pytest.raises(ValueError, match="message 5 of partition 0 came after 5"):
        rows.add(0, 5, NOON, numbered("s", 1, 5))
    rows.add(0, 7, NOON, numbered("s", 6, 6))
    for offsets in ({0: 6}, {}):
        with pytest.raises(ValueError, match="below that of its rows"):
            lake.append(claim, rows, offsets)
    with pytest.raises(ValueError, match="partition 1 is not claimed"):
        lake.append(claim, rows, {0: 7, 1: 7})
    lake.append(claim, rows, {0: 7})
    assert stored_numbers(lake.url) == {"s": [1, 2, 3, 4, 5, 6]}


def test_stream_that_was_made_anew_continues_the_order_of_arrival(lake: Lake) -> None:
    append(lake, lake.claim(STREAM, [0]), 0, 900, numbered("s", 1, 2))
    anew = lake.claim("another", [0])
    assert anew.offset(0) == 0
    append(lake, anew, 0, 1, numbered("s", 1, 3))
    assert [(row["seq"], row["arrival"]) for row in stored(lake.url)] == [
        (1, 900 * POSITIONS),
        (2, 900 * POSITIONS + 1),
        (3, (anew.base + 1) * POSITIONS + 2),
    ]
    assert anew.base > 900
    assert lake.claim("another", [1]).base == anew.base
    assert lake.claim("third", [1]).base > anew.base


def test_events_are_in_the_folder_of_the_day_on_which_they_were_received(lake: Lake) -> None:
    claim = lake.claim(STREAM, [0])
    rows = claim.rows()
    rows.add(0, 1, NOON + 43_199_999, numbered("s", 1, 1))
    rows.add(0, 2, NOON + 43_200_000, numbered("s", 2, 2))
    lake.append(claim, rows, {0: 2})
    days = [row["day"] for row in stored(lake.url)]
    assert days == ["2026-11-29", "2026-11-30"]


def test_released_partition_can_be_taken(lake: Lake) -> None:
    claim = lake.claim(STREAM, [0, 1])
    append(lake, claim, 0, 1, numbered("s", 1, 2))
    claim.release([0])
    assert claim.partitions == {1}
    other = lake.claim(STREAM, [0])
    append(lake, other, 0, 2, numbered("s", 1, 3))
    append(lake, claim, 1, 3, numbered("t", 1, 1))
    assert stored_numbers(lake.url) == {"s": [1, 2, 3], "t": [1]}


def test_stream_that_is_older_than_another_is_refused(lake: Lake) -> None:
    """Neither of two streams would know the numbers of the other."""
    claim = lake.claim(STREAM, [0])
    append(lake, claim, 0, 1, numbered("s", 1, 5))
    lake.claim("another", [0])
    append(lake, claim, 0, 2, numbered("s", 6, 7))  # it had read that before
    with pytest.raises(LakeError, match="of a stream that is newer than this one"):
        claim.add([1])
    with pytest.raises(LakeError, match="of a stream that is newer than this one"):
        lake.claim(STREAM, [0])
