"""The timeline of a session of a lake is the one that a collector's database gives."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings

from redvsblue_telemetry.cluster.lake.lake import Lake
from redvsblue_telemetry.cluster.lake.reading import MEMORY, Reading, Snapshot, private_database
from redvsblue_telemetry.cluster.view import timeline as timelines
from redvsblue_telemetry.cluster.view.catalog import Catalog
from redvsblue_telemetry.cluster.view.timeline import timeline
from redvsblue_telemetry.collector.storage.cutoff import Cutoff
from tests.collector.answers import test_timeline
from tests.collector.answers.played import Played, database_of
from tests.support.lake import append, copy_database, numbered

NOW = test_timeline.NOW


@contextlib.contextmanager
def reading(lake: Path) -> Iterator[Reading]:
    snapshot = Snapshot(str(lake))
    with private_database(MEMORY) as connection:
        catalog = Catalog(connection)
        catalog.fill(snapshot)
        with contextlib.closing(catalog.cursor()) as cursor:
            yield Reading(snapshot, cursor, kinds=())


@settings(max_examples=25)
@given(test_timeline.plays())
def test_timeline_is_that_of_the_database(events: list[Played]) -> None:
    with tempfile.TemporaryDirectory() as folder, database_of(events) as database:
        copy_database(database, folder)
        expected = test_timeline.timeline_of(database, now=NOW + test_timeline.DAY)
        with reading(Path(folder)) as opened:
            found = timeline(opened, "s", now=NOW + test_timeline.DAY)
        assert as_json(found) == expected


def as_json(value: object) -> Any:
    return msgspec.json.decode(msgspec.json.encode(value))


def test_windows_add_up_and_a_timeline_whose_time_is_over_covers_the_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(timelines, "_MIN_ROWS", 1)
    lake = Lake.open(str(tmp_path))
    claim = lake.claim("stream", [0])
    for place in range(3):
        append(lake, claim, 0, place + 1, numbered("s", 4 * place + 1, 4 * place + 4))
    with reading(tmp_path) as opened:
        whole = timeline(opened, "s")
        partial = timeline(opened, "s", cutoff=Cutoff(deadline=0.0))
    assert whole is not None
    assert partial is not None
    assert (whole.partial, whole.lanes[0].count) == (False, 12)
    assert (partial.partial, partial.lanes[0].count) == (True, 4)
