"""The catalog of a view: what its figures are read from, in memory, so that they need no file.

It has a row for each session, the events of each minute by type and version, and the faults of each
session. All of these can be added up, so a new version of the lake costs a look at its new files
alone. When rows were deleted, the catalog is made anew; readers see the old one until then.

Where it outgrows its memory, DuckDB moves parts of it to temporary files.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from ..._report import decode_report
from ..lake.errors import LakeError
from ..lake.reading import Reading, Snapshot
from ..lake.rows import EVENTS, KINDS, REPORTS, RUNS
from ..lake.standing import (
    OF_EVENTS,
    OF_REPORTS,
    OF_RUNS,
    SESSIONS,
    TAKEN,
    TIMES_OF_REPORTS,
    VERSIONS_OF_REPORTS,
    add_sessions,
)
from ..lake.table import DataFile

__all__ = ["Catalog"]

_MOST_WASTE = 200_000  # rows that were replaced or can be added up, before a table is written anew
_ROWS = 1000  # reports that are read at a time
_ALL = {"chosen": "true"}

# Each table, with the columns that it has before anything is in it.
_TABLES = {
    "events_of": "session VARCHAR, here BIGINT, first_arrival BIGINT, first_received BIGINT, "
    "last_received BIGINT, first_timestamp BIGINT, last_timestamp BIGINT, highest BIGINT, "
    "crashes BIGINT, faults BIGINT, version VARCHAR, version_arrival BIGINT",
    "reports_of": "session VARCHAR, arrival BIGINT, received BIGINT, number BIGINT, "
    "state VARCHAR, at_end BIGINT, data VARCHAR, started_at BIGINT, last_seq BIGINT, "
    "reason VARCHAR, version VARCHAR, known_version VARCHAR, version_arrival BIGINT, "
    "first_arrival BIGINT, first_received BIGINT, last_received BIGINT",
    "numbers_of": "session VARCHAR, repeats BIGINT, ranges BIGINT[][], stored BIGINT, "
    "highest BIGINT, has_zero BIGINT",
    "sampled_of": "session VARCHAR, type VARCHAR, events BIGINT",
    "sessions": "session VARCHAR, version VARCHAR, state VARCHAR, reason VARCHAR, events BIGINT, "
    "here BIGINT, highest BIGINT, repeats BIGINT, missing HUGEINT, crashes BIGINT, faults BIGINT, "
    "started_at BIGINT, at_end BIGINT, reported BIGINT, first_arrival BIGINT, "
    "first_received BIGINT, last_received BIGINT, first_timestamp BIGINT, last_timestamp BIGINT, "
    "last_seq BIGINT, deleted BIGINT, lost VARCHAR, waiting HUGEINT",
    "counts": "minute BIGINT, type VARCHAR, version VARCHAR, events BIGINT",
    "faults_of": "session VARCHAR, type VARCHAR, fault VARCHAR, events BIGINT, first BIGINT, "
    "last BIGINT, newest BIGINT",
}
_ADDED_UP = {
    "counts": "SELECT minute, type, version, CAST(sum(events) AS BIGINT) AS events FROM counts "
    "GROUP BY ALL",
    "faults_of": "SELECT session, type, fault, CAST(sum(events) AS BIGINT) AS events, "
    "min(first) AS first, max(last) AS last, max(newest) AS newest FROM faults_of GROUP BY ALL",
}
_SESSION = ", ".join(each.split()[0] for each in _TABLES["sessions"].split(", "))
_TOUCHED = "session IN (SELECT session FROM touched)"

_MERGED_EVENTS = f"""
SELECT session, CAST(sum(here) AS BIGINT) AS here, min(first_arrival) AS first_arrival,
    min(first_received) AS first_received, max(last_received) AS last_received,
    min(first_timestamp) AS first_timestamp, max(last_timestamp) AS last_timestamp,
    max(highest) AS highest, CAST(sum(crashes) AS BIGINT) AS crashes,
    CAST(sum(faults) AS BIGINT) AS faults, arg_max(version, version_arrival) AS version,
    max(version_arrival) AS version_arrival
FROM (SELECT * FROM events_of WHERE {_TOUCHED} UNION ALL SELECT * FROM new_events)
GROUP BY session"""

# The report that counts stands for all that came before it.
_MERGED_REPORTS = f"""
WITH all_reports AS (
    SELECT * FROM new_reports UNION ALL
    SELECT session, arrival, received, number, state, at_end, data, started_at, last_seq, reason,
        version FROM reports_of WHERE {_TOUCHED}
), taken AS ({TAKEN.format()}), versions AS ({VERSIONS_OF_REPORTS}), times AS ({TIMES_OF_REPORTS})
SELECT taken.session, taken.arrival, taken.received, taken.number, taken.state, taken.at_end,
    taken.data, taken.started_at, taken.last_seq, taken.reason, taken.version,
    coalesce(versions.version, before.known_version) AS known_version,
    coalesce(versions.version_arrival, before.version_arrival) AS version_arrival,
    least(times.first_arrival, before.first_arrival) AS first_arrival,
    least(times.first_received, before.first_received) AS first_received,
    greatest(times.last_received, before.last_received) AS last_received
FROM taken JOIN versions ON versions.session = taken.session
JOIN times ON times.session = taken.session
LEFT JOIN reports_of AS before ON before.session = taken.session
WHERE place = 1"""

# Ranges that touch become one.
_MERGED_NUMBERS = f"""
WITH parts AS (
    SELECT session, repeats, ranges FROM numbers_of WHERE {_TOUCHED} UNION ALL
    SELECT * FROM new_runs
), single AS (
    SELECT session, range[1] AS first, range[2] AS last
    FROM (SELECT session, unnest(ranges) AS range FROM parts)
), marked AS (
    SELECT *, coalesce(first - 1 <> lag(last) OVER in_order, true) AS begins FROM single
    WINDOW in_order AS (PARTITION BY session ORDER BY first)
), grouped AS (
    SELECT *, count_if(begins) OVER (PARTITION BY session ORDER BY first) AS place FROM marked
), joined AS (
    SELECT session, min(first) AS first, max(last) AS last FROM grouped GROUP BY session, place
), numbers AS (
    SELECT session, list([first, last] ORDER BY first) AS ranges,
        CAST(sum(last - first + 1) AS BIGINT) AS stored, max(last) AS highest,
        CAST(min(first) = 0 AS BIGINT) AS has_zero
    FROM joined GROUP BY session
)
SELECT parts.session, CAST(sum(repeats) AS BIGINT) AS repeats, any_value(numbers.ranges) AS ranges,
    any_value(numbers.stored) AS stored, any_value(numbers.highest) AS highest,
    any_value(numbers.has_zero) AS has_zero
FROM parts LEFT JOIN numbers ON numbers.session = parts.session GROUP BY parts.session"""

_MERGED_SESSIONS = f"""
WITH of_events AS (SELECT * FROM events_of WHERE {_TOUCHED}),
last_reports AS (SELECT * FROM reports_of WHERE {_TOUCHED}),
of_reports AS (SELECT session, known_version AS version, version_arrival FROM last_reports),
report_times AS (SELECT session, first_arrival, first_received, last_received FROM last_reports),
numbers AS (SELECT * FROM numbers_of WHERE {_TOUCHED})
{SESSIONS.format(quiet=0)}"""


class Catalog:
    """The tables, in a database of DuckDB. Changed by one thread; any may read them.

    Args:
        connection: to the database; nobody else uses it.
    """

    def __init__(self, connection: Any) -> None:
        self._database = connection  # is never busy, so that it can always make a cursor
        self._connection = connection.cursor()
        self._waste = dict.fromkeys(_TABLES, 0)
        for name, columns in _TABLES.items():
            self._connection.execute(f"CREATE TABLE {name} ({columns})")

    def cursor(self) -> Any:
        """Return another connection to the database, for one thread."""
        return self._database.cursor()

    def fill(self, snapshot: Snapshot) -> None:
        """Make it the catalog of a snapshot.

        Raises:
            LakeError: the lake can't be read; then it is as before.
        """
        self._change(snapshot, {kind: snapshot.files(kind) for kind in KINDS}, is_new=True)

    def add(self, snapshot: Snapshot, files: Sequence[DataFile]) -> None:
        """Add the rows of files.

        Raises:
            LakeError: they can't be read; then it is as before.
        """
        by_kind = {kind: [file for file in files if file.kind == kind] for kind in KINDS}
        self._change(snapshot, by_kind, is_new=False)

    def _change(
        self, snapshot: Snapshot, files: dict[str, list[DataFile]], *, is_new: bool
    ) -> None:
        reading = Reading(snapshot, self._connection, kinds=())
        for kind in (EVENTS, REPORTS, RUNS):
            reading.define(f"stored_{kind}", files[kind])
        reading.run("BEGIN")
        try:
            if is_new:
                for name in _TABLES:
                    reading.run(f"DELETE FROM {name}")
            self._merge(reading)
            self._add_counts(reading, files[EVENTS])
            if not is_new:
                self._tidy(reading)
            reading.run("COMMIT")
        except BaseException:
            with contextlib.suppress(LakeError):  # a COMMIT that failed has ended it
                reading.run("ROLLBACK")
            raise
        if is_new:
            self._waste = dict.fromkeys(_TABLES, 0)

    def _merge(self, reading: Reading) -> None:
        run = reading.run
        run(f"CREATE OR REPLACE TEMP TABLE new_events AS {OF_EVENTS.format(**_ALL)}")
        run(f"CREATE OR REPLACE TEMP TABLE new_reports AS {OF_REPORTS.format(**_ALL)}")
        run(f"CREATE OR REPLACE TEMP TABLE new_runs AS {OF_RUNS.format(**_ALL)}")
        run(
            "CREATE OR REPLACE TEMP TABLE touched AS SELECT session FROM new_events UNION "
            "SELECT session FROM new_reports UNION SELECT session FROM new_runs"
        )
        self._replace(reading, "events_of", _MERGED_EVENTS)
        self._replace(reading, "reports_of", _MERGED_REPORTS)
        self._replace(reading, "numbers_of", _MERGED_NUMBERS)
        add_sessions(reading, "merged_sessions", _MERGED_SESSIONS)
        self._replace(reading, "sessions", f"SELECT {_SESSION} FROM merged_sessions")
        self._add_sampled(reading)
        self._append(
            reading,
            "faults_of",
            "SELECT session, type, fault, count(*) AS events, min(received) AS first, "
            "max(received) AS last, max(arrival) AS newest FROM stored_events "
            "WHERE fault IS NOT NULL GROUP BY session, type, fault",
        )
        for name in ("new_events", "new_reports", "new_runs", "touched", "merged_sessions"):
            run(f"DROP TABLE {name}")

    def _replace(self, reading: Reading, table: str, query: str) -> None:
        """Put rows in the place of those of the sessions that have changed."""
        reading.run(f"CREATE OR REPLACE TEMP TABLE merged AS {query}")
        ((count,),) = reading.run(f"DELETE FROM {table} WHERE {_TOUCHED}")
        reading.run(f"INSERT INTO {table} SELECT * FROM merged")
        reading.run("DROP TABLE merged")
        self._waste[table] += count

    def _append(self, reading: Reading, table: str, query: str) -> None:
        ((count,),) = reading.run(f"INSERT INTO {table} {query}")
        self._waste[table] += count

    def _add_counts(self, reading: Reading, files: Sequence[DataFile]) -> None:
        reading.define_counts("new_counts", files)
        self._append(reading, "counts", "SELECT * FROM new_counts")
        reading.run("DROP VIEW new_counts")
        reading.run("DROP TABLE new_counts_noted")

    def _add_sampled(self, reading: Reading) -> None:
        """Note what the reports that count now say about events that were sampled."""
        ((count,),) = reading.run(f"DELETE FROM sampled_of WHERE {_TOUCHED}")
        self._waste["sampled_of"] += count
        sessions: list[str] = []
        types: list[str] = []
        events: list[int] = []
        query = (
            f"SELECT session, data FROM reports_of WHERE {_TOUCHED} "
            "AND coalesce(data ->> '$.report.sampled', '{}') <> '{}'"
        )
        for batch in reading.stream(query, rows=_ROWS):
            for session, text in zip(*(c.to_pylist() for c in batch.columns), strict=True):
                for type_, number in decode_report(text).sampled.items():
                    sessions.append(session)
                    types.append(type_)
                    events.append(number)
        columns = {
            "session": pa.array(sessions, pa.string()),
            "type": pa.array(types, pa.string()),
            "events": pa.array(events, pa.int64()),
        }
        reading.add("new_sampled", columns)
        reading.run("INSERT INTO sampled_of SELECT * FROM new_sampled")
        reading.run("DROP TABLE new_sampled")

    def _tidy(self, reading: Reading) -> None:
        """Write the tables anew that have grown by more than they have: DuckDB would not."""
        for table, waste in self._waste.items():
            if waste <= _MOST_WASTE:
                continue
            ((rows,),) = reading.run(f"SELECT count(*) FROM {table}")
            # What is appended is in the count already, what was replaced is not.
            if waste > rows // 2:
                query = _ADDED_UP.get(table, f"SELECT * FROM {table}")
                reading.run(f"CREATE OR REPLACE TABLE {table} AS {query}")
                self._waste[table] = 0
