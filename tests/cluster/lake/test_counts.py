"""The counts in the notes of files say how many events there are."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest

from redvsblue_telemetry.cluster.lake import counts
from redvsblue_telemetry.cluster.lake.compaction import write_merged
from redvsblue_telemetry.cluster.lake.reading import Reading, Snapshot
from redvsblue_telemetry.cluster.lake.rows import EVENTS
from redvsblue_telemetry.cluster.lake.sql import LakeQuery
from redvsblue_telemetry.cluster.lake.table import FILE_SCHEMA, Owner, Table
from tests.support.lake import NOON

MINUTE = 60_000


def write(place: Path, *, is_last: bool) -> None:
    """Add a file with 40 events of three minutes, three types and three versions."""
    given = {
        "arrival": [*range(40)],
        "received": [NOON + each * 3500 for each in range(40)],
        "type": ["hit", "hit", "move", "é"] * 10,
        "version": ["1", "2", None, "1", "1"] * 8,
        "data": ["{}"] * 40,
    }
    nothing = [None] * 40
    arrays = [pa.array(given.get(each.name, nothing), each.type) for each in FILE_SCHEMA]
    table = Table.open(str(place), create=True)
    file = write_merged(
        table,
        EVENTS,
        "2026-11-29",
        pa.table(arrays, FILE_SCHEMA),
        Owner("made", 0),
        is_last=is_last,
    )
    assert file is not None
    table.commit({"made": (table.number("made") or 0) + 1}, [file])


def are_noted(reading: Reading) -> list[bool]:
    """Return of which files the counts are noted."""
    notes = reading.snapshot.notes(reading.snapshot.files(EVENTS))
    return sorted(each is not None and each.counts is not None for each in notes)


@pytest.mark.parametrize(
    ("most", "noted"), [(1000, [False, True, True]), (3, [False, False, False])]
)
def test_counts_are_those_of_the_events(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, most: int, noted: list[bool]
) -> None:
    monkeypatch.setattr(counts, "_MOST_ROWS", most)
    for is_last in (False, True, True):
        write(tmp_path, is_last=is_last)
    with Snapshot(str(tmp_path)).reading() as reading:
        assert are_noted(reading) == noted
        query = "SELECT period, level, type, version, events FROM counts ORDER BY ALL"
        with LakeQuery(reading).run(query) as (_, rows):
            found = [*rows]
        assert found == reading.run(
            f"SELECT received // {MINUTE} * {MINUTE}, 'minute', type, version, count(*) "
            "FROM stored_events GROUP BY ALL ORDER BY ALL"
        )
    assert sum(events for *_, events in found) == 120
