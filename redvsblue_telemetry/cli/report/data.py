"""The data of a report, read from the database in one transaction, so that its numbers agree."""

from __future__ import annotations

import contextlib
import functools
import math
import sqlite3
import time
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import islice

import msgspec

from ...collector.answers.asking import ask
from ...collector.answers.questions import Timeline as SessionTimeline
from ...collector.answers.timeline import timeline as session_timeline
from ...collector.models import (
    MAX_PLAUSIBLE_MISSING,
    CrashGroup,
    EventFilter,
    FaultGroup,
    FrameSummary,
    History,
    RejectedMessage,
    Session,
    SessionDetail,
    TimeRange,
    VersionHealth,
)
from ...collector.ranges import NamedRange
from ...collector.storage import queries, scans
from ...collector.storage.batches import ahead
from ...collector.storage.history import history
from .format import is_date
from .questions import Answered, Asking, Wanted, answer
from .stats import (
    COLORED_TYPES,
    FRAME_TIME_FIELDS,
    FRAME_TIME_PARTS,
    Distribution,
    FrameTimes,
    FrameTimeSummary,
    Timeline,
    TimelineBins,
    frame_times,
)

__all__ = ["Report", "ReportRange", "gather"]

_MAX_SESSIONS = 100
_MAX_REJECTED = 50
_MAX_VERSIONS = 20
_MAX_GROUPS = 50  # of crashes, and of faults
_ROWS = 1000  # of sessions that are read at a time
_LONG = 9_000_000  # milliseconds: a timeline has at most 150 bins, here of a minute


class ReportRange(msgspec.Struct, frozen=True):
    """A range of time, in milliseconds since the epoch; None is open."""

    words: str
    start: int | None = msgspec.field(name="from")
    end: int | None = msgspec.field(name="to")


class Report(msgspec.Struct, frozen=True, rename="camel"):
    """Everything that the page shows. Times are in milliseconds since the epoch."""

    made: int
    range: ReportRange | None
    """The range that the report is about; None if it is about all."""
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
    """The number of events that the timeline shows at the time when they were received, because
    theirs is not plausible."""
    by_received: bool
    """Whether the timeline shows all events at the time when they were received."""
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
    moments: SessionTimeline | None
    """The session by its clock, with the moments that stand out."""
    answers: list[Answered]
    """The answers to the questions that were asked."""


def gather(
    connection: sqlite3.Connection,
    session_id: str | None,
    named: NamedRange | None = None,
    wanted: Wanted | None = None,
    advance: Callable[[int], None] = lambda _: None,
    asking: Asking | None = None,
) -> Report | None:
    """Read the data of a report.

    Args:
        connection: the database.
        session_id: the session to report on; None for all.
        named: the range to report on; None for all.
        wanted: the questions to answer.
        advance: is called with the arrival number up to which the events have been examined.
        asking: answers the questions; by default they are about the database.

    Returns:
        The report; None if there is no such session.

    Raises:
        QuestionError: a question has no answer.
    """
    connection.execute("BEGIN")  # until the connection is closed: hides what others write
    span = TimeRange() if named is None else named.range
    totals = queries.totals(connection, span=span)
    session = queries.session(connection, session_id) if session_id is not None else None
    if session_id is not None and session is None:
        return None
    # First, for they may be wrong.
    asking = asking or functools.partial(ask, connection)
    answers = answer(connection, asking, wanted or Wanted(), span, 0)
    chosen = session or totals
    types = dict(sorted(chosen.types.items(), key=lambda item: (-item[1], item[0])))
    tally = _tally_of(session) if session else _tally_of_all(connection, span)
    newest = [] if session else queries.sessions(connection, limit=_MAX_SESSIONS, span=span)
    events = EventFilter(session=session_id)
    activity = _activity(connection, events, span, list(types)[:COLORED_TYPES])
    return Report(
        made=time.time_ns() // 1_000_000,
        range=None if named is None else ReportRange(named.words, span.start, span.end),
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
        first=activity.first,
        last=activity.last,
        timeline=activity.timeline,
        displaced=activity.displaced,
        by_received=activity.by_received,
        versions=[] if session else queries.versions(connection, limit=_MAX_VERSIONS, span=span),
        crashes=queries.crashes(connection, session=session_id, limit=_MAX_GROUPS, span=span),
        fault_count=chosen.faults,
        faults=queries.faults(connection, session=session_id, limit=_MAX_GROUPS, span=span),
        frames=queries.frames(connection, session=session_id, limit=_MAX_VERSIONS, span=span),
        frame_times=_frame_times(connection, events, span, advance),
        rejected_count=totals.rejected,
        rejected=queries.rejected(connection, limit=_MAX_REJECTED, span=span),
        moments=None if session is None else session_timeline(connection, session.session_id),
        answers=answers,
    )


# About the events.


class _Activity(msgspec.Struct):
    """See :class:`Report`."""

    first: int | None = None
    last: int | None = None
    timeline: TimelineBins = TimelineBins(1, [])
    displaced: int = 0
    by_received: bool = False


def _activity(
    connection: sqlite3.Connection, wanted: EventFilter, span: TimeRange, types: Sequence[str]
) -> _Activity:
    """Return when the events happened.

    A short time is shown by the second, and by the player's clock. In a longer one, nobody would
    see that, and the events have been counted already, by the collector's clock.
    """
    timeline = Timeline(types)
    first, last = queries.received(connection)
    first, last = max(first, span.start or 0), min(last, span.end or last)
    if wanted == EventFilter() and last - first > _LONG:
        past = history(connection, span)
        return _Activity(first, last, _bins(past, types), by_received=True)
    found = _Activity()
    for each in scans.activity(connection, wanted, span):
        timeline.add(each.first, each.type, each.events)
        found.first = each.first if found.first is None else min(found.first, each.first)
        found.last = each.last if found.last is None else max(found.last, each.last)
        found.displaced += each.displaced
    found.timeline = timeline.bins()
    return found


def _bins(past: History, types: Sequence[str]) -> TimelineBins:
    """Return the timeline of a history, with the same types."""
    named = [past.types.get(name) for name in types]
    others = [counts for name, counts in past.types.items() if name not in types]
    columns = []
    for index, start in enumerate(range(past.start, past.end, past.step)):
        counts = [0 if each is None else each[index] for each in named]
        columns.append((start // 1000, [*counts, sum(each[index] for each in others)]))
    return TimelineBins(past.step // 1000, columns)


def _frame_times(
    connection: sqlite3.Connection,
    wanted: EventFilter,
    span: TimeRange,
    advance: Callable[[int], None],
) -> FrameTimeSummary | None:
    frames = FrameTimes()
    found = scans.data_with(connection, wanted, FRAME_TIME_FIELDS, FRAME_TIME_PARTS, span)
    with contextlib.closing(ahead(found)) as pages:
        for last, data in pages:
            frames.add(frame_times(data))
            advance(last)
    return frames.summary()


# About the sessions.


def _tally_of(session: SessionDetail) -> _Tally:
    tally = _Tally(math.inf)
    tally.add_durations([(session.first_timestamp, session.last_timestamp)])
    tally.outcomes[session.outcome] += 1
    tally.deleted = session.deleted
    tally.add_losses(session)
    return tally


def _tally_of_all(connection: sqlite3.Connection, span: TimeRange) -> _Tally:
    tally = _Tally(MAX_PLAUSIBLE_MISSING)
    rows = queries.session_rows(connection, span)
    while some := list(islice(rows, _ROWS)):
        tally.add_durations([(row[4], row[5]) for row in some])
        tally.outcomes.update(row[8] for row in some)
    tally.deleted = queries.deleted(connection, span)
    for session in queries.stream_sessions(connection, span=span, only_incomplete=True):
        tally.add_losses(session)
    return tally


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

    def add_durations(self, times: Sequence[tuple[int, int]]) -> None:
        """Count sessions by their first and last time."""
        plausible = [last - first for first, last in times if is_date(first) and is_date(last)]
        self._durations.add([max(1, each) for each in plausible])
        self._has_implausible_times |= len(plausible) < len(times)

    def add_losses(self, session: Session) -> None:
        """Count the events that a session misses."""
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
