"""The queries of the database. Each function takes a connection and only reads.

Every event has an arrival number, which only grows and is never reused, so ``after`` is a stable
cursor: a reader that continues after the last number it got receives each event exactly once, no
matter what arrives meanwhile.

No query runs for long: a search is split into windows, with one query each. While a query runs,
SQLite can't shorten its write-ahead log. Between two windows, a search looks whether it has to end.
"""

from __future__ import annotations

import contextlib
import sqlite3
import time
from collections import Counter
from collections.abc import Iterator, Sequence, Set
from itertools import islice
from typing import Any, TypeVar

import msgspec

from ..._report import Report, State, decode_report
from ..models import (
    ALL_TIME,
    ANY_FAULT,
    MAX_PLAUSIBLE_MISSING,
    Cause,
    CrashGroup,
    EventFilter,
    EventPage,
    FaultGroup,
    FrameSummary,
    Outcome,
    RejectedMessage,
    Session,
    SessionDetail,
    StoredEvent,
    TimeRange,
    Totals,
    VersionHealth,
)
from .bycolumn import DATA, by_column, cut
from .cutoff import NEVER, Cutoff
from .figures import ALL, ENDS, HALF, NO_VERSION, PERIOD, SUMS, end_of
from .history import arrivals, bounds, condition, events_by_type
from .ids import restored_id
from .losses import Losses, describe_losses
from .plan import Plan, plan
from .reports import End, decode_lost, ended_as, missing_runs
from .snapshot import snapshot
from .summaries import CrashGroups, FrameSummaries

__all__ = [
    "arrivals_of",
    "context_names",
    "context_values",
    "crashes",
    "deleted",
    "events",
    "faults",
    "frames",
    "last_types",
    "newest_arrival",
    "newest_ends",
    "plan_of_session",
    "received",
    "rejected",
    "search",
    "session",
    "session_columns",
    "session_rows",
    "session_without_types",
    "sessions",
    "stream_sessions",
    "totals",
    "versions",
    "windows",
    "with_share",
]

_COLUMNS = (  # in the order of StoredEvent's fields, and the session's run
    "events.arrival, events.received, sessions.session_id, events.seq, types.name, "
    "events.timestamp, events.id, events.data, events.version, contexts.text, faults.text, "
    "sessions.run"
)
_SEQ, _ID, _DATA, _CONTEXT = 3, 6, 7, 9  # the indexes of these
# SQLite does not reorder a CROSS JOIN: it starts from the events, which then need no sorting.
_TABLES = (
    "events CROSS JOIN sessions ON sessions.key = events.session "
    "CROSS JOIN types ON types.key = events.type "
    "LEFT JOIN contexts ON contexts.key = events.context "
    "LEFT JOIN faults ON faults.key = events.fault"
)
_OUTCOME = f"""coalesce({end_of()}, CASE
    WHEN last_received > :quiet OR session_id IN (SELECT value FROM json_each(:connected))
        THEN '{Outcome.RUNNING}' ELSE '{Outcome.NO_WORD}' END)"""
_UNENDED = f"state IS NOT '{State.ENDED}'"
_SESSION_COLUMNS = (
    "key, session_id, version, events, repeats, missing, highest, first_timestamp, "
    "last_timestamp, first_received, last_received, reason, started_at, last_seq, reported, "
    f"crashes, faults, deleted, at, lost, waiting, {_OUTCOME}"
)
_SESSION_ROW = (
    "key",
    "session_id",
    "version",
    "events",
    "first_timestamp",
    "last_timestamp",
    "last_received",
    "crashes",
)
_OTHER_ENDS = [end for end in ENDS if end != Outcome.WELL]
_ENDS = ", ".join(f"total(state = '{State.ENDED}' AND reason = '{end}')" for end in _OTHER_ENDS)
_QUIET_MILLISECONDS = 300_000  # without a connection, after which there is no word of a session
_ROWS_PER_CHUNK = 1000  # that are read ahead of a stream
_SESSIONS_PER_CHUNK = 10_000  # whose last types are looked up at once
_EVENTS_PER_QUERY = 20_000  # that a search examines, at most
_FIRST_EVENTS_PER_QUERY = 50  # large events take long; the number grows while they don't
_QUERY_SECONDS = 0.05  # about what the query of one window may take
_MAX_PAGE_BYTES = 8 * 1024 * 1024  # of data
_MAX_GAPS = 1000  # of one session
_MAX_TYPES = 1000  # the most frequent ones
_MAX_TYPES_IN_LIST = 20  # of each session
_MAX_CAUSES = 100  # the most frequent ones
_MAX_CRASHES = 10_000  # that are grouped, the newest ones
_MAX_ENDS = 100_000  # that are counted for alerts, the newest ones
_MAX_VERSIONS = 100  # of one group of faults
_MAX_CONTEXT_NAMES = 100
_MAX_INTERVALS = 10_000  # of frames that are summed up
# A game may send an interval after each n events: then a remainder of the arrival number is the
# same for all of them. So this is Knuth's multiplicative hash, without an overflow.
_MIXED = "((arrival % 2147483648 * 2654435761) % 4294967296 >> 8)"
_EVERY_EVENT = Plan([], [])
_LAST_HEARD = "last_received"  # the time by which a session is in a range
_Kind = TypeVar("_Kind", bound=Session)


def events(
    connection: sqlite3.Connection,
    wanted: EventFilter,
    *,
    after: int = 0,
    before: int | None = None,
    limit: int = 100,
    newest_first: bool = False,
    span: TimeRange = ALL_TIME,
    cutoff: Cutoff = NEVER,
) -> list[StoredEvent]:
    """Return the events of one page; see :func:`search`."""
    return search(
        connection,
        wanted,
        after=after,
        before=before,
        limit=limit,
        newest_first=newest_first,
        span=span,
        cutoff=cutoff,
    ).events


def search(
    connection: sqlite3.Connection,
    wanted: EventFilter,
    *,
    after: int = 0,
    before: int | None = None,
    limit: int = 100,
    newest_first: bool = False,
    span: TimeRange = ALL_TIME,
    cutoff: Cutoff = NEVER,
) -> EventPage:
    """Return one page of events in order of arrival.

    An empty page means that there are no more, unless it is partial.

    Args:
        connection: a connection to the database.
        wanted: selects the events.
        after: only events that arrived later than this one.
        before: only events that arrived earlier than this one.
        limit: the maximum number; a page of large events has fewer.
        newest_first: return the newest events first.
        span: only events that were received in this range.
        cutoff: when the search ends. It examines at least one window, so it gets on each time.
    """
    return _page(
        connection,
        plan(connection, wanted, span),
        after,
        before,
        limit,
        newest_first=newest_first,
        cutoff=cutoff,
    )


def _page(
    connection: sqlite3.Connection,
    chosen: Plan,
    after: int,
    before: int | None,
    limit: int,
    *,
    newest_first: bool,
    cutoff: Cutoff = NEVER,
) -> EventPage:
    conditions = [*chosen.conditions, "events.arrival BETWEEN ? AND ?"]
    query = (
        f"SELECT {_COLUMNS} FROM {_TABLES} WHERE {' AND '.join(conditions)} "
        f"ORDER BY events.arrival {'DESC' if newest_first else 'ASC'} LIMIT ?"
    )
    found: list[StoredEvent] = []
    size = 0
    for first, last in windows(
        connection, after, before, newest_first=newest_first, chosen=chosen, cutoff=cutoff
    ):
        rows = connection.execute(query, (*chosen.values, first, last, limit - len(found)))
        with contextlib.closing(rows):
            for row in rows:
                found.append(_event(row))
                size += len(row[_DATA]) + len(row[_CONTEXT] or "")
                if size >= _MAX_PAGE_BYTES:
                    return EventPage(found, found[-1].arrival)
        if len(found) >= limit:
            break
        if cutoff.is_due:
            return EventPage(found, first if newest_first else last, partial=True)
    start = before or 0 if newest_first else after
    return EventPage(found, found[-1].arrival if found else start)


def windows(
    connection: sqlite3.Connection,
    after: int,
    before: int | None,
    *,
    newest_first: bool,
    chosen: Plan = _EVERY_EVENT,
    cutoff: Cutoff = NEVER,
) -> Iterator[tuple[int, int]]:
    """Yield the first and last arrival number of each window to search."""
    first, last = arrivals(connection, chosen.span)
    first = max(after + 1, first)
    if before is not None:
        last = min(last, before - 1)
    size = _FIRST_EVENTS_PER_QUERY
    for span in chosen.spans(connection, first, last, newest_first=newest_first):
        low, high = span
        while low <= high:
            cutoff.check()
            size = min(size, _EVENTS_PER_QUERY)
            began = cutoff.clock()
            start, end = chosen.window(connection, low, high, size, newest_first=newest_first)
            yield start, end
            low, high = (low, start - 1) if newest_first else (end + 1, high)
            took = cutoff.clock() - began
            size = (
                size * 2 if took < _QUERY_SECONDS / 2 else max(1, int(size * _QUERY_SECONDS / took))
            )


def newest_arrival(connection: sqlite3.Connection) -> int:
    """Return the arrival number of the newest event; 0 if there are no events."""
    row = connection.execute("SELECT max(arrival) FROM events").fetchone()
    return row[0] or 0


def _event(row: tuple[Any, ...]) -> StoredEvent:
    *columns, run = row
    columns[_ID] = restored_id(row[_ID], run, row[_SEQ])
    columns[_DATA] = msgspec.Raw(row[_DATA])
    columns[_CONTEXT] = msgspec.UNSET if row[_CONTEXT] is None else msgspec.Raw(row[_CONTEXT])
    return StoredEvent(*columns)


def sessions(
    connection: sqlite3.Connection,
    *,
    limit: int = 100,
    offset: int = 0,
    connected: Set[str] = frozenset(),
    now: int | None = None,
    span: TimeRange = ALL_TIME,
) -> list[Session]:
    """Return one page of sessions, the most recently active first.

    Args:
        connection: a connection to the database.
        limit: the maximum number.
        offset: how many sessions to leave out.
        connected: the ids of the sessions whose clients are connected.
        now: in milliseconds since the epoch; by default the time.
        span: only sessions that were last heard of in this range. So each is in one day, and the
            days of a week add up.
    """
    rows = connection.execute(
        f"SELECT {_SESSION_COLUMNS} FROM sessions WHERE {condition(span, _LAST_HEARD)} "
        "ORDER BY last_received DESC, key DESC LIMIT :limit OFFSET :offset",
        {"limit": limit, "offset": offset, **_standing(connected, now), **bounds(span)},
    ).fetchall()
    return [_session(connection, row, connected, Session) for row in rows]


def _standing(connected: Set[str], now: int | None) -> dict[str, object]:
    """Return the parameters of an outcome."""
    now = time.time_ns() // 1_000_000 if now is None else now
    known = msgspec.json.encode(list(connected)).decode()
    return {"quiet": now - _QUIET_MILLISECONDS, "connected": known}


def _session(
    connection: sqlite3.Connection, row: tuple[Any, ...], connected: Set[str], kind: type[_Kind]
) -> _Kind:
    """Return a session, without any details."""
    key, *columns, at, lost, waiting, outcome = row
    *columns, reason, started_at, last_seq, reported, crashes, faults, deleted = columns
    session = kind(*columns)
    session.connected = session.session_id in connected
    session.outcome, session.reason = outcome, reason
    session.crashes, session.faults, session.deleted = crashes, faults, deleted
    session.started_at, session.last_seq, session.reported = started_at or None, last_seq, reported
    is_running = reported is not None and outcome in (Outcome.RUNNING, Outcome.NO_WORD)
    losses = Losses(decode_lost(lost), waiting).adjusted(session.missing, is_running=is_running)
    session.lost, session.waiting = losses.lost, losses.waiting
    if outcome == Outcome.RUNNING:
        session.since = started_at or session.first_timestamp
    else:
        session.since = session.last_received if outcome == Outcome.NO_WORD else at or reported
    if reported is not None:
        session.sampled = dict(
            connection.execute(
                "SELECT types.name, sampled.events FROM sampled JOIN types "
                "ON types.key = sampled.type WHERE session = ? AND sampled.events > 0 "
                "ORDER BY sampled.events DESC, types.name LIMIT ?",
                (key, _MAX_TYPES if kind is SessionDetail else _MAX_TYPES_IN_LIST),
            )
        )
    return session


def stream_sessions(
    connection: sqlite3.Connection,
    *,
    span: TimeRange = ALL_TIME,
    only_incomplete: bool = False,
    connected: Set[str] = frozenset(),
    now: int | None = None,
) -> Iterator[Session]:
    """Yield sessions, oldest first, with few in memory at a time; see :func:`sessions`.

    Args:
        connection: a connection to the database.
        span: only those that were last heard of in this range.
        only_incomplete: only those that miss events.
        connected: the ids of the sessions whose clients are connected.
        now: in milliseconds since the epoch; by default the time.
    """
    query = (
        f"SELECT {_SESSION_COLUMNS} FROM sessions WHERE {condition(span, _LAST_HEARD)} "
        f"AND key > :key {'AND missing > 0' if only_incomplete else ''} ORDER BY key LIMIT :limit"
    )
    values: dict[str, object] = {"key": 0, "limit": _ROWS_PER_CHUNK, **_standing(connected, now)}
    values |= bounds(span)
    while rows := connection.execute(query, values).fetchall():
        yield from (_session(connection, row, connected, Session) for row in rows)
        values["key"] = rows[-1][0]


def session_rows(
    connection: sqlite3.Connection,
    span: TimeRange,
    *,
    connected: Set[str] = frozenset(),
    now: int | None = None,
) -> Iterator[tuple[Any, ...]]:
    """Yield a row for each session that was last heard of in a range; see :func:`sessions`.

    Its key, its id, its version, how many events were received, the times of the first and of the
    last by the player's clock, when something last arrived, its crashes, and its outcome.
    """
    values = {**bounds(span), **_standing(connected, now)}
    yield from connection.execute(_session_rows(span), values)


def session_columns(
    connection: sqlite3.Connection,
    names: Sequence[str],
    span: TimeRange,
    *,
    keys: Sequence[int] | None = None,
    connected: Set[str] = frozenset(),
    now: int | None = None,
) -> tuple[list[Any], ...]:
    """Return some columns of the table that :func:`session_rows` has, or ``outcome``.

    With ``keys``, only the sessions with one of these.
    """
    query = _session_rows(span)
    values = {**bounds(span), **_standing(connected, now)}
    if keys is not None:
        query += " AND key IN (SELECT value FROM json_each(:keys))"
        values["keys"] = msgspec.json.encode(keys).decode()
    return by_column(connection, names, query, values)


def _session_rows(span: TimeRange) -> str:
    return (
        f"SELECT {', '.join(_SESSION_ROW)}, {_OUTCOME} AS outcome FROM sessions "
        f"WHERE {condition(span, _LAST_HEARD)}"
    )


def context_values(connection: sqlite3.Connection, name: str) -> tuple[list[int], list[str]]:
    """Return the keys of the contexts that have a field, and its values."""
    keys, values = by_column(
        connection,
        ["context", "value"],
        "SELECT context, value FROM context_fields WHERE name = ?",
        (name,),
    )
    return keys, values


def last_types(
    connection: sqlite3.Connection, sessions: Sequence[int], cutoff: Cutoff = NEVER
) -> tuple[list[int], list[str]]:
    """Return the keys of sessions, and the types of the events of them that arrived last."""
    keys: list[int] = []
    names: list[str] = []
    for start in range(0, len(sessions), _SESSIONS_PER_CHUNK):
        cutoff.check()
        chunk = msgspec.json.encode(sessions[start : start + _SESSIONS_PER_CHUNK]).decode()
        some = by_column(
            connection,
            ["session", "name"],
            "SELECT events.session, types.name FROM json_each(?) AS known CROSS JOIN events "
            "ON arrival = (SELECT max(arrival) FROM events WHERE session = known.value) "
            "CROSS JOIN types ON types.key = events.type",
            (chunk,),
        )
        keys += some[0]
        names += some[1]
    return keys, names


def received(connection: sqlite3.Connection) -> tuple[int, int]:
    """Return when a session was first and last heard of; 0 and 0 if there is none."""
    first, last = connection.execute(
        "SELECT min(first_received), max(last_received) FROM sessions"
    ).fetchone()
    return first or 0, last or 0


def deleted(connection: sqlite3.Connection, span: TimeRange) -> int:
    """Return how many events were deleted of the sessions that were last heard of in a range."""
    row = connection.execute(
        f"SELECT ifnull(sum(deleted), 0) FROM sessions WHERE {condition(span, _LAST_HEARD)}",
        bounds(span),
    ).fetchone()
    return int(row[0])


def context_names(connection: sqlite3.Connection) -> list[str]:
    """Return the names of the fields that contexts have; at most a hundred."""
    # From each name the index leads to the next one, past all values and contexts.
    rows = connection.execute(
        "WITH RECURSIVE names(name) AS (SELECT min(name) FROM context_fields UNION ALL SELECT "
        "(SELECT min(name) FROM context_fields WHERE name > names.name) FROM names "
        "WHERE name IS NOT NULL LIMIT ?) SELECT name FROM names WHERE name IS NOT NULL",
        (_MAX_CONTEXT_NAMES + 1,),
    )
    return [name for (name,) in rows][:_MAX_CONTEXT_NAMES]


def session(
    connection: sqlite3.Connection,
    session_id: str,
    *,
    connected: Set[str] = frozenset(),
    now: int | None = None,
    cutoff: Cutoff = NEVER,
) -> SessionDetail | None:
    """Return one session with its gaps, or None if there is no session with this id.

    See :func:`sessions` and :func:`search`.
    """
    with snapshot(connection):
        known = session_without_types(connection, session_id, connected=connected, now=now)
        newest = newest_arrival(connection)
    if known is None:
        return None
    key, found = known
    found.types, found.partial = _types_of(connection, key, newest, cutoff)
    return found


def session_without_types(
    connection: sqlite3.Connection,
    session_id: str,
    *,
    connected: Set[str] = frozenset(),
    now: int | None = None,
) -> tuple[int, SessionDetail] | None:
    """Return the key of one session, and all of it that is known without a look at its events."""
    row = connection.execute(
        f"SELECT {_SESSION_COLUMNS} FROM sessions WHERE session_id = :id",
        {"id": session_id, **_standing(connected, now)},
    ).fetchone()
    if row is None:
        return None
    key = row[0]
    found = _session(connection, row, connected, SessionDetail)
    found.report = _report(connection, key)
    with contextlib.closing(missing_runs(connection, key, None)) as runs:
        found.gaps = list(islice(runs, _MAX_GAPS))
    with contextlib.closing(missing_runs(connection, key, found.report)) as runs:
        losses = describe_losses(runs, found.report, found.lost)
        found.losses = list(islice(losses, _MAX_GAPS))
    return key, found


def _report(connection: sqlite3.Connection, session: int) -> Report | None:
    row = connection.execute("SELECT text FROM reports WHERE session = ?", (session,)).fetchone()
    return None if row is None else decode_report(row[0])


def arrivals_of(connection: sqlite3.Connection, session: int) -> tuple[int, int]:
    """Return the first and the last arrival number of a session's events; 1 and 0 without any."""
    # In two subqueries, each of which SQLite answers from an end of the index.
    first, last = connection.execute(
        "SELECT (SELECT min(arrival) FROM events WHERE session = :session), "
        "(SELECT max(arrival) FROM events WHERE session = :session)",
        {"session": session},
    ).fetchone()
    return (1, 0) if first is None else (first, last)


def plan_of_session(session: int) -> Plan:
    """Return how to walk through the events of a session, by its key."""
    return Plan([], [], "session = ?", (session,))


def _types_of(
    connection: sqlite3.Connection, session: int, newest: int, cutoff: Cutoff
) -> tuple[dict[str, int], bool]:
    """Return the number of events of each type in a session, up to an arrival number.

    And whether the time was over before all of them were counted.
    """
    first, last = arrivals_of(connection, session)
    before = min(last, newest) + 1
    counts: dict[int, int] = {}
    is_partial = False
    for start, end in windows(
        connection,
        first - 1,
        before,
        newest_first=False,
        chosen=plan_of_session(session),
        cutoff=cutoff,
    ):
        rows = connection.execute(
            "SELECT type, count(*) FROM events WHERE session = ? AND arrival BETWEEN ? AND ? "
            "GROUP BY type",
            (session, start, end),
        )
        for key, count in rows:
            counts[key] = counts.get(key, 0) + count
        if cutoff.is_due and end < before - 1:
            is_partial = True
            break
    most_first = sorted(counts.items(), key=lambda entry: -entry[1])
    name_of = "SELECT name FROM types WHERE key = ?"
    named: dict[str, int] = {}
    for key, count in most_first[:_MAX_TYPES]:
        if (row := connection.execute(name_of, (key,)).fetchone()) is not None:
            named[row[0]] = count
    return named, is_partial


def rejected(
    connection: sqlite3.Connection,
    *,
    after: int = 0,
    before: int | None = None,
    limit: int = 100,
    newest_first: bool = True,
    span: TimeRange = ALL_TIME,
) -> list[RejectedMessage]:
    """Return one page of rejected messages, which have arrival numbers of their own.

    Args:
        connection: a connection to the database.
        after: only messages that arrived later than this one.
        before: only messages that arrived earlier than this one.
        limit: the maximum number.
        newest_first: return the newest messages first.
        span: only messages that were received in this range.
    """
    if span != ALL_TIME:
        # By the index of their times, which is not that of the order.
        first, last = connection.execute(
            f"SELECT min(arrival), max(arrival) FROM rejected WHERE {condition(span)}",
            bounds(span),
        ).fetchone()
        if first is None:
            return []
        after = max(after, first - 1)
        before = last + 1 if before is None else min(before, last + 1)
    where = f"arrival > :after AND {condition(span, '+received')}"
    if before is not None:
        where += " AND arrival < :before"
    rows = connection.execute(
        f"SELECT arrival, received, reason, text FROM rejected WHERE {where} "
        f"ORDER BY arrival {'DESC' if newest_first else 'ASC'} LIMIT :limit",
        {"after": after, "before": before, "limit": limit, **bounds(span)},
    )
    return [
        RejectedMessage(arrival, received, reason, text.decode(errors="replace"))
        for arrival, received, reason, text in rows
    ]


def totals(
    connection: sqlite3.Connection,
    *,
    connected: Set[str] = frozenset(),
    now: int | None = None,
    span: TimeRange = ALL_TIME,
) -> Totals:
    """Return the counts over the whole database, or over a range; see :func:`sessions`.

    In a range, the events are those that were received in it, also those that have been deleted
    since; see :func:`.history.events_by_type`. All else is of the sessions that were last heard of
    in it.
    """
    standing = _standing(connected, now)
    if span != ALL_TIME:
        with snapshot(connection):
            return _totals_of(connection, span, standing)
    with snapshot(connection):
        sums = connection.execute(
            "SELECT events, repeats, faults, missing_parts, missing_rest, waiting_parts, "
            "waiting_rest, implausible, implausible_parts, implausible_rest FROM totals"
        ).fetchone()
        # They are numbered without gaps, and count(*) would read all of them.
        (rejected_count,) = connection.execute(
            "SELECT coalesce((SELECT max(arrival) FROM rejected) "
            "- (SELECT min(arrival) FROM rejected) + 1, 0)"
        ).fetchone()
        outcomes = connection.execute(
            f"SELECT unended, {', '.join(ENDS)} FROM versions WHERE name = {ALL}"
        ).fetchone()
        running = _running(connection, standing)
        types = _most(connection, "name", "events", "types", _MAX_TYPES)
        sampled = _most(connection, "name", "sampled", "types", _MAX_TYPES)
        lost = _most(connection, "cause", "events", "lost", _MAX_CAUSES)
    unended, *ends = outcomes
    return _with_sums(
        Totals(
            events=0,
            sessions=sum(outcomes),
            repeats=0,
            missing=0,
            rejected=rejected_count,
            types=types,
            outcomes={
                Outcome.RUNNING: running,
                **dict(zip(ENDS, ends, strict=True)),
                Outcome.NO_WORD: unended - running,
            },
            sampled=sampled,
            lost=lost,
        ),
        sums,
    )


def _with_sums(totals: Totals, sums: Sequence[int]) -> Totals:
    """Return totals with the sums over sessions, which have some numbers in two halves."""
    events, repeats, faults, missing_parts, missing_rest, *others = sums
    waiting_parts, waiting_rest, implausible, implausible_parts, implausible_rest = others
    totals.events, totals.repeats, totals.faults = events, repeats, faults
    totals.missing = missing_parts * HALF + missing_rest
    totals.waiting = waiting_parts * HALF + waiting_rest
    totals.implausible_sessions = implausible
    totals.implausible_missing = implausible_parts * HALF + implausible_rest
    return totals


def _totals_of(
    connection: sqlite3.Connection, span: TimeRange, standing: dict[str, object]
) -> Totals:
    types = events_by_type(connection, span)
    of_span = f"FROM sessions WHERE {condition(span, _LAST_HEARD)}"
    # Sums, since SQLite would sort all sessions to group them by their outcome.
    count, ended, losing, *known = connection.execute(
        f"SELECT count(*), total(state = '{State.ENDED}'), total(lost <> '{{}}'), {_ENDS}, {SUMS} "
        f"{of_span}",
        bounds(span),
    ).fetchone()
    sums = known[len(_OTHER_ENDS) :]
    outcomes: dict[str, int] = dict.fromkeys((Outcome.RUNNING, *ENDS, Outcome.NO_WORD), 0)
    outcomes |= {end: int(known[place]) for place, end in enumerate(_OTHER_ENDS)}
    outcomes[Outcome.WELL] = int(ended) - sum(outcomes.values())
    (outcomes[Outcome.RUNNING],) = connection.execute(
        f"SELECT count(*) {of_span} AND {_UNENDED} AND {_OUTCOME} = '{Outcome.RUNNING}'",
        {**standing, **bounds(span)},
    ).fetchone()
    outcomes[Outcome.NO_WORD] = count - int(ended) - outcomes[Outcome.RUNNING]
    (rejected_count,) = connection.execute(
        f"SELECT count(*) FROM rejected WHERE {condition(span)}", bounds(span)
    ).fetchone()
    lost: Counter[str] = Counter()
    some_lost = f"SELECT lost, count(*) {of_span} AND lost <> '{{}}' GROUP BY lost"
    for text, number in connection.execute(some_lost, bounds(span)) if losing else ():
        causes = decode_lost(text)
        if sum(causes.values()) <= MAX_PLAUSIBLE_MISSING:
            lost.update({cause: events * number for cause, events in causes.items()})
    del lost[Cause.UNEXPLAINED]
    sampled = connection.execute(
        "SELECT name, sum(sampled.events) AS number FROM ("
        f"SELECT key {of_span}) AS some CROSS JOIN sampled ON sampled.session = some.key "
        "CROSS JOIN types ON types.key = sampled.type "
        f"WHERE sampled.events BETWEEN 1 AND {MAX_PLAUSIBLE_MISSING} "
        "GROUP BY name ORDER BY number DESC, name LIMIT :limit",
        {**bounds(span), "limit": _MAX_TYPES},
    ).fetchall()
    found = Totals(
        events=0,
        sessions=count,
        repeats=0,
        missing=0,
        rejected=rejected_count,
        types=dict(islice(types.items(), _MAX_TYPES)),
        outcomes=outcomes,
        sampled=dict(sampled),
        lost=dict(lost.most_common(_MAX_CAUSES)),
    )
    found = _with_sums(found, sums)
    found.events = sum(types.values())
    return found


# The sessions that have not ended and are running: those that were heard of since a time, in whole
# periods and in the one that the time is in, and those that are connected.
_PERIODS = f"SELECT sum(sessions) FROM unended WHERE version = ? AND period > ? / {PERIOD}"
_HEARD = (
    f"FROM sessions WHERE {_UNENDED} AND last_received > :quiet "
    f"AND last_received < :quiet + 2 * {PERIOD} "
    f"AND last_received / {PERIOD} = :quiet / {PERIOD}"
)
_CONNECTED = (
    "FROM json_each(:connected) AS known CROSS JOIN sessions ON session_id = known.value "
    f"WHERE {_UNENDED} AND last_received <= :quiet"
)


def _running(connection: sqlite3.Connection, standing: dict[str, object]) -> int:
    """Return the number of sessions that are running."""
    counts = [
        connection.execute(_PERIODS, (ALL, standing["quiet"])),
        connection.execute(f"SELECT count(*) {_HEARD}", standing),
        connection.execute(f"SELECT count(*) {_CONNECTED}", standing),
    ]
    return sum(count.fetchone()[0] or 0 for count in counts)


def _most(
    connection: sqlite3.Connection, name: str, count: str, table: str, limit: int
) -> dict[str, int]:
    """Return the names with the highest counts in a table."""
    rows = connection.execute(
        f"SELECT {name}, {count} FROM {table} WHERE {count} > 0 "
        f"ORDER BY {count} DESC, {name} LIMIT ?",
        (limit,),
    )
    return dict(rows.fetchall())


def versions(
    connection: sqlite3.Connection,
    *,
    limit: int = 100,
    connected: Set[str] = frozenset(),
    now: int | None = None,
    span: TimeRange = ALL_TIME,
) -> list[VersionHealth]:
    """Return the versions of the game's build, the one with the newest session first.

    See :func:`sessions`.
    """
    standing = _standing(connected, now)
    if span != ALL_TIME:
        return _versions_of(connection, span, standing)[:limit]
    found: list[VersionHealth] = []
    with snapshot(connection):
        # Few at a time, however many versions there are.
        running: Counter[str | None] = Counter()
        for some in (_HEARD, _CONNECTED):
            query = f"SELECT version, count(*) {some} GROUP BY version"
            running.update(dict(connection.execute(query, standing).fetchall()))
        rows = connection.execute(
            f"SELECT name, unended, {', '.join(ENDS)} FROM versions WHERE name <> {ALL} "
            "ORDER BY newest DESC, name DESC LIMIT ?",
            (limit,),
        )
        for name, unended, *ends in rows.fetchall():
            health = VersionHealth(None if name == NO_VERSION else name, unended + sum(ends))
            periods = connection.execute(_PERIODS, (name, standing["quiet"])).fetchone()[0]
            health.running = running[health.version] + (periods or 0)
            health.no_word = unended - health.running
            for outcome, count in zip(ENDS, ends, strict=True):
                setattr(health, outcome, count)
            found.append(with_share(health))
    return found


def with_share(health: VersionHealth) -> VersionHealth:
    """Return a version with the share of its sessions that ended without a crash."""
    if ended := sum(getattr(health, end) for end in ENDS):
        health.crash_free = (health.well + health.switched_off) / ended
    return health


def _versions_of(
    connection: sqlite3.Connection, span: TimeRange, standing: dict[str, object]
) -> list[VersionHealth]:
    rows = connection.execute(
        f"SELECT version, {_OUTCOME} AS outcome, count(*), max(first_received) FROM sessions "
        f"WHERE {condition(span, _LAST_HEARD)} GROUP BY 1, 2",
        {**standing, **bounds(span)},
    )
    found: dict[str | None, VersionHealth] = {}
    newest: dict[str | None, tuple[int, str]] = {}
    for version, outcome, count, begun in rows:
        health = found.setdefault(version, VersionHealth(version, 0))
        health.sessions += count
        setattr(health, outcome, count)
        newest[version] = max(newest.get(version, (0, "")), (begun, version or ""))
    newest_first = sorted(newest, key=newest.__getitem__, reverse=True)
    return [with_share(found[version]) for version in newest_first]


def crashes(
    connection: sqlite3.Connection,
    *,
    version: str | None = None,
    session: str | None = None,
    limit: int = 100,
    span: TimeRange = ALL_TIME,
    cutoff: Cutoff = NEVER,
) -> list[CrashGroup]:
    """Return the crashes in groups of one exception in one place, the newest first.

    Only the newest ten thousand crashes are counted; fewer if their events are large.

    Args:
        connection: a connection to the database.
        version: only crashes of this version of the game's build.
        session: only crashes of the session with this id.
        limit: the maximum number of groups; there are fewer if their events are large.
        span: only crashes that were received in this range.
        cutoff: when the search ends.
    """
    groups = CrashGroups(limit, _MAX_PAGE_BYTES)
    wanted = EventFilter(type="crash", session=session)
    before = newest_arrival(connection) + 1
    for _ in range(_MAX_CRASHES // _ROWS_PER_CHUNK):
        page = events(
            connection,
            wanted,
            before=before,
            limit=_ROWS_PER_CHUNK,
            newest_first=True,
            span=span,
            cutoff=cutoff,
        )
        if not page:
            break
        before = page[-1].arrival
        for event in page:
            if version is None or event.version == version:
                groups.add(event)
    return groups.found()


class _Faults(msgspec.Struct):
    """The events with one fault."""

    fault: int
    events: int
    sessions: int
    versions: list[str]
    """The newest event's first."""
    first: int
    last: int
    newest: int
    """The arrival of the newest one."""


def faults(
    connection: sqlite3.Connection,
    *,
    version: str | None = None,
    session: str | None = None,
    limit: int = 100,
    span: TimeRange = ALL_TIME,
    cutoff: Cutoff = NEVER,
) -> list[FaultGroup]:
    """Return the events with a fault, in groups of one type with one fault, the newest first.

    Args:
        connection: a connection to the database.
        version: only sessions of this version of the game's build.
        session: only the session with this id.
        limit: the maximum number of groups; there are fewer if their newest events are large.
        span: only events that were received in this range.
        cutoff: when the search of a range ends.
    """
    found: list[FaultGroup] = []
    size = 0
    with snapshot(connection):
        groups = (
            _all_faults(connection, version, session, limit)
            if span == ALL_TIME
            else _faults_of(connection, version, session, span, cutoff)[:limit]
        )
        for group in groups:
            (newest,) = events(connection, EventFilter(), after=group.newest - 1, limit=1)
            found.append(
                FaultGroup(
                    newest.type,
                    newest.fault or "",
                    group.events,
                    group.sessions,
                    group.versions[:_MAX_VERSIONS],
                    group.first,
                    group.last,
                    newest,
                )
            )
            size += memoryview(newest.data).nbytes
            if size >= _MAX_PAGE_BYTES:
                break
    return found


def _all_faults(
    connection: sqlite3.Connection, version: str | None, session: str | None, limit: int
) -> Iterator[_Faults]:
    """Yield the faults, the newest first; by the counts of each session."""
    conditions, values = ["TRUE"], []
    for column, value in (("version", version), ("session_id", session)):
        if value is not None:
            conditions.append(f"sessions.{column} = ?")
            values.append(value)
    chosen = (
        "session_faults CROSS JOIN sessions ON sessions.key = session_faults.session "
        f"WHERE {' AND '.join(conditions)}"
    )
    newest_first = "ORDER BY max(session_faults.newest) DESC LIMIT ?"
    groups = connection.execute(
        "SELECT fault, sum(session_faults.events), count(*), min(session_faults.first), "
        f"max(session_faults.last), max(session_faults.newest) FROM {chosen} "
        f"GROUP BY fault {newest_first}",
        (*values, limit),
    ).fetchall()
    for fault, count, sessions, first, last, newest in groups:
        arrival, when = newest, last
        if not _exists(connection, arrival):
            # It was deleted with the data of a person; those of --keep go oldest first.
            last_left = connection.execute(
                "SELECT arrival, received FROM events CROSS JOIN sessions "
                "ON sessions.key = events.session "
                f"WHERE {' AND '.join(conditions)} AND fault = ? ORDER BY arrival DESC LIMIT 1",
                (*values, fault),
            )
            arrival, when = last_left.fetchone()
        versions = connection.execute(
            f"SELECT sessions.version FROM {chosen} AND fault = ? "
            f"AND sessions.version IS NOT NULL GROUP BY sessions.version {newest_first}",
            (*values, fault, _MAX_VERSIONS),
        )
        names = [row[0] for row in versions]
        yield _Faults(fault, count, sessions, names, first, when, arrival)


def _faults_of(
    connection: sqlite3.Connection,
    version: str | None,
    session: str | None,
    span: TimeRange,
    cutoff: Cutoff,
) -> list[_Faults]:
    """Return the faults of a range, the newest first; by its events."""
    chosen = plan(connection, EventFilter(session=session, fault=ANY_FAULT), span)
    conditions = [*chosen.conditions, "events.arrival BETWEEN ? AND ?"]
    query = (
        "SELECT events.fault, sessions.key, sessions.version, count(*), min(received), "
        "max(received), max(arrival) FROM events CROSS JOIN sessions "
        f"ON sessions.key = events.session WHERE {' AND '.join(conditions)} "
        "AND (? IS NULL OR sessions.version = ?) GROUP BY 1, 2 ORDER BY max(arrival) DESC"
    )
    groups: dict[int, _Faults] = {}
    sessions: dict[int, set[int]] = {}
    for window in windows(connection, 0, None, newest_first=True, chosen=chosen, cutoff=cutoff):
        asked = (*chosen.values, *window, version, version)
        for fault, key, name, count, first, last, newest in connection.execute(query, asked):
            group = groups.setdefault(fault, _Faults(fault, 0, 0, [], first, last, newest))
            group.events += count
            group.first, group.last = min(group.first, first), max(group.last, last)
            sessions.setdefault(fault, set()).add(key)
            group.sessions = len(sessions[fault])
            if name is not None and name not in group.versions:
                group.versions.append(name)
        if cutoff.is_due:
            break
    return list(groups.values())


def _exists(connection: sqlite3.Connection, arrival: int) -> bool:
    row = connection.execute("SELECT 1 FROM events WHERE arrival = ?", (arrival,)).fetchone()
    return row is not None


def frames(
    connection: sqlite3.Connection,
    *,
    version: str | None = None,
    session: str | None = None,
    limit: int = 100,
    span: TimeRange = ALL_TIME,
    cutoff: Cutoff = NEVER,
) -> list[FrameSummary]:
    """Return the frame times of each version of the game's build, the newest first.

    If there are more than ten thousand intervals in the database, an evenly spread share of them
    is examined. Then the sums are estimates.

    Args:
        connection: a connection to the database.
        version: only this version.
        session: only the session with this id, of which all intervals are examined.
        limit: the maximum number of versions.
        span: only intervals that were received in this range.
        cutoff: when the search ends.
    """
    row = connection.execute("SELECT events FROM types WHERE name = 'frames'").fetchone()
    intervals = row[0] if row and session is None else 0
    if intervals > _MAX_INTERVALS and span != ALL_TIME:
        intervals = events_by_type(connection, span).get("frames", 0)
    stride = max(1, -(-intervals // _MAX_INTERVALS))
    chosen = plan(connection, EventFilter(type="frames", session=session), span)
    conditions = [*chosen.conditions, "arrival BETWEEN ? AND ?", f"{_MIXED} % ? = 0"]
    query = (  # one row for each window: a row that is fetched costs a turn with the GIL
        "SELECT json_group_array(received), json_group_array(timestamp), "
        f"json_group_array(version), {DATA} FROM events WHERE {' AND '.join(conditions)}"
    )
    summaries = FrameSummaries(stride)
    for first, last in windows(
        connection, 0, None, newest_first=False, chosen=chosen, cutoff=cutoff
    ):
        values = (*chosen.values, first, last, stride)
        *columns, text, lengths = connection.execute(query, values).fetchone()
        rows = zip(*map(msgspec.json.decode, columns), cut(text, lengths), strict=True)
        for row in rows:
            summaries.add(*row)
    return [
        summary for summary in summaries.found() if version is None or summary.version == version
    ][:limit]


def newest_ends(
    connection: sqlite3.Connection, since: int
) -> tuple[list[tuple[int, End]], int | None]:
    """Return the ends of sessions since a time, each with its time, and when something last came.

    The ends are in order. Times are in milliseconds since the epoch.
    """
    with snapshot(connection):
        (last,) = connection.execute("SELECT max(last_received) FROM sessions").fetchone()
        # By the index of `last_received`, which is never before `reported`.
        rows = connection.execute(
            "SELECT reported, reason, lost FROM sessions WHERE last_received >= :since "
            "AND reported >= :since AND state = :ended ORDER BY last_received DESC LIMIT :limit",
            {"since": since, "ended": State.ENDED, "limit": _MAX_ENDS},
        ).fetchall()
    ends = [(reported, ended_as(reason, decode_lost(lost))) for reported, reason, lost in rows]
    return sorted(ends, key=lambda end: end[0]), last
