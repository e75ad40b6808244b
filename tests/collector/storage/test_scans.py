"""What is found in all events is the same with any part of them in blocks."""

from __future__ import annotations

import random
import sqlite3
from collections import Counter
from typing import Any

import pytest

from redvsblue_telemetry.cli.report.stats import FRAME_TIME_FIELDS, FRAME_TIME_PARTS, frame_times
from redvsblue_telemetry.collector.models import EventFilter, TimeRange
from redvsblue_telemetry.collector.storage import building, scans
from redvsblue_telemetry.collector.storage.writer import Writer
from tests.collector.storage.test_columns import (
    BLOCK,
    Clock,
    build,
    clock,
    connection,
    covered,
    database,
    delete,
    needs_pyarrow,
    small,
    store,
    writer,
)

__all__ = ["clock", "connection", "database", "small", "writer"]  # fixtures

pytestmark = [needs_pyarrow, pytest.mark.usefixtures("small")]
DATA: list[dict[str, Any]] = [
    {},
    {"fps": 50},
    {"fps": "50"},
    {"fps": 10**400},
    {"frame_ms": 12.5, "frameMs": 1},
    {"frameMs": None, "of": {"fps": 60}},
    {"text": "frame fps"},
    {"frames": 3},
]


def found(
    connection: sqlite3.Connection, wanted: EventFilter, span: TimeRange
) -> list[tuple[int, list[str]]]:
    return [*scans.data_with(connection, wanted, FRAME_TIME_FIELDS, FRAME_TIME_PARTS, span)]


def times(pages: list[tuple[int, list[str]]]) -> Counter[float]:
    return Counter(value for _, data in pages for value in frame_times(data))


def expected(
    connection: sqlite3.Connection, wanted: EventFilter, span: TimeRange
) -> Counter[float]:
    """The frame times, from each row."""
    rows = connection.execute(
        "SELECT data FROM events JOIN sessions ON sessions.key = events.session "
        "WHERE session_id = ifnull(?, session_id) AND received >= ? AND received < ?",
        (wanted.session, span.start or 0, span.end or 10**15),
    )
    return Counter(value for (data,) in rows for value in frame_times([data]))


@pytest.mark.parametrize("wanted", [EventFilter(), EventFilter(session="s1")])
def test_frame_times_are_the_same_with_any_part_in_blocks(
    wanted: EventFilter, writer: Writer, clock: Clock, connection: sqlite3.Connection
) -> None:
    chance = random.Random(7)
    seqs = Counter[str]()

    def fill(messages: int) -> None:
        for _ in range(messages):
            session, type_ = chance.choice(["s1", "s2"]), chance.choice(["a", "b", "c"])
            # Those of type b have none, so each of its blocks is left out.
            kinds = DATA if type_ != "b" else [DATA[0], DATA[2], *DATA[6:]]
            some = chance.choices(kinds, k=chance.randrange(1, 6))
            store(writer, seqs[session] + 1, *some, type=type_, session=session)
            seqs[session] += len(some)
            clock.now += 10

    def compare() -> None:
        for span in (TimeRange(), TimeRange(1100, 1300), TimeRange(1205, None)):
            assert times(found(connection, wanted, span)) == expected(connection, wanted, span)

    fill(40)
    compare()
    build(writer)
    assert covered(connection, "a")
    assert covered(connection, "b")
    compare()
    fill(5)
    compare()
    delete(writer, "arrival % 11 = 0")
    compare()
    build(writer)
    compare()


def test_blocks_without_a_field_are_not_read(
    writer: Writer, connection: sqlite3.Connection
) -> None:
    store(writer, 1, *[{"text": "frame"}] * BLOCK, *[{"frame_ms": 5}, *[{}] * (BLOCK - 1)])
    store(writer, 100, {"text": "frame"}, type="rare")
    (page,) = found(connection, EventFilter(), TimeRange())
    assert len(page[1]) == BLOCK + 2
    build(writer)
    pages = found(connection, EventFilter(), TimeRange())
    assert [data for _, data in pages] == [['{"text": "frame"}'], ['{"frame_ms": 5}']]


def test_block_with_too_many_fields_is_read(
    writer: Writer, connection: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(building, "_MAX_FIELDS", 1)
    store(writer, 1, {"fps": 50}, *[{"often": 1}] * (BLOCK - 1))
    build(writer)
    assert covered(connection) == [(1, BLOCK, BLOCK)]
    assert times(found(connection, EventFilter(), TimeRange())) == {20.0: 1}
