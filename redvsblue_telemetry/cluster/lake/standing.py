"""How the sessions stand: from their events, their reports, and which of their numbers are stored.

A collector keeps this up to date with each event. In a lake, it follows from the rows, so it is
computed for those who ask: the same columns, with the same meaning. There are these differences:

- The causes of missing events are those of now; a collector counts them when a report arrives.
- A session whose events have all been deleted, and that has no report, is not there.
- The times of a session are those of its events that are left, and of its reports. An event that
  came once more changes none of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import msgspec
import pyarrow as pa

from ..._report import Report, State, decode_report
from ...collector.models import Outcome, SessionDetail
from ...collector.storage.figures import end_of
from ...collector.storage.losses import Losses, count_losses
from ...collector.storage.reports import decode_lost
from ...collector.storage.seqranges import gaps
from ...collector.storage.upkeep import epoch_milliseconds
from .numbers import StoredNumbers, decode_ranges
from .reading import Reading

__all__ = [
    "COLUMNS",
    "OF_EVENTS",
    "OF_REPORTS",
    "OF_RUNS",
    "QUIET",
    "SESSIONS",
    "STANDING",
    "TAKEN",
    "TIMES_OF_REPORTS",
    "VERSIONS_OF_REPORTS",
    "add_sessions",
    "add_standing",
    "evidence",
    "losses_of",
    "ranges",
    "sessions_query",
]

STANDING = "standing"
"""The name of the table with one row for each session."""
QUIET = 300_000
"""Milliseconds after which there is no word of a session."""
_ROWS = 1000  # sessions whose losses are counted at a time

COLUMNS = (
    "session", "version", "outcome", "reason", "events", "missing", "repeats", "deleted",
    "crashes", "faults", "started", "ended", "first_received", "last_received", "first_timestamp",
    "last_timestamp", "highest", "last_seq", "lost", "waiting",
)  # fmt: skip
"""The columns of the view ``sessions``; see docs/sql.md."""


def _number(name: str) -> str:
    return f"CAST(data ->> '$.report.{name}' AS BIGINT)"


OF_EVENTS = """
SELECT session, count(*) AS here, min(arrival) AS first_arrival,
    min(received) AS first_received,
    max(received) AS last_received, min(timestamp) AS first_timestamp,
    max(timestamp) AS last_timestamp, max(seq) AS highest,
    count(*) FILTER (type = 'crash') AS crashes, count(fault) AS faults,
    arg_max(version, arrival) AS version,
    max(arrival) FILTER (version IS NOT NULL) AS version_arrival
FROM stored_events WHERE {chosen} GROUP BY session"""
"""What the events of a session say about it."""

OF_REPORTS = f"""
SELECT session, arrival, received, seq AS number, type AS state, timestamp AS at_end, data,
    {_number("startedAt")} AS started_at, {_number("lastSeq")} AS last_seq,
    data ->> '$.report.reason' AS reason, data ->> '$.report.version' AS version
FROM stored_reports WHERE {{chosen}}"""
"""The reports of a session."""

# A report counts if it is not older than all that came before it: see SessionState.take.
TAKEN = """
SELECT *, row_number() OVER newest_first AS place FROM (
    SELECT *, max({{'s': started_at, 'n': number}}) OVER (
        PARTITION BY session ORDER BY arrival
    ) AS newest FROM all_reports
) AS reports
WHERE started_at = newest.s AND number = newest.n
WINDOW newest_first AS (PARTITION BY session ORDER BY arrival DESC)"""
"""Those of ``all_reports`` that count; the one at place 1 counts now."""

VERSIONS_OF_REPORTS = """
SELECT session, arg_max(version, arrival) AS version,
    max(arrival) FILTER (version IS NOT NULL) AS version_arrival
FROM taken GROUP BY session"""

TIMES_OF_REPORTS = """
SELECT session, min(arrival) AS first_arrival, min(received) AS first_received,
    max(received) AS last_received
FROM all_reports GROUP BY session"""

OF_RUNS = """
SELECT session, coalesce(timestamp, 0) AS repeats,
    CAST(CAST(data AS JSON) AS BIGINT[][]) AS ranges
FROM stored_runs WHERE {chosen}"""
"""The numbers of a session that are stored, in parts."""

_NUMBERS = """
SELECT session, CAST(sum(repeats) AS BIGINT) AS repeats,
    list_sort(flatten(list(ranges))) AS ranges,
    CAST(sum(list_sum([each[2] - each[1] + 1 FOR each IN ranges])) AS BIGINT) AS stored,
    max(ranges[-1][2]) AS highest, CAST(min(ranges[1][1]) = 0 AS BIGINT) AS has_zero
FROM all_ranges GROUP BY session"""

SESSIONS = f"""
, joined AS (
    SELECT
        coalesce(e.session, r.session) AS session,
        CASE WHEN coalesce(o.version_arrival > e.version_arrival, e.version IS NULL)
            THEN o.version ELSE e.version END AS version,
        r.state AS state, r.reason AS reason,
        coalesce(n.stored, e.here, 0) AS events,
        coalesce(e.here, 0) AS here,
        greatest(coalesce(n.highest, e.highest, 0), 0) AS highest,
        coalesce(n.has_zero, 0) AS has_zero,
        coalesce(n.repeats, 0) AS repeats, n.ranges AS ranges,
        coalesce(e.crashes, 0) AS crashes, coalesce(e.faults, 0) AS faults,
        nullif(r.started_at, 0) AS started_at, nullif(r.at_end, 0) AS at_end,
        r.received AS reported,
        least(e.first_arrival, t.first_arrival) AS first_arrival,
        least(e.first_received, t.first_received) AS first_received,
        greatest(e.last_received, t.last_received) AS last_received,
        coalesce(e.first_timestamp, least(nullif(r.started_at, 0), nullif(r.at_end, 0)), 0)
            AS first_timestamp,
        coalesce(e.last_timestamp, greatest(nullif(r.started_at, 0), nullif(r.at_end, 0)), 0)
            AS last_timestamp,
        r.last_seq AS last_seq, r.data AS report
    FROM of_events AS e
    FULL JOIN last_reports AS r ON r.session = e.session
    LEFT JOIN of_reports AS o ON o.session = r.session
    LEFT JOIN report_times AS t ON t.session = r.session
    LEFT JOIN numbers AS n ON n.session = coalesce(e.session, r.session)
)
SELECT *,
    greatest(highest, CASE WHEN state = '{State.ENDED}' THEN last_seq ELSE 0 END)
        - events + has_zero AS missing,
    coalesce({end_of()}, CASE WHEN last_received > {{quiet}} THEN '{Outcome.RUNNING}'
        ELSE '{Outcome.NO_WORD}' END) AS outcome,
    events - here AS deleted,
    coalesce(started_at, first_timestamp) AS started,
    CASE WHEN state = '{State.ENDED}' THEN coalesce(at_end, reported) END AS ended
FROM joined"""
"""The sessions, given ``of_events``, ``last_reports``, ``of_reports``, ``report_times``, and
``numbers``. Follows other parts of a WITH."""

_FROM_ROWS = f"""
WITH of_events AS ({OF_EVENTS}), all_reports AS ({OF_REPORTS}), taken AS ({TAKEN}),
last_reports AS (SELECT * FROM taken WHERE place = 1), of_reports AS ({VERSIONS_OF_REPORTS}),
report_times AS ({TIMES_OF_REPORTS}), all_ranges AS ({OF_RUNS}), numbers AS ({_NUMBERS})
{SESSIONS}"""


def sessions_query(chosen: str = "true", now: int | None = None) -> str:
    """Return a query of the sessions, with all of :data:`COLUMNS` but the causes of losses.

    Args:
        chosen: a condition that rows of events, reports and runs meet, about their ``session``.
        now: in milliseconds since the epoch; by default the time.
    """
    now = epoch_milliseconds() if now is None else now
    return _FROM_ROWS.format(chosen=chosen, quiet=now - QUIET)


def add_standing(reading: Reading, session: str | None = None, *, now: int | None = None) -> None:
    """Make the table :data:`STANDING`, with :data:`COLUMNS` and what they follow from.

    Args:
        reading: the lake.
        session: the only session; None for all.
        now: in milliseconds since the epoch; by default the time.

    Raises:
        LakeError: the lake can't be read.
    """
    chosen = "true" if session is None else "session = getvariable('chosen_session')"
    if session is not None:
        reading.run("SET VARIABLE chosen_session = CAST(? AS VARCHAR)", session)
    add_sessions(reading, STANDING, sessions_query(chosen, now))


def add_sessions(reading: Reading, table: str, query: str) -> None:
    """Make a temporary table of sessions with the causes of their missing events.

    Args:
        reading: the lake.
        table: its name.
        query: see :data:`SESSIONS`.

    Raises:
        LakeError: the lake can't be read.
    """
    reading.run(f"CREATE OR REPLACE TEMP TABLE found_sessions AS {query}")
    reading.add("losses", _columns_of_losses(reading))
    reading.run(
        f"CREATE OR REPLACE TEMP TABLE {table} AS SELECT found.*, "
        "coalesce(losses.lost, '{}') AS lost, coalesce(losses.waiting, 0) AS waiting "
        "FROM found_sessions AS found LEFT JOIN losses ON losses.session = found.session"
    )
    reading.run("DROP TABLE found_sessions")


def _columns_of_losses(reading: Reading) -> dict[str, Any]:
    sessions: list[str] = []
    lost: list[str] = []
    waiting: list[int] = []
    incomplete = (
        "SELECT session, to_json(ranges) AS ranges, report "
        "FROM found_sessions WHERE missing > 0 AND report IS NOT NULL"
    )
    for batch in reading.stream(incomplete, rows=_ROWS):
        for session, text, report in zip(*(c.to_pylist() for c in batch.columns), strict=True):
            found = losses_of(ranges(text), decode_report(report))
            sessions.append(session)
            lost.append(msgspec.json.encode(found.lost).decode())
            waiting.append(found.waiting)
    return {
        "session": pa.array(sessions, pa.string()),
        "lost": pa.array(lost, pa.string()),
        "waiting": pa.array(waiting, pa.int64()),
    }


def ranges(text: str | None) -> list[tuple[int, int]]:
    """Return the stored numbers of a session in ascending order, by its row."""
    return StoredNumbers(() if text is None else decode_ranges(text)).ranges


def losses_of(stored: Sequence[tuple[int, int]], report: Report) -> Losses:
    """Return the missing events of a session, counted by cause."""
    end = report.last_seq if report.state == State.ENDED else 0
    return count_losses(gaps(stored, end), report)


def evidence(
    reading: Reading,
) -> Iterator[tuple[SessionDetail, list[tuple[int, int]], int]]:
    """Yield each session of :data:`STANDING`, oldest first, for a proof.

    With it, the ranges of its numbers that are stored, and how many of its events are.
    """
    columns = f"{', '.join(COLUMNS)}, here, report, to_json(ranges) AS ranges"
    query = f"SELECT {columns} FROM {STANDING} ORDER BY first_arrival"
    for batch in reading.stream(query, rows=_ROWS):
        for row in batch.to_pylist():
            report = None if row["report"] is None else decode_report(row["report"])
            session = SessionDetail(
                row["session"],
                row["version"],
                row["events"],
                row["repeats"],
                row["missing"],
                row["highest"],
                row["first_timestamp"],
                row["last_timestamp"],
                row["first_received"],
                row["last_received"],
                outcome=row["outcome"],
                reason=row["reason"],
                last_seq=row["last_seq"],
                lost=decode_lost(row["lost"]),
                waiting=row["waiting"],
                crashes=row["crashes"],
                faults=row["faults"],
                deleted=row["deleted"],
                report=report,
            )
            yield session, ranges(row["ranges"]), row["here"]
