from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet
import pytest

from redvsblue_telemetry.cluster.lake.compaction import plan
from redvsblue_telemetry.cluster.lake.lake import Lake
from redvsblue_telemetry.cluster.lake.rows import DAY
from redvsblue_telemetry.cluster.lake.table import DataFile, Table
from redvsblue_telemetry.collector.messages import read_message
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


@pytest.fixture
def now() -> list[int]:
    return [NOON]


@pytest.fixture
def lake(tmp_path: Path, now: list[int]) -> Lake:
    return Lake.open(str(tmp_path / "lake"), clock=lambda: now[0])


def kinds(lake: Lake) -> list[str]:
    return [each.kind for each in Table.open(lake.url).files()]


def report(number: int, started: int = 5) -> bytes:
    fields = {"sessionId": "s", "number": number, "state": "running", "startedAt": started}
    return json.dumps({"report": fields}).encode()


def test_small_files_become_one_and_nothing_changes(lake: Lake) -> None:
    claim = lake.claim(STREAM, [0])
    for sequence in range(1, 10):
        append(lake, claim, 0, sequence, numbered("s", 1, sequence * 10))
    before = stored(lake.url), stored_runs(lake.url)
    assert kinds(lake) == ["events"] * 9 + ["runs"] * 9
    done = lake.compact()
    assert (done.before, done.after) == (18, 2)
    assert kinds(lake) == ["events", "runs"]
    assert (stored(lake.url), stored_runs(lake.url)) == before
    (run,) = stored(lake.url, "runs")
    assert (run["data"], run["timestamp"]) == ("[[1,90]]", sum(range(10, 90, 10)))
    append(lake, claim, 0, 10, numbered("s", 1, 100))
    append(lake, lake.claim(STREAM, [0]), 0, 11, numbered("s", 1, 110))
    assert stored_numbers(lake.url) == {"s": [*range(1, 111)]}


def test_rows_of_a_file_are_in_order(lake: Lake) -> None:
    claim = lake.claim(STREAM, [0])
    for sequence in range(1, 9):
        events = [
            event(session, sequence, type) for session, type in (("b", "x"), ("a", "y"), ("c", "x"))
        ]
        append(lake, claim, 0, sequence, message(*events))
    lake.compact()
    (file,) = Table.open(lake.url).files("events")
    rows = pyarrow.parquet.read_table(Path(lake.url) / file.path, partitioning=None).to_pylist()
    keys = [(row["type"], row["session"], row["seq"]) for row in rows]
    assert keys == sorted(keys)
    assert len(keys) == 24


def test_few_files_wait_until_their_day_is_over(lake: Lake, now: list[int]) -> None:
    claim = lake.claim(STREAM, [0])
    for sequence in range(1, 4):
        append(lake, claim, 0, sequence, numbered("s", sequence, sequence))
    assert lake.compact().before == 0
    now[0] = NOON + DAY // 2 + 3_599_999
    assert lake.compact().before == 0
    now[0] += 1
    assert (lake.compact().before, kinds(lake)) == (6, ["events", "runs"])
    assert lake.compact().before == 0


def test_only_the_newest_report_of_a_session_stays(lake: Lake, now: list[int]) -> None:
    claim = lake.claim(STREAM, [0])
    for sequence, text in enumerate([report(2, 9), report(7, 5), report(1, 9)], 1):
        append(lake, claim, 0, sequence, read_message(text))
    now[0] += DAY
    lake.compact()
    assert [row["seq"] for row in stored(lake.url, "reports")] == [2]


def test_append_during_a_compaction_succeeds(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    claim = lake.claim(STREAM, [0])
    for sequence in range(1, 10):
        append(lake, claim, 0, sequence, numbered("s", sequence, sequence))
    commit = Table.commit
    seen = []

    def append_first(self: Table, *arguments: object, **options: object) -> None:
        if options:  # a compaction's
            seen.append(len(seen))
            with monkeypatch.context() as original:
                original.setattr(Table, "commit", commit)
                append(lake, claim, 0, 10 + len(seen), numbered("s", 1, 10 + len(seen)))
        commit(self, *arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(Table, "commit", append_first)
    assert lake.compact().after == 2
    assert stored_numbers(lake.url) == {"s": [*range(1, 13)]}


def test_two_compactions_at_once_store_nothing_twice(
    lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    claim = lake.claim(STREAM, [0])
    for sequence in range(1, 10):
        append(lake, claim, 0, sequence, numbered("s", sequence, sequence))
    commit = Table.commit

    def compact_first(self: Table, *arguments: object, **options: object) -> None:
        with monkeypatch.context() as original:
            original.setattr(Table, "commit", commit)
            assert lake.compact().after == 2
        commit(self, *arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(Table, "commit", compact_first)
    assert lake.compact().after == 0
    assert stored_numbers(lake.url) == {"s": [*range(1, 10)]}
    assert kinds(lake) == ["events", "runs"]


def file(name: int, rows: int, day: str = "2026-11-29", kind: str = "events") -> DataFile:
    return DataFile(str(name), kind, day, rows * 15, rows, name)


def test_each_row_is_merged_a_few_times_only() -> None:
    files: list[DataFile] = []
    written = 0
    for number in range(4000):
        files.append(file(number, 1000))
        for group in plan(sorted(files, key=lambda each: each.kind), "2026-11-29"):
            rows = sum(each.rows for each in group)
            files = [each for each in files if each not in group]
            files.append(file(group[-1].highest_arrival, rows))
            written += rows
    assert sum(each.rows for each in files) == 4_000_000
    assert len(files) < 40
    assert written < 6 * 4_000_000


def test_no_group_is_larger_than_a_file_should_be() -> None:
    files = [file(number, 150_000) for number in range(20)]
    groups = list(plan(files, "2026-11-30"))
    assert [len(group) for group in groups] == [3] * 6 + [2]
    assert list(plan([file(number, 250_000) for number in range(20)], "2026-11-30")) == []
