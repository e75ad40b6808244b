"""The records that the collector answers with, and the filter that chooses among events.

One definition for everyone: the storage returns these records, the HTTP API and the live stream
encode them, and the client decodes them. Names in JSON are in camelCase, and times are in
milliseconds since the epoch unless a field says otherwise.

Pure: knows nothing of SQL, HTTP or threads.
"""

from __future__ import annotations

import json
from collections.abc import Iterable

import msgspec

__all__ = [
    "MAX_PAGE_SIZE",
    "EventFilter",
    "EventPage",
    "LiveUpdate",
    "RejectedMessage",
    "RejectedPage",
    "Session",
    "SessionDetail",
    "SessionPage",
    "Stats",
    "StoredEvent",
    "Totals",
]


MAX_PAGE_SIZE = 1000
"""The maximum number of records in one page of a response."""


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


class EventPage(msgspec.Struct):
    """One page of events."""

    events: list[StoredEvent]
    next: int
    """The cursor for the next page: ``after``, or ``before`` when the newest come first."""


class Session(msgspec.Struct, rename="camel"):
    """One run of a game."""

    session_id: str
    version: str | None
    events: int
    """How many events are stored, each counted once."""
    repeats: int
    """How many events arrived that were stored already."""
    missing: int
    """How many numbers below the highest have not arrived: those events are lost, or late."""
    highest: int
    first_timestamp: int
    last_timestamp: int
    first_received: int
    last_received: int
    connected: bool = False
    """Whether a client that sent events of this session is connected now.

    Only a running collector knows; a session that is read from the database alone says False.
    """


class SessionDetail(Session):
    """A session with its gaps and its event types."""

    gaps: list[tuple[int, int]] = []
    """The first and last number of each missing run; at most the first thousand runs."""
    types: dict[str, int] = {}
    """The number of events of each type; at most the thousand most frequent types."""


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
    sessions: int
    repeats: int
    missing: int
    rejected: int
    types: dict[str, int]
    """The number of events of each type; at most the thousand most frequent types."""


class Stats(Totals):
    """The counts, and the state of the running collector."""

    connections: int
    """How many clients are connected now."""
    last_error: str | None
    """Why nothing can be stored now; None if all is well."""


class LiveUpdate(msgspec.Struct, rename="camel"):
    """The news since the last update of the live stream; the first one has all recent events."""

    now: int
    """Seconds since the epoch."""
    seconds: list[tuple[int, dict[str, int]]]
    """The number of events of each type stored in each second that is over; gaps are zeros.

    With more than 40 types in a second, the others are counted together, as the type ``""``.
    """
    events: list[StoredEvent]
    """The newest events that match the viewer's filter, oldest first; at most 40."""
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


class EventFilter(msgspec.Struct):
    """Which events to return: those that match every field that is set."""

    type: str | None = None
    session: str | None = None
    text: str | None = None
    """Part of the data, as a person reads it or as JSON spells it; case-insensitive in a to z."""

    def spellings(self) -> list[bytes]:
        """Return the texts of which one must occur in the data's JSON, in lower case.

        ``text`` may be part of a string, where JSON escapes quotes and some clients escape
        everything but ASCII. Or it may be copied from pretty-printed JSON, which has spaces that
        the SDK does not send.
        """
        text = self.text or ""
        spellings = (
            text,
            text.replace('": ', '":').replace(', "', ',"'),
            json.dumps(text, ensure_ascii=False)[1:-1],
            json.dumps(text)[1:-1],
        )
        return sorted({spelling.encode(errors="replace").lower() for spelling in spellings})

    def matching(self, events: Iterable[StoredEvent]) -> list[StoredEvent]:
        """Return the events that match, by the same rules as a query of the database."""
        spellings = None if self.text is None else self.spellings()
        return [
            event
            for event in events
            if (self.type is None or event.type == self.type)
            and (self.session is None or event.session_id == self.session)
            and (spellings is None or _contains_any(event.data, spellings))
        ]


def _contains_any(data: msgspec.Raw, spellings: list[bytes]) -> bool:
    text = bytes(data).lower()
    return any(spelling in text for spelling in spellings)
