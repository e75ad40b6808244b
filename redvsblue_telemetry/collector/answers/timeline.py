"""One session as a timeline: which events it sent when, in which context, and how it ended.

The events of a session are read once, in windows, so that even a million of them take little
memory, and no query takes long. In a collector's database, an index leads to them, so that needs no
engine but SQLite.
"""

from __future__ import annotations

import sqlite3
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from typing import Any, NamedTuple, Protocol

import msgspec

from ..models import Outcome, SessionDetail, context_fields
from ..storage import queries
from ..storage.cutoff import NEVER, Cutoff
from ..storage.snapshot import snapshot
from .questions import ContextChange, Lane, Mark, Timeline

__all__ = ["AT", "SessionEvents", "timeline", "timeline_of"]

_MAX_STEPS = 200
_MAX_LANES = 40
_MAX_TYPES = 1000  # that are counted one by one; a game has fewer
_MAX_COUNTS = 100_000  # in memory, after which the rarest types are counted together
_MAX_CONTEXTS = 100
_MAX_MARKS = 200
_MAX_OF_A_KIND = 99  # of crashes and of gaps, so that there is room for others
_MAX_TEXT = 300  # characters of a mark

_SECOND, _MINUTE, _HOUR, _DAY = 1000, 60_000, 3_600_000, 86_400_000  # milliseconds
# Each is a multiple of the one before: steps that turn out to be too short are put together.
_LENGTHS = (
    *(10, 50, 100, 500, _SECOND, 5 * _SECOND, 10 * _SECOND, 30 * _SECOND),
    *(_MINUTE, 5 * _MINUTE, 15 * _MINUTE, 30 * _MINUTE),
    *(_HOUR, 3 * _HOUR, 12 * _HOUR, _DAY, 7 * _DAY, 28 * _DAY),
    *(364 * _DAY * 4**power for power in range(8)),
)

# A journal keeps events for thirty days. A clock that is ahead by more than a day is wrong.
AT = (
    f"CASE WHEN timestamp BETWEEN received - {30 * _DAY} AND received + {_DAY} "
    "THEN timestamp ELSE received END"
)
"""SQL for the time of an event."""

_COUNTS = f"""
SELECT types.name, step, number FROM (
    SELECT type, ({AT}) / :length AS step, count(*) AS number FROM events
    WHERE session = :session AND arrival BETWEEN :first AND :last GROUP BY 1, 2
) JOIN types ON types.key = type"""
_NOTABLE = f"""
SELECT arrival, seq, at, is_crash, context IS NOT earlier, contexts.text,
    types.name || ': ' || faults.text, CASE WHEN is_crash THEN data END
FROM (
    SELECT arrival, seq, type = :crash AS is_crash, {AT} AS at, context, fault, data,
        lag(context, 1, -1) OVER (ORDER BY arrival) AS earlier
    FROM events WHERE session = :session AND arrival BETWEEN :first AND :last
)
LEFT JOIN contexts ON contexts.key = context
LEFT JOIN faults ON faults.key = fault LEFT JOIN types ON types.key = faults.type
WHERE (:contexts AND context IS NOT earlier) OR (:faults AND fault IS NOT NULL) OR is_crash
    OR seq IN (SELECT value FROM json_each(:seqs))
ORDER BY arrival
"""


class _Crash(msgspec.Struct):
    exception: str = ""
    message: str = ""


_decode_crash = msgspec.json.Decoder(_Crash).decode


class NotableEvent(NamedTuple):
    """An event that changes the context, that stands out, or that is next to a gap."""

    arrival: int
    seq: int
    at: int
    is_crash: bool
    changes_context: bool
    """Whether its context is not that of the event before it in its window."""
    context: str | None
    fault: str | None
    """With the type of the event."""
    data: str | None
    """That of a crash."""


class SessionEvents(Protocol):
    """The events of one session, in windows."""

    def windows(self) -> Iterator[bool]:
        """Go to each window of arrivals, in order; yield whether it is the last one."""

    def counts(self, length: int) -> Iterable[tuple[str, int, int]]:
        """Return the number of the window's events by type and step, with a step's length."""

    def notable(
        self, *, contexts: bool, faults: bool, seqs: Sequence[int]
    ) -> Iterable[tuple[Any, ...]]:
        """Return a :class:`NotableEvent` of each of the window that is one, in order of arrival.

        Args:
            contexts: whether a change of context makes it one.
            faults: whether a fault makes it one.
            seqs: the numbers that are next to a gap.
        """


def timeline(
    connection: sqlite3.Connection,
    session_id: str,
    *,
    connected: AbstractSet[str] = frozenset(),
    now: int | None = None,
    cutoff: Cutoff = NEVER,
) -> Timeline | None:
    """Return the timeline of a session, or None if there is no session with this id.

    See :func:`.queries.session`. When the cutoff is due, it covers the first events only.
    """
    with snapshot(connection):
        known = queries.session_without_types(connection, session_id, connected=connected, now=now)
        if known is None:
            return None
        key, session = known
        span = queries.arrivals_of(connection, key)
    return timeline_of(session, _StoredEvents(connection, key, span, cutoff), cutoff)


def timeline_of(session: SessionDetail, events: SessionEvents, cutoff: Cutoff) -> Timeline:
    """Return the timeline of a session whose events are read now; see :func:`timeline`."""
    reading = _Reading(session, events)
    is_partial = False
    for is_last in events.windows():
        reading.read()
        if cutoff.is_due and not is_last:
            is_partial = True
            break
    return reading.timeline(is_partial=is_partial)


class _StoredEvents:
    """See :class:`SessionEvents`: those of a collector's database."""

    def __init__(
        self, connection: sqlite3.Connection, key: int, span: tuple[int, int], cutoff: Cutoff
    ) -> None:
        self._connection = connection
        self._key = key
        self._span = span
        self._cutoff = cutoff
        self._window: dict[str, int] = {}
        row = connection.execute("SELECT key FROM types WHERE name = 'crash'").fetchone()
        self._crash_type = -1 if row is None else row[0]

    def windows(self) -> Iterator[bool]:
        first, last = self._span
        for start, end in queries.windows(
            self._connection,
            first - 1,
            last + 1,
            newest_first=False,
            chosen=queries.plan_of_session(self._key),
            cutoff=self._cutoff,
        ):
            self._window = {"session": self._key, "first": start, "last": end}
            yield end >= last

    def counts(self, length: int) -> Iterable[tuple[str, int, int]]:
        return self._connection.execute(_COUNTS, {**self._window, "length": length}).fetchall()

    def notable(
        self, *, contexts: bool, faults: bool, seqs: Sequence[int]
    ) -> Iterable[tuple[Any, ...]]:
        return self._connection.execute(
            _NOTABLE,
            {
                **self._window,
                "crash": self._crash_type,
                "contexts": contexts,
                "faults": faults,
                "seqs": msgspec.json.encode(seqs).decode(),
            },
        )


class _Reading:
    """What is known of the events that have been read."""

    def __init__(self, session: SessionDetail, events: SessionEvents) -> None:
        self._session = session
        self._events = events
        self._lengths = iter(_LENGTHS)
        self._length = next(self._lengths)
        self._counts: Counter[tuple[str | None, int]] = Counter()  # by type and step
        self._contexts: list[ContextChange] = []
        self._context: str | None = None
        self._crashes: deque[Mark] = deque(maxlen=_MAX_OF_A_KIND)
        self._faults: list[Mark] = []
        self._gaps = _gaps(session)
        self._times: dict[int, int] = {}  # of the numbers next to a gap
        self._next_to_gaps = sorted(
            {number for first, last, _ in self._gaps for number in (first - 1, last + 1)}
        )

    def read(self) -> None:
        """Read the events of a window."""
        for name, step, count in self._events.counts(self._length):
            self._counts[name, step] += count
        self._shorten()
        self._forget_rare_types()
        found = self._events.notable(
            contexts=len(self._contexts) < _MAX_CONTEXTS,
            faults=len(self._faults) < _MAX_MARKS,
            seqs=self._next_to_gaps,
        )
        for event in map(NotableEvent._make, found):
            if event.changes_context:
                self._note_context(event.at, event.context)
            if event.is_crash:
                text = _crash_text(event.data or "")
                self._crashes.append(Mark(event.at, "crash", text, event.arrival))
            if event.fault is not None and len(self._faults) < _MAX_MARKS:
                text = event.fault[:_MAX_TEXT]
                self._faults.append(Mark(event.at, "fault", text, event.arrival))
            self._times[event.seq] = event.at

    def _shorten(self) -> None:
        """Put steps together until there are few enough."""
        while self._counts:
            steps = [step for _, step in self._counts]
            if max(steps) - min(steps) < _MAX_STEPS:
                return
            length = next(self._lengths)
            together: Counter[tuple[str | None, int]] = Counter()
            for (kind, step), count in self._counts.items():
                together[kind, step * self._length // length] += count
            self._counts, self._length = together, length

    def _forget_rare_types(self) -> None:
        """Count the events of the rarest types together if there are very many types."""
        if len(self._counts) > _MAX_COUNTS:
            kept = {kind for kind, _ in self._totals().most_common(_MAX_TYPES)}
            together: Counter[tuple[str | None, int]] = Counter()
            for (kind, step), count in self._counts.items():
                together[kind if kind in kept else None, step] += count
            self._counts = together

    def _totals(self) -> Counter[str | None]:
        """Return the number of events of each type; None is for all that are counted together."""
        totals: Counter[str | None] = Counter()
        for (kind, _), count in self._counts.items():
            totals[kind] += count
        return totals

    def _note_context(self, at: int, context: str | None) -> None:
        """Note the context of an event, if it is not that of the one before."""
        if context == self._context:
            return
        self._context = context
        if len(self._contexts) < _MAX_CONTEXTS:
            text = msgspec.UNSET if context is None else msgspec.Raw(context.encode())
            self._contexts.append(ContextChange(at, context_fields(text)))

    def timeline(self, *, is_partial: bool) -> Timeline:
        """Return the timeline of all that has been read."""
        session = self._session
        totals = self._totals()
        rest = totals.pop(None, 0)
        found = sorted((-count, name) for name, count in totals.items() if name is not None)
        session.types = {name: -count for count, name in found[:_MAX_TYPES]}
        session.partial = is_partial
        steps = [step for _, step in self._counts] or [session.first_received // self._length]
        first, last = min(steps), max(steps)
        lanes = {name: Lane(name, -count, []) for count, name in found[:_MAX_LANES]}
        rest += sum(-count for count, *_ in found[_MAX_LANES:])
        shown = [*lanes.values(), Lane("", rest, [])] if rest else [*lanes.values()]
        for lane in shown:
            lane.counts = [0] * (last - first + 1)
        for (name, step), count in self._counts.items():
            lane = shown[-1] if name is None else lanes.get(name, shown[-1])
            lane.counts[step - first] += count
        start = first * self._length
        return Timeline(
            session,
            start,
            (last + 1) * self._length,
            self._length,
            shown,
            self._contexts,
            self._marks(None if is_partial else start),
            is_partial,
        )

    def _marks(self, start: int | None) -> list[Mark]:
        """Return what stands out; a gap without a neighbor is at the start, if that is known."""
        session = self._session
        places = [
            (self._times.get(first - 1, self._times.get(last + 1, start)), text)
            for first, last, text in self._gaps
        ]
        others = [Mark(at, "gap", text) for at, text in places if at is not None]
        if session.outcome != Outcome.RUNNING:
            others.append(Mark(session.since, "end", session.reason or session.outcome))
        faults = self._faults[: _MAX_MARKS - len(self._crashes) - len(others)]
        return sorted([*self._crashes, *faults, *others], key=lambda mark: mark.at)


def _gaps(session: SessionDetail) -> list[tuple[int, int, str]]:
    """Return the first gaps: the first and the last number, and why the events are missing."""
    gaps: list[tuple[int, int, Counter[str]]] = []
    for loss in session.losses:
        if gaps and gaps[-1][1] + 1 == loss.first:
            first, _, causes = gaps.pop()
        elif len(gaps) == _MAX_OF_A_KIND:
            break
        else:
            first, causes = loss.first, Counter()
        causes[loss.cause] += loss.last - loss.first + 1
        gaps.append((first, loss.last, causes))
    return [
        (
            first,
            last,
            ", ".join(f"{count:,} {cause}" for cause, count in causes.items())[:_MAX_TEXT],
        )
        for first, last, causes in gaps
    ]


def _crash_text(data: str) -> str:
    try:
        crash = _decode_crash(data)
    except (msgspec.MsgspecError, RecursionError):  # a game's own event of that type
        return ""
    return ": ".join(filter(None, (crash.exception, crash.message)))[:_MAX_TEXT]
