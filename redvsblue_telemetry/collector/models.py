"""The records that the collector answers with, and the filter that chooses among events.

One definition for everyone: the storage returns these records, the HTTP API and the live stream
encode them, and the client decodes them. Names in JSON are in camelCase, and times are in
milliseconds since the epoch unless a field says otherwise.

Pure: knows nothing of SQL, HTTP or threads.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from .._report import Report
from .textsearch import TextSearch

__all__ = [
    "ALL_TIME",
    "ANY_FAULT",
    "MAX_CONTEXT_VALUE_LENGTH",
    "MAX_PAGE_SIZE",
    "MAX_PLAUSIBLE_MISSING",
    "NO_FAULT",
    "Cause",
    "CrashGroup",
    "CrashPage",
    "EventFilter",
    "EventPage",
    "FaultGroup",
    "FaultPage",
    "Forgotten",
    "FramePage",
    "FrameSummary",
    "History",
    "LiveUpdate",
    "Loss",
    "Outcome",
    "RejectedMessage",
    "RejectedPage",
    "ResolvedRange",
    "Session",
    "SessionDetail",
    "SessionPage",
    "Stats",
    "Storage",
    "StoredEvent",
    "TimeRange",
    "Totals",
    "VersionHealth",
    "VersionPage",
    "context_fields",
]


MAX_PAGE_SIZE = 1000
"""The maximum number of records in one page of a response."""
MAX_CONTEXT_VALUE_LENGTH = 1000
"""The maximum number of characters of a value in a context that can be searched for."""

MAX_PLAUSIBLE_MISSING = 10**12
"""The most events that a session may miss to be believed: a thousand a second for thirty years."""

ANY_FAULT = "any"
"""In a filter: only events with a fault."""
NO_FAULT = "none"
"""In a filter: only events without a fault."""


class Outcome:
    """How a session stands, or how it ended."""

    RUNNING = "running"
    WELL = "well"
    """It was stopped, or its interpreter exited."""
    SWITCHED_OFF = "switched_off"
    """The player switched telemetry off."""
    CRASHED = "crashed"
    """An uncaught exception ended the game."""
    KILLED = "killed"
    """The process ended without a word; a later start of the game reported it."""
    NO_WORD = "no_word"
    """The connection is gone, nothing has arrived for five minutes, and no end was reported."""


class Cause:
    """Why an event is missing, besides the reasons that a report gives for a gap."""

    WAITING = "waiting"
    """It is not lost: it waits on the player's machine, or is on its way."""
    DROPPED = "dropped"
    """The client dropped it. The report says so in its totals, but had no room for the number."""
    UNEXPLAINED = "unexplained"
    """No report says why."""


class StoredEvent(msgspec.Struct, rename="camel", omit_defaults=True):
    """One event as it was received."""

    arrival: int
    """Its number in order of arrival. Numbers only grow and are never reused."""
    received: int
    """When it was stored, by the clock of the collector's machine."""
    session_id: str
    seq: int
    type: str
    timestamp: int
    """When it happened, by the clock of the player's machine."""
    id: str
    data: msgspec.Raw
    """The JSON text that the game sent, digit by digit."""
    version: str | None = None
    context: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    """The JSON text of its context, an object; UNSET, and absent in JSON, if it has none."""
    fault: str | None = None
    """Where and why its data does not fit the schema that the collector had when it was stored,
    such as ``data.damage: must be an integer, not a string``; None if it fits, or wasn't checked.
    """


class EventPage(msgspec.Struct, omit_defaults=True):
    """One page of events."""

    events: list[StoredEvent]
    next: int
    """The cursor for the next page: ``after``, or ``before`` when the newest come first."""
    partial: bool = False
    """Whether the search ended at its deadline before it had examined every event: the page has
    fewer events than the limit, or none, and more may follow from ``next``. Absent if not."""


class Session(msgspec.Struct, rename="camel"):
    """One run of a game."""

    session_id: str
    version: str | None
    events: int
    """How many events were received and stored, each counted once; also those that have been
    deleted since, see :attr:`deleted`."""
    repeats: int
    """How many events arrived that were stored already."""
    missing: int
    """How many numbers below the highest have not arrived: those events are lost, or late. Once the
    session has ended, the highest is the last number that its report names."""
    highest: int
    first_timestamp: int
    last_timestamp: int
    first_received: int
    last_received: int
    connected: bool = False
    """Whether a client that sent events of this session is connected now.

    Only a running collector knows; a session that is read from the database alone says False.
    """
    outcome: str = Outcome.RUNNING
    """See :class:`Outcome`."""
    since: int = 0
    """When that began. For a session that runs, its start; for one that ended, its end; both by the
    clock of the player's machine. With no word, when something last arrived."""
    reason: str | None = None
    """The reason of the end, as it was reported; None if no end was."""
    started_at: int | None = None
    """When it began, by the clock of the player's machine; None without a report."""
    last_seq: int | None = None
    """The highest number that an event of it has, as reported; None without a report."""
    reported: int | None = None
    """When the newest report was stored; None if there is none."""
    lost: dict[str, int] = {}
    """How many of the missing events are lost, by cause. With ``waiting``, they add up to
    ``missing``. The cause ``forwarded`` is not a loss: the event has another number."""
    waiting: int = 0
    """How many of the missing events are not lost; see :attr:`Cause.WAITING`."""
    sampled: dict[str, int] = {}
    """How many events sampling and rate limits left out, by type, as reported. These are not
    missing: they have no numbers. At most the twenty types with the most; of one session alone, the
    thousand."""
    crashes: int = 0
    """How many of its stored events are of the type ``crash``."""
    faults: int = 0
    """How many of its stored events have a fault."""
    deleted: int = 0
    """How many of its events were stored and then deleted, by the rules of ``--keep`` and
    ``--max-bytes`` or with the data of a person. They are not missing."""


class Loss(msgspec.Struct):
    """A run of numbers whose events are missing for one cause."""

    first: int
    last: int
    cause: str
    """The reason that the report gives, or a :class:`Cause`."""


class SessionDetail(Session):
    """A session with its gaps and its event types."""

    gaps: list[tuple[int, int]] = []
    """The first and last number of each missing run up to ``highest``; at most the first thousand
    runs."""
    types: dict[str, int] = {}
    """The number of events of each type; at most the thousand most frequent types."""
    losses: list[Loss] = []
    """The missing numbers with their causes, in ascending order; at most the first thousand runs.
    After the end of a session, those above ``highest`` are among them, up to ``last_seq``."""
    report: Report | None = None
    """The newest report, as the client sent it."""
    partial: bool = False
    """Whether the session has so many events that ``types`` counts only the first of them."""


class SessionPage(msgspec.Struct):
    """One page of sessions."""

    sessions: list[Session]


class RejectedMessage(msgspec.Struct):
    """A message, or a part of one, that was not a valid event."""

    arrival: int
    received: int
    reason: str
    text: str
    """Its first kilobyte; bytes that are not UTF-8 appear as U+FFFD."""


class RejectedPage(msgspec.Struct):
    """One page of rejected messages."""

    rejected: list[RejectedMessage]
    next: int
    """The cursor for the next page; see :class:`EventPage`."""


class Totals(msgspec.Struct, rename="camel"):
    """Counts over the whole database."""

    events: int
    """How many events are in the database now."""
    sessions: int
    repeats: int
    missing: int
    rejected: int
    types: dict[str, int]
    """The number of events of each type; at most the thousand most frequent types."""
    outcomes: dict[str, int] = {}
    """The number of sessions by :class:`Outcome`; all outcomes are in it."""
    sampled: dict[str, int] = {}
    """How many events sampling and rate limits left out, by type, as of the newest reports; at most
    the thousand types with the most. With ``types``, they make the exact totals. A session that
    claims more than :data:`MAX_PLAUSIBLE_MISSING` of a type doesn't count for it."""
    lost: dict[str, int] = {}
    """How many missing events the newest reports explain, by cause. Counted when a report is
    stored: a session without one adds nothing, and events that arrive after a report, or go
    missing, count from the next report on."""
    waiting: int = 0
    """How many of the missing events waited on the players' machines then. So the rest, ``missing``
    less these and ``lost``, is unexplained, or has gone missing since."""
    faults: int = 0
    """How many of the events have a fault."""
    implausible_sessions: int = 0
    """How many sessions miss more than :data:`MAX_PLAUSIBLE_MISSING` events: no game emits so many,
    so these have a wrong or hostile number."""
    implausible_missing: int = 0
    """How many of ``missing`` are of those sessions; ``lost`` and ``waiting`` leave them out."""


class Storage(msgspec.Struct, rename="camel"):
    """The room that the database takes, in bytes, and how long it will last."""

    used_bytes: int
    """What the data takes up, its write-ahead log included."""
    file_bytes: int
    """The size of the files. Deleted data leaves room in them for new data."""
    disk_free_bytes: int
    max_bytes: int | None = None
    """The most that the data may take up; the oldest events are deleted beyond it."""
    keep: dict[str, float] = {}
    """For how many seconds events are kept, by type; ``""`` is for all other types."""
    bytes_per_day: float | None = None
    """By how much the data grew in the last hours, less what was deleted, as a rate; None while
    that is unknown."""
    days_left: float | None = None
    """At that rate, until the disk is full; None if that is unknown, or never."""
    is_low: bool = False
    """Whether the disk will be full within a week, or has less room than a twentieth."""


class Forgotten(msgspec.Struct, rename="camel", omit_defaults=True):
    """The receipt for data that was deleted on request: no file of the database has it."""

    at: int
    """When the last of it was deleted."""
    events: int
    sessions: int
    """How many sessions were deleted: those that were left without an event."""
    session: str | None = None
    """The id of the session that was asked for; absent if it was a field of the context."""
    context: dict[str, str] = {}
    """The field that was asked for, with its value; absent if it was a session."""
    rejected: int = 0
    """How many rejected messages mentioned it; their text was deleted. Absent if none."""


class Stats(Totals, kw_only=True):
    """The counts, and the state of the running collector."""

    storage: Storage | None = None
    """The room that the database takes; None if that can't be read."""

    connections: int
    """How many clients are connected now."""
    last_error: str | None
    """Why nothing can be stored now; None if all is well."""


class VersionHealth(msgspec.Struct, rename="camel"):
    """The sessions of one version of the game's build, by outcome."""

    version: str | None
    sessions: int
    running: int = 0
    well: int = 0
    switched_off: int = 0
    crashed: int = 0
    killed: int = 0
    no_word: int = 0
    crash_free: float | None = None
    """The share of the sessions whose end is known that ended well or were switched off; None if
    no end is known."""


class VersionPage(msgspec.Struct):
    """The versions."""

    versions: list[VersionHealth]


class CrashGroup(msgspec.Struct, rename="camel"):
    """The crashes with one exception in one place. Times are those of :attr:`StoredEvent.received`.

    An event is a crash if its type is ``crash``.
    """

    exception: str
    place: str
    """The innermost line of the stack; empty if there is none."""
    message: str
    """The message of the newest."""
    count: int
    sessions: int
    """The number of sessions with such a crash."""
    versions: list[str]
    """The versions of the builds with such a crash, the newest crash's first."""
    first: int
    last: int
    newest: StoredEvent


class CrashPage(msgspec.Struct):
    """The groups of crashes, the one with the newest crash first."""

    crashes: list[CrashGroup]


class FaultGroup(msgspec.Struct, rename="camel"):
    """The events of one type with one fault. Times are those of :attr:`StoredEvent.received`."""

    type: str
    fault: str
    """See :attr:`StoredEvent.fault`. Events with other values in the same places have the same."""
    count: int
    sessions: int
    """The number of sessions with such an event."""
    versions: list[str]
    """The versions of the builds that sent such events, the newest event's first; at most a
    hundred."""
    first: int
    last: int
    newest: StoredEvent


class FaultPage(msgspec.Struct):
    """The groups of events with a fault, the one with the newest event first."""

    faults: list[FaultGroup]


class FrameSummary(msgspec.Struct, rename="camel"):
    """The frame times of one version of the game's build, from its ``frames`` events.

    Durations are in milliseconds, except for ``seconds``. An event has the percentiles of one
    interval, from which those of many intervals can't be computed. So each percentile here is the
    median of the intervals' percentiles, weighted by their frames.
    """

    version: str | None
    seconds: float
    """How long the frames took, all together."""
    frames: int
    p50: float
    p95: float
    p99: float
    max: float
    hitches: int
    """Frames that took more than twice the median of their interval."""
    over_time: list[tuple[int, float, float, float]] = []
    """For each part of the version's time, in order: when it began, and the percentiles in it; at
    most a hundred parts, of equal length; parts without frames are left out."""


class FramePage(msgspec.Struct):
    """The versions with frame times, the one with the newest first."""

    frames: list[FrameSummary]


class LiveUpdate(msgspec.Struct, rename="camel"):
    """The news since the last update of the live stream; the first one has all recent events."""

    now: int
    """Seconds since the epoch."""
    seconds: list[tuple[int, dict[str, int]]]
    """The number of events of each type stored in each second that is over; gaps are zeros.

    With more than 40 types in a second, the others are counted together, as the type ``""``.
    """
    events: list[StoredEvent]
    """The newest events that match the viewer's filter, in order of arrival; at most 40, which the
    sessions share: one that sends more than the others doesn't hide theirs."""
    arrived: int
    """How many events were stored since the last update, matching or not."""
    skipped: int
    """How many of those were not examined because too many arrived at once."""
    matching: int
    """How many of those that were examined match the viewer's filter."""
    total: int
    """How many events were stored since the collector started."""
    repeats: int
    """How many repeats arrived since the collector started."""
    rejected: int
    """How many messages, or parts of them, were rejected since the collector started."""
    connections: int
    """How many clients are connected now."""


class TimeRange(msgspec.Struct, frozen=True):
    """A span of time, in milliseconds since the epoch by the collector's clock."""

    start: int | None = None
    """The first millisecond of it; None is the beginning of time."""
    end: int | None = None
    """The first millisecond after it; None is the end of time."""


ALL_TIME = TimeRange()
"""The range of everything."""


class ResolvedRange(msgspec.Struct, rename="camel"):
    """A range that was given in words."""

    start: int | None = msgspec.field(name="from")
    """The first millisecond of it; None is the beginning of time."""
    end: int | None = msgspec.field(name="to")
    """The first millisecond after it; None if it reaches the present, and goes on with it."""
    is_open: bool
    """Whether it reaches the present."""
    words: str
    """In their usual spelling."""


class History(msgspec.Struct, rename="camel"):
    """How many events were received in each step of a range."""

    start: int = msgspec.field(name="from")
    """When the first step begins."""
    end: int = msgspec.field(name="to")
    """When the last step ends."""
    step: int
    """The length of a step, in milliseconds."""
    types: dict[str, list[int]]
    """The number of events of each type in each step, for the most frequent types, the most
    frequent first. The others are counted together, as the type ``""``, the last."""
    total: int


class EventFilter(msgspec.Struct):
    """Which events to return: those that match every field that is set."""

    type: str | None = None
    session: str | None = None
    text: str | None = None
    """Part of the data, as a person reads it or as JSON spells it; case-insensitive in a to z.

    It must begin at the beginning of a word, and may end within one. After a leading ``*``, it may
    begin anywhere; such a search takes longer. See :mod:`.textsearch`."""
    context: dict[str, str] = {}
    """Fields of the context with their values, as :func:`context_fields` returns them."""
    fault: str | None = None
    """:data:`ANY_FAULT`, :data:`NO_FAULT`, or part of the fault; case-insensitive in a to z."""

    def matching(self, events: Iterable[StoredEvent]) -> list[StoredEvent]:
        """Return the events that match, by the same rules as a query of the database."""
        search = None if self.text is None else TextSearch(self.text)
        return [
            event
            for event in events
            if (self.type is None or event.type == self.type)
            and (self.session is None or event.session_id == self.session)
            and (search is None or search.fits(bytes(event.data).lower().decode(errors="replace")))
            and (not self.context or self.context.items() <= context_fields(event.context).items())
            and (self.fault is None or self._has_fault(event.fault))
        ]

    def _has_fault(self, fault: str | None) -> bool:
        if self.fault == NO_FAULT:
            return fault is None
        if fault is None or self.fault is None:
            return False
        return self.fault == ANY_FAULT or _folded(self.fault) in _folded(fault)


def _folded(text: str) -> bytes:
    return text.encode(errors="replace").lower()  # only a to z, as in SQLite


_decode_fields = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_decode_text = msgspec.json.Decoder(str).decode


def context_fields(context: msgspec.Raw | msgspec.UnsetType) -> dict[str, str]:
    """Return the fields of a context: a string as its text, any other value as its JSON.

    A context that is not an object has no fields.
    """
    if context is msgspec.UNSET:
        return {}
    try:
        return {name: _as_text(value) for name, value in _decode_fields(context).items()}
    except (msgspec.MsgspecError, RecursionError):
        return {}


def _as_text(value: msgspec.Raw) -> str:
    json_text = bytes(value)
    return _decode_text(json_text) if json_text[:1] == b'"' else json_text.decode()
