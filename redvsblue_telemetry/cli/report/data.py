"""What a report tells, gathered from the database in one look, so that its numbers agree."""

from __future__ import annotations

import sqlite3
import time

import msgspec

from ...collector.models import EventFilter, RejectedMessage, Session, SessionDetail
from ...collector.storage import queries
from .._output import Counted
from .stats import Distribution, FrameTimes, Timeline, frame_time

__all__ = ["SHOWN_TYPES", "Report", "gather"]

SHOWN_TYPES = 7  # in the colours of the timeline
_SHOWN_SESSIONS = 100
_SHOWN_REJECTED = 50
_A_DAY = 86_400_000  # ms


class Report(msgspec.Struct):
    """All that is on the page. Times are in milliseconds since the epoch."""

    made: int
    session: SessionDetail | None
    """The one that is told of; None for all."""
    session_count: int
    sessions: list[SessionDetail]
    """The newest of them."""
    events: int
    missing: int
    repeats: int
    types: dict[str, int]
    """From the most frequent on."""
    first: int | None
    last: int | None
    durations: Distribution
    """Of the sessions, in milliseconds."""
    timeline: Timeline
    displaced: int
    """How many events are in the timeline where they arrived, since their own time can't be."""
    frames: FrameTimes
    rejected_count: int
    rejected: list[RejectedMessage]
    """The newest of them, of all sessions: what is no event belongs to none."""


def gather(
    connection: sqlite3.Connection, session_id: str | None, counted: Counted
) -> Report | None:
    """Read what there is.

    Args:
        connection: to read by.
        session_id: of one session; None for all.
        counted: told how far it is with the events.

    Returns:
        The report; None if there is no such session.
    """
    connection.execute("BEGIN")  # until it is closed, what others write is not seen
    totals = queries.totals(connection)
    session = None
    if session_id is not None:
        session = queries.session(connection, session_id)
        if session is None:
            return None
    chosen = session or totals
    types = dict(sorted(chosen.types.items(), key=lambda item: (-item[1], item[0])))
    report = Report(
        made=time.time_ns() // 1_000_000,
        session=session,
        session_count=1 if session else totals.sessions,
        sessions=[session] if session else [],
        events=chosen.events,
        missing=chosen.missing,
        repeats=chosen.repeats,
        types=types,
        first=None,
        last=None,
        durations=Distribution(),
        timeline=Timeline(list(types)[:SHOWN_TYPES]),
        displaced=0,
        frames=FrameTimes(),
        rejected_count=totals.rejected,
        rejected=queries.rejected(connection, limit=_SHOWN_REJECTED),
    )
    _read_sessions(connection, report)
    _read_events(connection, report, counted)
    return report


def _read_sessions(connection: sqlite3.Connection, report: Report) -> None:
    for session in [report.session] if report.session else queries.stream_sessions(connection):
        report.durations.add(max(1, session.last_timestamp - session.first_timestamp))
    if report.session is None:
        newest = queries.sessions(connection, limit=_SHOWN_SESSIONS)
        report.sessions = [_with_gaps(connection, session) for session in newest]


def _with_gaps(connection: sqlite3.Connection, session: Session) -> SessionDetail:
    detail = queries.session(connection, session.session_id) if session.missing else None
    return detail or SessionDetail(*msgspec.structs.astuple(session))


def _read_events(connection: sqlite3.Connection, report: Report, counted: Counted) -> None:
    wanted = EventFilter(session=report.session.session_id if report.session else None)
    add = report.timeline.add
    first, last = report.first, report.last
    events = queries.stream_events(connection, wanted)
    for event in counted(events, queries.newest_arrival(connection)):
        when = event.timestamp
        # A player's clock may be wrong by years, which would leave the timeline nothing to show.
        if abs(when - event.received) > _A_DAY:
            when = event.received
            report.displaced += 1
        add(when, event.type)
        first = when if first is None else min(first, when)
        last = when if last is None else max(last, when)
        took = frame_time(event.data)
        if took is not None:
            report.frames.add(took)
    report.first, report.last = first, last
