"""The questions, and their answers as the API and the command line give them. Pure.

Names in JSON are in camelCase. Times are in milliseconds since the epoch, by the collector's clock
unless a field says otherwise. A percentile is the nearest rank: a value that an event has.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import msgspec

from ..models import SessionDetail, TimeRange

__all__ = [
    "MAX_ECHO",
    "Bin",
    "Cohort",
    "Compare",
    "ComparePage",
    "ComparedField",
    "ComparedFrames",
    "ComparedVersion",
    "Condition",
    "ContextChange",
    "Field",
    "FieldAnswer",
    "FieldGroup",
    "FieldPage",
    "Fields",
    "Filters",
    "Funnel",
    "FunnelAnswer",
    "FunnelStep",
    "KnownField",
    "Lane",
    "Leavers",
    "Mark",
    "Point",
    "Question",
    "QuestionError",
    "ReachedStep",
    "Retained",
    "Retention",
    "RetentionAnswer",
    "Timeline",
    "TypeCount",
    "Value",
    "Values",
    "ValuesAnswer",
    "as_number",
    "field_name",
    "funnel_step",
]

MAX_ECHO = 100
"""Characters of the question that an error repeats."""

_OF_THE_EVENT = ("version", "type", "session", "outcome")
_PREFIXES = ("data.", "context.")
_is_step = re.compile(r"(.+?)((?:\[[^\[\]=]+=[^\[\]]*\])*)", re.DOTALL).fullmatch
_conditions_in = re.compile(r"\[([^\[\]=]+)=([^\[\]]*)\]").findall
_is_number = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?").fullmatch


class QuestionError(ValueError):
    """The question has no answer; the message says why, and what can be asked."""


def field_name(name: str) -> str:
    """Return the whole name of a field: ``damage`` is short for ``data.damage``."""
    if name in _OF_THE_EVENT or name.startswith(_PREFIXES):
        return name
    return f"data.{name}"


def as_number(text: str) -> float | None:
    """Return the number that a text spells as JSON does, as a double; None if it doesn't."""
    if not _is_number(text):
        return None
    number = float(text)
    return None if number in (float("inf"), float("-inf")) else number


class Condition(msgspec.Struct, frozen=True):
    """A field and its value, as text; a number fits the text that spells it, such as ``12``."""

    field: str
    value: str


class Filters(msgspec.Struct, frozen=True):
    """Which events a question is about: those that were received in a range, and fit all."""

    span: TimeRange = TimeRange()
    conditions: tuple[Condition, ...] = ()


class Question(msgspec.Struct, kw_only=True):
    """What all questions have in common."""

    filters: Filters = Filters()


class Fields(Question):
    """Which fields there are."""

    type: str | None = None
    """Those of its events; None for the fields of all contexts."""


class KnownField(msgspec.Struct):
    """A field."""

    name: str
    """Such as ``data.damage`` or ``context.player``."""
    kind: str
    """``number``, ``text``, or ``both``."""
    share: float
    """Of the events that have it, from 0 to 1; of contexts, among the newest thousand events."""
    examples: Sequence[str | float]
    """A few values."""


class FieldPage(msgspec.Struct):
    """The answer to :class:`Fields`: those of the data, the most frequent first, then of contexts.

    ``version``, ``type``, ``session`` and ``outcome`` are fields of all events, and not in it.
    """

    fields: list[KnownField]


class Field(Question):
    """How a number in the events of a type is distributed, and how that changes over time."""

    type: str
    field: str
    by: str | None = None
    """A field: the answer is also given for each of its most frequent values."""
    limit: int = 8
    """The most groups."""
    offset: int = 0
    """The zone of the viewer, whose days the steps begin with: minutes east of UTC."""


class Bin(msgspec.Struct):
    """A bar of a histogram: numbers from ``low`` to below ``high``; in the last bin, to ``high``.

    All are equally wide, but the first and the last one, which extend to the extremes.
    """

    low: float
    high: float
    count: int


class Point(msgspec.Struct):
    """A step of time, from ``at``. Steps without an event are left out."""

    at: int
    count: int
    p50: float
    p95: float
    p99: float


class FieldGroup(msgspec.Struct, rename="camel"):
    """The events with one value of the field that was asked for as ``by``."""

    value: str | float | None
    """None is the group of the events without that field."""
    count: int
    mean: float
    min: float
    max: float
    p50: float
    p95: float
    p99: float
    over_time: list[tuple[int, int, float, float]] = []
    """For each step: when it begins, the count, the median and the 95th percentile."""


class FieldAnswer(msgspec.Struct, rename="camel"):
    """The answer to :class:`Field`."""

    count: int
    """How many events have a number there."""
    mean: float | None
    min: float | None
    max: float | None
    p50: float | None
    p95: float | None
    p99: float | None
    absent: int
    """How many events of the type have no number there."""
    histogram: list[Bin] = []
    """At most 40 bins."""
    step: int = 0
    over_time: list[Point] = []
    by: str | None = None
    groups: list[FieldGroup] = []
    """The most frequent ones."""
    others: int = 0
    """How many events with a number are in no group of these."""


class Values(Question):
    """Which values a field of the events of a type has, and how often."""

    type: str
    field: str
    limit: int = 50


class Value(msgspec.Struct):
    """A value, the number of events with it, and their share of all with a value."""

    value: str | float
    count: int
    share: float
    sessions: int


class ValuesAnswer(msgspec.Struct):
    """The answer to :class:`Values`, the most frequent values first."""

    count: int
    """How many events have a value there."""
    absent: int
    """How many events of the type have none there."""
    distinct: int
    """How many values there are."""
    values: list[Value] = []


class Compare(Question):
    """Versions of the game's build, side by side."""

    versions: Sequence[str]
    type: str | None = None
    field: str | None = None
    """With ``type``: a number in its events."""


class ComparedFrames(msgspec.Struct, rename="camel"):
    """Frame times in milliseconds: medians of the intervals' percentiles, weighted by frames."""

    p50: float
    p95: float
    p99: float
    hitches_per_minute: float


class ComparedField(msgspec.Struct):
    """The field of one version."""

    count: int
    mean: float
    p50: float
    p95: float
    p99: float


class ComparedVersion(msgspec.Struct, rename="camel"):
    """One version: the sessions that were last heard of in the range."""

    version: str
    sessions: int
    ended: int
    """How many of them have a known end."""
    crashed: int
    killed: int
    crash_free: float | None
    """The share of those that ended well or were switched off; None if no end is known."""
    events: int
    """How many events those sessions sent."""
    events_per_session: float | None
    median_seconds: float | None
    """From the first event to the last, by the player's clock; None if there is no session."""
    frames: ComparedFrames | None = None
    field: ComparedField | None = None


class ComparePage(msgspec.Struct):
    """The answer to :class:`Compare`, in the order of the question."""

    versions: list[ComparedVersion]


class FunnelStep(msgspec.Struct, frozen=True):
    """A step of a funnel: an event of a type that fits all conditions."""

    type: str
    conditions: tuple[Condition, ...] = ()


def funnel_step(text: str) -> FunnelStep:
    """Return the step that a text names: ``round_end``, or ``round_end[data.result=won]``."""
    match = _is_step(text)
    if match is None:
        return FunnelStep(text)
    name, conditions = match.groups()
    return FunnelStep(name, tuple(Condition(*each) for each in _conditions_in(conditions)))


class Funnel(Question):
    """How many come from each step to the next."""

    steps: Sequence[FunnelStep]
    """Two to eight."""
    per: str = "session"
    """Whose steps they are: ``session``, or a field of the context such as ``context.player``. Then
    the events of one value are in the order of the player's clock, in any session."""


class TypeCount(msgspec.Struct):
    """A type of events, and a count."""

    type: str
    count: int


class Leavers(msgspec.Struct, rename="camel"):
    """Those who reached a step and not the next one.

    Each counts with one session: itself, or the one in which the step was reached.
    """

    count: int = 0
    outcomes: dict[str, int] = {}
    """How their sessions ended, the most frequent outcome first."""
    last_types: list[TypeCount] = []
    """The last event that their sessions sent, by type; the five most frequent types."""
    sessions: list[str] = []
    """The ids of five of the sessions, the most recently active first."""


class ReachedStep(msgspec.Struct, rename="camel"):
    """A step of the answer to :class:`Funnel`."""

    type: str
    where: dict[str, str]
    """The conditions of the step: the fields with their values."""
    count: int
    """How many reached it: after the step before, and not at the same event."""
    share: float | None
    """Of those who reached the first step; None if nobody did."""
    of_previous: float | None
    """The share of those who reached the step before; None for the first step."""
    median_seconds: float | None
    """From the step before to this one, by the player's clock; None for the first step."""
    left: Leavers | None
    """None for the last step."""


class FunnelAnswer(msgspec.Struct):
    """The answer to :class:`Funnel`."""

    per: str
    steps: list[ReachedStep]


class Retention(Question):
    """How many players come back, by the day on which they were first seen.

    A range chooses the players who were first seen in it. Whether they were seen before, and
    whether they came back, is looked up in all events that fit the other filters.
    """

    field: str
    """By which the players are known: a field of the context, such as ``context.player``."""
    days: Sequence[int] = (1, 7, 30)
    """How many days after the first one."""
    offset: int = 0
    """The zone of the viewer, whose days they are: minutes east of UTC."""


class Cohort(msgspec.Struct):
    """The players who were first seen on one day."""

    day: int
    """When the day begins."""
    players: int
    returned: dict[str, int | None]
    """How many of them were seen on the day that comes so many days later; None if that day is not
    over."""


class Retained(msgspec.Struct):
    """All players who could have come back so many days later, because that day is over."""

    players: int
    returned: int
    share: float | None
    """None if there is no such player."""


class RetentionAnswer(msgspec.Struct):
    """The answer to :class:`Retention`."""

    field: str
    cohorts: list[Cohort]
    """In order; the newest 200 days with new players."""
    overall: dict[str, Retained]
    """Over all cohorts, also those that are not listed, by the number of days."""


class Lane(msgspec.Struct):
    """The events of one type in a session."""

    type: str
    """The name; empty for all types beyond the forty most frequent ones."""
    count: int
    counts: list[int]
    """For each step."""


class ContextChange(msgspec.Struct):
    """The context that the events had from then on."""

    at: int
    fields: dict[str, str]
    """Empty if they had none from then on."""


class Mark(msgspec.Struct):
    """A moment of a session that stands out."""

    at: int
    kind: str
    """``crash``, ``fault`` (an event that does not fit the schema), ``gap`` (missing events) or
    ``end``."""
    text: str
    arrival: int | None = None
    """The number of the event, of a crash or a fault."""


class Timeline(msgspec.Struct):
    """One session by the player's clock, or where that is implausible, by the collector's."""

    session: SessionDetail
    start: int = msgspec.field(name="from")
    """When the first step begins."""
    end: int = msgspec.field(name="to")
    """When the last step ends."""
    step: int
    """Milliseconds."""
    lanes: list[Lane]
    """The most frequent type first."""
    contexts: list[ContextChange]
    """At most the first hundred, in order of arrival."""
    marks: list[Mark]
    """In order of time; at most 200: of crashes the newest, of others the first ones."""
    partial: bool = False
    """Whether the session has so many events that only the first of them were looked at."""
