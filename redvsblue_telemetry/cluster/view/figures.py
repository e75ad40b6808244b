"""Answers from the catalog of a view: sessions, versions, totals and the history."""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from itertools import islice
from typing import Any, TypeVar

from ..._report import State, decode_report
from ...collector.models import (
    ALL_TIME,
    MAX_PLAUSIBLE_MISSING,
    Cause,
    History,
    Outcome,
    Session,
    SessionDetail,
    Storage,
    TimeRange,
    Totals,
    VersionHealth,
)
from ...collector.steps import steps
from ...collector.storage.counting import MINUTE
from ...collector.storage.figures import ENDS, end_of
from ...collector.storage.history import most_frequent
from ...collector.storage.losses import Losses, describe_losses
from ...collector.storage.queries import with_share
from ...collector.storage.reports import decode_lost
from ...collector.storage.seqranges import gaps
from ..lake.reading import Reading, Snapshot
from ..lake.rows import REJECTED
from ..lake.standing import QUIET, ranges
from ..lake.table import DataFile
from .events import files_of, in_span

__all__ = [
    "files_with",
    "history",
    "outcome_of",
    "room",
    "session",
    "session_without_types",
    "sessions",
    "totals",
    "types_in",
    "versions",
]

_MAX_TYPES = 1000  # the most frequent ones
_MAX_TYPES_IN_LIST = 20  # of each session
_MAX_CAUSES = 100  # the most frequent ones
_MAX_GAPS = 1000  # of one session
_MAX_ROWS_AT_END = 3_000_000  # that are looked at for the two minutes at the ends of a range
_LOW_PART = 20  # of a disk, which is low below it
_Kind = TypeVar("_Kind", bound=Session)

_COLUMNS = (
    "session", "version", "events", "repeats", "missing", "highest", "first_timestamp",
    "last_timestamp", "first_received", "last_received", "reason", "started_at", "at_end",
    "last_seq", "reported", "crashes", "faults", "deleted", "lost", "waiting",
)  # fmt: skip


def outcome_of(now: int) -> str:
    """Return SQL for the outcome of a session."""
    return (
        f"coalesce({end_of('sessions.')}, CASE WHEN sessions.last_received > {now - QUIET:d} "
        f"THEN '{Outcome.RUNNING}' ELSE '{Outcome.NO_WORD}' END)"
    )


def _heard_in(span: TimeRange) -> str:
    """Return SQL for a session that was last heard of in a range."""
    return in_span(span).replace("received", "sessions.last_received")


def _now() -> int:
    return time.time_ns() // 1_000_000


def sessions(
    reading: Reading, *, limit: int, offset: int, span: TimeRange, now: int | None = None
) -> list[Session]:
    """Return one page of sessions, the most recently active first."""
    now = _now() if now is None else now
    rows = reading.run(
        f"SELECT {', '.join(_COLUMNS)}, {outcome_of(now)} FROM sessions WHERE {_heard_in(span)} "
        f"ORDER BY last_received DESC, first_arrival DESC LIMIT {limit:d} OFFSET {offset:d}"
    )
    names = [row[0] for row in rows]
    return [
        _session(row, Session, sampled)
        for row, sampled in zip(rows, _sampled(reading, names, _MAX_TYPES_IN_LIST), strict=True)
    ]


def session(reading: Reading, session_id: str, *, now: int | None = None) -> SessionDetail | None:
    """Return one session with its gaps; None if there is none with this id."""
    found = session_without_types(reading, session_id, now=now)
    if found is not None:
        reading.define("stored_events", files_with(reading, found))
        found.types = dict(
            reading.run(
                "SELECT type, count(*) FROM stored_events WHERE session = ? GROUP BY type "
                f"ORDER BY 2 DESC, 1 LIMIT {_MAX_TYPES}",
                session_id,
            )
        )
    return found


def files_with(reading: Reading, session: Session) -> list[DataFile]:
    """Return the files that may have events of a session."""
    return files_of(reading, TimeRange(session.first_received, session.last_received + 1))


def session_without_types(
    reading: Reading, session_id: str, *, now: int | None = None
) -> SessionDetail | None:
    """Return one session, as :func:`session`, but without the number of its events by type."""
    now = _now() if now is None else now
    rows = reading.run(
        f"SELECT {', '.join(f'sessions.{name}' for name in _COLUMNS)}, {outcome_of(now)}, "
        "to_json(numbers_of.ranges), reports_of.data FROM sessions "
        "LEFT JOIN numbers_of ON numbers_of.session = sessions.session "
        "LEFT JOIN reports_of ON reports_of.session = sessions.session WHERE sessions.session = ?",
        session_id,
    )
    if not rows:
        return None
    *row, stored, report = rows[0]
    (sampled,) = _sampled(reading, [session_id], _MAX_TYPES)
    found = _session(row, SessionDetail, sampled)
    found.report = None if report is None else decode_report(report)
    numbers = ranges(stored)
    found.gaps = list(islice(gaps(numbers, 0), _MAX_GAPS))
    is_over = found.report is not None and found.report.state == State.ENDED
    missing = gaps(numbers, found.report.last_seq if found.report and is_over else 0)
    found.losses = list(islice(describe_losses(missing, found.report, found.lost), _MAX_GAPS))
    return found


def _session(row: Sequence[Any], kind: type[_Kind], sampled: dict[str, int]) -> _Kind:
    """Return a session, without any details; see :func:`....collector.storage.queries.sessions`."""
    *columns, reason, started_at, at, last_seq, reported = row[:15]
    crashes, faults, deleted, lost, waiting, outcome = row[15:]
    found = kind(*columns)
    found.outcome, found.reason = outcome, reason
    found.crashes, found.faults, found.deleted = crashes, faults, deleted
    found.started_at, found.last_seq, found.reported = started_at, last_seq, reported
    is_running = reported is not None and outcome in (Outcome.RUNNING, Outcome.NO_WORD)
    losses = Losses(decode_lost(lost), waiting).adjusted(found.missing, is_running=is_running)
    found.lost, found.waiting = losses.lost, losses.waiting
    if outcome == Outcome.RUNNING:
        found.since = started_at or found.first_timestamp
    else:
        found.since = found.last_received if outcome == Outcome.NO_WORD else at or reported
    found.sampled = sampled
    return found


def _sampled(reading: Reading, names: Sequence[str], limit: int) -> list[dict[str, int]]:
    """Return the events that sampling left out of each session, by type, the most first."""
    if not names:
        return []
    by_session: dict[str, dict[str, int]] = {name: {} for name in names}
    places = ", ".join("?" * len(names))
    for name, type_, events in reading.run(
        f"SELECT session, type, events FROM sampled_of WHERE events > 0 AND session IN ({places}) "
        "ORDER BY events DESC, type",
        *names,
    ):
        if len(by_session[name]) < limit:
            by_session[name][type_] = events
    return [by_session[name] for name in names]


def versions(
    reading: Reading, *, limit: int, span: TimeRange, now: int | None = None
) -> list[VersionHealth]:
    """Return the versions, the one with the newest session first."""
    now = _now() if now is None else now
    rows = reading.run(
        f"SELECT version, {outcome_of(now)}, count(*), max(first_received) FROM sessions "
        f"WHERE {_heard_in(span)} GROUP BY 1, 2"
    )
    found: dict[str | None, VersionHealth] = {}
    newest: dict[str | None, tuple[int, str]] = {}
    for version, outcome, count, begun in rows:
        health = found.setdefault(version, VersionHealth(version, 0))
        health.sessions += count
        setattr(health, outcome, count)
        newest[version] = max(newest.get(version, (0, "")), (begun, version or ""))
    newest_first = sorted(newest, key=newest.__getitem__, reverse=True)
    return [with_share(found[version]) for version in newest_first][:limit]


def totals(reading: Reading, span: TimeRange, *, now: int | None = None) -> Totals:
    """Return the counts over everything, or over a range."""
    now = _now() if now is None else now
    of_span = f"FROM sessions WHERE {_heard_in(span)}"
    many = f"missing > {MAX_PLAUSIBLE_MISSING}"
    ((count, here, repeats, faults, missing, waiting, implausible, implausible_missing),) = (
        reading.run(
            "SELECT count(*), coalesce(sum(here), 0), coalesce(sum(repeats), 0), "
            "coalesce(sum(faults), 0), coalesce(sum(missing), 0), "
            f"coalesce(sum(waiting) FILTER (NOT ({many})), 0), count(*) FILTER ({many}), "
            f"coalesce(sum(missing) FILTER ({many}), 0) {of_span}"
        )
    )
    outcomes = dict.fromkeys((Outcome.RUNNING, *ENDS, Outcome.NO_WORD), 0)
    outcomes |= dict(reading.run(f"SELECT {outcome_of(now)}, count(*) {of_span} GROUP BY 1"))
    sampled = reading.run(
        "SELECT type, CAST(sum(sampled_of.events) AS BIGINT) AS number FROM sampled_of "
        f"WHERE events BETWEEN 1 AND {MAX_PLAUSIBLE_MISSING} "
        f"AND session IN (SELECT session {of_span}) "
        f"GROUP BY type ORDER BY number DESC, type LIMIT {_MAX_TYPES}"
    )
    types = types_in(reading, span)
    return Totals(
        events=int(here) if span == ALL_TIME else sum(types.values()),
        sessions=count,
        repeats=int(repeats),
        missing=int(missing),
        rejected=_rejected(reading, span),
        types=dict(islice(types.items(), _MAX_TYPES)),
        outcomes=outcomes,
        sampled=dict(sampled),
        lost=_lost(reading, of_span),
        waiting=int(waiting),
        faults=int(faults),
        implausible_sessions=implausible,
        implausible_missing=int(implausible_missing),
    )


def _lost(reading: Reading, of_span: str) -> dict[str, int]:
    rows = reading.run(
        "WITH losing AS (SELECT map_entries(CAST(CAST(lost AS JSON) AS MAP(VARCHAR, BIGINT))) "
        f"AS causes {of_span} AND lost <> '{{}}' AND missing <= {MAX_PLAUSIBLE_MISSING}) "
        "SELECT cause.key, CAST(sum(cause.value) AS BIGINT) AS events "
        "FROM (SELECT unnest(causes) AS cause FROM losing) WHERE cause.key <> ? "
        f"GROUP BY 1 ORDER BY 2 DESC, 1 LIMIT {_MAX_CAUSES}",
        Cause.UNEXPLAINED,
    )
    return dict(rows)


def _rejected(reading: Reading, span: TimeRange) -> int:
    files = files_of(reading, span, REJECTED)
    if span == ALL_TIME:
        return sum(file.rows for file in files)
    reading.define("stored_rejected", files)
    ((count,),) = reading.run(f"SELECT count(*) FROM stored_rejected WHERE {in_span(span)}")
    return int(count)


def types_in(reading: Reading, span: TimeRange) -> dict[str, int]:
    """Return the number of events of each type that were received in a range, the most first.

    The minutes that the range begins and ends in are counted by their events. If the files with
    these have too many rows for that, a minute counts if it begins in the range.
    """
    first = None if span.start is None else -(-span.start // MINUTE)
    last = None if span.end is None else span.end // MINUTE
    parts: list[TimeRange] = []
    if first is not None and last is not None and first > last:
        parts = [span]
        last = first
    else:
        if first is not None and span.start != first * MINUTE:
            parts.append(TimeRange(span.start, first * MINUTE))
        if last is not None and span.end != last * MINUTE:
            parts.append(TimeRange(last * MINUTE, span.end))
    files = {file.path: file for part in parts for file in files_of(reading, part)}
    if sum(file.rows for file in files.values()) > _MAX_ROWS_AT_END:
        last = None if span.end is None else -(-span.end // MINUTE)
        parts = []
    low = "" if first is None else f" AND minute >= {first:d}"
    high = "" if last is None else f" AND minute < {last:d}"
    counted = f"SELECT type, events FROM counts WHERE true{low}{high}"
    if parts:
        reading.define("stored_events", list(files.values()))
        some = " OR ".join(in_span(part) for part in parts)
        counted += f" UNION ALL SELECT type, count(*) FROM stored_events WHERE {some} GROUP BY type"
    return dict(
        reading.run(
            f"SELECT type, CAST(sum(events) AS BIGINT) AS number FROM ({counted}) "
            "GROUP BY type ORDER BY number DESC, type"
        )
    )


def history(
    reading: Reading,
    span: TimeRange,
    *,
    offset: int,
    type: str | None,
    version: str | None,
    now: int | None = None,
) -> History:
    """Return how many events were received in equal steps of a range.

    See :func:`....collector.storage.history.history`.
    """
    now = _now() if now is None else now
    ((first, last),) = reading.run("SELECT min(minute), max(minute) + 1 FROM counts")
    start, end = span.start, span.end
    if start is None:
        start = now if first is None else first * MINUTE
        if end is not None:
            start = min(start, end)
        elif last is not None:
            end = last * MINUTE
    if end is None:
        end = max(now + 1, start)
    begin, finish, step = steps(start, max(end, start + 1), offset, MINUTE)
    rows = reading.run(
        f"SELECT type, (minute * {MINUTE} - {begin:d}) // {step:d} AS place, "
        "CAST(sum(events) AS BIGINT) FROM counts "
        f"WHERE minute * {MINUTE} >= {begin:d} AND minute * {MINUTE} < {finish:d} "
        "AND (CAST(? AS VARCHAR) IS NULL OR type = ?) "
        "AND (CAST(? AS VARCHAR) IS NULL OR version = ?) GROUP BY 1, 2 ORDER BY 1, 2",
        type,
        type,
        version,
        version,
    )
    size = (finish - begin) // step
    counts: dict[str, list[int]] = {}
    for name, place, events in rows:
        counts.setdefault(name, [0] * size)[place] += events
    return History(begin, finish, step, most_frequent(counts), sum(map(sum, counts.values())))


def room(snapshot: Snapshot) -> Storage | None:
    """Return the room that the lake takes; None if it is not on this machine."""
    if snapshot.folder is None:
        return None
    try:
        disk = shutil.disk_usage(snapshot.folder)
    except OSError:
        return None
    return Storage(
        used_bytes=snapshot.size,
        file_bytes=snapshot.size,
        disk_free_bytes=disk.free,
        is_low=disk.free < disk.total / _LOW_PART,
    )
