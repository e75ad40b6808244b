"""Decides when an alert begins and when it ends, from counts of stored events and sessions.

Pure: no clock, no network. The shares are those of the last hour, counted by the minute in memory.
An alert begins once its condition has held for a minute, and ends once the condition has not held
for five, so a value that flutters around its limit makes one alert. A share needs a few bad cases
before it counts: one crash among the two sessions of a night is 50 %, and wakes nobody.

An alert holds counts and times. Nothing that a player or a game sent is in it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

import msgspec

from .models import Outcome
from .storage.writer import Stored

__all__ = ["ALERTS", "FIRING", "RESOLVED", "Alert", "Conditions", "Watch", "as_message", "line"]

FIRING, RESOLVED = "firing", "resolved"

WINDOW = 3600.0
"""Seconds that the shares are of."""
HOLDS_FOR = 60.0
"""Seconds that a condition must hold before the alert begins."""
IS_OVER_FOR = 300.0
"""Seconds that a condition must not hold before the alert ends."""
_PART = 60.0  # seconds that are counted together
_FEWEST_SESSIONS = 3  # that crashed, or have gaps; fewer are ignored
_FEWEST_PARTS = 20  # that were rejected, or are faulty


class Conditions(msgspec.Struct, frozen=True, rename="kebab"):
    """When to alert. None turns a condition off."""

    crash_free: float | None = 0.99
    """The share of the sessions that ended without a crash is less than this."""
    gaps: float | None = 0.01
    """The share of the sessions that ended and miss events without a cause is more than this."""
    rejected: float | None = 0.01
    """The share of rejected messages and parts of messages is more than this."""
    faulty: float | None = 0.01
    """The share of the events that do not fit the schema is more than this."""
    silence: float | None = 86_400.0
    """Nothing has arrived for more than this, in seconds, although something had before."""
    disk: bool | None = True
    """The disk is almost full; see :attr:`.models.Storage.is_low`."""
    storing: bool | None = True
    """Events can't be stored."""


ALERTS = Conditions.__struct_encode_fields__
"""The names of all alerts."""


class Alert(msgspec.Struct, frozen=True, omit_defaults=True):
    """The beginning of an alert, or its end. Times are in milliseconds since the epoch."""

    name: str
    """One of :data:`ALERTS`, or ``test``."""
    state: str
    """``firing`` or ``resolved``."""
    since: int
    """When the condition began to hold."""
    at: int
    """When this was decided."""
    value: float | None = None
    """A share from 0 to 1, or seconds. Absent where nothing is measured, as for ``disk``."""
    limit: float | None = None
    counts: dict[str, int] = {}
    """The counts that a share is computed from, over the last hour."""
    page: str = ""
    """The address of the collector's page."""


class _Counts(msgspec.Struct):
    """The counts of one part of the window."""

    part: int
    stored: int = 0
    rejected: int = 0
    faulty: int = 0
    ended: int = 0
    crashed: int = 0
    killed: int = 0
    with_gaps: int = 0


class _Measured(msgspec.Struct):
    """Whether a condition holds, and by which numbers."""

    holds: bool
    value: float | None = None
    limit: float | None = None
    counts: dict[str, int] = {}


class _Alarm(msgspec.Struct):
    """The state of one condition."""

    is_firing: bool = False
    differs_since: float | None = None  # since when the condition is not as the alert has it
    began: int = 0  # when it began to hold, in milliseconds since the epoch


class Watch:
    """Watches the stored groups. Times passed in are monotonic seconds unless they say otherwise.

    Args:
        conditions: when to alert.
        page: the address of the collector's page.
    """

    def __init__(self, conditions: Conditions, page: str = "") -> None:
        self._limits: dict[str, float | bool | None] = {
            name: getattr(conditions, field)
            for name, field in zip(ALERTS, Conditions.__struct_fields__, strict=True)
        }
        self.page = page
        self._parts: deque[_Counts] = deque(maxlen=int(WINDOW / _PART) + 1)
        self._arrived_at: float | None = None  # when something last arrived
        self._alarms = {name: _Alarm() for name, limit in self._limits.items() if limit}

    @property
    def firing(self) -> dict[str, bool]:
        """Whether each alert is firing."""
        return {name: name in self._alarms and self._alarms[name].is_firing for name in ALERTS}

    def record(self, stored: Stored, now: float) -> None:
        """Count a group that was just stored."""
        if stored.events or stored.repeats or stored.rejected or stored.reports:
            self._arrived_at = now
        counts = self._counts(now)
        counts.stored += len(stored.events)
        counts.rejected += stored.rejected
        counts.faulty += len(stored.faults)
        for end in stored.ends:
            self.record_end(end.outcome, now, has_gaps=end.has_gaps)

    def record_arrival(self, at: float) -> None:
        """Note that something arrived, before this process ran."""
        self._arrived_at = at if self._arrived_at is None else max(at, self._arrived_at)

    def record_end(self, outcome: str, at: float, *, has_gaps: bool) -> None:
        """Count the end of a session. Ends from before this process ran come in ascending order."""
        counts = self._counts(at)
        counts.ended += 1
        counts.crashed += outcome == Outcome.CRASHED
        counts.killed += outcome == Outcome.KILLED
        counts.with_gaps += has_gaps

    def _counts(self, now: float) -> _Counts:
        part = int(now // _PART)
        if not self._parts or self._parts[-1].part < part:
            self._parts.append(_Counts(part))
        return self._parts[-1]

    def look(self, now: float, at: int, *, disk_is_low: bool, is_storing: bool) -> Iterable[Alert]:
        """Return the alerts that begin or end now.

        Args:
            now: monotonic seconds; call this a few times a minute.
            at: the same moment in milliseconds since the epoch.
            disk_is_low: whether the disk is almost full.
            is_storing: whether events can be stored.
        """
        found = self._measure(now, disk_is_low=disk_is_low, is_storing=is_storing)
        changes = []
        for name, alarm in self._alarms.items():
            measured = found[name]
            if measured.holds == alarm.is_firing:
                alarm.differs_since = None
                continue
            if alarm.differs_since is None:
                alarm.differs_since = now
                if measured.holds:
                    alarm.began = at
            if now - alarm.differs_since < (HOLDS_FOR if measured.holds else IS_OVER_FOR):
                continue
            alarm.is_firing, alarm.differs_since = measured.holds, None
            changes.append(
                Alert(
                    name,
                    FIRING if measured.holds else RESOLVED,
                    alarm.began,
                    at,
                    measured.value,
                    measured.limit,
                    measured.counts,
                    self.page,
                )
            )
        return changes

    def _measure(self, now: float, *, disk_is_low: bool, is_storing: bool) -> dict[str, _Measured]:
        oldest = int((now - WINDOW) // _PART)
        sums = _Counts(0)
        for counts in self._parts:
            if counts.part > oldest:
                for field in _Counts.__struct_fields__:
                    setattr(sums, field, getattr(sums, field) + getattr(counts, field))
        bad_ends = sums.crashed + sums.killed
        crash_free = _Measured(
            holds=False,
            value=1 - bad_ends / sums.ended if sums.ended else None,
            limit=self._limits["crash-free"],
            counts={"sessions": sums.ended, "crashed": sums.crashed, "killed": sums.killed},
        )
        if crash_free.value is not None and crash_free.limit is not None:
            crash_free.holds = bad_ends >= _FEWEST_SESSIONS and crash_free.value < crash_free.limit
        return {
            "crash-free": crash_free,
            "gaps": self._share("gaps", sums.with_gaps, sums.ended, "sessions", _FEWEST_SESSIONS),
            "rejected": self._share(
                "rejected", sums.rejected, sums.stored + sums.rejected, "arrived", _FEWEST_PARTS
            ),
            "faulty": self._share("faulty", sums.faulty, sums.stored, "events", _FEWEST_PARTS),
            "silence": self._silence(now),
            "disk": _Measured(disk_is_low),
            "storing": _Measured(not is_storing),
        }

    def _share(self, name: str, bad: int, all_: int, unit: str, fewest: int) -> _Measured:
        limit = self._limits[name]
        value = bad / all_ if all_ else None
        holds = value is not None and limit is not None and bad >= fewest and value > limit
        return _Measured(holds, value, limit, {unit: all_, name: bad})

    def _silence(self, now: float) -> _Measured:
        limit = self._limits["silence"]
        if self._arrived_at is None or limit is None:
            return _Measured(holds=False, limit=limit)
        value = max(0.0, now - self._arrived_at)
        return _Measured(value > limit, round(value, 3), limit)


class _Message(msgspec.Struct):
    """The body of a request: the alert, and one line for chats.

    Slack and Mattermost show ``text``, Discord shows ``content``; each ignores the rest.
    """

    text: str
    content: str
    alert: Alert


def as_message(alert: Alert) -> bytes:
    """Return the JSON to post for an alert."""
    text = line(alert)
    return msgspec.json.encode(_Message(text, text, alert))


def line(alert: Alert) -> str:
    """Return an alert as a line for people, without the characters that Slack gives a meaning."""
    if alert.name == "test":
        text = "This is a test: alerts of the telemetry collector arrive here."
    else:
        sentence = _SENTENCES[alert.name]
        text = ("Alert: " if alert.state == FIRING else "Resolved: ") + sentence(alert)
    return f"{text} {alert.page}".strip()


def _crash_free(alert: Alert) -> str:
    counts = alert.counts
    if not counts["sessions"]:
        return "no session ended in the last hour."
    return (
        f"{_percent(alert.value)} of {counts['sessions']} sessions that ended in the last hour "
        f"were crash-free (limit {_percent(alert.limit)}; crashed: {counts['crashed']}, "
        f"killed: {counts['killed']})."
    )


def _gaps(alert: Alert) -> str:
    return (
        f"{alert.counts['gaps']} of {alert.counts['sessions']} sessions that ended in the last "
        f"hour miss events without a known cause (limit {_percent(alert.limit)})."
    )


def _rejected(alert: Alert) -> str:
    return (
        f"{alert.counts['rejected']} of {alert.counts['arrived']} messages or events of the last "
        f"hour were rejected (limit {_percent(alert.limit)})."
    )


def _faulty(alert: Alert) -> str:
    return (
        f"{alert.counts['faulty']} of {alert.counts['events']} events of the last hour do not fit "
        f"the schema (limit {_percent(alert.limit)})."
    )


def _silence(alert: Alert) -> str:
    if alert.state == RESOLVED:
        return "something arrives again."
    return f"nothing has arrived for {_time(alert.value)} (limit {_time(alert.limit)})."


def _disk(alert: Alert) -> str:
    return "the disk has room." if alert.state == RESOLVED else "the disk is almost full."


def _storing(alert: Alert) -> str:
    if alert.state == RESOLVED:
        return "events are stored again."
    return "events can't be stored; the collector's log has the reason."


_SENTENCES = {
    "crash-free": _crash_free,
    "gaps": _gaps,
    "rejected": _rejected,
    "faulty": _faulty,
    "silence": _silence,
    "disk": _disk,
    "storing": _storing,
}


def _percent(share: float | None) -> str:
    return f"{(share or 0) * 100:.4g}%"


def _time(seconds: float | None) -> str:
    for unit, length in (("days", 86_400), ("hours", 3600), ("minutes", 60)):
        if seconds is not None and seconds >= 2 * length:
            return f"{seconds / length:.3g} {unit}"
    return f"{seconds or 0:.3g} seconds"
