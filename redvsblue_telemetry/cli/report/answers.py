"""The answers to questions, as sections of the page: a sentence, a chart, a table."""

from __future__ import annotations

from collections.abc import Callable

from ...collector.answers.questions import (
    ComparedVersion,
    ComparePage,
    FieldAnswer,
    FunnelAnswer,
    Leavers,
    RetentionAnswer,
    Timeline,
    ValuesAnswer,
)
from .._outcomes import outcome_word
from . import charts
from .format import amount, amount_of, day, duration, milliseconds, moment, percent, share, span
from .markup import card, cards, in_html, note, section, table
from .questions import Answered

__all__ = ["answer_section", "moments_section"]

_MAX_CHARTS = 4  # of groups
_NOBODY = "\u2013"


def answer_section(answered: Answered) -> str:
    """Return the section about a question and its answer."""
    found = answered.answer
    if isinstance(found, FieldAnswer):
        return _field(answered.question, found)
    if isinstance(found, ValuesAnswer):
        return _values(answered.question, found)
    if isinstance(found, FunnelAnswer):
        return _funnel(found)
    if isinstance(found, RetentionAnswer):
        return _retention(found)
    if isinstance(found, ComparePage):
        return _compare(found)
    raise TypeError(f"an answer of the type {type(found)}")


def figure(number: float | None) -> str:
    """Format a number of a field: a whole one, or four significant digits."""
    if number is None:
        return _NOBODY
    if number == int(number) and abs(number) < 1e15:
        return amount(int(number))
    return f"{number:.4g}"


def _named(question: dict[str, object]) -> str:
    field = str(question["field"]).removeprefix("data.")
    return f"{in_html(str(question['type']), 120)}.{in_html(field, 120)}"


def _value(value: str | float | None) -> str:
    if value is None:
        return "<i>none</i>"
    return in_html(value, 120) if isinstance(value, str) else figure(value)


# A session.

_KINDS = {"end": "The end", "gap": "Missing"}


def moments_section(found: Timeline) -> str:
    """Return the section about the moments of a session that stand out; empty if none does."""
    moments = [
        (mark.at, _KINDS.get(mark.kind, mark.kind.capitalize()), in_html(mark.text, 300))
        for mark in found.marks
    ]
    for change in found.contexts:
        fields = (f"{in_html(n, 64)}={in_html(v, 64)}" for n, v in change.fields.items())
        moments.append((change.at, "Context", ", ".join(fields) or "none"))
    if not moments:
        return ""
    moments.sort(key=lambda each: each[0])
    rows = [[moment(at), in_html(kind), text] for at, kind, text in moments]
    about = (
        "Crashes, faults, missing events, changes of the context and the end, by the player's "
        "clock."
    )
    headings = {"Time": "nowrap", "Kind": "nowrap", "Moment": "which"}
    return section("Moments", about, table(headings, rows))


# A number.


def _field(question: dict[str, object], found: FieldAnswer) -> str:
    name = _named(question)
    absent = f" {amount_of(found.absent, 'event')} without a number there." if found.absent else ""
    if not found.count:
        return section(name, f"No event has a number there.{absent}", "")
    groups = "; ".join(f"{_value(each.value)}: {figure(each.p95)}" for each in found.groups)
    about = f"95\u202f% of {amount(found.count)} are {figure(found.p95)} or less"
    if groups:
        about += f" (by {in_html(str(found.by))}: {groups})"
    parts = [
        card("Median", figure(found.p50)),
        card("95th percentile", figure(found.p95)),
        card("99th percentile", figure(found.p99)),
        card("Mean", figure(found.mean)),
        card("Least", figure(found.min)),
        card("Most", figure(found.max)),
    ]
    columns = [
        (
            figure(each.low),
            f"{figure(each.low)} to {figure(each.high)}: {amount(each.count)}",
            each.count,
        )
        for each in found.histogram
    ]
    body = cards(parts) + charts.bars("How often each number occurs", columns)
    if len(found.over_time) > 1:
        points = [(each.at, each.p50, each.p95, each.p99) for each in found.over_time]
        body += f"<h3>Per {span(found.step // 1000)}</h3>{charts.LINES_KEY}"
        body += charts.percentile_lines("The number over time", points)
    if found.groups:
        rows = [
            [
                _value(each.value),
                amount(each.count),
                *map(figure, (each.mean, each.min, each.p50, each.p95, each.p99, each.max)),
            ]
            for each in found.groups
        ]
        names = ("Events", "Mean", "Least", "p50", "p95", "p99", "Most")
        headings = {in_html(str(found.by)): ""} | dict.fromkeys(names, "number")
        body += table(headings, rows)
        if found.others:
            body += note(f"With other values: {amount_of(found.others, 'event')}.")
    return section(name, f"{about}.{absent}", body)


# Values.


def _values(question: dict[str, object], found: ValuesAnswer) -> str:
    name = _named(question)
    absent = f" {amount_of(found.absent, 'event')} without one." if found.absent else ""
    if not found.values:
        return section(f"Values of {name}", f"No event has a value there.{absent}", "")
    first = found.values[0]
    about = (
        f"{amount_of(found.distinct, 'value')}; the most frequent one, {_value(first.value)}, is "
        f"in {share(first.count, found.count)} of {amount_of(found.count, 'event')}.{absent}"
    )
    highest = first.count
    rows = [
        [
            _value(each.value),
            amount(each.count),
            share(each.count, found.count),
            amount(each.sessions),
            _bar(each.count, highest),
        ]
        for each in found.values
    ]
    headings = {"Value": "which", "Events": "number", "Share": "number", "Sessions": "number"}
    headings |= {"": "wide"}
    rest = found.count - sum(each.count for each in found.values)
    more = note(f"With other values: {amount_of(rest, 'event')}.") if rest else ""
    return section(f"Values of {name}", about, table(headings, rows) + more)


def _bar(count: int, highest: int) -> str:
    return f'<span class="bar c0" style="width:{100 * count / max(1, highest):.2f}%"></span>'


# A funnel.


def _funnel(found: FunnelAnswer) -> str:
    steps = found.steps
    names = [_step(each.type, each.where) for each in steps]
    whose = "sessions" if found.per == "session" else f"values of {in_html(found.per)}"
    first, last = steps[0], steps[-1]
    about = (
        f"{share(last.count, first.count)} of {amount(first.count)} {whose} that reached "
        f"{names[0]} came to {names[-1]}."
    )
    rows = [
        [
            name,
            amount(each.count),
            _NOBODY if each.share is None else percent(each.share),
            _NOBODY if each.of_previous is None else percent(each.of_previous),
            _NOBODY if each.median_seconds is None else duration(each.median_seconds * 1000),
            _bar(each.count, first.count),
        ]
        for name, each in zip(names, steps, strict=True)
    ]
    headings = {"Step": "which", "Reached": "number", "Of the first": "number"}
    headings |= {"Of the step before": "number", "Median time": "number", "": "wide"}
    left = [
        _left(names[index], names[index + 1], each.left)
        for index, each in enumerate(steps[:-1])
        if each.left is not None and each.left.count
    ]
    return section(
        "Funnel: " + " \u2192 ".join(names), about, table(headings, rows) + "".join(left)
    )


def _step(type_: str, where: dict[str, str]) -> str:
    conditions = ", ".join(f"{in_html(name)}={in_html(value)}" for name, value in where.items())
    return in_html(type_, 120) + (f" [{conditions}]" if conditions else "")


def _left(step: str, following: str, left: Leavers) -> str:
    outcomes = ", ".join(
        f"{amount(count)} {in_html(outcome_word(name))}" for name, count in left.outcomes.items()
    )
    last = ", ".join(f"{in_html(each.type, 64)} ({amount(each.count)})" for each in left.last_types)
    sessions = ", ".join(f'<span class="id">{in_html(each, 64)}</span>' for each in left.sessions)
    return (
        f"<h3>{amount(left.count)} left between {step} and {following}</h3>"
        f"<p>Their sessions: {outcomes}. The last event: {last}.</p>"
        f'<p class="note">The newest: {sessions}</p>'
    )


# Those who come back.


def _retention(found: RetentionAnswer) -> str:
    name = in_html(found.field.removeprefix("context."), 120)
    title = f"Retention by {name}"
    if not found.cohorts:
        return section(title, "No event has that field in its context.", "")
    parts = [
        card(f"After {_days(days)}, of {amount(each.players)}", percent(each.share))
        for days, each in found.overall.items()
        if each.share is not None
    ]
    rows = [
        [
            day(each.day),
            amount(each.players),
            *(
                "" if count is None else f"{amount(count)} ({share(count, each.players)})"
                for count in each.returned.values()
            ),
        ]
        for each in reversed(found.cohorts)
    ]
    headings = {"First seen": "nowrap", "Players": "number"}
    headings |= {f"After {_days(days)}": "number" for days in found.cohorts[0].returned}
    about = (
        "Of those who were first seen on a day, how many were seen on the day that came so many "
        "days later. Days that are not over are left out. The newest day first."
    )
    return section(title, about, cards(parts) + table(headings, rows))


def _days(number: str) -> str:
    return amount_of(int(number), "day")


# Versions.


def _compare(found: ComparePage) -> str:
    names = [in_html(each.version, 64) for each in found.versions]
    rows = [
        [label, *(make(each) for each in found.versions)]
        for label, make in _COMPARED.items()
        if any(make(each) != _NOBODY for each in found.versions)
    ]
    free = "; ".join(
        f"{name}: {percent(each.crash_free)}"
        for name, each in zip(names, found.versions, strict=True)
        if each.crash_free is not None
    )
    about = f"Crash-free, of the sessions that ended: {free}." if free else "No session has ended."
    headings = {"": ""} | dict.fromkeys(names, "number")
    return section("Versions: " + ", ".join(names), about, table(headings, rows))


def _frame(name: str) -> Callable[[ComparedVersion], str]:
    def of(version: ComparedVersion) -> str:
        return _NOBODY if version.frames is None else milliseconds(getattr(version.frames, name))

    return of


_COMPARED: dict[str, Callable[[ComparedVersion], str]] = {
    "Sessions": lambda each: amount(each.sessions),
    "Ended": lambda each: amount(each.ended),
    "Crashed": lambda each: amount(each.crashed),
    "Killed": lambda each: amount(each.killed),
    "Crash-free": lambda each: _NOBODY if each.crash_free is None else percent(each.crash_free),
    "Events": lambda each: amount(each.events),
    "Events a session": lambda each: figure(each.events_per_session),
    "Median session": lambda each: (
        _NOBODY if each.median_seconds is None else duration(each.median_seconds * 1000)
    ),
    "Frame time, median": _frame("p50"),
    "Frame time, p95": _frame("p95"),
    "Frame time, p99": _frame("p99"),
    "Hitches a minute": lambda each: (
        _NOBODY if each.frames is None else figure(each.frames.hitches_per_minute)
    ),
}
