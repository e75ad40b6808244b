"""Retention: how many players come back, by the day on which they were first seen."""

from __future__ import annotations

from ..models import TimeRange
from ..storage.upkeep import epoch_milliseconds
from .backend import DAY, Backend
from .questions import (
    MAX_ECHO,
    Cohort,
    Filters,
    QuestionError,
    Retained,
    Retention,
    RetentionAnswer,
)
from .sql import add_facts, add_owners

__all__ = ["MAX_DAYS", "MAX_LATER", "retention"]

MAX_DAYS = 8
"""The most days that a question asks for."""
MAX_LATER = 400
"""The most days after the first one."""
_MAX_COHORTS = 200


def retention(backend: Backend, question: Retention) -> RetentionAnswer:
    """Return how many of the players who were first seen on one day came back later."""
    days = _checked(question)
    _add_visits(backend, question)
    now = epoch_milliseconds() if backend.now is None else backend.now
    cohorts: dict[int, Cohort] = {}
    for first, later, players in _counts(backend, question.filters.span, days):
        if later == 0:
            returned = {str(each): 0 if first + (each + 1) * DAY <= now else None for each in days}
            cohorts[first] = Cohort(first, players, returned)
        elif cohorts[first].returned[str(later)] is not None:
            cohorts[first].returned[str(later)] = players
    return RetentionAnswer(
        question.field,
        [*cohorts.values()][-_MAX_COHORTS:],
        {str(each): _overall([*cohorts.values()], str(each)) for each in days},
    )


def _checked(question: Retention) -> list[int]:
    """Return the days that are asked for, in order."""
    days = sorted(set(question.days))
    if not days or len(days) > MAX_DAYS or not 1 <= days[0] <= days[-1] <= MAX_LATER:
        raise QuestionError(
            f"days must be 1 to {MAX_DAYS} whole numbers from 1 to {MAX_LATER}, such as days=1,7,30"
        )
    if not question.field.startswith("context."):
        raise QuestionError(
            f"field is {question.field[:MAX_ECHO]!r}; it must be a field of the context, such as "
            "context.player"
        )
    return days


def _add_visits(backend: Backend, question: Retention) -> None:
    """Make a table of the days on which each player was seen, with the first time on that day."""
    add_owners(backend, "owners", question.field)
    # Not only in the range: one who was seen before it is not a new player in it.
    types = backend.type_names() or [""]
    # A day is added, so that moments are positive numbers after it in any zone.
    midnight = question.offset * 60_000 + DAY
    if conditions := question.filters.conditions:
        filters = Filters(TimeRange(), conditions)
        add_facts(backend, "seen", types, ["received", "context"], [], filters)
    else:
        backend.add_visits("seen", types, midnight)
    backend.run(
        "CREATE TEMP TABLE visits AS SELECT owner, day, min(received) AS first FROM "
        f"(SELECT owner, received, received - (received + {midnight}) % {DAY} AS day FROM seen "
        "JOIN owners ON owners.context = seen.context) AS by_day GROUP BY owner, day"
    )


def _counts(backend: Backend, span: TimeRange, days: list[int]) -> list[tuple[int, int, int]]:
    """Return the players of each cohort, by how many days after the first they were seen."""
    later = backend.dialect.quotient("visits.day - firsts.day", str(DAY))
    rows = backend.run(
        f"SELECT firsts.day, {later} AS later, count(*) FROM "
        "(SELECT owner, min(day) AS day, min(first) AS first FROM visits GROUP BY owner) AS firsts "
        "JOIN visits ON visits.owner = firsts.owner "
        "WHERE firsts.first >= coalesce(?, firsts.first) "
        "AND firsts.first < coalesce(?, firsts.first + 1) "
        f"AND {later} IN (0, {', '.join(map(str, days))}) GROUP BY firsts.day, {later} "
        "ORDER BY firsts.day, later",
        span.start,
        span.end,
    )
    return [(first, int(after), players) for first, after, players in rows]


def _overall(cohorts: list[Cohort], day: str) -> Retained:
    known = [
        (cohort.players, returned)
        for cohort in cohorts
        if (returned := cohort.returned[day]) is not None
    ]
    players = sum(each for each, _ in known)
    returned = sum(each for _, each in known)
    return Retained(players, returned, returned / players if players else None)
