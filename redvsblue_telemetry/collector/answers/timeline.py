"""One session as a timeline: which events it sent when, in which context, and how it ended.

It needs no engine but SQLite: an index leads to the events of a session. They are read once, in
windows, so that even a million of them take little memory, and no query takes long.
"""

from __future__ import annotations

import sqlite3
from collections import Counter, deque
from collections.abc import Set as AbstractSet

import msgspec

from ..models import Outcome, SessionDetail, context_fields
from ..storage import queries
from ..storage.cutoff import NEVER, Cutoff
from ..storage.snapshot import snapshot
from .questions import ContextChange, Lane, Mark, Timeline

__all__ = ["timeline"]

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

_OTHERS = -1  # instead of the key of a type
# A journal keeps events for thirty days. A clock that is ahead by more than a day is wrong.
_AT = f"iif(timestamp BETWEEN received - {30 * _DAY} AND received + {_DAY}, timestamp, received)"
_COUNTS = (
    f"SELECT type, ({_AT}) / :length, count(*) FROM events "
    "WHERE session = :session AND arrival BETWEEN :first AND :last GROUP BY 1, 2"
)
# The events that change the context, and those that stand out or are next to a gap.
_NOTABLE = f"""
SELECT arrival, seq, type = :crash, at, context, context IS NOT earlier, fault,
    CASE WHEN type = :crash THEN data END
FROM (
    SELECT arrival, seq, type, {_AT} AS at, context, fault, data,
        lag(context, 1, -1) OVER (ORDER BY arrival) AS earlier
    FROM events WHERE session = :session AND arrival BETWEEN :first AND :last
)
WHERE (:contexts AND context IS NOT earlier) OR (:faults AND fault IS NOT NULL) OR type = :crash
    OR seq IN (SELECT value FROM json_each(:seqs))
ORDER BY arrival
"""


class _Crash(msgspec.Struct):
    exception: str = ""
    message: str = ""


_decode_crash = msgspec.json.Decoder(_Crash).decode


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
        first, last = queries.arrivals_of(connection, key)
    reading = _Reading(connection, key, session)
    is_partial = False
    for start, end in queries.windows(
        connection,
        first - 1,
        last + 1,
        newest_first=False,
        chosen=queries.plan_of_session(key),
        cutoff=cutoff,
    ):
        reading.read(start, end)
        if cutoff.is_due and end < last:
            is_partial = True
            break
    return reading.timeline(is_partial=is_partial)


class _Reading:
    """What is known of the events that have been read."""

    def __init__(self, connection: sqlite3.Connection, key: int, session: SessionDetail) -> None:
        self._connection = connection
        self._key = key
        self._session = session
        row = connection.execute("SELECT key FROM types WHERE name = 'crash'").fetchone()
        self._crash_type = -1 if row is None else row[0]
        self._lengths = iter(_LENGTHS)
        self._length = next(self._lengths)
        self._counts: Counter[tuple[int, int]] = Counter()  # by type and step
        self._contexts: list[ContextChange] = []
        self._context: int | None = None
        self._crashes: deque[Mark] = deque(maxlen=_MAX_OF_A_KIND)
        self._faults: list[Mark] = []
        self._gaps = _gaps(session)
        self._times: dict[int, int] = {}  # of the numbers next to a gap
        self._next_to_gaps = msgspec.json.encode(
            sorted({number for first, last, _ in self._gaps for number in (first - 1, last + 1)})
        ).decode()

    def read(self, first: int, last: int) -> None:
        """Read the events of a window."""
        window = {"session": self._key, "first": first, "last": last}
        counts = self._connection.execute(_COUNTS, {**window, "length": self._length})
        for kind, step, count in counts.fetchall():
            self._counts[kind, step] += count
        self._shorten()
        self._forget_rare_types()
        notable = self._connection.execute(
            _NOTABLE,
            {
                **window,
                "crash": self._crash_type,
                "contexts": len(self._contexts) < _MAX_CONTEXTS,
                "faults": len(self._faults) < _MAX_MARKS,
                "seqs": self._next_to_gaps,
            },
        )
        for arrival, seq, is_crash, at, context, is_change, fault, data in notable:
            if is_change:
                self._note_context(at, context)
            if is_crash:
                self._crashes.append(Mark(at, "crash", _crash_text(data), arrival))
            if fault is not None and len(self._faults) < _MAX_MARKS:
                self._faults.append(Mark(at, "fault", self._fault_text(fault), arrival))
            self._times[seq] = at

    def _shorten(self) -> None:
        """Put steps together until there are few enough."""
        while self._counts:
            steps = [step for _, step in self._counts]
            if max(steps) - min(steps) < _MAX_STEPS:
                return
            length = next(self._lengths)
            together: Counter[tuple[int, int]] = Counter()
            for (kind, step), count in self._counts.items():
                together[kind, step * self._length // length] += count
            self._counts, self._length = together, length

    def _forget_rare_types(self) -> None:
        """Count the events of the rarest types together if there are very many types."""
        if len(self._counts) > _MAX_COUNTS:
            kept = {kind for kind, _ in self._totals().most_common(_MAX_TYPES)}
            together: Counter[tuple[int, int]] = Counter()
            for (kind, step), count in self._counts.items():
                together[kind if kind in kept else _OTHERS, step] += count
            self._counts = together

    def _totals(self) -> Counter[int]:
        """Return the number of events of each type."""
        totals: Counter[int] = Counter()
        for (kind, _), count in self._counts.items():
            totals[kind] += count
        return totals

    def _note_context(self, at: int, context: int | None) -> None:
        """Note the context of an event, if it is not that of the one before."""
        if context == self._context:
            return
        self._context = context
        if len(self._contexts) < _MAX_CONTEXTS:
            query = "SELECT text FROM contexts WHERE key = ?"
            row = self._connection.execute(query, (context,)).fetchone()
            text = msgspec.UNSET if row is None else msgspec.Raw(row[0].encode())
            self._contexts.append(ContextChange(at, context_fields(text)))

    def _fault_text(self, fault: int) -> str:
        """Return a fault, with the type of its events."""
        row = self._connection.execute(
            "SELECT types.name || ': ' || faults.text FROM faults JOIN types "
            "ON types.key = faults.type WHERE faults.key = ?",
            (fault,),
        ).fetchone()
        return "" if row is None else str(row[0])[:_MAX_TEXT]

    def timeline(self, *, is_partial: bool) -> Timeline:
        """Return the timeline of all that has been read."""
        session = self._session
        totals = self._totals()
        rest = totals.pop(_OTHERS, 0)
        names = dict(self._connection.execute("SELECT key, name FROM types"))
        found = sorted((-count, names.get(kind, ""), kind) for kind, count in totals.items())
        session.types = {name: -count for count, name, _ in found[:_MAX_TYPES]}
        session.partial = is_partial
        steps = [step for _, step in self._counts] or [session.first_received // self._length]
        first, last = min(steps), max(steps)
        lanes = {kind: Lane(name, -count, []) for count, name, kind in found[:_MAX_LANES]}
        rest += sum(-count for count, *_ in found[_MAX_LANES:])
        shown = [*lanes.values(), Lane("", rest, [])] if rest else [*lanes.values()]
        for lane in shown:
            lane.counts = [0] * (last - first + 1)
        for (kind, step), count in self._counts.items():
            lanes.get(kind, shown[-1]).counts[step - first] += count
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
