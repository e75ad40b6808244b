"""The lake gives the same export and the same answers to SQL as a collector's database does."""

from __future__ import annotations

import contextlib
import io
import sqlite3
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from redvsblue_telemetry._report import decode_report
from redvsblue_telemetry.cli._database import open_database
from redvsblue_telemetry.cli._formats import FORMATS
from redvsblue_telemetry.cli.prove.evidence import Evidence, from_database, from_lake
from redvsblue_telemetry.cli.prove.proof import prove_session
from redvsblue_telemetry.cluster.lake.batches import stream_batches as stream_lake
from redvsblue_telemetry.cluster.lake.copying import copy_into
from redvsblue_telemetry.cluster.lake.reading import Snapshot
from redvsblue_telemetry.cluster.lake.sql import LakeQuery
from redvsblue_telemetry.collector.models import ANY_FAULT, NO_FAULT, EventFilter
from redvsblue_telemetry.collector.storage import queries
from redvsblue_telemetry.collector.storage.batches import EventBatch, stream_batches
from redvsblue_telemetry.collector.storage.database import Database
from redvsblue_telemetry.collector.storage.losses import count_losses
from redvsblue_telemetry.collector.storage.reports import missing_runs
from redvsblue_telemetry.collector.storage.sandbox import Query, new_schema
from redvsblue_telemetry.collector.storage.views import views

from .strategies import SESSIONS, TYPES, Both, Group, days, few, stored

SQL = """
SELECT received, session, seq, type, timestamp, id, version, data, context, fault
FROM events ORDER BY arrival

SELECT session, version, reason, events, missing, repeats, deleted, crashes, faults, started,
    ended, first_received, first_timestamp, last_timestamp, highest, last_seq
FROM sessions ORDER BY session

SELECT session, outcome, last_received FROM sessions WHERE repeats = 0 ORDER BY session

SELECT period, type, version, sum(events) AS events FROM counts GROUP BY 1, 2, 3 ORDER BY 1, 2, 3

SELECT received, reason, text FROM rejected ORDER BY arrival

SELECT type, count(*), count(DISTINCT session), min(timestamp), max(received / 3600000)
FROM events GROUP BY type ORDER BY type

SELECT version, count(*) AS n, sum(missing > 0) FROM sessions GROUP BY version ORDER BY version

SELECT e.version, count(*) FROM events AS e JOIN sessions AS s ON s.session = e.session
WHERE s.events > 1 GROUP BY e.version ORDER BY e.version
"""
QUERIES = SQL.split("\n\n")


def of_database(both: Both, sql: str) -> list[tuple[Any, ...]]:
    schema = new_schema()
    with open_database(both.path, schema) as connection:
        query = Query(connection, schema, views(now=both.now))
        with query.run(sql) as (_, rows):
            return [*rows]


def of_lake(query: LakeQuery, sql: str) -> list[tuple[Any, ...]]:
    with query.run(sql) as (_, rows):
        return [*rows]


@pytest.mark.timeout(300)
@few
@given(days)
def test_sql_and_proofs_find_the_same(groups: list[Group]) -> None:
    with (
        stored(groups) as both,
        both.database.reading() as connection,
        Snapshot(str(both.lake)).reading() as reading,
    ):
        query = LakeQuery(reading, now=both.now)
        for sql in QUERIES:
            assert of_lake(query, sql) == of_database(both, sql), sql
        found = of_lake(query, "SELECT session, lost, waiting FROM sessions")
        assert {
            session: (msgspec.json.decode(lost), waiting) for session, lost, waiting in found
        } == losses(connection)
        by_database = [*map(proof_of, from_database(connection, None))]
        by_lake = [*map(proof_of, from_lake(reading, None))]
        assert by_lake == by_database
        for session, proof in by_lake[:2]:
            assert [*map(proof_of, from_lake(reading, session))] == [(session, proof)]
        with contextlib.closing(Database(None)) as copied:
            copy_into(reading, copied, now=both.now)
            with copied.reading() as connection_to_copy:
                assert figures(connection_to_copy, both.now) == figures(connection, both.now)


def figures(connection: sqlite3.Connection, now: int) -> tuple[Any, ...]:
    """Return what a report says, but for the causes and the times that a lake has of now."""
    totals = queries.totals(connection, now=now)
    totals.lost, totals.waiting, totals.outcomes = {}, 0, {}
    events = rows_of([*stream_batches(connection, EventFilter())])
    crashes = [
        (each.exception, each.place, each.count, each.sessions, each.versions, each.first)
        for each in queries.crashes(connection)
    ]
    rejected = [(each.received, each.reason, each.text) for each in queries.rejected(connection)]
    return totals, events, crashes, rejected


def losses(connection: sqlite3.Connection) -> dict[str, tuple[dict[str, int], int]]:
    """Return the causes as a collector would count them now, not when the report came."""
    found: dict[str, tuple[dict[str, int], int]] = {}
    rows = connection.execute(
        "SELECT session_id, key, missing, text FROM sessions "
        "LEFT JOIN reports ON reports.session = sessions.key"
    ).fetchall()
    for session, key, missing, text in rows:
        found[session] = ({}, 0)
        if missing and text is not None:
            report = decode_report(text)
            counted = count_losses(missing_runs(connection, key, report), report)
            found[session] = (counted.lost, counted.waiting)
    return found


def proof_of(evidence: Evidence) -> tuple[str, str]:
    session, ranges, events = evidence
    assert ranges is not None
    proof = prove_session(session.report, ranges, events, session.deleted)
    return session.session_id, msgspec.json.encode(proof).decode()


def rows_of(batches: Sequence[EventBatch]) -> list[tuple[Any, ...]]:
    """Return all rows without their arrival numbers, which differ."""
    return [row[1:] for batch in batches for row in zip(*batch.columns(), strict=True)]


TEXTS = ["damage", "*am", "ärger", "", "\U0001f680", "1", '"a']
PLAYERS = ["p-1", "p-2", "", "x" * 1001]
FIELDS = [{}, {"level": "3"}, {"player": "p-1", "level": "3"}, *({"player": p} for p in PLAYERS)]
FAULTS = [ANY_FAULT, NO_FAULT, "hit", "ä", "HIT", ""]


def maybe(texts: list[str]) -> st.SearchStrategy[str | None]:
    return st.one_of(st.none(), st.none(), st.sampled_from(texts))


filters = st.builds(
    EventFilter,
    type=maybe(TYPES),
    session=maybe(SESSIONS),
    text=maybe(TEXTS),
    context=st.one_of(st.just({}), st.sampled_from(FIELDS)),
    fault=maybe(FAULTS),
)


@pytest.mark.timeout(300)
@few
@given(days, st.lists(filters, min_size=1, max_size=4))
def test_exports_are_the_same_with_any_filter(
    groups: list[Group], wanted: list[EventFilter]
) -> None:
    with (
        stored(groups) as both,
        both.database.reading() as connection,
        Snapshot(str(both.lake)).reading() as reading,
    ):
        for each in [EventFilter(), *wanted]:
            expected = rows_of([*stream_batches(connection, each)])
            batches = [*stream_lake(reading, each)]
            assert rows_of(batches) == expected, each
            arrivals = [arrival for batch in batches for arrival in batch.arrival]
            assert arrivals == sorted({*arrivals})
        for name, write in FORMATS.items():
            written, read = io.BytesIO(), io.BytesIO()
            write(numbered(stream_batches(connection, EventFilter())), written)
            write(numbered(stream_lake(reading, EventFilter())), read)
            assert read.getvalue() == written.getvalue(), name


def numbered(batches: Iterator[EventBatch]) -> Iterator[EventBatch]:
    """Yield batches whose events are numbered from 1."""
    number = 0
    for batch in batches:
        batch.arrival = [*range(number + 1, number + len(batch.arrival) + 1)]
        number += len(batch.arrival)
        yield batch
