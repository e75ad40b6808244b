"""The data of a report, read from the database in one transaction, so that its numbers agree."""

from __future__ import annotations

import math
import sqlite3
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator

import msgspec

from ...collector.models import (
    MAX_PLAUSIBLE_MISSING,
    CrashGroup,
    EventFilter,
    FaultGroup,
    FrameSummary,
    RejectedMessage,
    Session,
    SessionDetail,
    StoredEvent,
    VersionHealth,
)
from ...collector.storage import queries
from .format import is_date
from .stats import COLORED_TYPES, Distribution, EventStats, FrameTimeSummary, TimelineBins

__all__ = ["Report", "gather"]

_MAX_SESSIONS = 100
_MAX_REJECTED = 50
_MAX_VERSIONS = 20
_MAX_GROUPS = 50  # of crashes, and of faults


class Report(msgspec.Struct, frozen=True):
    """Everything that the page shows. Times are in milliseconds since the epoch."""

    made: int
    session: SessionDetail | None
    """The session that the report is about; None if it is about all of them."""
    session_count: int
    sessions: list[SessionDetail]
    """The newest sessions, if the report is about all."""
    duration: float
    """The duration of the session, or the median of all, in milliseconds; infinite if the times
    that they claim are not dates."""
    implausible_sessions: int
    """How many sessions claim absurd numbers. What they miss is not in the sums."""
    implausible_missing: int
    """How many events these sessions miss."""
    events: int
    deleted: int
    """How many more events were stored, and then deleted on purpose."""
    missing: int
    lost: dict[str, int]
    """How many of the missing events are lost, by cause."""
    waiting: int
    """How many of the missing events are not lost."""
    outcomes: dict[str, int]
    """The number of sessions by outcome."""
    repeats: int
    types: dict[str, int]
    """The number of events by type, the most frequent type first."""
    sampled: dict[str, int]
    """How many events sampling and rate limits left out, by type."""
    first: int | None
    last: int | None
    timeline: TimelineBins
    displaced: int
    """The number of events that the timeline shows at the time when they were received."""
    versions: list[VersionHealth]
    """The newest versions, if the report is about all sessions."""
    crashes: list[CrashGroup]
    fault_count: int
    """The number of events that do not fit the schema."""
    faults: list[FaultGroup]
    frames: list[FrameSummary]
    """The frame times that the SDK measured, by version."""
    frame_times: FrameTimeSummary | None
    """Those in fields of events; None if no event has one."""
    rejected_count: int
    rejected: list[RejectedMessage]
    """The newest rejected messages of all sessions; it isn't known which session sent them."""


def gather(
    connection: sqlite3.Connection,
    session_id: str | None,
    counted: Callable[[Iterable[StoredEvent], int], Iterator[StoredEvent]],
) -> Report | None:
    """Read the data of a report.

    Args:
        connection: the database.
        session_id: the session to report on; None for all.
        counted: passes the events on and shows the progress toward the last one's number.

    Returns:
        The report; None if there is no such session.
    """
    connection.execute("BEGIN")  # until the connection is closed: hides what others write
    totals = queries.totals(connection)
    session = queries.session(connection, session_id) if session_id is not None else None
    if session_id is not None and session is None:
        return None
    chosen = session or totals
    types = dict(sorted(chosen.types.items(), key=lambda item: (-item[1], item[0])))
    tally = _Tally(math.inf if session else MAX_PLAUSIBLE_MISSING)
    for each in [session] if session else queries.stream_sessions(connection):
        tally.add(each)
    newest = [] if session else queries.sessions(connection, limit=_MAX_SESSIONS)
    stats = EventStats(list(types)[:COLORED_TYPES])
    events = queries.stream_events(connection, EventFilter(session=session_id))
    for event in counted(events, queries.newest_arrival(connection)):
        stats.add(event)
    return Report(
        made=time.time_ns() // 1_000_000,
        session=session,
        session_count=1 if session else totals.sessions,
        sessions=[_with_gaps(connection, each) for each in newest],
        duration=tally.duration,
        events=session.events - session.deleted if session else totals.events,
        deleted=tally.deleted,
        missing=tally.missing,
        implausible_sessions=tally.implausible_sessions,
        implausible_missing=tally.implausible_missing,
        lost=dict(tally.lost),
        waiting=tally.waiting,
        outcomes=dict(tally.outcomes),
        repeats=chosen.repeats,
        types=types,
        sampled=chosen.sampled,
        first=stats.first,
        last=stats.last,
        timeline=stats.timeline.bins(),
        displaced=stats.displaced,
        versions=[] if session else queries.versions(connection, limit=_MAX_VERSIONS),
        crashes=queries.crashes(connection, session=session_id, limit=_MAX_GROUPS),
        fault_count=chosen.faults,
        faults=queries.faults(connection, session=session_id, limit=_MAX_GROUPS),
        frames=queries.frames(connection, session=session_id, limit=_MAX_VERSIONS),
        frame_times=stats.frames.summary(),
        rejected_count=totals.rejected,
        rejected=queries.rejected(connection, limit=_MAX_REJECTED),
    )


class _Tally:
    """Sums over the sessions of a report.

    Args:
        max_missing: the most events that a session may miss to be in the sums.
    """

    def __init__(self, max_missing: float) -> None:
        self._max_missing = max_missing
        self._durations = Distribution()
        self._has_implausible_times = False
        self.outcomes: Counter[str] = Counter()
        self.lost: Counter[str] = Counter()
        self.deleted = self.missing = self.waiting = 0
        self.implausible_sessions = self.implausible_missing = 0

    def add(self, session: Session) -> None:
        """Count a session."""
        first, last = session.first_timestamp, session.last_timestamp
        if is_date(first) and is_date(last):
            self._durations.add(max(1, last - first))
        else:
            self._has_implausible_times = True
        self.outcomes[session.outcome] += 1
        self.deleted += session.deleted
        if session.missing > self._max_missing:
            self.implausible_sessions += 1
            self.implausible_missing += session.missing
            return
        self.lost.update(session.lost)
        self.missing += session.missing
        self.waiting += session.waiting

    @property
    def duration(self) -> float:
        """The median duration in milliseconds, of the sessions whose times are dates."""
        if self._has_implausible_times and not self._durations.count:
            return math.inf
        return self._durations.quantile(0.5)


def _with_gaps(connection: sqlite3.Connection, session: Session) -> SessionDetail:
    detail = queries.session(connection, session.session_id) if session.missing else None
    return detail or SessionDetail(*msgspec.structs.astuple(session))
